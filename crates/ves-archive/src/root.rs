//! Where in an archive a system's root is, judged by its names at the end.
//!
//! ```text
//! usr/ etc/ …              ─► the archive is the root
//! rootfs/usr/ metadata.yaml ─► rootfs (another manager's image), the rest is that manager's
//! name/usr/ name/etc/       ─► name (one directory around everything)
//! manifest.json, layers     ─► refused by name
//! ```
//!
//! Never here: what is in a file.

use std::collections::{BTreeMap, BTreeSet};

use crate::refused::{Refused, lossy};
use crate::tree::{Kind, Tree, below, parent};

/// What a root has, some of it.
const OF_A_ROOT: [&[u8]; 6] = [b"bin", b"etc", b"lib", b"sbin", b"usr", b"var"];
/// Directories around a root, at most.
const MAX_DEPTH: usize = 4;

/// The directory that is the root; empty where the archive itself is.
///
/// # Errors
/// [`Refused::Bad`]: what the archive is, or holds, instead.
pub(crate) fn find(tree: &Tree) -> Result<Vec<u8>, Refused> {
    let mut found: BTreeMap<&[u8], usize> = BTreeMap::new();
    for (path, kind) in tree.paths() {
        let Some(dir) = parent(path) else { continue };
        let name = path.get(dir.len()..).map(|n| n.strip_prefix(b"/").unwrap_or(n));
        let is = name.is_some_and(|n| OF_A_ROOT.contains(&n));
        let depth = if dir.is_empty() { 0 } else { dir.split(|b| *b == b'/').count() };
        if is && depth <= MAX_DEPTH && matches!(kind, Kind::Dir | Kind::Symlink(_)) {
            *found.entry(dir).or_default() += 1;
        }
    }
    if found.contains_key(&[][..]) {
        return Ok(Vec::new());
    }
    let bad = |why: String| Err(Refused::bad(b"", why));
    if let Some(what) = image(tree) {
        return bad(what.to_owned());
    }
    // One below another is a part of it.
    let roots: Vec<&[u8]> = found.iter().filter(|(_, n)| **n > 1).map(|(dir, _)| *dir).collect();
    let outer = |dir: &&[u8]| !roots.iter().any(|o| o != dir && below(dir, o).is_some());
    let outer: Vec<&[u8]> = roots.iter().copied().filter(outer).collect();
    let [root] = *outer else {
        let named = outer.iter().take(5).map(|dir| format!("{:?}", lossy(dir))).collect::<Vec<_>>();
        return bad(match named.is_empty() {
            true if tree.has(b"metadata.yaml") => "it holds what a manager says of an image \
                (metadata.yaml) and not the image; import the file beside it, which has the root file system"
                .to_owned(),
            true => "it holds no root file system: neither usr nor etc, bin, sbin, lib or var is in it".to_owned(),
            false => format!(
                "it holds more than one root file system: {}; make an archive of one of them",
                named.join(", ")
            ),
        });
    };
    // What lies beside a `rootfs` is its manager's; what lies beside another directory is not known.
    let around = |path: &[u8]| below(path, root).is_none() && below(root, path).is_none();
    let managed = root == b"rootfs" || root.ends_with(b"/rootfs");
    if let Some(beside) = tree.paths().map(|(path, _)| path).filter(|p| !managed && around(p)).min()
    {
        return bad(format!(
            "the root file system in it is {:?}, but {:?} lies outside; make an archive of the first alone",
            lossy(root),
            lossy(beside)
        ));
    }
    Ok(root.to_vec())
}

/// An image of layers, by the files it has at its top.
fn image(tree: &Tree) -> Option<&'static str> {
    let top: BTreeSet<&[u8]> =
        tree.paths().map(|(path, _)| path).filter(|p| parent(p) == Some(b"")).collect();
    let has = |name: &[u8]| top.contains(name);
    if has(b"manifest.json") || has(b"repositories") {
        return Some(
            "it is an image of layers (docker save), not a root file system; make one of it: docker create \
             --name x IMAGE && docker export x > x.tar",
        );
    }
    if has(b"oci-layout") || (has(b"index.json") && has(b"blobs")) {
        return Some(
            "it is an image of layers (an OCI layout), not a root file system; unpack it with umoci or \
             docker and import the directory",
        );
    }
    let virtual_machine =
        |n: &[u8]| n.ends_with(b".ovf") || n.ends_with(b".vmdk") || n.ends_with(b".raw");
    top.iter().any(|name| virtual_machine(name)).then_some(
        "it is an image of a virtual machine's disk; mount its file system and import the directory",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(paths: &[&str]) -> Result<String, String> {
        let mut tree = Tree::new();
        for path in paths {
            let kind = if path.ends_with('/') { Kind::Dir } else { Kind::File };
            let path = path.trim_end_matches('/').as_bytes();
            for dir in tree.missing(path) {
                tree.place(&dir, Kind::Dir, 0).expect("placed");
            }
            tree.place(path, kind, 0).expect("placed");
        }
        let found = super::find(&tree).map_err(|refused| refused.to_string())?;
        Ok(String::from_utf8(found).expect("text"))
    }

    #[test]
    fn a_root_is_found_where_it_is() {
        let found = |paths: &[&str]| find(paths).expect("a root");
        assert_eq!(found(&["etc/os-release", "srv/other/usr/", "srv/other/etc/"]), "");
        assert_eq!(
            found(&["metadata.yaml", "rootfs/usr/", "rootfs/etc/", "templates/x.tpl"]),
            "rootfs"
        );
        assert_eq!(
            found(&[
                "backup/index.yaml",
                "backup/container/rootfs/usr/",
                "backup/container/rootfs/bin/"
            ]),
            "backup/container/rootfs"
        );
        assert_eq!(
            found(&["debian/usr/", "debian/etc/", "debian/srv/x/usr/", "debian/srv/x/etc/"]),
            "debian"
        );
    }

    #[test]
    fn what_is_none_is_named() {
        let why = |paths: &[&str]| find(paths).expect_err("no root");
        assert!(why(&["x", "y/z"]).contains("no root file system"));
        assert!(why(&["metadata.yaml", "templates/x"]).contains("metadata.yaml"));
        assert!(why(&["a/usr/", "a/etc/", "b/usr/", "b/etc/"]).contains("\"a\", \"b\""));
        assert!(why(&["a/usr/", "a/etc/", "README"]).contains("README"));
        assert!(why(&["manifest.json", "0123/layer.tar"]).contains("docker save"));
        assert!(why(&["manifest.json", "oci-layout", "blobs/sha256/x"]).contains("docker save"));
        assert!(why(&["index.json", "oci-layout", "blobs/sha256/x"]).contains("OCI"));
        assert!(why(&["box.ovf", "metadata.json"]).contains("virtual machine"));
    }
}
