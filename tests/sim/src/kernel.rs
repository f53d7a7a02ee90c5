//! A kernel in memory that four model services share, as strict as the real one is.
//!
//! Owns what survives every daemon, and the script of what goes wrong: the n-th change can fail,
//! before or after its effect, or kill a daemon in the middle. What a real kernel would refuse is
//! refused here.

pub mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, mpsc, watch};
use ves_proto::{Fault, Reason, common, lifecycle, storage};
use ves_types::layout::Daemon;
use ves_types::{Epoch, Fence, Generation};

/// A snapshot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// As storage shows it.
    #[serde(with = "world::wire")]
    pub shown: storage::Snapshot,
    /// What is in it.
    pub contents: u64,
}

/// A volume.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Volume {
    /// Where it came from.
    pub template: String,
    /// Its size.
    pub size: u64,
    /// Whether it is mounted.
    pub mounted: bool,
    /// The id slot of its mount.
    pub slot: u32,
    /// What is in it: a number in place of files.
    pub contents: u64,
    /// The snapshot it was put back to.
    #[serde(with = "world::wire::option")]
    pub reverted: Option<storage::Reverted>,
}

/// Processes.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Process {
    /// How far.
    pub phase: i32,
    /// How they ended.
    pub end: i32,
    /// With which status.
    pub status: Option<u32>,
    /// How often.
    pub incarnation: u64,
    /// What they run with.
    #[serde(with = "world::wire")]
    pub spec: lifecycle::ContainerSpec,
    /// How often init was started.
    pub starts: u64,
}

/// All of one container that is there.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Ct {
    /// Its volume.
    pub volume: Option<Volume>,
    /// Its snapshots, by id.
    pub snapshots: BTreeMap<String, Snapshot>,
    /// Its limits.
    #[serde(with = "world::wire::option")]
    pub group: Option<common::Limits>,
    /// Its processes.
    pub process: Process,
    /// Addresses of its link.
    pub link: Option<BTreeSet<String>>,
    /// Elements of the packet filter, which do not go with the link.
    pub guard: bool,
}

impl Ct {
    fn is_nothing(&self) -> bool {
        self.volume.is_none()
            && self.snapshots.is_empty()
            && self.group.is_none()
            && self.link.is_none()
            && !self.guard
            && !self.alive()
    }

    /// Whether it has processes.
    pub const fn alive(&self) -> bool {
        self.process.phase > lifecycle::Phase::Absent as i32
    }
}

/// What happens at one change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mishap {
    /// It fails without effect.
    FailBefore(Reason),
    /// It fails after its effect.
    FailAfter(Reason),
    /// These daemons are killed before its effect.
    KillBefore(Victim),
    /// These daemons are killed after its effect, before the answer.
    KillAfter(Victim),
    /// It and all that follow of its container hang for ever, before its effect.
    HangBefore,
    /// The same, after its effect.
    HangAfter,
}

impl Mishap {
    /// These daemons are killed, on either side of the effect.
    pub const fn kills(victim: Victim) -> [Self; 2] {
        [Self::KillBefore(victim), Self::KillAfter(victim)]
    }
}

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    /// The service that is asked.
    Daemon,
    /// The coordinator that asks.
    Coordinator,
    /// Everybody.
    All,
}

/// A mishap of one container.
#[derive(Debug)]
struct Appointment {
    rpc: String,
    /// How many such changes are made before.
    before: usize,
    mishap: Mishap,
}

/// State behind the lock.
#[derive(Debug, Default)]
pub struct State {
    /// Containers by id.
    pub cts: BTreeMap<u32, Ct>,
    /// Templates by name.
    pub templates: BTreeSet<String>,
    /// Whether volumes grow only while they are not mounted.
    pub stiff: bool,
    /// Changes asked for, in order.
    pub log: Vec<String>,
    fences: BTreeMap<(Daemon, u32), (Generation, Epoch)>,
    mishap: Option<(usize, Mishap)>,
    changes: usize,
    appointments: BTreeMap<u32, Vec<Appointment>>,
    /// Containers whose changes hang for ever.
    hanging: BTreeSet<u32>,
}

impl State {
    /// What happens at the change that is made now.
    fn due(&mut self, rpc: &str, ct: u32) -> Option<Mishap> {
        if self.hanging.contains(&ct) {
            return Some(Mishap::HangBefore);
        }
        let mut own = None;
        if let Some(all) = self.appointments.get_mut(&ct) {
            let now = all.iter().position(|a| a.rpc == rpc && a.before == 0);
            own = now.map(|n| all.remove(n).mishap);
            for later in all.iter_mut().filter(|a| a.rpc == rpc) {
                later.before = later.before.saturating_sub(1);
            }
        }
        let now = self.changes;
        self.changes += 1;
        if self.mishap.is_some_and(|(n, _)| n == now) {
            return self.mishap.take().map(|(_, mishap)| mishap);
        }
        own
    }
}

/// The kernel.
#[derive(Debug)]
pub struct Kernel {
    state: Mutex<State>,
    /// Told of each change of processes.
    pub events: broadcast::Sender<lifecycle::Container>,
    /// Containers whose changes hang.
    held: watch::Sender<BTreeSet<u32>>,
    /// Told whom to kill.
    pub deaths: Mutex<Option<mpsc::UnboundedSender<Vec<Daemon>>>>,
}

impl Default for Kernel {
    fn default() -> Self {
        let state =
            Mutex::new(State { templates: ["trixie".to_owned()].into(), ..State::default() });
        Self {
            state,
            events: broadcast::channel(1024).0,
            deaths: Mutex::new(None),
            held: watch::Sender::default(),
        }
    }
}

fn fault(reason: Reason, ct: u32, what: &str) -> Fault {
    Fault::new(reason, format!("container {ct}: {what}")).fact("ct", ct)
}

impl Kernel {
    /// What is there.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One container.
    pub fn ct(&self, ct: u32) -> Ct {
        self.state().cts.get(&ct).cloned().unwrap_or_default()
    }

    /// Whether nothing of any container is left.
    pub fn is_clean(&self) -> bool {
        self.state().cts.values().all(Ct::is_nothing)
    }

    /// The `n`-th change from now on, from 0, has this mishap.
    pub fn script(&self, n: usize, mishap: Mishap) {
        let mut state = self.state();
        state.changes = 0;
        state.mishap = Some((n, mishap));
    }

    /// Takes the script away; true: it was played.
    pub fn unscript(&self) -> bool {
        let mut state = self.state();
        state.changes = 0;
        state.mishap.take().is_none()
    }

    /// The `n`-th change of this container by this call from now on, from 0, has this mishap.
    pub fn script_for(&self, ct: u32, rpc: &str, n: usize, mishap: Mishap) {
        let appointment = Appointment { rpc: rpc.to_owned(), before: n, mishap };
        self.state().appointments.entry(ct).or_default().push(appointment);
    }

    /// Whether this container's changes hang for ever, as scripted.
    pub fn hangs(&self, ct: u32) -> bool {
        self.state().hanging.contains(&ct)
    }

    /// Changes of this container hang from now on, or no more.
    pub fn hold(&self, ct: u32, held: bool) {
        self.held.send_modify(|all| {
            if held {
                all.insert(ct);
            } else {
                all.remove(&ct);
            }
        });
    }

    /// A boot: everything volatile is gone.
    pub fn boot(&self) {
        let mut state = self.state();
        for ct in state.cts.values_mut() {
            ct.process = Process::default();
            ct.group = None;
            ct.link = None;
            ct.guard = false;
            if let Some(volume) = &mut ct.volume {
                volume.mounted = false;
            }
        }
        state.fences.retain(|(service, _), _| *service == Daemon::Storage);
    }

    /// Makes a change for a service: fence, mishaps, effect.
    pub async fn change<T>(
        &self,
        service: Daemon,
        rpc: &str,
        fence: &Fence,
        effect: impl FnOnce(&mut Ct, &mut State) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let ct = fence.ct.get();
        let mishap = {
            let mut state = self.state();
            ves_daemon::fence::admit(fence, state.fences.get(&(service, ct)).copied())?;
            state.fences.insert((service, ct), (fence.generation, fence.epoch));
            state.log.push(format!("{rpc} {ct}"));
            state.due(rpc, ct)
        };
        // The sender is the kernel's own.
        self.held.subscribe().wait_for(|held| !held.contains(&ct)).await.ok();
        match mishap {
            Some(Mishap::FailBefore(reason)) => return Err(fault(reason, ct, "as scripted")),
            Some(Mishap::KillBefore(victim)) => return self.die(service, victim).await,
            Some(Mishap::HangBefore) => return self.hang(ct).await,
            _ => {}
        }
        let result = {
            let mut state = self.state();
            let mut container = state.cts.remove(&ct).unwrap_or_default();
            let result = effect(&mut container, &mut state);
            state.cts.insert(ct, container);
            result
        };
        match mishap {
            Some(Mishap::FailAfter(reason)) => Err(fault(reason, ct, "as scripted, too late")),
            Some(Mishap::KillAfter(victim)) => self.die(service, victim).await,
            Some(Mishap::HangAfter) => self.hang(ct).await,
            _ => result,
        }
    }

    async fn hang<T>(&self, ct: u32) -> Result<T, Fault> {
        self.state().hanging.insert(ct);
        std::future::pending().await
    }

    async fn die<T>(&self, service: Daemon, victim: Victim) -> Result<T, Fault> {
        let victims = match victim {
            Victim::Daemon => vec![service],
            Victim::Coordinator => vec![Daemon::Coordinator],
            Victim::All => Daemon::ALL.to_vec(),
        };
        let deaths = self.deaths.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(deaths) = deaths {
            // Nobody listens only when the test is over.
            deaths.send(victims).ok();
        }
        // A killed process does not answer.
        std::future::pending().await
    }

    /// The generation a service accepted last.
    pub fn accepted(&self, service: Daemon, ct: u32) -> u64 {
        self.state().fences.get(&(service, ct)).map_or(0, |(generation, _)| generation.0)
    }

    /// A service remembers to have accepted a generation.
    pub fn remember(&self, service: Daemon, ct: u32, generation: u64) {
        let fence = (Generation(generation), Epoch(1));
        self.state().fences.insert((service, ct), fence);
    }

    /// A container as lifecycle shows it.
    pub fn shown(&self, ct: u32) -> lifecycle::Container {
        let generation = self.accepted(Daemon::Lifecycle, ct);
        let Process { phase, end, status, incarnation, spec, starts } = self.ct(ct).process;
        let running = phase >= lifecycle::Phase::Running as i32;
        let never = spec.init.first().is_some_and(|i| i == "/bin/never-boots");
        lifecycle::Container {
            ct,
            generation,
            phase: phase.max(lifecycle::Phase::Absent as i32),
            init_pid: running.then_some(4000 + ct),
            started_unix_ms: if running {
                1_700_000_000_000 + i64::try_from(starts).unwrap_or(0)
            } else {
                0
            },
            end,
            end_status: status
                .map(|code| common::ExitStatus { how: Some(common::exit_status::How::Code(code)) }),
            incarnation,
            booted: running && !never,
            unresponsive: false,
            steps: Vec::new(),
        }
    }

    /// Tells watchers of a container's processes.
    pub fn tell(&self, ct: u32) {
        // Nobody may be watching.
        self.events.send(self.shown(ct)).ok();
    }

    /// Its processes end by themselves.
    pub fn end_inside(&self, ct: u32, end: lifecycle::EndReason, status: u32) {
        {
            let mut state = self.state();
            let container = state.cts.entry(ct).or_default();
            end_processes(container, end, Some(status));
        }
        self.tell(ct);
    }

    /// Something is written to a volume: a number in place of files.
    pub fn write(&self, ct: u32, contents: u64) {
        if let Some(volume) = &mut self.state().cts.entry(ct).or_default().volume {
            volume.contents = contents;
        }
    }

    /// What was last written to a volume.
    pub fn read(&self, ct: u32) -> Option<u64> {
        self.ct(ct).volume.map(|v| v.contents)
    }

    /// A volume is lost.
    pub fn lose_volume(&self, ct: u32) {
        self.state().cts.entry(ct).or_default().volume = None;
    }
}

/// Processes are gone, and their network namespace with its link.
pub fn end_processes(container: &mut Ct, end: lifecycle::EndReason, status: Option<u32>) {
    if container.alive() {
        container.process.incarnation += 1;
        container.process.end = end.into();
        container.process.status = status;
    }
    container.process.phase = lifecycle::Phase::Absent.into();
    container.link = None;
}

/// What storage does.
pub fn ensure_volume(
    ct: u32,
    container: &mut Ct,
    state: &State,
    spec: &storage::VolumeSpec,
) -> Result<(), Fault> {
    let alive = container.alive();
    match &mut container.volume {
        None => {
            if !state.templates.contains(&spec.template) {
                let message = format!("there is no template {}", spec.template);
                return Err(
                    Fault::new(Reason::TemplateUnknown, message).fact("template", &spec.template)
                );
            }
            container.volume = Some(Volume {
                template: spec.template.clone(),
                size: spec.size_bytes,
                mounted: spec.mounted,
                slot: spec.id_slot,
                contents: 0,
                reverted: None,
            });
        }
        Some(volume) => {
            if spec.size_bytes < volume.size {
                return Err(fault(Reason::WouldShrink, ct, "its volume would shrink"));
            }
            if state.stiff && volume.mounted && spec.size_bytes > volume.size {
                return Err(fault(Reason::NeedsRestart, ct, "its volume is mounted"));
            }
            if volume.mounted && !spec.mounted && alive {
                return Err(fault(Reason::Mounted, ct, "processes use its volume"));
            }
            volume.size = spec.size_bytes;
            volume.mounted = spec.mounted;
        }
    }
    Ok(())
}

/// What storage does when a snapshot is to be there.
pub fn ensure_snapshot(
    container: &mut Ct,
    fence: &Fence,
    id: &str,
    name: &str,
) -> Result<(), Fault> {
    let ct = fence.ct.get();
    let Some(volume) = &container.volume else {
        return Err(fault(Reason::VolumeUnknown, ct, "it has no volume"));
    };
    let shown = storage::Snapshot {
        id: id.to_owned(),
        name: name.to_owned(),
        generation: fence.generation.0,
        size_bytes: volume.size,
        ..storage::Snapshot::default()
    };
    let new = Snapshot { shown, contents: volume.contents };
    container.snapshots.entry(id.to_owned()).or_insert(new);
    Ok(())
}

/// What storage does when a volume is to hold what a snapshot holds.
pub fn revert_volume(container: &mut Ct, fence: &Fence, id: &str) -> Result<(), Fault> {
    let ct = fence.ct.get();
    let Some(volume) = &mut container.volume else {
        return Err(fault(Reason::VolumeUnknown, ct, "it has no volume"));
    };
    let to = storage::Reverted { snapshot: id.to_owned(), generation: fence.generation.0 };
    if volume.reverted.as_ref() == Some(&to) {
        return Ok(());
    }
    let Some(snapshot) = container.snapshots.get(id) else {
        return Err(fault(Reason::SnapshotUnknown, ct, "it has no such snapshot"));
    };
    if volume.mounted {
        return Err(fault(Reason::Mounted, ct, "its volume is mounted"));
    }
    volume.contents = snapshot.contents;
    volume.reverted = Some(to);
    Ok(())
}

/// What lifecycle does.
pub fn ensure_process(
    ct: u32,
    container: &mut Ct,
    request: &lifecycle::EnsureContainerRequest,
) -> Result<(), Fault> {
    use lifecycle::Phase;
    let wanted = request.phase();
    match wanted {
        Phase::Absent => {
            let end = if request.grace_ms == 0 {
                lifecycle::EndReason::Killed
            } else {
                lifecycle::EndReason::Stopped
            };
            end_processes(container, end, Some(0));
        }
        Phase::Running if request.only_if_running && container.process.phase < wanted.into() => {}
        Phase::Created | Phase::Running => {
            if !container.volume.as_ref().is_some_and(|v| v.mounted) {
                return Err(fault(Reason::NotMounted, ct, "its volume is not mounted"));
            }
            if container.group.is_none() {
                return Err(fault(Reason::StartFailed, ct, "it has no control groups"));
            }
            let spec = request.spec.clone().ok_or_else(|| Fault::missing("spec"))?;
            if container.volume.as_ref().is_some_and(|v| v.slot != spec.id_slot) {
                return Err(fault(Reason::StartFailed, ct, "its volume shows other ids"));
            }
            if !container.alive() {
                container.process.spec = spec;
                container.process.status = None;
                container.process.end = 0;
            }
            if wanted == Phase::Running && container.process.phase < Phase::Running.into() {
                container.process.starts += 1;
            }
            container.process.phase = container.process.phase.max(wanted.into());
        }
        Phase::Unspecified | Phase::Frozen => return Err(Fault::missing("phase")),
    }
    Ok(())
}
