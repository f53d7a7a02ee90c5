//! Templates in the pool: a directory each, made beside its place and renamed when whole.
//!
//! ```text
//! archive ─► unpacker: normalise ─► contents.tar.zst ─► unpacker: extract ─► golden-8192.img
//!                                                    └─ later, on demand ─► golden-N.img
//! ```

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ves_archive::{Contents, Feed, Limits, Refused};
use ves_host::loopdev;
use ves_host::{Attempt, HostError, ext4, file};
use ves_types::TemplateName;

use super::build;
use super::pool::{Pool, directory, discard, publish, sync_dir, until};
use crate::error::Error;
use crate::host::{Source, Template};
use crate::observe::{self, TemplateRecord};
use crate::plan::{DEFAULT_INODES_PER_GROUP, TemplateFacts, base_image_bytes};
use crate::template::Progress;

const CONTENTS: &str = "contents.tar.zst";
const RECORD: &str = "template.json";
/// What a template is called while it is made; no template's name begins so.
const UNFINISHED: &str = ".new-";
/// The most base images of a template; the oldest goes first, never the default one.
const MAX_VARIANTS: usize = 8;
/// How often a base image that turned out too small is made larger.
const ATTEMPTS: u64 = 4;

/// All templates of the pool.
#[derive(Debug)]
pub(super) struct Templates {
    pool: Arc<Pool>,
    limits: Limits,
    mirror: Option<String>,
    /// The executable that becomes the confined unpacker.
    unpacker: PathBuf,
    /// Where the builder listens, if there is one.
    builder: PathBuf,
    /// One base image is made at a time: a second call for it then finds it.
    making: Mutex<()>,
}

impl Templates {
    /// The templates of this pool.
    pub(super) fn new(
        pool: Arc<Pool>,
        limits: Limits,
        mirror: Option<String>,
        unpacker: PathBuf,
    ) -> Self {
        let builder = PathBuf::new();
        Self { pool, limits, mirror, unpacker, builder, making: Mutex::default() }
    }

    /// The same, with a builder that may listen at `socket`.
    pub(super) fn built_by(self, socket: PathBuf) -> Self {
        Self { builder: socket, ..self }
    }

    fn path(&self, name: &TemplateName) -> PathBuf {
        self.pool.templates().join(name.as_str())
    }

    /// Removes what a crash left.
    pub(super) fn sweep(&self) -> Result<(), Error> {
        let dir = self.pool.templates();
        let what = || format!("list {}", dir.display());
        for entry in std::fs::read_dir(&dir).attempt(what)? {
            let entry = entry.attempt(what)?;
            // One that cannot be swept is in nobody's way but its own.
            if let Err(error) = Self::sweep_one(&entry) {
                tracing::warn!(%error, path = %entry.path().display(), "sweep, ignoring");
            }
        }
        Ok(())
    }

    fn sweep_one(entry: &std::fs::DirEntry) -> Result<(), HostError> {
        if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            tracing::info!(path = %entry.path().display(), "throw away an unfinished template");
            return remove_dir(&entry.path());
        }
        for file in files(&entry.path())?.into_keys().filter(|f| f.ends_with(".new")) {
            discard(&entry.path().join(file))?;
        }
        Ok(())
    }

    fn record(&self, name: &TemplateName) -> Result<Option<TemplateRecord>, Error> {
        file::read_if_exists(&self.path(name).join(RECORD), 1 << 16)?
            .map(|bytes| observe::parse_template_record(name, &bytes))
            .transpose()
    }

    /// What volumes depend on; `None` where there is no such template.
    pub(super) fn facts(&self, name: &TemplateName) -> Result<Option<TemplateFacts>, Error> {
        let Some(record) = self.record(name)? else { return Ok(None) };
        let sizes = files(&self.path(name))?.into_iter().map(|(n, m)| (n, m.len()));
        Ok(Some(TemplateFacts {
            content_bytes: record.content_bytes,
            content_inodes: record.content_inodes,
            variants: observe::parse_goldens(sizes),
        }))
    }

    fn names(&self) -> Result<Vec<TemplateName>, HostError> {
        let dir = self.pool.templates();
        let what = || format!("list {}", dir.display());
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&dir).attempt(what)? {
            let name = entry.attempt(what)?.file_name();
            names.extend(name.to_str().and_then(|n| n.parse::<TemplateName>().ok()));
        }
        names.sort();
        Ok(names)
    }

    /// All templates, by name; one that cannot be understood is left out.
    pub(super) fn list(&self) -> Result<Vec<Template>, Error> {
        let mut all = Vec::new();
        for name in self.names()? {
            let described = self
                .record(&name)
                .and_then(|r| r.map(|r| self.describe(name.clone(), r)).transpose());
            match described {
                Ok(template) => all.extend(template),
                Err(error) => tracing::warn!(%name, %error, "leave out of the list"),
            }
        }
        Ok(all)
    }

    /// Bytes all templates take, also of those that cannot be understood.
    pub(super) fn allocated(&self) -> Result<u64, Error> {
        let mut sum = 0;
        for name in self.names()? {
            sum += self.takes(&name)?;
        }
        Ok(sum)
    }

    fn takes(&self, name: &TemplateName) -> Result<u64, HostError> {
        Ok(files(&self.path(name))?.values().map(|m| m.blocks() * 512).sum())
    }

    fn describe(&self, name: TemplateName, r: TemplateRecord) -> Result<Template, Error> {
        let allocated = self.takes(&name)?;
        let TemplateRecord { content_bytes, content_inodes, init, os, sha256, created_unix } = r;
        Ok(Template {
            name,
            content_bytes,
            content_inodes,
            allocated,
            init,
            sha256,
            os,
            created_unix,
        })
    }

    /// The base image with so many inodes per group, which must exist.
    pub(super) fn base_image(&self, name: &TemplateName, inodes_per_group: u64) -> PathBuf {
        self.path(name).join(observe::base_image_name(inodes_per_group))
    }

    /// Makes a base image where there is none.
    pub(super) fn make_base_image(
        &self,
        name: &TemplateName,
        inodes_per_group: u64,
    ) -> Result<(), Error> {
        let _one = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = self.path(name);
        let record = self.record(name)?.ok_or_else(|| Error::TemplateUnknown(name.clone()))?;
        if dir.join(observe::base_image_name(inodes_per_group)).exists() {
            return Ok(());
        }
        let mut others: Vec<_> = files(&dir)?
            .into_iter()
            .filter(|(n, _)| n.starts_with("golden-") && n.ends_with(".img"))
            .filter(|(n, _)| *n != observe::base_image_name(DEFAULT_INODES_PER_GROUP))
            .map(|(n, m)| (m.mtime(), n))
            .collect();
        others.sort();
        let too_many = (others.len() + 2).saturating_sub(MAX_VARIANTS);
        for (_, old) in others.into_iter().take(too_many) {
            discard(&dir.join(old))?;
        }
        write_base_image(
            &self.unpacker,
            &dir,
            (record.content_bytes, record.content_inodes),
            inodes_per_group,
        )
    }

    /// Makes a template.
    pub(super) fn make(
        &self,
        name: &TemplateName,
        source: Source<'_>,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<Template, Error> {
        if self.path(name).exists() {
            return Err(Error::TemplateExists(name.clone()));
        }
        let new = self.pool.templates().join(format!("{UNFINISHED}{name}"));
        remove_dir(&new)?;
        directory(&new)?;
        let made = self.fill(&new, source, progress).and_then(|()| {
            std::fs::rename(&new, self.path(name))
                .attempt(|| format!("move template {name} to its place"))?;
            Ok(sync_dir(&self.pool.templates())?)
        });
        if let Err(error) = made {
            // The first failure is the one to tell; what cannot be removed is swept at the start.
            remove_dir(&new).ok();
            return Err(error);
        }
        let gone = || Error::TemplateUnknown(name.clone());
        self.describe(name.clone(), self.record(name)?.ok_or_else(gone)?)
    }

    fn fill(
        &self,
        dir: &Path,
        source: Source<'_>,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<(), Error> {
        let contents = dir.join(CONTENTS);
        let output = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&contents)
            .attempt(|| format!("make {}", contents.display()))?;
        let (found, digest) = match source {
            Source::Archive { feed, sha256 } => {
                let mut feed = Counted { feed, progress, bytes: 0 };
                let (found, digest) =
                    ves_archive::normalise_to(&self.unpacker, &mut feed, &output, self.limits)?;
                if let Some(want) = sha256.filter(|want| *want != digest.0) {
                    return Err(Error::Hash { want, got: digest.0 });
                }
                (found, digest)
            }
            Source::Build(what) => {
                let mut feed =
                    build::start(&self.builder, &what, self.mirror.as_deref(), progress)?;
                ves_archive::normalise_to(&self.unpacker, &mut feed, &output, self.limits)?
            }
        };
        output.sync_all().attempt(|| format!("sync {}", contents.display()))?;
        let Contents { bytes, inodes, init, os, devices_skipped } = found;
        tracing::info!(bytes, inodes, devices_skipped, "archive is good");
        progress(Progress { what: "unpacking".to_owned(), done: 0, total: bytes });
        write_base_image(&self.unpacker, dir, (bytes, inodes), DEFAULT_INODES_PER_GROUP)?;
        progress(Progress { what: "unpacking".to_owned(), done: bytes, total: bytes });
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let record = TemplateRecord {
            content_bytes: bytes,
            content_inodes: inodes,
            init,
            os,
            sha256: digest.0,
            created_unix: i64::try_from(now).unwrap_or_default(),
        };
        let text = serde_json::to_vec_pretty(&record)
            .map_err(std::io::Error::from)
            .attempt(|| "write a template's record".to_owned())?;
        Ok(file::write_atomic(&dir.join(RECORD), &text)?)
    }

    /// Opens a template's contents.
    ///
    /// # Errors
    /// [`Error::TemplateUnknown`], or what failed.
    pub(super) fn export(&self, name: &TemplateName) -> Result<Box<dyn Read + Send>, Error> {
        if self.record(name)?.is_none() {
            return Err(Error::TemplateUnknown(name.clone()));
        }
        let path = self.path(name).join(CONTENTS);
        Ok(Box::new(File::open(&path).attempt(|| format!("open {}", path.display()))?))
    }

    /// Removes a template.
    ///
    /// # Errors
    /// [`Error::TemplateUnknown`], or what failed.
    pub(super) fn remove(&self, name: &TemplateName) -> Result<(), Error> {
        let (path, new) =
            (self.path(name), self.pool.templates().join(format!("{UNFINISHED}{name}")));
        if !path.exists() {
            return Err(Error::TemplateUnknown(name.clone()));
        }
        remove_dir(&new)?;
        // In one go, so that nobody meets half a template.
        std::fs::rename(&path, &new).attempt(|| format!("remove template {name}"))?;
        remove_dir(&new)?;
        Ok(sync_dir(&self.pool.templates())?)
    }
}

/// Tells how much of an archive has come.
struct Counted<'a> {
    feed: &'a mut (dyn Feed + 'a),
    progress: &'a (dyn Fn(Progress) + Sync),
    bytes: u64,
}

impl Feed for Counted<'_> {
    fn next(&mut self) -> std::io::Result<Option<Vec<u8>>> {
        let piece = self.feed.next()?;
        let before = self.bytes;
        self.bytes += piece.as_ref().map_or(0, Vec::len) as u64;
        // Once each 8 MiB.
        if before >> 23 != self.bytes >> 23 {
            (self.progress)(Progress { what: "receiving".to_owned(), done: self.bytes, total: 0 });
        }
        Ok(piece)
    }
}

/// The files of a directory; none where it is gone.
fn files(dir: &Path) -> Result<BTreeMap<String, std::fs::Metadata>, HostError> {
    let what = || format!("list {}", dir.display());
    let entries = match std::fs::read_dir(dir) {
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(BTreeMap::new());
        }
        other => other.attempt(what)?,
    };
    let mut found = BTreeMap::new();
    for entry in entries {
        let entry = entry.attempt(what)?;
        // One that vanishes meanwhile was not there.
        if let (Ok(name), Ok(meta)) = (entry.file_name().into_string(), entry.metadata())
            && meta.is_file()
        {
            found.insert(name, meta);
        }
    }
    Ok(found)
}

/// Removes a template's directory with the images in it.
fn remove_dir(dir: &Path) -> Result<(), HostError> {
    for name in files(dir)?.into_keys() {
        discard(&dir.join(name))?;
    }
    match std::fs::remove_dir(dir) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        other => other.attempt(|| format!("remove {}", dir.display())),
    }
}

/// A loop device that goes when this does.
struct Attached(u32);

impl Drop for Attached {
    fn drop(&mut self) {
        // The unpacker's mount namespace ends asynchronously; a device still held goes by itself.
        until(Duration::from_secs(5), || Ok(!loopdev::held(self.0)?)).ok();
        if let Err(error) = loopdev::detach(self.0) {
            tracing::warn!(%error, "detach a base image");
        }
    }
}

/// Makes a base image from a template's contents, large enough by trying.
fn write_base_image(
    unpacker: &Path,
    dir: &Path,
    (content_bytes, content_inodes): (u64, u64),
    inodes_per_group: u64,
) -> Result<(), Error> {
    let path = dir.join(observe::base_image_name(inodes_per_group));
    let new = path.with_extension("img.new");
    let what = || format!("make {}", new.display());
    let contents = dir.join(CONTENTS);
    for attempt in 0..ATTEMPTS {
        discard(&new)?;
        let image = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&new)
            .attempt(what)?;
        let bytes = base_image_bytes(content_bytes, content_inodes, inodes_per_group)
            .saturating_add(attempt * ext4::GROUP_BYTES * 2);
        image.set_len(bytes).attempt(what)?;
        ext4::make(&new, bytes, inodes_per_group)?;
        let archive = File::open(&contents).attempt(|| format!("open {}", contents.display()))?;
        let unpacked = {
            let device = Attached(loopdev::attach(&image, false)?);
            ves_archive::extract_into(unpacker, &loopdev::path(device.0), &archive)
        };
        match unpacked {
            Err(Refused::NoRoom) => {
                tracing::info!(bytes, "the base image is too small");
                discard(&new)?;
            }
            Err(e) => {
                discard(&new)?;
                return Err(e.into());
            }
            Ok(()) => {
                return Ok(publish(&new, &path)?);
            }
        }
    }
    Err(Refused::NoRoom.into())
}

#[cfg(test)]
mod tests {
    use ves_types::layout::Layout;

    use super::*;
    use crate::config::{Config, PoolKind};

    #[test]
    fn a_bad_template_stops_only_itself() {
        let dir = tempfile::tempdir().expect("a directory");
        let layout = Layout::new(dir.path().join("run"), dir.path().join("state"));
        let config = Config { pool: PoolKind::ImageCopy, ..Config::default() };
        let pool = Arc::new(Pool::open(&config, &layout).expect("a pool"));
        let bad = pool.templates().join("bad");
        std::fs::create_dir(&bad).expect("made");
        std::fs::write(bad.join(RECORD), vec![b'{'; 8192]).expect("written");
        let templates = Templates::new(pool, Limits::default(), None, PathBuf::new());
        templates.sweep().expect("swept");
        assert_eq!(templates.list().expect("listed"), []);
        assert!(templates.allocated().expect("counted") >= 8192);
        let name = "bad".parse().expect("a name");
        assert!(matches!(templates.facts(&name), Err(Error::Record { .. })));
    }
}
