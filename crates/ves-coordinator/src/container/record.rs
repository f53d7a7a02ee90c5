//! What is kept about a container, and the pure changes made to it.
//!
//! Stored as JSON in a versioned envelope (see [`crate::store::record`]); a record that cannot be read
//! is reported, never guessed at. Pure: nothing here reads a clock, talks to a service or decides
//! about steps.

use serde::{Deserialize, Serialize};
use uuid::Uuid;
use ves_types::{
    CtAddress, CtId, CtName, Epoch, Fence, Generation, Hostname, IdSlot, NodeName, Phase,
    RestartPolicy, SnapshotId, SnapshotName,
};

use super::meta::Meta;
use super::observed::ProcessSeen;
use super::retry::Retry;
use super::schedule::Scheduled;
use super::spec::Spec;
use crate::problem::Problem;

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

/// All the coordinator knows about one container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its id. Another container may get it when this one is gone.
    pub id: CtId,
    /// What no other container ever gets.
    pub uid: Uuid,
    /// The node it belongs to.
    pub node: NodeName,
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
    /// Its first generation, until its create has succeeded: what carries an older one is somebody
    /// else's. Begins with unix time in milliseconds, so that of two lives of one id the later has the
    /// greater generations, also where the store was lost in between.
    pub creating_since: Option<Generation>,
    /// Whose it is.
    pub epoch: Epoch,
    /// When each service's share changed.
    pub since: Since,
    /// When it was created, in seconds since 1970.
    pub created_unix: i64,
    /// Lifecycle's count of its ends when it was last started; another one means that it ended. 0: it was
    /// not started since the node's boot.
    pub seen_incarnation: u64,
    /// It ran since it was last taken down completely, so that something of its link or control
    /// groups may be there though no service shows it.
    pub maybe_dirty: bool,
    /// Why it is not what it should be.
    pub problem: Option<Problem>,
    /// What it had before the change under way.
    pub reserved: Reserved,
    /// What the change under way wants of its snapshots; storage knows which there are.
    pub snapshot: Option<SnapshotWish>,
    /// What of it is no matter of any service.
    #[serde(default)]
    pub meta: Meta,
    /// That it is started again, or was, after it ended by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// Which snapshots its schedule took.
    #[serde(default, skip_serializing_if = "Scheduled::is_empty")]
    pub scheduled: Scheduled,
}

/// What a change under way takes from a container: nobody else's until the change has succeeded, so
/// that it can be taken back.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Reserved {
    /// Addresses.
    pub addresses: Vec<CtAddress>,
    /// Names.
    pub names: Vec<CtName>,
    /// What was saved, where the change is one of that.
    pub spec: Option<Box<Spec>>,
    /// What it ran with, where that differed from what was saved.
    pub running: Option<Box<Spec>>,
    /// What of it was no matter of any service, where the change is one of that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meta: Option<Box<Meta>>,
}

impl Record {
    /// What it runs with.
    pub fn effective(&self) -> &Spec {
        self.running.as_ref().unwrap_or(&self.spec)
    }

    /// What stands for what it should be now: another one is of before or after a change.
    pub fn etag(&self) -> String {
        let uid = self.uid.simple().to_string();
        format!("{:x}-{}", self.generation.0, uid.get(20..).unwrap_or(&uid))
    }

    /// The host name that somebody gave it; none: it has the one it would have anyhow, unless it gives
    /// itself another, which is its own matter then.
    pub fn hostname(&self) -> Option<&Hostname> {
        let name = &self.effective().hostname;
        (*name != Hostname::of_container(self.id)).then_some(name)
    }

    /// When it is started again, where it is to be.
    pub fn next_start(&self) -> Option<&Retry> {
        let down = self.presence == Presence::Present && self.run == RunState::Stopped;
        let wanted = down && !self.spec.disabled && self.spec.restart != RestartPolicy::No;
        self.retry.as_ref().filter(|retry| wanted && retry.pending)
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
    pub fn begin_after(&mut self, generation: Generation) {
        let first = self.generation.max(generation.next());
        self.creating_since = self.creating_since.map(|_| first);
        self.generation = first;
        self.since = Since::all(first);
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
            if let Some(running) = self.running.take()
                && self.reserved.spec.is_none()
            {
                self.reserved.running = Some(Box::new(running));
            }
        }
        self.problem = None;
    }

    /// Notes with which of its runs an operation ended. The end of one that should run, and which nobody
    /// has looked at yet, is looked at after that.
    pub fn note_run(&mut self, process: &ProcessSeen) {
        if process.phase != Phase::Absent || self.run != RunState::Running {
            self.seen_incarnation = process.incarnation;
        }
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

    /// Gives it this, from the next generation on.
    pub fn set_meta(&mut self, meta: Meta) {
        if self.meta == meta {
            return;
        }
        self.generation = self.generation.next();
        let before = std::mem::replace(&mut self.meta, meta);
        self.reserved.meta.get_or_insert_with(|| Box::new(before));
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

    /// Forgets what it was before a change that will not be taken back. Its names and addresses of before
    /// stay its own, as somebody may still see it with them.
    pub fn forget_before(&mut self) {
        self.reserved.spec = None;
        self.reserved.running = None;
        self.reserved.meta = None;
    }

    /// What was saved and what it ran with before the change under way.
    pub fn before(&self) -> (Spec, Spec) {
        let spec = self.reserved.spec.as_deref().unwrap_or(&self.spec);
        let running = self.reserved.running.as_deref().or(match self.reserved.spec {
            Some(_) => None,
            None => self.running.as_ref(),
        });
        (spec.clone(), running.unwrap_or(spec).clone())
    }

    /// Makes every service be asked again.
    pub fn ask_again(&mut self) {
        self.generation = self.generation.next();
        self.since = Since::all(self.generation);
    }

    /// Whether services have accepted what is newer than it. Then the store was an older copy, and
    /// nothing that they show is known to be what is wanted.
    pub fn is_behind(&self, accepted: Generation) -> bool {
        accepted > self.generation && self.creating_since.is_none()
    }

    /// Makes it newer than what services have accepted, and every service be asked again.
    pub fn catch_up(&mut self, accepted: Generation) {
        self.generation = self.generation.max(accepted);
        self.ask_again();
    }

    /// Makes it go.
    pub fn delete(&mut self) {
        self.set_run(RunState::Stopped);
        self.presence = Presence::Deleting;
    }

    /// Gives it these specifications; `running` is kept only where it differs.
    pub fn set_specs(&mut self, spec: Spec, running: Spec) {
        self.hold();
        if self.reserved.spec.is_none() {
            self.reserved.spec = Some(Box::new(self.spec.clone()));
            if let Some(running) = &self.running {
                self.reserved.running = Some(Box::new(running.clone()));
            }
        }
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
        if now.names() != before.names() || now.ram() != before.ram() {
            self.since.process = self.generation;
        }
        if now.addresses != before.addresses {
            self.since.link = self.generation;
        }
    }
}

/// What is wanted of one of a container's snapshots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotWish {
    /// Its id.
    pub id: SnapshotId,
    /// What.
    pub want: Want,
    /// Nothing else of the container is touched for it, be it up, down or ending just now.
    pub alone: bool,
}

/// What is wanted of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Want {
    /// It is there.
    Taken {
        /// Its name.
        name: Option<SnapshotName>,
    },
    /// It is not there.
    Deleted,
    /// The disk was checked.
    Checked {
        /// The generation that wants it: what was done with an older one does not count.
        since: Generation,
        /// Whether all is mended, whatever is lost, after this snapshot where there is room for one.
        mend_all: bool,
    },
    /// The disk was put back to it.
    Reverted {
        /// The generation that wants it: what was done with an older one does not count.
        since: Generation,
    },
}

impl SnapshotWish {
    /// It is there.
    pub const fn taken(id: SnapshotId, name: Option<SnapshotName>) -> Self {
        Self { id, want: Want::Taken { name }, alone: true }
    }
    /// It is not there.
    pub const fn deleted(id: SnapshotId) -> Self {
        Self { id, want: Want::Deleted, alone: true }
    }
    /// The disk was checked, perhaps after this one was taken.
    pub const fn checked(id: SnapshotId, since: Generation, mend_all: bool) -> Self {
        Self { id, want: Want::Checked { since, mend_all }, alone: false }
    }
    /// The disk was put back to it.
    pub const fn reverted(id: SnapshotId, since: Generation) -> Self {
        Self { id, want: Want::Reverted { since }, alone: false }
    }
}
