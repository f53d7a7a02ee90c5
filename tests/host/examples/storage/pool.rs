//! The pool that is measured, and the service on it. Never here: what it is compared with.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use ves_archive::Owners;
use ves_daemon::{FenceStore, Shell};
use ves_host::mount::volumes::Volumes;
use ves_kit::{Rootfs, TestLayout};
use ves_storage::config::{Config, PoolKind};
use ves_storage::fake::blocking::Blocking;
use ves_storage::host::{Host as _, Source};
use ves_storage::kernel::KernelHost;
use ves_storage::kernel::image::pool::Place;
use ves_storage::node;
use ves_storage::plan::{DEFAULT_INODES_PER_GROUP, Desired, Step, snapshot};
use ves_storage::service::Service;
use ves_types::{CtId, Epoch, Fence, Generation, IdSlot, SnapshotId, TemplateName};

/// The pool's size. It holds what ten thousand small volumes have of their own.
const POOL: u64 = 16 << 30;
/// The size of each volume, which is the smallest a container may have on the template.
const VOLUME: u64 = 128 << 20;
/// The first container.
const FIRST: u32 = 1000;
/// The service on its pool.
pub(crate) struct Pool {
    service: Blocking,
    host: Arc<KernelHost>,
    template: TemplateName,
    /// The template's archive.
    pub(crate) archive: PathBuf,
    next: u32,
    // Dropped after what is done in `drop` below.
    layout: TestLayout,
}

impl Pool {
    pub(crate) fn new() -> Result<Self> {
        let layout = TestLayout::new();
        let (host, service) = open(&layout)?;
        let archive = Rootfs::busybox().tar(&layout.dir().join("busybox.tar.gz"));
        let template = "busybox".parse()?;
        let mut file = File::open(&archive)?;
        let source = Source::Archive { feed: &mut file, sha256: None, owners: Owners::default() };
        service.make_template(&template, source, &|_| ())?;
        Ok(Self { service, host, template, archive, next: FIRST, layout })
    }

    /// The directory around it.
    pub(crate) fn dir(&self) -> &Path {
        self.layout.dir()
    }

    /// The image volumes are made from.
    pub(crate) fn base_image(&self) -> Result<PathBuf> {
        let templates = self.layout.layout().state_dir().join("storage/pool/templates");
        let dir = templates.join(self.template.as_str());
        let image = dir.join(format!("golden-{DEFAULT_INODES_PER_GROUP}.img"));
        image.exists().then_some(image).context("the template has no base image")
    }

    /// Lets there be so many volumes more: as the service makes them, but that all are synced at once, and
    /// the service finds them when it is opened anew.
    pub(crate) fn fill(&mut self, more: u32) -> Result<()> {
        let first = self.create()?;
        let record = self.service.get(first)?.record;
        let fences = FenceStore::open(self.layout.dir().join("fence"))?;
        let volumes = self.layout.layout().state_dir().join("storage/pool/volumes");
        for _ in 1..more {
            let ct = self.another()?;
            fences.accept(&fence(ct, 1), false)?;
            self.host.apply(ct, &Step::Create { record: record.clone(), bytes: VOLUME })?;
            let image = volumes.join(format!("{ct}.img"));
            std::fs::rename(volumes.join(format!("{ct}.img.new")), image)?;
        }
        rustix::fs::syncfs(File::open(&volumes)?)?;
        (self.host, self.service) = open(&self.layout)?;
        Ok(())
    }

    fn another(&mut self) -> Result<CtId> {
        self.next += 1;
        Ok(CtId::try_from(self.next)?)
    }

    /// Makes one more volume.
    pub(crate) fn create(&mut self) -> Result<CtId> {
        let ct = self.another()?;
        let desired = Desired {
            template: self.template.clone(),
            bytes: VOLUME,
            inodes: None,
            slot: IdSlot::try_from(20)?,
            mounted: false,
        };
        self.service.ensure(&fence(ct, 1), &desired)?;
        Ok(ct)
    }

    /// Takes a snapshot of it.
    pub(crate) fn snapshot(&self, ct: CtId) -> Result<()> {
        let desired = snapshot::Desired {
            id: SnapshotId::from(1),
            name: None,
            created_unix_ms: 1,
            generation: Generation(2),
        };
        self.service.ensure_snapshot(&fence(ct, 2), &desired)?;
        Ok(())
    }

    /// Removes it again.
    pub(crate) fn delete_snapshot(&self, ct: CtId) -> Result<()> {
        Ok(self.service.remove_snapshot(&fence(ct, 3), SnapshotId::from(1))?)
    }

    /// Removes a volume.
    pub(crate) fn delete(&self, ct: CtId) -> Result<()> {
        Ok(self.service.remove(&fence(ct, 4))?)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // Where this fails the end of the mount namespace does it.
        Volumes::new(self.layout.layout().volumes_dir()).end().ok();
        Place::new(self.layout.layout()).detach().ok();
    }
}

fn fence(ct: CtId, generation: u64) -> Fence {
    Fence { ct, generation: Generation(generation), epoch: Epoch(1) }
}

fn open(layout: &TestLayout) -> Result<(Arc<KernelHost>, Blocking)> {
    let config = Config {
        pool: PoolKind::ImageReflink,
        pool_bytes: Some(POOL),
        // So much more is promised than the volumes take, which is what they have of their own.
        overcommit_percent: 40_000,
        ..Config::default()
    };
    let fences = FenceStore::open_synced(layout.dir().join("fence"))?;
    let shell = Shell::new(ves_storage::KIND, fences, config.max_changes);
    let unpacker = std::env::current_exe()?;
    let host = Arc::new(node::open(&shell, &config, layout.layout().clone(), unpacker)?);
    let service = Blocking(Service::new(host.clone(), shell));
    // It counts what there is when it is first asked.
    service.pool()?;
    Ok((host, service))
}
