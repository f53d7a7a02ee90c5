//! A node in memory that obeys the same steps, with faults on purpose.
//!
//! [`Model`] says what each step does to what is observed; [`FakeHost`] puts a node of models, faults
//! and small sessions around it. The real node and this one must give equal observations.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ves_init_proto::OnDisconnect;
use ves_init_proto::frame::{Decoder, Frame, Tag};
use ves_init_proto::report::{self, Ended, Failure, InitKind, SessionEnd};
use ves_types::{CtId, ExitCause};

use crate::error::Error;
use crate::host::{Changed, Host};
use crate::init_plan::Command;
use crate::plan::{End, Monitor, Observed, Run, Step};

/// One container in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    /// What would be observed.
    pub state: Observed,
    /// Whether init stops when it is asked to.
    pub obedient: bool,
    /// Whether init ends as soon as it is let go.
    pub mortal: bool,
    /// Whether nothing kills its processes.
    pub undying: bool,
    /// The number of the last run, which is never used again.
    pub run: u64,
    /// The end of a run whose monitor was killed, which is known when it is cleared up.
    pub cut: Option<End>,
    /// How often init was let go.
    pub starts: u64,
    /// How it last ended, whether that was forgotten or not.
    pub ended: Option<End>,
}

impl Default for Model {
    fn default() -> Self {
        let state = Observed { mounted: true, grouped: true, ..Observed::default() };
        let (starts, ended) = (0, None);
        Self {
            state,
            obedient: true,
            mortal: false,
            undying: false,
            run: 0,
            cut: None,
            starts,
            ended,
        }
    }
}

impl Model {
    /// Does a step.
    pub fn apply(&mut self, step: &Step) {
        match step {
            Step::SpawnMonitor(spec) => {
                if self.state.monitor.is_none() {
                    // As on the real node: the time, and never less than before.
                    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                    let now = u64::try_from(now.as_millis()).unwrap_or_default();
                    let last = self.state.last.map_or(self.run, |l| l.incarnation);
                    self.run = now.max(last.max(self.run) + 1);
                    let incarnation = self.run;
                    self.state.monitor = Some(Monitor {
                        running: false,
                        init_pid: 4242,
                        started_unix_ms: 0,
                        booted: false,
                        stopping: false,
                        kind: InitKind::Other,
                        spec: Some((**spec).clone()),
                        incarnation,
                    });
                }
            }
            Step::Release => {
                if let Some(monitor) = &mut self.state.monitor
                    && !monitor.running
                {
                    monitor.running = true;
                    monitor.started_unix_ms = 1;
                    self.starts += 1;
                    let init = monitor.spec.as_ref().map_or("", |s| s.init.program());
                    monitor.booted = init != "/bin/never-boots";
                    if self.mortal || init == "/bin/false" {
                        self.end(ExitCause::Exited, Ended::Code(1));
                    }
                }
            }
            Step::AskInit { .. } => {
                if self.obedient && !self.state.frozen {
                    self.end(ExitCause::Stopped, Ended::Signal(2));
                }
            }
            Step::Name(spec) | Step::Fit(spec) => {
                if let Some(monitor) = &mut self.state.monitor {
                    monitor.spec = Some((**spec).clone());
                }
            }
            // The service's own, and no change of a container.
            Step::EndSessions | Step::AwaitEnd { .. } => {}
            Step::Kill if self.state.stray => {
                self.state.stray = false;
                // A monitor that has lost its files sees init die, and clears up.
                let run = self.state.run.take().filter(|run| run.started_unix_ms != 0);
                let end = run.map(|run| End {
                    incarnation: run.incarnation,
                    cause: ExitCause::Exited,
                    ended: Ended::Signal(9),
                    started_unix_ms: run.started_unix_ms,
                });
                self.state.last = end.or(self.state.last);
            }
            Step::Kill if self.state.unresponsive => {
                self.state.unresponsive = false;
                // Killed with its init, the monitor neither clears up nor tells of the end.
                self.state.leftovers = true;
                let run = self.state.run.take().filter(|run| run.started_unix_ms != 0);
                self.cut = run.map(|run| End {
                    incarnation: run.incarnation,
                    cause: ExitCause::Killed,
                    ended: Ended::Signal(9),
                    started_unix_ms: run.started_unix_ms,
                });
            }
            Step::Kill => self.end(ExitCause::Killed, Ended::Signal(9)),
            Step::Freeze => {
                self.state.frozen =
                    self.state.monitor.is_some() || self.state.unresponsive || self.state.stray
            }
            Step::Thaw => self.state.frozen = false,
            Step::Cleanup => {
                self.state.leftovers = false;
                self.state.last = self.cut.take().or(self.state.last);
                self.ended = self.state.last.or(self.ended);
            }
            Step::Forget => self.state.last = None,
        }
    }

    /// Its monitor does not answer any more.
    pub fn unresponsive(&mut self) {
        self.state.unresponsive = self.lose_monitor();
    }

    /// Its monitor is not found any more, as its socket and lock are gone.
    pub fn stray(&mut self) {
        self.state.stray = self.lose_monitor();
    }

    /// Of its monitor, where there is one, only the record of the run is left.
    fn lose_monitor(&mut self) -> bool {
        let run = self.state.monitor.take().map(|monitor| Run {
            init_pid: monitor.init_pid,
            started_unix_ms: monitor.started_unix_ms,
            incarnation: monitor.incarnation,
        });
        self.state.run = run.or(self.state.run);
        run.is_some()
    }

    /// Ends the run, if there is one.
    pub fn end(&mut self, cause: ExitCause, ended: Ended) {
        if let Some(monitor) = self.state.monitor.take()
            && monitor.running
        {
            self.state.last = Some(End {
                incarnation: monitor.incarnation,
                cause,
                ended,
                started_unix_ms: monitor.started_unix_ms,
            });
            self.ended = self.state.last;
        }
    }
}

#[derive(Default)]
struct Node {
    models: BTreeMap<CtId, Model>,
    /// After how many more steps one fails.
    fail_after: Option<usize>,
    /// Every step that was done, in order.
    done: Vec<(CtId, String)>,
    followed: BTreeSet<CtId>,
    changed: Vec<Changed>,
}

/// A node in memory.
#[derive(Default)]
pub struct FakeHost {
    node: Mutex<Node>,
    commands: Arc<AtomicUsize>,
}

impl std::fmt::Debug for FakeHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FakeHost").field("models", &self.node().models).finish_non_exhaustive()
    }
}

impl FakeHost {
    /// An empty node.
    pub fn new() -> Self {
        Self::default()
    }

    fn node(&self) -> MutexGuard<'_, Node> {
        self.node.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the step after `steps` further ones fail, once, without effect.
    pub fn fail_after(&self, steps: usize) {
        self.node().fail_after = Some(steps);
    }

    /// Changes a container behind the service's back, and tells those who watch it.
    pub fn change(&self, ct: CtId, change: impl FnOnce(&mut Model)) {
        let mut node = self.node();
        change(node.models.entry(ct).or_default());
        node.tell(ct);
    }

    /// Ends a container from inside, as reboot(2) or init's death do.
    pub fn end(&self, ct: CtId, cause: ExitCause, ended: Ended) {
        self.change(ct, |model| model.end(cause, ended));
    }

    /// Lets a container's init go down by itself, slowly.
    pub fn go_down(&self, ct: CtId) {
        self.change(ct, |model| {
            if let Some(monitor) = &mut model.state.monitor {
                monitor.stopping = true;
            }
        });
    }

    /// How many commands run inside containers.
    pub fn commands(&self) -> usize {
        self.commands.load(Ordering::Acquire)
    }

    /// Whether a container has a monitor.
    pub fn monitored(&self, ct: CtId) -> bool {
        self.node().models.get(&ct).is_some_and(|m| m.state.monitor.is_some())
    }

    /// A container as it is.
    pub fn model(&self, ct: CtId) -> Model {
        self.node().models.get(&ct).cloned().unwrap_or_default()
    }

    /// All containers that were ever there.
    pub fn models(&self) -> Vec<(CtId, Model)> {
        self.node().models.iter().map(|(ct, model)| (*ct, model.clone())).collect()
    }

    /// The steps done so far, as they are logged.
    pub fn done(&self) -> Vec<(CtId, String)> {
        self.node().done.clone()
    }
}

impl Node {
    fn tell(&mut self, ct: CtId) {
        if self.followed.contains(&ct) {
            self.changed.iter().for_each(|changed| changed(Some(ct)));
        }
        if self.models.get(&ct).is_none_or(|m| m.state.monitor.is_none()) {
            self.followed.remove(&ct);
        }
    }
}

impl Host for FakeHost {
    fn observe(&self, ct: CtId) -> Result<Observed, Error> {
        Ok(self.node().models.get(&ct).cloned().unwrap_or_default().state)
    }

    fn observe_all(&self, cts: &[CtId]) -> Vec<Result<Observed, Error>> {
        cts.iter().map(|ct| self.observe(*ct)).collect()
    }

    fn apply(&self, ct: CtId, step: &Step) -> Result<(), Error> {
        let mut node = self.node();
        match node.fail_after {
            Some(0) => {
                node.fail_after = None;
                return Err(Error::Injected { ct, step: step.to_string() });
            }
            Some(n) => node.fail_after = Some(n - 1),
            None => {}
        }
        let model = node.models.entry(ct).or_default();
        if model.undying && *step == Step::Kill {
            return Err(Error::Undying { ct });
        }
        model.apply(step);
        node.done.push((ct, step.to_string()));
        node.tell(ct);
        Ok(())
    }

    fn list(&self) -> Result<Vec<CtId>, Error> {
        let node = self.node();
        let lives = |s: &Observed| s.monitor.is_some() || s.unresponsive || s.stray;
        let there = |m: &Model| lives(&m.state) || m.state.last.is_some();
        Ok(node.models.iter().filter(|(_, m)| there(m)).map(|(ct, _)| *ct).collect())
    }

    fn on_change(&self, changed: Changed) -> Result<(), Error> {
        self.node().changed.push(changed);
        Ok(())
    }

    fn follow(&self, ct: CtId) -> Result<(), Error> {
        self.node().followed.insert(ct);
        Ok(())
    }

    /// A console that has printed a greeting and echoes; of a run that has ended, as long as it is not forgotten,
    /// the greeting.
    fn console(&self, ct: CtId, scrollback_only: bool) -> Result<UnixStream, Error> {
        let seen = self.observe(ct)?;
        if seen.monitor.is_none() && seen.last.is_none() {
            return Err(Error::Gone { ct });
        }
        let scrollback_only = scrollback_only || seen.monitor.is_none();
        let (near, mut far) = pair(ct)?;
        std::thread::spawn(move || {
            // The peer may leave at any time, which ends the thread.
            far.write_all(&Frame::new(Tag::Output, b"booted\r\n".to_vec()).encode()).ok();
            if !scrollback_only {
                echo(far, None);
            }
        });
        Ok(near)
    }

    /// Knows `true`, `false`, `exit N`, `env`, `cat`, `sleep`, and no other command; `cat` with arguments says on its
    /// error output whose it is and what they are. There is no user but root, and no directory but `/`.
    fn exec(&self, ct: CtId, command: &Command) -> Result<UnixStream, Error> {
        let (near, mut far) = pair(ct)?;
        let words: Vec<&str> = command.argv.iter().map(String::as_str).collect();
        let refusal = match (&command.user, &command.cwd) {
            (Some(user), _) if user.to_string() != "root" => {
                Some((report::FIND_USER, format!("the container has no user {user}"), 0))
            }
            (_, Some(cwd)) if cwd != "/" => {
                Some((report::GO_TO_DIRECTORY, "go there".to_owned(), libc_enoent()))
            }
            _ => None,
        };
        if let Some((step, message, errno)) = refusal {
            let failure = Failure { step: step.to_owned(), message, errno };
            // The peer is here.
            far.write_all(&Frame::json(Tag::Failed, &failure).encode()).ok();
            return Ok(near);
        }
        let code = match words.as_slice() {
            ["true"] | ["env"] => Some(0),
            ["false"] => Some(1),
            ["exit", n] => n.parse().ok(),
            ["cat" | "sleep", ..] | [] => None,
            [name, ..] => {
                let failure = Failure {
                    step: format!("execute {name}"),
                    message: "No such file or directory (os error 2)".to_owned(),
                    errno: libc_enoent(),
                };
                far.write_all(&Frame::json(Tag::Failed, &failure).encode()).ok();
                return Ok(near);
            }
        };
        let output = match words.as_slice() {
            ["env"] => command.env.iter().map(|(k, v)| format!("{k}={v}\n")).collect(),
            _ => String::new(),
        };
        let complaint = match words.as_slice() {
            ["cat", _, ..] => format!("{ct} {words:?}").into_bytes(),
            _ => Vec::new(),
        };
        let (command, commands) = (command.clone(), Arc::clone(&self.commands));
        commands.fetch_add(1, Ordering::AcqRel);
        std::thread::spawn(move || {
            // As above.
            far.write_all(&Frame::new(Tag::Started, []).encode()).ok();
            match code {
                Some(code) => {
                    far.write_all(&Frame::new(Tag::Output, output.into_bytes()).encode()).ok();
                    far.write_all(&Frame::json(Tag::Ended, &Ended::Code(code)).encode()).ok();
                }
                None => {
                    if !complaint.is_empty() {
                        far.write_all(&Frame::new(Tag::ErrorOutput, complaint).encode()).ok();
                    }
                    echo(far, Some(&command));
                }
            }
            commands.fetch_sub(1, Ordering::AcqRel);
        });
        Ok(near)
    }
}

const fn libc_enoent() -> i32 {
    rustix::io::Errno::NOENT.raw_os_error()
}

fn pair(ct: CtId) -> Result<(UnixStream, UnixStream), Error> {
    use crate::error::About;
    use ves_host::Attempt;
    UnixStream::pair().attempt(|| "make a socket".to_owned()).about(ct, "begin a session")
}

/// Sends input back as output, until whatever ends the command: the end of input too, but for `sleep`. A console
/// is no command and ends with its stream.
fn echo(mut stream: UnixStream, command: Option<&Command>) {
    let timeout = command.and_then(|command| command.timeout_ms).map(Duration::from_millis);
    stream.set_read_timeout(timeout).ok();
    let reads = command.is_some_and(|command| command.argv.first().is_none_or(|w| w != "sleep"));
    let leaves = command.is_some_and(|command| command.on_disconnect == OnDisconnect::Leave);
    let ends = command.is_some();
    let mut decoder = Decoder::default();
    let mut piece = [0; 4096];
    loop {
        let read = match stream.read(&mut piece) {
            Ok(n @ 1..) => n,
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                let end = SessionEnd { ended: Ended::Signal(1), timed_out: true };
                // The peer may have left.
                stream.write_all(&Frame::json(Tag::Ended, &end).encode()).ok();
                return;
            }
            Ok(0) | Err(_) => return,
        };
        decoder.push(piece.get(..read).unwrap_or_default());
        while let Ok(Some(frame)) = decoder.next_frame() {
            let answer = match frame.tag {
                Tag::Input => Frame::new(Tag::Output, frame.payload),
                Tag::InputEnd if reads => Frame::json(Tag::Ended, &Ended::Code(0)),
                Tag::Close if ends => Frame::json(Tag::Ended, &Ended::Signal(9)),
                Tag::HangUp if ends && !leaves => Frame::json(Tag::Ended, &Ended::Signal(1)),
                Tag::Signal if ends => {
                    let signal = frame.payload.first().copied().unwrap_or_default();
                    Frame::json(Tag::Ended, &Ended::Signal(signal.into()))
                }
                _ => continue,
            };
            if stream.write_all(&answer.encode()).is_err() || answer.tag == Tag::Ended {
                return;
            }
        }
    }
}
