//! What of the service is no change of a container: what is only looked at, and the node. Changes are in
//! `converge.rs`.
//!
//! Synchronous inside; [`Service`]'s async methods end at once in the blocking pool. Decides nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ves_daemon::{Shell, blocking};
use ves_host::HostError;
use ves_host::nft::Owner;
use ves_proto::Fault;
use ves_types::{CtAddress, CtId, Generation};

use crate::config::Config;
use crate::error::Error;
use crate::host::{Host, Session, Sources, Through};
use crate::plan::node::{NodeDesired, NodeObserved, NodeStep, Rooms};
use crate::plan::{Change, Observed, Step, node};

/// A container's link as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its container.
    pub ct: CtId,
    /// The last accepted generation.
    pub generation: Generation,
    /// Addresses that are set inside, routed outside and allowed as source.
    pub addresses: Vec<CtAddress>,
    /// What went through the node's end: received is out of the container.
    pub through: Through,
    /// Packets with a false source, over all containers of the node.
    pub spoofed: u64,
}

/// What a node is for all its containers together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeFacts {
    /// How much room the kernel has for what they fill together.
    pub rooms: Rooms,
    /// Who may change the guard; `None` where there is none.
    pub guard: Option<Owner>,
}

pub(crate) struct Inner {
    host: Arc<dyn Host>,
    pub(crate) shell: Shell,
    pub(crate) desired: NodeDesired,
    /// Held while the node as a whole is changed, and while the guard is. What is forbidden and still
    /// routed, since who takes it away has not come further, must not be allowed again by who goes by
    /// the routes.
    leaving: Mutex<Sources>,
}

/// The network service. Clones are the same service.
#[derive(Clone)]
pub struct Service {
    pub(crate) inner: Arc<Inner>,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service").field("desired", &self.inner.desired).finish_non_exhaustive()
    }
}

fn observed<T>(what: impl FnOnce() -> String, result: Result<T, HostError>) -> Result<T, Error> {
    result.map_err(|source| Error::Observe { what: what(), source })
}

impl Service {
    /// A service on a host.
    pub fn new(host: Arc<dyn Host>, shell: Shell, config: &Config) -> Self {
        let desired = NodeDesired { forwarding: config.forwarding };
        Self { inner: Arc::new(Inner { host, shell, desired, leaving: Mutex::default() }) }
    }

    /// A container's link.
    ///
    /// # Errors
    /// `CONTAINER_UNKNOWN` where it has none; a fault.
    pub async fn get(&self, ct: CtId) -> Result<Interface, Fault> {
        let inner = Arc::clone(&self.inner);
        blocking(move || {
            let mut session = inner.session(ct)?;
            let state = inner.observe(ct, &mut *session, &[])?;
            let interface = inner.render(&mut *session, &state)?;
            interface.ok_or_else(|| Error::NoLink { ct }.into())
        })
        .await
    }

    /// All links, by container. One that cannot be looked at is left out.
    pub async fn list(&self) -> Result<Vec<Interface>, Fault> {
        let inner = Arc::clone(&self.inner);
        blocking(move || inner.list()).await
    }

    /// What went through the node's end of each link, and how many packets had a false source.
    ///
    /// # Errors
    /// `HOST_FAILED`.
    pub async fn traffic(&self) -> Result<(BTreeMap<CtId, Through>, u64), Fault> {
        let inner = Arc::clone(&self.inner);
        blocking(move || {
            let links = observed(|| "all links".to_owned(), inner.host.traffic())?;
            let spoofed = observed(|| "the guard's counter".to_owned(), inner.host.spoofed())?;
            Ok((links, spoofed))
        })
        .await
    }

    /// Makes the node ready to carry containers. That there is little room for what they all fill
    /// together, where it cannot be raised, keeps none from starting.
    pub fn prepare_node(&self) -> Result<(), Fault> {
        self.inner.settle_node(self.inner.desired)?;
        let rooms = observed(|| "the kernel's room".to_owned(), self.inner.host.rooms())?;
        for step in node::raise(&rooms) {
            // Said by the shell, and to who asks what the node is.
            self.inner.step_node(&step).ok();
        }
        Ok(())
    }

    /// What the node is for all its containers together.
    pub async fn node(&self) -> Result<NodeFacts, Fault> {
        let inner = Arc::clone(&self.inner);
        blocking(move || {
            let rooms = observed(|| "the kernel's room".to_owned(), inner.host.rooms())?;
            let node = inner.observe_node()?;
            Ok(NodeFacts { rooms, guard: node.is_whole().then_some(node.owner) })
        })
        .await
    }
}

impl Inner {
    pub(crate) fn session(&self, ct: CtId) -> Result<Box<dyn Session>, Error> {
        observed(|| format!("the link of container {ct}"), self.host.session(ct))
    }

    fn leaving(&self) -> MutexGuard<'_, Sources> {
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the node is; with `all`, whatever is allowed is compared with what is routed.
    fn look_at_node(&self, leaving: &Sources, all: bool) -> Result<NodeObserved, Error> {
        let host = &self.host;
        observed(|| "the node".to_owned(), host.observe_node()).and_then(|node| {
            if !all && node.is_whole() {
                return Ok(node);
            }
            let sources = observed(|| "the guard".to_owned(), host.sources())?;
            let mut links = observed(|| "all links".to_owned(), host.links())?;
            for (ct, routed) in &mut links {
                routed.retain(|a| !leaving.get(ct).is_some_and(|gone| gone.contains(a)));
            }
            Ok(NodeObserved { links, sources, ..node })
        })
    }

    pub(crate) fn observe_node(&self) -> Result<NodeObserved, Error> {
        self.look_at_node(&self.leaving(), false)
    }

    /// Changes the node by one step, as it is to be done now: another call may have done it since it
    /// was planned.
    pub(crate) fn apply_node(&self, step: &NodeStep) -> Result<(), Error> {
        let leaving = self.leaving();
        let now = node::plan(self.desired, &self.look_at_node(&leaving, false)?);
        let same = |now: &&NodeStep| match (now, step) {
            (NodeStep::Set(now), NodeStep::Set(then)) => now == then,
            (now, then) => std::mem::discriminant(*now) == std::mem::discriminant(then),
        };
        now.iter().find(same).map_or(Ok(()), |step| self.change_node(step))
    }

    fn change_node(&self, step: &NodeStep) -> Result<(), Error> {
        let applied = self.host.apply_node(step);
        applied.map_err(|e| Error::Step { step: step.to_string(), source: e.into() })
    }

    /// Makes the guard what it should be for all containers, and nothing else of the node. Answers how
    /// many steps that took.
    pub(crate) fn settle_guard(&self) -> Result<usize, Fault> {
        self.settle_node(NodeDesired { forwarding: false })
    }

    fn settle_node(&self, desired: NodeDesired) -> Result<usize, Fault> {
        let leaving = self.leaving();
        let steps = node::plan(desired, &self.look_at_node(&leaving, true)?);
        steps.iter().try_for_each(|step| self.step_node(step))?;
        Ok(steps.len())
    }

    fn step_node(&self, step: &NodeStep) -> Result<(), Fault> {
        let kind = ves_daemon::converge::variant(step);
        self.shell.step(None, &kind, step, || self.change_node(step).map_err(Fault::from))
    }

    /// Changes a container's link by one step.
    pub(crate) fn apply(&self, session: &mut dyn Session, step: &Step) -> Result<(), Error> {
        let applied = match &step.change {
            Change::ForbidSources(set) => {
                let mut leaving = self.leaving();
                leaving.entry(step.ct).or_default().extend(set);
                session.apply(step)
            }
            Change::AllowSources(set) => {
                let mut leaving = self.leaving();
                leaving.entry(step.ct).or_default().retain(|a| !set.contains(a));
                session.apply(step)
            }
            _ => session.apply(step),
        };
        applied.map_err(|source| Error::Step { step: step.to_string(), source })
    }

    /// A change of a container's link is over: what is routed to it now may stay so.
    pub(crate) fn ended(&self, ct: CtId) {
        self.leaving().remove(&ct);
    }

    pub(crate) fn observe(
        &self,
        ct: CtId,
        session: &mut dyn Session,
        wanted: &[CtAddress],
    ) -> Result<Observed, Error> {
        let sources = observed(|| "the guard".to_owned(), self.host.sources())?;
        observed(|| format!("the link of container {ct}"), session.observe(wanted, &sources))
    }

    pub(crate) fn render(
        &self,
        session: &mut dyn Session,
        state: &Observed,
    ) -> Result<Option<Interface>, Error> {
        let ct = state.ct;
        let what = || format!("the traffic of container {ct}");
        let traffic = observed(what, session.traffic())?;
        let Some(traffic) = traffic.filter(|_| state.link.as_ref().is_some_and(|l| l.veth)) else {
            return Ok(None);
        };
        Ok(Some(Interface {
            ct,
            generation: self.shell.generation(ct),
            addresses: state.working(),
            through: traffic,
            spoofed: observed(|| "the guard's counter".to_owned(), self.host.spoofed())?,
        }))
    }

    fn list(&self) -> Result<Vec<Interface>, Fault> {
        let containers = observed(|| "all links".to_owned(), self.host.containers())?;
        let sources = observed(|| "the guard".to_owned(), self.host.sources())?;
        let mut interfaces = Vec::new();
        for ct in containers {
            match self.list_one(ct, &sources) {
                // One that vanished meanwhile is no part of the answer.
                Ok(interface) => interfaces.extend(interface),
                Err(e) => tracing::warn!(
                    %ct, error = ves_proto::fault::chain(&e), "left out of the list of links"
                ),
            }
        }
        Ok(interfaces)
    }

    fn list_one(&self, ct: CtId, sources: &Sources) -> Result<Option<Interface>, Error> {
        let mut session = self.session(ct)?;
        let what = || format!("the link of container {ct}");
        let state = observed(what, session.observe(&[], sources))?;
        self.render(&mut *session, &state)
    }
}

#[cfg(test)]
mod tests;
