//! The filter in front of what a connection reads. What is no header block goes straight into the reader's
//! buffer. Never here: what is mended.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

use super::Filter;

/// How many bytes are read at once while a header block is not whole.
const CHUNK: usize = 4096;

/// What was read of a connection and not passed on yet.
#[derive(Debug)]
pub(in crate::accept) struct Mended {
    filter: Filter,
    held: Vec<u8>,
    /// So many of those held may be passed on.
    settled: usize,
}

impl Mended {
    pub(in crate::accept) const fn new() -> Self {
        Self { filter: Filter::new(), held: Vec::new(), settled: 0 }
    }

    /// Reads from `source`, mended.
    pub(in crate::accept) fn poll_read<S: AsyncRead + Unpin>(
        &mut self,
        source: &mut S,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<Result<(), std::io::Error>> {
        // Nothing that is read then would be an end.
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            if self.settled > 0 {
                self.pass(buf);
                return Poll::Ready(Ok(()));
            }
            if self.held.is_empty() {
                let before = buf.filled().len();
                ready!(Pin::new(&mut *source).poll_read(cx, buf))?;
                let new = buf.filled_mut().get_mut(before..).unwrap_or_default();
                let settled = self.filter.settle(new);
                let (end, rest) = (new.is_empty(), new.get(settled..).unwrap_or_default());
                self.held.extend_from_slice(rest);
                buf.set_filled(before + settled);
                if end || settled > 0 {
                    return Poll::Ready(Ok(()));
                }
            } else {
                let mut chunk = [0; CHUNK];
                let mut chunk = ReadBuf::new(&mut chunk);
                ready!(Pin::new(&mut *source).poll_read(cx, &mut chunk))?;
                self.held.extend_from_slice(chunk.filled());
                // At the end of all nothing follows that could settle the rest.
                let ended = chunk.filled().is_empty();
                self.settled =
                    if ended { self.held.len() } else { self.filter.settle(&mut self.held) };
            }
        }
    }

    /// Passes on what is settled, as much as there is room for.
    fn pass(&mut self, buf: &mut ReadBuf<'_>) {
        let length = self.settled.min(buf.remaining());
        buf.put_slice(self.held.get(..length).unwrap_or_default());
        self.settled -= length;
        self.held.drain(..length);
        if self.held.is_empty() {
            self.held = Vec::new();
        }
    }
}
