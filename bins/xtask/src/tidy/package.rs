//! Rules about packages: who may use whom, and how manifests are written.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result};
use cargo_metadata::{DependencyKind, MetadataCommand};

use super::{Package, Problem, Tree};

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

/// Versions are chosen in one place, and lists are in order.
pub(super) fn dependencies(tree: &Tree) -> Vec<Problem> {
    let mut problems = Vec::new();
    for package in &tree.packages {
        let path = format!("{}/Cargo.toml", package.dir);
        let text = tree.text(&path).unwrap_or_default();
        let mut last = ("", String::new());
        for (n, section, line) in manifest_lines(text) {
            if !section.ends_with("dependencies") || line.is_empty() || line.starts_with('#') {
                continue;
            }
            // A value that goes over several lines has its name on the first.
            let Some((left, right)) = line.split_once('=') else { continue };
            let name = left.trim().split('.').next().unwrap_or_default();
            if line.starts_with(['"', ']', '}']) {
                continue;
            }
            let at = || format!("{path}:{n}");
            if !(left.trim().ends_with(".workspace") || right.contains("workspace = true")) {
                problems.push(Problem::new(
                    at(),
                    format!("{name} must be the workspace's (`{name}.workspace = true`)"),
                ));
            }
            if last.0 == section && *name < *last.1 {
                problems
                    .push(Problem::new(at(), format!("{name} stands after {}, sort them", last.1)));
            }
            last = (section, name.to_owned());
        }
    }
    problems
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
