//! `cargo xtask deb`: a Debian package for each daemon, for `virtctl`, and for what they share.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use crate::tool;

/// Packages of this workspace that become Debian packages, with cargo-deb's variants of each.
const PACKAGES: &[(&str, &[&str])] = &[
    ("ves-coordinatord", &["", "common"]),
    ("ves-lifecycled", &[""]),
    ("ves-networkd", &[""]),
    ("ves-resourced", &[""]),
    ("ves-storaged", &[""]),
    ("virtctl", &[""]),
];

/// The same package with a higher version, beside it as `*.deb.next`: what an upgrade is tried with.
///
/// # Errors
/// What dpkg-deb fails with.
pub(crate) fn next(package: &Path) -> anyhow::Result<PathBuf> {
    let next = package.with_extension("deb.next");
    let dir = package.with_extension("d");
    let script = "set -eu
rm -rf \"$2\"
dpkg-deb -R \"$1\" \"$2\"
sed -i 's/^Version: .*/&+next/' \"$2/DEBIAN/control\"
# The time is in the archive: without this each would be another.
SOURCE_DATE_EPOCH=0 dpkg-deb --root-owner-group -Zgzip -b \"$2\" \"$3\" >&2
rm -rf \"$2\"";
    let mut shell = Command::new("sh");
    shell.args(["-c", script, "sh"]).args([package, &dir, &next]);
    tool::quietly(shell)?;
    Ok(next)
}

/// Builds all packages and answers where they are.
///
/// # Errors
/// What cargo or cargo-deb fails with.
pub(crate) fn build(say: &dyn Fn(&str)) -> anyhow::Result<Vec<PathBuf>> {
    let out = tool::root().join("target/debian");
    fs::create_dir_all(&out).with_context(|| format!("make {}", out.display()))?;
    say("building packages");
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--release", "--quiet", "-p", "ves-init"]);
    for (package, _) in PACKAGES {
        cargo.args(["-p", package]);
    }
    ensure!(cargo.status().context("start cargo")?.success(), "the programs do not build");
    tool::cargo_tool("cargo-deb")?;
    documents(&out)?;
    let mut files = Vec::new();
    for (package, variants) in PACKAGES {
        for variant in *variants {
            let mut deb = tool::cargo(&["deb"]);
            // Nodes unpack gzip many times quicker than xz; cargo-deb itself packs it slowly.
            deb.args(["--no-build", "--no-strip", "-Z", "gz", "--compress-system", "-p", package])
                .arg("-o")
                .arg(&out);
            if !variant.is_empty() {
                deb.arg(format!("--variant={variant}"));
            }
            let built = deb.output().context("start cargo-deb")?;
            ensure!(
                built.status.success(),
                "cargo-deb of {package} {variant}:\n{}",
                String::from_utf8_lossy(&built.stderr)
            );
            let text = String::from_utf8_lossy(&built.stdout).into_owned();
            let path = text.lines().last().context("cargo-deb says where the package is")?;
            files.push(PathBuf::from(path.trim()));
        }
    }
    Ok(files)
}

/// Man pages and completions, as `virtctl` itself makes them.
fn documents(out: &Path) -> anyhow::Result<()> {
    let virtctl = tool::root().join("target/release/virtctl");
    let man = out.join("man");
    fs::create_dir_all(&man)?;
    let mut command = Command::new(&virtctl);
    tool::quietly({
        command.arg("man").arg(&man);
        command
    })?;
    for shell in ["bash", "zsh", "fish"] {
        let mut command = Command::new(&virtctl);
        command.args(["completion", shell]);
        fs::write(out.join(format!("completion.{shell}")), tool::quietly(command)?)?;
    }
    Ok(())
}
