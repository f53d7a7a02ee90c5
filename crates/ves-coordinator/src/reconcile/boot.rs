//! The beginning: what is unfinished goes on, and after a boot of the node `onboot` containers start.
//!
//! A restart of the coordinator is no boot: whatever runs is adopted as it is. After a boot nothing
//! runs, so that wishes begin anew: `onboot` containers should run, in order, and those that ran and are to be
//! started again when they end by themselves; others are stopped.
//! Never here: how a container is started.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use ves_proto::Fault;
use ves_types::RestartPolicy;

use crate::admission::begin_operation;
use crate::clock::Clock;
use crate::container::record::{Presence, Record, RunState};
use crate::coordinator::{Coordinator, Turns};
use crate::event::record::{NewEvent, Type};
use crate::operation::kinds::Action;
use crate::operation::kinds::start::Start;
use crate::operation::public::own;
use crate::operation::record::{Caller, Cause, OpId, OpState};
use crate::store::index::{Change, Index};

/// The fact that says which boot of the node was seen last.
const BOOT: &str = "boot";

/// How often operations that ended long ago are looked for.
const SWEEP: Duration = Duration::from_secs(60);

/// Those to be started when the node boots, in order: higher `boot_order` first, none last, then
/// by id.
fn in_order(records: &mut [Record]) {
    records.sort_by_key(|r| (r.spec.boot_order.is_none(), Reverse(r.spec.boot_order), r.id));
}

/// Whether a boot starts a container: one that is to start with the node, or one that ran and is to be
/// started again when it ended without being asked, as by the end of a boot that nobody has stopped it for.
fn starts_at_boot(record: &Record) -> bool {
    let ended = record.run == RunState::Running && record.spec.restart != RestartPolicy::No;
    (record.spec.onboot || ended) && !record.spec.disabled
}

/// Stores what a boot changes; answers with the operations that start containers, in order.
fn after_boot(index: &Index, boot: &str, clock: &dyn Clock, change: &mut Change) -> Vec<OpId> {
    if index.fact(BOOT) == Some(boot) {
        return vec![];
    }
    change.facts.push((BOOT, boot.to_owned()));
    let mut starting = Vec::new();
    for record in index.containers() {
        let mut record = (**record).clone();
        if record.run == RunState::Running && record.maybe_dirty {
            let stopped = NewEvent::to_container(Type::Stopped, &record);
            change.events.push(stopped.by(own(Cause::Boot)).fact("cause", "BOOT"));
        }
        // What ended before the boot is no end of what starts after it, and took its links along.
        record.seen_incarnation = 0;
        record.maybe_dirty = false;
        if index.at_work(record.id).is_some() || record.presence != Presence::Present {
            record.maybe_dirty = record.run == RunState::Running;
            // It was up, and is to be again: a boot is no end of its own.
            if let Some(wish) = &mut record.snapshot {
                wish.alone = false;
            }
            change.containers.push(record);
        } else if starts_at_boot(&record) {
            starting.push(record);
        } else {
            if record.run != RunState::Stopped {
                record.set_run(RunState::Stopped);
                record.release();
            }
            change.containers.push(record);
        }
    }
    in_order(&mut starting);
    let start = |record| {
        begin_operation(
            record,
            Action::Start(Start { wait: false }),
            Caller::own(Cause::Boot),
            clock,
            change,
        )
        .id
    };
    starting.into_iter().map(start).collect()
}

fn unfinished(index: &Index) -> Vec<OpId> {
    let running = index.operations().filter(|op| op.state == OpState::Running);
    running.map(|op| op.id.clone()).collect()
}

impl Coordinator {
    /// Begins to work, on `boot`, the kernel's name of its boot. Blocks shortly. Inside a runtime.
    pub fn begin_work(&self, boot: &str) -> Result<(), Fault> {
        let old = unfinished(&self.state().read());
        self.usage().enter_boot(boot);
        let boot = boot.to_owned();
        let starting = self
            .state()
            .transact(move |index, change| Ok(after_boot(index, &boot, self.clock(), change)))?;
        for id in old {
            if let Err(fault) = self.take_up(&id) {
                let own = self.clone();
                tokio::spawn(async move { own.end_lost(&id, fault).await });
            }
        }
        tokio::spawn(self.clone().start_in_order(starting));
        tokio::spawn(self.clone().follow());
        tokio::spawn(self.clone().restart_for_ever());
        tokio::spawn(self.clone().keep_schedules());
        tokio::spawn(self.clone().follow_errors());
        tokio::spawn(self.clone().follow_kills());
        tokio::spawn(self.clone().follow_conditions());
        tokio::spawn(self.clone().sweep());
        tokio::spawn(self.clone().keep_events());
        tokio::spawn(self.clone().keep_usage());
        let own = self.clone();
        tokio::spawn(async move { own.reconcile_for_ever().await });
        Ok(())
    }

    /// Goes on with an operation of the process before this one.
    fn take_up(&self, id: &OpId) -> Result<(), Fault> {
        let op = Arc::clone(self.state().read().operation(id)?);
        match op.ct {
            Some(ct) => {
                // A step that was cut short is asked for again, whatever its service shows; of a
                // snapshot it shows all there is.
                self.state().transact(move |index, change| {
                    let mut record = (**index.container(ct)?).clone();
                    if !record.snapshot.as_ref().is_some_and(|wish| wish.alone) {
                        record.ask_again();
                        change.containers.push(record);
                    }
                    Ok(())
                })?;
                self.carry_out(Some(id.clone()), None);
            }
            None => {
                let own = self.clone();
                tokio::spawn(async move { own.drop_template(&op).await });
            }
        }
        Ok(())
    }

    async fn start_in_order(self, starting: Vec<OpId>) {
        for id in starting {
            let turn = Turns::take(&self.turns().boot).await;
            self.carry_out_now(id, turn);
        }
    }

    async fn sweep(self) {
        loop {
            let keep = i64::try_from(self.config().keep_operations_s).unwrap_or(i64::MAX);
            let before = self.clock().now_ms().saturating_sub(keep.saturating_mul(1000));
            let most = self.config().keep_operations;
            let swept = self
                .transact(move |index, change| {
                    let ended = index.operations().rev().filter(|op| op.ended_unix_ms.is_some());
                    let expired = ended.enumerate().filter(|(newer, op)| {
                        *newer >= most || op.ended_unix_ms.is_some_and(|ms| ms < before)
                    });
                    change.expired = expired.map(|(_, op)| op.id.clone()).collect();
                    Ok(change.expired.len())
                })
                .await;
            match swept {
                Ok(0) => {}
                Ok(n) => tracing::info!(n, "operations that ended long ago were forgotten"),
                Err(fault) => tracing::warn!(error = %fault, "forgetting old operations"),
            }
            if let Err(fault) = self.sweep_events().await {
                tracing::warn!(error = %fault, "forgetting old events");
            }
            self.clock().sleep(SWEEP).await;
        }
    }
}
