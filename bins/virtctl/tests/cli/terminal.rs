//! virtctl on a pseudo-terminal, and under signals.
//!
//! Never here: what is the same without a terminal.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use crate::fake::{Fake, Pace};

/// virtctl on a terminal of its own.
pub(crate) struct Session {
    child: Child,
    master: File,
    slave: OwnedFd,
    output: Receiver<Vec<u8>>,
    seen: String,
}

fn program(fake: &Fake, line: &str) -> std::process::Command {
    program_at(&fake.socket(), line)
}

#[allow(
    clippy::disallowed_methods,
    reason = "the program under test must go on while the test types and sends signals"
)]
fn program_at(socket: &Path, line: &str) -> std::process::Command {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_virtctl"));
    command.args(line.split_whitespace()).env("VES_SOCKET", socket);
    command.env("TERM", "vt100").env("TZ", "UTC");
    command
}

impl Session {
    fn begin(fake: &Fake, line: &str) -> Self {
        Self::at(&fake.socket(), line)
    }

    /// The same at another coordinator.
    pub(crate) fn at(socket: &Path, line: &str) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pty");
        grantpt(&master).expect("grantpt");
        unlockpt(&master).expect("unlockpt");
        let name = ptsname(&master, Vec::new()).expect("its name");
        let slave: OwnedFd = File::options()
            .read(true)
            .write(true)
            .open(name.to_str().expect("a path"))
            .expect("its other end")
            .into();
        let size = Winsize { ws_row: 40, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&slave, size).expect("a size");
        let end = || Stdio::from(slave.try_clone().expect("a descriptor"));
        let child = program_at(socket, line)
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .expect("virtctl starts");
        let master = File::from(master);
        let mut reader = master.try_clone().expect("a descriptor");
        let (send, output) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = reader.read(&mut buffer) {
                if send.send(buffer[..n].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { child, master, slave, output, seen: String::new() }
    }

    pub(crate) fn expect(&mut self, text: &str) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !self.seen.contains(text) {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left) {
                Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(e) => assert_eq!(e.to_string(), "", "no {text:?} in {:?}", self.seen),
            }
        }
        let end = self.seen.find(text).expect("it is there") + text.len();
        self.seen.drain(..end);
    }

    fn send(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).expect("the terminal takes it");
    }

    fn raw(&self) -> bool {
        let modes = tcgetattr(&self.slave).expect("its modes").local_modes;
        !modes.contains(LocalModes::ICANON) && !modes.contains(LocalModes::ECHO)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        send_signal(&self.child, signal);
    }

    /// Its exit status; the terminal must be as it was.
    pub(crate) fn end(mut self) -> Option<i32> {
        let status = wait(&mut self.child);
        assert!(!self.raw(), "the terminal was left raw");
        status
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.child.kill().ok(); // it has ended already, where all is well
        self.child.wait().ok();
    }
}

fn send_signal(child: &Child, signal: Signal) {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a pid");
    kill_process(pid, signal).expect("it is there");
}

fn wait(child: &mut Child) -> Option<i32> {
    let deadline = Instant::now() + Duration::from_secs(20);
    let (_done, timer) = channel::<()>();
    loop {
        if let Some(status) = child.try_wait().expect("our own child") {
            return status.code();
        }
        assert!(Instant::now() < deadline, "virtctl does not end");
        timer.recv_timeout(Duration::from_millis(5)).ok(); // only the pause
    }
}

#[test]
fn enter_gives_the_terminal_over_and_back() {
    let fake = Fake::started();
    let mut session = Session::begin(&fake, "enter web");
    session.expect("tty 40x100\r\n");
    session.send("a\u{3}b");
    session.expect("a\u{3}b");
    assert!(session.raw());
    let size = Winsize { ws_row: 50, ws_col: 132, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&session.slave, size).expect("a size");
    session.signal(Signal::WINCH);
    session.expect("resized 50x132\r\n");
    session.send("q");
    assert_eq!(session.end(), Some(9));
    assert!(fake.calls()[0].contains("env: [\"TERM=vt100\"]"));
}

#[test]
fn the_terminal_is_given_back_when_we_are_told_to_end() {
    for signal in [Signal::TERM, Signal::HUP] {
        let fake = Fake::started();
        let mut session = Session::begin(&fake, "exec -t 101 -- sleep");
        session.send("x");
        session.expect("tty 40x100\r\n");
        session.expect("x");
        assert!(session.raw());
        session.signal(signal);
        assert_eq!(session.end(), Some(128 + signal.as_raw()));
    }
}

#[test]
fn a_refusal_does_not_touch_the_terminal() {
    let fake = Fake::started();
    let mut session = Session::begin(&fake, "enter 999");
    session.expect("there is no container 999");
    assert_eq!(session.end(), Some(14));
    let mut session = Session::begin(&fake, "exec -t 101 -- cut");
    session.expect("without an exit status");
    assert_eq!(session.end(), Some(200));
}

#[test]
fn a_console_is_left_by_its_sequences() {
    for leave in ["\u{1d}", "\r~.", "\r\u{1b}."] {
        let fake = Fake::started();
        let mut session = Session::begin(&fake, "console 101");
        session.expect("Ctrl-] leaves it");
        session.expect("login: ");
        session.send("root~.x");
        session.expect("root~.x");
        assert!(session.raw());
        session.send(leave);
        session.expect("left the console");
        assert_eq!(session.end(), Some(0));
        assert!(fake.state().input.starts_with(b"root~.x"));
    }
}

#[test]
fn a_terminal_shows_a_bar() {
    let fake = Fake::started();
    fake.state().pace = Pace::Slow;
    let mut session = Session::begin(&fake, "create 105 --ostemplate t");
    session.expect("container 105 created in 2.5 s");
    assert_eq!(session.end(), Some(0));
}

#[test]
fn ctrl_c_asks_first_and_then_leaves_the_operation_alone() {
    let fake = Fake::started();
    fake.state().pace = Pace::Never;
    let mut session = Session::begin(&fake, "start 102");
    fake.until("the watch", |state| state.watches > 0);
    session.expect("mount");
    session.signal(Signal::INT);
    session.expect("virtctl operation cancel op-1");
    session.signal(Signal::INT);
    session.expect("see virtctl operation show op-1");
    assert_eq!(session.end(), Some(130));
    // Nobody to ask: left at once.
    let fake = Fake::started();
    fake.state().pace = Pace::Never;
    let mut child = program(&fake, "start 102")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("virtctl starts");
    fake.until("the watch", |state| state.watches > 0);
    send_signal(&child, Signal::INT);
    assert_eq!(wait(&mut child), Some(130));
}

#[test]
fn signals_go_to_the_command_inside() {
    for signal in [Signal::INT, Signal::TERM, Signal::QUIT, Signal::HUP] {
        let fake = Fake::started();
        let mut child = program(&fake, "exec 101 -- sleep")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("virtctl starts");
        // What comes back proves that the session goes on.
        child.stdin.as_mut().expect("a pipe").write_all(b"x").expect("it is read");
        let mut back = [0];
        child.stdout.as_mut().expect("a pipe").read_exact(&mut back).expect("it comes back");
        send_signal(&child, signal);
        assert_eq!(wait(&mut child), Some(50 + signal.as_raw()), "{signal:?}");
    }
}

#[test]
fn a_watch_goes_on_until_ctrl_c() {
    let fake = Fake::started();
    let mut session = Session::begin(&fake, "watch --follow");
    session.expect("deleted         900");
    session.signal(Signal::INT);
    assert_eq!(session.end(), Some(0));
}

#[test]
fn top_redraws_a_terminal() {
    let fake = Fake::started();
    let mut session = Session::begin(&fake, "top -d 1");
    session.expect("1 running");
    session.expect("web");
    session.expect("\u{1b}[H");
    session.signal(Signal::INT);
    assert_eq!(session.end(), Some(0));
}

#[test]
fn nobody_reading_our_output_is_no_error() {
    let fake = Fake::started();
    let mut child = program(&fake, "resources --all")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("virtctl starts");
    drop(child.stdout.take());
    assert_eq!(wait(&mut child), Some(0));
    let mut said = String::new();
    child.stderr.take().expect("a pipe").read_to_string(&mut said).expect("text");
    assert_eq!(said, "");
}
