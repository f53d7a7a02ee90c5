//! `UsageService`: what containers take, a page of them in two calls.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tonic::{Request, Response, Status};
use ves_proto::api as pb;
use ves_proto::api::usage_service_server::UsageService;
use ves_proto::convert::{parse_ct, parse_row};
use ves_proto::public::{
    container_name, render_bounds, render_duration, render_enforcement, render_resource, timestamp,
};
use ves_proto::{Fault, resources, storage};
use ves_types::{CtId, Enforcement, UbcRow};

use super::Api;
use super::mask::Mask;
use super::page::Page;
use crate::container::record::{Record, RunState};
use crate::container::refusal::not_running;
use crate::filter::{Filter, fields};
use crate::services::ask;
use crate::wrong::{Wrong, bad};

/// The greatest page.
const PAGE: usize = 500;
/// How long accounting of a page may take.
const ACCOUNTING: Duration = Duration::from_secs(60);

impl Api {
    /// What containers take, of those that have control groups, in their order.
    async fn usage(&self, records: &[Arc<Record>]) -> Result<Vec<pb::Usage>, Fault> {
        if records.is_empty() {
            return Ok(vec![]);
        }
        let cts: Vec<u32> = records.iter().map(|record| record.id.get()).collect();
        let services = self.0.services().clone();
        let (mut s, mut r) = (services.storage, services.resources);
        let volumes = storage::ListVolumesRequest { cts: cts.clone() };
        let groups = resources::ListGroupsRequest { cts, with_usage: false };
        let (groups, volumes) = tokio::join!(
            ask("resources", ACCOUNTING, r.list_groups(groups)),
            ask("storage", ACCOUNTING, s.list_volumes(volumes)),
        );
        let of = |ct: u32| parse_ct(ct).ok();
        let groups = groups?.groups.into_iter().filter_map(|g| Some((of(g.ct)?, g)));
        let mut groups: HashMap<CtId, resources::Group> = groups.collect();
        // Without storage only its figures are not known.
        let volumes = volumes.map(|v| v.volumes).unwrap_or_default().into_iter();
        let volumes = volumes.filter(|v| v.mounted).filter_map(|v| Some((of(v.ct)?, v)));
        let volumes: HashMap<CtId, storage::Volume> = volumes.collect();
        let mut all = Vec::with_capacity(records.len());
        for record in records {
            if let Some(group) = groups.remove(&record.id) {
                all.push(self.usage_of(record, group, volumes.get(&record.id))?);
            }
        }
        Ok(all)
    }

    fn usage_of(
        &self,
        record: &Record,
        group: resources::Group,
        volume: Option<&storage::Volume>,
    ) -> Result<pb::Usage, Fault> {
        let process = self.0.cache().of(record.id).process;
        let rows = group.rows.into_iter().map(|row| parse_row(row).map(render_row));
        Ok(pb::Usage {
            container: container_name(record.id),
            uid: record.uid.to_string(),
            project: record.meta.project_name().unwrap_or_default(),
            start_time: process.started_unix_ms.map(timestamp),
            sample_time: Some(timestamp(self.0.clock().now_ms())),
            incarnation: process.incarnation,
            cpu_time: Some(render_duration(Duration::from_micros(group.cpu_usec))),
            disk_used_bytes: volume.and_then(|v| v.used_bytes),
            inodes_used: volume.and_then(|v| v.used_inodes),
            oom_kills: group.oom_kills,
            ubc: rows.collect::<Result<_, _>>()?,
        })
    }
}

/// A row. What the node cannot count is not known, rather than nothing.
fn render_row(row: UbcRow) -> pb::UbcRow {
    let UbcRow { resource, held, maxheld, value, failcnt, enforcement } = row;
    let counts = !matches!(enforcement, Enforcement::Unavailable(_));
    pb::UbcRow {
        resource: render_resource(resource).into(),
        held: counts.then_some(held),
        max_held: counts.then_some(maxheld),
        bounds: Some(render_bounds(value)),
        fail_count: failcnt,
        enforcement: render_enforcement(enforcement).0.into(),
    }
}

#[tonic::async_trait]
impl UsageService for Api {
    async fn get_usage(
        &self,
        request: Request<pb::GetUsageRequest>,
    ) -> Result<Response<pb::Usage>, Status> {
        let principal = ves_daemon::principal(&request);
        let record = self.container(&principal, "container", &request.get_ref().container)?;
        let usage = self.usage(std::slice::from_ref(&record)).await?.pop();
        Ok(Response::new(usage.ok_or_else(|| not_running(record.id))?))
    }

    async fn list_usage(
        &self,
        request: Request<pb::ListUsageRequest>,
    ) -> Result<Response<pb::ListUsageResponse>, Status> {
        let principal = ves_daemon::principal(&request);
        let pb::ListUsageRequest { page_size, page_token, filter, read_mask } =
            request.into_inner();
        let mut wrong = Wrong::default();
        let scope = ["usage", filter.as_str()];
        let page = Page::read(page_size, &page_token, (PAGE, PAGE), &scope, &mut wrong);
        let filter = wrong.take(Filter::parse(&filter, fields::CONTAINER)).unwrap_or_default();
        let mask = wrong.take(Mask::read("read_mask", "ves.api.v1.Usage", read_mask.as_ref()));
        let none =
            || bad("page_token", "the page token is none of ours; begin from the first page");
        let after = page.as_ref().and_then(|page| page.after.as_ref());
        let after = after.and_then(|id| wrong.take(id.parse::<CtId>().map_err(|_| none())));
        wrong.end()?;
        let (Some(page), Some(mask)) = (page, mask) else { return Err(none().into()) };
        let mut running = self.found(&principal, &filter);
        running.retain(|r| r.run == RunState::Running && after.is_none_or(|after| r.id > after));
        let more = running.len() > page.size;
        running.truncate(page.size);
        let next_page_token = match running.last() {
            Some(last) if more => page.token(&last.id.to_string()),
            _ => String::new(),
        };
        let usage = self.usage(&running).await?.into_iter().map(|u| mask.prune(u)).collect();
        let unreachable = vec![];
        Ok(Response::new(pb::ListUsageResponse { usage, next_page_token, unreachable }))
    }
}
