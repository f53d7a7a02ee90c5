//! The service on a node in memory: fences, faults at every step, restarts, what the rows say.

use ves_daemon::FenceStore;
use ves_proto::Reason;
use ves_types::layout::Daemon;
use ves_types::{CpuLimit, Epoch, Fence, Limit, UbcValue};

use super::*;
use crate::enforcement::Proven;
use crate::fake::blocking::Blocking;
use crate::fake::{FakeHost, Fault as Injected, node_hybrid, node_v1, node_v2};
use crate::model::Value;
use crate::rows::{Count, Usage};

struct Rig {
    host: Arc<FakeHost>,
    dir: tempfile::TempDir,
    service: Blocking,
}

impl Rig {
    fn new(node: crate::model::Node) -> Self {
        let host = Arc::new(FakeHost::new(node));
        let dir = tempfile::tempdir().expect("a directory");
        let service = start(&host, &dir);
        Self { host, dir, service }
    }
    fn restart(&mut self) {
        self.service = start(&self.host, &self.dir);
    }
}

fn start(host: &Arc<FakeHost>, dir: &tempfile::TempDir) -> Blocking {
    let fences = FenceStore::open(dir.path().join("fence")).expect("opened");
    let shell = Shell::new(Daemon::Resources, fences, 16);
    Blocking(Service::new(Arc::clone(host) as Arc<dyn Host>, shell).expect("started"))
}

fn fence(ct: u32, generation: u64) -> Fence {
    Fence {
        ct: CtId::try_from(ct).expect("valid"),
        generation: Generation(generation),
        epoch: Epoch(1),
    }
}

fn limits(numproc: u64, ram: u64) -> Limits {
    let value = |n| UbcValue { barrier: Limit::Max(n), limit: Limit::Max(n) };
    let ubc = [(UbcResource::Numproc, value(numproc)), (UbcResource::Physpages, value(ram))];
    Limits { ubc: ubc.into(), cpu: Some(CpuLimit { millicpus: 500 }), ..Limits::default() }
}

#[test]
fn the_life_of_limits_on_every_kind_of_machine() {
    for node in [node_v1(), node_v2(), node_hybrid()] {
        let rig = Rig::new(node);
        let group = rig.service.ensure(&fence(7, 1), &limits(10, 100)).expect("made");
        assert_eq!(group.limits, limits(10, 100));
        assert_eq!((group.rows.len(), group.generation), (21, Generation(1)));
        let steps = rig.host.log().len();
        rig.service.ensure(&fence(7, 1), &limits(10, 100)).expect("the same again");
        assert_eq!(rig.host.log().len(), steps, "nothing to do");
        rig.service.ensure(&fence(7, 2), &limits(20, 100)).expect("changed");
        assert_eq!(rig.host.log().len(), steps + 2, "one setting, and the record");
        assert_eq!(rig.service.groups(&[]).expect("listed").len(), 1);
        rig.service.remove(&fence(7, 3)).expect("removed");
        rig.service.remove(&fence(7, 3)).expect("removed again");
        assert!(rig.host.is_clean());
        let unknown = rig.service.group(fence(7, 1).ct).map_err(|f| f.reason);
        assert_eq!(unknown, Err(Reason::ContainerUnknown));
    }
}

#[test]
fn file_locks_are_read_for_accounting_only_and_once_for_all() {
    let rig = Rig::new(node_hybrid());
    for ct in 7..10 {
        rig.service.ensure(&fence(ct, 1), &limits(10, 100)).expect("made");
    }
    rig.service.remove(&fence(9, 2)).expect("removed");
    assert_eq!(rig.host.locks_read(), 0);
    rig.service.group(fence(7, 1).ct).expect("there");
    assert_eq!(rig.host.locks_read(), 1);
    rig.service.groups(&[]).expect("listed");
    assert_eq!(rig.host.locks_read(), 2);
}

#[test]
fn old_decisions_are_refused() {
    let rig = Rig::new(node_hybrid());
    rig.service.ensure(&fence(7, 5), &limits(10, 100)).expect("made");
    let stale = rig.service.ensure(&fence(7, 4), &limits(99, 100)).map_err(|f| f.reason);
    assert_eq!(stale, Err(Reason::StaleGeneration));
    assert_eq!(
        rig.service.remove(&fence(7, 4)).map_err(|f| f.reason),
        Err(Reason::StaleGeneration)
    );
    assert_eq!(rig.service.group(fence(7, 1).ct).expect("there").limits, limits(10, 100));
}

#[test]
fn what_was_delayed_does_not_bring_back_what_was_removed() {
    let mut rig = Rig::new(node_hybrid());
    rig.service.ensure(&fence(7, 5), &limits(10, 100)).expect("made");
    rig.service.remove(&fence(7, 6)).expect("removed");
    rig.restart();
    let stale = rig.service.ensure(&fence(7, 5), &limits(10, 100)).map_err(|f| f.reason);
    assert_eq!(stale, Err(Reason::StaleGeneration));
    assert!(rig.host.is_clean());
    rig.service.ensure(&fence(7, 7), &limits(10, 100)).expect("a new container of that id");
}

#[test]
fn what_is_refused_makes_no_parent_group_either() {
    let mut node = node_hybrid();
    node.settings.remove(&Setting::CpuQuota);
    node.settings.remove(&Setting::CpuMax);
    let rig = Rig::new(node);
    let steps = rig.host.log().len();
    let refused = rig.service.ensure(&fence(7, 5), &limits(10, 100)).map_err(|f| f.reason);
    assert_eq!(refused, Err(Reason::KernelLacks));
    assert_eq!(rig.host.log().len(), steps);
}

#[test]
fn a_failure_at_any_step_is_mended_by_the_same_call() {
    for node in [node_v1(), node_v2(), node_hybrid()] {
        for fault in [Injected::Before, Injected::After] {
            let mut reached_the_end = false;
            for skip in 0..80 {
                let mut rig = Rig::new(node.clone());
                rig.host.fail(skip, fault);
                let ensure = rig.service.ensure(&fence(7, 1), &limits(10, 100));
                let Err(failed) = ensure else {
                    reached_the_end = true;
                    break;
                };
                assert_eq!(failed.reason, Reason::HostFailed, "{failed}");
                rig.restart();
                let group = rig.service.ensure(&fence(7, 1), &limits(10, 100));
                assert_eq!(group.expect("repaired").limits, limits(10, 100));
                rig.host.fail(skip % 5, fault);
                // It fails or, with fewer steps than that, does not; both end well.
                rig.service.remove(&fence(7, 2)).ok();
                rig.host.heal();
                rig.service.remove(&fence(7, 2)).expect("repaired");
                assert!(rig.host.is_clean());
            }
            assert!(reached_the_end, "a plan has fewer than 80 steps");
        }
    }
}

#[test]
fn limits_with_processes_stay() {
    let rig = Rig::new(node_hybrid());
    let ct = fence(7, 1).ct;
    rig.service.ensure(&fence(7, 1), &limits(10, 100)).expect("made");
    rig.host.populate(ct, true);
    let running = rig.service.remove(&fence(7, 2)).expect_err("populated");
    assert_eq!((running.reason, running.facts["ct"].as_str()), (Reason::Running, "7"));
    assert!(rig.service.group(ct).is_ok());
    rig.host.populate(ct, false);
    rig.service.remove(&fence(7, 2)).expect("empty");
}

#[test]
fn a_restart_changes_nothing_and_meddling_shows() {
    let mut rig = Rig::new(node_v1());
    let ct = fence(7, 1).ct;
    let before = rig.service.ensure(&fence(7, 1), &limits(10, 100)).expect("made");
    let steps = rig.host.log().len();
    rig.restart();
    assert_eq!(rig.host.log().len(), steps);
    assert_eq!(rig.service.group(ct).expect("there"), before);
    rig.host.meddle(ct, |o| {
        o.settings.insert(Setting::PidsMax, Value::Level(Limit::Unlimited));
    });
    rig.restart();
    let group = rig.service.group(ct).expect("there");
    assert_eq!(group.limits.limit(UbcResource::Numproc), Limit::Unlimited, "as the kernel has it");
    assert_eq!(group.rows[4].value.limit, Limit::Max(10), "as it was wanted");
    rig.service.ensure(&fence(7, 1), &limits(10, 100)).expect("repaired");
    assert_eq!(rig.service.group(ct).expect("there").limits, limits(10, 100));
}

#[test]
fn rows_say_what_was_proven_and_seen() {
    let rig = Rig::new(node_v1());
    let mut self_test = SelfTest::all();
    self_test.memory = Proven::No("it did not bite".to_owned());
    rig.host.set_self_test(self_test);
    let service = start(&rig.host, &rig.dir);
    let ct = fence(7, 1).ct;
    service.ensure(&fence(7, 1), &limits(10, 100)).expect("made");
    let counts = |n| Usage {
        counts: [(UbcResource::Numfile, Count::now(n))].into(),
        cpu_usec: 5,
        oom_kills: None,
    };
    rig.host.set_usage(ct, counts(30));
    service.group(ct).expect("there");
    rig.host.set_usage(ct, counts(20));
    let group = service.group(ct).expect("there");
    let row = |r| group.rows.iter().find(|row| row.resource == r).expect("all rows");
    assert_eq!((row(UbcResource::Numfile).held, row(UbcResource::Numfile).maxheld), (20, 30));
    assert_eq!(row(UbcResource::Numproc).enforcement, Enforcement::Hard);
    assert_eq!(row(UbcResource::Physpages).enforcement, Enforcement::Accounted);
    assert_eq!(row(UbcResource::Physpages).value.limit, Limit::Max(100));
    assert_eq!(group.cpu_usec, 5);
}

#[test]
fn the_second_of_two_hears_who_works() {
    let rig = Rig::new(node_hybrid());
    let _held = rig.service.shell().hold(fence(7, 1).ct, "EnsureLimits").expect("free");
    let busy = rig.service.remove(&fence(7, 1)).expect_err("held");
    assert_eq!((busy.reason, busy.facts["holder"].as_str()), (Reason::Busy, "EnsureLimits"));
}

#[test]
fn a_container_that_cannot_be_read_costs_only_itself() {
    let rig = Rig::new(node_hybrid());
    rig.service.ensure(&fence(7, 1), &limits(10, 100)).expect("made");
    rig.service.ensure(&fence(8, 1), &limits(10, 100)).expect("made");
    rig.host.darken(fence(7, 1).ct);
    let listed = rig.service.groups(&[]).expect("listed");
    assert_eq!(listed.iter().map(|g| g.ct).collect::<Vec<_>>(), [fence(8, 1).ct]);
    let named = |ct: u32| rig.service.groups(&[fence(ct, 1).ct]).expect("listed").len();
    assert_eq!([named(7), named(8), named(9)], [0, 1, 0], "only those that are asked for");
    assert!(rig.service.group(fence(7, 1).ct).is_err());
    rig.service.remove(&fence(7, 1)).expect("it can go");
}

#[test]
fn what_is_used_has_the_rows_that_are_kept_and_no_look_at_processes() {
    let mut rig = Rig::new(node_hybrid());
    for ct in 7..9 {
        rig.service.ensure(&fence(ct, 1), &limits(10, 100)).expect("made");
    }
    let read = rig.host.locks_read();
    let used = rig.service.used().expect("told");
    assert_eq!(used.iter().map(|u| u.ct.get()).collect::<Vec<_>>(), [7, 8]);
    assert_eq!(used[0].counters, crate::fake::all_counters());
    let rows = |used: &Used| used.rows.iter().map(|r| (r.resource, r.value.limit)).collect();
    let rows: BTreeMap<_, _> = rows(&used[0]);
    assert_eq!(rows[&UbcResource::Numproc], Limit::Max(10));
    assert_eq!(rows[&UbcResource::Swappages], Limit::Unlimited);
    assert_eq!(rows.len(), 5, "the others promise nothing: {rows:?}");
    assert_eq!(rig.host.locks_read(), read);

    // What this node was not seen to keep is none; one that cannot be read hides no other.
    let no = Proven::No("it failed".to_owned());
    rig.host.set_self_test(SelfTest { tcp: no.clone(), swap: no, ..SelfTest::all() });
    rig.restart();
    rig.host.darken(fence(7, 1).ct);
    let used = rig.service.used().expect("told");
    assert_eq!((used.len(), used[0].ct.get(), used[0].rows.len()), (1, 8, 2));
}
