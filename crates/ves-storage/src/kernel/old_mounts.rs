//! Volumes that releases up to 0.1 mounted in the node's own mount namespace, where containers may run on
//! them. Never here: volumes that are mounted today.

use ves_host::HostError;
use ves_host::mount::{self, MountEntry, node, volumes::Volumes};
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
    // The directories are lifecycle's; where mounts are is everybody's to see.
    for MountEntry { point, device: (major, minor), .. } in mount::mounts()? {
        let name = point.strip_prefix(&dir).ok().and_then(|below| below.components().next());
        let Some(ct) = name.and_then(|name| name.as_os_str().to_str()?.parse::<CtId>().ok()) else {
            continue;
        };
        let old = layout.ct_old_root(ct);
        if point != old {
            continue;
        }
        if !ours(rustix::fs::makedev(major, minor)) {
            tracing::warn!(%ct, path = %old.display(), "what is mounted there is left alone");
            continue;
        }
        let inside = volumes.need()?;
        if !inside.look(&name_of(ct))?.is_some_and(|place| place.mounted) {
            inside.attach(node::clone_mount(&old)?, &name_of(ct))?;
        }
        node::unmount(&old, true)?;
        tracing::info!(%ct, "its volume left the node's mount namespace");
        // With the directory go its mounts in namespaces that copied the node's.
        if let Err(error) = std::fs::remove_dir(&old) {
            tracing::warn!(%ct, %error, "the old place of its volume stays");
        }
    }
    Ok(())
}
