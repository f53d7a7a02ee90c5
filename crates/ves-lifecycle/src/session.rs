//! Sessions: commands and consoles, between a caller's stream and a stream of frames.
//!
//! ```text
//! admit ─▶ host starts it ─▶ first frame ─▶ [ frames → answers ]   both at once, until the end,
//!            (refused: fault)  (failed: fault) [ requests → frames ]  or until either side is gone
//! ```
//!
//! Nothing is buffered here beyond one message each way and a short queue of answers: whoever is slow
//! slows the other side. Never here: what a session may do; that is the helper's business.

use std::os::unix::net::UnixStream as StdStream;
use std::time::Duration;

use rustix::io::Errno;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::{Stream, StreamExt};
use tonic::Status;
use ves_host::Attempt;
use ves_init_proto::frame::{Decoder, Frame, Tag};
use ves_init_proto::report::Failure;
use ves_proto::{Fault, Reason};
use ves_types::CtId;

use crate::error::{About, Error, refused};
use crate::plan::{Observed, Refusal};

/// How long it may take until a command executes. Its helper gives up a little earlier, and knows
/// more about why.
const START: Duration = Duration::from_secs(15);
/// How many answers wait for a slow caller.
const QUEUE: usize = 16;

/// Whether a command may be run in a container in this state.
///
/// # Errors
/// `NOT_RUNNING`; `RUNNING` where nothing watches over it.
pub fn admit(ct: CtId, observed: &Observed) -> Result<(), Fault> {
    match &observed.monitor {
        _ if observed.unresponsive => {
            Err(Error::Unresponsive { ct, what: "tell its state" }.into())
        }
        _ if observed.stray => Err(refused(ct, Refusal::Stray)),
        Some(monitor) if monitor.running && observed.frozen => {
            let message = format!("container {ct} is paused; unpause it first");
            Err(Fault::new(Reason::NotRunning, message).fact("ct", ct))
        }
        Some(monitor) if monitor.running => Ok(()),
        _ => Err(not_running(ct)),
    }
}

/// The fault of a session in a container that does not run.
pub(crate) fn not_running(ct: CtId) -> Fault {
    let message = format!("container {ct} is not running; start it first");
    Fault::new(Reason::NotRunning, message).fact("ct", ct)
}

/// Hands a stream to the runtime.
pub(crate) fn to_async(stream: StdStream) -> Result<UnixStream, Fault> {
    let convert = || {
        stream.set_nonblocking(true)?;
        UnixStream::from_std(stream)
    };
    convert().attempt(|| "take over a session".to_owned()).map_err(|e| Error::Node(e).into())
}

/// A session that has begun.
#[derive(Debug)]
pub struct Started {
    ct: CtId,
    frames: Frames,
    write: tokio::net::unix::OwnedWriteHalf,
    permit: OwnedSemaphorePermit,
}

#[derive(Debug)]
struct Frames {
    read: OwnedReadHalf,
    decoder: Decoder,
}

impl Frames {
    /// The next frame; `None` at the end.
    async fn next(&mut self) -> Result<Option<Frame>, ves_host::HostError> {
        let mut piece = vec![0; 32 * 1024];
        loop {
            match self.decoder.next_frame() {
                Ok(Some(frame)) => return Ok(Some(frame)),
                Ok(None) => {}
                Err(e) => {
                    return Err(ves_host::HostError::parse("read a session", &e.to_string()));
                }
            }
            let read = match self.read.read(&mut piece).await {
                // The other side ended without having read all that was sent to it.
                Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => 0,
                other => other.attempt(|| "read a session".to_owned())?,
            };
            match read {
                0 => return Ok(None),
                n => self.decoder.push(piece.get(..n).unwrap_or_default()),
            }
        }
    }
}

impl Started {
    fn new(ct: CtId, stream: StdStream, permit: OwnedSemaphorePermit) -> Result<Self, Fault> {
        let (read, write) = to_async(stream)?.into_split();
        Ok(Self { ct, frames: Frames { read, decoder: Decoder::default() }, write, permit })
    }

    /// A command's session, once it is known that the command executes.
    pub(crate) async fn command(
        ct: CtId,
        stream: StdStream,
        permit: OwnedSemaphorePermit,
    ) -> Result<Self, Fault> {
        let mut this = Self::new(ct, stream, permit)?;
        let first = tokio::time::timeout(START, this.frames.next()).await;
        let first = first.map_err(|_| Error::Unresponsive { ct, what: "start a command" })?;
        let first = first.about(ct, "start a command inside")?;
        match first {
            Some(Frame { tag: Tag::Started, .. }) => Ok(this),
            Some(frame) => Err(match frame.parse::<Failure>() {
                Some(failure) => failed(ct, &failure),
                None => helper_died(ct),
            }),
            None => Err(helper_died(ct)),
        }
    }

    /// A console's session.
    pub(crate) fn console(
        ct: CtId,
        stream: StdStream,
        permit: OwnedSemaphorePermit,
    ) -> Result<Self, Fault> {
        Self::new(ct, stream, permit)
    }

    /// Drives the session in the background. `to_frame` turns requests into frames, `to_answer`
    /// frames into answers; what either does not want is left out.
    pub fn drive<Q, A>(
        self,
        mut requests: impl Stream<Item = Result<Q, Status>> + Send + Unpin + 'static,
        to_frame: impl Fn(Q) -> Vec<Frame> + Send + Sync + 'static,
        to_answer: impl Fn(Frame) -> Option<A> + Send + Sync + 'static,
    ) -> mpsc::Receiver<Result<A, Status>>
    where
        Q: Send + 'static,
        A: Send + 'static,
    {
        let Self { ct, mut frames, mut write, permit } = self;
        let (answers, receiver) = mpsc::channel(QUEUE);
        let closed = answers.clone();
        tokio::spawn(async move {
            let _permit = permit;
            let outward = async {
                loop {
                    match frames.next().await {
                        Ok(Some(frame)) => {
                            let last = frame.tag == Tag::Ended;
                            if let Some(answer) = to_answer(frame)
                                && answers.send(Ok(answer)).await.is_err()
                            {
                                return;
                            }
                            if last {
                                return;
                            }
                        }
                        Ok(None) => return,
                        Err(e) => {
                            let fault = Fault::from(Error::Node(e)).fact("ct", ct);
                            // The caller may be gone as well.
                            answers.send(Err(fault.into())).await.ok();
                            return;
                        }
                    }
                }
            };
            let inward = async {
                while let Some(request) = requests.next().await {
                    // An error here is a caller that disappeared.
                    let Ok(request) = request else { return };
                    for frame in to_frame(request) {
                        if write.write_all(&frame.encode()).await.is_err() {
                            return std::future::pending().await;
                        }
                    }
                }
                // The caller has nothing more to say but still listens.
                write.write_all(&Frame::new(Tag::InputEnd, []).encode()).await.ok();
                std::future::pending().await
            };
            tokio::select! {
                // Whatever ends first ends the session; dropping the socket tells the helper, and
                // nothing that was read from it is lost, as only `outward` reads.
                () = outward => {}
                () = inward => {}
                () = closed.closed() => {}
            }
        });
        receiver
    }
}

fn helper_died(ct: CtId) -> Fault {
    let message = format!("container {ct}: the command's helper died; try again");
    Fault::new(Reason::HostFailed, message).fact("ct", ct)
}

/// Why a command could not be started.
fn failed(ct: CtId, failure: &Failure) -> Fault {
    const ENOENT: i32 = Errno::NOENT.raw_os_error();
    const ENOTCONN: i32 = Errno::NOTCONN.raw_os_error();
    const EAGAIN: i32 = Errno::AGAIN.raw_os_error();
    const ETIMEDOUT: i32 = Errno::TIMEDOUT.raw_os_error();
    let Failure { step, message, errno } = failure;
    if let Some(command) = step.strip_prefix("execute ") {
        // The statuses shells give.
        let status = if *errno == ENOENT { 127 } else { 126 };
        let why = if status == 127 { "it does not exist" } else { "it cannot be executed" };
        let message = format!("container {ct}: run {command}: {why} inside ({message})");
        return Fault::new(Reason::CommandUnknown, message)
            .fact("ct", ct)
            .fact("command", command)
            .fact("status", status)
            .fact("errno", errno);
    }
    let (reason, message) = match *errno {
        ENOTCONN => return not_running(ct),
        ETIMEDOUT => (Reason::Timeout, format!("{step}: {message}")),
        // Only making a process fails so on this way.
        EAGAIN => (
            Reason::TooMany,
            "the container has reached its process limit; raise it, or end processes inside"
                .to_owned(),
        ),
        _ => (Reason::HostFailed, format!("{step}: {message}")),
    };
    Fault::new(reason, format!("container {ct}: {message}"))
        .fact("ct", ct)
        .fact("step", step)
        .fact("errno", errno)
}
