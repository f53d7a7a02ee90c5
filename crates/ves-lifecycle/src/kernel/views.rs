//! What containers see in place of the node's: the provider is looked at, and when it came, died or is another
//! one, each container that runs gets what there is then.
//!
//! ```text
//! one thread   ── is it mounted? asks `ves-init views` ──▶ target: whose views there are, or none
//! some threads ── each container that may not fit it ────▶ its mounts are read; what does not fit is changed
//! ```
//!
//! A container that runs is not entered unless its mounts, which the node tells, are others than they should be,
//! and never while it is frozen: then when it thaws. Nobody here opens a file of the provider's. Never here:
//! what is changed in a container, which its helper decides by the same mounts.
//!
//! No dump of a container's memory can hold a mount of a provider's: whoever dumps one has its views taken away
//! before and laid afterwards, by the same work.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use ves_daemon::telemetry::Gauge;
use ves_host::{Attempt, HostError, channel, mount};
use ves_init_proto::views::{self, Device, Look, Provided, Provider};
use ves_init_proto::{Launch, Work};
use ves_types::CtId;

use super::{KernelHost, starter};
use crate::config;
use crate::error::{About, Error};
use crate::host::Host as _;

/// How often the provider is looked at.
const EACH: Duration = Duration::from_secs(1);
/// How long it may take to answer, before nobody waits for it any longer.
const ANSWER: Duration = Duration::from_secs(5);
/// How many containers are changed at once.
const AT_ONCE: usize = 4;
/// How often a container is tried to be changed for one provider, each time it is looked at.
const TRIES: u32 = 10;
/// How long those who change containers sleep where none is due.
const IDLE: Duration = Duration::from_secs(60);

/// Whose views containers should have.
type Target = Option<(Device, Vec<String>)>;

#[derive(Debug, Default)]
struct State {
    /// Unknown before the provider was first looked at.
    target: Option<Target>,
    /// The containers that may not fit it, and how often each was tried.
    due: BTreeMap<CtId, u32>,
    /// Those that could not be changed, and are due again when the provider is looked at next.
    failed: BTreeMap<CtId, u32>,
    /// Those that have views.
    have: BTreeSet<CtId>,
    /// Whether there was ever a provider.
    ever: bool,
    /// How many are being changed now, and how many were since that was told.
    busy: u32,
    changed: u32,
}

/// Who has which views.
#[derive(Debug, Default)]
pub(super) struct Views {
    state: Mutex<State>,
    more: Condvar,
}

impl Views {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A container may have other views than it should: it has begun, or could not be changed before.
    pub(super) fn changed(&self, ct: CtId) {
        let mut state = self.state();
        // Where there was never a provider there is nothing to change.
        if state.ever {
            state.due.insert(ct, 0);
            self.more.notify_all();
        }
    }

    /// Nothing runs of a container any more.
    pub(super) fn gone(&self, ct: CtId) {
        let mut state = self.state();
        state.due.remove(&ct);
        state.failed.remove(&ct);
        state.have.remove(&ct);
    }

    /// Answers the target before where this is another, which is the business of all that there are; of a target
    /// whose views are the node's already, as whoever begins later takes these.
    fn aim<E>(
        &self,
        target: &Target,
        all: impl FnOnce() -> Result<Vec<CtId>, E>,
    ) -> Result<Option<Option<Target>>, E> {
        let mut state = self.state();
        let same = state.target.as_ref() == Some(target);
        let mut due = std::mem::take(&mut state.failed);
        if !same {
            drop(state);
            due = all()?.into_iter().map(|ct| (ct, 0)).collect();
            state = self.state();
        }
        if !due.is_empty() {
            state.due.extend(due);
            self.more.notify_all();
        }
        if same {
            return Ok(None);
        }
        state.ever |= target.is_some();
        Ok(Some(state.target.replace(target.clone())))
    }

    /// Takes one that is due, once there is one; none after a while, too.
    fn next(&self) -> Option<(CtId, u32)> {
        let state = self.state();
        let wait = |state: &mut State| state.due.is_empty();
        let (mut state, _) =
            self.more.wait_timeout_while(state, IDLE, wait).unwrap_or_else(PoisonError::into_inner);
        let next = state.due.pop_first();
        state.busy += u32::from(next.is_some());
        next
    }

    /// One that was taken is over with; answers how many were changed where it was the last of all.
    fn over(&self, changed: bool) -> Option<u32> {
        let mut state = self.state();
        state.busy = state.busy.saturating_sub(1);
        state.changed += u32::from(changed);
        let last = state.busy == 0 && state.due.is_empty() && state.changed > 0;
        last.then(|| std::mem::take(&mut state.changed))
    }
}

/// The one that looks at the provider, and what it was asked and has not answered.
#[derive(Debug, Default)]
struct Looker {
    channel: Option<OwnedFd>,
    /// One that waits for a provider that does not answer.
    stuck: Option<OwnedFd>,
    /// Whether it is known that the node has no views.
    none: bool,
    /// What was last complained of.
    told: Option<String>,
}

impl Looker {
    /// What there is of a provider; `None` while nobody knows.
    fn look(&mut self, host: &KernelHost, provider: Provider, dir: &Path) -> Option<Target> {
        if self
            .stuck
            .as_ref()
            .is_some_and(|stuck| !channel::wait(stuck, Duration::ZERO).unwrap_or(true))
        {
            return Some(None);
        }
        self.stuck = None;
        if provider == Provider::None || !mount::device_at(dir).is_ok_and(|device| device.is_some())
        {
            // A daemon before this one may have left some.
            if !self.none && host.layout.views_dir().exists() {
                self.ask(host, &Look::Abandon);
            }
            (self.none, self.channel) = (true, None);
            self.complain(match provider {
                Provider::None => None,
                Provider::Lxcfs => Some(format!(
                    "no lxcfs is mounted at {}, so containers see the node's /proc/meminfo, /proc/stat and \
                     the like: `apt install lxcfs`, `systemctl start ves-lxcfs`, or set \
                     service.views.provider = \"none\"",
                    dir.display()
                )),
            });
            return Some(None);
        }
        let told = match self.ask(host, &Look::At(dir.to_owned())) {
            Some(Provided::Lives { device, names }) => {
                self.complain(None);
                return Some(Some((device, names)));
            }
            Some(Provided::Dead) => {
                "lxcfs has died, so containers see the node's /proc/meminfo and the like; `systemctl restart \
                 ves-lxcfs`"
                    .to_owned()
            }
            Some(Provided::Absent) => format!("what is mounted at {} is no lxcfs", dir.display()),
            Some(Provided::Failed(failure)) => format!("{}: {}", failure.step, failure.message),
            None if self.stuck.is_some() => {
                // Another one: the first waits, and cannot be killed.
                self.ask(host, &Look::Abandon);
                "lxcfs does not answer, and containers wait for it no longer: they see the node's \
                 /proc/meminfo and the like; `systemctl restart ves-lxcfs`"
                    .to_owned()
            }
            None => return None,
        };
        self.complain(Some(told));
        Some(None)
    }

    fn complain(&mut self, of: Option<String>) {
        if let Some(of) = of.as_ref().filter(|of| self.told.as_ref() != Some(of)) {
            tracing::warn!("{of}");
        }
        self.told = of;
    }

    /// Asks one that looks; `None` where it does not answer in time, which is stuck then, or cannot be had.
    fn ask(&mut self, host: &KernelHost, look: &Look) -> Option<Provided> {
        let ask = |channel: &OwnedFd| -> Result<Option<Provided>, HostError> {
            channel::send(channel, &serde_json::to_vec(look).unwrap_or_default(), &[])?;
            if !channel::wait(channel, ANSWER)? {
                return Ok(None);
            }
            let said = channel::receive(channel)?.bytes;
            let parsed = serde_json::from_slice(&said);
            parsed.map(Some).map_err(|_| HostError::parse("look at views", "who looks was lost"))
        };
        let channel = match self.channel.take() {
            Some(channel) => Ok(channel),
            None => begin(host),
        };
        match channel.and_then(|channel| Ok((ask(&channel)?, channel))) {
            Ok((Some(provided), channel)) => {
                self.none = matches!(provided, Provided::Dead | Provided::Absent);
                self.channel = Some(channel);
                Some(provided)
            }
            Ok((None, channel)) => {
                self.stuck = Some(channel);
                None
            }
            Err(error) => {
                self.complain(Some(ves_proto::fault::chain(&error)));
                None
            }
        }
    }
}

/// Begins one that looks.
fn begin(host: &KernelHost) -> Result<OwnedFd, HostError> {
    let (near, far) = channel::pair()?;
    starter::launch(&host.layout, &host.ves_init, Launch::Views, far, None)?;
    Ok(near)
}

/// How it went with one container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fitted {
    /// It had what it should.
    Had,
    /// It has it now.
    Changed,
    /// It does not run, or not now.
    Later,
}

impl KernelHost {
    /// Looks after what containers see in place of the node's, as long as this host lives.
    ///
    /// # Errors
    /// [`HostError::Sys`] where there is no thread to be had.
    pub fn look_after_views(self: &Arc<Self>, config: &config::Views) -> Result<(), HostError> {
        let what = || "begin a thread".to_owned();
        let config::Views { provider, dir } = config.clone();
        let dir = dir.unwrap_or_else(|| self.layout.views_provider());
        let host = Arc::downgrade(self);
        let own = Weak::clone(&host);
        let look = std::thread::Builder::new().name("views".to_owned());
        look.spawn(move || look_on(&own, provider, &dir)).attempt(what)?;
        for _ in 0..AT_ONCE {
            let own = Weak::clone(&host);
            let fit = std::thread::Builder::new().name("views-fit".to_owned());
            fit.spawn(move || fit_on(&own)).attempt(what)?;
        }
        Ok(())
    }

    /// Makes a container have the views that it should.
    fn fit(&self, ct: CtId) -> Result<Fitted, Error> {
        const WHAT: &str = "see what it sees";
        let observed = self.observe(ct)?;
        if observed.unresponsive {
            return Err(Error::Unresponsive { ct, what: "have its views changed" });
        }
        let Some(monitor) = observed.monitor.filter(|m| m.running && !observed.frozen) else {
            return Ok(Fitted::Later);
        };
        let fits = || -> Result<bool, Error> {
            let table = mount::mounts_of(monitor.init_pid).about(ct, WHAT)?;
            let mut state = self.views.state();
            if views::has_any(&table) {
                state.have.insert(ct);
            } else {
                state.have.remove(&ct);
            }
            let should = state.target.clone().flatten();
            Ok(views::fit(&table, should.as_ref().map(|(device, names)| (*device, &names[..]))))
        };
        if fits()? {
            return Ok(Fitted::Had);
        }
        self.change_inside(ct, Work::Views)?;
        if fits()? { Ok(Fitted::Changed) } else { Ok(Fitted::Later) }
    }
}

fn gauge() -> Gauge {
    Gauge::new(
        "ves.containers.views",
        "containers that see their own memory, processors and uptime",
    )
}

/// Looks at the provider again and again.
fn look_on(host: &Weak<KernelHost>, provider: Provider, dir: &Path) {
    let (mut looker, count) = (Looker::default(), gauge());
    while let Some(host) = host.upgrade() {
        if let Some(target) = looker.look(&host, provider, dir) {
            match (host.views.aim(&target, || host.list()), target) {
                (Ok(Some(_)), Some((_, names))) => {
                    let names = names.join(" ");
                    tracing::info!(names, "containers see their own by lxcfs");
                }
                (Ok(Some(Some(_))), None) => tracing::info!("containers see the node's again"),
                (Ok(None | Some(None)), _) => {}
                (Err(error), _) => {
                    let error = ves_proto::fault::chain(&error);
                    looker
                        .complain(Some(format!("what containers see cannot be changed: {error}")));
                }
            }
        }
        count.set(u64::try_from(host.views.state().have.len()).unwrap_or(u64::MAX));
        drop(host);
        pause();
    }
}

#[expect(clippy::disallowed_methods, reason = "the end of a provider gives no event")]
fn pause() {
    std::thread::sleep(EACH);
}

/// Changes containers that are due, one after another.
fn fit_on(host: &Weak<KernelHost>) {
    let Some(views) = host.upgrade().map(|host| Arc::clone(&host.views)) else { return };
    loop {
        let due = views.next();
        let Some(host) = host.upgrade() else { return };
        let Some((ct, tried)) = due else { continue };
        let fitted = host.fit(ct);
        let changed = matches!(fitted, Ok(Fitted::Changed));
        match fitted {
            Ok(Fitted::Had | Fitted::Later) => {}
            Ok(Fitted::Changed) => tracing::debug!(%ct, "sees what there is to see now"),
            Err(error) => {
                let error = ves_proto::fault::chain(&error);
                tracing::warn!(%ct, "what it sees of the node could not be changed: {error}");
                if tried + 1 < TRIES {
                    views.state().failed.insert(ct, tried + 1);
                }
            }
        }
        if let Some(containers) = views.over(changed) {
            tracing::info!(containers, "see what there is to see now");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ct(n: u32) -> CtId {
        n.try_into().expect("valid")
    }

    fn lives(minor: u32) -> Target {
        Some((Device { major: 0, minor }, vec!["meminfo".to_owned()]))
    }

    fn due(views: &Views) -> Vec<CtId> {
        std::mem::take(&mut views.state().due).into_keys().collect()
    }

    #[test]
    fn another_provider_is_all_containers_business_and_the_same_nobodys() {
        let (views, all) = (Views::default(), || vec![ct(101), ct(102)]);
        let aim = |target: &Target| views.aim(target, || Ok::<_, ()>(all()));
        // Before this daemon there may have been one.
        assert_eq!(aim(&None), Ok(Some(None)));
        assert_eq!(due(&views), all());
        views.changed(ct(101));
        assert_eq!(due(&views), [], "nobody ever had any");
        assert_eq!(aim(&None), Ok(None));
        for target in [lives(71), None, lives(72), lives(73)] {
            assert_eq!(
                views.aim(&target, || Err(())),
                Err(()),
                "nobody knows whose business it is"
            );
            assert!(matches!(aim(&target), Ok(Some(_))), "{target:?}");
            assert_eq!(due(&views), all());
            assert_eq!(aim(&target), Ok(None));
            assert_eq!(due(&views), []);
            // One that began meanwhile took what there was when it began.
            views.changed(ct(102));
            assert_eq!(due(&views), [ct(102)]);
        }
    }

    #[test]
    fn who_could_not_be_changed_is_tried_again_until_it_is_gone() {
        let views = Views::default();
        let aim = |target: &Target| views.aim(target, || Ok::<_, ()>(Vec::new())).expect("listed");
        aim(&lives(71));
        let fails = || views.state().failed.extend([(ct(101), 3), (ct(102), 0)]);
        fails();
        aim(&lives(71));
        assert_eq!(views.next(), Some((ct(101), 3)));
        assert_eq!(views.next(), Some((ct(102), 0)));
        fails();
        views.gone(ct(101));
        aim(&lives(71));
        assert_eq!(due(&views), [ct(102)]);
        fails();
        aim(&None);
        assert_eq!(due(&views), [], "for another provider it begins anew");
    }

    #[test]
    fn who_was_changed_is_told_once_when_all_are() {
        let views = Views::default();
        views.state().due.extend([(ct(101), 0), (ct(102), 0), (ct(103), 0)]);
        assert!(views.next().is_some() && views.next().is_some());
        assert_eq!(views.over(true), None, "one is being changed, one is due");
        assert!(views.next().is_some());
        assert_eq!(views.over(false), None);
        assert_eq!(views.over(true), Some(2));
        views.state().due.insert(ct(101), 0);
        assert!(views.next().is_some());
        assert_eq!(views.over(false), None, "nothing changed");
    }
}
