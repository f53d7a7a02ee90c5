//! What monitors, records and control files say about a container, as the planner's facts. Pure: what
//! they say is read by `kernel`.

use ves_init_proto::process::{self, field, masks};
use ves_init_proto::report::{ExitRecord, StateRecord, Status};

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
    let same = process::start_ticks(stat) == Some(init_start);
    same.then_some(Run { init_pid, started_unix_ms, incarnation })
}

/// Whether a freezer's state says that all is frozen, where `frozen` is its line for that.
pub fn frozen(state: &str, frozen: &str) -> bool {
    state.lines().any(|line| line == frozen)
}

/// A process that is in a process id namespace below this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inside {
    /// Its number in there; 1 is init.
    pub number: u32,
    /// Its parent's number here.
    pub parent: u32,
    /// Whether it was killed and only has to go yet.
    pub dying: bool,
}

/// The process of a `/proc/PID/status`, where it is inside; a helper on its way in is not yet.
pub fn inside(status: &str) -> Option<Inside> {
    const SIGKILL: u32 = 9;
    let number = field(status, "NSpid")?.split_ascii_whitespace().skip(1).last()?.parse().ok()?;
    let parent = field(status, "PPid")?.parse().ok()?;
    // What was sent to all threads stays pending until the process is gone.
    let dying = masks(status, "ShdPnd", SIGKILL)
        || field(status, "State").is_some_and(|state| state.starts_with(['Z', 'X']));
    Some(Inside { number, parent, dying })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines of a container's init on Linux 6.18, its monitor's and what is made of them.
    fn status(state: &str, nspid: &str, pending: &str) -> String {
        format!(
            "Name:\tsystemd\nUmask:\t0000\nState:\t{state}\nTgid:\t4242\nNgid:\t0\nPid:\t4242\n\
             PPid:\t4240\nTracerPid:\t0\nNStgid:\t{nspid}\nNSpid:\t{nspid}\nNSpgid:\t{nspid}\n\
             SigPnd:\t0000000000000000\nShdPnd:\t{pending}\nSigBlk:\t7fe3c0fe28014a03\n"
        )
    }

    #[test]
    fn who_is_inside_and_who_is_on_the_way() {
        let none = "0000000000000000";
        let init = Inside { number: 1, parent: 4240, dying: false };
        assert_eq!(inside(&status("S (sleeping)", "4242\t1", none)), Some(init));
        let other = Inside { number: 17, ..init };
        assert_eq!(inside(&status("S (sleeping)", "4242\t17", none)), Some(other));
        assert_eq!(inside(&status("S (sleeping)", "4242", none)), None);
        let dying = Some(Inside { dying: true, ..init });
        assert_eq!(inside(&status("Z (zombie)", "4242\t1", none)), dying);
        assert_eq!(inside(&status("S (sleeping)", "4242\t1", "0000000000000100")), dying);
        assert_eq!(inside("Name:\tNSpid:\t1\t1\n"), None);
    }
}
