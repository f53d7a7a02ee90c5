//! One side of a stream of frames that never blocks, with a bounded buffer for what goes out.
//!
//! Never here: what a frame means.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;

use rustix::event::PollFlags;
use ves_init_proto::frame::{Decoder, Frame};

/// Beyond this much unsent, nothing more is produced for the peer.
const MAX_UNSENT: usize = 256 * 1024;

/// A connection that carries frames.
#[derive(Debug)]
pub(crate) struct FramedConn {
    pub(crate) stream: UnixStream,
    decoder: Decoder,
    out: Vec<u8>,
    gone: bool,
}

impl FramedConn {
    pub(crate) fn new(stream: UnixStream) -> std::io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self { stream, decoder: Decoder::default(), out: Vec::new(), gone: false })
    }
    /// Queues a frame and sends as much as goes now.
    pub(crate) fn send(&mut self, frame: &Frame) {
        self.out.extend(frame.encode());
        self.flush();
    }
    /// Sends as much as goes now.
    pub(crate) fn flush(&mut self) {
        while !self.out.is_empty() && !self.gone {
            match self.stream.write(&self.out) {
                Ok(n) => drop(self.out.drain(..n)),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(_) => self.gone = true,
            }
        }
    }
    /// Sends all that is queued, waiting for the peer up to the kernel's time-out of `seconds`.
    pub(crate) fn finish(mut self, seconds: u64) {
        // Where a time-out cannot be set, the peer's end still ends the wait.
        self.stream.set_nonblocking(false).ok();
        self.stream.set_write_timeout(Some(std::time::Duration::from_secs(seconds))).ok();
        if !self.gone {
            self.stream.write_all(&self.out).ok();
        }
    }
    /// Whether nothing more should be produced for the peer now.
    pub(crate) fn is_full(&self) -> bool {
        self.out.len() > MAX_UNSENT
    }
    /// Whether all was sent.
    pub(crate) fn is_idle(&self) -> bool {
        self.out.is_empty()
    }
    /// Whether the peer is gone.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone
    }
    /// What to wait for.
    pub(crate) fn interest(&self, read: bool) -> PollFlags {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::IN, read);
        flags.set(PollFlags::OUT, !self.out.is_empty());
        flags
    }
    /// Reads what came.
    pub(crate) fn fill(&mut self) {
        let mut chunk = [0; 16 * 1024];
        match self.stream.read(&mut chunk) {
            Ok(0) => self.gone = true,
            Ok(n) => self.decoder.push(chunk.get(..n).unwrap_or_default()),
            Err(e) if matches!(e.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => {}
            Err(_) => self.gone = true,
        }
    }
    /// The next frame that came whole. Nonsense ends the connection.
    pub(crate) fn next(&mut self) -> Option<Frame> {
        self.decoder.next_frame().unwrap_or_else(|_| {
            self.gone = true;
            None
        })
    }
}
