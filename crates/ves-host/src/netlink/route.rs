//! rtnetlink: links, addresses, routes and neighbours of one network namespace.
//!
//! Every change is one message and one acknowledgement. Absence of what is removed is no failure;
//! presence of what is made is, unless said otherwise. Decides nothing.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Instant;

use rustix::io::Errno;

use super::{
    ACK, CREATE, DUMP, EXCLUSIVE, Message, Protocol, REPLACE, Reply, Socket, attributes, in_netns,
};
use crate::error::HostError;

mod parse;

use parse::{parse_address, parse_link, parse_neighbour, parse_route};

const NEW_LINK: u16 = 16;
const DEL_LINK: u16 = 17;
const GET_LINK: u16 = 18;
const NEW_ADDR: u16 = 20;
const DEL_ADDR: u16 = 21;
const GET_ADDR: u16 = 22;
const NEW_ROUTE: u16 = 24;
const DEL_ROUTE: u16 = 25;
const GET_ROUTE: u16 = 26;
const NEW_NEIGH: u16 = 28;
const DEL_NEIGH: u16 = 29;
const GET_NEIGH: u16 = 30;
const NEW_NSID: u16 = 88;
const GET_NSID: u16 = 90;

/// `RTNLGRP_LINK`.
const GROUP_LINK: i32 = 1;
/// `RTNLGRP_IPV6_ROUTE`.
const GROUP_IPV6_ROUTE: i32 = 11;
/// `IF_OPER_UP`.
const OPERATIONAL: u8 = 6;
const INET: u8 = 2;
const INET6: u8 = 10;
const IFF_UP: u32 = 0x1;
const IFF_NOARP: u32 = 0x80;
const IFA_F_NODAD: u32 = 0x02;
const TABLE_MAIN: u8 = 254;
const TYPE_UNICAST: u8 = 1;
const TYPE_LOCAL: u8 = 2;
const NUD_PERMANENT: u16 = 0x80;
const ONLINK: u32 = 4;
const FIB_MATCH: u32 = 0x2000;
const GEN_MODE_NONE: u8 = 1;

/// IPv6 settings of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ipv6Settings {
    /// Whether the kernel makes no link-local address by itself.
    pub makes_no_address: bool,
    /// Whether router advertisements are heeded: 0 never, 1 unless forwarding, 2 always.
    pub accepts_advertisements: i32,
    /// Whether IPv6 is off.
    pub disabled: bool,
}

/// What went through a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
}

/// A link.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Link {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its hardware address, where it is of 6 bytes.
    pub mac: Option<[u8; 6]>,
    /// Whether it is up.
    pub up: bool,
    /// Whether packets pass: up, with a carrier, and its queue at work.
    pub operational: bool,
    /// Whether it does without neighbour discovery.
    pub noarp: bool,
    /// Its kind, such as `veth`.
    pub kind: Option<String>,
    /// The number of its other end.
    pub peer: Option<u32>,
    /// The number that this namespace gave to the one of the other end, if it is another.
    pub peer_netns: Option<i32>,
    /// What went through it.
    pub traffic: Traffic,
    /// IPv6, where the kernel has it.
    pub ipv6: Option<Ipv6Settings>,
}

/// A veth pair to make, its other end directly in another network namespace.
#[derive(Debug, Clone, Copy)]
pub struct VethPair<'a> {
    /// This end's name.
    pub name: &'a str,
    /// This end's hardware address.
    pub mac: [u8; 6],
    /// Where the other end is made.
    pub peer_netns: BorrowedFd<'a>,
    /// The other end's name.
    pub peer_name: &'a str,
    /// The other end's hardware address.
    pub peer_mac: [u8; 6],
}

/// A route of the main table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Where to.
    pub destination: IpAddr,
    /// How many bits of it count.
    pub prefix_len: u8,
    /// Through which link.
    pub link: Option<u32>,
    /// By which next hop.
    pub gateway: Option<IpAddr>,
    /// Who set it.
    pub protocol: u8,
    /// `RTN_*`; 1 is unicast, 2 local.
    pub kind: u8,
}

/// A neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbour {
    /// Its address.
    pub ip: IpAddr,
    /// Its hardware address.
    pub mac: Option<[u8; 6]>,
    /// Whether it stays for ever.
    pub permanent: bool,
}

/// An rtnetlink socket of one namespace.
#[derive(Debug)]
pub struct RouteSocket {
    socket: Socket,
    /// For waiting; in no multicast group until then.
    news: Socket,
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn family(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { INET } else { INET6 }
}

fn full(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

fn link_fixed(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut fixed = [0; 16];
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    fixed[8..12].copy_from_slice(&flags.to_ne_bytes());
    fixed[12..16].copy_from_slice(&change.to_ne_bytes());
    fixed
}

/// Absence of what is to be removed is what was wanted.
fn gone(result: Result<Vec<Reply>, HostError>, absent: &[Errno]) -> Result<(), HostError> {
    match result {
        Err(e) if absent.iter().any(|errno| e.is(*errno)) => Ok(()),
        other => other.map(drop),
    }
}

impl RouteSocket {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// [`HostError::Sys`].
    pub fn open() -> Result<Self, HostError> {
        Ok(Self { socket: Socket::open(Protocol::Route)?, news: Socket::open(Protocol::Route)? })
    }

    /// Opens a socket in another network namespace, whose tables may be as large as somebody likes:
    /// see [`Socket::bound_dumps`].
    ///
    /// # Errors
    /// [`HostError::Sys`].
    pub fn open_in(netns: BorrowedFd<'_>, most: usize) -> Result<Self, HostError> {
        let mut opened = in_netns(netns, Self::open)?;
        opened.socket.bound_dumps(most);
        Ok(opened)
    }

    /// Waits until `holds`, which is asked anew after each event of a multicast group; answers
    /// whether that came before `end`.
    fn await_until(
        &mut self,
        group: i32,
        end: Instant,
        what: &str,
        mut holds: impl FnMut(&mut Self) -> Result<bool, HostError>,
    ) -> Result<bool, HostError> {
        // Listening begins before looking, so that nothing falls between.
        if holds(self)? {
            return Ok(true);
        }
        self.news.listen(group, what)?;
        while !holds(self)? {
            if !self.news.await_news(end, what)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The link of this name.
    ///
    /// # Errors
    /// [`HostError::Sys`].
    pub fn link(&mut self, name: &str) -> Result<Option<Link>, HostError> {
        let mut message = Message::new(GET_LINK, ACK, &[0; 16]);
        message.attr_text(3, name);
        match self.socket.ask(message, &format!("read link {name}")) {
            Err(e) if e.is(Errno::NODEV) => Ok(None),
            other => Ok(other?.iter().find_map(parse_link)),
        }
    }

    /// Waits until no link has this name; answers whether that came before `end`.
    ///
    /// # Errors
    /// [`HostError::Sys`].
    pub fn await_gone(&mut self, name: &str, end: Instant) -> Result<bool, HostError> {
        let what = format!("wait until link {name} is gone");
        self.await_until(GROUP_LINK, end, &what, |socket| Ok(socket.link(name)?.is_none()))
    }

    /// Waits until a link passes packets, which it does a moment after both its ends are up.
    ///
    /// # Errors
    /// [`HostError::Sys`].
    pub fn await_passing(&mut self, name: &str, end: Instant) -> Result<bool, HostError> {
        let what = format!("wait until link {name} passes packets");
        // Reading a link makes newer kernels catch up with it.
        let passes = |link: Option<Link>| link.is_none_or(|l| l.operational);
        self.await_until(GROUP_LINK, end, &what, |socket| Ok(passes(socket.link(name)?)))
    }

    /// Waits until packets to an IPv6 address of this namespace are taken in, which they are a
    /// moment after it was added, also without detection of duplicates.
    ///
    /// # Errors
    /// [`HostError::Sys`].
    pub fn await_local(&mut self, ip: IpAddr, end: Instant) -> Result<bool, HostError> {
        let what = format!("wait until address {ip} is usable");
        let local = |route: Option<Route>| route.is_some_and(|r| r.kind == TYPE_LOCAL);
        self.await_until(GROUP_IPV6_ROUTE, end, &what, |socket| Ok(local(socket.lookup(ip)?)))
    }

    /// The name of a link.
    ///
    /// # Errors
    /// [`HostError::Sys`].
    pub fn name_of(&mut self, index: u32) -> Result<Option<String>, HostError> {
        let message = Message::new(GET_LINK, ACK, &link_fixed(index, 0, 0));
        match self.socket.ask(message, &format!("read link {index}")) {
            Err(e) if e.is(Errno::NODEV) => Ok(None),
            other => Ok(other?.iter().find_map(parse_link).map(|l| l.name)),
        }
    }

    /// All links of a kind.
    ///
    /// # Errors
    /// [`HostError::Sys`].
    pub fn links(&mut self, kind: &str) -> Result<Vec<Link>, HostError> {
        let mut message = Message::new(GET_LINK, DUMP, &[0; 16]);
        message.nest(18, |m| {
            m.attr_text(1, kind);
        });
        let replies = self.socket.dump(message, "read all links")?;
        // A kernel that does not know the filter answers with every link.
        let links = replies.iter().filter_map(parse_link);
        Ok(links.filter(|l| l.kind.as_deref() == Some(kind)).collect())
    }

    /// The number this namespace gave to another, if it ever gave one.
    ///
    /// # Errors
    /// [`HostError::Sys`].
    pub fn netns_number(&mut self, netns: BorrowedFd<'_>) -> Result<Option<i32>, HostError> {
        let mut message = Message::new(GET_NSID, ACK, &[0; 4]);
        message.attr(3, &netns.as_raw_fd().to_ne_bytes());
        let replies = self.socket.ask(message, "read a network namespace's number")?;
        let number = replies.iter().filter(|r| r.kind == NEW_NSID).find_map(|r| {
            let id = attributes(r.payload.get(4..)?).find(|a| a.kind == 1)?;
            id.payload.first_chunk().map(|b| i32::from_ne_bytes(*b))
        });
        Ok(number.filter(|n| *n >= 0))
    }

    /// The addresses of a link, with their lengths.
    ///
    /// # Errors
    /// [`HostError::Sys`].
    pub fn addresses(&mut self, link: u32) -> Result<Vec<(IpAddr, u8)>, HostError> {
        let mut fixed = [0; 8];
        fixed[4..8].copy_from_slice(&link.to_ne_bytes());
        let message = Message::new(GET_ADDR, DUMP, &fixed);
        let replies = self.socket.dump(message, "read addresses")?;
        Ok(replies.iter().filter_map(|r| parse_address(r, link)).collect())
    }

    /// The routes of the main table through a link, or all.
    ///
    /// # Errors
    /// [`HostError::Sys`].
    pub fn routes(&mut self, ipv6: bool, link: Option<u32>) -> Result<Vec<Route>, HostError> {
        let mut fixed = [0; 12];
        fixed[0] = if ipv6 { INET6 } else { INET };
        fixed[4] = TABLE_MAIN;
        let mut message = Message::new(GET_ROUTE, DUMP, &fixed);
        if let Some(link) = link {
            message.attr(4, &link.to_ne_bytes());
        }
        match self.socket.dump(message, "read routes") {
            // A table that was never written to.
            Err(e) if e.is(Errno::NOENT) => Ok(Vec::new()),
            other => {
                let routes: Vec<_> = other?.iter().filter_map(parse_route).collect();
                Ok(routes.into_iter().filter(|r| link.is_none() || r.link == link).collect())
            }
        }
    }

    /// The route that a packet to `ip` takes, as it stands in the table; `None` where there is none.
    ///
    /// # Errors
    /// [`HostError::Sys`].
    pub fn lookup(&mut self, ip: IpAddr) -> Result<Option<Route>, HostError> {
        let mut fixed = [0; 12];
        (fixed[0], fixed[1]) = (family(ip), full(ip));
        fixed[8..12].copy_from_slice(&FIB_MATCH.to_ne_bytes());
        let mut message = Message::new(GET_ROUTE, ACK, &fixed);
        message.attr(1, &octets(ip));
        match self.socket.ask(message, &format!("find the route to {ip}")) {
            // None, or one that says so: unreachable, prohibited, a black hole.
            Err(e)
                if [Errno::NETUNREACH, Errno::HOSTUNREACH, Errno::ACCESS, Errno::INVAL]
                    .iter()
                    .any(|errno| e.is(*errno)) =>
            {
                Ok(None)
            }
            other => Ok(other?.iter().find_map(parse_route)),
        }
    }

    /// The neighbours on a link.
    ///
    /// # Errors
    /// [`HostError::Sys`].
    pub fn neighbours(&mut self, link: u32) -> Result<Vec<Neighbour>, HostError> {
        let mut message = Message::new(GET_NEIGH, DUMP, &[0; 12]);
        message.attr(8, &link.to_ne_bytes());
        let replies = self.socket.dump(message, "read neighbours")?;
        Ok(replies.iter().filter_map(|r| parse_neighbour(r, link)).collect())
    }

    /// Makes a veth pair, both ends down and without neighbour discovery.
    ///
    /// # Errors
    /// [`HostError::Sys`]; `EEXIST` where either name is in use.
    pub fn create_veth(&mut self, pair: &VethPair<'_>) -> Result<(), HostError> {
        let fixed = link_fixed(0, IFF_NOARP, IFF_NOARP);
        let mut message = Message::new(NEW_LINK, ACK | CREATE | EXCLUSIVE, &fixed);
        message.attr_text(3, pair.name).attr(1, &pair.mac);
        message.nest(18, |info| {
            info.attr_text(1, "veth").nest(2, |data| {
                data.nest(1, |peer| {
                    peer.raw(&fixed)
                        .attr_text(3, pair.peer_name)
                        .attr(1, &pair.peer_mac)
                        .attr(28, &pair.peer_netns.as_raw_fd().to_ne_bytes());
                });
            });
        });
        match self.socket.ask(message, &format!("create link {}", pair.name)) {
            Err(e) if e.is(Errno::OPNOTSUPP) => Err(HostError::Lacks {
                feature: "veth".to_owned(),
                why: "the kernel makes no such link; load or build CONFIG_VETH".to_owned(),
            }),
            other => other.map(drop),
        }
    }

    /// Removes a link. The kernel waits for all its readers, which takes tens of milliseconds.
    ///
    /// # Errors
    /// [`HostError::Sys`].
    pub fn delete_link(&mut self, index: u32) -> Result<(), HostError> {
        let message = Message::new(DEL_LINK, ACK, &link_fixed(index, 0, 0));
        gone(self.socket.ask(message, &format!("delete link {index}")), &[Errno::NODEV])
    }

    /// Stops the kernel from making a link-local address for a link by itself. Before it goes up.
    ///
    /// # Errors
    /// [`HostError::Sys`].
    pub fn set_no_own_address(&mut self, index: u32) -> Result<(), HostError> {
        let mut message = Message::new(NEW_LINK, ACK, &link_fixed(index, 0, 0));
        message.nest(26, |spec| {
            spec.nest(u16::from(INET6), |v6| {
                v6.attr(8, &[GEN_MODE_NONE]);
            });
        });
        let what = format!("stop link {index} from making an address");
        self.socket.ask(message, &what).map(drop)
    }

    /// Sets a link up, with this hardware address and without neighbour discovery.
    ///
    /// # Errors
    /// [`HostError::Sys`].
    pub fn set_up(&mut self, index: u32, mac: Option<[u8; 6]>) -> Result<(), HostError> {
        let (flags, change) = match mac {
            Some(_) => (IFF_UP | IFF_NOARP, IFF_UP | IFF_NOARP),
            None => (IFF_UP, IFF_UP),
        };
        let mut message = Message::new(NEW_LINK, ACK, &link_fixed(index, flags, change));
        if let Some(mac) = mac {
            message.attr(1, &mac);
        }
        self.socket.ask(message, &format!("set link {index} up")).map(drop)
    }

    /// Adds a single address to a link, usable at once; one that is there is left as it is.
    ///
    /// # Errors
    /// [`HostError::Sys`].
    pub fn add_address(&mut self, link: u32, ip: IpAddr) -> Result<(), HostError> {
        let mut message = address_message(NEW_ADDR, CREATE | EXCLUSIVE, link, ip, full(ip));
        message.attr(8, &IFA_F_NODAD.to_ne_bytes());
        gone(self.socket.ask(message, &format!("add address {ip}")), &[Errno::EXIST])
    }

    /// Removes an address from a link.
    ///
    /// # Errors
    /// [`HostError::Sys`].
    pub fn remove_address(&mut self, link: u32, ip: IpAddr, len: u8) -> Result<(), HostError> {
        let message = address_message(DEL_ADDR, 0, link, ip, len);
        let result = self.socket.ask(message, &format!("remove address {ip}/{len}"));
        gone(result, &[Errno::ADDRNOTAVAIL, Errno::NODEV])
    }

    /// Adds a route to a single address through a link; fails where the table has one.
    ///
    /// # Errors
    /// [`HostError::Sys`]; `EEXIST` where there is one, also the same.
    pub fn add_route(&mut self, ip: IpAddr, link: u32, protocol: u8) -> Result<(), HostError> {
        let fixed = route_fixed(ip, full(ip), protocol, 253, 0);
        let mut message = Message::new(NEW_ROUTE, ACK | CREATE | EXCLUSIVE, &fixed);
        message.attr(1, &octets(ip)).attr(4, &link.to_ne_bytes());
        self.socket.ask(message, &format!("add route {ip}")).map(drop)
    }

    /// Removes the route to a single address that `protocol` set through a link.
    ///
    /// # Errors
    /// [`HostError::Sys`].
    pub fn remove_route(&mut self, ip: IpAddr, link: u32, protocol: u8) -> Result<(), HostError> {
        let fixed = route_fixed(ip, full(ip), protocol, 253, 0);
        let mut message = Message::new(DEL_ROUTE, ACK, &fixed);
        message.attr(1, &octets(ip)).attr(4, &link.to_ne_bytes());
        let result = self.socket.ask(message, &format!("remove route {ip}"));
        gone(result, &[Errno::SRCH, Errno::NODEV])
    }

    /// Sets the default route of a family to a next hop that is on the link though no address says
    /// so; takes the place of another with the same metric.
    ///
    /// # Errors
    /// [`HostError::Sys`].
    pub fn set_default(
        &mut self,
        gateway: IpAddr,
        link: u32,
        protocol: u8,
    ) -> Result<(), HostError> {
        let fixed = route_fixed(gateway, 0, protocol, 0, ONLINK);
        let mut message = Message::new(NEW_ROUTE, ACK | CREATE | REPLACE, &fixed);
        message.attr(5, &octets(gateway)).attr(4, &link.to_ne_bytes());
        self.socket.ask(message, &format!("set the default route by {gateway}")).map(drop)
    }

    /// Removes the default route of a family by a next hop.
    ///
    /// # Errors
    /// [`HostError::Sys`].
    pub fn remove_default(&mut self, gateway: IpAddr, link: u32) -> Result<(), HostError> {
        let mut message = Message::new(DEL_ROUTE, ACK, &route_fixed(gateway, 0, 0, 0, 0));
        message.attr(5, &octets(gateway)).attr(4, &link.to_ne_bytes());
        let result = self.socket.ask(message, &format!("remove the default route by {gateway}"));
        gone(result, &[Errno::SRCH, Errno::NODEV])
    }

    /// Sets a neighbour for ever.
    ///
    /// # Errors
    /// [`HostError::Sys`].
    pub fn set_neighbour(&mut self, link: u32, ip: IpAddr, mac: [u8; 6]) -> Result<(), HostError> {
        let mut message = neighbour_message(NEW_NEIGH, CREATE | REPLACE, link, ip);
        message.attr(2, &mac);
        self.socket.ask(message, &format!("set neighbour {ip}")).map(drop)
    }

    /// Removes a neighbour.
    ///
    /// # Errors
    /// [`HostError::Sys`].
    pub fn remove_neighbour(&mut self, link: u32, ip: IpAddr) -> Result<(), HostError> {
        let message = neighbour_message(DEL_NEIGH, 0, link, ip);
        let result = self.socket.ask(message, &format!("remove neighbour {ip}"));
        gone(result, &[Errno::NOENT, Errno::NODEV])
    }
}

fn address_message(kind: u16, flags: u16, link: u32, ip: IpAddr, len: u8) -> Message {
    let mut fixed = [0; 8];
    (fixed[0], fixed[1]) = (family(ip), len);
    fixed[4..8].copy_from_slice(&link.to_ne_bytes());
    let mut message = Message::new(kind, flags | ACK, &fixed);
    message.attr(2, &octets(ip)).attr(1, &octets(ip));
    message
}

fn route_fixed(ip: IpAddr, len: u8, protocol: u8, scope: u8, flags: u32) -> [u8; 12] {
    let mut fixed = [0; 12];
    (fixed[0], fixed[1]) = (family(ip), len);
    (fixed[4], fixed[5]) = (TABLE_MAIN, protocol);
    // IPv6 has no scopes.
    fixed[6] = if ip.is_ipv4() { scope } else { 0 };
    fixed[7] = TYPE_UNICAST;
    fixed[8..12].copy_from_slice(&flags.to_ne_bytes());
    fixed
}

fn neighbour_message(kind: u16, flags: u16, link: u32, ip: IpAddr) -> Message {
    let mut fixed = [0; 12];
    fixed[0] = family(ip);
    fixed[4..8].copy_from_slice(&link.to_ne_bytes());
    fixed[8..10].copy_from_slice(&NUD_PERMANENT.to_ne_bytes());
    let mut message = Message::new(kind, flags | ACK, &fixed);
    message.attr(1, &octets(ip));
    message
}
