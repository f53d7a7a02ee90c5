//! The shell around every planner: who may change a container, when it is written down, what is told of
//! it.
//!
//! ```text
//! place ─► lock ─► admit ─► observe ─► plan ─┬─► accept ─► apply each step ─► answer
//!  wait    BUSY    STALE     └── decide ──┘  │   durable   span, metric
//!                                            └─► a dry run answers the steps
//! ```
//!
//! Owns the container's lock, its fence (whose rule is [`crate::fence`]'s), the span and the metrics of
//! each step, dry runs, and how much is done at once. Runs on the blocking pool: a caller that hangs
//! up while it waits for its place has asked for nothing; one that hangs up later does not cut a plan in
//! half. Never here: what is planned, or how any of it is done.

use std::fmt::{self, Debug, Display, Write as _};
use std::sync::Arc;
use std::time::Instant;

use opentelemetry::metrics::Histogram;
use opentelemetry::{KeyValue, global};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use ves_proto::{Fault, Reason};
use ves_types::layout::Daemon;
use ves_types::{CtId, Fence, Generation};

use crate::blocking;
use crate::fence::FenceStore;
use crate::locks::{Held, Locks};

/// How many changes are made at once, where nothing else is set: enough to keep a machine's disk and
/// processors busy, and few enough that each of them still gets somewhere.
pub const CHANGES: usize = 16;

/// Whether so many changes can be made at once.
pub fn check_changes(changes: usize) -> Result<(), String> {
    match changes {
        1..=256 => Ok(()),
        _ => Err(format!("service.max_changes must be from 1 to 256; {CHANGES} is usual")),
    }
}

/// How many changes that only wait for a container go on at once. They cost a thread each, of which the
/// blocking pool has 512, and reads need some too.
const WAITS: usize = 256;
/// The bounds of durations of steps, in seconds.
const BOUNDS: [f64; 13] =
    [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// What a change mostly does, and so with which others it shares places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// It works.
    Change,
    /// It waits until a container has done something, and would keep others from working.
    Wait,
}

/// What is asked for: for whom, how new, and whether it is only to be planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// For whom, and how new.
    pub fence: Fence,
    /// Answer with the steps and change nothing, not even what was accepted.
    pub dry_run: bool,
}

impl From<Fence> for Call {
    fn from(fence: Fence) -> Self {
        Self { fence, dry_run: false }
    }
}

/// What came of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done<A> {
    /// The new state; `None` after a dry run.
    pub answer: Option<A>,
    /// The steps that were done; of a dry run, those that would be.
    pub steps: Vec<String>,
}

impl<A> Done<A> {
    /// The new state, where it was no dry run.
    ///
    /// # Errors
    /// `BUG` after a dry run.
    pub fn made(self) -> Result<A, Fault> {
        self.answer.ok_or_else(|| Fault::new(Reason::Bug, "a call without an answer"))
    }
}

/// One kind of change to one container: what a planner and a host are to the shell. In the order of its
/// methods.
pub trait Planned: Send + 'static {
    /// The call's name, which others hear while it holds the lock.
    const RPC: &'static str;
    /// How often it is planned and done until nothing is left to do; 1: what was done is not doubted.
    const ATTEMPTS: u32 = 1;
    /// What is looked at before it is planned, and whatever else is needed on the way.
    type Observed;
    /// One thing to do. How it reads is its line in the log, its span, and its line in a dry run.
    type Step: Debug + Display;
    /// The new state.
    type Answer: Send + 'static;

    /// With what it shares places.
    fn work(&self) -> Work {
        Work::Change
    }

    /// Looks.
    fn observe(&mut self) -> Result<Self::Observed, Fault>;

    /// Plans, purely.
    fn plan(&mut self, observed: &Self::Observed) -> Result<Vec<Self::Step>, Fault>;

    /// Looks and plans. Whoever has to reserve something does both under a lock of its own, so that two
    /// do not count on the same.
    fn decide(&mut self) -> Result<(Self::Observed, Vec<Self::Step>), Fault> {
        let observed = self.observe()?;
        let steps = self.plan(&observed)?;
        Ok((observed, steps))
    }

    /// Whether nothing of the container is left to this service when it is done.
    fn removes(&self, _observed: &Self::Observed) -> bool {
        false
    }

    /// Performs one step.
    fn apply(&mut self, observed: &mut Self::Observed, step: &Self::Step) -> Result<(), Fault>;

    /// Whether what failed may succeed if it is planned anew. Asked only where attempts are left.
    fn again(&self) -> bool {
        false
    }

    /// It is over, well or not, and others may have to be told.
    fn ended(&mut self) {}

    /// The new state; `changed`: something was done since `observed`.
    fn answer(&mut self, observed: Self::Observed, changed: bool) -> Result<Self::Answer, Fault>;

    /// The kind of a step, by which it is counted.
    fn kind(step: &Self::Step) -> String {
        variant(step)
    }
}

/// The name of a value's variant, as `Debug` begins with it.
pub fn variant(value: &dyn Debug) -> String {
    struct Name(String);
    impl fmt::Write for Name {
        fn write_str(&mut self, piece: &str) -> fmt::Result {
            let end = piece.find(|c: char| !c.is_alphanumeric()).unwrap_or(piece.len());
            self.0.push_str(piece.get(..end).unwrap_or_default());
            // What follows is of no interest, and long.
            if end < piece.len() { Err(fmt::Error) } else { Ok(()) }
        }
    }
    let mut name = Name(String::new());
    // That it was cut off is no failure.
    write!(name, "{value:?}").ok();
    name.0
}

#[derive(Debug)]
struct Inner {
    service: Daemon,
    fences: FenceStore,
    locks: Locks,
    changes: Arc<Semaphore>,
    waits: Arc<Semaphore>,
    duration: Histogram<f64>,
}

/// The shell of a service. Clones are the same shell.
#[derive(Debug, Clone)]
pub struct Shell {
    inner: Arc<Inner>,
}

impl Shell {
    /// The shell of `service`, which makes at most so many `changes` at once.
    pub fn new(service: Daemon, fences: FenceStore, changes: usize) -> Self {
        let meter = global::meter("ves");
        let inner = Inner {
            service,
            fences,
            locks: Locks::default(),
            changes: Arc::new(Semaphore::new(changes.clamp(1, WAITS))),
            waits: Arc::new(Semaphore::new(WAITS)),
            duration: meter
                .f64_histogram("ves.step.duration")
                .with_description("time until a step was done or had failed")
                .with_unit("s")
                .with_boundaries(BOUNDS.to_vec())
                .build(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The generation that was last accepted for a container; 0 where none was.
    pub fn generation(&self, ct: CtId) -> Generation {
        self.inner.fences.generation(ct)
    }

    /// Keeps everybody else from changing a container while the answer lives.
    ///
    /// # Errors
    /// `BUSY`.
    pub fn hold(&self, ct: CtId, what: &str) -> Result<Held, Fault> {
        self.inner.locks.hold(ct, what)
    }

    /// Waits for a place.
    async fn place(&self, work: Work) -> Result<OwnedSemaphorePermit, Fault> {
        let places = match work {
            Work::Change => &self.inner.changes,
            Work::Wait => &self.inner.waits,
        };
        let place = Arc::clone(places).acquire_owned().await;
        place.map_err(|_| Fault::new(Reason::Bug, "nobody gives places any more"))
    }

    /// Makes a container what a call asks for.
    ///
    /// # Errors
    /// `BUSY`, those of the fence, the planner's refusal, what failed, or `BUG` after a panic.
    pub async fn converge<P: Planned>(
        &self,
        call: Call,
        planned: P,
    ) -> Result<Done<P::Answer>, Fault> {
        // Who only looks waits for nobody.
        let place = match call.dry_run {
            true => None,
            false => Some(self.place(planned.work()).await?),
        };
        let shell = self.clone();
        blocking(move || {
            let _place = place;
            shell.run(call, planned)
        })
        .await
    }

    /// The same on the calling thread and without a place, for whoever has a thread that may block.
    ///
    /// # Errors
    /// Those of [`Self::converge`].
    pub fn run<P: Planned>(&self, call: Call, mut planned: P) -> Result<Done<P::Answer>, Fault> {
        let ct = call.fence.ct;
        let _held = self.inner.locks.hold(ct, P::RPC)?;
        self.inner.fences.admit(&call.fence)?;
        let (observed, steps) = planned.decide()?;
        if call.dry_run {
            let steps = steps.iter().map(ToString::to_string).collect();
            return Ok(Done { answer: None, steps });
        }
        self.inner.fences.accept(&call.fence, planned.removes(&observed))?;
        let mut done = Vec::new();
        let led = self.lead(ct, &mut planned, observed, steps, &mut done);
        planned.ended();
        let observed = led?;
        if !done.is_empty() {
            tracing::info!(%ct, rpc = P::RPC, steps = done.len(), "changed");
        }
        let answer = planned.answer(observed, !done.is_empty())?;
        Ok(Done { answer: Some(answer), steps: done })
    }

    /// The same, not as a dry run: the new state.
    ///
    /// # Errors
    /// Those of [`Self::converge`].
    pub fn make<P: Planned>(&self, fence: Fence, planned: P) -> Result<P::Answer, Fault> {
        self.run(fence.into(), planned)?.made()
    }

    /// Performs the steps, and where what was done is doubted, those that are left.
    fn lead<P: Planned>(
        &self,
        ct: CtId,
        planned: &mut P,
        mut observed: P::Observed,
        mut steps: Vec<P::Step>,
        done: &mut Vec<String>,
    ) -> Result<P::Observed, Fault> {
        for attempt in 1.. {
            let performed = steps.iter().try_for_each(|step| {
                let kind = P::kind(step);
                self.step(Some(ct), &kind, step, || planned.apply(&mut observed, step))?;
                done.push(step.to_string());
                Ok(())
            });
            match performed {
                Err(fault) if attempt >= P::ATTEMPTS || !planned.again() => return Err(fault),
                Ok(()) if steps.is_empty() || P::ATTEMPTS == 1 => break,
                Ok(()) | Err(_) => {}
            }
            (observed, steps) = planned.decide()?;
            if steps.is_empty() {
                break;
            }
            if attempt >= P::ATTEMPTS {
                let left: Vec<_> = steps.iter().map(ToString::to_string).collect();
                let left = left.join(", ");
                let message =
                    format!("container {ct}: the kernel did not keep what it was told: {left}");
                let fault = Fault::new(Reason::HostFailed, message);
                return Err(fault.fact("ct", ct).fact("step", left));
            }
        }
        Ok(observed)
    }

    /// Performs one step, of a container or of the node as a whole, in its span and counted by its
    /// `kind`.
    ///
    /// # Errors
    /// What `apply` fails with.
    pub fn step<T, E: Display>(
        &self,
        ct: Option<CtId>,
        kind: &str,
        step: &dyn Display,
        apply: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        let Inner { service, duration, .. } = &*self.inner;
        let span = tracing::info_span!(
            "step",
            otel.name = format!("step {}.{kind}", service.name()),
            container.id = ct.map(CtId::get),
            ves.step = %step,
            otel.status_code = tracing::field::Empty,
        );
        let _inside = span.clone().entered();
        let begun = Instant::now();
        let result = apply();
        let outcome = if result.is_ok() { "done" } else { "failed" };
        let labels = [
            KeyValue::new("ves.service", service.name()),
            KeyValue::new("ves.step.kind", kind.to_owned()),
            KeyValue::new("ves.step.outcome", outcome),
        ];
        duration.record(begun.elapsed().as_secs_f64(), &labels);
        match &result {
            Ok(_) => tracing::debug!("done"),
            Err(error) => {
                span.record("otel.status_code", "ERROR");
                tracing::warn!(%error, "failed");
            }
        }
        result
    }
}

#[cfg(test)]
mod tests;
