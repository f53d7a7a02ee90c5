//! Devices of the node that a container is given: found on the node by name or number, made in its /dev.
//!
//! ```text
//! net/tun:rw  ── below the node's /dev ──────────────▶ c 10:200 ─▶ node in /dev, rule of the group
//! c:10:200:rw ── /sys/dev/char ─▶ net/tun ─▶ as above
//! ```
//!
//! Nobody inside has opened anything yet, nor can anybody there make a node. Never here: which devices are
//! given, which [`ves_init_proto::devices`] says; a disk, or anything else that is no character device.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};

use ves_host::{Attempt, HostError, cgroup};
use ves_init_proto::devices::{given, missing, refusal};
use ves_types::device::{Access, MAX_DEVICES};
use ves_types::{Device, DeviceId, DeviceName, DevicePattern};

use super::place::place;

/// Where devices of the node are found.
#[derive(Debug)]
pub(super) struct Node {
    /// Its /dev.
    dev: PathBuf,
    /// Its character devices by number.
    numbers: PathBuf,
}

impl Node {
    /// This one.
    pub(super) fn own() -> Self {
        Self { dev: "/dev".into(), numbers: "/sys/dev/char".into() }
    }

    /// The numbers of a device. Its name is none of a link, which could lead to any other.
    fn find(&self, name: &DeviceName) -> Result<u64, HostError> {
        let what = || format!("find {}", self.dev.join(name.as_str()).display());
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dev = rustix::fs::open(&self.dev, flags | OFlags::DIRECTORY, Mode::empty());
        let dev = dev.attempt(what)?;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let found = match rustix::fs::openat2(dev, name.as_str(), flags, Mode::empty(), resolve) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Err(lacks(name.as_str())),
            other => other.attempt(what)?,
        };
        let stat = rustix::fs::fstat(found).attempt(what)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::CharacterDevice {
            return Err(Errno::ACCESS)
                .attempt(|| format!("give /dev/{name}, which is no character device"));
        }
        Ok(stat.st_rdev)
    }

    /// The names of those with a number that the node has now.
    fn names(&self, major: u32, minor: Option<u32>) -> Result<Vec<DeviceName>, HostError> {
        let what = || format!("read {}", self.numbers.display());
        let mut numbers = Vec::new();
        match minor {
            Some(minor) => numbers.push(format!("{major}:{minor}")),
            None => {
                for entry in std::fs::read_dir(&self.numbers).attempt(what)? {
                    let number = entry.attempt(what)?.file_name().to_string_lossy().into_owned();
                    if number.split_once(':').is_some_and(|(own, _)| own == major.to_string()) {
                        numbers.push(number);
                    }
                }
            }
        }
        if numbers.len() > MAX_DEVICES {
            return Err(Errno::TOOBIG).attempt(|| {
                format!("give {} devices at once; {MAX_DEVICES} are the most", numbers.len())
            });
        }
        let names = numbers.iter().map(|number| self.name(number));
        names.filter_map(Result::transpose).collect()
    }

    fn name(&self, number: &str) -> Result<Option<DeviceName>, HostError> {
        let path = self.numbers.join(number).join("uevent");
        let text = match std::fs::read_to_string(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.attempt(|| format!("read {}", path.display()))?,
        };
        let Some(name) = text.lines().find_map(|line| line.strip_prefix("DEVNAME=")) else {
            return Ok(None);
        };
        let give = || format!("give device c:{number}");
        name.parse().map(Some).map_err(std::io::Error::other).attempt(give)
    }

    /// All that a list means: each by its name, once. Who is named is not asked for by number too.
    fn resolve(
        &self,
        devices: &[Device],
        allow: &[DevicePattern],
    ) -> Result<BTreeMap<DeviceName, (u64, Access)>, HostError> {
        let mut all = BTreeMap::new();
        let mut add = |name: &DeviceName, access| {
            if !given(name, allow) {
                return Err(std::io::Error::other(refusal(name)))
                    .attempt(|| format!("give /dev/{name}"));
            }
            let number = self.find(name)?;
            all.entry(name.clone()).or_insert((number, access));
            Ok(())
        };
        for device in devices {
            if let DeviceId::Name(name) = &device.id {
                add(name, device.access)?;
            }
        }
        for device in devices {
            if let DeviceId::Number { major, minor } = device.id {
                let names = self.names(major, minor)?;
                if names.is_empty() {
                    return Err(lacks(&device.id.to_string()));
                }
                names.iter().try_for_each(|name| add(name, device.access))?;
            }
        }
        Ok(all)
    }
}

fn lacks(device: &str) -> HostError {
    HostError::Lacks { feature: format!("device {device}"), why: missing(device) }
}

/// Makes the nodes in `dev`, and lets the group open what they stand for.
///
/// A node of which not everything may be done belongs to nobody inside: there root can give any mode to
/// what is its own.
pub(super) fn give(
    node: &Node,
    dev: &OwnedFd,
    owner: u32,
    (devices, allow): (&[Device], &[DevicePattern]),
    group: Option<&Path>,
) -> Result<(), HostError> {
    for (name, (number, access)) in node.resolve(devices, allow)? {
        let what = || format!("make /dev/{name}");
        let own = |path: &str| {
            let (user, group) = (Uid::from_raw(owner), Gid::from_raw(owner));
            rustix::fs::chownat(dev, path, Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW)
                .attempt(what)
        };
        let path = name.as_str();
        for (end, _) in path.match_indices('/') {
            let dir = path.get(..end).unwrap_or_default();
            place(dev, dir, true)?;
            own(dir)?;
        }
        let bits = if access.read() { 0o444 } else { 0 } | if access.write() { 0o222 } else { 0 };
        rustix::fs::mknodat(dev, path, FileType::CharacterDevice, Mode::empty(), number)
            .attempt(what)?;
        rustix::fs::chmodat(dev, path, Mode::from_raw_mode(bits), AtFlags::empty())
            .attempt(what)?;
        if access == Access::ALL {
            own(path)?;
        }
        if let Some(group) = group {
            let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
            cgroup::write(&group.join("devices.allow"), &format!("c {major}:{minor} {access}"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::os::unix::fs::symlink;

    /// A node that has null and zero under other names, a file, a link, and no module for tun.
    fn node(dir: &Path) -> Node {
        let node = Node { dev: dir.join("dev"), numbers: dir.join("char") };
        std::fs::create_dir_all(node.dev.join("net")).expect("made");
        std::fs::write(node.dev.join("dri"), "").expect("made");
        std::fs::write(node.dev.join("kvm"), "").expect("made");
        symlink("/dev/null", node.dev.join("fuse")).expect("made");
        for (number, text) in
            [("1:1", "DEVNAME=mem\n"), ("4:64", "MAJOR=4\nDEVNAME=ttyS0\n"), ("5:9", "")]
        {
            std::fs::create_dir_all(node.numbers.join(number)).expect("made");
            std::fs::write(node.numbers.join(number).join("uevent"), text).expect("made");
        }
        node
    }

    fn refused(node: &Node, device: &str, allow: &[&str]) -> HostError {
        let allow: Vec<_> = allow.iter().map(|p| p.parse().expect("a pattern")).collect();
        node.resolve(&[device.parse().expect("a device")], &allow).expect_err(device)
    }

    #[test]
    fn what_is_not_there_or_not_given_is_refused_with_the_reason() {
        let dir = tempfile::tempdir().expect("a directory");
        let node = node(dir.path());
        let said = |device: &str, allow: &[&str]| {
            super::super::failure("", &refused(&node, device, allow)).message
        };
        for absent in ["net/tun:rw", "dri/card0:rw", "c:10:229:rw", "c:5:9:r", "c:7:all:rw"] {
            let error = refused(&node, absent, &[]);
            assert!(matches!(error, HostError::Lacks { .. }), "{absent}: {error:?}");
        }
        assert!(said("net/tun:rw", &[]).contains("load tun there"));
        std::fs::create_dir_all(dir.path().join("elsewhere/null")).expect("made");
        symlink("../elsewhere", node.dev.join("snd")).expect("made");
        for other in ["fuse:rw", "kvm:rw"] {
            assert!(
                said(other, &[]).contains("no character device"),
                "a link leads anywhere: {other}"
            );
        }
        assert!(refused(&node, "snd/null:rw", &["snd/*"]).is(Errno::LOOP));
        for unusual in ["ttyS0:rw", "c:4:64:rw", "c:4:all:rw"] {
            assert!(said(unusual, &[]).contains("allow_devices"), "{unusual}");
        }
        assert!(matches!(refused(&node, "c:4:64:rw", &["ttyS*"]), HostError::Lacks { .. }));
        assert!(said("c:1:1:r", &["*m"][..0]).contains("memory"), "by no number either");
    }
}
