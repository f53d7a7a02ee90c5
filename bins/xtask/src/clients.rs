//! `cargo xtask clients`: builds the clients in Python, TypeScript and Go, with their tests, as somebody
//! who uses them does. `tests/host` lets them live a container's life on a real node.
//!
//! What they need comes from Debian, PyPI and npm, of the versions that their lists name; Go's packages come from
//! Debian alone. Never here: what a client does.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use ves_kit::clients;

use crate::tool;

/// Go, its generators, and the sources of gRPC for it.
const GO: &[&str] = &[
    "golang-github-golang-protobuf-1-5-dev",
    "golang-go",
    "golang-google-genproto-dev",
    "golang-google-grpc-dev",
    "golang-google-protobuf-dev",
    "protoc-gen-go",
    "protoc-gen-go-grpc",
];

/// Where Debian's packages have sources of Go.
const GO_SOURCES: &str = "/usr/share/gocode";

/// The name that the client in Go is imported by.
const GO_NAME: &str = "ves.example/client";

/// Builds all of them.
pub(crate) fn build() -> Result<()> {
    // It makes what the other two are generated of.
    tool::tool("buf")?;
    tool::python_of_tests()?;
    if tool::find("npm").is_none() {
        tool::apt(&["nodejs", "npm"])?;
    }
    tool::apt(GO)?;
    // They wait for the network and for one core in turn.
    std::thread::scope(|scope| {
        let [node, go] = [node, go].map(|build| scope.spawn(build));
        let python = python();
        let join = |built: std::thread::ScopedJoinHandle<'_, Result<()>>| {
            built.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        // All are waited for, whichever fails.
        let (node, go) = (join(node), join(go));
        python.context("build the client in Python")?;
        node.context("build the one in TypeScript")?;
        go.context("build the one in Go")
    })
}

/// A command in a client's directory.
fn within(dir: &Path, program: &str, args: &[&str]) -> Command {
    let mut command = tool::command(program, args);
    command.current_dir(dir);
    command
}

fn python() -> Result<()> {
    let pip = ves_kit::python::dir().join("bin/pip");
    let mut pip = tool::command(&pip.to_string_lossy(), &["install", "--quiet", "--no-deps"]);
    // What it is built with is there already, of versions that are known.
    pip.args(["--disable-pip-version-check", "--no-build-isolation", "--force-reinstall"]);
    pip.arg(clients::python());
    tool::quietly(pip).map(drop)
}

fn node() -> Result<()> {
    let dir = clients::node();
    let lock = std::fs::read_to_string(dir.join("package-lock.json")).context("read the lock")?;
    let stamp = dir.join("node_modules/made-of.json");
    if !std::fs::read_to_string(&stamp).is_ok_and(|made_of| made_of == lock) {
        let quiet = ["--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error"];
        tool::quietly(within(&dir, "npm", &[&["ci"], &quiet[..]].concat()))?;
        std::fs::write(&stamp, lock).with_context(|| format!("write {}", stamp.display()))?;
    }
    tool::quietly(within(&dir, "npm", &["run", "--silent", "build"])).map(drop)
}

/// Where the client in Go is built: Debian's sources are for a `GOPATH`, in which each package lies below its name.
fn go() -> Result<()> {
    let path = clients::built().join("go");
    let to = path.join("src").join(GO_NAME);
    std::fs::create_dir_all(&to).with_context(|| format!("make {}", to.display()))?;
    let from = clients::go();
    for file in sources(&from)? {
        let name = file.file_name().unwrap_or_default();
        std::fs::copy(&file, to.join(name)).with_context(|| format!("copy {}", file.display()))?;
    }
    let mut generate = within(&from, "buf", &["generate", "--output"]);
    generate.arg(&to);
    tool::quietly(generate)?;
    let go = |args: &[&str]| {
        let mut go = within(&to, "go", args);
        go.env("GO111MODULE", "off").env("GOFLAGS", "").env("GOCACHE", path.join("cache"));
        go.env("GOPATH", format!("{}:{GO_SOURCES}", path.display())).env("CGO_ENABLED", "0");
        go
    };
    let mut test = go(&["test", "-c", "-o"]);
    test.arg(clients::go_test()).arg(".");
    tool::quietly(test)?;
    tool::quietly(go(&["vet", "."])).map(drop)
}

/// The files of a client in Go.
fn sources(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))?;
    let files = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    Ok(files.into_iter().filter(|file| file.extension().is_some_and(|e| e == "go")).collect())
}
