//! The end of a session: what was started in it is hung up, and what does not heed that is killed.
//!
//! ```text
//! the caller is gone    ─▶ SIGHUP, SIGCONT ─▶ a moment ─▶ SIGKILL to all but those that asked to stay
//! the container stops   ─▶ SIGKILL
//! ```
//!
//! As under a login, a process is of the session until it leaves it (`setsid`), and who ignores SIGHUP
//! (`nohup`) asked to stay; neither concerns a session any more. Who is in it is looked up on the node, in the
//! container's control groups, since what a container shows of itself may be anything.
//! Never here: whether a session ends.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal};
use ves_host::cgroup::Hierarchies;
use ves_init_proto::process;

/// How long those that were hung up may take to end.
const HEED: Duration = Duration::from_millis(500);
/// How long the killed may take to die: those that are frozen do not, and somebody may make new ones all
/// the time; these are then their container's matter.
const DIE: Duration = Duration::from_secs(1);
/// Between two looks at who is left.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
/// SIGHUP, as masks count signals.
const HUP: u32 = 1;

/// Why a session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// Nobody is there any more who began it.
    CallerGone,
    /// Its container stops.
    ContainerStops,
}

/// A session, and where its processes are.
#[derive(Debug)]
pub(super) struct Ending<'a> {
    pub(super) hierarchies: &'a Hierarchies,
    /// The container's control group, relative to a hierarchy.
    pub(super) group: &'a str,
    /// The session's number, which is that of the command it began with.
    pub(super) session: Pid,
}

/// A process of the session.
struct Member {
    held: OwnedFd,
    /// Whether it ignores that the session is hung up.
    stays: bool,
}

impl Ending<'_> {
    /// Ends it.
    pub(super) fn end(&self, why: Why) {
        if why == Why::CallerGone {
            self.members().iter().for_each(|member| {
                member.send(Signal::HUP);
                member.send(Signal::CONT);
            });
            self.until_none(why, HEED, |_| {});
        }
        self.until_none(why, DIE, |member| member.send(Signal::KILL));
    }

    /// Does something to each that is to end, again and again until there is none.
    fn until_none(&self, why: Why, most: Duration, act: impl Fn(&Member)) {
        let end = Instant::now() + most;
        loop {
            let mut left = self.members();
            left.retain(|member| why == Why::ContainerStops || !member.stays);
            if left.is_empty() || Instant::now() >= end {
                return;
            }
            left.iter().for_each(&act);
            // Who wakes early looks again.
            poll(&mut [], Some(&LOOK)).ok();
        }
    }

    /// Those that live. A group that cannot be read has none any more.
    fn members(&self) -> Vec<Member> {
        let pids = self.hierarchies.processes(self.group).unwrap_or_default();
        pids.into_iter().filter_map(|pid| self.member(pid)).collect()
    }

    fn member(&self, number: u32) -> Option<Member> {
        let pid = i32::try_from(number).ok().and_then(Pid::from_raw)?;
        let read = |name: &str| std::fs::read_to_string(format!("/proc/{number}/{name}")).ok();
        let session = u32::try_from(self.session.as_raw_pid()).ok();
        let is_in_it = || read("stat").is_some_and(|stat| process::session(&stat) == session);
        if !is_in_it() {
            return None;
        }
        let held = rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok()?;
        // Seen again now that it is held, so the number has not become another's.
        let stays = process::masks(&read("status")?, "SigIgn", HUP);
        is_in_it().then_some(Member { held, stays })
    }
}

impl Member {
    fn send(&self, signal: Signal) {
        // It may have ended by itself.
        rustix::process::pidfd_send_signal(&self.held, signal).ok();
    }
}
