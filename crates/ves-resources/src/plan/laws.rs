//! The laws of DESIGN.md for both planners, over generated states of every kind of machine.

use proptest::collection::btree_set;
use proptest::option;
use proptest::prelude::*;
use ves_types::{CpuLimit, Limits, UbcValue};

use super::*;
use crate::fake::{node_hybrid, node_v1, node_v2, nothing, perform, perform_shared, shared_fresh};
use crate::model::{Cap, Device, Node, PERIOD};

const PAGE: u64 = 4096;

const DEVICES: [Device; 2] = [Device { major: 7, minor: 1 }, Device { major: 7, minor: 300 }];

fn ct() -> CtId {
    CtId::try_from(101).expect("valid")
}

fn ubc(resource: UbcResource) -> impl Strategy<Value = Option<(UbcResource, UbcValue)>> {
    let level = prop_oneof![0u64..2000, Just(Limit::UNLIMITED_TEXT)];
    option::of((level.clone(), level)).prop_map(move |pair| {
        pair.map(|(a, b)| {
            let (barrier, limit) = (Limit::from_wire(a.min(b)), Limit::from_wire(a.max(b)));
            (resource, UbcValue { barrier, limit })
        })
    })
}

fn limits() -> impl Strategy<Value = Limits> {
    let rows = [
        UbcResource::Numproc,
        UbcResource::Physpages,
        UbcResource::Swappages,
        UbcResource::Tcpsndbuf,
        UbcResource::Tcprcvbuf,
        UbcResource::Privvmpages,
    ]
    .map(ubc);
    let cpu = option::of((10u32..5000).prop_map(|millicpus| CpuLimit { millicpus }));
    let list = |lists: [&'static str; 3]| {
        option::of(
            proptest::sample::select(lists.to_vec()).prop_map(|s| s.parse().expect("a list")),
        )
    };
    let masks = (list(["1", "0,2-3", "3-9"]), list(["0", "0-1", "0,7"]));
    let io = (option::of(4096u64..9_000_000), option::of(1u64..9000), option::of(0u64..8));
    (rows, cpu, option::of(1u32..9), option::of(8u32..500_000), masks, io).prop_map(
        |(rows, cpu, cpus, cpu_units, (cpu_mask, node_mask), (bps, iops, priority))| Limits {
            ubc: rows.into_iter().flatten().collect(),
            cpu,
            cpus,
            cpu_units,
            cpu_mask,
            node_mask,
            io_bps: bps.and_then(|n| n.try_into().ok()),
            io_iops: iops.and_then(|n| n.try_into().ok()),
            io_priority: priority.and_then(|n| n.try_into().ok()),
        },
    )
}

fn node() -> impl Strategy<Value = Node> {
    let whole = prop_oneof![Just(node_v1()), Just(node_v2()), Just(node_hybrid())];
    let absent = btree_set(
        prop_oneof![
            Just(Setting::MemswMax),
            Just(Setting::SwapMax),
            Just(Setting::TcpMax),
            Just(Setting::Cpus),
        ],
        0..3,
    );
    (whole, absent).prop_map(|(mut node, absent)| {
        node.settings.retain(|s, _| !absent.contains(s));
        node
    })
}

/// A state in which a machine can be: nothing, or some limits reached wholly or in part, then
/// possibly changed by somebody else.
fn state() -> impl Strategy<Value = Observed> {
    let cut = any::<proptest::sample::Index>();
    let meddled = option::of((any::<proptest::sample::Index>(), 1u64..3_000, 1u64..300_000));
    (node(), option::of((limits(), cut)), meddled).prop_map(|(node, reached, meddled)| {
        let mut state = nothing(&node);
        state.device = reached.as_ref().map(|_| DEVICES[0]);
        if let Some((mut desired, cut)) = reached {
            if !node.has(Setting::Cpus) {
                (desired.cpu_mask, desired.node_mask) = (None, None);
            }
            let steps = plan(ct(), Some(&desired), &state).expect("a fresh state");
            for step in &steps[..=cut.index(steps.len())] {
                perform(&mut state, step).expect("a plan's step");
            }
        }
        if let Some((which, pages, number)) = meddled
            && !state.settings.is_empty()
        {
            let at = which.index(state.settings.len());
            let (setting, value) = state.settings.iter_mut().nth(at).expect("within");
            *value = match value {
                // The kernel itself keeps memory with swap at or above memory.
                Value::Level(_) if *setting == Setting::MemswMax => Value::Level(Limit::Unlimited),
                Value::Level(_) if *setting == Setting::MemoryMax => return state,
                Value::Level(_) => Value::Level(Limit::Max(pages * PAGE)),
                Value::Number(_) => Value::Number(number.max(1000)),
                Value::Quota(_, _) => Value::Quota(Limit::Max(number.max(1000)), PERIOD),
                Value::Set(_) => Value::Set([1].into()),
                Value::Throttle(_) => Value::Throttle([(DEVICES[1], pages * PAGE)].into()),
            };
        }
        state
    })
}

/// The goal, said without the planner and without the mapping it uses.
fn holds(limits: &Limits, o: &Observed) -> Result<(), String> {
    let number =
        |r: UbcResource| limits.ubc.get(&r).map_or(Limit::UNLIMITED_TEXT, |v| v.limit.to_wire());
    let bytes =
        |pages: u64| if pages > 1 << 40 { Limit::Unlimited } else { Limit::Max(pages * PAGE) };
    let check =
        |s: Setting, want: Value| match (o.node.settings.contains_key(&s), o.settings.get(&s)) {
            (false, _) => Ok(()),
            (true, Some(have)) if *have == want => Ok(()),
            (true, have) => Err(format!("{s:?} is {have:?}, not {want:?}")),
        };
    let (ram, swap) = (number(UbcResource::Physpages), number(UbcResource::Swappages));
    check(Setting::PidsMax, Value::Level(Limit::from_wire(number(UbcResource::Numproc))))?;
    check(Setting::MemoryMax, Value::Level(bytes(ram)))?;
    check(Setting::SwapMax, Value::Level(bytes(swap)))?;
    check(Setting::MemswMax, Value::Level(bytes(ram.saturating_add(swap))))?;
    check(Setting::MaxDepth, Value::Level(Limit::Max(32)))?;
    check(Setting::MaxDescendants, Value::Level(Limit::Max(4096)))?;
    let quota = limits.cpu.map(|c| u64::from(c.millicpus) * 100);
    if o.node.settings.contains_key(&Setting::Cpus) {
        let have = o.settings.get(&Setting::Cpus);
        let Some(Value::Set(cpus)) = have else { return Err(format!("cpus are {have:?}")) };
        let allowed = |n: &u32| limits.cpu_mask.as_ref().is_none_or(|m| m.numbers().contains(n));
        let may: BTreeSet<u32> = o.node.cpus.iter().copied().filter(allowed).collect();
        match limits.cpus {
            Some(n) if cpus.len() != usize::try_from(n).expect("small").min(may.len()) => {
                return Err(format!("{n} cpus are {cpus:?}"));
            }
            Some(_) if !cpus.is_subset(&may) => {
                return Err(format!("of the cpus {may:?} it has {cpus:?}"));
            }
            None if *cpus != may && !(cpus.is_empty() && limits.cpu_mask.is_none()) => {
                return Err(format!("the cpus {may:?} are {cpus:?}"));
            }
            _ => {}
        }
        let mems = o.settings.get(&Setting::Mems);
        if limits.node_mask.is_some() && mems != Some(&Value::Set([0].into())) {
            return Err(format!("the memory nodes are {mems:?}"));
        }
        let want = quota.map_or(Limit::Unlimited, Limit::Max);
        check(Setting::CpuQuota, Value::Level(want))?;
        check(Setting::CpuMax, Value::Quota(want, PERIOD))?;
    }
    check(Setting::CpuPeriod, Value::Number(PERIOD))?;
    for (settings, most) in [
        ([Setting::IoReadBps, Setting::IoWriteBps], limits.io_bps.map(u64::from)),
        ([Setting::IoReadIops, Setting::IoWriteIops], limits.io_iops.map(u64::from)),
    ] {
        // Of no other device, whatever it was before.
        let want: BTreeMap<_, _> = o.device.zip(most).into_iter().collect();
        for setting in settings {
            check(setting, Value::Throttle(want.clone()))?;
        }
    }
    if o.made != o.node.hierarchies {
        return Err(format!("only made in {:?}", o.made));
    }
    let v2 = o.node.hierarchies.contains(&Hierarchy::V2);
    if v2 != o.delegated {
        return Err(format!("delegated {}", o.delegated));
    }
    if o.record.as_ref() != Some(limits) {
        return Err("not recorded".to_owned());
    }
    Ok(())
}

fn bound(value: Option<&Value>) -> u64 {
    match value {
        Some(Value::Level(limit)) => limit.to_wire(),
        _ => Limit::UNLIMITED_TEXT,
    }
}

/// Processor time in millionths of a period.
fn share(o: &Observed) -> u64 {
    let part = |quota: Limit, period: u64| {
        quota.max().map_or(u64::MAX, |q| q.saturating_mul(1_000_000) / period.max(1))
    };
    match (
        &o.settings.get(&Setting::CpuMax),
        o.settings.get(&Setting::CpuQuota),
        o.settings.get(&Setting::CpuPeriod),
    ) {
        (Some(Value::Quota(quota, period)), _, _) => part(*quota, *period),
        (_, Some(Value::Level(quota)), Some(Value::Number(period))) => part(*quota, *period),
        _ => u64::MAX,
    }
}

const BOUNDS: [Setting; 7] = [
    Setting::PidsMax,
    Setting::MemoryMax,
    Setting::MemswMax,
    Setting::SwapMax,
    Setting::TcpMax,
    Setting::MaxDepth,
    Setting::MaxDescendants,
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn goal_fixed_point_and_determinism(mut state in state(), desired in limits(), moved: bool) {
        if moved {
            state.device = Some(DEVICES[1]);
        }
        let Ok(steps) = plan(ct(), Some(&desired), &state) else {
            return Err(TestCaseError::reject("refused"));
        };
        prop_assert_eq!(plan(ct(), Some(&desired), &state), Ok(steps.clone()));
        let mut after = state;
        for step in &steps {
            perform(&mut after, step).expect("a kernel accepts every step of a plan");
        }
        prop_assert_eq!(holds(&desired, &after), Ok(()));
        prop_assert_eq!(plan(ct(), Some(&desired), &after), Ok(vec![]));
    }

    #[test]
    fn crash_after_any_prefix(state in state(), desired in limits()) {
        let Ok(steps) = plan(ct(), Some(&desired), &state) else {
            return Err(TestCaseError::reject("refused"));
        };
        for cut in 0..=steps.len() {
            let mut after = state.clone();
            for step in &steps[..cut] {
                perform(&mut after, step).expect("a plan's step");
            }
            if let Some(last) = steps[..cut].last() {
                let once = after.clone();
                perform(&mut after, last).expect("a step repeated");
                prop_assert_eq!(&once, &after, "{} is not idempotent", last);
            }
            for step in plan(ct(), Some(&desired), &after).expect("was not refused before") {
                perform(&mut after, &step).expect("a plan's step");
            }
            prop_assert_eq!(holds(&desired, &after), Ok(()));
        }
    }

    /// No bound is ever absent or greater than both what it was and what it becomes.
    #[test]
    fn safety(state in state(), desired in limits()) {
        let Ok(steps) = plan(ct(), Some(&desired), &state) else {
            return Err(TestCaseError::reject("refused"));
        };
        let mut last = state.clone();
        for step in &steps {
            perform(&mut last, step).expect("a plan's step");
        }
        let mut now = state.clone();
        for step in &steps {
            let removes = matches!(step, Step::Remove(_) | Step::RemoveDelegated | Step::Forget);
            prop_assert!(!removes, "{} in a plan to ensure", step);
            perform(&mut now, step).expect("a plan's step");
            for s in BOUNDS {
                let allowed = bound(state.settings.get(&s)).max(bound(last.settings.get(&s)));
                prop_assert!(bound(now.settings.get(&s)) <= allowed, "{:?} after {}", s, step);
            }
            prop_assert!(share(&now) <= share(&state).max(share(&last)), "share after {}", step);
        }
        // The record is what was reached, so it comes last.
        let record = steps.iter().position(|s| matches!(s, Step::Record(..)));
        prop_assert!(record.is_none_or(|at| at == steps.len() - 1));
    }

    #[test]
    fn removal_ends_with_nothing(mut state in state()) {
        state.device = state.recorded_device;
        let steps = plan(ct(), None, &state).expect("nobody is inside");
        for cut in 0..=steps.len() {
            let mut after = state.clone();
            for step in &steps[..cut] {
                perform(&mut after, step).expect("a plan's step");
            }
            for step in plan(ct(), None, &after).expect("nobody is inside") {
                perform(&mut after, &step).expect("a plan's step");
            }
            prop_assert_eq!(&after, &nothing(&after.node));
            prop_assert_eq!(plan(ct(), None, &after), Ok(vec![]));
        }
    }

    #[test]
    fn groups_with_processes_never_go(mut state in state()) {
        state.populated = true;
        prop_assert_eq!(plan(ct(), None, &state), Err(Refusal::Running(ct())));
    }

    #[test]
    fn the_parent_group(node in node(), cut in any::<proptest::sample::Index>()) {
        let mut shared = shared_fresh(&node);
        let steps = plan_shared(&shared);
        for step in &steps[..cut.index(steps.len() + 1)] {
            perform_shared(&mut shared, step).expect("a plan's step");
        }
        for step in plan_shared(&shared) {
            perform_shared(&mut shared, &step).expect("a plan's step");
        }
        prop_assert_eq!(plan_shared(&shared), vec![]);
        prop_assert_eq!(&shared.made, &node.hierarchies);
        prop_assert!(shared.hands_on.is_superset(&node.controllers));
        prop_assert!(shared.cpuset.is_none_or(|s| s.cpus == node.cpus && s.mems == node.mems));
    }

    #[test]
    fn no_sum_of_containers_takes_the_nodes_reserve(
        node in node(), total in 1u64..1 << 40, reserve in 0u64..1 << 40, used in 0u64..1 << 40,
        limit in prop_oneof![Just(Limit::Unlimited), (0u64..1 << 40).prop_map(Limit::Max)],
    ) {
        let mut shared = shared_fresh(&node);
        prop_assert_eq!(shared.caps.len(), 2, "every kind of machine can");
        for cap in shared.caps.values_mut() {
            *cap = Cap { home: cap.home, total, reserve, used, limit };
        }
        let start = shared.clone();
        for step in plan_shared(&start) {
            perform_shared(&mut shared, &step).expect("a plan's step");
        }
        prop_assert_eq!(plan_shared(&shared), vec![], "fixed point");
        for (setting, cap) in &shared.caps {
            let bound = cap.bound(*setting);
            prop_assert!(bound >= total / 2 / PAGE * PAGE && (reserve > total / 2 || bound <= total - reserve));
            if used <= bound {
                prop_assert_eq!(cap.limit, Limit::Max(bound));
            } else {
                prop_assert_eq!(cap.limit, limit, "what is in use is not taken away");
            }
        }
    }
}

fn reached(node: &Node, limits: &Limits) -> Observed {
    let mut state = nothing(node);
    for step in plan(ct(), Some(limits), &state).expect("planned") {
        perform(&mut state, &step).expect("a plan's step");
    }
    state
}

fn ram_and_swap(ram: u64, swap: u64) -> Limits {
    let value = |n| UbcValue { barrier: Limit::Max(n), limit: Limit::Max(n) };
    let ubc = [(UbcResource::Physpages, value(ram)), (UbcResource::Swappages, value(swap))];
    Limits { ubc: ubc.into(), ..Limits::default() }
}

fn shown(node: &Node, from: &Limits, to: &Limits) -> Vec<String> {
    let steps = plan(ct(), Some(to), &reached(node, from)).expect("planned");
    steps.iter().map(ToString::to_string).collect()
}

#[test]
fn the_memory_pair_grows_and_shrinks_in_order() {
    let v1 = node_v1();
    let grow = shown(&v1, &ram_and_swap(100, 10), &ram_and_swap(200, 10));
    assert_eq!(
        grow,
        [
            "set memory.memsw.limit_in_bytes to 860160",
            "set memory.limit_in_bytes to 819200",
            "keep the limits that were reached",
        ]
    );
    let shrink = shown(&v1, &ram_and_swap(200, 10), &ram_and_swap(100, 10));
    assert_eq!(
        shrink,
        [
            "set memory.limit_in_bytes to 409600",
            "set memory.memsw.limit_in_bytes to 450560",
            "keep the limits that were reached",
        ]
    );
}

#[test]
fn lowering_memory_below_what_is_in_use_is_refused() {
    let mut state = reached(&node_v2(), &ram_and_swap(1000, 0));
    state.populated = true;
    state.unreclaimable = 500 * PAGE;
    let wish = |ram, swap, state: &Observed| plan(ct(), Some(&ram_and_swap(ram, swap)), state);
    let refusal = wish(400, 0, &state).expect_err("processes would be killed");
    assert_eq!(refusal, Refusal::InUse { ct: ct(), used: 500 * PAGE, limit: 400 * PAGE });
    assert!(wish(600, 0, &state).is_ok());
    state.node.swap_free = 1 << 30;
    assert!(wish(400, 200, &state).is_ok(), "swap takes the rest");
}

#[test]
fn what_the_node_cannot_keep_is_refused_by_name() {
    let mut node = node_v2();
    node.settings.remove(&Setting::CpuMax);
    node.settings.remove(&Setting::CpuWeight);
    let refused = |limits| match plan(ct(), Some(&limits), &nothing(&node)) {
        Err(Refusal::Lacks { field, .. }) => Some(field),
        _ => None,
    };
    let cpu = Some(CpuLimit { millicpus: 500 });
    assert_eq!(refused(Limits { cpu, ..Limits::default() }), Some("cpu_millicpus"));
    assert_eq!(refused(Limits { cpu_units: Some(9), ..Limits::default() }), Some("cpu_units"));
    assert_eq!(refused(Limits { cpus: Some(1), ..Limits::default() }), None);
    assert_eq!(refused(Limits::default()), None);
    node.settings.remove(&Setting::Cpus);
    let cpu_mask = "0".parse().ok();
    let wish = plan(ct(), Some(&Limits { cpu_mask, ..Limits::default() }), &nothing(&node));
    assert!(matches!(wish, Err(Refusal::Lacks { field: "cpu_mask", .. })), "{wish:?}");
}

#[test]
fn a_mask_of_nothing_that_is_there_is_refused() {
    let wish = |cpu_mask: &str, node_mask: &str| {
        let (cpu_mask, node_mask) = (cpu_mask.parse().ok(), node_mask.parse().ok());
        let wish = Limits { cpu_mask, node_mask, ..Limits::default() };
        let planned = plan(ct(), Some(&wish), &nothing(&node_v1()));
        planned.map(drop).map_err(|refusal| refusal.to_string())
    };
    let said = "this node has processors 0-3, and none of 4-7; name some that are there, or all";
    assert_eq!(wish("4-7", "0"), Err(said.to_owned()));
    let said = "this node has memory nodes 0, and none of 1; name some that are there, or all";
    assert_eq!(wish("0", "1"), Err(said.to_owned()));
    assert_eq!(wish("3-7", "0-1"), Ok(()));
}
