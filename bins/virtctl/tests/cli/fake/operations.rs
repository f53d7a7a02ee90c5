//! The service of operations, which go at the pace a test chose.
//!
//! Never here: work.

use tokio_stream::StreamExt as _;
use tonic::{Request, Response, Status};
use ves_proto::api::operation::State;
use ves_proto::api::operation_service_server::OperationService;
use ves_proto::api::watch_operations_response::Event as Told;
use ves_proto::api::*;
use ves_proto::public::timestamp;
use ves_proto::{Fault, Reason};

use super::{Api, BoxStream, Pace};

#[tonic::async_trait]
impl OperationService for Api {
    async fn get_operation(
        &self,
        request: Request<GetOperationRequest>,
    ) -> Result<Response<Operation>, Status> {
        self.called(request.get_ref())?;
        let name = &request.get_ref().name;
        self.state().operations.get(name).cloned().map(Response::new).ok_or_else(|| {
            Fault::new(Reason::OperationUnknown, format!("there is no {name}"))
                .fact("operation", name)
                .into()
        })
    }
    async fn list_operations(
        &self,
        request: Request<ListOperationsRequest>,
    ) -> Result<Response<ListOperationsResponse>, Status> {
        self.called(request.get_ref())?;
        let operations = self.state().operations.values().rev().cloned().collect();
        Ok(Response::new(ListOperationsResponse { operations, ..Default::default() }))
    }
    async fn cancel_operation(
        &self,
        request: Request<CancelOperationRequest>,
    ) -> Result<Response<Operation>, Status> {
        let name = request.into_inner().name;
        let mut state = self.state();
        let operation = state.operations.get_mut(&name).expect("a test cancels what there is");
        let goes_on = operation.state() == State::Running;
        let after = if goes_on { State::Cancelling } else { State::Cancelled };
        operation.state = after.into();
        Ok(Response::new(operation.clone()))
    }
    async fn wait_operation(
        &self,
        _request: Request<WaitOperationRequest>,
    ) -> Result<Response<Operation>, Status> {
        Err(Fault::new(Reason::NotBuilt, "virtctl watches").into())
    }

    type WatchOperationsStream = BoxStream<WatchOperationsResponse>;
    async fn watch_operations(
        &self,
        request: Request<WatchOperationsRequest>,
    ) -> Result<Response<Self::WatchOperationsStream>, Status> {
        self.called(request.get_ref())?;
        let name = request.into_inner().name;
        let (pace, watches, mut operation) = {
            let mut state = self.state();
            state.watches += 1;
            (state.pace, state.watches, state.operations[&name].clone())
        };
        let told = |event| WatchOperationsResponse { event: Some(event), ..Default::default() };
        let step = |message: &str, done| {
            let progress = Some(Progress { message: message.into(), done, total: 3 });
            Ok(told(Told::Changed(Operation { progress, ..operation.clone() })))
        };
        let mut items = vec![step("unpack", 1), step("unpack", 2), step("mount", 3)];
        items.insert(0, Ok(told(Told::Reset(Reset::default()))));
        items.push(Ok(told(Told::Heartbeat(Heartbeat::default()))));
        if pace == Pace::Never {
            let forever = tokio_stream::iter(items).chain(tokio_stream::pending());
            return Ok(Response::new(Box::pin(forever)));
        }
        if pace == Pace::Cut && watches == 1 {
            items.truncate(2);
            items.push(Err(Fault::new(Reason::Starting, "stopping").into()));
            return Ok(Response::new(Box::pin(tokio_stream::iter(items))));
        }
        if pace == Pace::Dies && watches == 1 {
            items.truncate(2);
            let api = self.clone();
            let dies = tokio_stream::once(()).filter_map(move |()| {
                api.state().die();
                None
            });
            let stream = tokio_stream::iter(items).chain(dies).chain(tokio_stream::pending());
            return Ok(Response::new(Box::pin(stream)));
        }
        operation.state = State::Succeeded.into();
        operation.end_time = Some(timestamp(1_002_500));
        items.push(Ok(told(Told::Changed(operation))));
        Ok(Response::new(Box::pin(tokio_stream::iter(items))))
    }
}
