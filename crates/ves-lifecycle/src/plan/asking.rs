//! When init is asked to stop, and when it is asked again. Pure.
//!
//! ```text
//!   it goes down already ─▶ HEARD later ─▶ ask
//!   ask ─┬─ it did not hear ─▶ soon, then ever later, at most PATIENT apart ─▶ ask
//!        ├─ it heard, and booted since ─▶ at once ───────────────────────────▶ ask
//!        └─ it heard ─▶ HEARD later, then twice that … ──────────────────────▶ ask
//! ```
//!
//! An init that is too young has no ear yet: the kernel drops a signal that the first process of a
//! namespace does not wait for, and a request to System V's init finds no one at its pipe. A request that
//! was heard may still be lost, by an init that executes itself anew, say. So an init that is known to take
//! the same request twice for one is asked again either way; a program that is merely the first process,
//! only until it has heard, as a second request means haste to many.
//! Never here: how it is asked, or what becomes of one that does not stop.

/// When it is asked again that did not hear, at first and at most, in milliseconds.
const YOUNG_MS: u64 = 50;
const PATIENT_MS: u64 = 1_000;
/// When it is asked again at first that did hear, in milliseconds.
const HEARD_MS: u64 = 5_000;

/// What an init made of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    /// Whether it could hear it.
    pub heard: bool,
    /// Whether asking it once more is harmless.
    pub again: bool,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Ask it.
    Ask,
    /// Wait until this many milliseconds after the beginning, or until something changes.
    Until(u64),
    /// Its time is over.
    Over,
}

/// The last request.
#[derive(Debug, Clone, Copy)]
struct Last {
    at_ms: u64,
    gap_ms: u64,
    booted: bool,
    heard: Heard,
}

/// An init that is being asked to stop. Times are milliseconds after the beginning.
#[derive(Debug, Clone, Copy)]
pub struct Asking {
    grace_ms: u64,
    last: Option<Last>,
}

impl Asking {
    /// One that has so long.
    pub const fn new(grace_ms: u32) -> Self {
        Self { grace_ms: grace_ms as u64, last: None }
    }

    /// It went down already when this began: as one that was asked then, heard, and may be asked again, in
    /// case it does not get there. Who has no time for that is asked all the same.
    pub const fn goes_down(&mut self) {
        if self.grace_ms > 2 * HEARD_MS {
            let heard = Heard { heard: true, again: true };
            self.last = Some(Last { at_ms: 0, gap_ms: HEARD_MS, booted: true, heard });
        }
    }

    /// What to do at `now_ms`, of an init that has `booted` by then or not.
    pub fn next(&self, now_ms: u64, booted: bool) -> Next {
        if now_ms >= self.grace_ms {
            return Next::Over;
        }
        let Some(last) = self.last else { return Next::Ask };
        if last.heard.heard && !last.heard.again {
            return Next::Until(self.grace_ms);
        }
        let due_ms = last.at_ms.saturating_add(last.gap_ms);
        if (booted && !last.booted) || now_ms >= due_ms {
            return Next::Ask;
        }
        Next::Until(due_ms.min(self.grace_ms))
    }

    /// It was asked at `now_ms`, being `booted` or not.
    pub fn asked(&mut self, now_ms: u64, booted: bool, heard: Heard) {
        let before = self.last.filter(|last| last.heard.heard == heard.heard);
        let gap_ms = match (before, heard.heard) {
            (None, false) => YOUNG_MS,
            (None, true) => HEARD_MS,
            (Some(last), false) => last.gap_ms.saturating_mul(2).min(PATIENT_MS),
            (Some(last), true) => last.gap_ms.saturating_mul(2),
        };
        self.last = Some(Last { at_ms: now_ms, gap_ms, booted, heard });
    }
}

#[cfg(test)]
mod laws {
    use proptest::prelude::*;

    use super::*;

    /// An init, by when it hears and has booted, in milliseconds.
    #[derive(Debug, Clone, Copy)]
    struct Init {
        hears_ms: u64,
        boots_ms: u64,
        /// How many requests it loses though it heard them.
        loses: usize,
        again: bool,
    }

    #[derive(Debug, Default)]
    struct Run {
        /// When it was asked, and whether it heard.
        asked: Vec<(u64, bool)>,
        /// When it heard a request that it did not lose.
        took: Option<u64>,
        over: Option<u64>,
    }

    /// Acts as told, with a clock that does nothing but what is waited for; to the end of the time also where
    /// init took a request, as one that is slow to stop.
    fn run(grace_ms: u32, init: Init) -> Run {
        let (mut asking, mut run, mut now) = (Asking::new(grace_ms), Run::default(), 0);
        loop {
            let booted = now >= init.boots_ms;
            match asking.next(now, booted) {
                Next::Over => {
                    run.over = Some(now);
                    return run;
                }
                Next::Until(until) => {
                    assert!(until > now, "nobody waits for what was");
                    // Booting is a change, which wakes.
                    let wake = if booted { until } else { until.min(init.boots_ms.max(now + 1)) };
                    now = wake;
                }
                Next::Ask => {
                    let heard = now >= init.hears_ms;
                    run.asked.push((now, heard));
                    if run.asked.iter().filter(|(_, heard)| *heard).count() > init.loses {
                        run.took.get_or_insert(now);
                    }
                    asking.asked(now, booted, Heard { heard, again: init.again });
                }
            }
        }
    }

    fn inits() -> impl Strategy<Value = Init> {
        (0u64..200_000, 0u64..200_000, 0usize..2, any::<bool>()).prop_map(
            |(hears_ms, more, loses, again)| Init {
                hears_ms,
                boots_ms: hears_ms + more,
                loses,
                again,
            },
        )
    }

    proptest! {
        #[test]
        fn it_is_asked_at_once_within_its_time_and_to_the_end_of_it(
            grace_ms in 0u32..400_000,
            init in inits(),
        ) {
            let run = run(grace_ms, init);
            prop_assert_eq!(run.over, Some(u64::from(grace_ms)));
            prop_assert_eq!(run.asked.first().map(|(at, _)| *at), (grace_ms > 0).then_some(0));
            prop_assert!(run.asked.iter().all(|(at, _)| *at < u64::from(grace_ms)));
            prop_assert!(run.asked.is_sorted_by(|a, b| a.0 < b.0), "{:?}", run);
        }

        /// The whole of it: to be young costs a moment, not the time an init has.
        #[test]
        fn who_was_too_young_is_asked_soon_after_it_hears(
            grace_ms in 0u32..400_000,
            init in inits(),
        ) {
            let init = Init { loses: 0, ..init };
            let run = run(grace_ms, init);
            if init.hears_ms + PATIENT_MS < u64::from(grace_ms) {
                let late = run.took.expect("asked in time") - init.hears_ms;
                prop_assert!(late <= PATIENT_MS.min(init.hears_ms + YOUNG_MS), "{late}: {:?}", run);
            }
        }

        #[test]
        fn a_request_that_was_lost_is_repeated_where_that_is_harmless(
            grace_ms in 0u32..400_000,
            init in inits(),
        ) {
            let init = Init { loses: 1, again: true, ..init };
            let run = run(grace_ms, init);
            if init.hears_ms + PATIENT_MS + HEARD_MS < u64::from(grace_ms) {
                prop_assert!(run.took.expect("asked again") <= init.hears_ms + PATIENT_MS + HEARD_MS);
            }
        }

        #[test]
        fn who_might_take_a_second_request_for_haste_hears_one(
            grace_ms in 1u32..400_000,
            init in inits(),
        ) {
            let run = run(grace_ms, Init { again: false, ..init });
            prop_assert!(run.asked.iter().filter(|(_, heard)| *heard).count() <= 1, "{:?}", run);
        }

        #[test]
        fn it_is_not_asked_without_end(grace_ms in 0u32..3_600_000, init in inits()) {
            let run = run(grace_ms, init);
            let young = usize::try_from(u64::from(grace_ms) / PATIENT_MS).expect("few");
            let heard = run.asked.iter().filter(|(_, heard)| *heard).count();
            // Each time twice as late, and once for having booted.
            prop_assert!(heard <= 2 + 20, "{:?}", run);
            prop_assert!(run.asked.len() - heard <= young + 8, "{:?}", run);
        }
    }

    #[test]
    fn one_that_goes_down_is_given_time_before_it_is_asked() {
        let mut asking = Asking::new(60_000);
        asking.goes_down();
        assert_eq!(asking.next(0, true), Next::Until(HEARD_MS));
        assert_eq!(asking.next(HEARD_MS, true), Next::Ask);
        assert_eq!(asking.next(60_000, true), Next::Over);
    }

    #[test]
    fn it_is_asked_again_as_soon_as_it_has_booted() {
        let init = Init { hears_ms: 0, boots_ms: 1234, loses: 1, again: true };
        assert_eq!(run(60_000, init).took, Some(1234));
    }
}
