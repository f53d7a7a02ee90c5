//! `OperationService`.

use std::sync::Arc;
use std::time::Duration;

use tonic::{Request, Response, Status};
use ves_daemon::Principal;
use ves_proto::api as pb;
use ves_proto::api::operation_service_server::OperationService;
use ves_proto::public::{operation_name, parse_duration, parse_name};
use ves_proto::{Fault, Reason};

use super::page::Page;
use super::watch::{Batch, News, Source, heartbeat, watch};
use super::{Answers, Api};
use crate::filter::{Filter, fields};
use crate::open_streams::StreamKind;
use crate::operation::record::{OpId, OpRecord, OpState};
use crate::store::changes::Departed;
use crate::wrong::{Wrong, bad};

/// The usual and the greatest page of operations.
const PAGE: (usize, usize) = (100, 1000);
/// How long is waited for an end where nothing is said, and at most.
const WAIT: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(600));

impl Api {
    /// The operation that a request names.
    fn operation(&self, principal: &Principal, name: &str) -> Result<Arc<OpRecord>, Fault> {
        let id = OpId(parse_name("name", "operations", name)?.to_owned());
        let op = self.0.state().read().operation(&id).map(Arc::clone)?;
        if self.sees(principal, op.project.as_deref()) {
            return Ok(op);
        }
        let message = format!("there is no operation {id}");
        Err(Fault::new(Reason::OperationUnknown, message).fact("operation", id))
    }
}

fn patience(asked: Option<&prost_types::Duration>) -> Result<Duration, Fault> {
    let (usual, most) = WAIT;
    let Some(asked) = asked else { return Ok(usual) };
    match parse_duration("timeout", asked)? {
        long if long > most => Err(bad("timeout", "timeout: it must be at most 10 min")),
        asked => Ok(asked),
    }
}

#[tonic::async_trait]
impl OperationService for Api {
    async fn get_operation(
        &self,
        request: Request<pb::GetOperationRequest>,
    ) -> Result<Response<pb::Operation>, Status> {
        let principal = ves_daemon::principal(&request);
        Ok(self.shown(&*self.operation(&principal, &request.get_ref().name)?))
    }

    async fn list_operations(
        &self,
        request: Request<pb::ListOperationsRequest>,
    ) -> Result<Response<pb::ListOperationsResponse>, Status> {
        let principal = ves_daemon::principal(&request);
        let pb::ListOperationsRequest { page_size, page_token, filter } = request.into_inner();
        let mut wrong = Wrong::default();
        let scope = ["operations", filter.as_str()];
        let page = Page::read(page_size, &page_token, PAGE, &scope, &mut wrong);
        let filter = wrong.take(Filter::parse(&filter, fields::OPERATION)).unwrap_or_default();
        wrong.end()?;
        let Some(page) = page else { return Err(Fault::missing("page_size").into()) };
        let mut before = page.after.clone().map(OpId);
        let mut operations: Vec<pb::Operation> = Vec::new();
        // One more than the page has says whether there are more.
        while operations.len() <= page.size {
            let some = self.0.state().read().operations_page(before.as_ref(), PAGE.1);
            let Some(last) = some.last() else { break };
            before = Some(last.id.clone());
            let seen = some.iter().filter(|op| self.sees(&principal, op.project.as_deref()));
            let shown = seen.map(|op| self.0.render_operation(op));
            operations.extend(
                shown.filter(|op| filter.matches(|path| fields::operation_value(op, path))),
            );
        }
        let more = operations.len() > page.size;
        operations.truncate(page.size);
        let next_page_token = match operations.last() {
            Some(last) if more => page.token(last.name.trim_start_matches("operations/")),
            _ => String::new(),
        };
        let unreachable = vec![];
        Ok(Response::new(pb::ListOperationsResponse { operations, next_page_token, unreachable }))
    }

    async fn wait_operation(
        &self,
        request: Request<pb::WaitOperationRequest>,
    ) -> Result<Response<pb::Operation>, Status> {
        let principal = ves_daemon::principal(&request);
        let pb::WaitOperationRequest { name, timeout } = request.into_inner();
        let mut wrong = Wrong::default();
        wrong.take(parse_name("name", "operations", &name));
        let patience = wrong.take(patience(timeout.as_ref())).unwrap_or_default();
        wrong.end()?;
        let mut ticks = self.0.state().operation_ticks();
        let mut over = self.0.clock().sleep(patience);
        loop {
            ticks.borrow_and_update();
            let op = self.operation(&principal, &name)?;
            if op.state != OpState::Running {
                return Ok(self.shown(&op));
            }
            tokio::select! {
                changed = ticks.changed() => if changed.is_err() { return Ok(self.shown(&op)) },
                () = &mut over => return Ok(self.shown(&op)),
            }
        }
    }

    async fn cancel_operation(
        &self,
        request: Request<pb::CancelOperationRequest>,
    ) -> Result<Response<pb::Operation>, Status> {
        let principal = ves_daemon::principal(&request);
        let op = self.operation(&principal, &request.get_ref().name)?;
        Ok(self.shown(&self.0.cancel(op.id.clone()).await?))
    }

    type WatchOperationsStream = Answers<pb::WatchOperationsResponse>;

    async fn watch_operations(
        &self,
        request: Request<pb::WatchOperationsRequest>,
    ) -> Result<Response<Self::WatchOperationsStream>, Status> {
        use pb::watch_operations_response::Event;
        let principal = ves_daemon::principal(&request);
        let pb::WatchOperationsRequest { resume_token, filter, name, heartbeat: asked } =
            request.into_inner();
        let mut wrong = Wrong::default();
        let filter = wrong.take(Filter::parse(&filter, fields::OPERATION)).unwrap_or_default();
        let heartbeat = wrong.take(heartbeat(asked.as_ref())).unwrap_or_default();
        if !name.is_empty() {
            wrong.take(parse_name("name", "operations", &name));
            if !filter.is_empty() {
                wrong.push(bad("filter", "one operation by its name is not filtered"));
            }
        }
        wrong.end()?;
        let only = match name.as_str() {
            "" => None,
            name => Some(self.operation(&principal, name)?.id.clone()),
        };
        let ticks = self.0.state().operation_ticks();
        // Of one, all is told: what it is now.
        let resume_token = if only.is_some() { "" } else { resume_token.as_str() };
        let source = Operations { api: self.clone(), principal, filter, only };
        let message = |resume_token, news| {
            let event = match news {
                News::Changed(operation) => Event::Changed(*operation),
                News::Gone(gone) => Event::Gone(gone),
                News::Reset(reset) => Event::Reset(reset),
                News::Synced(synced) => Event::Synced(synced),
                News::Heartbeat(heartbeat) => Event::Heartbeat(heartbeat),
            };
            pb::WatchOperationsResponse { resume_token, event: Some(event) }
        };
        let answers = watch(source, self.0.clone(), ticks, (resume_token, heartbeat), message);
        Ok(self.counted(answers, StreamKind::Operations))
    }
}

/// Operations, as one caller sees them.
struct Operations {
    api: Api,
    principal: Principal,
    filter: Filter,
    /// The one that is watched, where it is one.
    only: Option<OpId>,
}

impl Operations {
    fn meant((changed, revision): Batch<OpId>, only: Option<&OpId>) -> Batch<OpId> {
        let meant = changed.into_iter().filter(|(id, _)| only.is_none_or(|only| only == id));
        (meant.collect(), revision)
    }
}

impl Source for Operations {
    type Key = OpId;
    type Item = pb::Operation;

    fn all(&self) -> Batch<OpId> {
        let index = self.api.0.state().read();
        let revision = index.operation_changes().revision();
        let all = match &self.only {
            Some(only) => vec![(only.clone(), None)],
            None => index.operations().map(|op| (op.id.clone(), None)).collect(),
        };
        (all, revision)
    }

    fn since(&self, revision: u64) -> Option<Batch<OpId>> {
        let changed = self.api.0.state().read().operation_changes().since(revision)?;
        Some(Self::meant(changed, self.only.as_ref()))
    }

    fn now(&self, key: &OpId) -> Option<(pb::Operation, bool)> {
        let op = self.api.0.state().read().operation(key).map(Arc::clone).ok()?;
        if !self.api.sees(&self.principal, op.project.as_deref()) {
            return None;
        }
        let op = self.api.0.render_operation(&op);
        let passes = self.filter.matches(|path| fields::operation_value(&op, path));
        Some((op, passes))
    }

    fn saw(&self, departed: &Departed) -> bool {
        self.api.sees(&self.principal, departed.project.as_deref())
    }

    fn name(&self, key: &OpId) -> String {
        operation_name(&key.0)
    }

    fn uid(&self, _: &pb::Operation) -> String {
        String::new()
    }

    fn is_filtered(&self) -> bool {
        !self.filter.is_empty()
    }

    fn is_last(&self, item: &pb::Operation) -> bool {
        self.only.is_some() && item.end_time.is_some()
    }
}
