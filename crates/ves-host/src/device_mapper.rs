//! Device-mapper by its control device: devices are made of a table, suspended, resumed, asked for their
//! status, sent messages and removed. What a thin pool's tables, messages and statuses say is in [`thin`].
//!
//! The crate `devicemapper` would do, but is no help here: to build it takes libclang and the headers of
//! libdevmapper (it makes its bindings anew each time), it links that library for a semaphore shared with
//! udev, which is what this code avoids, and it brings `nix`, `rand`, `retry`, `semver` and `env_logger`.
//! What is used of it are nine requests on one descriptor.
//!
//! **udev is kept out.** Each request that makes the kernel tell udev of a device carries flags, in
//! what is called a cookie, by which the rules of device-mapper and of systemd leave the device alone: no
//! link below `/dev/mapper`, no look at what is on it (a customer wrote that), no unit. Nobody waits for
//! udev: the node `/dev/dm-N` is the kernel's own and there when [`Control::create`] comes back.
//!
//! Never here: what LVM keeps of its volumes; which ids and names are given.

#![allow(unsafe_code, reason = "device-mapper is spoken to by ioctl")]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use crate::error::{Attempt, HostError};

pub mod thin;
mod wire;

use self::wire::{Flags, Request, Verb};

/// The device by which all others are made.
const CONTROL: &str = "/dev/mapper/control";

/// How much room an answer has at first, in bytes; where that is too little, it is asked again with more.
const ROOM: usize = 16 * 1024;

/// More than any answer is: the names of a million devices are less.
const MOST_ROOM: usize = 64 * 1024 * 1024;

/// The name of a device, which is one on the whole machine: at most 127 bytes, and no slash.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

impl Name {
    /// Reads a name.
    ///
    /// # Errors
    /// [`HostError::Parse`] where the kernel would not take it as it is.
    pub fn parse(text: &str) -> Result<Self, HostError> {
        let fits = !text.is_empty() && text.len() < wire::NAME_ROOM;
        if fits && text.bytes().all(|b| b.is_ascii_graphic() && b != b'/') {
            Ok(Self(text.to_owned()))
        } else {
            Err(HostError::parse("the name of a device of device-mapper", text))
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// What one stretch of a device is made of: a line of its table, or what the kernel says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Where it begins, in sectors of 512 bytes.
    pub start: u64,
    /// How long it is, in sectors of 512 bytes.
    pub sectors: u64,
    /// Its kind, such as `thin`.
    pub kind: String,
    /// What its kind makes of it.
    pub text: String,
}

/// A device as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Info {
    /// The device's number as `st_rdev` gives it.
    pub device: u64,
    /// How many have it open, mounts and devices on top of it included.
    pub open: u32,
    /// Whether what is written to it waits.
    pub suspended: bool,
    /// Whether it is made of something: one that was created and got no table is not.
    pub live: bool,
    /// Whether it goes with its last user.
    pub leaving: bool,
}

impl Info {
    /// The device's node, which the kernel makes.
    pub fn path(&self) -> PathBuf {
        format!("/dev/dm-{}", rustix::fs::minor(self.device)).into()
    }
}

/// The way to device-mapper.
#[derive(Debug)]
pub struct Control(File);

impl Control {
    /// Opens it.
    ///
    /// # Errors
    /// [`HostError::Lacks`] without device-mapper, else [`HostError::Sys`].
    pub fn open() -> Result<Self, HostError> {
        let opened =
            OpenOptions::new().read(true).write(true).custom_flags(libc::O_CLOEXEC).open(CONTROL);
        match opened {
            // Without a node there is no driver, and with a node and no driver there is no device.
            Err(e)
                if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENODEV | libc::ENXIO)) =>
            {
                Err(HostError::Lacks {
                    feature: "device-mapper".to_owned(),
                    why: format!("{CONTROL} does not open ({e}); load the module dm_mod"),
                })
            }
            other => Ok(Self(other.attempt(|| format!("open {CONTROL}"))?)),
        }
    }

    /// The version of the kernel's interface.
    ///
    /// # Errors
    /// [`HostError::Sys`].
    pub fn version(&self) -> Result<[u32; 3], HostError> {
        let answer =
            self.ask(&Request::new(Verb::Version), || "ask device-mapper its version".to_owned())?;
        Ok(wire::version(&answer))
    }

    /// All devices, with their numbers, whoever made them.
    ///
    /// # Errors
    /// [`HostError::Sys`]; [`HostError::Parse`].
    pub fn devices(&self) -> Result<Vec<(String, u64)>, HostError> {
        let answer = self
            .ask(&Request::new(Verb::ListDevices), || "list device-mapper's devices".to_owned())?;
        wire::names(&answer)
    }

    /// A device as it is, or `None` where there is none.
    ///
    /// # Errors
    /// [`HostError::Sys`].
    pub fn look(&self, name: &Name) -> Result<Option<Info>, HostError> {
        let request = Request::of(Verb::DeviceStatus, name.as_str());
        match self.ask(&request, || format!("look at the device {name}")) {
            Err(e) if e.is(rustix::io::Errno::NXIO) => Ok(None),
            other => Ok(Some(wire::info(&other?))),
        }
    }

    /// Makes a device of this table, which can be used at once. Where that fails, none is left.
    ///
    /// `uuid` says for good whose it is, as the name may not; at most 128 bytes. LVM takes those for its
    /// own that begin with `LVM-`, and no others.
    ///
    /// # Errors
    /// [`HostError::Sys`]: EBUSY where the name or the uuid is taken, else what the kinds of targets say.
    pub fn create(&self, name: &Name, uuid: &str, table: &[Target]) -> Result<Info, HostError> {
        let what = || format!("make the device {name}");
        let request = Request::of(Verb::Create, name.as_str()).uuid(uuid).quiet();
        self.ask(&request, what)?;
        let made = self.load(name, table).and_then(|()| self.resume(name));
        if made.is_err() {
            // The first failure says more than that of a way back, and the next `create` finds it taken.
            self.remove(name).ok();
        }
        made
    }

    /// Lays a table ready, which takes the place of the device's own when it is resumed.
    ///
    /// # Errors
    /// [`HostError::Sys`].
    pub fn load(&self, name: &Name, table: &[Target]) -> Result<(), HostError> {
        let request = Request::of(Verb::LoadTable, name.as_str()).table(table);
        self.ask(&request, || format!("load a table for the device {name}")).map(drop)
    }

    /// Lets what is written to a device wait. A file system on it is frozen first, so that it is whole
    /// in what is taken of the device meanwhile. One that is suspended stays so.
    ///
    /// # Errors
    /// [`HostError::Sys`].
    pub fn suspend(&self, name: &Name) -> Result<(), HostError> {
        let request = Request::of(Verb::Suspend, name.as_str()).flag(Flags::SUSPEND);
        self.ask(&request, || format!("suspend the device {name}")).map(drop)
    }

    /// Lets a device go on, with the table that was loaded last.
    ///
    /// # Errors
    /// [`HostError::Sys`].
    pub fn resume(&self, name: &Name) -> Result<Info, HostError> {
        let request = Request::of(Verb::Suspend, name.as_str()).quiet();
        Ok(wire::info(&self.ask(&request, || format!("resume the device {name}"))?))
    }

    /// What a device's targets say of how they are. The kernel writes out first what a pool has in memory.
    ///
    /// # Errors
    /// [`HostError::Sys`], ENXIO where there is none; [`HostError::Parse`].
    pub fn status(&self, name: &Name) -> Result<Vec<Target>, HostError> {
        let request = Request::of(Verb::TableStatus, name.as_str());
        wire::targets(&self.ask(&request, || format!("ask the device {name} for its status"))?)
    }

    /// A device's table.
    ///
    /// # Errors
    /// [`HostError::Sys`], ENXIO where there is none; [`HostError::Parse`].
    pub fn table(&self, name: &Name) -> Result<Vec<Target>, HostError> {
        let request = Request::of(Verb::TableStatus, name.as_str()).flag(Flags::TABLE);
        wire::targets(&self.ask(&request, || format!("ask the device {name} for its table"))?)
    }

    /// Tells a device's first target something.
    ///
    /// # Errors
    /// [`HostError::Sys`] with what the target's kind says.
    pub fn message(&self, name: &Name, text: &str) -> Result<(), HostError> {
        let request = Request::of(Verb::Message, name.as_str()).message(text);
        self.ask(&request, || format!("tell the device {name}: {text}")).map(drop)
    }

    /// Takes a device away that nobody uses. What it was made of stays.
    ///
    /// # Errors
    /// [`HostError::Sys`]: EBUSY where somebody uses it, ENXIO where there is none.
    pub fn remove(&self, name: &Name) -> Result<(), HostError> {
        let request = Request::of(Verb::Remove, name.as_str()).quiet();
        self.ask(&request, || format!("remove the device {name}")).map(drop)
    }

    /// One request, with as much room as its answer takes.
    fn ask(&self, request: &Request<'_>, what: impl Fn() -> String) -> Result<Vec<u8>, HostError> {
        let mut room = ROOM;
        loop {
            let mut buffer = request.encode(room).attempt(&what)?;
            // SAFETY: the kernel reads and writes at most as many bytes as the buffer says at its head
            // that it has, which is its length; it lives through the call, and all bytes are valid.
            let result =
                unsafe { libc::ioctl(self.0.as_raw_fd(), request.number(), buffer.as_mut_ptr()) };
            if result < 0 {
                return Err(io::Error::last_os_error()).attempt(&what);
            }
            if !wire::is_cut(&buffer) {
                return Ok(buffer);
            }
            // A message would be carried out a second time.
            if room >= MOST_ROOM || request.is_message() {
                return Err(io::Error::from_raw_os_error(libc::EOVERFLOW)).attempt(&what);
            }
            room *= 8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_the_kernel_takes() {
        for good in ["ves-101", "ves-pool_tdata", &"a".repeat(127)] {
            assert_eq!(Name::parse(good).expect(good).as_str(), good);
        }
        for bad in ["", "a/b", "a b", "a\0", "ä", &"a".repeat(128)] {
            assert!(Name::parse(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn a_device_is_where_the_kernel_has_its_node() {
        let device = rustix::fs::makedev(252, 300);
        let info = Info { device, open: 0, suspended: false, live: true, leaving: false };
        assert_eq!(info.path(), PathBuf::from("/dev/dm-300"));
    }
}
