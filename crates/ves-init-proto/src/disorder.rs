//! Whether a list of init's steps is in a safe order. Pure.
//!
//! It is written without looking at [`crate::init_plan`], whose tests and the monitor check each list with
//! it. Never here: which steps there are, and how they are made.

use crate::step::{InitStep, Side};

/// What is wrong with the order of a list of steps; nothing, if it can be performed safely.
pub fn disorder(steps: &[InitStep]) -> Option<String> {
    let place = |what: &dyn Fn(&InitStep) -> bool| steps.iter().position(what);
    let last = |what: &dyn Fn(&InitStep) -> bool| steps.iter().rposition(what);
    let is_mount = |s: &InitStep| {
        matches!(
            s,
            InitStep::AttachRoot
                | InitStep::AttachDev
                | InitStep::Mount { .. }
                | InitStep::ReadOnly { .. }
                | InitStep::Mask(_)
                | InitStep::ShowConsole
                | InitStep::ShowViews
        )
    };
    let before = |a: Option<usize>, b: Option<usize>, rule: &str| match (a, b) {
        (Some(a), Some(b)) if a < b => None,
        _ => Some(rule.to_owned()),
    };
    let enter = place(&|s| matches!(s, InitStep::EnterRoot));
    let join = place(&|s| matches!(s, InitStep::JoinGroups));
    let drop = place(&|s| matches!(s, InitStep::Drop(_)));
    let filter = place(&|s| matches!(s, InitStep::Filter(_)));
    let isolate = place(&|s| matches!(s, InitStep::IsolateMounts));
    let root = place(&|s| matches!(s, InitStep::BecomeRoot));
    let die = place(&|s| matches!(s, InitStep::DieWithMonitor));
    let ns = place(&|s| matches!(s, InitStep::NewGroupNamespace));
    let clone = place(&|s| matches!(s, InitStep::Clone { .. }));
    let devices = place(&|s| matches!(s, InitStep::FilterDevices { .. }));
    let made = place(&|s| matches!(s, InitStep::MakeDev { .. }));
    let given = place(&|s| matches!(s, InitStep::GiveDevices { .. }));
    let cgroup2 = place(&|s| matches!(s, InitStep::Mount { fs, .. } if fs == "cgroup2"));
    let kernels =
        last(&|s| matches!(s, InitStep::Mount { fs, .. } if fs == "proc" || fs == "sysfs"));
    let views = place(&|s| matches!(s, InitStep::ShowViews));
    let privileged = last(&|s| {
        is_mount(s)
            || matches!(
                s,
                InitStep::EnterRoot
                    | InitStep::SetHostname(_)
                    | InitStep::OwnHostname(_)
                    | InitStep::SetSysctl { .. }
                    | InitStep::WriteEtc(_)
                    | InitStep::Introduce { .. }
            )
    });
    let exec = place(&|s| matches!(s, InitStep::Exec { .. }));
    let outer_last = last(&|s| s.side() == Side::Outer);
    let inner_first = place(&|s| s.side() == Side::Inner);
    let end = steps.len().checked_sub(1);
    if exec.is_none() || exec != end {
        return Some("init must be the last step and the only one".to_owned());
    }
    if filter.map(|f| f + 1) != exec {
        return Some("the filter must come right before init".to_owned());
    }
    before(join, ns, "groups must be joined before they become the root of what is seen")
        .or_else(|| {
            cgroup2.and_then(|_| before(ns, cgroup2, "cgroup2 shows the node without a namespace"))
        })
        .or_else(|| {
            devices.and_then(|_| {
                before(devices, clone, "devices are filtered after the first process")
            })
        })
        .or_else(|| {
            given.and_then(|_| {
                let first = devices.max(made);
                before(first, given, "devices are given before there is a place for them")
                    .or_else(|| before(given, clone, "devices are given to what runs already"))
            })
        })
        .or_else(|| before(last(&is_mount), enter, "every mount must be made before the root"))
        .or_else(|| {
            views.and_then(|_| before(kernels, views, "what is mounted later would hide the views"))
        })
        .or_else(|| before(isolate, place(&is_mount), "mounts must be isolated before the first"))
        .or_else(|| before(privileged, drop, "capabilities are given up too early"))
        .or_else(|| before(drop, filter, "the filter must come after giving up capabilities"))
        .or_else(|| before(root, die, "a change of identity forgets whom to die with"))
        .or_else(|| before(outer_last, inner_first, "outer steps come first"))
}
