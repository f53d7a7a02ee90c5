//! `cargo xtask lab`: Debian 13 nodes in virtual machines, for people; stories use the same library.
//!
//! Machines and their segment belong to a process that stays, `lab serve`, and end with it: `up`
//! starts it and waits, `down` ends it.

use std::fs::{self, File};
use std::io::{IsTerminal, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use ves_kit::lab::{Cluster, Golden, Role, Vm, cluster, image, story};

use crate::{deb, tool};

/// Debian packages the lab is made with.
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
    "qemu-system-x86",
    "qemu-utils",
    "util-linux",
    "xz-utils",
    "zstd",
];

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
///
/// # Errors
/// What failed.
pub(crate) fn run(lab: Lab) -> Result<ExitCode> {
    let dir = story::cache().join("up");
    match lab {
        Lab::Up { nodes, no_routers } => up(&dir, nodes, no_routers)?,
        Lab::Serve { nodes, no_routers } => serve(&dir, nodes, no_routers)?,
        Lab::Down => down(&dir)?,
        Lab::Ssh { machine, command } => return ssh(&dir, &machine, &command),
        Lab::Snapshot { name, restore } => {
            let machines = cluster::find(&dir)?;
            for vm in &machines {
                if restore { vm.restore(&name)? } else { vm.save(&name)? }
            }
            let (count, done) = (machines.len(), if restore { "went back to" } else { "saved as" });
            println!("{count} machines {done} {name}");
        }
        Lab::Run { story } => {
            room(LARGEST)?;
            prepare()?;
            tool::tool("cargo-nextest")?;
            let words =
                ["nextest", "run", "-p", "ves-lab", "--no-capture", "--no-tests=fail", &story];
            return Ok(code(tool::cargo(&words).status().context("start cargo nextest")?.code()));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn code(status: Option<i32>) -> ExitCode {
    ExitCode::from(status.and_then(|s| u8::try_from(s).ok()).unwrap_or(1))
}

/// Whether this machine has room for so many.
///
/// # Errors
/// What it lacks.
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

/// How many stories can be told at once: one for each processor, as far as memory goes.
pub(crate) fn at_once() -> u64 {
    let processors = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    (memory() / (LARGEST * MACHINE)).clamp(1, processors)
}

/// Memory that is free or can be had, in MiB; 0 where the kernel does not tell.
fn memory() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or(0) / 1024
}

/// Makes everything a machine of the lab begins from, where it is not there: packages of what this
/// workspace is now, a template, the node image, the golden node.
///
/// # Errors
/// What failed.
pub(crate) fn prepare() -> Result<Golden> {
    let begun = Instant::now();
    let say = |what: &str| println!("  lab, {:3} s: {what}", begun.elapsed().as_secs());
    tool::apt(PACKAGES)?;
    let dir = story::cache();
    fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    // One at a time makes them; it goes with its process.
    let lock = File::create(dir.join("lock")).context("make the lab's lock")?;
    if lock.try_lock().is_err() {
        say("waiting for another that prepares the lab");
        lock.lock().context("wait for another that prepares the lab")?;
    }
    let mut files = deb::build(&say)?;
    for package in files.clone() {
        files.push(deb::next(&package)?);
    }
    files.push(image::template(&dir, &say)?);
    Golden::make(&dir, &files, &say)
}

fn up(dir: &Path, nodes: u8, no_routers: bool) -> Result<()> {
    ensure!(!alive(dir), "a lab is up already; `cargo xtask lab down` ends it");
    let machines = u64::from(nodes) + if no_routers { 0 } else { 2 };
    room(machines)?;
    prepare()?;
    fs::remove_dir_all(dir).ok(); // what a lab left that was killed
    fs::create_dir_all(dir)?;
    // Beside the directory, which goes when the lab does.
    let log = dir.with_extension("log");
    let out = File::create(&log)?;
    // Also where a build has replaced the file by now.
    let mut serve = Command::new("/proc/self/exe");
    serve.args(["lab", "serve", &nodes.to_string()]);
    if no_routers {
        serve.arg("--no-routers");
    }
    println!("  starting machines");
    let (input, output) = (Stdio::null(), out.try_clone()?);
    let mut child = serve.stdin(input).stdout(output).stderr(out).process_group(0).spawn()?;
    fs::write(dir.join("serve.pid"), child.id().to_string())?;
    let end = Instant::now() + Duration::from_secs(300);
    while !dir.join("ready").exists() {
        if child.try_wait()?.is_some() || Instant::now() > end {
            let mut text = String::new();
            File::open(&log)?.read_to_string(&mut text)?;
            down(dir)?;
            bail!("the lab did not come up:\n{text}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let names: Vec<_> = cluster::find(dir)?.iter().map(|vm| vm.name().to_owned()).collect();
    println!(
        "{} are up. `cargo xtask lab ssh 1 -- virtctl list -a` runs a command on the first, \
         `cargo xtask lab down` ends all.",
        names.join(", ")
    );
    Ok(())
}

fn serve(dir: &Path, nodes: u8, no_routers: bool) -> Result<()> {
    let mut roles = vec![Role::Node; nodes.into()];
    if !no_routers {
        roles.extend([Role::Frr, Role::Bird]);
    }
    let golden = Golden::current(&story::cache())?;
    let _lab = Cluster::up(&golden, dir, &roles)?;
    fs::write(dir.join("ready"), "")?;
    loop {
        std::thread::park();
    }
}

/// The process that carries the lab, if it runs: a descriptor and not a number, which may be another's
/// by the time it is used.
fn server(dir: &Path) -> Option<rustix::fd::OwnedFd> {
    let pid: i32 = fs::read_to_string(dir.join("serve.pid")).ok()?.trim().parse().ok()?;
    let fd = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
    let words = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words = String::from_utf8_lossy(&words).into_owned();
    words.contains("\0lab\0serve\0").then_some(fd)
}

fn alive(dir: &Path) -> bool {
    server(dir).is_some()
}

fn down(dir: &Path) -> Result<()> {
    for vm in cluster::find(dir).unwrap_or_default() {
        vm.power_cut()?;
    }
    if let Some(fd) = server(dir) {
        // Machines that it has yet to start end with it; it may have ended in this moment.
        pidfd_send_signal(&fd, Signal::KILL).ok();
    }
    let end = Instant::now() + Duration::from_secs(20);
    while alive(dir) {
        ensure!(Instant::now() < end, "the process that carries the lab does not end");
        std::thread::sleep(Duration::from_millis(20));
    }
    fs::remove_file(dir.with_extension("log")).ok(); // what it said is of use only while it comes up
    match fs::remove_dir_all(dir) {
        Ok(()) => println!("the lab is down"),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => println!("no lab is up"),
        Err(e) => return Err(e).with_context(|| format!("remove {}", dir.display())),
    }
    Ok(())
}

fn ssh(dir: &Path, machine: &str, command: &[String]) -> Result<ExitCode> {
    let machines = cluster::find(dir)?;
    let numbered = machine.parse::<usize>().ok().and_then(|n| machines.get(n.wrapping_sub(1)));
    let named = machines.iter().find(|vm| vm.name() == machine);
    let vm = numbered.or(named).with_context(|| {
        let names: Vec<_> = machines.iter().map(Vm::name).collect();
        format!("no machine {machine}; there are {}", names.join(", "))
    })?;
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
