//! From what is wanted and what is, to the steps between. Pure: no kernel, no clock, no chance.
//!
//! Two planners: [`plan_shared`] for the group all containers are in, [`plan`] for one container's.
//! Whatever a plan sets, it sets to its final value at once: at no moment is a limit that stays
//! absent or greater than both what it was and what it will be.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use ves_host::cgroup::Controller;
use ves_types::{CtId, IndexList, Limit, Limits, UbcResource};

use crate::model::{Device, Hierarchy, Home, Observed, Setting, Shared, Value, render_list};
use crate::target;

/// One change to a container's groups. Idempotent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Makes the group in a hierarchy.
    Make(Hierarchy),
    /// Hands version 2 controllers on to the delegated group.
    EnableControllers(BTreeSet<Controller>),
    /// Makes the delegated version 2 group.
    MakeDelegated,
    /// Sets a setting.
    Set {
        /// Which.
        setting: Setting,
        /// In which version.
        home: Home,
        /// To what.
        value: Value,
    },
    /// Keeps what was reached, and the device it is about.
    Record(Box<Limits>, Option<Device>),
    /// Removes the delegated group and what the container made below it.
    RemoveDelegated,
    /// Removes the group from a hierarchy.
    Remove(Hierarchy),
    /// Forgets what was reached.
    Forget,
}

/// One change to the group all containers are in. Idempotent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SharedStep {
    /// Makes the group in a hierarchy.
    Make(Hierarchy),
    /// Hands version 2 controllers on from the root to the parent group.
    EnableInRoot(BTreeSet<Controller>),
    /// Hands version 2 controllers on from the parent group to containers' groups.
    EnableControllers(BTreeSet<Controller>),
    /// Sets version 1's memory nodes.
    Mems(BTreeSet<u32>),
    /// Sets version 1's processors.
    Cpus(BTreeSet<u32>),
    /// Bounds all containers together.
    Cap {
        /// Which bound.
        setting: Setting,
        /// In which version.
        home: Home,
        /// The most.
        most: u64,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Make(h) => write!(f, "make the group in {h}"),
            Self::EnableControllers(c) => write!(f, "enable {} for the delegated group", names(c)),
            Self::MakeDelegated => f.pad("make the delegated group"),
            Self::Set { setting, home, value } => {
                write!(f, "set {} to {value}", setting.file(*home).unwrap_or("nothing"))
            }
            Self::Record(..) => f.pad("keep the limits that were reached"),
            Self::RemoveDelegated => f.pad("remove the delegated group"),
            Self::Remove(h) => write!(f, "remove the group from {h}"),
            Self::Forget => f.pad("forget the limits"),
        }
    }
}

impl fmt::Display for SharedStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Make(h) => write!(f, "make the parent group in {h}"),
            Self::EnableInRoot(c) => write!(f, "enable {} for the parent group", names(c)),
            Self::EnableControllers(c) => write!(f, "enable {} for containers", names(c)),
            Self::Mems(set) => write!(f, "set the common memory nodes to {}", render_list(set)),
            Self::Cpus(set) => write!(f, "set the common processors to {}", render_list(set)),
            Self::Cap { setting, home, most } => {
                let file = setting.file(*home).unwrap_or("nothing");
                write!(f, "set {file} of all containers together to {most}")
            }
        }
    }
}

fn names(controllers: &BTreeSet<Controller>) -> String {
    let names: Vec<_> = controllers.iter().filter_map(|c| c.v2_name()).collect();
    names.join(" ")
}

/// Why a wish cannot be planned for. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Groups with processes in them cannot go.
    #[error("container {0} has processes in its control groups; stop it, then remove its limits")]
    Running(CtId),
    /// The node cannot keep the limit.
    #[error("this node has no {feature}, so {field} cannot be kept; leave it out, or {remedy}")]
    Lacks {
        /// The request's field.
        field: &'static str,
        /// What is missing.
        feature: &'static str,
        /// What would bring it.
        remedy: &'static str,
    },
    /// There is nothing of what a mask names.
    #[error("this node has {what} {there}, and none of {asked}; name some that are there, or all")]
    NotThere {
        /// The request's field.
        field: &'static str,
        /// What they are.
        what: &'static str,
        /// Which were asked for.
        asked: IndexList,
        /// Which there are.
        there: String,
    },
    /// The kernel would have to kill processes to keep the limit.
    #[error(
        "container {ct} uses {used} bytes that cannot be given back, more than the new limit of \
         {limit}; free memory inside, or set the limit with the container stopped"
    )]
    InUse {
        /// The container.
        ct: CtId,
        /// What it uses.
        used: u64,
        /// What was asked for.
        limit: u64,
    },
}

/// Makes the parent group ready for containers.
pub fn plan_shared(observed: &Shared) -> Vec<SharedStep> {
    let Shared { hierarchies, made, controllers, root_hands_on, hands_on, cpuset, caps } = observed;
    let mut steps = Vec::new();
    if !controllers.is_subset(root_hands_on) {
        steps.push(SharedStep::EnableInRoot(controllers.clone()));
    }
    steps.extend(hierarchies.difference(made).map(|h| SharedStep::Make(*h)));
    for (&setting, cap) in caps {
        let most = cap.bound(setting);
        // Below what is in use a kernel kills, or refuses: the bound waits until there is less.
        if cap.limit != Limit::Max(most) && cap.used <= most {
            steps.push(SharedStep::Cap { setting, home: cap.home, most });
        }
    }
    if !controllers.is_subset(hands_on) {
        steps.push(SharedStep::EnableControllers(controllers.clone()));
    }
    if let Some(sets) = cpuset {
        if sets.mems != sets.root_mems {
            steps.push(SharedStep::Mems(sets.root_mems.clone()));
        }
        if sets.cpus != sets.root_cpus {
            steps.push(SharedStep::Cpus(sets.root_cpus.clone()));
        }
    }
    steps
}

/// The steps from what is to what is wanted; `None` wants nothing to be there.
///
/// # Errors
/// [`Refusal`], and nothing was changed.
pub fn plan(ct: CtId, desired: Option<&Limits>, observed: &Observed) -> Result<Vec<Step>, Refusal> {
    match desired {
        Some(desired) => plan_ensure(ct, desired, observed),
        None if observed.populated => Err(Refusal::Running(ct)),
        None => Ok(plan_remove(observed)),
    }
}

fn plan_ensure(ct: CtId, desired: &Limits, observed: &Observed) -> Result<Vec<Step>, Refusal> {
    let node = &observed.node;
    let want = target::target(ct, desired, node, observed.device);
    admit(ct, desired, observed, &want)?;
    let mut steps: Vec<_> =
        node.hierarchies.difference(&observed.made).map(|h| Step::Make(*h)).collect();
    let delegates = node.hierarchies.contains(&Hierarchy::V2);
    if delegates && !node.controllers.is_subset(&observed.hands_on) {
        steps.push(Step::EnableControllers(node.controllers.clone()));
    }
    if delegates && !observed.delegated {
        steps.push(Step::MakeDelegated);
    }
    steps.extend(plan_settings(observed, &want));
    if observed.record.as_ref() != Some(desired) || observed.recorded_device != observed.device {
        steps.push(Step::Record(Box::new(desired.clone()), observed.device));
    }
    Ok(steps)
}

fn admit(
    ct: CtId,
    desired: &Limits,
    observed: &Observed,
    want: &BTreeMap<Setting, Value>,
) -> Result<(), Refusal> {
    let node = &observed.node;
    let lacks = |field, feature, remedy| Err(Refusal::Lacks { field, feature, remedy });
    let kernel = "run a kernel with CONFIG_CFS_BANDWIDTH and the cpu controller mounted";
    let quota = node.has(Setting::CpuMax) || node.has(Setting::CpuQuota);
    if desired.cpu.is_some() && !quota {
        return lacks("cpu_millicpus", "processor quota", kernel);
    }
    if desired.cpus.is_some() && !quota && !node.has(Setting::Cpus) {
        return lacks("cpus", "choice of processors", "mount the cpuset controller");
    }
    if desired.cpu_units.is_some() && !node.has(Setting::CpuWeight) {
        return lacks("cpu_units", "processor weight", "mount the cpu controller");
    }
    let throttles = [
        ("io_bps", desired.io_bps.is_some(), Setting::IoReadBps),
        ("io_iops", desired.io_iops.is_some(), Setting::IoReadIops),
    ];
    for (field, wanted, setting) in throttles {
        if wanted && !node.has(setting) {
            let kernel =
                "run a kernel with CONFIG_BLK_DEV_THROTTLING and the blkio or io controller";
            return lacks(field, "limit of disk traffic", kernel);
        }
    }
    let masks = [
        ("cpu_mask", "processors", &desired.cpu_mask, &node.cpus, Setting::Cpus),
        ("node_mask", "memory nodes", &desired.node_mask, &node.mems, Setting::Mems),
    ];
    for (field, what, mask, there, setting) in masks {
        let Some(asked) = mask else { continue };
        if !node.has(setting) {
            return lacks(field, "choice of processors", "mount the cpuset controller");
        }
        if asked.among(there).is_none() {
            let (asked, there) = (asked.clone(), render_list(there));
            return Err(Refusal::NotThere { field, what, asked, there });
        }
    }
    // Version 2 kills processes until a lowered limit is kept, version 1 refuses to lower it.
    if let Some(Value::Level(Limit::Max(limit))) = want.get(&Setting::MemoryMax)
        && observed
            .settings
            .get(&Setting::MemoryMax)
            .is_some_and(|have| *have > Value::Level(Limit::Max(*limit)))
        && observed.populated
    {
        let swap = desired.limit_bytes(UbcResource::Swappages);
        let room = swap.map_or(node.swap_free, |swap| swap.0.min(node.swap_free));
        let used = observed.unreclaimable.saturating_sub(room);
        if used > *limit {
            return Err(Refusal::InUse { ct, used, limit: *limit });
        }
    }
    Ok(())
}

fn plan_settings(observed: &Observed, want: &BTreeMap<Setting, Value>) -> Vec<Step> {
    let homes = &observed.node.settings;
    let have = |s: Setting, home: Home| {
        observed.settings.get(&s).cloned().unwrap_or_else(|| s.fresh(home))
    };
    let mut steps = Vec::new();
    for (&setting, value) in want {
        let Some(&home) = homes.get(&setting) else { continue };
        if have(setting, home) != *value {
            steps.push(Step::Set { setting, home, value: value.clone() });
        }
    }
    // Memory with swap is never below memory: it goes first where memory grows beyond what both may
    // be now. In all other cases memory goes first, as the order of settings has it.
    if want.get(&Setting::MemoryMax) > Some(&have(Setting::MemswMax, Home::V1)) {
        swap_order(&mut steps, Setting::MemoryMax, Setting::MemswMax);
    }
    // The share of a period is never more than it was or will be: where the period gets shorter, the
    // quota goes first.
    if want.get(&Setting::CpuPeriod) < Some(&have(Setting::CpuPeriod, Home::V1)) {
        swap_order(&mut steps, Setting::CpuPeriod, Setting::CpuQuota);
    }
    steps
}

/// Exchanges the places of two settings, where both are set.
fn swap_order(steps: &mut [Step], one: Setting, other: Setting) {
    let at = |which: Setting| {
        steps.iter().position(|s| matches!(s, Step::Set { setting, .. } if *setting == which))
    };
    if let (Some(a), Some(b)) = (at(one), at(other)) {
        steps.swap(a, b);
    }
}

fn plan_remove(observed: &Observed) -> Vec<Step> {
    let mut steps = Vec::new();
    if observed.delegated {
        steps.push(Step::RemoveDelegated);
    }
    steps.extend(observed.made.iter().map(|h| Step::Remove(*h)));
    if observed.record.is_some() {
        steps.push(Step::Forget);
    }
    steps
}

#[cfg(test)]
mod laws;
