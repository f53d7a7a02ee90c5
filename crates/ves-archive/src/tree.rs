//! The tree that an archive makes, entry by entry, as it would be unpacked: what each name is by now.
//!
//! ```text
//! name of an entry ─► resolved (below no symbolic link) ─► placed: new, the same directory, or in the place of another
//! ```
//!
//! Never here: contents, owners, modes; a file system.

use std::collections::HashMap;

use crate::contents::Limits;
use crate::refused::{Problem, lossy};

/// The most symbolic links on the way to one name, as the kernel has it.
const MAX_LINKS: u32 = 40;
/// The most parts of all of them.
const MAX_STEPS: u32 = 1024;
/// The most bytes of all names and targets, which are kept.
const MAX_NAMES: usize = 512 << 20;
/// What a name costs beside its bytes, about.
const NAME: usize = 100;

/// What is behind a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    Dir,
    File,
    /// With its target.
    Symlink(Box<[u8]>),
    Fifo,
    /// Known, and left out.
    Skipped,
}

/// An inode.
#[derive(Debug)]
struct Node {
    kind: Kind,
    /// How many names it has; how many are in it where it is a directory.
    names: u32,
    /// Bytes it takes.
    bytes: u64,
}

/// What came of placing an entry.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Placed {
    /// It is new.
    New,
    /// It is a directory that is there.
    Again,
    /// It is in the place of another; so many inodes and bytes are given back.
    Instead(u64, u64),
}

/// All names of an archive so far.
#[derive(Debug)]
pub(crate) struct Tree {
    names: HashMap<Vec<u8>, usize>,
    nodes: Vec<Node>,
    /// What all names cost.
    held: usize,
}

impl Tree {
    /// With a root and nothing else.
    pub(crate) fn new() -> Self {
        let root = Node { kind: Kind::Dir, names: 0, bytes: 0 };
        Self { names: HashMap::from([(Vec::new(), 0)]), nodes: vec![root], held: 0 }
    }

    fn node(&self, path: &[u8]) -> Option<&Node> {
        self.names.get(path).and_then(|n| self.nodes.get(*n))
    }

    /// What a clean path is, itself and not what it may lead to.
    pub(crate) fn kind(&self, path: &[u8]) -> Option<&Kind> {
        self.node(path).map(|node| &node.kind)
    }

    /// Whether there is something in the archive's end result.
    pub(crate) fn has(&self, path: &[u8]) -> bool {
        self.names.contains_key(path)
    }

    /// All names, in no order.
    pub(crate) fn paths(&self) -> impl Iterator<Item = (&[u8], &Kind)> {
        let node = |(path, n): (_, &usize)| Some((path, &self.nodes.get(*n)?.kind));
        self.names.iter().map(|(path, n)| (path.as_slice(), n)).filter_map(node)
    }

    /// Whether two names are of one inode.
    pub(crate) fn same(&self, a: &[u8], b: &[u8]) -> bool {
        self.names.get(a).is_some_and(|a| self.names.get(b) == Some(a))
    }

    /// The clean form of a name as an archive has it: relative, without "." and empty parts.
    pub(crate) fn clean(path: &[u8], limits: &Limits) -> Result<Vec<u8>, Problem> {
        if path.contains(&0) {
            return Err(Problem::bad("its path holds a NUL"));
        }
        let mut clean = Vec::with_capacity(path.len());
        for part in path.split(|b| *b == b'/') {
            match part {
                b"" | b"." => {}
                b".." => return Err(Problem::bad("its path holds \"..\"")),
                _ if part.len() > 255 => {
                    return Err(Problem::large("a name has more than 255 bytes"));
                }
                _ => join(&mut clean, part),
            }
        }
        within(&clean, limits)?;
        Ok(clean)
    }

    /// The path to what a clean one leads to, up to its last part, which is followed nowhere: symbolic links
    /// on the way mean what they mean to who has the archive's root as his.
    pub(crate) fn resolve(&self, path: &[u8], limits: &Limits) -> Result<Vec<u8>, Problem> {
        let mut out = Vec::with_capacity(path.len());
        let (mut links, mut steps) = (0, 0);
        // What is still to go, the next part last.
        let mut rest: Vec<&[u8]> = parts(path).rev().collect();
        // How many of those are of the path itself, and not of a link on the way: of that, each part must be
        // there.
        let mut own = rest.len();
        let mut through: Option<Vec<u8>> = None;
        while let Some(part) = rest.pop() {
            if rest.len() < own {
                (own, through) = (rest.len(), None);
            }
            steps += 1;
            if links > MAX_LINKS || steps > MAX_STEPS {
                return Err(Problem::bad("it lies below symbolic links without an end"));
            }
            if part == b".." {
                let Some(link) = through.as_ref().filter(|_| out.is_empty()) else {
                    out.truncate(parent(&out).map_or(0, <[u8]>::len));
                    continue;
                };
                let why = format!(
                    "it lies below the symbolic link {:?}, which leads out of the archive",
                    lossy(link)
                );
                return Err(Problem::bad(why));
            }
            let before = out.len();
            join(&mut out, part);
            if rest.is_empty() {
                break;
            }
            match (self.kind(&out), &through) {
                (Some(Kind::Dir), _) | (None, None) => {}
                (Some(Kind::Symlink(target)), _) => {
                    links += 1;
                    through.get_or_insert_with(|| out.clone());
                    out.truncate(if target.starts_with(b"/") { 0 } else { before });
                    rest.extend(parts(target).rev());
                }
                (Some(Kind::File | Kind::Fifo | Kind::Skipped), _) => {
                    let why = format!("it lies below {:?}, which is no directory", lossy(&out));
                    return Err(Problem::bad(why));
                }
                (None, Some(link)) => {
                    let why = format!(
                        "it lies below the symbolic link {:?}, which leads to nothing that came before",
                        lossy(link)
                    );
                    return Err(Problem::bad(why));
                }
            }
        }
        within(&out, limits)?;
        Ok(out)
    }

    /// Directories on the way to a resolved path that no entry has named, outermost first.
    pub(crate) fn missing(&self, path: &[u8]) -> Vec<Vec<u8>> {
        let mut missing = Vec::new();
        let mut at = parent(path);
        while let Some(dir) = at.filter(|dir| !self.has(dir)) {
            missing.push(dir.to_vec());
            at = parent(dir);
        }
        missing.reverse();
        missing
    }

    /// Places an entry at a resolved path whose directory is there; the last one counts. `bytes` is what it
    /// takes.
    pub(crate) fn place(&mut self, path: &[u8], kind: Kind, bytes: u64) -> Result<Placed, Problem> {
        let placed = match self.kind(path) {
            None => Placed::New,
            Some(Kind::Dir) if kind == Kind::Dir => return Ok(Placed::Again),
            Some(Kind::Skipped) => {
                self.unlink(path);
                Placed::New
            }
            Some(_) if kind == Kind::Skipped => {
                return Err(Problem::bad(
                    "it takes an earlier entry away, as a layer does; import a whole file system",
                ));
            }
            Some(Kind::Dir) if self.node(path).is_some_and(|node| node.names > 0) => {
                let why =
                    "it is no directory, and there is one with files in it of the same name before";
                return Err(Problem::bad(why));
            }
            Some(_) => self.unlink(path),
        };
        let kept = path.len() + NAME + if let Kind::Symlink(to) = &kind { to.len() } else { 0 };
        self.hold(kept)?;
        let is_dir = kind == Kind::Dir;
        self.nodes.push(Node { kind, names: u32::from(!is_dir), bytes });
        self.name(path, self.nodes.len() - 1);
        Ok(placed)
    }

    /// Gives what is at `target` a second name.
    pub(crate) fn link(&mut self, path: &[u8], target: &[u8]) -> Result<Placed, Problem> {
        let Some(&node) = self.names.get(target) else { return Ok(Placed::New) };
        let placed = match self.kind(path) {
            None => Placed::New,
            Some(Kind::Dir) if self.node(path).is_some_and(|node| node.names > 0) => {
                let why = "it is a hard link, and there is a directory with files in it of the same name before";
                return Err(Problem::bad(why));
            }
            Some(_) => self.unlink(path),
        };
        self.hold(path.len() + NAME)?;
        if let Some(node) = self.nodes.get_mut(node) {
            node.names += 1;
        }
        self.name(path, node);
        Ok(placed)
    }

    fn name(&mut self, path: &[u8], node: usize) {
        self.names.insert(path.to_vec(), node);
        self.count_in_parent(path, 1);
    }

    /// Counts bytes that are kept.
    pub(crate) fn hold(&mut self, more: usize) -> Result<(), Problem> {
        self.held = self.held.saturating_add(more);
        if self.held > MAX_NAMES {
            return Err(Problem::large(format!("all names take more than {MAX_NAMES} bytes")));
        }
        Ok(())
    }

    /// Takes a name away.
    fn unlink(&mut self, path: &[u8]) -> Placed {
        let nothing = Placed::Instead(0, 0);
        let Some(node) = self.names.remove(path) else { return nothing };
        self.count_in_parent(path, -1);
        let Some(node) = self.nodes.get_mut(node) else { return nothing };
        if node.kind != Kind::Dir {
            node.names -= 1;
        }
        match (&node.kind, node.names) {
            (Kind::Skipped, _) => nothing,
            (_, 0) => Placed::Instead(1, node.bytes),
            _ => nothing,
        }
    }

    fn count_in_parent(&mut self, path: &[u8], by: i32) {
        let dir = parent(path).and_then(|dir| self.names.get(dir));
        if let Some(node) = dir.and_then(|n| self.nodes.get_mut(*n)) {
            node.names = node.names.saturating_add_signed(by);
        }
    }
}

/// What a path lies in; the root lies in nothing.
pub(crate) fn parent(path: &[u8]) -> Option<&[u8]> {
    if path.is_empty() {
        return None;
    }
    path.get(..path.iter().rposition(|b| *b == b'/').unwrap_or(0))
}

/// The path below a directory, where it is there or below; empty for the directory itself.
pub(crate) fn below<'a>(path: &'a [u8], dir: &[u8]) -> Option<&'a [u8]> {
    match path.strip_prefix(dir)? {
        rest if rest.is_empty() || dir.is_empty() => Some(rest),
        rest => rest.strip_prefix(b"/"),
    }
}

fn join(path: &mut Vec<u8>, part: &[u8]) {
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(part);
}

fn parts(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|b| *b == b'/').filter(|part| !part.is_empty() && *part != b".")
}

fn within(path: &[u8], limits: &Limits) -> Result<(), Problem> {
    if path.len() > limits.path_bytes {
        return Err(Problem::large(format!("a path has more than {} bytes", limits.path_bytes)));
    }
    if parts(path).count() > limits.depth {
        return Err(Problem::large(format!("a path has more than {} parts", limits.depth)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { bytes: 0, inodes: 0, path_bytes: 100, depth: 10 };

    fn tree(entries: &[(&str, Kind)]) -> Tree {
        let mut tree = Tree::new();
        for (path, kind) in entries {
            for dir in tree.missing(path.as_bytes()) {
                tree.place(&dir, Kind::Dir, 0).expect("a directory");
            }
            tree.place(path.as_bytes(), kind.clone(), 10).expect("placed");
        }
        tree
    }

    fn to(target: &str) -> Kind {
        Kind::Symlink(target.as_bytes().into())
    }

    fn resolve(tree: &Tree, path: &str) -> Result<String, String> {
        let path = tree.resolve(path.as_bytes(), &LIMITS).map_err(|p| p.why.into_owned())?;
        Ok(String::from_utf8(path).expect("text"))
    }

    #[test]
    fn links_mean_what_they_mean_inside() {
        let tree = tree(&[
            ("usr/lib/x", Kind::File),
            ("lib", to("usr/lib")),
            ("a/b/up", to("../../usr")),
            ("abs", to("/usr/./lib//")),
            ("chain", to("a/b/up/lib")),
            ("etc", Kind::Dir),
        ]);
        let found = |path| resolve(&tree, path).expect("inside");
        assert_eq!(found("usr/lib/y"), "usr/lib/y");
        assert_eq!(found("lib/new/y"), "usr/lib/new/y");
        assert_eq!(found("a/b/up/lib/y"), "usr/lib/y");
        assert_eq!(found("abs/y"), "usr/lib/y");
        assert_eq!(found("chain/y"), "usr/lib/y");
        assert_eq!(found("lib"), "lib", "the last part is not followed");
        assert_eq!(found("none/at/all"), "none/at/all");
    }

    #[test]
    fn links_to_elsewhere_are_refused() {
        let tree = tree(&[
            ("out", to("..")),
            ("far/out", to("../../etc")),
            ("none", to("/srv/none")),
            ("loop", to("loop")),
            ("a", to("b")),
            ("b", to("a")),
            ("file", Kind::File),
            ("to-file", to("file")),
            ("d", Kind::Dir),
            ("long", to(&"d/../".repeat(600))),
        ]);
        let why = |path| resolve(&tree, path).expect_err("outside");
        assert!(why("out/x").contains("leads out"), "{}", why("out/x"));
        assert!(why("far/out/x").contains("leads out"));
        assert!(why("none/x").contains("leads to nothing"));
        assert!(why("loop/x").contains("without an end"));
        assert!(why("a/x").contains("without an end"));
        assert!(why("long/x").contains("without an end"));
        assert!(why("file/x").contains("no directory"));
        assert!(why("to-file/x").contains("no directory"));
        assert!(why(&format!("{}x", "y/".repeat(11))).contains("parts"));
    }

    #[test]
    fn the_last_one_counts() {
        let mut tree = tree(&[("d/f", Kind::File), ("e", Kind::Dir), ("s", to("d"))]);
        assert_eq!(tree.place(b"d/f", Kind::Fifo, 5).ok(), Some(Placed::Instead(1, 10)));
        assert_eq!(tree.place(b"d/f", Kind::Dir, 5).ok(), Some(Placed::Instead(1, 5)));
        assert_eq!(tree.place(b"d/f", Kind::Dir, 5).ok(), Some(Placed::Again));
        assert_eq!(
            tree.place(b"e", Kind::File, 5).ok(),
            Some(Placed::Instead(1, 10)),
            "it was empty"
        );
        assert!(tree.place(b"d", Kind::File, 5).is_err(), "it is not empty");
        assert!(tree.place(b"s", Kind::Skipped, 0).is_err(), "nothing takes an entry away");
        tree.place(b"dev", Kind::Skipped, 0).expect("left out");
        assert_eq!(tree.place(b"dev", Kind::Dir, 0).ok(), Some(Placed::New));
    }

    #[test]
    fn an_inode_lives_as_long_as_its_last_name() {
        let mut tree = tree(&[("a", Kind::File)]);
        assert_eq!(tree.link(b"b", b"a").ok(), Some(Placed::New));
        assert!(tree.same(b"a", b"b"));
        assert_eq!(tree.place(b"a", Kind::File, 1).ok(), Some(Placed::Instead(0, 0)));
        assert!(!tree.same(b"a", b"b"));
        assert_eq!(tree.place(b"b", Kind::File, 1).ok(), Some(Placed::Instead(1, 10)));
    }

    #[test]
    fn what_is_below() {
        assert_eq!(below(b"a/b", b"a"), Some(&b"b"[..]));
        assert_eq!(below(b"a", b"a"), Some(&b""[..]));
        assert_eq!(below(b"ab", b"a"), None);
        assert_eq!(below(b"a/b", b""), Some(&b"a/b"[..]));
        assert_eq!(
            (parent(b"a/b"), parent(b"a"), parent(b"")),
            (Some(&b"a"[..]), Some(&b""[..]), None)
        );
    }
}
