//! `cargo xtask lab`: Debian 13 nodes in virtual machines, for people; stories use the same library.
//!
//! Machines and their segment belong to a process that stays, `lab serve`, and end with it: `up`
//! starts it and waits, `down` ends it.

use std::fs::{self, File};
use std::io::{IsTerminal, Read, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use ves_kit::lab::{Booted, Cluster, Golden, Machine, Role, Vm, base, cluster, story};

use crate::serve::{Server, meant};
use crate::{deb, tool};

/// Debian packages that what machines begin from is made with.
const PACKAGES: &[&str] = &[
    "ca-certificates",
    "cpio",
    "debian-archive-keyring",
    "dpkg",
    "dpkg-dev",
    "e2fsprogs",
    "gnupg",
    "gpgv",
    "mmdebstrap",
    "util-linux",
    "xz-utils",
    "zstd",
];

/// And what virtual machines run in.
const QEMU: &[&str] = &["qemu-system-x86", "qemu-utils"];

/// What one machine takes of this one's memory in MiB: its own, and what QEMU needs around it.
const MACHINE: u64 = 1792;

/// How many machines the largest story has.
pub(crate) const LARGEST: u64 = 3;

/// What image, golden node and the copies of two stories take on disk, in MiB.
const DISK: u64 = 10 * 1024;

/// What the lab should do.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Lab {
    /// Start nodes with our packages and a volume group on a spare disk, and two routers
    Up {
        /// How many nodes.
        #[arg(default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=8))]
        nodes: u8,
        /// Without the routers, FRR and BIRD.
        #[arg(long)]
        no_routers: bool,
    },
    /// End all machines and remove their disks
    Down,
    /// Run a command on a machine by its shell, or open a shell on its console
    Ssh {
        /// A node's number, from 1 on; or a machine's name, such as node1, frr, bird.
        machine: String,
        /// The command; its exit status becomes this one's.
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// Save the running state of all machines under a name, or go back to it
    Snapshot {
        /// The name.
        #[arg(default_value = "user")]
        name: String,
        /// Go back to it.
        #[arg(long)]
        restore: bool,
    },
    /// Run one story of tests/lab by (a part of) its name
    Run {
        /// The name.
        story: String,
    },
    /// The process that carries machines and segment; `up` starts it
    #[command(hide = true)]
    Serve {
        /// How many nodes.
        nodes: u8,
        /// Without routers.
        #[arg(long)]
        no_routers: bool,
    },
}

/// Does it.
pub(crate) fn run(lab: Lab) -> Result<ExitCode> {
    let server = Server { command: "lab", dir: story::cache().join("up") };
    match lab {
        Lab::Up { nodes, no_routers } => up(&server, nodes, no_routers)?,
        Lab::Serve { nodes, no_routers } => serve(&server, nodes, no_routers)?,
        Lab::Down => down(&server)?,
        Lab::Ssh { machine, command } => return ssh(&server.dir, &machine, &command),
        Lab::Snapshot { name, restore } => {
            let machines = cluster::find(&server.dir)?;
            for (dir, machine) in &machines {
                let vm = Vm::at(dir, machine);
                if restore { vm.restore(&name)? } else { vm.save(&name)? }
            }
            let (count, done) = (machines.len(), if restore { "went back to" } else { "saved as" });
            println!("{count} machines {done} {name}");
        }
        Lab::Run { story } => {
            room(LARGEST)?;
            prepare(&say())?;
            return tell("ves-lab", &story, "virtual");
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn code(status: Option<i32>) -> ExitCode {
    ExitCode::from(status.and_then(|s| u8::try_from(s).ok()).unwrap_or(1))
}

/// Whether this machine has room for so many.
pub(crate) fn room(machines: u64) -> Result<()> {
    let memory = (memory(), machines * MACHINE);
    let disk =
        rustix::fs::statvfs(&*tool::root()).map_or(0, |fs| (fs.f_bavail * fs.f_frsize) >> 20);
    for (what, (there, needed)) in [("memory", memory), ("disk space", (disk, DISK))] {
        ensure!(
            there >= needed,
            "{machines} machines of the lab need {needed} MiB of {what}, and {there} are free"
        );
    }
    Ok(())
}

/// How many stories can be told at once: one more than there are processors, as far as memory goes.
pub(crate) fn at_once() -> u64 {
    let processors = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    (memory() / (LARGEST * MACHINE)).clamp(1, processors + 1)
}

/// Memory that is free or can be had, in MiB; 0 where the kernel does not tell.
fn memory() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or(0) / 1024
}

/// Makes the golden node of what this workspace is now, where it is not there: packages, a template,
/// the base. `say` hears what is being done.
pub(crate) fn golden(say: &dyn Fn(&str)) -> Result<Golden> {
    tool::apt(PACKAGES)?;
    let dir = story::cache();
    let _lock = lock(&dir, say)?;
    story::sweep(&dir)?;
    let mut files = deb::build(say)?;
    for package in files.clone() {
        files.push(deb::next(&package)?);
    }
    files.push(base::template(&dir, say)?);
    Golden::make(&dir, &files, say)
}

/// Makes what a virtual machine begins from, where it is not there: the golden node, a machine that has
/// booted from it. `say` hears what is being done.
pub(crate) fn prepare(say: &dyn Fn(&str)) -> Result<Booted> {
    let golden = golden(say)?;
    tool::apt(QEMU)?;
    let dir = story::cache();
    let _lock = lock(&dir, say)?;
    Booted::make(&dir, &golden, say)
}

/// One at a time makes what machines begin from; it goes with its process.
fn lock(dir: &Path, say: &dyn Fn(&str)) -> Result<File> {
    fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    let lock = File::create(dir.join("lock")).context("make the lab's lock")?;
    if lock.try_lock().is_err() {
        say("waiting for another that prepares machines");
        lock.lock().context("wait for another that prepares machines")?;
    }
    Ok(lock)
}

/// Says what is being done, and after how long.
pub(crate) fn say() -> impl Fn(&str) {
    let begun = Instant::now();
    move |what| println!("  {:5.1} s: {what}", begun.elapsed().as_secs_f32())
}

/// Tells one story of a package, on machines of this kind.
pub(crate) fn tell(package: &str, story: &str, machines: &str) -> Result<ExitCode> {
    tool::tool("cargo-nextest")?;
    let filter = format!("package({package}) and test({story})");
    // With the features of the whole workspace, as its tests are built anyway.
    let mut tell = tool::cargo(&["nextest", "run", "--workspace", "--all-features"]);
    tell.args(["--no-capture", "--no-tests=fail", "-E", &filter]);
    tell.env("VES_MACHINES", machines).env("VES_DISPOSABLE", "1");
    Ok(code(tell.status().context("start cargo nextest")?.code()))
}

fn up(server: &Server, nodes: u8, no_routers: bool) -> Result<()> {
    ensure!(!server.alive(), "a lab is up already; `cargo xtask lab down` ends it");
    let machines = u64::from(nodes) + if no_routers { 0 } else { 2 };
    room(machines)?;
    let say = say();
    prepare(&say)?;
    let count = nodes.to_string();
    let mut words = vec![count.as_str()];
    words.extend(no_routers.then_some("--no-routers"));
    say("starting machines");
    server.start(&words)?;
    let names: Vec<_> = cluster::find(&server.dir)?.into_iter().map(|(_, name)| name).collect();
    println!(
        "{} are up. `cargo xtask lab ssh 1 -- virtctl list -a` runs a command on the first, \
         `cargo xtask lab down` ends all.",
        names.join(", ")
    );
    Ok(())
}

fn serve(server: &Server, nodes: u8, no_routers: bool) -> Result<()> {
    let mut roles = vec![Role::NODE; nodes.into()];
    if !no_routers {
        roles.extend([Role::FRR, Role::BIRD]);
    }
    let booted = Booted::current(&story::cache())?;
    let _lab = Cluster::emulated(&booted, &server.dir, &roles)?;
    server.stay()
}

fn down(server: &Server) -> Result<()> {
    let machines = cluster::find(&server.dir).unwrap_or_default().len();
    server.end()?;
    println!("{}", if machines == 0 { "no lab is up" } else { "the lab is down" });
    Ok(())
}

fn ssh(dir: &Path, machine: &str, command: &[String]) -> Result<ExitCode> {
    let (dir, name) = meant(dir, machine)?;
    let vm = &Vm::at(dir, name);
    let mut stdin = Vec::new();
    let words = match command {
        [] if std::io::stdin().is_terminal() => return console(vm),
        [] => {
            std::io::stdin().read_to_end(&mut stdin)?;
            "exec /bin/bash -s".to_owned()
        }
        words => words.join(" "),
    };
    let out = vm.exec_with(&words, &stdin, Duration::from_secs(3600))?;
    std::io::stdout().write_all(out.stdout.as_bytes())?;
    std::io::stderr().write_all(out.stderr.as_bytes())?;
    Ok(code(Some(out.status)))
}

/// Joins this terminal with a machine's console, until `^]`.
fn console(vm: &Vm) -> Result<ExitCode> {
    let socket = vm.console()?;
    println!("console of {}; ^] leaves it", vm.name());
    let stdin = rustix::stdio::stdin();
    let before = tcgetattr(stdin).context("read the terminal's settings")?;
    let mut raw = before.clone();
    raw.make_raw();
    tcsetattr(stdin, OptionalActions::Now, &raw).context("set the terminal")?;
    let mut from = socket.try_clone()?;
    std::thread::spawn(move || std::io::copy(&mut from, &mut std::io::stdout()));
    let (mut to, mut bytes) = (&socket, [0; 1024]);
    to.write_all(b"\n").ok(); // a prompt appears
    let left = loop {
        match rustix::io::read(stdin, &mut bytes) {
            Ok(0) => break Ok(()),
            Ok(n) if bytes[..n].contains(&0x1d) => break Ok(()),
            Ok(n) => {
                if let Err(e) = to.write_all(&bytes[..n]) {
                    break Err(e);
                }
            }
            Err(e) => break Err(e.into()),
        }
    };
    tcsetattr(stdin, OptionalActions::Now, &before).context("set the terminal back")?;
    println!();
    left.context("the console ended").map(|()| ExitCode::SUCCESS)
}
