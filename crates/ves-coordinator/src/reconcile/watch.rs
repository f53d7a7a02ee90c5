//! Following what happens inside containers: reboots are honoured, ends become the wish.
//!
//! Reads lifecycle's stream, again after each loss of it, and lists what the stream may have missed.
//! An end is acted upon when no operation works on the container, and on a fresh look only. Never
//! here: how a container is stopped or started.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ves_proto::convert::parse_ct;
use ves_proto::{Fault, lifecycle};
use ves_types::{CtId, ExitCause, Phase};

use super::follow::SOON;
use crate::admission::{begin_operation, idle};
use crate::container::record::{Presence, RunState};
use crate::container::retry::Retry;
use crate::coordinator::{Coordinator, Turns};
use crate::event::record::{NewEvent, Type};
use crate::operation::ends::cause_name;
use crate::operation::kinds::Action;
use crate::operation::kinds::start::Restart;
use crate::operation::kinds::stop::Stop;
use crate::operation::public;
use crate::operation::record::{Caller, Cause};
use crate::services::observe::LIST;
use crate::services::{ask, fault_of, seen_process};

/// How long to wait at most before lifecycle is asked, or what failed is tried, again.
const LONGEST: Duration = Duration::from_secs(2);

/// A container that reboots sooner after its start waits for the rest of this, so that one that
/// does nothing else fills no logs.
const LEAST_RUN_MS: i64 = 1_000;

impl Coordinator {
    /// Follows lifecycle for ever.
    pub(crate) async fn follow(self) {
        self.follow_for_ever("lifecycle", LONGEST, Self::follow_once).await;
    }

    async fn follow_once(&self, pause: &mut Duration) -> Result<(), Fault> {
        let mut client = self.services().lifecycle.clone();
        let request = lifecycle::WatchContainersRequest {};
        let fail = |status: tonic::Status| fault_of("lifecycle", &status);
        let mut stream = client.watch_containers(request).await.map_err(fail)?.into_inner();
        // What ended and was forgotten before the stream began is in no message of it.
        let request = lifecycle::ListContainersRequest {};
        let list = ask("lifecycle", LIST, client.list_containers(request)).await?;
        let mut listed = BTreeSet::new();
        for container in &list.containers {
            listed.insert(parse_ct(container.ct)?);
            self.saw(container)?;
        }
        for ct in self.cache().vanished(&listed) {
            self.state().touch(ct);
        }
        for ct in self.should_run().into_iter().filter(|ct| !listed.contains(ct)) {
            self.look_at_end(ct);
        }
        self.cache().has_list();
        *pause = SOON;
        self.service_is_back("lifecycle");
        while let Some(container) = stream.message().await.map_err(fail)? {
            self.saw(&container)?;
        }
        Ok(())
    }

    fn should_run(&self) -> Vec<CtId> {
        let index = self.state().read();
        index.containers().filter(|r| r.run == RunState::Running).map(|r| r.id).collect()
    }

    fn saw(&self, container: &lifecycle::Container) -> Result<(), Fault> {
        let ct = parse_ct(container.ct)?;
        let process = seen_process(container);
        let Ok(record) = self.state().read().container(ct).map(Arc::clone) else {
            if process.phase != Phase::Absent {
                tracing::warn!(%ct, "lifecycle has processes of a container nobody knows");
            }
            return Ok(());
        };
        // Until now, whatever it is now.
        self.count_run(&record);
        if self.cache().process(ct, process) {
            self.state().touch(ct);
        }
        if process.phase == Phase::Absent && record.run == RunState::Running {
            self.look_at_end(ct);
        }
        Ok(())
    }

    /// Begins to look whether a container that should run has ended; one look at a time.
    pub(crate) fn look_at_end(&self, ct: CtId) {
        if self.begin_ending(ct) {
            let own = self.clone();
            tokio::spawn(async move {
                own.handle_exit(ct).await;
                own.end_ending(ct);
            });
        }
    }

    async fn handle_exit(&self, ct: CtId) {
        let mut revisions = self.state().revisions();
        let mut pause = SOON;
        loop {
            revisions.borrow_and_update();
            let (record, working) = {
                let index = self.state().read();
                let Ok(record) = index.container(ct).map(Arc::clone) else { return };
                (record, index.at_work(ct).is_some())
            };
            if record.run != RunState::Running || record.presence != Presence::Present {
                return;
            }
            if working {
                if revisions.changed().await.is_err() {
                    return;
                }
                continue;
            }
            let turn = Turns::take(&self.turns().exits).await;
            let looked = self.services().process(ct).await;
            drop(turn);
            let process = match looked {
                Ok(process) => process,
                Err(fault) => {
                    tracing::warn!(%ct, error = %fault, "an end is looked at again");
                    self.clock().sleep(pause).await;
                    pause = (pause * 2).min(LONGEST);
                    continue;
                }
            };
            if process.phase != Phase::Absent {
                return;
            }
            let rebooted = process.end == Some(ExitCause::Rebooted)
                && process.incarnation != record.seen_incarnation;
            let ran_ms = process
                .started_unix_ms
                .map_or(LEAST_RUN_MS, |t| self.clock().now_ms().saturating_sub(t));
            if rebooted && (0..LEAST_RUN_MS).contains(&ran_ms) {
                let rest = u64::try_from(LEAST_RUN_MS.saturating_sub(ran_ms)).unwrap_or(0);
                self.clock().sleep(Duration::from_millis(rest)).await;
                continue;
            }
            let action = if rebooted {
                Action::Restart(Restart { grace_ms: 0, wait: false })
            } else {
                Action::Stop(Stop { grace_ms: 0, keep_mounted: false })
            };
            let known = process.incarnation != record.seen_incarnation;
            let end = process.end.filter(|_| known);
            let retry = if rebooted {
                record.retry.clone()
            } else {
                let (before, now) = (record.retry.as_ref(), self.clock().now_ms());
                Retry::after_end(record.spec.restart, end, before, now)
            };
            let starved = match process.end_status {
                Some(status) => self.starved(ct, status).await,
                None => None,
            };
            tracing::info!(%ct, end = ?process.end, action = action.kind().name(), "a container ended");
            let generation = record.generation;
            let caller = Caller::own(Cause::Container);
            let own = self.clone();
            let begun = self
                .transact(move |index, change| {
                    // Somebody else was faster, and has looked anew.
                    if index.container(ct)?.generation != generation || idle(index, ct).is_err() {
                        return Ok(None);
                    }
                    let mut record = (**index.container(ct)?).clone();
                    record.seen_incarnation = process.incarnation;
                    record.retry = retry;
                    let told = match end {
                        Some(ExitCause::Rebooted) => {
                            NewEvent::to_container(Type::Rebooted, &record)
                        }
                        Some(end) => {
                            let stopped = NewEvent::to_container(Type::Stopped, &record);
                            stopped.fact("cause", cause_name(end))
                        }
                        None => NewEvent::to_container(Type::Stopped, &record),
                    };
                    change.events.push(told.by(public::own(Cause::Container)));
                    let op = begin_operation(record, action, caller, own.clock(), change);
                    if let Some(begun) = change.operations.last_mut() {
                        begun.warnings.extend(starved);
                    }
                    Ok(Some(op.id))
                })
                .await;
            match begun {
                Ok(Some(op)) => return self.carry_out(Some(op), None),
                Ok(None) => {}
                Err(fault) => {
                    tracing::error!(%ct, error = %fault, "an end could not be stored");
                    self.clock().sleep(pause).await;
                    pause = (pause * 2).min(LONGEST);
                }
            }
        }
    }
}
