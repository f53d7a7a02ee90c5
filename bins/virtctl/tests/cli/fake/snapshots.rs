//! The service of snapshots: each container has the same two.
//!
//! Never here: taking one.

use tonic::{Request, Response, Status};
use ves_proto::coordinator::snapshot_service_server::SnapshotService;
use ves_proto::coordinator::*;
use ves_proto::storage;

use super::Api;

#[tonic::async_trait]
impl SnapshotService for Api {
    async fn create_snapshot(
        &self,
        request: Request<CreateSnapshotRequest>,
    ) -> Result<Response<Operation>, Status> {
        let request = request.into_inner();
        self.called(&request)?;
        let mut operation = self.operation("snapshot", self.find(&request.ct)?.id, request.dry_run);
        operation.get_mut().snapshot = "019ab4a0-0000-7000-8000-000000000001".into();
        Ok(operation)
    }
    async fn list_snapshots(
        &self,
        request: Request<ListSnapshotsRequest>,
    ) -> Result<Response<ListSnapshotsResponse>, Status> {
        self.called(request.get_ref())?;
        self.find(&request.get_ref().ct)?;
        let first = storage::Snapshot {
            id: "019ab4a0-0000-7000-8000-000000000001".into(),
            name: "before".into(),
            created_unix_ms: 1_700_000_000_000,
            generation: 4,
            size_bytes: 10 << 30,
            allocated_bytes: 8192,
            own_bytes: Some(4096),
            ..storage::Snapshot::default()
        };
        let second = storage::Snapshot {
            id: "019ab4a0-0000-7000-8000-000000000002".into(),
            name: String::new(),
            parent: first.id.clone(),
            current: true,
            own_bytes: None,
            ..first.clone()
        };
        Ok(Response::new(ListSnapshotsResponse { snapshots: vec![first, second] }))
    }
    async fn switch_snapshot(
        &self,
        request: Request<SwitchSnapshotRequest>,
    ) -> Result<Response<Operation>, Status> {
        let request = request.into_inner();
        self.called(&request)?;
        let id = self.find(&request.ct)?.id;
        let mut operation = self.operation("snapshot-switch", id, request.dry_run);
        operation.get_mut().snapshot = request.snapshot;
        Ok(operation)
    }
    async fn delete_snapshot(
        &self,
        request: Request<DeleteSnapshotRequest>,
    ) -> Result<Response<Operation>, Status> {
        let request = request.into_inner();
        self.called(&request)?;
        let id = self.find(&request.ct)?.id;
        let mut operation = self.operation("snapshot-delete", id, request.dry_run);
        operation.get_mut().snapshot = request.snapshot;
        Ok(operation)
    }
}
