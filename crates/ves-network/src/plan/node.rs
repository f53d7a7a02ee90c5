//! What has to be done to the node as a whole: pure.
//!
//! The guard's table and packet forwarding belong to all containers together. What the guard allows
//! follows from the node's own routes, of which an address has one: whoever took it away, it comes back
//! for all containers at once. Never here: which addresses a container has.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use ves_host::nft::Owner;
use ves_types::layout::host_link;
use ves_types::{CtAddress, CtId};

use super::Sources;

/// The guard's table, as `nft` reads it. Every rule has a comment, by which it is recognised.
pub const TABLE_SCRIPT: &str = include_str!("table.nft");
/// The table's name, in family `inet`.
pub const TABLE: &str = "ves";
/// The set of links with the IPv4 addresses that may come from them.
pub const SOURCES_V4: &str = "sources4";
/// The set of links with the IPv6 addresses that may come from them.
pub const SOURCES_V6: &str = "sources6";
/// The counter of packets with a false source.
pub const SPOOFED: &str = "spoofed";

/// What the node should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeDesired {
    /// Whether it forwards packets.
    pub forwarding: bool,
}

/// What the node is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeObserved {
    /// Chain and comment of each rule of the table, in order.
    pub rules: Vec<(String, String)>,
    /// Whether both sets and the counter exist.
    pub sets: bool,
    /// Who may change the table.
    pub owner: Owner,
    /// Every link there is, with the addresses that are routed to it and may stay so. Looked for only
    /// where the table is not whole, and by who looks after the guard.
    pub links: Sources,
    /// What the guard allows. Looked for with the links.
    pub sources: Sources,
    /// Whether IPv4 is forwarded.
    pub forward_v4: bool,
    /// Whether IPv6 is; `None` where the kernel has no IPv6.
    pub forward_v6: Option<bool>,
    /// Links that learn their default route from router advertisements, which a forwarding node
    /// heeds only where it is told twice. Looked for only while IPv6 is not forwarded.
    pub learners: BTreeSet<String>,
}

impl NodeObserved {
    /// Whether the guard's table is there as it should be, whatever its sets hold.
    pub fn is_whole(&self) -> bool {
        self.sets && self.rules == expected_rules()
    }
}

/// What of `some` is not in `others`, of the containers that `links` has.
fn beyond(some: &Sources, others: &Sources, links: &Sources) -> Sources {
    let rest = |(ct, set): (&CtId, &BTreeSet<CtAddress>)| {
        let rest: BTreeSet<_> = match others.get(ct) {
            Some(other) => set.difference(other).copied().collect(),
            None => set.clone(),
        };
        (links.contains_key(ct) && !rest.is_empty()).then_some((*ct, rest))
    };
    some.iter().filter_map(rest).collect()
}

/// Room that the kernel has once for the whole node, and that any container's root can fill. More of it
/// makes that harder and leaves the rest to memory limits; what cannot be raised is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Room {
    /// IPv4 neighbours that are being found or were found, of all network namespaces.
    NeighboursV4,
    /// The same of IPv6.
    NeighboursV6,
    /// Pseudo-terminals.
    Terminals,
    /// Those of them that the node keeps for itself.
    OwnTerminals,
    /// Events of asynchronous I/O.
    AsyncEvents,
}

impl Room {
    /// All.
    pub const ALL: [Self; 5] = [
        Self::NeighboursV4,
        Self::NeighboursV6,
        Self::Terminals,
        Self::OwnTerminals,
        Self::AsyncEvents,
    ];

    /// Its name among the kernel's settings.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NeighboursV4 => "net.ipv4.neigh.default.gc_thresh3",
            Self::NeighboursV6 => "net.ipv6.neigh.default.gc_thresh3",
            Self::Terminals => "kernel.pty.max",
            Self::OwnTerminals => "kernel.pty.reserve",
            Self::AsyncEvents => "fs.aio-max-nr",
        }
    }

    /// The least there should be: what the packages set too.
    pub const fn least(self) -> &'static str {
        match self {
            Self::NeighboursV4 | Self::NeighboursV6 | Self::Terminals => "65536",
            Self::OwnTerminals => "1024",
            Self::AsyncEvents => "1048576",
        }
    }
}

/// How much room there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// The most.
    pub limit: u64,
    /// How much of it is in use, where the kernel tells.
    pub used: Option<u64>,
}

/// How much room of each kind there is, as far as the kernel shows it here.
pub type Rooms = BTreeMap<Room, Space>;

/// What has to be raised so that there is room for all.
pub fn raise(rooms: &Rooms) -> Vec<NodeStep> {
    let small = |(room, space): &(&Room, &Space)| {
        room.least().parse::<u64>().is_ok_and(|least| space.limit < least)
    };
    let steps = rooms.iter().filter(small).map(|(room, _)| NodeStep::Set(Setting::Room(*room)));
    steps.collect()
}

/// A setting of the node that is changed, and remembered as it was.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Setting {
    /// Forwarding of IPv4.
    ForwardV4,
    /// Forwarding of IPv6.
    ForwardV6,
    /// Heeding router advertisements on a link even when forwarding.
    AcceptAdvertisements(String),
    /// How much room there is.
    Room(Room),
}

impl Setting {
    /// Its place under `/proc/sys/net`, or elsewhere where it begins at the root.
    pub fn path(&self) -> String {
        match self {
            Self::ForwardV4 => "ipv4/ip_forward".to_owned(),
            Self::ForwardV6 => "ipv6/conf/all/forwarding".to_owned(),
            Self::AcceptAdvertisements(link) => format!("ipv6/conf/{link}/accept_ra"),
            Self::Room(room) => format!("/proc/sys/{}", room.name().replace('.', "/")),
        }
    }
    /// The value it is given.
    pub const fn value(&self) -> &'static str {
        match self {
            Self::ForwardV4 | Self::ForwardV6 => "1",
            Self::AcceptAdvertisements(_) => "2",
            Self::Room(room) => room.least(),
        }
    }
}

/// One change to the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeStep {
    /// Sets the guard's table up, at once with the sources that it allows and owned where that is
    /// possible. Its counters keep what they hold.
    LayTable(Sources),
    /// Owns the table, whose owner is gone.
    OwnTable,
    /// Lets packets from these addresses in, which are routed there.
    AllowSources(Sources),
    /// Lets them in no more: they are not routed there.
    ForbidSources(Sources),
    /// Changes a setting, after noting what it was.
    Set(Setting),
}

impl fmt::Display for NodeStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LayTable(sources) => {
                write!(f, "set up the nftables table inet {TABLE}")?;
                match count(sources) {
                    0 => Ok(()),
                    n => write!(f, " with {n} sources"),
                }
            }
            Self::OwnTable => write!(f, "own the nftables table inet {TABLE}"),
            Self::AllowSources(sources) => write!(f, "allow {} routed sources", count(sources)),
            Self::ForbidSources(sources) => {
                write!(f, "forbid {} sources that are not routed", count(sources))
            }
            Self::Set(setting) => write!(f, "set {} to {}", setting.path(), setting.value()),
        }
    }
}

fn count(sources: &Sources) -> usize {
    sources.values().map(BTreeSet::len).sum()
}

/// The rules the table should have: chain and comment, in order. The last comment carries a number
/// made of the whole script, so that a table of another version is not taken for this one.
pub fn expected_rules() -> Vec<(String, String)> {
    let rules = script(&Sources::new());
    let rules = rules.lines().filter_map(|line| {
        let (chain, rest) = line.strip_prefix("add rule inet ves ")?.split_once(' ')?;
        let (_, comment) = rest.split_once(" comment \"")?;
        Some((chain.to_owned(), comment.trim_end_matches('"').to_owned()))
    });
    rules.collect()
}

/// The script with its number filled in, and the sources it begins with.
pub fn script(sources: &Sources) -> String {
    let mut number: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in TABLE_SCRIPT.bytes() {
        number = (number ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    let table = TABLE_SCRIPT.replace("@NUMBER@", &format!("{number:016x}"));
    let elements = |(ct, set): (&CtId, &BTreeSet<CtAddress>)| {
        let link = host_link(*ct);
        let add = |a: &CtAddress| {
            let ip = a.ip();
            let set = if ip.is_ipv4() { SOURCES_V4 } else { SOURCES_V6 };
            format!("add element inet {TABLE} {set} {{ \"{link}\" . {ip} }}\n")
        };
        set.iter().map(add).collect::<String>()
    };
    table + &sources.iter().map(elements).collect::<String>()
}

/// What has to be done so that the node can carry containers.
pub fn plan(desired: NodeDesired, observed: &NodeObserved) -> Vec<NodeStep> {
    let mut steps = Vec::new();
    let NodeObserved { links, sources, .. } = observed;
    if observed.is_whole() {
        // First, so that nobody else changes what the next steps count on.
        if observed.owner == Owner::Gone {
            steps.push(NodeStep::OwnTable);
        }
        let (stale, missing) = (beyond(sources, links, links), beyond(links, sources, links));
        if !stale.is_empty() {
            steps.push(NodeStep::ForbidSources(stale));
        }
        if !missing.is_empty() {
            steps.push(NodeStep::AllowSources(missing));
        }
    } else {
        let routed = links.iter().filter(|(_, set)| !set.is_empty());
        steps.push(NodeStep::LayTable(routed.map(|(ct, set)| (*ct, set.clone())).collect()));
    }
    if desired.forwarding {
        if !observed.forward_v4 {
            steps.push(NodeStep::Set(Setting::ForwardV4));
        }
        if observed.forward_v6 == Some(false) {
            let learners = observed.learners.iter().cloned();
            steps.extend(learners.map(|l| NodeStep::Set(Setting::AcceptAdvertisements(l))));
            steps.push(NodeStep::Set(Setting::ForwardV6));
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_has_a_comment_of_its_own() {
        let rules = expected_rules();
        let lines = TABLE_SCRIPT.lines().filter(|l| l.starts_with("add rule")).count();
        assert_eq!(rules.len(), lines);
        assert_eq!(rules.iter().collect::<BTreeSet<_>>().len(), lines);
        assert!(rules.iter().all(|(_, c)| !c.contains('@') && c.len() < 120), "{rules:?}");
        assert!(TABLE_SCRIPT.contains("@NUMBER@"));
    }

    /// What the links of a node can be, and what its guard can allow: of three containers, of which the
    /// last has no link any more.
    fn guarded() -> impl Iterator<Item = (Sources, Sources)> {
        let ct = |n| CtId::try_from(n).expect("valid");
        let (a, b): (CtAddress, CtAddress) =
            ("192.0.2.1".parse().expect("valid"), "2001:db8::2".parse().expect("valid"));
        let some = move |bits: u8| -> BTreeSet<CtAddress> {
            [(1, a), (2, b)].iter().filter(|(bit, _)| bits & bit != 0).map(|(_, a)| *a).collect()
        };
        (0..64_u8).flat_map(move |n| {
            // An address has one route.
            let links: Sources = [(ct(1), some(n & 3)), (ct(2), some(!n & 3))].into();
            let sources = [(1, n >> 2), (2, n >> 4), (3, n)];
            let sources: Sources =
                sources.into_iter().map(|(id, bits)| (ct(id), some(bits))).collect();
            [(links, sources.clone()), (Sources::new(), sources)]
        })
    }

    /// Every combination of what a node can be.
    fn states() -> impl Iterator<Item = NodeObserved> {
        let mut bad = expected_rules();
        bad.pop();
        let owners = [Owner::Nobody, Owner::Gone, Owner::Somebody];
        (0..48_u8).zip(guarded().collect::<Vec<_>>().into_iter().cycle()).flat_map(
            move |(n, (links, sources))| {
                let bad = bad.clone();
                owners.map(|owner| NodeObserved {
                    rules: if n & 1 == 0 { expected_rules() } else { bad.clone() },
                    sets: n & 2 == 0,
                    owner,
                    links: links.clone(),
                    sources: sources.clone(),
                    forward_v4: n & 4 == 0,
                    learners: (0..n & 8).map(|_| "eth0".to_owned()).collect(),
                    forward_v6: [None, Some(false), Some(true)][usize::from(n / 16)],
                })
            },
        )
    }

    fn apply(state: &mut NodeObserved, step: &NodeStep) {
        match step {
            NodeStep::LayTable(sources) => {
                (state.rules, state.sets) = (expected_rules(), true);
                (state.sources, state.owner) = (sources.clone(), Owner::Somebody);
            }
            NodeStep::OwnTable => state.owner = Owner::Somebody,
            NodeStep::AllowSources(more) => {
                for (ct, set) in more {
                    state.sources.entry(*ct).or_default().extend(set);
                }
            }
            NodeStep::ForbidSources(fewer) => {
                for (ct, set) in fewer {
                    state.sources.entry(*ct).or_default().retain(|a| !set.contains(a));
                }
            }
            NodeStep::Set(Setting::ForwardV4) => state.forward_v4 = true,
            NodeStep::Set(Setting::ForwardV6) => state.forward_v6 = Some(true),
            NodeStep::Set(Setting::AcceptAdvertisements(link)) => {
                state.learners.remove(link);
            }
            NodeStep::Set(Setting::Room(_)) => panic!("never of the plan for containers"),
        }
    }

    /// What must hold after each step from `start`.
    fn safe(start: &NodeObserved, state: &NodeObserved, step: &NodeStep) {
        let lost = state.forward_v6 == Some(true) && !state.learners.is_empty();
        assert!(!lost || start.forward_v6 == Some(true), "a default route is lost");
        for (ct, routed) in &state.links {
            let allowed = |o: &NodeObserved| o.sources.get(ct).cloned().unwrap_or_default();
            let (before, now) = (allowed(start), allowed(state));
            let new = now.difference(&before);
            assert!(new.copied().collect::<BTreeSet<_>>().is_subset(routed), "{step}: {ct}");
            let kept = before.intersection(routed).copied().collect::<BTreeSet<_>>();
            assert!(!start.is_whole() || kept.is_subset(&now), "{step} cuts container {ct} off");
        }
    }

    /// What is promised to all containers of the node.
    fn guards(state: &NodeObserved) {
        assert!(state.is_whole() && state.owner != Owner::Gone);
        for (ct, routed) in &state.links {
            let allowed = state.sources.get(ct).cloned().unwrap_or_default();
            assert_eq!(&allowed, routed, "just what is routed to container {ct}");
        }
    }

    #[test]
    fn goal_fixed_point_crash_and_safety() {
        for start in states() {
            for forwarding in [false, true] {
                let desired = NodeDesired { forwarding };
                let steps = plan(desired, &start);
                assert_eq!(steps, plan(desired, &start), "determinism");
                for cut in 0..=steps.len() {
                    let mut state = start.clone();
                    for step in &steps[..cut] {
                        apply(&mut state, step);
                        safe(&start, &state, step);
                    }
                    if let Some(last) = cut.checked_sub(1).and_then(|n| steps.get(n)) {
                        apply(&mut state, last);
                    }
                    for step in plan(desired, &state) {
                        apply(&mut state, &step);
                        safe(&start, &state, &step);
                    }
                    guards(&state);
                    if forwarding {
                        assert!(state.forward_v4 && state.forward_v6 != Some(false));
                    } else {
                        assert_eq!(state.forward_v4, start.forward_v4, "not asked for");
                    }
                    assert!(plan(desired, &state).is_empty(), "fixed point");
                }
            }
        }
    }

    #[test]
    fn a_guard_that_is_gone_comes_back_for_all_in_one_step() {
        for (links, _) in guarded() {
            let gone =
                NodeObserved { links: links.clone(), forward_v4: true, ..Default::default() };
            let steps = plan(NodeDesired { forwarding: true }, &gone);
            let [NodeStep::LayTable(sources)] = &steps[..] else { panic!("{steps:?}") };
            assert_eq!(count(sources), count(&links));
        }
    }

    #[test]
    fn what_a_dead_link_left_is_nobodys() {
        let mut whole = NodeObserved { rules: expected_rules(), sets: true, ..Default::default() };
        let ct = CtId::try_from(7).expect("valid");
        whole.sources.insert(ct, ["192.0.2.1".parse().expect("valid")].into());
        assert_eq!(plan(NodeDesired { forwarding: false }, &whole), [], "its Remove takes it");
    }

    #[test]
    fn what_is_small_is_raised_and_nothing_is_lowered() {
        for limit in [0, 1023, 1024, 65_535, 65_536, 1 << 20, u64::MAX] {
            let space = Space { limit, used: None };
            let mut rooms: Rooms = Room::ALL.map(|room| (room, space)).into();
            for step in raise(&rooms) {
                let NodeStep::Set(Setting::Room(room)) = &step else { panic!("{step}") };
                let new = Setting::Room(*room).value().parse().expect("a number");
                assert!(new > limit, "{step}");
                rooms.insert(*room, Space { limit: new, used: None });
            }
            assert_eq!(raise(&rooms), [], "fixed point");
        }
        assert_eq!(raise(&Rooms::new()), [], "what is not there");
    }

    #[test]
    fn the_packages_set_the_same() {
        let file = include_str!("../../../../deploy/debian/sysctl.conf");
        for room in Room::ALL {
            let line = format!("{} = {}", room.name(), room.least());
            assert!(file.lines().any(|l| l == line), "{line}");
        }
    }
}
