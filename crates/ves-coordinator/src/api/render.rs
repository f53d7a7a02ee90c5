//! A container as the public API shows it, from what is kept about it and what was seen last.

use ves_proto::convert::render_victim;
use ves_proto::coordinator as pb;
use ves_types::Phase;

use crate::container::cache::Cached;
use crate::container::record::{Presence, Record, RunState};
use crate::container::spec;
use crate::coordinator::Coordinator;
use crate::operation::record::OpId;

/// The problem of a container that nobody can do anything with.
const UNRESPONSIVE: &str =
    "its monitor does not answer; stop the container, which ends the monitor too";

/// The problem of a container in whose file system the kernel has met errors.
fn damaged(errors: u32, mounted: bool) -> String {
    let met = match errors {
        0 => "its file system is damaged".to_owned(),
        1 => "the kernel has met an error in its file system".to_owned(),
        n => format!("the kernel has met {n} errors in its file system"),
    };
    match mounted {
        true => format!(
            "{met}, and may let nothing be written to it; restart the container, which checks and \
             mends it"
        ),
        false => format!("{met}; it is checked and mended when it is next mounted"),
    }
}

impl Coordinator {
    /// A container as the API shows it.
    pub fn render(&self, record: &Record) -> pb::Container {
        let seen = self.cache().of(record.id);
        let index = self.state().read();
        render(record, &seen, index.at_work(record.id))
    }
}

/// What a container is, from what it should be and what was seen.
fn state(record: &Record, seen: &Cached) -> pb::ContainerState {
    match (record.presence, seen.process.phase) {
        (Presence::Creating, _) => pb::ContainerState::Creating,
        (Presence::Deleting, _) => pb::ContainerState::Deleting,
        (Presence::Present, Phase::Frozen) => pb::ContainerState::Paused,
        (Presence::Present, Phase::Running) => pb::ContainerState::Running,
        (Presence::Present, Phase::Absent | Phase::Created) => match () {
            () if record.problem.is_some() => pb::ContainerState::Broken,
            () if seen.mounted || record.run == RunState::Mounted => pb::ContainerState::Mounted,
            () => pb::ContainerState::Stopped,
        },
    }
}

/// A container as the public API shows it.
fn render(record: &Record, seen: &Cached, operation: Option<&OpId>) -> pb::Container {
    let running = seen.process.phase == Phase::Running || seen.process.phase == Phase::Frozen;
    pb::Container {
        id: record.id.get(),
        spec: Some(spec::render(&record.spec)),
        state: state(record, seen).into(),
        generation: record.generation.0,
        node: record.node.to_string(),
        uid: record.uid.to_string(),
        created_unix: record.created_unix,
        started_unix_ms: seen.process.started_unix_ms.filter(|_| running),
        numproc: seen.numproc.filter(|_| running),
        problem: match &record.problem {
            Some(problem) => problem.message.clone(),
            None if seen.process.unresponsive => UNRESPONSIVE.to_owned(),
            None => seen.damage.map(|errors| damaged(errors, seen.mounted)).unwrap_or_default(),
        },
        operation: operation.map(|op| op.0.clone()).unwrap_or_default(),
        init_pid: seen.process.init_pid.filter(|_| running),
        disk_used_bytes: seen.used.map(|b| b.0).filter(|_| seen.mounted),
        oom_kills: seen.oom_kills,
        oom_victims: seen.oom_victims.iter().map(render_victim).collect(),
        stopping: running && seen.process.stopping,
        running_spec: record.running.as_ref().map(spec::render),
        next_start_unix_ms: record.next_start().map(|retry| retry.at_unix_ms),
        restarts: record.retry.as_ref().map_or(0, |retry| retry.tries),
    }
}
