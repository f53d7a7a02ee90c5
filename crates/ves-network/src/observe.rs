//! From what netlink said to what the planner wants to know: pure.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ves_host::netlink::route::{Link, Neighbour, Route};
use ves_host::nft::Element;
use ves_types::address::ROUTE_PROTOCOL;
use ves_types::layout::{CT_LINK, host_link};
use ves_types::{CtAddress, CtId, MacAddress};

use crate::host::Sources;
use crate::plan::{Family, Holder, HostEnd, InnerEnd};

const TYPE_UNICAST: u8 = 1;
/// `RTN_LOCAL`, `RTN_BROADCAST`, `RTN_ANYCAST`: addresses of the node itself.
const TYPES_OWN: [u8; 3] = [2, 3, 4];
/// `RTPROT_STATIC`, the last of those set by hand; beyond are routing daemons, whose routes name
/// the node that had the address before.
const PROTOCOL_STATIC: u8 = 4;

/// The container a link of the node belongs to by its name.
pub fn ct_of(link: &str) -> Option<CtId> {
    let ct = link.strip_prefix("ves")?.parse().ok()?;
    // Not a name with leading zeros.
    (host_link(ct) == link).then_some(ct)
}

/// The guard's sets by container; elements of other links are not ours.
pub fn sources(elements: impl IntoIterator<Item = Element>) -> Sources {
    let mut sources = Sources::new();
    for (link, ip) in elements {
        if let (Some(ct), Ok(address)) = (ct_of(&link), CtAddress::try_from(ip)) {
            sources.entry(ct).or_default().insert(address);
        }
    }
    sources
}

/// Every link of ours among `links`, with the addresses that we routed to it.
pub fn links(links: &[Link], routes: &[Route]) -> Sources {
    let routed = |link: &Link| {
        let through = routes.iter().filter(|r| r.link == Some(link.index));
        through.filter(|r| is_ours(r)).filter_map(single).collect()
    };
    links.iter().filter_map(|link| Some((ct_of(&link.name)?, routed(link)))).collect()
}

fn is_ours(route: &Route) -> bool {
    route.protocol == ROUTE_PROTOCOL && route.kind == TYPE_UNICAST
}

fn single(route: &Route) -> Option<CtAddress> {
    let address = CtAddress::try_from(route.destination).ok()?;
    (address.prefix_len() == route.prefix_len).then_some(address)
}

/// The node's end, without its other end.
pub fn host_end(ct: CtId, link: &Link, neighbours: &[Neighbour], routes: &[Route]) -> HostEnd {
    let inner_mac = MacAddress::of_ct_end(ct).0;
    let known = neighbours.iter().filter(|n| n.permanent && n.mac == Some(inner_mac));
    let ours = routes.iter().filter(|r| is_ours(r));
    let quiet = link
        .ipv6
        .is_none_or(|v6| v6.makes_no_address && v6.accepts_advertisements == 0 && !v6.disabled);
    HostEnd {
        veth: link.kind.as_deref() == Some("veth"),
        configured: link.up
            && link.noarp
            && quiet
            && link.mac == Some(MacAddress::of_host_end(ct).0),
        neighbours: known.filter_map(|n| CtAddress::try_from(n.ip).ok()).collect(),
        routes: ours.filter_map(single).collect(),
        inner: None,
    }
}

/// Whether `inner`, a link of a namespace that the node numbers `netns`, is the other end of `host`.
pub fn connected(host: &Link, inner: &Link, netns: Option<i32>) -> bool {
    netns.is_some()
        && host.peer_netns == netns
        && host.peer == Some(inner.index)
        && inner.peer == Some(host.index)
        && inner.name == CT_LINK
}

/// The container's end.
pub fn inner_end(
    ct: CtId,
    link: &Link,
    addresses: &[(IpAddr, u8)],
    neighbours: &[Neighbour],
    routes: &[Route],
) -> InnerEnd {
    let host_mac = MacAddress::of_host_end(ct).0;
    let knows = |family: Family| {
        let mut known = neighbours.iter().filter(|n| n.permanent && n.mac == Some(host_mac));
        known.any(|n| n.ip == family.gateway())
    };
    let leaves = |family: Family| {
        let mut defaults = routes.iter().filter(|r| r.prefix_len == 0 && r.kind == TYPE_UNICAST);
        defaults.any(|r| r.gateway == Some(family.gateway()) && r.link == Some(link.index))
    };
    let global = addresses.iter().filter(|(ip, _)| match ip {
        IpAddr::V4(v4) => !v4.is_link_local(),
        IpAddr::V6(v6) => !v6.is_unicast_link_local(),
    });
    let both = || BTreeSet::from(Family::ALL).into_iter();
    InnerEnd {
        configured: link.up
            && link.noarp
            && link.ipv6.is_none_or(|v6| v6.makes_no_address)
            && link.mac == Some(MacAddress::of_ct_end(ct).0),
        ipv6: link.ipv6.is_some_and(|v6| !v6.disabled),
        addresses: global.copied().collect(),
        gateways: both().filter(|f| knows(*f)).collect(),
        defaults: both().filter(|f| leaves(*f)).collect(),
    }
}

/// Who has an address, by the route a packet to it takes: `None` where nobody in particular does.
/// `name` gives a link's name.
pub fn holder(
    ct: CtId,
    address: CtAddress,
    route: &Route,
    name: impl FnOnce(u32) -> String,
) -> Option<Holder> {
    if TYPES_OWN.contains(&route.kind) {
        return Some(Holder::Node);
    }
    let exact = route.prefix_len == address.prefix_len() && route.destination == address.ip();
    let by_hand = route.protocol == ROUTE_PROTOCOL || route.protocol <= PROTOCOL_STATIC;
    if !exact || !by_hand {
        return None;
    }
    let link = route.link.map_or_else(String::new, name);
    match ct_of(&link) {
        Some(holder) if holder == ct => None,
        Some(holder) => Some(Holder::Container(holder)),
        None => Some(Holder::Route(link)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_names_are_read_exactly() {
        assert_eq!(ct_of("ves101").map(CtId::get), Some(101));
        for other in
            ["ves", "ves0", "ves0101", "ves101x", "vesta", "eth0", "ves+1", "ves2147483645"]
        {
            assert_eq!(ct_of(other), None, "{other}");
        }
    }

    fn route(text: &str, prefix_len: u8, protocol: u8, kind: u8) -> Route {
        let destination = text.parse().expect("an address");
        Route { destination, prefix_len, link: Some(7), gateway: None, protocol, kind }
    }

    #[test]
    fn links_have_what_is_routed_to_them() {
        let link = |index, name: &str| Link { index, name: name.to_owned(), ..Link::default() };
        let all = [link(7, "ves101"), link(8, "ves102"), link(9, "eth0")];
        let through = |link, r: Route| Route { link: Some(link), ..r };
        let routes = [
            through(7, route("192.0.2.1", 32, ROUTE_PROTOCOL, 1)),
            through(7, route("2001:db8::1", 128, ROUTE_PROTOCOL, 1)),
            through(7, route("192.0.2.2", 32, 4, 1)),
            through(7, route("192.0.2.0", 24, ROUTE_PROTOCOL, 1)),
            through(9, route("192.0.2.3", 32, ROUTE_PROTOCOL, 1)),
        ];
        let found = links(&all, &routes);
        let of = |n: u32| found[&CtId::try_from(n).expect("valid")].iter().map(|a| a.to_string());
        assert_eq!(of(101).collect::<Vec<_>>(), ["192.0.2.1", "2001:db8::1"]);
        assert_eq!((of(102).count(), found.len()), (0, 2));
    }

    #[test]
    fn holders() {
        let ct = CtId::try_from(101).expect("valid");
        let address = "192.0.2.1".parse().expect("an address");
        let held = |r: &Route, link: &str| holder(ct, address, r, |_| link.to_owned());
        let own = route("192.0.2.1", 32, 2, 2);
        assert_eq!(held(&own, "lo"), Some(Holder::Node));
        let ours = route("192.0.2.1", 32, ROUTE_PROTOCOL, 1);
        let other = CtId::try_from(102).expect("valid");
        assert_eq!(held(&ours, "ves102"), Some(Holder::Container(other)));
        assert_eq!(held(&ours, "ves101"), None, "its own");
        assert_eq!(
            held(&route("192.0.2.1", 32, 4, 1), "eth0"),
            Some(Holder::Route("eth0".to_owned()))
        );
        assert_eq!(held(&route("192.0.2.1", 32, 188, 1), "eth0"), None, "OSPF's, from elsewhere");
        assert_eq!(held(&route("192.0.2.0", 24, 2, 1), "eth0"), None, "the node's network");
        assert_eq!(held(&route("0.0.0.0", 0, 3, 1), "eth0"), None, "the default route");
    }
}
