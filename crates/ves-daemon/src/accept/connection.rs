//! One connection, whose it is, and the bounds of what it may cost.
//!
//! Whoever connects says soon what it wants: a connection without a request, or with half a one, is closed. A
//! stranger's ends after a while whatever it does, and earlier when it sent or was sent more than anything it
//! may ask for takes. One from the network ends when who called on it may not any more. Never here: who may
//! connect.

use std::io::{Error, ErrorKind, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::addresses::AddressPermit;
use super::authority::read::Mended;
use super::caller::Caller;
use super::permits::Permit;

/// What a connection may cost.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// How long the first request may take to arrive.
    pub(crate) first_call: Duration,
    /// How long a stranger's connection lasts.
    pub(crate) stranger_time: Duration,
    /// How many bytes a stranger may send.
    pub(crate) stranger_sends: usize,
    /// How many bytes a stranger is sent.
    pub(crate) stranger_gets: usize,
    /// How often it is looked at whether somebody from the network is still who they were.
    pub(crate) check: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            first_call: Duration::from_secs(10),
            stranger_time: Duration::from_secs(30),
            // Any call that it may make takes a hundredth of that.
            stranger_sends: 64 * 1024,
            // All descriptions of all services take less than half of that.
            stranger_gets: 4 * 1024 * 1024,
            check: Duration::from_secs(5),
        }
    }
}

/// Its bytes.
#[derive(Debug)]
enum Stream {
    Unix(UnixStream, Mended),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Its place, which it gives back.
#[derive(Debug)]
enum Place {
    Account { _permit: Permit },
    Address(AddressPermit),
}

/// A connection within its bounds.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: Stream,
    caller: Caller,
    /// When its bounds are looked at next.
    timer: Option<Pin<Box<Sleep>>>,
    check: Duration,
    ends: Option<Instant>,
    may_send: Option<usize>,
    may_get: Option<usize>,
    place: Place,
}

impl Connection {
    pub(crate) fn unix(stream: UnixStream, caller: Caller, permit: Permit, bounds: Bounds) -> Self {
        Self::new(
            Stream::Unix(stream, Mended::new()),
            caller,
            Place::Account { _permit: permit },
            bounds,
        )
    }

    pub(super) fn network(
        stream: TlsStream<TcpStream>,
        caller: Caller,
        permit: AddressPermit,
        bounds: Bounds,
    ) -> Self {
        Self::new(Stream::Tls(Box::new(stream)), caller, Place::Address(permit), bounds)
    }

    fn new(stream: Stream, caller: Caller, place: Place, bounds: Bounds) -> Self {
        let now = Instant::now();
        let stranger = caller.is_stranger();
        let bounded = stranger || caller.is_unknown();
        Self {
            stream,
            timer: Some(Box::pin(sleep_until(now + bounds.first_call))),
            check: bounds.check,
            ends: stranger.then(|| now + bounds.stranger_time),
            may_send: bounded.then_some(bounds.stranger_sends),
            may_get: bounded.then_some(bounds.stranger_gets),
            caller,
            place,
        }
    }

    /// Whose it is.
    pub(crate) fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Fails where its time is over, and otherwise wakes the task when it may be.
    fn poll_time(&mut self, cx: &mut Context<'_>) -> Result<(), Error> {
        let over = |what: &str| Err(Error::new(ErrorKind::TimedOut, what.to_owned()));
        while let Some(timer) = &mut self.timer
            && timer.as_mut().poll(cx).is_ready()
        {
            let now = Instant::now();
            if !self.caller.has_called() {
                return over("no request came");
            }
            if self.ends.is_some_and(|end| end <= now) {
                return over("its time is over");
            }
            let refused = |fault: ves_proto::Fault| Error::new(ErrorKind::PermissionDenied, fault);
            self.caller.check().map_err(refused)?;
            let check = self.caller.is_checked().then(|| now + self.check);
            match self.ends.into_iter().chain(check).min() {
                Some(next) => timer.as_mut().reset(next),
                None => self.timer = None,
            }
        }
        Ok(())
    }

    /// Takes the bounds of strangers off one that has shown who it is by its first call.
    fn know(&mut self) {
        if self.may_send.is_some() && self.caller.is_unknown() && self.caller.has_called() {
            (self.may_send, self.may_get) = (None, None);
            if let Place::Address(permit) = &mut self.place {
                permit.known();
            }
        }
    }
}

/// Takes `bytes` off what is left; fails where that is too little.
fn spend(left: &mut Option<usize>, bytes: usize) -> Result<(), Error> {
    let Some(left) = left else { return Ok(()) };
    let enough = left.checked_sub(bytes);
    *left = enough.ok_or_else(|| Error::new(ErrorKind::QuotaExceeded, "too much was said"))?;
    Ok(())
}

impl Connected for Connection {
    type ConnectInfo = Caller;
    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<Result<(), Error>> {
        let this = self.get_mut();
        this.poll_time(cx)?;
        this.know();
        match &mut this.stream {
            Stream::Unix(stream, mended) => {
                let mut source = Metered { stream, left: &mut this.may_send };
                mended.poll_read(&mut source, cx, buf)
            }
            Stream::Tls(stream) => {
                Pin::new(&mut Metered { stream, left: &mut this.may_send }).poll_read(cx, buf)
            }
        }
    }
}

/// What is read of a connection, within what may be sent over it.
#[derive(Debug)]
struct Metered<'a, S> {
    stream: &'a mut S,
    left: &'a mut Option<usize>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<'_, S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<Result<(), Error>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut *this.stream).poll_read(cx, buf))?;
        Poll::Ready(spend(this.left, buf.filled().len().saturating_sub(before)))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<Result<usize, Error>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<Result<usize, Error>> {
        let this = self.get_mut();
        this.poll_time(cx)?;
        this.know();
        let written = ready!(match &mut this.stream {
            Stream::Unix(stream, _) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        })?;
        Poll::Ready(spend(&mut this.may_get, written).map(|()| written))
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Unix(stream, _) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        match &mut self.get_mut().stream {
            Stream::Unix(stream, _) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        match &mut self.get_mut().stream {
            Stream::Unix(stream, _) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
