//! The segment between native nodes: a bridge in a network namespace of its own.
//!
//! ```text
//!   node 1: eth0 ══ p1 ─┐                        with a delay:  p1 ─ b1 ─ t1 ─ socat ─┐
//!   node 2: eth0 ══ p2 ─┼─ br0, nftables         each by itself  p2 ─ b2 ─ t2 ─ socat ─┼─ hub
//!   node 3: eth0 ══ p3 ─┘
//! ```
//!
//! The kernel passes frames, loses them and tells of a lost carrier; holding them back is nothing it
//! can do here, so for that they go through the [`Hub`] of the virtual machines. Never here: a link in
//! the machine's own namespace.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, ensure};
use rustix::process::Pid;

use super::hub::{Hub, sockets};
use super::segment::Fault;

/// The segment of native nodes. Its namespace ends with the process that made it.
#[derive(Debug)]
pub struct Bridge {
    dir: PathBuf,
    ports: usize,
    /// Holds the namespace; none where another process does.
    holder: Option<Child>,
    delay: Mutex<Option<Delay>>,
}

/// What holds frames back.
#[derive(Debug)]
struct Delay {
    hub: Hub,
    wires: Vec<Child>,
}

impl Bridge {
    /// A segment for so many nodes; `dir` remembers it.
    pub fn start(dir: &Path, ports: usize) -> anyhow::Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        let ready =
            "ip link add br0 type bridge && ip link set br0 up && echo up && exec sleep infinity";
        let mut holder = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare", "--net", "--", "/bin/sh", "-c", ready])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("start unshare")?;
        let mut said = String::new();
        BufReader::new(holder.stdout.take().context("it has an output")?).read_line(&mut said)?;
        fs::write(dir.join("segment.pid"), holder.id().to_string())?;
        let bridge =
            Self { dir: dir.to_owned(), ports, holder: Some(holder), delay: Mutex::default() };
        ensure!(said == "up\n", "the segment's namespace is not made");
        Ok(bridge)
    }

    /// The segment that another process holds for the nodes in `dir`.
    pub fn at(dir: &Path, ports: usize) -> Self {
        Self { dir: dir.to_owned(), ports, holder: None, delay: Mutex::default() }
    }

    /// A command in its namespace.
    fn command(&self, words: &[&str]) -> anyhow::Result<Command> {
        let pid = fs::read_to_string(self.dir.join("segment.pid")).context("find the segment")?;
        let mut command = Command::new("nsenter");
        command.args(["--target", pid.trim(), "--net", "--"]).args(words);
        Ok(command)
    }

    fn sh(&self, script: &str) -> anyhow::Result<()> {
        super::base::run(&mut self.command(&["/bin/sh", "-ec", script])?).map(drop)
    }

    /// Gives a node its link and addresses on the segment: 10.86.0.N and fd86::N.
    pub fn attach(&self, number: usize, node: Pid) -> anyhow::Result<()> {
        let pid = node.as_raw_nonzero();
        self.sh(&format!(
            "# That of the node's last boot may be about to go.
             ip link del p{number} 2>/dev/null || true
             ip link add p{number} type veth \
                 peer name eth0 address 52:54:00:86:00:{number:02x} netns {pid}
             ip link set p{number} master br0 up
             nsenter --target {pid} --net -- sh -ec '
                 ip link set eth0 up
                 ip addr add 10.86.0.{number}/24 dev eth0
                 ip addr add fd86::{number}/64 dev eth0 nodad'"
        ))
    }

    /// Makes the segment misbehave in this way, and in no other, from now on.
    pub fn set(&self, fault: &Fault) -> anyhow::Result<()> {
        let mut delay = self.delay.lock().unwrap_or_else(PoisonError::into_inner);
        if fault.delay > Duration::ZERO {
            if delay.is_none() {
                *delay = Some(self.lengthen()?);
            }
        } else if let Some(old) = delay.take() {
            self.shorten(old)?;
        }
        if let Some(delay) = &*delay {
            delay.hub.set(fault.clone());
        }
        for port in 1..=self.ports {
            let state = if fault.unplugged.contains(&port) { "down" } else { "up" };
            self.sh(&format!("ip link set p{port} {state}"))?;
        }
        let mut nft = self.command(&["nft", "-f", "-"])?;
        let mut child = nft.stdin(Stdio::piped()).spawn().context("start nft")?;
        child.stdin.take().context("nft reads")?.write_all(rules(fault, self.ports).as_bytes())?;
        ensure!(child.wait()?.success(), "nft refuses the segment's rules");
        Ok(())
    }

    /// Takes each node to a bridge of its own, from where the hub takes its frames to the others.
    fn lengthen(&self) -> anyhow::Result<Delay> {
        let hub = Hub::start(&self.dir, self.ports)?;
        let mut wires = Vec::new();
        for port in 1..=self.ports {
            let (near, far) = sockets(&self.dir, port - 1);
            fs::remove_file(&near).ok();
            let tap = format!("TUN,tun-type=tap,tun-name=t{port},iff-no-pi,iff-up");
            let hub = format!("UNIX-SENDTO:{},bind={}", far.display(), near.display());
            let mut socat =
                self.command(&["setpriv", "--pdeathsig", "KILL", "socat", &tap, &hub])?;
            let socat = socat.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            wires.push(socat.spawn().context("start socat; `apt-get install socat` brings it")?);
            self.sh(&format!(
                "i=0; until ip link show t{port} >/dev/null 2>&1; do
                     i=$((i + 1)); [ $i -lt 500 ] || exit 1; sleep 0.01
                 done
                 ip link add b{port} type bridge
                 ip link set t{port} master b{port}
                 ip link set b{port} up
                 ip link set p{port} master b{port}"
            ))
            .with_context(|| format!("take node {port} to the hub"))?;
        }
        Ok(Delay { hub, wires })
    }

    fn shorten(&self, mut delay: Delay) -> anyhow::Result<()> {
        for port in 1..=self.ports {
            self.sh(&format!("ip link set p{port} master br0; ip link del b{port}"))?;
        }
        for wire in &mut delay.wires {
            wire.kill()?;
            wire.wait()?;
        }
        Ok(())
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        let delay = self.delay.get_mut().unwrap_or_else(PoisonError::into_inner);
        let wires = delay.take().map(|delay| delay.wires).unwrap_or_default();
        for mut child in wires.into_iter().chain(self.holder.take()) {
            child.kill().ok(); // it may have ended
            child.wait().ok();
        }
    }
}

/// What nftables is told so that frames between these ports are lost as the fault says. What goes
/// through the hub is lost there.
fn rules(fault: &Fault, ports: usize) -> String {
    let mut text = "table bridge segment {}\ndelete table bridge segment\ntable bridge segment {\n\
                    chain forward {\ntype filter hook forward priority 0;\n"
        .to_owned();
    for (from, to) in (1..=ports).flat_map(|from| (1..=ports).map(move |to| (from, to))) {
        if from != to && !fault.passes(from, to) {
            // Writing to a string cannot fail.
            writeln!(text, "iifname \"p{from}\" oifname \"p{to}\" drop").ok();
        }
    }
    if fault.drop_every > 0 {
        writeln!(text, "numgen inc mod {} == 0 drop", fault.drop_every).ok();
    }
    text + "}\n}\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_say_the_fault() {
        let fault = Fault { apart: [(1, 2)].into(), drop_every: 3, ..Fault::default() };
        let text = rules(&fault, 3);
        let drops: Vec<_> = text.lines().filter(|line| line.ends_with("drop")).collect();
        assert_eq!(
            drops,
            [
                "iifname \"p1\" oifname \"p2\" drop",
                "iifname \"p2\" oifname \"p1\" drop",
                "numgen inc mod 3 == 0 drop",
            ]
        );
        assert!(!rules(&Fault::default(), 3).contains("drop"));
    }
}
