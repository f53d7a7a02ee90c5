//! The kernel of this machine as a [`Host`].
//!
//! Works in the network namespace of the calling thread; a container's is entered by a thread made
//! for that, which opens a socket there. The node's table and settings are in [`settings`], who looks
//! after them in [`watch`], and whether a container lives is told in `life`.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use ves_host::netlink::route::{Link, RouteSocket, VethPair};
use ves_host::nft::{Element, NftSocket};
use ves_host::{Attempt, HostError};
use ves_types::address::ROUTE_PROTOCOL;
use ves_types::layout::{CT_LINK, Layout, host_link};
use ves_types::{CtAddress, CtId, MacAddress};

use crate::error::StepError;
use crate::host::{Host, Session, Sources, Through};
use crate::observe;
use crate::plan::node::{NodeObserved, NodeStep, Rooms, SOURCES_V4, SOURCES_V6, SPOOFED, TABLE};
use crate::plan::{Change, Holder, HostEnd, InnerEnd, Observed, Step, Unread};

mod life;
pub mod settings;
pub mod watch;

/// How long a link may take to vanish with its namespace before it is removed by hand.
const DEATH: Duration = Duration::from_secs(1);

/// How long the last processes of a container may take to leave its control group once its namespace is not
/// pinned any more.
const LEAVING: Duration = Duration::from_millis(200);

/// How long the kernel may take until what was set up works; usually microseconds.
const USABLE: Duration = Duration::from_secs(1);

/// How often a link is looked at anew because it vanished while it was being read. Once is the rule:
/// the second look does not find it.
const LOOKS: usize = 8;

/// How often a namespace is read anew that could not be read.
const READS: usize = 2;

/// The most bytes that are taken of each of a container's tables: some ten thousand entries, ten
/// times as many as we would ever set. Its root may fill them with millions.
const MOST_INSIDE: usize = 1 << 20;

/// This machine, seen from the calling thread's network namespace.
#[derive(Debug)]
pub struct KernelHost {
    layout: Layout,
    nft: Nft,
}

impl KernelHost {
    /// A host whose containers' namespaces are pinned as `layout` says.
    pub fn new(layout: Layout) -> Self {
        Self { layout, nft: Nft::default() }
    }
}

/// The socket that owns the guard's table, for all who change it; opened when it is first used.
#[derive(Debug, Clone, Default)]
struct Nft(Arc<Mutex<Option<NftSocket>>>);

impl Nft {
    fn with<T>(
        &self,
        work: impl FnOnce(&mut NftSocket) -> Result<T, HostError>,
    ) -> Result<T, HostError> {
        let mut socket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *socket {
            Some(socket) => work(socket),
            none => work(none.insert(NftSocket::open()?)),
        }
    }

    fn allow(&self, sources: &Sources) -> Result<(), HostError> {
        self.with(|nft| {
            elements(sources).into_iter().try_for_each(|(set, all)| nft.add(TABLE, set, &all))
        })
    }

    fn forbid(&self, sources: &Sources) -> Result<(), HostError> {
        self.with(|nft| {
            elements(sources).into_iter().try_for_each(|(set, all)| nft.remove(TABLE, set, &all))
        })
    }
}

/// The elements of both sets.
fn elements(sources: &Sources) -> [(&'static str, Vec<Element>); 2] {
    let of = |v4: bool| -> Vec<Element> {
        let ours = sources.iter().flat_map(|(ct, set)| set.iter().map(move |a| (ct, a.ip())));
        let ours = ours.filter(|(_, ip)| ip.is_ipv4() == v4);
        ours.map(|(ct, ip)| (host_link(*ct), ip)).collect()
    };
    [(SOURCES_V4, of(true)), (SOURCES_V6, of(false))]
}

impl Host for KernelHost {
    fn observe_node(&self) -> Result<NodeObserved, HostError> {
        self.nft.with(settings::observe)
    }

    fn apply_node(&self, step: &NodeStep) -> Result<(), HostError> {
        match step {
            NodeStep::LayTable(sources) => self.nft.with(|nft| settings::lay(nft, sources)),
            NodeStep::OwnTable => self.nft.with(|nft| nft.own_table(TABLE)),
            NodeStep::AllowSources(sources) => self.nft.allow(sources),
            NodeStep::ForbidSources(sources) => self.nft.forbid(sources),
            NodeStep::Set(setting) => settings::set(&self.layout, setting),
        }
    }

    fn rooms(&self) -> Result<Rooms, HostError> {
        settings::rooms()
    }

    fn links(&self) -> Result<Sources, HostError> {
        let mut socket = RouteSocket::open()?;
        let links = socket.veths()?;
        let mut routes = socket.routes_by(false, ROUTE_PROTOCOL)?;
        routes.extend(socket.routes_by(true, ROUTE_PROTOCOL)?);
        Ok(observe::links(&links, &routes))
    }

    fn sources(&self) -> Result<Sources, HostError> {
        let of = |set| self.nft.with(|nft| nft.elements(TABLE, set));
        let both = [of(SOURCES_V4)?, of(SOURCES_V6)?];
        Ok(observe::sources(both.into_iter().flatten().flatten()))
    }

    fn spoofed(&self) -> Result<u64, HostError> {
        Ok(self.nft.with(|nft| nft.counter(TABLE, SPOOFED))?.unwrap_or_default())
    }

    fn containers(&self) -> Result<BTreeSet<CtId>, HostError> {
        let links = RouteSocket::open()?.veths()?;
        Ok(links.iter().filter_map(|l| observe::ct_of(&l.name)).collect())
    }

    fn traffic(&self) -> Result<BTreeMap<CtId, Through>, HostError> {
        let links = RouteSocket::open()?.veths()?;
        Ok(links.iter().filter_map(|l| Some((observe::ct_of(&l.name)?, l.into()))).collect())
    }

    fn session(&self, ct: CtId) -> Result<Box<dyn Session>, HostError> {
        let inside = match open_netns(&self.layout.ct_netns(ct))? {
            Some(netns) => {
                let socket = RouteSocket::open_in(netns.as_fd(), MOST_INSIDE)?;
                Some(Inside { netns, socket, index: None })
            }
            None => None,
        };
        let (name, node) = (host_link(ct), RouteSocket::open()?);
        let nft = self.nft.clone();
        Ok(Box::new(KernelSession { ct, name, node, nft, index: None, inside }))
    }
}

/// Opens a pinned network namespace; `None` where nothing is pinned, also where only the file is
/// left on which it was.
fn open_netns(path: &Path) -> Result<Option<OwnedFd>, HostError> {
    use rustix::fs::{Mode, OFlags};
    let what = || format!("open {}", path.display());
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        other => other.attempt(what)?,
    };
    let kind = rustix::fs::fstatfs(&file).attempt(what)?.f_type;
    Ok((kind == ves_host::netlink::NSFS_MAGIC).then_some(file))
}

/// The container's side of a session.
struct Inside {
    netns: OwnedFd,
    socket: RouteSocket,
    index: Option<u32>,
}

/// What there is inside.
struct InsideFacts {
    loopback_up: bool,
    name_conflict: bool,
    end: Option<InnerEnd>,
}

impl Inside {
    /// Reads it. `host` is the node's end, and `netns` the number that the node gave to this
    /// namespace.
    fn look(
        &mut self,
        ct: CtId,
        host: Option<&Link>,
        netns: Option<i32>,
    ) -> Result<InsideFacts, HostError> {
        let socket = &mut self.socket;
        let loopback_up = socket.link("lo")?.is_some_and(|l| l.up);
        let Some(inner) = socket.link(CT_LINK)? else {
            return Ok(InsideFacts { loopback_up, name_conflict: false, end: None });
        };
        let index = inner.index;
        self.index = Some(index);
        if !host.is_some_and(|host| observe::connected(host, &inner, netns)) {
            return Ok(InsideFacts { loopback_up, name_conflict: true, end: None });
        }
        let mut routes = socket.routes(false, Some(index))?;
        routes.extend(socket.routes(true, Some(index))?);
        let (addresses, neighbours) = (socket.addresses(index)?, socket.neighbours(index)?);
        let end = observe::inner_end(ct, &inner, &addresses, &neighbours, &routes);
        Ok(InsideFacts { loopback_up, name_conflict: false, end: Some(end) })
    }
}

/// A link of this machine for the time of one call. The numbers of both ends are kept from the last
/// look, so that a step needs one message only.
struct KernelSession {
    ct: CtId,
    name: String,
    node: RouteSocket,
    nft: Nft,
    index: Option<u32>,
    inside: Option<Inside>,
}

fn missing(what: &str) -> HostError {
    HostError::Sys { what: format!("find {what}"), source: Errno::NODEV.into() }
}

impl KernelSession {
    /// The number of the node's end.
    fn node_end(&mut self) -> Result<u32, HostError> {
        if self.index.is_none() {
            self.index = self.node.link(&self.name)?.map(|l| l.index);
        }
        self.index.ok_or_else(|| missing(&self.name))
    }

    /// The container's side, and the number of the link there.
    fn inner_end(&mut self) -> Result<(&mut RouteSocket, u32), HostError> {
        let inside = self.inside.as_mut().ok_or_else(|| missing("the network namespace"))?;
        if inside.index.is_none() {
            inside.index = inside.socket.link(CT_LINK)?.map(|l| l.index);
        }
        match inside.index {
            Some(index) => Ok((&mut inside.socket, index)),
            None => Err(missing(CT_LINK)),
        }
    }

    fn holder(&mut self, address: CtAddress) -> Result<Option<Holder>, HostError> {
        let Some(route) = self.node.lookup(address.ip())? else { return Ok(None) };
        let name = match route.link {
            Some(link) => match self.node.name_of(link)? {
                Some(name) => name,
                // It vanished since, and its routes with it.
                None => return Ok(None),
            },
            None => String::new(),
        };
        Ok(observe::holder(self.ct, address, &route, |_| name))
    }

    /// What can be told of the container's side. Whatever fails there is no failure of the whole,
    /// but for `ENODEV` unless this look is the `last`: a link vanished, and is looked at anew.
    fn look_inside(
        &mut self,
        host: Option<&Link>,
        observed: &mut Observed,
        last: bool,
    ) -> Result<Option<InnerEnd>, HostError> {
        let Some(inside) = &mut self.inside else { return Ok(None) };
        let netns = self.node.netns_number(inside.netns.as_fd())?;
        inside.index = None;
        match inside.look(self.ct, host, netns) {
            Ok(seen) => {
                observed.loopback_up = seen.loopback_up;
                observed.name_conflict = seen.name_conflict;
                Ok(seen.end)
            }
            Err(e) if e.is(Errno::NODEV) && !last => Err(e),
            Err(e) => {
                tracing::warn!(
                    ct = %self.ct, error = ves_proto::fault::chain(&e),
                    "cannot read the container's network namespace, going by the node's side"
                );
                // What the old socket still has to say would be taken for answers.
                inside.socket = RouteSocket::open_in(inside.netns.as_fd(), MOST_INSIDE)?;
                let linked = host.is_some_and(|l| netns.is_some() && l.peer_netns == netns);
                observed.unread = Some(if linked { Unread::Linked } else { Unread::Apart });
                Ok(None)
            }
        }
    }

    /// One look, which fails with `ENODEV` where an end of the link vanishes meanwhile.
    fn look(
        &mut self,
        wanted: &[CtAddress],
        sources: &Sources,
        last: bool,
    ) -> Result<Observed, HostError> {
        let ct = self.ct;
        let mut observed = Observed::nothing(ct);
        observed.netns = self.inside.is_some();
        observed.sources = sources.get(&ct).cloned().unwrap_or_default();
        observed.ipv6 = settings::has_ipv6();

        let host = self.node.link(&self.name)?;
        self.index = host.as_ref().map(|l| l.index);
        let inner = self.look_inside(host.as_ref(), &mut observed, last)?;
        if let Some(host) = &host {
            let neighbours = self.node.neighbours(host.index)?;
            let mut routes = self.node.routes(false, Some(host.index))?;
            routes.extend(self.node.routes(true, Some(host.index))?);
            let end = observe::host_end(ct, host, &neighbours, &routes);
            observed.link = Some(HostEnd { inner, ..end });
            // A link without the pin of its namespace is dying with that, or it is in use.
            observed.inhabited = !observed.netns && life::inhabited(ct, LEAVING)?;
        }
        let ours = observed.link.as_ref();
        for address in wanted {
            if ours.is_some_and(|l| l.routes.contains(address)) {
                continue;
            }
            if let Some(holder) = self.holder(*address)? {
                observed.holders.insert(*address, holder);
            }
        }
        Ok(observed)
    }

    fn add_route(&mut self, address: CtAddress) -> Result<(), StepError> {
        let index = self.node_end()?;
        match self.node.add_route(address.ip(), index, ROUTE_PROTOCOL) {
            Err(e) if e.is(Errno::EXIST) => match self.holder(address)? {
                Some(holder) => Err(StepError::Taken { address, holder }),
                None => Ok(()),
            },
            other => Ok(other?),
        }
    }

    fn await_gone(&mut self) -> Result<(), HostError> {
        if self.node.await_gone(&self.name, Instant::now() + DEATH)? {
            return Ok(());
        }
        tracing::warn!(link = %self.name, "outlives its namespace, removing it by hand");
        match self.node.link(&self.name)? {
            Some(link) => self.node.delete_link(link.index),
            None => Ok(()),
        }
    }

    fn create(&mut self) -> Result<(), HostError> {
        let inside = self.inside.as_mut().ok_or_else(|| missing("the network namespace"))?;
        let pair = VethPair {
            name: &self.name,
            mac: MacAddress::of_host_end(self.ct).0,
            peer_netns: inside.netns.as_fd(),
            peer_name: CT_LINK,
            peer_mac: MacAddress::of_ct_end(self.ct).0,
        };
        (self.index, inside.index) = (None, None);
        match self.node.create_veth(&pair) {
            Err(e) if e.is(Errno::EXIST) => {
                // Ours of a moment ago, or somebody's: the next look tells.
                let host = self.node.link(&self.name)?;
                let inner = inside.socket.link(CT_LINK)?;
                let netns = self.node.netns_number(inside.netns.as_fd())?;
                match (host, inner) {
                    (Some(host), Some(inner)) if observe::connected(&host, &inner, netns) => Ok(()),
                    _ => Err(e),
                }
            }
            other => other,
        }
    }
}

/// Where the container has switched IPv6 off, its addresses are not set inside; that is its choice.
/// Answers whether it has it on.
fn unless_switched_off(ct: CtId, result: Result<(), HostError>) -> Result<bool, HostError> {
    match result {
        Err(e) if e.is(Errno::ACCESS) => {
            tracing::info!(%ct, "the container has IPv6 switched off");
            Ok(false)
        }
        other => other.map(|()| true),
    }
}

impl Session for KernelSession {
    fn observe(&mut self, wanted: &[CtAddress], sources: &Sources) -> Result<Observed, HostError> {
        let mut reads = 0;
        for _ in 1..LOOKS {
            match self.look(wanted, sources, false) {
                Err(e) if e.is(Errno::NODEV) => {}
                Ok(seen) if seen.unread.is_some() && reads + 1 < READS => reads += 1,
                other => return other,
            }
        }
        self.look(wanted, sources, true)
    }

    fn apply(&mut self, step: &Step) -> Result<(), StepError> {
        let ct = self.ct;
        match &step.change {
            Change::DeleteLink => {
                if let Some(link) = self.node.link(&self.name)? {
                    self.node.delete_link(link.index)?;
                }
                self.index = None;
            }
            Change::AwaitLinkGone => self.await_gone()?,
            Change::DeleteConflicting => {
                // Deleting our own stale link may have taken it along.
                if let Some(inside) = &mut self.inside
                    && let Some(link) = inside.socket.link(CT_LINK)?
                {
                    inside.socket.delete_link(link.index)?;
                }
            }
            Change::CreateLink => self.create()?,
            Change::ConfigureHostEnd => {
                let index = self.node_end()?;
                if settings::has_ipv6() {
                    self.node.set_no_own_address(index)?;
                    settings::write_link(&self.name, "accept_ra", "0")?;
                    settings::write_link(&self.name, "disable_ipv6", "0")?;
                }
                self.node.set_up(index, Some(MacAddress::of_host_end(ct).0))?;
            }
            Change::ConfigureInnerEnd => {
                let (socket, index) = self.inner_end()?;
                if settings::has_ipv6() {
                    socket.set_no_own_address(index)?;
                }
                socket.set_up(index, Some(MacAddress::of_ct_end(ct).0))?;
                let end = Instant::now() + USABLE;
                if !socket.await_passing(CT_LINK, end)?
                    || !self.node.await_passing(&self.name, end)?
                {
                    tracing::warn!(link = %self.name, "does not pass packets yet");
                }
            }
            Change::LoopbackUp => {
                let inside = self.inside.as_mut().ok_or_else(|| missing("the namespace"))?;
                let lo = inside.socket.link("lo")?.ok_or_else(|| missing("lo"))?;
                inside.socket.set_up(lo.index, None)?;
            }
            Change::AddAddress(address) => {
                let ip = address.ip();
                let (socket, index) = self.inner_end()?;
                if ip.is_ipv6() {
                    let result = socket.add_address(index, ip);
                    if unless_switched_off(ct, result)?
                        && !socket.await_local(ip, Instant::now() + USABLE)?
                    {
                        tracing::warn!(%ct, %address, "is not usable yet");
                    }
                } else {
                    socket.add_address(index, ip)?;
                }
            }
            Change::RemoveAddress(ip, len) => {
                let (socket, index) = self.inner_end()?;
                socket.remove_address(index, *ip, *len)?;
            }
            Change::SetGateway(family) => {
                let (socket, index) = self.inner_end()?;
                let mac = MacAddress::of_host_end(ct).0;
                socket.set_neighbour(index, family.gateway(), mac)?;
            }
            Change::SetDefault(family) => {
                let gateway = family.gateway();
                let (socket, index) = self.inner_end()?;
                let result = socket.set_default(gateway, index, ROUTE_PROTOCOL);
                if gateway.is_ipv6() {
                    unless_switched_off(ct, result)?;
                } else {
                    result?;
                }
            }
            Change::RemoveDefault(family) => {
                let (socket, index) = self.inner_end()?;
                socket.remove_default(family.gateway(), index)?;
            }
            Change::SetNeighbour(address) => {
                let (index, mac) = (self.node_end()?, MacAddress::of_ct_end(ct).0);
                self.node.set_neighbour(index, address.ip(), mac)?;
            }
            Change::RemoveNeighbour(address) => {
                let index = self.node_end()?;
                self.node.remove_neighbour(index, address.ip())?;
            }
            Change::AllowSources(addresses) => self.nft.allow(&[(ct, addresses.clone())].into())?,
            Change::ForbidSources(addresses) => {
                self.nft.forbid(&[(ct, addresses.clone())].into())?
            }
            Change::AddRoute(address) => self.add_route(*address)?,
            Change::RemoveRoute(address) => {
                if let Ok(index) = self.node_end() {
                    self.node.remove_route(address.ip(), index, ROUTE_PROTOCOL)?;
                }
            }
        }
        Ok(())
    }

    fn traffic(&mut self) -> Result<Option<Through>, HostError> {
        Ok(self.node.link(&self.name)?.map(|l| (&l).into()))
    }
}
