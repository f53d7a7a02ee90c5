//! The real node: containers by monitors, commands by helpers, freezing by control groups.

mod boot;
mod changes;
mod clean;
mod groups;
mod monitor;
mod starter;
mod views;

use std::io::{Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ves_daemon::telemetry;
use ves_host::cgroup::Hierarchies;
use ves_host::mount::volumes::{Inside, Volumes};
use ves_host::{Attempt, HostError, file};
use ves_init_proto::frame::{Decoder, Frame, Tag};
use ves_init_proto::process;
use ves_init_proto::report::{self, Created, Ended, Failure, InitKind, Performed, Request};
use ves_init_proto::{ExecRequest, Launch, StartRequest, Work};
use ves_types::layout::{self, Layout};
use ves_types::{CtId, DevicePattern};

use crate::error::{About, Error};
use crate::host::{Changed, Host};
use crate::init_plan::Command;
use crate::last_words;
use crate::observe;
use crate::plan::asking::{Asking, Heard, Next};
use crate::plan::{Observed, Spec, Step};
use changes::Changes;
use monitor::{Change, Follower, Found, Patience};
use views::Views;

/// How long a monitor may take to make a container.
const MAKE: Duration = Duration::from_secs(40);
/// How long the death of all processes of a container may take.
const DIE: Duration = Duration::from_secs(30);
/// How many monitors are asked at once; each is a descriptor.
const LOT: usize = 256;
/// How long a command that asks init to stop may take.
const ASK: Duration = Duration::from_secs(10);

/// This node.
#[derive(Debug)]
pub struct KernelHost {
    layout: Layout,
    volumes: Volumes,
    ves_init: PathBuf,
    allow_devices: Vec<DevicePattern>,
    changes: Arc<Changes>,
    views: Arc<Views>,
    /// Those found last: the table they are found in has a line for each mount of each container.
    hierarchies: Mutex<Option<Arc<Hierarchies>>>,
}

impl KernelHost {
    /// A node with this layout, where `ves_init` makes containers.
    pub fn new(layout: Layout, ves_init: PathBuf) -> Result<Self, HostError> {
        let volumes = Volumes::new(layout.volumes_dir());
        let changes = Changes::new()?;
        let (views, hierarchies) = (Arc::default(), Mutex::default());
        let allow_devices = Vec::new();
        Ok(Self { layout, volumes, ves_init, allow_devices, changes, views, hierarchies })
    }

    /// The same, where containers may have these devices besides the usual ones.
    #[must_use]
    pub fn allowing(self, allow_devices: Vec<DevicePattern>) -> Self {
        Self { allow_devices, ..self }
    }

    /// The control group hierarchies, looked for anew.
    fn detect(&self) -> Result<Arc<Hierarchies>, HostError> {
        let found = Arc::new(Hierarchies::detect()?);
        let mut known = self.hierarchies.lock().unwrap_or_else(PoisonError::into_inner);
        *known = Some(Arc::clone(&found));
        Ok(found)
    }

    /// The control group hierarchies as the last start found them.
    fn hierarchies(&self) -> Result<Arc<Hierarchies>, HostError> {
        let known = self.hierarchies.lock().unwrap_or_else(PoisonError::into_inner).clone();
        known.map_or_else(|| self.detect(), Ok)
    }

    fn spawn(&self, ct: CtId, spec: &Spec) -> Result<(), Error> {
        let dir = self.layout.ct_dir(ct);
        file::make_passage(&dir).about(ct, "make its directory")?;
        if self.detect()?.v2.is_none() {
            tracing::warn!(
                %ct,
                "no cgroup2 hierarchy is mounted, so there will be none at /sys/fs/cgroup inside; \
                 systemd as init needs one: mount it, on a version 1 machine at \
                 /sys/fs/cgroup/unified"
            );
        }
        let last = clean::last_end(&dir).about(ct, "read how it last ended")?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        // Grows even where the record of the last end was removed.
        let incarnation =
            u64::try_from(now).unwrap_or_default().max(last.map_or(0, |l| l.incarnation + 1));
        let request = StartRequest {
            incarnation,
            spec: spec.clone(),
            allow_devices: self.allow_devices.clone(),
        };
        match self.start_monitor(ct, &request).about(ct, "start its monitor")? {
            Created::Waiting { warnings, performed, .. } => {
                for Performed { step, begun_unix_us, took_us } in performed {
                    let begun = UNIX_EPOCH + Duration::from_micros(begun_unix_us);
                    let took = Duration::from_micros(took_us);
                    telemetry::record_span("init step", step, begun, took);
                }
                for warning in warnings {
                    tracing::warn!(%ct, %warning, "started in spite of a failure");
                }
                Ok(())
            }
            Created::Failed(failure) => Err(Error::Start { ct, failure }),
            Created::Occupied => Err(Error::Unresponsive { ct, what: "make way for another" }),
        }
    }

    /// What there is besides the monitor.
    fn look(
        &self,
        ct: CtId,
        found: Found,
        volumes: Option<&Inside>,
        patience: Patience,
    ) -> Result<Observed, Error> {
        let dir = self.layout.ct_dir(ct);
        let groups = &*self.hierarchies()?;
        let (monitor, unresponsive, stray) = match found {
            Found::Nothing => {
                let stray = groups::stray(groups, ct, patience.settled, patience.end);
                (None, false, stray.about(ct, "see whether it has processes")?)
            }
            Found::Answers(mut monitor) => {
                // A monitor knows of no init but systemd more than that it executes.
                monitor.booted = monitor.booted && boot::seen(&monitor);
                (Some(*monitor), false, false)
            }
            Found::Unresponsive => (None, true, false),
        };
        let lives = monitor.is_some() || unresponsive || stray;
        let volume = volumes.map(|v| v.look(&layout::volume(ct))).transpose();
        let volume = volume.about(ct, "look at its volume")?.flatten();
        Ok(Observed {
            run: if unresponsive || stray { clean::run(&dir) } else { None },
            frozen: groups::frozen(groups, ct).about(ct, "see whether it is frozen")?,
            leftovers: !lives && clean::leftovers(&dir, &self.layout.ct_netns(ct)),
            last: clean::last_end(&dir).about(ct, "read how it last ended")?,
            mounted: volume.is_some_and(|place| place.mounted),
            grouped: groups::exist(groups, ct),
            monitor,
            unresponsive,
            stray,
        })
    }

    fn look_alone(&self, ct: CtId, found: Found, patience: Patience) -> Result<Observed, Error> {
        let volumes = self.volumes.enter().about(ct, "look at its volume")?;
        let mut observed = self.look(ct, found, volumes.as_ref(), patience)?;
        // Of many at once it would be much to read, and nobody decides by a list.
        if let Some(monitor) = &mut observed.monitor {
            monitor.stopping = monitor.stopping || boot::goes_down(monitor);
        }
        Ok(observed)
    }

    fn start_monitor(&self, ct: CtId, request: &StartRequest) -> Result<Created, HostError> {
        let (report, write) = std::io::pipe().attempt(|| "make a pipe".to_owned())?;
        let request = sealed(&serde_json::to_vec(request).unwrap_or_default())?;
        let launch = Launch::Monitor { ct };
        starter::launch(&self.layout, &self.ves_init, launch, request, Some(write.into()))?;
        let text = monitor::read_report(&report, MAKE)?;
        serde_json::from_slice(&text)
            .map_err(|_| HostError::parse("hear from the monitor", &String::from_utf8_lossy(&text)))
    }

    /// Has something done inside; its session.
    fn inside(&self, ct: CtId, work: Work) -> Result<UnixStream, Error> {
        let start = || -> Result<UnixStream, HostError> {
            let (mut near, far) =
                UnixStream::pair().attempt(|| "make a session's socket".to_owned())?;
            starter::launch(&self.layout, &self.ves_init, Launch::Exec, far.into(), None)?;
            near.write_all(&Frame::json(Tag::Request, &ExecRequest { ct, work }).encode())
                .attempt(|| "tell a session's helper what to do".to_owned())?;
            Ok(near)
        };
        start().about(ct, "start a helper inside")
    }

    /// Changes a running container, to be like `spec`, which its monitor remembers.
    fn adapt(&self, ct: CtId, work: Work, spec: &Spec) -> Result<(), Error> {
        self.change_inside(ct, work)?;
        let spec = serde_json::to_string(spec).unwrap_or_default();
        match monitor::ask(ct, &self.layout.ct_dir(ct), &Request::Remember(spec)) {
            // It ended, or is of a release that remembers nothing: then it is told again.
            Err(Error::Gone { .. }) => Ok(()),
            other => other.map(drop),
        }
    }

    /// Has a running container changed, and waits until it is.
    fn change_inside(&self, ct: CtId, work: Work) -> Result<(), Error> {
        const WHAT: &str = "change what runs";
        let session = self.inside(ct, work)?;
        let said = monitor::read_report(&session, ASK).about(ct, WHAT)?;
        let mut decoder = Decoder::default();
        decoder.push(&said);
        while let Ok(Some(frame)) = decoder.next_frame() {
            match frame.tag {
                Tag::Started => {}
                Tag::Ended if frame.parse() == Some(Ended::Code(0)) => return Ok(()),
                Tag::Failed => {
                    let failure = frame.parse().unwrap_or_else(|| Failure {
                        step: WHAT.to_owned(),
                        message: "nobody understands why not".to_owned(),
                        errno: 0,
                    });
                    return Err(Error::Inside { ct, failure });
                }
                _ => break,
            }
        }
        Err(HostError::parse("hear from inside", "the helper was lost")).about(ct, WHAT)
    }

    /// Asks init to stop until it has ended, for at most `ms`.
    fn ask_to_stop(&self, ct: CtId, ms: u32) -> Result<(), Error> {
        let dir = self.layout.ct_dir(ct);
        let mut follower = Follower::begin(ct, &dir)?;
        let begun = Instant::now();
        let (mut asking, mut booted) = (Asking::new(ms), false);
        let monitor = match monitor::ask(ct, &dir, &Request::Ask(None)) {
            Err(Error::Gone { .. }) => return Ok(()),
            other => observe::monitor(other?),
        };
        if monitor.stopping || boot::goes_down(&monitor) {
            asking.goes_down();
        }
        loop {
            let now_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
            let until_ms = match asking.next(now_ms, booted) {
                Next::Over => return Ok(()),
                Next::Ask => {
                    let left = Duration::from_millis(u64::from(ms).saturating_sub(now_ms));
                    asking.asked(now_ms, booted, self.ask(ct, &dir, left)?);
                    continue;
                }
                Next::Until(until_ms) => until_ms,
            };
            match follower.next(begun + Duration::from_millis(until_ms))? {
                Change::Ended => return Ok(()),
                Change::Told(status) => booted = status.booted,
                Change::Nothing => {}
            }
        }
    }

    /// Asks init to stop once, as what it is now, in at most `left`.
    fn ask(&self, ct: CtId, dir: &Path, left: Duration) -> Result<Heard, Error> {
        const SIGRTMIN_3: u32 = 37;
        const SIGUSR2: u32 = 12;
        const SIGTERM: u32 = 15;
        let gone = Heard { heard: true, again: true };
        // Noted first, so that whatever comes of it is known to be the end that was asked for.
        let status = match monitor::ask(ct, dir, &Request::Ask(None)) {
            Err(Error::Gone { .. }) => return Ok(gone),
            other => other?,
        };
        let (signal, again) = match status.kind {
            // Each init's own way to be told to halt or power off.
            InitKind::Systemd => (SIGRTMIN_3, true),
            InitKind::Busybox => (SIGUSR2, true),
            InitKind::Other => (SIGTERM, false),
            InitKind::Sysvinit | InitKind::Runit => {
                // runit drops what it is told in its first stage, and its command knows nothing of it.
                let runit = status.kind == InitKind::Runit;
                let ready = !runit || boot::seen(&observe::monitor(status));
                let argv = ["/sbin/init", "0"].map(str::to_owned).to_vec();
                let session = self.exec(ct, &Command { argv, ..Command::default() })?;
                let ended = monitor::await_command(&session, left.min(ASK));
                let heard = ended == Some(Ended::Code(0)) && ready;
                return Ok(Heard { heard, again: true });
            }
        };
        let proc = std::fs::read_to_string(format!("/proc/{}/status", status.init_pid));
        let heard = proc.is_ok_and(|text| process::hears(&text, signal));
        match monitor::ask(ct, dir, &Request::Ask(Some(signal))) {
            Err(Error::Gone { .. }) => Ok(gone),
            other => other.map(|_| Heard { heard, again }),
        }
    }
}

/// A memory file that can be read and not changed any more.
fn sealed(bytes: &[u8]) -> Result<OwnedFd, HostError> {
    use rustix::fs::{MemfdFlags, SealFlags};
    let what = || "make a sealed memory file".to_owned();
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = rustix::fs::memfd_create("ves-start", flags).attempt(what)?;
    let mut file = std::fs::File::from(fd);
    file.write_all(bytes).and_then(|()| file.rewind()).attempt(what)?;
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&file, seals).attempt(what)?;
    Ok(file.into())
}

impl Host for KernelHost {
    fn observe(&self, ct: CtId) -> Result<Observed, Error> {
        let dir = self.layout.ct_dir(ct);
        let asked = monitor::begin(ct, &dir)?;
        let patience = Patience::new();
        let found = monitor::conclude(ct, &dir, asked, patience.end)?;
        self.look_alone(ct, found, patience)
    }

    fn observe_all(&self, cts: &[CtId]) -> Vec<Result<Observed, Error>> {
        let mut all = Vec::with_capacity(cts.len());
        let mut patience = Patience::new();
        for lot in cts.chunks(LOT) {
            let asked: Vec<_> =
                lot.iter().map(|&ct| monitor::begin(ct, &self.layout.ct_dir(ct))).collect();
            // Where one uses up the time, the answers of the others have come in it.
            patience.renew();
            let volumes = self.volumes.enter();
            all.extend(lot.iter().zip(asked).map(|(&ct, asked)| {
                let dir = self.layout.ct_dir(ct);
                let found = monitor::conclude(ct, &dir, asked?, patience.end)?;
                match &volumes {
                    Ok(volumes) => self.look(ct, found, volumes.as_ref(), patience),
                    Err(_) => self.look_alone(ct, found, patience),
                }
            }));
        }
        all
    }

    fn apply(&self, ct: CtId, step: &Step) -> Result<(), Error> {
        let dir = self.layout.ct_dir(ct);
        match step {
            Step::SpawnMonitor(spec) => self.spawn(ct, spec),
            Step::Release => {
                let released = monitor::ask(ct, &dir, &Request::Release).map(drop);
                if matches!(released, Err(Error::Start { .. })) {
                    // The process is dead and its monitor about to end; whoever looks next must not
                    // take it for one that still waits.
                    monitor::await_end(ct, &dir, DIE)?;
                }
                self.views.changed(ct);
                released
            }
            // They are the service's, which has ended them.
            Step::EndSessions => Ok(()),
            Step::AskInit { ms } => self.ask_to_stop(ct, *ms),
            Step::AwaitEnd { ms } => {
                monitor::await_end(ct, &dir, Duration::from_millis((*ms).into())).map(drop)
            }
            Step::Name(spec) => self.adapt(ct, Work::Name(spec.names()), spec),
            Step::Fit(spec) => self.adapt(ct, Work::Fit(spec.memory()), spec),
            Step::Kill => {
                monitor::kill(ct, &dir, DIE)?;
                groups::kill(&*self.hierarchies()?, ct, DIE)
            }
            Step::Freeze => groups::freeze(&*self.hierarchies()?, ct, true),
            Step::Thaw => {
                groups::freeze(&*self.hierarchies()?, ct, false)?;
                self.views.changed(ct);
                Ok(())
            }
            Step::Cleanup => {
                self.views.gone(ct);
                clean::clean(ct, &dir, &self.layout.ct_netns(ct))
            }
            Step::Forget => clean::forget(ct, &dir),
        }
    }

    fn list(&self) -> Result<Vec<CtId>, Error> {
        let mut list = groups::list(&*self.hierarchies()?)?;
        let cts = self.layout.cts_dir();
        match std::fs::read_dir(&cts) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            other => {
                let entries = other.attempt(|| format!("list {}", cts.display()))?;
                list.extend(
                    entries
                        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<CtId>().ok()),
                );
            }
        }
        Ok(list.into_iter().collect())
    }

    fn on_change(&self, changed: Changed) -> Result<(), Error> {
        Ok(Arc::clone(&self.changes).tell(changed)?)
    }

    fn follow(&self, ct: CtId) -> Result<(), Error> {
        const WHAT: &str = "follow its monitor";
        let lock = report::lock(&self.layout.ct_dir(ct));
        if self.changes.watch(ct, &lock).about(ct, WHAT)? {
            return Ok(());
        }
        match groups::events(&*self.hierarchies()?, ct) {
            Some(events) => self.changes.watch(ct, &events).about(ct, WHAT).map(drop),
            None => Ok(()),
        }
    }

    fn console(&self, ct: CtId, scrollback_only: bool) -> Result<UnixStream, Error> {
        let dir = self.layout.ct_dir(ct);
        match monitor::connect(ct, &dir, &Request::Console { scrollback_only }) {
            Err(Error::Gone { .. }) => {
                let words = clean::last_words(&dir).about(ct, "read its last words")?;
                let words = words.ok_or(Error::Gone { ct })?;
                let what = || "show the last words".to_owned();
                let (near, far) = UnixStream::pair().attempt(what).about(ct, "attach")?;
                // A reader may be slow, or leave.
                std::thread::spawn(move || last_words::write(far, &words));
                Ok(near)
            }
            other => other,
        }
    }

    fn exec(&self, ct: CtId, command: &Command) -> Result<UnixStream, Error> {
        self.inside(ct, Work::Run(command.clone()))
    }
}

/// The group of a container, relative to a hierarchy.
fn group(ct: CtId) -> String {
    layout::cgroup(ct)
}

/// A moment between two looks at something that gives no event: a lock that is let go, a version 1
/// freezer.
#[expect(clippy::disallowed_methods, reason = "each caller has a condition and a deadline")]
fn pause() {
    std::thread::sleep(Duration::from_millis(1));
}
