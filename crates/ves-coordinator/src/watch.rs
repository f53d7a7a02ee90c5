//! Following what happens inside containers: reboots are honoured, ends become the wish.
//!
//! Reads lifecycle's stream, again after each loss of it, and lists what the stream may have missed.
//! An end is acted upon when no operation works on the container, and on a fresh look only. Never
//! here: how a container is stopped or started.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use ves_proto::convert::parse_ct;
use ves_proto::{Fault, lifecycle, network, resources, storage};
use ves_types::{Bytes, CtAddress, CtId, Generation};

use crate::model::{Action, Presence, Record, RunState};
use crate::plan::{Desired, End, GroupSeen, LinkSeen, Observed, Phase, plan};
use crate::service::{Caller, Coordinator, enter_first, idle, now_ms};
use crate::services::{ask, fault_of, seen_process, seen_volume};
use crate::state::Index;

/// How long a list of everything may take.
const LIST: Duration = Duration::from_secs(60);
/// How long to wait before lifecycle is asked again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Whether a record is still the very one, and nobody works on its container.
fn untouched(index: &Index, record: &Arc<Record>) -> bool {
    index.container(record.id).is_ok_and(|now| Arc::ptr_eq(now, record))
        && index.at_work(record.id).is_none()
}

/// A container that reboots sooner after its start waits for the rest of this, so that one that
/// does nothing else fills no logs.
const LEAST_RUN_MS: i64 = 1_000;

impl Coordinator {
    /// Follows lifecycle for ever.
    pub(crate) async fn follow(self) {
        let mut pause = PAUSE.0;
        loop {
            match self.follow_once(&mut pause).await {
                Ok(()) => tracing::info!("lifecycle ended its stream, following again"),
                Err(fault) => tracing::warn!(error = %fault, "lifecycle cannot be followed"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE.1);
        }
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
        for ct in self.observed_cache().vanished(&listed) {
            self.state().touch(ct);
        }
        for ct in self.should_run().into_iter().filter(|ct| !listed.contains(ct)) {
            self.look_at_end(ct);
        }
        self.observed_cache().has_list();
        *pause = PAUSE.0;
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
        if self.observed_cache().process(ct, process) {
            self.state().touch(ct);
        }
        if process.phase == Phase::Absent && record.run == RunState::Running {
            self.look_at_end(ct);
        }
        Ok(())
    }

    /// Begins to look whether a container that should run has ended; one look at a time.
    fn look_at_end(&self, ct: CtId) {
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
        let mut pause = PAUSE.0;
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
            let process = match self.services().process(ct).await {
                Ok(process) => process,
                Err(fault) => {
                    tracing::warn!(%ct, error = %fault, "an end is looked at again");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE.1);
                    continue;
                }
            };
            if process.phase != Phase::Absent {
                return;
            }
            let rebooted =
                process.end == End::Rebooted && process.incarnation != record.seen_incarnation;
            let ran_ms =
                process.started_unix_ms.map_or(LEAST_RUN_MS, |t| now_ms().saturating_sub(t));
            if rebooted && (0..LEAST_RUN_MS).contains(&ran_ms) {
                let rest = u64::try_from(LEAST_RUN_MS.saturating_sub(ran_ms)).unwrap_or(0);
                tokio::time::sleep(Duration::from_millis(rest)).await;
                continue;
            }
            let action = if rebooted {
                Action::Restart { grace_ms: 0, wait: false }
            } else {
                Action::Stop { grace_ms: 0, keep_mounted: false }
            };
            tracing::info!(%ct, end = ?process.end, action = action.kind(), "a container ended");
            let generation = record.generation;
            let caller = Caller::own("container");
            let begun = self
                .transact(move |index, change| {
                    // Somebody else was faster, and has looked anew.
                    if index.container(ct)?.generation != generation || idle(index, ct).is_err() {
                        return Ok(None);
                    }
                    let mut record = (**index.container(ct)?).clone();
                    record.seen_incarnation = process.incarnation;
                    let key = String::new();
                    let op = enter_first(record, action, &caller.principal, key, change);
                    Ok(Some(op.id))
                })
                .await;
            match begun {
                Ok(Some(op)) => return self.carry_out(Some(op)),
                Ok(None) => {}
                Err(fault) => {
                    tracing::error!(%ct, error = %fault, "an end could not be stored");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE.1);
                }
            }
        }
    }

    /// Looks at everything once and repairs what is not as it should be. Waits for the services.
    pub(crate) async fn reconcile(&self) {
        let mut pause = PAUSE.0;
        let (idle_then, all) = loop {
            let idle_then = self.idle_records();
            match self.look_at_all().await {
                Ok(all) => break (idle_then, all),
                Err(fault) => {
                    tracing::warn!(error = %fault, "the services cannot be looked at yet");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE.1);
                }
            }
        };
        for record in idle_then {
            let ct = record.id;
            let seen = all.get(&ct).cloned().unwrap_or_default();
            // What was touched since the look is in the hands of who touched it.
            if !untouched(&self.state().read(), &record) {
                continue;
            }
            self.observed_cache().look(ct, &seen);
            let ended = record.run == RunState::Running && seen.process.phase == Phase::Absent;
            if ended && record.presence == Presence::Present {
                self.look_at_end(ct);
                continue;
            }
            if plan(&Desired::of(&record, 0), &seen).is_ok_and(|steps| steps.is_empty()) {
                continue;
            }
            tracing::info!(%ct, "not as it should be, mending");
            let begun = self
                .transact(move |index, change| {
                    if !untouched(index, &record) {
                        return Ok(None);
                    }
                    let record = Record::clone(&record);
                    let key = String::new();
                    Ok(Some(enter_first(record, Action::Repair, "node", key, change).id))
                })
                .await;
            match begun {
                Ok(op) => self.carry_out(op),
                Err(fault) => tracing::error!(%ct, error = %fault, "mending could not be stored"),
            }
        }
    }

    fn idle_records(&self) -> Vec<Arc<Record>> {
        let index = self.state().read();
        index.containers().filter(|r| index.at_work(r.id).is_none()).map(Arc::clone).collect()
    }

    /// All but snapshots: what is wanted of those is an operation's, which looks itself.
    async fn look_at_all(&self) -> Result<HashMap<CtId, Observed>, Fault> {
        let services = self.services().clone();
        let (mut s, mut r, mut l, mut n) =
            (services.storage, services.resources, services.lifecycle, services.network);
        let (volumes, groups, processes, links) = tokio::join!(
            ask("storage", LIST, s.list_volumes(storage::ListVolumesRequest {})),
            ask("resources", LIST, r.list_groups(resources::ListGroupsRequest {})),
            ask("lifecycle", LIST, l.list_containers(lifecycle::ListContainersRequest {})),
            ask("network", LIST, n.list_interfaces(network::ListInterfacesRequest {})),
        );
        let mut all: HashMap<CtId, Observed> = HashMap::new();
        for v in volumes?.volumes {
            all.entry(parse_ct(v.ct)?).or_default().volume = Some(seen_volume(&v)?);
        }
        for g in groups?.groups {
            let group = GroupSeen { generation: Generation(g.generation) };
            all.entry(parse_ct(g.ct)?).or_default().group = Some(group);
        }
        for c in processes?.containers {
            all.entry(parse_ct(c.ct)?).or_default().process = seen_process(&c);
        }
        for i in links?.interfaces {
            let parse =
                |a: &String| a.parse::<CtAddress>().map_err(|e| Fault::bad_value("addresses", &e));
            let addresses = i.addresses.iter().map(parse).collect::<Result<_, _>>()?;
            let link = LinkSeen { generation: Generation(i.generation), addresses };
            all.entry(parse_ct(i.ct)?).or_default().link = Some(link);
        }
        Ok(all)
    }

    /// Takes in a fresh count of one container's processes.
    pub(crate) async fn refresh_count(&self, ct: CtId) {
        if let Ok(Some(group)) = self.services().group(ct).await {
            let numproc = group.rows.iter().find(|row| row.resource == "numproc");
            self.observed_cache().count(ct, numproc.map(|row| row.held));
        }
    }

    /// Takes in fresh figures for a list: two calls, whatever the number of containers.
    pub(crate) async fn refresh(&self) {
        let services = self.services().clone();
        let (mut s, mut r) = (services.storage, services.resources);
        let soon = Duration::from_secs(5);
        let (volumes, groups) = tokio::join!(
            ask("storage", soon, s.list_volumes(storage::ListVolumesRequest {})),
            ask("resources", soon, r.list_groups(resources::ListGroupsRequest {})),
        );
        // A service that is away costs its figures, not the list.
        if let Ok(volumes) = volumes {
            let mounted = volumes.volumes.iter().filter(|v| v.mounted);
            let used =
                mounted.filter_map(|v| Some((parse_ct(v.ct).ok()?, v.used_bytes.map(Bytes))));
            self.observed_cache().volumes(&used.collect());
        }
        if let Ok(groups) = groups {
            let counts = groups.groups.iter().filter_map(|g| {
                let held = g.rows.iter().find(|row| row.resource == "numproc")?.held;
                Some((parse_ct(g.ct).ok()?, held))
            });
            self.observed_cache().counts(&counts.collect());
        }
    }
}
