//! Rules about Rust files and about text at large.

use super::scan::{code, has_word, is_test, without_tests};
use super::{File, Problem, Tree};

/// Lines a file may have besides its tests.
const LONGEST: usize = 600;

/// Files that may be longer, and why.
const LONG: &[(&str, &str)] = &[];

/// Lines a daemon's `main.rs` may have.
const LONGEST_MAIN: usize = 40;

fn rust(tree: &Tree) -> impl Iterator<Item = &File> {
    tree.ending(".rs")
}

/// Every file begins with what it owns.
pub(super) fn header(tree: &Tree) -> Vec<Problem> {
    rust(tree)
        .filter(|f| !f.text.starts_with("//! "))
        .map(|f| Problem::new(&f.path, "begin it with `//! ` and what it owns"))
        .collect()
}

/// No file is too long to be read at once.
pub(super) fn length(tree: &Tree) -> Vec<Problem> {
    let lines = |f: &File| without_tests(&f.text).lines().count();
    let excused = |path: &str| LONG.iter().any(|(p, _)| *p == path);
    let long = rust(tree)
        .filter(|f| !is_test(&f.path) && lines(f) > LONGEST && !excused(&f.path))
        .map(|f| {
            Problem::new(
                &f.path,
                format!("{} lines without tests, {LONGEST} are the most", lines(f)),
            )
        });
    let idle = LONG
        .iter()
        .filter(|(path, _)| tree.file(path).is_none_or(|f| lines(f) <= LONGEST))
        .map(|(path, _)| Problem::new(*path, "is excused for its length without need"));
    long.chain(idle).collect()
}

/// What has no place in a planner.
const IMPURE: &[&str] = &[
    "tokio",
    "tonic",
    "std::fs",
    "std::env",
    "std::process",
    "std::thread",
    "SystemTime",
    "Instant",
    "rand",
    "File",
    "TcpStream",
    "UnixStream",
];

/// Planners compute, and do nothing else.
pub(super) fn purity(tree: &Tree) -> Vec<Problem> {
    let planner = |f: &&File| {
        !is_test(&f.path) && (f.path.ends_with("/plan.rs") || f.path.contains("/plan/"))
    };
    rust(tree)
        .filter(planner)
        .flat_map(|f| {
            let code = code(without_tests(&f.text));
            IMPURE
                .iter()
                .filter(move |word| has_word(&code, word))
                .map(|word| Problem::new(&f.path, format!("a planner may not use {word}")))
        })
        .collect()
}

/// One crate has the dangerous code.
pub(super) fn unsafe_code(tree: &Tree) -> Vec<Problem> {
    rust(tree)
        .filter(|f| !f.path.starts_with("crates/ves-host/") && has_word(&code(&f.text), "unsafe"))
        .map(|f| Problem::new(&f.path, "unsafe code belongs in crates/ves-host"))
        .collect()
}

/// Programs are built from libraries, which can be tested.
pub(super) fn main_length(tree: &Tree) -> Vec<Problem> {
    rust(tree)
        .filter(|f| f.path.starts_with("bins/") && f.path.ends_with("/src/main.rs"))
        .filter(|f| f.text.lines().count() > LONGEST_MAIN)
        .map(|f| Problem::new(&f.path, format!("{LONGEST_MAIN} lines are the most, move the rest")))
        .collect()
}

/// Words that say that something is left to be done. In pieces, since this file is checked too.
fn undone_words() -> [String; 5] {
    [["TO", "DO"], ["FIX", "ME"], ["X", "XX"], ["todo", "!"], ["unimplemented", "!"]]
        .map(|w| w.concat())
}

/// What is in the tree is finished; what is not is an issue.
pub(super) fn undone(tree: &Tree) -> Vec<Problem> {
    let words = undone_words();
    let debug = ["dbg", "!"].concat();
    let mut problems = Vec::new();
    for file in &tree.files {
        for (n, line) in file.text.lines().enumerate() {
            let at = || format!("{}:{}", file.path, n + 1);
            if let Some(word) = words.iter().find(|word| has_word(line, word)) {
                problems.push(Problem::new(at(), format!("{word}: do it, or file an issue")));
            }
            if file.path.ends_with(".rs") && has_word(line, &debug) {
                problems.push(Problem::new(at(), "a debugging aid was left behind"));
            }
        }
    }
    problems
}

/// A clone works wherever it is put.
pub(super) fn absolute(tree: &Tree) -> Vec<Problem> {
    let place = ["/wo", "rk/"].concat();
    let mut problems = Vec::new();
    for file in &tree.files {
        for (n, _) in file.text.lines().enumerate().filter(|(_, line)| line.contains(&place)) {
            problems.push(Problem::new(
                format!("{}:{}", file.path, n + 1),
                format!("{place} exists on one machine only"),
            ));
        }
    }
    problems
}
