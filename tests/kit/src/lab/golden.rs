//! The golden node: the image, booted once with our packages installed, and saved as it runs.
//!
//! It is kept under the digest of what is in it. Every node of every test begins as a copy of it,
//! from the saved state, so that nobody waits for an emulated machine to boot.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};
use sha2::{Digest, Sha256};

use super::hub::{Hub, sockets};
use super::image::{Image, run, short};
use super::vm::{Shape, Vm};

/// The name of the saved state.
pub const UP: &str = "up";

/// The name of the link to the golden node that was asked for last.
const CURRENT: &str = "golden";

/// How long an emulated node may take to boot or to install packages.
const PATIENCE: Duration = Duration::from_secs(900);

/// What the node does with its third disk and its spare one. The disk is a tar archive of packages,
/// of templates, and (`*.next`) of the packages with a higher version; they stay on the node for
/// stories that install again.
const INSTALL: &str = "set -eu
mkdir -p /srv/payload
tar -xf /dev/vdc -C /srv/payload
pvcreate -qq /dev/vdb
vgcreate -qq ves /dev/vdb
dpkg -i /srv/payload/*.deb
";

/// What it does once it has booted.
const PREPARE: &str = "set -eu
for archive in /srv/payload/*.tar.zst; do
  virtctl template import \"$archive\" --name \"$(basename \"$archive\" .tar.zst)\"
done
sync
";

/// A golden node on disk.
#[derive(Debug, Clone)]
pub struct Golden {
    /// What it was booted from.
    pub image: Image,
    /// How it was shaped; its copies must be the same.
    pub shape: Shape,
    /// The machine, saved as [`UP`] and not running.
    pub vm: Vm,
    /// Its third disk.
    pub payload: PathBuf,
}

impl Golden {
    /// The golden node with these files (packages, and archives of templates), made if it is not
    /// in `cache`. `say` hears what is being done.
    ///
    /// # Errors
    /// A program that fails, or a node that does not boot or install, with what it said.
    pub fn make(cache: &Path, files: &[PathBuf], say: &dyn Fn(&str)) -> anyhow::Result<Self> {
        clear(cache, |name| {
            let dead = |pid: &str| !Path::new("/proc").join(pid).exists();
            name.strip_prefix("story-").is_some_and(dead)
        })?;
        let image = Image::build(cache, say)?;
        let mut digest = Sha256::new();
        digest.update(format!("{}{:?}{INSTALL}{PREPARE}", image.name(), Shape::default()));
        // A saved machine can be loaded only into one that is made the same.
        digest.update(include_str!("vm.rs"));
        for file in files {
            digest.update(fs::read(file).with_context(|| format!("read {}", file.display()))?);
        }
        let name = format!("golden-{}", short(digest));
        let dir = cache.join(&name);
        if !dir.is_dir() {
            clear(cache, |name| name.starts_with("golden-"))?;
            let new = cache.join(format!("{name}.new"));
            fs::create_dir_all(&new).with_context(|| format!("make {}", new.display()))?;
            symlink(format!("../{}", image.name()), new.join("image"))?;
            archive(files, &new.join("payload.tar"))?;
            Self::at(&new)?.install(say)?;
            fs::rename(&new, &dir).context("put the golden node into its place")?;
        }
        let link = cache.join(CURRENT);
        fs::remove_file(&link).ok();
        symlink(&name, &link).context("name the golden node")?;
        Self::at(&dir)
    }

    /// The golden node that was asked for last.
    ///
    /// # Errors
    /// When there is none.
    pub fn current(cache: &Path) -> anyhow::Result<Self> {
        let link = cache.join(CURRENT);
        let dir = fs::canonicalize(&link).with_context(|| format!("find {}", link.display()))?;
        Self::at(&dir)
    }

    fn at(dir: &Path) -> anyhow::Result<Self> {
        let image = fs::canonicalize(dir.join("image"))
            .with_context(|| format!("find what {} was booted from", dir.display()))?;
        Ok(Self {
            image: Image::at(image),
            shape: Shape::default(),
            vm: Vm::at(dir, "golden"),
            payload: dir.join("payload.tar"),
        })
    }

    fn install(&self, say: &dyn Fn(&str)) -> anyhow::Result<()> {
        self.vm.make_disks(&self.image, &self.shape)?;
        let hub = Hub::start(self.vm.dir(), 1)?;
        let (near, far) = sockets(hub.dir(), 0);
        say("booting a node for the first time");
        self.vm.start(&self.image, &self.shape, &self.payload, (&near, &far), None)?;
        let made = self.settle(say);
        self.vm.power_cut()?;
        made
    }

    fn settle(&self, say: &dyn Fn(&str)) -> anyhow::Result<()> {
        self.vm.wait_agent(PATIENCE)?;
        say("installing packages on it");
        self.must(INSTALL, "the packages do not install")?;
        self.must("systemctl is-system-running --wait", "the node does not come up")?;
        say("importing the template on it");
        self.must(PREPARE, "the template is not imported")?;
        say("saving it as it runs");
        self.vm.save(UP)
    }

    fn must(&self, command: &str, fault: &str) -> anyhow::Result<()> {
        let out = self.vm.exec(command, PATIENCE)?;
        if out.status == 0 {
            return Ok(());
        }
        let state = self.vm.exec(
            "systemctl --failed --no-pager; journalctl -b -p warning --no-pager | tail -40",
            PATIENCE,
        )?;
        bail!("{fault} (status {}):\n{}{}\n{}", out.status, out.stdout, out.stderr, state.stdout)
    }
}

/// Removes machines of the cache whose names are of no use any more: golden nodes of other contents,
/// whole or begun, and what stories left that were killed.
fn clear(cache: &Path, useless: impl Fn(&str) -> bool) -> anyhow::Result<()> {
    for entry in fs::read_dir(cache).with_context(|| format!("read {}", cache.display()))? {
        let entry = entry?;
        if useless(&entry.file_name().to_string_lossy()) {
            Vm::at(entry.path(), "golden").power_cut()?;
            fs::remove_dir_all(entry.path())
                .with_context(|| format!("clear {}", entry.path().display()))?;
        }
    }
    Ok(())
}

fn archive(files: &[PathBuf], to: &Path) -> anyhow::Result<()> {
    let mut tar = Command::new("tar");
    tar.arg("--transform=s,.*/,,").arg("-P").arg("-cf").arg(to);
    run(tar.args(files)).map(drop)
}
