//! `ContainerService`: containers are shown, and what is to become of them is asked for.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tonic::{Request, Response, Status};
use ves_daemon::Principal;
use ves_proto::api as pb;
use ves_proto::api::container_service_server::ContainerService;
use ves_proto::public::{container_name, parse_duration};
use ves_proto::{Fault, Reason};
use ves_types::{CtId, SnapshotId};

use super::mask::Mask;
use super::page::Page;
use super::reach::{Change, Target, caller};
use super::watch::{Batch, News, Source, heartbeat, watch};
use super::{Answers, Api, update};
use crate::access::{self, Resource};
use crate::admission::Ask;
use crate::admission::create::Wish;
use crate::container::given;
use crate::container::observed::ProcessSeen;
use crate::container::record::{Record, RunState};
use crate::filter::{Filter, fields};
use crate::open_streams::StreamKind;
use crate::operation::kinds;
use crate::operation::kinds::set::Update;
use crate::operation::kinds::stop::How;
use crate::operation::record::{Caller, OpRecord};
use crate::queue::Conflict;
use crate::store::changes::Departed;
use crate::wrong::{Wrong, bad, known};

/// The greatest page of containers.
const PAGE: usize = 1000;
/// How long a look at one container may take.
const LOOK: Duration = Duration::from_secs(5);
/// The message that masks are of.
const CONTAINER: &str = "ves.api.v1.Container";

/// The RPC that makes one.
const CREATE: &str = "/ves.api.v1.ContainerService/CreateContainer";

type Answer = Result<Response<pb::Operation>, Status>;

/// How it is stopped.
fn how(mode: i32, grace: Option<&prost_types::Duration>) -> Result<How, Fault> {
    use pb::stop_container_request::Mode;
    match (known("mode", mode)?, grace) {
        (Mode::Kill, None) => Ok(How::AtOnce),
        (Mode::Kill, Some(_)) => Err(bad("grace", "what is killed at once has no time to stop")),
        (Mode::Unspecified | Mode::Graceful, None) => Ok(How::Gracefully),
        (Mode::Unspecified | Mode::Graceful, Some(grace)) => {
            How::within(parse_duration("grace", grace)?)
        }
    }
}

fn until_booted(until: i32) -> Result<bool, Fault> {
    use pb::start_container_request::Until;
    Ok(known::<Until>("until", until)? == Until::Booted)
}

/// By what a list is ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Id,
    Alias,
    Created,
}

impl Order {
    /// An order, and whether it is turned round.
    fn read(text: &str) -> Result<(Self, bool), Fault> {
        let mut words = text.split_ascii_whitespace();
        let order = match words.next() {
            None | Some("ct_id") => Self::Id,
            Some("alias") => Self::Alias,
            Some("create_time") => Self::Created,
            Some(_) => return Err(bad_order()),
        };
        match (words.next(), words.next()) {
            (None | Some("asc"), None) => Ok((order, false)),
            (Some("desc"), None) => Ok((order, true)),
            _ => Err(bad_order()),
        }
    }

    /// Where one stands; no two stand in one place.
    fn key(self, record: &Record) -> (String, CtId) {
        let word = match self {
            Self::Id => String::new(),
            Self::Alias => record.spec.name.as_ref().map(ToString::to_string).unwrap_or_default(),
            Self::Created => format!("{:020}", record.created_unix.max(0)),
        };
        (word, record.id)
    }
}

fn bad_order() -> Fault {
    bad("order_by", "order_by: it is ct_id, alias or create_time, each with \" desc\" if so")
}

/// A place in a token.
fn render_key((word, id): &(String, CtId)) -> String {
    format!("{id} {word}")
}

fn parse_key(text: &str) -> Result<(String, CtId), Fault> {
    let none = || bad("page_token", "the page token is none of ours; begin from the first page");
    let (id, word) = text.split_once(' ').ok_or_else(none)?;
    Ok((word.to_owned(), id.parse().map_err(|_| none())?))
}

impl Api {
    /// Containers as they are to be shown, looked at anew if that is wanted: two calls, whatever their number.
    async fn show(&self, records: &[Arc<Record>], skip_refresh: bool) {
        if !skip_refresh {
            let active = records.iter().filter(|r| r.run != RunState::Stopped).map(|r| r.id);
            self.0.refresh(&active.collect::<BTreeSet<_>>()).await;
        }
    }

    fn matches(&self, filter: &Filter, record: &Record) -> bool {
        filter.is_empty() || {
            let container = self.0.render(record);
            filter.matches(|path| fields::container_value(&container, path))
        }
    }

    /// All containers that a caller sees and a filter finds, by id.
    pub(super) fn found(&self, principal: &Principal, filter: &Filter) -> Vec<Arc<Record>> {
        let all: Vec<Arc<Record>> = {
            let index = self.0.state().read();
            let seen = |r: &&Arc<Record>| self.sees(principal, r.meta.project.as_deref());
            index.containers().filter(seen).map(Arc::clone).collect()
        };
        all.into_iter().filter(|record| self.matches(filter, record)).collect()
    }
}

#[tonic::async_trait]
impl ContainerService for Api {
    async fn get_container(
        &self,
        request: Request<pb::GetContainerRequest>,
    ) -> Result<Response<pb::Container>, Status> {
        let principal = ves_daemon::principal(&request);
        let record = self.container(&principal, "name", &request.get_ref().name)?;
        let ct = record.id;
        // A service that is away leaves what was seen last.
        let look = tokio::time::timeout(LOOK, self.0.services().observe(ct));
        if let Ok(Ok(seen)) = look.await {
            self.0.take_in(ct, &seen);
            if record.run == RunState::Running {
                self.0.refresh_count(ct).await;
            }
        }
        // It may have changed, or gone, meanwhile.
        let record = self.container(&principal, "name", &container_name(ct))?;
        Ok(Response::new(self.0.render(&record)))
    }

    async fn list_containers(
        &self,
        request: Request<pb::ListContainersRequest>,
    ) -> Result<Response<pb::ListContainersResponse>, Status> {
        let principal = ves_daemon::principal(&request);
        let pb::ListContainersRequest {
            page_size,
            page_token,
            filter,
            order_by,
            read_mask,
            skip_refresh,
        } = request.into_inner();
        let mut wrong = Wrong::default();
        let scope = ["containers", filter.as_str(), order_by.as_str()];
        let page = Page::read(page_size, &page_token, (PAGE, PAGE), &scope, &mut wrong);
        let filter = wrong.take(Filter::parse(&filter, fields::CONTAINER)).unwrap_or_default();
        let (order, desc) = wrong.take(Order::read(&order_by)).unwrap_or((Order::Id, false));
        let mask = wrong.take(Mask::read("read_mask", CONTAINER, read_mask.as_ref()));
        let after = page.as_ref().and_then(|page| page.after.as_deref());
        let after = after.and_then(|after| wrong.take(parse_key(after)));
        wrong.end()?;
        let (Some(page), Some(mask)) = (page, mask) else { return Err(bad_order().into()) };
        self.0.cache().await_list().await;
        let mut all: Vec<_> = self.found(&principal, &filter);
        let total_size = i64::try_from(all.len()).unwrap_or(i64::MAX);
        if order != Order::Id {
            all.sort_by_cached_key(|record| order.key(record));
        }
        if desc {
            all.reverse();
        }
        let begin = after.map_or(0, |after| {
            let before = |record: &Arc<Record>| {
                let key = order.key(record);
                if desc { key >= after } else { key <= after }
            };
            all.partition_point(before)
        });
        let more = all.len().saturating_sub(begin) > page.size;
        let shown: Vec<_> = all.into_iter().skip(begin).take(page.size).collect();
        self.show(&shown, skip_refresh).await;
        let next_page_token = match shown.last() {
            Some(last) if more => page.token(&render_key(&order.key(last))),
            _ => String::new(),
        };
        let containers = shown.iter().map(|r| mask.prune(self.0.render(r))).collect();
        let unreachable = vec![];
        let answer =
            pb::ListContainersResponse { containers, next_page_token, total_size, unreachable };
        Ok(Response::new(answer))
    }

    async fn batch_get_containers(
        &self,
        request: Request<pb::BatchGetContainersRequest>,
    ) -> Result<Response<pb::BatchGetContainersResponse>, Status> {
        let principal = ves_daemon::principal(&request);
        let names = request.into_inner().names;
        if names.is_empty() {
            return Err(Fault::missing("names").into());
        }
        if names.len() > PAGE {
            let message = format!("there are {} names; {PAGE} are the most", names.len());
            return Err(bad("names", message).into());
        }
        self.0.cache().await_list().await;
        let (mut there, mut missing, mut wrong) = (vec![], vec![], Wrong::default());
        for (n, name) in names.into_iter().enumerate() {
            match self.container(&principal, &format!("names[{n}]"), &name) {
                Ok(record) => there.push(record),
                Err(fault) if fault.reason == Reason::ContainerUnknown => missing.push(name),
                Err(fault) => wrong.push(fault),
            }
        }
        wrong.end()?;
        self.show(&there, false).await;
        let containers = there.iter().map(|record| self.0.render(record)).collect();
        Ok(Response::new(pb::BatchGetContainersResponse { containers, missing }))
    }

    type WatchContainersStream = Answers<pb::WatchContainersResponse>;

    async fn watch_containers(
        &self,
        request: Request<pb::WatchContainersRequest>,
    ) -> Result<Response<Self::WatchContainersStream>, Status> {
        use pb::watch_containers_response::Event;
        let principal = ves_daemon::principal(&request);
        let pb::WatchContainersRequest { resume_token, filter, read_mask, heartbeat: asked } =
            request.into_inner();
        let mut wrong = Wrong::default();
        let filter = wrong.take(Filter::parse(&filter, fields::CONTAINER)).unwrap_or_default();
        let mask = wrong.take(Mask::read("read_mask", CONTAINER, read_mask.as_ref()));
        let heartbeat = wrong.take(heartbeat(asked.as_ref())).unwrap_or_default();
        wrong.end()?;
        let mask = mask.unwrap_or(Mask::All);
        let ticks = self.0.state().revisions();
        let source = Containers { api: self.clone(), principal, filter };
        let message = move |resume_token, news| {
            let event = match news {
                News::Changed(container) => Event::Changed(mask.prune(*container)),
                News::Gone(gone) => Event::Gone(gone),
                News::Reset(reset) => Event::Reset(reset),
                News::Synced(synced) => Event::Synced(synced),
                News::Heartbeat(heartbeat) => Event::Heartbeat(heartbeat),
            };
            pb::WatchContainersResponse { resume_token, event: Some(event) }
        };
        let resume = (resume_token.as_str(), heartbeat);
        let answers = watch(source, self.0.clone(), ticks, resume, message);
        Ok(self.counted(answers, StreamKind::Containers))
    }

    async fn create_container(&self, request: Request<pb::CreateContainerRequest>) -> Answer {
        let mut wrong = Wrong::default();
        let caller = wrong.take(caller(&request));
        let principal = ves_daemon::principal(&request);
        let pb::CreateContainerRequest { container, ct_id, request_id: _, validate_only } =
            request.into_inner();
        let ct = match ct_id {
            0 => None,
            n => wrong.at("ct_id", CtId::try_from(n)),
        };
        let hostname = container.as_ref().and_then(|c| c.spec.as_ref()).map(|s| &s.hostname);
        let is_named = hostname.is_some_and(|name| !name.is_empty());
        let any = CtId::try_from(CtId::MAX).map_err(|e| Fault::bad_value("ct_id", &e))?;
        let given = wrong.take(given::parse(ct.unwrap_or(any), container));
        wrong.end()?;
        let (Some(caller), Some((spec, meta))) = (caller, given) else {
            return Err(Fault::missing("container").into());
        };
        let project = meta.project.as_deref();
        access::allows(CREATE, Resource::New { project }, &principal)?;
        let wish = Wish { ct, spec, meta, is_named };
        Ok(self.shown(&self.0.create(caller, wish, validate_only).await?))
    }

    async fn update_container(&self, request: Request<pb::UpdateContainerRequest>) -> Answer {
        let mut wrong = Wrong::default();
        let r = request.get_ref();
        let update = update::read(r, &mut wrong);
        self.update(&request, wrong, update).await
    }

    async fn change_addresses(&self, request: Request<pb::ChangeAddressesRequest>) -> Answer {
        let mut wrong = Wrong::default();
        let r = request.get_ref();
        let update = Some(update::read_addresses(r, &mut wrong));
        self.update(&request, wrong, update).await
    }

    async fn delete_container(&self, request: Request<pb::DeleteContainerRequest>) -> Answer {
        let op = match self.target(&request, Wrong::default()) {
            Ok(Target::New(ask)) => self.0.destroy(ask).await?,
            Ok(Target::Repeated(op)) => *op,
            Err(fault) if fault.reason == Reason::ContainerUnknown => {
                self.delete_unknown(&request, caller(&request)?, fault).await?
            }
            Err(fault) => return Err(fault.into()),
        };
        Ok(self.shown(&op))
    }

    async fn start_container(&self, request: Request<pb::StartContainerRequest>) -> Answer {
        let mut wrong = Wrong::default();
        let r = request.get_ref();
        let wait = wrong.take(until_booted(r.until)).unwrap_or_default();
        let force = r.override_disabled;
        let op = match self.target(&request, wrong)? {
            Target::New(ask) => {
                let admit = move |record: &Record, process: &ProcessSeen| {
                    kinds::start::admit(record, process.stopping, wait, force)
                };
                self.0.begin(Ask { look: true, ..ask }, admit).await?
            }
            Target::Repeated(op) => *op,
        };
        Ok(self.shown(&op))
    }

    async fn stop_container(&self, request: Request<pb::StopContainerRequest>) -> Answer {
        let mut wrong = Wrong::default();
        let r = request.get_ref();
        let how = wrong.take(how(r.mode, r.grace.as_ref())).unwrap_or(How::Gracefully);
        let keep_mounted = r.keep_mounted;
        self.change(&request, wrong, move |record, process| {
            kinds::stop::admit(record, process.phase, how, keep_mounted)
        })
        .await
    }

    async fn restart_container(&self, request: Request<pb::RestartContainerRequest>) -> Answer {
        let mut wrong = Wrong::default();
        let r = request.get_ref();
        let how = wrong.take(how(r.mode, None)).unwrap_or(How::Gracefully);
        let wait = wrong.take(until_booted(r.until)).unwrap_or_default();
        self.change(&request, wrong, move |record, _| {
            kinds::start::admit_restart(record, how, wait)
        })
        .await
    }

    async fn mount_container(&self, request: Request<pb::MountContainerRequest>) -> Answer {
        let admit = |record: &Record, _: &_| kinds::start::admit_mount(record);
        self.change(&request, Wrong::default(), admit).await
    }

    async fn unmount_container(&self, request: Request<pb::UnmountContainerRequest>) -> Answer {
        self.change(&request, Wrong::default(), |record, process| {
            kinds::stop::admit_umount(record, process.phase)
        })
        .await
    }

    async fn check_volume(&self, request: Request<pb::CheckVolumeRequest>) -> Answer {
        let before = SnapshotId::from(self.0.clock().new_id().as_u128());
        self.change(&request, Wrong::default(), move |record, process| {
            kinds::fsck::admit(record, process.phase, before)
        })
        .await
    }
}

impl Api {
    /// Admits a change of a container's values.
    async fn update<T: Change>(
        &self,
        request: &Request<T>,
        wrong: Wrong,
        update: Option<Update>,
    ) -> Answer {
        let op = match self.target(request, wrong)? {
            Target::New(ask) => {
                let update = update.ok_or_else(|| Fault::missing("container"))?;
                let admit = move |record: &Record, _: &_| kinds::set::admit(record, &update);
                self.0.begin(ask, admit).await?
            }
            Target::Repeated(op) => *op,
        };
        Ok(self.shown(&op))
    }

    /// Takes away what is there of a container that no record knows.
    async fn delete_unknown(
        &self,
        request: &Request<pb::DeleteContainerRequest>,
        caller: Caller,
        unknown: Fault,
    ) -> Result<OpRecord, Fault> {
        let pb::DeleteContainerRequest { name, etag, validate_only, .. } = request.get_ref();
        let principal = ves_daemon::principal(request);
        // What somebody has read was a container, and this is not that one.
        let ct = self.unknown_container(&principal, name).filter(|_| etag.is_empty());
        let Some(ct) = ct else { return Err(unknown) };
        let ask = Ask {
            caller,
            ct,
            uid: None,
            etag: None,
            validate_only: *validate_only,
            conflict: Conflict::Fail,
            look: false,
        };
        self.0.destroy_leftovers(ask, unknown).await
    }
}

/// Containers, as one caller sees them.
struct Containers {
    api: Api,
    principal: Principal,
    filter: Filter,
}

impl Source for Containers {
    type Key = CtId;
    type Item = pb::Container;

    fn all(&self) -> Batch<CtId> {
        let index = self.api.0.state().read();
        (index.containers().map(|r| (r.id, None)).collect(), index.changes().revision())
    }

    fn since(&self, revision: u64) -> Option<Batch<CtId>> {
        self.api.0.state().read().changes().since(revision)
    }

    fn now(&self, key: &CtId) -> Option<(pb::Container, bool)> {
        let record = self.api.0.state().read().container(*key).map(Arc::clone).ok()?;
        if !self.api.sees(&self.principal, record.meta.project.as_deref()) {
            return None;
        }
        let container = self.api.0.render(&record);
        let passes = self.filter.matches(|path| fields::container_value(&container, path));
        Some((container, passes))
    }

    fn saw(&self, departed: &Departed) -> bool {
        self.api.sees(&self.principal, departed.project.as_deref())
    }

    fn name(&self, key: &CtId) -> String {
        container_name(*key)
    }

    fn uid(&self, item: &pb::Container) -> String {
        item.uid.clone()
    }

    fn is_filtered(&self) -> bool {
        !self.filter.is_empty()
    }

    fn is_last(&self, _: &pb::Container) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_few() {
        assert_eq!(Order::read(""), Ok((Order::Id, false)));
        assert_eq!(Order::read("ct_id desc"), Ok((Order::Id, true)));
        assert_eq!(Order::read(" alias "), Ok((Order::Alias, false)));
        assert_eq!(Order::read("create_time desc"), Ok((Order::Created, true)));
        for bad in ["name", "alias down", "alias desc desc", "alias,ct_id"] {
            assert_eq!(Order::read(bad).expect_err(bad).facts["field"], "order_by");
        }
    }
}
