//! `UsageService`: what containers take and have taken, a page of them in three calls.

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
use ves_proto::{Fault, network, resources, storage};
use ves_types::{CtId, Enforcement, UbcRow};

use super::Api;
use super::mask::Mask;
use super::page::Page;
use crate::container::given::INTERFACE;
use crate::container::record::{Record, RunState};
use crate::filter::{Filter, fields};
use crate::services::ask;
use crate::usage::accrued::Through;
use crate::usage::reading::Counted;
use crate::wrong::{Wrong, bad};

/// The greatest page.
const PAGE: usize = 500;
/// How long accounting of a page may take.
const ACCOUNTING: Duration = Duration::from_secs(60);

/// What containers use just now; of those that do not run, nothing.
#[derive(Default)]
struct Now {
    groups: HashMap<CtId, resources::Group>,
    volumes: HashMap<CtId, storage::Volume>,
}

impl Api {
    /// What containers take and have taken, in their order.
    async fn usage(&self, records: &[Arc<Record>]) -> Result<Vec<pb::Usage>, Fault> {
        let now = self.ask_usage(records).await?;
        records.iter().map(|record| self.usage_of(record, &now)).collect()
    }

    /// Asks what they use just now, and takes it in.
    async fn ask_usage(&self, records: &[Arc<Record>]) -> Result<Now, Fault> {
        let services = self.0.services().clone();
        let (mut s, mut r, mut n) = (services.storage, services.resources, services.network);
        let cts = |up: bool| {
            let is_up = |record: &Record| record.run == RunState::Running;
            let some = records.iter().filter(|record| !up || is_up(record));
            some.map(|record| record.id.get()).collect::<Vec<u32>>()
        };
        let (all, up) = (cts(false), cts(true));
        // None that are named are all there are.
        let (any, any_up) = (!all.is_empty(), !up.is_empty());
        let groups = resources::ListGroupsRequest { cts: up, with_usage: true };
        let volumes = storage::ListVolumesRequest { cts: all };
        let (groups, traffic, volumes) = tokio::join!(
            asked(any_up, ask("resources", ACCOUNTING, r.list_groups(groups))),
            asked(
                any_up,
                ask("network", ACCOUNTING, n.list_traffic(network::ListTrafficRequest {}))
            ),
            asked(any, ask("storage", ACCOUNTING, s.list_volumes(volumes))),
        );
        let of = |ct: u32| parse_ct(ct).ok();
        let groups = groups?.unwrap_or_default().groups.into_iter();
        let groups: HashMap<CtId, _> = groups.filter_map(|g| Some((of(g.ct)?, g))).collect();
        // Without network and storage only their figures are not known.
        let links = traffic.ok().flatten().unwrap_or_default().links.into_iter();
        let links: HashMap<CtId, _> = links.filter_map(|l| Some((of(l.ct)?, l))).collect();
        let volumes = volumes.ok().flatten().unwrap_or_default().volumes.into_iter();
        let volumes = volumes.filter_map(|v| Some((of(v.ct)?, v))).collect();
        for record in records {
            let usage = groups.get(&record.id).and_then(|group| group.usage.as_ref());
            self.0.count(record, &Counted::of(usage, links.get(&record.id)));
        }
        Ok(Now { groups, volumes })
    }

    fn usage_of(&self, record: &Record, now: &Now) -> Result<pb::Usage, Fault> {
        let process = self.0.cache().of(record.id).process;
        let group = now.groups.get(&record.id);
        let rows = group.map(|group| group.rows.clone()).unwrap_or_default().into_iter();
        let rows = rows.map(|row| parse_row(row).map(render_row));
        let uses = group.and_then(|group| group.usage.as_ref());
        let volume = now.volumes.get(&record.id);
        let mounted = volume.filter(|volume| volume.mounted);
        let used = self.0.usage().of(record);
        let (counts, through) = (used.group.total(), used.link.total());
        let usec = |usec: u64| render_duration(Duration::from_micros(usec));
        Ok(pb::Usage {
            container: container_name(record.id),
            uid: record.uid.to_string(),
            project: record.meta.project_name().unwrap_or_default(),
            start_time: Some(timestamp(used.since_unix_ms)),
            sample_time: Some(timestamp(self.0.clock().now_ms())),
            incarnation: process.incarnation,
            cpu_time: counts.cpu_usec.map(usec),
            cpu_throttled_time: counts.throttled_usec.map(usec),
            memory_bytes: uses.and_then(|usage| usage.memory_bytes),
            swap_bytes: uses.and_then(|usage| usage.swap_bytes),
            disk_used_bytes: mounted.and_then(|v| v.used_bytes),
            disk_allocated_bytes: volume.map(|v| v.allocated_bytes),
            inodes_used: mounted.and_then(|v| v.used_inodes),
            io_read_bytes: counts.read_bytes,
            io_write_bytes: counts.write_bytes,
            io_read_ops: counts.reads,
            io_write_ops: counts.writes,
            oom_kills: counts.oom_kills,
            traffic: render_traffic(through).into_iter().collect(),
            ubc: rows.collect::<Result<_, _>>()?,
            running_time: Some(render_duration(Duration::from_millis(used.run.total_ms()))),
        })
    }
}

/// What was answered, where there was something to ask.
async fn asked<T>(
    wanted: bool,
    ask: impl Future<Output = Result<T, Fault>>,
) -> Result<Option<T>, Fault> {
    if wanted { ask.await.map(Some) } else { Ok(None) }
}

/// The traffic of the interface that a container has; none where nothing was counted of it yet.
fn render_traffic(through: Through) -> Option<pb::Traffic> {
    let Through {
        receive_bytes,
        transmit_bytes,
        receive_packets,
        transmit_packets,
        dropped_packets,
    } = through;
    // A link tells all of it, or nothing.
    Some(pb::Traffic {
        interface: INTERFACE.to_owned(),
        receive_bytes: receive_bytes?,
        transmit_bytes: transmit_bytes?,
        receive_packets: receive_packets?,
        transmit_packets: transmit_packets?,
        dropped_packets: dropped_packets?,
    })
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
        let now = self.ask_usage(std::slice::from_ref(&record)).await?;
        Ok(Response::new(self.usage_of(&record, &now)?))
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
        let mut records = self.found(&principal, &filter);
        records.retain(|r| after.is_none_or(|after| r.id > after));
        let more = records.len() > page.size;
        records.truncate(page.size);
        let next_page_token = match records.last() {
            Some(last) if more => page.token(&last.id.to_string()),
            _ => String::new(),
        };
        let usage = self.usage(&records).await?.into_iter().map(|u| mask.prune(u)).collect();
        let unreachable = vec![];
        Ok(Response::new(pb::ListUsageResponse { usage, next_page_token, unreachable }))
    }
}
