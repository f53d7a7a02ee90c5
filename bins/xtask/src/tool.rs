//! Programs that xtask runs: finding them, installing what is missing, running them in the
//! repository's root.
//!
//! What is installed beyond Debian's packages goes to `target/tools` and nowhere else.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// The repository's root.
pub(crate) fn root() -> PathBuf {
    // Cargo sets it at run time too; the value of build time serves a program that was moved not.
    let here = std::env::var_os("CARGO_MANIFEST_DIR")
        .unwrap_or_else(|| OsString::from(env!("CARGO_MANIFEST_DIR")));
    Path::new(&here).ancestors().nth(2).unwrap_or_else(|| Path::new(".")).to_owned()
}

/// Whether this is a CI machine, where nothing may be skipped that could be had.
pub(crate) fn ci() -> bool {
    std::env::var_os("CI").is_some_and(|v| v == "true")
}

fn tools() -> PathBuf {
    root().join("target/tools")
}

/// Where programs are that came prebuilt.
fn prebuilt_tools() -> PathBuf {
    tools().join("python")
}

/// Where a program is that was built from source, each version by itself.
fn built_tool(name: &str, version: &str) -> PathBuf {
    tools().join(format!("{name}-{version}"))
}

/// Where programs are looked for: what was installed for this repository first.
fn search_path() -> OsString {
    let mut dirs = vec![prebuilt_tools().join("bin")];
    dirs.extend(CARGO_TOOLS.map(|(name, version)| built_tool(name, version).join("bin")));
    dirs.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    // Root's programs are not in everybody's path.
    dirs.extend(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from));
    std::env::join_paths(dirs).unwrap_or_default()
}

/// Where a program is, if anywhere.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&search_path()).map(|dir| dir.join(program)).find(|p| p.is_file())
}

/// A command in the repository's root, with the tools in its path.
pub(crate) fn command(program: &str, args: &[&str]) -> Command {
    let program = find(program).map_or_else(|| program.into(), PathBuf::into_os_string);
    let mut command = Command::new(program);
    command.args(args).current_dir(root()).env("PATH", search_path()).stdin(Stdio::null());
    command
}

/// Cargo as it was called, with its progress left to the terminal.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let mut command = command(&cargo, args);
    // The package that is being run is no business of the ones that are built.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CARGO_PKG_") || name == "CARGO_MANIFEST_DIR" {
            command.env_remove(name);
        }
    }
    command
}

fn line_of(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let mut words: Vec<_> = words.map(|w| w.to_string_lossy().into_owned()).collect();
    if let Some(name) = words.first_mut()
        && let Some((_, last)) = name.rsplit_once('/')
    {
        *name = last.to_owned();
    }
    words.join(" ")
}

/// Runs it with its output on ours.
pub(crate) fn run(mut command: Command) -> Result<()> {
    let line = line_of(&command);
    println!("$ {line}");
    let status = command.status().with_context(|| format!("cannot start `{line}`"))?;
    ensure!(status.success(), "`{line}` failed ({status})");
    Ok(())
}

/// Runs it without showing its output, which is in the error where it fails.
pub(crate) fn quietly(mut command: Command) -> Result<String> {
    let line = line_of(&command);
    let out = command.output().with_context(|| format!("cannot start `{line}`"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    ensure!(out.status.success(), "`{line}` failed ({}): {}", out.status, text(&out.stderr));
    Ok(text(&out.stdout))
}

/// Runs it, showing its output as it comes, and answers whether it succeeded and all its lines.
pub(crate) fn tee(command: Command) -> Result<(bool, Vec<String>)> {
    tee_watching(command, |_| ())
}

/// The same with something done after each line.
pub(crate) fn tee_watching(
    mut command: Command,
    after: impl Fn(&str),
) -> Result<(bool, Vec<String>)> {
    let line = line_of(&command);
    println!("$ {line}");
    let (reader, writer) = std::io::pipe().context("cannot make a pipe")?;
    command.stdout(writer.try_clone().context("cannot share a pipe")?).stderr(writer);
    let mut child = command.spawn().with_context(|| format!("cannot start `{line}`"))?;
    // It holds the writing ends; the pipe ends when the child and its children do.
    drop(command);
    let mut lines = Vec::new();
    for bytes in BufReader::new(reader).split(b'\n') {
        let bytes = bytes.with_context(|| format!("cannot read what `{line}` prints"))?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        // Line by line, as what is done meanwhile has something to say too.
        writeln!(std::io::stdout(), "{text}").context("cannot print")?;
        after(&text);
        lines.push(text);
    }
    let status = child.wait().with_context(|| format!("cannot wait for `{line}`"))?;
    Ok((status.success(), lines))
}

/// What the machine's processes do, for people who ask why something does not end.
pub(crate) fn processes() -> String {
    // All but the kernel's own threads, each below the one that started it, with where it waits.
    let words = ["--ppid", "2", "-p", "2", "--deselect", "--forest", "-ww", "-o"];
    let mut ps = command("ps", &words);
    ps.arg("pid,ppid,stat,wchan:24,etimes,args");
    let all = quietly(ps).unwrap_or_else(|error| format!("{error:#}"));
    let short = |line: &str| line.chars().take(200).collect::<String>();
    all.lines().map(short).collect::<Vec<_>>().join("\n")
}

/// Makes Debian packages be there. Of those that are, it does nothing; asking costs a tenth of a
/// second.
///
/// # Errors
/// Without root, or when `apt-get` fails.
pub(crate) fn apt(packages: &[&str]) -> Result<()> {
    let missing = || packages.iter().copied().filter(|p| !is_installed(p)).collect::<Vec<_>>();
    // For one package apt may take another away, such as QEMU's tools of a newer release that do not
    // go with the release's QEMU: then that one is asked for too.
    for _ in 0..2 {
        match missing().as_slice() {
            [] => return Ok(()),
            missing => install(missing)?,
        }
    }
    let lost = missing();
    ensure!(lost.is_empty(), "apt takes away again what it has installed: {}", lost.join(" "));
    Ok(())
}

fn is_installed(package: &str) -> bool {
    let query = command("dpkg-query", &["-W", "-f", "${db:Status-Status}", package]);
    quietly(query).is_ok_and(|status| status == "installed")
}

fn install(packages: &[&str]) -> Result<()> {
    let list = packages.join(" ");
    ensure!(is_root(), "missing Debian packages: run `apt-get install {list}` as root");
    println!("installing Debian packages: {list}");
    let lists = Path::new("/var/lib/apt/lists");
    let fresh = std::fs::read_dir(lists).is_ok_and(|dir| dir.count() > 3);
    let mut tries = vec![!fresh];
    if fresh {
        // The lists may be old; then they are fetched and it is tried once more.
        tries.push(true);
    }
    let mut failure = None;
    for update in tries {
        let attempt = || -> Result<()> {
            if update {
                apt_update(|apt| quietly(apt).map(drop))?;
            }
            let words = [&["install", "--no-install-recommends"], packages].concat();
            quietly(apt_get(&words)).map(drop)
        };
        match attempt() {
            Ok(()) => return Ok(()),
            Err(e) => failure = Some(e),
        }
    }
    match failure {
        Some(e) => Err(e.context(format!("cannot install {list}"))),
        None => bail!("cannot install {list}"),
    }
}

/// `apt-get` that asks nothing, waits for whoever else installs something, and asks a mirror again.
pub(crate) fn apt_get(args: &[&str]) -> Command {
    let mut apt = command("apt-get", &["-q", "-y", "-o", "DPkg::Lock::Timeout=300"]);
    apt.args(["-o", "Acquire::Retries=5"]).args(args).env("DEBIAN_FRONTEND", "noninteractive");
    apt
}

/// Fetches the lists of packages by `run`. The lock of the lists is not waited for by `apt-get`, and a
/// mirror may be away for a moment, so it is tried a few times.
pub(crate) fn apt_update(run: impl Fn(Command) -> Result<()>) -> Result<()> {
    const TRIES: usize = 5;
    const PAUSE: Duration = Duration::from_secs(10);
    for _ in 1..TRIES {
        match run(apt_get(&["update"])) {
            Ok(()) => return Ok(()),
            Err(e) => println!("it is tried again in {} s: {e:#}", PAUSE.as_secs()),
        }
        std::thread::sleep(PAUSE);
    }
    run(apt_get(&["update"]))
}

/// Whether this process is root.
pub(crate) fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|m| m.uid() == 0)
}

/// Programs that come prebuilt, as pip reads it.
const PREBUILT: &str = "bins/xtask/tools.txt";

/// What clients of ours in Python need, as pip reads it.
const CLIENTS: &str = "tests/host/python/requirements.txt";

/// The versions of cargo subcommands that are built where they can be had in no other way.
const CARGO_TOOLS: [(&str, &str); 3] =
    [("cargo-deb", "3.8.0"), ("cargo-deny", "0.20.2"), ("cargo-nextest", "0.9.148")];

/// Makes a program be there: the machine's own, or the one that comes prebuilt, or a cargo subcommand
/// built from crates.io into `target/tools`.
pub(crate) fn tool(name: &str) -> Result<()> {
    // One that came prebuilt is of the version that the list names, which may be a newer one by now.
    if find(name).is_some_and(|program| !program.starts_with(prebuilt_tools())) {
        return Ok(());
    }
    let listed =
        std::fs::read_to_string(root().join(PREBUILT)).context("read the list of tools")?;
    let came = if listed.contains(name) { prebuilt(&listed) } else { Ok(()) };
    if find(name).is_some() {
        return Ok(());
    }
    let Some((_, version)) = CARGO_TOOLS.iter().find(|(n, _)| *n == name) else {
        return came.with_context(|| format!("{name} cannot be had"));
    };
    if let Err(why) = came {
        println!("{name} does not come prebuilt: {why:#}");
    }
    println!("building {name} into target/tools, once");
    build(name, version)
}

/// Makes the programs of the list be there, of the versions it names.
fn prebuilt(listed: &str) -> Result<()> {
    venv(&prebuilt_tools(), PREBUILT, listed)
}

/// Makes the Python be there with which tests run clients of ours.
pub(crate) fn python_of_tests() -> Result<()> {
    let listed = std::fs::read_to_string(root().join(CLIENTS)).context("read what clients need")?;
    venv(&ves_kit::python::dir(), CLIENTS, &listed)
}

/// Makes a virtual environment of Python with what the file `list` names, which is this.
fn venv(dir: &Path, list: &str, listed: &str) -> Result<()> {
    let stamp = dir.join("made-of.txt");
    if std::fs::read_to_string(&stamp).is_ok_and(|made_of| made_of == listed) {
        return Ok(());
    }
    if find("python3").is_none()
        || quietly(command("python3", &["-m", "ensurepip", "--version"])).is_err()
    {
        apt(&["python3-venv"])?;
    }
    let mut venv = command("python3", &["-m", "venv", "--clear"]);
    venv.arg(dir);
    quietly(venv)?;
    let mut pip = command(&dir.join("bin/pip").to_string_lossy(), &["install", "--quiet"]);
    pip.args(["--disable-pip-version-check", "--no-deps", "--only-binary=:all:"]);
    pip.args(["--retries", "2", "--timeout", "10"]);
    pip.args(["--require-hashes", "-r", list]);
    quietly(pip)?;
    std::fs::write(&stamp, listed).with_context(|| format!("write {}", stamp.display()))
}

fn build(name: &str, version: &str) -> Result<()> {
    let dir = built_tool(name, version);
    let build = dir.join("build");
    let mut install = cargo(&["install", "--locked", name, "--version", version, "--root"]);
    install.arg(&dir).arg("--target-dir").arg(&build);
    if name == "cargo-deb" {
        // It then compresses with the xz program, which every Debian has.
        install.arg("--no-default-features");
    }
    // A tool that runs for seconds is not worth minutes of optimisation.
    for (key, value) in [
        ("OPT_LEVEL", "0"),
        ("CODEGEN_UNITS", "16"),
        ("DEBUG", "0"),
        ("LTO", "off"),
        ("STRIP", "true"),
    ] {
        install.env(format!("CARGO_PROFILE_RELEASE_{key}"), value);
    }
    run(install)?;
    std::fs::remove_dir_all(&build).with_context(|| format!("cannot remove {}", build.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_the_workspace() {
        assert!(root().join("Cargo.lock").is_file());
    }

    #[test]
    fn what_comes_prebuilt_is_what_would_be_built() {
        let listed = std::fs::read_to_string(root().join(PREBUILT)).expect("the list");
        for (name, version) in CARGO_TOOLS.iter().filter(|(name, _)| listed.contains(name)) {
            assert!(listed.contains(&format!("{name}=={version} ")), "{name} {version}");
        }
    }

    #[test]
    fn all_lines_of_both_outputs_are_seen() {
        let script = "echo one; echo two >&2; printf three; exit 3";
        let (good, lines) = tee(command("sh", &["-c", script])).expect("it starts");
        assert!(!good);
        assert_eq!(lines, ["one", "two", "three"]);
    }

    #[test]
    fn a_failure_carries_the_error_output() {
        let error = quietly(command("sh", &["-c", "echo no room >&2; exit 1"])).expect_err("fails");
        assert!(error.to_string().contains("no room"), "{error}");
    }
}
