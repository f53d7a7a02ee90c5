//! The events that the end of an operation, or of a part of it, makes. Pure.
//!
//! Decided in the transaction that stores it, so that nothing is told that did not happen, and nothing happens
//! untold. Never here: what nobody's operation did ([`crate::events`]), or where events are kept.

use ves_proto::api as pb;
use ves_proto::public::{operation_name, snapshot_name, template_name};
use ves_types::{ExitCause, SpecField, UbcResource};

use super::kinds::set::Set;
use super::kinds::{Action, Stage};
use super::public::{actor, kind};
use super::record::{Cause, OpRecord, OpState};
use crate::container::record::{Record, RunState};
use crate::container::spec::{copy, path_of};
use crate::event::record::{NewEvent, Type, bare};

/// An operation and its container, before and after a change that is to be stored.
#[derive(Debug, Clone, Copy)]
pub struct Turn<'a> {
    /// The operation before; none: it begins.
    pub before: Option<&'a OpRecord>,
    /// The operation after.
    pub op: &'a OpRecord,
    /// The container before.
    pub old: Option<&'a Record>,
    /// The container after; none: it is gone.
    pub new: Option<&'a Record>,
}

impl Turn<'_> {
    /// Its events. `last`: the operation that worked on the container before this one.
    pub fn events<'b>(&self, last: impl FnOnce() -> Option<&'b OpRecord>) -> Vec<NewEvent> {
        let has_ended = self.op.state != OpState::Running
            && self.before.is_none_or(|before| before.state == OpState::Running);
        let mut told = Vec::new();
        if self.was_stopped_on_the_way() {
            told.extend(self.of_container(Type::Stopped).map(|h| h.fact("cause", "STOPPED")));
        }
        if !has_ended {
            return told;
        }
        match self.op.state {
            OpState::Succeeded => told.extend(self.success()),
            OpState::Cancelled => {
                told.extend(self.undone());
                let cancelled = self.about(Type::OperationCancelled);
                told.extend(cancelled.map(|event| event.fact("kind", self.kind())));
            }
            OpState::Failed => {
                told.extend(self.undone());
                if !self.is_told_again(last()) {
                    told.extend(self.failure());
                }
            }
            OpState::Running => {}
        }
        // An operation that was to end otherwise may have taken it away all the same.
        let gone = self.old.filter(|old| self.new.is_none() && old.creating_since.is_none());
        told.extend(gone.and_then(|_| self.of_container(Type::Deleted)));
        told
    }

    /// A restart that somebody asked for has stopped what ran.
    fn was_stopped_on_the_way(&self) -> bool {
        let stage =
            self.before.filter(|_| self.op.state == OpState::Running).and_then(|op| op.stage);
        let stops =
            matches!(stage, Some(Stage::Stopped | Stage::Mounted)) && stage != self.op.stage;
        let ran = self.old.is_some_and(|old| old.maybe_dirty);
        stops && ran && self.op.undoing.is_none() && self.op.cause() != Some(Cause::Container)
    }

    fn success(&self) -> Vec<NewEvent> {
        let by_guest = self.op.cause() == Some(Cause::Container);
        let told = match &self.op.action {
            Action::Create(_) => self.of_container(Type::Created),
            Action::Start(_) => self.of_container(Type::Started),
            // That it ended, or rebooted, was told when it was seen.
            Action::Restart(_) | Action::Stop(_) if by_guest => None,
            Action::Restart(_) => self.of_container(Type::Started),
            // A repair may end what a stop could not.
            Action::Stop(_) | Action::Repair(_) => self.stopped(),
            Action::Set(set) => {
                let started = self.op.stage == Some(Stage::Running);
                let started = self.of_container(Type::Started).filter(|_| started);
                return self.changed(set).into_iter().chain(started).collect();
            }
            Action::Snapshot(_) | Action::SnapshotSwitch(_) | Action::SnapshotDelete(_) => {
                self.snapshot()
            }
            Action::TemplateBuild(_) => {
                self.about(Type::Template).map(|h| h.fact("kind", self.kind()))
            }
            Action::Destroy(_) | Action::Mount(_) | Action::Umount(_) | Action::Fsck(_) => None,
        };
        told.into_iter().collect()
    }

    /// One that ran does not any more.
    fn stopped(&self) -> Option<NewEvent> {
        let ran = self.old.is_some_and(|old| old.maybe_dirty);
        let down = self.new.is_some_and(|new| new.run != RunState::Running);
        let cause = cause_name(self.op.exit.unwrap_or(ExitCause::Stopped));
        self.of_container(Type::Stopped).filter(|_| ran && down).map(|h| h.fact("cause", cause))
    }

    fn changed(&self, set: &Set) -> Option<NewEvent> {
        let fields = changed_fields(self.old?, set);
        self.of_container(Type::Changed).map(|h| h.fact("fields", &fields.join(",")))
    }

    fn snapshot(&self) -> Option<NewEvent> {
        let snapshot = snapshot_name(self.op.ct?, self.op.action.kind().snapshot()?);
        let event = self.of_container(Type::Snapshot)?;
        Some(event.fact("snapshot", &snapshot).fact("kind", self.kind()))
    }

    /// What one that did not succeed leaves otherwise than it was told: a container that rebooted and could not be
    /// started again is stopped, one that was stopped for a change runs again, and one that runs but does not say in
    /// time that it has booted runs.
    fn undone(&self) -> Option<NewEvent> {
        let up = self.new?.run == RunState::Running;
        match (&self.op.action, self.op.stage) {
            (Action::Restart(_), _) if !up && self.op.cause() == Some(Cause::Container) => {
                let cause = cause_name(ExitCause::Rebooted);
                self.of_container(Type::Stopped).map(|h| h.fact("cause", cause))
            }
            (Action::Set(set), Some(Stage::Changed | Stage::Running)) if up && set.restart => {
                self.of_container(Type::Started)
            }
            (Action::Start(_) | Action::Restart(_), Some(Stage::Running)) if up => {
                self.of_container(Type::Started)
            }
            _ => None,
        }
    }

    fn failure(&self) -> Option<NewEvent> {
        let failed = self.about(Type::OperationFailed)?.fact("kind", self.kind());
        let Some(problem) = &self.op.fault else { return Some(failed) };
        Some(failed.fact("reason", &problem.reason).fact("message", &problem.message))
    }

    /// What the coordinator tries by itself, and what fails each time for the same reason, is told once.
    fn is_told_again(&self, last: Option<&OpRecord>) -> bool {
        let reason = |op: &OpRecord| op.fault.as_ref().map(|problem| problem.reason.clone());
        let same = |last: &OpRecord| {
            kind(&last.action) == kind(&self.op.action) && reason(last) == reason(self.op)
        };
        self.op.is_own() && last.is_some_and(|last| last.is_own() && same(last))
    }

    fn kind(&self) -> &'static str {
        bare(kind(&self.op.action).as_str_name(), "KIND_")
    }

    /// Of the container or template that it works on.
    fn about(&self, kind: Type) -> Option<NewEvent> {
        match &self.op.action {
            Action::TemplateBuild(build) => {
                Some(self.by_operation(NewEvent::to(kind, template_name(&build.name))))
            }
            _ => self.of_container(kind),
        }
    }

    fn of_container(&self, kind: Type) -> Option<NewEvent> {
        let record = self.new.or(self.old)?;
        Some(self.by_operation(NewEvent::to_container(kind, record)))
    }

    fn by_operation(&self, event: NewEvent) -> NewEvent {
        event.by(actor(self.op)).in_operation(operation_name(&self.op.id.0))
    }
}

/// As the public API calls it.
pub fn cause_name(cause: ExitCause) -> &'static str {
    use pb::last_exit::Cause as C;
    let cause = match cause {
        ExitCause::Stopped => C::Stopped,
        ExitCause::Killed => C::Killed,
        ExitCause::Halted => C::Halted,
        ExitCause::Rebooted => C::Rebooted,
        ExitCause::Exited => C::Exited,
    };
    bare(cause.as_str_name(), "CAUSE_")
}

/// The paths of what a change has changed of a container that was `old`.
fn changed_fields(old: &Record, set: &Set) -> Vec<String> {
    let (was, ran) = old.before();
    let (is, runs) = (&*set.spec, set.running.as_deref().unwrap_or(&set.spec));
    let ubc = UbcResource::ALL.into_iter().map(SpecField::Ubc);
    let differs = |field: &SpecField| {
        let (mut saved, mut running) = (was.clone(), ran.clone());
        copy(*field, is, &mut saved);
        copy(*field, runs, &mut running);
        saved != was || running != ran
    };
    let mut paths: Vec<String> =
        SpecField::PLAIN.iter().copied().chain(ubc).filter(differs).map(path_of).collect();
    if let Some(meta) = &set.meta {
        let was = old.reserved.meta.as_deref().unwrap_or(&old.meta);
        for (path, differs) in [
            ("labels", was.labels != meta.labels),
            ("annotations", was.annotations != meta.annotations),
            ("delete_protection", was.delete_protection != meta.delete_protection),
        ] {
            paths.extend(differs.then(|| path.to_owned()));
        }
    }
    paths.dedup();
    paths
}
