//! The service of containers: what is changed becomes an operation, what is asked for is in the map.
//!
//! Never here: a decision.

use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use ves_proto::Fault;
use ves_proto::coordinator::container_service_server::ContainerService;
use ves_proto::coordinator::*;
use ves_proto::lifecycle::{self, console_request, exec_request};

use super::{Api, BoxStream, rows, session};

#[tonic::async_trait]
impl ContainerService for Api {
    async fn create_container(
        &self,
        request: Request<CreateContainerRequest>,
    ) -> Result<Response<Operation>, Status> {
        let request = request.into_inner();
        self.called(&request)?;
        let id = if request.id == 0 { 101 } else { request.id };
        Ok(self.operation("create", id, request.dry_run))
    }
    async fn get_container(
        &self,
        request: Request<GetContainerRequest>,
    ) -> Result<Response<Container>, Status> {
        self.called(request.get_ref())?;
        self.find(&request.get_ref().ct).map(Response::new)
    }
    async fn list_containers(
        &self,
        request: Request<ListContainersRequest>,
    ) -> Result<Response<ListContainersResponse>, Status> {
        self.called(request.get_ref())?;
        let state = self.state();
        let after: u32 = request.get_ref().page_token.parse().unwrap_or(0);
        let running = ContainerState::Running;
        let mut containers: Vec<_> = state
            .containers
            .values()
            .filter(|c| c.id > after && (!request.get_ref().running_only || c.state() == running))
            .cloned()
            .collect();
        let mut next_page_token = String::new();
        if state.page > 0 && containers.len() > state.page {
            containers.truncate(state.page);
            next_page_token = containers.last().map(|c| c.id.to_string()).unwrap_or_default();
        }
        Ok(Response::new(ListContainersResponse { containers, next_page_token }))
    }
    async fn update_container(
        &self,
        request: Request<UpdateContainerRequest>,
    ) -> Result<Response<Operation>, Status> {
        let request = request.into_inner();
        self.called(&request)?;
        Ok(self.operation("set", self.find(&request.ct)?.id, request.dry_run))
    }
    async fn delete_container(
        &self,
        request: Request<DeleteContainerRequest>,
    ) -> Result<Response<Operation>, Status> {
        let request = request.into_inner();
        self.called(&request)?;
        Ok(self.operation("destroy", self.find(&request.ct)?.id, request.dry_run))
    }
    async fn start_container(
        &self,
        request: Request<StartContainerRequest>,
    ) -> Result<Response<Operation>, Status> {
        let parent = request.metadata().get("traceparent").and_then(|p| p.to_str().ok());
        self.state().parents.extend(parent.map(str::to_owned));
        let request = request.into_inner();
        self.called(&request)?;
        let kind = if request.mount_only { "mount" } else { "start" };
        Ok(self.operation(kind, self.find(&request.ct)?.id, request.dry_run))
    }
    async fn stop_container(
        &self,
        request: Request<StopContainerRequest>,
    ) -> Result<Response<Operation>, Status> {
        let request = request.into_inner();
        self.called(&request)?;
        let kind = if request.unmount_only { "umount" } else { "stop" };
        Ok(self.operation(kind, self.find(&request.ct)?.id, request.dry_run))
    }
    async fn restart_container(
        &self,
        request: Request<RestartContainerRequest>,
    ) -> Result<Response<Operation>, Status> {
        let request = request.into_inner();
        self.called(&request)?;
        Ok(self.operation("restart", self.find(&request.ct)?.id, request.dry_run))
    }
    async fn check_volume(
        &self,
        request: Request<CheckVolumeRequest>,
    ) -> Result<Response<Operation>, Status> {
        let request = request.into_inner();
        self.called(&request)?;
        Ok(self.operation("fsck", self.find(&request.ct)?.id, request.dry_run))
    }
    async fn get_resources(
        &self,
        request: Request<GetResourcesRequest>,
    ) -> Result<Response<GetResourcesResponse>, Status> {
        self.called(request.get_ref())?;
        let ct = &request.get_ref().ct;
        let ids: Vec<u32> = if ct.is_empty() {
            let state = self.state();
            let running = |c: &&Container| c.state() == ContainerState::Running;
            state.containers.values().filter(running).map(|c| c.id).collect()
        } else {
            vec![self.find(ct)?.id]
        };
        let containers = ids
            .into_iter()
            .map(|id| ContainerResources { id, rows: rows(), cpu_usec: 5_000 })
            .collect();
        Ok(Response::new(GetResourcesResponse { containers }))
    }

    type WatchContainersStream = BoxStream<ContainerEvent>;
    async fn watch_containers(
        &self,
        request: Request<WatchContainersRequest>,
    ) -> Result<Response<Self::WatchContainersStream>, Status> {
        self.called(request.get_ref())?;
        let mut events: Vec<_> = self
            .state()
            .containers
            .values()
            .map(|c| ContainerEvent {
                revision: 5,
                container: Some(c.clone()),
                deleted: false,
                initial: true,
            })
            .collect();
        let gone = Container { id: 900, ..Container::default() };
        events.push(ContainerEvent {
            revision: 6,
            container: Some(gone),
            deleted: true,
            initial: false,
        });
        let events = tokio_stream::iter(events.into_iter().map(Ok));
        Ok(Response::new(Box::pin(events.chain(tokio_stream::pending()))))
    }

    type ExecStream = BoxStream<lifecycle::ExecResponse>;
    async fn exec(
        &self,
        request: Request<Streaming<ExecRequest>>,
    ) -> Result<Response<Self::ExecStream>, Status> {
        let mut requests = request.into_inner();
        let first = requests.message().await?.expect("a first message");
        self.called(&first)?;
        self.find(&first.ct)?;
        let Some(exec_request::Part::Start(start)) = first.request.and_then(|r| r.part) else {
            return Err(Fault::missing("start").into());
        };
        let (answers, stream) = mpsc::channel(16);
        let api = self.clone();
        tokio::spawn(async move { session::exec(api, start, requests, answers).await });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    type ConsoleStream = BoxStream<lifecycle::ConsoleResponse>;
    async fn console(
        &self,
        request: Request<Streaming<ConsoleRequest>>,
    ) -> Result<Response<Self::ConsoleStream>, Status> {
        let mut requests = request.into_inner();
        let first = requests.message().await?.expect("a first message");
        self.called(&first)?;
        self.find(&first.ct)?;
        let part = first.request.and_then(|r| r.part);
        let Some(console_request::Part::Start(start)) = part else {
            return Err(Fault::missing("start").into());
        };
        let (answers, stream) = mpsc::channel(16);
        let api = self.clone();
        tokio::spawn(async move { session::console(api, start, requests, answers).await });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}
