//! The service of operations, which go at the pace a test chose.
//!
//! Never here: work.

use tokio_stream::StreamExt as _;
use tonic::{Request, Response, Status};
use ves_proto::common::Progress;
use ves_proto::coordinator::operation_service_server::OperationService;
use ves_proto::coordinator::*;
use ves_proto::{Fault, Reason};

use super::{Api, BoxStream, Pace};

#[tonic::async_trait]
impl OperationService for Api {
    async fn get_operation(
        &self,
        request: Request<GetOperationRequest>,
    ) -> Result<Response<Operation>, Status> {
        self.called(request.get_ref())?;
        let id = &request.get_ref().id;
        self.state().operations.get(id).cloned().map(Response::new).ok_or_else(|| {
            Fault::new(Reason::OperationUnknown, format!("there is no operation {id}"))
                .fact("operation", id)
                .into()
        })
    }
    async fn list_operations(
        &self,
        request: Request<ListOperationsRequest>,
    ) -> Result<Response<ListOperationsResponse>, Status> {
        self.called(request.get_ref())?;
        let operations = self.state().operations.values().rev().cloned().collect();
        Ok(Response::new(ListOperationsResponse { operations, next_page_token: String::new() }))
    }
    async fn cancel_operation(
        &self,
        request: Request<CancelOperationRequest>,
    ) -> Result<Response<Operation>, Status> {
        let id = request.into_inner().id;
        let mut state = self.state();
        let operation = state.operations.get_mut(&id).expect("a test cancels what there is");
        operation.state = OperationState::Cancelled.into();
        Ok(Response::new(operation.clone()))
    }

    type WatchOperationStream = BoxStream<Operation>;
    async fn watch_operation(
        &self,
        request: Request<WatchOperationRequest>,
    ) -> Result<Response<Self::WatchOperationStream>, Status> {
        self.called(request.get_ref())?;
        let id = request.into_inner().id;
        let (pace, watches, mut operation) = {
            let mut state = self.state();
            state.watches += 1;
            (state.pace, state.watches, state.operations[&id].clone())
        };
        let step = |what: &str, done| {
            let progress = Some(Progress { what: what.into(), done, total: 3 });
            Operation { progress, ..operation.clone() }
        };
        let mut items = vec![Ok(step("unpack", 1)), Ok(step("unpack", 2)), Ok(step("mount", 3))];
        if pace == Pace::Never {
            let forever = tokio_stream::iter(items).chain(tokio_stream::pending());
            return Ok(Response::new(Box::pin(forever)));
        }
        if pace == Pace::Cut && watches == 1 {
            items.truncate(1);
            items.push(Err(Fault::new(Reason::Starting, "stopping").into()));
            return Ok(Response::new(Box::pin(tokio_stream::iter(items))));
        }
        if pace == Pace::Dies && watches == 1 {
            items.truncate(1);
            let api = self.clone();
            let dies = tokio_stream::once(()).filter_map(move |()| {
                api.state().die();
                None
            });
            let stream = tokio_stream::iter(items).chain(dies).chain(tokio_stream::pending());
            return Ok(Response::new(Box::pin(stream)));
        }
        operation.state = OperationState::Succeeded.into();
        operation.ended_unix_ms = 1_002_500;
        items.push(Ok(operation));
        Ok(Response::new(Box::pin(tokio_stream::iter(items))))
    }
}
