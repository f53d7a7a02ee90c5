//! The parts of a run: which one is at work, and what each took, so that whoever waits sees where the
//! time goes, and a run that does not end says which part was late.

use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

#[derive(Debug)]
struct Part {
    name: String,
    began: Instant,
    took: Option<Duration>,
}

/// In the order they began; parts of several threads are side by side.
static PARTS: Mutex<Vec<Part>> = Mutex::new(Vec::new());

fn parts() -> MutexGuard<'static, Vec<Part>> {
    PARTS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Does a part of the run.
pub(crate) fn part<T>(name: &str, work: impl FnOnce() -> T) -> T {
    let index = {
        let mut parts = parts();
        parts.push(Part { name: name.to_owned(), began: Instant::now(), took: None });
        parts.len() - 1
    };
    let done = work();
    if let Some(part) = parts().get_mut(index) {
        part.took = Some(part.began.elapsed());
    }
    done
}

/// Notes what was done before this program began.
pub(crate) fn before(name: &str, took: Duration) {
    parts().push(Part { name: name.to_owned(), began: Instant::now(), took: Some(took) });
}

/// The parts that are not done, each with how long it has run.
pub(crate) fn running() -> String {
    let parts = parts();
    let open = parts.iter().filter(|part| part.took.is_none());
    let all: Vec<_> =
        open.map(|part| format!("{} ({} s)", part.name, part.began.elapsed().as_secs())).collect();
    all.join(", ")
}

/// What each part took, longest first.
pub(crate) fn table() -> String {
    let rows = parts()
        .iter()
        .map(|part| (part.took.unwrap_or_else(|| part.began.elapsed()), part.name.clone()))
        .collect();
    longest_first(rows, usize::MAX)
}

/// So many of the rows, longest first.
pub(crate) fn longest_first(mut rows: Vec<(Duration, String)>, most: usize) -> String {
    rows.sort_by(|(a, x), (b, y)| b.cmp(a).then_with(|| x.cmp(y)));
    let mut text = String::new();
    for (took, name) in rows.iter().take(most) {
        // Writing to a string cannot fail.
        writeln!(text, "{:>9.1} s  {name}", took.as_secs_f64()).ok();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_comes_first() {
        let row = |millis, name: &str| (Duration::from_millis(millis), name.to_owned());
        let rows = vec![row(100, "b"), row(2_000, "c"), row(100, "a")];
        assert_eq!(longest_first(rows.clone(), 2), "      2.0 s  c\n      0.1 s  a\n");
        assert_eq!(longest_first(rows, usize::MAX).lines().count(), 3);
    }

    #[test]
    fn a_part_runs_until_it_is_done() {
        part("a part of this test", || assert!(running().contains("a part of this test (0 s)")));
        assert!(!running().contains("a part of this test"));
        assert!(table().contains("a part of this test"));
    }
}
