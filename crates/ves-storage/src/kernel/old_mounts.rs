//! Volumes that releases up to 0.1 mounted in the node's own mount namespace, where containers may run on
//! them. Never here: volumes that are mounted today.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;

use ves_host::mount::{self, node, volumes::Volumes};
use ves_host::{Attempt, HostError};
use ves_types::CtId;
use ves_types::layout::{Layout, volume as name_of};

/// Moves them to the volumes' mount namespace: the same mounts, so that who uses them notices nothing.
/// `ours` tells whether a device may be a volume's.
pub(super) fn bring_over(
    layout: &Layout,
    volumes: &Volumes,
    ours: impl Fn(u64) -> bool,
) -> Result<(), HostError> {
    let dir = layout.cts_dir();
    let what = || format!("list {}", dir.display());
    let entries = match std::fs::read_dir(&dir) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        other => other.attempt(what)?,
    };
    for entry in entries {
        let name = entry.attempt(what)?.file_name();
        let Some(ct) = name.to_str().and_then(|name| name.parse::<CtId>().ok()) else { continue };
        let old = layout.ct_old_root(ct);
        let Ok(meta) = std::fs::symlink_metadata(&old) else { continue };
        if mount::is_mount_point(&old)? {
            if !ours(meta.dev()) {
                tracing::warn!(%ct, path = %old.display(), "what is mounted there is left alone");
                continue;
            }
            let inside = volumes.need()?;
            if !inside.look(&name_of(ct))?.is_some_and(|place| place.mounted) {
                inside.attach(node::clone_mount(&old)?, &name_of(ct))?;
            }
            node::unmount(&old, true)?;
            tracing::info!(%ct, "its volume left the node's mount namespace");
        }
        // With the directory go its mounts in namespaces that copied the node's.
        match std::fs::remove_dir(&old) {
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(%ct, %error, "the old place of its volume stays"),
            Ok(()) => {}
        }
    }
    Ok(())
}
