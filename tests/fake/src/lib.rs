//! One node in memory under the four services' fake hosts: what one does, the others meet.
//!
//! Each fake host knows its own part of a kernel. [`FakeNode`] adds what a kernel knows across them:
//! processes hold the volume they stand on, fill the control groups and keep the network namespace in
//! which the link is; what a boot loses and what it keeps. Its [`Script`] says what goes wrong. Never
//! here: the host, what a service decides.

#![warn(missing_docs)]

pub mod ct;
mod hosts;
mod life;
mod processes;
mod script;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use ves_daemon::{App, BuildError, FenceStore, Shell};
pub use ves_init_proto::report::Ended;
pub use ves_lifecycle::plan::End;
use ves_network::fake::FakeHost as Links;
use ves_resources::fake::{FakeHost as Groups, node_v1, nothing};
use ves_resources::host::Host as _;
use ves_storage::fake::FakeHost as Volumes;
pub use ves_storage::fake::HOLDER;
use ves_storage::host::Host as _;
use ves_types::layout::{Daemon, Layout};
use ves_types::{CtId, ExitCause};

use hosts::InHand;
pub use life::Life;
pub use processes::Processes;
pub use script::{Hand, Mishap, Script, Victim};

/// How many changes a service makes at once.
const CHANGES: usize = 16;

/// A node; it outlives the services. Clones are the same node.
#[derive(Debug, Clone)]
pub struct FakeNode {
    /// Storage's part.
    pub volumes: Arc<Volumes>,
    /// Lifecycle's part.
    pub processes: Arc<Processes>,
    /// Network's part.
    pub links: Arc<Links>,
    /// Resources' part.
    pub groups: Arc<Groups>,
    /// What goes wrong.
    pub script: Arc<Script>,
}

impl Default for FakeNode {
    fn default() -> Self {
        let volumes = Volumes::new();
        volumes.add_template(&"trixie".parse().expect("a name"));
        let (volumes, links) = (Arc::new(volumes), Arc::new(Links::default()));
        let groups = Arc::new(Groups::new(node_v1()));
        let processes = Processes::new(volumes.clone(), links.clone(), groups.clone());
        let script = Arc::default();
        Self { volumes, processes: Arc::new(processes), links, groups, script }
    }
}

/// A container's id.
///
/// # Panics
/// Where it is none.
pub fn id(ct: u32) -> CtId {
    CtId::try_from(ct).expect("an id of a container")
}

/// Where a service keeps its fences.
pub fn fences(service: Daemon, layout: &Layout) -> PathBuf {
    match service {
        Daemon::Storage => layout.service_dir(service).join("fence"),
        _ => layout.run_dir().join("fence").join(service.name()),
    }
}

impl FakeNode {
    /// Whether nothing of any container is left.
    pub fn is_clean(&self) -> bool {
        let links = self
            .links
            .state()
            .containers
            .values()
            .all(|c| c.link.is_none() && c.sources.is_empty());
        self.volumes.is_clean() && self.groups.is_clean() && links && self.processes.is_clean()
    }

    /// Names of its templates.
    pub fn templates(&self) -> BTreeSet<String> {
        let all = self.volumes.templates().expect("it never fails");
        all.into_iter().map(|t| t.name.to_string()).collect()
    }

    /// Writes to a volume: a number in place of files.
    pub fn write(&self, ct: u32, contents: u64) {
        self.volumes.write(id(ct), contents);
    }

    /// What was last written to a volume, where there is one.
    pub fn read(&self, ct: u32) -> Option<u64> {
        self.ct(ct).volume.map(|v| v.contents)
    }

    /// A volume is lost.
    pub fn lose_volume(&self, ct: u32) {
        self.volumes.lose(id(ct));
    }

    /// Processes end by themselves, and init with this status.
    pub fn end_inside(&self, ct: u32, cause: ExitCause, status: u32) {
        self.processes.end(id(ct), cause, Ended::Code(status));
    }

    /// A monitor and its init are killed together, and nobody tells of it.
    pub fn vanish(&self, ct: u32) {
        self.processes.change(id(ct), |model| {
            (model.state.monitor, model.state.leftovers) = (None, true);
        });
    }

    /// The machine was switched off and on: images and snapshots are left, and nothing else.
    pub fn reboot(&self) {
        self.processes.reboot();
        self.volumes.reboot();
        for ct in self.groups.containers().expect("it never fails") {
            self.groups.meddle(ct, |group| *group = nothing(&group.node));
        }
        self.groups.number_anew();
        self.groups.release_shared().expect("it never fails");
        let mut links = self.links.state();
        links.containers.clear();
        links.traffic.clear();
        links.made = Default::default();
        links.node = Default::default();
    }

    /// A real service on its part of the node, by the hand of its daemon. Inside a runtime.
    pub fn app(&self, service: Daemon, layout: &Layout, hand: Hand) -> Result<App, BuildError> {
        let shell = Shell::new(service, FenceStore::open(fences(service, layout))?, CHANGES);
        Ok(match service {
            Daemon::Storage | Daemon::Coordinator => {
                self.volumes.sweep();
                let host = Arc::new(InHand { host: Arc::clone(&self.volumes), hand });
                ves_storage::api::app(ves_storage::service::Service::new(host, shell))
            }
            Daemon::Network => {
                let config = ves_network::config::Config::default();
                let host = Arc::new(InHand { host: Arc::clone(&self.links), hand });
                let service = ves_network::service::Service::new(host, shell, &config);
                service.prepare_node()?;
                App {
                    routes: ves_network::api::routes(service),
                    policy: ves_network::api::POLICY,
                    services: ves_network::api::SERVICES,
                    operators: vec![],
                    needs: vec![],
                    network: None,
                }
            }
            Daemon::Resources => {
                let host = Arc::new(InHand { host: Arc::clone(&self.groups), hand });
                ves_resources::app(ves_resources::service::Service::new(host, shell)?)
            }
            Daemon::Lifecycle => {
                let config = ves_lifecycle::config::Config::default();
                let host = Arc::new(InHand { host: Arc::clone(&self.processes), hand });
                let service = ves_lifecycle::service::Service::new(host, shell, config);
                service.resume()?;
                App {
                    routes: ves_lifecycle::api::routes(service),
                    policy: ves_lifecycle::api::POLICY,
                    services: ves_lifecycle::api::SERVICES,
                    operators: vec![],
                    needs: vec![],
                    network: None,
                }
            }
        })
    }
}
