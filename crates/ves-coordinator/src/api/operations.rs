//! `OperationService`.

use std::sync::Arc;

use tonic::{Request, Response, Status};
use ves_proto::coordinator as pb;
use ves_proto::coordinator::operation_service_server::OperationService;

use super::{Answers, Api, bad_token, page_size};
use crate::operation::record::{OpId, OpRecord, OpState};

#[tonic::async_trait]
impl OperationService for Api {
    async fn get_operation(
        &self,
        request: Request<pb::GetOperationRequest>,
    ) -> Result<Response<pb::Operation>, Status> {
        let id = OpId(request.into_inner().id);
        let op = self.0.state().read().operation(&id).map(|op| op.render())?;
        Ok(Response::new(op))
    }

    async fn list_operations(
        &self,
        request: Request<pb::ListOperationsRequest>,
    ) -> Result<Response<pb::ListOperationsResponse>, Status> {
        let pb::ListOperationsRequest { page_size: size, page_token } = request.into_inner();
        let before = match page_token.as_str() {
            "" => None,
            token if token.parse::<uuid::Uuid>().is_ok() => Some(OpId(token.to_owned())),
            _ => return Err(bad_token().into()),
        };
        let count = page_size(size, 100, 1000);
        let page = self.0.state().read().operations_page(before.as_ref(), count);
        let next_page_token = match page.last() {
            Some(last) if page.len() == count => last.id.0.clone(),
            _ => String::new(),
        };
        let operations = page.iter().map(|op| op.render()).collect();
        Ok(Response::new(pb::ListOperationsResponse { operations, next_page_token }))
    }

    async fn cancel_operation(
        &self,
        request: Request<pb::CancelOperationRequest>,
    ) -> Result<Response<pb::Operation>, Status> {
        Ok(Response::new(self.0.cancel(OpId(request.into_inner().id)).await?))
    }

    type WatchOperationStream = Answers<pb::Operation>;

    async fn watch_operation(
        &self,
        request: Request<pb::WatchOperationRequest>,
    ) -> Result<Response<Self::WatchOperationStream>, Status> {
        let id = OpId(request.into_inner().id);
        self.0.state().read().operation(&id)?;
        let ticks = self.0.state().operation_ticks();
        let state = (self.0.clone(), ticks, None::<Arc<OpRecord>>);
        let stream = futures::stream::unfold(state, move |(own, mut ticks, last)| {
            let id = id.clone();
            async move {
                if last.as_ref().is_some_and(|op| op.state != OpState::Running) {
                    return None;
                }
                loop {
                    ticks.borrow_and_update();
                    let now = own.state().read().operation(&id).map(Arc::clone);
                    match now {
                        Err(fault) => {
                            // It expired under the watcher's eyes; say so and end.
                            let ended = last.map(|op| {
                                Arc::new(OpRecord {
                                    state: OpState::Failed,
                                    ..OpRecord::clone(&op)
                                })
                            });
                            return Some((Err(fault.into()), (own, ticks, ended)));
                        }
                        Ok(op) if last.as_ref().is_none_or(|l| !Arc::ptr_eq(l, &op)) => {
                            return Some((Ok(op.render()), (own, ticks, Some(op))));
                        }
                        Ok(_) => {}
                    }
                    if ticks.changed().await.is_err() {
                        return None;
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(stream)))
    }
}
