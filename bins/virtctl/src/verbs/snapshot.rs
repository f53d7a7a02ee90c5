//! `snapshot`, `snapshot-list`, `snapshot-switch`, `snapshot-delete`.
//!
//! Never here: where a snapshot is kept, or how large it may become.

use ves_proto::api::{self, Operation, Snapshot, SnapshotInterval};
use ves_proto::public::unix_ms;
use ves_proto::{Fault, Reason};

use super::Context;
use super::change::{change, request_id};
use crate::cli::{Change, SnapshotArgs, SnapshotListArgs, SnapshotOne, SnapshotSwitchArgs};
use crate::ct::Ct;
use crate::failure::{Failure, Outcome};
use crate::names::{self, bare};
use crate::operation::ct_of;
use crate::output::Column;
use crate::pages;
use crate::unbuilt::not_built;
use crate::value::Value;

/// The container and the snapshot an operation is about.
fn about(o: &Operation) -> (u32, &str) {
    (ct_of(o).unwrap_or_default(), bare(&o.result))
}

/// "container 101: snapshot 019ab4a0-… taken".
fn done(what: &str) -> impl Fn(&Operation) -> String {
    move |o| {
        let (ct, snapshot) = about(o);
        format!("container {ct}: snapshot {snapshot} {what}")
    }
}

impl Context {
    pub(super) async fn snapshot(self, args: SnapshotArgs) -> Outcome {
        let SnapshotArgs { change, name, with_memory, id, description, .. } = args;
        let Change { ct, dry_run } = change;
        for (given, option) in [
            (with_memory, "snapshot --with-memory"),
            (id.is_some(), "snapshot --id"),
            (description.is_some(), "snapshot --description"),
        ] {
            if given {
                return Err(not_built(option).into());
            }
        }
        let request = api::CreateSnapshotRequest {
            parent: names::container(&ct),
            title: name.map(String::from).unwrap_or_default(),
            request_id: request_id(),
            validate_only: dry_run,
            ..api::CreateSnapshotRequest::default()
        };
        change!(self, dry_run, snapshots.create_snapshot, request, done("taken"))
    }

    pub(super) async fn snapshot_switch(self, args: SnapshotSwitchArgs) -> Outcome {
        let SnapshotSwitchArgs { snapshot: SnapshotOne { change, id }, must_resume, .. } = args;
        let Change { ct, dry_run } = change;
        if must_resume {
            return Err(not_built("snapshot-switch --must-resume").into());
        }
        let request = api::SwitchSnapshotRequest {
            name: names::snapshot(&ct, id),
            request_id: request_id(),
            validate_only: dry_run,
            ..api::SwitchSnapshotRequest::default()
        };
        let done = |o: &Operation| {
            let (ct, snapshot) = about(o);
            format!("container {ct} switched to snapshot {snapshot}")
        };
        change!(self, dry_run, snapshots.switch_snapshot, request, done)
    }

    pub(super) async fn snapshot_delete(self, args: SnapshotOne) -> Outcome {
        let SnapshotOne { change: Change { ct, dry_run }, id } = args;
        let request = api::DeleteSnapshotRequest {
            name: names::snapshot(&ct, id),
            request_id: request_id(),
            validate_only: dry_run,
            ..api::DeleteSnapshotRequest::default()
        };
        change!(self, dry_run, snapshots.delete_snapshot, request, done("deleted"))
    }

    pub(super) async fn snapshot_list(self, args: SnapshotListArgs) -> Outcome {
        let SnapshotListArgs { ct, id, list_fields, list } = args;
        if list_fields {
            let names: String = columns().iter().map(|c| c.name.clone() + "\n").collect();
            return self.output.print(&names);
        }
        let mut snapshots = self.snapshots(&ct).await?;
        if let Some(id) = id {
            snapshots.retain(|s| bare(&s.name) == id.to_string());
            if snapshots.is_empty() {
                let message =
                    format!("container {ct} has no snapshot {id}; leave --id out to see all");
                let fault = Fault::new(Reason::SnapshotUnknown, message);
                return Err(fault.fact("ct", ct).fact("snapshot", id).into());
            }
        }
        for snapshot in snapshots.iter().filter(|s| s.damaged && !self.output.quiet) {
            let said = "was taken of a damaged file system, which is checked when a disk is put back to it";
            self.output.say(&format!("note: snapshot {} {said}", bare(&snapshot.name)));
        }
        let default_columns = ["id", "name", "created", "size", "current", "parent"];
        self.output.list(&columns(), &default_columns, &list.selection(self.fields), &snapshots)
    }

    /// All snapshots of a container.
    async fn snapshots(&self, ct: &Ct) -> Result<Vec<Snapshot>, Failure> {
        let list = |page_token| {
            let mut client = self.coordinator.snapshots();
            let request = api::ListSnapshotsRequest {
                parent: names::container(ct),
                page_size: 0,
                page_token,
            };
            async move { client.list_snapshots(request).await }
        };
        Ok(pages::all(&self.coordinator, list).await?)
    }
}

/// An interval of a schedule, as `--snapshots` names it.
const fn interval(interval: SnapshotInterval) -> &'static str {
    match interval {
        SnapshotInterval::Unspecified => "unknown",
        SnapshotInterval::Hourly => "hourly",
        SnapshotInterval::Daily => "daily",
        SnapshotInterval::Weekly => "weekly",
    }
}

fn columns() -> Vec<Column<Snapshot>> {
    vec![
        Column::new("id", |s: &Snapshot| Value::text(bare(&s.name))),
        Column::new("name", |s: &Snapshot| Value::text(&s.title)),
        Column::new("created", |s: &Snapshot| {
            Value::maybe_time(s.create_time.as_ref().map(unix_ms))
        }),
        // What deleting it gives back.
        Column::right("size", |s: &Snapshot| s.own_bytes.map_or(Value::Null, Value::Bytes)),
        // What it can come to take when the container rewrites its disk.
        Column::right("reserved", |s: &Snapshot| Value::Bytes(s.allocated_bytes)),
        Column::right("diskspace", |s: &Snapshot| Value::Bytes(s.size_bytes)),
        Column::new("current", |s: &Snapshot| Value::Bool(s.current)),
        Column::new("parent", |s: &Snapshot| Value::text(bare(&s.parent))),
        Column::new("damaged", |s: &Snapshot| Value::Bool(s.damaged)),
        // Those of a schedule go by themselves.
        Column::new("kept_for", |s: &Snapshot| Value::texts(s.kept_for().map(interval))),
    ]
}
