//! Unpacks archives nobody trusts, confined to one mounted file system.
//!
//! ```text
//! archive of anybody ──► normalise (confined, sees no files) ──► contents.tar.zst, clean and counted
//! contents.tar.zst   ──► extract   (confined to one volume)  ──► a file system
//! ```
//!
//! The first pass does all judging, as a pure function of a stream; the second believes nothing of
//! it and is kept inside by the kernel. Both run in a process of their own, started from the
//! daemon's executable, in fresh user, mount, network, IPC, UTS and pid namespaces. Never here: where
//! images are and what they are called.

use std::fmt;
use std::io::{self, Read};

use serde::{Deserialize, Serialize};

mod confine;
mod extract;
mod normalise;
mod run;

pub use confine::{HELPER, helper};
pub use normalise::normalise;
pub use run::{Digest, Feed, extract_into, normalise_to};

/// What an archive may expand to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of all files, each rounded up to a block.
    pub bytes: u64,
    /// Files, directories and links.
    pub inodes: u64,
    /// Bytes of one path.
    pub path_bytes: usize,
    /// Directories in one path.
    pub depth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: 16 << 30, inodes: 1_000_000, path_bytes: 1024, depth: 64 }
    }
}

/// The init system found in an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Init {
    /// systemd.
    Systemd,
    /// System V init.
    Sysvinit,
    /// Another `/sbin/init`.
    Other,
    /// There is none.
    Absent,
}

/// What a clean archive holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contents {
    /// Bytes of all files, each rounded up to a block.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
    /// The init system.
    pub init: Init,
    /// `PRETTY_NAME` of its os-release.
    pub os: Option<String>,
    /// How many device nodes below `dev/` were left out.
    pub devices_skipped: u64,
}

/// Why an archive was not taken.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// It is malformed or hostile.
    #[error("the archive's entry {entry:?} is refused: {why}")]
    Bad {
        /// The entry's name as the archive has it, cut; empty where it is about the whole.
        entry: String,
        /// What is wrong.
        why: String,
    },
    /// It expands beyond a limit.
    #[error("the archive is too large at {entry:?}: {limit}")]
    TooLarge {
        /// The entry's name.
        entry: String,
        /// Which limit, with its value.
        limit: String,
    },
    /// The target has no room.
    #[error("no room for the archive's contents")]
    NoRoom,
    /// Reading or writing failed on this side.
    #[error("{what}")]
    Io {
        /// What was attempted.
        what: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The confined process could not be run or ended strangely.
    #[error(transparent)]
    Host(#[from] crate::HostError),
}

impl Refused {
    fn bad(entry: &[u8], why: impl fmt::Display) -> Self {
        Self::Bad { entry: lossy(entry), why: why.to_string() }
    }
    fn too_large(entry: &[u8], limit: impl fmt::Display) -> Self {
        Self::TooLarge { entry: lossy(entry), limit: limit.to_string() }
    }
}

/// A name for a message: cut, invalid bytes replaced.
fn lossy(name: &[u8]) -> String {
    String::from_utf8_lossy(name).chars().take(200).collect()
}

/// The report of the confined process, its last line on the error output.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Report {
    Done(Option<Contents>),
    Bad { entry: String, why: String },
    TooLarge { entry: String, limit: String },
    NoRoom,
    Failed { what: String, errno: i32 },
}

impl From<Refused> for Report {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Bad { entry, why } => Self::Bad { entry, why },
            Refused::TooLarge { entry, limit } => Self::TooLarge { entry, limit },
            Refused::NoRoom => Self::NoRoom,
            Refused::Io { what, source } => {
                let errno = source.raw_os_error().unwrap_or_default();
                let what = if errno == 0 { format!("{what}: {source}") } else { what };
                Self::Failed { what, errno }
            }
            Refused::Host(error) => {
                Self::Failed { what: error.to_string(), errno: error.errno().unwrap_or_default() }
            }
        }
    }
}

/// Recognises the compression by content and undoes it.
///
/// # Errors
/// When the first bytes cannot be read or a decoder cannot be made.
fn decompress<'a>(mut input: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut magic = Vec::with_capacity(6);
    input.by_ref().take(6).read_to_end(&mut magic)?;
    let whole = io::BufReader::with_capacity(1 << 17, io::Cursor::new(magic.clone()).chain(input));
    Ok(match magic.as_slice() {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(whole)),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => {
            // What `xz -9` needs, and some; a stream that asks for more is refused.
            let stream = liblzma::stream::Stream::new_stream_decoder(
                192 << 20,
                liblzma::stream::CONCATENATED,
            )
            .map_err(io::Error::other)?;
            Box::new(liblzma::bufread::XzDecoder::new_stream(whole, stream))
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(whole)?;
            decoder.window_log_max(27)?;
            Box::new(decoder)
        }
        _ => Box::new(whole),
    })
}
