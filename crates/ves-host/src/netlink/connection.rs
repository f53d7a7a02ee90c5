//! rtnetlink's connection, driven to the end of one request at a time by whoever asks.
//!
//! No runtime: netlink answers within the send, so that everything an answer consists of stands in the
//! socket, or is made by the receive, and there is nothing to wait for. A request is one send and
//! one receive a datagram; with tokio's socket it would be a registration and a wait more, in a runtime
//! that all callers of a daemon share. Knows no links and no routes; never here: a dump
//! of what others fill, which has no bound in [`rtnetlink`].

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use bytes::BufMut;
use futures::StreamExt;
use netlink_packet_core::{
    ErrorMessage, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{AsyncSocket, Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rtnetlink::proto;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use super::{DUMP_ATTEMPTS, HEADER, ROOM, Sender, attributes, said};
use crate::error::{Attempt, HostError};

/// A socket from which one datagram is taken a turn.
pub(super) struct Turns {
    socket: Socket,
    buffer: RefCell<Vec<u8>>,
    /// Whether this turn's datagram is still to be taken.
    may_receive: Cell<bool>,
    /// Why nothing came.
    failure: Cell<Option<Errno>>,
}

impl Turns {
    /// Opens a socket in the calling thread's network namespace.
    pub(super) fn open() -> Result<Self, HostError> {
        <Self as AsyncSocket>::new(NETLINK_ROUTE).attempt(|| "open an rtnetlink socket".to_owned())
    }

    fn failed<T>(&self, errno: Errno) -> Poll<io::Result<T>> {
        self.failure.set(Some(errno));
        Poll::Ready(Err(errno.into()))
    }

    fn receive(&self, take: impl FnOnce(&[u8])) -> Poll<io::Result<SocketAddr>> {
        if !self.may_receive.replace(false) {
            return Poll::Pending;
        }
        let mut buffer = self.buffer.borrow_mut();
        match super::receive(&self.socket, &mut buffer, RecvFlags::DONTWAIT) {
            // What others than the kernel send is taken for no answer.
            Ok((read, Sender { port, groups })) => {
                take(buffer.get(..read).unwrap_or_default());
                Poll::Ready(Ok(SocketAddr::new(port, groups)))
            }
            Err(Errno::AGAIN) => {
                self.failure.set(Some(Errno::AGAIN));
                Poll::Pending
            }
            Err(errno) => self.failed(errno),
        }
    }
}

impl AsyncSocket for Turns {
    fn socket_ref(&self) -> &Socket {
        &self.socket
    }
    fn socket_mut(&mut self) -> &mut Socket {
        &mut self.socket
    }
    fn new(protocol: isize) -> io::Result<Self> {
        let socket = Socket::new(protocol)?;
        socket.set_cap_ack(true)?;
        socket.set_ext_ack(true)?;
        socket.set_netlink_get_strict_chk(true)?;
        Ok(Self {
            socket,
            buffer: RefCell::new(vec![0; ROOM]),
            may_receive: Cell::new(false),
            failure: Cell::new(None),
        })
    }
    fn poll_send(&self, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match rustix::net::send(&self.socket, bytes, SendFlags::empty()) {
            Err(errno) => self.failed(errno),
            Ok(sent) => Poll::Ready(Ok(sent)),
        }
    }
    /// To the kernel, whatever the address: nobody else is ever asked.
    fn poll_send_to(
        &self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        _: &SocketAddr,
    ) -> Poll<io::Result<usize>> {
        self.poll_send(cx, bytes)
    }
    fn poll_recv<B: BufMut>(&self, _: &mut Context<'_>, to: &mut B) -> Poll<io::Result<()>> {
        self.receive(|bytes| to.put_slice(bytes)).map_ok(drop)
    }
    fn poll_recv_from<B: BufMut>(
        &self,
        _: &mut Context<'_>,
        to: &mut B,
    ) -> Poll<io::Result<SocketAddr>> {
        self.receive(|bytes| to.put_slice(bytes))
    }
    fn poll_recv_from_full(&self, _: &mut Context<'_>) -> Poll<io::Result<(Vec<u8>, SocketAddr)>> {
        let mut all = Vec::new();
        self.receive(|bytes| all.extend_from_slice(bytes)).map_ok(|from| (all, from))
    }
}

/// rtnetlink over one socket.
pub(super) struct Connection {
    connection: proto::Connection<RouteNetlinkMessage, Turns>,
    handle: rtnetlink::Handle,
}

impl Connection {
    pub(super) fn new(socket: Turns) -> Self {
        // What nobody asked for is not listened for either.
        let (mut connection, handle, _) = rtnetlink::from_socket(socket);
        // The end of a dump says whether it was interrupted.
        connection.set_forward_done(true);
        Self { connection, handle }
    }

    /// Makes a request of rtnetlink's and performs it.
    ///
    /// # Errors
    /// [`HostError::Sys`] with the kernel's number, its words after `what`; `EBADMSG` where rtnetlink
    /// did not understand the answer.
    pub(super) fn perform<F>(
        &mut self,
        request: impl FnOnce(&rtnetlink::Handle) -> F,
        what: &str,
    ) -> Result<(), HostError>
    where
        F: Future<Output = Result<(), rtnetlink::Error>>,
    {
        let request = request(&self.handle);
        self.drive(request, what)?.or_else(|error| refused(error, what))
    }

    /// Asks for one thing, and returns what the kernel answers.
    pub(super) fn ask(
        &mut self,
        request: RouteNetlinkMessage,
        what: &str,
    ) -> Result<Vec<RouteNetlinkMessage>, HostError> {
        self.request(request, 0, what).map(|(answers, _)| answers)
    }

    /// Asks for everything; begins again while the tables change under it.
    pub(super) fn dump(
        &mut self,
        request: &RouteNetlinkMessage,
        what: &str,
    ) -> Result<Vec<RouteNetlinkMessage>, HostError> {
        for _ in 0..DUMP_ATTEMPTS {
            match self.request(request.clone(), NLM_F_DUMP, what) {
                Ok((answers, true)) => return Ok(answers),
                Err(e) if !e.is(Errno::INTR) => return Err(e),
                Ok(_) | Err(_) => {}
            }
        }
        Err(Errno::INTR).attempt(|| format!("{what}: it changes faster than it can be read"))
    }

    /// The answers, and whether they are of one state of the tables.
    fn request(
        &mut self,
        request: RouteNetlinkMessage,
        flags: u16,
        what: &str,
    ) -> Result<(Vec<RouteNetlinkMessage>, bool), HostError> {
        let mut request = NetlinkMessage::from(request);
        request.header.flags = NLM_F_REQUEST | flags;
        let messages = match self.handle.request(request) {
            Ok(stream) => self.drive(stream.collect::<Vec<_>>(), what)?,
            Err(e) => refused(e, what)?,
        };
        let (mut answers, mut whole) = (Vec::new(), true);
        for message in messages {
            whole &= message.header.flags & NLM_F_DUMP_INTR == 0;
            match message.payload {
                NetlinkPayload::InnerMessage(answer) => answers.push(answer),
                NetlinkPayload::Error(e) => return denied(&e, what),
                // A dump that fails on its way says so at its end.
                NetlinkPayload::Done(end) if (-4095..0).contains(&end.code) => {
                    return Err(Errno::from_raw_os_error(-end.code)).attempt(|| what.to_owned());
                }
                _ => {}
            }
        }
        Ok((answers, whole))
    }

    /// Polls `future` and what it waits for in turns, until it is done or nothing more comes.
    fn drive<F: Future>(&mut self, future: F, what: &str) -> Result<F::Output, HostError> {
        let mut future = pin!(future);
        let mut context = Context::from_waker(Waker::noop());
        loop {
            if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
                return Ok(output);
            }
            let connection = &mut self.connection;
            connection.poll_requests(&mut context);
            connection.poll_send_messages(&mut context);
            connection.socket_mut().may_receive.set(true);
            connection.poll_read_messages(&mut context);
            connection.forward_responses();
            match connection.socket_mut().failure.take() {
                None => {}
                Some(Errno::AGAIN) => {
                    return Err(Errno::BADMSG)
                        .attempt(|| format!("{what} (the answer was not understood)"));
                }
                Some(errno) => return Err(errno).attempt(|| what.to_owned()),
            }
        }
    }
}

fn refused<T>(error: rtnetlink::Error, what: &str) -> Result<T, HostError> {
    match error {
        rtnetlink::Error::NetlinkError(e) => denied(&e, what),
        other => Err(io::Error::other(other)).attempt(|| what.to_owned()),
    }
}

fn denied<T>(error: &ErrorMessage, what: &str) -> Result<T, HostError> {
    // Of the request, only the header is repeated; then come the kernel's words.
    let inner = error.header.get(HEADER..).unwrap_or_default();
    let words = attributes(inner).find(|a| a.kind == 1).map(|a| a.text());
    Err(error.to_io()).attempt(|| said(what, words))
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::link::{LinkAttribute, LinkMessage};

    use super::*;

    fn link(name: &str) -> RouteNetlinkMessage {
        let mut message = LinkMessage::default();
        message.attributes = vec![LinkAttribute::IfName(name.to_owned())];
        RouteNetlinkMessage::GetLink(message)
    }

    #[test]
    fn one_connection_answers_and_refuses_in_turn() {
        let mut connection = Connection::new(Turns::open().expect("a socket"));
        for _ in 0..3 {
            let answers = connection.ask(link("lo"), "read link lo").expect("it is there");
            assert!(matches!(answers[..], [RouteNetlinkMessage::NewLink(_)]), "{answers:?}");
            let absent = connection.ask(link("no-such-link"), "read link no-such-link");
            let error = absent.expect_err("no such link");
            assert!(error.is(Errno::NODEV), "{error}");
            let delete = |h: &rtnetlink::Handle| h.link().del(u32::MAX >> 1).execute();
            let error = connection.perform(delete, "delete a link").expect_err("no such link");
            assert!(error.is(Errno::NODEV) || error.is(Errno::PERM), "{error}");
            let all = RouteNetlinkMessage::GetLink(LinkMessage::default());
            let links = connection.dump(&all, "read all links").expect("a dump");
            assert!(links.iter().all(|l| matches!(l, RouteNetlinkMessage::NewLink(_))));
            assert!(!links.is_empty());
        }
    }

    #[test]
    fn the_kernel_says_why_it_refuses() {
        let mut connection = Connection::new(Turns::open().expect("a socket"));
        let mut message = LinkMessage::default();
        // A link is asked for by its number or its name.
        message.attributes = vec![LinkAttribute::Mtu(1500)];
        let asked = connection.ask(RouteNetlinkMessage::GetLink(message), "read a link");
        let error = asked.expect_err("there is none like that").to_string();
        assert!(error.starts_with("read a link (") && error.ends_with(')'), "{error}");
    }

    #[test]
    fn what_does_not_come_is_not_waited_for() {
        let mut connection = Connection::new(Turns::open().expect("a socket"));
        let never = std::future::pending::<Result<(), rtnetlink::Error>>();
        let error = connection.perform(|_| never, "wait").expect_err("nothing was asked");
        assert!(error.is(Errno::BADMSG), "{error}");
    }
}
