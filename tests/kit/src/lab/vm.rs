//! One virtual machine: its disks, its QEMU, its monitor and its guest agent.
//!
//! All it is lives in one directory, so another process can find it again and dropping a [`Vm`] does
//! not end the machine; [`Vm::power_cut`] does.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail, ensure};
use qapi::{Qga, Qmp, qga, qmp};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::base::run;
use super::image::Image;
use super::machine::{ENVIRONMENT, Machine, Output, tail};

/// QEMU's name of the spare disk's contents; a fault is put between it and the device. It is not
/// there before, for QEMU 7.2 hangs on a saved state with anything in between.
const SPARE: &str = "spare-disk";

/// QEMU's name of what makes the spare disk slow or broken.
const FAULT: &str = "spare-fault";

/// How long a command may take that says nothing else; emulated processors are slow.
const COMMAND: Duration = Duration::from_secs(600);

/// How long QEMU's monitor may take, which saves and loads machines.
const MONITOR: Duration = Duration::from_secs(600);

/// What a command prints on the console after its end, where one waits to cut its power.
const ENDED: &str = "the command has ended with";

type Wire = qapi::Stream<BufReader<UnixStream>, UnixStream>;

/// How a node differs from another of the same image.
#[derive(Debug, Clone)]
pub struct Shape {
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Size of the spare disk in GiB.
    pub spare_gib: u32,
}

impl Default for Shape {
    fn default() -> Self {
        Self { memory_mib: 1536, spare_gib: 8 }
    }
}

/// What a machine's memory is when it starts.
#[derive(Debug, Clone, Copy)]
pub enum Memory<'a> {
    /// Empty: the machine boots.
    Empty,
    /// A file, empty too, which the machine leaves behind for others; see [`Vm::freeze`].
    Template(&'a Path),
    /// What another left behind in this file; what is written to it stays with the machine.
    Copy(&'a Path),
}

/// Beside a template's memory, what its processor and devices were in.
fn state_of(memory: &Path) -> PathBuf {
    memory.with_extension("state")
}

/// What a disk does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskFault {
    /// Each transfer fails.
    Fails,
    /// It passes so many bytes a second.
    Slow(u64),
}

/// A virtual machine.
#[derive(Debug, Clone)]
pub struct Vm {
    dir: PathBuf,
    name: String,
}

impl Vm {
    /// A machine that is to live in `dir`, or lives there.
    pub fn at(dir: impl Into<PathBuf>, name: impl Into<String>) -> Self {
        Self { dir: dir.into(), name: name.into() }
    }
    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
    /// What its kernel printed.
    pub fn serial(&self) -> String {
        let bytes = fs::read(self.dir.join("serial.log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Makes its disks: an overlay on the image and an empty spare one.
    ///
    /// # Errors
    /// `qemu-img`'s.
    pub fn make_disks(&self, image: &Image, shape: &Shape) -> anyhow::Result<()> {
        fs::create_dir_all(&self.dir).with_context(|| format!("make {}", self.dir.display()))?;
        run(Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"])
            .arg(fs::canonicalize(&image.disk)?)
            .arg(self.dir.join("root.qcow2")))?;
        run(Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2"])
            .arg(self.dir.join("spare.qcow2"))
            .arg(format!("{}G", shape.spare_gib)))?;
        Ok(())
    }

    /// Makes disks that begin as another machine's, which never runs again.
    ///
    /// # Errors
    /// `qemu-img`'s.
    pub fn copy_disks(&self, of: &Self) -> anyhow::Result<()> {
        fs::create_dir_all(&self.dir).with_context(|| format!("make {}", self.dir.display()))?;
        for disk in ["root.qcow2", "spare.qcow2"] {
            run(Command::new("qemu-img")
                .args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"])
                .arg(of.dir.join(disk))
                .arg(self.dir.join(disk)))?;
        }
        Ok(())
    }

    /// Starts QEMU. `port` is its place on the segment: our socket and the hub's. The machine ends when
    /// the thread that started it does.
    pub fn start(
        &self,
        image: &Image,
        shape: &Shape,
        port: (&Path, &Path),
        memory: Memory<'_>,
    ) -> anyhow::Result<()> {
        ensure!(!self.alive(), "{} runs already", self.name);
        let (near, far) = (port.0.display(), port.1.display());
        for stale in ["qmp.sock", "agent.sock", "console.sock"] {
            fs::remove_file(self.dir.join(stale)).ok();
        }
        fs::remove_file(port.0).ok();
        let file = |name: &str| self.dir.join(name).display().to_string();
        let log = File::create(self.dir.join("qemu.log"))?;
        // Whoever ends this process, by whatever signal, ends the machine too.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "qemu-system-x86_64"])
            .args(["-nodefaults", "-display", "none", "-no-user-config"])
            // One processor: with two, a kernel that was patching itself once died (`Oops: int3`), for
            // QEMU 7.2 seems to run its translation of code that the other has changed since.
            .args(["-accel", "tcg,thread=single,tb-size=256", "-smp", "1"])
            // Without these, the kernel does not copy byte by byte, which is what QEMU makes of them.
            .args(["-cpu", "max,-erms,-fsrm"])
            .args(["-m", &shape.memory_mib.to_string()])
            .arg("-kernel")
            .arg(&image.kernel)
            .arg("-initrd")
            .arg(&image.initrd)
            // Programs at one place each time: QEMU keeps its translation of code by its address, and
            // would translate every library again for every process, more than half of its work.
            .args([
                "-append",
                "console=ttyS0 mitigations=off nokaslr norandmaps random.trust_cpu=on audit=0 quiet \
                 systemd.show_status=0 net.ifnames=0 panic=-1",
            ])
            .arg("-drive")
            .arg(format!("file={},if=none,id=root,cache=unsafe,discard=unmap", file("root.qcow2")))
            .args(["-device", "virtio-blk-pci,drive=root"])
            .args(["-object", "throttle-group,id=slow", "-blockdev"])
            .arg(format!(
                "driver=qcow2,node-name={SPARE},discard=unmap,cache.no-flush=on,file.driver=file,\
                 file.filename={}",
                file("spare.qcow2")
            ))
            .arg("-device")
            .arg(format!("virtio-blk-pci,id=spare,drive={SPARE},werror=report,rerror=report"))
            .arg("-serial")
            .arg(format!("file:{}", file("serial.log")))
            .args(["-device", "virtio-serial"])
            .arg("-chardev")
            .arg(format!("socket,id=agent,path={},server=on,wait=off", file("agent.sock")))
            .args(["-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"])
            .arg("-chardev")
            .arg(format!("socket,id=console,path={},server=on,wait=off", file("console.sock")))
            .args(["-device", "virtconsole,chardev=console"])
            .arg("-qmp")
            .arg(format!("unix:{},server=on,wait=off", file("qmp.sock")))
            .arg("-netdev")
            .arg(format!(
                "dgram,id=seg,local.type=unix,local.path={near},remote.type=unix,remote.path={far}"
            ))
            .arg("-device")
            // All copies of a snapshot have the address it was taken with; the node is given its
            // own inside.
            .arg("virtio-net-pci,netdev=seg,mac=52:54:00:00:00:01")
            .args(["-pidfile", &file("pid")]);
        if let Memory::Template(path) | Memory::Copy(path) = memory {
            let share = if matches!(memory, Memory::Template(_)) { "on" } else { "off" };
            command.args(["-machine", "pc,memory-backend=ram", "-object"]).arg(format!(
                "memory-backend-file,id=ram,size={}M,mem-path={},share={share}",
                shape.memory_mib,
                path.display()
            ));
        }
        if matches!(memory, Memory::Copy(_)) {
            command.args(["-incoming", "defer"]);
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .context("start qemu-system-x86_64; `apt-get install qemu-system-x86` brings it")?;
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            let listens = |socket: &str| UnixStream::connect(self.dir.join(socket)).is_ok();
            if listens("agent.sock") && listens("qmp.sock") {
                // Who started it need not wait for it; a thread reaps it when it ends.
                std::thread::spawn(move || child.wait());
                return match memory {
                    Memory::Copy(path) => self.thaw(path),
                    _ => Ok(()),
                };
            }
            if let Some(status) = child.try_wait()? {
                let log = fs::read_to_string(self.dir.join("qemu.log")).unwrap_or_default();
                bail!("qemu for {} ended at once ({status}): {}", self.name, log.trim());
            }
            ensure!(Instant::now() < end, "qemu for {} does not listen", self.name);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn pid(&self) -> Option<Pid> {
        let text = fs::read_to_string(self.dir.join("pid")).ok()?;
        let pid: u32 = text.trim().parse().ok()?;
        let name = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
        let ours = name.contains(&*self.dir.to_string_lossy());
        ours.then(|| Pid::from_raw(i32::try_from(pid).ok()?)).flatten()
    }

    /// Whether its QEMU runs.
    pub fn alive(&self) -> bool {
        self.pid().is_some()
    }

    /// Cuts the power: QEMU is killed, and what the node's kernel had only in its memory is lost.
    pub fn power_cut(&self) -> anyhow::Result<()> {
        let Some(pid) = self.pid() else { return Ok(()) };
        let Ok(fd) = pidfd_open(pid, PidfdFlags::empty()) else { return Ok(()) };
        pidfd_send_signal(&fd, Signal::KILL).ok(); // it may have ended in this moment
        // Its name is gone before its files are closed; the descriptor tells the end of both.
        let patience = Timespec { tv_sec: 20, tv_nsec: 0 };
        let ended = poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&patience))?;
        ensure!(ended == 1, "qemu for {} does not go away", self.name);
        Ok(())
    }

    /// Runs a shell command and cuts the power in the moment in which it has printed `words`.
    pub fn power_cut_at(&self, command: &str, words: &str) -> anyhow::Result<()> {
        let mut console = self.console()?;
        console.set_read_timeout(Some(COMMAND))?;
        // The console is a wire to here: what comes through the agent has to be asked for. The pipe
        // makes it no terminal for the command.
        let detached = format!(
            "({{ {command}; echo \"{ENDED} $?\"; }} </dev/null 2>&1 | cat >/dev/hvc0) >/dev/null 2>&1 &"
        );
        std::thread::scope(|scope| {
            let watch = scope.spawn(move || {
                let (mut said, mut bytes) = (String::new(), [0; 4096]);
                while !said.contains(words) && !said.contains(ENDED) {
                    let read = console.read(&mut bytes).context(said.clone())?;
                    ensure!(read > 0, "the machine ended by itself: {said}");
                    said += &String::from_utf8_lossy(&bytes[..read]);
                }
                self.power_cut()?;
                let mut rest = Vec::new();
                console.read_to_end(&mut rest).ok(); // a reset connection is its end too
                said += &String::from_utf8_lossy(&rest);
                ensure!(!said.contains(ENDED), "it ended before the power did: {said}");
                Ok(())
            });
            // The agent may or may not live to see the shell end.
            let begun = self.exec(&detached, COMMAND);
            let cut = watch.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            cut.with_context(|| format!("on {}: {command} ({begun:?})", self.name))
        })
    }

    /// Reboots it in order and waits until it has booted again.
    pub fn reboot(&self, patience: Duration) -> anyhow::Result<()> {
        let boot_id = "cat /proc/sys/kernel/random/boot_id";
        let before = self.sh(boot_id)?;
        self.sh("systemctl reboot")?;
        let end = Instant::now() + patience;
        // The agent of the old boot answers until it is ended, then nobody does for a while.
        while self.exec(boot_id, Duration::from_secs(5)).map_or(true, |o| o.stdout.trim() == before)
        {
            ensure!(Instant::now() < end, "{} does not reboot: {}", self.name, self.serial());
            std::thread::sleep(Duration::from_millis(200));
        }
        self.wait_boot(patience)
    }

    /// Waits until the guest agent answers.
    pub fn wait_agent(&self, patience: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + patience;
        loop {
            if self.agent(Duration::from_secs(2)).is_ok() {
                return Ok(());
            }
            let serial = self.serial();
            let tail: String =
                serial.chars().skip(serial.chars().count().saturating_sub(3000)).collect();
            let lives = self.alive() && !tail.contains("Kernel panic");
            ensure!(lives, "{} ended; its console said:\n{tail}", self.name);
            ensure!(
                Instant::now() < end,
                "{} does not answer after {} s; its console said:\n{tail}",
                self.name,
                patience.as_secs()
            );
        }
    }

    fn agent(&self, patience: Duration) -> anyhow::Result<Qga<Wire>> {
        static CALLS: AtomicU32 = AtomicU32::new(0);
        let stream = UnixStream::connect(self.dir.join("agent.sock"))
            .with_context(|| format!("reach the agent of {}", self.name))?;
        stream.set_read_timeout(Some(patience))?;
        let mut agent = Qga::new(qapi::Stream::new(BufReader::new(stream.try_clone()?), stream));
        // What an earlier caller did not stay to hear comes first; the number tells ours.
        let call = CALLS.fetch_add(1, Ordering::Relaxed);
        let number = i32::try_from(std::process::id() % 1_000_000 * 1000 + call % 1000)?;
        agent.write_command(&qga::guest_sync { id: number.into() })?;
        let end = Instant::now() + patience;
        while Instant::now() < end {
            match agent.read_response::<qga::guest_sync>() {
                Ok(id) if id == i64::from(number) => return Ok(agent),
                Ok(_) | Err(qapi::ExecuteError::Qapi(_)) => {}
                Err(qapi::ExecuteError::Io(e)) if e.kind() == io::ErrorKind::InvalidData => {}
                Err(e) => {
                    return Err(e).with_context(|| format!("hear the agent of {}", self.name));
                }
            }
        }
        bail!("the agent of {} does not answer", self.name)
    }

    fn monitor(&self) -> anyhow::Result<Qmp<Wire>> {
        let stream = UnixStream::connect(self.dir.join("qmp.sock"))
            .with_context(|| format!("reach the monitor of {}", self.name))?;
        stream.set_read_timeout(Some(MONITOR))?;
        let mut monitor = Qmp::new(qapi::Stream::new(BufReader::new(stream.try_clone()?), stream));
        monitor.handshake().with_context(|| format!("greet the monitor of {}", self.name))?;
        Ok(monitor)
    }

    /// Runs a command of QEMU's human monitor; what it prints is what went wrong.
    fn human(&self, line: &str) -> anyhow::Result<()> {
        let said = self
            .monitor()?
            .execute(&qmp::human_monitor_command { cpu_index: None, command_line: line.to_owned() })
            .with_context(|| format!("{line} on {}", self.name))?;
        ensure!(said.trim().is_empty(), "{line} on {}: {}", self.name, said.trim());
        Ok(())
    }

    /// Ends a machine that was started with [`Memory::Template`] so that copies of it go on from here.
    pub fn freeze(&self, memory: &Path) -> anyhow::Result<()> {
        let mut monitor = self.monitor()?;
        monitor.execute(&qmp::stop {}).context("stop the machine")?;
        self.move_state(&mut monitor, &format!("cat > '{}'", state_of(memory).display()), true)?;
        monitor.execute(&qmp::quit {}).context("end the machine")?;
        self.power_cut()
    }

    /// Goes on from where another machine was frozen.
    fn thaw(&self, memory: &Path) -> anyhow::Result<()> {
        let mut monitor = self.monitor()?;
        self.move_state(&mut monitor, &format!("cat '{}'", state_of(memory).display()), false)?;
        monitor.execute(&qmp::cont {}).context("let the machine go on").map(drop)
    }

    /// Has QEMU write its state, or read it, through a shell command. Memory in a shared file is none of it.
    fn move_state(&self, monitor: &mut Qmp<Wire>, by: &str, out: bool) -> anyhow::Result<()> {
        let what = || format!("move the state of {} by `{by}`", self.name);
        let without_memory: qmp::migrate_set_capabilities = serde_json::from_value(
            serde_json::json!({ "capabilities": [{ "capability": "x-ignore-shared", "state": true }] }),
        )?;
        monitor.execute(&without_memory).with_context(what)?;
        let uri = serde_json::json!({ "uri": format!("exec:{by}") });
        if out {
            let migrate: qmp::migrate = serde_json::from_value(uri)?;
            monitor.execute(&migrate).with_context(what)?;
        } else {
            let migrate: qmp::migrate_incoming = serde_json::from_value(uri)?;
            monitor.execute(&migrate).with_context(what)?;
        }
        let end = Instant::now() + MONITOR;
        loop {
            let now = monitor.execute(&qmp::query_migrate {}).with_context(what)?;
            match now.status {
                Some(qmp::MigrationStatus::completed) => return Ok(()),
                Some(qmp::MigrationStatus::failed) => {
                    bail!("{}: {}", what(), now.error_desc.unwrap_or_default());
                }
                _ => ensure!(Instant::now() < end, "{}: it takes too long", what()),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Saves the whole running machine, disks and memory, as `snapshot` inside its disks.
    pub fn save(&self, snapshot: &str) -> anyhow::Result<()> {
        self.human(&format!("savevm {snapshot}"))
    }

    /// Takes the running machine back to `snapshot`; only its clock goes on.
    pub fn restore(&self, snapshot: &str) -> anyhow::Result<()> {
        self.human(&format!("loadvm {snapshot}"))?;
        self.set_clock()
    }

    /// Gives the machine this one's time.
    ///
    /// # Errors
    /// As [`Self::exec`].
    pub fn set_clock(&self) -> anyhow::Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
        self.sh(&format!("date -s @{now:.3}")).map(drop)
    }

    /// What the spare disk does wrong from now on; `None`: nothing.
    pub fn spare_disk(&self, fault: Option<DiskFault>) -> anyhow::Result<()> {
        let what = || format!("change the spare disk of {}", self.name);
        let mut monitor = self.monitor()?;
        let nodes = monitor
            .execute(&qmp::query_named_block_nodes { flat: Some(true) })
            .with_context(what)?;
        if nodes.iter().any(|node| node.node_name.as_deref() == Some(FAULT)) {
            self.drive_spare(&mut monitor, SPARE)?;
            monitor
                .execute(&qmp::blockdev_del { node_name: FAULT.to_owned() })
                .with_context(what)?;
        }
        let Some(fault) = fault else { return Ok(()) };
        let mut node = match fault {
            DiskFault::Fails => {
                let errors = ["read", "write", "flush"].map(|what| {
                    serde_json::json!({ "event": "none", "iotype": what, "errno": 5, "once": false })
                });
                serde_json::json!({ "driver": "blkdebug", "image": SPARE, "inject-error": errors })
            }
            DiskFault::Slow(bytes_per_second) => {
                let limits = serde_json::json!({
                    "path": "/objects/slow", "property": "limits",
                    "value": { "bps-total": bytes_per_second },
                });
                let limits: qmp::qom_set = serde_json::from_value(limits)?;
                monitor.execute(&limits).with_context(what)?;
                serde_json::json!({ "driver": "throttle", "throttle-group": "slow", "file": SPARE })
            }
        };
        node["node-name"] = FAULT.into();
        let add: qmp::blockdev_add = serde_json::from_value(node)?;
        monitor.execute(&add).with_context(what)?;
        self.drive_spare(&mut monitor, FAULT)
    }

    /// Puts this of QEMU's nodes behind the spare disk's device.
    fn drive_spare(&self, monitor: &mut Qmp<Wire>, node: &str) -> anyhow::Result<()> {
        let set: qmp::qom_set = serde_json::from_value(serde_json::json!({
            "path": "/machine/peripheral/spare", "property": "drive", "value": node,
        }))?;
        let what = || format!("put {node} behind the spare disk of {}", self.name);
        monitor.execute(&set).with_context(what).map(drop)
    }

    /// Gives its network device a carrier, or takes it away.
    pub fn plug(&self, carrier: bool) -> anyhow::Result<()> {
        self.monitor()?
            .execute(&qmp::set_link { name: "seg".to_owned(), up: carrier })
            .with_context(|| format!("change the link of {}", self.name))
            .map(drop)
    }

    /// Its console, where a root shell waits.
    pub fn console(&self) -> anyhow::Result<UnixStream> {
        UnixStream::connect(self.dir.join("console.sock"))
            .with_context(|| format!("reach the console of {}", self.name))
    }
}

impl Machine for Vm {
    fn name(&self) -> &str {
        &self.name
    }

    fn console_tail(&self) -> String {
        tail(&self.serial())
    }

    fn exec_with(&self, command: &str, stdin: &[u8], deadline: Duration) -> anyhow::Result<Output> {
        let what = || format!("on {}: {command}", self.name);
        let mut agent = self.agent(Duration::from_secs(120)).with_context(what)?;
        let started = agent
            .execute(&qga::guest_exec {
                path: "/bin/bash".to_owned(),
                arg: Some(vec!["-c".to_owned(), command.to_owned()]),
                env: Some(ENVIRONMENT.map(str::to_owned).to_vec()),
                input_data: Some(stdin.to_vec()),
                capture_output: Some(qga::GuestExecCaptureOutput::flag(true)),
            })
            .with_context(what)?;
        let (end, mut pause) = (Instant::now() + deadline, Duration::from_millis(5));
        loop {
            let status =
                agent.execute(&qga::guest_exec_status { pid: started.pid }).with_context(what)?;
            if status.exited {
                let text = |data: Option<Vec<u8>>| {
                    String::from_utf8_lossy(&data.unwrap_or_default()).into_owned()
                };
                let code = match (status.exitcode, status.signal) {
                    (Some(code), _) => i32::try_from(code)?,
                    (None, Some(signal)) => 128 + i32::try_from(signal)?,
                    (None, None) => bail!("{}: ended in no way", what()),
                };
                return Ok(Output {
                    status: code,
                    stdout: text(status.out_data),
                    stderr: text(status.err_data),
                });
            }
            ensure!(Instant::now() < end, "{}: did not end within {deadline:?}", what());
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(200));
        }
    }

    fn wait_boot(&self, patience: Duration) -> anyhow::Result<()> {
        self.wait_agent(patience)?;
        self.exec("systemctl is-system-running --wait", patience).map(drop)
    }
}
