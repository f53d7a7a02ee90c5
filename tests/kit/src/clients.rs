//! Where the clients in other languages are, and what `cargo xtask clients` builds of them. Never here: how they are
//! built, or what they do.

use std::path::{Path, PathBuf};

use crate::need::{self, Lack};
use crate::python;

fn at(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// The one in Python; it is installed where [`python::dir`] is.
pub fn python() -> PathBuf {
    at("clients/python")
}

/// The one in TypeScript, which is built in its own directory.
pub fn node() -> PathBuf {
    at("clients/node")
}

/// The one in Go.
pub fn go() -> PathBuf {
    at("clients/go")
}

/// Where the others are built.
pub fn built() -> PathBuf {
    at("target/clients")
}

/// The test program of the one in Go.
pub fn go_test() -> PathBuf {
    built().join("life-in-go")
}

/// The test of the one in TypeScript.
pub fn node_test() -> PathBuf {
    node().join("dist/test/life.test.js")
}

/// A program that uses the one in Python.
pub fn panel() -> PathBuf {
    at("examples/panel.py")
}

/// That all are built; for [`need!`](crate::need!).
pub fn all() -> Result<(), Lack> {
    python::python()?;
    let there = go_test().is_file() && node_test().is_file();
    need::setup("the clients", there, "`cargo xtask clients` builds them")
}
