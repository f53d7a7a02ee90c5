//! ext4 images: make, grow online, inspect, check, give a new identity.
//!
//! Reads the primary superblock itself, a fixed and documented layout, since asking a program for
//! it would take longer than everything else done to a volume.

#![allow(unsafe_code, reason = "growing a mounted file system is an ioctl")]

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

pub use check::{Mend, Verdict, check};

use crate::cmd::{Cmd, find};
use crate::error::{Attempt, HostError};

mod check;

/// The only block size used.
pub const BLOCK: u64 = 4096;
/// Blocks in a group: what one bitmap block counts.
pub const GROUP_BLOCKS: u64 = 32_768;
/// Bytes in a group.
pub const GROUP_BYTES: u64 = BLOCK * GROUP_BLOCKS;
/// Bytes of one inode.
pub const INODE_BYTES: u64 = 256;
/// Inodes in one block of an inode table; counts per group are multiples of it.
pub const INODES_PER_BLOCK: u64 = BLOCK / INODE_BYTES;
/// Blocks of the resize inode reserved for growth: enough descriptors for 2 TiB, after which the
/// kernel goes on with meta block groups.
const RESERVED_GDT_BLOCKS: u64 = 256;
/// `EXT4_IOC_RESIZE_FS`: `_IOW('f', 16, __u64)`.
const RESIZE_FS: libc::Ioctl = 0x4008_6610;

const SUPERBLOCK_AT: u64 = 1024;
const SUPERBLOCK_LEN: usize = 1024;
const MAGIC: u16 = 0xEF53;
const STATE_ERRORS: u16 = 0x2;
const INCOMPAT_RECOVER: u32 = 0x4;
const INCOMPAT_CSUM_SEED: u32 = 0x2000;
const RO_COMPAT_METADATA_CSUM: u32 = 0x400;

/// What the primary superblock says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblock {
    /// Blocks of [`BLOCK`] bytes.
    pub blocks: u64,
    /// Inodes of the whole file system.
    pub inodes: u64,
    /// Inodes in each group.
    pub inodes_per_group: u64,
    /// The file system's UUID.
    pub uuid: [u8; 16],
    /// Whether the UUID may change without rewriting every checksum.
    pub free_uuid: bool,
    /// Whether its journal has changes that are not made yet: it was in use when it was cloned or when
    /// the power failed.
    pub unclean: bool,
    /// What the kernel noted of errors that it met, until a check has mended them.
    pub damage: Option<Damage>,
}

/// What the kernel noted of errors that it met in a file system.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Damage {
    /// How many; 0 where it was noted only that there were some.
    pub errors: u32,
    /// When it met the last one, in seconds since 1970; 0: not known.
    pub last_unix: i64,
    /// In which of its functions that was; empty: not known.
    pub last_in: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.errors {
            0 => f.write_str("errors in it")?,
            1 => f.write_str("1 error in it")?,
            n => write!(f, "{n} errors in it")?,
        }
        if self.last_in.is_empty() { Ok(()) } else { write!(f, ", the last in {}", self.last_in) }
    }
}

fn le32(block: &[u8], at: usize) -> u32 {
    block.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn le16(block: &[u8], at: usize) -> u16 {
    block.get(at..at + 2).and_then(|b| b.try_into().ok()).map_or(0, u16::from_le_bytes)
}

/// What a superblock says of errors.
fn damage(block: &[u8]) -> Option<Damage> {
    let errors = le32(block, 0x194);
    if errors == 0 && le16(block, 0x3A) & STATE_ERRORS == 0 {
        return None;
    }
    let high = block.get(0x279).copied().unwrap_or_default();
    let name = block.get(0x1E0..0x200).unwrap_or_default().iter();
    // A container's root may have come to write this; the kernel's own names have nothing else.
    let name = name.take_while(|b| b.is_ascii_alphanumeric() || **b == b'_');
    Some(Damage {
        errors,
        last_unix: i64::from(le32(block, 0x1CC)) | i64::from(high) << 32,
        last_in: name.map(|b| char::from(*b)).collect(),
    })
}

/// Reads the bytes of a superblock; `None` where they are none of ext4 with 4 KiB blocks.
pub fn parse_superblock(block: &[u8]) -> Option<Superblock> {
    let log_block_size = le32(block, 0x18);
    if block.len() < SUPERBLOCK_LEN || le16(block, 0x38) != MAGIC || log_block_size != 2 {
        return None;
    }
    let (incompat, ro_compat) = (le32(block, 0x60), le32(block, 0x64));
    Some(Superblock {
        blocks: u64::from(le32(block, 0x4)) | u64::from(le32(block, 0x150)) << 32,
        inodes: le32(block, 0).into(),
        inodes_per_group: le32(block, 0x28).into(),
        uuid: block.get(0x68..0x78)?.try_into().ok()?,
        unclean: incompat & INCOMPAT_RECOVER != 0,
        damage: damage(block),
        free_uuid: incompat & INCOMPAT_CSUM_SEED != 0 && ro_compat & RO_COMPAT_METADATA_CSUM != 0,
    })
}

fn read_block(image: &File) -> Result<Option<[u8; SUPERBLOCK_LEN]>, HostError> {
    let mut block = [0; SUPERBLOCK_LEN];
    match image.read_exact_at(&mut block, SUPERBLOCK_AT) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        other => other.attempt(|| "read a superblock".to_owned()).map(|()| Some(block)),
    }
}

/// The superblock of an image or device; `None` where there is no ext4 of ours on it.
///
/// Of a mounted file system, ask its device: the kernel changes the superblock there first.
///
/// # Errors
/// [`HostError::Sys`].
pub fn inspect(image: &File) -> Result<Option<Superblock>, HostError> {
    Ok(read_block(image)?.as_ref().and_then(|block| parse_superblock(block)))
}

/// Gives an image that is not mounted another UUID.
///
/// # Errors
/// [`HostError::Sys`], [`HostError::Parse`] where it is no ext4 with a separate checksum seed.
pub fn set_uuid(image: &File, uuid: [u8; 16]) -> Result<(), HostError> {
    let unfit = || HostError::parse("give an image a UUID", "no ext4 with a checksum seed");
    let mut block = read_block(image)?.ok_or_else(unfit)?;
    if !parse_superblock(&block).ok_or_else(unfit)?.free_uuid {
        return Err(unfit());
    }
    let (body, checksum) = block.split_at_mut(SUPERBLOCK_LEN - 4);
    body.get_mut(0x68..0x78).ok_or_else(unfit)?.copy_from_slice(&uuid);
    checksum.copy_from_slice(&crc32c(body).to_le_bytes());
    image.write_all_at(&block, SUPERBLOCK_AT).attempt(|| "write a superblock".to_owned())
}

/// CRC-32C as ext4 stores it: initial value all ones, not inverted at the end.
fn crc32c(bytes: &[u8]) -> u32 {
    bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0x82F6_3B78 & (crc & 1).wrapping_neg())
        })
    })
}

/// How many groups a file system of this many bytes has.
pub const fn groups(bytes: u64) -> u64 {
    bytes.div_ceil(GROUP_BYTES)
}

/// The inodes per group that keep a file system of `bytes` within `inodes`; at least one block.
pub fn inodes_per_group(bytes: u64, inodes: u64) -> u64 {
    let per_group = inodes / groups(bytes).max(1);
    (per_group / INODES_PER_BLOCK * INODES_PER_BLOCK).clamp(INODES_PER_BLOCK, GROUP_BLOCKS)
}

/// How many blocks a file system gets on a device of `bytes`: a last group too short to hold its
/// own tables stays unused, as resize2fs does it.
pub const fn usable_blocks(bytes: u64, inodes_per_group: u64) -> u64 {
    let blocks = bytes / BLOCK;
    let last = blocks % GROUP_BLOCKS;
    let tables = inodes_per_group.div_ceil(INODES_PER_BLOCK);
    let least = tables + RESERVED_GDT_BLOCKS + 64;
    if blocks > GROUP_BLOCKS && last > 0 && last < least { blocks - last } else { blocks }
}

/// Makes an empty file system on an image file of the right length. Its inodes number
/// `inodes_per_group` in each group, also when it grows; no blocks are reserved for anybody.
///
/// # Errors
/// [`HostError::Lacks`] without mke2fs, [`HostError::Command`] when it fails.
pub fn make(image: &Path, bytes: u64, inodes_per_group: u64) -> Result<(), HostError> {
    let blocks = usable_blocks(bytes, inodes_per_group);
    let inodes = inodes_per_group.saturating_mul(groups(blocks * BLOCK));
    let journal = if bytes >= 256 << 20 { 16 } else { 4 };
    Cmd::new(find("mke2fs", "e2fsprogs")?)
        .args(["-q", "-F", "-t", "ext4", "-b", "4096", "-I", "256", "-m", "0"])
        // What is damaged is written to no more.
        .args(["-e", "remount-ro"])
        .args(["-O", "metadata_csum,metadata_csum_seed,64bit,^orphan_file"])
        .args(["-E", "resize=536870912,lazy_itable_init=1,lazy_journal_init=1,root_owner=0:0"])
        .args(["-J", &format!("size={journal}")])
        .args(["-N", &inodes.to_string()])
        .arg(image)
        .arg(blocks.to_string())
        .run()
        .map(drop)
}

/// Grows the mounted file system that `inside` is in to so many blocks.
///
/// # Errors
/// [`HostError::Sys`].
pub fn grow(inside: impl AsFd, blocks: u64) -> Result<(), HostError> {
    // SAFETY: the kernel reads one u64 that lives through the call.
    let result = unsafe { libc::ioctl(inside.as_fd().as_raw_fd(), RESIZE_FS, &raw const blocks) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
        .attempt(|| format!("grow a file system to {blocks} blocks"))
}

/// Grows the file system of an image that nobody has mounted, to so many blocks. Killed in the
/// middle it may leave a damaged image: work on a copy.
///
/// # Errors
/// [`HostError::Lacks`] without resize2fs, [`HostError::Command`] when it fails.
pub fn grow_unmounted(image: &Path, blocks: u64) -> Result<(), HostError> {
    let file = File::open(image).attempt(|| format!("open {}", image.display()))?;
    if inspect(&file)?.is_some_and(|s| s.unclean) {
        // resize2fs goes on all the same, and a later replay would undo parts of its work.
        Cmd::new(find("e2fsck", "e2fsprogs")?)
            .args(["-p", "-E", "journal_only"])
            .arg(image)
            .run()?;
    }
    // Forced: it wants a check of every file system that was mounted since the last one.
    Cmd::new(find("resize2fs", "e2fsprogs")?)
        .arg("-f")
        .arg(image)
        .arg(blocks.to_string())
        .run()
        .map(drop)
}

/// Whether this process may grow a mounted file system: the kernel asks for `CAP_SYS_RESOURCE`.
///
/// # Errors
/// [`HostError::Sys`] or [`HostError::Parse`].
pub fn may_grow_mounted() -> Result<bool, HostError> {
    const SYS_RESOURCE: u64 = 1 << 24;
    let path = "/proc/self/status";
    let text = std::fs::read_to_string(path).attempt(|| format!("read {path}"))?;
    let effective = text.lines().find_map(|l| l.strip_prefix("CapEff:"));
    let bits = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    Ok(bits.ok_or_else(|| HostError::parse(path, &text))? & SYS_RESOURCE != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_is_the_published_one() {
        // The usual check value, without the final inversion.
        assert_eq!(!crc32c(b"123456789"), 0xE306_9283);
    }

    #[test]
    fn inodes_stay_within_the_limit() {
        for gib in [1u64, 2, 10, 1000] {
            for limit in [100_000u64, 200_000, 1_000_000] {
                let bytes = gib << 30;
                let per_group = inodes_per_group(bytes, limit);
                assert_eq!(per_group % INODES_PER_BLOCK, 0);
                let least = INODES_PER_BLOCK * groups(bytes);
                assert!(per_group * groups(bytes) <= limit.max(least));
            }
        }
    }

    #[test]
    fn an_image_changes_its_identity_and_stays_sound() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("image");
        let image = File::create_new(&path).expect("a file");
        image.set_len(64 << 20).expect("sparse");
        assert_eq!(inspect(&image).expect("readable"), None, "nothing is on it yet");
        make(&path, 64 << 20, 1024).expect("mke2fs works");
        let image = File::options().read(true).write(true).open(&path).expect("there");
        let before = inspect(&image).expect("readable").expect("ext4");
        assert_eq!((before.blocks, before.inodes, before.inodes_per_group), (16_384, 1024, 1024));
        let block = read_block(&image).expect("readable").expect("ext4");
        assert_eq!(le16(&block, 0x3C), 2, "read-only from the first error on");
        set_uuid(&image, [7; 16]).expect("settable");
        image.set_len(300 << 20).expect("longer");
        grow_unmounted(&path, 300 << 8).expect("resize2fs works");
        let after = inspect(&image).expect("readable").expect("ext4");
        assert_eq!((after.uuid, after.blocks, after.inodes), ([7; 16], 300 << 8, 3 * 1024));
        Cmd::new(find("e2fsck", "e2fsprogs").expect("installed"))
            .args(["-f", "-n"])
            .arg(&path)
            .run()
            .expect("e2fsck finds nothing");
    }

    #[test]
    fn what_the_kernel_noted_of_errors_is_read() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("image");
        File::create_new(&path).and_then(|f| f.set_len(16 << 20)).expect("sparse");
        make(&path, 16 << 20, 256).expect("mke2fs works");
        let image = File::options().read(true).write(true).open(&path).expect("there");
        let read = || inspect(&image).expect("readable").expect("ext4").damage;
        assert_eq!(read(), None);
        let debugfs = find("debugfs", "e2fsprogs").expect("installed");
        let set = |field: &str| {
            let request = format!("set_super_value {field}");
            let cmd = Cmd::new(debugfs.clone()).args(["-w", "-R", &request]).arg(&path);
            cmd.run().expect("debugfs works");
        };
        set("state 2");
        assert_eq!(read().map(|d| d.to_string()), Some("errors in it".to_owned()));
        set("state 1");
        set("error_count 3");
        set("last_error_time @1796004354");
        set("last_error_func ext4_lookup");
        let damage = Damage { errors: 3, last_unix: 1_796_004_354, last_in: "ext4_lookup".into() };
        assert_eq!(read().as_ref(), Some(&damage));
        assert_eq!(damage.to_string(), "3 errors in it, the last in ext4_lookup");
        set("last_error_func a;\u{1b}[2J");
        assert_eq!(read().map(|d| d.last_in), Some("a".to_owned()));
        check(&path, 16 << 20, Mend::Safe).expect("e2fsck works");
        assert_eq!(read(), None, "a check that finds nothing forgets them");
    }

    #[test]
    fn rubbish_is_no_superblock() {
        assert_eq!(parse_superblock(&[0xFF; 1024]), None);
        assert_eq!(parse_superblock(&[0; 1024]), None);
        assert_eq!(parse_superblock(&[]), None);
    }
}
