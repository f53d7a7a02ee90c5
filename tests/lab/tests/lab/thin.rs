//! Volumes of a thin pool that LVM set up, made by messages past LVM: what `ves_host::device_mapper` does
//! on a kernel that has it, and what LVM makes of it.

use ves_cluster::PATIENCE;
use ves_kit::lab::{Need, story};

#[test]
fn volumes_of_a_thin_pool_come_and_go_past_lvm() {
    story::on(1, &[Need::Dm], |lab| {
        let node = lab.node(1);
        // It calls `ves_host`, see its examples.
        ves_lab::install(node, "examples/thin")?;
        let out = node.exec_with("bash -s", include_bytes!("thin.sh"), PATIENCE)?;
        println!("{}{}", out.stdout, out.stderr);
        assert_eq!(out.status, 0, "{}{}", out.stdout, out.stderr);
        Ok(())
    });
}
