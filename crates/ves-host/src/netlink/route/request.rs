//! What rtnetlink is asked, as messages: pure.
//!
//! Shared by rtnetlink and by the bounded reader. Only what [`rtnetlink`]'s own builders do not say.

use std::net::IpAddr;

use netlink_packet_route::RouteNetlinkMessage as Request;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkExtentMask, LinkInfo, LinkMessage};
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourMessage};
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};
use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, route::RouteAddress};

fn family(ip: IpAddr) -> AddressFamily {
    if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

/// How many bits a single address has.
pub(super) fn full(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

fn link(attributes: Vec<LinkAttribute>) -> Request {
    let mut message = LinkMessage::default();
    message.attributes = attributes;
    Request::GetLink(message)
}

pub(super) fn link_named(name: &str) -> Request {
    link(vec![LinkAttribute::IfName(name.to_owned())])
}

pub(super) fn link_numbered(index: u32) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = index;
    Request::GetLink(message)
}

/// Without what went through them. Only who masks something gets a link that does not fit into 32 KiB;
/// for others the kernel ends the dump there, as if it were whole.
pub(super) fn links_of(kind: InfoKind) -> Request {
    let mask = LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]);
    link(vec![LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)]), mask])
}

pub(super) fn netns_number(fd: u32) -> Request {
    let mut message = NsidMessage::default();
    message.attributes = vec![NsidAttribute::Fd(fd)];
    Request::GetNsId(message)
}

pub(super) fn addresses(link: u32) -> Request {
    let mut message = AddressMessage::default();
    message.header.index = link;
    Request::GetAddress(message)
}

/// An address of a link, to be removed.
pub(super) fn address(link: u32, ip: IpAddr, prefix_len: u8) -> AddressMessage {
    let mut message = AddressMessage::default();
    (message.header.family, message.header.prefix_len) = (family(ip), prefix_len);
    message.header.index = link;
    message.attributes = vec![AddressAttribute::Local(ip), AddressAttribute::Address(ip)];
    message
}

pub(super) fn routes(ipv6: bool, link: Option<u32>, protocol: Option<u8>) -> Request {
    let mut message = RouteMessage::default();
    message.header.address_family = if ipv6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = protocol.map_or(RouteProtocol::Unspec, RouteProtocol::from);
    message.attributes = link.map(RouteAttribute::Oif).into_iter().collect();
    Request::GetRoute(message)
}

/// Which route of the tables a packet to `ip` takes.
pub(super) fn lookup(ip: IpAddr) -> Request {
    let mut message = RouteMessage::default();
    message.header.address_family = family(ip);
    message.header.destination_prefix_length = full(ip);
    message.header.flags = RouteFlags::FibMatch;
    message.attributes = vec![RouteAttribute::Destination(ip.into())];
    Request::GetRoute(message)
}

/// A unicast route of the main table to a single address.
pub(super) fn route(ip: IpAddr, link: u32, protocol: u8) -> RouteMessage {
    // IPv6 has no scopes.
    let scope = if ip.is_ipv4() { RouteScope::Link } else { RouteScope::Universe };
    let mut message = unicast(ip, full(ip), protocol, scope);
    message.attributes = vec![RouteAttribute::Destination(ip.into()), RouteAttribute::Oif(link)];
    message
}

/// The default route of a family by a next hop. The protocol 0 stands for any, where it is removed.
pub(super) fn default_route(gateway: IpAddr, link: u32, protocol: u8) -> RouteMessage {
    let mut message = unicast(gateway, 0, protocol, RouteScope::Universe);
    let gateway: RouteAddress = gateway.into();
    message.attributes = vec![RouteAttribute::Gateway(gateway), RouteAttribute::Oif(link)];
    message
}

fn unicast(ip: IpAddr, prefix_len: u8, protocol: u8, scope: RouteScope) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(ip);
    message.header.destination_prefix_length = prefix_len;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::from(protocol);
    message.header.scope = scope;
    message.header.kind = RouteType::Unicast;
    message
}

pub(super) fn neighbours(link: u32) -> Request {
    let mut message = NeighbourMessage::default();
    message.attributes = vec![NeighbourAttribute::IfIndex(link)];
    Request::GetNeighbour(message)
}

/// A neighbour, to be removed.
pub(super) fn neighbour(link: u32, ip: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    (message.header.family, message.header.ifindex) = (family(ip), link);
    message.attributes = vec![NeighbourAttribute::Destination(ip.into())];
    message
}
