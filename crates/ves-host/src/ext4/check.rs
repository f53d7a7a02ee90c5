//! Checking a file system that nobody has mounted, by e2fsck in a sandbox: what is on it, a container's
//! root has written.
//!
//! Never here: when one is checked, and what becomes of one that cannot be mended.

use std::ffi::OsStr;
use std::fs::File;
use std::path::Path;
use std::time::Duration;

use super::{BLOCK, inspect};
use crate::cmd::{Cmd, find, tail};
use crate::error::{Attempt, HostError};
use crate::sandbox::Sandbox;

/// How long it may take. One that is killed has mended a part, and what was noted of errors stays.
const WITHIN: Duration = Duration::from_secs(800);
/// The address space it has however small the file system is.
const MEMORY: u64 = 512 << 20;
/// And for each block of it: bitmaps, counts of links, directories.
const MEMORY_A_BLOCK: u64 = 4;

/// Something was mended.
const MENDED: i32 = 1;
/// The same, and whoever has it mounted must mount it anew.
const MOUNT_ANEW: i32 = 2;
/// Something was not mended.
const LEFT: i32 = 4;
/// It could not be checked.
const FAILED: i32 = 8;

/// How a check may end.
const ENDS: [i32; 6] = [0, MENDED, MOUNT_ANEW, MENDED | MOUNT_ANEW, LEFT, LEFT | MENDED];
/// And one of a file system without superblock.
const LOST: [i32; 9] = [
    0,
    MENDED,
    MOUNT_ANEW,
    MENDED | MOUNT_ANEW,
    LEFT,
    LEFT | MENDED,
    FAILED,
    FAILED | MENDED,
    FAILED | LEFT,
];

/// What may be mended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mend {
    /// What loses nothing.
    Safe,
    /// All, whatever is lost.
    All,
}

/// What a check came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is as it should be, by now.
    Sound,
    /// It is not, as the last lines say.
    Damaged(String),
}

/// Checks the file system of so many bytes on a device or image, and mends it. A device that is mounted
/// or held by anybody is left alone.
///
/// # Errors
/// [`HostError::Lacks`] without e2fsck; [`HostError::Command`] also where the device is in use.
pub fn check(device: &Path, bytes: u64, mend: Mend) -> Result<Verdict, HostError> {
    let how = match mend {
        Mend::Safe => "-p",
        Mend::All => "-y",
    };
    let file = File::open(device).attempt(|| format!("open {}", device.display()))?;
    // Where the superblock is lost, e2fsck goes by a copy of it only when it may mend all.
    let ends = if inspect(&file)?.is_none() { &LOST[..] } else { &ENDS };
    let out = confined(find("e2fsck", "e2fsprogs")?, device, bytes)?
        .args(["-f", how])
        .arg(device)
        .deadline(WITHIN)
        .accept(ends)
        .run()?;
    tracing::info!(status = out.status, said = %tail(&out.stdout), "checked a file system");
    Ok(match out.status & (LEFT | FAILED) {
        0 => Verdict::Sound,
        _ => Verdict::Damaged(tail(&out.stdout)),
    })
}

/// A program that has this device and nothing else.
fn confined(program: impl AsRef<OsStr>, device: &Path, bytes: u64) -> Result<Cmd, HostError> {
    let memory = MEMORY.saturating_add((bytes / BLOCK).saturating_mul(MEMORY_A_BLOCK));
    Ok(Cmd::new(program).sandboxed(Sandbox::new(device, memory)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: u64 = 32 << 20;

    /// A file system with files in it.
    fn made(dir: &Path) -> std::path::PathBuf {
        let image = dir.join("image");
        File::create_new(&image).and_then(|f| f.set_len(BYTES)).expect("sparse");
        super::super::make(&image, BYTES, 1024).expect("mke2fs works");
        for n in 1..20 {
            debugfs(&image, &format!("mkdir d{n}"));
        }
        image
    }

    fn debugfs(image: &Path, request: &str) {
        let program = find("debugfs", "e2fsprogs").expect("installed");
        Cmd::new(program).args(["-w", "-R", request]).arg(image).run().expect("debugfs works");
    }

    #[test]
    fn what_loses_nothing_is_mended_and_the_rest_on_demand() {
        let dir = tempfile::tempdir().expect("a directory");
        let image = made(dir.path());
        let check = |mend| check(&image, BYTES, mend).expect("e2fsck works");
        assert_eq!(check(Mend::Safe), Verdict::Sound);
        debugfs(&image, "set_super_value free_blocks_count 7");
        assert_eq!(check(Mend::Safe), Verdict::Sound, "a wrong count is counted anew");
        debugfs(&image, "clri <2>");
        let Verdict::Damaged(said) = check(Mend::Safe) else { panic!("there is no root") };
        assert!(said.contains("Root inode"), "{said}");
        assert_eq!(check(Mend::All), Verdict::Sound);
        assert_eq!(check(Mend::Safe), Verdict::Sound, "nothing is left");
    }

    #[test]
    fn a_lost_superblock_is_damage_that_a_copy_mends() {
        let dir = tempfile::tempdir().expect("a directory");
        // The first copy is in the second group of 128 MiB.
        for (bytes, mended) in [(BYTES, false), (200 << 20, true)] {
            let image = dir.path().join(bytes.to_string());
            let file = File::create_new(&image).expect("made");
            file.set_len(bytes).expect("sparse");
            super::super::make(&image, bytes, 1024).expect("mke2fs works");
            std::os::unix::fs::FileExt::write_all_at(&file, &[0; 1024], 1024).expect("lost");
            let check = |mend| check(&image, bytes, mend).expect("e2fsck works");
            let Verdict::Damaged(said) = check(Mend::Safe) else { panic!("it has none") };
            assert!(said.contains("superblock"), "{said}");
            assert_eq!(check(Mend::All) == Verdict::Sound, mended);
            assert_eq!(check(Mend::Safe) == Verdict::Sound, mended);
        }
    }

    #[test]
    fn it_is_confined_and_its_memory_grows_with_the_file_system() {
        for bytes in [BYTES, 1 << 40] {
            let shell = confined("/bin/sh", Path::new("/dev/null"), bytes).expect("made");
            let said = shell.args(["-c", "ulimit -v"]).run().expect("it runs").text();
            let kib = (MEMORY + bytes / BLOCK * MEMORY_A_BLOCK) >> 10;
            assert_eq!(said.trim(), kib.to_string());
        }
    }
}
