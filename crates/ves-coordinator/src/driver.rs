//! Carrying an operation out: one task from its first step to its stored end.
//!
//! Whatever happens in between is stored before it has effects, so a driver of the next process
//! goes on where this one was killed: the container is looked at again and planned for again.
//!
//! ```text
//!  stored ─ converge ─┬─ next stage … ─ Succeeded
//!                   └─ fault or cancel ─ undo ─ converge ─ Failed | Cancelled
//! converge: look → plan → each step, tried again while its service is away → look …
//! ```
//!
//! Never here: what the steps are ([`crate::plan`]) and what the stages are ([`crate::stage`]).

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::Instrument;
use ves_proto::convert::Fence;
use ves_proto::{Fault, Reason};
use ves_types::{CtId, SnapshotId};

use crate::model::{Action, OpId, OpRecord, OpState, Problem, Progress, Record};
use crate::plan::{Desired, End, Observed, Phase, Refusal, Step, foreign_message, plan};
use crate::service::{Coordinator, now_ms};
use crate::services::deadline;
use crate::stage::{self, Undo};

/// How often a container may turn out different from what was just asked for.
const ROUNDS: usize = 5;
/// How long to wait at first, and at most, before a service is asked again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
/// How often init is asked whether it has booted.
const BOOTED_PAUSE: Duration = Duration::from_millis(200);

/// Why settling ended before the container was where it should be.
#[derive(Debug)]
enum Stopped {
    Failed(Fault),
    Cancelled,
}

impl From<Fault> for Stopped {
    fn from(fault: Fault) -> Self {
        Self::Failed(fault)
    }
}

/// The fault of a plan's refusal.
pub(crate) fn refused(refusal: &Refusal) -> Fault {
    match refusal {
        Refusal::VolumeLost(ct) => {
            Fault::new(Reason::VolumeUnknown, refusal.to_string()).fact("ct", ct)
        }
        Refusal::SnapshotUnknown(ct, id) => snapshot_unknown(*ct, *id),
        Refusal::Foreign(ct, what) => foreign(*ct, what),
    }
}

/// The fault of a snapshot that is not there.
pub(crate) fn snapshot_unknown(ct: CtId, id: SnapshotId) -> Fault {
    let message = Refusal::SnapshotUnknown(ct, id).to_string();
    Fault::new(Reason::SnapshotUnknown, message).fact("ct", ct).fact("snapshot", id)
}

/// The fault of leftovers of an earlier container.
pub(crate) fn foreign(ct: CtId, what: &[&str]) -> Fault {
    Fault::new(Reason::ForeignContents, foreign_message(ct, what))
        .fact("ct", ct)
        .fact("what", what.join(", "))
}

impl Coordinator {
    /// Carries an operation out to its end.
    pub(crate) async fn drive(&self, id: OpId) {
        let Ok(op) = self.state().read().operation(&id).map(|op| OpRecord::clone(op)) else {
            return;
        };
        tracing::info!(principal = %op.principal, stage = op.stage, "operation goes on");
        match op.ct {
            Some(ct) => self.drive_container(&id, ct).await,
            None => self.drive_template(&op).await,
        }
        if let Ok(op) = self.state().read().operation(&id) {
            let fault = op.fault.as_ref().map(|f| f.message.as_str());
            tracing::info!(state = ?op.state, fault, "operation ended");
        }
    }

    async fn drive_container(&self, id: &OpId, ct: CtId) {
        loop {
            let current = {
                let index = self.state().read();
                index
                    .operation(id)
                    .map(|op| OpRecord::clone(op))
                    .and_then(|op| index.container(ct).map(|record| (op, Record::clone(record))))
            };
            if current.as_ref().is_ok_and(|(op, _)| op.state != OpState::Running) {
                return;
            }
            let (op, record) = match current {
                Ok(current) => current,
                Err(fault) => {
                    return self.end_lost(id, fault).await;
                }
            };
            let result = self.converge(&op, &record).await;
            if self.advance(&op, record, result).await {
                return;
            }
        }
    }

    /// Stores the end of an operation whose container's record cannot be read: nothing is done to
    /// the container.
    pub(crate) async fn end_lost(&self, id: &OpId, fault: Fault) {
        tracing::error!(operation = %id, error = %fault, "an operation has lost its container");
        let op = self.state().read().operation(id).map(|op| OpRecord::clone(op));
        // One that cannot be read itself is no operation that somebody waits for.
        let Ok(op) = op else { return };
        self.store(&op, move |op| end(op, Some(&fault)), None).await;
    }

    /// Stores what follows from a reached or failed stage; true: that was the end.
    async fn advance(
        &self,
        op: &OpRecord,
        record: Record,
        result: Result<Observed, Stopped>,
    ) -> bool {
        match (result, &op.undoing) {
            (Ok(seen), None) if op.stage < stage::count(&op.action) => {
                let mut record = stage::on_converged(record.clone()).unwrap_or(record);
                record.seen_incarnation = seen.process.incarnation;
                stage::enter(&op.action, op.stage, &mut record);
                let stage = op.stage.saturating_add(1);
                self.store(op, move |op| op.stage = stage, Some(Some(record))).await;
                false
            }
            (Ok(seen), None) => {
                let late = self.await_booted(op, &record).await;
                match late {
                    Err(Stopped::Cancelled) => self.roll_back(op, record, Stopped::Cancelled).await,
                    // A container that ended meanwhile did not start; one that is slow did.
                    Err(Stopped::Failed(f)) if f.reason != Reason::Timeout => {
                        self.roll_back(op, record, Stopped::Failed(f)).await
                    }
                    late => {
                        let fault = match late {
                            Err(Stopped::Failed(f)) => Some(f),
                            _ => None,
                        };
                        self.finish(op, record, Some(&seen), fault).await;
                        true
                    }
                }
            }
            (Ok(seen), Some(why)) => {
                let fault = why.fault();
                self.finish(op, record, Some(&seen), Some(fault)).await;
                true
            }
            (Err(Stopped::Failed(fault)), None) if fault.reason == Reason::NeedsRestart => {
                match op.action.fallback() {
                    Some(action) => {
                        self.fall_back(op, record, action, &fault).await;
                        false
                    }
                    None => self.roll_back(op, record, Stopped::Failed(fault)).await,
                }
            }
            (Err(stopped), None) => self.roll_back(op, record, stopped).await,
            (Err(Stopped::Cancelled), Some(_)) => false,
            (Err(Stopped::Failed(second)), Some(why)) => {
                // It can neither be finished nor taken back now; the record says so.
                let mut record = record;
                record.problem = Some(Problem::from(&second));
                let fault = why.fault();
                tracing::error!(error = %second, first = %fault, "undoing an operation failed");
                self.finish(op, record, None, Some(fault)).await;
                true
            }
        }
    }

    /// Begins a change anew in the way the caller wants where it cannot be made at once.
    async fn fall_back(&self, op: &OpRecord, mut record: Record, action: Action, fault: &Fault) {
        tracing::info!(reason = %fault, "going the other way");
        stage::enter(&action, 0, &mut record);
        let line = format!("instead: {fault}");
        let update = move |op: &mut OpRecord| {
            op.action = action.clone();
            op.stage = 1;
            op.steps.push(line.clone());
        };
        self.store(op, update, Some(Some(record))).await;
    }

    /// Begins to undo, or says that there is no way back; true: that was the end.
    async fn roll_back(&self, op: &OpRecord, mut record: Record, stopped: Stopped) -> bool {
        let seen: Observed = self.look(op, record.id).await.unwrap_or_default();
        let cancelled = matches!(stopped, Stopped::Cancelled);
        let fault = match stopped {
            Stopped::Failed(fault) => fault,
            Stopped::Cancelled => cancelled_fault(op),
        };
        match stage::undo(&op.action, &mut record, &seen) {
            Undo::RollBack => {
                tracing::warn!(error = %fault, "undoing");
                let problem = Problem::from(&fault);
                let update = move |op: &mut OpRecord| {
                    op.undoing = Some(problem.clone());
                    op.steps.push(format!("undo: {fault}"));
                };
                self.store(op, update, Some(Some(record))).await;
                false
            }
            // Finished although somebody wanted it to stop.
            Undo::RollForward if cancelled => {
                self.store(op, |op| op.cancel = false, None).await;
                false
            }
            Undo::RollForward => {
                record.problem = Some(Problem::from(&fault));
                self.finish(op, record, None, Some(fault)).await;
                true
            }
        }
    }

    /// Stores the end. `seen`: the container is where its record wants it.
    async fn finish(
        &self,
        op: &OpRecord,
        mut record: Record,
        seen: Option<&Observed>,
        fault: Option<Fault>,
    ) {
        let ct = record.id;
        let record = match seen {
            // It was led nowhere: how far it is up, and what became of it meanwhile, stays to be seen.
            Some(_) if record.snapshot.as_ref().is_some_and(|wish| wish.alone) => {
                record.snapshot = None;
                Some(record)
            }
            Some(seen) => {
                record.seen_incarnation = seen.process.incarnation;
                record.release();
                stage::on_converged(record)
            }
            None => Some(record),
        };
        if record.is_none() {
            self.observed_cache().forget(ct);
        }
        let update = move |op: &mut OpRecord| end(op, fault.as_ref());
        self.store(op, update, Some(record)).await;
    }

    /// Stores a change of the operation and of its container, as often as the store fails: there is
    /// no going on without. What it refuses ends the operation. `record`: unchanged, gone, or new.
    async fn store(
        &self,
        op: &OpRecord,
        update: impl Fn(&mut OpRecord) + Send + Sync + 'static,
        record: Option<Option<Record>>,
    ) {
        let update = Arc::new(update);
        let mut pause = PAUSE.0;
        let mut refused = None;
        loop {
            let (id, record, update) = (op.id.clone(), record.clone(), Arc::clone(&update));
            let why = refused.clone();
            let result = self
                .transact(move |index, change| {
                    let mut new = OpRecord::clone(index.operation(&id)?);
                    if let Some(why) = why {
                        end(&mut new, Some(&why));
                        if let Some(Ok(record)) = new.ct.map(|ct| index.container(ct)) {
                            let mut record = Record::clone(record);
                            record.problem = Some(Problem::from(&why));
                            change.containers.push(record);
                        }
                        change.operations.push(new);
                        return Ok(());
                    }
                    update(&mut new);
                    match (record, new.ct) {
                        (Some(Some(record)), _) => change.containers.push(record),
                        (Some(None), Some(ct)) => change.gone.push(ct),
                        (Some(None), None) | (None, _) => {}
                    }
                    change.operations.push(new);
                    Ok(())
                })
                .await;
            match result {
                Ok(()) => return,
                Err(fault) if fault.reason != Reason::HostFailed && refused.is_none() => {
                    tracing::error!(error = %fault, "an operation's change is refused");
                    refused = Some(fault);
                }
                Err(fault) if fault.reason != Reason::HostFailed => {
                    tracing::error!(error = %fault, "an operation's end is refused");
                    return;
                }
                Err(fault) => {
                    tracing::error!(error = %fault, "storing an operation failed, trying again");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(10));
                }
            }
        }
    }

    /// Leads a container to where its record wants it.
    async fn converge(&self, op: &OpRecord, record: &Record) -> Result<Observed, Stopped> {
        let ct = record.id;
        let mut desired = Desired::of(record, op.action.grace_ms());
        let mut started = false;
        for round in 0..ROUNDS {
            let seen = self.look(op, ct).await?;
            if started && seen.process.phase == Phase::Absent && seen.process.end != End::Rebooted {
                return Err(init_exited(ct, &seen).into());
            }
            let steps = plan(&desired, &seen).map_err(|e| refused(&e))?;
            if steps.is_empty() {
                if started {
                    self.await_settled(ct, seen.process.incarnation).await?;
                }
                return Ok(seen);
            }
            let total = u64::try_from(steps.len()).unwrap_or(u64::MAX);
            for (done, step) in (0..).zip(&steps) {
                self.stop_if_cancelled(op)?;
                self.state().progress(&op.id, |op| {
                    op.progress = Progress { what: step.to_string(), done, total };
                });
                let remark = self.perform(op, record.fence(), step).await?;
                started |=
                    matches!(step, Step::RunProcess(_)) && seen.process.phase != Phase::Running;
                self.state().progress(&op.id, |op| {
                    op.steps.push(step.to_string());
                    op.steps.extend(remark.map(str::to_owned));
                });
            }
            // Everything that might have been left was taken away once.
            desired.maybe_dirty = false;
            tracing::debug!(round, "looking again");
        }
        let seen = self.look(op, ct).await?;
        let left = plan(&desired, &seen).map_err(|e| refused(&e))?;
        let Some(step) = left.first() else { return Ok(seen) };
        let message = format!(
            "container {ct}: {} accepts every call and still does not show \"{step}\"; look at its \
             log",
            step.service()
        );
        Err(Fault::new(Reason::HostFailed, message).fact("step", step).into())
    }

    /// Looks at the container, waiting for services that are away.
    async fn look(&self, op: &OpRecord, ct: CtId) -> Result<Observed, Stopped> {
        let until = Instant::now() + self.config().patience();
        let mut pause = PAUSE.0;
        loop {
            match self.services().observe(ct).await {
                Ok(seen) => {
                    self.observed_cache().look(ct, &seen);
                    return Ok(seen);
                }
                Err(fault) => self.pause(op, &fault, until, &mut pause).await?,
            }
        }
    }

    /// Performs a step, waiting for a service that is away or still busy with an earlier call.
    async fn perform(
        &self,
        op: &OpRecord,
        fence: Fence,
        step: &Step,
    ) -> Result<Option<&'static str>, Stopped> {
        let span = tracing::info_span!(
            "step",
            otel.name = format!("step {step}"),
            %step,
            ct = fence.ct.get(),
            generation = fence.generation.0,
        );
        let begun = Instant::now();
        let patience = self.config().patience();
        let mut pause = PAUSE.0;
        let mut away_since = None;
        loop {
            let call = self.services().apply(fence, step).instrument(span.clone());
            let fault = match call.await {
                Ok(remark) => return Ok(remark),
                Err(fault) => fault,
            };
            let until = match fault.reason {
                // What it is busy with is a call of ours from before a restart: it may take as long
                // as the call itself.
                Reason::Busy => begun + deadline(step).max(patience),
                _ => *away_since.get_or_insert_with(Instant::now) + patience,
            };
            self.pause(op, &fault, until, &mut pause).await?;
        }
    }

    /// Waits before a service is asked again; fails where that is of no use or late.
    async fn pause(
        &self,
        op: &OpRecord,
        fault: &Fault,
        until: Instant,
        pause: &mut Duration,
    ) -> Result<(), Stopped> {
        let passing = matches!(
            fault.reason,
            Reason::PeerDown | Reason::Starting | Reason::Busy | Reason::Timeout
        );
        if !passing || Instant::now() >= until {
            return Err(Stopped::Failed(fault.clone()));
        }
        tracing::warn!(error = %fault, "trying again");
        self.state().progress(&op.id, |op| op.progress.what = format!("waiting: {fault}"));
        tokio::select! {
            () = tokio::time::sleep(*pause) => {}
            () = self.cancelled(op) => return Err(Stopped::Cancelled),
        }
        *pause = (*pause * 2).min(PAUSE.1);
        Ok(())
    }

    /// Resolves when somebody wants the operation to stop, unless it is undone already.
    pub(crate) async fn cancelled(&self, op: &OpRecord) {
        let mut ticks = self.state().operation_ticks();
        loop {
            if self.stop_if_cancelled(op).is_err() {
                return;
            }
            if ticks.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    fn stop_if_cancelled(&self, op: &OpRecord) -> Result<(), Stopped> {
        let wanted = self.state().read().operation(&op.id).is_ok_and(|op| op.cancel);
        if wanted && op.undoing.is_none() && op_may_be_cancelled(op) {
            return Err(Stopped::Cancelled);
        }
        Ok(())
    }

    /// Waits a moment for an init that ends at once.
    async fn await_settled(&self, ct: CtId, incarnation: u64) -> Result<(), Stopped> {
        let mut revisions = self.state().revisions();
        let until = Instant::now() + self.config().early_exit_grace();
        loop {
            let seen = self.observed_cache().of(ct).process;
            if seen.phase == Phase::Absent
                && seen.incarnation > incarnation
                && seen.end != End::Rebooted
            {
                let seen = Observed { process: seen, ..Observed::default() };
                return Err(init_exited(ct, &seen).into());
            }
            // Elapsed: it has lived on.
            match tokio::time::timeout_at(until, revisions.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return Ok(()),
            }
        }
    }

    /// `start --wait`: waits until init says that it booted.
    async fn await_booted(&self, op: &OpRecord, record: &Record) -> Result<(), Stopped> {
        let wait =
            matches!(op.action, Action::Start { wait: true } | Action::Restart { wait: true, .. });
        if !wait {
            return Ok(());
        }
        let ct = record.id;
        let until = Instant::now() + self.config().booted_within();
        self.state().progress(&op.id, |op| op.progress.what = "waiting for init to boot".into());
        loop {
            // A service that is away is no answer; the deadline bounds that too.
            if let Ok(process) = self.services().process(ct).await {
                if process.booted {
                    return Ok(());
                }
                if process.phase == Phase::Absent && process.end != End::Rebooted {
                    let seen = Observed { process, ..Observed::default() };
                    return Err(init_exited(ct, &seen).into());
                }
            }
            if Instant::now() >= until {
                let message = format!(
                    "container {ct} runs, but its init has not said for {} s that it booted; look \
                     at its console",
                    self.config().booted_within().as_secs()
                );
                let fault = Fault::new(Reason::Timeout, message);
                return Err(fault.fact("what", "boot").fact("ct", ct).into());
            }
            tokio::select! {
                () = tokio::time::sleep(BOOTED_PAUSE) => {}
                () = self.cancelled(op) => return Err(Stopped::Cancelled),
            }
        }
    }

    /// Stores the end of an operation without a container.
    pub(crate) async fn finish_template(&self, op: &OpRecord, fault: Option<Fault>) {
        self.store(op, move |op| end(op, fault.as_ref()), None).await;
    }
}

/// What has no way back is finished.
const fn op_may_be_cancelled(op: &OpRecord) -> bool {
    !matches!(
        op.action,
        Action::Destroy
            | Action::Repair
            | Action::SnapshotSwitch { .. }
            | Action::SnapshotDelete { .. }
    )
}

/// The fault of an operation that somebody stopped.
pub(crate) fn cancelled_fault(op: &OpRecord) -> Fault {
    let message = format!("{} was cancelled and what it did was taken back", op.action.kind());
    Fault::new(Reason::Cancelled, message).fact("operation", &op.id)
}

fn end(op: &mut OpRecord, fault: Option<&Fault>) {
    op.state = match fault {
        None => OpState::Succeeded,
        Some(fault) if fault.reason == Reason::Cancelled => OpState::Cancelled,
        Some(_) => OpState::Failed,
    };
    op.fault = fault.map(Problem::from);
    op.ended_unix_ms = Some(now_ms());
    op.progress = Progress::default();
}

fn init_exited(ct: CtId, seen: &Observed) -> Fault {
    let status = seen.process.end_status;
    let status = status.map_or_else(|| "unknown".to_owned(), |s| s.to_string());
    let message = format!(
        "container {ct}: its init ended at once with status {status}; look at its console, and \
         whether its template has an init"
    );
    Fault::new(Reason::InitExited, message).fact("ct", ct).fact("status", status)
}
