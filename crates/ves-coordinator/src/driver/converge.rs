//! Leading a container to where its record wants it: look, plan, perform each step, look again.

use std::time::Duration;

use futures::future::join_all;
use tokio::time::Instant;
use tracing::Instrument;
use ves_daemon::converge::variant;
use ves_proto::{Fault, Reason};
use ves_types::{CtId, ExitCause, Fence, Phase};

use super::Stopped;
use crate::container::observed::Observed;
use crate::container::plan::plan;
use crate::container::record::Record;
use crate::container::step::{Step, together};
use crate::coordinator::Coordinator;
use crate::operation::record::{OpRecord, Progress};
use crate::services::apply::{Applied, deadline};

/// How often a container is planned for, at most: every second time on a fresh look, since it turned
/// out different from what was just asked for.
const ROUNDS: usize = 10;

/// How long to wait at first, and at most, before a service is asked again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// How long lifecycle may say nothing of an init that boots before it is asked.
const BOOTED_PAUSE: Duration = Duration::from_secs(1);

impl Coordinator {
    /// Leads a container to where its record wants it. `first`: what its services show, where they were
    /// asked just now.
    pub(super) async fn converge(
        &self,
        op: &OpRecord,
        record: &Record,
        first: Option<Observed>,
    ) -> Result<Observed, Stopped> {
        let ct = record.id;
        let mut desired = op.action.desired(record);
        let mut started = false;
        let mut seen = match first {
            Some(seen) => seen,
            None => self.look(op, ct).await?,
        };
        self.usage().begin(record);
        self.count(record, &seen.counted);
        if record.is_behind(seen.newest()) {
            return Err(Stopped::Behind(seen.newest()));
        }
        let mut answered = false;
        'rounds: for round in 0..ROUNDS {
            if started
                && seen.process.phase == Phase::Absent
                && seen.process.end != Some(ExitCause::Rebooted)
            {
                return Err(init_exited(ct, &seen).into());
            }
            let steps = plan(&desired, &seen).map_err(|e| Fault::from(&e))?;
            if steps.is_empty() {
                if started {
                    self.await_early_exit(ct, seen.process.incarnation).await?;
                }
                self.take_in(ct, &seen);
                return Ok(seen);
            }
            // What was answered leads nowhere: perhaps more has changed than was asked for.
            if std::mem::take(&mut answered) {
                tracing::debug!(round, "looking again");
                seen = self.look(op, ct).await?;
                continue;
            }
            let total = u64::try_from(steps.len()).unwrap_or(u64::MAX);
            let mut done = 0_u64;
            for at_once in together(&steps) {
                self.stop_if_cancelled(op)?;
                let lines: Vec<_> = at_once.iter().map(ToString::to_string).collect();
                self.state().progress(&op.id, |op| {
                    op.progress = Progress { what: lines.join("; "), done, total };
                });
                let device = seen.device();
                let calls =
                    at_once.iter().map(|step| self.perform(op, record.fence(), step, device));
                // Also where one fails the others end: what a service does is never cut.
                let mut failed = None;
                for (step, applied) in at_once.iter().zip(join_all(calls).await) {
                    let Applied { share, warning, last } = match applied {
                        Ok(applied) => applied,
                        Err(stopped) => {
                            failed.get_or_insert(stopped);
                            continue;
                        }
                    };
                    started |=
                        matches!(step, Step::RunProcess(_)) && seen.process.phase != Phase::Running;
                    self.count_step(record, step, &seen, last.as_ref());
                    seen = seen.answered(step, record.generation, share);
                    self.state().progress(&op.id, |op| {
                        op.steps.push(step.to_string());
                        op.warnings.extend(warning.clone());
                    });
                }
                if let Some(stopped) = failed {
                    let not_running = matches!(&stopped, Stopped::Failed(fault) if fault.reason == Reason::NotRunning);
                    if desired.starts || !not_running {
                        return Err(stopped);
                    }
                    // It may have ended by itself between the look and the step, which is no failure of
                    // what only keeps it running.
                    seen = self.look(op, ct).await?;
                    if seen.process.phase != Phase::Absent {
                        return Err(stopped);
                    }
                    continue 'rounds;
                }
                done = done.saturating_add(u64::try_from(at_once.len()).unwrap_or(u64::MAX));
            }
            // Everything that might have been left was taken away once.
            desired.maybe_dirty = false;
            desired.maybe_volume = false;
            answered = true;
        }
        let left = plan(&desired, &seen).map_err(|e| Fault::from(&e))?;
        let Some(step) = left.first() else { return Ok(seen) };
        let message = format!(
            "container {ct}: {} accepts every call and still does not show \"{step}\"; look at its \
             log",
            step.service()
        );
        Err(Fault::new(Reason::HostFailed, message).fact("step", step).into())
    }

    /// Looks at the container, waiting for services that are away.
    pub(super) async fn look(&self, op: &OpRecord, ct: CtId) -> Result<Observed, Stopped> {
        let until = self.clock().instant() + self.config().patience();
        let mut pause = PAUSE.0;
        loop {
            match self.services().observe(ct).await {
                Ok(seen) => {
                    self.take_in(ct, &seen);
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
        device: Option<u64>,
    ) -> Result<Applied, Stopped> {
        let span = tracing::info_span!(
            "step",
            otel.name = format!("step {}.{}", step.service(), variant(step)),
            ves.step = %step,
            container.id = fence.ct.get(),
            ves.generation = fence.generation.0,
            otel.status_code = tracing::field::Empty,
        );
        let begun = self.clock().instant();
        let patience = self.config().patience();
        let mut pause = PAUSE.0;
        let mut away_since = None;
        loop {
            let call = self.services().apply(fence, step, device).instrument(span.clone());
            let fault = match call.await {
                Ok(applied) => return Ok(applied),
                Err(fault) => fault,
            };
            let until = match fault.reason {
                // What it is busy with is a call of ours from before a restart: it may take as long
                // as the call itself.
                Reason::Busy => begun + deadline(step).max(patience),
                _ => *away_since.get_or_insert_with(|| self.clock().instant()) + patience,
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
        if !passing || self.clock().instant() >= until {
            return Err(Stopped::Failed(fault.clone()));
        }
        tracing::warn!(error = %fault, "trying again");
        self.state().progress(&op.id, |op| op.progress.what = format!("waiting: {fault}"));
        tokio::select! {
            () = self.clock().sleep(*pause) => {}
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
        if wanted && op.undoing.is_none() && op.action.kind().may_be_cancelled() {
            return Err(Stopped::Cancelled);
        }
        Ok(())
    }

    /// Waits a moment for an init that ends at once.
    async fn await_early_exit(&self, ct: CtId, incarnation: u64) -> Result<(), Stopped> {
        let mut revisions = self.state().revisions();
        let mut over = self.clock().sleep(self.config().early_exit_grace());
        loop {
            let seen = self.cache().of(ct).process;
            if seen.phase == Phase::Absent
                && seen.incarnation > incarnation
                && seen.end != Some(ExitCause::Rebooted)
            {
                let seen = Observed { process: seen, ..Observed::default() };
                return Err(init_exited(ct, &seen).into());
            }
            tokio::select! {
                biased;
                changed = revisions.changed() => if changed.is_err() { return Ok(()) },
                // It has lived on.
                () = &mut over => return Ok(()),
            }
        }
    }

    /// `start --wait`: waits until init says that it booted.
    pub(super) async fn await_booted(&self, op: &OpRecord, record: &Record) -> Result<(), Stopped> {
        if !op.action.kind().waits_for_boot() {
            return Ok(());
        }
        let ct = record.id;
        let until = self.clock().instant() + self.config().booted_within();
        self.state().progress(&op.id, |op| op.progress.what = "waiting for init to boot".into());
        let mut revisions = self.state().revisions();
        loop {
            revisions.borrow_and_update();
            let process = self.cache().of(ct).process;
            if process.booted {
                return Ok(());
            }
            if process.phase == Phase::Absent && process.end != Some(ExitCause::Rebooted) {
                let seen = Observed { process, ..Observed::default() };
                return Err(init_exited(ct, &seen).into());
            }
            if self.clock().instant() >= until {
                let message = format!(
                    "container {ct} runs, but its init has not said for {} s that it booted; look \
                     at its console",
                    self.config().booted_within().as_secs()
                );
                let fault = Fault::new(Reason::Timeout, message);
                return Err(fault.fact("what", "boot").fact("ct", ct).into());
            }
            tokio::select! {
                // Lifecycle's stream tells of it.
                _ = revisions.changed() => {}
                () = self.clock().until(until.min(self.clock().instant() + BOOTED_PAUSE)) => {
                    // The stream may be lost. A service that is away is no answer.
                    if let Ok(process) = self.services().process(ct).await {
                        self.cache().process(ct, process);
                    }
                }
                () = self.cancelled(op) => return Err(Stopped::Cancelled),
            }
        }
    }
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
