//! Rules about packages: who may use whom, and how manifests are written.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result};
use cargo_metadata::{DependencyKind, MetadataCommand};

use super::scan::{code, has_word, is_test, without_tests};
use super::{File, Package, Problem, Tree};

const EDGES: &str = "bins/xtask/edges.txt";

/// The packages of the workspace, with their edges to each other.
pub(super) fn read(root: &Path) -> Result<Vec<Package>> {
    let metadata = MetadataCommand::new()
        .manifest_path(root.join("Cargo.toml"))
        .no_deps()
        .exec()
        .context("cannot read the workspace")?;
    let names: BTreeSet<_> = metadata.packages.iter().map(|p| p.name.to_string()).collect();
    Ok(metadata
        .packages
        .iter()
        .map(|package| {
            let dir = package.manifest_path.parent().map(|d| d.as_std_path());
            let dir = dir.and_then(|d| d.strip_prefix(root).ok()).unwrap_or_else(|| Path::new(""));
            let edges = package.dependencies.iter().filter(|d| names.contains(&d.name)).map(|d| {
                let kind = match d.kind {
                    DependencyKind::Build => "build",
                    DependencyKind::Development => "dev",
                    _ => "normal",
                };
                (d.name.clone(), kind)
            });
            Package {
                name: package.name.to_string(),
                dir: dir.to_string_lossy().into_owned(),
                edges: edges.collect(),
            }
        })
        .collect())
}

fn line_of(from: &str, to: &str, kind: &str) -> String {
    match kind {
        "normal" => format!("{from} -> {to}"),
        kind => format!("{from} -> {to} ({kind})"),
    }
}

/// A new edge between packages is a visible change of the list.
pub(super) fn edges_listed(tree: &Tree) -> Vec<Problem> {
    let Some(list) = tree.text(EDGES) else {
        return vec![Problem::new(EDGES, "is missing")];
    };
    let lines = list.lines().map(|l| l.split('#').next().unwrap_or_default().trim());
    let listed: Vec<_> = lines.filter(|l| !l.is_empty()).collect();
    let actual: BTreeSet<_> = tree
        .packages
        .iter()
        .flat_map(|p| p.edges.iter().map(|(to, kind)| line_of(&p.name, to, kind)))
        .collect();
    let mut problems: Vec<_> = actual
        .iter()
        .filter(|edge| !listed.contains(&edge.as_str()))
        .map(|edge| {
            Problem::new(EDGES, format!("`{edge}` is new: does the picture allow it? then list it"))
        })
        .collect();
    problems.extend(
        listed
            .iter()
            .filter(|edge| !actual.contains(**edge))
            .map(|edge| Problem::new(EDGES, format!("`{edge}` is listed and does not exist"))),
    );
    if !listed.is_sorted() {
        problems.push(Problem::new(EDGES, "is not sorted"));
    }
    problems
}

/// Those that have no privilege have no code that would use it.
pub(super) fn reach(tree: &Tree) -> Vec<Problem> {
    let edges: BTreeMap<_, Vec<_>> = tree
        .packages
        .iter()
        .map(|p| {
            let linked = p.edges.iter().filter(|(_, kind)| *kind == "normal");
            (p.name.as_str(), linked.map(|(to, _)| to.as_str()).collect())
        })
        .collect();
    let mut problems = Vec::new();
    for from in ["virtctl", "ves-coordinator", "ves-coordinatord"] {
        let mut ways = vec![vec![from]];
        let mut seen = BTreeSet::new();
        while let Some(way) = ways.pop() {
            let last = way.last().copied().unwrap_or_default();
            if last == "ves-host" {
                problems
                    .push(Problem::new(from, format!("reaches ves-host: {}", way.join(" -> "))));
            } else if seen.insert(last) {
                let next = edges.get(last).into_iter().flatten();
                ways.extend(next.map(|to| [way.as_slice(), &[*to]].concat()));
            }
        }
    }
    problems
}

/// A line of a manifest, with the section it stands in.
fn manifest_lines(text: &str) -> Vec<(usize, &str, &str)> {
    let mut section = "";
    let mut lines = Vec::new();
    for (n, line) in text.lines().enumerate() {
        let trimmed = line.trim();
        if let Some(name) = trimmed.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            section = name;
        } else {
            lines.push((n + 1, section, trimmed));
        }
    }
    lines
}

/// Every package has the same lints.
pub(super) fn lints(tree: &Tree) -> Vec<Problem> {
    let manifest = |p: &Package| format!("{}/Cargo.toml", p.dir);
    tree.packages
        .iter()
        .filter(|p| {
            let text = tree.text(&manifest(p)).unwrap_or_default();
            !manifest_lines(text).iter().any(|(_, s, l)| *s == "lints" && *l == "workspace = true")
        })
        .map(|p| Problem::new(manifest(p), "add `[lints]` with `workspace = true`"))
        .collect()
}

/// A dependency in a manifest.
struct Entry<'a> {
    line: usize,
    section: &'a str,
    name: &'a str,
    from_workspace: bool,
}

fn entries(manifest: &str) -> impl Iterator<Item = Entry<'_>> {
    manifest_lines(manifest).into_iter().filter_map(|(line, section, text)| {
        // A value that goes over several lines has its name on the first.
        let inside = text.starts_with(['#', '"', ']', '}']);
        let (left, right) = text.split_once('=').filter(|_| !inside)?;
        section.ends_with("dependencies").then(|| Entry {
            line,
            section,
            name: left.trim().split('.').next().unwrap_or_default(),
            from_workspace: left.trim().ends_with(".workspace")
                || right.contains("workspace = true"),
        })
    })
}

/// Versions are chosen in one place, and lists are in order.
pub(super) fn dependencies(tree: &Tree) -> Vec<Problem> {
    let mut problems = Vec::new();
    for package in &tree.packages {
        let path = format!("{}/Cargo.toml", package.dir);
        let text = tree.text(&path).unwrap_or_default();
        let mut last = ("", "");
        for Entry { line, section, name, from_workspace } in entries(text) {
            let at = || format!("{path}:{line}");
            if !from_workspace {
                problems.push(Problem::new(
                    at(),
                    format!("{name} must be the workspace's (`{name}.workspace = true`)"),
                ));
            }
            if last.0 == section && name < last.1 {
                problems
                    .push(Problem::new(at(), format!("{name} stands after {}, sort them", last.1)));
            }
            last = (section, name);
        }
    }
    problems
}

/// Dependencies that no code names: the package, the dependency, and what it is for.
const UNNAMED: &[(&str, &str, &str)] =
    &[("ves-proto", "tonic-prost", "generated code speaks through its codec")];

/// What is built and audited is used.
pub(super) fn unused(tree: &Tree) -> Vec<Problem> {
    unused_but(tree, UNNAMED)
}

/// The same with these excuses, none of which may be idle.
pub(super) fn unused_but(tree: &Tree, excuses: &[(&str, &str, &str)]) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut taken = BTreeSet::new();
    let mut idle: BTreeSet<_> =
        excuses.iter().map(|(package, name, _)| (*package, *name)).collect();
    for package in &tree.packages {
        let path = format!("{}/Cargo.toml", package.dir);
        for Entry { line, section, name, .. } in entries(tree.text(&path).unwrap_or_default()) {
            taken.insert(name);
            let mut files = tree.ending(".rs").filter(|f| may_use(package, section, f));
            if !files.any(|f| names_crate(f, section, name)) && !idle.remove(&(&package.name, name))
            {
                let what = match section {
                    "dependencies" => "nothing but tests, if anything, names it",
                    _ => "nothing names it",
                };
                problems.push(Problem::new(format!("{path}:{line}"), format!("{name}: {what}")));
            }
        }
    }
    for Entry { line, name, .. } in entries(tree.text("Cargo.toml").unwrap_or_default()) {
        if !taken.contains(name) {
            let what = format!("{name}: no package takes it");
            problems.push(Problem::new(format!("Cargo.toml:{line}"), what));
        }
    }
    problems.extend(idle.into_iter().map(|(package, name)| {
        Problem::new(package, format!("is excused for {name} without need"))
    }));
    problems
}

/// Whether code of a file gets to see the dependencies of a section.
fn may_use(package: &Package, section: &str, file: &File) -> bool {
    let inside = file.path.strip_prefix(&package.dir).and_then(|p| p.strip_prefix('/'));
    inside.is_some_and(|path| {
        if section.ends_with("build-dependencies") {
            path == "build.rs"
        } else if section.ends_with("dev-dependencies") {
            path != "build.rs"
        } else {
            path.starts_with("src/") && !is_test(&file.path)
        }
    })
}

fn names_crate(file: &File, section: &str, name: &str) -> bool {
    let tests = section.ends_with("dev-dependencies");
    let text = if tests { &file.text } else { without_tests(&file.text) };
    let name = name.replace('-', "_");
    // Most files do not have the word at all.
    has_word(text, &name) && has_word(&code(text), &name)
}

/// The README's code map names just the packages that there are.
pub(super) fn code_map(tree: &Tree) -> Vec<Problem> {
    const README: &str = "README.md";
    let Some(text) = tree.text(README) else { return vec![Problem::new(README, "is missing")] };
    let Some(map) = text.split("\n## ").find(|part| part.starts_with("Code map")) else {
        return vec![Problem::new(README, "has no section `## Code map`")];
    };
    let rooms = ["crates/", "bins/", "tests/"];
    let dirs: BTreeSet<_> = tree.packages.iter().map(|p| p.dir.as_str()).collect();
    // Between backticks, and a directory of a package rather than a file in it.
    let named: BTreeSet<_> = map
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|w| rooms.iter().any(|r| w.starts_with(r)) && w.split('/').count() == 2)
        .collect();
    let missing =
        dirs.difference(&named).map(|d| Problem::new(README, format!("the code map lacks `{d}`")));
    let ghosts = named
        .difference(&dirs)
        .map(|d| Problem::new(README, format!("the code map has `{d}`, which is no package")));
    missing.chain(ghosts).collect()
}
