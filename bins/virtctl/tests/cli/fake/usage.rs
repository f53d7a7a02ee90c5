//! The service of usage: all that run take the same.
//!
//! Never here: counting.

use tonic::{Request, Response, Status};
use ves_proto::api::container_status::State;
use ves_proto::api::usage_service_server::UsageService;
use ves_proto::api::*;

use super::{Api, rows};

fn usage(container: &Container) -> Usage {
    Usage {
        container: container.name.clone(),
        cpu_time: Some(prost_types::Duration { seconds: 0, nanos: 5_000_000 }),
        ubc: rows(),
        ..Usage::default()
    }
}

#[tonic::async_trait]
impl UsageService for Api {
    async fn get_usage(
        &self,
        request: Request<GetUsageRequest>,
    ) -> Result<Response<Usage>, Status> {
        self.called(request.get_ref())?;
        Ok(Response::new(usage(&self.find(&request.get_ref().container)?)))
    }
    async fn list_usage(
        &self,
        request: Request<ListUsageRequest>,
    ) -> Result<Response<ListUsageResponse>, Status> {
        self.called(request.get_ref())?;
        let state = self.state();
        let runs = |c: &&Container| {
            c.status.as_ref().is_some_and(|status| status.state() == State::Running)
        };
        let usage = state.containers.values().filter(runs).map(usage).collect();
        Ok(Response::new(ListUsageResponse { usage, ..ListUsageResponse::default() }))
    }
}
