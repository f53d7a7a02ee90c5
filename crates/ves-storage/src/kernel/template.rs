//! Templates in the pool: a directory each, made beside its place and renamed when whole.
//!
//! ```text
//! archive ─► unpacker: normalise ─► contents.tar.zst ─► unpacker: extract ─► golden-8192.img
//!                                                    └─ later, on demand ─► golden-N.img
//! ```
//!
//! [`crate::plan::template`] plans; this is what it looks at and how its steps are done. Never here: which
//! steps, or in which order.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use ves_archive::{Contents, Feed, Judging, Limits, Owners};
use ves_host::{Attempt, HostError, file};
use ves_types::TemplateName;

use super::backend::Backend;
use super::build;
use super::build_log::BuildLogs;
use super::file::{directory, files, sync_dir};
use crate::error::Error;
use crate::host::{Making, Source, Template};
use crate::ledger::{Holder, Inventory};
use crate::observe::{self, TemplateRecord};
use crate::plan::template::{Observed, Step, Taken};
use crate::plan::{BaseImageId, TemplateFacts};
use crate::template::Progress;

const CONTENTS: &str = "contents.tar.zst";
/// What has to be judged once more, meanwhile.
const FIRST: &str = "contents.first";
const RECORD: &str = "template.json";
/// What a template is called while it is made; no template's name begins so.
pub(super) const UNFINISHED: &str = ".new-";
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
    /// What builds that failed have said.
    logs: BuildLogs,
}

impl<B: Backend> Templates<B> {
    /// The templates of this pool.
    pub(super) fn new(
        backend: Arc<B>,
        limits: Limits,
        mirror: Option<String>,
        unpacker: PathBuf,
    ) -> Self {
        let (builder, logs) = (PathBuf::new(), BuildLogs::in_dir(PathBuf::new()));
        Self { backend, limits, mirror, unpacker, builder, logs }
    }

    /// The same, with a builder that may listen at `socket`.
    pub(super) fn built_by(self, socket: PathBuf) -> Self {
        Self { builder: socket, ..self }
    }

    /// The same, with logs of failed builds in a directory.
    pub(super) fn logged_in(self, dir: PathBuf) -> Self {
        Self { logs: BuildLogs::in_dir(dir), ..self }
    }

    fn path(&self, name: &TemplateName) -> PathBuf {
        self.backend.templates().join(name.as_str())
    }
    fn new_path(&self, name: &TemplateName) -> PathBuf {
        self.backend.templates().join(format!("{UNFINISHED}{name}"))
    }

    /// Those that a crash left unfinished.
    pub(super) fn leftovers(&self) -> Result<BTreeSet<String>, Error> {
        self.logs.sweep()?;
        let dir = self.backend.templates();
        let what = || format!("list {}", dir.display());
        let mut left = BTreeSet::new();
        for entry in std::fs::read_dir(&dir).attempt(what)? {
            let name = entry.attempt(what)?.file_name();
            left.extend(name.to_str().and_then(|n| n.strip_prefix(UNFINISHED)).map(str::to_owned));
        }
        Ok(left)
    }

    /// Throws an unfinished one away.
    pub(super) fn sweep(&self, name: &str) -> Result<(), Error> {
        match name.parse() {
            Ok(name) => self.drop_unfinished(&name),
            // No template is called so.
            Err(_) => {
                let path = self.backend.templates().join(format!("{UNFINISHED}{name}"));
                Ok(remove_dir(&path)?)
            }
        }
    }

    /// A template as it is.
    pub(super) fn observe(&self, name: &TemplateName) -> Result<Observed, Error> {
        let base_images = self.backend.base_images(name)?.into_iter();
        let contents = self
            .record(name)?
            .map(|record| Taken { bytes: record.content_bytes, inodes: record.content_inodes });
        Ok(Observed {
            published: self.path(name).exists(),
            unfinished: self.new_path(name).exists(),
            contents: contents.unwrap_or_default(),
            base_images: base_images.map(|(number, image)| (number, image.made_unix)).collect(),
        })
    }

    /// Does one step.
    pub(super) fn apply(
        &self,
        name: &TemplateName,
        step: &Step,
        making: &mut Making<'_, '_>,
    ) -> Result<(), Error> {
        let id = |inodes_per_group| BaseImageId { template: name.clone(), inodes_per_group };
        let lost = || HostError::parse("make a template", "its archive was not taken");
        match *step {
            Step::Discard => self.drop_unfinished(name),
            Step::TakeContents => {
                let source = making.source.take().ok_or_else(lost)?;
                making.taken = Some(self.take_contents(name, source, making)?);
                Ok(())
            }
            Step::MakeBaseImage { inodes_per_group, bytes } => {
                let total = making.contents().bytes;
                let tell = |done| {
                    (making.progress)(Progress { what: "unpacking".to_owned(), done, total });
                };
                tell(0);
                self.write_base_image(name, &id(inodes_per_group), bytes)?;
                tell(total);
                Ok(())
            }
            Step::RemoveBaseImage { inodes_per_group } => {
                self.backend.delete_base_image(&id(inodes_per_group))
            }
            Step::Describe => {
                let (contents, sha256) = making.taken.clone().ok_or_else(lost)?;
                self.write_record(name, contents, sha256)
            }
            Step::Publish => self.rename(&self.new_path(name), &self.path(name)),
            Step::Withdraw => self.rename(&self.path(name), &self.new_path(name)),
        }
    }

    /// In one go, so that nobody meets half a template; where it was done before, its name is made to
    /// last.
    fn rename(&self, from: &Path, to: &Path) -> Result<(), Error> {
        match std::fs::rename(from, to) {
            Err(e) if e.kind() == ErrorKind::NotFound && to.exists() => {}
            other => {
                other.attempt(|| format!("rename {} to {}", from.display(), to.display()))?;
            }
        }
        Ok(sync_dir(&self.backend.templates())?)
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

    /// What each template takes, also of those that cannot be understood.
    pub(super) fn inventory(&self) -> Result<Inventory, Error> {
        let taken = |name: TemplateName| {
            let bytes = self.takes(&name)?;
            Ok((Holder::Template(name), bytes))
        };
        self.names()?.into_iter().map(taken).collect()
    }

    /// What a template takes, with its base images.
    pub(super) fn takes(&self, name: &TemplateName) -> Result<u64, Error> {
        let place = self.path(name);
        let dir = if place.exists() { place } else { self.new_path(name) };
        let blocks = |file: &str| {
            // One that is not there takes nothing.
            std::fs::symlink_metadata(dir.join(file)).map_or(0, |m| m.blocks())
        };
        let base_images = self.backend.base_images(name)?;
        let base_images: u64 = base_images.values().map(|image| image.allocated).sum();
        Ok(base_images + (blocks(CONTENTS) + blocks(RECORD)) * 512)
    }

    fn describe(&self, name: TemplateName, r: TemplateRecord) -> Result<Template, Error> {
        let allocated = self.takes(&name)?;
        let TemplateRecord { content_bytes, content_inodes, init, os, sha256, created_unix, notes } =
            r;
        Ok(Template {
            name,
            content_bytes,
            content_inodes,
            allocated,
            init,
            sha256,
            os,
            created_unix,
            notes,
        })
    }

    /// Finds a base image that was made before.
    pub(super) fn find_base_image(&self, id: &BaseImageId) -> Result<(), Error> {
        match self.backend.base_images(&id.template)?.contains_key(&id.inodes_per_group) {
            true => Ok(()),
            false => Err(HostError::parse("find a base image", &id.to_string()).into()),
        }
    }

    fn write_base_image(
        &self,
        name: &TemplateName,
        id: &BaseImageId,
        bytes: u64,
    ) -> Result<(), Error> {
        let place = self.path(name);
        let dir = if place.exists() { place } else { self.new_path(name) };
        let contents = dir.join(CONTENTS);
        self.backend.make_base_image(id, bytes, &mut |device: &Path| {
            let archive =
                File::open(&contents).attempt(|| format!("open {}", contents.display()))?;
            Ok(ves_archive::extract_into(&self.unpacker, device, &archive)?)
        })
    }

    fn take_contents(
        &self,
        name: &TemplateName,
        source: Source<'_>,
        &Making { progress, allow, .. }: &Making<'_, '_>,
    ) -> Result<(Contents, String), Error> {
        let dir = self.new_path(name);
        directory(&dir)?;
        let contents = dir.join(CONTENTS);
        let output = new_file(&contents)?;
        let (owners, sha256, mut feed): (_, _, Box<dyn Feed + '_>) = match source {
            Source::Archive { feed, sha256, owners } => {
                (owners, sha256, Box::new(Counted { feed, progress, bytes: 0 }))
            }
            Source::Build(what) => {
                let (mirror, what) = (self.mirror.as_deref(), (name, &what));
                let feed = build::start(&self.builder, what, mirror, &self.logs, progress)?;
                (Owners::default(), None, Box::new(feed))
            }
        };
        let judging = Judging::new(self.limits, owners);
        let judge = |feed: &mut (dyn Feed + '_), output: &File, held: u64, judging: &Judging| {
            bounded(output, &|bytes| Ok(allow(held + bytes)? - held), |clean| {
                Ok(ves_archive::normalise_to(&self.unpacker, feed, clean, judging)?)
            })
        };
        let (mut found, digest) = judge(&mut *feed, &output, 0, &judging)?;
        if let Some(want) = sha256.filter(|want| *want != digest.0) {
            return Err(Error::Hash { want, got: digest.0 });
        }
        if let Some(judging) = judging.once_more(&found) {
            let first = dir.join(FIRST);
            std::fs::rename(&contents, &first)
                .attempt(|| format!("put {} aside", contents.display()))?;
            let mut feed = File::open(&first).attempt(|| format!("open {}", first.display()))?;
            let held = output.metadata().attempt(|| format!("look at {}", first.display()))?.len();
            (found, _) = judge(&mut feed, &new_file(&contents)?, held, &judging)?;
            file::remove_if_exists(&first)?;
        }
        let output = File::open(&contents).attempt(|| format!("open {}", contents.display()))?;
        output.sync_all().attempt(|| format!("sync {}", contents.display()))?;
        tracing::info!(found.bytes, found.inodes, notes = ?found.notes, "archive is good");
        Ok((found, digest.0))
    }

    fn write_record(
        &self,
        name: &TemplateName,
        contents: Contents,
        sha256: String,
    ) -> Result<(), Error> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let record = TemplateRecord {
            content_bytes: contents.bytes,
            content_inodes: contents.inodes,
            init: contents.init,
            os: contents.os,
            sha256,
            created_unix: i64::try_from(now).unwrap_or_default(),
            notes: contents.notes,
        };
        let text = serde_json::to_vec_pretty(&record)
            .map_err(std::io::Error::from)
            .attempt(|| "write a template's record".to_owned())?;
        Ok(file::write_atomic(&self.new_path(name).join(RECORD), &text)?)
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
}

/// Makes a file that was not there, for this process only.
fn new_file(path: &Path) -> Result<File, HostError> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    options.open(path).attempt(|| format!("make {}", path.display()))
}

/// Lets `write` write to a file, and the file take as much as `allow` answers.
fn bounded<T>(
    file: &File,
    allow: &(dyn Fn(u64) -> Result<u64, Error> + Sync),
    write: impl FnOnce(&File) -> Result<T, Error>,
) -> Result<T, Error> {
    let what = || "write down an archive".to_owned();
    let (mut from, to) = std::io::pipe().attempt(what)?;
    let to = File::from(OwnedFd::from(to));
    std::thread::scope(|scope| {
        let copied = scope.spawn(move || -> Result<(), Error> {
            let (mut written, mut allowed) = (0, 0);
            let (mut piece, mut file) = (vec![0; 1 << 17], file);
            loop {
                let n = from.read(&mut piece).attempt(what)?;
                let Some(piece) = piece.get(..n).filter(|piece| !piece.is_empty()) else {
                    return Ok(());
                };
                written += n as u64;
                if written > allowed {
                    // Who writes hears of a refusal by the pipe's end.
                    allowed = allow(written)?;
                }
                file.write_all(piece).attempt(what)?;
            }
        });
        let wrote = write(&to);
        drop(to);
        let lost = || HostError::parse("write down an archive", "its writer was lost");
        copied.join().map_err(|_| lost())??;
        wrote
    })
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
        let left = templates.leftovers().expect("listed");
        assert_eq!(left, ["worse".to_owned()].into());
        left.iter().for_each(|name| templates.sweep(name).expect("swept"));
        assert!(!unfinished.exists());
        assert_eq!(templates.list().expect("listed"), []);
        let name: TemplateName = "bad".parse().expect("a name");
        let counted = templates.inventory().expect("counted");
        assert!(counted[&Holder::Template(name.clone())] >= 8192);
        assert!(matches!(templates.facts(&name), Err(Error::Record { .. })));
    }
}
