//! Lifecycle's part of the node, tied to the others: what processes need, hold and keep.
//!
//! Never here: what a step does to the processes themselves, which the service's own fake says.

use std::os::unix::net::UnixStream;
use std::sync::Arc;

use ves_init_proto::report::Ended;
use ves_lifecycle::error::Error;
use ves_lifecycle::fake::{FakeHost, Model};
use ves_lifecycle::host::{Changed, Host};
use ves_lifecycle::init_plan::Command;
use ves_lifecycle::plan::{Observed, Step};
use ves_resources::host::Host as _;
use ves_storage::host::Host as _;
use ves_types::{CtId, ExitCause};

/// Processes of a node's containers.
#[derive(Debug)]
pub struct Processes {
    own: FakeHost,
    volumes: Arc<ves_storage::fake::FakeHost>,
    links: Arc<ves_network::fake::FakeHost>,
    groups: Arc<ves_resources::fake::FakeHost>,
}

impl Processes {
    pub(crate) fn new(
        volumes: Arc<ves_storage::fake::FakeHost>,
        links: Arc<ves_network::fake::FakeHost>,
        groups: Arc<ves_resources::fake::FakeHost>,
    ) -> Self {
        Self { own: FakeHost::new(), volumes, links, groups }
    }

    /// Lets the step after `steps` further ones fail, once, without effect.
    pub fn fail_after(&self, steps: usize) {
        self.own.fail_after(steps);
    }

    /// Changes a container behind the service's back, and tells those who watch it.
    pub fn change(&self, ct: CtId, change: impl FnOnce(&mut Model)) {
        self.own.change(ct, |model| {
            change(model);
            // Before anybody hears of it.
            self.tell_others(ct, &model.state);
        });
    }

    /// Ends a container from inside, as reboot(2) or init's death do.
    pub fn end(&self, ct: CtId, cause: ExitCause, ended: Ended) {
        self.change(ct, |model| model.end(cause, ended));
    }

    /// Lets a container's init go down by itself, slowly.
    pub fn go_down(&self, ct: CtId) {
        self.own.go_down(ct);
    }

    /// How many commands run inside containers.
    pub fn commands(&self) -> usize {
        self.own.commands()
    }

    /// Whether a container has a monitor.
    pub fn monitored(&self, ct: CtId) -> bool {
        self.own.monitored(ct)
    }

    /// The steps done so far, as they are logged.
    pub fn done(&self) -> Vec<(CtId, String)> {
        self.own.done()
    }

    /// A container as it is.
    pub fn model(&self, ct: CtId) -> Model {
        self.own.model(ct)
    }

    /// Whether no container has processes, or left anything of them.
    pub fn is_clean(&self) -> bool {
        self.own.models().iter().all(|(_, m)| !lives(&m.state) && !m.state.leftovers)
    }

    pub(crate) fn reboot(&self) {
        for (ct, _) in self.own.models() {
            self.change(ct, |model| {
                // How they are made stays, what they did is gone.
                let Model { obedient, mortal, undying, run, .. } = *model;
                *model = Model { obedient, mortal, undying, run, ..Model::default() };
            });
        }
    }

    /// What the other parts of the node see of processes that are there, or are no more.
    fn tell_others(&self, ct: CtId, seen: &Observed) {
        let lives = lives(seen);
        self.volumes.hold(ct, lives);
        self.groups.populate(ct, lives);
        if lives {
            self.links.pin(ct);
        } else {
            // Whether there is IPv6 is the node's matter, not the namespace's.
            let ipv6 = self.links.state().container(ct).ipv6;
            self.links.kill(ct);
            self.links.state().container(ct).ipv6 = ipv6;
        }
    }
}

fn lives(seen: &Observed) -> bool {
    seen.monitor.is_some() || seen.unresponsive || seen.stray
}

impl Host for Processes {
    /// A root and control groups are there where the other services have made them.
    fn observe(&self, ct: CtId) -> Result<Observed, Error> {
        let mut seen = self.own.observe(ct)?;
        seen.mounted = self.volumes.look(ct).is_ok_and(|v| v.mounted);
        seen.grouped = self.groups.observe(ct).is_ok_and(|g| g.exists());
        Ok(seen)
    }

    fn observe_all(&self, cts: &[CtId]) -> Vec<Result<Observed, Error>> {
        cts.iter().map(|ct| self.observe(*ct)).collect()
    }

    fn apply(&self, ct: CtId, step: &Step) -> Result<(), Error> {
        let seen = self.observe(ct)?;
        if matches!(step, Step::SpawnMonitor(_)) && !(seen.mounted && seen.grouped) {
            return Err(Error::Injected { ct, step: step.to_string() });
        }
        let done = self.own.apply(ct, step);
        self.tell_others(ct, &self.own.observe(ct)?);
        done
    }

    fn list(&self) -> Result<Vec<CtId>, Error> {
        self.own.list()
    }

    fn on_change(&self, changed: Changed) -> Result<(), Error> {
        self.own.on_change(changed)
    }

    fn follow(&self, ct: CtId) -> Result<(), Error> {
        self.own.follow(ct)
    }

    fn console(&self, ct: CtId, scrollback_only: bool) -> Result<UnixStream, Error> {
        self.own.console(ct, scrollback_only)
    }

    fn exec(&self, ct: CtId, command: &Command) -> Result<UnixStream, Error> {
        self.own.exec(ct, command)
    }
}
