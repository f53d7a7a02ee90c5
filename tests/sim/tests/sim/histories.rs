//! Many histories, each from a number: `VES_HISTORIES` says how many, `VES_SEED` from which number on. One that
//! fails says its number, and `VES_SEED=N VES_HISTORIES=1` tells it again.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use ves_sim::Sim;
use ves_sim::history::History;

/// As many as two processors go through in half a minute; more tell more, by `VES_HISTORIES`.
const USUAL: u64 = 400;
/// Most of a history is waiting.
const AT_ONCE: usize = 8;

fn number(name: &str, usual: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().expect(name),
        Err(_) => usual,
    }
}

/// The first of these histories that comes to no good end on nodes spoiled so, and why.
fn first_bad(first: u64, count: u64, spoil: impl Fn(&Sim) + Sync) -> Option<(u64, String)> {
    let next = AtomicU64::new(first);
    let bad = std::sync::Mutex::new(None::<(u64, String)>);
    let found = || bad.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while found().is_none() {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count {
                        return;
                    }
                    let history = History::of(seed);
                    let end = catch_unwind(AssertUnwindSafe(|| history.happen(&spoil)));
                    let end = end.unwrap_or_else(|_| Err("it panics".to_owned()));
                    if let Err(why) = end {
                        found().get_or_insert((seed, format!("{why}\n{history:#?}")));
                    }
                }
            });
        }
    });
    bad.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[test]
fn come_to_a_good_end() {
    let (first, count) = (number("VES_SEED", 1), number("VES_HISTORIES", USUAL));
    let bad = first_bad(first, count, |_| {});
    let why = bad.map(|(seed, why)| format!("VES_SEED={seed} VES_HISTORIES=1: {why}"));
    assert!(why.is_none(), "{}", why.unwrap_or_default());
}

#[test]
fn find_a_node_that_keeps_a_route() {
    let bad = first_bad(1, USUAL, |sim| sim.kernel().links.state().keeps_routes = true);
    let (seed, why) = bad.expect("it is found");
    eprintln!("{seed}: {}", why.lines().next().unwrap_or_default());
}

#[test]
fn find_a_node_that_loses_a_limit() {
    let bad = first_bad(1, USUAL, |sim| sim.kernel().groups.lose_processes_limit());
    let (seed, why) = bad.expect("it is found");
    eprintln!("{seed}: {}", why.lines().next().unwrap_or_default());
}
