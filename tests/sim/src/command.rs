//! Calls that change containers, as values that can be repeated.

use tonic::{Response, Status};
use ves_daemon::client::Traced;
use ves_proto::api;
use ves_proto::api::container_service_client::ContainerServiceClient;
use ves_proto::api::snapshot_service_client::SnapshotServiceClient;

use crate::words::{self as pb, container_name};

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

fn snapshot_name(ct: &str, snapshot: &str) -> String {
    if snapshot.is_empty() {
        return String::new();
    }
    format!("containers/{ct}/snapshots/{snapshot}")
}

impl Command {
    /// Makes the call; one without an id of its request as a new one.
    pub async fn send(mut self, channel: Traced) -> Result<Response<api::Operation>, Status> {
        use api::start_container_request::Until;
        use api::stop_container_request::Mode;
        let mut client = ContainerServiceClient::new(channel.clone());
        let mut snapshots = SnapshotServiceClient::new(channel);
        let id = self.request_id_mut();
        if id.is_empty() {
            *id = Self::fresh();
        }
        let until = |wait| if wait { Until::Booted } else { Until::Unspecified }.into();
        let mode = |fast| if fast { Mode::Kill } else { Mode::Unspecified }.into();
        match self {
            Self::Create(r) => {
                let container = r.spec.map(pb::ContainerSpec::container);
                let pb::CreateContainerRequest { id: ct_id, request_id, dry_run, .. } = *r;
                let request = api::CreateContainerRequest {
                    container,
                    ct_id,
                    request_id,
                    validate_only: dry_run,
                };
                client.create_container(request).await
            }
            Self::Start(r) if r.mount_only => {
                let request = api::MountContainerRequest {
                    name: container_name(&r.ct),
                    request_id: r.request_id,
                    validate_only: r.dry_run,
                    ..Default::default()
                };
                client.mount_container(request).await
            }
            Self::Start(r) => {
                let request = api::StartContainerRequest {
                    name: container_name(&r.ct),
                    request_id: r.request_id,
                    validate_only: r.dry_run,
                    until: until(r.wait),
                    override_disabled: r.force,
                    ..Default::default()
                };
                client.start_container(request).await
            }
            Self::Stop(r) if r.unmount_only => {
                let request = api::UnmountContainerRequest {
                    name: container_name(&r.ct),
                    request_id: r.request_id,
                    validate_only: r.dry_run,
                    ..Default::default()
                };
                client.unmount_container(request).await
            }
            Self::Stop(r) => {
                let grace = std::time::Duration::from_millis(r.grace_ms.into());
                let request = api::StopContainerRequest {
                    name: container_name(&r.ct),
                    request_id: r.request_id,
                    validate_only: r.dry_run,
                    mode: mode(r.fast),
                    grace: (r.grace_ms != 0).then(|| ves_proto::public::render_duration(grace)),
                    keep_mounted: r.skip_unmount,
                    ..Default::default()
                };
                client.stop_container(request).await
            }
            Self::Restart(r) => {
                let request = api::RestartContainerRequest {
                    name: container_name(&r.ct),
                    request_id: r.request_id,
                    validate_only: r.dry_run,
                    mode: mode(r.fast),
                    until: until(r.wait),
                    ..Default::default()
                };
                client.restart_container(request).await
            }
            Self::Update(r) => client.update_container(api::UpdateContainerRequest::from(*r)).await,
            Self::Delete(r) => {
                let request = api::DeleteContainerRequest {
                    name: container_name(&r.ct),
                    request_id: r.request_id,
                    validate_only: r.dry_run,
                    ..Default::default()
                };
                client.delete_container(request).await
            }
            Self::Fsck(r) => {
                let request = api::CheckVolumeRequest {
                    name: container_name(&r.ct),
                    request_id: r.request_id,
                    validate_only: r.dry_run,
                    ..Default::default()
                };
                client.check_volume(request).await
            }
            Self::Snapshot(r) => {
                let request = api::CreateSnapshotRequest {
                    parent: container_name(&r.ct),
                    title: r.name,
                    request_id: r.request_id,
                    validate_only: r.dry_run,
                    conflict: 0,
                };
                snapshots.create_snapshot(request).await
            }
            Self::SnapshotSwitch(r) => {
                let request = api::SwitchSnapshotRequest {
                    name: snapshot_name(&r.ct, &r.snapshot),
                    request_id: r.request_id,
                    validate_only: r.dry_run,
                    conflict: 0,
                };
                snapshots.switch_snapshot(request).await
            }
            Self::SnapshotDelete(r) => {
                let request = api::DeleteSnapshotRequest {
                    name: snapshot_name(&r.ct, &r.snapshot),
                    request_id: r.request_id,
                    validate_only: r.dry_run,
                    conflict: 0,
                };
                snapshots.delete_snapshot(request).await
            }
        }
    }

    const fn request_id_mut(&mut self) -> &mut String {
        match self {
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
        }
    }

    /// The same with this id of the request.
    #[must_use]
    pub fn with_request_id(mut self, id: &str) -> Self {
        id.clone_into(self.request_id_mut());
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
