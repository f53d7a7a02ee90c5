//! Templates from packages, with the daemon's capabilities only; needs a Debian mirror.

mod storage_support;

use std::time::{Duration, Instant};

use storage_support::{Storage, name, needs};
use ves_host::unpack::Init;
use ves_storage::host::Source;
use ves_storage::plan;
use ves_storage::template::{Build, BuildInit};

fn build(init: BuildInit, suite: &str) {
    if !needs() {
        return;
    }
    let storage = Storage::new();
    let build = Build::parse(suite.to_owned(), init, vec!["busybox".to_owned()]).expect("words");
    let told = std::sync::Mutex::new(0);
    let tell = |_| *told.lock().expect("no panic") += 1;
    let template =
        storage.service.make_template(&name("debian"), Source::Build(build), &tell).expect("built");
    assert!(*told.lock().expect("no panic") > 4, "progress is told");
    let want = if init == BuildInit::Systemd { Init::Systemd } else { Init::Sysvinit };
    assert_eq!(template.init, want);
    assert!(template.os.as_deref().is_some_and(|os| os.contains("Debian")), "{template:?}");
    let desired = plan::Desired { template: name("debian"), ..storage.desired(10 << 10) };
    let start = Instant::now();
    storage
        .service
        .ensure(&storage.fence(), &plan::Desired { bytes: 2 << 30, ..desired })
        .expect("made");
    assert!(start.elapsed() < Duration::from_secs(5), "creating is no copying");
    let root = storage.root();
    assert_eq!(std::fs::read(root.join("etc/machine-id")).expect("there"), b"");
    let init = std::fs::symlink_metadata(root.join("usr/sbin/init")).expect("there");
    assert!(init.is_symlink() == (want == Init::Systemd));
}

#[test]
#[ignore = "takes a minute and a Debian mirror; `cargo xtask up` does the same"]
fn systemd_is_built() {
    build(BuildInit::Systemd, "trixie");
}

#[test]
#[ignore = "takes a minute and a Debian mirror; `cargo xtask up` does the same"]
fn sysvinit_is_built() {
    build(BuildInit::Sysvinit, "trixie");
}
