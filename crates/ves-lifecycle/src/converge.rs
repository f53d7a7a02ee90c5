//! The change there is, as [`ves_daemon::converge`] takes it: what is looked at, which planner plans,
//! what watchers are told, what is answered.
//!
//! Never here: decisions, how anything is done, locks, fences, spans.

use ves_daemon::converge::{Planned, Work};
use ves_daemon::{Call, Done};
use ves_init_proto::report::Ended;
use ves_proto::{Fault, Reason};
use ves_types::{CtId, Phase};

use crate::config::Config;
use crate::error::{device_refused, refused};
use crate::plan::{Desired, Goal, Observed, Spec, Step, not_given, plan};
use crate::service::{Container, Service};

/// Makes a container be in a phase.
#[derive(Debug)]
pub(crate) struct EnsureContainer {
    service: Service,
    ct: CtId,
    desired: Desired,
    /// What watchers were told when it was over, and the caller will be.
    ended: Option<Result<Container, Fault>>,
}

impl EnsureContainer {
    pub(crate) const fn new(service: Service, ct: CtId, desired: Desired) -> Self {
        Self { service, ct, desired, ended: None }
    }
}

impl Planned for EnsureContainer {
    const RPC: &'static str = "EnsureContainer";
    type Observed = Observed;
    type Step = Step;
    type Answer = Container;

    fn work(&self) -> Work {
        match self.desired.goal {
            Goal::Absent { grace_ms: 1.. } => Work::Wait,
            Goal::Absent { grace_ms: 0 }
            | Goal::Created
            | Goal::Running
            | Goal::StillRunning
            | Goal::Frozen => Work::Change,
        }
    }

    fn observe(&mut self) -> Result<Observed, Fault> {
        Ok(self.service.inner.host.observe(self.ct)?)
    }

    fn plan(&mut self, observed: &Observed) -> Result<Vec<Step>, Fault> {
        // Before what a dry run would find missing, its volume say.
        match not_given(&self.desired, observed, &self.service.inner.config.allow_devices) {
            Some(device) => Err(device_refused(self.ct, device)),
            None => plan(&self.desired, observed).map_err(|r| refused(self.ct, r)),
        }
    }

    fn removes(&self, _: &Observed) -> bool {
        matches!(self.desired.goal, Goal::Absent { .. })
    }

    fn apply(&mut self, _: &mut Observed, step: &Step) -> Result<(), Fault> {
        let (service, ct) = (&self.service, self.ct);
        match step {
            // Whoever asks later is still told.
            Step::Forget => {
                service.inner.remember_end(ct)?;
                service.inner.remember_last_words(ct);
            }
            Step::EndSessions => service.inner.sessions.end(ct),
            _ => {}
        }
        service.inner.host.apply(ct, step)?;
        if matches!(step, Step::SpawnMonitor(_)) {
            service.inner.last_words.forget(ct);
            service.inner.follow(ct);
        }
        Ok(())
    }

    fn ended(&mut self) {
        self.service.inner.sessions.admit_again(self.ct);
        let container = self.service.inner.look(self.ct);
        if let Ok(container) = &container {
            self.service.inner.tell(container.clone());
        }
        self.ended = Some(container.map_err(Fault::from));
    }

    fn answer(&mut self, observed: Observed, _: bool) -> Result<Container, Fault> {
        let shown = self.ended.take();
        let container = shown.unwrap_or_else(|| Ok(self.service.inner.show(self.ct, observed)))?;
        if self.desired.goal == Goal::Running && container.phase == Phase::Absent {
            return Err(exited(self.ct, container.end.map(|end| end.ended)));
        }
        Ok(container)
    }
}

/// The fault of a container whose init ended at once.
fn exited(ct: CtId, ended: Option<Ended>) -> Fault {
    let (how, status) = match ended {
        Some(Ended::Code(code)) => (format!("status {code}"), code.to_string()),
        Some(Ended::Signal(signal)) => (format!("signal {signal}"), (128 + signal).to_string()),
        None => ("an unknown status".to_owned(), "unknown".to_owned()),
    };
    let message =
        format!("container {ct}: init ended at once with {how}; read its console for the reason");
    Fault::new(Reason::InitExited, message).fact("ct", ct).fact("status", status)
}

impl Service {
    /// Makes a container be in a phase.
    pub async fn ensure(
        &self,
        call: Call,
        goal: Goal,
        spec: Option<Spec>,
    ) -> Result<Done<Container>, Fault> {
        let Config { early_exit_grace_ms, .. } = self.inner.config;
        let desired = Desired { goal, spec, early_exit_grace_ms };
        let planned = EnsureContainer::new(self.clone(), call.fence.ct, desired);
        self.inner.shell.converge(call, planned).await
    }
}
