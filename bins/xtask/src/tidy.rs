//! The house rules that no other tool knows, over the files of the repository and the packages of
//! the workspace. Each rule is a function from facts to problems, with a test that it can fail.

mod anatomy;
mod circle;
mod contract;
mod doc;
mod package;
mod scan;
mod source;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// A file that is kept in git, or would be.
#[derive(Debug, Clone)]
struct File {
    /// Relative to the root, with `/`.
    path: String,
    text: String,
}

/// A package of the workspace.
#[derive(Debug, Clone)]
struct Package {
    name: String,
    /// Its directory, relative to the root.
    dir: String,
    /// Packages of the workspace it depends on, each with `normal`, `build` or `dev`.
    edges: Vec<(String, &'static str)>,
}

/// All that rules look at.
#[derive(Debug, Clone, Default)]
struct Tree {
    files: Vec<File>,
    packages: Vec<Package>,
}

/// A rule that does not hold, where, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Problem {
    at: String,
    what: String,
}

impl Problem {
    fn new(at: impl Into<String>, what: impl Into<String>) -> Self {
        Self { at: at.into(), what: what.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.at, self.what)
    }
}

impl Tree {
    fn file(&self, path: &str) -> Option<&File> {
        self.files.iter().find(|f| f.path == path)
    }
    fn text(&self, path: &str) -> Option<&str> {
        self.file(path).map(|f| f.text.as_str())
    }
    fn ending<'a>(&'a self, end: &'a str) -> impl Iterator<Item = &'a File> {
        self.files.iter().filter(move |f| f.path.ends_with(end))
    }
}

type Rule = fn(&Tree) -> Vec<Problem>;

const RULES: &[(&str, Rule)] = &[
    ("edges between packages are listed", package::edges_listed),
    ("the unprivileged never reach ves-host", package::reach),
    ("packages take the workspace's lints", package::lints),
    ("dependencies are sorted and the workspace's", package::dependencies),
    ("dependencies are used", package::unused),
    ("the code map lists the packages", package::code_map),
    ("files do not import each other in a circle", circle::circles),
    ("files say what they own", source::header),
    ("files are short", source::length),
    ("planners, and files that say so, are pure", source::purity),
    ("privileged services have one anatomy", anatomy::same),
    ("docs of errors name them", doc::errors),
    ("unsafe code lives in ves-host", source::unsafe_code),
    ("one place copies processes", source::copies),
    ("main.rs only starts", source::main_length),
    ("nothing is left undone", source::undone),
    ("no path of a developer's machine", source::absolute),
    ("no host that serves packages", source::mirrors),
    ("calls carry no paths or devices", contract::no_paths),
    ("reasons are documented", contract::reasons),
    ("public calls are tested", contract::tested),
    ("shell blocks parse", contract::shell),
];

/// Checks all rules; answers what to say when all hold.
///
/// # Errors
/// All problems, or why the repository cannot be read.
pub(crate) fn run(root: &Path) -> Result<String> {
    let tree = read(root)?;
    let mut count = 0;
    for (name, rule) in RULES {
        let mut problems = rule(&tree);
        problems.sort();
        for (n, problem) in problems.iter().enumerate() {
            if n == 0 {
                println!("broken: {name}");
            }
            println!("  {problem}");
        }
        count += problems.len();
    }
    match count {
        0 => Ok(format!("{} rules, {} files", RULES.len(), tree.files.len())),
        n => bail!("{n} problems"),
    }
}

fn read(root: &Path) -> Result<Tree> {
    let mut files = Vec::new();
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        let what = || format!("cannot read {}", dir.display());
        for entry in std::fs::read_dir(&dir).with_context(what)? {
            let entry = entry.with_context(what)?;
            let path = entry.path();
            let name = entry.file_name();
            let kind = entry.file_type().with_context(what)?;
            if kind.is_dir() && !["target", ".git", "node_modules"].iter().any(|n| name == *n) {
                dirs.push(path);
            } else if kind.is_file()
                // A file that is not text has no rules.
                && let Ok(text) = std::fs::read_to_string(&path)
                && let Ok(path) = path.strip_prefix(root)
                && name != "Cargo.lock"
                && name != ".git"
            {
                files.push(File { path: path.to_string_lossy().into_owned(), text });
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(Tree { files, packages: package::read(root)? })
}
