//! What monitors, records and control files say about a container, as the planner's facts. Pure: what
//! they say is read by `kernel`.

use ves_init_proto::report::{self, ExitRecord, StateRecord, Status};

use crate::plan::{End, Monitor, Run};

/// A live monitor by its answer.
pub fn monitor(status: Status) -> Monitor {
    let Status { running, init_pid, started_unix_ms, booted, kind, incarnation, opaque_spec } =
        status;
    // A spec that another release wrote may be unknown; the container goes on as it is.
    let spec = serde_json::from_str(&opaque_spec).ok();
    Monitor { running, init_pid, started_unix_ms, booted, kind, spec, incarnation }
}

/// The end of a run by its record.
pub fn end(record: &ExitRecord) -> End {
    let &ExitRecord { incarnation, cause, ended, started_unix_ms, ended_unix_ms: _ } = record;
    End { incarnation, cause, ended, started_unix_ms }
}

/// The run that a record tells of, where the process with the number of its init, which has this
/// `/proc/PID/stat`, is that init and not a later process with the same number.
pub fn run(record: &StateRecord, stat: &str) -> Option<Run> {
    let &StateRecord { init_pid, init_start, incarnation, started_unix_ms } = record;
    let same = report::parse_start_ticks(stat) == Some(init_start);
    same.then_some(Run { init_pid, started_unix_ms, incarnation })
}

/// Whether a freezer's state says that all is frozen, where `frozen` is its line for that.
pub fn frozen(state: &str, frozen: &str) -> bool {
    state.lines().any(|line| line == frozen)
}
