//! What virtual machines begin from: one that has booted from the golden node's disk, frozen as it ran.
//!
//! It is kept under the digest of what is in it. Every virtual machine goes on from there, with the same
//! memory and disks until it writes to them, so that nobody waits for an emulated machine to boot.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use sha2::{Digest, Sha256};

use super::base::{Used, clear, short};
use super::golden::Golden;
use super::hub::{Hub, sockets};
use super::image::Image;
use super::machine::Machine;
use super::vm::{Memory, Shape, Vm};

/// The name of the link to the saved machine that was asked for last.
const CURRENT: &str = "booted";

/// How long an emulated machine may take to boot.
const PATIENCE: Duration = Duration::from_secs(900);

/// What it does once: our volume group is on its spare disk.
const PREPARE: &str = "set -eu
pvcreate -qq /dev/vdb
vgcreate -qq ves /dev/vdb
sync
";

/// A saved machine on disk.
#[derive(Debug, Clone)]
pub struct Booted {
    /// What it was booted from.
    pub(super) image: Image,
    /// How it was shaped; its copies must be the same.
    pub(super) shape: Shape,
    /// The machine, frozen and not running.
    pub(super) vm: Vm,
    _used: [Used; 2],
}

impl Booted {
    /// The machine that has booted as this golden node, made if it is not in `cache`. `say` hears what
    /// is being done.
    pub fn make(cache: &Path, golden: &Golden, say: &dyn Fn(&str)) -> anyhow::Result<Self> {
        let image = Image::build(cache, golden, say)?;
        let mut digest = Sha256::new();
        digest.update(format!("{}{:?}{PREPARE}", image.name(), Shape::default()));
        // A saved machine can be loaded only into one that is made the same.
        digest.update(include_str!("vm.rs"));
        let name = format!("booted-{}", short(digest));
        let dir = cache.join(&name);
        if !dir.is_dir() {
            clear(cache, "booted-")?;
            let new = dir.with_extension("new");
            fs::create_dir_all(&new).with_context(|| format!("make {}", new.display()))?;
            symlink(format!("../{}", image.name()), new.join("image"))?;
            Self::at(&new)?.boot(say)?;
            fs::rename(&new, &dir).context("put the saved machine into its place")?;
        }
        let link = cache.join(CURRENT);
        fs::remove_file(&link).ok();
        symlink(&name, &link).context("name the saved machine")?;
        Self::at(&dir)
    }

    /// The saved machine that was asked for last.
    pub fn current(cache: &Path) -> anyhow::Result<Self> {
        let link = cache.join(CURRENT);
        let dir = fs::canonicalize(&link).with_context(|| format!("find {}", link.display()))?;
        Self::at(&dir)
    }

    fn at(dir: &Path) -> anyhow::Result<Self> {
        let image = fs::canonicalize(dir.join("image"))
            .with_context(|| format!("find what {} was booted from", dir.display()))?;
        let used = [Used::mark(&image)?, Used::mark(dir)?];
        let vm = Vm::at(dir, "golden");
        Ok(Self { image: Image::at(image), shape: Shape::default(), vm, _used: used })
    }

    /// Its memory, as it was left behind.
    pub(super) fn memory(&self) -> PathBuf {
        self.vm.dir().join("memory")
    }

    fn boot(&self, say: &dyn Fn(&str)) -> anyhow::Result<()> {
        self.vm.make_disks(&self.image, &self.shape)?;
        let hub = Hub::start(self.vm.dir(), 1)?;
        let (near, far) = sockets(hub.dir(), 0);
        say("booting a virtual machine");
        let memory = self.memory();
        self.vm.start(&self.image, &self.shape, (&near, &far), Memory::Template(&memory))?;
        let made = self.settle(say);
        self.vm.power_cut()?;
        made
    }

    fn settle(&self, say: &dyn Fn(&str)) -> anyhow::Result<()> {
        self.vm.wait_boot(PATIENCE)?;
        let out = self.vm.exec(PREPARE, PATIENCE)?;
        let state = self.vm.exec("systemctl is-system-running", PATIENCE)?.stdout;
        if out.status != 0 || state.trim() != "running" {
            let journal =
                "systemctl --failed --no-pager; journalctl -b -p warning --no-pager -n 40";
            let journal = self.vm.exec(journal, PATIENCE)?.stdout;
            bail!("the virtual machine is {}:\n{}\n{journal}", state.trim(), out.stderr);
        }
        say("freezing it as it runs");
        self.vm.freeze(&self.memory())
    }
}
