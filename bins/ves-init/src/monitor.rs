//! The monitor of a container: parent of its init, owner of its console, recorder of its end.
//!
//! ```text
//! start → lock → socket → steps → CREATED ──release──▶ RUNNING ──init ends──▶ exit.json → gone
//! ```
//!
//! One process, one loop over descriptors, and an [`Ear`] beside it. It needs no daemon: that may be
//! killed and come back. When the monitor dies, init dies with it. Of a container's making the loop
//! touches bytes of the console only, and never waits for it. Never here: decisions about when a
//! container starts or stops.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::Signal;
use ves_host::channel;
use ves_host::child::{self, How, Life, Why};
use ves_host::namespace;
use ves_host::{Attempt, HostError, file, pty};
use ves_init_proto::frame::{Frame, LONGEST, Tag};
use ves_init_proto::report::{
    self, Answer, Cause, Created, Ended, ExitRecord, Failure, InitKind, Request, StateRecord,
    Status,
};
use ves_init_proto::{InitStep, MonitorPlan};

use crate::allowance::Allowance;
use crate::console::Ring;
use crate::ear::Ear;
use crate::link::Link;
use crate::perform::{self, Waiting};

/// The kernel should choose almost anybody else when memory runs out.
const OOM_SCORE: &str = "-900";
/// The most clients at once; each is a descriptor.
const MOST_CLIENTS: usize = 64;
/// The most of them at the console, so that who asks or tells something always finds a place.
const MOST_CONSOLES: usize = 32;
/// How long to try for the lock.
const LOCK: Duration = Duration::from_millis(200);
/// How long all clients together may take for the last of the console.
const LAST: Duration = Duration::from_secs(1);
/// The most input that waits for the console.
const MOST_INPUT: usize = 64 * 1024;

/// Starts the monitor, which goes on in the background; what it came to is written to fd 1.
pub(crate) fn main() -> ExitCode {
    match begin() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn begin() -> Result<(), HostError> {
    let mut text = Vec::new();
    std::io::stdin().read_to_end(&mut text).attempt(|| "read the plan".to_owned())?;
    let plan: MonitorPlan = match serde_json::from_slice(&text) {
        Ok(plan) => plan,
        Err(e) => {
            let failure =
                Failure { step: "read the plan".to_owned(), message: e.to_string(), errno: 0 };
            tell(namespace::inherit(1)?, &Created::Failed(failure));
            return Ok(());
        }
    };
    // Whoever reaps orphans becomes the parent, so the daemon's end does not matter.
    let how = How { life: Life::Free(Why::Background), ..How::default() };
    child::fork(how, || {
        // Without a way to report, nobody would ever know of the container.
        if let Ok(report) = namespace::inherit(1) {
            run(&plan, report);
        }
        0
    })?;
    Ok(())
}

/// Tells the starter what came of it. It may be gone; then the next one asks.
pub(crate) fn tell(report: OwnedFd, created: &Created) {
    File::from(report).write_all(&serde_json::to_vec(created).unwrap_or_default()).ok();
}

fn run(plan: &MonitorPlan, report: OwnedFd) {
    let mut guard = Guard::default();
    match prepare(plan, &mut guard) {
        Ok(Some(mut monitor)) => {
            let created = Created::Waiting {
                init_pid: monitor.pid(),
                warnings: std::mem::take(&mut monitor.waiting.warnings),
            };
            tell(report, &created);
            monitor.serve();
        }
        Ok(None) => tell(report, &Created::Occupied),
        Err(failure) => {
            guard.clean();
            tell(report, &Created::Failed(failure));
        }
    }
}

/// What must be taken away when the monitor ends.
#[derive(Debug, Default)]
struct Guard {
    socket: Option<PathBuf>,
    state: Option<PathBuf>,
    netns: Option<PathBuf>,
}

impl Guard {
    /// A failure leaves what the daemon's next visit finds and takes away.
    fn clean(&mut self) {
        if let Some(netns) = self.netns.take() {
            namespace::unpin(&netns).ok();
        }
        for path in self.state.take().into_iter().chain(self.socket.take()) {
            file::remove_if_exists(&path).ok();
        }
    }
}

fn prepare(plan: &MonitorPlan, guard: &mut Guard) -> Result<Option<Monitor>, Failure> {
    let failed = |e: HostError| perform::failure("start the monitor", &e);
    settle().map_err(failed)?;
    let Some(lock) = lock(plan).map_err(failed)? else { return Ok(None) };
    let socket = report::socket(&plan.dir);
    file::remove_if_exists(&socket).map_err(failed)?;
    let listen = || format!("listen at {}", socket.display());
    let listener = UnixListener::bind(&socket).attempt(listen).map_err(failed)?;
    guard.socket = Some(socket.clone());
    listener.set_nonblocking(true).attempt(listen).map_err(failed)?;
    guard.netns = plan.steps.iter().find_map(|step| match step {
        InitStep::PinNet(path) => Some(path.clone()),
        _ => None,
    });
    let mut waiting = perform::launch(&plan.steps)?;
    let state = report::state(&plan.dir);
    guard.state = Some(state);
    let flags = rustix::fs::fcntl_getfl(&waiting.console.master);
    flags
        .and_then(|f| rustix::fs::fcntl_setfl(&waiting.console.master, f | OFlags::NONBLOCK))
        .attempt(|| "set up the console".to_owned())
        .map_err(failed)?;
    // Nothing is in the socket yet: nobody of the container has executed.
    let ear = waiting.notify.take().map(Ear::listen).transpose();
    let ear = ear.attempt(|| "listen to init".to_owned()).map_err(failed)?;
    let monitor = Monitor {
        plan: plan.clone(),
        waiting,
        ear,
        listener,
        lock,
        guard: std::mem::take(guard),
        clients: Vec::new(),
        ring: Ring::default(),
        input: Vec::new(),
        started_unix_ms: 0,
        booted: false,
        kind: InitKind::Other,
        asked: false,
        killed: false,
        allowance: Allowance::new(),
    };
    monitor.record().map_err(failed)?;
    Ok(Some(monitor))
}

/// Takes leave of the one who started it.
fn settle() -> Result<(), HostError> {
    rustix::process::setsid().attempt(|| "begin a session".to_owned())?;
    rustix::process::chdir("/").attempt(|| "go to /".to_owned())?;
    rustix::process::umask(Mode::from_raw_mode(0o077));
    let null = File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .attempt(|| "open /dev/null".to_owned())?;
    for number in 0..3 {
        namespace::place(&null, number)?;
    }
    drop(null);
    namespace::hide()?;
    rustix::thread::set_name(c"ves-monitor").attempt(|| "take a name".to_owned())?;
    // Needs a privilege that a test may lack; the monitor is then as mortal as others.
    std::fs::write("/proc/self/oom_score_adj", OOM_SCORE).ok();
    Ok(())
}

/// Takes the lock that says that the container has a monitor; `None` where another has it.
fn lock(plan: &MonitorPlan) -> Result<Option<OwnedFd>, HostError> {
    let path = report::lock(&plan.dir);
    let what = || format!("lock {}", path.display());
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let end = Instant::now() + LOCK;
    loop {
        let fd = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR).attempt(what)?;
        match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                let own = rustix::fs::fstat(&fd).attempt(what)?;
                // Who cleared up may have removed the file in between; the lock is then nobody's.
                let there = rustix::fs::stat(&path);
                if there.is_ok_and(|s| (s.st_dev, s.st_ino) == (own.st_dev, own.st_ino)) {
                    return Ok(Some(fd));
                }
            }
            // Who only looks whether there is a monitor holds it for a moment.
            Err(Errno::WOULDBLOCK) => {}
            Err(e) => return Err(e).attempt(what),
        }
        if Instant::now() > end {
            return Ok(None);
        }
        let moment = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
        poll(&mut [], Some(&moment)).ok();
    }
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// It has asked nothing yet.
    New,
    /// It is told of changes.
    Follower,
    /// It looks at the console.
    Console,
    /// It gets the scroll-back, then the end.
    Scrollback,
    /// It gets what is queued, then the end.
    Leaving,
    /// It is closed now.
    Dropped,
}

#[derive(Debug)]
struct Client {
    link: Link,
    role: Role,
}

#[derive(Debug)]
struct Monitor {
    plan: MonitorPlan,
    waiting: Waiting,
    /// Says when init is ready.
    ear: Option<Ear>,
    listener: UnixListener,
    /// Held until there is nothing left of the run.
    lock: OwnedFd,
    guard: Guard,
    clients: Vec<Client>,
    ring: Ring,
    /// What clients typed and the terminal has not taken yet.
    input: Vec<u8>,
    /// 0 while init waits.
    started_unix_ms: i64,
    booted: bool,
    kind: InitKind,
    asked: bool,
    killed: bool,
    allowance: Allowance,
}

/// What woke the loop.
#[derive(Debug)]
struct Woken {
    ended: bool,
    console: PollFlags,
    ready: bool,
    knock: bool,
    clients: Vec<PollFlags>,
}

impl Monitor {
    fn pid(&self) -> u32 {
        u32::try_from(self.waiting.child.pid.as_raw_pid()).unwrap_or_default()
    }

    fn status(&self) -> Status {
        Status {
            running: self.started_unix_ms != 0,
            init_pid: self.pid(),
            started_unix_ms: self.started_unix_ms,
            booted: self.booted,
            // A script that was init may have executed another one since.
            kind: if self.started_unix_ms == 0 { self.kind } else { self.kind_now() },
            incarnation: self.plan.incarnation,
            opaque_spec: self.plan.opaque_spec.clone(),
        }
    }

    /// What init is by the name of its executable, which is not opened.
    fn kind_now(&self) -> InitKind {
        let exe = std::fs::read_link(format!("/proc/{}/exe", self.pid())).unwrap_or_default();
        InitKind::of(&exe.to_string_lossy())
    }

    /// Writes down which process is init, for whoever finds the monitor dead.
    fn record(&self) -> Result<(), HostError> {
        let path = format!("/proc/{}/stat", self.pid());
        let stat = std::fs::read_to_string(&path).attempt(|| format!("read {path}"))?;
        let init_start = report::parse_start_ticks(&stat)
            .ok_or_else(|| HostError::parse(format!("read {path}"), &stat))?;
        let record = StateRecord {
            init_pid: self.pid(),
            init_start,
            incarnation: self.plan.incarnation,
            started_unix_ms: self.started_unix_ms,
        };
        write_record(&report::state(&self.plan.dir), &record)
    }

    fn serve(mut self) {
        loop {
            let woken = match self.wait() {
                Ok(woken) => woken,
                Err(Errno::INTR) => continue,
                // Without poll nothing can be done; init dies with this process.
                Err(_) => return,
            };
            if woken.console.intersects(PollFlags::OUT) {
                self.type_input();
            }
            if woken.console.intersects(PollFlags::IN | PollFlags::ERR | PollFlags::HUP) {
                self.read_console();
            }
            if woken.ready {
                self.hear();
            }
            for (index, flags) in woken.clients.iter().enumerate() {
                self.serve_client(index, *flags);
            }
            self.clients.retain(|c| {
                let leaves = matches!(c.role, Role::Leaving | Role::Scrollback);
                !c.link.is_gone() && c.role != Role::Dropped && !(leaves && c.link.is_idle())
            });
            if woken.knock {
                self.admit();
            }
            if woken.ended
                && let Ok(Some(ended)) = child::reap(&self.waiting.child)
            {
                self.finish(ended);
                return;
            }
        }
    }

    fn wait(&mut self) -> rustix::io::Result<Woken> {
        let pause = self.allowance.pause(Instant::now());
        let mut console = PollFlags::empty();
        console.set(PollFlags::IN, pause.is_none());
        console.set(PollFlags::OUT, !self.input.is_empty());
        let mut fds = vec![
            PollFd::new(&self.waiting.child.pidfd, PollFlags::IN),
            PollFd::new(&self.waiting.console.master, console),
            PollFd::new(&self.listener, PollFlags::IN),
        ];
        for client in &self.clients {
            // Who types faster than the terminal takes it waits.
            let read = !matches!(client.role, Role::Leaving | Role::Scrollback)
                && (client.role != Role::Console || self.input.len() < MOST_INPUT);
            fds.push(PollFd::new(&client.link.stream, client.link.interest(read)));
        }
        if let Some(ear) = &self.ear {
            fds.push(PollFd::new(ear, PollFlags::IN));
        }
        let pause = pause.map(|pause| Timespec { tv_sec: 0, tv_nsec: pause.subsec_nanos().into() });
        poll(&mut fds, pause.as_ref())?;
        let mut flags = fds.iter().map(PollFd::revents);
        let mut next = || flags.next().unwrap_or(PollFlags::empty());
        let (ended, console, knock) = (!next().is_empty(), next(), !next().is_empty());
        let clients = self.clients.iter().map(|_| next()).collect();
        Ok(Woken { ended, console, knock, clients, ready: !next().is_empty() })
    }

    fn type_input(&mut self) {
        match rustix::io::write(&self.waiting.console.master, &self.input) {
            Ok(n) => drop(self.input.drain(..n)),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.input.clear(),
        }
    }

    /// Reads what the console prints; answers whether there was something.
    fn read_console(&mut self) -> bool {
        let mut piece = [0; 16 * 1024];
        let Ok(n) = rustix::io::read(&self.waiting.console.master, &mut piece) else {
            return false;
        };
        let bytes = piece.get(..n).unwrap_or_default();
        self.allowance.spend(n);
        self.ring.push(bytes);
        let frame = Frame::new(Tag::Output, bytes);
        for client in self.clients.iter_mut().filter(|c| c.role == Role::Console) {
            if client.link.is_full() {
                // A watcher that does not look must hold up neither the container nor a place; it
                // can come back for what is still in the scroll-back.
                client.role = Role::Dropped;
            } else {
                client.link.send(&frame);
            }
        }
        n > 0
    }

    /// Takes in that init says it is ready.
    fn hear(&mut self) {
        if self.ear.as_ref().is_some_and(Ear::ready) && !self.booted {
            self.booted = true;
            self.publish();
        }
    }

    fn publish(&mut self) {
        let frame = Frame::json(Tag::Answer, &Answer::Status(self.status()));
        for client in self.clients.iter_mut().filter(|c| c.role == Role::Follower) {
            client.link.send(&frame);
        }
    }

    fn admit(&mut self) {
        match self.listener.accept() {
            // Beyond the most it is closed, which the peer understands.
            Ok((stream, _)) if self.clients.len() < MOST_CLIENTS => {
                if let Ok(link) = Link::new(stream) {
                    self.clients.push(Client { link, role: Role::New });
                }
            }
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            Err(_) => {}
        }
    }

    fn serve_client(&mut self, index: usize, flags: PollFlags) {
        if let Some(client) = self.clients.get_mut(index) {
            if flags.intersects(PollFlags::OUT) {
                client.link.flush();
            }
            if flags.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
                client.link.fill();
            }
        }
        while let Some(client) = self.clients.get_mut(index)
            && let Some(frame) = client.link.next()
        {
            match (client.role, frame.tag) {
                (Role::New, Tag::Request) => match frame.parse() {
                    Some(request) => self.answer(index, request),
                    None => client.role = Role::Leaving,
                },
                (Role::Console, Tag::Input) => self.input.extend(&frame.payload),
                (Role::Console, Tag::Resize) => {
                    if let Some((rows, cols)) = frame.size() {
                        // A terminal that is being torn down has no size.
                        pty::resize(&self.waiting.console.master, rows, cols).ok();
                    }
                }
                // Nobody who understands the other side says this.
                _ => client.role = Role::Dropped,
            }
        }
        self.type_input_now();
    }

    fn type_input_now(&mut self) {
        if !self.input.is_empty() {
            self.type_input();
        }
    }

    fn answer(&mut self, index: usize, request: Request) {
        let mut role = Role::Leaving;
        let mut answer = None;
        match request {
            Request::Status => {}
            Request::Follow => role = Role::Follower,
            Request::Release => {
                if self.started_unix_ms == 0 {
                    answer = self.release().err().map(Answer::Failed);
                }
            }
            Request::Ask(signal) => {
                self.asked = true;
                if let Some(signal) = signal.and_then(signal_of) {
                    // Init may have ended in this moment, which is what is wanted.
                    rustix::process::pidfd_send_signal(&self.waiting.child.pidfd, signal).ok();
                }
            }
            Request::Kill => {
                self.killed = true;
                rustix::process::pidfd_send_signal(&self.waiting.child.pidfd, Signal::KILL).ok();
            }
            Request::Pidfd => {
                // One packet with the descriptor, so without what may be long.
                let status = Status { opaque_spec: String::new(), ..self.status() };
                let frame = Frame::json(Tag::Answer, &Answer::Status(status)).encode();
                if let Some(client) = self.clients.get_mut(index) {
                    let fd = self.waiting.child.pidfd.as_fd();
                    // The peer is new, so there is room for one frame; else it asks again.
                    channel::send(&client.link.stream, &frame, &[fd]).ok();
                    client.role = Role::Leaving;
                }
                return;
            }
            Request::Console { scrollback_only } => {
                let at_it = |c: &&Client| matches!(c.role, Role::Console | Role::Scrollback);
                if self.clients.iter().filter(at_it).count() >= MOST_CONSOLES {
                    if let Some(client) = self.clients.get_mut(index) {
                        client.role = Role::Dropped;
                    }
                    return;
                }
                let contents = self.ring.contents();
                if let Some(client) = self.clients.get_mut(index) {
                    for piece in contents.chunks(LONGEST) {
                        client.link.send(&Frame::new(Tag::Output, piece));
                    }
                    client.role = if scrollback_only { Role::Scrollback } else { Role::Console };
                }
                return;
            }
        }
        let frame =
            Frame::json(Tag::Answer, &answer.unwrap_or_else(|| Answer::Status(self.status())));
        if let Some(client) = self.clients.get_mut(index) {
            client.link.send(&frame);
            client.role = role;
        }
    }

    fn release(&mut self) -> Result<(), Failure> {
        self.waiting.release()?;
        self.started_unix_ms = now_ms();
        self.kind = self.kind_now();
        // Only systemd is known to tell when it is done; of others it is known that they execute.
        self.booted = self.kind != InitKind::Systemd;
        // The record serves a monitor that is killed; without it the end's time is less exact.
        self.record().ok();
        self.publish();
        Ok(())
    }

    /// Init ended and with it every process of the container.
    fn finish(mut self, ended: Ended) {
        while self.read_console() {}
        if self.started_unix_ms != 0 {
            let record = ExitRecord {
                incarnation: self.plan.incarnation,
                cause: Cause::of(ended, self.asked, self.killed),
                ended,
                started_unix_ms: self.started_unix_ms,
                ended_unix_ms: now_ms(),
            };
            // What it said last is the first thing people want to read; its lack hinders nothing.
            std::fs::write(report::last_words(&self.plan.dir), self.ring.contents()).ok();
            // A record that cannot be written is reconstructed from the one of the state.
            if write_record(&report::exit(&self.plan.dir), &record).is_err() {
                self.guard.state = None;
            }
        }
        self.guard.clean();
        // From now on another may begin.
        drop(self.lock);
        // All at once, so that the slow do not keep each other, and the rest is closed.
        let end = Instant::now() + LAST;
        self.clients.retain(|c| matches!(c.role, Role::Console | Role::Scrollback));
        loop {
            self.clients.retain(|c| !c.link.is_gone() && !c.link.is_idle());
            let left = end.saturating_duration_since(Instant::now());
            if self.clients.is_empty() || left.is_zero() {
                return;
            }
            let left = Timespec { tv_sec: 0, tv_nsec: left.subsec_nanos().into() };
            let mut fds: Vec<_> =
                self.clients.iter().map(|c| PollFd::new(&c.link.stream, PollFlags::OUT)).collect();
            match poll(&mut fds, Some(&left)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return,
            }
            drop(fds);
            self.clients.iter_mut().for_each(|c| c.link.flush());
        }
    }
}

fn write_record(path: &Path, record: &impl serde::Serialize) -> Result<(), HostError> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let bytes = serde_json::to_vec(record).unwrap_or_default();
    // The directory is volatile: whole or not at all matters, surviving a power cut does not.
    std::fs::write(&new, bytes)
        .and_then(|()| std::fs::rename(&new, path))
        .attempt(|| format!("write {}", path.display()))
}

fn signal_of(number: u32) -> Option<Signal> {
    i32::try_from(number).ok().and_then(namespace::signal)
}
