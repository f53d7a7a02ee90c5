//! What rtnetlink understood, as our values: pure.
//!
//! Of the same meaning as [`super::parse`], which a test holds against it message by message.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
    State,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};

use super::{Ipv6Settings, Link, Neighbour, Route, Traffic};

pub(super) fn link(message: &LinkMessage) -> Link {
    let flags = message.header.flags;
    let mut link = Link {
        index: message.header.index,
        up: flags.contains(LinkFlags::Up),
        noarp: flags.contains(LinkFlags::Noarp),
        ..Link::default()
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Address(mac) => link.mac = mac.as_slice().try_into().ok(),
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Link(peer) => link.peer = Some(*peer),
            LinkAttribute::OperState(state) => link.operational = *state == State::Up,
            LinkAttribute::LinkInfo(list) => {
                link.kind = list.iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind.to_string()),
                    _ => None,
                });
            }
            LinkAttribute::Stats64(s) => {
                link.traffic = Traffic {
                    rx_bytes: s.rx_bytes,
                    rx_packets: s.rx_packets,
                    tx_bytes: s.tx_bytes,
                    tx_packets: s.tx_packets,
                    rx_dropped: s.rx_dropped,
                    tx_dropped: s.tx_dropped,
                };
            }
            LinkAttribute::AfSpecUnspec(list) => {
                link.ipv6 = list.iter().find_map(|spec| match spec {
                    AfSpecUnspec::Inet6(list) => Some(ipv6(list)),
                    _ => None,
                });
            }
            LinkAttribute::LinkNetNsId(number) => link.peer_netns = Some(*number),
            _ => {}
        }
    }
    link
}

fn ipv6(list: &[AfSpecInet6]) -> Ipv6Settings {
    let mut settings =
        Ipv6Settings { makes_no_address: false, accepts_advertisements: 0, disabled: false };
    for attribute in list {
        match attribute {
            AfSpecInet6::DevConf(conf) => {
                settings.accepts_advertisements = conf.accept_ra;
                settings.disabled = conf.disable_ipv6 != 0;
            }
            AfSpecInet6::AddrGenMode(mode) => {
                settings.makes_no_address = *mode == In6AddrGenMode::None;
            }
            _ => {}
        }
    }
    settings
}

pub(super) fn netns_number(message: &NsidMessage) -> Option<i32> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NsidAttribute::Id(number) => Some(*number),
        _ => None,
    })
}

pub(super) fn address(message: &AddressMessage, link: u32) -> Option<(IpAddr, u8)> {
    if message.header.index != link {
        return None;
    }
    let mut found = None;
    for attribute in &message.attributes {
        match attribute {
            // The local address counts; the other is the other end's where both are given.
            AddressAttribute::Local(ip) => found = Some(*ip),
            AddressAttribute::Address(ip) => found = found.or(Some(*ip)),
            _ => {}
        }
    }
    found.map(|ip| (ip, message.header.prefix_len))
}

fn route_ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some(IpAddr::V4(*ip)),
        RouteAddress::Inet6(ip) => Some(IpAddr::V6(*ip)),
        _ => None,
    }
}

pub(super) fn route(message: &RouteMessage) -> Option<Route> {
    let header = &message.header;
    let mut route = Route {
        destination: match header.address_family {
            AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
            _ => Ipv4Addr::UNSPECIFIED.into(),
        },
        prefix_len: header.destination_prefix_length,
        link: None,
        gateway: None,
        protocol: header.protocol.into(),
        kind: header.kind.into(),
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(to) => route.destination = route_ip(to)?,
            RouteAttribute::Oif(link) => route.link = Some(*link),
            RouteAttribute::Gateway(by) => route.gateway = route_ip(by),
            _ => {}
        }
    }
    Some(route)
}

pub(super) fn neighbour(message: &NeighbourMessage, link: u32) -> Option<Neighbour> {
    if message.header.ifindex != link {
        return None;
    }
    let (mut ip, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => ip = Some((*v4).into()),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => ip = Some((*v6).into()),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok(),
            _ => {}
        }
    }
    let permanent = message.header.state == NeighbourState::Permanent;
    ip.map(|ip| Neighbour { ip, mac, permanent })
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::{NetlinkDeserializable, NetlinkHeader};
    use netlink_packet_route::RouteNetlinkMessage;

    use super::super::{Answer, parse};
    use super::*;
    use crate::netlink::recorded;

    /// What was recorded of this question, both as rtnetlink understands it and as it came.
    fn both_ways(asked: &str) -> Vec<[Answer; 2]> {
        let replies = recorded(asked).into_iter().map(|reply| {
            let mut header = NetlinkHeader::default();
            header.message_type = reply.kind;
            let message = RouteNetlinkMessage::deserialize(&header, &reply.payload);
            [Answer::Typed(message.expect("it is understood")), Answer::Raw(reply)]
        });
        replies.collect()
    }

    #[test]
    fn both_readers_understand_the_same() {
        for name in ["lo", "venet0", "ves9200"] {
            let links = both_ways(&format!("read link {name}"));
            let [[typed, raw]] = &links[..] else { panic!("one link: {}", links.len()) };
            assert_eq!(typed.link().expect("a link").name, name);
            assert_eq!(typed.link(), raw.link());
        }
        let same = |asked: &str, number: usize| {
            let answers = both_ways(asked);
            let seen = answers.iter().filter(|[typed, raw]| {
                assert_eq!(typed.route(), raw.route());
                let on = |link| {
                    assert_eq!(typed.address(link), raw.address(link));
                    assert_eq!(typed.neighbour(link), raw.neighbour(link));
                    typed.address(link).is_some() || typed.neighbour(link).is_some()
                };
                (0..8).filter(|link| on(*link)).count() + usize::from(typed.route().is_some()) == 1
            });
            assert_eq!(seen.count(), number, "{asked}");
        };
        same("read addresses", 2);
        same("read neighbours", 5);
        same("read routes", 6);
        same("find the route to 2001:db8::10", 1);
        assert!(parse::link(&recorded("read addresses")[0]).is_none(), "an address is no link");
    }

    #[test]
    fn the_number_of_a_namespace_is_understood() {
        let answers = both_ways("read a network namespace's number");
        let [[Answer::Typed(RouteNetlinkMessage::NewNsId(message)), _]] = &answers[..] else {
            panic!("one number: {}", answers.len())
        };
        assert!(netns_number(message).is_some_and(|n| n >= 0), "{message:?}");
    }
}
