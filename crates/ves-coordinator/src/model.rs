//! What the coordinator keeps about a container and an operation.
//!
//! Owns the records and the pure changes made to them. Stored form is JSON in a versioned envelope
//! (see [`crate::store::record`]); a record that cannot be read is reported, never guessed at.
//! Nothing here reads a clock, talks to a service or decides about steps.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use ves_proto::convert::{Fence, Limits};
use ves_proto::fault::{Fault, reason_from_name};
use ves_proto::{Reason, coordinator as pb};
use ves_types::{
    Bytes, CpuLimit, CtAddress, CtId, CtName, Epoch, Generation, Hostname, IdSlot, SnapshotId,
    SnapshotName, TemplateName, UbcResource, UbcValue,
};

use crate::plan::snapshot::SnapshotWish;

/// What a container should be, as `create` and `set` give it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// A second way to name it.
    pub name: Option<CtName>,
    /// Its host name.
    pub hostname: Hostname,
    /// What its volume was made from; fixed.
    pub template: TemplateName,
    /// Its addresses, in the order given, without doubles.
    pub addresses: Vec<CtAddress>,
    /// Name servers.
    pub nameservers: Vec<IpAddr>,
    /// Search domains.
    pub search_domains: Vec<String>,
    /// Hard size of its volume.
    pub disk: Bytes,
    /// Hard number of inodes.
    pub inodes: Option<u64>,
    /// Limits.
    #[serde(with = "LimitsRecord")]
    pub limits: Limits,
    /// Start it when the node starts.
    pub onboot: bool,
    /// Higher starts earlier; none: last.
    pub boot_order: Option<i32>,
    /// Not started without force.
    pub disabled: bool,
    /// Free text.
    pub description: String,
    /// The init to run; empty: /sbin/init.
    pub init: Vec<String>,
}

/// How [`Limits`] are stored.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Limits")]
struct LimitsRecord {
    ubc: BTreeMap<UbcResource, UbcValue>,
    cpu: Option<CpuLimit>,
    cpus: Option<u32>,
    cpu_units: Option<u32>,
}

/// Whether a container should exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Presence {
    /// Its volume is being made; the only state in which a missing volume may be made.
    Creating,
    /// It exists; a missing volume is a loss, not something to repair.
    Present,
    /// It is being taken away; the record goes last.
    Deleting,
}

/// How far a container should be up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// Nothing of it is active.
    Stopped,
    /// Its volume is mounted.
    Mounted,
    /// Its init runs.
    Running,
}

/// The generation at which each service's share of a container last changed. A service that has
/// accepted an older one is asked again, even where what it shows looks right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Since {
    /// Storage's share.
    pub volume: Generation,
    /// Resources' share.
    pub limits: Generation,
    /// Lifecycle's share.
    pub process: Generation,
    /// Network's share.
    pub link: Generation,
}

impl Since {
    /// Everything is to be asked for again.
    pub const fn all(generation: Generation) -> Self {
        Self { volume: generation, limits: generation, process: generation, link: generation }
    }
}

/// A failure that is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The reason's name on the wire.
    pub reason: String,
    /// For people.
    pub message: String,
    /// For programs.
    pub facts: BTreeMap<String, String>,
}

impl From<&Fault> for Problem {
    fn from(fault: &Fault) -> Self {
        Self {
            reason: fault.reason_name().to_owned(),
            message: fault.message.clone(),
            facts: fault.facts.clone(),
        }
    }
}

impl Problem {
    /// The fault this was.
    pub fn fault(&self) -> Fault {
        let mut fault =
            Fault::new(reason_from_name(&self.reason).unwrap_or(Reason::Bug), self.message.clone());
        fault.facts.clone_from(&self.facts);
        fault
    }
}

/// All the coordinator knows about one container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its id.
    pub id: CtId,
    /// Its place among user ids; its own until it is gone completely.
    pub slot: IdSlot,
    /// What it should be, as saved.
    pub spec: Spec,
    /// What it runs with, where that differs from `spec`; gone when it stops.
    pub running: Option<Spec>,
    /// Whether it should exist.
    pub presence: Presence,
    /// How far it should be up.
    pub run: RunState,
    /// Grows with each change.
    pub generation: Generation,
    /// Its first generation: unix time in milliseconds, so that of two lives of one id the later has
    /// the greater ones, also where the store was lost in between.
    #[serde(default)]
    pub birth: Generation,
    /// Its create has not succeeded yet: what carries a generation before `birth` is somebody else's.
    #[serde(default)]
    pub unborn: bool,
    /// Whose it is.
    pub epoch: Epoch,
    /// When each service's share changed.
    pub since: Since,
    /// When it was created, in seconds since 1970.
    pub created_unix: i64,
    /// Lifecycle's count of its ends when it was last started; another one means that it ended.
    pub seen_incarnation: u64,
    /// It ran since it was last taken down completely, so that something of its link or control
    /// groups may be there though no service shows it.
    #[serde(alias = "residue")]
    pub maybe_dirty: bool,
    /// Why it is not what it should be.
    pub problem: Option<Problem>,
    /// What it had before the change under way.
    #[serde(default, alias = "held")]
    pub reserved: Reserved,
    /// What the change under way wants of its snapshots; storage knows which there are.
    #[serde(default)]
    pub snapshot: Option<SnapshotWish>,
}

/// What a change under way takes from a container: nobody else's until the change has succeeded, so
/// that it can be taken back.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Reserved {
    /// Addresses.
    pub addresses: Vec<CtAddress>,
    /// Names.
    pub names: Vec<CtName>,
    /// What it ran with, where that differed from what is saved.
    pub running: Option<Box<Spec>>,
}

impl Record {
    /// What it runs with.
    pub fn effective(&self) -> &Spec {
        self.running.as_ref().unwrap_or(&self.spec)
    }

    /// The fence of calls made for it as it is now.
    pub const fn fence(&self) -> Fence {
        Fence { ct: self.id, generation: self.generation, epoch: self.epoch }
    }

    /// Addresses that are its own: saved ones, those it runs with, and those of before a change.
    pub fn owned_addresses(&self) -> Vec<CtAddress> {
        let mut all = self.spec.addresses.clone();
        all.extend(self.reserved.addresses.iter().copied());
        all.extend(self.running.iter().flat_map(|r| r.addresses.iter().copied()));
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Makes a record that nobody has seen yet begin after `generation`, if it does not already.
    pub fn be_born_after(&mut self, generation: Generation) {
        self.birth = self.birth.max(generation.next());
        self.generation = self.birth;
        self.since = Since::all(self.birth);
    }

    /// Makes it be up so far from the next generation on.
    pub fn set_run(&mut self, run: RunState) {
        self.generation = self.generation.next();
        self.run = run;
        if run == RunState::Running {
            self.maybe_dirty = true;
            self.since.limits = self.generation;
            self.since.process = self.generation;
            self.since.link = self.generation;
        } else {
            self.hold();
            if let Some(running) = self.running.take() {
                self.reserved.running = Some(Box::new(running));
            }
        }
        self.problem = None;
    }

    /// Keeps what it has until the change that begins has succeeded or was taken back.
    fn hold(&mut self) {
        self.reserved.addresses = self.owned_addresses();
        if let Some(name) = &self.spec.name
            && !self.reserved.names.contains(name)
        {
            self.reserved.names.push(name.clone());
        }
    }

    /// Makes it want this of its snapshots from the next generation on.
    pub fn want_snapshot(&mut self, wish: Option<SnapshotWish>) {
        self.generation = self.generation.next();
        self.snapshot = wish;
    }

    /// Gives up what it had before a change that is over.
    pub fn release(&mut self) {
        self.reserved = Reserved::default();
    }

    /// Makes every service be asked again.
    pub fn ask_again(&mut self) {
        self.generation = self.generation.next();
        self.since = Since::all(self.generation);
    }

    /// Makes it go.
    pub fn delete(&mut self) {
        self.set_run(RunState::Stopped);
        self.presence = Presence::Deleting;
    }

    /// Gives it these specifications; `running` is kept only where it differs.
    pub fn set_specs(&mut self, spec: Spec, running: Spec) {
        self.hold();
        let before = self.effective().clone();
        self.generation = self.generation.next();
        self.running = (self.run == RunState::Running && running != spec).then_some(running);
        self.spec = spec;
        let now = self.effective().clone();
        if (now.disk, now.inodes) != (before.disk, before.inodes) {
            self.since.volume = self.generation;
        }
        if now.limits != before.limits {
            self.since.limits = self.generation;
        }
        if now.addresses != before.addresses {
            self.since.link = self.generation;
        }
    }
}

/// An operation's id: a version 7 UUID, so that ids sort by age.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OpId(pub String);

impl fmt::Display for OpId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What an operation does; enough to go on with it after a crash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "do")]
pub enum Action {
    /// Makes a container. Failure takes it away again.
    Create,
    /// Starts one. Failure stops it.
    Start {
        /// Until init says that it booted.
        wait: bool,
    },
    /// Mounts its volume. Failure unmounts it.
    Mount,
    /// Stops it.
    Stop {
        /// How long init may take, in milliseconds.
        grace_ms: u32,
        /// Leave its volume mounted.
        keep_mounted: bool,
    },
    /// Unmounts its volume.
    Umount,
    /// Stops it, then starts it.
    Restart {
        /// How long init may take, in milliseconds.
        grace_ms: u32,
        /// Until init says that it booted.
        wait: bool,
    },
    /// Changes it. Failure puts back what was.
    Set {
        /// The new saved specification.
        spec: Box<Spec>,
        /// The new running one.
        running: Box<Spec>,
        /// The old saved one.
        old_spec: Box<Spec>,
        /// The old running one.
        old_running: Box<Spec>,
        /// Stop it before and start it after.
        restart: bool,
        /// What is done where a service says that it cannot make the change while it runs.
        #[serde(alias = "otherwise")]
        set_mode: SetMode,
    },
    /// Takes it away.
    Destroy,
    /// Makes it what it should be, without any change to that.
    Repair,
    /// Takes a snapshot. Failure takes it away again.
    Snapshot {
        /// Its id.
        id: SnapshotId,
        /// Its name.
        name: Option<SnapshotName>,
    },
    /// Puts the disk back to a snapshot.
    SnapshotSwitch {
        /// Its id.
        id: SnapshotId,
    },
    /// Deletes a snapshot.
    SnapshotDelete {
        /// Its id.
        id: SnapshotId,
    },
    /// Builds a template.
    TemplateBuild {
        /// Its name.
        name: TemplateName,
        /// The Debian suite.
        suite: String,
        /// The init system, by its number in the protocol.
        init: i32,
        /// Further packages.
        packages: Vec<String>,
    },
}

impl Action {
    /// The word in `Operation.kind`.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Start { .. } => "start",
            Self::Mount => "mount",
            Self::Stop { .. } => "stop",
            Self::Umount => "umount",
            Self::Restart { .. } => "restart",
            Self::Set { .. } => "set",
            Self::Destroy => "destroy",
            Self::Repair => "repair",
            Self::Snapshot { .. } => "snapshot",
            Self::SnapshotSwitch { .. } => "snapshot-switch",
            Self::SnapshotDelete { .. } => "snapshot-delete",
            Self::TemplateBuild { .. } => "template build",
        }
    }

    /// How long init may take where this stops a container.
    pub const fn grace_ms(&self) -> u32 {
        match self {
            Self::Stop { grace_ms, .. } | Self::Restart { grace_ms, .. } => *grace_ms,
            Self::Set { .. } | Self::Destroy => DEFAULT_GRACE_MS,
            // What these stop was never meant to run, or is what is left of a failure.
            Self::Create
            | Self::Start { .. }
            | Self::Mount
            | Self::Umount
            | Self::Repair
            | Self::Snapshot { .. }
            | Self::SnapshotSwitch { .. }
            | Self::SnapshotDelete { .. }
            | Self::TemplateBuild { .. } => 0,
        }
    }

    /// The snapshot it is about.
    pub const fn snapshot(&self) -> Option<SnapshotId> {
        match self {
            Self::Snapshot { id, .. }
            | Self::SnapshotSwitch { id }
            | Self::SnapshotDelete { id } => Some(*id),
            _ => None,
        }
    }
}

/// What becomes of a change that a service refuses with `NEEDS_RESTART`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SetMode {
    /// It fails.
    #[default]
    Refuse,
    /// The container is restarted with it.
    Restart,
    /// It waits for the next start.
    Later,
}

impl Action {
    /// The other way to do this where a service says that it needs a restart, if the caller wants
    /// one.
    #[must_use]
    pub fn fallback(&self) -> Option<Self> {
        let Self::Set { spec, old_spec, old_running, restart: false, set_mode, .. } = self else {
            return None;
        };
        let (running, restart) = match set_mode {
            SetMode::Refuse => return None,
            SetMode::Restart => (spec, true),
            SetMode::Later => (old_running, false),
        };
        Some(Self::Set {
            spec: spec.clone(),
            running: running.clone(),
            old_spec: old_spec.clone(),
            old_running: old_running.clone(),
            restart,
            set_mode: SetMode::Refuse,
        })
    }
}

/// vzctl's: 120 s.
pub const DEFAULT_GRACE_MS: u32 = 120_000;

/// How far an operation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OpState {
    /// Working or waiting to.
    Running,
    /// Done.
    Succeeded,
    /// Not done, its effects taken back.
    Failed,
    /// Stopped on demand, its effects taken back.
    Cancelled,
}

/// An operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpRecord {
    /// Its id.
    pub id: OpId,
    /// What it does.
    pub action: Action,
    /// The container worked on.
    pub ct: Option<CtId>,
    /// How far it is.
    pub state: OpState,
    /// Which of the action's stages has been entered; see [`crate::stage`].
    pub stage: u32,
    /// It goes backwards because of this.
    pub undoing: Option<Problem>,
    /// Somebody wants it to stop.
    pub cancel: bool,
    /// What was done, one line a step.
    pub steps: Vec<String>,
    /// Why it failed.
    pub fault: Option<Problem>,
    /// In milliseconds since 1970.
    pub started_unix_ms: i64,
    /// In milliseconds since 1970.
    pub ended_unix_ms: Option<i64>,
    /// Who asked.
    pub principal: String,
    /// The caller's id of the request; empty: none.
    pub request_id: String,
    /// What it is doing now; not kept.
    #[serde(skip)]
    pub progress: Progress,
}

/// What an operation is doing now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Progress {
    /// In a few words.
    pub what: String,
    /// How much is done.
    pub done: u64,
    /// How much there is.
    pub total: u64,
}

impl OpRecord {
    /// As the public API shows it.
    pub fn render(&self) -> pb::Operation {
        let Self {
            id,
            action,
            ct,
            state,
            stage: _,
            undoing: _,
            cancel: _,
            steps,
            fault,
            started_unix_ms,
            ended_unix_ms,
            principal,
            request_id: _,
            progress,
        } = self;
        let state = match state {
            OpState::Running => pb::OperationState::Running,
            OpState::Succeeded => pb::OperationState::Succeeded,
            OpState::Failed => pb::OperationState::Failed,
            OpState::Cancelled => pb::OperationState::Cancelled,
        };
        let Progress { what, done, total } = progress.clone();
        pb::Operation {
            id: id.0.clone(),
            kind: action.kind().to_owned(),
            ct: ct.map_or(0, CtId::get),
            state: state.into(),
            progress: Some(ves_proto::common::Progress { what, done, total }),
            steps: steps.clone(),
            fault: fault.as_ref().map(|p| p.fault().to_message()),
            started_unix_ms: *started_unix_ms,
            ended_unix_ms: ended_unix_ms.unwrap_or(0),
            principal: principal.clone(),
            snapshot: action.snapshot().map(String::from).unwrap_or_default(),
        }
    }
}
