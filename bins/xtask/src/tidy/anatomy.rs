//! The privileged services are built alike: whoever knows one finds the way in all.

use syn::{Item, TraitItem, Visibility};

use super::{Problem, Tree};

/// Packages whose services act on the host.
const SERVICES: &[&str] = &["ves-storage", "ves-network", "ves-resources", "ves-lifecycle"];

/// The files of each, beside its kernel.
const FILES: &[&str] = &[
    "api.rs",
    "config.rs",
    "error.rs",
    "fake.rs",
    "host.rs",
    "lib.rs",
    "observe.rs",
    "plan.rs",
    "plan/laws.rs",
];

/// What acts on the host stands in one of these.
const KERNEL: &[&str] = &["kernel.rs", "kernel/mod.rs"];

/// Files that a service need not have, and why.
const ABSENT: &[(&str, &str)] = &[];

/// The same files in each service, and in these the same names.
pub(super) fn same(tree: &Tree) -> Vec<Problem> {
    same_but(tree, ABSENT)
}

/// The same with these excuses, none of which may be idle.
pub(super) fn same_but(tree: &Tree, excuses: &[(&'static str, &str)]) -> Vec<Problem> {
    let excused = |path: &str| excuses.iter().any(|(p, _)| *p == path);
    let mut problems = Vec::new();
    for service in SERVICES {
        let path = |file: &str| format!("crates/{service}/src/{file}");
        let absent = FILES.iter().map(|file| path(file)).filter(|path| tree.file(path).is_none());
        problems.extend(absent.filter(|path| !excused(path)).map(|path| {
            Problem::new(path, "is missing: privileged services all have the same files")
        }));
        let kernel = KERNEL.iter().map(|file| path(file)).find(|path| tree.file(path).is_some());
        let kernel = kernel.unwrap_or_else(|| path("kernel.rs"));
        if tree.file(&kernel).is_none() {
            problems.push(Problem::new(&kernel, "is missing, as is kernel/mod.rs"));
        }
        problems.extend(declares(tree, &kernel, "pub struct KernelHost"));
        problems.extend(declares(tree, &path("error.rs"), "pub enum Error"));
        problems.extend(declares(tree, &path("host.rs"), "pub trait Host"));
        let old = |file: &str| file == path("exec.rs") || file.starts_with(&path("exec/"));
        let old = tree.files.iter().map(|f| &f.path).filter(|file| old(file));
        problems.extend(old.map(|file| Problem::new(file, "what acts on the host is `kernel`")));
    }
    let idle = excuses.iter().filter(|(path, _)| tree.file(path).is_some());
    problems
        .extend(idle.map(|(path, _)| Problem::new(*path, "is excused for its absence and here")));
    problems
}

/// What is wrong with a file that should declare this.
fn declares(tree: &Tree, path: &str, wanted: &str) -> Vec<Problem> {
    let Some(text) = tree.text(path) else { return Vec::new() };
    let items = match syn::parse_file(text) {
        Ok(parsed) => parsed.items,
        Err(e) => return vec![Problem::new(path, format!("is not Rust: {e}"))],
    };
    let of = |item: &Item| {
        let (vis, kind, name) = match item {
            Item::Enum(item) => (&item.vis, "enum", &item.ident),
            Item::Struct(item) => (&item.vis, "struct", &item.ident),
            Item::Trait(item) => (&item.vis, "trait", &item.ident),
            _ => return false,
        };
        matches!(vis, Visibility::Public(_)) && format!("pub {kind} {name}") == wanted
    };
    let Some(item) = items.iter().find(|item| of(item)) else {
        return vec![Problem::new(path, format!("declares no `{wanted}`"))];
    };
    let Item::Trait(item) = item else { return Vec::new() };
    let with_body = item.items.iter().filter_map(|item| match item {
        TraitItem::Fn(item) => item.default.as_ref().map(|_| &item.sig.ident),
        _ => None,
    });
    let what = "has a body, which a host could take for its own unawares";
    with_body.map(|name| Problem::new(path, format!("{name} {what}"))).collect()
}
