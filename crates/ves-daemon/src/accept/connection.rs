//! One connection, whose it is, and the bounds of what it may cost.
//!
//! Whoever connects says soon what it wants: a connection without a request, or with half a one, is closed. A
//! stranger's ends after a while whatever it does, and earlier when it sent or was sent more than anything it
//! may ask for takes. Never here: who may connect.

use std::io::{Error, ErrorKind, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::transport::server::Connected;

use super::authority::read::Mended;
use super::permits::{Permit, Permits};
use crate::peer::{Principal, Role};

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
        }
    }
}

/// Whose a connection is; the gate finds it in each request.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) principal: Principal,
    has_called: Arc<AtomicBool>,
    permits: Option<Arc<Permits>>,
}

impl Caller {
    /// Of a connection that the kernel told us of.
    fn new(principal: Principal, permits: Option<Arc<Permits>>) -> Self {
        Self { principal, has_called: Arc::default(), permits }
    }

    /// Of a call that is made in this very process.
    pub(crate) fn within() -> Self {
        let uid = nix::unistd::geteuid().as_raw();
        let pid = Some(nix::unistd::getpid().as_raw());
        Self::new(Principal { uid, pid, role: Role::Own }, None)
    }

    /// Of a request that came no known way.
    pub(crate) fn nobody() -> Self {
        Self::new(Principal { uid: u32::MAX, pid: None, role: Role::Other }, None)
    }

    /// Notes that a request arrived; how long its answer waits, which only a stranger's does.
    pub(crate) fn calls(&self) -> Duration {
        self.has_called.store(true, Ordering::Relaxed);
        match (&self.permits, self.principal) {
            (Some(permits), Principal { uid, role: Role::Other, .. }) => {
                permits.call(uid, std::time::Instant::now())
            }
            _ => Duration::ZERO,
        }
    }
}

/// A connection within its bounds.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: UnixStream,
    mended: Mended,
    caller: Caller,
    /// When its bounds are looked at next.
    timer: Option<Pin<Box<Sleep>>>,
    ends: Option<Instant>,
    may_send: Option<usize>,
    may_get: Option<usize>,
    _permit: Permit,
}

impl Connection {
    pub(crate) fn new(
        stream: UnixStream,
        principal: Principal,
        permits: Arc<Permits>,
        permit: Permit,
        bounds: Bounds,
    ) -> Self {
        let now = Instant::now();
        let stranger = principal.role == Role::Other;
        Self {
            stream,
            mended: Mended::new(),
            caller: Caller::new(principal, Some(permits)),
            timer: Some(Box::pin(sleep_until(now + bounds.first_call))),
            ends: stranger.then(|| now + bounds.stranger_time),
            may_send: stranger.then_some(bounds.stranger_sends),
            may_get: stranger.then_some(bounds.stranger_gets),
            _permit: permit,
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
            if !self.caller.has_called.load(Ordering::Relaxed) {
                return over("no request came");
            }
            match self.ends {
                Some(end) if end <= Instant::now() => return over("its time is over"),
                Some(end) => timer.as_mut().reset(end),
                None => self.timer = None,
            }
        }
        Ok(())
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
        let mut source = Metered { stream: &mut this.stream, left: &mut this.may_send };
        this.mended.poll_read(&mut source, cx, buf)
    }
}

/// What is read of a connection, within what may be sent over it.
#[derive(Debug)]
struct Metered<'a> {
    stream: &'a mut UnixStream,
    left: &'a mut Option<usize>,
}

impl AsyncRead for Metered<'_> {
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
        let written = ready!(Pin::new(&mut this.stream).poll_write_vectored(cx, bufs))?;
        Poll::Ready(spend(&mut this.may_get, written).map(|()| written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
