//! What to do so that a container is in the wanted phase. Pure.
//!
//! ```text
//!            SpawnMonitor      Release, AwaitEnd       Freeze
//!   ABSENT ───────────────▶ CREATED ───────▶ RUNNING ───────────▶ FROZEN
//!      ▲                       │                │ ▲      Thaw        │
//!      │ Cleanup, Forget       │ Kill           │ └──────────────────┘
//!      └───────────────────────┴────────────────┘ EndSessions, AskInit, Kill
//! ```
//!
//! A running container counts as created: who asks for CREATED wants its namespaces to exist.

pub mod asking;

use std::fmt;

pub use ves_init_proto::Spec;
use ves_init_proto::devices;
use ves_init_proto::report::{Ended, InitKind};
use ves_types::{DeviceId, DeviceName, DevicePattern, ExitCause};

/// The phase that is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// Nothing of it, after asking init and this many milliseconds of patience; 0: without asking.
    Absent {
        /// How long init may take.
        grace_ms: u32,
    },
    /// At least created.
    Created,
    /// Running.
    Running,
    /// Running where it runs, and else what it is: nobody starts what has ended meanwhile.
    StillRunning,
    /// Frozen.
    Frozen,
}

/// What is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    /// The phase.
    pub goal: Goal,
    /// How it should be made, needed where it may have to be made.
    pub spec: Option<Spec>,
    /// How long an init that was let go is watched, in case it ends at once; 0: not at all.
    pub early_exit_grace_ms: u32,
}

/// A live monitor and its init.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Monitor {
    /// Whether init executes.
    pub running: bool,
    /// Init's process id on the node.
    pub init_pid: u32,
    /// When it executed.
    pub started_unix_ms: i64,
    /// Whether it says that it booted.
    pub booted: bool,
    /// Whether it goes down, as far as it says or shows that.
    pub stopping: bool,
    /// What it is.
    pub kind: InitKind,
    /// How it was made; `None` where that cannot be understood, by another version say.
    pub spec: Option<Spec>,
    /// The number of this run.
    pub incarnation: u64,
}

/// A run as its monitor wrote it down when it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Init's process id on the node.
    pub init_pid: u32,
    /// When it executed; 0 while it waits.
    pub started_unix_ms: i64,
    /// The number of this run.
    pub incarnation: u64,
}

/// How a container last ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// The number of the run.
    pub incarnation: u64,
    /// Why.
    pub cause: ExitCause,
    /// How init ended.
    pub ended: Ended,
    /// When init had executed.
    pub started_unix_ms: i64,
}

/// What there is of a container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Observed {
    /// Its monitor, where that can be asked.
    pub monitor: Option<Monitor>,
    /// Whether there is a monitor that does not answer.
    pub unresponsive: bool,
    /// Whether its processes live though no monitor is found: its files were lost, or it died and they did
    /// not.
    pub stray: bool,
    /// What is known of the run of these two; `None` also where it has come to none.
    pub run: Option<Run>,
    /// Whether its processes are frozen.
    pub frozen: bool,
    /// Whether something is left of a run that is over or was never begun.
    pub leftovers: bool,
    /// How it last ended, where that was not forgotten.
    pub last: Option<End>,
    /// Whether its volume is mounted.
    pub mounted: bool,
    /// Whether its control groups exist.
    pub grouped: bool,
}

/// One thing to do. Each may be repeated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Start the monitor, which makes the namespaces and a process that waits to be init.
    SpawnMonitor(Box<Spec>),
    /// Let the process become init.
    Release,
    /// End the sessions of commands inside, so that init waits for nothing that was started in one.
    EndSessions,
    /// Ask init to stop, in its own language, until it has ended; see [`asking`].
    AskInit {
        /// How long it may take.
        ms: u32,
    },
    /// Wait until it ended, but not longer than this.
    AwaitEnd {
        /// How long.
        ms: u32,
    },
    /// Give what runs the names of this, which it is like from then on.
    Name(Box<Spec>),
    /// Make the memory file systems of what runs fit the memory of this, which it is like from then on.
    Fit(Box<Spec>),
    /// Kill whatever still lives.
    Kill,
    /// Freeze all processes.
    Freeze,
    /// Let them go on.
    Thaw,
    /// Take away what is left of a run.
    Cleanup,
    /// Forget how it last ended.
    Forget,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SpawnMonitor(spec) => write!(f, "make namespaces in id slot {}", spec.slot.get()),
            Self::Release => write!(f, "let init go"),
            Self::EndSessions => write!(f, "end its sessions"),
            Self::AskInit { ms } => write!(f, "ask init to stop, and wait at most {ms} ms"),
            Self::AwaitEnd { ms } => write!(f, "wait for the end, at most {ms} ms"),
            Self::Name(_) => write!(f, "set its names"),
            Self::Fit(_) => write!(f, "fit its memory file systems to its memory"),
            Self::Kill => write!(f, "kill what still lives"),
            Self::Freeze => write!(f, "freeze"),
            Self::Thaw => write!(f, "thaw"),
            Self::Cleanup => write!(f, "take away what is left"),
            Self::Forget => write!(f, "forget the last end"),
        }
    }
}

/// Why nothing can be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The volume is not mounted.
    #[error("its volume is not mounted; mount it first")]
    NotMounted,
    /// There are no control groups.
    #[error("its control groups do not exist; set its limits first")]
    NotGrouped,
    /// It is not running.
    #[error("it is not running; start it first")]
    NotRunning,
    /// Its monitor does not answer.
    #[error("its monitor does not answer; stop the container, which ends the monitor too")]
    Unresponsive,
    /// Its processes live without a monitor.
    #[error(
        "its processes run, but the monitor that should watch over them is lost; stop it fast, which \
         kills them by their control group"
    )]
    Stray,
    /// The specification is missing.
    #[error("the request lacks its specification")]
    NoSpec,
}

/// The steps to the goal; none where it is reached.
///
/// # Errors
/// [`Refusal`] where something else must change first.
pub fn plan(desired: &Desired, observed: &Observed) -> Result<Vec<Step>, Refusal> {
    let mut steps = Vec::new();
    let spec = || desired.spec.clone().ok_or(Refusal::NoSpec);
    match (desired.goal, &observed.monitor) {
        (Goal::Absent { .. }, _) if observed.unresponsive || observed.stray => {
            end(&mut steps, observed, 0, None);
            steps.push(Step::Forget);
        }
        _ if observed.unresponsive => return Err(Refusal::Unresponsive),
        // A second init would have the same mounted file system.
        _ if observed.stray => return Err(Refusal::Stray),
        (Goal::Absent { grace_ms }, Some(monitor)) => {
            end(&mut steps, observed, grace_ms, Some(monitor));
            steps.push(Step::Forget);
        }
        (Goal::Absent { .. }, None) => {
            if observed.leftovers {
                steps.push(Step::Cleanup);
            }
            if observed.leftovers || observed.last.is_some() {
                steps.push(Step::Forget);
            }
        }
        (Goal::Created, Some(monitor)) => {
            let wanted = spec()?;
            if !monitor.running && monitor.spec.as_ref() != Some(&wanted) {
                able(observed)?;
                end(&mut steps, observed, 0, None);
                steps.push(Step::SpawnMonitor(Box::new(wanted)));
            }
        }
        (Goal::Running, Some(monitor)) => {
            if observed.frozen {
                steps.push(Step::Thaw);
            }
            let changes = adapt(desired, monitor);
            if monitor.running {
                steps.extend(changes);
            } else {
                if !changes.is_empty() {
                    // Nobody has seen it as it waits.
                    able(observed)?;
                    steps.clear();
                    end(&mut steps, observed, 0, None);
                    steps.push(Step::SpawnMonitor(Box::new(spec()?)));
                }
                release(&mut steps, desired);
            }
        }
        (Goal::Created | Goal::Running, None) => {
            let wanted = spec()?;
            able(observed)?;
            if observed.frozen {
                // A frozen group would freeze the new process before it is anything.
                steps.push(Step::Thaw);
            }
            if observed.leftovers {
                steps.push(Step::Cleanup);
            }
            steps.push(Step::SpawnMonitor(Box::new(wanted)));
            if desired.goal == Goal::Running {
                release(&mut steps, desired);
            }
        }
        (Goal::StillRunning, monitor) => {
            if let Some(monitor) = monitor {
                if observed.frozen {
                    steps.push(Step::Thaw);
                }
                if monitor.running {
                    steps.extend(adapt(desired, monitor));
                }
            }
        }
        (Goal::Frozen, Some(monitor)) if monitor.running => {
            if !observed.frozen {
                steps.push(Step::Freeze);
            }
        }
        (Goal::Frozen, _) => return Err(Refusal::NotRunning),
    }
    Ok(steps)
}

/// The first device by name of what may have to be made that the node does not give, where `allow` is what it
/// gives besides the usual ones. What is asked for by number is known only where it is made.
pub fn not_given<'a>(
    desired: &'a Desired,
    observed: &Observed,
    allow: &[DevicePattern],
) -> Option<&'a DeviceName> {
    let runs = observed.monitor.as_ref().is_some_and(|monitor| monitor.running);
    let starts = matches!(desired.goal, Goal::Created | Goal::Running) && !runs;
    let devices = desired.spec.iter().filter(|_| starts).flat_map(|spec| &spec.devices);
    let mut names = devices.filter_map(|device| match &device.id {
        DeviceId::Name(name) => Some(name),
        DeviceId::Number { .. } => None,
    });
    names.find(|name| !devices::given(name, allow))
}

/// Names and memory that are others than those it has, as far as these are known: all that changes of what
/// runs. What loses its limit keeps its sizes until its next start.
fn adapt(desired: &Desired, monitor: &Monitor) -> Vec<Step> {
    let (Some(wanted), Some(has)) = (&desired.spec, &monitor.spec) else { return vec![] };
    let mut steps = Vec::new();
    let named = has.clone().with_names(wanted.names());
    if named != *has {
        steps.push(Step::Name(Box::new(named.clone())));
    }
    if wanted.ram_bytes.is_some() && wanted.ram_bytes != has.ram_bytes {
        steps.push(Step::Fit(Box::new(Spec { ram_bytes: wanted.ram_bytes, ..named })));
    }
    steps
}

/// Lets init go, and stays a moment to see whether it does.
fn release(steps: &mut Vec<Step>, desired: &Desired) {
    steps.push(Step::Release);
    if desired.early_exit_grace_ms > 0 {
        steps.push(Step::AwaitEnd { ms: desired.early_exit_grace_ms });
    }
}

fn able(observed: &Observed) -> Result<(), Refusal> {
    if !observed.mounted {
        return Err(Refusal::NotMounted);
    }
    if !observed.grouped {
        return Err(Refusal::NotGrouped);
    }
    Ok(())
}

/// Ends a run.
fn end(steps: &mut Vec<Step>, observed: &Observed, grace_ms: u32, ask: Option<&Monitor>) {
    if observed.frozen {
        // Frozen processes neither answer nor, in version 1, die.
        steps.push(Step::Thaw);
    }
    if ask.is_some_and(|m| m.running) && grace_ms > 0 {
        steps.push(Step::EndSessions);
        steps.push(Step::AskInit { ms: grace_ms });
    }
    steps.push(Step::Kill);
    steps.push(Step::Cleanup);
}

#[cfg(test)]
mod laws;
