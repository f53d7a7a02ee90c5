//! Containers and operations as the public API shows them, from what is kept and what was seen last.

use ves_proto::public::{
    container_name, node_name, operation_name, render_victim, snapshot_name, template_name,
    timestamp,
};
use ves_proto::{Fault, Reason, api as pb};
use ves_types::{CtId, ExitCause, Phase};

use crate::container::cache::Cached;
use crate::container::given;
use crate::container::observed::ProcessSeen;
use crate::container::record::Record;
use crate::container::state::State;
use crate::coordinator::Coordinator;
use crate::operation::kinds::Action;
use crate::operation::public::{actor, kind};
use crate::operation::record::{OpId, OpRecord, OpState, Progress};

/// The problem of a container that nobody can do anything with.
fn unresponsive(ct: CtId) -> Fault {
    let message = "its monitor does not answer; stop the container, which ends the monitor too";
    Fault::new(Reason::Running, message).fact("ct", ct).fact("lost", "monitor")
}

/// The problem of a container in whose file system the kernel has met errors.
fn damaged(ct: CtId, errors: u32, mounted: bool) -> Fault {
    let met = match errors {
        0 => "its file system is damaged".to_owned(),
        1 => "the kernel has met an error in its file system".to_owned(),
        n => format!("the kernel has met {n} errors in its file system"),
    };
    let message = match mounted {
        true => format!(
            "{met}, and may let nothing be written to it; restart the container, which checks and \
             mends it"
        ),
        false => format!("{met}; it is checked and mended when it is next mounted"),
    };
    Fault::new(Reason::VolumeDamaged, message).fact("ct", ct).fact("errors", errors)
}

impl Coordinator {
    /// A container as the API shows it.
    pub fn render(&self, record: &Record) -> pb::Container {
        let seen = self.cache().of(record.id);
        let index = self.state().read();
        render(record, &seen, index.at_work(record.id))
    }

    /// An operation as the API shows it.
    pub fn render_operation(&self, op: &OpRecord) -> pb::Operation {
        render_operation(op, self.config().keep_operations_s)
    }
}

/// The public name of what a container is.
const fn state(state: State) -> pb::container_status::State {
    use pb::container_status::State as S;
    match state {
        State::Creating => S::Creating,
        State::Stopped => S::Stopped,
        State::Mounted => S::Mounted,
        State::Running => S::Running,
        State::Stopping => S::Stopping,
        State::Paused => S::Paused,
        State::Deleting => S::Deleting,
        State::Broken => S::Broken,
    }
}

/// How its processes last ended, where that is known.
fn last_exit(process: &ProcessSeen) -> Option<pb::LastExit> {
    use pb::last_exit::Cause as C;
    let cause = match process.end? {
        ExitCause::Stopped => C::Stopped,
        ExitCause::Killed => C::Killed,
        ExitCause::Halted => C::Halted,
        ExitCause::Rebooted => C::Rebooted,
        ExitCause::Exited => C::Exited,
    };
    let how = match process.end_signal {
        Some(signal) => Some(pb::exit_status::How::Signal(signal)),
        None => process.end_status.map(pb::exit_status::How::Code),
    };
    let status = how.map(|how| pb::ExitStatus { how: Some(how) });
    Some(pb::LastExit { cause: cause.into(), status })
}

fn render(record: &Record, seen: &Cached, operation: Option<&OpId>) -> pb::Container {
    let process = &seen.process;
    let running = process.phase == Phase::Running || process.phase == Phase::Frozen;
    let problem = match &record.problem {
        Some(problem) => Some(problem.fault()),
        None if process.unresponsive => Some(unresponsive(record.id)),
        None => seen.damage.map(|errors| damaged(record.id, errors, seen.mounted)),
    };
    let next_start = record.next_start();
    let status = pb::ContainerStatus {
        state: state(State::of(record, seen)).into(),
        running_spec: record.running.as_ref().map(given::render),
        reconciling: operation.is_some(),
        problem: problem.map(Fault::to_message),
        operation: operation.map(|op| operation_name(&op.0)).unwrap_or_default(),
        start_time: process.started_unix_ms.filter(|_| running).map(timestamp),
        last_exit: last_exit(process),
        incarnation: process.incarnation,
        init_pid: process.init_pid.filter(|_| running),
        numproc: seen.numproc.filter(|_| running),
        disk_used_bytes: seen.used.map(|b| b.0).filter(|_| seen.mounted),
        next_start_time: next_start.map(|retry| timestamp(retry.at_unix_ms)),
        restarts: record.retry.as_ref().map_or(0, |retry| retry.tries),
        oom_kills: seen.oom_kills,
        oom_victims: seen.oom_victims.iter().map(render_victim).collect(),
    };
    let alias = record.spec.name.as_ref();
    pb::Container {
        name: container_name(record.id),
        ct_id: record.id.get(),
        uid: record.uid.to_string(),
        alias: alias.map(|alias| alias.as_str().to_owned()).unwrap_or_default(),
        project: record.meta.project_name().unwrap_or_default(),
        labels: record.meta.labels.clone(),
        annotations: record.meta.annotations.clone(),
        description: record.spec.description.clone(),
        node: node_name(&record.node),
        spec: Some(given::render(&record.spec)),
        status: Some(status),
        etag: record.etag(),
        generation: record.generation.0,
        create_time: Some(timestamp(record.created_unix.saturating_mul(1000))),
        delete_protection: record.meta.delete_protection,
    }
}

/// A step from its line: a service and what it does, or in detail how it does that, which is a remark.
fn step(line: &str) -> pb::Step {
    const SERVICES: [&str; 4] = ["storage", "network", "resources", "lifecycle"];
    let detail = line.strip_prefix("  ");
    let (service, message) = match line.split_once(": ") {
        Some((service, message)) if SERVICES.contains(&service) => (service, message),
        _ => ("", detail.unwrap_or(line)),
    };
    pb::Step { service: service.to_owned(), message: message.to_owned(), remark: detail.is_some() }
}

fn render_operation(op: &OpRecord, keep_s: u64) -> pb::Operation {
    use pb::operation::State as S;
    let OpRecord {
        id,
        action,
        node,
        ct,
        state,
        stage: _,
        undoing: _,
        cancel,
        steps,
        warnings,
        fault,
        started_unix_ms,
        ended_unix_ms,
        principal: _,
        on_behalf_of: _,
        project,
        validate_only,
        request,
        progress,
        exit: _,
    } = op;
    let state = match state {
        OpState::Running if *cancel && action.kind().may_be_cancelled() => S::Cancelling,
        OpState::Running => S::Running,
        OpState::Succeeded => S::Succeeded,
        OpState::Failed => S::Failed,
        OpState::Cancelled => S::Cancelled,
    };
    let template = match action {
        Action::TemplateBuild(build) => Some(template_name(&build.name)),
        _ => None,
    };
    let snapshot = action.kind().snapshot();
    let Progress { what, done, total } = progress.clone();
    // A caller's id follows who that is.
    let request_id = request.as_ref().and_then(|request| request.id.split_once('/'));
    let keep_ms = i64::try_from(keep_s).unwrap_or(i64::MAX).saturating_mul(1000);
    pb::Operation {
        name: operation_name(&id.0),
        kind: kind(action).into(),
        state: state.into(),
        targets: ct.map(container_name).or(template).into_iter().collect(),
        result: ct.zip(snapshot).map(|(ct, id)| snapshot_name(ct, id)).unwrap_or_default(),
        error: fault.as_ref().map(|problem| problem.fault().to_message()),
        progress: Some(pb::Progress { message: what, done, total }),
        steps: steps.iter().map(|line| step(line)).collect(),
        warnings: warnings.clone(),
        create_time: Some(timestamp(*started_unix_ms)),
        end_time: ended_unix_ms.map(timestamp),
        expire_time: ended_unix_ms
            .filter(|_| !validate_only)
            .map(|ms| timestamp(ms.saturating_add(keep_ms))),
        actor: Some(actor(op)),
        request_id: request_id.map(|(_, id)| id.to_owned()).unwrap_or_default(),
        node: node_name(node),
        project: project.as_ref().map(|name| format!("projects/{name}")).unwrap_or_default(),
        validate_only: *validate_only,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_steps_and_remarks() {
        let read = |line| {
            let pb::Step { service, message, remark } = step(line);
            (service, message, remark)
        };
        let told =
            |service: &str, message: &str, remark| (service.to_owned(), message.to_owned(), remark);
        assert_eq!(read("network: no link"), told("network", "no link", false));
        assert_eq!(read("  delete link: ves7"), told("", "delete link: ves7", true));
        assert_eq!(read("undo: it was cancelled"), told("", "undo: it was cancelled", false));
        assert_eq!(read("made: so"), told("", "made: so", false));
    }
}
