//! Containers that try to stop their monitor, and monitors that have stopped, on the real kernel.
#![allow(clippy::disallowed_methods, reason = "tests wait with deadlines")]

mod lifecycle_support;

use std::io::{ErrorKind, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use lifecycle_support::{World, alive, needs};
use rustix::process::Signal;
use ves_host::init::channel;
use ves_host::init::report::{Cause, Ended};
use ves_kit::wait_until;

/// An init that never ends by itself and obeys when asked.
const OBEDIENT: &str = "trap 'exit 3' USR2; echo up; while :; do sleep 0.05; done";

/// A connection whose last closing lasts an hour, and its peer, which does not read.
fn clinging() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let mut near = TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
    let (far, _) = listener.accept().expect("accepted");
    near.set_nonblocking(true).expect("set");
    let full = loop {
        match near.write(&[0; 64 * 1024]) {
            Ok(_) => {}
            Err(e) => break e,
        }
    };
    assert_eq!(full.kind(), ErrorKind::WouldBlock);
    let hour = Some(Duration::from_secs(3600));
    rustix::net::sockopt::set_socket_linger(&near, hour).expect("set");
    (near, far)
}

/// Stops the monitor of this init; none of its threads runs any more.
fn stop_monitor(world: &World, init: u32) {
    world.signal_monitor(Signal::STOP);
    let tasks = format!("/proc/{}/task", parent(init));
    let stands = |entry: std::io::Result<std::fs::DirEntry>| {
        let stat = std::fs::read_to_string(entry.expect("an entry").path().join("stat"));
        stat.expect("it lives").rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
    };
    let all = || std::fs::read_dir(&tasks).expect("it lives").all(stands);
    wait_until(Duration::from_secs(10), "the monitor stops", all);
}

/// Sends the monitor of this init what it cannot close, as root inside can; hands back the peers.
fn cling_to_monitor(world: &World, init: u32) -> Vec<TcpStream> {
    let notify = UnixDatagram::unbound().expect("a socket");
    notify.connect(format!("/proc/{init}/root/run/host/notify")).expect("it is there");
    // So that it is not this process which closes last.
    stop_monitor(world, init);
    let send = |(near, far): (TcpStream, TcpStream)| {
        channel::send(&notify, b"STATUS=x", &[near.as_fd()]).expect("sent");
        far
    };
    let peers = (0..3).map(|_| send(clinging())).collect();
    world.signal_monitor(Signal::CONT);
    peers
}

fn parent(pid: u32) -> u32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:")).expect("a parent");
    line.trim().parse().expect("a number")
}

#[test]
fn a_descriptor_that_cannot_be_closed_holds_up_no_monitor() {
    if !needs() {
        return;
    }
    let world = World::new(9470, |_| {});
    for stopped in [false, true] {
        let init = world.start(world.script(OBEDIENT));
        let monitor = parent(init);
        let _peers = cling_to_monitor(&world, init);
        let begun = Instant::now();
        for _ in 0..3 {
            let seen = world.observe();
            assert!(seen.monitor.is_some_and(|m| m.running), "it answers");
            assert_eq!(world.sh("echo hello").trim(), "hello");
            assert!(world.scrollback().contains("up"));
            std::thread::sleep(Duration::from_millis(50));
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        if stopped {
            let after = world.stop(5000);
            assert!(after.monitor.is_none() && !after.mute && !after.leftovers, "{after:?}");
        } else {
            world.sh("kill -USR2 1");
            let last = world.ended().last.expect("its end is noticed");
            assert_eq!((last.cause, last.ended), (Cause::Exited, Ended::Code(3)));
        }
        wait_until(Duration::from_secs(10), "the monitor ends", || !alive(monitor));
        assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    }
}
