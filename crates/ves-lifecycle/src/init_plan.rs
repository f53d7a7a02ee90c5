//! Which steps make a container's first process, and in which order. Pure.
//!
//! The order is the security: a group is joined before it becomes the root of what is seen, every
//! mount is made before the node's are let go, a capability is given up after the last step that
//! needs it, the filter comes last before init, and nothing comes after init. [`disorder`] says so
//! independently and is what the tests and the daemon check each list with.

use std::path::PathBuf;

use ves_host::mount::attr;
use ves_host::namespace::Namespace;
use ves_host::seccomp::{Refuse, When};
use ves_init_proto::{EtcFile, ExecPlan, InitStep, Limited, ProcessLimit, Side};
use ves_types::CtId;
use ves_types::layout::Layout;

use crate::plan::Spec;

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

/// Where programs are looked for.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The devices every container may open, where version 1 controls it: null zero full random urandom,
/// tty console ptmx and pseudo-terminals, fuse, tun.
pub const DEVICES: [&str; 11] = [
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:1 rwm",
    "c 5:2 rwm",
    "c 136:* rwm",
    "c 10:229 rwm",
    "c 10:200 rwm",
];

const PLAIN: u64 = attr::NOSUID | attr::NODEV | attr::NOEXEC;

/// What /proc and /sys tell about the node or do to it, and no container needs. This guards against
/// accidents; ownership is the wall: the container's root can take away or go around mounts made in
/// its own user namespace.
const MASKED: [&str; 18] = [
    "proc/acpi",
    "proc/kcore",
    "proc/keys",
    "proc/kallsyms",
    "proc/latency_stats",
    "proc/sched_debug",
    "proc/scsi",
    "proc/sysrq-trigger",
    "proc/timer_list",
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

/// Capabilities no container has, not even in its own user namespace, by number: their use is
/// either impossible there or reaches for what is the node's.
pub const DROPPED: [(u32, &str); 13] = [
    (16, "SYS_MODULE"),
    (17, "SYS_RAWIO"),
    (20, "SYS_PACCT"),
    (25, "SYS_TIME"),
    (30, "AUDIT_CONTROL"),
    (32, "MAC_OVERRIDE"),
    (33, "MAC_ADMIN"),
    (34, "SYSLOG"),
    (35, "WAKE_ALARM"),
    (36, "BLOCK_SUSPEND"),
    (37, "AUDIT_READ"),
    (38, "PERFMON"),
    (39, "BPF"),
];

/// [`DROPPED`] as bits.
pub fn dropped() -> u64 {
    DROPPED.iter().fold(0, |bits, (n, _)| bits | 1 << n)
}

/// Limits of init and of commands run inside: those a booted Debian has, whatever the daemon's are.
pub fn limits() -> Vec<ProcessLimit> {
    let limit = |what, soft, hard| ProcessLimit { what, soft, hard };
    vec![
        limit(Limited::Files, Some(1024), Some(524_288)),
        limit(Limited::Core, Some(0), None),
        limit(Limited::Memlock, Some(8 << 20), Some(8 << 20)),
        limit(Limited::Stack, Some(8 << 20), None),
        limit(Limited::Processes, None, None),
        limit(Limited::Signals, Some(65_536), Some(65_536)),
    ]
}

/// The system calls a system container is refused: doors to the kernel that past holes came
/// through, that reach the node, or that checkpointing cannot follow.
pub fn refused() -> Vec<Refuse> {
    let number = |call: libc::c_long| u32::try_from(call).unwrap_or(u32::MAX);
    let errno = |e: i32| u16::try_from(e).unwrap_or_default();
    let (eperm, enosys) = (errno(libc::EPERM), errno(libc::ENOSYS));
    let mut list = Vec::new();
    let always = [
        libc::SYS_kexec_load,
        libc::SYS_kexec_file_load,
        libc::SYS_init_module,
        libc::SYS_finit_module,
        libc::SYS_delete_module,
        libc::SYS_open_by_handle_at,
        libc::SYS_bpf,
        libc::SYS_perf_event_open,
        libc::SYS_userfaultfd,
        libc::SYS_io_uring_setup,
        libc::SYS_io_uring_enter,
        libc::SYS_io_uring_register,
        libc::SYS_keyctl,
        libc::SYS_add_key,
        libc::SYS_request_key,
        libc::SYS_swapon,
        libc::SYS_swapoff,
        libc::SYS_acct,
        libc::SYS_settimeofday,
        libc::SYS_clock_settime,
        libc::SYS_lookup_dcookie,
        libc::SYS_syslog,
    ];
    #[cfg(target_arch = "x86_64")]
    let ports = [libc::SYS_iopl, libc::SYS_ioperm, libc::SYS_uselib];
    #[cfg(not(target_arch = "x86_64"))]
    let ports: [libc::c_long; 0] = [];
    for call in always.into_iter().chain(ports) {
        list.push(Refuse { call: number(call), when: When::Always, errno: eperm });
    }
    // Its flags are behind a pointer where no filter sees them; without it libraries use clone.
    list.push(Refuse { call: number(libc::SYS_clone3), when: When::Always, errno: enosys });
    let nested = [
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWUTS,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWCGROUP,
    ];
    let bits = nested.into_iter().fold(0, |bits, flag| bits | flag.cast_unsigned());
    let new_time = libc::CLONE_NEWTIME.cast_unsigned();
    for (call, bits) in [(libc::SYS_unshare, bits | new_time), (libc::SYS_clone, bits)] {
        let when = When::AnyBit { arg: 0, bits };
        list.push(Refuse { call: number(call), when, errno: eperm });
    }
    let families = [
        libc::AF_AX25,
        libc::AF_IPX,
        libc::AF_APPLETALK,
        libc::AF_NETROM,
        libc::AF_ATMPVC,
        libc::AF_X25,
        libc::AF_ROSE,
        libc::AF_KEY,
        libc::AF_RDS,
        libc::AF_LLC,
        libc::AF_IB,
        libc::AF_CAN,
        libc::AF_TIPC,
        libc::AF_BLUETOOTH,
        libc::AF_IUCV,
        libc::AF_RXRPC,
        libc::AF_ISDN,
        libc::AF_PHONET,
        libc::AF_IEEE802154,
        libc::AF_CAIF,
        libc::AF_ALG,
        libc::AF_NFC,
        libc::AF_VSOCK,
        AF_KCM,
        AF_QIPCRTR,
        AF_SMC,
        libc::AF_XDP,
    ];
    for family in families {
        for call in [libc::SYS_socket, libc::SYS_socketpair] {
            let when = When::Equal { arg: 0, value: family.cast_unsigned() };
            let errno = errno(libc::EAFNOSUPPORT);
            list.push(Refuse { call: number(call), when, errno });
        }
    }
    list
}

const AF_KCM: i32 = 41;
const AF_QIPCRTR: i32 = 42;
const AF_SMC: i32 = 43;

/// The list of steps that make the container.
pub fn plan_init(ct: CtId, layout: &Layout, spec: &Spec, groups: &Groups) -> Vec<InitStep> {
    let base = spec.slot.base();
    let mut steps = vec![
        InitStep::Limit(limits()),
        InitStep::TakeRoot(layout.ct_root(ct)),
        InitStep::MakeDev { owner: base },
        InitStep::OpenGroups {
            v1: groups.v1.clone(),
            v2: groups.v2.as_ref().map(|(mount, group)| mount.join(group)),
        },
    ];
    // By the monitor, since the kernel asks for CAP_SYS_ADMIN, which the resources daemon has not.
    steps.extend(groups.devices.clone().map(|group| InitStep::FilterDevices {
        group,
        allow: DEVICES.map(str::to_owned).to_vec(),
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
    steps.push(InitStep::MakeConsole);
    steps.extend(READ_ONLY.map(|(at, except)| InitStep::ReadOnly {
        at: at.to_owned(),
        except: except.iter().map(|&e| e.to_owned()).collect(),
    }));
    steps.extend(MASKED.map(|at| InitStep::Mask(at.to_owned())));
    steps.push(InitStep::EnterRoot);
    steps.push(InitStep::SetHostname(spec.hostname.to_string()));
    steps.extend(etc(spec).into_iter().map(InitStep::WriteEtc));
    // No container_uuid: init would make it the machine id, and all we could derive it from, the
    // container's id, is the same on another node. Left alone it makes a random one and keeps it.
    steps.push(InitStep::Introduce {
        files: vec![("container-manager".to_owned(), "ves\n".to_owned())],
        notify: true,
    });
    steps.push(InitStep::Drop(dropped()));
    steps.push(InitStep::Await);
    steps.push(InitStep::Filter(refused()));
    let argv = spec.init.command();
    let env = [
        ("PATH", PATH),
        ("TERM", "linux"),
        ("HOME", "/"),
        ("container", "ves"),
        ("NOTIFY_SOCKET", "/run/host/notify"),
    ];
    let env = env.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    steps.push(InitStep::Exec { argv, env });
    steps
}

fn mounts(spec: &Spec, unified: bool) -> Vec<InitStep> {
    let mount = |fs: &str, at: &str, attributes, options: &[(&str, String)]| InitStep::Mount {
        fs: fs.to_owned(),
        at: at.to_owned(),
        attributes,
        options: options.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect(),
    };
    let sized = |mode: &str| {
        let mut options = vec![("mode", mode.to_owned())];
        options.extend(spec.shm_bytes.map(|bytes| ("size", bytes.to_string())));
        options
    };
    let mut pts =
        vec![("ptmxmode", "0666".to_owned()), ("mode", "0620".to_owned()), ("gid", "5".to_owned())];
    // The console is one of them.
    pts.extend(spec.max_ptys.map(|n| ("max", n.saturating_add(1).to_string())));
    let mut list = vec![
        mount("devpts", "dev/pts", attr::NOSUID | attr::NOEXEC, &pts),
        mount("tmpfs", "dev/shm", attr::NOSUID | attr::NODEV, &sized("1777")),
        mount("mqueue", "dev/mqueue", PLAIN, &[]),
        mount("proc", "proc", PLAIN, &[]),
        mount("sysfs", "sys", PLAIN | attr::RDONLY, &[]),
        mount("tmpfs", "run", attr::NOSUID | attr::NODEV, &sized("0755")),
    ];
    if unified {
        list.push(mount("cgroup2", "sys/fs/cgroup", PLAIN, &[]));
    }
    list
}

fn etc(spec: &Spec) -> Vec<EtcFile> {
    let name = spec.hostname.to_string();
    let mut files = vec![EtcFile::Hostname(name.clone()), EtcFile::Hosts(name)];
    if !spec.nameservers.is_empty() {
        let mut text = String::new();
        if !spec.search.is_empty() {
            let search: Vec<_> = spec.search.iter().map(ToString::to_string).collect();
            text.push_str(&format!("search {}\n", search.join(" ")));
        }
        for server in &spec.nameservers {
            text.push_str(&format!("nameserver {server}\n"));
        }
        files.push(EtcFile::Resolv(text));
    }
    files
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

/// What a command inside is to be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Command {
    /// Program and arguments; none: a login shell.
    pub argv: Vec<String>,
    /// Environment, on top of a clean one unless `bare`.
    pub env: Vec<(String, String)>,
    /// Rows and columns of its terminal, if it has one.
    pub terminal: Option<(u16, u16)>,
    /// Whether `env` is all there is.
    pub bare: bool,
}

/// What `ves-init exec` is told for a command.
pub fn plan_exec(ct: CtId, layout: &Layout, groups: &Groups, command: &Command) -> ExecPlan {
    let mut env = if command.bare { Vec::new() } else { login_env() };
    for (name, value) in &command.env {
        env.retain(|(n, _)| n != name);
        env.push((name.clone(), value.clone()));
    }
    ExecPlan {
        dir: layout.ct_dir(ct),
        groups: groups.v1.clone(),
        unified: groups.v2.clone(),
        argv: command.argv.clone(),
        env,
        terminal: command.terminal,
        limits: limits(),
        drop: dropped(),
        refuse: refused(),
    }
}

/// What is wrong with the order of a list of steps; nothing, if it can be performed safely.
/// Written without looking at [`plan_init`].
pub fn disorder(steps: &[InitStep]) -> Option<String> {
    let place = |what: &dyn Fn(&InitStep) -> bool| steps.iter().position(what);
    let last = |what: &dyn Fn(&InitStep) -> bool| steps.iter().rposition(what);
    let is_mount = |s: &InitStep| {
        matches!(
            s,
            InitStep::AttachRoot
                | InitStep::AttachDev
                | InitStep::Mount { .. }
                | InitStep::ReadOnly { .. }
                | InitStep::Mask(_)
                | InitStep::MakeConsole
        )
    };
    let before = |a: Option<usize>, b: Option<usize>, rule: &str| match (a, b) {
        (Some(a), Some(b)) if a < b => None,
        _ => Some(rule.to_owned()),
    };
    let enter = place(&|s| matches!(s, InitStep::EnterRoot));
    let join = place(&|s| matches!(s, InitStep::JoinGroups));
    let drop = place(&|s| matches!(s, InitStep::Drop(_)));
    let filter = place(&|s| matches!(s, InitStep::Filter(_)));
    let isolate = place(&|s| matches!(s, InitStep::IsolateMounts));
    let root = place(&|s| matches!(s, InitStep::BecomeRoot));
    let die = place(&|s| matches!(s, InitStep::DieWithMonitor));
    let ns = place(&|s| matches!(s, InitStep::NewGroupNamespace));
    let clone = place(&|s| matches!(s, InitStep::Clone { .. }));
    let devices = place(&|s| matches!(s, InitStep::FilterDevices { .. }));
    let cgroup2 = place(&|s| matches!(s, InitStep::Mount { fs, .. } if fs == "cgroup2"));
    let privileged = last(&|s| {
        is_mount(s)
            || matches!(
                s,
                InitStep::EnterRoot
                    | InitStep::SetHostname(_)
                    | InitStep::WriteEtc(_)
                    | InitStep::Introduce { .. }
            )
    });
    let exec = place(&|s| matches!(s, InitStep::Exec { .. }));
    let outer_last = last(&|s| s.side() == Side::Outer);
    let inner_first = place(&|s| s.side() == Side::Inner);
    let end = steps.len().checked_sub(1);
    if exec.is_none() || exec != end {
        return Some("init must be the last step and the only one".to_owned());
    }
    if filter.map(|f| f + 1) != exec {
        return Some("the filter must come right before init".to_owned());
    }
    before(join, ns, "groups must be joined before they become the root of what is seen")
        .or_else(|| {
            cgroup2.and_then(|_| before(ns, cgroup2, "cgroup2 shows the node without a namespace"))
        })
        .or_else(|| {
            devices.and_then(|_| {
                before(devices, clone, "devices are filtered after the first process")
            })
        })
        .or_else(|| before(last(&is_mount), enter, "every mount must be made before the root"))
        .or_else(|| before(isolate, place(&is_mount), "mounts must be isolated before the first"))
        .or_else(|| before(privileged, drop, "capabilities are given up too early"))
        .or_else(|| before(drop, filter, "the filter must come after giving up capabilities"))
        .or_else(|| before(root, die, "a change of identity forgets whom to die with"))
        .or_else(|| before(outer_last, inner_first, "outer steps come first"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn spec() -> Spec {
        Spec {
            slot: 20.try_into().expect("a slot"),
            hostname: "web.example.org".parse().expect("a name"),
            init: ves_types::InitArgv::default(),
            nameservers: vec![],
            search: vec![],
            max_ptys: None,
            shm_bytes: None,
        }
    }

    fn ct() -> CtId {
        9401.try_into().expect("valid")
    }

    #[test]
    fn a_swapped_pair_that_matters_is_noticed() {
        let groups =
            Groups { devices: Some("/sys/fs/cgroup/devices/x".into()), ..Groups::default() };
        let steps = plan_init(ct(), &Layout::default(), &spec(), &groups);
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
            (at(|s| matches!(s, InitStep::MakeConsole)), at(|s| matches!(s, InitStep::EnterRoot))),
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
    fn no_network_file_is_touched_without_servers() {
        let resolv = |spec: &Spec| etc(spec).iter().any(|f| matches!(f, EtcFile::Resolv(_)));
        assert!(!resolv(&spec()));
        let with = Spec { nameservers: vec!["::1".parse().expect("valid")], ..spec() };
        assert!(resolv(&with));
    }

    #[test]
    fn the_callers_variables_win_and_bare_is_bare() {
        let command = Command {
            argv: vec!["true".into()],
            env: vec![("PATH".into(), "/x".into())],
            ..Command::default()
        };
        let plan = |c: &Command| plan_exec(ct(), &Layout::default(), &Groups::default(), c).env;
        let env = plan(&command);
        assert_eq!(env.iter().filter(|(n, _)| n == "PATH").count(), 1);
        assert!(env.contains(&("PATH".into(), "/x".into())));
        assert_eq!(plan(&Command { bare: true, ..command }).len(), 1);
    }

    #[test]
    fn the_filter_is_small_and_lets_programs_live() {
        use ves_host::seccomp::Filter;
        let filter = Filter::compile(&refused());
        assert!(filter.len() < 1000, "{}", filter.len());
        let arch = Filter::native_arch();
        let ask = |call: libc::c_long, arg| {
            filter.action(arch, u32::try_from(call).expect("a call"), [arg, 0, 0, 0, 0, 0])
        };
        for call in [libc::SYS_read, libc::SYS_execve, libc::SYS_mount, libc::SYS_reboot] {
            assert_eq!(ask(call, 0), None);
        }
        let flag = |f: i32| u64::from(f.cast_unsigned());
        assert_eq!(ask(libc::SYS_unshare, flag(libc::CLONE_NEWNS)), None);
        assert_eq!(ask(libc::SYS_unshare, flag(libc::CLONE_NEWUSER)), Some(1));
        assert_eq!(ask(libc::SYS_clone, flag(libc::SIGCHLD)), None);
        assert_eq!(ask(libc::SYS_clone, flag(libc::CLONE_NEWPID | libc::SIGCHLD)), Some(1));
        assert_eq!(ask(libc::SYS_socket, flag(libc::AF_INET6)), None);
        assert_eq!(ask(libc::SYS_socket, flag(libc::AF_NETLINK)), None);
        assert_eq!(ask(libc::SYS_socket, flag(libc::AF_ALG)), Some(97));
        assert_eq!(ask(libc::SYS_bpf, 0), Some(1));
        assert_eq!(ask(libc::SYS_clone3, 0), Some(38));
    }

    proptest! {
        #[test]
        fn every_plan_is_in_order(
            slot in 16u32..60_000,
            ptys in proptest::option::of(0u32..u32::MAX),
            shm in proptest::option::of(any::<u64>()),
            v1 in 0usize..9,
            controlled: bool,
            unified: bool,
            servers in 0usize..3,
        ) {
            let spec = Spec {
                slot: slot.try_into().expect("in range"),
                max_ptys: ptys,
                shm_bytes: shm,
                nameservers: vec!["192.0.2.1".parse().expect("valid"); servers],
                ..spec()
            };
            let groups = Groups {
                v1: vec![PathBuf::from("/sys/fs/cgroup/x/ves/ct-1"); v1],
                devices: controlled.then(|| "/sys/fs/cgroup/x/ves/ct-1".into()),
                v2: unified.then(|| ("/sys/fs/cgroup".into(), "ves/ct-1/payload".into())),
            };
            let steps = plan_init(ct(), &Layout::default(), &spec, &groups);
            prop_assert_eq!(disorder(&steps), None);
            prop_assert_eq!(&steps, &plan_init(ct(), &Layout::default(), &spec, &groups));
            // A tenant that shares a group's view with the node would see the node.
            let cgroup2 = steps.iter().any(|s| matches!(s, InitStep::Mount { fs, .. } if fs == "cgroup2"));
            prop_assert_eq!(cgroup2, unified);
            let filtered = steps.iter().any(|s| matches!(s, InitStep::FilterDevices { .. }));
            prop_assert_eq!(filtered, controlled);
        }
    }
}
