//! The main job on Debian's own kernel, which the native nodes of other stories do without.

use ves_kit::lab::{Need, story};

#[test]
fn from_a_template_to_an_answering_container() {
    story::on(2, &[Need::Kernel, Need::Cgroup2], |lab| {
        let node = lab.node(1);
        node.sh("vgs ves")?;
        assert!(node.sh("virtctl node capacity")?.contains("cgroup        v2\n"));
        ves_cluster::main_job(lab)
    });
}
