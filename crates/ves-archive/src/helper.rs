//! The confined process: from its arguments to its report.
//!
//! ```text
//! started by the daemon ─► confined by the kernel ─► the archive ─► its report
//! ```
//!
//! Owns what confinement leaves to it. Never here: the walls themselves, which are the host's; a
//! byte of an archive that is read outside of them.

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;

use rustix::thread::CapabilitySet;
use ves_host::HostError;
use ves_host::confine::{self, Confinement};

use crate::contents::{Contents, Judging};
use crate::extract::extract;
use crate::normalise::normalise;
use crate::refused::Refused;
use crate::report::Report;

/// The first argument that makes the daemon's executable the confined process.
pub const HELPER: &str = "unpack-helper";

/// The argument after it where the daemon's sandbox has a network, IPC objects and a host name of its
/// own: they are empty already, and new ones are refused.
pub(crate) const ALONE: &str = "alone";

/// The last range of 65536 ids below the one that holds "no id"; `ves_types::IdSlot::LAST` is below
/// it, so no container has it.
const BASE: u32 = 65_534 * 65_536;
const COUNT: u32 = 65_535;
/// Address space: what decoders need, and no bomb.
const MEMORY: u64 = 2 << 30;
/// What writing files of several owners takes.
const CAPABILITIES: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::SETFCAP);

/// What the confined process is to do.
enum Task<'a> {
    /// Standard output is the file for the clean archive.
    Normalise(Box<Judging>),
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
        ["normalise", judging] => {
            Task::Normalise(serde_json::from_str(judging).map_err(|_| unknown())?)
        }
        ["extract", device] => Task::Extract(Path::new(*device)),
        _ => return Err(unknown().into()),
    };
    let confinement = Confinement {
        alone,
        volume: task.volume(),
        ids: (BASE, COUNT),
        memory: MEMORY,
        capabilities: CAPABILITIES,
    };
    Ok(confine::run(&confinement, |root| {
        tell(root.map_err(Refused::from).and_then(|root| task.perform(&root)))
    })?)
}

impl Task<'_> {
    /// The device of the file system it works in.
    const fn volume(&self) -> Option<&Path> {
        match self {
            Self::Normalise(_) => None,
            Self::Extract(device) => Some(device),
        }
    }

    fn perform(&self, root: &OwnedFd) -> Result<Option<Contents>, Refused> {
        match self {
            Self::Normalise(judging) => {
                let mut out = zstd::stream::write::Encoder::new(io::stdout().lock(), 3)
                    .and_then(|mut e| e.include_checksum(true).map(|()| e))
                    .map_err(|source| Refused::Io { what: "compress".to_owned(), source })?;
                let contents = normalise(io::stdin().lock(), &mut out, judging)?;
                out.finish().and_then(|mut o| o.flush()).map_err(|source| Refused::Io {
                    what: "write the clean archive".to_owned(),
                    source,
                })?;
                Ok(Some(contents))
            }
            Self::Extract(_) => extract(io::stdin().lock(), root).map(|()| None),
        }
    }
}
