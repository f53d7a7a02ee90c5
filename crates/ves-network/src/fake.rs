//! A node in memory, with the kernel's habits that the planner has to know, and faults on demand.
//!
//! Behaves as [`crate::kernel::KernelHost`] does; `tests/host` compares the two.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;
use ves_host::HostError;
use ves_host::netlink::route::Traffic;
use ves_host::nft::Owner;
use ves_types::{CtAddress, CtId};

use crate::error::StepError;
use crate::host::{Host, Session, Sources, Through};
use crate::plan::node::{NodeObserved, NodeStep, Rooms, Setting, Space, expected_rules};
use crate::plan::{Change, Family, Holder, HostEnd, InnerEnd, Observed, Step};

/// What is there, and what shall go wrong.
#[derive(Debug, Default)]
pub struct State {
    /// The node.
    pub node: NodeObserved,
    /// How much room there is for what all containers fill together.
    pub rooms: Rooms,
    /// Addresses of the node itself.
    pub own: BTreeSet<CtAddress>,
    /// What there is of each container; `holders` is not used. What is inside is there and not seen
    /// where it is `unread`.
    pub containers: BTreeMap<CtId, Observed>,
    /// How many packets the guard dropped.
    pub spoofed: u64,
    /// What went through links.
    pub traffic: BTreeMap<CtId, Traffic>,
    /// How many links were made, and which of them a container has.
    pub made: (u32, BTreeMap<CtId, u32>),
    /// Whether every container that is asked about has a pinned namespace.
    pub every_netns: bool,
    /// How many more steps succeed before one fails; none: all succeed.
    pub fail_after: Option<usize>,
    /// Whether the step that fails takes effect before it does.
    pub fail_after_effect: bool,
    /// Whether a route that is to go stays, and nobody says so: a bug that tests have to find.
    pub keeps_routes: bool,
    /// What the node lacks, without which no source can be allowed.
    pub lacks: Option<&'static str>,
    /// Whether looking fails.
    pub unreadable: bool,
    /// Containers at which looking fails.
    pub dark: BTreeSet<CtId>,
    /// The words of every step that was begun.
    pub journal: Vec<String>,
}

impl State {
    /// What there is of a container.
    pub fn container(&mut self, ct: CtId) -> &mut Observed {
        let every_netns = self.every_netns;
        let observed = self.containers.entry(ct).or_insert_with(|| Observed::nothing(ct));
        observed.netns |= every_netns;
        observed
    }

    /// A link that is new, and through which nothing went yet.
    fn begin_link(&mut self, ct: CtId) {
        self.made.0 += 1;
        self.made.1.insert(ct, self.made.0);
        self.traffic.remove(&ct);
    }

    fn through(&self, ct: CtId) -> Through {
        let traffic = self.traffic.get(&ct).copied().unwrap_or_default();
        Through { link: self.made.1.get(&ct).copied().unwrap_or_default(), traffic }
    }

    fn forget_sources(&mut self) {
        self.containers.values_mut().for_each(|o| o.sources.clear());
    }

    fn allow(&mut self, sources: &Sources) {
        for (ct, set) in sources {
            self.container(*ct).sources.extend(set);
        }
    }

    fn readable(&self) -> Result<(), HostError> {
        if self.unreadable { Err(refused(Errno::IO)) } else { Ok(()) }
    }

    /// Whether the step that begins now fails; it is written down.
    fn fails(&mut self, step: String) -> bool {
        self.journal.push(step);
        match &mut self.fail_after {
            None => false,
            Some(0) => {
                self.fail_after = None;
                true
            }
            Some(left) => {
                *left -= 1;
                false
            }
        }
    }
}

/// A node in memory. Clones are the same node.
#[derive(Debug, Clone, Default)]
pub struct FakeHost {
    state: Arc<Mutex<State>>,
}

fn refused(errno: Errno) -> HostError {
    HostError::Sys { what: "the fake refuses".to_owned(), source: errno.into() }
}

impl FakeHost {
    /// A node on which every container has a pinned namespace.
    pub fn with_every_netns() -> Self {
        let fake = Self::default();
        fake.state().every_netns = true;
        fake
    }

    /// Its state, for looking at and for changing.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Pins a container's namespace.
    pub fn pin(&self, ct: CtId) {
        self.state().container(ct).netns = true;
    }

    /// Lets go of the guard's table, as a daemon does that ends.
    pub fn disown(&self) {
        let mut state = self.state();
        if state.node.owner == Owner::Somebody {
            state.node.owner = Owner::Gone;
        }
    }

    /// Removes every table that nobody owns, as `nft flush ruleset` does.
    pub fn flush_ruleset(&self) {
        let mut state = self.state();
        if state.node.owner != Owner::Somebody {
            state.node = NodeObserved {
                rules: Vec::new(),
                sets: false,
                owner: Owner::Nobody,
                ..state.node.clone()
            };
            state.forget_sources();
        }
    }

    /// Lets a container's namespace die, and its link with it.
    pub fn kill(&self, ct: CtId) {
        let mut state = self.state();
        let sources = std::mem::take(&mut state.container(ct).sources);
        state.containers.insert(ct, Observed { sources, ..Observed::nothing(ct) });
    }
}

impl Host for FakeHost {
    fn observe_node(&self) -> Result<NodeObserved, HostError> {
        let state = self.state();
        state.readable()?;
        Ok(state.node.clone())
    }

    fn apply_node(&self, step: &NodeStep) -> Result<(), HostError> {
        let mut state = self.state();
        if state.fails(step.to_string()) {
            return Err(refused(Errno::IO));
        }
        match step {
            NodeStep::LayTable(sources) => {
                (state.node.rules, state.node.sets) = (expected_rules(), true);
                state.node.owner = Owner::Somebody;
                state.forget_sources();
                state.allow(sources);
            }
            NodeStep::OwnTable => state.node.owner = Owner::Somebody,
            NodeStep::AllowSources(sources) => state.allow(sources),
            NodeStep::ForbidSources(sources) => {
                for (ct, set) in sources {
                    state.container(*ct).sources.retain(|a| !set.contains(a));
                }
            }
            NodeStep::Set(Setting::ForwardV4) => state.node.forward_v4 = true,
            NodeStep::Set(Setting::ForwardV6) => state.node.forward_v6 = Some(true),
            NodeStep::Set(Setting::AcceptAdvertisements(link)) => {
                state.node.learners.remove(link);
            }
            NodeStep::Set(Setting::Room(room)) => {
                let limit = room.least().parse().unwrap_or_default();
                state.rooms.insert(*room, Space { limit, used: None });
            }
        }
        Ok(())
    }

    fn rooms(&self) -> Result<Rooms, HostError> {
        Ok(self.state().rooms.clone())
    }

    fn links(&self) -> Result<Sources, HostError> {
        let state = self.state();
        state.readable()?;
        let links = state.containers.values().filter_map(|o| Some((o.ct, o.link.as_ref()?)));
        Ok(links.filter(|(_, l)| l.veth).map(|(ct, l)| (ct, l.routes.clone())).collect())
    }

    fn sources(&self) -> Result<Sources, HostError> {
        let state = self.state();
        state.readable()?;
        let some = state.containers.values().filter(|o| !o.sources.is_empty());
        Ok(some.map(|o| (o.ct, o.sources.clone())).collect())
    }

    fn spoofed(&self) -> Result<u64, HostError> {
        Ok(self.state().spoofed)
    }

    fn containers(&self) -> Result<BTreeSet<CtId>, HostError> {
        let state = self.state();
        state.readable()?;
        let some = state.containers.values().filter(|o| o.link.as_ref().is_some_and(|l| l.veth));
        Ok(some.map(|o| o.ct).collect())
    }

    fn traffic(&self) -> Result<BTreeMap<CtId, Through>, HostError> {
        let state = self.state();
        state.readable()?;
        let some = state.containers.values().filter(|o| o.link.as_ref().is_some_and(|l| l.veth));
        Ok(some.map(|o| (o.ct, state.through(o.ct))).collect())
    }

    fn session(&self, ct: CtId) -> Result<Box<dyn Session>, HostError> {
        Ok(Box::new(FakeSession { host: self.clone(), ct }))
    }
}

struct FakeSession {
    host: FakeHost,
    ct: CtId,
}

impl FakeSession {
    fn holder(&self, address: CtAddress) -> Option<Holder> {
        let state = self.host.state();
        if state.own.contains(&address) {
            return Some(Holder::Node);
        }
        let mut others = state.containers.values().filter(|o| o.ct != self.ct);
        let routed = |o: &&Observed| o.link.as_ref().is_some_and(|l| l.routes.contains(&address));
        others.find(routed).map(|o| Holder::Container(o.ct))
    }
}

impl Session for FakeSession {
    fn observe(&mut self, wanted: &[CtAddress], sources: &Sources) -> Result<Observed, HostError> {
        if self.host.state().dark.contains(&self.ct) {
            return Err(refused(Errno::IO));
        }
        let mut observed = self.host.state().container(self.ct).clone();
        observed.sources = sources.get(&self.ct).cloned().unwrap_or_default();
        observed.holders = wanted.iter().filter_map(|a| Some((*a, self.holder(*a)?))).collect();
        if observed.unread.is_some() {
            (observed.loopback_up, observed.name_conflict) = (false, false);
            if let Some(link) = &mut observed.link {
                link.inner = None;
            }
        }
        Ok(observed)
    }

    fn apply(&mut self, step: &Step) -> Result<(), StepError> {
        let fails = self.host.state().fails(step.to_string());
        if fails && !self.host.state().fail_after_effect {
            return Err(refused(Errno::IO).into());
        }
        if let (Change::AllowSources(_), Some(lacks)) = (&step.change, self.host.state().lacks) {
            let (feature, why) = (lacks.to_owned(), "the fake has none".to_owned());
            return Err(HostError::Lacks { feature, why }.into());
        }
        if let Change::AddRoute(address) = &step.change
            && let Some(holder) = self.holder(*address)
        {
            return Err(StepError::Taken { address: *address, holder });
        }
        let mut state = self.host.state();
        if matches!(step.change, Change::CreateLink) && state.container(self.ct).link.is_none() {
            state.begin_link(self.ct);
        }
        if !(state.keeps_routes && matches!(step.change, Change::RemoveRoute(_))) {
            apply(state.container(self.ct), &step.change)?;
        }
        drop(state);
        if fails { Err(refused(Errno::IO).into()) } else { Ok(()) }
    }

    fn traffic(&mut self) -> Result<Option<Through>, HostError> {
        let mut state = self.host.state();
        let through = state.through(self.ct);
        Ok(state.container(self.ct).link.as_ref().map(|_| through))
    }
}

/// What a change does to what there is of a container.
pub fn apply(observed: &mut Observed, change: &Change) -> Result<(), HostError> {
    fn end(observed: &mut Observed) -> Result<&mut HostEnd, HostError> {
        observed.link.as_mut().ok_or_else(|| refused(Errno::NODEV))
    }
    fn inner(observed: &mut Observed) -> Result<&mut InnerEnd, HostError> {
        end(observed)?.inner.as_mut().ok_or_else(|| refused(Errno::NODEV))
    }
    match change {
        Change::DeleteLink | Change::AwaitLinkGone => observed.link = None,
        Change::DeleteConflicting => observed.name_conflict = false,
        Change::CreateLink => {
            if !observed.netns {
                return Err(refused(Errno::NODEV));
            }
            let connected = observed.link.as_ref().is_some_and(|l| l.inner.is_some());
            if !connected && (observed.name_conflict || observed.link.is_some()) {
                return Err(refused(Errno::EXIST));
            }
            if !connected {
                let inner = InnerEnd { ipv6: observed.ipv6, ..InnerEnd::default() };
                observed.link =
                    Some(HostEnd { veth: true, inner: Some(inner), ..HostEnd::default() });
            }
        }
        Change::ConfigureHostEnd => end(observed)?.configured = true,
        Change::ConfigureInnerEnd => inner(observed)?.configured = true,
        Change::LoopbackUp => observed.loopback_up = true,
        Change::AddAddress(address) => {
            let (ip, len) = (address.ip(), address.prefix_len());
            let inner = inner(observed)?;
            // IPv6 has an address once, whatever its length, and the kernel says it is there.
            let there = inner.addresses.iter().any(|(other, _)| *other == ip);
            if ip.is_ipv4() || (inner.ipv6 && !there) {
                inner.addresses.insert((ip, len));
            }
        }
        Change::RemoveAddress(ip, len) => {
            let inner = inner(observed)?;
            inner.addresses.remove(&(*ip, *len));
            // The last IPv4 address takes the link's IPv4 routes and neighbours along.
            if ip.is_ipv4() && !inner.addresses.iter().any(|(ip, _)| ip.is_ipv4()) {
                inner.defaults.remove(&Family::V4);
                inner.gateways.remove(&Family::V4);
            }
        }
        Change::SetGateway(family) => {
            inner(observed)?.gateways.insert(*family);
        }
        Change::SetDefault(family) => {
            let inner = inner(observed)?;
            if *family == Family::V4 || inner.ipv6 {
                inner.defaults.insert(*family);
            }
        }
        Change::RemoveDefault(family) => {
            inner(observed)?.defaults.remove(family);
        }
        Change::SetNeighbour(address) => {
            end(observed)?.neighbours.insert(*address);
        }
        Change::RemoveNeighbour(address) => {
            end(observed)?.neighbours.remove(address);
        }
        Change::AllowSources(addresses) => observed.sources.extend(addresses),
        Change::ForbidSources(addresses) => observed.sources.retain(|a| !addresses.contains(a)),
        Change::AddRoute(address) => {
            let end = end(observed)?;
            if !end.configured {
                return Err(refused(Errno::NETDOWN));
            }
            end.routes.insert(*address);
        }
        Change::RemoveRoute(address) => {
            if let Some(link) = &mut observed.link {
                link.routes.remove(address);
            }
        }
    }
    Ok(())
}
