//! Base images as files in their template's directory.
//!
//! While a template is made its directory has another name, and its base images are in that: so one
//! rename shows template and base images, or hides both.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ves_host::cmd::find;
use ves_host::{Attempt, Cmd, ext4, loopdev};
use ves_types::TemplateName;

use super::Images;
use super::file::{discard, publish, until};
use crate::error::Error;
use crate::kernel::backend::BaseImage;
use crate::kernel::file::files;
use crate::kernel::template::UNFINISHED;
use crate::observe;
use crate::plan::BaseImageId;

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

impl Images {
    fn template_dir(&self, name: &TemplateName) -> PathBuf {
        let all = self.pool.templates();
        let dir = all.join(name.as_str());
        if dir.exists() { dir } else { all.join(format!("{UNFINISHED}{name}")) }
    }

    pub(super) fn base_image_path(&self, id: &BaseImageId) -> PathBuf {
        self.template_dir(&id.template).join(observe::base_image_name(id.inodes_per_group))
    }

    pub(super) fn see_base_images(
        &self,
        template: &TemplateName,
    ) -> Result<BTreeMap<u64, BaseImage>, Error> {
        let files = files(&self.template_dir(template))?;
        let image = |(name, meta): (String, std::fs::Metadata)| {
            let seen = BaseImage {
                bytes: meta.len(),
                allocated: meta.blocks() * 512,
                made_unix: meta.mtime(),
            };
            Some((observe::parse_base_image_name(&name)?, seen))
        };
        Ok(files.into_iter().filter_map(image).collect())
    }

    pub(super) fn write_base_image(
        &self,
        id: &BaseImageId,
        bytes: u64,
        fill: &mut dyn FnMut(&Path) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let path = self.base_image_path(id);
        let new = path.with_extension("img.new");
        let what = || format!("make {}", new.display());
        discard(&new)?;
        let image = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&new)
            .attempt(what)?;
        image.set_len(bytes).attempt(what)?;
        ext4::make(&new, bytes, id.inodes_per_group)?;
        let filled = {
            let device = Attached(loopdev::attach(&image, false)?);
            fill(&loopdev::path(device.0))
        };
        if let Err(error) = filled {
            discard(&new)?;
            return Err(error);
        }
        // What is zero takes no room: an archive of nothing else must not fill a pool.
        Cmd::new(find("fallocate", "util-linux")?).arg("--dig-holes").arg(&new).run()?;
        Ok(publish(&new, &path)?)
    }

    /// Templates with base images that were not finished, by the names of their directories.
    pub(super) fn unfinished_base_images(&self) -> Result<BTreeSet<String>, Error> {
        let dir = self.pool.templates();
        let what = || format!("list {}", dir.display());
        let mut left = BTreeSet::new();
        for entry in std::fs::read_dir(&dir).attempt(what)? {
            let entry = entry.attempt(what)?;
            if files(&entry.path())?.into_keys().any(|name| is_unfinished(&name)) {
                left.extend(entry.file_name().into_string().ok());
            }
        }
        Ok(left)
    }

    /// Throws them away, with their devices.
    pub(super) fn drop_unfinished_base_images(&self, template: &str) -> Result<(), Error> {
        let dir = self.pool.templates().join(template);
        for name in files(&dir)?.into_keys().filter(|name| is_unfinished(name)) {
            discard(&dir.join(name))?;
        }
        Ok(())
    }
}

fn is_unfinished(name: &str) -> bool {
    name.ends_with(".new")
}
