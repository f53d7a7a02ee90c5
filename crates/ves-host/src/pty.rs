//! Pseudo-terminals and window sizes.
//!
//! Terminals are made by the multiplexer of a given devpts instance and their other end is opened
//! through the descriptor, never by a name somebody else could have changed.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::pty::OpenptFlags;
use rustix::termios::{SpecialCodeIndex, Winsize};

use crate::error::{Attempt, HostError};

/// A pseudo-terminal.
#[derive(Debug)]
pub struct Pty {
    /// The end of the one who looks at it.
    pub master: OwnedFd,
    /// The end of the program.
    pub slave: OwnedFd,
}

/// The magic number of devpts.
const DEVPTS: u64 = 0x1cd1;

/// Makes a terminal by `ptmx` below the directory `pts`, which must be a devpts instance.
///
/// # Errors
/// [`HostError::Sys`], also when what is there is no multiplexer.
pub fn open(pts: impl AsFd) -> Result<Pty, HostError> {
    let what = || "make a terminal in the container's /dev/pts".to_owned();
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    // A place only, until it is known to be what it should be: opening something else could have
    // effects or hang.
    let place =
        rustix::fs::openat2(&pts, c"ptmx", OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)
            .attempt(what)?;
    let stat = rustix::fs::fstat(&place).attempt(what)?;
    let magic = rustix::fs::fstatfs(&pts).attempt(what)?.f_type;
    let multiplexer = rustix::fs::makedev(5, 2);
    if stat.st_rdev != multiplexer || u64::try_from(magic).ok() != Some(DEVPTS) {
        return Err(std::io::Error::other("it is no terminal multiplexer")).attempt(what);
    }
    let master = rustix::fs::openat2(pts, c"ptmx", flags, Mode::empty(), resolve).attempt(what)?;
    rustix::pty::unlockpt(&master).attempt(what)?;
    let slave = rustix::pty::ioctl_tiocgptpeer(
        &master,
        OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC,
    )
    .attempt(what)?;
    Ok(Pty { master, slave })
}

/// Gives a terminal a size.
///
/// # Errors
/// [`HostError::Sys`].
pub fn resize(terminal: impl AsFd, rows: u16, cols: u16) -> Result<(), HostError> {
    let size = Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(terminal, size).attempt(|| "resize a terminal".to_owned())
}

/// The byte that tells whoever reads lines from the terminal that there are no more, usually ^D.
///
/// # Errors
/// [`HostError::Sys`].
pub fn end_of_input(terminal: impl AsFd) -> Result<u8, HostError> {
    let modes = rustix::termios::tcgetattr(terminal).attempt(|| "ask a terminal".to_owned())?;
    Ok(modes.special_codes[SpecialCodeIndex::VEOF])
}
