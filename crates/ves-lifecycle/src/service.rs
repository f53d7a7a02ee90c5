//! What of the service is no change of a container: what is only looked at, sessions, and telling watchers
//! of changes. These are made in `converge.rs`.
//!
//! [`Service`]'s async methods end at once in the blocking pool. Watchers are woken by monitors, never by a
//! clock. Decides nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::{Notify, broadcast};
use ves_daemon::{Shell, blocking};
use ves_proto::Fault;
use ves_types::{CtId, Generation, Phase};

use crate::config::Config;
use crate::error::{About, Error, refused};
use crate::host::Host;
use crate::init_plan::Command;
use crate::last_words::LastWords;
use crate::plan::{End, Observed, Refusal, Run};
use crate::session::{self, Sessions, Started};

/// How many changes a watcher may be behind before it is told everything anew.
const CHANGES: usize = 1024;

/// A container as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Which.
    pub ct: CtId,
    /// The last accepted generation.
    pub generation: Generation,
    /// How far it is.
    pub phase: Phase,
    /// Init's process id on the node.
    pub init_pid: Option<u32>,
    /// When init executed; of the last run where there is none.
    pub started_unix_ms: i64,
    /// How it last ended.
    pub end: Option<End>,
    /// Grows with each end.
    pub incarnation: u64,
    /// Whether init says that it booted.
    pub booted: bool,
    /// Whether init goes down, as far as it says or shows that.
    pub stopping: bool,
    /// Whether its monitor does not answer or is lost, so that nothing can be done but to end it. The rest
    /// is then what was known when the run began.
    pub unresponsive: bool,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) host: Arc<dyn Host>,
    pub(crate) shell: Shell,
    pub(crate) config: Config,
    changes: broadcast::Sender<Container>,
    /// What watchers were last told.
    told: Mutex<BTreeMap<CtId, Container>>,
    /// How containers ended whose records are forgotten on the node.
    ends: Mutex<BTreeMap<CtId, End>>,
    /// What the incarnation of a container is at least: all ends before this service are older.
    floor: u64,
    pub(crate) sessions: Sessions,
    pub(crate) last_words: LastWords,
}

/// The containers that changed and were not looked at since; many changes are looked at together.
#[derive(Debug, Default)]
struct Due {
    cts: Mutex<BTreeSet<CtId>>,
    all: AtomicBool,
    more: Notify,
}

impl Due {
    /// Adds one, or all.
    fn add(&self, ct: Option<CtId>) {
        match ct {
            Some(ct) => drop(guard(&self.cts).insert(ct)),
            None => self.all.store(true, Ordering::Release),
        }
        self.more.notify_one();
    }

    /// Waits until there are some, and takes them; none: all.
    async fn take(&self) -> Option<Vec<CtId>> {
        loop {
            let cts = std::mem::take(&mut *guard(&self.cts));
            if self.all.swap(false, Ordering::AcqRel) {
                return None;
            }
            if !cts.is_empty() {
                return Some(cts.into_iter().collect());
            }
            self.more.notified().await;
        }
    }
}

/// The lifecycle service. Clones are the same service.
#[derive(Debug, Clone)]
pub struct Service {
    pub(crate) inner: Arc<Inner>,
}

fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Service {
    /// A service on a node.
    pub fn new(host: Arc<dyn Host>, shell: Shell, config: Config) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let inner = Inner {
            host,
            shell,
            changes: broadcast::Sender::new(CHANGES),
            told: Mutex::default(),
            ends: Mutex::default(),
            floor: u64::try_from(now).unwrap_or_default(),
            sessions: Sessions::new(config.max_sessions),
            last_words: LastWords::default(),
            config,
        };
        Self { inner: Arc::new(inner) }
    }

    /// Follows the containers that run already, and tells watchers of each change from now on. Call it
    /// inside the runtime.
    pub fn resume(&self) -> Result<(), Error> {
        let due = Arc::new(Due::default());
        due.add(None);
        let changed = Arc::clone(&due);
        self.inner.host.on_change(Box::new(move |ct| changed.add(ct)))?;
        let this = self.clone();
        tokio::spawn(async move {
            loop {
                let cts = due.take().await;
                let own = this.clone();
                if let Err(fault) = blocking(move || Ok(own.inner.refresh(cts)?)).await {
                    tracing::warn!("look at containers that changed: {fault}");
                }
            }
        });
        Ok(())
    }

    /// One container.
    pub async fn get(&self, ct: CtId) -> Result<Container, Fault> {
        let this = self.clone();
        blocking(move || Ok(this.inner.look(ct)?)).await
    }

    /// All containers that have processes or left a last end.
    pub async fn list(&self) -> Result<Vec<Container>, Fault> {
        let this = self.clone();
        blocking(move || {
            let mut all = this.inner.look_at(&this.inner.host.list()?);
            all.retain(|c| c.phase != Phase::Absent || c.end.is_some());
            Ok(all)
        })
        .await
    }

    /// Changes from now on.
    pub fn changes(&self) -> broadcast::Receiver<Container> {
        self.inner.changes.subscribe()
    }

    /// Starts a command inside and waits until it executes.
    ///
    /// # Errors
    /// `NOT_RUNNING` also where it is being stopped, `RUNNING` where nothing watches over it,
    /// `COMMAND_UNKNOWN`, `TOO_MANY`, or another fault.
    pub async fn exec(&self, ct: CtId, command: Command) -> Result<Started, Fault> {
        let place = self.inner.sessions.command(ct)?;
        let this = self.clone();
        let stream = blocking(move || {
            session::admit(ct, &this.inner.host.observe(ct)?)?;
            Ok(this.inner.host.exec(ct, &command)?)
        })
        .await?;
        Started::command(ct, stream, place).await
    }

    /// Attaches to the console. What one that has ended printed last can be read while it is kept.
    ///
    /// # Errors
    /// `NOT_RUNNING`, `RUNNING` where nothing watches over it, `TOO_MANY`, or another fault.
    pub async fn console(&self, ct: CtId, scrollback_only: bool) -> Result<Started, Fault> {
        let place = self.inner.sessions.console()?;
        let this = self.clone();
        let stream = blocking(move || {
            // It would be attached to and show nothing.
            let observed = this.inner.host.observe(ct)?;
            if observed.unresponsive {
                return Err(Error::Unresponsive { ct, what: "show its console" }.into());
            }
            if observed.stray {
                return Err(refused(ct, Refusal::Stray));
            }
            match this.inner.host.console(ct, scrollback_only) {
                Err(Error::Gone { .. }) if scrollback_only => {
                    let words = this.inner.last_words.show(ct).about(ct, "show its console")?;
                    words.ok_or_else(|| session::not_running(ct))
                }
                Err(Error::Gone { .. }) => Err(session::not_running(ct)),
                other => Ok(other?),
            }
        })
        .await?;
        Started::console(ct, stream, place)
    }
}

impl Inner {
    /// Keeps how a container last ended, where the node is about to forget it.
    pub(crate) fn remember_end(&self, ct: CtId) -> Result<(), Error> {
        if let Some(end) = self.host.observe(ct)?.last {
            guard(&self.ends).insert(ct, end);
        }
        Ok(())
    }

    /// Keeps what a container printed last, likewise.
    pub(crate) fn remember_last_words(&self, ct: CtId) {
        let kept = match self.host.console(ct, true) {
            // It printed nothing that anybody kept.
            Err(Error::Gone { .. }) => return,
            other => other.and_then(|s| self.last_words.keep(ct, s).about(ct, "keep its console")),
        };
        if let Err(error) = kept {
            let error = ves_proto::fault::chain(&error);
            tracing::warn!(%ct, "what it printed last is lost: {error}");
        }
    }

    pub(crate) fn look(&self, ct: CtId) -> Result<Container, Error> {
        Ok(self.show(ct, self.host.observe(ct)?))
    }

    pub(crate) fn show(&self, ct: CtId, observed: Observed) -> Container {
        let Observed { monitor, unresponsive, stray, run, frozen, last, .. } = observed;
        let booted = monitor.as_ref().is_some_and(|m| m.booted);
        let stopping = monitor.as_ref().is_some_and(|m| m.stopping);
        let told = monitor.map(|m| Run {
            init_pid: m.init_pid,
            started_unix_ms: m.started_unix_ms,
            incarnation: m.incarnation,
        });
        let run = told.or(run);
        let end = last.or_else(|| guard(&self.ends).get(&ct).copied());
        // A run's number is its end's; while it runs the container is at the end before.
        let incarnation = match run {
            Some(run) => run.incarnation.saturating_sub(1),
            None => end.map_or(self.floor, |end| end.incarnation),
        };
        let phase = match run {
            None if !unresponsive && !stray => Phase::Absent,
            _ if frozen => Phase::Frozen,
            // Of which run they are is not known any more; that they live is.
            None if stray => Phase::Running,
            Some(Run { started_unix_ms: 1.., .. }) => Phase::Running,
            _ => Phase::Created,
        };
        let started = run.map(|run| run.started_unix_ms);
        Container {
            ct,
            generation: self.shell.generation(ct),
            phase,
            init_pid: run.map(|run| run.init_pid),
            started_unix_ms: started.or_else(|| end.map(|e| e.started_unix_ms)).unwrap_or_default(),
            end,
            incarnation,
            booted,
            stopping,
            unresponsive: unresponsive || stray,
        }
    }

    /// Looks at containers and tells watchers what has changed; with none named, at all, and follows them.
    fn refresh(&self, cts: Option<Vec<CtId>>) -> Result<(), Error> {
        let cts = match cts {
            Some(cts) => cts,
            None => {
                let all = self.host.list()?;
                all.iter().for_each(|ct| self.follow(*ct));
                all
            }
        };
        self.look_at(&cts).into_iter().for_each(|container| self.tell(container));
        Ok(())
    }

    /// Looks at containers; one that cannot be looked at must not hide the others, and is left out.
    fn look_at(&self, cts: &[CtId]) -> Vec<Container> {
        let look = |(ct, observed): (&CtId, Result<Observed, Error>)| match observed {
            Ok(observed) => Some(self.show(*ct, observed)),
            Err(error) => {
                let error = ves_proto::fault::chain(&error);
                tracing::warn!(%ct, "leave out what cannot be looked at: {error}");
                None
            }
        };
        cts.iter().zip(self.host.observe_all(cts)).filter_map(look).collect()
    }

    /// Follows a container. What cannot be followed runs all the same, and is seen when it is looked at.
    pub(crate) fn follow(&self, ct: CtId) {
        if let Err(error) = self.host.follow(ct) {
            let error = ves_proto::fault::chain(&error);
            tracing::warn!(%ct, "watchers will hear late of its changes: {error}");
        }
    }

    /// Tells watchers what they have not heard yet.
    pub(crate) fn tell(&self, container: Container) {
        let mut told = guard(&self.told);
        if told.get(&container.ct) != Some(&container) {
            told.insert(container.ct, container.clone());
            // Nobody watching is no failure.
            self.changes.send(container).ok();
        }
    }
}

#[cfg(test)]
mod tests;
