//! What no process of a container may do or have: capabilities, limits, system calls. Pure.

use ves_host::seccomp::{Refuse, When};

use crate::limit::{Limited, ProcessLimit};

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

#[cfg(test)]
mod tests {
    use super::*;

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
}
