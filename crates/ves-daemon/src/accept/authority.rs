//! Mends the `:authority` of requests that come over a unix socket, before the HTTP/2 library sees it. Pure.
//!
//! What a client names as authority of a unix socket is defined nowhere. gRPC's C core, on which Python, C++,
//! Ruby and PHP build, sends the socket's path percent-encoded (grpc#38142), grpc-java and grpcurl the path as
//! it is (grpc-java#12664, grpcurl#442), grpc-swift encodes it too (grpc-swift-nio-transport#176). `h2` reads
//! it as an `http::uri::Authority`, which has neither `%` nor `/`, and resets the stream; there is no option
//! (h2#442, and h2#487, which is open). This can go when `h2` has one.
//!
//! Nobody here looks at an authority, so each byte that none can have is replaced by one that takes as many
//! bits: no length, no frame and no size of a dynamic table changes, and nothing needs to be encoded anew. Of a
//! header block only the syntax is read, of the dynamic table nothing: what is in it was a literal before and
//! was mended then. Where something is not understood the filter passes it and all that follows as it is, and
//! `h2` judges. Never here: what is refused, or whom to trust: it changes what a client could have sent itself.
//!
//! ```text
//! preface ─▶ frame ─▶ frame …      DATA and the like: passed as they come, only counted
//!              └─ HEADERS, CONTINUATION …   held until the block is whole, then mended and passed
//! ```

mod block;
pub(super) mod read;
#[cfg(test)]
mod tests;

use std::ops::Range;

/// How a client begins to speak HTTP/2.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The most bytes that are held: four times what a request's headers may take.
const MOST: usize = 64 * 1024;

/// The bytes before each frame's payload.
const HEAD: usize = 9;

const HEADERS: u8 = 0x1;
const CONTINUATION: u8 = 0x9;

const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// How many bytes the flag [`PRIORITY`] puts before a header block.
const PRIORITY_BYTES: usize = 5;

/// What is not HTTP/2 as this filter knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct NotUnderstood;

/// What comes before a frame's payload.
#[derive(Debug, Clone, Copy)]
struct Head {
    length: usize,
    kind: u8,
    flags: u8,
    stream: [u8; 4],
}

impl Head {
    /// The first frame's head, where all of it is there.
    fn first(bytes: &[u8]) -> Option<Self> {
        let [a, b, c, kind, flags, stream @ ..] = *bytes.first_chunk::<HEAD>()?;
        let length = (usize::from(a) << 16) | (usize::from(b) << 8) | usize::from(c);
        Some(Self { length, kind, flags, stream })
    }

    /// Where in its payload its part of the header block is.
    fn fragment(self, payload: &[u8]) -> Result<Range<usize>, NotUnderstood> {
        let has = |flag| self.kind == HEADERS && self.flags & flag != 0;
        let (mut from, mut to) = (0, payload.len());
        if has(PADDED) {
            from += 1;
            let padding = usize::from(*payload.first().ok_or(NotUnderstood)?);
            to = to.checked_sub(padding).ok_or(NotUnderstood)?;
        }
        if has(PRIORITY) {
            from += PRIORITY_BYTES;
        }
        if from <= to { Ok(from..to) } else { Err(NotUnderstood) }
    }
}

/// Where in what a client sends it is.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// In the preface, after so many of its bytes.
    Preface(usize),
    /// Before a frame.
    Frame,
    /// Within what is of no interest, which goes on for so many bytes.
    Within(usize),
    /// After so many bytes of whole frames of a header block, the first of which is this.
    Block { first: Head, whole: usize },
    /// Where nothing is understood any more.
    Lost,
}

/// The filter for one connection.
#[derive(Debug)]
pub(super) struct Filter {
    place: Place,
}

impl Filter {
    pub(super) const fn new() -> Self {
        Self { place: Place::Preface(0) }
    }

    /// Mends what follows in the stream, and says how many bytes of it, from its start, are settled. The rest,
    /// never more than [`MOST`] and a frame's head, is to be given again, with what follows it.
    pub(super) fn settle(&mut self, bytes: &mut [u8]) -> usize {
        let mut settled = 0;
        loop {
            let rest = bytes.get_mut(settled..).unwrap_or_default();
            match self.step(rest) {
                Ok(Some(more)) => settled += more,
                Ok(None) => return settled,
                Err(NotUnderstood) => self.place = Place::Lost,
            }
        }
    }

    /// One step further: so many bytes of `rest` are settled, or none are for want of more.
    fn step(&mut self, rest: &mut [u8]) -> Result<Option<usize>, NotUnderstood> {
        match self.place {
            _ if rest.is_empty() => Ok(None),
            Place::Lost => Ok(Some(rest.len())),
            Place::Preface(seen) => {
                let missing = PREFACE.get(seen..).unwrap_or_default();
                let length = rest.len().min(missing.len());
                if rest.get(..length) != missing.get(..length) {
                    return Err(NotUnderstood);
                }
                let whole = length == missing.len();
                self.place = if whole { Place::Frame } else { Place::Preface(seen + length) };
                Ok(Some(length))
            }
            Place::Within(left) => {
                let length = rest.len().min(left);
                let over = length == left;
                self.place = if over { Place::Frame } else { Place::Within(left - length) };
                Ok(Some(length))
            }
            Place::Frame => {
                let Some(head) = Head::first(rest) else { return Ok(None) };
                self.place = match head.kind {
                    HEADERS => Place::Block { first: head, whole: 0 },
                    CONTINUATION => return Err(NotUnderstood),
                    _ => Place::Within(HEAD + head.length),
                };
                Ok(Some(0))
            }
            Place::Block { first, whole } => {
                let after = rest.get(whole..).unwrap_or_default();
                let Some(head) = Head::first(after) else { return Ok(None) };
                let follows = head.kind == CONTINUATION && head.stream == first.stream;
                let end = whole + HEAD + head.length;
                if (whole > 0 && !follows) || end > MOST {
                    return Err(NotUnderstood);
                }
                let Some(frames) = rest.get_mut(..end) else { return Ok(None) };
                if head.flags & END_HEADERS == 0 {
                    self.place = Place::Block { first, whole: end };
                    return Ok(Some(0));
                }
                mend(frames)?;
                self.place = Place::Frame;
                Ok(Some(end))
            }
        }
    }
}

/// Mends the header block in these frames, which are all there are of it.
fn mend(frames: &mut [u8]) -> Result<(), NotUnderstood> {
    let mut fragments = Vec::new();
    let mut at = 0;
    while let Some(head) = frames.get(at..).and_then(Head::first) {
        let payload = at + HEAD..at + HEAD + head.length;
        let fragment = head.fragment(frames.get(payload.clone()).ok_or(NotUnderstood)?)?;
        fragments.push(payload.start + fragment.start..payload.start + fragment.end);
        at = payload.end;
    }
    // Nearly always it is one frame.
    if let [fragment] = &*fragments {
        return block::mend(frames.get_mut(fragment.clone()).unwrap_or_default());
    }
    let parts = || fragments.iter().cloned();
    let mut block: Vec<u8> =
        parts().flat_map(|part| frames.get(part).unwrap_or_default().iter().copied()).collect();
    block::mend(&mut block)?;
    let mut mended = block.into_iter();
    for place in parts() {
        let part = frames.get_mut(place).unwrap_or_default();
        part.iter_mut().zip(&mut mended).for_each(|(byte, new)| *byte = new);
    }
    Ok(())
}
