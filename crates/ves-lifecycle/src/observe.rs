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

/// A field of a `/proc/PID/status`. A name in one may look like anything, and holds no line break.
fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    let mut values = status.lines().filter_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
    values.next().map(str::trim)
}

/// A field that is a mask of signals, the lowest bit for signal 1.
fn mask(status: &str, name: &str) -> Option<u64> {
    u64::from_str_radix(field(status, name)?, 16).ok()
}

/// Whether the process of a `/proc/PID/status` hears a signal: it has a handler for it, or blocks it and
/// so reads it when it likes. The first process of a namespace never gets any other.
pub fn hears(status: &str, signal: u32) -> bool {
    let bit = signal.checked_sub(1).and_then(|n| 1_u64.checked_shl(n)).unwrap_or_default();
    ["SigCgt", "SigBlk"].iter().any(|name| mask(status, name).is_some_and(|m| m & bit != 0))
}

/// The process of a `/proc/PID/status`, where it is inside; a helper on its way in is not yet.
pub fn inside(status: &str) -> Option<Inside> {
    const SIGKILL: u64 = 1 << (9 - 1);
    let number = field(status, "NSpid")?.split_ascii_whitespace().skip(1).last()?.parse().ok()?;
    let parent = field(status, "PPid")?.parse().ok()?;
    // What was sent to all threads stays pending until the process is gone.
    let dying = mask(status, "ShdPnd").is_some_and(|mask| mask & SIGKILL != 0)
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

    #[test]
    fn who_hears_a_signal() {
        // systemd blocks those it reads; busybox has handlers; one that has just begun neither.
        let masks = |blocked, caught| format!("SigBlk:\t{blocked:016x}\nSigCgt:\t{caught:016x}\n");
        for (text, hears_term, hears_halt) in [
            (masks(0, 0), false, false),
            (masks(1 << 36, 0), false, true),
            (masks(0, 1 << 14 | 1 << 36), true, true),
            ("SigIgn:\tffffffffffffffff\n".to_owned(), false, false),
        ] {
            assert_eq!((hears(&text, 15), hears(&text, 37)), (hears_term, hears_halt), "{text}");
        }
        assert!(!hears(&masks(u64::MAX, u64::MAX), 0) && !hears(&masks(u64::MAX, 0), 65));
    }
}
