//! The story of which a kept store is the end: a node where each kind of operation has ended in
//! each way, and where many are at work when the coordinator is killed.
//!
//! Ids from 101 on are at rest, those from 201 on have an operation whose next change, or the answer
//! to it, never comes.

mod check;
mod cut;

use std::cell::Cell;

use ves_fake::id;
use ves_proto::common::{Fence, Limits, UbcValue};
use ves_proto::lifecycle::lifecycle_service_client::LifecycleServiceClient;
use ves_proto::lifecycle::{EndReason, EnsureContainerRequest, Phase};
use ves_proto::{Fault, Reason, api};
use ves_types::ExitCause;
use ves_types::layout::Daemon;

use crate::kept::world::{Volume, World};
use crate::sim::Command;
use crate::words as pb;
use crate::{Mishap, Sim};

pub(super) use check::check;

const FAIL: Mishap = Mishap::FailBefore(Reason::HostFailed);
const FAIL_LATE: Mishap = Mishap::FailAfter(Reason::HostFailed);
const HANG: Mishap = Mishap::HangBefore;
const HANG_LATE: Mishap = Mishap::HangAfter;
/// A clock that was ahead gave this generation to a container that is gone.
const AHEAD: u64 = 5_000_000_000_000;

struct Story {
    sim: Sim,
    requests: Cell<usize>,
}

fn text(ct: u32) -> String {
    ct.to_string()
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|w| (*w).to_owned()).collect()
}

/// Tells it; answers with the store and what the kernel holds.
pub(super) fn tell() -> (Vec<u8>, World) {
    let story = Story { sim: Sim::on_disk(), requests: Cell::new(0) };
    story.boot();
    story.mend();
    story.specs();
    story.ways_up();
    story.failures();
    story.snapshots();
    story.templates();
    story.others();
    story.creates_cut();
    story.starts_cut();
    story.stops_cut();
    story.restarts_cut();
    story.sets_cut();
    story.destroys_cut();
    story.snapshots_cut();
    story.clock_ahead();
    let store = story.sim.stored();
    // While nobody looks, 130 reboots, and the processes of 129 vanish after a reboot that was honoured.
    story.sim.kernel().end_inside(130, ExitCause::Rebooted, 0);
    let mut world = World::of(&story.sim);
    let vanished = &mut world.cts.entry(129).or_default();
    vanished.process.phase = Phase::Absent.into();
    vanished.process.end = EndReason::Rebooted.into();
    vanished.link = None;
    // Somebody's files come back to where 204 is being created.
    let foreign = Volume {
        template: "trixie".to_owned(),
        size: 1 << 30,
        mounted: false,
        slot: 7,
        contents: 77,
        reverted: None,
    };
    world.cts.entry(204).or_default().volume = Some(foreign);
    let fences = world.fences.entry(Daemon::Storage.name().to_owned()).or_default();
    fences.insert(204, (ves_types::Generation(1), ves_types::Epoch(1)));
    // From now on a mounted volume does not grow, which 269 and 270 are about to find out.
    world.stiff = true;
    (store, world)
}

impl Story {
    fn named(&self, command: Command) -> Command {
        let n = self.requests.get();
        self.requests.set(n + 1);
        command.with_request_id(&format!("kept-{n}"))
    }

    fn done(&self, command: Command) -> pb::Operation {
        let command = self.named(command);
        self.sim.run(&command).expect("done")
    }

    fn fails(&self, command: Command) -> Fault {
        let command = self.named(command);
        self.sim.run(&command).expect_err("it fails")
    }

    fn begun(&self, command: Command) -> pb::Operation {
        let command = self.named(command);
        let op = self.sim.ask(|| command.clone().send(self.sim.channel()));
        op.expect("begun")
    }

    fn at(&self, ct: u32, rpc: &'static str, n: usize, mishap: Mishap) {
        self.sim.script().at_call_of(ct, rpc, n, mishap);
    }

    /// Begins what will hang.
    fn cut(&self, ct: u32, command: Command) -> pb::Operation {
        let op = self.begun(command);
        self.sim.until(&format!("{ct} hangs"), || self.sim.script().hangs(ct));
        op
    }

    fn create(&self, ct: u32, change: impl FnOnce(&mut pb::ContainerSpec)) {
        self.done(Command::create(ct, change));
    }

    fn up(&self, ct: u32, change: impl FnOnce(&mut pb::ContainerSpec)) {
        self.create(ct, change);
        self.done(Command::start(&text(ct)));
        let ct = text(ct);
        self.sim.until("it runs", || self.sim.state(&ct) == pb::ContainerState::Running);
    }

    fn cancel(&self, op: &pb::Operation) {
        self.sim.cancel(&op.id).expect("asked");
    }

    fn idle(&self, ct: u32, state: pb::ContainerState) {
        self.sim.until(&format!("{ct} is {state:?} and idle"), || {
            let shown = self.sim.get(&text(ct));
            shown.is_ok_and(|c| c.state() == state && c.operation.is_empty())
        });
    }

    /// 104 starts by itself; the snapshot of 124 is to be taken when that is up again.
    fn boot(&self) {
        self.create(104, |s| {
            s.name = "first".to_owned();
            s.onboot = true;
            s.boot_order = Some(5);
        });
        self.up(124, |_| {});
        self.at(124, "EnsureSnapshot", 0, HANG);
        self.cut(124, Command::snapshot("124", "before the boot"));
        self.sim.boot("boot-2");
        self.idle(104, pb::ContainerState::Running);
    }

    /// 122 lost its link and got it back, 291 is about to.
    fn mend(&self) {
        for ct in [122, 291] {
            self.up(ct, |s| s.addresses = vec![format!("203.0.113.{}", ct % 200)]);
        }
        self.sim.kill(Daemon::Coordinator);
        for ct in [122, 291] {
            self.sim.kernel().links.state().container(id(ct)).link = None;
        }
        self.at(291, "EnsureInterface", 0, HANG);
        self.sim.start_daemon(Daemon::Coordinator);
        self.sim.until("291 is being mended", || self.sim.script().hangs(291));
        self.sim.until("122 is mended", || self.sim.kernel().ct(122).link.is_some());
        self.idle(122, pb::ContainerState::Running);
    }

    fn specs(&self) {
        self.create(101, |_| {});
        self.create(102, |s| {
            *s = pb::ContainerSpec {
                name: "everything".to_owned(),
                hostname: "all.example.net".to_owned(),
                addresses: words(&["192.0.2.2", "2001:db8::2", "192.0.2.3", "2001:db8::3"]),
                nameservers: words(&["192.0.2.53", "2001:db8::53"]),
                search_domains: words(&["example.net", "example.org"]),
                disk_bytes: 5 << 30,
                disk_inodes: Some(500_000),
                limits: Some(every_limit()),
                onboot: true,
                boot_order: Some(-3),
                description: "Zwei Zeilen: „größer“\n\tund \\ \"so\" 容器".to_owned(),
                init: words(&["/lib/systemd/systemd", "--log-level=debug", "a b", "é"]),
                ..Sim::spec("trixie")
            };
        });
        self.create(103, |_| {});
        self.done(mount(103));
        // Saved and not in effect yet.
        self.up(105, |s| s.addresses = words(&["192.0.2.105"]));
        self.done(Command::update("105", |r| {
            r.update_mask = words(&["hostname", "nameservers", "init", "name"]);
            r.spec = Some(pb::ContainerSpec {
                hostname: "later".to_owned(),
                name: "later".to_owned(),
                nameservers: words(&["192.0.2.54"]),
                init: words(&["/sbin/other"]),
                ..Default::default()
            });
            r.save = true;
            r.set_mode = pb::SetMode::Ignore;
        }));
        // In effect and not saved.
        self.up(106, |s| s.addresses = words(&["192.0.2.106"]));
        self.done(unsaved(106, "192.0.2.206"));
        self.create(107, |s| {
            s.disabled = true;
            s.onboot = true;
        });
        self.create(108, |s| s.disabled = true);
        let force = pb::StartContainerRequest { ct: text(108), force: true, ..Default::default() };
        self.done(Command::Start(force));
    }

    fn ways_up(&self) {
        for (ct, end, state) in [
            (109, ExitCause::Exited, pb::ContainerState::Stopped),
            (110, ExitCause::Rebooted, pb::ContainerState::Running),
            (129, ExitCause::Rebooted, pb::ContainerState::Running),
            (130, ExitCause::Rebooted, pb::ContainerState::Running),
        ] {
            self.up(ct, |_| {});
            self.sim.kernel().end_inside(ct, end, 4);
            let starts = if end == ExitCause::Rebooted { 2 } else { 1 };
            self.sim.until("its end is honoured", || {
                let there = self.sim.kernel().ct(ct);
                there.process.starts == starts && (starts == 2 || !there.guard())
            });
            self.idle(ct, state);
        }
        self.up(117, |_| {});
        self.done(Command::restart("117"));
        self.done(stop(117, |r| r.skip_unmount = true));
        self.done(stop(117, |r| r.unmount_only = true));
        // One that nobody can repeat.
        let start = pb::StartContainerRequest { ct: text(117), ..Default::default() };
        let op = self.sim.ask(|| Command::Start(start.clone()).send(self.sim.channel()));
        self.sim.end_of(&op.expect("begun").id);
        for (ct, mode) in [(118, pb::SetMode::Restart), (123, pb::SetMode::Ignore)] {
            self.up(ct, |_| {});
            self.sim.kernel().volumes.grow_online(false);
            self.done(grow(ct, 3, mode));
            self.sim.kernel().volumes.grow_online(true);
        }
        self.done(Command::set(
            "118",
            &["description", "onboot"],
            pb::ContainerSpec { description: "set".to_owned(), onboot: true, ..Default::default() },
        ));
    }

    /// Waits until resources are asked for a container's limits, which may be while storage is asked.
    fn at_limits(&self, ct: u32) {
        let asked = format!("EnsureLimits {ct}");
        self.sim.until("resources are asked", || {
            self.sim.script().log().iter().rev().take(2).any(|rpc| *rpc == asked)
        });
    }

    fn failures(&self) {
        self.create(111, |_| {});
        self.sim.kernel().lose_volume(111);
        assert_eq!(self.fails(Command::start("111")).reason, Reason::VolumeUnknown);
        self.create(112, |s| s.addresses = words(&["192.0.2.112"]));
        self.at(112, "RemoveVolume", 0, FAIL);
        self.fails(Command::delete("112"));
        // Neither started nor stopped again.
        self.create(113, |s| s.addresses = words(&["192.0.2.113"]));
        self.at(113, "EnsureInterface", 0, FAIL);
        self.at(113, "StopContainer", 0, FAIL);
        self.fails(Command::start("113"));
        // Neither changed nor as before: what it had and what it was to have stay its own.
        self.up(114, |s| {
            s.name = "old-name".to_owned();
            s.addresses = words(&["192.0.2.114"]);
        });
        self.at(114, "EnsureInterface", 0, FAIL);
        self.at(114, "EnsureInterface", 0, FAIL);
        self.fails(Command::update("114", |r| {
            r.update_mask = words(&["name"]);
            r.spec = Some(pb::ContainerSpec { name: "new-name".to_owned(), ..Default::default() });
            r.add_addresses = words(&["192.0.2.214"]);
            r.remove_addresses = words(&["192.0.2.114"]);
            r.save = true;
        }));
        self.up(119, |_| {});
        self.done(Command::stop("119"));
        self.sim.script().hold(119, true);
        let op = self.begun(Command::start("119"));
        self.at_limits(119);
        self.cancel(&op);
        self.sim.script().hold(119, false);
        assert_eq!(self.sim.end_of(&op.id).state(), pb::OperationState::Cancelled);
        self.create(120, |s| s.name = "gone".to_owned());
        self.done(Command::delete("120"));
        let fault = self.fails(Command::create(121, |s| s.template = "nonsuch".to_owned()));
        assert_eq!(fault.reason, Reason::TemplateUnknown);
        self.create(125, |_| {});
        self.done(mount(125));
        self.at(125, "EnsureVolume", 0, FAIL);
        self.fails(stop(125, |r| r.unmount_only = true));
    }

    fn snapshots(&self) {
        self.create(116, |_| {});
        self.sim.kernel().write(116, 1);
        let first = self.done(Command::snapshot("116", "first")).snapshot;
        self.sim.kernel().write(116, 2);
        let second = self.done(Command::snapshot("116", "")).snapshot;
        self.done(Command::snapshot_switch("116", &first));
        self.done(Command::snapshot_delete("116", &second));
        // Neither taken nor taken away.
        self.create(115, |_| {});
        self.at(115, "EnsureSnapshot", 0, FAIL_LATE);
        self.at(115, "RemoveSnapshot", 0, FAIL);
        self.fails(Command::snapshot("115", "half"));
        let kept = self.done(Command::snapshot("116", "kept")).snapshot;
        self.at(116, "RemoveSnapshot", 0, FAIL);
        self.fails(Command::snapshot_delete("116", &kept));
        self.at(116, "RevertVolume", 0, FAIL);
        self.fails(Command::snapshot_switch("116", &kept));
    }

    fn templates(&self) {
        let begin = |name: &str, suite: &str| {
            let n = self.requests.get();
            self.requests.set(n + 1);
            let request = api::BuildTemplateRequest {
                name: format!("templates/{name}"),
                suite: suite.to_owned(),
                init: api::InitSystem::Sysvinit.into(),
                packages: words(&["openssh-server", "less"]),
                request_id: format!("kept-{n}"),
            };
            let begun = self.sim.block(self.sim.templates().build_template(request));
            pb::Operation::from(begun.expect("begun").into_inner())
        };
        let ends = |op: &pb::Operation| self.sim.end_of(&op.id).state();
        assert_eq!(ends(&begin("bookworm", "bookworm")), pb::OperationState::Succeeded);
        assert_eq!(ends(&begin("failed", "nonsuch")), pb::OperationState::Failed);
        let op = begin("cancelled", "slow");
        self.cancel(&op);
        assert_eq!(ends(&op), pb::OperationState::Cancelled);
        begin("unfinished", "slow");
    }

    /// Operations of kinds that are begun by nobody in particular, in the other ways to end.
    fn others(&self) {
        self.create(126, |s| s.template = "bookworm".to_owned());
        self.at(126, "EnsureVolume", 0, FAIL);
        self.fails(mount(126));
        self.up(127, |_| {});
        self.at(127, "StopContainer", 0, FAIL);
        self.fails(Command::restart("127"));
        self.up(128, |_| {});
        self.at(128, "StopContainer", 0, FAIL);
        self.fails(Command::stop("128"));
    }

    fn clock_ahead(&self) {
        // Lifecycle remembers it of one that is gone.
        let mut client = LifecycleServiceClient::new(self.sim.channel_to(Daemon::Lifecycle));
        let request = EnsureContainerRequest {
            fence: Some(Fence { ct: 199, generation: AHEAD, epoch: 1 }),
            phase: Phase::Absent.into(),
            ..Default::default()
        };
        self.sim.block(client.ensure_container(request)).expect("remembered");
        self.create(199, |_| {});
        assert!(self.sim.get("199").expect("there").generation > AHEAD);
        self.done(Command::delete("199"));
    }
}

fn every_limit() -> Limits {
    let value = |barrier, limit| UbcValue { barrier, limit };
    let unlimited = u64::try_from(i64::MAX).unwrap_or_default();
    let ubc = [
        ("numproc", value(240, 240)),
        ("kmemsize", value(14_372_700, 14_790_164)),
        ("privvmpages", value(65_536, 69_632)),
        ("physpages", value(0, unlimited)),
        ("shmpages", value(21_504, 21_504)),
        ("numpty", value(16, 16)),
        ("oomguarpages", value(26_112, unlimited)),
    ];
    Limits {
        ubc: ubc.map(|(name, value)| (name.to_owned(), value)).into(),
        cpu_millicpus: Some(2500),
        cpus: Some(2),
        cpu_units: Some(1500),
        ..Limits::default()
    }
}

fn mount(ct: u32) -> Command {
    let request =
        pb::StartContainerRequest { ct: text(ct), mount_only: true, ..Default::default() };
    Command::Start(request)
}

fn stop(ct: u32, change: impl FnOnce(&mut pb::StopContainerRequest)) -> Command {
    let mut request = pb::StopContainerRequest { ct: text(ct), ..Default::default() };
    change(&mut request);
    Command::Stop(request)
}

/// A change that lasts until the container stops.
fn unsaved(ct: u32, address: &str) -> Command {
    Command::update(&text(ct), |r| {
        r.add_addresses = words(&[address]);
        r.update_mask = words(&["limits.cpus"]);
        let limits = Some(Limits { cpus: Some(1), ..Default::default() });
        r.spec = Some(pb::ContainerSpec { limits, ..Default::default() });
    })
}

fn grow(ct: u32, gib: u64, mode: pb::SetMode) -> Command {
    Command::update(&text(ct), |r| {
        r.update_mask = words(&["disk_bytes"]);
        r.spec = Some(pb::ContainerSpec { disk_bytes: gib << 30, ..Default::default() });
        r.save = true;
        r.set_mode = mode;
    })
}
