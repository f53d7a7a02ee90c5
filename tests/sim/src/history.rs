//! Histories: what several clients do to a few containers at once while daemons fail and are killed, all of
//! it from one number.
//!
//! The number makes the clients' calls and the mishaps ([`History::of`], pure); which of what goes on at
//! once comes first is the machine's matter. Afterwards everything must have settled, the node hold what
//! the records say, and every container have a way out. Never here: what a daemon does.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use futures::future::join_all;
use ves_fake::{Mishap, Victim};
use ves_kit::Numbers;
use ves_proto::Reason;
use ves_proto::common::{Limits, UbcValue};

use crate::command::Command;
use crate::settled;
use crate::sim::Sim;
use crate::words as pb;

/// The containers there may be.
const CTS: [u32; 3] = [101, 102, 103];
/// The addresses these share.
const ADDRESSES: [&str; 4] = ["192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1"];

/// What a client wants of a container.
#[derive(Debug, Clone)]
pub enum Verb {
    /// Create it, with an address or without.
    Create(Option<&'static str>),
    /// Start it.
    Start,
    /// Stop it.
    Stop,
    /// Restart it.
    Restart,
    /// Let it have this address and no other, saved.
    Address(&'static str),
    /// Let it have so many processes, saved.
    Processes(u64),
    /// Let its volume be so large, in GiB, with a restart where that is needed.
    Grow(u64),
    /// Take a snapshot.
    Snapshot,
    /// Go back to the one that was taken last.
    Revert,
    /// Delete the one that was taken first.
    DropSnapshot,
    /// Destroy it.
    Destroy,
}

/// When a mishap comes.
#[derive(Debug, Clone, Copy)]
pub enum When {
    /// At the n-th call of a service.
    Call(usize),
    /// At the n-th step on the node.
    Step(usize),
}

/// A history.
#[derive(Debug, Clone)]
pub struct History {
    /// What each client does, one after another, until the node boots and then.
    pub clients: Vec<[Vec<(u32, Verb)>; 2]>,
    /// What goes wrong.
    pub mishaps: Vec<(When, Mishap)>,
    /// Whether the node boots in the middle.
    pub boots: bool,
    /// Whether volumes grow only while they are not mounted.
    pub stiff: bool,
}

impl History {
    /// The history of a number.
    pub fn of(seed: u64) -> Self {
        let mut numbers = Numbers(seed);
        let n = &mut numbers;
        let clients = 2 + n.below(2);
        let part = |n: &mut Numbers| (0..2 + n.below(4)).map(|_| (n.one(&CTS), verb(n))).collect();
        let clients = (0..clients).map(|_| [part(n), part(n)]).collect();
        let mishaps = (0..n.below(4)).map(|_| mishap(n)).collect();
        Self { clients, mishaps, boots: n.below(4) == 0, stiff: n.below(3) == 0 }
    }

    /// Lets it happen on a new node, which `spoil` may have spoiled; fails with what does not hold afterwards.
    pub fn happen(&self, spoil: impl FnOnce(&Sim)) -> Result<(), String> {
        let sim = Sim::new();
        spoil(&sim);
        sim.kernel().volumes.grow_online(!self.stiff);
        for (when, mishap) in &self.mishaps {
            match when {
                When::Call(n) => sim.script().at_call(*n, *mishap),
                When::Step(n) => sim.script().at_step(*n, *mishap),
            }
        }
        let snapshots = Snapshots::default();
        for half in 0..2 {
            if half == 1 && self.boots {
                sim.boot("boot-2");
            }
            let clients = self.clients.iter().map(|parts| client(&sim, &parts[half], &snapshots));
            sim.within(join_all(clients)).map_err(|late| format!("clients: {late}"))?;
        }
        // Nothing goes wrong any more.
        sim.script().end();
        settled::check(&sim, &CTS)
    }
}

fn verb(n: &mut Numbers) -> Verb {
    match n.below(16) {
        0..=3 => Verb::Create((n.below(3) > 0).then(|| n.one(&ADDRESSES))),
        4..=6 => Verb::Start,
        7 => Verb::Stop,
        8 => Verb::Restart,
        9 => Verb::Address(n.one(&ADDRESSES)),
        10 => Verb::Processes(n.one(&[50, 60])),
        11 => Verb::Grow(n.one(&[3, 4])),
        12 => Verb::Snapshot,
        13 => Verb::Revert,
        14 => Verb::DropSnapshot,
        _ => Verb::Destroy,
    }
}

fn mishap(n: &mut Numbers) -> (When, Mishap) {
    let when = match n.below(2) {
        0 => When::Call(n.below(60)),
        _ => When::Step(n.below(200)),
    };
    let victim = n.one(&[Victim::Daemon, Victim::Coordinator, Victim::All]);
    let reason = n.one(&[Reason::HostFailed, Reason::Busy]);
    let mishap = n.one(&[
        Mishap::FailBefore(reason),
        Mishap::FailAfter(reason),
        Mishap::KillBefore(victim),
        Mishap::KillAfter(victim),
    ]);
    (when, mishap)
}

/// The snapshots that were taken of each container.
type Snapshots = Mutex<BTreeMap<u32, Vec<String>>>;

fn command(ct: u32, verb: &Verb, snapshots: &Snapshots) -> Option<Command> {
    let id = ct.to_string();
    let taken = |pick: fn(&Vec<String>) -> Option<&String>| {
        let all = snapshots.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&ct).and_then(pick).cloned()
    };
    Some(match verb {
        Verb::Create(address) => Command::create(ct, |s| {
            s.addresses = address.iter().map(|a| (*a).to_owned()).collect();
        }),
        Verb::Start => Command::start(&id),
        Verb::Stop => Command::stop(&id),
        Verb::Restart => Command::restart(&id),
        Verb::Address(address) => Command::update(&id, |r| {
            r.remove_addresses = vec!["all".to_owned()];
            r.add_addresses = vec![(*address).to_owned()];
            r.save = true;
        }),
        Verb::Processes(most) => {
            let value = UbcValue { barrier: *most, limit: *most };
            let ubc = [("numproc".to_owned(), value)].into();
            let limits = Some(Limits { ubc, ..Limits::default() });
            let spec = pb::ContainerSpec { limits, ..pb::ContainerSpec::default() };
            Command::set(&id, &["limits.ubc.numproc"], spec)
        }
        Verb::Grow(gib) => Command::update(&id, |r| {
            r.update_mask = vec!["disk_bytes".to_owned()];
            r.spec = Some(pb::ContainerSpec { disk_bytes: gib << 30, ..Default::default() });
            r.save = true;
            r.set_mode = pb::SetMode::Restart;
        }),
        Verb::Snapshot => Command::snapshot(&id, ""),
        Verb::Revert => Command::snapshot_switch(&id, &taken(|all| all.last())?),
        Verb::DropSnapshot => Command::snapshot_delete(&id, &taken(|all| all.first())?),
        Verb::Destroy => Command::delete(&id),
    })
}

/// One client: each call until somebody answers it, and its operation to the end. It may be refused, and
/// it may fail.
async fn client(sim: &Sim, verbs: &[(u32, Verb)], snapshots: &Snapshots) {
    for (ct, verb) in verbs {
        let Some(command) = command(*ct, verb, snapshots) else { continue };
        if let Ok(op) = sim.carry(&command).await
            && matches!(verb, Verb::Snapshot)
        {
            let mut all = snapshots.lock().unwrap_or_else(PoisonError::into_inner);
            all.entry(*ct).or_default().push(op.snapshot);
        }
    }
}
