//! The gRPC face: reads requests, calls the service, writes answers. No decisions.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use ves_daemon::telemetry::Gauge;
use ves_daemon::{CHANGE, Call, Done, Policy, READ, blocking};
use ves_host::cgroup::Version;
use ves_proto::common as pbc;
use ves_proto::convert::{
    parse_ct, parse_cts, parse_fence, parse_limits, render_limits, render_promise, render_row,
    render_victim,
};
use ves_proto::resources as pb;
use ves_proto::resources::resources_service_server::{ResourcesService, ResourcesServiceServer};
use ves_types::UbcRow;

use crate::counters::{Counters, Disk, Pressure, Used};
use crate::model::{Device, Setting};
use crate::service::{Group, Service};

/// The service's full name.
pub const NAME: &str = "ves.resources.v1.ResourcesService";

/// Who may call what: nobody but the coordinator and the administrator.
pub const POLICY: Policy = &[
    ("/ves.resources.v1.ResourcesService/EnsureLimits", CHANGE),
    ("/ves.resources.v1.ResourcesService/RemoveLimits", CHANGE),
    ("/ves.resources.v1.ResourcesService/GetGroup", READ),
    ("/ves.resources.v1.ResourcesService/ListGroups", READ),
    ("/ves.resources.v1.ResourcesService/ListUsage", READ),
    ("/ves.resources.v1.ResourcesService/WatchKills", READ),
    ("/ves.resources.v1.ResourcesService/GetCapabilities", READ),
];

/// Messages that may wait for a slow reader.
const QUEUE: usize = 16;
/// How often is looked who was killed, while somebody wants to know: the kernel tells nobody of version 1.
const KILLS_EVERY: Duration = Duration::from_secs(1);
/// How many times as long as a look took nobody looks: one at thousands of containers takes a while.
const REST: u32 = 20;

/// The routes of the service.
pub fn routes(service: Service) -> tonic::service::Routes {
    tonic::service::Routes::new(ResourcesServiceServer::new(Api { service }))
}

#[derive(Debug)]
struct Api {
    service: Service,
}

/// From the one number that the kernel tells programs.
fn parse_device(number: u64) -> Device {
    Device { major: rustix::fs::major(number), minor: rustix::fs::minor(number) }
}

fn render_device(Device { major, minor }: Device) -> u64 {
    rustix::fs::makedev(major, minor)
}

fn render_group(group: Group) -> pb::Group {
    let Group { ct, generation, rows, cpu_usec, oom_kills, oom_victims, limits, device, used } =
        group;
    pb::Group {
        ct: ct.get(),
        generation: generation.0,
        rows: rows.into_iter().map(render_row).collect(),
        cpu_usec,
        oom_kills,
        oom_victims: oom_victims.iter().map(render_victim).collect(),
        limits: Some(render_limits(&limits)),
        device: device.map(render_device),
        steps: Vec::new(),
        usage: used.map(render_used),
    }
}

fn render_used(used: Used) -> pb::Usage {
    let Used { ct, rows, oom_kills, swap, life, counters } = used;
    let Counters {
        cpu,
        throttled_usec,
        memory,
        working_set,
        disk,
        cpu_pressure,
        memory_pressure,
        io_pressure,
    } = counters;
    let pressure = [
        (pb::PressureKind::Cpu, cpu_pressure),
        (pb::PressureKind::Memory, memory_pressure),
        (pb::PressureKind::Io, io_pressure),
    ];
    let pressure = pressure.into_iter().filter_map(|(kind, pressure)| {
        let Pressure { some_usec, full_usec } = pressure?;
        Some(pb::Pressure { kind: kind.into(), some_usec, full_usec })
    });
    pb::Usage {
        ct: ct.get(),
        cpu_user_usec: cpu.map(|(user, _)| user),
        cpu_system_usec: cpu.map(|(_, system)| system),
        cpu_throttled_usec: throttled_usec,
        memory_bytes: memory,
        working_set_bytes: working_set,
        disk: disk.map(|Disk { read_bytes, write_bytes, reads, writes }| pb::Disk {
            read_bytes,
            write_bytes,
            reads,
            writes,
        }),
        pressure: pressure.collect(),
        oom_kills,
        rows: rows.into_iter().map(render_row).collect(),
        life: life.unwrap_or_default(),
        swap_bytes: swap,
    }
}

#[tonic::async_trait]
impl ResourcesService for Api {
    async fn ensure_limits(
        &self,
        request: Request<pb::EnsureLimitsRequest>,
    ) -> Result<Response<pb::Group>, Status> {
        let pb::EnsureLimitsRequest { fence, limits, dry_run, device } = request.into_inner();
        let device = device.map(parse_device);
        let (call, limits) = (Call { fence: parse_fence(fence)?, dry_run }, parse_limits(limits)?);
        let Done { answer, steps } = self.service.ensure(call, limits, device).await?;
        let planned = || pb::Group { ct: call.fence.ct.get(), ..pb::Group::default() };
        Ok(Response::new(pb::Group { steps, ..answer.map_or_else(planned, render_group) }))
    }

    async fn remove_limits(
        &self,
        request: Request<pb::RemoveLimitsRequest>,
    ) -> Result<Response<pb::RemoveLimitsResponse>, Status> {
        let pb::RemoveLimitsRequest { fence, dry_run } = request.into_inner();
        let call = Call { fence: parse_fence(fence)?, dry_run };
        let Done { answer, steps } = self.service.remove(call).await?;
        let last = answer.flatten().map(render_used);
        Ok(Response::new(pb::RemoveLimitsResponse { steps, last }))
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
        let pb::ListGroupsRequest { cts, with_usage } = request.into_inner();
        let cts = parse_cts(&cts)?;
        let service = self.service.clone();
        let groups = blocking(move || {
            let groups = service.groups(&cts)?.into_iter();
            let used = |ct| if with_usage { service.used_now(ct) } else { None };
            Ok(groups.map(|group| Group { used: used(group.ct), ..group }).collect::<Vec<_>>())
        });
        let groups = groups.await?.into_iter().map(render_group).collect();
        Ok(Response::new(pb::ListGroupsResponse { groups }))
    }

    async fn list_usage(
        &self,
        request: Request<pb::ListUsageRequest>,
    ) -> Result<Response<pb::ListUsageResponse>, Status> {
        let pb::ListUsageRequest {} = request.into_inner();
        let service = self.service.clone();
        let usages = blocking(move || service.used()).await?;
        let usages = usages.into_iter().map(render_used).collect();
        Ok(Response::new(pb::ListUsageResponse { usages }))
    }

    type WatchKillsStream = Pin<Box<dyn Stream<Item = Result<pb::Kills, Status>> + Send>>;

    async fn watch_kills(
        &self,
        request: Request<pb::WatchKillsRequest>,
    ) -> Result<Response<Self::WatchKillsStream>, Status> {
        let pb::WatchKillsRequest {} = request.into_inner();
        let service = self.service.clone();
        let (to, from) = mpsc::channel(QUEUE);
        tokio::spawn(async move {
            let mut told = BTreeMap::new();
            let metric = Gauge::new(
                "ves.resources.oom_kills",
                "processes killed because memory ran out, of the containers that run",
            );
            loop {
                let (own, begun) = (service.clone(), Instant::now());
                // What cannot be read now is read the next time.
                let kills =
                    blocking(move || own.oom_kills()).await.unwrap_or_else(|_| told.clone());
                for (ct, (oom_kills, victims)) in &kills {
                    let before: u64 = told.get(ct).map_or(0, |(kills, _)| *kills);
                    let news = before != *oom_kills;
                    let oom_victims = victims.iter().map(render_victim).collect();
                    let kills = pb::Kills { ct: ct.get(), oom_kills: *oom_kills, oom_victims };
                    if news && to.send(Ok(kills)).await.is_err() {
                        return;
                    }
                }
                metric.set(kills.values().map(|(kills, _)| kills).sum());
                told = kills;
                tokio::select! {
                    () = tokio::time::sleep(KILLS_EVERY.max(begun.elapsed() * REST)) => {}
                    () = to.closed() => return,
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(from))))
    }

    async fn get_capabilities(
        &self,
        request: Request<pb::GetCapabilitiesRequest>,
    ) -> Result<Response<pb::GetCapabilitiesResponse>, Status> {
        let pb::GetCapabilitiesRequest {} = request.into_inner();
        let (cgroup, promises) = self.service.capabilities();
        let service = self.service.clone();
        let (bounds, kept) = blocking(move || Ok((service.bounds()?, service.promises()?))).await?;
        let bound = |setting| {
            let &(total, limit) = bounds.get(&setting)?;
            Some(pb::NodeBound { total, limit })
        };
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
        let cgroup = match cgroup {
            Version::V1 => pb::CgroupVersion::V1,
            Version::V2 => pb::CgroupVersion::V2,
            Version::Hybrid => pb::CgroupVersion::Hybrid,
        };
        Ok(Response::new(pb::GetCapabilitiesResponse {
            cgroup: cgroup.into(),
            rows: promises.into_iter().map(row).collect(),
            ram: bound(Setting::MemoryMax),
            pids: bound(Setting::PidsMax),
            limits: kept.into_iter().map(render_promise).collect(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ves_daemon::{FenceStore, Shell};
    use ves_proto::resources::resources_service_client::ResourcesServiceClient;
    use ves_proto::{Fault, Reason};
    use ves_types::layout::Daemon;

    use super::*;
    use crate::fake::FakeHost;

    #[test]
    fn every_rpc_has_a_row() {
        assert_eq!(ves_daemon::check_service_policy(&[NAME], POLICY), Ok(()));
    }

    fn ensure(ct: u32, generation: u64, numproc: u64) -> pb::EnsureLimitsRequest {
        let value = pbc::UbcValue { barrier: numproc, limit: numproc };
        pb::EnsureLimitsRequest {
            fence: Some(pbc::Fence { ct, generation, epoch: 1 }),
            limits: Some(pbc::Limits {
                ubc: [("numproc".to_owned(), value)].into(),
                ..pbc::Limits::default()
            }),
            dry_run: false,
            device: None,
        }
    }

    #[tokio::test]
    async fn over_a_socket() {
        let dir = tempfile::tempdir().expect("a directory");
        let fences = FenceStore::open(dir.path().join("fence")).expect("opened");
        let shell = Shell::new(Daemon::Resources, fences, 16);
        let service = Service::new(Arc::new(FakeHost::default()), shell).expect("started");
        let socket = dir.path().join("s");
        let listener = tokio::net::UnixListener::bind(&socket).expect("bound");
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let server = tokio::spawn(ves_daemon::serve_on(listener, crate::app(service), async {
            // A dropped sender stops it as well.
            stopped.await.ok();
        }));
        let mut client = ResourcesServiceClient::new(ves_daemon::client::channel(&socket));

        let dry = pb::EnsureLimitsRequest { dry_run: true, ..ensure(7, 2, 30) };
        let planned = client.ensure_limits(dry).await.expect("planned").into_inner();
        assert_eq!(
            planned,
            pb::Group { ct: 7, steps: planned.steps.clone(), ..pb::Group::default() }
        );
        assert!(planned.steps.contains(&"set pids.max to 30".to_owned()), "{:?}", planned.steps);
        let group = client.ensure_limits(ensure(7, 2, 30)).await.expect("made").into_inner();
        assert_eq!(group.steps, planned.steps, "what was foretold");
        let group = pb::Group { steps: vec![], ..group };
        assert_eq!((group.ct, group.generation, group.rows.len()), (7, 2, 21));
        let limits = group.limits.clone().expect("limits");
        assert_eq!(limits.ubc["numproc"].limit, 30);
        let read = client.get_group(pb::GetGroupRequest { ct: 7 }).await.expect("there");
        assert_eq!(read.into_inner(), group, "counters cost more than the rest, and are asked for");
        let list = |with_usage| pb::ListGroupsRequest { cts: vec![], with_usage };
        let listed = client.list_groups(list(false)).await.expect("listed").into_inner();
        assert_eq!(listed.groups, std::slice::from_ref(&group));
        let listed = client.list_groups(list(true)).await.expect("listed").into_inner();
        let used = listed.groups[0].usage.clone();
        assert!(used.as_ref().is_some_and(|used| used.life > 0 && used.disk.is_some()), "{used:?}");
        assert_eq!(listed.groups, [pb::Group { usage: used.clone(), ..group }]);

        let reason = |status| Fault::from_status(&status).reason;
        let stale = client.ensure_limits(ensure(7, 1, 30)).await.map_err(reason);
        assert_eq!(stale.map(drop), Err(Reason::StaleGeneration));
        let bad = [
            (pb::EnsureLimitsRequest { fence: None, ..ensure(7, 3, 1) }, Reason::MissingField),
            (ensure(0, 3, 1), Reason::BadValue),
        ];
        for (request, expected) in bad {
            let fault = client.ensure_limits(request).await.map_err(reason);
            assert_eq!(fault.map(drop), Err(expected));
        }
        let unknown = client.get_group(pb::GetGroupRequest { ct: 8 }).await.map_err(reason);
        assert_eq!(unknown.map(drop), Err(Reason::ContainerUnknown));

        let can = client.get_capabilities(pb::GetCapabilitiesRequest {}).await.expect("told");
        let can = can.into_inner();
        assert_eq!((can.cgroup(), can.rows.len()), (pb::CgroupVersion::Hybrid, 21));
        assert!(can.rows.iter().all(|r| r.enforcement != 0));
        let bound = |total, limit| Some(pb::NodeBound { total, limit: Some(limit) });
        assert_eq!(can.ram, bound(1 << 33, (1 << 33) - (1 << 29)), "all but the reserve");
        assert_eq!(can.pids, bound(1 << 15, (1 << 15) - (1 << 12)));

        let fence = ensure(7, 3, 1).fence;
        let dry = pb::RemoveLimitsRequest { fence, dry_run: true };
        let planned = client.remove_limits(dry).await.expect("planned").into_inner();
        assert_eq!(planned.last, None, "they are still there");
        client.get_group(pb::GetGroupRequest { ct: 7 }).await.expect("still there");
        let remove = pb::RemoveLimitsRequest { fence, dry_run: false };
        let removed = client.remove_limits(remove).await.expect("removed").into_inner();
        assert_eq!((removed.steps.is_empty(), removed.steps), (false, planned.steps));
        assert_eq!(removed.last, used);
        drop(stop);
        server.await.expect("no panic").expect("served");
    }
}
