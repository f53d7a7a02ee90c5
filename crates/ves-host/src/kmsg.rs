//! The kernel's log: records that came since it was last read.
//!
//! Opening it may need `CAP_SYSLOG`; reading what is open needs nothing. So a service manager hands it over
//! by the name [`NAME`], or a daemon opens it before it gives up its capabilities. Each reader has its own
//! place in the log and takes nothing from others. Never here: what a record means.

use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Attempt, HostError};
use crate::handed;

/// What the service manager calls the descriptor.
pub const NAME: &str = "kmsg";

/// The longest record there is, of the kernel's `PRINTK_MESSAGE_MAX`, and some.
const LONGEST: usize = 16 << 10;

/// The log, from the oldest record the kernel still has.
#[derive(Debug)]
pub struct KernelLog {
    fd: OwnedFd,
}

impl KernelLog {
    /// The one that was handed over, or else the machine's.
    ///
    /// # Errors
    /// [`HostError::Sys`] where it may not be opened.
    pub fn open() -> Result<Self, HostError> {
        let what = || "open the kernel's log".to_owned();
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        let fd = match handed::by_name(NAME) {
            Some(fd) => {
                rustix::fs::fcntl_setfl(&fd, flags).attempt(what)?;
                fd
            }
            None => rustix::fs::open("/dev/kmsg", flags | OFlags::CLOEXEC, Mode::empty())
                .attempt(what)?,
        };
        Ok(Self { fd })
    }

    /// Shows each record that came since, the oldest first, but no more than `most`: the rest comes the next
    /// time. What the kernel overwrote meanwhile is lost.
    ///
    /// # Errors
    /// [`HostError::Sys`].
    pub fn read(&self, most: usize, mut show: impl FnMut(&str)) -> Result<(), HostError> {
        let mut buffer = vec![0; LONGEST];
        for _ in 0..most {
            match rustix::io::read(&self.fd, &mut buffer) {
                Ok(0) | Err(Errno::AGAIN) => return Ok(()),
                Ok(n) => show(&String::from_utf8_lossy(buffer.get(..n).unwrap_or_default())),
                // It goes on with the oldest there is.
                Err(Errno::PIPE | Errno::INTR) => {}
                Err(e) => return Err(e).attempt(|| "read the kernel's log".to_owned()),
            }
        }
        Ok(())
    }
}
