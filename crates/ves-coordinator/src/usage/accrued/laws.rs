//! What must hold of what is counted, whatever is read when, and whenever the coordinator is killed.

use proptest::prelude::*;

use super::*;

fn counts(n: u64) -> Counts {
    Counts { cpu_usec: Some(n), oom_kills: Some(n / 10), ..Counts::default() }
}

/// What may happen to a container and to who counts.
#[derive(Debug, Clone, Copy)]
enum Event {
    /// It uses so much more.
    Use(u64),
    /// It is read and that is taken in.
    Read,
    /// It is read, and that is taken in some time later, or twice.
    Late,
    /// What was read last, whenever that was, is taken in.
    Arrive,
    /// What is known is stored.
    Store,
    /// The groups are removed: with a last reading that is stored, as an orderly stop does.
    Stop,
    /// The groups are removed, and the coordinator is killed before it heard of it.
    StopUnheard,
    /// The coordinator is killed: what was not stored is lost to it.
    Kill,
    /// The node boots: the groups are gone unread.
    Boot,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0_u64..1000).prop_map(Event::Use),
        3 => Just(Event::Read),
        1 => Just(Event::Late),
        1 => Just(Event::Arrive),
        2 => Just(Event::Store),
        2 => Just(Event::Stop),
        1 => Just(Event::StopUnheard),
        1 => Just(Event::Kill),
        1 => Just(Event::Boot),
    ]
}

/// The node, and the coordinator.
struct World {
    boot: u32,
    life: u64,
    /// What the present groups count, by life.
    now: u64,
    /// All that was ever used.
    truth: u64,
    /// What of it was in groups that went before it was stored.
    at_risk: u64,
    known: Accrued,
    stored: Accrued,
    /// The greatest reading of the present life that is stored.
    stored_now: u64,
    late: Option<(u64, u64)>,
}

impl World {
    fn new() -> Self {
        let new = Accrued::new(Uuid::nil(), 5, "0");
        Self {
            boot: 0,
            life: 1,
            now: 0,
            truth: 0,
            at_risk: 0,
            known: new.clone(),
            stored: new,
            stored_now: 0,
            late: None,
        }
    }

    fn total(&self) -> u64 {
        self.known.group.total().cpu_usec.unwrap_or(0)
    }

    fn store(&mut self) {
        self.stored = self.known.clone();
        let known = &self.known.group;
        if known.life == self.life && !known.over {
            self.stored_now = self.stored_now.max(known.last.cpu_usec.unwrap_or(0));
        }
    }

    /// The present groups go; what of them is stored nowhere is lost.
    fn go(&mut self) {
        self.at_risk += self.now - self.stored_now;
        self.new_life();
    }

    fn new_life(&mut self) {
        self.life += 1;
        (self.now, self.stored_now) = (0, 0);
    }

    fn kill(&mut self) {
        self.known = self.stored.clone();
        self.known.enter_boot(&self.boot.to_string());
        // Nothing that was under way arrives at the next one.
        self.late = None;
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Use(n) => {
                self.now += n;
                self.truth += n;
            }
            Event::Read => self.known.group.read(self.life, counts(self.now)),
            Event::Late => self.late = Some((self.life, self.now)),
            Event::Arrive => {
                if let Some((life, now)) = self.late {
                    self.known.group.read(life, counts(now));
                }
            }
            Event::Store => self.store(),
            Event::Stop => {
                self.known.group.read(self.life, counts(self.now));
                self.known.group.end();
                self.store();
                self.new_life();
            }
            Event::StopUnheard => {
                self.go();
                self.kill();
            }
            Event::Kill => self.kill(),
            Event::Boot => {
                self.go();
                self.boot += 1;
                self.life = 1;
                self.kill();
            }
        }
    }
}

proptest! {
    #[test]
    fn it_only_grows_counts_nothing_twice_and_loses_only_what_was_not_stored(
        events in proptest::collection::vec(event(), 0..80),
    ) {
        let mut world = World::new();
        for event in events {
            let before = world.total();
            let killed = matches!(event, Event::Kill | Event::StopUnheard | Event::Boot);
            let floor = world.stored.group.total().cpu_usec.unwrap_or(0);
            world.happen(event);
            let now = world.total();
            prop_assert!(now >= if killed { floor } else { before }, "{now} after {before}");
            prop_assert!(now <= world.truth, "{now} of {}", world.truth);
            let mut known = world.known.group;
            known.read(world.life, counts(world.now));
            let known = known.total().cpu_usec.unwrap_or(0);
            prop_assert!(known + world.at_risk >= world.truth, "more is lost than was at risk");
        }
    }

    #[test]
    fn without_a_crash_nothing_is_lost(uses in proptest::collection::vec(0_u64..1000, 0..40)) {
        let mut world = World::new();
        for n in &uses {
            world.happen(Event::Use(*n));
            world.happen(Event::Stop);
        }
        prop_assert_eq!(world.total(), uses.iter().sum::<u64>());
        prop_assert_eq!(world.at_risk, 0);
    }

    #[test]
    fn runs_add_up(runs in proptest::collection::vec((1_i64..1000, 0_i64..1000), 0..20)) {
        let (mut run, mut now, mut whole) = (Run::default(), 0_i64, 0_u64);
        for (pause, length) in runs {
            let started = now + pause;
            now = started + length;
            // Seen in the middle, at its end, and once more before.
            for seen in [started + length / 2, now, started] {
                run.read(started, seen);
            }
            whole += u64::try_from(length).expect("positive");
            prop_assert_eq!(run.total_ms(), whole);
        }
    }
}

#[test]
fn what_is_not_told_is_absent_and_what_was_told_once_stays() {
    let mut meter = Meter::<Counts>::default();
    meter.read(1, Counts { cpu_usec: Some(3), ..Counts::default() });
    assert_eq!((meter.total().cpu_usec, meter.total().read_bytes), (Some(3), None));
    meter.end();
    meter.read(2, Counts { read_bytes: Some(7), ..Counts::default() });
    assert_eq!((meter.total().cpu_usec, meter.total().read_bytes), (Some(3), Some(7)));
    meter.read(0, counts(100));
    assert_eq!(meter.total().cpu_usec, Some(3), "nobody knows which groups these were");
}

#[test]
fn a_clock_that_goes_back_takes_nothing_away() {
    let mut run = Run::default();
    run.read(1000, 5000);
    run.read(1000, 2000);
    run.read(9000, 8000);
    assert_eq!(run.total_ms(), 4000);
}

#[test]
fn what_this_version_stores_is_read_by_later_ones() {
    let text = include_str!("accrued-v4.json");
    let kept: serde_json::Value = serde_json::from_str(text).expect("JSON");
    let accrued: Accrued = serde_json::from_str(text).expect("as it was stored");
    let again = serde_json::to_value(&accrued).expect("JSON");
    assert_eq!(again, kept);
    assert_eq!(accrued.group.total().cpu_usec, Some(12_000));
    assert_eq!(accrued.link.total().receive_bytes, Some(500));
    assert_eq!(accrued.run.total_ms(), 65_000);
}
