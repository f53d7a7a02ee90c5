//! Templates in the pool: a directory each, made beside its place and renamed when whole.
//!
//! ```text
//! archive ─► unpacker: normalise ─► contents.tar.zst ─► unpacker: extract ─► golden-8192.img
//!                                                    └─ later, on demand ─► golden-N.img
//! ```

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use ves_archive::{Contents, Feed, Limits, Refused};
use ves_host::{Attempt, HostError, ext4, file};
use ves_types::TemplateName;

use super::backend::Backend;
use super::build;
use super::file::{directory, files, sync_dir};
use crate::error::Error;
use crate::host::{Source, Template};
use crate::observe::{self, TemplateRecord};
use crate::plan::{BaseImageId, DEFAULT_INODES_PER_GROUP, TemplateFacts, base_image_bytes};
use crate::template::Progress;

const CONTENTS: &str = "contents.tar.zst";
const RECORD: &str = "template.json";
/// What a template is called while it is made; no template's name begins so.
pub(super) const UNFINISHED: &str = ".new-";
/// The most base images of a template; the oldest goes first, never the default one.
const MAX_VARIANTS: usize = 8;
/// How often a base image that turned out too small is made larger.
const ATTEMPTS: u64 = 4;

/// All templates of the pool.
#[derive(Debug)]
pub(super) struct Templates<B> {
    backend: Arc<B>,
    limits: Limits,
    mirror: Option<String>,
    /// The executable that becomes the confined unpacker.
    unpacker: PathBuf,
    /// Where the builder listens, if there is one.
    builder: PathBuf,
    /// One base image is made at a time: a second call for it then finds it.
    making: Mutex<()>,
}

impl<B: Backend> Templates<B> {
    /// The templates of this pool.
    pub(super) fn new(
        backend: Arc<B>,
        limits: Limits,
        mirror: Option<String>,
        unpacker: PathBuf,
    ) -> Self {
        let builder = PathBuf::new();
        Self { backend, limits, mirror, unpacker, builder, making: Mutex::default() }
    }

    /// The same, with a builder that may listen at `socket`.
    pub(super) fn built_by(self, socket: PathBuf) -> Self {
        Self { builder: socket, ..self }
    }

    fn path(&self, name: &TemplateName) -> PathBuf {
        self.backend.templates().join(name.as_str())
    }
    fn new_path(&self, name: &TemplateName) -> PathBuf {
        self.backend.templates().join(format!("{UNFINISHED}{name}"))
    }

    /// Removes what a crash left.
    pub(super) fn sweep(&self) -> Result<(), Error> {
        let dir = self.backend.templates();
        let what = || format!("list {}", dir.display());
        for entry in std::fs::read_dir(&dir).attempt(what)? {
            let entry = entry.attempt(what)?;
            // One that cannot be swept is in nobody's way but its own.
            if let Err(error) = self.sweep_one(&entry) {
                tracing::warn!(%error, path = %entry.path().display(), "sweep, ignoring");
            }
        }
        Ok(())
    }

    fn sweep_one(&self, entry: &std::fs::DirEntry) -> Result<(), Error> {
        let file_name = entry.file_name();
        let Some(name) = file_name.to_str().and_then(|n| n.strip_prefix(UNFINISHED)) else {
            return Ok(());
        };
        tracing::info!(path = %entry.path().display(), "throw away an unfinished template");
        match name.parse() {
            Ok(name) => self.drop_unfinished(&name),
            Err(_) => Ok(remove_dir(&entry.path())?),
        }
    }

    /// Throws away a template that is not at its place, or not any more.
    fn drop_unfinished(&self, name: &TemplateName) -> Result<(), Error> {
        if !self.path(name).exists() {
            for inodes_per_group in self.backend.base_images(name)?.into_keys() {
                let template = name.clone();
                self.backend.delete_base_image(&BaseImageId { template, inodes_per_group })?;
            }
        }
        Ok(remove_dir(&self.new_path(name))?)
    }

    fn record(&self, name: &TemplateName) -> Result<Option<TemplateRecord>, Error> {
        file::read_if_exists(&self.path(name).join(RECORD), 1 << 16)?
            .map(|bytes| observe::parse_template_record(name, &bytes))
            .transpose()
    }

    /// What volumes depend on; `None` where there is no such template.
    pub(super) fn facts(&self, name: &TemplateName) -> Result<Option<TemplateFacts>, Error> {
        let Some(record) = self.record(name)? else { return Ok(None) };
        let base_images = self.backend.base_images(name)?.into_iter();
        Ok(Some(TemplateFacts {
            content_bytes: record.content_bytes,
            content_inodes: record.content_inodes,
            variants: base_images.map(|(number, image)| (number, image.bytes)).collect(),
        }))
    }

    fn names(&self) -> Result<Vec<TemplateName>, HostError> {
        let dir = self.backend.templates();
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

    fn takes(&self, name: &TemplateName) -> Result<u64, Error> {
        let blocks = |file: &str| {
            // One that is not there takes nothing.
            std::fs::symlink_metadata(self.path(name).join(file)).map_or(0, |m| m.blocks())
        };
        let base_images = self.backend.base_images(name)?;
        let base_images: u64 = base_images.values().map(|image| image.allocated).sum();
        Ok(base_images + (blocks(CONTENTS) + blocks(RECORD)) * 512)
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

    /// Makes a base image where there is none.
    pub(super) fn make_base_image(&self, id: &BaseImageId) -> Result<(), Error> {
        let _one = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        let BaseImageId { template, inodes_per_group } = id;
        let record = self.record(template)?;
        let record = record.ok_or_else(|| Error::TemplateUnknown(template.clone()))?;
        let there = self.backend.base_images(template)?;
        if there.contains_key(inodes_per_group) {
            return Ok(());
        }
        let mut others: Vec<_> = there
            .into_iter()
            .filter(|(number, _)| *number != DEFAULT_INODES_PER_GROUP)
            .map(|(number, image)| (image.made_unix, number))
            .collect();
        others.sort_unstable();
        let too_many = (others.len() + 2).saturating_sub(MAX_VARIANTS);
        for (_, old) in others.into_iter().take(too_many) {
            let old = BaseImageId { template: template.clone(), inodes_per_group: old };
            self.backend.delete_base_image(&old)?;
        }
        let contents = self.path(template).join(CONTENTS);
        self.write_base_image(id, &contents, (record.content_bytes, record.content_inodes))
    }

    /// Makes a base image from a template's contents, large enough by trying.
    fn write_base_image(
        &self,
        id: &BaseImageId,
        contents: &Path,
        (content_bytes, content_inodes): (u64, u64),
    ) -> Result<(), Error> {
        let mut fill = |device: &Path| {
            let archive =
                File::open(contents).attempt(|| format!("open {}", contents.display()))?;
            Ok(ves_archive::extract_into(&self.unpacker, device, &archive)?)
        };
        for attempt in 0..ATTEMPTS {
            let bytes = base_image_bytes(content_bytes, content_inodes, id.inodes_per_group)
                .saturating_add(attempt * ext4::GROUP_BYTES * 2);
            match self.backend.make_base_image(id, bytes, &mut fill) {
                Err(Error::Archive(Refused::NoRoom)) => {
                    tracing::info!(bytes, "the base image is too small");
                }
                other => return other,
            }
        }
        Err(Refused::NoRoom.into())
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
        self.drop_unfinished(name)?;
        let new = self.new_path(name);
        directory(&new)?;
        let made = self.fill(name, source, progress).and_then(|()| {
            std::fs::rename(&new, self.path(name))
                .attempt(|| format!("move template {name} to its place"))?;
            Ok(sync_dir(&self.backend.templates())?)
        });
        if let Err(error) = made {
            // The first failure is the one to tell; what cannot be removed is swept at the start.
            self.drop_unfinished(name).ok();
            return Err(error);
        }
        let gone = || Error::TemplateUnknown(name.clone());
        self.describe(name.clone(), self.record(name)?.ok_or_else(gone)?)
    }

    fn fill(
        &self,
        name: &TemplateName,
        source: Source<'_>,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<(), Error> {
        let dir = self.new_path(name);
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
        let template = name.clone();
        let id = BaseImageId { template, inodes_per_group: DEFAULT_INODES_PER_GROUP };
        self.write_base_image(&id, &contents, (bytes, inodes))?;
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
        let (path, new) = (self.path(name), self.new_path(name));
        if !path.exists() {
            return Err(Error::TemplateUnknown(name.clone()));
        }
        self.drop_unfinished(name)?;
        // In one go, so that nobody meets half a template.
        std::fs::rename(&path, &new).attempt(|| format!("remove template {name}"))?;
        self.drop_unfinished(name)?;
        Ok(sync_dir(&self.backend.templates())?)
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

/// Removes a template's directory.
fn remove_dir(dir: &Path) -> Result<(), HostError> {
    for name in files(dir)?.into_keys() {
        file::remove_if_exists(&dir.join(name))?;
    }
    match std::fs::remove_dir(dir) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        other => other.attempt(|| format!("remove {}", dir.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::image::tests::images;

    #[test]
    fn a_bad_template_stops_only_itself() {
        let (images, _dir) = images();
        let bad = images.templates().join("bad");
        std::fs::create_dir(&bad).expect("made");
        std::fs::write(bad.join(RECORD), vec![b'{'; 8192]).expect("written");
        let unfinished = images.templates().join(".new-worse");
        std::fs::create_dir(&unfinished).expect("made");
        std::fs::write(unfinished.join("golden-8192.img.new"), b"half").expect("written");
        let templates = Templates::new(Arc::new(images), Limits::default(), None, PathBuf::new());
        templates.sweep().expect("swept");
        assert!(!unfinished.exists());
        assert_eq!(templates.list().expect("listed"), []);
        assert!(templates.allocated().expect("counted") >= 8192);
        let name = "bad".parse().expect("a name");
        assert!(matches!(templates.facts(&name), Err(Error::Record { .. })));
    }
}
