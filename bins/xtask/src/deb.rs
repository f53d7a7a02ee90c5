//! `cargo xtask deb`: a Debian package for each daemon, for `virtctl`, and for what they share.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use ves_kit::stack;
use ves_types::layout::{Daemon, Layout};

use crate::{tool, up};

/// Packages of this workspace that become Debian packages, with cargo-deb's variants of each.
const PACKAGES: &[(&str, &[&str])] = &[
    ("ves-coordinatord", &["", "common"]),
    ("ves-lifecycled", &[""]),
    ("ves-networkd", &[""]),
    ("ves-resourced", &[""]),
    ("ves-storaged", &[""]),
    ("virtctl", &[""]),
];

/// What a package is in a line, where cargo-deb would take that of the package it is a variant of.
const SYNOPSES: &[(&str, &str)] =
    &[("common", "Account, directories and names of Ves system containers")];

/// The same package with a higher version, beside it as `*.deb.next`: what an upgrade is tried with.
pub(crate) fn next(package: &Path) -> anyhow::Result<PathBuf> {
    let next = package.with_extension("deb.next");
    let made = |path: &Path| fs::metadata(path).and_then(|about| about.modified());
    if made(&next).is_ok_and(|next| made(package).is_ok_and(|package| package < next)) {
        return Ok(next);
    }
    repack(package, &next, "s/^Version: .*/&+next/")?;
    Ok(next)
}

/// Packs a package anew, with its control file changed by a script of sed.
fn repack(package: &Path, to: &Path, change: &str) -> anyhow::Result<()> {
    let dir = package.with_extension("d");
    let script = "set -eu
rm -rf \"$2\"
dpkg-deb -R \"$1\" \"$2\"
sed -i \"$4\" \"$2/DEBIAN/control\"
# The time is in the archive: without this each would be another.
SOURCE_DATE_EPOCH=0 dpkg-deb --root-owner-group -Zgzip -z1 -b \"$2\" \"$3\" >&2
rm -rf \"$2\"";
    let mut shell = Command::new("sh");
    shell.args(["-c", script, "sh"]).args([package, &dir, to]).arg(change);
    tool::quietly(shell).map(drop)
}

/// Builds all packages and answers where they are: of release programs, unless `VES_BIN_DIR` says where
/// others are, which are then stripped.
pub(crate) fn build(say: &dyn Fn(&str)) -> anyhow::Result<Vec<PathBuf>> {
    let out = tool::root().join("target/debian");
    fs::create_dir_all(&out).with_context(|| format!("make {}", out.display()))?;
    say("building packages");
    let programs = match std::env::var_os("VES_BIN_DIR") {
        Some(dir) => stripped(Path::new(&dir), &out.join("programs"))?,
        None => release()?,
    };
    let stamp = out.join("made-of");
    let made_of = inputs(&programs)?;
    if let Ok(text) = fs::read_to_string(&stamp)
        && let Some((of, files)) = text.split_once("\n\n")
        && of == made_of
    {
        let files: Vec<_> = files.lines().map(PathBuf::from).collect();
        if files.iter().all(|file| file.is_file()) {
            return Ok(files);
        }
    }
    tool::tool("cargo-deb")?;
    documents(&programs, &out)?;
    let mut files = Vec::new();
    for (package, variants) in PACKAGES {
        for variant in *variants {
            let mut deb = tool::cargo(&["deb"]);
            // Where cargo-deb looks for `release/` and what is in it.
            deb.env("CARGO_TARGET_DIR", programs.parent().context("programs are in a directory")?);
            // Nodes unpack gzip many times quicker than xz; cargo-deb itself packs it slowly.
            deb.args([
                "--no-build",
                "--no-strip",
                "-Z",
                "gz",
                "--compress-system",
                "--fast",
                "-p",
                package,
            ])
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
            let file = PathBuf::from(path.trim());
            if let Some((_, synopsis)) = SYNOPSES.iter().find(|(of, _)| of == variant) {
                repack(&file, &file, &format!("s/^Description: .*/Description: {synopsis}/"))?;
            }
            files.push(file);
        }
    }
    let lines: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
    fs::write(&stamp, format!("{made_of}\n\n{}", lines.join("\n")))
        .context("write down what the packages were made of")?;
    Ok(files)
}

/// What packages are made of, as it is now: each file with its size and time, for to read them takes as
/// long as to pack them.
fn inputs(programs: &Path) -> anyhow::Result<String> {
    let mut files = ["bins/xtask/src/deb.rs", "proto/released.binpb"]
        .map(|file| tool::root().join(file))
        .to_vec();
    files.extend(stack::programs().map(|program| programs.join(program)));
    let mut dirs = vec![tool::root().join("deploy")];
    for (package, _) in PACKAGES {
        files.push(tool::root().join("bins").join(package).join("Cargo.toml"));
    }
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).with_context(|| format!("read {}", dir.display()))? {
            let path = entry?.path();
            if path.is_dir() { dirs.push(path) } else { files.push(path) }
        }
    }
    files.sort_unstable();
    let mut text = Vec::new();
    for file in files {
        let about = fs::metadata(&file).with_context(|| format!("look at {}", file.display()))?;
        text.push(format!("{} {} {:?}", file.display(), about.len(), about.modified()?));
    }
    Ok(text.join("\n"))
}

/// Builds the programs as they are to be installed, and answers where they are.
fn release() -> anyhow::Result<PathBuf> {
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--release", "--quiet"]);
    for program in stack::programs() {
        cargo.args(["-p", program]);
    }
    ensure!(cargo.status().context("start cargo")?.success(), "the programs do not build");
    Ok(up::target_dir().join("release"))
}

/// Programs without what only a debugger reads, as `release/` in a directory.
fn stripped(programs: &Path, dir: &Path) -> anyhow::Result<PathBuf> {
    let to = dir.join("release");
    fs::create_dir_all(&to).with_context(|| format!("make {}", to.display()))?;
    for program in stack::programs() {
        let mut strip = Command::new("strip");
        // Their times too, by which it is known whether packages are of these.
        strip.args(["--preserve-dates", "-o"]).args([to.join(program), programs.join(program)]);
        tool::quietly(strip)?;
    }
    Ok(to)
}

/// Man pages and completions: `virtctl` makes its own, daemons' are written and tell their options.
fn documents(programs: &Path, out: &Path) -> anyhow::Result<()> {
    let virtctl = programs.join("virtctl");
    let man = out.join("man");
    fs::create_dir_all(&man)?;
    let mut command = Command::new(&virtctl);
    tool::quietly({
        command.arg("man").arg(&man);
        command
    })?;
    let sources = tool::root().join("deploy/man");
    let read = |name: &str| {
        let path = sources.join(name);
        fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    };
    fs::write(man.join("ves.7"), read("ves.7")?)?;
    let shared = read("daemon.roff")?;
    for service in Daemon::ALL {
        let program = service.program();
        let mut command = Command::new(programs.join(program));
        command.arg("--help");
        let name = format!("{program}.8");
        let written = read(&name)?;
        let page = page(service, &written, &tool::quietly(command)?, &shared)
            .with_context(|| format!("`{program} --help` reads otherwise than expected"))?;
        fs::write(man.join(name), page)?;
    }
    for shell in ["bash", "zsh", "fish"] {
        let mut command = Command::new(&virtctl);
        command.args(["completion", shell]);
        fs::write(out.join(format!("completion.{shell}")), tool::quietly(command)?)?;
    }
    Ok(())
}

/// The man page of a daemon: what is written of it, with the command line that its `--help` tells,
/// and what holds of all daemons. `None` where the help has no options.
fn page(service: Daemon, written: &str, help: &str, shared: &str) -> Option<String> {
    let program = service.program();
    let (before, description) = written.split_once(".SH DESCRIPTION\n")?;
    let mut options = String::new();
    let help = help.replace("SERVICE", service.name());
    for line in help.split_once("\nOptions:\n")?.1.lines().map(str::trim) {
        let (option, text) = match line.split_once("  ") {
            Some((option, text)) if option.starts_with('-') => (option, text.trim()),
            _ => ("", line),
        };
        if !option.is_empty() {
            options += &format!(".TP\n.B {}\n", roff(option));
        }
        options += &format!("{}\n", roff(text));
    }
    let synopsis =
        format!(".SH SYNOPSIS\n.B {}\n.RI [ OPTIONS ]\n.SH DESCRIPTION\n", roff(program));
    let callers = match service {
        Daemon::Coordinator => "Root and the accounts the settings name may call all it offers.",
        _ => "The coordinator has it change things; root may read.",
    };
    let socket = Layout::default().socket(service);
    let shared = shared
        .replace("@service@", service.name())
        .replace("@socket@", &roff(&socket.display().to_string()))
        .replace("@callers@", callers);
    (!options.is_empty())
        .then(|| format!("{before}{synopsis}{description}.SH OPTIONS\n{options}{shared}"))
}

/// Words for roff: without this, `-` is a hyphen there and no minus.
fn roff(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_tell_what_help_does() {
        let help = "A daemon of Ves\n\nUsage: ves-networkd [OPTIONS]\n\nOptions:\n      \
                    --run-dir <DIR>  Where volatile things live, if\n                       \
                    SERVICE has any\n  -h, --help           Print help\n";
        let written = ".SH NAME\nit\n.SH DESCRIPTION\nDoes.\n";
        let told = page(Daemon::Network, written, help, "@service@ @socket@\n");
        let page = ".SH NAME\nit\n.SH SYNOPSIS\n.B ves\\-networkd\n.RI [ OPTIONS ]\n.SH DESCRIPTION\n\
                    Does.\n.SH OPTIONS\n.TP\n.B \\-\\-run\\-dir <DIR>\nWhere volatile things live, if\n\
                    network has any\n.TP\n.B \\-h, \\-\\-help\nPrint help\nnetwork /run/ves/network/network.sock\n";
        assert_eq!(told.as_deref(), Some(page));
        assert_eq!(super::page(Daemon::Network, written, "it is gone", ""), None);
    }
}
