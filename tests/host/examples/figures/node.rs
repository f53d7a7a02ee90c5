//! The node that is measured, through its public API only.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use tonic::Request;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use ves_daemon::client::{Traced, channel};
use ves_proto::Fault;
use ves_proto::api::container_service_client::ContainerServiceClient;
use ves_proto::api::container_status::State;
use ves_proto::api::operation_service_client::OperationServiceClient;
use ves_proto::api::snapshot_service_client::SnapshotServiceClient;
use ves_proto::api::stop_container_request::Mode;
use ves_proto::api::template_service_client::TemplateServiceClient;
use ves_proto::api::{
    Bounds, Container, ContainerSpec, CreateContainerRequest, CreateSnapshotRequest,
    DeleteContainerRequest, DeleteSnapshotRequest, ExportTemplateRequest, GetContainerRequest,
    Interface, Limits, ListContainersRequest, MountContainerRequest, Operation,
    StartContainerRequest, StopContainerRequest, UbcLimits, UpdateContainerRequest, Volume,
    WatchOperationsRequest, watch_operations_response::Event,
};
use ves_types::layout::{Daemon, Layout};

use crate::PATIENCE;

/// Connections to the daemons.
#[derive(Debug)]
pub(crate) struct Node {
    coordinator: Traced,
    service: Traced,
    /// Containers that were made and not yet destroyed.
    made: Mutex<BTreeSet<u32>>,
}

impl Node {
    pub(crate) fn connect() -> Self {
        let layout = Layout::default();
        Self {
            coordinator: channel(&layout.socket(Daemon::Coordinator)),
            service: channel(&layout.socket(Daemon::Network)),
            made: Mutex::default(),
        }
    }

    fn containers(&self) -> ContainerServiceClient<Traced> {
        ContainerServiceClient::new(self.coordinator.clone())
    }

    /// Writes the template's archive to a file.
    pub(crate) async fn export(&self, template: &str, to: &Path) -> anyhow::Result<()> {
        let mut client = TemplateServiceClient::new(self.coordinator.clone());
        let request = ExportTemplateRequest { name: format!("templates/{template}") };
        let mut pieces = client.export_template(request).await?.into_inner();
        let mut file = std::fs::File::create(to)?;
        while let Some(piece) = pieces.message().await? {
            file.write_all(&piece.data)?;
        }
        Ok(())
    }

    fn spec(template: &str, init: &[&str], address: bool) -> ContainerSpec {
        let addresses = if address { vec!["198.51.100.241".to_owned()] } else { Vec::new() };
        ContainerSpec {
            template: format!("templates/{template}"),
            volumes: vec![Volume { size_bytes: 2 << 30, ..Volume::default() }],
            init: init.iter().map(|word| (*word).to_owned()).collect(),
            interfaces: vec![Interface { addresses, ..Interface::default() }],
            limits: Some(Limits { cpu_millicpus: Some(1000), ..numproc(100) }),
            ..ContainerSpec::default()
        }
    }

    /// A container whose init is `/bin/true`, with a link, an address and limits.
    pub(crate) async fn create(&self, template: &str, address: bool) -> anyhow::Result<u32> {
        self.create_with(template, &["/bin/true"], address).await
    }

    /// The same with another init.
    pub(crate) async fn create_with(
        &self,
        template: &str,
        init: &[&str],
        address: bool,
    ) -> anyhow::Result<u32> {
        let spec = Self::spec(template, init, address);
        let container = Some(Container { spec: Some(spec), ..Container::default() });
        let request = CreateContainerRequest { container, request_id: id(), ..Default::default() };
        let operation = self.containers().create_container(request).await?.into_inner();
        let done = self.done(operation).await?;
        succeeded(&done)?;
        let target = done.targets.first().and_then(|name| name.strip_prefix("containers/"));
        let ct = target.context("the operation names no container")?.parse()?;
        self.made().insert(ct);
        Ok(ct)
    }

    /// The same, and how long it took.
    pub(crate) async fn create_timed(&self, template: &str) -> anyhow::Result<(u32, Duration)> {
        let begun = Instant::now();
        let ct = self.create(template, false).await?;
        Ok((ct, begun.elapsed()))
    }

    pub(crate) async fn mount(&self, ct: u32) -> anyhow::Result<()> {
        let request =
            MountContainerRequest { name: name(ct), request_id: id(), ..Default::default() };
        let operation = self.containers().mount_container(request).await?.into_inner();
        succeeded(&self.done(operation).await?)
    }

    /// How long until init runs, and until its end is known.
    pub(crate) async fn start_to_end(&self, ct: u32) -> anyhow::Result<(Duration, Duration)> {
        let begun = Instant::now();
        let request =
            StartContainerRequest { name: name(ct), request_id: id(), ..Default::default() };
        let operation = self.containers().start_container(request).await?.into_inner();
        self.done(operation).await?;
        let ran = begun.elapsed();
        loop {
            let request = GetContainerRequest { name: name(ct) };
            let now = self.containers().get_container(request).await?.into_inner();
            let status = now.status.unwrap_or_default();
            let state = status.state();
            if state == State::Stopped || state == State::Mounted {
                return Ok((ran, begun.elapsed()));
            }
            let problem = status.problem.map(|problem| problem.message).unwrap_or_default();
            ensure!(begun.elapsed() < PATIENCE, "container {ct} is {state:?}: {problem}");
        }
    }

    /// Starts it: init runs when this is done.
    pub(crate) async fn start(&self, ct: u32) -> anyhow::Result<()> {
        let request =
            StartContainerRequest { name: name(ct), request_id: id(), ..Default::default() };
        let operation = self.containers().start_container(request).await?.into_inner();
        succeeded(&self.done(operation).await?)
    }

    /// Gives it another limit while it runs, for good.
    pub(crate) async fn set_numproc(&self, ct: u32, most: u64) -> anyhow::Result<()> {
        let spec = ContainerSpec { limits: Some(numproc(most)), ..ContainerSpec::default() };
        let container = Container { name: name(ct), spec: Some(spec), ..Container::default() };
        let paths = vec!["spec.limits.ubc.numproc".to_owned()];
        let request = UpdateContainerRequest {
            container: Some(container),
            update_mask: Some(prost_types::FieldMask { paths }),
            request_id: id(),
            ..Default::default()
        };
        let operation = self.containers().update_container(request).await?.into_inner();
        succeeded(&self.done(operation).await?)
    }

    /// Takes a snapshot and hands back its name.
    pub(crate) async fn snapshot(&self, ct: u32) -> anyhow::Result<String> {
        let mut client = SnapshotServiceClient::new(self.coordinator.clone());
        let request =
            CreateSnapshotRequest { parent: name(ct), request_id: id(), ..Default::default() };
        let operation = client.create_snapshot(request).await?.into_inner();
        let done = self.done(operation).await?;
        succeeded(&done)?;
        Ok(done.result)
    }

    /// Deletes a snapshot.
    pub(crate) async fn delete_snapshot(&self, snapshot: &str) -> anyhow::Result<()> {
        let mut client = SnapshotServiceClient::new(self.coordinator.clone());
        let (name, request_id) = (snapshot.to_owned(), id());
        let request = DeleteSnapshotRequest { name, request_id, ..Default::default() };
        let operation = client.delete_snapshot(request).await?.into_inner();
        succeeded(&self.done(operation).await?)
    }

    /// Lists all containers, on one page; hands back how many of them run.
    pub(crate) async fn list(&self) -> anyhow::Result<usize> {
        let page = self.containers().list_containers(ListContainersRequest::default()).await?;
        let all = page.into_inner().containers;
        let runs = |one: &&Container| {
            one.status.as_ref().is_some_and(|status| status.state() == State::Running)
        };
        Ok(all.iter().filter(runs).count())
    }

    /// Stops it at once: its init is killed.
    pub(crate) async fn stop(&self, ct: u32) -> anyhow::Result<()> {
        let request = StopContainerRequest {
            name: name(ct),
            request_id: id(),
            mode: Mode::Kill.into(),
            ..Default::default()
        };
        let operation = self.containers().stop_container(request).await?.into_inner();
        succeeded(&self.done(operation).await?)
    }

    /// Stops it if it runs, and destroys it.
    pub(crate) async fn destroy(&self, ct: u32) -> anyhow::Result<()> {
        let request = StopContainerRequest {
            name: name(ct),
            request_id: id(),
            mode: Mode::Kill.into(),
            ..Default::default()
        };
        let operation = self.containers().stop_container(request).await;
        if let Ok(operation) = operation {
            self.done(operation.into_inner()).await?;
        }
        self.delete(ct).await
    }

    /// Destroys one that is stopped.
    pub(crate) async fn delete(&self, ct: u32) -> anyhow::Result<()> {
        let request =
            DeleteContainerRequest { name: name(ct), request_id: id(), ..Default::default() };
        let operation = self.containers().delete_container(request).await?.into_inner();
        succeeded(&self.done(operation).await?)?;
        self.made().remove(&ct);
        Ok(())
    }

    fn made(&self) -> MutexGuard<'_, BTreeSet<u32>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Destroys what a measurement that failed has left.
    pub(crate) async fn clean(&self) -> anyhow::Result<()> {
        let left: Vec<u32> = self.made().iter().copied().collect();
        for ct in left {
            self.destroy(ct).await?;
        }
        Ok(())
    }

    pub(crate) async fn get(&self, ct: u32) -> anyhow::Result<Duration> {
        let mut client = self.containers();
        let begun = Instant::now();
        client.get_container(GetContainerRequest { name: name(ct) }).await?;
        Ok(begun.elapsed())
    }

    pub(crate) async fn health_of_service(&self) -> anyhow::Result<Duration> {
        health(&self.service, "ves.network.v1.NetworkService").await
    }

    pub(crate) async fn health_of_coordinator(&self) -> anyhow::Result<Duration> {
        health(&self.coordinator, "ves.api.v1.ContainerService").await
    }

    async fn done(&self, operation: Operation) -> anyhow::Result<Operation> {
        if operation.end_time.is_some() {
            return Ok(operation);
        }
        let mut client = OperationServiceClient::new(self.coordinator.clone());
        let name = operation.name.clone();
        let mut request = Request::new(WatchOperationsRequest { name, ..Default::default() });
        request.set_timeout(PATIENCE);
        let mut states = client.watch_operations(request).await?.into_inner();
        while let Some(told) = states.message().await? {
            match told.event {
                Some(Event::Changed(state)) if state.end_time.is_some() => return Ok(state),
                _ => {}
            }
        }
        bail!("{} ({:?}) is watched no longer", operation.name, operation.kind())
    }
}

/// `containers/CT`.
fn name(ct: u32) -> String {
    format!("containers/{ct}")
}

/// An id of a request that nobody has.
fn id() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("figures-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

fn numproc(most: u64) -> Limits {
    let numproc = Some(Bounds { barrier: Some(most), limit: Some(most) });
    Limits { ubc: Some(UbcLimits { numproc, ..UbcLimits::default() }), ..Limits::default() }
}

fn succeeded(operation: &Operation) -> anyhow::Result<()> {
    if let Some(error) = &operation.error {
        let (kind, why) = (operation.kind(), Fault::from_message(error));
        bail!("{kind:?} of {:?}: {:?}: {why}", operation.targets, operation.state());
    }
    Ok(())
}

async fn health(channel: &Traced, service: &str) -> anyhow::Result<Duration> {
    let mut client = HealthClient::new(channel.clone());
    let request = HealthCheckRequest { service: service.to_owned() };
    let begun = Instant::now();
    client.check(request).await.with_context(|| format!("health of {service}"))?;
    Ok(begun.elapsed())
}
