//! The shell on a fake node: fences, locks, faults, steps that fail.

use super::*;
use crate::fake::FakeHost;
use crate::plan::Desired;
use ves_daemon::{Call, FenceStore};
use ves_proto::Reason;
use ves_types::{Epoch, Fence};

struct Bench {
    _dir: tempfile::TempDir,
    fake: FakeHost,
    service: Service,
    runtime: tokio::runtime::Runtime,
}

fn ct(n: u32) -> CtId {
    CtId::try_from(n).expect("valid")
}

fn fence(n: u32, generation: u64) -> Fence {
    Fence { ct: ct(n), generation: Generation(generation), epoch: Epoch(1) }
}

fn desired(addresses: &[&str]) -> Desired {
    Desired { addresses: addresses.iter().map(|a| a.parse().expect("an address")).collect() }
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let fake = FakeHost::with_every_netns();
        let fences = FenceStore::open(dir.path().join("fence")).expect("fences");
        let shell = Shell::new(crate::KIND, fences, 16);
        let service = Service::new(Arc::new(fake.clone()), shell, &Config::default());
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        Self { _dir: dir, fake, service, runtime }
    }
    fn ensure(&self, n: u32, generation: u64, addresses: &[&str]) -> Result<Interface, Fault> {
        let done = self.service.ensure(fence(n, generation), desired(addresses));
        self.runtime.block_on(done).map(|done| done.answer.expect("no dry run"))
    }
    fn remove(&self, n: u32, generation: u64) -> Result<(), Fault> {
        self.runtime.block_on(self.service.remove(fence(n, generation))).map(drop)
    }
    fn journal(&self) -> Vec<String> {
        std::mem::take(&mut self.fake.state().journal)
    }
}

#[test]
fn asking_twice_does_nothing_the_second_time() {
    let bench = Bench::new();
    let made = bench.ensure(101, 1, &["192.0.2.1", "2001:db8::1"]).expect("made");
    assert_eq!((made.ct, made.generation, made.addresses.len()), (ct(101), Generation(1), 2));
    assert!(bench.journal().len() > 10);
    let again = bench.ensure(101, 1, &["192.0.2.1", "2001:db8::1"]).expect("there");
    assert_eq!((again, bench.journal().len()), (made, 0));
}

#[test]
fn the_past_is_refused_and_changes_nothing() {
    let bench = Bench::new();
    bench.ensure(101, 5, &["192.0.2.1"]).expect("made");
    bench.journal();
    let refused = bench.ensure(101, 4, &["192.0.2.2"]).expect_err("older");
    assert_eq!(refused.reason, Reason::StaleGeneration);
    assert_eq!(bench.remove(101, 4).map_err(|f| f.reason), Err(Reason::StaleGeneration));
    assert!(bench.journal().is_empty());
}

#[test]
fn what_was_delayed_does_not_bring_back_what_was_removed() {
    let bench = Bench::new();
    bench.ensure(101, 5, &["192.0.2.1"]).expect("made");
    bench.remove(101, 6).expect("removed");
    bench.remove(101, 7).expect("nothing to remove");
    bench.journal();
    let refused = bench.ensure(101, 6, &["192.0.2.1"]).expect_err("older");
    assert_eq!((refused.reason, bench.journal()), (Reason::StaleGeneration, vec![]));
    bench.ensure(101, 8, &["192.0.2.1"]).expect("a new container of that id");
}

#[test]
fn a_dry_run_tells_the_steps_and_does_none() {
    let bench = Bench::new();
    bench.fake.state().node.forward_v6 = Some(false);
    let dry = Call { fence: fence(101, 7), dry_run: true };
    let planned = bench.runtime.block_on(bench.service.ensure(dry, desired(&["192.0.2.1"])));
    let planned = planned.expect("planned");
    assert_eq!((planned.answer, bench.journal()), (None, vec![]));
    let node = "set ipv6/conf/all/forwarding to 1".to_owned();
    assert!(planned.steps.contains(&node), "the node's too: {:?}", planned.steps);
    let done = bench.service.ensure(fence(101, 3), desired(&["192.0.2.1"]));
    let done = bench.runtime.block_on(done).expect("7 was not accepted");
    assert_eq!((&done.steps, &bench.journal()), (&planned.steps, &planned.steps));
    let planned = bench.runtime.block_on(bench.service.remove(dry)).expect("planned");
    assert_eq!((planned.steps.is_empty(), bench.journal()), (false, vec![]));
}

#[test]
fn a_refused_plan_is_not_accepted_as_the_newest() {
    let bench = Bench::new();
    bench.fake.state().own.insert("192.0.2.9".parse().expect("an address"));
    let fault = bench.ensure(101, 7, &["192.0.2.9"]).expect_err("the node's own");
    assert_eq!(
        (fault.reason, fault.facts["holder"].as_str()),
        (Reason::AddressTaken, "the node itself")
    );
    bench.ensure(101, 6, &["192.0.2.1"]).expect("nothing newer was accepted");
}

#[test]
fn the_holder_of_an_address_is_named() {
    let bench = Bench::new();
    bench.ensure(101, 1, &["192.0.2.1"]).expect("made");
    let fault = bench.ensure(102, 1, &["192.0.2.2", "192.0.2.1"]).expect_err("taken");
    assert_eq!(fault.reason, Reason::AddressTaken);
    assert_eq!(
        (fault.facts["address"].as_str(), fault.facts["holder"].as_str()),
        ("192.0.2.1", "container 101")
    );
    bench.remove(101, 1).expect("removed");
    bench.ensure(102, 1, &["192.0.2.2", "192.0.2.1"]).expect("free now");
}

#[test]
fn whichever_step_fails_the_next_call_finishes() {
    for after_effect in [false, true] {
        for n in 0.. {
            let bench = Bench::new();
            {
                let mut state = bench.fake.state();
                (state.fail_after, state.fail_after_effect) = (Some(n), after_effect);
                state.node.forward_v6 = Some(false);
            }
            let all = bench.ensure(101, 1, &["192.0.2.1", "2001:db8::1"]);
            let Err(fault) = all else {
                assert!(n > 15, "every step was made to fail once");
                break;
            };
            assert_eq!(fault.reason, Reason::HostFailed);
            let step = bench.journal().last().cloned().expect("a step was begun");
            assert_eq!(fault.facts["step"], step);
            let made = bench.ensure(101, 1, &["192.0.2.1", "2001:db8::1"]).expect("finished");
            assert_eq!(made.addresses.len(), 2);
            bench.fake.state().fail_after = Some(n % 4);
            bench.remove(101, 1).ok();
            bench.fake.state().fail_after = None;
            bench.remove(101, 1).expect("finished");
            assert!(bench.fake.sources().expect("read").is_empty());
        }
    }
}

#[test]
fn the_second_worker_hears_of_the_first() {
    let bench = Bench::new();
    let _held = bench.service.inner.shell.hold(ct(101), "EnsureInterface").expect("free");
    let fault = bench.remove(101, 1).expect_err("busy");
    assert_eq!((fault.reason, fault.facts["holder"].as_str()), (Reason::Busy, "EnsureInterface"));
}

#[test]
fn links_are_listed_and_a_missing_one_is_not_found() {
    let bench = Bench::new();
    for n in [103, 101, 102] {
        bench.ensure(n, 1, &[&format!("192.0.2.{n}")]).expect("made");
    }
    bench.fake.kill(ct(102));
    let all = bench.runtime.block_on(bench.service.list()).expect("listed");
    assert_eq!(all.iter().map(|i| i.ct.get()).collect::<Vec<_>>(), [101, 103]);
    let fault = bench.runtime.block_on(bench.service.get(ct(102))).expect_err("gone");
    assert_eq!(fault.reason, Reason::ContainerUnknown);
    bench.fake.state().every_netns = false;
    bench.fake.kill(ct(101));
    let fault = bench.ensure(101, 1, &["192.0.2.101"]).expect_err("no namespace");
    assert_eq!(fault.reason, Reason::NotRunning);
}

#[test]
fn a_kernel_that_cannot_be_read_is_not_changed() {
    let bench = Bench::new();
    bench.ensure(101, 1, &["192.0.2.1"]).expect("made");
    bench.journal();
    bench.fake.state().unreadable = true;
    for fault in [
        bench.ensure(101, 2, &["192.0.2.2"]).expect_err("unreadable"),
        bench.remove(101, 2).expect_err("unreadable"),
        bench.runtime.block_on(bench.service.list()).expect_err("unreadable"),
    ] {
        assert_eq!(fault.reason, Reason::HostFailed, "{fault}");
    }
    assert!(bench.journal().is_empty());
    bench.fake.state().unreadable = false;
    bench.ensure(101, 1, &["192.0.2.1"]).expect("what was not decided on was not accepted");
}

#[test]
fn a_container_that_cannot_be_read_costs_only_itself() {
    let bench = Bench::new();
    bench.ensure(101, 1, &["192.0.2.1"]).expect("made");
    bench.ensure(102, 1, &["192.0.2.2"]).expect("made");
    bench.fake.state().dark.insert(ct(101));
    let listed = bench.runtime.block_on(bench.service.list()).expect("listed");
    assert_eq!(listed.iter().map(|i| i.ct).collect::<Vec<_>>(), [ct(102)]);
    let fault = bench.runtime.block_on(bench.service.get(ct(101))).expect_err("cannot be read");
    assert_eq!(fault.reason, Reason::HostFailed);
}

#[test]
fn a_container_whose_inside_cannot_be_read_is_served_by_the_outside() {
    use crate::plan::Unread;
    let bench = Bench::new();
    bench.ensure(101, 1, &["192.0.2.1"]).expect("made");
    bench.fake.state().container(ct(101)).unread = Some(Unread::Linked);
    bench.journal();
    let same = bench.ensure(101, 2, &["192.0.2.1"]).expect("nothing to do");
    assert_eq!((same.addresses.len(), bench.journal()), (1, Vec::new()));
    let changed = bench.ensure(101, 3, &["192.0.2.2"]).expect("changed outside");
    assert_eq!(changed.addresses, ["192.0.2.2".parse().expect("an address")]);
    assert!(!bench.journal().iter().any(|step| step.contains("in container")));
    let listed = bench.runtime.block_on(bench.service.list()).expect("listed");
    assert_eq!(listed, [changed]);
    // When it can be read again, the rest is done.
    bench.fake.state().container(ct(101)).unread = None;
    bench.ensure(101, 3, &["192.0.2.2"]).expect("repaired");
    assert!(bench.journal().iter().any(|step| step == "add address 192.0.2.2 in container 101"));
    // One without a link cannot get one unseen; it can go.
    bench.fake.kill(ct(101));
    bench.fake.state().container(ct(101)).unread = Some(Unread::Apart);
    let fault = bench.ensure(101, 4, &["192.0.2.2"]).expect_err("nothing to stand on");
    assert_eq!(fault.reason, Reason::HostFailed);
    bench.remove(101, 4).expect("removed");
}

/// What the guard allows, by container.
fn allowed(bench: &Bench) -> Vec<(u32, usize)> {
    let sources = bench.fake.sources().expect("read");
    sources.iter().map(|(ct, set)| (ct.get(), set.len())).collect()
}

#[test]
fn a_guard_that_was_flushed_comes_back_for_all() {
    let bench = Bench::new();
    bench.service.prepare_node().expect("ready");
    bench.ensure(101, 1, &["192.0.2.1", "2001:db8::1"]).expect("made");
    bench.ensure(102, 1, &["192.0.2.2"]).expect("made");
    bench.fake.flush_ruleset();
    assert_eq!(allowed(&bench), [(101, 2), (102, 1)], "it is owned");
    for by_ensure in [false, true] {
        bench.fake.disown();
        bench.fake.flush_ruleset();
        bench.journal();
        assert_eq!(allowed(&bench), []);
        if by_ensure {
            bench.ensure(101, 1, &["192.0.2.1", "2001:db8::1"]).expect("the same");
        } else {
            bench.service.prepare_node().expect("put right");
        }
        assert_eq!(allowed(&bench), [(101, 2), (102, 1)], "by ensure: {by_ensure}");
        let laid = "set up the nftables table inet ves with 3 sources";
        assert_eq!(bench.journal()[0], laid, "at once");
    }
    // Who only looks after the guard leaves the rest to who asks for it.
    bench.fake.state().node.forward_v4 = false;
    assert_eq!(bench.service.inner.settle_guard().map_err(|f| f.reason), Ok(0));
    assert!(!bench.fake.state().node.forward_v4);
    // What somebody let in, and what he took out.
    {
        let mut state = bench.fake.state();
        let foreign = "192.0.2.66".parse().expect("an address");
        state.container(ct(101)).sources = [foreign].into();
        state.container(ct(102)).sources.clear();
    }
    bench.service.prepare_node().expect("put right");
    assert_eq!(allowed(&bench), [(101, 2), (102, 1)]);
    bench.fake.disown();
    bench.journal();
    bench.service.prepare_node().expect("put right");
    assert_eq!(bench.journal(), ["own the nftables table inet ves"]);
}

#[test]
fn what_is_being_taken_away_does_not_come_back() {
    use crate::plan::{Change, Step};
    let bench = Bench::new();
    bench.service.prepare_node().expect("ready");
    let address = "192.0.2.1".parse().expect("an address");
    bench.ensure(101, 1, &["192.0.2.1"]).expect("made");
    let inner = &bench.service.inner;
    let mut session = inner.session(ct(101)).expect("a session");
    let forbid = Step { ct: ct(101), change: Change::ForbidSources([address].into()) };
    inner.apply(&mut *session, &forbid).expect("forbidden");
    // Its route is still there when somebody looks after the guard, or lays it anew.
    bench.service.prepare_node().expect("nothing to do");
    assert_eq!(allowed(&bench), []);
    bench.fake.disown();
    bench.fake.flush_ruleset();
    bench.service.prepare_node().expect("laid");
    assert_eq!(allowed(&bench), []);
    // The call failed before the route went: what is routed stays the container's.
    inner.ended(ct(101));
    bench.service.prepare_node().expect("put right");
    assert_eq!(allowed(&bench), [(101, 1)]);
}

#[test]
fn an_address_forbidden_while_its_route_is_away_is_allowed_with_it() {
    let bench = Bench::new();
    bench.ensure(101, 1, &["192.0.2.1"]).expect("made");
    bench.fake.state().container(ct(101)).link.as_mut().expect("a link").routes.clear();
    let dry = Call { fence: fence(101, 2), dry_run: true };
    let planned = bench.service.ensure(dry, desired(&["192.0.2.1"]));
    let planned = bench.runtime.block_on(planned).expect("planned").steps;
    let last = planned.iter().rev().take(2).map(String::as_str).collect::<Vec<_>>();
    assert_eq!(
        last,
        ["allow source 192.0.2.1 from ves101", "add route 192.0.2.1 through ves101"],
        "whoever looks after the guard may forbid it in between"
    );
}

#[test]
fn room_is_raised_once_and_told() {
    use crate::plan::node::{Room, Space};
    let bench = Bench::new();
    let small = Space { limit: 4096, used: Some(7) };
    bench.fake.state().rooms = [(Room::Terminals, small), (Room::OwnTerminals, small)].into();
    bench.service.prepare_node().expect("ready");
    let raised = "set /proc/sys/kernel/pty/max to 65536".to_owned();
    assert!(bench.journal().contains(&raised));
    let facts = bench.runtime.block_on(bench.service.node()).expect("told");
    assert_eq!(facts.rooms[&Room::Terminals].limit, 65_536);
    assert_eq!((facts.rooms[&Room::OwnTerminals], facts.guard), (small, Some(Owner::Somebody)));
    bench.ensure(101, 1, &["192.0.2.1"]).expect("made");
    bench.service.prepare_node().expect("ready");
    assert!(!bench.journal().iter().any(|step| step.contains("pty")), "there is enough");
    // Where it cannot be raised, containers start all the same.
    bench.fake.state().rooms.insert(Room::Terminals, small);
    bench.fake.state().fail_after = Some(0);
    bench.service.prepare_node().expect("ready");
    assert_eq!(bench.journal(), [raised]);
    bench.ensure(102, 1, &["192.0.2.2"]).expect("made");
}
