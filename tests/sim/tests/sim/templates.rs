//! Templates: storage's, passed through.

use futures::StreamExt;
use ves_proto::api as pb;
use ves_proto::{Fault, Reason};
use ves_sim::Sim;
use ves_sim::sim::Command;

/// A template's archive, with a file of 2000 bytes.
fn archive() -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(2000);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    archive.append_data(&mut header, "etc/motd", [b'x'; 2000].as_slice()).expect("added");
    archive.into_inner().expect("written")
}

#[test]
fn templates_are_passed_through() {
    use pb::import_template_request::Part;
    let sim = Sim::new();
    let import = |parts: Vec<Part>| {
        let messages: Vec<_> =
            parts.into_iter().map(|p| pb::ImportTemplateRequest { part: Some(p) }).collect();
        sim.block(async {
            let stream = tokio_stream::iter(messages);
            let answer = sim.templates().import_template(stream).await.map_err(Fault::from)?;
            let told = answer.into_inner().collect::<Vec<_>>().await;
            told.into_iter().last().expect("an answer").map_err(Fault::from)
        })
    };
    let named = |name: &str| {
        let name = format!("templates/{name}");
        Part::Header(pb::ImportTemplateHeader { name, ..Default::default() })
    };
    let data =
        archive().chunks(700).map(|piece| Part::Data(piece.to_vec().into())).collect::<Vec<_>>();
    let made = import([vec![named("alpine")], data].concat()).expect("imported");
    let Some(pb::import_template_response::Is::Template(template)) = made.is else {
        unreachable!("the last that is told is the template")
    };
    assert_eq!(template.name, "templates/alpine");
    assert!(template.content_bytes >= 2000, "{template:?}");
    let empty = import(vec![named("empty")]).expect_err("empty");
    assert_eq!(empty.reason, Reason::BadArchive, "{empty}");

    let list = sim.block(sim.templates().list_templates(pb::ListTemplatesRequest::default()));
    let names: Vec<_> =
        list.expect("listed").into_inner().templates.into_iter().map(|t| t.name).collect();
    assert_eq!(names, ["templates/alpine", "templates/trixie"]);

    let get = |name: &str| {
        let request = pb::GetTemplateRequest { name: name.to_owned() };
        let answer = sim.block(sim.templates().get_template(request));
        answer.map(|t| t.into_inner().name).map_err(Fault::from)
    };
    assert_eq!(get("templates/trixie"), Ok("templates/trixie".to_owned()));
    assert_eq!(get("templates/woody").expect_err("none").reason, Reason::TemplateUnknown);
    assert_eq!(get("trixie").expect_err("no name").facts["field"], "name");

    let export = |name: &str| {
        let name = format!("templates/{name}");
        sim.block(async {
            let request = pb::ExportTemplateRequest { name };
            let answer = sim.templates().export_template(request).await.map_err(Fault::from)?;
            answer.into_inner().next().await.expect("an answer").map_err(Fault::from)
        })
    };
    assert_eq!(export("trixie").expect("exported").data.len(), 4096);
    assert_eq!(export("woody").expect_err("unknown").reason, Reason::TemplateUnknown);
    assert_eq!(export("/etc").expect_err("bad").facts["field"], "name");

    let delete = |name: &str| {
        let request = pb::DeleteTemplateRequest { name: format!("templates/{name}") };
        sim.block(sim.templates().delete_template(request)).map_err(Fault::from)
    };
    assert_eq!(delete("").expect_err("none").facts["field"], "name");
    assert_eq!(delete("woody").expect_err("none").reason, Reason::TemplateUnknown);
    delete("alpine").expect("deleted");
    assert_eq!(delete("alpine").expect_err("gone").reason, Reason::TemplateUnknown);
    // One that is being made is in use.
    let build = pb::BuildTemplateRequest {
        name: "templates/slow".into(),
        suite: "slow".into(),
        request_id: "slow".into(),
        ..Default::default()
    };
    sim.block(sim.templates().build_template(build)).expect("begun");
    // A delete that comes before it would hold what it needs.
    sim.until("it is being made", || sim.kernel().volumes.slow_builds() > 0);
    assert_eq!(delete("slow").expect_err("in use").reason, Reason::TemplateInUse);
    // A volume stays when its template goes.
    sim.run(&Command::create(101, |_| {})).expect("created");
    delete("trixie").expect("deleted");
    sim.run(&Command::start("101")).expect("started");
    let another = sim.run(&Command::create(102, |_| {})).expect_err("there is none");
    assert_eq!(another.reason, Reason::TemplateUnknown);
}
