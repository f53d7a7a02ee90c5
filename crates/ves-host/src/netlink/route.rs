//! rtnetlink: links, addresses, routes and neighbours of one network namespace.
//!
//! What is changed, here and in a container's namespace, and what is read here goes by the library of
//! that name. What is read in a container's namespace does not: its root fills those tables, the library
//! takes a dump without a bound, and it loses a message with one attribute that it cannot decode;
//! so `parse` reads it, which skips what it is not asked for, from a bounded socket.
//!
//! Every change is one message and one acknowledgement. Absence of what is removed is no failure;
//! presence of what is made is, unless said otherwise. Decides nothing.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Instant;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressFlags};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVeth, LinkAttribute,
};
use netlink_packet_route::route::RouteFlags;
use rtnetlink::{LinkUnspec, LinkVeth};
use rustix::io::Errno;

use super::connection::{Connection, Turns};
use super::{ACK, DUMP, Message, Protocol, Reply, Socket, in_netns};
use crate::error::HostError;

mod parse;
mod request;
mod typed;

/// `RTNLGRP_LINK`.
const GROUP_LINK: i32 = 1;
/// `RTNLGRP_IPV6_ROUTE`.
const GROUP_IPV6_ROUTE: i32 = 11;
const TYPE_LOCAL: u8 = 2;

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
    /// Packets that were received and dropped.
    pub rx_dropped: u64,
    /// Packets that were to be sent and dropped.
    pub tx_dropped: u64,
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

/// An answer: of rtnetlink, or of the bounded socket.
enum Answer {
    Typed(RouteNetlinkMessage),
    Raw(Reply),
}

impl Answer {
    fn link(&self) -> Option<Link> {
        match self {
            Self::Typed(RouteNetlinkMessage::NewLink(message)) => Some(typed::link(message)),
            Self::Typed(_) => None,
            Self::Raw(reply) => parse::link(reply),
        }
    }
    fn address(&self, link: u32) -> Option<(IpAddr, u8)> {
        match self {
            Self::Typed(RouteNetlinkMessage::NewAddress(message)) => typed::address(message, link),
            Self::Typed(_) => None,
            Self::Raw(reply) => parse::address(reply, link),
        }
    }
    fn route(&self) -> Option<Route> {
        match self {
            Self::Typed(RouteNetlinkMessage::NewRoute(message)) => typed::route(message),
            Self::Typed(_) => None,
            Self::Raw(reply) => parse::route(reply),
        }
    }
    fn neighbour(&self, link: u32) -> Option<Neighbour> {
        match self {
            Self::Typed(RouteNetlinkMessage::NewNeighbour(message)) => {
                typed::neighbour(message, link)
            }
            Self::Typed(_) => None,
            Self::Raw(reply) => parse::neighbour(reply, link),
        }
    }
}

/// An rtnetlink socket of one namespace. It keeps that alive, so it is held no longer than one task.
pub struct RouteSocket {
    connection: Connection,
    /// For reading tables that somebody else fills.
    bounded: Option<Socket>,
    /// For waiting; opened when that begins, but in another namespace at once.
    news: Option<Socket>,
}

impl std::fmt::Debug for RouteSocket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RouteSocket").field("bounded", &self.bounded).finish_non_exhaustive()
    }
}

/// Absence of what is to be removed is what was wanted.
fn gone(result: Result<(), HostError>, absent: &[Errno]) -> Result<(), HostError> {
    match result {
        Err(e) if absent.iter().any(|errno| e.is(*errno)) => Ok(()),
        other => other,
    }
}

impl RouteSocket {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// [`HostError::Sys`].
    pub fn open() -> Result<Self, HostError> {
        Ok(Self { connection: Connection::new(Turns::open()?), bounded: None, news: None })
    }

    /// Opens a socket in another network namespace, whose tables may be as large as somebody likes:
    /// see [`Socket::bound_dumps`].
    ///
    /// # Errors
    /// [`HostError::Sys`].
    pub fn open_in(netns: BorrowedFd<'_>, most: usize) -> Result<Self, HostError> {
        let (socket, mut bounded, news) = in_netns(netns, || {
            Ok((Turns::open()?, Socket::open(Protocol::Route)?, Socket::for_news()?))
        })?;
        bounded.bound_dumps(most);
        let connection = Connection::new(socket);
        Ok(Self { connection, bounded: Some(bounded), news: Some(news) })
    }

    /// What the kernel answers to a question after one thing.
    fn ask(&mut self, request: RouteNetlinkMessage, what: &str) -> Result<Vec<Answer>, HostError> {
        Ok(match &mut self.bounded {
            Some(socket) => {
                let replies = socket.ask(Message::of(request, ACK), what)?;
                replies.into_iter().map(Answer::Raw).collect()
            }
            None => self.connection.ask(request, what)?.into_iter().map(Answer::Typed).collect(),
        })
    }

    /// What the kernel answers to a question after all of something.
    fn dump(&mut self, request: RouteNetlinkMessage, what: &str) -> Result<Vec<Answer>, HostError> {
        Ok(match &mut self.bounded {
            Some(socket) => {
                let replies = socket.dump(Message::of(request, DUMP), what)?;
                replies.into_iter().map(Answer::Raw).collect()
            }
            None => self.connection.dump(&request, what)?.into_iter().map(Answer::Typed).collect(),
        })
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
        if holds(self)? {
            return Ok(true);
        }
        // Listening begins before looking, so that nothing falls between.
        let mut news = match self.news.take() {
            Some(news) => news,
            None => Socket::for_news()?,
        };
        news.listen(group, what)?;
        let held = loop {
            match holds(self) {
                Ok(false) => {}
                other => break other,
            }
            match news.await_news(end, what) {
                Ok(true) => {}
                other => break other,
            }
        };
        self.news = Some(news);
        held
    }

    /// The link of this name.
    ///
    /// # Errors
    /// [`HostError::Sys`].
    pub fn link(&mut self, name: &str) -> Result<Option<Link>, HostError> {
        match self.ask(request::link_named(name), &format!("read link {name}")) {
            Err(e) if e.is(Errno::NODEV) => Ok(None),
            other => Ok(other?.iter().find_map(Answer::link)),
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
        match self.ask(request::link_numbered(index), &format!("read link {index}")) {
            Err(e) if e.is(Errno::NODEV) => Ok(None),
            other => Ok(other?.iter().find_map(Answer::link).map(|l| l.name)),
        }
    }

    /// All veth links, without their [`Link::traffic`].
    ///
    /// # Errors
    /// [`HostError::Sys`].
    pub fn veths(&mut self) -> Result<Vec<Link>, HostError> {
        let answers = self.dump(request::links_of(InfoKind::Veth), "read all links")?;
        // A kernel that does not know the filter answers with every link.
        let links = answers.iter().filter_map(Answer::link);
        Ok(links.filter(|l| l.kind.as_deref() == Some("veth")).collect())
    }

    /// The number this namespace gave to another, if it ever gave one.
    ///
    /// # Errors
    /// [`HostError::Sys`].
    pub fn netns_number(&mut self, netns: BorrowedFd<'_>) -> Result<Option<i32>, HostError> {
        let request = request::netns_number(netns.as_raw_fd().cast_unsigned());
        let answers = self.connection.ask(request, "read a network namespace's number")?;
        let number = answers.iter().find_map(|answer| match answer {
            RouteNetlinkMessage::NewNsId(message) => typed::netns_number(message),
            _ => None,
        });
        Ok(number.filter(|n| *n >= 0))
    }

    /// The addresses of a link, with their lengths.
    ///
    /// # Errors
    /// [`HostError::Sys`].
    pub fn addresses(&mut self, link: u32) -> Result<Vec<(IpAddr, u8)>, HostError> {
        let answers = self.dump(request::addresses(link), "read addresses")?;
        Ok(answers.iter().filter_map(|a| a.address(link)).collect())
    }

    /// The routes of the main table through a link, or all.
    ///
    /// # Errors
    /// [`HostError::Sys`].
    pub fn routes(&mut self, ipv6: bool, link: Option<u32>) -> Result<Vec<Route>, HostError> {
        let routes = self.table(request::routes(ipv6, link, None))?;
        Ok(routes.into_iter().filter(|r| link.is_none() || r.link == link).collect())
    }

    /// Those that `protocol` set. The kernel leaves out the others, of which there may be a million.
    ///
    /// # Errors
    /// [`HostError::Sys`].
    pub fn routes_by(&mut self, ipv6: bool, protocol: u8) -> Result<Vec<Route>, HostError> {
        let routes = self.table(request::routes(ipv6, None, Some(protocol)))?;
        Ok(routes.into_iter().filter(|r| r.protocol == protocol).collect())
    }

    fn table(&mut self, request: RouteNetlinkMessage) -> Result<Vec<Route>, HostError> {
        match self.dump(request, "read routes") {
            // A table that was never written to.
            Err(e) if e.is(Errno::NOENT) => Ok(Vec::new()),
            other => Ok(other?.iter().filter_map(Answer::route).collect()),
        }
    }

    /// The route that a packet to `ip` takes, as it stands in the table; `None` where there is none.
    ///
    /// # Errors
    /// [`HostError::Sys`].
    pub fn lookup(&mut self, ip: IpAddr) -> Result<Option<Route>, HostError> {
        match self.ask(request::lookup(ip), &format!("find the route to {ip}")) {
            // None, or one that says so: unreachable, prohibited, a black hole.
            Err(e)
                if [Errno::NETUNREACH, Errno::HOSTUNREACH, Errno::ACCESS, Errno::INVAL]
                    .iter()
                    .any(|errno| e.is(*errno)) =>
            {
                Ok(None)
            }
            other => Ok(other?.iter().find_map(Answer::route)),
        }
    }

    /// The neighbours on a link.
    ///
    /// # Errors
    /// [`HostError::Sys`].
    pub fn neighbours(&mut self, link: u32) -> Result<Vec<Neighbour>, HostError> {
        let answers = self.dump(request::neighbours(link), "read neighbours")?;
        Ok(answers.iter().filter_map(|a| a.neighbour(link)).collect())
    }

    /// Makes a veth pair, both ends down and without neighbour discovery.
    ///
    /// # Errors
    /// [`HostError::Sys`]; `EEXIST` where either name is in use.
    pub fn create_veth(&mut self, pair: &VethPair<'_>) -> Result<(), HostError> {
        let peer = LinkUnspec::new_with_name(pair.peer_name)
            .address(pair.peer_mac.to_vec())
            .arp(false)
            .setns_by_fd(pair.peer_netns.as_raw_fd())
            .build();
        let link = LinkVeth::new(pair.name, pair.peer_name)
            .address(pair.mac.to_vec())
            .arp(false)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .build();
        let what = format!("create link {}", pair.name);
        match self.connection.perform(|handle| handle.link().add(link).execute(), &what) {
            Err(e) if e.is(Errno::OPNOTSUPP) => Err(HostError::Lacks {
                feature: "veth".to_owned(),
                why: "the kernel makes no such link; load or build CONFIG_VETH".to_owned(),
            }),
            other => other,
        }
    }

    /// Removes a link. The kernel waits for all its readers, which takes tens of milliseconds.
    ///
    /// # Errors
    /// [`HostError::Sys`].
    pub fn delete_link(&mut self, index: u32) -> Result<(), HostError> {
        let what = format!("delete link {index}");
        let result = self.connection.perform(|h| h.link().del(index).execute(), &what);
        gone(result, &[Errno::NODEV])
    }

    /// Stops the kernel from making a link-local address for a link by itself. Before it goes up.
    ///
    /// # Errors
    /// [`HostError::Sys`].
    pub fn set_no_own_address(&mut self, index: u32) -> Result<(), HostError> {
        let mode = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
        let spec = LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![mode])]);
        let link = LinkUnspec::new_with_index(index).append_extra_attribute(spec).build();
        let what = format!("stop link {index} from making an address");
        self.connection.perform(|h| h.link().change(link).execute(), &what)
    }

    /// Sets a link up, with this hardware address and without neighbour discovery.
    ///
    /// # Errors
    /// [`HostError::Sys`].
    pub fn set_up(&mut self, index: u32, mac: Option<[u8; 6]>) -> Result<(), HostError> {
        let mut link = LinkUnspec::new_with_index(index).up();
        if let Some(mac) = mac {
            link = link.arp(false).address(mac.to_vec());
        }
        let link = link.build();
        let what = format!("set link {index} up");
        self.connection.perform(|h| h.link().change(link).execute(), &what)
    }

    /// Adds a single address to a link, usable at once; one that is there is left as it is.
    ///
    /// # Errors
    /// [`HostError::Sys`].
    pub fn add_address(&mut self, link: u32, ip: IpAddr) -> Result<(), HostError> {
        let add = |handle: &rtnetlink::Handle| {
            let mut request = handle.address().add(link, ip, request::full(ip));
            let no_detection = AddressAttribute::Flags(AddressFlags::Nodad);
            request.message_mut().attributes.push(no_detection);
            request.execute()
        };
        gone(self.connection.perform(add, &format!("add address {ip}")), &[Errno::EXIST])
    }

    /// Removes an address from a link.
    ///
    /// # Errors
    /// [`HostError::Sys`].
    pub fn remove_address(&mut self, link: u32, ip: IpAddr, len: u8) -> Result<(), HostError> {
        let (address, what) =
            (request::address(link, ip, len), format!("remove address {ip}/{len}"));
        let result = self.connection.perform(|h| h.address().del(address).execute(), &what);
        gone(result, &[Errno::ADDRNOTAVAIL, Errno::NODEV])
    }

    /// Adds a route to a single address through a link; fails where the table has one.
    ///
    /// # Errors
    /// [`HostError::Sys`]; `EEXIST` where there is one, also the same.
    pub fn add_route(&mut self, ip: IpAddr, link: u32, protocol: u8) -> Result<(), HostError> {
        let (route, what) = (request::route(ip, link, protocol), format!("add route {ip}"));
        self.connection.perform(|h| h.route().add(route).execute(), &what)
    }

    /// Removes the route to a single address that `protocol` set through a link.
    ///
    /// # Errors
    /// [`HostError::Sys`].
    pub fn remove_route(&mut self, ip: IpAddr, link: u32, protocol: u8) -> Result<(), HostError> {
        let (route, what) = (request::route(ip, link, protocol), format!("remove route {ip}"));
        let result = self.connection.perform(|h| h.route().del(route).execute(), &what);
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
        let mut route = request::default_route(gateway, link, protocol);
        route.header.flags = RouteFlags::Onlink;
        let what = format!("set the default route by {gateway}");
        self.connection.perform(|h| h.route().add(route).replace().execute(), &what)
    }

    /// Removes the default route of a family by a next hop.
    ///
    /// # Errors
    /// [`HostError::Sys`].
    pub fn remove_default(&mut self, gateway: IpAddr, link: u32) -> Result<(), HostError> {
        let route = request::default_route(gateway, link, 0);
        let what = format!("remove the default route by {gateway}");
        let result = self.connection.perform(|h| h.route().del(route).execute(), &what);
        gone(result, &[Errno::SRCH, Errno::NODEV])
    }

    /// Sets a neighbour for ever.
    ///
    /// # Errors
    /// [`HostError::Sys`].
    pub fn set_neighbour(&mut self, link: u32, ip: IpAddr, mac: [u8; 6]) -> Result<(), HostError> {
        let set = |handle: &rtnetlink::Handle| {
            handle.neighbours().add(link, ip).link_layer_address(&mac).replace().execute()
        };
        self.connection.perform(set, &format!("set neighbour {ip}"))
    }

    /// Removes a neighbour.
    ///
    /// # Errors
    /// [`HostError::Sys`].
    pub fn remove_neighbour(&mut self, link: u32, ip: IpAddr) -> Result<(), HostError> {
        let (neighbour, what) = (request::neighbour(link, ip), format!("remove neighbour {ip}"));
        let result = self.connection.perform(|h| h.neighbours().del(neighbour).execute(), &what);
        gone(result, &[Errno::NOENT, Errno::NODEV])
    }
}
