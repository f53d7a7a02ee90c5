//! Several machines on one segment, up in seconds, and gone whatever happens: native nodes or virtual
//! machines, which a story does not tell apart but where it needs what only one kind has.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};

use super::booted::Booted;
use super::bridge::Bridge;
use super::golden::Golden;
use super::hub::{Hub, sockets};
use super::machine::Machine;
use super::native::Node;
use super::routing::{self, Role};
use super::segment::Fault;
use super::vm::{Memory, Vm};

/// How long a machine may take to boot, or to be what its role says.
const BOOT: Duration = Duration::from_secs(600);

/// Machines on a segment.
#[derive(Debug)]
pub struct Cluster {
    dir: PathBuf,
    roles: Vec<Role>,
    machines: Machines,
}

#[derive(Debug)]
enum Machines {
    Native { golden: Golden, nodes: Vec<Node>, segment: Bridge },
    Virtual { booted: Booted, vms: Vec<Vm>, hub: Hub },
}

impl Cluster {
    /// Starts native nodes with these roles, numbered from 1, in `dir`, and waits until they have
    /// booted and are what their roles say.
    pub fn native(golden: &Golden, dir: &Path, roles: &[Role]) -> anyhow::Result<Self> {
        let segment = Bridge::start(dir, roles.len())?;
        let nodes = named(dir, roles).map(|(dir, name)| Node::at(dir, name));
        let machines = Machines::Native {
            golden: golden.clone(),
            nodes: nodes.collect::<anyhow::Result<_>>()?,
            segment,
        };
        Self::up(machines, dir, roles)
    }

    /// The same with virtual machines.
    pub fn emulated(booted: &Booted, dir: &Path, roles: &[Role]) -> anyhow::Result<Self> {
        let hub = Hub::start(dir, roles.len())?;
        let vms = named(dir, roles).map(|(dir, name)| Vm::at(dir, name)).collect();
        Self::up(Machines::Virtual { booted: booted.clone(), vms, hub }, dir, roles)
    }

    fn up(machines: Machines, dir: &Path, roles: &[Role]) -> anyhow::Result<Self> {
        let cluster = Self { dir: dir.to_owned(), roles: roles.to_vec(), machines };
        let numbers = 1..=roles.len();
        // All boot at once.
        numbers.clone().try_for_each(|number| cluster.start(number))?;
        let settled = numbers.clone().try_for_each(|number| cluster.settle(number));
        let ready = settled.and_then(|()| {
            numbers
                .filter_map(|n| Some((n, routing::ready(n, roles)?)))
                .try_for_each(|(n, check)| cluster.node(n).until(&check, BOOT).map(drop))
        });
        ready.map_err(|e| e.context(cluster.report()))?;
        Ok(cluster)
    }

    /// Starts a machine for the first time.
    fn start(&self, number: usize) -> anyhow::Result<()> {
        match &self.machines {
            Machines::Native { .. } => self.start_native(number),
            Machines::Virtual { booted, vms, .. } => {
                vms[number - 1].copy_disks(&booted.vm)?;
                self.start_emulated(number, Memory::Copy(&booted.memory()))
            }
        }
    }

    fn start_native(&self, number: usize) -> anyhow::Result<()> {
        let Machines::Native { golden, nodes, segment } = &self.machines else { return Ok(()) };
        let node = &nodes[number - 1];
        node.start(&golden.origin())?;
        segment.attach(number, node.pid().context("it has just begun")?)
    }

    fn start_emulated(&self, number: usize, memory: Memory<'_>) -> anyhow::Result<()> {
        let Machines::Virtual { booted, vms, .. } = &self.machines else { return Ok(()) };
        let (near, far) = sockets(&self.dir, number - 1);
        vms[number - 1].start(&booted.image, &booted.shape, (&near, &far), memory)
    }

    fn settle(&self, number: usize) -> anyhow::Result<()> {
        match &self.machines {
            Machines::Native { nodes, .. } => nodes[number - 1].wait_boot(BOOT)?,
            Machines::Virtual { vms, .. } => {
                let vm = &vms[number - 1];
                vm.wait_agent(BOOT)?;
                vm.set_clock()?;
                vm.sh(&become_somebody(vm.name(), number))?;
            }
        }
        match routing::script(number, &self.roles).as_str() {
            "" => Ok(()),
            script => self.node(number).sh(script).map(drop),
        }
    }

    /// What may tell why something failed: the ends of all machines' consoles and journals.
    pub fn report(&self) -> String {
        let mut text = String::new();
        for machine in self.nodes() {
            let name = machine.name();
            text += &format!("--- console of {name} ---\n{}\n", machine.console_tail());
            let journal = "journalctl --no-pager -o short-monotonic -n 60; virtctl list -a";
            text += &match machine.exec(journal, Duration::from_secs(60)) {
                Ok(out) => format!("--- journal of {name} ---\n{}{}\n", out.stdout, out.stderr),
                Err(error) => format!("--- {name} does not answer: {error:#} ---\n"),
            };
        }
        text
    }

    /// The machine with this number, from 1 on: in the order of their roles.
    ///
    /// # Panics
    /// When there is none.
    #[track_caller]
    pub fn node(&self, number: usize) -> &dyn Machine {
        let all = self.roles.len();
        assert!((1..=all).contains(&number), "there are machines 1 to {all}, not {number}");
        match &self.machines {
            Machines::Native { nodes, .. } => &nodes[number - 1],
            Machines::Virtual { vms, .. } => &vms[number - 1],
        }
    }

    /// All machines.
    pub fn nodes(&self) -> impl Iterator<Item = &dyn Machine> {
        (1..=self.roles.len()).map(|number| self.node(number))
    }

    /// A machine as the virtual one that the story has said it needs.
    ///
    /// # Panics
    /// When there is none, or it is a native node.
    #[track_caller]
    pub fn vm(&self, number: usize) -> &Vm {
        match &self.machines {
            Machines::Virtual { vms, .. } => &vms[number - 1],
            Machines::Native { .. } => panic!("the story has not said that it needs this machine"),
        }
    }

    /// Makes the segment misbehave in this way, and in no other, from now on.
    pub fn fault(&self, fault: &Fault) -> anyhow::Result<()> {
        match &self.machines {
            Machines::Native { segment, .. } => segment.set(fault),
            Machines::Virtual { vms, hub, .. } => {
                hub.set(fault.clone());
                (1..).zip(vms).try_for_each(|(n, vm)| vm.plug(!fault.unplugged.contains(&n)))
            }
        }
    }

    /// Reboots a machine in order and waits until it has booted again.
    pub fn reboot(&self, number: usize, patience: Duration) -> anyhow::Result<()> {
        match &self.machines {
            Machines::Virtual { vms, .. } => vms[number - 1].reboot(patience),
            Machines::Native { nodes, .. } => {
                let node = &nodes[number - 1];
                // Who asks may be ended before it is answered.
                node.exec("systemctl reboot", patience)?;
                node.wait_end(patience)?;
                self.start_native(number)?;
                node.wait_boot(patience)
            }
        }
    }

    /// Switches a virtual machine on whose power was cut, and waits until it has booted.
    pub fn power_on(&self, number: usize) -> anyhow::Result<()> {
        let vm = self.vm(number);
        self.start_emulated(number, Memory::Empty)?;
        vm.wait_boot(BOOT)
    }

    /// Ends all machines, removes what they wrote, and answers what is left of native nodes on this
    /// machine all the same.
    pub fn down(&mut self) -> anyhow::Result<Vec<String>> {
        let mut left = Vec::new();
        match &self.machines {
            Machines::Native { nodes, .. } => {
                nodes.iter().try_for_each(Node::kill)?;
                for node in nodes {
                    left.extend(node.remains()?);
                }
            }
            Machines::Virtual { vms, .. } => vms.iter().try_for_each(Vm::power_cut)?,
        }
        super::base::remove(&self.dir)?;
        Ok(left)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        match self.down() {
            Ok(left) => left.iter().for_each(|what| eprintln!("left behind: {what}")),
            Err(e) => eprintln!("{e:#}"),
        }
    }
}

fn named(dir: &Path, roles: &[Role]) -> impl Iterator<Item = (PathBuf, String)> {
    (1..).zip(roles).map(|(number, role)| {
        let name = role.name(number);
        (dir.join(&name), name)
    })
}

/// The directories and names of the machines that another process runs in `dir`: nodes, then routers.
pub fn find(dir: &Path) -> anyhow::Result<Vec<(PathBuf, String)>> {
    let mut machines = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))? {
        let path = entry?.path();
        if path.join("pid").exists() {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            machines.push((path, name));
        }
    }
    machines.sort_by_key(|(_, name)| {
        (["frr", "bird"].iter().position(|router| router == name), name.len(), name.clone())
    });
    ensure!(!machines.is_empty(), "no machine is up in {}", dir.display());
    Ok(machines)
}

/// Ends the machine in `dir`, if there is one, and answers what is left of it on this machine beside its
/// files.
pub(super) fn end(dir: &Path) -> anyhow::Result<Vec<String>> {
    if dir.join("qmp.sock").exists() {
        Vm::at(dir, "?").power_cut()?;
    } else if dir.join("init.sh").exists() {
        let node = Node::at(dir, dir.file_name().unwrap_or_default().to_string_lossy())?;
        node.kill()?;
        return node.remains();
    }
    Ok(Vec::new())
}

/// Ends all machines in `dir`, whose process has ended, removes their files, and answers what is left of
/// them on this machine all the same.
pub fn sweep(dir: &Path) -> anyhow::Result<Vec<String>> {
    let mut left = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten() {
        left.extend(end(&entry?.path())?);
    }
    super::base::remove(dir)?;
    Ok(left)
}

/// Commands that make a copy of the saved machine one of its own: name and addresses.
fn become_somebody(name: &str, number: usize) -> String {
    format!(
        "set -eu
hostname {name}; echo {name} > /etc/hostname
rm -f /etc/machine-id; systemd-machine-id-setup >/dev/null 2>&1
echo {number} > /etc/lab-number
systemctl restart systemd-journald lab-address
systemctl try-restart ves-coordinatord"
    )
}
