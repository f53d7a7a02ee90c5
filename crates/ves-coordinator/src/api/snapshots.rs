//! `SnapshotService`.

use tonic::{Request, Response, Status};
use ves_proto::convert::{parse_snapshot_id, parse_snapshot_name};
use ves_proto::coordinator as pb;
use ves_proto::coordinator::snapshot_service_server::SnapshotService;

use ves_types::SnapshotId;

use super::{Api, caller};
use crate::operation::kinds::Action;
use crate::operation::kinds::snapshot::{Delete, Switch, Take};

#[tonic::async_trait]
impl SnapshotService for Api {
    async fn create_snapshot(
        &self,
        request: Request<pb::CreateSnapshotRequest>,
    ) -> Result<Response<pb::Operation>, Status> {
        let caller = caller("CreateSnapshot", &request, |r| &mut r.request_id)?;
        let pb::CreateSnapshotRequest { ct, name, request_id: _, dry_run } = request.into_inner();
        let id = SnapshotId::from(self.0.clock().new_id().as_u128());
        let action = Action::Snapshot(Take { id, name: parse_snapshot_name(&name)? });
        Ok(Response::new(self.0.begin_snapshot(caller, ct, dry_run, action).await?))
    }

    async fn list_snapshots(
        &self,
        request: Request<pb::ListSnapshotsRequest>,
    ) -> Result<Response<pb::ListSnapshotsResponse>, Status> {
        let snapshots = self.0.snapshots(&request.into_inner().ct).await?;
        Ok(Response::new(pb::ListSnapshotsResponse { snapshots }))
    }

    async fn switch_snapshot(
        &self,
        request: Request<pb::SwitchSnapshotRequest>,
    ) -> Result<Response<pb::Operation>, Status> {
        let caller = caller("SwitchSnapshot", &request, |r| &mut r.request_id)?;
        let pb::SwitchSnapshotRequest { ct, snapshot, request_id: _, dry_run } =
            request.into_inner();
        let action =
            Action::SnapshotSwitch(Switch { id: parse_snapshot_id("snapshot", &snapshot)? });
        Ok(Response::new(self.0.begin_snapshot(caller, ct, dry_run, action).await?))
    }

    async fn delete_snapshot(
        &self,
        request: Request<pb::DeleteSnapshotRequest>,
    ) -> Result<Response<pb::Operation>, Status> {
        let caller = caller("DeleteSnapshot", &request, |r| &mut r.request_id)?;
        let pb::DeleteSnapshotRequest { ct, snapshot, request_id: _, dry_run } =
            request.into_inner();
        let action =
            Action::SnapshotDelete(Delete { id: parse_snapshot_id("snapshot", &snapshot)? });
        Ok(Response::new(self.0.begin_snapshot(caller, ct, dry_run, action).await?))
    }
}
