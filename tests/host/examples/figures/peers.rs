//! What Ves is compared with: the bare kernel, crun, runc, cp, tar, a bare unix socket.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::{Value, json};

/// A directory that goes with all that is in it.
#[derive(Debug)]
pub(crate) struct Work {
    dir: tempfile::TempDir,
}

impl Work {
    /// A new one beside the pool, so that all write to the same disk.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("ves-bench-").tempdir_in("/var/lib")?;
        Ok(Self { dir })
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Where the template's files are once they are unpacked.
    pub(crate) fn rootfs(&self) -> PathBuf {
        self.dir().join("rootfs")
    }

    pub(crate) fn unpack(&self, archive: &Path) -> anyhow::Result<PathBuf> {
        extract(archive, &self.rootfs())?;
        Ok(self.rootfs())
    }

    pub(crate) fn unpack_timed(&self, archive: &Path) -> anyhow::Result<Duration> {
        let dir = self.dir().join("again");
        let begun = Instant::now();
        extract(archive, &dir)?;
        let took = begun.elapsed();
        std::fs::remove_dir_all(&dir)?;
        Ok(took)
    }

    /// An ext4 image of the template's files, as a golden image would be.
    pub(crate) fn image(&self) -> anyhow::Result<PathBuf> {
        let image = self.dir().join("golden.img");
        let rootfs = self.rootfs();
        let mut mke2fs = Command::new("mke2fs");
        mke2fs.args(["-q", "-F", "-t", "ext4", "-d"]).arg(rootfs).arg(&image).arg("2g");
        run(&mut mke2fs)?;
        Ok(image)
    }

    pub(crate) fn copy(&self, image: &Path) -> anyhow::Result<Duration> {
        let copy = self.dir().join("copy.img");
        let begun = Instant::now();
        run(Command::new("cp").args(["--sparse=always", "--reflink=auto"]).arg(image).arg(&copy))?;
        let took = begun.elapsed();
        std::fs::remove_file(&copy)?;
        Ok(took)
    }

    /// How much is in a directory, for people.
    pub(crate) fn size(&self, dir: &Path) -> anyhow::Result<String> {
        let out = Command::new("du").args(["-s", "--block-size=M"]).arg(dir).output()?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        Ok(text.split_whitespace().next().unwrap_or("?").replace('M', " MiB"))
    }
}

fn extract(archive: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    run(Command::new("tar")
        .args(["--zstd", "--numeric-owner", "-xf"])
        .arg(archive)
        .arg("-C")
        .arg(to))
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let name = format!("{command:?}");
    let out = command.stdin(Stdio::null()).output().with_context(|| name.clone())?;
    let said = String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.success(), "{name} failed ({}): {}", out.status, said.trim());
    Ok(())
}

/// The example `floor` of ves-host, which starts once a line.
#[derive(Debug)]
pub(crate) struct Floor {
    child: Child,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Floor {
    pub(crate) fn start(program: &Path, rootfs: &Path) -> anyhow::Result<Self> {
        let mut child = Command::new(program)
            .arg(rootfs)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        let ask = child.stdin.take().context("its input")?;
        let answers = BufReader::new(child.stdout.take().context("its output")?);
        Ok(Self { child, ask, answers })
    }

    pub(crate) fn once(&mut self) -> anyhow::Result<Duration> {
        self.ask.write_all(b"\n")?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        Ok(Duration::from_nanos(line.trim().parse().context("the floor cannot start anything")?))
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        // It has nothing to lose; both fail only when it has ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A bundle that crun and runc both run: the same files and namespaces, `/bin/true`.
#[derive(Debug)]
pub(crate) struct Oci {
    bundle: PathBuf,
}

impl Oci {
    pub(crate) fn new(rootfs: &Path, work: &Path) -> anyhow::Result<Self> {
        let bundle = work.join("bundle");
        std::fs::create_dir_all(&bundle)?;
        run(Command::new("crun").arg("spec").current_dir(&bundle))?;
        let file = bundle.join("config.json");
        let mut config: Value = serde_json::from_slice(&std::fs::read(&file)?)?;
        let map = json!([{ "containerID": 0, "hostID": 0, "size": 65536 }]);
        let namespaces = ["pid", "network", "ipc", "uts", "cgroup", "user", "mount"];
        for (place, value) in [
            ("/process/terminal", json!(false)),
            ("/process/args", json!(["/bin/true"])),
            ("/root/path", json!(rootfs)),
            ("/linux/namespaces", namespaces.iter().map(|n| json!({ "type": n })).collect()),
        ] {
            *config.pointer_mut(place).with_context(|| format!("crun spec has no {place}"))? =
                value;
        }
        let linux = config.pointer_mut("/linux").context("crun spec has no /linux")?;
        for key in ["uidMappings", "gidMappings"] {
            if let Some(linux) = linux.as_object_mut() {
                linux.insert(key.to_owned(), map.clone());
            }
        }
        std::fs::write(&file, serde_json::to_vec(&config)?)?;
        Ok(Self { bundle })
    }

    /// From nothing to deleted, as a person who types it waits.
    pub(crate) fn run(&self, runtime: &str) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        let name = format!("ves-bench-{}", std::process::id());
        let mut command = Command::new(runtime);
        if runtime == "crun" {
            // It would have none to use where version 2 has no controllers.
            command.arg("--cgroup-manager=disabled");
        }
        run(command.args(["run", "--bundle"]).arg(&self.bundle).arg(name))?;
        Ok(begun.elapsed())
    }
}

/// Another thread that sends back what it gets.
#[derive(Debug)]
pub(crate) struct Echo {
    stream: UnixStream,
}

impl Echo {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let (stream, mut other) = UnixStream::pair()?;
        std::thread::spawn(move || {
            let mut bytes = [0; 64];
            while other.read_exact(&mut bytes).is_ok() && other.write_all(&bytes).is_ok() {}
        });
        Ok(Self { stream })
    }

    pub(crate) fn once(&mut self) -> anyhow::Result<Duration> {
        let mut bytes = [7; 64];
        let begun = Instant::now();
        self.stream.write_all(&bytes)?;
        self.stream.read_exact(&mut bytes)?;
        Ok(begun.elapsed())
    }
}
