//! A pool is made once, and never in the place of one that is gone.

use super::*;
use crate::config::PoolKind;
use ves_daemon::FenceStore;

fn layout(dir: &tempfile::TempDir) -> (Layout, PathBuf) {
    let layout = Layout::new(dir.path().join("run"), dir.path().join("state"));
    let base = layout.service_dir(crate::KIND);
    std::fs::create_dir_all(base.join("fence")).expect("made");
    (layout, base)
}

fn prepare(config: &Config, layout: &Layout) -> Result<Pool, Error> {
    let fences = FenceStore::open(layout.state_dir().join("fences")).expect("opened");
    super::prepare(&Shell::new(crate::KIND, fences, 1), config, layout)
}

#[test]
fn a_pool_on_a_disk_that_is_not_mounted_is_not_made_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let (layout, base) = layout(&dir);
    let image = base.join("pool.img");
    std::os::unix::fs::symlink(dir.path().join("disk/pool.img"), &image).expect("made");
    for pool in [PoolKind::Auto, PoolKind::ImageCopy] {
        let error = prepare(&Config { pool, ..Config::default() }, &layout).expect_err("gone");
        assert!(matches!(error, Error::PoolGone(_)), "{error} is another failure");
    }
    assert!(image.is_symlink());
}

#[test]
fn where_volumes_were_no_empty_pool_is_made() {
    let dir = tempfile::tempdir().expect("a directory");
    let (layout, base) = layout(&dir);
    let config = Config { pool: PoolKind::ImageCopy, ..Config::default() };
    let fence = base.join("fence/101");
    std::fs::write(&fence, b"{}").expect("written");
    let error = prepare(&config, &layout).expect_err("gone");
    assert!(error.to_string().contains("mount or restore it"), "{error}");
    let removed = br#"{"generation":1,"epoch":1,"removed":true}"#;
    std::fs::write(&fence, removed).expect("written");
    prepare(&config, &layout).expect("a first pool");
    std::fs::write(&fence, b"{}").expect("written");
    prepare(&config, &layout).expect("the same pool");
}
