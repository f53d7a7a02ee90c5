//! The main job: from a template to an answering container.

use ves_kit::lab::story;

#[test]
fn from_a_template_to_an_answering_container() {
    story::on(2, &[], ves_cluster::main_job);
}
