//! A command inside a container, and the one outside who watches it.
//!
//! ```text
//! supervisor (outside)  ──clone into the group──▶ helper: joins groups, enters namespaces, root
//!      ▲  ▲   pipes or terminal, exit status         │ clone, as the supervisor's child
//!      │  └───────────────────────────────────── command (inside)
//!      └── frames over a socket ── daemon
//! ```
//!
//! From before it enters until it executes, whoever is inside is undumpable and holds no descriptor
//! but its own input, output and the way to report; a terminal is made in the container's devpts.
//! Never here: who may run what.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Component, Path};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Gid, Pid, Signal, Uid};
use rustix::thread::CapabilitySet;
use serde::{Deserialize, Serialize};
use ves_host::channel;
use ves_host::child::{self, Child, How, Life, Why};
use ves_host::namespace;
use ves_host::seccomp::Filter;
use ves_host::{Attempt, HostError, pty};
use ves_init_proto::ExecPlan;
use ves_init_proto::frame::{Decoder, Frame, Tag};
use ves_init_proto::report::{self, Answer, Failure, Request, Status};

use crate::link::Link;
use crate::perform;

/// The most input that waits for the command.
const MOST_INPUT: usize = 256 * 1024;
/// How long it may take until the command executes. The daemon is a little more patient.
const START: Duration = Duration::from_secs(10);
/// How long the killed may take to die; the frozen of version 1 do not before they are thawed.
const DIE: Duration = Duration::from_secs(1);
/// The most a terminal keeps of what was written before the end.
const MOST_TERMINAL: u64 = 128 * 1024;

/// What those on the way inside tell the supervisor.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Word {
    /// The command's process exists; with it comes a descriptor of it.
    Born(i32),
    /// It has a terminal; with it comes the outer end.
    Terminal,
    /// Something failed.
    Failed(Failure),
}

/// Starts the supervisor, which goes on in the background; its session is fd 0.
pub(crate) fn main() -> ExitCode {
    let how = How { life: Life::Free(Why::Background), ..How::default() };
    let begun = child::fork(how, || {
        // Nobody is left to tell of a failure but the session, which ends.
        namespace::inherit(0).and_then(supervise).ok();
        0
    });
    if begun.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn supervise(session: OwnedFd) -> Result<(), HostError> {
    rustix::process::setsid().attempt(|| "begin a session".to_owned())?;
    rustix::process::chdir("/").attempt(|| "go to /".to_owned())?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let null = OpenOptions::new().read(true).write(true).open("/dev/null");
    let null = null.attempt(|| "open /dev/null".to_owned())?;
    for number in 0..3 {
        namespace::place(&null, number)?;
    }
    drop(null);
    namespace::hide()?;
    // The daemon may be better protected than a command inside should be.
    std::fs::write("/proc/self/oom_score_adj", "0").ok();
    let link = Link::new(UnixStream::from(session)).attempt(|| "set up the session".to_owned())?;
    let mut session = Session { link, input: Vec::new(), input_ends: false };
    let Some(plan) = session.plan()? else { return Ok(()) };
    match start(&plan, &session.link.stream) {
        Ok(running) => {
            session.link.send(&Frame::new(Tag::Started, []));
            session.run(running, plan.terminal.is_some())
        }
        Err(failure) => {
            session.link.send(&Frame::json(Tag::Failed, &failure));
            session.link.finish(5);
            Ok(())
        }
    }
}

/// A command that runs, and the outer ends of what it reads and writes.
#[derive(Debug)]
struct Running {
    child: Child,
    /// The write end of its input, or the terminal.
    input: Option<OwnedFd>,
    /// The read ends of its output and error output; the terminal is in the first place.
    outputs: [Option<OwnedFd>; 2],
}

#[derive(Debug)]
struct Session {
    link: Link,
    input: Vec<u8>,
    input_ends: bool,
}

impl Session {
    /// Waits for the plan; `None` where the peer left.
    fn plan(&mut self) -> Result<Option<ExecPlan>, HostError> {
        loop {
            if let Some(frame) = self.link.next() {
                return Ok(frame.parse());
            }
            if self.link.is_gone() {
                return Ok(None);
            }
            let mut fds = [PollFd::new(&self.link.stream, PollFlags::IN)];
            match poll(&mut fds, None) {
                Ok(_) | Err(Errno::INTR) => self.link.fill(),
                Err(e) => return Err(e).attempt(|| "wait for the plan".to_owned()),
            }
        }
    }

    fn run(mut self, mut running: Running, terminal: bool) -> Result<(), HostError> {
        // What came together with the plan.
        self.obey(&running, terminal);
        self.feed(&mut running, terminal);
        loop {
            let ended = self.turn(&mut running, terminal)?;
            if self.link.is_gone() {
                if terminal {
                    // Closing the terminal hangs up; who left it behind hears it too.
                    rustix::process::kill_process_group(running.child.pid, Signal::HUP).ok();
                }
                return Ok(());
            }
            if ended && let Some(ended) = child::reap(&running.child)? {
                self.drain(&mut running, terminal);
                self.link.send(&Frame::json(Tag::Ended, &ended));
                self.link.finish(30);
                return Ok(());
            }
        }
    }

    /// Waits once and serves what woke; answers whether the command ended.
    fn turn(&mut self, running: &mut Running, terminal: bool) -> Result<bool, HostError> {
        let mut want = PollFlags::empty();
        want.set(PollFlags::OUT, !self.input.is_empty());
        let read = !self.link.is_full();
        let mut fds = vec![
            PollFd::new(&running.child.pidfd, PollFlags::IN),
            PollFd::new(&self.link.stream, self.link.interest(self.input.len() < MOST_INPUT)),
        ];
        if let Some(input) = running.input.as_ref().filter(|_| !want.is_empty()) {
            fds.push(PollFd::new(input, want));
        }
        let outputs = running.outputs.iter().flatten().filter(|_| read);
        fds.extend(outputs.map(|fd| PollFd::new(fd, PollFlags::IN)));
        match poll(&mut fds, None) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(false),
            Err(e) => return Err(e).attempt(|| "wait for the command".to_owned()),
        }
        let mut flags = fds.iter().map(PollFd::revents);
        let ended = flags.next().is_some_and(|f| !f.is_empty());
        let peer = flags.next().unwrap_or(PollFlags::empty());
        let rest = flags.any(|f| !f.is_empty());
        drop(fds);
        if peer.intersects(PollFlags::OUT) {
            self.link.flush();
        }
        if peer.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            self.link.fill();
            self.obey(running, terminal);
        }
        if rest && read {
            self.read(running);
        }
        self.feed(running, terminal);
        Ok(ended)
    }

    /// Serves what the peer sent.
    fn obey(&mut self, running: &Running, terminal: bool) {
        while let Some(frame) = self.link.next() {
            match frame.tag {
                Tag::Input if !self.input_ends => self.input.extend(frame.payload),
                Tag::InputEnd => self.input_ends = true,
                Tag::Resize => {
                    if let (true, Some((rows, cols)), [Some(master), _]) =
                        (terminal, frame.size(), &running.outputs)
                    {
                        // A terminal that was hung up has no size.
                        pty::resize(master, rows, cols).ok();
                    }
                }
                Tag::Signal => {
                    let number = frame.payload.first().copied().unwrap_or_default();
                    if let Some(signal) = namespace::signal(number.into()) {
                        // The group may have ended in this moment.
                        rustix::process::kill_process_group(running.child.pid, signal).ok();
                    }
                }
                _ => {}
            }
        }
    }

    /// Gives the command its input, and the end of it.
    fn feed(&mut self, running: &mut Running, terminal: bool) {
        if let Some(input) = &running.input {
            while !self.input.is_empty() {
                match rustix::io::write(input, &self.input) {
                    Ok(n) => drop(self.input.drain(..n)),
                    Err(Errno::INTR) => {}
                    Err(Errno::AGAIN) => return,
                    Err(_) => {
                        // Nobody reads any more.
                        self.input.clear();
                        self.input_ends = true;
                    }
                }
            }
        } else {
            self.input.clear();
        }
        // A terminal is not closed by the end of input; a program sees that by ^D.
        if self.input_ends && self.input.is_empty() && !terminal {
            running.input = None;
        }
    }

    /// Passes on what is there of each output, once.
    fn read(&mut self, running: &mut Running) {
        for (place, tag) in running.outputs.iter_mut().zip([Tag::Output, Tag::ErrorOutput]) {
            pass_on(&mut self.link, place, tag, u64::MAX);
        }
    }

    /// Passes on what was written before the end and is still on its way. Who still holds the other
    /// ends is neither waited for nor heard, however much it writes.
    fn drain(&mut self, running: &mut Running, terminal: bool) {
        for (place, tag) in running.outputs.iter_mut().zip([Tag::Output, Tag::ErrorOutput]) {
            let Some(fd) = place else { continue };
            // A terminal does not tell all that it keeps, but keeps little.
            let there = if terminal { Ok(MOST_TERMINAL) } else { rustix::io::ioctl_fionread(fd) };
            let mut left = there.unwrap_or_default();
            while left > 0 && !self.link.is_gone() {
                match pass_on(&mut self.link, place, tag, left) {
                    0 => break,
                    n => left = left.saturating_sub(n),
                }
                while self.link.is_full() && !self.link.is_gone() {
                    let mut fds = [PollFd::new(&self.link.stream, PollFlags::OUT)];
                    match poll(&mut fds, None) {
                        Ok(_) | Err(Errno::INTR) => self.link.flush(),
                        Err(_) => return,
                    }
                }
            }
        }
    }
}

/// Passes on at most `most` bytes of an output; answers how many, and takes it away at its end.
fn pass_on(link: &mut Link, place: &mut Option<OwnedFd>, tag: Tag, most: u64) -> u64 {
    let Some(fd) = place else { return 0 };
    let mut piece = [0; 32 * 1024];
    let most = usize::try_from(most).unwrap_or(usize::MAX).min(piece.len());
    match rustix::io::read(fd, piece.get_mut(..most).unwrap_or_default()) {
        Ok(n @ 1..) => {
            link.send(&Frame::new(tag, piece.get(..n).unwrap_or_default()));
            u64::try_from(n).unwrap_or_default()
        }
        Err(Errno::AGAIN | Errno::INTR) => 0,
        // The end; a terminal says it with an error.
        Ok(0) | Err(_) => {
            *place = None;
            0
        }
    }
}

/// A monitor's init, held by a descriptor.
fn target(plan: &ExecPlan) -> Result<(Status, OwnedFd), HostError> {
    let what = || "ask the monitor for init".to_owned();
    let mut stream = match UnixStream::connect(report::socket(&plan.dir)) {
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
            return Err(Errno::NOTCONN).attempt(what);
        }
        other => other.attempt(what)?,
    };
    let request = Frame::json(Tag::Request, &Request::Pidfd).encode();
    stream.write_all(&request).attempt(what)?;
    if !channel::wait(&stream, START)? {
        return Err(Errno::TIMEDOUT).attempt(what);
    }
    let packet = channel::receive(&stream)?;
    let mut decoder = Decoder::default();
    decoder.push(&packet.bytes);
    let answer = decoder.next_frame().ok().flatten().and_then(|frame| frame.parse());
    match (answer, packet.fds.into_iter().next()) {
        (Some(Answer::Status(status)), Some(pidfd)) if status.running => Ok((status, pidfd)),
        _ => Err(Errno::NOTCONN).attempt(|| "enter it".to_owned()),
    }
}

/// The version 2 group init is in, below the container's own; that one itself may not hold
/// processes once init has given controllers to its children.
fn unified(mount: &Path, group: &str, init_pid: u32) -> Result<File, HostError> {
    let path = format!("/proc/{init_pid}/cgroup");
    let text = std::fs::read_to_string(&path).attempt(|| format!("read {path}"))?;
    let inner = text.lines().find_map(|line| line.strip_prefix("0::/")).map(Path::new);
    let plain = |path: &&Path| path.components().all(|c| matches!(c, Component::Normal(_)));
    let chosen = inner.filter(plain).filter(|path| path.starts_with(group));
    let dir = mount.join(chosen.unwrap_or_else(|| Path::new(group)));
    File::open(&dir).attempt(|| format!("open {}", dir.display()))
}

/// The node's user that is root of the container. Its map never changes, and where its number
/// belongs to another process by now, entering fails.
fn owner(init_pid: u32) -> Result<u32, HostError> {
    let path = format!("/proc/{init_pid}/uid_map");
    let text = std::fs::read_to_string(&path).attempt(|| format!("read {path}"))?;
    let base = text.split_ascii_whitespace().nth(1).and_then(|base| base.parse().ok());
    base.ok_or_else(|| HostError::parse(format!("read {path}"), &text))
}

/// Starts the command, unless `peer` leaves before it executes.
fn start(plan: &ExecPlan, peer: &UnixStream) -> Result<Running, Failure> {
    let failed = |e: HostError| perform::failure("enter the container", &e);
    let (status, pidfd) = target(plan).map_err(failed)?;
    start_in(plan, peer, &status, &pidfd).map_err(|failure| {
        if channel::wait(&pidfd, Duration::ZERO).unwrap_or(false) {
            // Whatever it was that failed then.
            return perform::failure(
                "enter the container",
                &HostError::Sys { what: "enter it".to_owned(), source: Errno::NOTCONN.into() },
            );
        }
        failure
    })
}

fn start_in(
    plan: &ExecPlan,
    peer: &UnixStream,
    status: &Status,
    pidfd: &OwnedFd,
) -> Result<Running, Failure> {
    let failed = |e: HostError| perform::failure("enter the container", &e);
    perform::limit(&plan.limits).map_err(failed)?;
    let mut groups = Vec::new();
    for dir in &plan.groups {
        let path = dir.join("tasks");
        let file = OpenOptions::new().write(true).open(&path);
        groups.push(file.attempt(|| format!("open {}", path.display())).map_err(failed)?);
    }
    let unified =
        plan.unified.as_ref().map(|(mount, group)| unified(mount, group, status.init_pid));
    let unified = unified.transpose().map_err(failed)?;
    let (mut near, mut far) = (Vec::new(), Vec::new());
    if plan.terminal.is_none() {
        let owner = owner(status.init_pid).map_err(failed)?;
        for number in 0..3 {
            let pipe = pipe_with(PipeFlags::CLOEXEC).attempt(|| "make a pipe".to_owned());
            let (read, write) = pipe.map_err(failed)?;
            let (ours, theirs) = if number == 0 { (write, read) } else { (read, write) };
            // So that it can be opened again inside, as /dev/stdout and the like.
            let (user, group) = (Uid::from_raw(owner), Gid::from_raw(owner));
            rustix::fs::fchown(&theirs, Some(user), Some(group))
                .attempt(|| "give a pipe to the container".to_owned())
                .map_err(failed)?;
            nonblocking(&ours).map_err(failed)?;
            near.push(ours);
            far.push(theirs);
        }
    }
    let (hear, speak) = channel::pair().map_err(failed)?;
    let inside = Inside { plan, groups: &groups, pidfd, speak: &speak, io: &far };
    let keep = inside.held();
    let group = unified.as_ref().map(AsFd::as_fd);
    let helper = child::fork(How { group, keep: &keep, ..How::default() }, || inside.go());
    let helper = helper.map_err(failed)?;
    drop((speak, far, groups));
    let mut heard = Heard::default();
    if !heard.listen(&hear, Some(peer), START).map_err(failed)? {
        end(&helper);
        // What it said last, its child above all.
        heard.listen(&hear, None, DIE).ok();
        if let Some(child) = &heard.child {
            end(child);
        }
        return Err(Failure {
            step: "enter the container".to_owned(),
            message: "the container does not let a command start (is it frozen?)".to_owned(),
            errno: Errno::TIMEDOUT.raw_os_error(),
        });
    }
    // It ended when all was heard.
    if channel::wait(&helper.pidfd, START).unwrap_or(false) {
        child::reap(&helper).ok();
    }
    let (child, master) = heard.outcome()?;
    let mut near = near.into_iter();
    match master {
        Some(master) => {
            let input = master.try_clone().attempt(|| "share the terminal".to_owned());
            let input = input.map_err(failed)?;
            Ok(Running { child, input: Some(input), outputs: [Some(master), None] })
        }
        None => {
            let input = near.next();
            Ok(Running { child, input, outputs: [near.next(), near.next()] })
        }
    }
}

fn nonblocking(fd: impl AsFd) -> Result<(), HostError> {
    rustix::fs::fcntl_getfl(&fd)
        .and_then(|flags| rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK))
        .attempt(|| "set up a descriptor".to_owned())
}

/// Kills one on the way inside. One that is frozen dies when it is thawed.
fn end(child: &Child) {
    rustix::process::pidfd_send_signal(&child.pidfd, Signal::KILL).ok();
    if channel::wait(&child.pidfd, DIE).unwrap_or(false) {
        child::reap(child).ok();
    }
}

/// What those on the way inside told.
#[derive(Debug, Default)]
struct Heard {
    child: Option<Child>,
    master: Option<OwnedFd>,
    failed: Option<Failure>,
}

impl Heard {
    /// Hears all that is told until the command executes, which closes the channel; answers whether
    /// that came in time and before `peer` left.
    fn listen(
        &mut self,
        hear: &OwnedFd,
        peer: Option<&UnixStream>,
        most: Duration,
    ) -> Result<bool, HostError> {
        let end = Instant::now() + most;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let left = Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            };
            let mut fds = vec![PollFd::new(hear, PollFlags::IN)];
            // Of the peer only its end is of interest.
            fds.extend(peer.map(|peer| PollFd::new(peer, PollFlags::empty())));
            match poll(&mut fds, Some(&left)) {
                Err(Errno::INTR) => continue,
                other => other.attempt(|| "wait for the command".to_owned())?,
            };
            if fds.first().is_none_or(|fd| fd.revents().is_empty()) {
                return Ok(false);
            }
            let packet = channel::receive(hear)?;
            if packet.bytes.is_empty() {
                return Ok(true);
            }
            let fd = packet.fds.into_iter().next();
            match (serde_json::from_slice(&packet.bytes), fd) {
                (Ok(Word::Born(pid)), Some(pidfd)) => {
                    self.child = Pid::from_raw(pid).map(|pid| Child { pid, pidfd });
                }
                (Ok(Word::Terminal), Some(fd)) => self.master = Some(fd),
                (Ok(Word::Failed(failure)), _) => self.failed = Some(failure),
                _ => {}
            }
        }
    }

    /// The command, or why there is none.
    fn outcome(self) -> Result<(Child, Option<OwnedFd>), Failure> {
        match (self.failed, self.child) {
            (None, Some(child)) => Ok((child, self.master)),
            (Some(failure), child) => {
                if let Some(child) = child {
                    // It ends by itself; until then its number is not free.
                    channel::wait(&child.pidfd, START).ok();
                    child::reap(&child).ok();
                }
                Err(failure)
            }
            (None, None) => Err(Failure {
                step: "enter the container".to_owned(),
                message: "the helper died".to_owned(),
                errno: 0,
            }),
        }
    }
}

/// The way inside.
struct Inside<'a> {
    plan: &'a ExecPlan,
    groups: &'a [File],
    pidfd: &'a OwnedFd,
    speak: &'a OwnedFd,
    /// Input, output and error output of a command without terminal.
    io: &'a [OwnedFd],
}

impl Inside<'_> {
    /// What the helper needs.
    fn held(&self) -> Vec<BorrowedFd<'_>> {
        let groups = self.groups.iter().map(AsFd::as_fd);
        [self.pidfd.as_fd(), self.speak.as_fd()]
            .into_iter()
            .chain(groups)
            .chain(self.io())
            .collect()
    }

    fn io(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.io.iter().map(AsFd::as_fd)
    }

    /// The helper: makes the command's process inside. Answers the status to exit with.
    fn go(&self) -> i32 {
        let make = || -> Result<(), HostError> {
            let child = self.enter()?;
            let word = serde_json::to_vec(&Word::Born(child.pid.as_raw_pid())).unwrap_or_default();
            channel::send(self.speak, &word, &[child.pidfd.as_fd()])
        };
        match make() {
            Ok(()) => 0,
            Err(e) => self.tell(perform::failure("enter the container", &e)),
        }
    }

    /// Says what failed; answers the status to exit with.
    fn tell(&self, failure: Failure) -> i32 {
        let word = serde_json::to_vec(&Word::Failed(failure)).unwrap_or_default();
        // The supervisor may be gone; then nobody wants to know.
        channel::send(self.speak, &word, &[]).ok();
        127
    }

    /// Goes inside and makes the command's process there; who did it is only half inside.
    fn enter(&self) -> Result<Child, HostError> {
        namespace::hide()?;
        for mut file in self.groups {
            file.write_all(b"0").attempt(|| "join a control group".to_owned())?;
        }
        namespace::enter(self.pidfd)?;
        namespace::become_root()?;
        // The change of identity may have made it visible again.
        namespace::hide()?;
        let keep: Vec<_> = self.io().chain([self.speak.as_fd()]).collect();
        let life = Life::Free(Why::Command);
        child::fork(How { sibling: true, keep: &keep, life, ..How::default() }, || self.command())
    }

    /// The command's process: returns only why it does not execute.
    fn command(&self) -> i32 {
        if let Err(e) = self.prepare() {
            return self.tell(perform::failure("enter the container", &e));
        }
        match channel::wait(self.speak, Duration::ZERO) {
            Ok(false) => self.tell(self.execute()),
            // The supervisor has given up; nobody would ever hear of the command.
            Ok(true) => 127,
            Err(e) => self.tell(perform::failure("enter the container", &e)),
        }
    }

    fn prepare(&self) -> Result<(), HostError> {
        rustix::process::setsid().attempt(|| "begin a session".to_owned())?;
        if let Some((rows, cols)) = self.plan.terminal {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let pts = rustix::fs::open("/dev/pts", flags, Mode::empty())
                .attempt(|| "open the container's /dev/pts".to_owned())?;
            let pty = pty::open(pts)?;
            pty::resize(&pty.master, rows, cols)?;
            let word = serde_json::to_vec(&Word::Terminal).unwrap_or_default();
            channel::send(self.speak, &word, &[pty.master.as_fd()])?;
            rustix::process::ioctl_tiocsctty(&pty.slave)
                .attempt(|| "take the terminal".to_owned())?;
            for number in 0..3 {
                namespace::place(&pty.slave, number)?;
            }
        } else {
            for (fd, number) in self.io.iter().zip(0..3) {
                namespace::place(fd, number)?;
            }
        }
        let home = self.plan.env.iter().find(|(name, _)| name == "HOME");
        let home = home.map_or("/root", |(_, value)| value);
        if rustix::process::chdir(home).is_err() {
            rustix::process::chdir("/").attempt(|| "go to /".to_owned())?;
        }
        namespace::keep_capabilities(CapabilitySet::from_bits_retain(!self.plan.drop))?;
        Filter::compile(&self.plan.refuse).install()
    }

    /// Executes the command, and returns only why that failed.
    fn execute(&self) -> Failure {
        let ExecPlan { argv, env, .. } = self.plan;
        let Some(name) = argv.first() else { return self.shell() };
        if name.contains('/') {
            return failure(name, &perform::execute(name, argv, env));
        }
        let path = env.iter().find(|(n, _)| n == "PATH").map_or("/usr/bin:/bin", |(_, v)| v);
        let mut best = None;
        for dir in std::env::split_paths(OsStr::new(path)) {
            let program = dir.join(name);
            let error = perform::execute(&program.to_string_lossy(), argv, env);
            if error.is(Errno::NOENT) || error.is(Errno::NOTDIR) {
                best = best.or(Some(error));
            } else if error.is(Errno::ACCESS) {
                best = Some(error);
            } else {
                return failure(name, &error);
            }
        }
        best.map_or_else(
            || Failure {
                step: format!("execute {name}"),
                message: "PATH is empty".to_owned(),
                errno: Errno::NOENT.raw_os_error(),
            },
            |error| failure(name, &error),
        )
    }

    /// A login shell: bash, where there is one.
    fn shell(&self) -> Failure {
        let mut last = None;
        for (path, name) in [("/bin/bash", "-bash"), ("/bin/sh", "-sh")] {
            let mut env = self.plan.env.clone();
            env.retain(|(n, _)| n != "SHELL");
            env.push(("SHELL".to_owned(), path.to_owned()));
            last = Some(failure(path, &perform::execute(path, &[name.to_owned()], &env)));
        }
        last.unwrap_or_else(|| Failure {
            step: "execute a shell".to_owned(),
            message: "there is none".to_owned(),
            errno: Errno::NOENT.raw_os_error(),
        })
    }
}

fn failure(name: &str, error: &HostError) -> Failure {
    perform::failure(&format!("execute {name}"), error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ves_init_proto::report::Ended;

    #[test]
    fn a_group_beyond_the_containers_own_is_not_taken() {
        let dir = std::env::temp_dir().join(format!("ves-exec-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("ves/ct-1/payload")).expect("made");
        // This process is in no such group, so the container's own is chosen.
        unified(&dir, "ves/ct-1/payload", std::process::id()).expect("opened");
        assert!(unified(&dir, "ves/ct-2/payload", std::process::id()).is_err());
        std::fs::remove_dir_all(&dir).expect("removed");
    }

    #[test]
    fn ends_are_told_as_they_are() {
        let frame = Frame::json(Tag::Ended, &Ended::Code(3));
        assert_eq!(frame.parse::<Ended>(), Some(Ended::Code(3)));
    }
}
