//! What units promise: their scores, and what they deny.

use ves_cluster::PATIENCE;
use ves_kit::lab::{Need, story};

#[test]
fn sandboxes_are_tight_and_deny_what_they_say() {
    story::on(1, &[Need::Kernel, Need::Cgroup2], |lab| {
        let node = lab.node(1);
        let out = node.exec_with("bash -s", include_bytes!("units.sh"), PATIENCE * 2)?;
        println!("{}{}", out.stdout, out.stderr);
        assert_eq!(out.status, 0, "{}{}", out.stdout, out.stderr);
        Ok(())
    });
}
