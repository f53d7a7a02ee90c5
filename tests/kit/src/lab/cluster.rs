//! Several nodes on one segment, up in seconds from the golden node, and gone whatever happens.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;

use super::golden::{Golden, UP};
use super::hub::{Hub, sockets};
use super::vm::Vm;

/// How long an emulated node may take to boot.
const BOOT: Duration = Duration::from_secs(600);

/// What a machine of the lab is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Runs our packages.
    Node,
    /// A router with FRR.
    Frr,
    /// A router with BIRD.
    Bird,
}

/// Machines on a segment.
#[derive(Debug)]
pub struct Cluster {
    golden: Golden,
    dir: PathBuf,
    machines: Vec<Vm>,
    hub: Hub,
}

impl Cluster {
    /// Starts machines with these roles, numbered from 1, in `dir`, and waits until they answer.
    /// Nodes are named `node1` and on, routers `frr` and `bird`.
    ///
    /// # Errors
    /// A machine that does not come up, with what its console said.
    pub fn up(golden: &Golden, dir: &Path, roles: &[Role]) -> anyhow::Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        let hub = Hub::start(dir, roles.len())?;
        let machines = roles.iter().enumerate().map(|(port, role)| {
            let name = match role {
                Role::Node => format!("node{}", port + 1),
                Role::Frr => "frr".to_owned(),
                Role::Bird => "bird".to_owned(),
            };
            Vm::at(dir.join(&name), name)
        });
        let cluster =
            Self { golden: golden.clone(), dir: dir.to_owned(), machines: machines.collect(), hub };
        for (port, vm) in cluster.machines.iter().enumerate() {
            vm.copy_disks(&golden.vm)?;
            cluster.start(port, Some(UP))?;
        }
        for (port, role) in roles.iter().enumerate() {
            cluster.settle(port, *role).map_err(|e| e.context(cluster.report()))?;
        }
        Ok(cluster)
    }

    fn settle(&self, port: usize, role: Role) -> anyhow::Result<()> {
        let vm = &self.machines[port];
        vm.wait_agent(BOOT)?;
        vm.set_clock()?;
        vm.sh(&become_somebody(vm.name(), port + 1))?;
        routing(role, port + 1).map_or(Ok(()), |routing| vm.sh(&routing).map(drop))
    }

    /// What may tell why something failed: the ends of all machines' consoles and journals.
    pub fn report(&self) -> String {
        let mut text = String::new();
        for vm in &self.machines {
            let serial = vm.serial();
            let skip = serial.chars().count().saturating_sub(4000);
            let tail: String = serial.chars().skip(skip).collect();
            text += &format!("--- console of {} ---\n{tail}\n", vm.name());
            let journal = "journalctl --no-pager -o short-monotonic -n 60; virtctl list -a";
            text += &match vm.exec(journal, Duration::from_secs(60)) {
                Ok(out) => {
                    format!("--- journal of {} ---\n{}{}\n", vm.name(), out.stdout, out.stderr)
                }
                Err(error) => format!("--- {} does not answer: {error:#} ---\n", vm.name()),
            };
        }
        text
    }

    fn start(&self, port: usize, snapshot: Option<&str>) -> anyhow::Result<()> {
        let (near, far) = sockets(&self.dir, port);
        let golden = &self.golden;
        let (image, shape, payload) = (&golden.image, &golden.shape, &golden.payload);
        self.machines[port].start(image, shape, payload, (&near, &far), snapshot)
    }

    /// The machine with this number, from 1 on: nodes first, then FRR, then BIRD.
    ///
    /// # Panics
    /// When there is none.
    #[track_caller]
    pub fn node(&self, number: usize) -> &Vm {
        let all = self.machines.len();
        self.machines
            .get(number.wrapping_sub(1))
            .unwrap_or_else(|| panic!("the lab has machines 1 to {all}, not {number}"))
    }

    /// All machines.
    pub fn nodes(&self) -> &[Vm] {
        &self.machines
    }

    /// The segment, to make it misbehave.
    pub fn segment(&self) -> &Hub {
        &self.hub
    }

    /// Switches a machine on whose power was cut, and waits until it has booted.
    ///
    /// # Errors
    /// When it does not come up, with what its console said.
    pub fn power_on(&self, number: usize) -> anyhow::Result<()> {
        let vm = self.node(number);
        self.start(number - 1, None)?;
        vm.wait_boot(BOOT)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for vm in &self.machines {
            if let Err(e) = vm.power_cut() {
                eprintln!("{e:#}");
            }
        }
        fs::remove_dir_all(&self.dir).ok(); // what is left is removed by the next who comes here
    }
}

/// The machines that another process runs in `dir`: nodes, then routers.
///
/// # Errors
/// When there are none.
pub fn find(dir: &Path) -> anyhow::Result<Vec<Vm>> {
    let lacking = || "no lab is up; `cargo xtask lab up N` starts one".to_string();
    let mut machines = Vec::new();
    for entry in fs::read_dir(dir).with_context(lacking)? {
        let path = entry?.path();
        if path.join("pid").exists() {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            machines.push(Vm::at(path, name));
        }
    }
    let order = |vm: &Vm| (["frr", "bird"].iter().position(|r| *r == vm.name()), vm.name().len());
    machines.sort_by_key(|vm| (order(vm), vm.name().to_owned()));
    anyhow::ensure!(!machines.is_empty(), lacking());
    Ok(machines)
}

/// Commands that make a copy of the golden node a machine of its own: name and addresses.
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

/// Makes a machine one without Ves, also after its next boot.
const QUIET: &str = "systemctl list-unit-files --no-legend --state=enabled 've[s]-*' | \
     while read -r unit _; do systemctl disable --quiet --now \"$unit\"; done
systemctl stop 'ves-*'";

/// Commands that make a machine a router in area 0.
fn routing(role: Role, number: usize) -> Option<String> {
    match role {
        Role::Node => None,
        Role::Frr => Some(format!(
            "set -eu
{QUIET}
sed -i -e s/^ospfd=no/ospfd=yes/ -e s/^ospf6d=no/ospf6d=yes/ /etc/frr/daemons
cat > /etc/frr/frr.conf <<'END'
interface eth0
 ip ospf area 0
 ip ospf hello-interval 1
 ip ospf dead-interval 4
 ipv6 ospf6 area 0
 ipv6 ospf6 hello-interval 1
 ipv6 ospf6 dead-interval 4
router ospf
 ospf router-id 10.86.0.{number}
router ospf6
 ospf6 router-id 10.86.0.{number}
END
systemctl unmask frr 2>/dev/null; systemctl enable --quiet frr; systemctl restart frr"
        )),
        Role::Bird => Some(format!(
            "set -eu
{QUIET}
cat > /etc/bird/bird.conf <<'END'
router id 10.86.0.{number};
protocol device {{}}
protocol kernel {{ ipv4 {{ export all; }}; }}
protocol kernel {{ ipv6 {{ export all; }}; }}
protocol ospf v2 {{ ipv4 {{ import all; }}; area 0 {{ interface \"eth0\" {{ hello 1; dead 4; }}; }}; }}
protocol ospf v3 {{ ipv6 {{ import all; }}; area 0 {{ interface \"eth0\" {{ hello 1; dead 4; }}; }}; }}
END
systemctl unmask bird 2>/dev/null; systemctl enable --quiet bird; systemctl restart bird"
        )),
    }
}
