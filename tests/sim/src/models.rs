//! The four services as models on one [`Kernel`]: their whole protocol, none of their mechanisms.

/// Answers a dry run: a model has no steps to tell of.
macro_rules! answer_dry_run {
    ($request:ident) => {
        if $request.get_ref().dry_run {
            return Ok(Response::new(Default::default()));
        }
    };
}

mod volumes;

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};
use ves_daemon::{App, Policy, Role};
use ves_proto::convert::{parse_fence, parse_limits};
use ves_proto::{Fault, Reason, common, lifecycle, network, resources, storage};
use ves_types::layout::Daemon;
use ves_types::{Fence, UbcResource};

use crate::kernel::{Kernel, end_processes, ensure_process};

const ROOT: &[Role] = &[Role::Root, Role::Coordinator];

macro_rules! policy {
    ($service:literal: $($rpc:literal)*) => {
        &[$((concat!("/", $service, "/", $rpc), ROOT),)*]
    };
}

const STORAGE: Policy = policy!("ves.storage.v1.StorageService": "EnsureVolume" "RemoveVolume"
    "GetVolume" "ListVolumes" "EnsureSnapshot" "RemoveSnapshot" "ListSnapshots" "RevertVolume" "BuildTemplate" "ImportTemplate" "ExportTemplate" "RemoveTemplate"
    "ListTemplates" "GetPool");
const NETWORK: Policy = policy!("ves.network.v1.NetworkService": "EnsureInterface"
    "RemoveInterface" "GetInterface" "ListInterfaces" "GetNode");
const RESOURCES: Policy = policy!("ves.resources.v1.ResourcesService": "EnsureLimits"
    "RemoveLimits" "GetGroup" "ListGroups" "GetCapabilities");
const LIFECYCLE: Policy = policy!("ves.lifecycle.v1.LifecycleService": "EnsureContainer"
    "GetContainer" "ListContainers" "WatchContainers" "Exec" "Console");

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// A model of one service.
#[derive(Debug, Clone)]
pub struct Model(Arc<Kernel>);

/// The model of a service, ready to be served.
pub fn app(service: Daemon, kernel: &Arc<Kernel>) -> App {
    let model = Model(Arc::clone(kernel));
    let (routes, policy) = match service {
        Daemon::Storage => (
            Routes::new(storage::storage_service_server::StorageServiceServer::new(model)),
            STORAGE,
        ),
        Daemon::Network => (
            Routes::new(network::network_service_server::NetworkServiceServer::new(model)),
            NETWORK,
        ),
        Daemon::Resources => (
            Routes::new(resources::resources_service_server::ResourcesServiceServer::new(model)),
            RESOURCES,
        ),
        Daemon::Lifecycle | Daemon::Coordinator => (
            Routes::new(lifecycle::lifecycle_service_server::LifecycleServiceServer::new(model)),
            LIFECYCLE,
        ),
    };
    App { routes, policy, services: &[], operators: vec![] }
}

fn fence(fence: Option<common::Fence>) -> Result<Fence, Fault> {
    parse_fence(fence)
}

fn unknown(reason: Reason, ct: u32) -> Status {
    Fault::new(reason, format!("container {ct} has none")).fact("ct", ct).into()
}

fn answers<T: Send + 'static>(items: Vec<T>) -> Answers<T> {
    Box::pin(futures::stream::iter(items.into_iter().map(Ok)))
}

fn template(name: &str) -> storage::Template {
    storage::Template { name: name.to_owned(), ..storage::Template::default() }
}

impl Model {
    fn volume(&self, ct: u32) -> Option<storage::Volume> {
        let volume = self.0.ct(ct).volume?;
        Some(storage::Volume {
            ct,
            generation: self.0.accepted(Daemon::Storage, ct),
            template: volume.template,
            size_bytes: volume.size,
            used_bytes: volume.mounted.then_some(4096),
            mounted: volume.mounted,
            reverted: volume.reverted,
            ..storage::Volume::default()
        })
    }

    fn group(&self, ct: u32) -> Option<resources::Group> {
        let container = self.0.ct(ct);
        let limits = container.group.clone()?;
        let held = u64::from(container.alive());
        let row = |r: UbcResource| common::UbcRow {
            resource: r.name().to_owned(),
            held: if r == UbcResource::Numproc { held } else { 0 },
            value: limits.ubc.get(r.name()).copied(),
            enforcement: common::Enforcement::Hard.into(),
            ..common::UbcRow::default()
        };
        Some(resources::Group {
            ct,
            generation: self.0.accepted(Daemon::Resources, ct),
            rows: UbcResource::ALL.into_iter().map(row).collect(),
            cpu_usec: 7,
            limits: Some(limits.clone()),
            ..resources::Group::default()
        })
    }

    fn link(&self, ct: u32) -> Option<network::Interface> {
        let addresses = self.0.ct(ct).link?;
        Some(network::Interface {
            ct,
            generation: self.0.accepted(Daemon::Network, ct),
            addresses: addresses.into_iter().collect(),
            ..network::Interface::default()
        })
    }

    fn all<T>(&self, each: impl Fn(&Self, u32) -> Option<T>) -> Vec<T> {
        let cts: Vec<u32> = self.0.state().cts.keys().copied().collect();
        cts.into_iter().filter_map(|ct| each(self, ct)).collect()
    }
}

#[tonic::async_trait]
impl resources::resources_service_server::ResourcesService for Model {
    async fn ensure_limits(
        &self,
        request: Request<resources::EnsureLimitsRequest>,
    ) -> Result<Response<resources::Group>, Status> {
        answer_dry_run!(request);
        let request = request.into_inner();
        let fence = fence(request.fence)?;
        parse_limits(request.limits.clone())?;
        let limits = request.limits.unwrap_or_default();
        let effect = |container: &mut crate::kernel::Ct, _: &mut _| {
            container.group = Some(limits);
            Ok(())
        };
        self.0.change(Daemon::Resources, "EnsureLimits", &fence, effect).await?;
        Ok(Response::new(self.group(fence.ct.get()).unwrap_or_default()))
    }

    async fn remove_limits(
        &self,
        request: Request<resources::RemoveLimitsRequest>,
    ) -> Result<Response<resources::RemoveLimitsResponse>, Status> {
        answer_dry_run!(request);
        let fence = fence(request.into_inner().fence)?;
        let effect = |container: &mut crate::kernel::Ct, _: &mut _| {
            if container.alive() {
                return Err(Fault::new(Reason::Running, "the groups hold processes"));
            }
            container.group = None;
            Ok(())
        };
        self.0.change(Daemon::Resources, "RemoveLimits", &fence, effect).await?;
        Ok(Response::new(resources::RemoveLimitsResponse::default()))
    }

    async fn get_group(
        &self,
        request: Request<resources::GetGroupRequest>,
    ) -> Result<Response<resources::Group>, Status> {
        let ct = request.into_inner().ct;
        Ok(Response::new(self.group(ct).ok_or_else(|| unknown(Reason::ContainerUnknown, ct))?))
    }

    async fn list_groups(
        &self,
        _request: Request<resources::ListGroupsRequest>,
    ) -> Result<Response<resources::ListGroupsResponse>, Status> {
        Ok(Response::new(resources::ListGroupsResponse { groups: self.all(Self::group) }))
    }

    async fn get_capabilities(
        &self,
        _request: Request<resources::GetCapabilitiesRequest>,
    ) -> Result<Response<resources::GetCapabilitiesResponse>, Status> {
        let row = |r: UbcResource| common::UbcRow {
            resource: r.name().to_owned(),
            enforcement: common::Enforcement::Accounted.into(),
            ..common::UbcRow::default()
        };
        let rows = UbcResource::ALL.into_iter().map(row).collect();
        let cgroup = "v1".to_owned();
        Ok(Response::new(resources::GetCapabilitiesResponse { cgroup, rows, ..Default::default() }))
    }
}

#[tonic::async_trait]
impl network::network_service_server::NetworkService for Model {
    async fn ensure_interface(
        &self,
        request: Request<network::EnsureInterfaceRequest>,
    ) -> Result<Response<network::Interface>, Status> {
        answer_dry_run!(request);
        let request = request.into_inner();
        let fence = fence(request.fence)?;
        let addresses: Vec<String> = request.spec.unwrap_or_default().addresses;
        let effect = |container: &mut crate::kernel::Ct, _: &mut _| {
            if !container.alive() {
                return Err(Fault::new(Reason::NotRunning, "there is no network namespace"));
            }
            if let Some(own) = addresses.iter().find(|a| *a == "192.0.2.254") {
                return Err(Fault::new(Reason::AddressTaken, format!("{own} is the node's"))
                    .fact("address", own)
                    .fact("holder", "node"));
            }
            container.link = Some(addresses.into_iter().collect());
            container.guard = true;
            Ok(())
        };
        self.0.change(Daemon::Network, "EnsureInterface", &fence, effect).await?;
        Ok(Response::new(self.link(fence.ct.get()).unwrap_or_default()))
    }

    async fn remove_interface(
        &self,
        request: Request<network::RemoveInterfaceRequest>,
    ) -> Result<Response<network::RemoveInterfaceResponse>, Status> {
        answer_dry_run!(request);
        let fence = fence(request.into_inner().fence)?;
        let effect = |container: &mut crate::kernel::Ct, _: &mut _| {
            container.link = None;
            container.guard = false;
            Ok(())
        };
        self.0.change(Daemon::Network, "RemoveInterface", &fence, effect).await?;
        Ok(Response::new(network::RemoveInterfaceResponse::default()))
    }

    async fn get_interface(
        &self,
        request: Request<network::GetInterfaceRequest>,
    ) -> Result<Response<network::Interface>, Status> {
        let ct = request.into_inner().ct;
        Ok(Response::new(self.link(ct).ok_or_else(|| unknown(Reason::ContainerUnknown, ct))?))
    }

    async fn list_interfaces(
        &self,
        _request: Request<network::ListInterfacesRequest>,
    ) -> Result<Response<network::ListInterfacesResponse>, Status> {
        Ok(Response::new(network::ListInterfacesResponse { interfaces: self.all(Self::link) }))
    }

    async fn get_node(
        &self,
        _request: Request<network::GetNodeRequest>,
    ) -> Result<Response<network::GetNodeResponse>, Status> {
        let guard = network::Guard::Owned.into();
        Ok(Response::new(network::GetNodeResponse { rooms: Vec::new(), guard }))
    }
}

#[tonic::async_trait]
impl lifecycle::lifecycle_service_server::LifecycleService for Model {
    async fn ensure_container(
        &self,
        request: Request<lifecycle::EnsureContainerRequest>,
    ) -> Result<Response<lifecycle::Container>, Status> {
        answer_dry_run!(request);
        let request = request.into_inner();
        let fence = fence(request.fence)?;
        let ct = fence.ct.get();
        let rpc = match request.phase() {
            lifecycle::Phase::Running if request.only_if_running => "KeepProcess",
            lifecycle::Phase::Absent => "StopContainer",
            lifecycle::Phase::Created => "CreateProcess",
            _ => "RunProcess",
        };
        let effect = |container: &mut _, _: &mut _| ensure_process(ct, container, &request);
        self.0.change(Daemon::Lifecycle, rpc, &fence, effect).await?;
        self.0.tell(ct);
        let init = request.spec.as_ref().and_then(|s| s.init.first()).map(String::as_str);
        let answer = self.0.shown(ct);
        if request.phase() == lifecycle::Phase::Running {
            match init {
                Some("/bin/false") => {
                    self.0.end_inside(ct, lifecycle::EndReason::Exited, 1);
                }
                // The same, a moment after lifecycle has answered.
                Some("/bin/late") => {
                    let kernel = Arc::clone(&self.0);
                    tokio::spawn(async move {
                        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                        kernel.end_inside(ct, lifecycle::EndReason::Exited, 3);
                    });
                }
                _ => {}
            }
        }
        Ok(Response::new(answer))
    }

    async fn get_container(
        &self,
        request: Request<lifecycle::GetContainerRequest>,
    ) -> Result<Response<lifecycle::Container>, Status> {
        let ct = request.into_inner().ct;
        let container = self.0.ct(ct);
        if !container.alive() && container.process.incarnation == 0 {
            return Err(unknown(Reason::ContainerUnknown, ct));
        }
        Ok(Response::new(self.0.shown(ct)))
    }

    async fn list_containers(
        &self,
        _request: Request<lifecycle::ListContainersRequest>,
    ) -> Result<Response<lifecycle::ListContainersResponse>, Status> {
        let containers = self.all(|model, ct| {
            let process = model.0.ct(ct).process;
            (process.phase > 1 || process.incarnation > 0).then(|| model.0.shown(ct))
        });
        Ok(Response::new(lifecycle::ListContainersResponse { containers }))
    }

    type WatchContainersStream = Answers<lifecycle::Container>;

    async fn watch_containers(
        &self,
        _request: Request<lifecycle::WatchContainersRequest>,
    ) -> Result<Response<Self::WatchContainersStream>, Status> {
        let events = tokio_stream::wrappers::BroadcastStream::new(self.0.events.subscribe());
        let now = futures::stream::iter(self.all(|model, ct| Some(Ok(model.0.shown(ct)))));
        let later = events.filter_map(|e| std::future::ready(e.ok().map(Ok)));
        Ok(Response::new(Box::pin(now.chain(later))))
    }

    type ExecStream = Answers<lifecycle::ExecResponse>;

    async fn exec(
        &self,
        request: Request<Streaming<lifecycle::ExecRequest>>,
    ) -> Result<Response<Self::ExecStream>, Status> {
        use lifecycle::{exec_request as ask, exec_response as tell};
        let mut stream = request.into_inner();
        let first = stream.message().await?.and_then(|m| m.part);
        let Some(ask::Part::Start(start)) = first else {
            return Err(Fault::missing("start").into());
        };
        if !self.0.ct(start.ct).alive() {
            return Err(unknown(Reason::NotRunning, start.ct));
        }
        if start.argv.first().is_some_and(|a| a == "/no/such") {
            let message = "there is no such command";
            return Err(Fault::new(Reason::CommandUnknown, message)
                .fact("command", "/no/such")
                .into());
        }
        let part = |part| Ok(lifecycle::ExecResponse { part: Some(part) });
        let started = futures::stream::iter([part(tell::Part::Started(true))]);
        let said = format!("{} {:?}", start.ct, start.argv).into_bytes().into();
        let said = futures::stream::iter([part(tell::Part::Stderr(said))]);
        // Echoes its input, and exits with 7 when that ends.
        let echo = stream.map(move |message| match message?.part {
            Some(ask::Part::Stdin(data)) => part(tell::Part::Stdout(data)),
            Some(ask::Part::StdinClosed(_)) => part(tell::Part::Exit(common::ExitStatus {
                how: Some(common::exit_status::How::Code(7)),
            })),
            Some(ask::Part::Signal(signal)) => part(tell::Part::Exit(common::ExitStatus {
                how: Some(common::exit_status::How::Signal(signal)),
            })),
            _ => part(tell::Part::Started(true)),
        });
        Ok(Response::new(Box::pin(started.chain(said).chain(echo))))
    }

    type ConsoleStream = Answers<lifecycle::ConsoleResponse>;

    async fn console(
        &self,
        request: Request<Streaming<lifecycle::ConsoleRequest>>,
    ) -> Result<Response<Self::ConsoleStream>, Status> {
        use lifecycle::console_request::Part;
        let mut stream = request.into_inner();
        let first = stream.message().await?.and_then(|m| m.part);
        let Some(Part::Start(start)) = first else {
            return Err(Fault::missing("start").into());
        };
        let output = format!("console of {}\n", start.ct).into_bytes().into();
        let back = futures::stream::iter([Ok(lifecycle::ConsoleResponse { output })]);
        if start.scrollback_only {
            return Ok(Response::new(Box::pin(back)));
        }
        let echo = stream.filter_map(|message| {
            std::future::ready(match message.map(|m| m.part) {
                Ok(Some(Part::Stdin(output))) => Some(Ok(lifecycle::ConsoleResponse { output })),
                Ok(_) => None,
                Err(status) => Some(Err(status)),
            })
        });
        Ok(Response::new(Box::pin(back.chain(echo))))
    }
}

/// Ends a container's processes as a machine does that loses its monitor: without a trace.
pub fn vanish(kernel: &Kernel, ct: u32) {
    let mut state = kernel.state();
    let container = state.cts.entry(ct).or_default();
    end_processes(container, lifecycle::EndReason::Unspecified, None);
    container.process = crate::kernel::Process::default();
}

/// How often each change was asked for.
pub fn counts(kernel: &Kernel) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for line in &kernel.state().log {
        *counts.entry(line.clone()).or_default() += 1;
    }
    counts
}
