//! The shell around a small planner: what is written down before what, who waits, who hears BUSY.

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::task::Poll;
use std::time::Duration;

use tracing::field::{Field, Visit};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use ves_types::Epoch;

use super::*;

/// What a container is: a number that steps count up, or nothing.
#[derive(Debug, Default)]
struct World {
    have: Option<u32>,
    done: Vec<String>,
    /// What was accepted when each step was begun, read from the file.
    fences: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mishap {
    None,
    Fail(u32),
    Panic(u32),
    /// The first attempt's steps have no effect.
    Forget,
}

#[derive(Debug)]
enum Step {
    Count { to: u32 },
    Remove,
}

impl Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count { to } => write!(f, "count to {to}"),
            Self::Remove => write!(f, "remove it"),
        }
    }
}

struct Change<const ATTEMPTS: u32> {
    world: Arc<Mutex<World>>,
    file: PathBuf,
    wanted: Option<u32>,
    mishap: Mishap,
    work: Work,
    /// Says that it has begun, and waits until it may go on.
    gate: Option<(Sender<()>, Receiver<()>)>,
    ended: Arc<Mutex<u32>>,
}

impl<const ATTEMPTS: u32> Planned for Change<ATTEMPTS> {
    const RPC: &'static str = "Change";
    const ATTEMPTS: u32 = ATTEMPTS;
    type Observed = Option<u32>;
    type Step = Step;
    type Answer = Option<u32>;

    fn work(&self) -> Work {
        self.work
    }

    fn observe(&mut self) -> Result<Option<u32>, Fault> {
        Ok(self.world.lock().expect("whole").have)
    }

    fn plan(&mut self, have: &Option<u32>) -> Result<Vec<Step>, Fault> {
        let Some(wanted) = self.wanted else {
            return Ok(have.map(|_| Step::Remove).into_iter().collect());
        };
        let have = have.unwrap_or(0);
        if have > wanted {
            return Err(Fault::new(Reason::WouldShrink, "it never counts down"));
        }
        Ok((have + 1..=wanted).map(|to| Step::Count { to }).collect())
    }

    fn removes(&self, _: &Option<u32>) -> bool {
        self.wanted.is_none()
    }

    fn apply(&mut self, _: &mut Option<u32>, step: &Step) -> Result<(), Fault> {
        if let Some((begun, go)) = &self.gate {
            begun.send(()).expect("somebody listens");
            go.recv().expect("somebody says so");
        }
        let mut world = self.world.lock().expect("whole");
        world.fences.push(std::fs::read_to_string(&self.file).unwrap_or_default());
        let (to, effect) = match step {
            Step::Count { to } => (*to, Some(*to)),
            Step::Remove => (1, None),
        };
        match self.mishap {
            Mishap::Fail(at) if at == to => return Err(Fault::new(Reason::HostFailed, "as asked")),
            Mishap::Panic(at) if at == to => {
                drop(world);
                panic!("as asked");
            }
            Mishap::Forget => {
                self.mishap = Mishap::None;
                return Ok(());
            }
            _ => {}
        }
        world.have = effect;
        world.done.push(step.to_string());
        Ok(())
    }

    fn ended(&mut self) {
        *self.ended.lock().expect("whole") += 1;
    }

    fn answer(&mut self, _: Option<u32>, _: bool) -> Result<Option<u32>, Fault> {
        self.observe()
    }
}

struct Rig {
    dir: tempfile::TempDir,
    shell: Shell,
    world: Arc<Mutex<World>>,
    ended: Arc<Mutex<u32>>,
}

fn ct(n: u32) -> CtId {
    CtId::try_from(n).expect("valid")
}

fn call(generation: u64) -> Call {
    Fence { ct: ct(101), generation: Generation(generation), epoch: Epoch(1) }.into()
}

impl Rig {
    fn new(changes: usize) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let shell = shell(&dir, changes);
        Self { dir, shell, world: Arc::default(), ended: Arc::default() }
    }

    /// The daemon was killed and begun again.
    fn restart(&mut self) {
        self.shell = shell(&self.dir, 16);
    }

    fn change<const ATTEMPTS: u32>(&self, wanted: Option<u32>, mishap: Mishap) -> Change<ATTEMPTS> {
        Change {
            world: Arc::clone(&self.world),
            file: self.dir.path().join("fence/101"),
            wanted,
            mishap,
            work: Work::Change,
            gate: None,
            ended: Arc::clone(&self.ended),
        }
    }

    fn ensure(&self, generation: u64, wanted: u32) -> Result<Done<Option<u32>>, Fault> {
        self.shell.run(call(generation), self.change::<1>(Some(wanted), Mishap::None))
    }

    fn remove(&self, generation: u64) -> Result<Done<Option<u32>>, Fault> {
        self.shell.run(call(generation), self.change::<1>(None, Mishap::None))
    }

    fn accepted(&self) -> Generation {
        self.shell.generation(ct(101))
    }

    fn done(&self) -> Vec<String> {
        std::mem::take(&mut self.world.lock().expect("whole").done)
    }
}

fn shell(dir: &tempfile::TempDir, changes: usize) -> Shell {
    let fences = FenceStore::open(dir.path().join("fence")).expect("opened");
    Shell::new(Daemon::Storage, fences, changes)
}

fn reason<T>(result: Result<T, Fault>) -> Result<T, Reason> {
    result.map_err(|f| f.reason)
}

#[test]
fn a_call_answers_what_is_and_what_was_done() {
    let rig = Rig::new(16);
    let done = rig.ensure(5, 2).expect("done");
    assert_eq!(done.answer, Some(Some(2)));
    assert_eq!(done.steps, ["count to 1", "count to 2"]);
    let again = rig.ensure(5, 2).expect("the same");
    assert_eq!((again.answer, again.steps), (Some(Some(2)), vec![]));
    assert_eq!(*rig.ended.lock().expect("whole"), 2);
}

#[test]
fn a_decision_is_written_down_before_its_first_effect() {
    let rig = Rig::new(16);
    rig.ensure(5, 2).expect("done");
    rig.remove(6).expect("done");
    let fences = std::mem::take(&mut rig.world.lock().expect("whole").fences);
    let of = |text: &str| text.matches("\"generation\":5").count();
    assert_eq!(fences.iter().map(|f| of(f)).collect::<Vec<_>>(), [1, 1, 0], "{fences:?}");
    assert!(fences[2].contains("\"generation\":6"), "a removal's too: {fences:?}");
}

#[test]
fn a_decision_for_which_nothing_is_to_be_done_is_accepted_too() {
    let rig = Rig::new(16);
    rig.ensure(5, 2).expect("done");
    rig.ensure(7, 2).expect("nothing to do");
    assert_eq!(reason(rig.ensure(6, 3)).map(drop), Err(Reason::StaleGeneration));
    rig.remove(8).expect("done");
    rig.remove(9).expect("nothing to do");
    assert_eq!(reason(rig.ensure(8, 1)).map(drop), Err(Reason::StaleGeneration));
}

#[test]
fn what_was_refused_is_not_accepted() {
    let rig = Rig::new(16);
    rig.ensure(5, 2).expect("done");
    assert_eq!(reason(rig.ensure(9, 1)).map(drop), Err(Reason::WouldShrink));
    assert_eq!(rig.accepted(), Generation(5));
    assert_eq!(*rig.ended.lock().expect("whole"), 1, "nothing was begun");
}

#[test]
fn what_was_delayed_does_not_bring_back_what_was_removed() {
    let mut rig = Rig::new(16);
    rig.ensure(5, 1).expect("done");
    rig.remove(6).expect("done");
    for restarted in [false, true] {
        assert_eq!(reason(rig.ensure(5, 1)).map(drop), Err(Reason::StaleGeneration), "{restarted}");
        rig.restart();
    }
    // A new container of the same id.
    rig.ensure(7, 1).expect("done");
    assert_eq!(reason(rig.remove(6)).map(drop), Err(Reason::StaleGeneration));
    assert_eq!(rig.world.lock().expect("whole").have, Some(1));
}

#[test]
fn a_crash_after_any_step_keeps_the_fence_and_lets_the_same_decision_finish() {
    for at in 1..=3 {
        let mut rig = Rig::new(16);
        rig.shell.run(call(5), rig.change::<1>(Some(3), Mishap::Fail(at))).expect_err("failed");
        rig.restart();
        assert_eq!(rig.accepted(), Generation(5), "also where nothing had an effect yet");
        assert_eq!(reason(rig.ensure(4, 3)).map(drop), Err(Reason::StaleGeneration));
        assert_eq!(rig.ensure(5, 3).expect("finished").answer, Some(Some(3)));

        rig.shell.run(call(6), rig.change::<1>(None, Mishap::Fail(1))).expect_err("failed");
        rig.restart();
        assert_eq!(reason(rig.ensure(5, 3)).map(drop), Err(Reason::StaleGeneration));
        rig.remove(6).expect("finished");
        // Killed when all was done and nothing answered.
        rig.restart();
        rig.remove(6).expect("nothing to do");
        assert_eq!(reason(rig.ensure(5, 3)).map(drop), Err(Reason::StaleGeneration));
    }
}

#[test]
fn a_dry_run_changes_nothing_not_even_the_fence() {
    let rig = Rig::new(16);
    let dry = |generation| Call { dry_run: true, ..call(generation) };
    let planned = rig.shell.run(dry(5), rig.change::<1>(Some(2), Mishap::None)).expect("planned");
    assert_eq!((planned.answer, planned.steps.len()), (None, 2));
    assert_eq!((rig.accepted(), rig.done()), (Generation(0), vec![]));
    assert_eq!(std::fs::read_dir(rig.dir.path().join("fence")).expect("there").count(), 0);
    let done = rig.ensure(5, 2).expect("done");
    assert_eq!(done.steps, planned.steps, "what was foretold");
    let stale = rig.shell.run(dry(4), rig.change::<1>(Some(2), Mishap::None));
    assert_eq!(reason(stale).map(drop), Err(Reason::StaleGeneration));
    let refused = rig.shell.run(dry(6), rig.change::<1>(Some(1), Mishap::None));
    assert_eq!(reason(refused).map(drop), Err(Reason::WouldShrink));
}

#[test]
fn what_is_doubted_is_done_again_until_it_is_there() {
    let rig = Rig::new(16);
    let done = rig.shell.run(call(5), rig.change::<3>(Some(1), Mishap::Forget)).expect("done");
    assert_eq!((done.answer, done.steps.len()), (Some(Some(1)), 2));
    let rig = Rig::new(16);
    let kept = rig.shell.run(call(5), rig.change::<1>(Some(1), Mishap::Forget)).expect("done");
    assert_eq!(kept.answer, Some(None), "who is not doubted is not looked after");
}

#[test]
fn the_second_hears_of_the_first_and_a_panic_lets_go() {
    let rig = Rig::new(16);
    let held = rig.shell.hold(ct(101), "a test").expect("free");
    let fault = rig.ensure(1, 1).expect_err("held");
    assert_eq!((fault.reason, fault.facts["holder"].as_str()), (Reason::Busy, "a test"));
    drop(held);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let change = rig.change::<1>(Some(2), Mishap::Panic(2));
    let fault = runtime.block_on(rig.shell.converge(call(5), change)).expect_err("a bug");
    assert_eq!(fault.reason, Reason::Bug);
    assert_eq!(rig.accepted(), Generation(5));
    assert_eq!(rig.ensure(5, 2).expect("free and finished").answer, Some(Some(2)));
}

#[test]
fn no_more_than_so_many_work_at_once_and_who_waits_is_not_busy() {
    let rig = Rig::new(1);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build();
    let runtime = runtime.expect("a runtime");
    let (begun, has_begun) = channel();
    let (go, may_go) = channel();
    let gated = Change { gate: Some((begun, may_go)), ..rig.change::<1>(Some(1), Mishap::None) };
    let shell = rig.shell.clone();
    let first = runtime.spawn(async move { shell.converge(call(1), gated).await });
    has_begun.recv_timeout(Duration::from_secs(60)).expect("the first works");

    // Another container waits for a place, and hears nothing meanwhile.
    let other: Call = Fence { ct: ct(102), ..call(1).fence }.into();
    let make = |work| Change { work, ..rig.change::<1>(Some(1), Mishap::None) };
    let runs = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let mut waits = Box::pin(rig.shell.converge(other, make(Work::Change)));
    let waiting =
        |cx: &mut std::task::Context<'_>| Poll::Ready(waits.as_mut().poll(cx).is_pending());
    assert!(runs.block_on(std::future::poll_fn(waiting)));
    drop(waits);
    assert_eq!(rig.shell.generation(ct(102)), Generation(0), "who hung up has asked for nothing");
    // Who only waits for a container, and who only looks, do not wait for those who work.
    let dry = Call { dry_run: true, ..other };
    let looked = runs.block_on(rig.shell.converge(dry, make(Work::Change)));
    assert_eq!(looked.expect("planned").steps, ["count to 1"]);
    runs.block_on(rig.shell.converge(other, make(Work::Wait))).expect("done");

    go.send(()).expect("it waits for that");
    runtime.block_on(first).expect("no panic").expect("done");
    runs.block_on(rig.shell.converge(other, make(Work::Change))).expect("a place is free");
}

/// Keeps the spans called "step", with what they say.
#[derive(Clone, Default)]
struct Spans(Arc<Mutex<Vec<String>>>);

impl<S: tracing::Subscriber> Layer<S> for Spans {
    fn on_new_span(
        &self,
        attributes: &tracing::span::Attributes<'_>,
        _: &tracing::span::Id,
        _: Context<'_, S>,
    ) {
        struct Words(String);
        impl Visit for Words {
            fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
                if ["otel.name", "container.id", "ves.step"].contains(&field.name()) {
                    write!(self.0, "{}={value:?} ", field.name()).expect("a string");
                }
            }
        }
        if attributes.metadata().name() == "step" {
            let mut words = Words(String::new());
            attributes.record(&mut words);
            self.0.lock().expect("whole").push(words.0);
        }
    }
}

#[test]
fn every_step_is_a_span() {
    let (rig, spans) = (Rig::new(16), Spans::default());
    let subscriber = tracing_subscriber::registry().with(spans.clone());
    tracing::subscriber::with_default(subscriber, || {
        rig.ensure(5, 2).expect("done");
        rig.shell.run(call(6), rig.change::<1>(Some(3), Mishap::Fail(3))).expect_err("failed");
        let node = rig.shell.step(None, "Prepare", &"prepare", || Ok::<_, Fault>(7));
        assert_eq!(node, Ok(7));
    });
    let spans = spans.0.lock().expect("whole").clone();
    assert_eq!(
        spans,
        [
            "otel.name=\"step storage.Count\" container.id=101 ves.step=count to 1 ",
            "otel.name=\"step storage.Count\" container.id=101 ves.step=count to 2 ",
            "otel.name=\"step storage.Count\" container.id=101 ves.step=count to 3 ",
            "otel.name=\"step storage.Prepare\" ves.step=prepare ",
        ]
    );
}

#[test]
fn steps_are_counted_by_their_kind() {
    assert_eq!(variant(&Step::Count { to: 3 }), "Count");
    assert_eq!(variant(&Step::Remove), "Remove");
    assert_eq!(variant(&(1, 2)), "");
}
