//! The confined process: what it gives up before it reads a byte of an archive.
//!
//! ```text
//! started by the daemon ─► own mount, network, IPC, UTS, pid namespaces
//!   ─► root = the volume (or an empty read-only tmpfs), the old tree gone
//!   ─► user namespace of a range nobody uses; file capabilities only, limits, no new privileges
//!   ─► the archive
//! ```

#![allow(unsafe_code, reason = "capset, namespaces of a process with one thread")]

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;

use rustix::process::{Gid, Resource, Rlimit, Uid, setrlimit};
use rustix::thread::UnshareFlags;

use super::{Contents, Limits, Refused, Report, extract, normalise};
use crate::child::{self, Ended, How, Life};
use crate::error::{Attempt, HostError};
use crate::id_map;
use crate::mount::{self, Change, FsContext, Propagation, attr};
use rustix::fs::{Mode, OFlags};

/// The first argument that makes the daemon's executable the confined process.
pub const HELPER: &str = "unpack-helper";

/// The argument after it where the daemon's sandbox has a network, IPC objects and a host name of its
/// own: they are empty already, and new ones are refused.
pub(super) const ALONE: &str = "alone";

/// The last range of 65536 ids below the one that holds "no id"; `ves_types::IdSlot::LAST` is below
/// it, so no container has it.
const BASE: u32 = 65_534 * 65_536;
const COUNT: u32 = 65_535;
/// Address space: what decoders need, and no bomb.
const MEMORY: u64 = 2 << 30;

/// CHOWN, DAC_OVERRIDE, FOWNER, FSETID, SETFCAP: what writing files of several owners takes.
const KEPT: [u32; 5] = [0, 1, 3, 4, 31];

/// What the confined process is to do.
enum Task<'a> {
    /// Standard output is the file for the clean archive.
    Normalise(Limits),
    /// Into the file system on this device.
    Extract(&'a Path),
}

/// Becomes the confined process when the arguments (without the program's name) say so. Must be
/// called first in `main`, while there is one thread.
pub fn helper(mut args: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    if args.next()? != HELPER {
        return None;
    }
    let args: Vec<String> = args.filter_map(|a| a.into_string().ok()).collect();
    Some(confine(&args).unwrap_or_else(|refused| tell(Err(refused))).into())
}

/// Says what came of it; answers the status to exit with.
fn tell(outcome: Result<Option<Contents>, Refused>) -> u8 {
    let report = outcome.map_or_else(Report::from, Report::Done);
    let text = serde_json::to_string(&report).unwrap_or_default();
    // Without a reader there is nobody to tell.
    writeln!(io::stderr(), "{text}").ok();
    u8::from(!matches!(report, Report::Done(_)))
}

/// Has a child do it in confinement; answers how that ended, having said what came of it.
fn confine(args: &[String]) -> Result<u8, Refused> {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let unknown = || HostError::parse("start the unpacker", &args.join(" "));
    let (alone, rest) = match words.as_slice() {
        [ALONE, rest @ ..] => (true, rest),
        all => (false, all),
    };
    let task = match rest {
        ["normalise", limits] => {
            Task::Normalise(serde_json::from_str(limits).map_err(|_| unknown())?)
        }
        ["extract", device] => Task::Extract(Path::new(*device)),
        _ => return Err(unknown().into()),
    };
    let ids = id_map::namespace(BASE, COUNT)?;
    rustix::thread::set_no_new_privs(true).attempt(|| "give up new privileges".to_owned())?;
    let mut namespaces = UnshareFlags::NEWNS | UnshareFlags::NEWPID;
    if !alone {
        namespaces |= UnshareFlags::NEWNET | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS;
    }
    // SAFETY: no thread shares anything with this one, there is only one.
    unsafe { rustix::thread::unshare_unsafe(namespaces) }
        .attempt(|| "make namespaces".to_owned())?;
    // Only children are in a new pid namespace, where this process has no number.
    let (line, _held) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .attempt(|| "make a pipe".to_owned())?;
    let life = Life::BoundBy(line.as_fd());
    let how = How { keep: &[ids.as_fd()], life, ..How::default() };
    let child = child::fork(how, || tell(task.perform(&ids, line.as_fd())).into())?;
    match child::wait(&child)? {
        Ended::Code(status) => Ok(u8::try_from(status).unwrap_or(1)),
        Ended::Signal(_) => Ok(1),
    }
}

impl Task<'_> {
    fn perform(&self, ids: &OwnedFd, line: BorrowedFd<'_>) -> Result<Option<Contents>, Refused> {
        match self {
            Self::Normalise(limits) => {
                enter(None, ids, line)?;
                let mut out = zstd::stream::write::Encoder::new(io::stdout().lock(), 3)
                    .and_then(|mut e| e.include_checksum(true).map(|()| e))
                    .map_err(|source| Refused::Io { what: "compress".to_owned(), source })?;
                let contents = normalise(io::stdin().lock(), &mut out, *limits)?;
                out.finish().and_then(|mut o| o.flush()).map_err(|source| Refused::Io {
                    what: "write the clean archive".to_owned(),
                    source,
                })?;
                Ok(Some(contents))
            }
            Self::Extract(device) => {
                let root = enter(Some(device), ids, line)?;
                extract::extract(io::stdin().lock(), &root)?;
                Ok(None)
            }
        }
    }
}

/// Goes into confinement; answers the new root.
fn enter(device: Option<&Path>, ids: &OwnedFd, line: BorrowedFd<'_>) -> Result<OwnedFd, HostError> {
    let host = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .attempt(|| "open the root".to_owned())?;
    let change =
        Change { propagation: Some(Propagation::Private), recursive: true, ..Change::default() };
    mount::change(&host, change, "/")?;
    let target = match device {
        Some(device) => {
            let tree = FsContext::new("ext4")?
                .set("source", device)?
                .flag("noinit_itable")?
                .mount(attr::NOSUID | attr::NODEV | attr::NOEXEC)?;
            let id_mapped = Change { idmap: Some(ids.as_fd()), ..Change::default() };
            mount::change(&tree, id_mapped, "the volume")?;
            tree
        }
        None => FsContext::new("tmpfs")?
            .set("source", "none")?
            .set("size", "4k")?
            .set("nr_inodes", "2")?
            .flag("ro")?
            .mount(attr::NOSUID | attr::NODEV | attr::NOEXEC | attr::RDONLY)?,
    };
    // Every system has /proc; nothing below it is needed any more.
    mount::attach(&target, Path::new("/proc"))?;
    mount::pivot_root(&target)?;
    limits()?;
    rustix::thread::move_into_link_name_space(
        ids.as_fd(),
        Some(rustix::thread::LinkNameSpaceType::User),
    )
    .attempt(|| "enter the user namespace".to_owned())?;
    let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
    rustix::thread::set_thread_groups(&[]).attempt(|| "drop groups".to_owned())?;
    rustix::thread::set_thread_res_gid(gid, gid, gid).attempt(|| "change the group".to_owned())?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).attempt(|| "change the user".to_owned())?;
    keep_capabilities()?;
    // The change of user has undone it.
    child::die_with_parent(line)?;
    mount::open_beneath(&target, Path::new("."), OFlags::RDONLY | OFlags::DIRECTORY, true)
}

fn limits() -> Result<(), HostError> {
    let one = |limit| Rlimit { current: Some(limit), maximum: Some(limit) };
    for (resource, limit) in
        [(Resource::As, MEMORY), (Resource::Core, 0), (Resource::Nproc, 1), (Resource::Nofile, 64)]
    {
        setrlimit(resource, one(limit)).attempt(|| "set limits".to_owned())?;
    }
    Ok(())
}

/// Of the capabilities in its user namespace, it keeps those about files.
fn keep_capabilities() -> Result<(), HostError> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    #[derive(Clone, Copy, Default)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    let bits = KEPT.iter().fold(0u32, |bits, cap| bits | 1 << cap);
    let header = Header { version: 0x2008_0522, pid: 0 };
    let low = Data { effective: bits, permitted: bits, inheritable: 0 };
    let data = [low, Data::default()];
    // SAFETY: version 3 reads one header and two data records, which live through the call.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
        .attempt(|| "drop capabilities".to_owned())
}
