//! What containers that have ended printed last. The node keeps it until it forgets the run, which is soon; here it
//! is kept from then on, of the latest [`MOST`], until the container is made anew or this daemon ends.
//!
//! Never here: the console of what runs.

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ves_host::{Attempt, HostError};
use ves_init_proto::frame::{Decoder, Frame, LONGEST, Tag};
use ves_types::CtId;

/// Of how many; each has at most [`BYTES`].
const MOST: usize = 64;
/// The most of one, which is more than a monitor keeps.
const BYTES: usize = 2 * LONGEST;
/// How long the node may take to tell it.
const TELL: Duration = Duration::from_secs(2);

/// The last words that are kept, the latest last.
#[derive(Debug, Default)]
pub(crate) struct LastWords {
    kept: Mutex<VecDeque<(CtId, Arc<[u8]>)>>,
}

impl LastWords {
    fn kept(&self) -> MutexGuard<'_, VecDeque<(CtId, Arc<[u8]>)>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what a stream of scroll-back says.
    pub(crate) fn keep(&self, ct: CtId, scrollback: UnixStream) -> Result<(), HostError> {
        let words = read(scrollback)?;
        let mut kept = self.kept();
        kept.retain(|(other, _)| *other != ct);
        kept.push_back((ct, words.into()));
        let excess = kept.len().saturating_sub(MOST);
        kept.drain(..excess);
        Ok(())
    }

    /// Forgets those of a container.
    pub(crate) fn forget(&self, ct: CtId) {
        self.kept().retain(|(other, _)| *other != ct);
    }

    /// Those of a container as a stream of scroll-back, where they are kept.
    pub(crate) fn show(&self, ct: CtId) -> Result<Option<UnixStream>, HostError> {
        let Some(words) = self.kept().iter().find(|(of, _)| *of == ct).map(|(_, w)| Arc::clone(w))
        else {
            return Ok(None);
        };
        let (near, far) = UnixStream::pair().attempt(|| "show the last words".to_owned())?;
        // A reader may be slow, or leave.
        std::thread::spawn(move || write(far, &words));
        Ok(Some(near))
    }
}

/// Writes scroll-back for who may leave before its end.
pub(crate) fn write(mut to: UnixStream, words: &[u8]) {
    for piece in words.chunks(LONGEST) {
        if to.write_all(&Frame::new(Tag::Output, piece).encode()).is_err() {
            return;
        }
    }
}

fn read(mut from: UnixStream) -> Result<Vec<u8>, HostError> {
    let what = || "read the last words".to_owned();
    from.set_read_timeout(Some(TELL)).attempt(what)?;
    let (mut decoder, mut words) = (Decoder::default(), Vec::new());
    let mut piece = [0; 4096];
    while words.len() < BYTES {
        let read = from.read(&mut piece).attempt(what)?;
        if read == 0 {
            break;
        }
        decoder.push(piece.get(..read).unwrap_or_default());
        while let Some(frame) =
            decoder.next_frame().map_err(|e| HostError::parse(what(), &e.to_string()))?
        {
            words.extend(frame.payload);
        }
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(words: &[u8]) -> UnixStream {
        let (near, far) = UnixStream::pair().expect("a pair");
        let words = words.to_vec();
        std::thread::spawn(move || write(far, &words));
        near
    }

    #[test]
    fn the_latest_are_kept() {
        let (all, ct) = (LastWords::default(), |n: u32| CtId::try_from(n).expect("valid"));
        let most = u32::try_from(MOST).expect("few");
        for n in 1..=most {
            all.keep(ct(n), stream(format!("of {n}").as_bytes())).expect("kept");
        }
        // One that ended again is one of the latest.
        let long = vec![b'x'; LONGEST + 1];
        all.keep(ct(1), stream(&long)).expect("kept");
        all.keep(ct(most + 1), stream(b"")).expect("kept");
        let said = |n| all.show(ct(n)).expect("shown").map(|s| read(s).expect("read"));
        assert_eq!(said(1), Some(long));
        assert_eq!(said(2), None, "too many have ended since");
        assert_eq!(said(3), Some(b"of 3".to_vec()));
        assert_eq!(said(most + 1), Some(Vec::new()));
        all.forget(ct(3));
        assert_eq!(said(3), None);
    }
}
