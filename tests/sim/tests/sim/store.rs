//! What the coordinator's state promises whoever asks: a request is done once, what has begun can be ended
//! where the disk is full, and each container is told from all others there ever were.

use std::sync::Arc;

use ves_coordinator::clock::SystemClock;
use ves_coordinator::store::memory::MemoryStore;
use ves_coordinator::store::state::State;
use ves_coordinator::store::{Store as _, Transaction, all_rows};
use ves_proto::Reason;
use ves_proto::api;
use ves_sim::Sim;
use ves_sim::kept::Kept;
use ves_sim::sim::Command;
use ves_sim::words as pb;
use ves_types::CtId;
use ves_types::layout::Daemon;

#[test]
fn an_id_stands_for_one_request_only() {
    let sim = Sim::new();
    for ct in [101, 102] {
        sim.run(&Command::create(ct, |_| {})).expect("made");
    }
    let start = Command::start("101").with_request_id("order-1");
    let first = sim.run(&start).expect("started");
    assert_eq!(sim.run(&start).expect("the same request").id, first.id);
    // Another container, another RPC, and another way of the same one.
    let fast = pb::StopContainerRequest { ct: "101".into(), fast: true, ..Default::default() };
    let unlike = [
        Command::start("102"),
        Command::stop("101"),
        Command::Stop(fast),
        Command::create(103, |_| {}),
        Command::delete("101"),
    ];
    for command in unlike {
        let fault = sim.run(&command.with_request_id("order-1")).expect_err("another request");
        assert_eq!(fault.reason, Reason::RequestIdReused, "{fault}");
        assert_eq!(fault.facts["operation"], first.id);
    }
    assert_eq!(sim.state("101"), pb::ContainerState::Running);
    assert_eq!(sim.state("102"), pb::ContainerState::Stopped);
    sim.restart(Daemon::Coordinator);
    assert_eq!(sim.run(&start).expect("it was kept").id, first.id);
    let fault = sim.run(&Command::stop("101").with_request_id("order-1")).expect_err("another");
    assert_eq!(fault.reason, Reason::RequestIdReused, "{fault}");
}

#[test]
fn without_room_only_what_gives_some_back_is_begun() {
    let sim = Sim::new();
    for ct in [101, 102] {
        sim.run(&Command::create(ct, |_| {})).expect("made");
    }
    sim.run(&Command::start("101")).expect("started");
    sim.store().fill(true);
    for command in [
        Command::create(103, |_| {}),
        Command::start("102"),
        Command::restart("101"),
        Command::snapshot("101", "x"),
    ] {
        let fault = sim.run(&command).expect_err("no room");
        assert_eq!(fault.reason, Reason::StoreFull, "{command:?}: {fault}");
    }
    sim.run(&Command::stop("101")).expect("stopped");
    sim.run(&Command::delete("102")).expect("gone");
    sim.store().fill(false);
    sim.run(&Command::create(103, |_| {})).expect("there is room again");
}

#[test]
fn a_container_that_gets_an_id_again_is_another() {
    let sim = Sim::new();
    let made = || {
        sim.run(&Command::create(101, |_| {})).expect("made");
        let container = sim.get("101").expect("made");
        assert_eq!(container.node, "sim");
        container.uid
    };
    let first = made();
    sim.run(&Command::start("101")).expect("started");
    sim.run(&Command::stop("101")).expect("stopped");
    assert_eq!(sim.get("101").expect("it is there").uid, first);
    sim.run(&Command::delete("101")).expect("gone");
    assert_ne!(made(), first);
}

#[test]
fn a_node_that_is_renamed_keeps_its_containers() {
    for kept in Kept::all() {
        let store = MemoryStore::default();
        let rows = Transaction { puts: kept.rows(), ..Transaction::default() };
        store.transact(&[rows]).expect("written");
        let opened = |node: &str| {
            let node = node.parse().expect("a name");
            State::open(Box::new(store.clone()), &node, Arc::new(SystemClock)).expect("opened")
        };
        let before: Vec<_> = opened("n1").read().containers().cloned().collect();
        assert!(before.iter().all(|record| record.node.as_str() == "n1"));
        let state = opened("n2");
        let index = state.read();
        for old in before {
            let new = index.container(old.id).expect("kept");
            assert_eq!(new.node.as_str(), "n2");
            assert_eq!((new.uid, new.generation), (old.uid, old.generation));
        }
        assert!(
            index.operations().all(|op| op.ended_unix_ms.is_some() || op.node.as_str() == "n2")
        );
    }
}

/// The addresses that the node routes to a container.
fn links(sim: &Sim, ct: u32) -> Vec<String> {
    let ct = CtId::try_from(ct).expect("valid");
    let mut state = sim.kernel().links.state();
    state.container(ct).working().into_iter().map(|a| a.to_string()).collect()
}

/// Gives a container one address and no other.
fn readdress(address: &str) -> Command {
    let spec = pb::ContainerSpec { addresses: vec![address.to_owned()], ..Default::default() };
    Command::set("101", &["addresses"], spec)
}

#[test]
fn a_store_that_comes_back_older_is_believed_and_carried_through() {
    let sim = Sim::new();
    let own = |s: &mut pb::ContainerSpec| s.addresses = vec!["192.0.2.1".to_owned()];
    sim.run(&Command::create(101, own)).expect("made");
    sim.run(&Command::start("101")).expect("started");
    let old = all_rows(sim.store()).expect("read");
    for n in 2..6 {
        sim.run(&readdress(&format!("192.0.2.{n}"))).expect("set");
    }
    let newest = sim.get("101").expect("there").generation;
    sim.kill(Daemon::Coordinator);
    sim.store().lose();
    sim.store().transact(&[Transaction { puts: old, ..Transaction::default() }]).expect("restored");
    sim.start_daemon(Daemon::Coordinator);
    // It comes before the look that repairs it, or after.
    sim.until("nobody else is at work", || match sim.run(&readdress("192.0.2.77")) {
        Err(fault) if fault.reason == Reason::Busy => false,
        done => done.expect("set").fault.is_none(),
    });
    assert_eq!(links(&sim, 101), ["192.0.2.77"]);
    assert!(sim.get("101").expect("there").generation > newest);
    assert_eq!(sim.state("101"), pb::ContainerState::Running);
    sim.run(&Command::stop("101")).expect("stopped");
    sim.run(&Command::delete("101")).expect("gone");
    assert!(sim.kernel().is_clean());
}

#[test]
fn what_an_older_store_says_is_asked_for_without_anybody_asking() {
    let sim = Sim::new();
    let own = |s: &mut pb::ContainerSpec| s.addresses = vec!["192.0.2.1".to_owned()];
    sim.run(&Command::create(101, own)).expect("made");
    sim.run(&Command::start("101")).expect("started");
    let old = all_rows(sim.store()).expect("read");
    sim.run(&readdress("192.0.2.2")).expect("set");
    sim.kill(Daemon::Coordinator);
    sim.store().lose();
    sim.store().transact(&[Transaction { puts: old, ..Transaction::default() }]).expect("restored");
    sim.start_daemon(Daemon::Coordinator);
    sim.until("it has the address it had", || links(&sim, 101) == ["192.0.2.1"]);
}

#[test]
fn what_no_record_knows_is_shown_and_can_be_cleared() {
    let sim = Sim::new();
    sim.run(&Command::create(101, |_| {})).expect("made");
    sim.run(&Command::start("101")).expect("started");
    sim.kill(Daemon::Coordinator);
    sim.store().lose();
    sim.start_daemon(Daemon::Coordinator);
    let unknown = || {
        let node = sim
            .block(sim.node().get_node(api::GetNodeRequest { name: "nodes/-".to_owned() }))
            .expect("it answers");
        node.into_inner().unknown_containers
    };
    sim.until("it is shown", || !unknown().is_empty());
    let shown = unknown();
    assert_eq!(shown.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), ["containers/101"]);
    for what in ["volume", "control groups", "processes", "link"] {
        assert!(shown[0].what.iter().any(|w| w == what), "{what}: {shown:?}");
    }
    sim.run(&Command::delete("101")).expect("cleared");
    assert!(unknown().is_empty());
    assert!(sim.kernel().is_clean());
}
