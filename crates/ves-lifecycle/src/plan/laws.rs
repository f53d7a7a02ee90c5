//! The planner's laws, over all states a container's processes can be in.

use ves_types::InitArgv;

use super::*;
use crate::fake::Model;

fn spec(slot: u32) -> Spec {
    Spec {
        slot: slot.try_into().expect("a slot"),
        hostname: Some("web".parse().expect("a name")),
        init: InitArgv::default(),
        nameservers: vec![],
        search: vec![],
        max_ptys: None,
        shm_bytes: None,
        ram_bytes: Some(64 << 20),
        devices: vec![],
        capabilities_off: std::collections::BTreeSet::new(),
        features: ves_types::Features::default(),
    }
}

fn bools() -> [bool; 2] {
    [false, true]
}

/// Every state that can be observed, of those that differ for the planner.
fn states() -> Vec<Observed> {
    let run = |started_unix_ms| Run { init_pid: 7, started_unix_ms, incarnation: 3 };
    let all = answering();
    let still = all.iter().filter(|s| s.monitor.is_none() && !s.leftovers);
    let silent: Vec<_> = still
        .flat_map(|state| {
            [None, Some(run(0)), Some(run(1))].into_iter().flat_map(move |run| {
                let state = Observed { run, ..state.clone() };
                let stray = Observed { stray: true, ..state.clone() };
                [Observed { unresponsive: true, ..state }, stray]
            })
        })
        .collect();
    all.into_iter().chain(silent).collect()
}

fn answering() -> Vec<Observed> {
    let monitor = |running, slot: u32| Monitor {
        running,
        init_pid: 7,
        started_unix_ms: i64::from(running),
        booted: false,
        stopping: false,
        kind: InitKind::Systemd,
        spec: (slot > 0).then(|| spec(slot)),
        incarnation: 3,
    };
    let monitors = [
        None,
        Some(monitor(false, 20)),
        Some(monitor(false, 21)),
        Some(monitor(false, 0)),
        Some(monitor(true, 20)),
        Some(monitor(true, 21)),
        Some(Monitor { spec: Some(Spec { hostname: None, ..spec(20) }), ..monitor(true, 20) }),
        Some(Monitor { spec: Some(Spec { ram_bytes: None, ..spec(20) }), ..monitor(true, 20) }),
        Some(Monitor { spec: Some(Spec { hostname: None, ..spec(20) }), ..monitor(false, 20) }),
        Some(monitor(true, 0)),
    ];
    let end = End {
        incarnation: 2,
        cause: ExitCause::Halted,
        ended: Ended::Signal(2),
        started_unix_ms: 5,
    };
    let mut all = Vec::new();
    for monitor in &monitors {
        for frozen in bools() {
            for leftovers in bools() {
                for last in [None, Some(end)] {
                    for mounted in bools() {
                        for grouped in bools() {
                            if monitor.is_some() && leftovers {
                                continue;
                            }
                            let monitor = monitor.clone();
                            all.push(Observed {
                                monitor,
                                unresponsive: false,
                                stray: false,
                                run: None,
                                frozen,
                                leftovers,
                                last,
                                mounted,
                                grouped,
                            });
                        }
                    }
                }
            }
        }
    }
    all
}

fn goals() -> Vec<Desired> {
    let goals = [
        Goal::Absent { grace_ms: 0 },
        Goal::Absent { grace_ms: 100 },
        Goal::Created,
        Goal::Running,
        Goal::StillRunning,
        Goal::Frozen,
    ];
    let all = goals.iter().flat_map(|&goal| {
        let of = |spec| {
            [0, 20].map(|early_exit_grace_ms| Desired {
                goal,
                spec: Option::clone(&spec),
                early_exit_grace_ms,
            })
        };
        [of(None), of(Some(spec(20)))].concat()
    });
    all.collect()
}

/// Whether what runs has the names and the memory that are wanted.
fn alike(desired: &Desired, monitor: &Monitor) -> bool {
    let (Some(wanted), Some(has)) = (&desired.spec, &monitor.spec) else { return true };
    has.names() == wanted.names() && wanted.ram_bytes.is_none_or(|ram| has.ram_bytes == Some(ram))
}

/// Written without the planner.
fn reached(desired: &Desired, state: &Observed) -> bool {
    let monitor = state.monitor.as_ref();
    if state.unresponsive || state.stray {
        return false;
    }
    match desired.goal {
        Goal::Absent { .. } => monitor.is_none() && !state.leftovers && state.last.is_none(),
        Goal::Created => {
            monitor.is_some_and(|m| m.running || m.spec == desired.spec) && !state.leftovers
        }
        Goal::Running => monitor.is_some_and(|m| m.running && alike(desired, m)) && !state.frozen,
        Goal::StillRunning => {
            monitor.is_none_or(|m| (!m.running || alike(desired, m)) && !state.frozen)
        }
        Goal::Frozen => monitor.is_some_and(|m| m.running) && state.frozen,
    }
}

#[test]
fn what_has_ended_is_not_started_to_keep_it_running() {
    for state in states() {
        for desired in goals().into_iter().filter(|d| d.goal == Goal::StillRunning) {
            let steps = plan(&desired, &state).unwrap_or_default();
            let harmless = |step: &Step| matches!(step, Step::Thaw | Step::Name(_) | Step::Fit(_));
            assert!(steps.iter().all(harmless), "{steps:?}: {state:?}");
        }
    }
}

#[test]
fn goal_and_fixed_point() {
    let mut planned = 0;
    for state in states() {
        for desired in goals() {
            let Ok(steps) = plan(&desired, &state) else { continue };
            planned += 1;
            for obedient in bools() {
                let mut model = Model { state: state.clone(), obedient, ..Model::default() };
                for step in &steps {
                    model.apply(step);
                }
                let after = model.state;
                assert!(reached(&desired, &after), "{desired:?} of {state:?}: {after:?}");
                assert_eq!(plan(&desired, &after), Ok(vec![]), "{desired:?} of {after:?}");
            }
        }
    }
    assert!(planned > 300, "{planned}");
}

#[test]
fn a_crash_after_any_step_is_made_good() {
    for state in states() {
        for desired in goals() {
            let Ok(steps) = plan(&desired, &state) else { continue };
            for stop in 0..=steps.len() {
                let mut model = Model { state: state.clone(), obedient: false, ..Model::default() };
                for step in &steps[..stop] {
                    model.apply(step);
                }
                // Killed in the middle of a step: it was done, and is done again.
                if let Some(step) = stop.checked_sub(1).and_then(|i| steps.get(i)) {
                    model.apply(step);
                }
                let again = plan(&desired, &model.state).expect("it could before");
                for step in &again {
                    model.apply(step);
                }
                assert!(reached(&desired, &model.state), "{desired:?} {state:?} {stop}");
                assert_eq!(plan(&desired, &model.state), Ok(vec![]));
            }
        }
    }
}

#[test]
fn nothing_running_is_ever_hurt_on_the_way_up() {
    let running = |s: &Observed| s.stray || s.monitor.as_ref().is_some_and(|m| m.running);
    for state in states().into_iter().filter(running) {
        for desired in goals() {
            let steps = plan(&desired, &state).unwrap_or_default();
            let hurts = |s: &Step| {
                matches!(
                    s,
                    Step::Kill
                        | Step::EndSessions
                        | Step::AskInit { .. }
                        | Step::SpawnMonitor(_)
                        | Step::Cleanup
                )
            };
            if !matches!(desired.goal, Goal::Absent { .. }) {
                assert!(!steps.iter().any(hurts), "{desired:?} {state:?}");
            }
        }
    }
}

#[test]
fn init_is_asked_before_it_is_killed_and_thawed_before_it_is_asked() {
    for state in states() {
        let Some(monitor) = &state.monitor else { continue };
        let goal = Goal::Absent { grace_ms: 9 };
        let desired = Desired { goal, spec: None, early_exit_grace_ms: 20 };
        let steps = plan(&desired, &state).expect("always possible");
        let at = |what: fn(&Step) -> bool| steps.iter().position(what);
        let (thaw, ask) = (at(|s| *s == Step::Thaw), at(|s| matches!(s, Step::AskInit { .. })));
        assert_eq!(ask.is_some(), monitor.running);
        let sessions = at(|s| *s == Step::EndSessions);
        assert_eq!(sessions.map(|at| at + 1), ask, "what came from outside goes first");
        let ms =
            steps.iter().find_map(|s| if let Step::AskInit { ms } = s { Some(*ms) } else { None });
        assert_eq!(ms, monitor.running.then_some(9), "it has all of its time, and no more");
        assert!(ask < at(|s| *s == Step::Kill));
        assert_eq!(thaw, state.frozen.then_some(0));
    }
}

#[test]
fn what_no_monitor_answers_for_is_only_ended() {
    for state in states().into_iter().filter(|s| s.unresponsive || s.stray) {
        for desired in goals() {
            match (plan(&desired, &state), desired.goal) {
                (Ok(steps), Goal::Absent { .. }) => {
                    // Nothing is taken away of what lives, and the frozen do not die.
                    let ends = [Step::Kill, Step::Cleanup, Step::Forget];
                    let thaws = usize::from(state.frozen);
                    assert_eq!(steps.get(thaws..), Some(&ends[..]));
                    assert_eq!(steps.contains(&Step::Thaw), state.frozen);
                }
                (planned, _) if state.stray => assert_eq!(planned, Err(Refusal::Stray)),
                (planned, _) => assert_eq!(planned, Err(Refusal::Unresponsive)),
            }
        }
    }
}

#[test]
fn names_and_memory_are_given_to_what_runs_and_has_others_and_nothing_else_of_it_changes() {
    let mut given = [0, 0];
    for state in states() {
        for desired in goals() {
            for step in plan(&desired, &state).unwrap_or_default() {
                let (kind, spec) = match step {
                    Step::Name(spec) => (0, spec),
                    Step::Fit(spec) => (1, spec),
                    _ => continue,
                };
                let monitor = state.monitor.as_ref().expect("somebody remembers it");
                assert!(monitor.running && !alike(&desired, monitor));
                let before = monitor.spec.clone().expect("it is known");
                let ram_bytes = if kind == 1 { spec.ram_bytes } else { before.ram_bytes };
                assert_eq!(Spec { ram_bytes, ..before.with_names(spec.names()) }, *spec);
                given[kind] += 1;
            }
        }
    }
    assert!(given.iter().all(|n| *n > 0));
}

#[test]
fn nothing_is_made_without_volume_and_groups() {
    for state in states().into_iter().filter(|s| !s.mounted || !s.grouped) {
        for desired in goals() {
            let steps = plan(&desired, &state).unwrap_or_default();
            assert!(!steps.iter().any(|s| matches!(s, Step::SpawnMonitor(_))));
        }
    }
}

#[test]
fn an_init_that_was_let_go_is_watched_for_a_moment() {
    let mut released = 0;
    for state in states() {
        for desired in goals() {
            let steps = plan(&desired, &state).unwrap_or_default();
            let Some(at) = steps.iter().position(|s| *s == Step::Release) else { continue };
            released += 1;
            let rest = steps.get(at + 1..).expect("in range");
            let ms = desired.early_exit_grace_ms;
            assert_eq!(rest, vec![Step::AwaitEnd { ms }; usize::from(ms > 0)]);
        }
    }
    assert!(released > 0);
}
