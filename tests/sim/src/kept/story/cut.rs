//! Operations that are at work when the coordinator is killed: at each of their stages, and on the
//! way back from each.

use ves_proto::common::{self, Limits, UbcValue};
use ves_proto::storage;
use ves_proto::storage::storage_service_client::StorageServiceClient;
use ves_types::ExitCause;
use ves_types::layout::Daemon;

use super::{FAIL, FAIL_LATE, HANG, HANG_LATE, Story, grow, mount, stop, text, unsaved, words};
use crate::Mishap;
use crate::sim::Command;
use crate::words as pb;

impl Story {
    pub(super) fn creates_cut(&self) {
        self.at(201, "EnsureVolume", 0, HANG);
        self.cut(
            201,
            Command::create(201, |s| {
                s.name = "unborn".to_owned();
                s.addresses = words(&["192.0.2.201", "2001:db8::201"]);
            }),
        );
        self.at(202, "EnsureVolume", 0, HANG_LATE);
        self.cut(202, Command::create(202, |_| {}));
        self.at(203, "EnsureVolume", 0, FAIL_LATE);
        self.at(203, "RemoveVolume", 0, HANG);
        self.cut(203, Command::create(203, |_| {}));
        self.at(204, "EnsureVolume", 0, HANG);
        self.cut(204, Command::create(204, |_| {}));
    }

    pub(super) fn starts_cut(&self) {
        let cases: [(u32, &'static str, Mishap); 3] = [
            (211, "EnsureLimits", HANG),
            (212, "CreateProcess", HANG_LATE),
            (213, "RunProcess", HANG_LATE),
        ];
        for (ct, rpc, mishap) in cases {
            self.create(ct, |_| {});
            self.at(ct, rpc, 0, mishap);
            self.cut(ct, Command::start(&text(ct)));
        }
        self.create(214, |s| s.name = "starting".to_owned());
        self.at(214, "EnsureInterface", 0, FAIL);
        self.at(214, "StopContainer", 0, HANG);
        self.cut(214, Command::start("214"));
        self.create(215, |_| {});
        self.at(215, "EnsureLimits", 0, HANG);
        let op = self.cut(215, Command::start("215"));
        self.cancel(&op);
        for (ct, init) in [(216, "/sbin/init"), (217, "/bin/never-boots")] {
            self.create(ct, |s| s.init = words(&[init]));
            self.at(ct, "RunProcess", 0, HANG_LATE);
            let wait = pb::StartContainerRequest { ct: text(ct), wait: true, ..Default::default() };
            self.cut(ct, Command::Start(wait));
        }
        // Taken back because somebody cancelled it.
        self.create(218, |_| {});
        self.at(218, "RemoveLimits", 0, HANG);
        self.sim.script().hold(218, true);
        let op = self.begun(Command::start("218"));
        self.at_limits(218);
        self.cancel(&op);
        self.sim.script().hold(218, false);
        self.sim.until("218 hangs", || self.sim.script().hangs(218));
        self.create(221, |_| {});
        self.at(221, "EnsureVolume", 0, HANG);
        self.cut(221, mount(221));
        self.create(222, |_| {});
        self.at(222, "EnsureVolume", 0, FAIL_LATE);
        self.at(222, "EnsureVolume", 1, HANG);
        self.cut(222, mount(222));
    }

    pub(super) fn stops_cut(&self) {
        for ct in 231..=236 {
            self.up(ct, |s| s.addresses = vec![format!("198.51.100.{}", ct - 200)]);
        }
        for ct in [231, 234, 236] {
            self.done(unsaved(ct, &format!("198.51.100.{}", ct - 100)));
        }
        self.at(231, "StopContainer", 0, HANG);
        self.cut(231, Command::stop("231"));
        self.at(232, "EnsureVolume", 0, HANG_LATE);
        self.cut(232, Command::stop("232"));
        self.at(233, "StopContainer", 0, HANG);
        self.cut(
            233,
            stop(233, |r| {
                r.grace_ms = 7000;
                r.skip_unmount = true;
            }),
        );
        self.at(234, "StopContainer", 0, FAIL);
        self.at(234, "EnsureLimits", 0, HANG);
        self.cut(234, Command::stop("234"));
        // About to be taken back, with all it ran with.
        self.at(236, "StopContainer", 0, HANG);
        let op = self.cut(236, Command::stop("236"));
        self.cancel(&op);
        // Its init ends by itself.
        self.at(235, "RemoveInterface", 0, HANG);
        self.sim.kernel().end_inside(235, ExitCause::Halted, 0);
        self.sim.until("235 hangs", || self.sim.script().hangs(235));
        self.create(241, |_| {});
        self.done(mount(241));
        self.at(241, "EnsureVolume", 0, HANG);
        self.cut(241, stop(241, |r| r.unmount_only = true));
    }

    pub(super) fn restarts_cut(&self) {
        for ct in 251..=255 {
            self.up(ct, |_| {});
        }
        self.at(251, "StopContainer", 0, HANG);
        self.cut(251, Command::restart("251"));
        self.at(252, "CreateProcess", 0, HANG);
        self.cut(252, Command::restart("252"));
        self.at(253, "RunProcess", 0, HANG_LATE);
        let wait = pb::RestartContainerRequest {
            ct: text(253),
            fast: true,
            wait: true,
            ..Default::default()
        };
        self.cut(253, Command::Restart(wait));
        self.at(254, "RunProcess", 0, FAIL);
        self.at(254, "StopContainer", 1, HANG);
        self.cut(254, Command::restart("254"));
        // It reboots itself.
        self.at(255, "RunProcess", 0, HANG);
        self.sim.kernel().end_inside(255, ExitCause::Rebooted, 0);
        self.sim.until("255 hangs", || self.sim.script().hangs(255));
    }

    pub(super) fn sets_cut(&self) {
        for ct in (261..=266).chain(268..=270) {
            self.up(ct, |s| {
                s.name = format!("set-{ct}");
                s.addresses = vec![format!("198.51.100.{}", ct - 100)];
            });
        }
        self.at(261, "EnsureInterface", 0, HANG);
        self.cut(
            261,
            Command::update("261", |r| {
                r.update_mask = words(&["name", "disk_bytes", "limits.cpus", "limits.ubc.numproc"]);
                r.spec = Some(pb::ContainerSpec {
                    name: "set-anew".to_owned(),
                    disk_bytes: 3 << 30,
                    limits: Some(Limits {
                        cpus: Some(3),
                        ubc: [("numproc".to_owned(), UbcValue { barrier: 90, limit: 100 })].into(),
                        ..Default::default()
                    }),
                    ..Default::default()
                });
                r.add_addresses = words(&["203.0.113.61"]);
                r.remove_addresses = words(&["198.51.100.161"]);
                r.save = true;
            }),
        );
        // In each of three stages.
        for (ct, rpc, n) in
            [(262, "StopContainer", 0), (263, "EnsureVolume", 1), (264, "CreateProcess", 0)]
        {
            self.at(ct, rpc, n, HANG);
            self.cut(
                ct,
                Command::update(&text(ct), |r| {
                    rename(r);
                    r.update_mask.push("disk_bytes".to_owned());
                    r.spec.get_or_insert_default().disk_bytes = 3 << 30;
                }),
            );
        }
        self.at(265, "EnsureInterface", 0, FAIL);
        self.at(265, "EnsureLimits", 0, HANG);
        self.cut(
            265,
            Command::update("265", |r| {
                r.add_addresses = words(&["203.0.113.65"]);
                r.save = true;
            }),
        );
        self.at(266, "RunProcess", 0, FAIL);
        self.at(266, "CreateProcess", 1, HANG);
        self.cut(266, Command::update("266", rename));
        // One that is stopped.
        self.create(267, |_| {});
        self.at(267, "EnsureVolume", 0, HANG);
        self.cut(
            267,
            Command::set(
                "267",
                &["disk_bytes"],
                pb::ContainerSpec { disk_bytes: 4 << 30, ..Default::default() },
            ),
        );
        // What a service says only when it is asked.
        self.at(268, "StopContainer", 0, HANG);
        self.sim.kernel().volumes.grow_online(false);
        self.cut(268, grow(268, 3, pb::SetMode::Restart));
        self.sim.kernel().volumes.grow_online(true);
        for (ct, mode) in [(269, pb::SetMode::Ignore), (270, pb::SetMode::Restart)] {
            self.at(ct, "EnsureVolume", 0, HANG);
            self.cut(ct, grow(ct, 3, mode));
        }
    }

    pub(super) fn destroys_cut(&self) {
        for (ct, mishap) in [(281, HANG), (282, HANG_LATE)] {
            self.create(ct, |s| s.addresses = vec![format!("203.0.113.{}", ct - 200)]);
            self.at(ct, "RemoveVolume", 0, mishap);
            self.cut(ct, Command::delete(&text(ct)));
        }
        // What is left of one that no record knows.
        let mut client = StorageServiceClient::new(self.sim.channel_to(Daemon::Storage));
        let request = storage::EnsureVolumeRequest {
            fence: Some(common::Fence { ct: 283, generation: 1, epoch: 1 }),
            spec: Some(storage::VolumeSpec {
                template: "trixie".to_owned(),
                size_bytes: 2 << 30,
                id_slot: 283,
                ..Default::default()
            }),
            dry_run: false,
        };
        self.sim.block(client.ensure_volume(request)).expect("made");
        self.at(283, "RemoveVolume", 0, HANG);
        self.cut(283, Command::delete("283"));
    }

    pub(super) fn snapshots_cut(&self) {
        self.up(301, |_| {});
        self.at(301, "EnsureSnapshot", 0, HANG);
        self.cut(301, Command::snapshot("301", "while it runs"));
        self.create(302, |_| {});
        self.at(302, "EnsureSnapshot", 0, HANG_LATE);
        self.cut(302, Command::snapshot("302", ""));
        self.create(303, |_| {});
        self.at(303, "EnsureSnapshot", 0, FAIL_LATE);
        self.at(303, "RemoveSnapshot", 0, HANG);
        self.cut(303, Command::snapshot("303", "not to be"));
        let cases: [(u32, &'static str, Mishap); 4] = [
            (311, "RevertVolume", HANG),
            (312, "RevertVolume", HANG_LATE),
            (321, "RemoveSnapshot", HANG),
            (322, "RemoveSnapshot", HANG_LATE),
        ];
        for (ct, rpc, mishap) in cases {
            self.create(ct, |_| {});
            self.sim.kernel().write(ct, 1);
            let id = self.done(Command::snapshot(&text(ct), "then")).snapshot;
            self.sim.kernel().write(ct, 2);
            self.at(ct, rpc, 0, mishap);
            let command = match rpc {
                "RevertVolume" => Command::snapshot_switch(&text(ct), &id),
                _ => Command::snapshot_delete(&text(ct), &id),
            };
            self.cut(ct, command);
        }
    }
}

/// A change that takes a restart.
fn rename(request: &mut pb::UpdateContainerRequest) {
    request.update_mask = words(&["hostname"]);
    request.spec = Some(pb::ContainerSpec { hostname: "renamed".to_owned(), ..Default::default() });
    request.save = true;
    request.set_mode = pb::SetMode::Restart;
}
