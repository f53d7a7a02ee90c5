//! The real services on their own fake hosts, where the models would show only what we believe.
//!
//! Each host is a kernel of its own: that one's processes hold another's volume is what the models
//! of [`crate::kernel`] know.

use std::path::Path;
use std::sync::Arc;

use ves_daemon::{App, FenceStore, Shell};
use ves_lifecycle::fake::FakeHost as Processes;
use ves_network::fake::FakeHost as Links;
use ves_resources::fake::FakeHost as Groups;
use ves_storage::fake::FakeHost as Volumes;
use ves_storage::host::Host as _;
use ves_types::layout::Daemon;

/// The fake hosts; they outlive the services.
#[derive(Debug, Clone)]
pub struct Hosts {
    /// Storage's, whose volumes grow only while they are not mounted.
    pub volumes: Arc<Volumes>,
    /// Lifecycle's.
    pub processes: Arc<Processes>,
    /// Network's.
    pub links: Arc<Links>,
    /// Resources'.
    pub groups: Arc<Groups>,
}

impl Default for Hosts {
    fn default() -> Self {
        let volumes = Volumes::without_online_growth();
        volumes.add_template(&"trixie".parse().expect("a name"));
        Self {
            volumes: Arc::new(volumes),
            processes: Arc::new(Processes::new()),
            links: Arc::new(Links::with_every_netns()),
            groups: Arc::new(Groups::new(ves_resources::fake::node_v1())),
        }
    }
}

impl Hosts {
    /// Whether nothing of any container is left.
    pub fn is_clean(&self) -> bool {
        let links = self.links.state().containers.values().all(|c| c.link.is_none());
        self.volumes.look_all().is_ok_and(|v| v.is_empty()) && self.groups.is_clean() && links
    }

    /// A real service on its fake host, with its fences under `dir`. Inside a runtime.
    pub fn app(&self, service: Daemon, dir: &Path) -> App {
        let fences = FenceStore::open(dir.join("fence").join(service.name())).expect("opened");
        let shell = Shell::new(service, fences, 16);
        match service {
            Daemon::Storage | Daemon::Coordinator => {
                let host = Arc::<Volumes>::clone(&self.volumes);
                ves_storage::api::app(ves_storage::service::Service::new(host, shell))
            }
            Daemon::Network => {
                let config = ves_network::config::Config::default();
                let host = Arc::<Links>::clone(&self.links);
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
                let host = Arc::<Groups>::clone(&self.groups);
                let service = ves_resources::service::Service::new(host, shell);
                ves_resources::app(service.expect("a node with control groups"))
            }
            Daemon::Lifecycle => {
                let config = ves_lifecycle::config::Config::default();
                let host = Arc::<Processes>::clone(&self.processes);
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
