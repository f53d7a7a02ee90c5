//! What has to be done to the node as a whole: pure.
//!
//! The guard's table and packet forwarding belong to all containers together. Never here: anything
//! of one container.

use std::collections::BTreeSet;
use std::fmt;

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
    /// Whether IPv4 is forwarded.
    pub forward_v4: bool,
    /// Whether IPv6 is; `None` where the kernel has no IPv6.
    pub forward_v6: Option<bool>,
    /// Links that learn their default route from router advertisements, which a forwarding node
    /// heeds only where it is told twice. Looked for only while IPv6 is not forwarded.
    pub learners: BTreeSet<String>,
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
}

impl Setting {
    /// Its place under `/proc/sys/net`.
    pub fn path(&self) -> String {
        match self {
            Self::ForwardV4 => "ipv4/ip_forward".to_owned(),
            Self::ForwardV6 => "ipv6/conf/all/forwarding".to_owned(),
            Self::AcceptAdvertisements(link) => format!("ipv6/conf/{link}/accept_ra"),
        }
    }
    /// The value it is given.
    pub const fn value(&self) -> &'static str {
        match self {
            Self::ForwardV4 | Self::ForwardV6 => "1",
            Self::AcceptAdvertisements(_) => "2",
        }
    }
}

/// One change to the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeStep {
    /// Sets the guard's table up, keeping what its sets and counters hold.
    LayTable,
    /// Changes a setting, after noting what it was.
    Set(Setting),
}

impl fmt::Display for NodeStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LayTable => write!(f, "set up the nftables table inet {TABLE}"),
            Self::Set(setting) => write!(f, "set {} to {}", setting.path(), setting.value()),
        }
    }
}

/// The rules the table should have: chain and comment, in order. The last comment carries a number
/// made of the whole script, so that a table of another version is not taken for this one.
pub fn expected_rules() -> Vec<(String, String)> {
    let rules = script();
    let rules = rules.lines().filter_map(|line| {
        let (chain, rest) = line.strip_prefix("add rule inet ves ")?.split_once(' ')?;
        let (_, comment) = rest.split_once(" comment \"")?;
        Some((chain.to_owned(), comment.trim_end_matches('"').to_owned()))
    });
    rules.collect()
}

/// The script with its number filled in.
pub fn script() -> String {
    let mut number: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in TABLE_SCRIPT.bytes() {
        number = (number ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    TABLE_SCRIPT.replace("@NUMBER@", &format!("{number:016x}"))
}

/// What has to be done so that the node can carry containers.
pub fn plan(desired: NodeDesired, observed: &NodeObserved) -> Vec<NodeStep> {
    let mut steps = Vec::new();
    if !observed.sets || observed.rules != expected_rules() {
        steps.push(NodeStep::LayTable);
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

    /// Every combination of what a node can be.
    fn states() -> impl Iterator<Item = NodeObserved> {
        let mut bad = expected_rules();
        bad.pop();
        (0..48_u8).map(move |n| NodeObserved {
            rules: if n & 1 == 0 { expected_rules() } else { bad.clone() },
            sets: n & 2 == 0,
            forward_v4: n & 4 == 0,
            learners: (0..n & 8).map(|_| "eth0".to_owned()).collect(),
            forward_v6: [None, Some(false), Some(true)][usize::from(n / 16)],
        })
    }

    fn apply(state: &mut NodeObserved, step: &NodeStep) {
        match step {
            NodeStep::LayTable => (state.rules, state.sets) = (expected_rules(), true),
            NodeStep::Set(Setting::ForwardV4) => state.forward_v4 = true,
            NodeStep::Set(Setting::ForwardV6) => state.forward_v6 = Some(true),
            NodeStep::Set(Setting::AcceptAdvertisements(link)) => {
                state.learners.remove(link);
            }
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
                        let lost = state.forward_v6 == Some(true) && !state.learners.is_empty();
                        assert!(!lost || start.forward_v6 == Some(true), "a default route is lost");
                    }
                    if let Some(last) = cut.checked_sub(1).and_then(|n| steps.get(n)) {
                        apply(&mut state, last);
                    }
                    for step in plan(desired, &state) {
                        apply(&mut state, &step);
                    }
                    assert!(state.sets && state.rules == expected_rules());
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
}
