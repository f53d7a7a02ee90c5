//! Checking a file system that nobody has mounted, by e2fsck in a sandbox: what is on it, a container's
//! root has written.
//!
//! Never here: when one is checked, and what becomes of one that cannot be mended.

use std::ffi::OsStr;
use std::path::Path;
use std::time::Duration;

use super::BLOCK;
use crate::cmd::{Cmd, find, tail};
use crate::error::HostError;
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
    let out = confined(find("e2fsck", "e2fsprogs")?, device, bytes)?
        .args(["-f", how])
        .arg(device)
        .deadline(WITHIN)
        .accept(&[0, MENDED, MOUNT_ANEW, MENDED | MOUNT_ANEW, LEFT, LEFT | MENDED])
        .run()?;
    tracing::info!(status = out.status, said = %tail(&out.stdout), "checked a file system");
    Ok(match out.status & LEFT {
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
    use std::fs::File;

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
    fn it_is_confined_and_its_memory_grows_with_the_file_system() {
        for bytes in [BYTES, 1 << 40] {
            let shell = confined("/bin/sh", Path::new("/dev/null"), bytes).expect("made");
            let said = shell.args(["-c", "ulimit -v"]).run().expect("it runs").text();
            let kib = (MEMORY + bytes / BLOCK * MEMORY_A_BLOCK) >> 10;
            assert_eq!(said.trim(), kib.to_string());
        }
    }
}
