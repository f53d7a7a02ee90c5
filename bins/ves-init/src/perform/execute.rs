//! The end of the way: this process becomes a program of the tenant's.
//!
//! Never here: a look for the program in `PATH`, which is who executes it to do.

use std::ffi::CString;
use std::fs::OpenOptions;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::OnceLock;

use rustix::fs::OFlags;
use ves_host::{HostError, child, namespace};

/// The file this program is, by device and inode.
static OWN: OnceLock<(u64, u64)> = OnceLock::new();

/// Remembers which file this program is, to be called on the node.
pub(crate) fn remember_program() {
    if let Ok(stat) = rustix::fs::stat("/proc/self/exe") {
        OWN.get_or_init(|| (stat.st_dev, stat.st_ino));
    }
}

/// Whether a path leads to this program, by a link to /proc/self/exe. A guard against accidents:
/// a tenant can change the link in time. That this program's file belongs to the node's root, who
/// is nobody inside, is the wall.
fn leads_here(path: &str) -> bool {
    rustix::fs::stat(path).is_ok_and(|s| OWN.get() == Some(&(s.st_dev, s.st_ino)))
}

/// Whether a path leads to a 32-bit program, as far as whoever executes it may read it.
fn is_32_bit(path: &str) -> bool {
    let mut head = [0; 5];
    // A pipe or device is no program, and would be waited for.
    let open = OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(path);
    let read = open.and_then(|mut file| match file.metadata()?.is_file() {
        true => file.read_exact(&mut head),
        false => Ok(()),
    });
    read.is_ok() && head == *b"\x7fELF\x01"
}

/// Executes a program by its path, with default signal actions. Returns only the reason why it
/// could not; without its ABI, a 32-bit program would begin and could not even end.
pub(crate) fn execute(
    path: &str,
    argv: &[String],
    env: &[(String, String)],
    abi32: bool,
) -> HostError {
    if !abi32 && is_32_bit(path) {
        let what = format!("execute {path}, a 32-bit program, where the feature abi32 is off");
        return HostError::Sys { what, source: rustix::io::Errno::NOEXEC.into() };
    }
    let text = |s: &str| CString::new(s).map_err(std::io::Error::from);
    let strings = || -> std::io::Result<_> {
        let argv: Vec<_> = argv.iter().map(|a| text(a)).collect::<Result<_, _>>()?;
        let env = env.iter().map(|(k, v)| text(&format!("{k}={v}"))).collect::<Result<_, _>>()?;
        Ok::<(CString, Vec<_>, Vec<_>), _>((text(path)?, argv, env))
    };
    let source = match strings() {
        Ok(_) if leads_here(path) => rustix::io::Errno::ACCESS.into(),
        Ok((path, argv, env)) => {
            child::reset_signals();
            namespace::exec(&path, &argv, &env)
        }
        Err(e) => e,
    };
    HostError::Sys { what: format!("execute {path}"), source }
}
