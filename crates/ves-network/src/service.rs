//! The shell around the planners: lock, fence, observe, plan, apply each step, observe again.
//!
//! Synchronous inside; [`Service`]'s async methods end at once in the blocking pool, so a caller
//! that hangs up cannot cut a plan in half. Decides nothing.

use std::sync::{Arc, Mutex, PoisonError};

use ves_daemon::{FenceStore, Locks, blocking};
use ves_host::HostError;
use ves_host::netlink::route::Traffic;
use ves_proto::Fault;
use ves_types::{CtAddress, CtId, Fence, Generation};

use crate::config::Config;
use crate::error::{Error, StepError};
use crate::host::{Host, Session, Sources};
use crate::plan::node::NodeDesired;
use crate::plan::{self, Desired, Observed, Step, node};

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
    pub traffic: Traffic,
    /// Packets with a false source, over all containers of the node.
    pub spoofed: u64,
}

struct Inner {
    host: Arc<dyn Host>,
    locks: Locks,
    fences: FenceStore,
    desired: NodeDesired,
    /// Held while the node as a whole is looked at and changed.
    node: Mutex<()>,
}

/// The network service. Clones are the same service.
#[derive(Clone)]
pub struct Service {
    inner: Arc<Inner>,
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
    pub fn new(host: Arc<dyn Host>, fences: FenceStore, config: &Config) -> Self {
        let desired = NodeDesired { forwarding: config.forwarding };
        let (locks, node) = (Locks::default(), Mutex::new(()));
        Self { inner: Arc::new(Inner { host, locks, fences, desired, node }) }
    }

    /// Makes a container's link as desired.
    pub async fn ensure(&self, fence: Fence, desired: Desired) -> Result<Interface, Fault> {
        let inner = Arc::clone(&self.inner);
        blocking(move || inner.ensure(&fence, &desired)).await
    }

    /// Makes a container's link not exist.
    pub async fn remove(&self, fence: Fence) -> Result<(), Fault> {
        let inner = Arc::clone(&self.inner);
        blocking(move || inner.remove(&fence)).await
    }

    /// A container's link.
    ///
    /// # Errors
    /// `CONTAINER_UNKNOWN` where it has none; a fault.
    pub async fn get(&self, ct: CtId) -> Result<Interface, Fault> {
        let inner = Arc::clone(&self.inner);
        blocking(move || {
            let mut session = inner.session(ct)?;
            let interface = inner.look(ct, &mut *session, None)?;
            interface.ok_or_else(|| Error::NoLink { ct }.into())
        })
        .await
    }

    /// All links, by container. One that cannot be looked at is left out.
    pub async fn list(&self) -> Result<Vec<Interface>, Fault> {
        let inner = Arc::clone(&self.inner);
        blocking(move || inner.list()).await
    }

    /// Makes the node ready to carry containers.
    pub fn prepare_node(&self) -> Result<(), Fault> {
        Ok(self.inner.ensure_node()?)
    }
}

impl Inner {
    fn session(&self, ct: CtId) -> Result<Box<dyn Session>, Error> {
        observed(|| format!("the link of container {ct}"), self.host.session(ct))
    }

    fn ensure_node(&self) -> Result<(), Error> {
        let _held = self.node.lock().unwrap_or_else(PoisonError::into_inner);
        let now = observed(|| "the node".to_owned(), self.host.observe_node())?;
        for step in node::plan(self.desired, &now) {
            let _span = tracing::info_span!("step", %step).entered();
            tracing::info!("{step}");
            self.host
                .apply_node(&step)
                .map_err(|e| Error::Step { step: step.to_string(), source: e.into() })?;
        }
        Ok(())
    }

    fn observe(
        &self,
        ct: CtId,
        session: &mut dyn Session,
        wanted: &[CtAddress],
    ) -> Result<Observed, Error> {
        let sources = observed(|| "the guard".to_owned(), self.host.sources())?;
        observed(|| format!("the link of container {ct}"), session.observe(wanted, &sources))
    }

    fn ensure(&self, fence: &Fence, desired: &Desired) -> Result<Interface, Fault> {
        let ct = fence.ct;
        let _held = self.locks.hold(ct, "EnsureInterface")?;
        self.fences.admit(fence)?;
        let mut session = self.session(ct)?;
        let before = self.observe(ct, &mut *session, &desired.addresses)?;
        let steps = plan::plan(Some(desired), &before).map_err(Error::from)?;
        if self.fences.accepted(ct) != Some((fence.generation, fence.epoch)) {
            self.fences.accept(fence)?;
        }
        self.ensure_node()?;
        apply(&mut *session, &steps)?;
        let known = steps.is_empty().then_some(before);
        let interface = self.look(ct, &mut *session, known)?;
        interface.ok_or_else(|| Error::NoLink { ct }.into())
    }

    fn remove(&self, fence: &Fence) -> Result<(), Fault> {
        let ct = fence.ct;
        let _held = self.locks.hold(ct, "RemoveInterface")?;
        self.fences.admit(fence)?;
        let mut session = self.session(ct)?;
        let before = self.observe(ct, &mut *session, &[])?;
        let steps = plan::plan(None, &before).map_err(Error::from)?;
        if !steps.is_empty() {
            self.fences.accept(fence)?;
        }
        apply(&mut *session, &steps)?;
        // Nothing is left that an older decision could harm: it would need a namespace, and that is
        // lifecycle's to refuse.
        self.fences.forget(ct);
        Ok(())
    }

    /// The link as it is; `known` is what was just observed, if anything.
    fn look(
        &self,
        ct: CtId,
        session: &mut dyn Session,
        known: Option<Observed>,
    ) -> Result<Option<Interface>, Error> {
        let state = match known {
            Some(state) => state,
            None => self.observe(ct, session, &[])?,
        };
        self.render(session, &state)
    }

    fn render(
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
            generation: self.fences.generation(ct),
            addresses: state.working(),
            traffic,
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

fn apply(session: &mut dyn Session, steps: &[Step]) -> Result<(), Error> {
    for step in steps {
        let _span = tracing::info_span!("step", %step).entered();
        session
            .apply(step)
            .map_err(|source: StepError| Error::Step { step: step.to_string(), source })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
