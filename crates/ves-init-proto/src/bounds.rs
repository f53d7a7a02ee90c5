//! What no process of a container may do or have: capabilities, limits, system calls. Pure.
//!
//! A system call is refused for one of two reasons. For the wall: past holes of the kernel came through it, it
//! reaches the node, or it goes around what else is refused; no feature opens these. For checkpoints: what it
//! makes cannot be written down; a container that is not migratable may have it where it is no door.
//!
//! | call | for | why |
//! |---|---|---|
//! | `bpf`, `perf_event_open`, `userfaultfd` | the wall | holes; what makes the kernel wait in the middle of one |
//! | `io_uring_*` | the wall | holes, and it makes sockets and opens files past any filter |
//! | `request_key` | the wall | the kernel starts a program on the node to look for the key |
//! | modules, `kexec_*`, clock, swap, `acct`, `syslog`, ports | the wall | they are the node's |
//! | `open_by_handle_at` | the wall | reaches files that are not below the root |
//! | `keyctl`, `add_key` | checkpoints | keys are not dumped; containers inside want session keyrings |
//! | `pidfd_open` | checkpoints | systemd compares inodes of pidfs, which are others after a restore |
//! | namespaces but mount and network; `clone3` | nesting | not dumped; all of the kernel for every user inside |

use std::collections::BTreeSet;

use ves_host::seccomp::{Refusals, Refuse, When};
use ves_types::Capability;

use ves_types::Features;

use crate::limit::{Limited, ProcessLimit};
use crate::step::InitStep;

/// The capabilities no process of a container may have, as bits: those that no container has, and those
/// that are switched off for this one.
pub fn dropped(off: &BTreeSet<Capability>) -> u64 {
    Capability::never() | Capability::bits_of(off)
}

/// The capabilities that init may not have by these steps, as bits.
pub fn init_drops(steps: &[InitStep]) -> u64 {
    let drops = steps.iter().map(|step| if let InitStep::Drop(bits) = step { *bits } else { 0 });
    drops.fold(0, |all, bits| all | bits)
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

/// The system calls a container with these features is refused, whatever numbers a program uses.
pub fn refused(features: Features) -> Refusals {
    let features = features.effective();
    #[cfg(target_arch = "x86_64")]
    let compat = features.abi32.then(|| list(&i386(), features));
    #[cfg(not(target_arch = "x86_64"))]
    let compat = None;
    Refusals { native: list(&native(), features), compat }
}

/// One numbering's system calls that are refused to some.
struct Doors {
    /// Refused always, for the wall.
    always: Vec<u32>,
    /// Refused to what is migratable.
    keys: [u32; 2],
    /// Not there for what is migratable.
    pidfd_open: u32,
    /// Not there without nesting: its flags are behind a pointer where no filter sees them, and libraries use
    /// `clone` then.
    clone3: u32,
    unshare: u32,
    clone: u32,
    /// Those whose first argument is a family.
    sockets: [u32; 2],
    /// i386 only: a number of a call of sockets, and the rest behind a pointer.
    socketcall: Option<u32>,
}

fn native() -> Doors {
    let number = |call: libc::c_long| u32::try_from(call).unwrap_or(u32::MAX);
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
    Doors {
        always: always.into_iter().chain(ports).map(number).collect(),
        keys: [libc::SYS_keyctl, libc::SYS_add_key].map(number),
        pidfd_open: number(libc::SYS_pidfd_open),
        clone3: number(libc::SYS_clone3),
        unshare: number(libc::SYS_unshare),
        clone: number(libc::SYS_clone),
        sockets: [libc::SYS_socket, libc::SYS_socketpair].map(number),
        socketcall: None,
    }
}

/// By `arch/x86/entry/syscalls/syscall_32.tbl`, whose numbers never change.
#[cfg(target_arch = "x86_64")]
fn i386() -> Doors {
    let always = vec![
        283, // kexec_load
        128, // init_module
        350, // finit_module
        129, // delete_module
        342, // open_by_handle_at
        357, // bpf
        336, // perf_event_open
        374, // userfaultfd
        425, // io_uring_setup
        426, // io_uring_enter
        427, // io_uring_register
        287, // request_key
        87,  // swapon
        115, // swapoff
        51,  // acct
        79,  // settimeofday
        264, // clock_settime
        404, // clock_settime64
        25,  // stime
        253, // lookup_dcookie
        103, // syslog
        110, // iopl
        101, // ioperm
        86,  // uselib
    ];
    let (clone3, unshare, clone, sockets) = (435, 310, 120, [359, 360]);
    let (keys, pidfd_open) = ([288, 286], 434);
    Doors { always, keys, pidfd_open, clone3, unshare, clone, sockets, socketcall: Some(102) }
}

fn list(doors: &Doors, features: Features) -> Vec<Refuse> {
    let errno = |e: i32| u16::try_from(e).unwrap_or_default();
    let (eperm, enosys) = (errno(libc::EPERM), errno(libc::ENOSYS));
    let Doors { always, keys, pidfd_open, clone3, unshare, clone, sockets, socketcall } = doors;
    let whole = |errno| move |&call: &u32| Refuse { call, when: When::Always, errno };
    let mut list: Vec<_> = always.iter().map(whole(eperm)).collect();
    if features.migratable {
        list.extend(keys.iter().map(whole(eperm)));
        list.extend([pidfd_open].map(whole(enosys)));
    }
    if !features.nesting {
        list.extend([clone3].map(whole(enosys)));
        let nested = [
            libc::CLONE_NEWUSER,
            libc::CLONE_NEWPID,
            libc::CLONE_NEWUTS,
            libc::CLONE_NEWIPC,
            libc::CLONE_NEWCGROUP,
        ];
        let bits = nested.into_iter().fold(0, |bits, flag| bits | flag.cast_unsigned());
        let new_time = libc::CLONE_NEWTIME.cast_unsigned();
        for (call, bits) in [(*unshare, bits | new_time), (*clone, bits)] {
            list.push(Refuse { call, when: When::AnyBit { arg: 0, bits }, errno: eperm });
        }
    }
    for family in FAMILIES {
        for &call in sockets {
            let when = When::Equal { arg: 0, value: family.cast_unsigned() };
            list.push(Refuse { call, when, errno: errno(libc::EAFNOSUPPORT) });
        }
    }
    // Of a socket that is made so nobody sees the family: it is made by its own call, or not at all.
    for making in [SOCKETCALL_SOCKET, SOCKETCALL_SOCKETPAIR] {
        let when = When::Equal { arg: 0, value: making };
        list.extend(socketcall.map(|call| Refuse { call, when, errno: enosys }));
    }
    list
}

/// The families of sockets no container has.
const FAMILIES: [i32; 27] = [
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

const AF_KCM: i32 = 41;
const AF_QIPCRTR: i32 = 42;
const AF_SMC: i32 = 43;
const SOCKETCALL_SOCKET: u32 = 1;
const SOCKETCALL_SOCKETPAIR: u32 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    use std::collections::BTreeMap;
    use ves_host::seccomp::Filter;
    use ves_types::layout::Layout;

    use crate::init_plan::{Groups, plan_exec, plan_init};
    use crate::launch::{Command, Spec, Work};

    fn flag(flag: i32) -> u64 {
        u64::from(flag.cast_unsigned())
    }

    #[test]
    fn the_filter_is_small_and_lets_programs_live() {
        let filter = Filter::compile(&refused(Features::default()));
        assert!(filter.len() < 1000, "{}", filter.len());
        let arch = Filter::native_arch();
        let ask = |call: libc::c_long, arg| {
            filter.action(arch, u32::try_from(call).expect("a call"), [arg, 0, 0, 0, 0, 0])
        };
        for call in [libc::SYS_read, libc::SYS_execve, libc::SYS_mount, libc::SYS_reboot] {
            assert_eq!(ask(call, 0), None);
        }
        assert_eq!(ask(libc::SYS_unshare, flag(libc::CLONE_NEWNS)), None);
        assert_eq!(ask(libc::SYS_unshare, flag(libc::CLONE_NEWUSER)), Some(1));
        assert_eq!(ask(libc::SYS_clone, flag(libc::SIGCHLD)), None);
        assert_eq!(ask(libc::SYS_clone, flag(libc::CLONE_NEWPID | libc::SIGCHLD)), Some(1));
        assert_eq!(ask(libc::SYS_socket, flag(libc::AF_INET6)), None);
        assert_eq!(ask(libc::SYS_socket, flag(libc::AF_NETLINK)), None);
        assert_eq!(ask(libc::SYS_socket, flag(libc::AF_ALG)), Some(97));
        assert_eq!(ask(libc::SYS_bpf, 0), Some(1));
        assert_eq!(ask(libc::SYS_clone3, 0), Some(38));
        assert_eq!(ask(libc::SYS_pidfd_open, 0), Some(38));
        assert_eq!(ask(libc::SYS_keyctl, 0), Some(1));
    }

    /// All combinations.
    fn all() -> impl Iterator<Item = Features> {
        (0..8).map(|n| Features { nesting: n & 1 > 0, migratable: n & 2 > 0, abi32: n & 4 > 0 })
    }

    #[test]
    fn features_open_what_they_say_and_never_the_wall() {
        for features in all() {
            let filter = Filter::compile(&refused(features));
            let ask = |call: libc::c_long, arg| {
                let call = u32::try_from(call).expect("a call");
                filter.action(Filter::native_arch(), call, [arg, 0, 0, 0, 0, 0])
            };
            let (nests, dumped) = (features.nesting, features.effective().migratable);
            for kind in [
                libc::CLONE_NEWUSER,
                libc::CLONE_NEWPID,
                libc::CLONE_NEWUTS,
                libc::CLONE_NEWIPC,
                libc::CLONE_NEWCGROUP,
                libc::CLONE_NEWTIME,
            ] {
                assert_eq!(ask(libc::SYS_unshare, flag(kind)).is_none(), nests, "{features}");
            }
            assert_eq!(ask(libc::SYS_clone, flag(libc::CLONE_NEWUSER)).is_none(), nests);
            assert_eq!(ask(libc::SYS_clone3, 0).is_none(), nests, "{features}");
            for call in [libc::SYS_pidfd_open, libc::SYS_keyctl, libc::SYS_add_key] {
                assert_eq!(ask(call, 0).is_none(), !dumped, "{features}: {call}");
            }
            for call in native().always {
                assert_eq!(ask(call.into(), 0), Some(1), "{features}: {call}");
            }
            for call in [libc::SYS_bpf, libc::SYS_io_uring_setup, libc::SYS_request_key] {
                assert_eq!(ask(call, 0), Some(1), "{features}: {call}");
            }
            assert_eq!(ask(libc::SYS_socket, flag(libc::AF_ALG)), Some(97), "{features}");
        }
    }

    #[test]
    fn without_their_abi_32_bit_programs_call_nothing() {
        for features in all().filter(|features| !features.abi32) {
            let filter = Filter::compile(&refused(features));
            let called = (0..1000).map(|call| filter.action(Filter::compat_arch(), call, [0; 6]));
            assert!(called.into_iter().all(|answer| answer == Some(38)), "{features}");
        }
    }

    #[test]
    fn a_command_may_no_more_than_init() {
        let (layout, groups) = (Layout::default(), Groups::default());
        let ct = 9401.try_into().expect("an id");
        let plain: Spec = serde_json::from_str(
            r#"{"slot":20,"hostname":null,"init":[],"nameservers":[],"search":[],"max_ptys":null,"shm_bytes":null}"#,
        )
        .expect("as an older release wrote it");
        let plan = |work: Work| plan_exec(ct, &layout, &groups, &work);
        let exec = plan(Work::Run(Command::default()));
        let own = plan(Work::Name(plain.names()));
        let off = ["net_raw", "CAP_SYS_ADMIN"].map(|name| name.parse().expect("a capability"));
        for capabilities_off in [BTreeSet::new(), off.into()] {
            let spec = Spec { capabilities_off, ..plain.clone() };
            let steps = plan_init(ct, &layout, &spec, &[], &groups);
            assert_eq!(exec.dropped(init_drops(&steps)), init_drops(&steps));
            let wanted = Capability::never() | Capability::bits_of(&spec.capabilities_off);
            assert_eq!(init_drops(&steps), wanted);
            assert_eq!(own.dropped(init_drops(&steps)), Capability::never());
        }
        // As a monitor of an older release tells it.
        assert_eq!(exec.dropped(0), Capability::never());
    }

    /// A program's numbers, as the kernel's headers for programs have them.
    fn header(name: &str) -> Option<BTreeMap<String, u32>> {
        let places = ["/usr/include/x86_64-linux-gnu/asm", "/usr/include/asm"];
        let text =
            places.iter().find_map(|dir| std::fs::read_to_string(format!("{dir}/{name}")).ok())?;
        let lines = text.lines().filter_map(|line| line.strip_prefix("#define __NR_"));
        let numbers = lines.filter_map(|line| {
            let (name, number) = line.split_once(' ')?;
            Some((name.to_owned(), number.parse().ok()?))
        });
        Some(numbers.collect())
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn a_32_bit_program_is_refused_what_a_64_bit_one_is() {
        let names = (header("unistd_64.h"), header("unistd_32.h"));
        let (Some(long), Some(short)) = names else {
            panic!("the kernel's headers for programs are needed: apt-get install linux-libc-dev")
        };
        for features in all().filter(|features| features.abi32) {
            is_refused_the_same(&Filter::compile(&refused(features)), &long, &short);
        }
    }

    #[cfg(target_arch = "x86_64")]
    fn is_refused_the_same(
        filter: &Filter,
        long: &BTreeMap<String, u32>,
        short: &BTreeMap<String, u32>,
    ) {
        let interesting = [0, 1, 8, 16]
            .into_iter()
            .chain(FAMILIES.map(flag))
            .chain([libc::AF_INET, libc::CLONE_NEWNS, libc::CLONE_NEWNET].map(flag))
            .chain([libc::CLONE_NEWUSER, libc::CLONE_NEWPID, libc::CLONE_NEWCGROUP].map(flag))
            .chain([libc::CLONE_NEWUTS, libc::CLONE_NEWIPC, libc::CLONE_NEWTIME].map(flag));
        for arg in interesting {
            let ask = |arch, call| filter.action(arch, call, [arg, 0, 0, 0, 0, 0]);
            for (name, &call) in short {
                let got = ask(Filter::compat_arch(), call);
                let wanted = match (name.as_str(), arg) {
                    // These have no namesake.
                    ("stime" | "clock_settime64", _) => Some(1),
                    ("socketcall", 1 | 8) => Some(38),
                    _ => long.get(name).and_then(|&call| ask(Filter::native_arch(), call)),
                };
                assert_eq!(got, wanted, "{name} {arg}");
            }
        }
        let x32 = |call| filter.action(Filter::native_arch(), 0x4000_0000 + call, [0; 6]);
        assert!(long.values().all(|&call| x32(call) == Some(38)));
    }
}
