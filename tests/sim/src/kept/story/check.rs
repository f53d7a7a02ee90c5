//! Whether a store has all that the story is told for.

use std::collections::BTreeSet;

use ves_coordinator::model::{Action, OpRecord, OpState, Otherwise, Presence, Record, RunState};
use ves_coordinator::plan::snapshot::{SnapshotWish, Want};
use ves_coordinator::store::{Kind, Row};

use crate::kept::read;

/// Ways to end, and stages at which it is cut, also on the way back, of each kind of operation.
type Wanted = (&'static str, &'static [OpState], &'static [(u32, bool)]);

const WANTED: &[Wanted] = {
    use OpState::{Cancelled, Failed, Succeeded};
    const BOTH: &[OpState] = &[Succeeded, Failed];
    const THERE: &[(u32, bool)] = &[(1, false)];
    const AND_BACK: &[(u32, bool)] = &[(1, false), (1, true)];
    &[
        ("create", BOTH, AND_BACK),
        ("start", &[Succeeded, Failed, Cancelled], AND_BACK),
        ("mount", BOTH, AND_BACK),
        ("stop", BOTH, AND_BACK),
        ("umount", BOTH, THERE),
        ("restart", BOTH, &[(1, false), (2, false), (2, true)]),
        ("set", BOTH, &[(1, false), (1, true), (2, false), (3, false), (3, true)]),
        ("destroy", BOTH, THERE),
        ("repair", &[Succeeded], THERE),
        ("snapshot", BOTH, AND_BACK),
        ("snapshot-switch", BOTH, THERE),
        ("snapshot-delete", BOTH, THERE),
        ("template build", &[Succeeded, Failed, Cancelled], &[(0, false)]),
    ]
};

/// Sees that the store has what the story was told for.
pub(in crate::kept) fn check(rows: &[Row]) {
    let of = |kind| rows.iter().filter(move |(key, _)| key.kind == kind);
    let operations: Vec<OpRecord> = of(Kind::Operation).map(|(k, v)| read(k, v)).collect();
    for (kind, ends, cuts) in WANTED {
        let own = || operations.iter().filter(|op| op.action.kind() == *kind);
        for state in *ends {
            assert!(own().any(|op| op.state == *state), "{kind}, {state:?}");
        }
        for (stage, back) in *cuts {
            let cut = |op: &OpRecord| {
                op.state == OpState::Running && (op.stage, op.undoing.is_some()) == (*stage, *back)
            };
            assert!(own().any(cut), "{kind}, cut at {stage}, on the way back: {back}");
        }
    }
    assert!(operations.iter().any(|op| op.request_id.is_empty()));
    assert!(operations.iter().any(|op| op.state == OpState::Running && op.cancel));
    let set = |op: &OpRecord, way: Otherwise| matches!(op.action, Action::Set { otherwise, .. } if otherwise == way);
    for way in [Otherwise::Refuse, Otherwise::Restart, Otherwise::Later] {
        assert!(operations.iter().any(|op| set(op, way)), "{way:?}");
    }
    let containers: Vec<Record> = of(Kind::Container).map(|(k, v)| read(k, v)).collect();
    let busy: BTreeSet<_> = operations
        .iter()
        .filter(|op| op.state == OpState::Running)
        .filter_map(|op| op.ct)
        .collect();
    let wishes =
        |is: fn(&SnapshotWish) -> bool| move |r: &Record| r.snapshot.as_ref().is_some_and(is);
    let some = |what: &str, is: &dyn Fn(&Record) -> bool| {
        assert!(containers.iter().any(is), "none {what}");
    };
    some("that is being created", &|r| r.presence == Presence::Creating && r.unborn);
    some("that is taken back unborn", &|r| r.presence == Presence::Deleting && r.unborn);
    some("whose destroy failed", &|r| r.presence == Presence::Deleting && r.problem.is_some());
    some("that is mounted", &|r| r.run == RunState::Mounted && !busy.contains(&r.id));
    some("that runs with something else", &|r| r.running.is_some() && !busy.contains(&r.id));
    some("that gives up what it ran with", &|r| r.held.running.is_some());
    let back: Vec<_> =
        operations.iter().filter(|op| op.cancel && op.state == OpState::Running).collect();
    some("that is given back what it ran with", &|r| {
        r.held.running.is_some() && back.iter().any(|op| op.ct == Some(r.id))
    });
    some("with residue", &|r| r.residue && r.run == RunState::Stopped && !busy.contains(&r.id));
    some("that holds what it had", &|r| !r.held.names.is_empty() && !busy.contains(&r.id));
    some("that rebooted", &|r| r.seen_incarnation > 0 && r.run == RunState::Running);
    some("with a wish left over", &|r| r.snapshot.is_some() && !busy.contains(&r.id));
    some("that wants a snapshot", &wishes(|w| matches!(w.want, Want::Taken { name: Some(_) })));
    some("that wants one less", &wishes(|w| w.want == Want::Deleted));
    some("that wants to go back", &wishes(|w| matches!(w.want, Want::Reverted { .. })));
    some(
        "that wants one once it is up",
        &wishes(|w| matches!(w.want, Want::Taken { .. }) && !w.alone),
    );
}
