//! How much of a container's memory each of its memory file systems may hold. Pure.
//!
//! To the kernel a tmpfs is half of the node's memory, whoever pays for it: a copy to /tmp would end a
//! small container. Those that ordinary users may fill get shares here, which together stay below the
//! memory there is. What root inside mounts besides is root's own matter. Never here: which of them is
//! mounted by whom.

use ves_types::Bytes;

use crate::launch::Memory;

/// How much sooner than any process of the node the kernel kills those of a container when memory runs out,
/// its init excepted, in thousandths of that memory; those that logged-in users' managers start have the
/// same. systemd itself is killed so much later, where the node may say so. It is no more than that, as
/// what is root inside can give itself what init has, and what is spared in a container outlives the node's.
pub const OOM_SCORE: u16 = 200;

/// A memory file system that there is in a container without anybody's asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// /run, where services keep what ends with them.
    Run,
    /// /run/user/ID, of each user that is logged in.
    User,
    /// /dev/shm.
    Shm,
    /// /tmp, where the distribution has it in memory.
    Tmp,
}

/// How much one may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Bytes of its files, in whole pages.
    pub bytes: u64,
    /// Files and directories.
    pub inodes: u64,
}

/// What the kernel keeps for an inode and its name, in bytes, rounded up.
#[cfg(test)]
const INODE: u64 = 1024;
/// One inode for so many bytes.
const BYTES_PER_INODE: u64 = 8192;
/// Of /run systemd wants 16 MiB to be free, or it reloads no unit (`verify_run_space` of its dbus-manager.c).
const RUN: u64 = 20 << 20;
/// An init has hundreds of files in /run, however little memory there is.
const LEAST_INODES: u64 = 1024;

impl Place {
    /// Its share of so much memory.
    fn share(self, ram: u64) -> u64 {
        let sixteenth = ram / 16;
        match self {
            Self::Shm | Self::Tmp => sixteenth * 4,
            Self::Run => RUN.clamp(sixteenth * 2, sixteenth * 3),
            Self::User => sixteenth,
        }
    }

    /// Its size where the container may have so much memory, and so much of it shared, which those made by Ves
    /// count as; `None` where neither is limited, which leaves it to the kernel.
    pub fn size(self, memory: Memory) -> Option<Size> {
        let Memory { ram_bytes: ram, shm_bytes: shared } = memory;
        let share = ram.map(|ram| self.share(ram));
        let shared = shared.filter(|_| matches!(self, Self::Run | Self::Shm));
        let bytes = share.into_iter().chain(shared).min()?;
        // To the kernel 0 is no limit.
        let bytes = (bytes / Bytes::PAGE).max(1) * Bytes::PAGE;
        Some(Size { bytes, inodes: (bytes / BYTES_PER_INODE).max(LEAST_INODES) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn memory(ram_bytes: Option<u64>, shm_bytes: Option<u64>) -> Memory {
        Memory { ram_bytes, shm_bytes }
    }

    /// All that there is once, while one user is logged in.
    const ALL: [Place; 4] = [Place::Run, Place::User, Place::Shm, Place::Tmp];

    proptest! {
        #[test]
        fn all_of_them_full_leave_memory_for_programs(ram in 32u64 << 20..1 << 50) {
            let sizes = || ALL.into_iter().map(|place| place.size(memory(Some(ram), None)).expect("a size"));
            let full: u64 = sizes().map(|size| size.bytes + size.inodes * INODE).sum();
            prop_assert!(full <= ram / 8 * 7, "{full} of {ram}");
            prop_assert!(sizes().all(|size| size.bytes % Bytes::PAGE == 0));
        }

        #[test]
        fn the_tighter_limit_holds(ram in proptest::option::of(any::<u64>()), shared: u64) {
            for place in ALL {
                let (size, free) = (place.size(memory(ram, Some(shared))), place.size(memory(ram, None)));
                match (size, free, place) {
                    (Some(size), _, Place::Run | Place::Shm) => {
                        prop_assert!(size.bytes > 0 && size.bytes <= shared.max(Bytes::PAGE));
                        prop_assert!(free.is_none_or(|free| size.bytes <= free.bytes));
                    }
                    (size, free, _) => prop_assert_eq!(size, free),
                }
            }
        }
    }

    #[test]
    fn a_small_container_reloads_its_units() {
        let run =
            |mib: u64| Place::Run.size(memory(Some(mib << 20), None)).map(|size| size.bytes >> 20);
        let sizes = [64, 96, 128, 256, 1024].map(run);
        assert_eq!(sizes, [12, 18, 20, 32, 128].map(Some));
    }

    #[test]
    fn what_is_not_limited_is_left_to_the_kernel() {
        assert!(ALL.iter().all(|place| place.size(Memory::default()).is_none()));
    }
}
