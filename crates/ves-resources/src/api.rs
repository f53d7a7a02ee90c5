//! The gRPC face: reads requests, calls the service, writes answers. No decisions.

use tonic::{Request, Response, Status};
use ves_daemon::{Policy, Role, blocking};
use ves_proto::common as pbc;
use ves_proto::convert::{
    parse_ct, parse_fence, parse_limits, parse_slot, render_limits, render_row,
};
use ves_proto::resources as pb;
use ves_proto::resources::resources_service_server::{ResourcesService, ResourcesServiceServer};
use ves_types::UbcRow;

use crate::service::{Group, Service};

/// The service's full name.
pub const NAME: &str = "ves.resources.v1.ResourcesService";

/// Who may call what: nobody but the coordinator and the administrator.
pub const POLICY: Policy = &[
    ("/ves.resources.v1.ResourcesService/EnsureLimits", &[Role::Root, Role::Coordinator]),
    ("/ves.resources.v1.ResourcesService/RemoveLimits", &[Role::Root, Role::Coordinator]),
    ("/ves.resources.v1.ResourcesService/GetGroup", &[Role::Root, Role::Coordinator]),
    ("/ves.resources.v1.ResourcesService/ListGroups", &[Role::Root, Role::Coordinator]),
    ("/ves.resources.v1.ResourcesService/GetCapabilities", &[Role::Root, Role::Coordinator]),
];

/// The routes of the service.
pub fn routes(service: Service) -> tonic::service::Routes {
    tonic::service::Routes::new(ResourcesServiceServer::new(Api { service }))
}

#[derive(Debug)]
struct Api {
    service: Service,
}

fn render_group(group: Group) -> pb::Group {
    let Group { ct, generation, rows, cpu_usec, limits } = group;
    pb::Group {
        ct: ct.get(),
        generation: generation.0,
        rows: rows.into_iter().map(render_row).collect(),
        cpu_usec,
        limits: Some(render_limits(&limits)),
    }
}

#[tonic::async_trait]
impl ResourcesService for Api {
    async fn ensure_limits(
        &self,
        request: Request<pb::EnsureLimitsRequest>,
    ) -> Result<Response<pb::Group>, Status> {
        let pb::EnsureLimitsRequest { fence, limits, id_slot } = request.into_inner();
        let (fence, limits) = (parse_fence(fence)?, parse_limits(limits)?);
        let slot = parse_slot(id_slot)?;
        let service = self.service.clone();
        let group = blocking(move || service.ensure(&fence, limits, slot)).await?;
        Ok(Response::new(render_group(group)))
    }

    async fn remove_limits(
        &self,
        request: Request<pb::RemoveLimitsRequest>,
    ) -> Result<Response<pb::RemoveLimitsResponse>, Status> {
        let pb::RemoveLimitsRequest { fence } = request.into_inner();
        let fence = parse_fence(fence)?;
        let service = self.service.clone();
        blocking(move || service.remove(&fence)).await?;
        Ok(Response::new(pb::RemoveLimitsResponse {}))
    }

    async fn get_group(
        &self,
        request: Request<pb::GetGroupRequest>,
    ) -> Result<Response<pb::Group>, Status> {
        let pb::GetGroupRequest { ct } = request.into_inner();
        let ct = parse_ct(ct)?;
        let service = self.service.clone();
        let group = blocking(move || service.group(ct)).await?;
        Ok(Response::new(render_group(group)))
    }

    async fn list_groups(
        &self,
        request: Request<pb::ListGroupsRequest>,
    ) -> Result<Response<pb::ListGroupsResponse>, Status> {
        let pb::ListGroupsRequest {} = request.into_inner();
        let service = self.service.clone();
        let groups = blocking(move || service.groups()).await?;
        let groups = groups.into_iter().map(render_group).collect();
        Ok(Response::new(pb::ListGroupsResponse { groups }))
    }

    async fn get_capabilities(
        &self,
        request: Request<pb::GetCapabilitiesRequest>,
    ) -> Result<Response<pb::GetCapabilitiesResponse>, Status> {
        let pb::GetCapabilitiesRequest {} = request.into_inner();
        let (cgroup, promises) = self.service.capabilities();
        let row = |(resource, enforcement)| {
            let pbc::UbcRow { resource, enforcement, why, .. } = render_row(UbcRow {
                resource,
                held: 0,
                maxheld: 0,
                value: ves_types::UbcValue::default(),
                failcnt: 0,
                enforcement,
            });
            pbc::UbcRow { resource, enforcement, why, ..pbc::UbcRow::default() }
        };
        Ok(Response::new(pb::GetCapabilitiesResponse {
            cgroup: cgroup.to_owned(),
            rows: promises.into_iter().map(row).collect(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rpc_has_a_row() {
        assert_eq!(ves_daemon::check_policy(&[NAME], POLICY), Ok(()));
    }
}
