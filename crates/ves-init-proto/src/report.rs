//! What monitors and helpers tell: requests, states, ends and failures, as JSON.
//!
//! Also the names of the files in a container's volatile directory.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use ves_host::child::Ended;
use ves_types::{ExitCause, Features};

/// The monitor's socket.
pub fn socket(dir: &Path) -> PathBuf {
    dir.join("monitor.sock")
}
/// The file whose lock the monitor holds while it lives.
pub fn lock(dir: &Path) -> PathBuf {
    dir.join("monitor.lock")
}
/// Which process is init, for the case that the monitor is killed.
pub fn state(dir: &Path) -> PathBuf {
    dir.join("state.json")
}
/// How the container last ended.
pub fn exit(dir: &Path) -> PathBuf {
    dir.join("exit.json")
}

/// The last of what was printed on the console of a run that ended.
pub fn last_words(dir: &Path) -> PathBuf {
    dir.join("console.log")
}

/// What init is, as far as it matters for stopping and for knowing that it booted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InitKind {
    /// systemd.
    Systemd,
    /// System V init.
    Sysvinit,
    /// busybox.
    Busybox,
    /// runit.
    Runit,
    /// Anything else.
    Other,
}

impl InitKind {
    /// By the path of the executable.
    pub fn of(executable: &str) -> Self {
        match executable.rsplit('/').next().unwrap_or_default() {
            "systemd" => Self::Systemd,
            "init" => Self::Sysvinit,
            "runit" | "runit-init" => Self::Runit,
            name if name.starts_with("busybox") => Self::Busybox,
            _ => Self::Other,
        }
    }
}

/// Why a step on the way to init failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Which, in words.
    pub step: String,
    /// Why, in words.
    pub message: String,
    /// The kernel's error number, 0 where there is none.
    pub errno: i32,
}

/// [`Failure::step`] where the container has no such user.
pub const FIND_USER: &str = "find its user";
/// [`Failure::step`] where a command cannot begin in its directory.
pub const GO_TO_DIRECTORY: &str = "go to its directory";

/// How a session's command ended: the last frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionEnd {
    /// How.
    #[serde(flatten)]
    pub ended: Ended,
    /// Whether it was ended because its time was over. Only who asked for a limit is ever told so.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub timed_out: bool,
}

/// What is asked of a monitor; the first frame of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Tell the state once.
    Status,
    /// Tell the state now and after each change.
    Follow,
    /// Let init go; answers when it executes or cannot.
    Release,
    /// Send init a signal because it is asked to stop; with none, only note that it is.
    Ask(Option<u32>),
    /// Remember that the container is like this now: [`Status::opaque_spec`] from now on.
    Remember(String),
    /// Kill init and with it all.
    Kill,
    /// Send a descriptor of init's process with the answer.
    Pidfd,
    /// Attach to the console: scroll-back first, then what comes.
    Console {
        /// Only the scroll-back.
        scrollback_only: bool,
    },
}

/// What a monitor is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Whether init executes; else it waits.
    pub running: bool,
    /// Its process id on the node.
    pub init_pid: u32,
    /// When it executed, in milliseconds since 1970; 0 before.
    pub started_unix_ms: i64,
    /// Whether it says that it finished booting.
    pub booted: bool,
    /// Whether it says that it goes down.
    #[serde(default)]
    pub stopping: bool,
    /// What it is.
    pub kind: InitKind,
    /// The number of this run.
    pub incarnation: u64,
    /// What of the kernel all that runs inside may use. Absent in what an older release tells.
    #[serde(default)]
    pub features: Features,
    /// What it was asked to be, word by word: another release may not understand it.
    #[serde(rename = "memo")]
    pub opaque_spec: String,
    /// Capabilities that it may not have, as bits. Absent in what an older release tells.
    #[serde(default)]
    pub dropped: u64,
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The state, after what was asked.
    Status(Status),
    /// Init could not be executed.
    Failed(Failure),
}

/// When a step was performed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Performed {
    /// Which, in words.
    pub step: String,
    /// When it began, in microseconds since 1970.
    pub begun_unix_us: u64,
    /// How many microseconds it took.
    pub took_us: u64,
}

/// What the monitor writes once to its starter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Created {
    /// Init waits to be let go.
    Waiting {
        /// Its process id on the node.
        init_pid: u32,
        /// What could not be done but does not matter for starting.
        warnings: Vec<String>,
        /// The steps up to here, those of the monitor and those of the process.
        performed: Vec<Performed>,
    },
    /// It could not be made.
    Failed(Failure),
    /// Another monitor of the container lives.
    Occupied,
}

/// The record in the file [`state`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateRecord {
    /// Init's process id on the node.
    pub init_pid: u32,
    /// When that process started, in ticks since boot, which tells it from a later one.
    pub init_start: u64,
    /// The number of this run.
    pub incarnation: u64,
    /// When init executed, in milliseconds since 1970; 0 before.
    pub started_unix_ms: i64,
}

/// Why a container ended, by how its init did. The kernel ends the init of a process id namespace in
/// which reboot(2) was called with SIGHUP for a restart and SIGINT for halt and power off.
pub const fn exit_cause(ended: Ended, asked: bool, killed: bool) -> ExitCause {
    match ended {
        _ if killed => ExitCause::Killed,
        _ if asked => ExitCause::Stopped,
        Ended::Signal(1) => ExitCause::Rebooted,
        Ended::Signal(2) => ExitCause::Halted,
        Ended::Code(_) | Ended::Signal(_) => ExitCause::Exited,
    }
}

/// The record in the file [`exit`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// The number of the run that ended.
    pub incarnation: u64,
    /// Why.
    pub cause: ExitCause,
    /// How init ended.
    pub ended: Ended,
    /// When init had executed.
    pub started_unix_ms: i64,
    /// When it ended.
    pub ended_unix_ms: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds() {
        for (path, kind) in [
            ("/usr/lib/systemd/systemd", InitKind::Systemd),
            ("/usr/sbin/init", InitKind::Sysvinit),
            ("/bin/busybox", InitKind::Busybox),
            ("/bin/busybox.static", InitKind::Busybox),
            ("/usr/sbin/runit-init", InitKind::Runit),
            ("/bin/true (deleted)", InitKind::Other),
            ("", InitKind::Other),
        ] {
            assert_eq!(InitKind::of(path), kind, "{path}");
        }
    }

    #[test]
    fn an_end_in_time_reads_as_ever() {
        let text = |timed_out| {
            serde_json::to_string(&SessionEnd { ended: Ended::Signal(1), timed_out }).expect("JSON")
        };
        assert_eq!(serde_json::from_str::<Ended>(&text(false)).ok(), Some(Ended::Signal(1)));
        for timed_out in [false, true] {
            let end: SessionEnd = serde_json::from_str(&text(timed_out)).expect("an end");
            assert_eq!((end.ended, end.timed_out), (Ended::Signal(1), timed_out));
        }
    }

    #[test]
    fn causes() {
        use Ended::{Code, Signal};
        assert_eq!(exit_cause(Signal(1), false, false), ExitCause::Rebooted);
        assert_eq!(exit_cause(Signal(2), false, false), ExitCause::Halted);
        assert_eq!(exit_cause(Signal(2), true, false), ExitCause::Stopped);
        assert_eq!(exit_cause(Signal(9), true, true), ExitCause::Killed);
        assert_eq!(exit_cause(Code(0), false, false), ExitCause::Exited);
    }
}
