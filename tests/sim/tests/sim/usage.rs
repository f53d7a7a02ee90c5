//! What a container has used only grows, over whatever ends and begins anew, and is nobody else's.

use std::time::Duration;

use ves_coordinator::store::{Kind, Store as _};
use ves_proto::api::event_service_client::EventServiceClient;
use ves_proto::{Fault, api};
use ves_resources::counters::{Counters, Disk};
use ves_sim::sim::Command;
use ves_sim::words::ContainerState::Running;
use ves_sim::{Sim, id};
use ves_types::ExitCause;
use ves_types::layout::Daemon;

/// The kernel's counters of a container's present groups and link say so.
fn counts(sim: &Sim, n: u64) {
    let disk = Disk { read_bytes: n, write_bytes: 2 * n, reads: n, writes: n };
    let counters = Counters {
        cpu: Some((n * 600_000, n * 400_000)),
        throttled_usec: Some(n),
        memory: Some(4096),
        disk: Some(disk),
        ..Counters::default()
    };
    sim.kernel().groups.set_counters(id(101), counters);
    let mut links = sim.kernel().links.state();
    let traffic = links.traffic.entry(id(101)).or_default();
    (traffic.rx_bytes, traffic.tx_bytes, traffic.rx_packets) = (3 * n, n, n);
}

fn get(sim: &Sim) -> api::Usage {
    let request = api::GetUsageRequest { container: "containers/101".to_owned() };
    let answer = sim.block(sim.usage().get_usage(request));
    answer.map_err(Fault::from).expect("told").into_inner()
}

fn duration(of: Option<prost_types::Duration>) -> Duration {
    Duration::try_from(of.expect("told")).expect("positive")
}

/// Processor time in seconds, bytes written, bytes sent.
fn used(usage: &api::Usage) -> (u64, u64, u64) {
    let traffic = usage.traffic.first().expect("told");
    assert_eq!((usage.traffic.len(), traffic.interface.as_str()), (1, "venet0"));
    let seconds = duration(usage.cpu_time).as_secs();
    (seconds, usage.io_write_bytes.expect("told"), traffic.transmit_bytes)
}

fn running() -> Sim {
    let sim = Sim::on_disk();
    sim.run(&Command::create(101, |_| {})).expect("created");
    sim.run(&Command::start("101")).expect("started");
    sim
}

fn is_up(sim: &Sim) -> bool {
    sim.get("101").is_ok_and(|ct| ct.state() == Running && ct.operation.is_empty())
}

#[test]
fn it_goes_on_over_restarts_and_stops_and_is_told_of_what_is_stopped() {
    let sim = running();
    counts(&sim, 10);
    let first = get(&sim);
    assert_eq!(used(&first), (10, 20, 30));
    assert_eq!(
        (first.memory_bytes, first.io_read_ops, first.ubc.len()),
        (Some(4096), Some(10), 21)
    );
    assert_eq!(duration(first.cpu_throttled_time), Duration::from_micros(10));
    assert_eq!(first.swap_bytes, Some(0));
    sim.run(&Command::restart("101")).expect("restarted");
    counts(&sim, 1);
    assert_eq!(used(&get(&sim)), (11, 22, 33));
    sim.run(&Command::stop("101")).expect("stopped");
    let stopped = get(&sim);
    assert_eq!(used(&stopped), (11, 22, 33));
    assert_eq!((stopped.memory_bytes, stopped.swap_bytes, stopped.ubc.len()), (None, None, 0));
    assert_eq!((stopped.start_time, &stopped.uid), (first.start_time, &first.uid));
    sim.run(&Command::start("101")).expect("started");
    counts(&sim, 5);
    assert_eq!(used(&get(&sim)), (16, 32, 48));
    assert_eq!(used(&get(&sim)), (16, 32, 48), "what is read twice counts once");
}

#[test]
fn a_stop_counts_what_nobody_had_read_before_and_a_kill_after_it_forgets_nothing() {
    let sim = running();
    counts(&sim, 7);
    sim.run(&Command::stop("101")).expect("stopped");
    sim.restart(Daemon::Coordinator);
    assert_eq!(used(&get(&sim)), (7, 14, 21));
}

#[test]
fn a_reboot_and_a_halt_inside_begin_nothing_anew() {
    let sim = running();
    counts(&sim, 4);
    // A link goes with the last process: what it counted is what was read.
    get(&sim);
    sim.kernel().end_inside(101, ExitCause::Rebooted, 0);
    sim.until("it runs again", || sim.kernel().ct(101).process.starts == 2 && is_up(&sim));
    counts(&sim, 3);
    get(&sim);
    sim.kernel().end_inside(101, ExitCause::Halted, 0);
    sim.until("it is down", || {
        sim.get("101").is_ok_and(|ct| ct.operation.is_empty()) && !is_up(&sim)
    });
    assert_eq!(used(&get(&sim)), (7, 14, 21));
}

#[test]
fn a_killed_coordinator_counts_on() {
    let sim = running();
    counts(&sim, 4);
    get(&sim);
    sim.kill(Daemon::Coordinator);
    counts(&sim, 6);
    sim.start_daemon(Daemon::Coordinator);
    assert_eq!(used(&get(&sim)), (6, 12, 18), "the kernel still has it");
    // It ends while nobody is there, and what it has left is counted all the same.
    sim.kill(Daemon::Coordinator);
    counts(&sim, 9);
    sim.kernel().end_inside(101, ExitCause::Halted, 0);
    sim.start_daemon(Daemon::Coordinator);
    sim.until("its end is seen", || sim.kernel().ct(101).group.is_none());
    let usage = get(&sim);
    let seconds = duration(usage.cpu_time).as_secs();
    assert_eq!((seconds, usage.io_write_bytes), (9, Some(18)), "its groups stayed");
}

/// Whether so much processor time is stored, in microseconds.
fn is_stored(sim: &Sim, cpu_usec: u64) -> bool {
    let rows = sim.store().range(Kind::Usage, None, 9).expect("read");
    let text = format!("\"cpu_usec\":{cpu_usec}");
    rows.iter().any(|(_, bytes)| String::from_utf8_lossy(bytes).contains(&text))
}

#[test]
fn a_boot_of_the_node_loses_an_interval_at_most() {
    let sim = Sim::new();
    sim.run(&Command::create(101, |_| {})).expect("created");
    sim.run(&Command::start("101")).expect("started");
    counts(&sim, 5);
    assert!(!is_stored(&sim, 5_000_000));
    sim.advance(Duration::from_secs(301));
    sim.until("it is read and stored", || is_stored(&sim, 5_000_000));
    counts(&sim, 8);
    sim.boot("boot-2");
    assert_eq!(used(&get(&sim)), (5, 10, 15));
    sim.run(&Command::start("101")).expect("started");
    counts(&sim, 1);
    assert_eq!(used(&get(&sim)), (6, 12, 18), "what the kernel numbers anew is not what was");
}

#[test]
fn traffic_is_read_now_and_then_though_nobody_asks() {
    let sim = running();
    counts(&sim, 5);
    // In less than the interval after which all is read. Without network only what was read is told.
    let read = (0..15).any(|_| {
        sim.advance(Duration::from_secs(16));
        sim.pause(20);
        sim.kill(Daemon::Network);
        let told = get(&sim).traffic.first().map(|traffic| traffic.transmit_bytes);
        sim.start_daemon(Daemon::Network);
        told == Some(15)
    });
    assert!(read);
}

#[test]
fn who_gets_the_id_begins_at_nothing_and_last_words_are_told() {
    let sim = running();
    counts(&sim, 4);
    let before = get(&sim);
    sim.run(&Command::stop("101")).expect("stopped");
    sim.run(&Command::delete("101")).expect("destroyed");
    let mut events = EventServiceClient::new(sim.channel());
    let request =
        api::ListEventsRequest { filter: "type=DELETED".to_owned(), ..Default::default() };
    let told = sim.block(events.list_events(request)).expect("listed").into_inner().events;
    let [deleted] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!(deleted.uid, before.uid);
    let fact = |name: &str| deleted.facts.get(name).map_or("", String::as_str);
    assert_eq!((fact("cpu_seconds"), fact("io_write_bytes")), ("4.000000", "8"));
    assert_eq!((fact("transmit_bytes"), fact("receive_bytes")), ("12", "4"));
    assert!(!fact("running_seconds").is_empty());

    sim.run(&Command::create(101, |_| {})).expect("created again");
    let fresh = get(&sim);
    assert_ne!(fresh.uid, before.uid);
    assert_eq!((fresh.cpu_time, fresh.io_write_bytes, fresh.traffic.len()), (None, None, 0));
    assert_eq!(duration(fresh.running_time), Duration::ZERO);
    sim.restart(Daemon::Coordinator);
    sim.run(&Command::start("101")).expect("started");
    counts(&sim, 2);
    assert_eq!(used(&get(&sim)), (2, 4, 6));
}

#[test]
fn time_counts_while_it_runs() {
    let sim = running();
    // The fake has them start long ago.
    let ran = || duration(get(&sim).running_time).as_secs();
    let before = ran();
    sim.advance(Duration::from_secs(100));
    let after = ran() - before;
    assert!((100..130).contains(&after), "{after}");
    sim.run(&Command::stop("101")).expect("stopped");
    let stopped = ran();
    assert!(stopped >= before + after);
    sim.advance(Duration::from_secs(1000));
    assert_eq!(ran(), stopped, "it does not run");
    sim.restart(Daemon::Coordinator);
    assert_eq!(ran(), stopped);
}
