//! What the kernel says of a container's namespace, as values: pure.
//!
//! Attributes that are not needed are skipped, so that nothing a container's root makes can hide
//! its link; a message that lacks what is needed is none.

use std::net::IpAddr;

use super::{Ipv6Settings, Link, Neighbour, Route, Traffic};
use crate::netlink::{Reply, attributes};

const NEW_LINK: u16 = 16;
const NEW_ADDR: u16 = 20;
const NEW_ROUTE: u16 = 24;
const NEW_NEIGH: u16 = 28;
const INET6: u8 = 10;
const IFF_UP: u32 = 0x1;
const IFF_NOARP: u32 = 0x80;
const NUD_PERMANENT: u16 = 0x80;
const GEN_MODE_NONE: u8 = 1;
/// `IF_OPER_UP`.
const OPERATIONAL: u8 = 6;

fn unspecified(family: u8) -> IpAddr {
    match family {
        INET6 => IpAddr::from([0_u8; 16]),
        _ => IpAddr::from([0_u8; 4]),
    }
}

fn ip_from(bytes: &[u8]) -> Option<IpAddr> {
    match *bytes {
        [a, b, c, d] => Some(IpAddr::from([a, b, c, d])),
        _ => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|b| u32::from_ne_bytes(*b))
}

pub(super) fn link(reply: &Reply) -> Option<Link> {
    if reply.kind != NEW_LINK {
        return None;
    }
    let flags = word(&reply.payload, 8)?;
    let mut link = Link {
        index: word(&reply.payload, 4)?,
        up: flags & IFF_UP != 0,
        noarp: flags & IFF_NOARP != 0,
        ..Link::default()
    };
    for attribute in attributes(reply.payload.get(16..)?) {
        match attribute.kind {
            1 => link.mac = attribute.payload.try_into().ok(),
            3 => link.name = attribute.text(),
            5 => link.peer = Some(attribute.number()),
            16 => link.operational = attribute.payload == [OPERATIONAL],
            18 => link.kind = attribute.nested().find(|a| a.kind == 1).map(|a| a.text()),
            23 => link.traffic = parse_traffic(attribute.payload),
            26 => {
                let v6 = attribute.nested().find(|a| a.kind == u16::from(INET6));
                link.ipv6 = v6.map(|a| parse_ipv6(a.payload));
            }
            37 => link.peer_netns = attribute.payload.first_chunk().map(|b| i32::from_ne_bytes(*b)),
            _ => {}
        }
    }
    Some(link)
}

fn parse_traffic(bytes: &[u8]) -> Traffic {
    let at = |n: usize| {
        let chunk = bytes.get(8 * n..).and_then(<[u8]>::first_chunk);
        chunk.map_or(0, |b| u64::from_ne_bytes(*b))
    };
    // rtnl_link_stats64: errors are between.
    Traffic {
        rx_packets: at(0),
        tx_packets: at(1),
        rx_bytes: at(2),
        tx_bytes: at(3),
        rx_dropped: at(6),
        tx_dropped: at(7),
    }
}

fn parse_ipv6(bytes: &[u8]) -> Ipv6Settings {
    let mut settings =
        Ipv6Settings { makes_no_address: false, accepts_advertisements: 0, disabled: false };
    for attribute in attributes(bytes) {
        match attribute.kind {
            // IFLA_INET6_CONF: numbers in the order of DEVCONF_*.
            2 => {
                let at = |n: usize| {
                    let chunk = attribute.payload.get(4 * n..).and_then(<[u8]>::first_chunk);
                    chunk.map_or(0, |b| i32::from_ne_bytes(*b))
                };
                settings.accepts_advertisements = at(3);
                settings.disabled = at(26) != 0;
            }
            8 => settings.makes_no_address = attribute.payload == [GEN_MODE_NONE],
            _ => {}
        }
    }
    settings
}

pub(super) fn address(reply: &Reply, link: u32) -> Option<(IpAddr, u8)> {
    if reply.kind != NEW_ADDR || word(&reply.payload, 4)? != link {
        return None;
    }
    let len = *reply.payload.get(1)?;
    let mut found = None;
    for attribute in attributes(reply.payload.get(8..)?) {
        match attribute.kind {
            // The local address counts; IFA_ADDRESS is the other end's where both are given.
            2 => found = ip_from(attribute.payload),
            1 => found = found.or_else(|| ip_from(attribute.payload)),
            _ => {}
        }
    }
    found.map(|ip| (ip, len))
}

pub(super) fn route(reply: &Reply) -> Option<Route> {
    let [family, prefix_len, _, _, _, protocol, _, kind, ..] = *reply.payload else { return None };
    if reply.kind != NEW_ROUTE {
        return None;
    }
    let mut route = Route {
        destination: unspecified(family),
        prefix_len,
        link: None,
        gateway: None,
        protocol,
        kind,
    };
    for attribute in attributes(reply.payload.get(12..)?) {
        match attribute.kind {
            1 => route.destination = ip_from(attribute.payload)?,
            4 => route.link = Some(attribute.number()),
            5 => route.gateway = ip_from(attribute.payload),
            _ => {}
        }
    }
    Some(route)
}

pub(super) fn neighbour(reply: &Reply, link: u32) -> Option<Neighbour> {
    if reply.kind != NEW_NEIGH || word(&reply.payload, 4)? != link {
        return None;
    }
    let state = u16::from_ne_bytes(*reply.payload.get(8..)?.first_chunk()?);
    let (mut ip, mut mac) = (None, None);
    for attribute in attributes(reply.payload.get(12..)?) {
        match attribute.kind {
            1 => ip = ip_from(attribute.payload),
            2 => mac = attribute.payload.try_into().ok(),
            _ => {}
        }
    }
    ip.map(|ip| Neighbour { ip, mac, permanent: state & NUD_PERMANENT != 0 })
}

#[cfg(test)]
mod tests {
    use super::super::TYPE_LOCAL;
    use super::*;
    use crate::netlink::recorded;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn both_ends_of_a_link_are_understood() {
        let one = |asked| recorded(asked).iter().find_map(link).expect("a link");
        let (host, inner) = (one("read link ves9200"), one("read link venet0"));
        assert_eq!((host.name.as_str(), inner.name.as_str()), ("ves9200", "venet0"));
        assert_eq!((host.peer, inner.peer), (Some(inner.index), Some(host.index)));
        assert!(host.peer_netns.is_some() && inner.peer_netns.is_some());
        for link in [&host, &inner] {
            assert!(link.up && link.noarp && link.operational, "{link:?}");
            assert_eq!(link.kind.as_deref(), Some("veth"));
            assert!(link.ipv6.is_some_and(|v6| v6.makes_no_address && !v6.disabled));
        }
        assert_eq!(host.mac, Some([0x02, 0x56, 0, 0, 0x23, 0xf0]));
        assert_eq!(inner.mac, Some([0x06, 0x56, 0, 0, 0x23, 0xf0]));
        assert_eq!(host.ipv6.map(|v6| v6.accepts_advertisements), Some(0));
        let lo = one("read link lo");
        assert!(lo.up && !lo.noarp && lo.kind.is_none() && lo.mac == Some([0; 6]), "{lo:?}");
    }

    #[test]
    fn addresses_routes_and_neighbours_are_understood() {
        let addresses: Vec<_> =
            recorded("read addresses").iter().filter_map(|r| address(r, 2)).collect();
        assert_eq!(addresses, [(ip("192.0.2.10"), 32), (ip("2001:db8::10"), 128)]);

        let routes: Vec<_> = recorded("read routes").iter().filter_map(route).collect();
        let to = |text, protocol| {
            let ours = routes.iter().filter(move |r| r.protocol == protocol);
            ours.filter(move |r| r.destination == ip(text)).copied().collect::<Vec<_>>()
        };
        for (text, len) in [("192.0.2.10", 32), ("2001:db8::10", 128)] {
            let [route] = to(text, 86)[..] else { panic!("one route to {text}: {routes:?}") };
            assert_eq!((route.prefix_len, route.link, route.gateway), (len, Some(4), None));
        }
        for (any, gateway) in [("0.0.0.0", "169.254.0.1"), ("::", "fe80::1")] {
            let [route] = to(any, 86)[..] else { panic!("one default: {routes:?}") };
            assert_eq!((route.prefix_len, route.gateway), (0, Some(ip(gateway))));
        }
        let local = recorded("find the route to 2001:db8::10");
        assert_eq!(local.iter().find_map(route).map(|r| r.kind), Some(TYPE_LOCAL));

        let neighbours = recorded("read neighbours");
        let on = |link| neighbours.iter().filter_map(move |r| neighbour(r, link));
        let known: Vec<_> = on(4).filter(|n| n.permanent).map(|n| n.ip).collect();
        assert_eq!(known, [ip("192.0.2.10"), ip("2001:db8::10")]);
        assert!(on(4).any(|n| !n.permanent), "the kernel makes entries of its own");
    }

    #[test]
    fn damaged_messages_are_skipped() {
        for asked in ["read link ves9200", "read addresses", "read routes", "read neighbours"] {
            for reply in recorded(asked) {
                for len in 0..reply.payload.len() {
                    let cut = Reply { kind: reply.kind, payload: reply.payload[..len].to_vec() };
                    link(&cut);
                    address(&cut, 2);
                    route(&cut);
                    neighbour(&cut, 2);
                }
            }
        }
    }
}
