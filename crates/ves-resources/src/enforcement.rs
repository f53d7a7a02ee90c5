//! From what the self-test proved to what each row promises. Pure.

use std::collections::BTreeMap;

use ves_types::{Enforcement, UbcResource};

use crate::model::{Home, Setting};

/// Whether something was seen to work on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proven {
    /// It was.
    Yes,
    /// It was not, for this reason.
    No(String),
}

impl Proven {
    /// Whether it was.
    pub const fn is_yes(&self) -> bool {
        matches!(self, Self::Yes)
    }
}

/// What the self-test found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelfTest {
    /// A process beyond the limit was refused.
    pub pids: Proven,
    /// A process that took more memory than its group may have was killed or held back.
    pub memory: Proven,
    /// It was not saved by swap.
    pub swap: Proven,
    /// The bound on TCP buffers was accepted.
    pub tcp: Proven,
    /// A busy process was held back by its quota.
    pub quota: Proven,
    /// A process saw just the processors of its group.
    pub cpuset: Proven,
    /// The kernel counts it.
    pub counted: BTreeMap<UbcResource, Proven>,
}

/// Why a parameter is not even counted, where no kernel of any version counts it for a group.
const fn never(resource: UbcResource) -> Option<&'static str> {
    Some(match resource {
        UbcResource::Privvmpages => {
            "the kernel knows address space by process only; needs the BPF programs of a later release"
        }
        UbcResource::Vmguarpages => {
            "a guarantee needs memory.low of cgroup version 2, which a later release sets"
        }
        UbcResource::Numpty => {
            "a devpts mount's count is its own secret; needs the mount limit of a later release"
        }
        UbcResource::Othersockbuf | UbcResource::Dgramrcvbuf => {
            "no controller knows buffers by kind of socket; needs the BPF programs of a later release"
        }
        UbcResource::Numiptent => {
            "rules are not counted outside the packet filter; needs the netlink count of a later release"
        }
        UbcResource::Kmemsize
        | UbcResource::Lockedpages
        | UbcResource::Shmpages
        | UbcResource::Numproc
        | UbcResource::Physpages
        | UbcResource::Oomguarpages
        | UbcResource::Numtcpsock
        | UbcResource::Numflock
        | UbcResource::Numsiginfo
        | UbcResource::Tcpsndbuf
        | UbcResource::Tcprcvbuf
        | UbcResource::Numothersock
        | UbcResource::Dcachesize
        | UbcResource::Numfile
        | UbcResource::Swappages => return None,
    })
}

/// Whether some kernel counts it for a group.
pub const fn countable(resource: UbcResource) -> bool {
    never(resource).is_none()
}

/// What a row promises.
pub fn enforcement(resource: UbcResource, self_test: &SelfTest) -> Enforcement {
    if let Some(why) = never(resource) {
        return Enforcement::Unavailable(why.to_owned());
    }
    let (kept, how) = match resource {
        UbcResource::Numproc => (Some(&self_test.pids), Enforcement::Hard),
        UbcResource::Physpages => (Some(&self_test.memory), Enforcement::Hard),
        UbcResource::Swappages => (Some(&self_test.swap), Enforcement::Hard),
        UbcResource::Tcpsndbuf | UbcResource::Tcprcvbuf => {
            (Some(&self_test.tcp), Enforcement::Bounded)
        }
        _ => (None, Enforcement::Accounted),
    };
    match (kept, self_test.counted.get(&resource)) {
        (Some(Proven::Yes), _) => how,
        (_, Some(Proven::Yes)) => Enforcement::Accounted,
        (Some(Proven::No(why)), _) | (None, Some(Proven::No(why))) => {
            Enforcement::Unavailable(why.clone())
        }
        (None, None) => Enforcement::Unavailable("the self-test did not ask".to_owned()),
    }
}

/// How far limits of disk traffic are kept on a node with these settings: field, enforcement, and what cannot
/// be. `shares`: whether a disk is shared out by weight.
pub fn promises(
    settings: &BTreeMap<Setting, Home>,
    shares: bool,
) -> Vec<(&'static str, Enforcement, String)> {
    let throttle = |setting| match settings.get(&setting) {
        Some(Home::V1) => (
            Enforcement::Bounded,
            "what is written through the page cache is not held back: version 1 of control groups does \
             not tell whose it was",
        ),
        Some(Home::V2) => (Enforcement::Bounded, ""),
        None => {
            let why = "the kernel has no throttling of block devices";
            (Enforcement::Unavailable(why.to_owned()), why)
        }
    };
    let weighed =
        [Setting::BfqWeight, Setting::CostWeight].iter().any(|s| settings.contains_key(s));
    let priority = match (weighed, shares) {
        (true, true) => (Enforcement::Bounded, ""),
        (true, false) => {
            let why = "no disk of this node has a scheduler that goes by weight; `echo bfq > \
                       /sys/block/DISK/queue/scheduler` chooses one";
            (Enforcement::Unavailable(why.to_owned()), why)
        }
        (false, _) => {
            let why = "the kernel has no scheduler of disks that goes by weight";
            (Enforcement::Unavailable(why.to_owned()), why)
        }
    };
    let all = [
        ("io_bps", throttle(Setting::IoReadBps)),
        ("io_iops", throttle(Setting::IoReadIops)),
        ("io_priority", priority),
    ];
    all.into_iter().map(|(field, (how, why))| (field, how, why.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nothing() -> SelfTest {
        let no = || Proven::No("it failed".to_owned());
        SelfTest {
            pids: no(),
            memory: no(),
            swap: no(),
            tcp: no(),
            quota: no(),
            cpuset: no(),
            counted: BTreeMap::new(),
        }
    }

    #[test]
    fn a_row_promises_what_was_proven() {
        let all = SelfTest::all();
        let of = |r| enforcement(r, &all);
        assert_eq!(of(UbcResource::Numproc), Enforcement::Hard);
        assert_eq!(of(UbcResource::Swappages), Enforcement::Hard);
        assert_eq!(of(UbcResource::Tcpsndbuf), Enforcement::Bounded);
        assert_eq!(of(UbcResource::Kmemsize), Enforcement::Accounted);
        assert!(matches!(of(UbcResource::Privvmpages), Enforcement::Unavailable(_)));
    }

    #[test]
    fn what_was_not_proven_is_at_best_counted() {
        let mut self_test = nothing();
        let no = Enforcement::Unavailable("it failed".to_owned());
        assert_eq!(enforcement(UbcResource::Numproc, &self_test), no);
        self_test.counted.insert(UbcResource::Numproc, Proven::Yes);
        assert_eq!(enforcement(UbcResource::Numproc, &self_test), Enforcement::Accounted);
        for r in UbcResource::ALL {
            assert_ne!(enforcement(r, &self_test), Enforcement::Hard, "{r}");
            assert_ne!(enforcement(r, &self_test), Enforcement::Bounded, "{r}");
        }
    }
}
