//! Which exit status a fault becomes.
//!
//! vzctl's documented statuses where vzctl had one for the same thing; 200 and up are our own, out
//! of the way of vzctl's and of the shell's `128 + signal`. Pure; every reason is named, so a new
//! one breaks the build until somebody decides.

#![warn(clippy::wildcard_enum_match_arm)]

use ves_proto::{Fault, Reason};

/// The request itself is wrong.
pub(crate) const USAGE: u8 = 2;
/// Left by Ctrl-C, as a shell says it.
pub(crate) const INTERRUPTED: u8 = 130;

/// What `virtctl --help` says about exit statuses.
pub(crate) const HELP: &str = "\
Exit status:
  0 done; 2 the command line is wrong; exec, exec2, runscript and enter: the command's own status,
  128 + n where signal n killed it. Otherwise as vzctl: 3 system error, 5 the kernel or this build
  cannot do it, 6 no room for more, 7 did not start, 9 busy, 12 not allowed, 14 no such container,
  21 bad archive, 31 not running, 32 running, 33 does not stop, 40 not mounted, 41 mounted, 43 no
  volume, 44 exists, 46 no disk space, 47 record damaged, 78 address in use, 91 no such template,
  105 disabled, 126 the command inside cannot be executed, 127 no such command, 131 name in use,
  154 would shrink. Our own: 200 coordinator or service out of reach, 201 not in time,
  202 cancelled, 203 decided on old facts, 204 takes a restart, 205 not ours, 206 template exists,
  207 template in use, 208 no such operation, 209 no such snapshot, 210 volume damaged,
  211 protected against deletion, 212 no such node, 213 no such token.";

/// The exit status of a command that failed with this.
pub(crate) fn status(fault: &Fault) -> u8 {
    match (fault.reason, fault.facts.get("status").map(String::as_str)) {
        // As shells tell what is there and cannot be executed from what is not there.
        (Reason::CommandUnknown, Some("126")) => 126,
        (reason, _) => status_of(reason),
    }
}

/// The exit status of what failed for `reason`.
const fn status_of(reason: Reason) -> u8 {
    use Reason as R;
    match reason {
        R::BadValue | R::MissingField | R::RequestIdReused => USAGE,
        R::Unspecified | R::HostFailed | R::Bug => 3,
        R::KernelLacks | R::NotBuilt | R::NotOffered => 5,
        R::IdsExhausted | R::TooMany => 6,
        R::InitExited | R::StartFailed => 7,
        R::Busy => 9,
        R::NotAllowed | R::Unauthenticated | R::TokenExpired => 12,
        R::ContainerUnknown => 14,
        R::BadArchive => 21,
        R::NotRunning => 31,
        R::Running => 32,
        R::WillNotStop => 33,
        R::NotMounted => 40,
        R::Mounted => 41,
        R::VolumeUnknown => 43,
        R::ContainerExists => 44,
        R::PoolFull | R::NoInodes | R::ArchiveTooLarge | R::VolumeTooSmall | R::StoreFull => 46,
        R::RecordCorrupt => 47,
        R::AddressTaken => 78,
        R::TemplateUnknown => 91,
        R::Disabled => 105,
        R::CommandUnknown => 127,
        R::NameTaken => 131,
        R::WouldShrink => 154,
        R::Starting | R::PeerDown => 200,
        R::Timeout => 201,
        R::Cancelled => 202,
        R::StaleGeneration | R::StaleEpoch | R::EtagMismatch => 203,
        R::NeedsRestart => 204,
        R::ForeignContents => 205,
        R::TemplateExists => 206,
        R::TemplateInUse => 207,
        R::OperationUnknown => 208,
        R::SnapshotUnknown => 209,
        R::VolumeDamaged => 210,
        R::DeleteProtected => 211,
        R::NodeUnknown => 212,
        R::TokenUnknown => 213,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> impl Iterator<Item = Reason> {
        (0..=400).filter_map(|n| Reason::try_from(n).ok())
    }

    #[test]
    fn no_failure_is_success_and_only_bad_requests_are_usage() {
        assert!(all().count() > 40);
        for reason in all() {
            assert_ne!(status_of(reason), 0, "{reason:?}");
            use Reason as R;
            let bad = matches!(reason, R::BadValue | R::MissingField | R::RequestIdReused);
            assert_eq!(status_of(reason) == USAGE, bad, "{reason:?}");
        }
    }

    #[test]
    fn statuses_stay_out_of_the_signals() {
        for reason in all() {
            let status = status_of(reason);
            assert!(!(132..=153).contains(&status) || status == 131, "{reason:?} {status}");
        }
    }

    #[test]
    fn what_cannot_be_executed_is_told_from_what_is_not_there() {
        let fault = |n: u32| Fault::new(Reason::CommandUnknown, "").fact("status", n);
        assert_eq!([126, 127].map(|n| status(&fault(n))), [126, 127]);
    }

    #[test]
    fn every_status_is_documented() {
        let words: Vec<&str> =
            HELP.split(|c: char| !c.is_ascii_digit()).filter(|w| !w.is_empty()).collect();
        for reason in all() {
            assert!(words.contains(&status_of(reason).to_string().as_str()), "{reason:?}");
        }
    }

    #[test]
    fn what_scripts_of_vzctl_rely_on() {
        for (reason, wanted) in [
            (Reason::NotRunning, 31),
            (Reason::Running, 32),
            (Reason::Busy, 9),
            (Reason::ContainerUnknown, 14),
            (Reason::ContainerExists, 44),
            (Reason::TemplateUnknown, 91),
            (Reason::AddressTaken, 78),
            (Reason::PoolFull, 46),
            (Reason::Disabled, 105),
            (Reason::NotMounted, 40),
            (Reason::Mounted, 41),
            (Reason::NameTaken, 131),
            (Reason::HostFailed, 3),
            (Reason::NotAllowed, 12),
        ] {
            assert_eq!(status_of(reason), wanted, "{reason:?}");
        }
    }
}
