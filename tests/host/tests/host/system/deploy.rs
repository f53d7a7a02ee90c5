//! The configuration samples say what the daemons understand, each of them and all of it.

use std::path::{Path, PathBuf};
use std::process::Command;

use ves_kit::{need, node};
use ves_types::layout::Daemon;

fn sample(service: Daemon) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/etc");
    root.join(service.name()).with_extension("toml")
}

#[track_caller]
fn check(service: Daemon, config: &Path) -> Result<(), String> {
    let mut daemon = Command::new(node::bin_dir().join(service.program()));
    let out = daemon.arg("--check-config").arg("--config").arg(config).output().expect("starts");
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    if out.status.success() { Ok(()) } else { Err(said) }
}

#[test]
fn daemons_read_their_samples() {
    need!(node::node());
    let dir = tempfile::tempdir().expect("a directory");
    for service in Daemon::ALL {
        let sample = sample(service);
        assert_eq!(check(service, &sample), Ok(()), "{}", sample.display());

        let text = std::fs::read_to_string(&sample).expect("readable");
        let all = |line: &str| match line.strip_prefix('#') {
            Some(setting) if !setting.starts_with(' ') => format!("{setting}\n"),
            _ => format!("{line}\n"),
        };
        let whole = dir.path().join(service.name()).with_extension("toml");
        std::fs::write(&whole, text.lines().map(all).collect::<String>()).expect("written");
        assert_eq!(check(service, &whole), Ok(()), "{} with all set", sample.display());

        std::fs::write(&whole, format!("{text}\nno_such_key = 1\n")).expect("written");
        assert!(check(service, &whole).is_err(), "{} with an unknown key", sample.display());
    }
}
