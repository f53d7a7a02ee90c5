//! The node as its daemons reach it: what each service asks of its host, for as long as it lives, and each
//! change as a step that may have a mishap. Never here: what a step does.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Error as IoError, Read};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use ves_host::HostError;
use ves_lifecycle::{error as life_error, host as life, init_plan, plan as life_plan};
use ves_network::plan::node::{NodeObserved, NodeStep, Rooms};
use ves_network::{error as net_error, host as net, plan as net_plan};
use ves_resources::counters::Metered;
use ves_resources::enforcement::SelfTest;
use ves_resources::model as group;
use ves_resources::observe::FileLocks;
use ves_resources::plan as group_plan;
use ves_resources::rows::Usage;
use ves_storage::ledger::Inventory;
use ves_storage::plan::room::Room;
use ves_storage::plan::snapshot::Snapshot;
use ves_storage::plan::template::Step as TemplateStep;
use ves_storage::{error as volume_error, host as volume, plan as volume_plan};
use ves_types::{CtAddress, CtId, SnapshotId, TemplateName, Victim};

use crate::script::Hand;

/// A part of the node in a daemon's hand.
#[derive(Debug)]
pub(crate) struct InHand<H> {
    pub(crate) host: Arc<H>,
    pub(crate) hand: Hand,
}

fn failed() -> HostError {
    let source = IoError::other("as scripted, or by a daemon that was killed");
    HostError::Sys { what: "act on the node".to_owned(), source }
}

impl<H> InHand<H> {
    fn look<T, E: From<HostError>>(&self, look: impl FnOnce(&H) -> Result<T, E>) -> Result<T, E> {
        self.hand.life.act(|| look(&self.host), || failed().into())
    }

    fn step<E: From<HostError>>(&self, act: impl FnOnce(&H) -> Result<(), E>) -> Result<(), E> {
        self.hand.step(|| act(&self.host), || failed().into())
    }
}

impl<H: volume::Host> volume::Host for InHand<H> {
    fn observe(
        &self,
        ct: CtId,
        template: Option<&TemplateName>,
    ) -> Result<volume_plan::Observed, volume_error::Error> {
        self.look(|h| h.observe(ct, template))
    }
    fn apply(&self, ct: CtId, step: &volume_plan::Step) -> Result<(), volume_error::Error> {
        self.step(|h| h.apply(ct, step))
    }
    fn look(&self, ct: CtId) -> Result<volume::VolumeFacts, volume_error::Error> {
        Self::look(self, |h| h.look(ct))
    }
    fn look_all(&self) -> Result<volume::Each<volume::VolumeFacts>, volume_error::Error> {
        Self::look(self, H::look_all)
    }
    fn met_errors(&self) -> Result<BTreeMap<CtId, u32>, volume_error::Error> {
        Self::look(self, H::met_errors)
    }
    fn orphans(&self) -> Result<Vec<CtId>, volume_error::Error> {
        Self::look(self, H::orphans)
    }
    fn snapshots(
        &self,
        ct: CtId,
        measure: bool,
    ) -> Result<Vec<(SnapshotId, Snapshot, Option<u64>)>, volume_error::Error> {
        Self::look(self, |h| h.snapshots(ct, measure))
    }
    fn inventory(&self) -> Result<Inventory, volume_error::Error> {
        Self::look(self, H::inventory)
    }
    fn room(&self) -> Result<Room, volume_error::Error> {
        Self::look(self, H::room)
    }
    fn back(&self, bytes: u64) -> Result<(), volume_error::Error> {
        self.step(|h| h.back(bytes))
    }
    fn takes(&self, template: &TemplateName) -> Result<u64, volume_error::Error> {
        Self::look(self, |h| h.takes(template))
    }
    fn backend(&self) -> ves_storage::host::BackendKind {
        self.host.backend()
    }
    fn templates(&self) -> Result<Vec<volume::Template>, volume_error::Error> {
        Self::look(self, H::templates)
    }
    fn observe_template(
        &self,
        name: &TemplateName,
    ) -> Result<volume_plan::template::Observed, volume_error::Error> {
        Self::look(self, |h| h.observe_template(name))
    }
    fn apply_template(
        &self,
        name: &TemplateName,
        step: &TemplateStep,
        making: &mut volume::Making<'_, '_>,
    ) -> Result<(), volume_error::Error> {
        match step {
            // It takes as long as it likes, and leaves nothing half done.
            TemplateStep::TakeContents => self.host.apply_template(name, step, making),
            _ => self.step(|h| h.apply_template(name, step, making)),
        }
    }
    fn export(&self, name: &TemplateName) -> Result<Box<dyn Read + Send>, volume_error::Error> {
        Self::look(self, |h| h.export(name))
    }
}

impl<H: net::Host> net::Host for InHand<H> {
    fn observe_node(&self) -> Result<NodeObserved, HostError> {
        self.look(H::observe_node)
    }
    fn apply_node(&self, step: &NodeStep) -> Result<(), HostError> {
        self.step(|h| h.apply_node(step))
    }
    fn rooms(&self) -> Result<Rooms, HostError> {
        self.look(H::rooms)
    }
    fn links(&self) -> Result<net::Sources, HostError> {
        self.look(H::links)
    }
    fn sources(&self) -> Result<net::Sources, HostError> {
        self.look(H::sources)
    }
    fn spoofed(&self) -> Result<u64, HostError> {
        self.look(H::spoofed)
    }
    fn containers(&self) -> Result<BTreeSet<CtId>, HostError> {
        self.look(H::containers)
    }
    fn traffic(&self) -> Result<BTreeMap<CtId, net::Through>, HostError> {
        self.look(H::traffic)
    }
    fn session(&self, ct: CtId) -> Result<Box<dyn net::Session>, HostError> {
        let session = self.look(|h| h.session(ct))?;
        Ok(Box::new(Session { session, hand: self.hand.clone() }))
    }
}

struct Session {
    session: Box<dyn net::Session>,
    hand: Hand,
}

impl net::Session for Session {
    fn observe(
        &mut self,
        wanted: &[CtAddress],
        sources: &net::Sources,
    ) -> Result<net_plan::Observed, HostError> {
        self.hand.life.act(|| self.session.observe(wanted, sources), failed)
    }
    fn apply(&mut self, step: &net_plan::Step) -> Result<(), net_error::StepError> {
        self.hand.step(|| self.session.apply(step), || failed().into())
    }
    fn traffic(&mut self) -> Result<Option<net::Through>, HostError> {
        self.hand.life.act(|| self.session.traffic(), failed)
    }
}

impl<H: ves_resources::host::Host> ves_resources::host::Host for InHand<H> {
    fn observe_shared(&self) -> Result<group::Shared, HostError> {
        self.look(H::observe_shared)
    }
    fn apply_shared(&self, step: &group_plan::SharedStep) -> Result<(), HostError> {
        self.step(|h| h.apply_shared(step))
    }
    fn release_shared(&self) -> Result<(), HostError> {
        self.step(H::release_shared)
    }
    fn observe(&self, ct: CtId) -> Result<group::Observed, HostError> {
        self.look(|h| h.observe(ct))
    }
    fn apply(&self, ct: CtId, step: &group_plan::Step) -> Result<(), HostError> {
        self.step(|h| h.apply(ct, step))
    }
    fn containers(&self) -> Result<Vec<CtId>, HostError> {
        self.look(H::containers)
    }
    fn locks(&self) -> Result<Option<FileLocks>, HostError> {
        self.look(H::locks)
    }
    fn usage(&self, ct: CtId, locks: Option<&FileLocks>) -> Result<Usage, HostError> {
        self.look(|h| h.usage(ct, locks))
    }
    fn metered(&self, ct: CtId) -> Result<Metered, HostError> {
        self.look(|h| h.metered(ct))
    }
    fn oom_kills(&self) -> Result<BTreeMap<CtId, u64>, HostError> {
        self.look(H::oom_kills)
    }
    fn victims(&self) -> Result<Vec<(CtId, Victim)>, HostError> {
        self.look(H::victims)
    }

    fn shares_disks(&self) -> Result<bool, HostError> {
        self.look(H::shares_disks)
    }
    fn self_test(&self) -> Result<SelfTest, HostError> {
        self.look(H::self_test)
    }
}

impl<H: life::Host> life::Host for InHand<H> {
    fn observe(&self, ct: CtId) -> Result<life_plan::Observed, life_error::Error> {
        self.look(|h| h.observe(ct))
    }
    fn observe_all(&self, cts: &[CtId]) -> Vec<Result<life_plan::Observed, life_error::Error>> {
        cts.iter().map(|ct| self.observe(*ct)).collect()
    }
    fn apply(&self, ct: CtId, step: &life_plan::Step) -> Result<(), life_error::Error> {
        self.step(|h| h.apply(ct, step))
    }
    fn list(&self) -> Result<Vec<CtId>, life_error::Error> {
        self.look(H::list)
    }
    fn on_change(&self, changed: life::Changed) -> Result<(), life_error::Error> {
        self.look(|h| h.on_change(changed))
    }
    fn follow(&self, ct: CtId) -> Result<(), life_error::Error> {
        self.look(|h| h.follow(ct))
    }
    fn console(&self, ct: CtId, scrollback_only: bool) -> Result<UnixStream, life_error::Error> {
        self.look(|h| h.console(ct, scrollback_only))
    }
    fn exec(
        &self,
        ct: CtId,
        command: &init_plan::Command,
    ) -> Result<UnixStream, life_error::Error> {
        self.look(|h| h.exec(ct, command))
    }
}
