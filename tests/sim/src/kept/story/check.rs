//! Whether a store has all that the story is told for.

use std::collections::BTreeSet;

use ves_coordinator::container::record::{Presence, Record, RunState, SnapshotWish, Want};
use ves_coordinator::operation::kinds::set::SetMode;
use ves_coordinator::operation::kinds::{Action, Stage};
use ves_coordinator::operation::record::{OpRecord, OpState};
use ves_coordinator::store::{Kind, Row};

use crate::kept::read;

/// Ways to end, and stages at which it is cut, also on the way back, of each kind of operation.
type Wanted = (&'static str, &'static [OpState], &'static [(Option<Stage>, bool)]);

const WANTED: &[Wanted] = {
    use OpState::{Cancelled, Failed, Succeeded};
    use Stage::{
        Changed, Created, Gone, Mounted, Repaired, Running, SnapshotDeleted, SnapshotSwitched,
        SnapshotTaken, Stopped,
    };
    const BOTH: &[OpState] = &[Succeeded, Failed];
    const fn at(stage: Stage) -> (Option<Stage>, bool) {
        (Some(stage), false)
    }
    const fn back(stage: Stage) -> (Option<Stage>, bool) {
        (Some(stage), true)
    }
    &[
        ("create", BOTH, &[at(Created), back(Created)]),
        ("start", &[Succeeded, Failed, Cancelled], &[at(Running), back(Running)]),
        ("mount", BOTH, &[at(Mounted), back(Mounted)]),
        ("stop", BOTH, &[at(Stopped), back(Stopped)]),
        ("umount", BOTH, &[at(Stopped)]),
        ("restart", BOTH, &[at(Mounted), at(Running), back(Running)]),
        ("set", BOTH, &[at(Stopped), at(Changed), back(Changed), at(Running), back(Running)]),
        ("destroy", BOTH, &[at(Gone)]),
        ("repair", &[Succeeded], &[at(Repaired)]),
        ("snapshot", BOTH, &[at(SnapshotTaken), back(SnapshotTaken)]),
        ("snapshot-switch", BOTH, &[at(SnapshotSwitched)]),
        ("snapshot-delete", BOTH, &[at(SnapshotDeleted)]),
        ("template build", &[Succeeded, Failed, Cancelled], &[(None, false)]),
    ]
};

/// Sees that the store has what the story was told for.
pub(in crate::kept) fn check(rows: &[Row]) {
    let of = |kind| rows.iter().filter(move |(key, _)| key.kind == kind);
    let operations: Vec<OpRecord> = of(Kind::Operation).map(|(k, v)| read(k, v)).collect();
    for (kind, ends, cuts) in WANTED {
        let own = || operations.iter().filter(|op| op.action.kind().name() == *kind);
        for state in *ends {
            assert!(own().any(|op| op.state == *state), "{kind}, {state:?}");
        }
        for (stage, back) in *cuts {
            let cut = |op: &OpRecord| {
                op.state == OpState::Running && (op.stage, op.undoing.is_some()) == (*stage, *back)
            };
            assert!(own().any(cut), "{kind}, cut at {stage:?}, on the way back: {back}");
        }
    }
    assert!(operations.iter().any(|op| op.request.is_none()));
    assert!(operations.iter().any(|op| op.state == OpState::Running && op.cancel));
    let set = |op: &OpRecord, mode| matches!(&op.action, Action::Set(set) if set.set_mode == mode);
    for mode in [SetMode::Refuse, SetMode::Restart, SetMode::Later] {
        assert!(operations.iter().any(|op| set(op, mode)), "{mode:?}");
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
    some("that is being created", &|r| {
        r.creating_since.is_some() && r.presence == Presence::Creating
    });
    some("that is taken back before it was made", &|r| {
        r.creating_since.is_some() && r.presence == Presence::Deleting
    });
    some("whose destroy failed", &|r| r.presence == Presence::Deleting && r.problem.is_some());
    some("that is mounted", &|r| r.run == RunState::Mounted && !busy.contains(&r.id));
    some("that runs with something else", &|r| r.running.is_some() && !busy.contains(&r.id));
    some("that gives up what it ran with", &|r| r.reserved.running.is_some());
    let back: Vec<_> =
        operations.iter().filter(|op| op.cancel && op.state == OpState::Running).collect();
    some("that is given back what it ran with", &|r| {
        r.reserved.running.is_some() && back.iter().any(|op| op.ct == Some(r.id))
    });
    some("that may be dirty", &|r| {
        r.maybe_dirty && r.run == RunState::Stopped && !busy.contains(&r.id)
    });
    some("that holds what it had", &|r| !r.reserved.names.is_empty() && !busy.contains(&r.id));
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
