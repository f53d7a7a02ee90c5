//! One node in memory under the four services' fake hosts: what one does, the others meet.
//!
//! Each fake host knows its own part of a kernel. [`FakeNode`] adds what a kernel knows across them:
//! processes hold the volume they stand on, fill the control groups and keep the network namespace in
//! which the link is; what a boot loses and what it keeps. Never here: the host, what a service decides.

#![warn(missing_docs)]

mod processes;

use std::path::Path;
use std::sync::Arc;

use ves_daemon::{App, FenceStore, Shell};
use ves_network::fake::FakeHost as Links;
use ves_resources::fake::{FakeHost as Groups, node_v1, nothing};
use ves_resources::host::Host as _;
use ves_storage::fake::FakeHost as Volumes;
use ves_storage::host::Host as _;
use ves_types::layout::Daemon;

pub use processes::Processes;

/// A node; it outlives the services. Clones are the same node.
#[derive(Debug, Clone)]
pub struct FakeNode {
    /// Storage's part, whose volumes grow only while they are not mounted.
    pub volumes: Arc<Volumes>,
    /// Lifecycle's part.
    pub processes: Arc<Processes>,
    /// Network's part.
    pub links: Arc<Links>,
    /// Resources' part.
    pub groups: Arc<Groups>,
}

impl Default for FakeNode {
    fn default() -> Self {
        let volumes = Volumes::without_online_growth();
        volumes.add_template(&"trixie".parse().expect("a name"));
        let (volumes, links) = (Arc::new(volumes), Arc::new(Links::default()));
        let groups = Arc::new(Groups::new(node_v1()));
        let processes = Processes::new(volumes.clone(), links.clone(), groups.clone());
        Self { volumes, processes: Arc::new(processes), links, groups }
    }
}

impl FakeNode {
    /// Whether nothing of any container is left.
    pub fn is_clean(&self) -> bool {
        let links = self.links.state().containers.values().all(|c| c.link.is_none());
        self.volumes.look_all().is_ok_and(|v| v.is_empty())
            && self.groups.is_clean()
            && links
            && self.processes.is_clean()
    }

    /// The machine was switched off and on: images and snapshots are left, and nothing else.
    pub fn reboot(&self) {
        self.processes.reboot();
        self.volumes.reboot();
        for ct in self.groups.containers().expect("it never fails") {
            self.groups.meddle(ct, |group| *group = nothing(&group.node));
        }
        self.groups.release_shared().expect("it never fails");
        let mut links = self.links.state();
        links.containers.clear();
        links.node = Default::default();
    }

    /// A real service on its fake host, with its fences under `dir`. Inside a runtime.
    pub fn app(&self, service: Daemon, dir: &Path) -> App {
        let fences = FenceStore::open(dir.join("fence").join(service.name())).expect("opened");
        let shell = Shell::new(service, fences, 16);
        match service {
            Daemon::Storage | Daemon::Coordinator => {
                let host = Arc::clone(&self.volumes);
                ves_storage::api::app(ves_storage::service::Service::new(host, shell))
            }
            Daemon::Network => {
                let config = ves_network::config::Config::default();
                let host = Arc::clone(&self.links);
                let service = ves_network::service::Service::new(host, shell, &config);
                service.prepare_node().expect("prepared");
                App {
                    routes: ves_network::api::routes(service),
                    policy: ves_network::api::POLICY,
                    services: ves_network::api::SERVICES,
                    operators: vec![],
                }
            }
            Daemon::Resources => {
                let host = Arc::clone(&self.groups);
                let service = ves_resources::service::Service::new(host, shell);
                ves_resources::app(service.expect("a node with control groups"))
            }
            Daemon::Lifecycle => {
                let config = ves_lifecycle::config::Config::default();
                let host = Arc::clone(&self.processes);
                let service = ves_lifecycle::service::Service::new(host, shell, config);
                service.resume().expect("it tells of changes");
                App {
                    routes: ves_lifecycle::api::routes(service),
                    policy: ves_lifecycle::api::POLICY,
                    services: ves_lifecycle::api::SERVICES,
                    operators: vec![],
                }
            }
        }
    }
}
