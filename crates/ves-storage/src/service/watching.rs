//! The room under the pool is watched: holes in it are filled, and an operator hears what is wrong. So are
//! the errors that the kernel meets in mounted file systems.
//!
//! Never here: what is wrong, how anything is done.

use std::collections::BTreeSet;
use std::time::Duration;

use ves_daemon::blocking;
use ves_daemon::converge::variant;
use ves_daemon::telemetry::Gauge;
use ves_proto::Fault;

use super::{Service, observing};
use crate::plan::Step;
use crate::plan::room::Alarm;

/// How often the pool is looked at, which costs the same however much is in it: a trim of it, as a timer of the
/// node's may run, makes holes that others could fill.
const EVERY: Duration = Duration::from_secs(1);
/// How long to wait where it could not be backed.
const UNBACKED_EVERY: Duration = Duration::from_secs(30);
/// How often errors of file systems, and mounts of volumes that are gone, are looked for.
const MOUNTED_EVERY: Duration = Duration::from_secs(10);

impl Service {
    /// Watches the pool and volumes from now on. Call it inside the runtime.
    pub fn watch(&self) {
        self.audit();
        let this = self.clone();
        tokio::spawn(async move {
            let damaged = Gauge::new(
                "ves.storage.damaged",
                "mounted volumes in whose file system the kernel has met errors",
            );
            loop {
                let own = this.clone();
                match blocking(move || own.look_at_mounted()).await {
                    Ok(met) => damaged.set(u64::try_from(met).unwrap_or(u64::MAX)),
                    Err(fault) => tracing::warn!("look at what is mounted: {fault}"),
                }
                tokio::time::sleep(MOUNTED_EVERY).await;
            }
        });
        let this = self.clone();
        tokio::spawn(async move {
            let mut raised = BTreeSet::new();
            loop {
                let own = this.clone();
                let pause = match blocking(move || own.tend()).await {
                    Ok(alarms) => {
                        raised = tell(&raised, &alarms);
                        pause(&alarms)
                    }
                    Err(fault) => {
                        tracing::warn!("look at the pool: {fault}");
                        UNBACKED_EVERY
                    }
                };
                tokio::time::sleep(pause).await;
            }
        });
    }

    /// Takes our mounts away of volumes that are gone, and [`Self::look_for_errors`].
    fn look_at_mounted(&self) -> Result<usize, Fault> {
        self.let_orphans_go()?;
        self.look_for_errors()
    }

    /// Takes our mounts away of volumes whose image somebody deleted. Who runs on one goes on, with a mount of
    /// his own, and with him goes the rest.
    pub(crate) fn let_orphans_go(&self) -> Result<(), Fault> {
        for ct in self.host.orphans().map_err(|e| observing(&e))? {
            // One that is being changed is looked at again.
            let Ok(_held) = self.shell.hold(ct, "being looked at") else { continue };
            if !self.host.observe(ct, None).map_err(|e| observing(&e))?.is_orphan() {
                continue;
            }
            let step = Step::Unmount;
            let unmount = || self.host.apply(ct, &step);
            if let Err(error) = self.shell.step(Some(ct), &variant(&step), &step, unmount) {
                tracing::warn!(%ct, %error, "the mount of a volume that is gone stays");
            }
        }
        Ok(())
    }

    /// Looks in whose mounted file systems the kernel has met errors, and tells of new ones; answers how many
    /// there are.
    pub(crate) fn look_for_errors(&self) -> Result<usize, Fault> {
        let met = self.host.met_errors().map_err(|e| observing(&e))?;
        for (ct, errors) in &met {
            if self.errors.borrow().get(ct).is_none_or(|before| before < errors) {
                tracing::error!(%ct, errors, "the kernel has met errors in the file system");
            }
        }
        let count = met.len();
        self.errors.send_if_modified(|last| std::mem::replace(last, met) != *last);
        Ok(count)
    }

    /// Backs again what should be backed and is not, and answers what else is wrong.
    pub(crate) fn tend(&self) -> Result<Vec<Alarm>, Fault> {
        if let Err(error) = self.promise(&self.promises.reserve(0), 0) {
            tracing::warn!(%error, "the pool is not backed");
        }
        Ok(self.promises.facts().map_err(|e| observing(&e))?.alarms())
    }
}

/// How long to wait before the next look.
fn pause(alarms: &[Alarm]) -> Duration {
    match alarms.iter().any(|alarm| matches!(alarm, Alarm::NotBacked { .. })) {
        true => UNBACKED_EVERY,
        false => EVERY,
    }
}

/// Tells of each alarm once, and when it is over; answers those that are raised now.
fn tell(before: &BTreeSet<String>, alarms: &[Alarm]) -> BTreeSet<String> {
    let now: BTreeSet<String> = alarms.iter().map(|alarm| variant(alarm)).collect();
    for alarm in alarms.iter().filter(|alarm| !before.contains(&variant(*alarm))) {
        tracing::error!(alarm = variant(alarm), "{alarm}");
    }
    for alarm in before.difference(&now) {
        tracing::info!(alarm, "is over");
    }
    now
}
