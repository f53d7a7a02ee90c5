//! What monitors, records and control files say about a container, as the planner's facts. Pure: what
//! they say is read by `kernel`.

use std::time::Duration;

use ves_init_proto::process::{self, field, masks};
use ves_init_proto::report::{ExitRecord, StateRecord, Status};

use crate::plan::{End, Monitor, Run};

/// A live monitor by its answer.
pub fn monitor(status: Status) -> Monitor {
    let Status {
        running,
        init_pid,
        started_unix_ms,
        booted,
        stopping,
        kind,
        incarnation,
        features: _,
        opaque_spec,
        dropped: _,
    } = status;
    // A spec that another release wrote may be unknown; the container goes on as it is.
    let spec = serde_json::from_str(&opaque_spec).ok();
    Monitor { running, init_pid, started_unix_ms, booted, stopping, kind, spec, incarnation }
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

/// How long an init is looked at that says nothing of its boot. One that shows nothing of it at all has booted
/// after the first of these; any has after the second, whatever it shows.
const SHOWS: Duration = Duration::from_secs(1);
pub(crate) const BOOTS: Duration = Duration::from_secs(180);
/// The children of an init by which its boot is seen, in the field's inits: scripts that it waits for, and
/// what it starts after them.
const BOOTING: [&str; 5] = ["rc", "rcS", "openrc", "openrc-run", "1"];
const BOOTED: [&str; 7] =
    ["getty", "agetty", "mingetty", "login", "sulogin", "runsvdir", "s6-svscan"];

/// Whether an init that executes for `runs` has booted as far as that is seen from outside, by its title,
/// which is what it shows as its command line, and the names of its first children. It is the container
/// that says these, and only its own starts are told by them.
pub fn has_booted(title: &str, children: &[String], runs: Duration) -> bool {
    let mut words = title.split([' ', '\0']);
    let program = words.next().unwrap_or_default().rsplit('/').next().unwrap_or_default();
    if !["init", "runit", "runit-init"].contains(&program) || runs >= BOOTS {
        return true;
    }
    // System V's init shows its runlevel, and that it has none yet.
    let level = words.next().unwrap_or_default();
    if level == "boot" || ["[S]", "[0]", "[6]"].contains(&level) {
        return false;
    }
    let any = |names: &[&str]| children.iter().any(|name| names.contains(&name.as_str()));
    !any(&BOOTING) && (any(&BOOTED) || runs >= SHOWS)
}

/// A child of an init: its name, and what it shows as its command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Child {
    /// Its name.
    pub name: String,
    /// Its command line.
    pub title: String,
}

/// Whether an init goes down, as far as that is seen from outside, by its title and its first children. It is
/// the container that says these, and only its own end is waited for by them.
pub fn goes_down(title: &str, children: &[Child]) -> bool {
    let mut words = title.split([' ', '\0']);
    let program = words.next().unwrap_or_default().rsplit('/').next().unwrap_or_default();
    // openrc is told what to do, whoever runs it.
    let openrc = |child: &Child| {
        let mut words = child.title.split([' ', '\0']);
        let down = || words.any(|word| ["shutdown", "reboot"].contains(&word));
        ["openrc", "rc"].contains(&child.name.as_str()) && { down }()
    };
    match program {
        // systemd's last program, which the older versions show alone.
        "systemd-shutdown" => true,
        // System V's runlevels.
        "init" if ["[0]", "[6]"].contains(&words.next().unwrap_or_default()) => true,
        "init" | "openrc-init" => children.iter().any(openrc),
        // runit's third stage.
        "runit" | "runit-init" => children.iter().any(|child| child.name == "3"),
        _ => false,
    }
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
    fn who_has_booted() {
        let (young, old) = (Duration::from_millis(50), Duration::from_secs(2));
        for (title, children, runs, booted) in [
            // System V's, from the kernel's first look at it to its console.
            ("/sbin/init\0", &[][..], young, false),
            ("init boot\0\0\0", &["rcS"][..], old, false),
            ("init [S]\0\0", &["rcS", "startpar"][..], old, false),
            ("init [2]\0\0", &["rc"][..], old, false),
            ("init [2]\0\0", &["cron", "getty"][..], young, true),
            ("init [2]\0\0", &["cron"][..], old, true),
            ("init [0]\0\0", &["getty"][..], old, false),
            // openrc below busybox, and runit.
            ("/sbin/init\0", &["openrc"][..], old, false),
            ("/sbin/init\0", &["crond", "getty"][..], young, true),
            ("runit\0", &["1"][..], old, false),
            ("runit\0", &["runsvdir"][..], young, true),
            // What shows nothing is given a moment, and nobody waits for ever.
            ("init\0", &["sh"][..], young, false),
            ("init\0", &["sh"][..], old, true),
            ("init [S]\0", &["rcS"][..], BOOTS, true),
            // A program that is no init executes, and that is all.
            ("/bin/sh\0-c\0init boot\0", &["rc"][..], young, true),
            ("", &[][..], young, true),
        ] {
            let children: Vec<_> = children.iter().map(ToString::to_string).collect();
            assert_eq!(
                has_booted(title, &children, runs),
                booted,
                "{title:?} {children:?} {runs:?}"
            );
        }
    }

    #[test]
    fn who_goes_down() {
        let child =
            |(name, title): (&str, &str)| Child { name: name.to_owned(), title: title.to_owned() };
        let none: &[(&str, &str)] = &[];
        for (title, children, down) in [
            ("init [0]\0\0", none, true),
            ("init [6]\0", &[("rc", "/bin/sh\0/etc/init.d/rc\x006\0")], true),
            ("init [2]\0", &[("rc", "/bin/sh\0/etc/init.d/rc\x002\0")], false),
            ("/usr/lib/systemd/systemd-shutdown\0poweroff\0--timeout\x00", none, true),
            ("/lib/systemd/systemd\0--system\0", none, false),
            // busybox with openrc, and openrc's own.
            ("/sbin/init\0", &[("openrc", "/sbin/openrc\0shutdown\0")], true),
            ("init\0", &[("openrc", "/sbin/openrc\0default\0"), ("sh", "sh\0shutdown\0")], false),
            ("/sbin/openrc-init\0", &[("openrc", "openrc\0reboot\0")], true),
            ("runit\0", &[("3", "/bin/sh\0/etc/runit/3\0")], true),
            ("runit\0", &[("runsvdir", "runsvdir\0-P\0/etc/service\0")], false),
            // A program that is no init goes as it likes.
            ("/bin/sh\0init [0]\0", &[("3", "3\0")], false),
            ("", none, false),
        ] {
            let children: Vec<_> = children.iter().copied().map(child).collect();
            assert_eq!(goes_down(title, &children), down, "{title:?} {children:?}");
        }
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
