//! The end of a session: what was started in it is hung up, and what does not heed that is killed.
//!
//! ```text
//! the caller is gone    ─▶ SIGHUP, SIGCONT ─▶ 5 s ─▶ SIGKILL to all but those that asked to stay
//! the time is over      ─▶ SIGHUP, SIGCONT ─▶ 5 s ─▶ SIGKILL to all
//! the container stops   ─▶ SIGKILL to all
//! ```
//!
//! As under a login, a process is of the session until it leaves it (`setsid`), which then does not concern it
//! any more, and who ignores SIGHUP (`nohup`) asked to stay when the caller goes. Who is in it is looked up on
//! the node, in the container's control groups, since what a container shows of itself may be anything.
//! Never here: whether a session ends; waiting, which is who asks for the next look's.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal};
use ves_host::cgroup::Hierarchies;
use ves_init_proto::process;

/// How long those that were hung up may take to end.
const HEED: Duration = Duration::from_secs(5);
/// How long the killed may take to die: those that are frozen do not, and somebody may make new ones all
/// the time; these are then their container's matter.
const DIE: Duration = Duration::from_secs(1);
/// Between two looks at who is left: at first, and while there are killed ones that may have made others.
const SOON: Duration = Duration::from_millis(10);
/// The same of those that take their time.
const LATER: Duration = Duration::from_millis(200);
/// SIGHUP, as masks count signals.
const HUP: u32 = 1;

/// Why a session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// Nobody is there any more who began it.
    CallerGone,
    /// It had a time limit.
    TimeOver,
    /// Its container stops.
    ContainerStops,
}

/// A session, and where its processes are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Members<'a> {
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

/// An end under way.
#[derive(Debug)]
pub(super) struct Ending<'a> {
    members: Members<'a>,
    why: Why,
    /// Whether it came to killing.
    kills: bool,
    /// How long whoever is left may still take.
    until: Instant,
    next: Instant,
    pause: Duration,
}

impl<'a> Ending<'a> {
    /// Begins it.
    pub(super) fn begin(members: Members<'a>, why: Why, now: Instant) -> Self {
        let kills = why == Why::ContainerStops;
        if !kills {
            members.living().iter().for_each(|member| {
                member.send(Signal::HUP);
                member.send(Signal::CONT);
            });
        }
        let until = now + if kills { DIE } else { HEED };
        Self { members, why, kills, until, next: now, pause: SOON }
    }

    /// When to look next.
    pub(super) const fn next(&self) -> Instant {
        self.next
    }

    /// Looks who is left, if it is time to; answers whether nothing more is to be done about them.
    pub(super) fn look(&mut self, now: Instant) -> bool {
        if now < self.next {
            return false;
        }
        let mut left = self.members.living();
        left.retain(|member| self.why != Why::CallerGone || !member.stays);
        let late = now >= self.until;
        if left.is_empty() || (late && self.kills) {
            return true;
        }
        if late {
            (self.kills, self.until, self.pause) = (true, now + DIE, SOON);
        }
        if self.kills {
            left.iter().for_each(|member| member.send(Signal::KILL));
        } else {
            self.pause = (self.pause * 2).min(LATER);
        }
        self.next = now + self.pause;
        false
    }
}

impl Members<'_> {
    /// Those that live. A group that cannot be read has none any more.
    fn living(&self) -> Vec<Member> {
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
