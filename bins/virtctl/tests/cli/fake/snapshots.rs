//! The service of snapshots: each container has the same two.
//!
//! Never here: taking one.

use tonic::{Request, Response, Status};
use ves_proto::api::operation::Kind;
use ves_proto::api::snapshot_service_server::SnapshotService;
use ves_proto::api::*;
use ves_proto::public::timestamp;

use super::Api;

const FIRST: &str = "019ab4a0-0000-7000-8000-000000000001";
const SECOND: &str = "019ab4a0-0000-7000-8000-000000000002";

/// The container's own name and the snapshot's, of one that is named by its alias, too.
fn named(api: &Api, name: &str) -> Result<(String, String), Status> {
    let (container, snapshot) = name.split_once("/snapshots/").expect("a name of a snapshot");
    let container = api.find(container)?.name;
    let name = format!("{container}/snapshots/{snapshot}");
    Ok((container, name))
}

#[tonic::async_trait]
impl SnapshotService for Api {
    async fn create_snapshot(
        &self,
        request: Request<CreateSnapshotRequest>,
    ) -> Result<Response<Operation>, Status> {
        let request = request.into_inner();
        self.called(&request)?;
        let (container, name) = named(self, &format!("{}/snapshots/{FIRST}", request.parent))?;
        let mut operation = self.operation(Kind::Snapshot, &container, request.validate_only);
        operation.get_mut().result = name;
        Ok(operation)
    }
    async fn list_snapshots(
        &self,
        request: Request<ListSnapshotsRequest>,
    ) -> Result<Response<ListSnapshotsResponse>, Status> {
        self.called(request.get_ref())?;
        let container = self.find(&request.get_ref().parent)?.name;
        let first = Snapshot {
            name: format!("{container}/snapshots/{FIRST}"),
            title: "before".into(),
            create_time: Some(timestamp(1_700_000_000_000)),
            size_bytes: 10 << 30,
            allocated_bytes: 8192,
            own_bytes: Some(4096),
            ..Snapshot::default()
        };
        let second = Snapshot {
            name: format!("{container}/snapshots/{SECOND}"),
            title: String::new(),
            parent: first.name.clone(),
            current: true,
            own_bytes: None,
            ..first.clone()
        };
        // A page each.
        let (snapshot, next) = match request.get_ref().page_token.as_str() {
            "" => (first, "second"),
            _ => (second, ""),
        };
        let (snapshots, next_page_token) = (vec![snapshot], next.to_owned());
        Ok(Response::new(ListSnapshotsResponse { snapshots, next_page_token }))
    }
    async fn switch_snapshot(
        &self,
        request: Request<SwitchSnapshotRequest>,
    ) -> Result<Response<Operation>, Status> {
        let request = request.into_inner();
        self.called(&request)?;
        let (container, name) = named(self, &request.name)?;
        let mut operation = self.operation(Kind::SnapshotSwitch, &container, request.validate_only);
        operation.get_mut().result = name;
        Ok(operation)
    }
    async fn delete_snapshot(
        &self,
        request: Request<DeleteSnapshotRequest>,
    ) -> Result<Response<Operation>, Status> {
        let request = request.into_inner();
        self.called(&request)?;
        let (container, name) = named(self, &request.name)?;
        let mut operation = self.operation(Kind::SnapshotDelete, &container, request.validate_only);
        operation.get_mut().result = name;
        Ok(operation)
    }
}
