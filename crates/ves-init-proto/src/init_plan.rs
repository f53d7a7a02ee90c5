//! Which steps make a container's first process, and in which order. Pure.
//!
//! The order is the security: a group is joined before it becomes the root of what is seen, every
//! mount is made before the node's are let go, a capability is given up after the last step that
//! needs it, the filter comes last before init, and nothing comes after init. [`disorder`] says so
//! independently and is what the tests and the monitor check each list with.

use std::collections::BTreeSet;
use std::path::PathBuf;

use ves_host::cgroup::{Controller, Hierarchies};
use ves_host::mount::attr;
use ves_host::namespace::Namespace;
use ves_types::layout::{self, CGROUP_DELEGATED, Layout};
use ves_types::{CtId, DevicePattern, Hostname};

pub use crate::bounds::{dropped, init_drops, limits, refused};
pub use crate::disorder::disorder;
pub use crate::launch::{Command, Memory, Names, Spec, Work};
use crate::limit::ProcessLimit;
use crate::memory::{Place, Size};
use crate::step::{EtcFile, InitStep, RunFile};
use crate::systemd;
use crate::user::{IDENTITY, UserSpec};

/// The container's control groups on this node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Groups {
    /// Its directory in each version 1 hierarchy.
    pub v1: Vec<PathBuf>,
    /// Which of these says what devices may be opened, if one does.
    pub devices: Option<PathBuf>,
    /// Where version 2 is mounted, and its delegated group below.
    pub v2: Option<(PathBuf, String)>,
}

impl Groups {
    /// Where they are on a node with these hierarchies.
    pub fn of(hierarchies: &Hierarchies, ct: CtId) -> Self {
        let group = layout::cgroup(ct);
        Self {
            v1: hierarchies.v1.iter().map(|h| h.mount.join(&group)).collect(),
            devices: hierarchies.v1_with(Controller::Devices).map(|h| h.mount.join(&group)),
            v2: hierarchies
                .v2
                .as_ref()
                .map(|h| (h.mount.clone(), format!("{group}/{CGROUP_DELEGATED}"))),
        }
    }
}

/// Where programs are looked for.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The devices every container may open, where version 1 controls it: null zero full random urandom,
/// tty console ptmx and pseudo-terminals.
pub const DEVICES: [&str; 9] = [
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:1 rwm",
    "c 5:2 rwm",
    "c 136:* rwm",
];

/// The group of terminals inside.
const TTY: u32 = 5;
/// The most terminals the kernel lets an instance have.
const MOST_PTYS: u32 = 1 << 20;

const PLAIN: u64 = attr::NOSUID | attr::NODEV | attr::NOEXEC;

/// What /proc and /sys tell about the node or do to it, and no container needs. This guards against
/// accidents; ownership is the wall: the container's root can take away or go around mounts made in
/// its own user namespace.
const MASKED: [&str; 21] = [
    "proc/acpi",
    "proc/kcore",
    "proc/keys",
    "proc/kallsyms",
    "proc/latency_stats",
    "proc/sched_debug",
    "proc/scsi",
    "proc/sysrq-trigger",
    "proc/timer_list",
    // The node's disks: nothing inside can be done with them.
    "sys/block",
    "sys/class/block",
    "sys/dev/block",
    "sys/firmware",
    "sys/fs/bpf",
    "sys/fs/fuse",
    "sys/fs/pstore",
    "sys/fs/selinux",
    "sys/kernel/config",
    "sys/kernel/debug",
    "sys/kernel/security",
    "sys/kernel/tracing",
];

/// What may be read only, against accidents as above. Of /proc/sys, what belongs to namespaces of the
/// container stays writable.
const READ_ONLY: [(&str, &[&str]); 4] = [
    (
        "proc/sys",
        &[
            "fs/mqueue",
            "kernel/auto_msgmni",
            "kernel/domainname",
            "kernel/hostname",
            "kernel/msgmax",
            "kernel/msgmnb",
            "kernel/msgmni",
            "kernel/sem",
            "kernel/shm_rmid_forced",
            "kernel/shmall",
            "kernel/shmmax",
            "kernel/shmmni",
            "net",
        ],
    ),
    ("proc/bus", &[]),
    ("proc/fs", &[]),
    ("proc/irq", &[]),
];

/// The list of steps that make the container on a node that gives `allow` besides the usual devices.
pub fn plan_init(
    ct: CtId,
    layout: &Layout,
    spec: &Spec,
    allow: &[DevicePattern],
    groups: &Groups,
) -> Vec<InitStep> {
    let base = spec.slot.base();
    let mut steps = vec![
        InitStep::Limit(limits()),
        InitStep::TakeRoot { volumes: layout.volumes_dir(), name: layout::volume(ct) },
        InitStep::MakeDev { owner: base },
        InitStep::MakeConsole { owner: base, group: base.saturating_add(TTY) },
        InitStep::OpenGroups {
            v1: groups.v1.clone(),
            v2: groups.v2.as_ref().map(|(mount, group)| mount.join(group)),
        },
    ];
    steps.push(InitStep::TakeViews { dir: layout.views_dir() });
    // By the monitor, since the kernel asks for CAP_SYS_ADMIN, which the resources daemon has not.
    steps.extend(groups.devices.clone().map(|group| InitStep::FilterDevices {
        group,
        allow: DEVICES.map(str::to_owned).to_vec(),
    }));
    steps.extend((!spec.devices.is_empty()).then(|| InitStep::GiveDevices {
        owner: base,
        devices: spec.devices.clone(),
        allow: allow.to_vec(),
        group: groups.devices.clone(),
    }));
    steps.extend(groups.v2.is_some().then_some(InitStep::GiveGroup { owner: base }));
    steps.extend([
        InitStep::Clone {
            namespaces: Namespace::ALL.into_iter().filter(|n| *n != Namespace::Cgroup).collect(),
            creator: spec.slot.creator(),
        },
        InitStep::MapIds { base, count: ves_types::IdSlot::MAPPED },
        InitStep::ResetOom,
        InitStep::PinNet(layout.ct_netns(ct)),
        InitStep::BecomeRoot,
        InitStep::DieWithMonitor,
        InitStep::JoinGroups,
        InitStep::NewGroupNamespace,
        InitStep::IsolateMounts,
        InitStep::AttachRoot,
        InitStep::AttachDev,
    ]);
    steps.extend(mounts(spec, groups.v2.is_some()));
    steps.push(InitStep::ShowConsole);
    steps.extend(READ_ONLY.map(|(at, except)| InitStep::ReadOnly {
        at: at.to_owned(),
        except: except.iter().map(|&e| e.to_owned()).collect(),
    }));
    steps.extend(MASKED.map(|at| InitStep::Mask(at.to_owned())));
    steps.push(InitStep::ShowViews);
    steps.push(InitStep::EnterRoot);
    if spec.hostname.is_none() {
        steps.push(InitStep::OwnHostname(Hostname::of_container(ct).to_string()));
    }
    // Every user may ping. The kernel takes no groups that there are not inside, as distributions' own line
    // has it, and by default lets none.
    steps.push(InitStep::SetSysctl {
        name: "net/ipv4/ping_group_range".to_owned(),
        value: format!("0 {}", ves_types::IdSlot::MAPPED - 1),
    });
    steps.extend(plan_names(&spec.names()));
    // No container_uuid: init would make it the machine id, and all we could derive it from, the
    // container's id, is the same on another node. Left alone it makes a random one and keeps it.
    let mut files = vec![RunFile {
        path: "host/container-manager".to_owned(),
        text: "ves\n".to_owned(),
        unless: vec![],
    }];
    files.extend(systemd::files(spec));
    steps.push(InitStep::Introduce { files, notify: true });
    steps.push(InitStep::Drop(dropped(&spec.capabilities_off)));
    steps.push(InitStep::Await);
    steps.push(InitStep::Filter(refused(spec.features)));
    let argv = spec.init.command();
    let env = [
        ("PATH", PATH),
        ("TERM", "linux"),
        ("HOME", "/"),
        ("container", "ves"),
        ("NOTIFY_SOCKET", "/run/host/notify"),
    ];
    // A trigger of the kernel's would not outlive a checkpoint, and systemd not its loss.
    let watch = ("MEMORY_PRESSURE_WATCH", "/dev/null");
    let env = env.into_iter().chain(spec.features.effective().migratable.then_some(watch));
    let env = env.map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    steps.push(InitStep::Exec { argv, env, abi32: spec.features.abi32 });
    steps
}

fn mounts(spec: &Spec, unified: bool) -> Vec<InitStep> {
    let mount = |fs: &str, at: &str, attributes, options: &[(&str, String)]| InitStep::Mount {
        fs: fs.to_owned(),
        at: at.to_owned(),
        attributes,
        options: options.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect(),
    };
    let sized = |mode: &str, place: Place| {
        let mut options = vec![("mode", mode.to_owned())];
        if let Some(Size { bytes, inodes }) = place.size(spec.memory()) {
            options.extend([("size", bytes.to_string()), ("nr_inodes", inodes.to_string())]);
        }
        options
    };
    let mut pts = vec![
        ("ptmxmode", "0666".to_owned()),
        ("mode", "0620".to_owned()),
        ("gid", TTY.to_string()),
    ];
    pts.extend(spec.max_ptys.map(|n| ("max", n.min(MOST_PTYS).to_string())));
    let mut list = vec![
        mount("tmpfs", "dev/shm", attr::NOSUID | attr::NODEV, &sized("1777", Place::Shm)),
        mount("mqueue", "dev/mqueue", PLAIN, &[]),
        mount("proc", "proc", PLAIN, &[]),
        mount("sysfs", "sys", PLAIN | attr::RDONLY, &[]),
        mount("tmpfs", "run", attr::NOSUID | attr::NODEV, &sized("0755", Place::Run)),
    ];
    // To the kernel a limit of 0 is none; without an instance there is no terminal.
    if spec.max_ptys != Some(0) {
        list.push(mount("devpts", "dev/pts", attr::NOSUID | attr::NOEXEC, &pts));
    }
    if unified {
        list.push(mount("cgroup2", "sys/fs/cgroup", PLAIN, &[]));
    }
    if spec.features.nesting {
        // Who is in a user namespace inside gets these of his own only where the kernel finds one that
        // nothing lies over, and /proc and /sys have masks.
        list.push(mount("proc", "run/host/proc", PLAIN, &[]));
        list.push(mount("sysfs", "run/host/sys", PLAIN, &[]));
    }
    list
}

/// What gives a container the names that its operator set, at its start or while it runs; what he did not
/// set stays the container's own.
pub fn plan_names(names: &Names) -> Vec<InitStep> {
    let mut steps = Vec::new();
    if let Some(name) = names.hostname.as_ref().map(ToString::to_string) {
        let files = [EtcFile::Hostname(name.clone()), EtcFile::Hosts(name.clone())];
        steps.push(InitStep::SetHostname(name));
        steps.extend(files.map(InitStep::WriteEtc));
    }
    let mut resolv = String::new();
    if !names.search.is_empty() {
        let search: Vec<_> = names.search.iter().map(ToString::to_string).collect();
        resolv.push_str(&format!("search {}\n", search.join(" ")));
    }
    for server in &names.nameservers {
        resolv.push_str(&format!("nameserver {server}\n"));
    }
    steps.push(InitStep::WriteEtc(EtcFile::Resolv(resolv)));
    steps
}

/// What makes the memory file systems of what runs fit its memory; those that nothing limits stay as they are.
fn plan_sizes(memory: Memory) -> Vec<InitStep> {
    let all = [
        (Place::Shm, "/dev/shm", vec![]),
        (Place::Run, "/run", vec![]),
        (Place::Tmp, "/tmp", systemd::own_tmp()),
    ];
    let resize = |(place, at, unless): (Place, &str, _)| {
        Some(InitStep::Resize { at: at.to_owned(), size: place.size(memory)?, unless })
    };
    let users = Place::User.size(memory).map(InitStep::ResizeUsers);
    all.into_iter().filter_map(resize).chain(users).collect()
}

/// The environment of commands run inside by `exec`, as a login of root has it.
pub fn login_env() -> Vec<(String, String)> {
    let env = [
        ("HOME", "/root"),
        ("PATH", PATH),
        ("TERM", "linux"),
        ("SHELL", "/bin/sh"),
        ("USER", "root"),
        ("LOGNAME", "root"),
    ];
    env.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

/// What is done for a command inside. Which system calls it may not make follows from the features that the
/// container runs with, by [`refused`]; its monitor knows them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecPlan {
    /// The container's volatile directory.
    pub dir: PathBuf,
    /// The container's version 1 groups.
    pub groups: Vec<PathBuf>,
    /// Where the version 2 hierarchy is mounted, and the container's delegated group below it.
    pub unified: Option<(PathBuf, String)>,
    /// What is done in place of a program.
    pub steps: Option<Vec<InitStep>>,
    /// Where the views are that are taken inside for that.
    pub views: Option<PathBuf>,
    /// The program and its arguments; none: a login shell.
    pub argv: Vec<String>,
    /// The environment.
    pub env: Vec<(String, String)>,
    /// Whether `env` is all there is.
    pub bare: bool,
    /// Where it begins; none: the home of its user.
    pub cwd: Option<String>,
    /// Whose it is; none: root's.
    pub user: Option<UserSpec>,
    /// Rows and columns, if it gets a terminal.
    pub terminal: Option<(u16, u16)>,
    /// The limits it gets.
    pub limits: Vec<ProcessLimit>,
}

impl ExecPlan {
    /// The capabilities it may not have, as bits, where init may not have `init`. What is done in place of a
    /// program is no program's of the container and may need what they have not.
    pub fn dropped(&self, init: u64) -> u64 {
        let always = dropped(&BTreeSet::new());
        if self.steps.is_some() { always } else { always | init }
    }
}

/// How something is done inside.
pub fn plan_exec(ct: CtId, layout: &Layout, groups: &Groups, work: &Work) -> ExecPlan {
    let (command, steps) = match work {
        Work::Run(command) => (command.clone(), None),
        Work::Name(names) => (Command::default(), Some(plan_names(names))),
        Work::Fit(memory) => (Command::default(), Some(plan_sizes(*memory))),
        Work::Views => (Command::default(), Some(vec![InitStep::ShowViews])),
    };
    let mut env = if command.bare { Vec::new() } else { login_env() };
    // Who another user is, is known when it was looked up inside.
    env.retain(|(name, _)| command.user.is_none() || !IDENTITY.contains(&name.as_str()));
    for (name, value) in &command.env {
        env.retain(|(n, _)| n != name);
        env.push((name.clone(), value.clone()));
    }
    ExecPlan {
        dir: layout.ct_dir(ct),
        groups: groups.v1.clone(),
        unified: groups.v2.clone(),
        steps,
        views: matches!(work, Work::Views).then(|| layout.views_dir()),
        argv: command.argv,
        env,
        bare: command.bare,
        cwd: command.cwd,
        user: command.user,
        terminal: command.terminal,
        limits: limits(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn spec() -> Spec {
        Spec {
            slot: 20.try_into().expect("a slot"),
            hostname: Some("web.example.org".parse().expect("a name")),
            init: ves_types::InitArgv::default(),
            nameservers: vec![],
            search: vec![],
            max_ptys: None,
            shm_bytes: None,
            ram_bytes: None,
            devices: vec![],
            capabilities_off: BTreeSet::new(),
            features: ves_types::Features::default(),
        }
    }

    fn ct() -> CtId {
        9401.try_into().expect("valid")
    }

    #[test]
    fn a_swapped_pair_that_matters_is_noticed() {
        let groups =
            Groups { devices: Some("/sys/fs/cgroup/devices/x".into()), ..Groups::default() };
        let spec = Spec { devices: vec!["fuse:rw".parse().expect("valid")], ..spec() };
        let steps = plan_init(ct(), &Layout::default(), &spec, &[], &groups);
        assert_eq!(disorder(&steps), None);
        let at = |what: fn(&InitStep) -> bool| steps.iter().position(what).expect("there");
        let pairs = [
            (
                at(|s| matches!(s, InitStep::JoinGroups)),
                at(|s| matches!(s, InitStep::NewGroupNamespace)),
            ),
            (
                at(|s| matches!(s, InitStep::FilterDevices { .. })),
                at(|s| matches!(s, InitStep::Clone { .. })),
            ),
            (
                at(|s| matches!(s, InitStep::FilterDevices { .. })),
                at(|s| matches!(s, InitStep::GiveDevices { .. })),
            ),
            (
                at(|s| matches!(s, InitStep::MakeDev { .. })),
                at(|s| matches!(s, InitStep::GiveDevices { .. })),
            ),
            (at(|s| matches!(s, InitStep::ShowConsole)), at(|s| matches!(s, InitStep::EnterRoot))),
            (
                at(|s| matches!(s, InitStep::Mount { fs, .. } if fs == "sysfs")),
                at(|s| matches!(s, InitStep::ShowViews)),
            ),
            (at(|s| matches!(s, InitStep::ShowViews)), at(|s| matches!(s, InitStep::EnterRoot))),
            (at(|s| matches!(s, InitStep::SetHostname(_))), at(|s| matches!(s, InitStep::Drop(_)))),
            (at(|s| matches!(s, InitStep::Filter(_))), at(|s| matches!(s, InitStep::Exec { .. }))),
            (
                at(|s| matches!(s, InitStep::BecomeRoot)),
                at(|s| matches!(s, InitStep::DieWithMonitor)),
            ),
            (at(|s| matches!(s, InitStep::Drop(_))), at(|s| matches!(s, InitStep::Filter(_)))),
        ];
        for (a, b) in pairs {
            let mut swapped = steps.clone();
            swapped.swap(a, b);
            assert!(disorder(&swapped).is_some(), "{} and {}", steps[a], steps[b]);
        }
    }

    #[test]
    fn what_the_operator_did_not_set_is_the_containers() {
        let own = Spec { hostname: None, ..spec() };
        let none = [InitStep::WriteEtc(EtcFile::Resolv(String::new()))];
        assert_eq!(plan_names(&own.names()), none);
        let steps = plan_init(ct(), &Layout::default(), &own, &[], &Groups::default());
        assert!(steps.contains(&InitStep::OwnHostname("ct9401".into())));
        assert!(!steps.iter().any(|step| matches!(step, InitStep::SetHostname(_))));
        let set =
            plan_names(&Spec { search: vec!["a.b".parse().expect("valid")], ..spec() }.names());
        assert!(set.contains(&InitStep::SetHostname("web.example.org".into())));
        assert!(set.contains(&InitStep::WriteEtc(EtcFile::Hosts("web.example.org".into()))));
        assert!(set.contains(&InitStep::WriteEtc(EtcFile::Resolv("search a.b\n".into()))));
    }

    #[test]
    fn the_callers_variables_win_and_bare_is_bare() {
        let command = Command {
            argv: vec!["true".into()],
            env: vec![("PATH".into(), "/x".into())],
            ..Command::default()
        };
        let plan = |c: &Command| {
            let work = Work::Run(c.clone());
            plan_exec(ct(), &Layout::default(), &Groups::default(), &work).env
        };
        let env = plan(&command);
        assert_eq!(env.iter().filter(|(n, _)| n == "PATH").count(), 1);
        assert!(env.contains(&("PATH".into(), "/x".into())));
        assert_eq!(plan(&Command { bare: true, ..command.clone() }).len(), 1);
        let user = Some("app".parse().expect("a user"));
        let env = plan(&Command { user, ..command });
        let said = |name: &str| env.iter().any(|(n, _)| n == name);
        assert!(said("PATH") && !said("USER") && !said("LOGNAME"), "{env:?}");
    }

    proptest! {
        #[test]
        fn every_plan_is_in_order(
            slot in 16u32..60_000,
            ptys in proptest::option::of(prop_oneof![Just(0), Just(1), 0u32..u32::MAX]),
            shm in proptest::option::of(any::<u64>()),
            v1 in 0usize..9,
            controlled: bool,
            unified: bool,
            servers in 0usize..3,
            given in 0usize..3,
            nesting: bool,
        ) {
            let spec = Spec {
                slot: slot.try_into().expect("in range"),
                max_ptys: ptys,
                shm_bytes: shm,
                nameservers: vec!["192.0.2.1".parse().expect("valid"); servers],
                devices: vec!["net/tun:rw".parse().expect("valid"); given],
                features: ves_types::Features { nesting, ..spec().features },
                ..spec()
            };
            let groups = Groups {
                v1: vec![PathBuf::from("/sys/fs/cgroup/x/ves/ct-1"); v1],
                devices: controlled.then(|| "/sys/fs/cgroup/x/ves/ct-1".into()),
                v2: unified.then(|| ("/sys/fs/cgroup".into(), "ves/ct-1/payload".into())),
            };
            let steps = plan_init(ct(), &Layout::default(), &spec, &[], &groups);
            prop_assert_eq!(disorder(&steps), None);
            prop_assert_eq!(&steps, &plan_init(ct(), &Layout::default(), &spec, &[], &groups));
            // A tenant that shares a group's view with the node would see the node.
            let cgroup2 = steps.iter().any(|s| matches!(s, InitStep::Mount { fs, .. } if fs == "cgroup2"));
            prop_assert_eq!(cgroup2, unified);
            let filtered = steps.iter().any(|s| matches!(s, InitStep::FilterDevices { .. }));
            prop_assert_eq!(filtered, controlled);
            // Where devices are controlled, those that are given can be opened.
            let told = steps.iter().find_map(|s| match s {
                InitStep::GiveDevices { devices, group, .. } => Some((devices.len(), group.is_some())),
                _ => None,
            });
            prop_assert_eq!(told, (given > 0).then_some((given, controlled)));
            // One of each that nothing lies over, where somebody inside may want his own.
            for of in ["proc", "sysfs"] {
                let places = steps.iter().filter_map(|s| match s {
                    InitStep::Mount { fs, at, .. } if fs == of => Some(at),
                    _ => None,
                });
                let bare = places.filter(|at| !steps.iter().any(|s| match s {
                    InitStep::Mask(over) | InitStep::ReadOnly { at: over, .. } => over.starts_with(*at),
                    _ => false,
                }));
                prop_assert_eq!(bare.count(), usize::from(nesting));
            }
            // Where terminals are limited, the kernel is told a limit that it takes for one.
            let told = steps.iter().find_map(|s| match s {
                InitStep::Mount { fs, options, .. } if fs == "devpts" => Some(options),
                _ => None,
            });
            prop_assert_eq!(told.is_some(), ptys != Some(0));
            let max = told.and_then(|options| options.iter().find(|(name, _)| name == "max"));
            let max = max.map(|(_, max)| max.parse::<u32>().expect("a number"));
            prop_assert_eq!(max, ptys.filter(|n| *n > 0).map(|n| n.min(1 << 20)));
        }
    }
}
