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
use ves_proto::common::{Limits, UbcValue};
use ves_proto::coordinator::container_service_client::ContainerServiceClient;
use ves_proto::coordinator::operation_service_client::OperationServiceClient;
use ves_proto::coordinator::snapshot_service_client::SnapshotServiceClient;
use ves_proto::coordinator::template_service_client::TemplateServiceClient;
use ves_proto::coordinator::{
    ContainerSpec, ContainerState, CreateContainerRequest, CreateSnapshotRequest,
    DeleteContainerRequest, DeleteSnapshotRequest, GetContainerRequest, ListContainersRequest,
    Operation, OperationState, StartContainerRequest, StopContainerRequest, UpdateContainerRequest,
    WatchOperationRequest,
};
use ves_proto::storage::ExportTemplateRequest;
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
        let request = ExportTemplateRequest { name: template.to_owned() };
        let mut pieces = client.export_template(request).await?.into_inner();
        let mut file = std::fs::File::create(to)?;
        while let Some(piece) = pieces.message().await? {
            file.write_all(&piece.data)?;
        }
        Ok(())
    }

    fn spec(template: &str, init: &[&str], address: bool) -> ContainerSpec {
        let value = UbcValue { barrier: 100, limit: 100 };
        ContainerSpec {
            template: template.to_owned(),
            disk_bytes: 2 << 30,
            init: init.iter().map(|word| (*word).to_owned()).collect(),
            addresses: if address { vec!["198.51.100.241".to_owned()] } else { Vec::new() },
            limits: Some(Limits {
                ubc: [("numproc".to_owned(), value)].into(),
                cpu_millicpus: Some(1000),
                ..Limits::default()
            }),
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
        let request = CreateContainerRequest { spec: Some(spec), ..Default::default() };
        let operation = self.containers().create_container(request).await?.into_inner();
        let done = self.done(operation).await?;
        succeeded(&done)?;
        self.made().insert(done.ct);
        Ok(done.ct)
    }

    /// The same, and how long it took.
    pub(crate) async fn create_timed(&self, template: &str) -> anyhow::Result<(u32, Duration)> {
        let begun = Instant::now();
        let ct = self.create(template, false).await?;
        Ok((ct, begun.elapsed()))
    }

    pub(crate) async fn mount(&self, ct: u32) -> anyhow::Result<()> {
        let request =
            StartContainerRequest { ct: ct.to_string(), mount_only: true, ..Default::default() };
        let operation = self.containers().start_container(request).await?.into_inner();
        succeeded(&self.done(operation).await?)
    }

    /// How long until init runs, and until its end is known.
    pub(crate) async fn start_to_end(&self, ct: u32) -> anyhow::Result<(Duration, Duration)> {
        let begun = Instant::now();
        let request = StartContainerRequest { ct: ct.to_string(), ..Default::default() };
        let operation = self.containers().start_container(request).await?.into_inner();
        self.done(operation).await?;
        let ran = begun.elapsed();
        loop {
            let request = GetContainerRequest { ct: ct.to_string() };
            let now = self.containers().get_container(request).await?.into_inner();
            let state = now.state();
            if state == ContainerState::Stopped || state == ContainerState::Mounted {
                return Ok((ran, begun.elapsed()));
            }
            ensure!(begun.elapsed() < PATIENCE, "container {ct} is {state:?}: {}", now.problem);
        }
    }

    /// Starts it: init runs when this is done.
    pub(crate) async fn start(&self, ct: u32) -> anyhow::Result<()> {
        let request = StartContainerRequest { ct: ct.to_string(), ..Default::default() };
        let operation = self.containers().start_container(request).await?.into_inner();
        succeeded(&self.done(operation).await?)
    }

    /// Gives it another limit while it runs, for good.
    pub(crate) async fn set_numproc(&self, ct: u32, most: u64) -> anyhow::Result<()> {
        let value = UbcValue { barrier: most, limit: most };
        let limits = Limits { ubc: [("numproc".to_owned(), value)].into(), ..Limits::default() };
        let request = UpdateContainerRequest {
            ct: ct.to_string(),
            spec: Some(ContainerSpec { limits: Some(limits), ..ContainerSpec::default() }),
            update_mask: vec!["limits.ubc.numproc".to_owned()],
            save: true,
            ..Default::default()
        };
        let operation = self.containers().update_container(request).await?.into_inner();
        succeeded(&self.done(operation).await?)
    }

    /// Takes a snapshot and hands back its id.
    pub(crate) async fn snapshot(&self, ct: u32) -> anyhow::Result<String> {
        let mut client = SnapshotServiceClient::new(self.coordinator.clone());
        let request = CreateSnapshotRequest { ct: ct.to_string(), ..Default::default() };
        let operation = client.create_snapshot(request).await?.into_inner();
        let done = self.done(operation).await?;
        succeeded(&done)?;
        Ok(done.snapshot)
    }

    /// Deletes a snapshot.
    pub(crate) async fn delete_snapshot(&self, ct: u32, snapshot: &str) -> anyhow::Result<()> {
        let mut client = SnapshotServiceClient::new(self.coordinator.clone());
        let (ct, snapshot) = (ct.to_string(), snapshot.to_owned());
        let request = DeleteSnapshotRequest { ct, snapshot, ..Default::default() };
        let operation = client.delete_snapshot(request).await?.into_inner();
        succeeded(&self.done(operation).await?)
    }

    /// Lists all containers, on one page; hands back how many of them run.
    pub(crate) async fn list(&self) -> anyhow::Result<usize> {
        let page = self.containers().list_containers(ListContainersRequest::default()).await?;
        let all = page.into_inner().containers;
        Ok(all.iter().filter(|one| one.state() == ContainerState::Running).count())
    }

    /// Stops it at once: its init is killed.
    pub(crate) async fn stop(&self, ct: u32) -> anyhow::Result<()> {
        let request = StopContainerRequest { ct: ct.to_string(), fast: true, ..Default::default() };
        let operation = self.containers().stop_container(request).await?.into_inner();
        succeeded(&self.done(operation).await?)
    }

    /// Stops it if it runs, and destroys it.
    pub(crate) async fn destroy(&self, ct: u32) -> anyhow::Result<()> {
        let request = StopContainerRequest { ct: ct.to_string(), fast: true, ..Default::default() };
        let operation = self.containers().stop_container(request).await;
        if let Ok(operation) = operation {
            self.done(operation.into_inner()).await?;
        }
        self.delete(ct).await
    }

    /// Destroys one that is stopped.
    pub(crate) async fn delete(&self, ct: u32) -> anyhow::Result<()> {
        let request = DeleteContainerRequest { ct: ct.to_string(), ..Default::default() };
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
        client.get_container(GetContainerRequest { ct: ct.to_string() }).await?;
        Ok(begun.elapsed())
    }

    pub(crate) async fn health_of_service(&self) -> anyhow::Result<Duration> {
        health(&self.service, "ves.network.v1.NetworkService").await
    }

    pub(crate) async fn health_of_coordinator(&self) -> anyhow::Result<Duration> {
        health(&self.coordinator, "ves.coordinator.v1.ContainerService").await
    }

    async fn done(&self, operation: Operation) -> anyhow::Result<Operation> {
        if operation.state() != OperationState::Running {
            return Ok(operation);
        }
        let mut client = OperationServiceClient::new(self.coordinator.clone());
        let mut request = Request::new(WatchOperationRequest { id: operation.id.clone() });
        request.set_timeout(PATIENCE);
        let mut states = client.watch_operation(request).await?.into_inner();
        while let Some(state) = states.message().await? {
            if state.state() != OperationState::Running {
                return Ok(state);
            }
        }
        bail!("operation {} ({}) is watched no longer", operation.id, operation.kind)
    }
}

fn succeeded(operation: &Operation) -> anyhow::Result<()> {
    let why = operation.fault.as_ref().map_or("", |fault| &fault.message);
    let (kind, ct, state) = (&operation.kind, operation.ct, operation.state());
    ensure!(state == OperationState::Succeeded, "{kind} of {ct}: {state:?}: {why}");
    Ok(())
}

async fn health(channel: &Traced, service: &str) -> anyhow::Result<Duration> {
    let mut client = HealthClient::new(channel.clone());
    let request = HealthCheckRequest { service: service.to_owned() };
    let begun = Instant::now();
    client.check(request).await.with_context(|| format!("health of {service}"))?;
    Ok(begun.elapsed())
}
