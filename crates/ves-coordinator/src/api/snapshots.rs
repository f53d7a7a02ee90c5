//! `SnapshotService`.

use tonic::{Request, Response, Status};
use ves_proto::api as pb;
use ves_proto::api::snapshot_service_server::SnapshotService;
use ves_proto::convert::{parse_snapshot_id, parse_snapshot_name as parse_title};
use ves_proto::public::{parse_name, parse_snapshot_name, snapshot_name, timestamp};
use ves_proto::{Fault, storage};
use ves_types::{SnapshotId, SnapshotInterval};

use super::Api;
use super::page::Page;
use super::reach::Target;
use crate::container::record::Record;
use crate::operation::kinds::Action;
use crate::operation::kinds::snapshot::{Delete, Switch, Take};
use crate::wrong::Wrong;

/// The greatest page of snapshots.
const PAGE: usize = 1000;

type Answer = Result<Response<pb::Operation>, Status>;

/// The snapshot that a name names; of a wrong one, what is wrong with it is noted once, here or with the container's.
fn snapshot(name: &str, wrong: &mut Wrong) -> Option<SnapshotId> {
    let id = parse_snapshot_name("name", name).map(|(_, id)| id);
    let of_container = name.split_once("/snapshots/").map_or(name, |(container, _)| container);
    match parse_name("name", "containers", of_container) {
        Ok(_) => wrong.take(id),
        Err(_) => None,
    }
}

fn render(record: &Record, snapshot: storage::Snapshot) -> Result<pb::Snapshot, Fault> {
    let ct = record.id;
    let storage::Snapshot {
        id,
        name,
        created_unix_ms,
        generation: _,
        parent,
        current,
        size_bytes,
        allocated_bytes,
        own_bytes,
        steps: _,
        damaged,
    } = snapshot;
    let parent = match parent.as_str() {
        "" => String::new(),
        parent => snapshot_name(ct, parse_snapshot_id("parent", parent)?),
    };
    let id = parse_snapshot_id("id", &id)?;
    let kept_for = record.scheduled.intervals_of(id).map(|i| render_interval(i).into());
    Ok(pb::Snapshot {
        name: snapshot_name(ct, id),
        title: name,
        allocated_bytes,
        create_time: Some(timestamp(created_unix_ms)),
        size_bytes,
        own_bytes,
        parent,
        current,
        damaged,
        kept_for: kept_for.collect(),
    })
}

const fn render_interval(interval: SnapshotInterval) -> pb::SnapshotInterval {
    match interval {
        SnapshotInterval::Hourly => pb::SnapshotInterval::Hourly,
        SnapshotInterval::Daily => pb::SnapshotInterval::Daily,
        SnapshotInterval::Weekly => pb::SnapshotInterval::Weekly,
    }
}

#[tonic::async_trait]
impl SnapshotService for Api {
    async fn create_snapshot(&self, request: Request<pb::CreateSnapshotRequest>) -> Answer {
        let mut wrong = Wrong::default();
        let r = request.get_ref();
        let title = wrong.take(parse_title(&r.title).map_err(|f| f.fact("field", "title")));
        let id = SnapshotId::from(self.0.clock().new_id().as_u128());
        let action = Action::Snapshot(Take { id, name: title.flatten() });
        let op = match self.target(&request, wrong)? {
            Target::New(ask) => self.0.begin_snapshot(ask, action).await?,
            Target::Repeated(op) => *op,
        };
        Ok(self.shown(&op))
    }

    async fn list_snapshots(
        &self,
        request: Request<pb::ListSnapshotsRequest>,
    ) -> Result<Response<pb::ListSnapshotsResponse>, Status> {
        let principal = ves_daemon::principal(&request);
        let pb::ListSnapshotsRequest { parent, page_size, page_token } = request.into_inner();
        let mut wrong = Wrong::default();
        let scope = ["snapshots", parent.as_str()];
        let page = Page::read(page_size, &page_token, (PAGE, PAGE), &scope, &mut wrong);
        wrong.end()?;
        let Some(page) = page else { return Err(Fault::missing("page_size").into()) };
        let record = self.container(&principal, "parent", &parent)?;
        let all = self.0.services().snapshots(record.id, true).await?;
        // Where the last page ended with one that is gone, it goes on with what is younger: ids say how old one is.
        let begin = match &page.after {
            None => 0,
            Some(after) => match all.iter().position(|s| s.id == *after) {
                Some(last) => last + 1,
                None => all.partition_point(|s| s.id <= *after),
            },
        };
        let more = all.len().saturating_sub(begin) > page.size;
        let shown: Vec<_> = all.into_iter().skip(begin).take(page.size).collect();
        let next_page_token = match shown.last() {
            Some(last) if more => page.token(&last.id),
            _ => String::new(),
        };
        let snapshots = shown.into_iter().map(|s| render(&record, s)).collect::<Result<_, _>>()?;
        Ok(Response::new(pb::ListSnapshotsResponse { snapshots, next_page_token }))
    }

    async fn switch_snapshot(&self, request: Request<pb::SwitchSnapshotRequest>) -> Answer {
        let mut wrong = Wrong::default();
        let snapshot = snapshot(&request.get_ref().name, &mut wrong);
        let op = match self.target(&request, wrong)? {
            Target::New(ask) => {
                let id = snapshot.ok_or_else(|| Fault::missing("name"))?;
                self.0.begin_snapshot(ask, Action::SnapshotSwitch(Switch { id })).await?
            }
            Target::Repeated(op) => *op,
        };
        Ok(self.shown(&op))
    }

    async fn delete_snapshot(&self, request: Request<pb::DeleteSnapshotRequest>) -> Answer {
        let mut wrong = Wrong::default();
        let snapshot = snapshot(&request.get_ref().name, &mut wrong);
        let op = match self.target(&request, wrong)? {
            Target::New(ask) => {
                let id = snapshot.ok_or_else(|| Fault::missing("name"))?;
                self.0.begin_snapshot(ask, Action::SnapshotDelete(Delete { id })).await?
            }
            Target::Repeated(op) => *op,
        };
        Ok(self.shown(&op))
    }
}
