//! In which mounted file systems the kernel has met errors: it counts them for each in `/sys/fs/ext4`.
//!
//! Asked for all at once and often: 10 000 file systems take some 0.15 s, a short file each. The kernel's other
//! ways to tell want a descriptor or a mark a file system (poll from Linux 6.8, fanotify from 5.16), and
//! somebody to make and lose them with each mount. Never here: what becomes of it.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

use ves_host::{Attempt, HostError, loopdev};
use ves_types::CtId;

use super::Images;
use crate::error::Error;
use crate::observe;
use crate::plan::Image;

/// Where the kernel shows mounted file systems, each by the name of its device.
const MOUNTED: &str = "/sys/fs/ext4";

/// The loop devices with a file system in which errors were met.
fn devices_with_errors() -> Result<Vec<u32>, HostError> {
    let what = || format!("list {MOUNTED}");
    let entries = match std::fs::read_dir(MOUNTED) {
        // No ext4 has been mounted since the boot.
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.attempt(what)?,
    };
    let mut met = Vec::new();
    for entry in entries {
        let entry = entry.attempt(what)?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|n| n.strip_prefix("loop")?.parse().ok());
        let Some(number) = number else { continue };
        // One that is unmounted meanwhile has none that count here.
        let count = std::fs::read_to_string(entry.path().join("errors_count")).unwrap_or_default();
        if !matches!(count.trim(), "" | "0") {
            met.push(number);
        }
    }
    Ok(met)
}

impl Images {
    pub(super) fn errors_of_mounted(&self) -> Result<BTreeMap<CtId, u32>, Error> {
        let mut met = BTreeMap::new();
        for number in devices_with_errors()? {
            let path = format!("/sys/block/loop{number}/loop/backing_file");
            let image = std::fs::read_to_string(path).unwrap_or_default();
            let name = Path::new(image.trim_end()).file_name().and_then(|name| name.to_str());
            let Some(ct) = name.and_then(observe::parse_image_name) else { continue };
            // Another's image may be called so too.
            let seen = self.see(ct, None)?;
            let ours = seen.device.is_some_and(|device| device.path == loopdev::path(number));
            if let (true, Image::Ours { damage: Some(damage), .. }) = (ours, seen.image) {
                met.insert(ct, damage.errors);
            }
        }
        Ok(met)
    }
}
