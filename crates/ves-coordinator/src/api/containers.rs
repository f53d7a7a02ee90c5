//! `ContainerService`.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::watch;
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};
use ves_proto::convert::parse_ct;
use ves_proto::coordinator::container_service_server::ContainerService;
use ves_proto::{coordinator as pb, lifecycle, resources};
use ves_types::{CtId, SnapshotId};

use super::{Answers, Api, bad_token, caller, page_size, sessions};
use crate::container::record::{Record, RunState};
use crate::container::refusal::not_running;
use crate::coordinator::Coordinator;
use crate::operation::kinds;
use crate::services::ask;

/// The greatest page of containers.
const PAGE: usize = 1000;
/// How long accounting of all containers may take.
const ACCOUNTING: Duration = Duration::from_secs(60);

#[tonic::async_trait]
impl ContainerService for Api {
    async fn create_container(
        &self,
        request: Request<pb::CreateContainerRequest>,
    ) -> Result<Response<pb::Operation>, Status> {
        let caller = caller("CreateContainer", &request, |r| &mut r.request_id)?;
        Ok(Response::new(self.0.create(caller, request.into_inner()).await?))
    }

    async fn get_container(
        &self,
        request: Request<pb::GetContainerRequest>,
    ) -> Result<Response<pb::Container>, Status> {
        let record = self.0.resolve(&request.get_ref().ct)?;
        let ct = record.id;
        // A service that is away leaves what was seen last.
        let look = tokio::time::timeout(Duration::from_secs(5), self.0.services().observe(ct));
        if let Ok(Ok(seen)) = look.await {
            self.0.take_in(ct, &seen);
            if record.run == RunState::Running {
                self.0.refresh_count(ct).await;
            }
        }
        // It may have changed, or gone, meanwhile.
        let record = self.0.resolve(&ct.to_string())?;
        Ok(Response::new(self.0.render(&record)))
    }

    async fn list_containers(
        &self,
        request: Request<pb::ListContainersRequest>,
    ) -> Result<Response<pb::ListContainersResponse>, Status> {
        let pb::ListContainersRequest { page_size: size, page_token, running_only } =
            request.into_inner();
        let after = match page_token.as_str() {
            "" => None,
            token => Some(token.parse::<CtId>().map_err(|_| bad_token())?),
        };
        self.0.cache().await_list().await;
        let count = page_size(size, PAGE, PAGE);
        let page = self.0.state().read().page(after, count, running_only);
        let active = page.iter().filter(|r| r.run != RunState::Stopped).map(|r| r.id);
        self.0.refresh(&active.collect()).await;
        let next_page_token = match page.last() {
            Some(last) if page.len() == count => last.id.to_string(),
            _ => String::new(),
        };
        let containers = page.iter().map(|r| self.0.render(r)).filter(|c| {
            use pb::ContainerState as State;
            !running_only || matches!(c.state(), State::Running | State::Paused)
        });
        let containers = containers.collect();
        Ok(Response::new(pb::ListContainersResponse { containers, next_page_token }))
    }

    async fn update_container(
        &self,
        request: Request<pb::UpdateContainerRequest>,
    ) -> Result<Response<pb::Operation>, Status> {
        let caller = caller("UpdateContainer", &request, |r| &mut r.request_id)?;
        let request = request.into_inner();
        let (ct, dry_run) = (request.ct.clone(), request.dry_run);
        let admit = move |record: &_, _| kinds::set::admit(record, &request);
        Ok(Response::new(self.0.begin(caller, ct, dry_run, admit).await?))
    }

    async fn delete_container(
        &self,
        request: Request<pb::DeleteContainerRequest>,
    ) -> Result<Response<pb::Operation>, Status> {
        let caller = caller("DeleteContainer", &request, |r| &mut r.request_id)?;
        let pb::DeleteContainerRequest { ct, request_id: _, dry_run } = request.into_inner();
        Ok(Response::new(self.0.destroy(caller, ct, dry_run).await?))
    }

    async fn start_container(
        &self,
        request: Request<pb::StartContainerRequest>,
    ) -> Result<Response<pb::Operation>, Status> {
        let caller = caller("StartContainer", &request, |r| &mut r.request_id)?;
        let request = request.into_inner();
        let (ct, dry_run) = (request.ct.clone(), request.dry_run);
        self.0.look_whether_it_ends(&ct).await;
        let own = self.0.clone();
        let admit = move |record: &Record, _| {
            kinds::start::admit(record, own.cache().of(record.id).process.stopping, &request)
        };
        Ok(Response::new(self.0.begin(caller, ct, dry_run, admit).await?))
    }

    async fn stop_container(
        &self,
        request: Request<pb::StopContainerRequest>,
    ) -> Result<Response<pb::Operation>, Status> {
        let caller = caller("StopContainer", &request, |r| &mut r.request_id)?;
        let request = request.into_inner();
        let (ct, dry_run) = (request.ct.clone(), request.dry_run);
        let admit = move |record: &_, phase| kinds::stop::admit(record, phase, &request);
        Ok(Response::new(self.0.begin(caller, ct, dry_run, admit).await?))
    }

    async fn restart_container(
        &self,
        request: Request<pb::RestartContainerRequest>,
    ) -> Result<Response<pb::Operation>, Status> {
        let caller = caller("RestartContainer", &request, |r| &mut r.request_id)?;
        let request = request.into_inner();
        let (ct, dry_run) = (request.ct.clone(), request.dry_run);
        let admit = move |record: &_, _| kinds::start::admit_restart(record, &request);
        Ok(Response::new(self.0.begin(caller, ct, dry_run, admit).await?))
    }

    async fn check_volume(
        &self,
        request: Request<pb::CheckVolumeRequest>,
    ) -> Result<Response<pb::Operation>, Status> {
        let caller = caller("CheckVolume", &request, |r| &mut r.request_id)?;
        let pb::CheckVolumeRequest { ct, request_id: _, dry_run } = request.into_inner();
        let before = SnapshotId::from(self.0.clock().new_id().as_u128());
        let admit = move |record: &_, phase| kinds::fsck::admit(record, phase, before);
        Ok(Response::new(self.0.begin(caller, ct, dry_run, admit).await?))
    }

    async fn get_resources(
        &self,
        request: Request<pb::GetResourcesRequest>,
    ) -> Result<Response<pb::GetResourcesResponse>, Status> {
        let ct = request.into_inner().ct;
        let containers = if ct.is_empty() {
            let mut client = self.0.services().resources.clone();
            let list = client.list_groups(resources::ListGroupsRequest { cts: vec![] });
            let groups = ask("resources", ACCOUNTING, list).await?.groups;
            let known = |g: &resources::Group| {
                let index = self.0.state().read();
                parse_ct(g.ct)
                    .is_ok_and(|ct| index.container(ct).is_ok_and(|r| r.run == RunState::Running))
            };
            groups.into_iter().filter(known).map(render_resources).collect()
        } else {
            let ct = self.0.resolve(&ct)?.id;
            let group = self.0.services().group(ct).await?.ok_or_else(|| not_running(ct))?;
            vec![render_resources(group)]
        };
        Ok(Response::new(pb::GetResourcesResponse { containers }))
    }

    type WatchContainersStream = Answers<pb::ContainerEvent>;

    async fn watch_containers(
        &self,
        request: Request<pb::WatchContainersRequest>,
    ) -> Result<Response<Self::WatchContainersStream>, Status> {
        let after = request.into_inner().resume_revision;
        Ok(Response::new(Box::pin(events(self.0.clone(), after))))
    }

    type ExecStream = Answers<lifecycle::ExecResponse>;

    async fn exec(
        &self,
        request: Request<Streaming<pb::ExecRequest>>,
    ) -> Result<Response<Self::ExecStream>, Status> {
        Ok(Response::new(sessions::exec(&self.0, request.into_inner()).await?))
    }

    type ConsoleStream = Answers<lifecycle::ConsoleResponse>;

    async fn console(
        &self,
        request: Request<Streaming<pb::ConsoleRequest>>,
    ) -> Result<Response<Self::ConsoleStream>, Status> {
        Ok(Response::new(sessions::console(&self.0, request.into_inner()).await?))
    }
}

fn render_resources(group: resources::Group) -> pb::ContainerResources {
    let resources::Group {
        ct,
        generation: _,
        rows,
        cpu_usec,
        limits: _,
        steps: _,
        oom_kills: _,
        oom_victims: _,
        device: _,
    } = group;
    pb::ContainerResources { id: ct, rows, cpu_usec }
}

/// What a watcher has yet to be told, and where it is.
struct Watcher {
    coordinator: Coordinator,
    revisions: watch::Receiver<u64>,
    at: u64,
    queue: VecDeque<pb::ContainerEvent>,
    fresh: bool,
}

/// Events after `after`. A watcher that is too far behind is told everything anew; one that is slow
/// costs no memory, since changes of one container between two reads are one event.
fn events(
    coordinator: Coordinator,
    after: u64,
) -> impl Stream<Item = Result<pb::ContainerEvent, Status>> {
    let revisions = coordinator.state().revisions();
    let queue = VecDeque::new();
    let fresh = after == 0;
    let watcher = Watcher { coordinator, revisions, at: after, queue, fresh };
    futures::stream::unfold(watcher, |mut watcher| async move {
        loop {
            if let Some(event) = watcher.queue.pop_front() {
                return Some((Ok(event), watcher));
            }
            watcher.revisions.borrow_and_update();
            watcher.fill();
            if watcher.queue.is_empty() && watcher.revisions.changed().await.is_err() {
                return None;
            }
        }
    })
}

impl Watcher {
    fn fill(&mut self) {
        let index = self.coordinator.state().read();
        let changed = if self.fresh { None } else { index.changed_since(self.at) };
        let initial = changed.is_none();
        let (cts, revision) = changed
            .unwrap_or_else(|| (index.containers().map(|r| r.id).collect(), index.revision()));
        drop(index);
        // Who resumes in the middle of these is told all of them again.
        let before = if initial { 0 } else { self.at };
        let last = cts.last().copied();
        for ct in cts {
            let revision = if Some(ct) == last { revision } else { before };
            let record = self.coordinator.state().read().container(ct).map(std::sync::Arc::clone);
            let (container, deleted) = match record {
                Ok(record) => (self.coordinator.render(&record), false),
                Err(_) => (pb::Container { id: ct.get(), ..Default::default() }, true),
            };
            let container = Some(container);
            self.queue.push_back(pb::ContainerEvent { revision, container, deleted, initial });
        }
        self.at = revision;
        self.fresh = false;
    }
}
