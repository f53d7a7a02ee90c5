//! Rules about Rust files and about text at large.

use super::scan::{code, has_word, is_test, without_tests};
use super::{File, Problem, Tree};

/// Lines a file may have.
const LONGEST: usize = 600;

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

/// No file is too long to be read at once, its tests included.
pub(super) fn length(tree: &Tree) -> Vec<Problem> {
    let ours = |f: &&File| ["crates/", "bins/"].iter().any(|room| f.path.starts_with(room));
    rust(tree)
        .filter(ours)
        .map(|f| (f, f.text.lines().count()))
        .filter(|(_, lines)| *lines > LONGEST)
        .map(|(f, lines)| {
            Problem::new(&f.path, format!("{lines} lines, {LONGEST} are the most: split it"))
        })
        .collect()
}

/// What has no place in code that only computes.
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

/// Planners compute, and do nothing else; nor do others that say so of themselves.
pub(super) fn purity(tree: &Tree) -> Vec<Problem> {
    let planner = |f: &File| f.path.ends_with("/plan.rs") || f.path.contains("/plan/");
    rust(tree)
        .filter(|f| !is_test(&f.path) && (planner(f) || claims_purity(&f.text)))
        .flat_map(|f| {
            let code = code(without_tests(&f.text));
            IMPURE
                .iter()
                .filter(move |word| has_word(&code, word))
                .map(|word| Problem::new(&f.path, format!("is pure, so it may not use {word}")))
        })
        .collect()
}

/// Whether the head says that the file is pure ("Pure.", "…: pure."), rather than speaking of
/// something that is ("a pure function of its id").
fn claims_purity(text: &str) -> bool {
    let mut head = text.lines().take_while(|line| line.starts_with("//!"));
    head.any(|line| has_word(line, "Pure") || line.contains(": pure"))
}

/// One crate has the dangerous code.
pub(super) fn unsafe_code(tree: &Tree) -> Vec<Problem> {
    rust(tree)
        .filter(|f| !f.path.starts_with("crates/ves-host/") && has_word(&code(&f.text), "unsafe"))
        .map(|f| Problem::new(&f.path, "unsafe code belongs in crates/ves-host"))
        .collect()
}

/// The system calls that copy a process. The functions for them are forbidden by clippy, which does not
/// see numbers.
const COPYING: &[&str] = &["SYS_clone", "SYS_clone3", "SYS_fork", "SYS_vfork"];

/// Files that may name them, and why.
const NAMES_COPYING: &[(&str, &str)] = &[
    ("crates/ves-host/examples/floor.rs", "measures the kernel with nothing of ours in between"),
    ("crates/ves-host/src/child.rs", "the one function that copies a process"),
    ("crates/ves-host/src/sandbox.rs", "refuses them to a program that reads a container's image"),
    ("crates/ves-init-proto/src/bounds.rs", "refuses them to containers"),
];

/// A copy holds descriptors and locks of its original until it gives them up, which one place sees to.
pub(super) fn copies(tree: &Tree) -> Vec<Problem> {
    copies_but(tree, NAMES_COPYING)
}

/// The same with these excuses, none of which may be idle.
pub(super) fn copies_but(tree: &Tree, excuses: &[(&'static str, &str)]) -> Vec<Problem> {
    let named = |f: &File| {
        let code = code(&f.text);
        COPYING.iter().find(|call| has_word(&code, call))
    };
    let excused = |path: &str| excuses.iter().any(|(p, _)| *p == path);
    let elsewhere = rust(tree).filter(|f| !excused(&f.path)).filter_map(|f| {
        let what = format!("{}: ves_host::child makes all children", named(f)?);
        Some(Problem::new(&f.path, what))
    });
    let idle = excuses
        .iter()
        .filter(|(path, _)| tree.file(path).is_none_or(|f| named(f).is_none()))
        .map(|(path, _)| Problem::new(*path, "may copy processes and does not"));
    elsewhere.chain(idle).collect()
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
    let place = ["/wo", "rk"].concat();
    let mut problems = Vec::new();
    for file in &tree.files {
        let lines = file.text.lines().enumerate();
        for (n, _) in lines.filter(|(_, line)| has_path(line, &place)) {
            problems.push(Problem::new(
                format!("{}:{}", file.path, n + 1),
                format!("{place} exists on one machine only"),
            ));
        }
    }
    problems
}

/// Whether a line has `place` as the beginning of an absolute path, quoted in whatever way.
fn has_path(line: &str, place: &str) -> bool {
    let of_a_name = |c: char| c.is_alphanumeric() || "-_.".contains(c);
    line.match_indices(place).any(|(at, _)| {
        let before = line.get(..at).and_then(|l| l.chars().next_back());
        let mut after = line.get(at + place.len()..).unwrap_or_default().chars();
        // A full stop ends a sentence, unless a name goes on behind it.
        let goes_on = match after.next() {
            Some('.') => after.next().is_some_and(of_a_name),
            next => next.is_some_and(of_a_name),
        };
        !before.is_some_and(|c| of_a_name(c) || c == '/') && !goes_on
    })
}

/// Hosts that serve packages. In pieces, since this file is checked too.
fn package_hosts() -> [String; 8] {
    [
        ["debian", ".org"],
        ["ubuntu", ".com"],
        ["index.crates", ".io"],
        ["static.crates", ".io"],
        ["pypi", ".org"],
        ["pythonhosted", ".org"],
        ["registry.npm", "js.org"],
        ["proxy.go", "lang.org"],
    ]
    .map(|w| w.concat())
}

/// Where packages come from is the machine's configuration, never the tree's.
pub(super) fn mirrors(tree: &Tree) -> Vec<Problem> {
    let hosts = package_hosts();
    let mut problems = Vec::new();
    for file in &tree.files {
        for (n, line) in file.text.lines().enumerate() {
            if let Some(host) = hosts.iter().find(|host| line.contains(host.as_str())) {
                let what = format!("{host}: ask apt or cargo which mirror this machine uses");
                problems.push(Problem::new(format!("{}:{}", file.path, n + 1), what));
            }
        }
    }
    problems
}
