//! The end of the way: this process becomes a program of the tenant's.
//!
//! Never here: a look for the program in `PATH`, which is who executes it to do.

use std::ffi::CString;
use std::sync::OnceLock;

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

/// Executes a program by its path, with default signal actions. Returns only the reason why it
/// could not.
pub(crate) fn execute(path: &str, argv: &[String], env: &[(String, String)]) -> HostError {
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
