//! No import circles: of the files and folders that stand beside each other in a package, each can
//! be read, tested and changed before those that use it.
//!
//! What a module and those inside it have with each other is no matter: it holds what they share and
//! hands work to them. So an import ties the two modules in which its ends stand where their ways
//! part, `plan/node.rs` using `host/link.rs` ties `plan` to `host`. A name that another file only
//! passes on (`pub use`) is taken for the file's that has it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use syn::buffer::{Cursor, TokenBuffer};
use syn::visit::{Visit, visit_item, visit_item_mod};
use syn::{Attribute, Item, ItemMod, ItemUse, Macro, UseTree};

use super::scan::is_test;
use super::{File, Problem, Tree};

/// The names from the package's root to a module, or to something in one.
type Path = Vec<String>;

/// No file needs itself in order to be understood.
pub(super) fn circles(tree: &Tree) -> Vec<Problem> {
    let mut sources: BTreeMap<&str, Vec<&File>> = BTreeMap::new();
    for file in tree.ending(".rs").filter(|f| !is_test(&f.path)) {
        if let Some((dir, _)) = package_file(&file.path) {
            sources.entry(dir).or_default().push(file);
        }
    }
    let mut problems = Vec::new();
    for (dir, files) in sources {
        let mut package = Package::default();
        for file in files {
            match syn::parse_file(&file.text) {
                Ok(parsed) => package.add(&file.path, &parsed),
                Err(e) => problems.push(Problem::new(&file.path, format!("is not Rust: {e}"))),
            }
        }
        problems.extend(package.problems(dir));
    }
    problems
}

/// The folder with a package's sources, and a file's place in it.
fn package_file(path: &str) -> Option<(&str, &str)> {
    let (room, _) = path.split_once('/').filter(|(room, _)| ["crates", "bins"].contains(room))?;
    let (dir, file) = path.split_once("/src/")?;
    (dir.split('/').count() == 2 && dir.starts_with(room)).then_some((dir, file))
}

/// The module that a file is.
fn module_of(file: &str) -> Path {
    let mut path: Path = file.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if path.last().is_some_and(|l| l == "mod") || ["lib.rs", "main.rs"].contains(&file) {
        path.pop();
    }
    path
}

/// What is written in the files of a package.
#[derive(Default)]
struct Package {
    /// Modules that have a file.
    files: BTreeMap<Path, String>,
    /// All modules, those inside a file too.
    modules: BTreeSet<Path>,
    /// Modules that are only there in tests.
    tests: BTreeSet<Path>,
    /// What `use` calls something in a module, as written there.
    names: BTreeMap<(Path, String), Path>,
    /// What is named in a module, as written there.
    mentions: BTreeSet<(Path, Path)>,
    /// The module that is being read.
    at: Path,
}

/// What of a file is named in another: files to names.
type Tie = BTreeMap<(Path, Path), BTreeSet<String>>;

/// From a module to those beside it that it uses.
type Uses = BTreeMap<Path, BTreeMap<Path, Tie>>;

impl Package {
    fn add(&mut self, path: &str, parsed: &syn::File) {
        if let Some((_, file)) = package_file(path) {
            self.at = module_of(file);
            self.files.insert(self.at.clone(), file.to_owned());
            self.modules.insert(self.at.clone());
            self.visit_file(parsed);
        }
    }

    fn problems(&self, dir: &str) -> Vec<Problem> {
        let mut problems = Vec::new();
        for uses in self.uses().values() {
            for circle in shortest_circles(uses) {
                let Some(file) = circle.first().and_then(|tie| tie.keys().next()) else { continue };
                let ties: Vec<_> = circle.iter().flat_map(|tie| self.tell(tie)).collect();
                let at = format!("{dir}/src/{}", self.file(&file.0));
                let what = "move what ties them to a file of its own";
                problems.push(Problem::new(at, format!("circle: {}; {what}", ties.join(", "))));
            }
        }
        problems
    }

    fn file(&self, module: &Path) -> &str {
        self.files.get(module).map_or("", String::as_str)
    }

    fn tell<'a>(&'a self, tie: &'a Tie) -> impl Iterator<Item = String> + 'a {
        tie.iter().map(|((from, to), names)| {
            let names: Vec<_> = names.iter().map(String::as_str).collect();
            format!("{} -> {} ({})", self.file(from), self.file(to), names.join(", "))
        })
    }

    /// Who uses whom among the modules of each module.
    fn uses(&self) -> BTreeMap<Path, Uses> {
        let mut uses: BTreeMap<Path, Uses> = BTreeMap::new();
        for (at, mention) in &self.mentions {
            let Some((to, name)) = self.find(at, mention, 0) else { continue };
            let from = self.owner(at);
            let common = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
            let test = |module: &Path| self.tests.iter().any(|t| module.starts_with(t));
            if let (Some(one), Some(other)) = (from.get(..=common), to.get(..=common))
                && !test(&from)
                && !test(&to)
            {
                let beside = uses.entry(one.get(..common).unwrap_or_default().to_vec());
                let tie = beside.or_default().entry(one.to_vec()).or_default();
                let tie = tie.entry(other.to_vec()).or_default();
                tie.entry((from, to)).or_default().insert(name);
            }
        }
        uses
    }

    /// The module with a file that a module is, or is inside.
    fn owner(&self, module: &[String]) -> Path {
        let mut ways = (0..=module.len()).rev().filter_map(|n| module.get(..n));
        ways.find(|way| self.files.contains_key(*way)).unwrap_or_default().to_vec()
    }

    /// Whose a name is that is written in a module, and what it is called there; `None` where it is
    /// of another package, or of the module itself.
    fn find(&self, at: &[String], written: &[String], passed_on: usize) -> Option<(Path, String)> {
        let mut rest = written;
        let mut module = at.to_vec();
        let first = rest.first()?.as_str();
        if first == "crate" {
            module.clear();
        }
        while let Some((first, more)) = rest.split_first()
            && ["crate", "self", "super"].contains(&first.as_str())
        {
            if first == "super" {
                module.pop();
            }
            rest = more;
        }
        let absolute = rest.len() < written.len();
        for (n, name) in rest.iter().enumerate() {
            let inner = [module.as_slice(), std::slice::from_ref(name)].concat();
            if self.modules.contains(&inner) {
                module = inner;
                continue;
            }
            if let Some(target) = self.names.get(&(module.clone(), name.clone())) {
                // `use nftables::nftables` leads to itself: it is of another package.
                let further = [target, rest.get(n + 1..).unwrap_or_default()].concat();
                return (passed_on < 8).then(|| self.find(&module, &further, passed_on + 1))?;
            }
            return (absolute || n > 0).then(|| (self.owner(&module), name.clone()));
        }
        let name = module.last().cloned().unwrap_or_default();
        Some((self.owner(&module), name))
    }

    fn mention(&mut self, path: Path) {
        self.mentions.insert((self.at.clone(), path));
    }

    /// Takes in what a `use` names, and what it calls it.
    fn import(&mut self, tree: &UseTree, before: &[String]) {
        let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
        let (name, path) = match tree {
            UseTree::Path(path) => return self.import(&path.tree, &with(&path.ident)),
            UseTree::Group(group) => {
                return group.items.iter().for_each(|tree| self.import(tree, before));
            }
            UseTree::Glob(_) => return self.mention([before, &["*".to_owned()]].concat()),
            UseTree::Name(name) if name.ident == "self" => {
                (before.last().cloned().unwrap_or_default(), before.to_vec())
            }
            UseTree::Name(name) => (name.ident.to_string(), with(&name.ident)),
            UseTree::Rename(name) if name.ident == "self" => {
                (name.rename.to_string(), before.to_vec())
            }
            UseTree::Rename(name) => (name.rename.to_string(), with(&name.ident)),
        };
        self.names.insert((self.at.clone(), name), path.clone());
        self.mention(path);
    }

    /// Takes in the paths among the words of a macro, which have no grammar.
    fn words(&mut self, mut at: Cursor<'_>) {
        let mut path = Path::new();
        let mut colons = 0;
        while !at.eof() {
            let before = at;
            if let Some((ident, next)) = at.ident() {
                if colons != 2 {
                    self.end(&mut path);
                }
                path.push(ident.to_string());
                (colons, at) = (0, next);
            } else if let Some((_, next)) = at.punct().filter(|(p, _)| p.as_char() == ':') {
                (colons, at) = (colons + 1, next);
            } else {
                self.end(&mut path);
                colons = 0;
                if let Some((inner, _, _, next)) = at.any_group() {
                    self.words(inner);
                    at = next;
                } else if let Some((_, next)) = at.token_tree() {
                    at = next;
                }
            }
            if at == before {
                break;
            }
        }
        self.end(&mut path);
    }

    /// A lone word of a macro may be anything.
    fn end(&mut self, path: &mut Path) {
        let path = std::mem::take(path);
        if path.len() > 1 {
            self.mention(path);
        }
    }
}

impl<'ast> Visit<'ast> for Package {
    fn visit_item(&mut self, item: &'ast Item) {
        if !for_tests(item) {
            visit_item(self, item);
        } else if let Item::Mod(module) = item {
            self.tests.insert([self.at.as_slice(), &[module.ident.to_string()]].concat());
        }
    }

    fn visit_item_mod(&mut self, module: &'ast ItemMod) {
        self.at.push(module.ident.to_string());
        if module.content.is_some() {
            self.modules.insert(self.at.clone());
        }
        visit_item_mod(self, module);
        self.at.pop();
    }

    fn visit_item_use(&mut self, import: &'ast ItemUse) {
        if import.leading_colon.is_none() {
            self.import(&import.tree, &[]);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.leading_colon.is_none() {
            self.mention(path.segments.iter().map(|s| s.ident.to_string()).collect());
        }
        syn::visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast Macro) {
        self.words(TokenBuffer::new2(call.tokens.clone()).begin());
    }

    fn visit_attribute(&mut self, _: &'ast Attribute) {}
}

/// Whether it is `#[cfg(test)]`.
fn for_tests(item: &Item) -> bool {
    let attributes = match item {
        Item::Const(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => return false,
    };
    attributes.iter().any(|a| {
        a.path().is_ident("cfg") && a.parse_args::<syn::Path>().is_ok_and(|p| p.is_ident("test"))
    })
}

/// The shortest circle through each use that is in one, each once.
fn shortest_circles(uses: &Uses) -> Vec<Vec<&Tie>> {
    let mut circles = BTreeSet::new();
    for (from, others) in uses {
        for to in others.keys() {
            if let Some(mut circle) = way(uses, to, from) {
                let first = (0..circle.len()).min_by_key(|n| circle.get(*n)).unwrap_or(0);
                circle.rotate_left(first);
                circles.insert(circle);
            }
        }
    }
    let tie = |from: &Path, to: &Path| uses.get(from).and_then(|others| others.get(to));
    let ties = |circle: &Vec<&Path>| {
        let next = circle.iter().cycle().skip(1);
        circle.iter().zip(next).filter_map(|(from, to)| tie(from, to)).collect()
    };
    circles.iter().map(ties).collect()
}

/// The shortest way from one module to another, both included.
fn way<'a>(uses: &'a Uses, from: &'a Path, to: &'a Path) -> Option<Vec<&'a Path>> {
    let mut came: BTreeMap<&Path, &Path> = BTreeMap::new();
    let mut queue = VecDeque::from([from]);
    while let Some(at) = queue.pop_front() {
        if at == to {
            let mut way = vec![at];
            while let Some(before) =
                way.last().filter(|at| **at != from).and_then(|at| came.get(at))
            {
                way.push(before);
            }
            way.reverse();
            return Some(way);
        }
        for next in uses.get(at).into_iter().flat_map(BTreeMap::keys) {
            if next != from && !came.contains_key(next) {
                came.insert(next, at);
                queue.push_back(next);
            }
        }
    }
    None
}
