//! The storage daemon as a process: over its socket, killed in the middle, and taken away.

use std::path::PathBuf;
use std::time::Duration;

use ves_kit::{Proc, Rootfs, TestId, TestLayout, need, wait_until};
use ves_proto::storage::storage_service_client::StorageServiceClient;
use ves_proto::storage::{self as pb, import_template_request::Part, template_progress::Is};
use ves_proto::{Fault, Reason, common};
use ves_types::layout::Daemon as Kind;

use super::support::needs;

fn daemon() -> PathBuf {
    ves_kit::node::bin_dir().join("ves-storaged")
}

struct Daemon {
    dir: TestLayout,
    process: Option<Proc>,
}

impl Daemon {
    fn start(&mut self) {
        let config = self.dir.dir().join("storage.toml");
        std::fs::write(&config, "[service]\npool_bytes = 4294967296\n").expect("written");
        let more = ["--config", config.to_str().expect("text")];
        self.process = None;
        self.process = Some(Proc::daemon(&daemon(), Kind::Storage, self.dir.layout(), &more));
    }
    fn kill(&mut self) {
        self.process = None;
    }
    fn detach(&self) {
        let (program, layout) = (daemon(), self.dir.layout());
        let [program, run, state] = [&*program, layout.run_dir(), layout.state_dir()]
            .map(|path| path.to_str().expect("test paths are text"));
        ves_kit::run(program, &["--detach-pool", "--run-dir", run, "--state-dir", state]);
        assert!(!layout.volumes_dir().exists(), "nothing stays mounted");
    }
    fn client(&self) -> StorageServiceClient<ves_daemon::client::Traced> {
        let socket = self.dir.layout().socket(Kind::Storage);
        StorageServiceClient::new(ves_daemon::client::channel(&socket))
    }
    fn loops(&self) -> usize {
        let dir = self.dir.dir().to_str().expect("text").to_owned();
        let all = ves_kit::run("losetup", &["-l", "-n", "-O", "BACK-FILE"]);
        all.lines().filter(|l| l.contains(&dir)).count()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.process = None;
        super::support::clean(&self.dir);
    }
}

fn header(name: &str) -> pb::ImportTemplateRequest {
    let header = pb::ImportTemplateHeader { name: name.to_owned(), ..Default::default() };
    pb::ImportTemplateRequest { part: Some(Part::Header(header)) }
}

fn pieces(bytes: &[u8]) -> Vec<pb::ImportTemplateRequest> {
    bytes
        .chunks(100_000)
        .map(|c| pb::ImportTemplateRequest { part: Some(Part::Data(c.to_vec().into())) })
        .collect()
}

async fn import(daemon: &Daemon, name: &str, bytes: &[u8]) -> Result<pb::Template, Fault> {
    let mut messages = vec![header(name)];
    messages.extend(pieces(bytes));
    let stream = daemon.client().import_template(tokio_stream::iter(messages)).await;
    let mut stream = stream.map_err(Fault::from)?.into_inner();
    while let Some(message) = stream.message().await.map_err(Fault::from)? {
        if let Some(Is::Template(template)) = message.is {
            return Ok(template);
        }
    }
    Err(Fault::new(Reason::Bug, "the last message carries no template"))
}

#[test]
fn over_its_socket_killed_and_taken_away() {
    let there = need::setup("ves-storaged", daemon().is_file(), "`cargo build -p ves-storaged`");
    if !needs() || !need::check(&[there]) {
        return;
    }
    let id = TestId::take();
    let mut daemon = Daemon { dir: TestLayout::new(), process: None };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let _inside = runtime.enter();
    daemon.start();
    let archive = Rootfs::busybox().tar(&daemon.dir.dir().join("busybox.tar.gz"));
    let archive = std::fs::read(archive).expect("there");

    // Killed while an archive comes in: nothing of it is left.
    runtime.block_on(async {
        let (to, from) = tokio::sync::mpsc::channel(4096);
        to.send(header("half")).await.expect("read");
        for piece in pieces(archive.get(..archive.len() / 2).expect("shorter")) {
            to.send(piece).await.expect("read");
        }
        let stream = tokio_stream::wrappers::ReceiverStream::new(from);
        daemon.client().import_template(stream).await.expect("begun");
        daemon.kill();
        drop(to);
    });
    daemon.start();
    let template = runtime.block_on(import(&daemon, "busybox", &archive)).expect("good");
    assert!(template.content_inodes > 50, "{template:?}");
    let fault = runtime.block_on(import(&daemon, "busybox", &archive)).expect_err("exists");
    assert_eq!(fault.reason, Reason::TemplateExists);
    let fault = runtime.block_on(import(&daemon, "bad", b"garbage")).expect_err("bad");
    assert_eq!(fault.reason, Reason::BadArchive, "{fault}");
    let listed = runtime.block_on(async {
        daemon
            .client()
            .list_templates(pb::ListTemplatesRequest {})
            .await
            .expect("listed")
            .into_inner()
    });
    assert_eq!(listed.templates.len(), 1, "{listed:?}");

    let ensure = |daemon: &Daemon, mounted| {
        let fence = Some(common::Fence { ct: id.ct().get(), generation: 1, epoch: 1 });
        let spec = Some(pb::VolumeSpec {
            template: "busybox".to_owned(),
            size_bytes: 300 << 20,
            inodes: None,
            id_slot: id.slot().get(),
            mounted,
        });
        let mut client = daemon.client();
        async move {
            client.ensure_volume(pb::EnsureVolumeRequest { fence, spec, dry_run: false }).await
        }
    };
    // Killed at some moment of a call, again and again, it comes to the same end.
    for millis in [0u64, 5, 10, 20, 40, 80] {
        runtime.block_on(async {
            let call = ensure(&daemon, true);
            tokio::time::timeout(Duration::from_millis(millis), call).await.ok();
            daemon.kill();
        });
        daemon.start();
        let volume = runtime.block_on(ensure(&daemon, true)).expect("made").into_inner();
        assert!(volume.mounted && volume.size_bytes == 300 << 20, "{volume:?}");
        assert!(crate::volume(daemon.dir.layout(), id.ct()).join("bin/busybox").exists());
        runtime.block_on(async {
            let fence = Some(common::Fence { ct: id.ct().get(), generation: 1, epoch: 1 });
            let call = pb::RemoveVolumeRequest { fence, dry_run: false };
            daemon.client().remove_volume(call).await.expect("removed");
        });
        wait_until(Duration::from_secs(60), "only the pool has a device", || daemon.loops() == 1);
    }
    daemon.kill();
    daemon.detach();
    daemon.detach();
    assert_eq!(daemon.loops(), 0);
}
