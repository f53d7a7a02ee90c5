//! What has to be done to one container's link: pure, from what should be and what is.
//!
//! Owns the order of the steps, which carries the safety: a source is allowed after its address was
//! routed to the container, which only one container can have, and forbidden before that route goes;
//! an address that stays is not touched. Never here: the kernel, time, or a decision about the node
//! as a whole (that is [`node`]).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use ves_types::address::{GATEWAY_V4, GATEWAY_V6};
use ves_types::layout::{CT_LINK, host_link};
use ves_types::{CtAddress, CtId};

pub mod node;

/// IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// That of an address.
    pub const fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }
    /// The next hop inside the container.
    pub const fn gateway(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(GATEWAY_V4),
            Self::V6 => IpAddr::V6(GATEWAY_V6),
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// Addresses by container.
pub type Sources = BTreeMap<CtId, BTreeSet<CtAddress>>;

/// What a container's link should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    /// Its addresses, each once, in the order they are set; the first of a family is the source
    /// the container's own connections take.
    pub addresses: Vec<CtAddress>,
}

/// What is known of a container's link where its inside could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unread {
    /// The node's end leads into the container's namespace.
    Linked,
    /// There is no such link.
    Apart,
}

/// What there is of a container's link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// The container.
    pub ct: CtId,
    /// Whether its network namespace is pinned.
    pub netns: bool,
    /// Whether processes live in its control group though no namespace is pinned, as when the pin was lost.
    pub inhabited: bool,
    /// That the inside could not be read, which the container's root can bring about. Then nothing
    /// is known of it: no [`HostEnd::inner`], no name_conflict, no loopback.
    pub unread: Option<Unread>,
    /// Whether the loopback link inside is up.
    pub loopback_up: bool,
    /// Whether a link inside has the name of ours without being the other end of ours.
    pub name_conflict: bool,
    /// The link of its name on the node.
    pub link: Option<HostEnd>,
    /// Addresses the guard allows as source.
    pub sources: BTreeSet<CtAddress>,
    /// Who has each wanted address that somebody else has.
    pub holders: BTreeMap<CtAddress, Holder>,
    /// Whether the node's kernel has IPv6.
    pub ipv6: bool,
}

impl Observed {
    /// A container of which nothing is there.
    pub fn nothing(ct: CtId) -> Self {
        Self {
            ct,
            netns: false,
            inhabited: false,
            unread: None,
            loopback_up: false,
            name_conflict: false,
            link: None,
            sources: BTreeSet::new(),
            holders: BTreeMap::new(),
            ipv6: true,
        }
    }

    /// Addresses that are set inside, routed outside and allowed as source. Where the container has
    /// IPv6 switched off, its IPv6 addresses count without being set inside: nothing is left to do.
    /// Where its inside cannot be read, all count by the outside: nothing else can be done.
    pub fn working(&self) -> Vec<CtAddress> {
        let Some(link) = &self.link else { return Vec::new() };
        let both = link.routes.intersection(&self.sources).copied();
        if self.unread == Some(Unread::Linked) {
            return both.collect();
        }
        let Some(inner) = &link.inner else { return Vec::new() };
        let off = |a: &CtAddress| a.ip().is_ipv6() && !inner.ipv6;
        let set = |a: &CtAddress| inner.addresses.contains(&(a.ip(), a.prefix_len()));
        both.filter(|a| off(a) || set(a)).collect()
    }
}

/// The node's end of a link.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostEnd {
    /// Whether it is of our kind.
    pub veth: bool,
    /// Whether it is up, with its hardware address, without neighbour discovery, makes no IPv6
    /// address and heeds no router advertisement.
    pub configured: bool,
    /// Addresses with a permanent neighbour entry of the container's hardware address.
    pub neighbours: BTreeSet<CtAddress>,
    /// Addresses routed through it by us.
    pub routes: BTreeSet<CtAddress>,
    /// The other end, where that is ours, in the pinned namespace.
    pub inner: Option<InnerEnd>,
}

/// The container's end.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InnerEnd {
    /// As [`HostEnd::configured`].
    pub configured: bool,
    /// Whether IPv6 is on there; the container may switch it off.
    pub ipv6: bool,
    /// Addresses with their lengths, link-local ones left out.
    pub addresses: BTreeSet<(IpAddr, u8)>,
    /// Families whose gateway has its permanent neighbour entry.
    pub gateways: BTreeSet<Family>,
    /// Families whose default route goes by the gateway.
    pub defaults: BTreeSet<Family>,
}

/// Who has an address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Holder {
    /// It is one of the node's own.
    Node,
    /// It is routed to another container.
    Container(CtId),
    /// A route that is not ours leads through this link.
    Route(String),
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node => f.write_str("the node itself"),
            Self::Container(ct) => write!(f, "container {ct}"),
            Self::Route(link) => write!(f, "a route of the node through {link}"),
        }
    }
}

/// Why nothing is done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no network namespace to make the link in.
    #[error("container {ct} has no network namespace; start it first")]
    NoNamespace {
        /// The container.
        ct: CtId,
    },
    /// The pin of its namespace was lost, and it lives: its link is in use.
    #[error(
        "the network namespace of container {ct} is not found any more, and processes of it live; stop \
         the container, which ends them"
    )]
    PinLost {
        /// The container.
        ct: CtId,
    },
    /// Somebody has the address.
    #[error("address {address} belongs to {holder}; choose another or take it from there first")]
    AddressTaken {
        /// The address.
        address: CtAddress,
        /// Who has it.
        holder: Holder,
    },
    /// The link's name is taken by something else.
    #[error("link {link} is there and is no veth of ours; rename or remove it")]
    ForeignLink {
        /// Its name.
        link: String,
    },
    /// What is inside is in the way of a link, and cannot be read.
    #[error(
        "the network namespace of container {ct} cannot be read, so no link can be made there; see \
         the warning logged with this, or restart the container"
    )]
    Unreadable {
        /// The container.
        ct: CtId,
    },
    /// The node has no IPv6.
    #[error("this kernel has no IPv6, so {address} cannot be used; boot it with IPv6 on")]
    NoIpv6 {
        /// The address.
        address: CtAddress,
    },
}

/// One change to one container's link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The container.
    pub ct: CtId,
    /// What is done.
    pub change: Change,
}

/// What a step does. Each may be done twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Removes the link.
    DeleteLink,
    /// Waits until the link is gone with its namespace.
    AwaitLinkGone,
    /// Removes a link inside that has our name.
    DeleteConflicting,
    /// Makes the link, down.
    CreateLink,
    /// Sets the node's end up.
    ConfigureHostEnd,
    /// Sets the container's end up.
    ConfigureInnerEnd,
    /// Sets the loopback link inside up.
    LoopbackUp,
    /// Sets an address inside.
    AddAddress(CtAddress),
    /// Removes an address inside.
    RemoveAddress(IpAddr, u8),
    /// Makes the gateway known inside.
    SetGateway(Family),
    /// Sets the default route inside.
    SetDefault(Family),
    /// Removes it.
    RemoveDefault(Family),
    /// Makes the container known on the node's end.
    SetNeighbour(CtAddress),
    /// Forgets it there.
    RemoveNeighbour(CtAddress),
    /// Lets packets from these addresses in.
    AllowSources(BTreeSet<CtAddress>),
    /// Lets them in no more.
    ForbidSources(BTreeSet<CtAddress>),
    /// Routes an address to the container.
    AddRoute(CtAddress),
    /// Routes it no more.
    RemoveRoute(CtAddress),
}

struct Words<'a>(&'a BTreeSet<CtAddress>);

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = self.0.iter();
        words.next().map_or(Ok(()), |first| first.fmt(f))?;
        words.try_for_each(|word| write!(f, ", {word}"))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ct, change } = self;
        let link = host_link(*ct);
        match change {
            Change::DeleteLink => write!(f, "delete link {link}"),
            Change::AwaitLinkGone => write!(f, "wait until link {link} is gone"),
            Change::DeleteConflicting => {
                write!(f, "delete the foreign {CT_LINK} in container {ct}")
            }
            Change::CreateLink => write!(f, "create link {link} to {CT_LINK} in container {ct}"),
            Change::ConfigureHostEnd => write!(f, "set link {link} up"),
            Change::ConfigureInnerEnd => write!(f, "set {CT_LINK} in container {ct} up"),
            Change::LoopbackUp => write!(f, "set lo in container {ct} up"),
            Change::AddAddress(a) => write!(f, "add address {a} in container {ct}"),
            Change::RemoveAddress(ip, len) => {
                write!(f, "remove address {ip}/{len} in container {ct}")
            }
            Change::SetGateway(family) => {
                write!(f, "set neighbour {} in container {ct}", family.gateway())
            }
            Change::SetDefault(family) => {
                write!(f, "set the {family} default route in container {ct}")
            }
            Change::RemoveDefault(family) => {
                write!(f, "remove the {family} default route in container {ct}")
            }
            Change::SetNeighbour(a) => write!(f, "set neighbour {a} on {link}"),
            Change::RemoveNeighbour(a) => write!(f, "remove neighbour {a} on {link}"),
            Change::AllowSources(set) => write!(f, "allow source {} from {link}", Words(set)),
            Change::ForbidSources(set) => write!(f, "forbid source {} from {link}", Words(set)),
            Change::AddRoute(a) => write!(f, "add route {a} through {link}"),
            Change::RemoveRoute(a) => write!(f, "remove route {a} through {link}"),
        }
    }
}

/// Steps in the order they are done.
pub type Plan = Vec<Step>;

/// What has to be done so that the link is as desired, or does not exist where nothing is desired.
///
/// # Errors
/// [`Refusal`]; then nothing is to be done.
pub fn plan(desired: Option<&Desired>, observed: &Observed) -> Result<Plan, Refusal> {
    if observed.link.as_ref().is_some_and(|l| !l.veth) {
        return Err(Refusal::ForeignLink { link: host_link(observed.ct) });
    }
    if !observed.netns && observed.inhabited {
        return Err(Refusal::PinLost { ct: observed.ct });
    }
    let changes = match desired {
        Some(desired) => ensure(desired, observed)?,
        None => remove(observed),
    };
    Ok(changes.into_iter().map(|change| Step { ct: observed.ct, change }).collect())
}

fn ensure(desired: &Desired, observed: &Observed) -> Result<Vec<Change>, Refusal> {
    if !observed.netns {
        return Err(Refusal::NoNamespace { ct: observed.ct });
    }
    for address in &desired.addresses {
        if let Some(holder) = observed.holders.get(address) {
            return Err(Refusal::AddressTaken { address: *address, holder: holder.clone() });
        }
        if !observed.ipv6 && address.ip().is_ipv6() {
            return Err(Refusal::NoIpv6 { address: *address });
        }
    }
    // Whatever the container's root does inside, an address is given to it and taken from it here.
    match (observed.unread, &observed.link) {
        (None, _) => {}
        (Some(Unread::Linked), Some(host)) => {
            return Ok([take(desired, observed, host), give(desired, observed, host)].concat());
        }
        (Some(_), _) => return Err(Refusal::Unreadable { ct: observed.ct }),
    }
    let mut changes = Vec::new();

    // A link whose other end is elsewhere: of a namespace that is dying or was moved away.
    let connected = observed.link.as_ref().and_then(|l| Some((l, l.inner.as_ref()?)));
    let fresh = (
        HostEnd { veth: true, ..HostEnd::default() },
        InnerEnd { ipv6: observed.ipv6, ..InnerEnd::default() },
    );
    let (host, inner) = connected.unwrap_or((&fresh.0, &fresh.1));
    if connected.is_none() {
        if observed.link.is_some() {
            changes.push(Change::DeleteLink);
        }
        if observed.name_conflict {
            changes.push(Change::DeleteConflicting);
        }
        changes.push(Change::CreateLink);
    }

    changes.extend(take(desired, observed, host));
    if !inner.configured {
        changes.push(Change::ConfigureInnerEnd);
    }
    if !observed.loopback_up {
        changes.push(Change::LoopbackUp);
    }
    changes.extend(inside(desired, inner));
    changes.extend(give(desired, observed, host));
    Ok(changes)
}

/// What goes on the node, and then the node's end.
fn take(desired: &Desired, observed: &Observed, host: &HostEnd) -> Vec<Change> {
    let wanted: BTreeSet<_> = desired.addresses.iter().copied().collect();
    let mut changes = Vec::new();
    let stale: BTreeSet<_> = observed.sources.difference(&wanted).copied().collect();
    if !stale.is_empty() {
        changes.push(Change::ForbidSources(stale));
    }
    changes.extend(host.routes.difference(&wanted).copied().map(Change::RemoveRoute));
    changes.extend(host.neighbours.difference(&wanted).copied().map(Change::RemoveNeighbour));
    if !host.configured {
        changes.push(Change::ConfigureHostEnd);
    }
    changes
}

/// What comes on the node, once all else is there.
fn give(desired: &Desired, observed: &Observed, host: &HostEnd) -> Vec<Change> {
    let missing = |have: &BTreeSet<CtAddress>| -> Vec<CtAddress> {
        desired.addresses.iter().filter(|a| !have.contains(a)).copied().collect()
    };
    let mut changes: Vec<_> =
        missing(&host.neighbours).into_iter().map(Change::SetNeighbour).collect();
    changes.extend(missing(&host.routes).into_iter().map(Change::AddRoute));
    // Who looks after the guard may forbid what is not routed at any time: so what is routed anew is
    // allowed anew.
    let allowed = observed.sources.intersection(&host.routes).copied().collect();
    let allow: BTreeSet<_> = missing(&allowed).into_iter().collect();
    if !allow.is_empty() {
        changes.push(Change::AllowSources(allow));
    }
    changes
}

/// Addresses and default routes of the container's end.
fn inside(desired: &Desired, inner: &InnerEnd) -> Vec<Change> {
    let usable = |a: &&CtAddress| a.ip().is_ipv4() || inner.ipv6;
    let want: Vec<_> = desired.addresses.iter().filter(usable).copied().collect();
    let wanted: BTreeSet<_> = want.iter().map(|a| (a.ip(), a.prefix_len())).collect();
    let wanted_ips: BTreeSet<_> = want.iter().map(|a| a.ip()).collect();
    let extra = || inner.addresses.difference(&wanted).copied();
    let remove = |(ip, len)| Change::RemoveAddress(ip, len);

    // The same address with another length would be in the way of ours.
    let in_the_way: Vec<_> = extra().filter(|(ip, _)| wanted_ips.contains(ip)).collect();
    let mut changes: Vec<_> = in_the_way.iter().copied().map(remove).collect();
    // With its last IPv4 address a link loses its IPv4 routes and neighbours: so first the new
    // ones, then the old ones.
    let missing = want.iter().filter(|a| !inner.addresses.contains(&(a.ip(), a.prefix_len())));
    changes.extend(missing.copied().map(Change::AddAddress));
    changes.extend(extra().filter(|(ip, _)| !wanted_ips.contains(ip)).map(remove));

    for family in Family::ALL {
        if want.iter().any(|a| Family::of(a.ip()) == family) {
            let lost = in_the_way.iter().any(|(ip, _)| Family::of(*ip) == family);
            if lost || !inner.gateways.contains(&family) {
                changes.push(Change::SetGateway(family));
            }
            if lost || !inner.defaults.contains(&family) {
                changes.push(Change::SetDefault(family));
            }
        } else if inner.defaults.contains(&family) {
            changes.push(Change::RemoveDefault(family));
        }
    }
    changes
}

fn remove(observed: &Observed) -> Vec<Change> {
    let mut changes = Vec::new();
    if !observed.sources.is_empty() {
        changes.push(Change::ForbidSources(observed.sources.clone()));
    }
    if let Some(host) = &observed.link {
        changes.extend(host.routes.iter().copied().map(Change::RemoveRoute));
    }
    if observed.link.is_some() {
        // A link goes with its namespace for nothing; removing it by hand costs 33 ms during which
        // no other link of the node can change.
        changes.push(match observed.netns {
            true => Change::DeleteLink,
            false => Change::AwaitLinkGone,
        });
    }
    changes
}

#[cfg(test)]
mod laws;
