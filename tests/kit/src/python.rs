//! Python with gRPC's C core, which most languages' clients build on, to run clients as others write them.
//!
//! `cargo xtask test` makes it, of what `tests/host/python/requirements.txt` names. Never here: what a client
//! does.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::need::{self, Lack};

/// Where it is.
pub fn dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools/clients")
}

/// That it is there; for [`need!`](crate::need!).
pub fn python() -> Result<(), Lack> {
    let there = dir().join("made-of.txt").is_file();
    need::setup("Python with grpcio", there, "`cargo xtask test` as root makes it")
}

/// One of `tests/host/python`, to be run.
pub fn client(name: &str) -> Command {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../host/python").join(name);
    let mut command = Command::new(dir().join("bin/python"));
    // What it compiles would be left beside it.
    command.arg("-B").arg(script);
    command
}
