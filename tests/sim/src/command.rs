//! Calls that change containers, as values that can be repeated.

use ves_daemon::client::Traced;
use ves_proto::coordinator as pb;
use ves_proto::coordinator::container_service_client::ContainerServiceClient;
use ves_proto::coordinator::snapshot_service_client::SnapshotServiceClient;

/// What a create asks for, of a template and nothing else.
pub fn spec(template: &str) -> pb::ContainerSpec {
    pb::ContainerSpec { template: template.to_owned(), ..pb::ContainerSpec::default() }
}

/// A call that changes a container.
#[derive(Debug, Clone)]
pub enum Command {
    /// Create.
    Create(Box<pb::CreateContainerRequest>),
    /// Start or mount.
    Start(pb::StartContainerRequest),
    /// Stop or unmount.
    Stop(pb::StopContainerRequest),
    /// Restart.
    Restart(pb::RestartContainerRequest),
    /// Change.
    Update(Box<pb::UpdateContainerRequest>),
    /// Destroy.
    Delete(pb::DeleteContainerRequest),
    /// Check the file system.
    Fsck(pb::CheckVolumeRequest),
    /// Take a snapshot.
    Snapshot(pb::CreateSnapshotRequest),
    /// Go back to one.
    SnapshotSwitch(pb::SwitchSnapshotRequest),
    /// Delete one.
    SnapshotDelete(pb::DeleteSnapshotRequest),
}

impl Command {
    /// Makes the call.
    pub async fn send(
        self,
        channel: Traced,
    ) -> Result<tonic::Response<pb::Operation>, tonic::Status> {
        let mut client = ContainerServiceClient::new(channel.clone());
        let mut snapshots = SnapshotServiceClient::new(channel);
        match self {
            Self::Create(r) => client.create_container(*r).await,
            Self::Start(r) => client.start_container(r).await,
            Self::Stop(r) => client.stop_container(r).await,
            Self::Restart(r) => client.restart_container(r).await,
            Self::Update(r) => client.update_container(*r).await,
            Self::Delete(r) => client.delete_container(r).await,
            Self::Fsck(r) => client.check_volume(r).await,
            Self::Snapshot(r) => snapshots.create_snapshot(r).await,
            Self::SnapshotSwitch(r) => snapshots.switch_snapshot(r).await,
            Self::SnapshotDelete(r) => snapshots.delete_snapshot(r).await,
        }
    }

    /// The same with this id of the request.
    #[must_use]
    pub fn with_request_id(mut self, id: &str) -> Self {
        let place = match &mut self {
            Self::Create(r) => &mut r.request_id,
            Self::Start(r) => &mut r.request_id,
            Self::Stop(r) => &mut r.request_id,
            Self::Restart(r) => &mut r.request_id,
            Self::Update(r) => &mut r.request_id,
            Self::Delete(r) => &mut r.request_id,
            Self::Fsck(r) => &mut r.request_id,
            Self::Snapshot(r) => &mut r.request_id,
            Self::SnapshotSwitch(r) => &mut r.request_id,
            Self::SnapshotDelete(r) => &mut r.request_id,
        };
        id.clone_into(place);
        self
    }

    /// A new id for each request, so that repeating one command is repeating one call.
    fn fresh() -> String {
        use std::sync::atomic::{AtomicU64, Ordering};
        static NEXT: AtomicU64 = AtomicU64::new(0);
        format!("request-{}", NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// Create `id` from trixie, with what `change` sets.
    pub fn create(id: u32, change: impl FnOnce(&mut pb::ContainerSpec)) -> Self {
        let mut spec = spec("trixie");
        change(&mut spec);
        let request_id = Self::fresh();
        let spec = Some(spec);
        let request = pb::CreateContainerRequest { id, spec, request_id, dry_run: false };
        Self::Create(Box::new(request))
    }
    /// Start.
    pub fn start(ct: &str) -> Self {
        let (ct, request_id) = (ct.to_owned(), Self::fresh());
        Self::Start(pb::StartContainerRequest { ct, request_id, ..Default::default() })
    }
    /// Stop.
    pub fn stop(ct: &str) -> Self {
        let (ct, request_id) = (ct.to_owned(), Self::fresh());
        Self::Stop(pb::StopContainerRequest { ct, request_id, fast: true, ..Default::default() })
    }
    /// Restart.
    pub fn restart(ct: &str) -> Self {
        let (ct, request_id) = (ct.to_owned(), Self::fresh());
        Self::Restart(pb::RestartContainerRequest { ct, request_id, ..Default::default() })
    }
    /// Change these fields, saved.
    pub fn set(ct: &str, mask: &[&str], spec: pb::ContainerSpec) -> Self {
        Self::update(ct, |r| {
            r.update_mask = mask.iter().map(|m| (*m).to_owned()).collect();
            r.spec = Some(spec);
            r.save = true;
        })
    }
    /// Change what `change` says.
    pub fn update(ct: &str, change: impl FnOnce(&mut pb::UpdateContainerRequest)) -> Self {
        let (ct, request_id) = (ct.to_owned(), Self::fresh());
        let mut request = pb::UpdateContainerRequest { ct, request_id, ..Default::default() };
        change(&mut request);
        Self::Update(Box::new(request))
    }
    /// Check the file system.
    pub fn fsck(ct: &str) -> Self {
        let (ct, request_id) = (ct.to_owned(), Self::fresh());
        Self::Fsck(pb::CheckVolumeRequest { ct, request_id, dry_run: false })
    }
    /// Take a snapshot.
    pub fn snapshot(ct: &str, name: &str) -> Self {
        let (ct, name, request_id) = (ct.to_owned(), name.to_owned(), Self::fresh());
        Self::Snapshot(pb::CreateSnapshotRequest { ct, name, request_id, dry_run: false })
    }
    /// Go back to a snapshot.
    pub fn snapshot_switch(ct: &str, id: &str) -> Self {
        let (ct, snapshot, request_id) = (ct.to_owned(), id.to_owned(), Self::fresh());
        Self::SnapshotSwitch(pb::SwitchSnapshotRequest { ct, snapshot, request_id, dry_run: false })
    }
    /// Delete a snapshot.
    pub fn snapshot_delete(ct: &str, id: &str) -> Self {
        let (ct, snapshot, request_id) = (ct.to_owned(), id.to_owned(), Self::fresh());
        Self::SnapshotDelete(pb::DeleteSnapshotRequest { ct, snapshot, request_id, dry_run: false })
    }
    /// Destroy.
    pub fn delete(ct: &str) -> Self {
        let (ct, request_id) = (ct.to_owned(), Self::fresh());
        Self::Delete(pb::DeleteContainerRequest { ct, request_id, dry_run: false })
    }
}
