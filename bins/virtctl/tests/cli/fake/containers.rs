//! The service of containers: what is changed becomes an operation, what is asked for is in the map.
//!
//! Never here: a decision.

use tokio_stream::StreamExt as _;
use tonic::{Request, Response, Status};
use ves_proto::api::container_service_server::ContainerService;
use ves_proto::api::container_status::State;
use ves_proto::api::operation::Kind;
use ves_proto::api::watch_containers_response::Event as Told;
use ves_proto::api::*;
use ves_proto::{Fault, Reason};

use super::{Api, BoxStream};

/// Whether a container is found by one of the filters that virtctl sends.
fn found(filter: &str, container: &Container) -> bool {
    let state = container.status.as_ref().expect("each has one").state();
    let running = matches!(state, State::Running | State::Stopping | State::Paused);
    match filter {
        "" => true,
        filter => running != filter.starts_with("NOT "),
    }
}

/// What becomes of a request that changes a container.
macro_rules! change {
    ($api:ident, $request:ident, $kind:ident) => {{
        let request = $request.into_inner();
        $api.called(&request)?;
        let name = $api.find(&request.name)?.name;
        Ok($api.operation(Kind::$kind, &name, request.validate_only))
    }};
}

#[tonic::async_trait]
impl ContainerService for Api {
    async fn delete_container(
        &self,
        request: Request<DeleteContainerRequest>,
    ) -> Result<Response<Operation>, Status> {
        change!(self, request, Delete)
    }
    async fn stop_container(
        &self,
        request: Request<StopContainerRequest>,
    ) -> Result<Response<Operation>, Status> {
        change!(self, request, Stop)
    }
    async fn restart_container(
        &self,
        request: Request<RestartContainerRequest>,
    ) -> Result<Response<Operation>, Status> {
        change!(self, request, Restart)
    }
    async fn mount_container(
        &self,
        request: Request<MountContainerRequest>,
    ) -> Result<Response<Operation>, Status> {
        change!(self, request, Mount)
    }
    async fn unmount_container(
        &self,
        request: Request<UnmountContainerRequest>,
    ) -> Result<Response<Operation>, Status> {
        change!(self, request, Unmount)
    }
    async fn check_volume(
        &self,
        request: Request<CheckVolumeRequest>,
    ) -> Result<Response<Operation>, Status> {
        change!(self, request, CheckVolume)
    }
    async fn change_addresses(
        &self,
        request: Request<ChangeAddressesRequest>,
    ) -> Result<Response<Operation>, Status> {
        change!(self, request, Update)
    }
    async fn create_container(
        &self,
        request: Request<CreateContainerRequest>,
    ) -> Result<Response<Operation>, Status> {
        let request = request.into_inner();
        self.called(&request)?;
        let id = if request.ct_id == 0 { 101 } else { request.ct_id };
        Ok(self.operation(Kind::Create, &format!("containers/{id}"), request.validate_only))
    }
    async fn get_container(
        &self,
        request: Request<GetContainerRequest>,
    ) -> Result<Response<Container>, Status> {
        self.called(request.get_ref())?;
        self.find(&request.get_ref().name).map(Response::new)
    }
    async fn list_containers(
        &self,
        request: Request<ListContainersRequest>,
    ) -> Result<Response<ListContainersResponse>, Status> {
        let request = request.into_inner();
        self.called(&request)?;
        let state = self.state();
        let after: u32 = request.page_token.parse().unwrap_or(0);
        let mut containers: Vec<_> = state
            .containers
            .values()
            .filter(|c| c.ct_id > after && found(&request.filter, c))
            .cloned()
            .collect();
        let mut next_page_token = String::new();
        if state.page > 0 && containers.len() > state.page {
            containers.truncate(state.page);
            next_page_token = containers.last().map(|c| c.ct_id.to_string()).unwrap_or_default();
        }
        let total_size = 0;
        let unreachable = vec![];
        Ok(Response::new(ListContainersResponse {
            containers,
            next_page_token,
            total_size,
            unreachable,
        }))
    }
    async fn batch_get_containers(
        &self,
        request: Request<BatchGetContainersRequest>,
    ) -> Result<Response<BatchGetContainersResponse>, Status> {
        self.called(request.get_ref())?;
        let (mut containers, mut missing) = (vec![], vec![]);
        for name in request.into_inner().names {
            match self.find(&name) {
                Ok(container) => containers.push(container),
                Err(_) => missing.push(name),
            }
        }
        Ok(Response::new(BatchGetContainersResponse { containers, missing }))
    }
    async fn update_container(
        &self,
        request: Request<UpdateContainerRequest>,
    ) -> Result<Response<Operation>, Status> {
        let request = request.into_inner();
        self.called(&request)?;
        let Container { name, etag, .. } = request.container.unwrap_or_default();
        let name = self.find(&name)?.name;
        let mut state = self.state();
        if !etag.is_empty() && state.rivals > 0 {
            state.rivals -= 1;
            return Err(Fault::new(Reason::EtagMismatch, "somebody was faster").into());
        }
        drop(state);
        Ok(self.operation(Kind::Update, &name, request.validate_only))
    }
    async fn start_container(
        &self,
        request: Request<StartContainerRequest>,
    ) -> Result<Response<Operation>, Status> {
        let parent = request.metadata().get("traceparent").and_then(|p| p.to_str().ok());
        self.state().parents.extend(parent.map(str::to_owned));
        let request = request.into_inner();
        self.called(&request)?;
        let name = self.find(&request.name)?.name;
        Ok(self.operation(Kind::Start, &name, request.validate_only))
    }

    type WatchContainersStream = BoxStream<WatchContainersResponse>;
    async fn watch_containers(
        &self,
        request: Request<WatchContainersRequest>,
    ) -> Result<Response<Self::WatchContainersStream>, Status> {
        self.called(request.get_ref())?;
        let mut told = vec![("", Told::Reset(Reset::default()))];
        told.extend(self.state().containers.values().map(|c| ("5", Told::Changed(c.clone()))));
        told.push(("5", Told::Synced(Synced {})));
        told.push(("5", Told::Heartbeat(Heartbeat::default())));
        let gone = Gone { name: "containers/900".into(), ..Gone::default() };
        told.push(("6", Told::Gone(gone)));
        let told = told.into_iter().map(|(token, event)| {
            Ok(WatchContainersResponse { resume_token: token.into(), event: Some(event) })
        });
        Ok(Response::new(Box::pin(tokio_stream::iter(told).chain(tokio_stream::pending()))))
    }
}
