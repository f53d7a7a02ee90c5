//! The golden node: the base with our packages installed and a template imported, made on a native
//! node once and kept under the digest of what is in it.
//!
//! Every machine of every story begins from it: a native node by laying a directory of its own over it,
//! a virtual machine by a disk made of it (see [`super::booted`]).

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use sha2::{Digest, Sha256};

use super::base::{Base, Used, clear, short};
use super::cluster;
use super::machine::Machine;
use super::native::{self, Node, Origin};

/// The name of the link to the golden node that was asked for last.
const CURRENT: &str = "golden";

/// How long it may take to boot or to install packages.
const PATIENCE: Duration = Duration::from_secs(300);

/// Where on a node packages and templates are: those that were installed and imported, and
/// (`*.next`) the packages with a higher version, for stories that install again.
const PAYLOAD: &str = "srv/payload";

/// Installs the packages and imports the template.
const INSTALL: &str = "set -eu
dpkg -i /srv/payload/*.deb
systemctl is-system-running --wait
for archive in /srv/payload/*.tar.zst; do
    virtctl template import \"$archive\" --name \"$(basename \"$archive\" .tar.zst)\"
done
";

/// Leaves nothing of this one node in what others begin from.
const CLEAN: &str = "set -eu
systemctl stop 've[s]-*'
truncate -s 0 /etc/machine-id
rm -f /var/lib/systemd/random-seed /etc/hostname
";

/// A golden node on disk.
#[derive(Debug, Clone)]
pub struct Golden {
    base: PathBuf,
    dir: PathBuf,
    _used: [Used; 2],
}

impl Golden {
    /// The golden node with these files (packages, and archives of templates), made if it is not in
    /// `cache`. `say` hears what is being done.
    pub fn make(cache: &Path, files: &[PathBuf], say: &dyn Fn(&str)) -> anyhow::Result<Self> {
        let base = Base::build(cache, say)?;
        let mut digest = Sha256::new();
        digest.update(format!("{}\n{INSTALL}\n{CLEAN}\n{}\n1", base.name(), native::INIT));
        for file in files {
            digest.update(fs::read(file).with_context(|| format!("read {}", file.display()))?);
        }
        let name = format!("golden-{}", short(digest));
        let dir = cache.join(&name);
        if !dir.is_dir() {
            let new = dir.with_extension("new");
            cluster::end(&new)?; // one that was begun and killed
            clear(cache, "golden-")?;
            install(&base, files, &new, say)?;
            symlink(format!("../{}", base.name()), new.join("base"))?;
            fs::rename(&new, &dir).context("put the golden node into its place")?;
        }
        let link = cache.join(CURRENT);
        fs::remove_file(&link).ok();
        symlink(&name, &link).context("name the golden node")?;
        Self::current(cache)
    }

    /// The golden node that was asked for last.
    pub fn current(cache: &Path) -> anyhow::Result<Self> {
        let place = |path: &Path| {
            fs::canonicalize(path).with_context(|| format!("find {}", path.display()))
        };
        let dir = place(&cache.join(CURRENT))?;
        let base = place(&dir.join("base"))?;
        Ok(Self { _used: [Used::mark(&base)?, Used::mark(&dir)?], base, dir })
    }

    /// What a native node is made from.
    pub fn origin(&self) -> Origin {
        Origin {
            layers: vec![self.dir.join("up"), self.base.join("root")],
            devices: self.base.join("devices"),
            state: Some(self.dir.join("up").join(native::STATE)),
        }
    }

    /// The Debian system below it, without our packages.
    pub fn root(&self) -> PathBuf {
        self.base.join("root")
    }

    /// Names it; other contents have other names.
    pub fn name(&self) -> String {
        self.dir.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

fn install(base: &Base, files: &[PathBuf], dir: &Path, say: &dyn Fn(&str)) -> anyhow::Result<()> {
    let origin = Origin { layers: vec![base.root()], devices: base.devices(), state: None };
    let node = Node::at(dir, "golden")?;
    let payload = dir.join("up").join(PAYLOAD);
    fs::create_dir_all(&payload).with_context(|| format!("make {}", payload.display()))?;
    for file in files {
        let name = file.file_name().context("a file has a name")?;
        fs::copy(file, payload.join(name)).with_context(|| format!("copy {}", file.display()))?;
    }
    say("booting the golden node");
    let made = node.start(&origin).and_then(|()| settle(&node, say));
    node.kill()?;
    made?;
    for spare in ["work", "root"] {
        super::base::remove(&dir.join(spare))?;
    }
    Ok(())
}

fn settle(node: &Node, say: &dyn Fn(&str)) -> anyhow::Result<()> {
    node.wait_boot(PATIENCE)?;
    say("installing packages and importing the template on it");
    for script in [INSTALL, CLEAN] {
        let out = node.exec(script, PATIENCE)?;
        if out.status != 0 {
            let journal = "systemctl --failed --no-pager; journalctl -p warning --no-pager -n 40";
            let state = node.exec(journal, PATIENCE)?;
            bail!(
                "the golden node is not made (status {}):\n{}{}\n{}",
                out.status,
                out.stdout,
                out.stderr,
                state.stdout
            );
        }
    }
    Ok(())
}
