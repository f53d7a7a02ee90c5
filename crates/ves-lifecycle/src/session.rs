//! Sessions: commands and consoles, between a caller's stream and a stream of frames.
//!
//! ```text
//! admit ─▶ host starts it ─▶ first frame ─▶ [ frames → answers ]   both at once, until the end,
//!            (refused: fault)  (failed: fault) [ requests → frames ]  or until either side is gone
//! ```
//!
//! A container that is stopped has its commands ended first, and no new one until it has stopped: whatever
//! came in by a session would be waited for by an init that knows nothing of it. Consoles stay, to show it.
//!
//! Nothing is buffered here beyond one message each way and a short queue of answers: whoever is slow
//! slows the other side. Never here: what a session may do; that is the helper's business.

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream as StdStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::io::Errno;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_stream::{Stream, StreamExt};
use tonic::Status;
use ves_host::Attempt;
use ves_init_proto::frame::{Decoder, Frame, Tag};
use ves_init_proto::report::{FIND_USER, Failure, GO_TO_DIRECTORY};
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

/// How long the commands of a container may take to end before its init is asked to stop.
const END: Duration = Duration::from_secs(1);
/// How long a command that is ended may take to tell its last.
const LAST: Duration = Duration::from_millis(500);

/// The sessions there are.
#[derive(Debug)]
pub(crate) struct Sessions {
    most: usize,
    room: Arc<Semaphore>,
    /// Of each container that has commands, or is being stopped, whether it is.
    stopping: Mutex<BTreeMap<CtId, watch::Sender<bool>>>,
}

/// The place of a session, given back at its end.
#[derive(Debug)]
pub(crate) struct Place {
    _room: OwnedSemaphorePermit,
    /// Of a command: whether its container is being stopped.
    stopping: Option<watch::Receiver<bool>>,
}

impl Sessions {
    pub(crate) fn new(most: usize) -> Self {
        Self { most, room: Arc::new(Semaphore::new(most)), stopping: Mutex::default() }
    }

    fn stopping(&self) -> MutexGuard<'_, BTreeMap<CtId, watch::Sender<bool>>> {
        self.stopping.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a console.
    ///
    /// # Errors
    /// `TOO_MANY`.
    pub(crate) fn console(&self) -> Result<Place, Fault> {
        let room = Arc::clone(&self.room).try_acquire_owned().map_err(|_| {
            let most = self.most;
            let message = format!("there are {most} sessions already; end one first");
            Fault::new(Reason::TooMany, message).fact("limit", most)
        })?;
        Ok(Place { _room: room, stopping: None })
    }

    /// A place for a command.
    ///
    /// # Errors
    /// `TOO_MANY`; `NOT_RUNNING` while the container is being stopped.
    pub(crate) fn command(&self, ct: CtId) -> Result<Place, Fault> {
        let place = self.console()?;
        let mut all = self.stopping();
        all.retain(|_, stopping| *stopping.borrow() || !stopping.is_closed());
        let stopping = all.entry(ct).or_insert_with(|| watch::Sender::new(false));
        if *stopping.borrow() {
            let message = format!("container {ct} is being stopped; start it when it has stopped");
            return Err(Fault::new(Reason::NotRunning, message).fact("ct", ct));
        }
        Ok(Place { stopping: Some(stopping.subscribe()), ..place })
    }

    /// Ends the commands of a container and admits no more. Waits until they have ended, but not for long.
    /// Called outside of the runtime's own threads.
    pub(crate) fn end(&self, ct: CtId) {
        let stopping =
            self.stopping().entry(ct).or_insert_with(|| watch::Sender::new(false)).clone();
        stopping.send_replace(true);
        let ended = async { tokio::time::timeout(END, stopping.closed()).await };
        if tokio::runtime::Handle::current().block_on(ended).is_err() {
            tracing::warn!(%ct, "commands inside do not end; it is stopped all the same");
        }
    }

    /// Admits commands again, after an attempt to stop it is over.
    pub(crate) fn admit_again(&self, ct: CtId) {
        self.stopping().remove(&ct);
    }
}

impl Place {
    /// Resolves when the container is being stopped.
    async fn stops(&mut self) {
        if let Some(stopping) = &mut self.stopping
            && stopping.wait_for(|stops| *stops).await.is_ok()
        {
            return;
        }
        // Of a console, and after an attempt to stop that this command outlived.
        std::future::pending().await
    }
}

/// A session that has begun.
#[derive(Debug)]
pub struct Started {
    ct: CtId,
    frames: Frames,
    sink: Sink,
    place: Place,
}

/// Where frames are sent; whoever gives up sending one leaves it whole.
#[derive(Debug)]
struct Sink {
    write: OwnedWriteHalf,
    unsent: Vec<u8>,
}

impl Sink {
    fn add(&mut self, frame: &Frame) {
        self.unsent.extend(frame.encode());
    }

    /// Sends what was added. Can be given up and gone on with.
    async fn flush(&mut self) -> std::io::Result<()> {
        while !self.unsent.is_empty() {
            let written = self.write.write(&self.unsent).await?;
            self.unsent.drain(..written);
        }
        Ok(())
    }

    /// Has what was started killed; its end is told where that goes at once.
    async fn close(&mut self) {
        self.add(&Frame::new(Tag::Close, []));
        let closed = async {
            self.flush().await.ok();
            std::future::pending::<()>().await
        };
        tokio::time::timeout(LAST, closed).await.ok();
    }
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
    fn new(ct: CtId, stream: StdStream, place: Place) -> Result<Self, Fault> {
        let (read, write) = to_async(stream)?.into_split();
        let frames = Frames { read, decoder: Decoder::default() };
        Ok(Self { ct, frames, sink: Sink { write, unsent: Vec::new() }, place })
    }

    /// A command's session, once it is known that the command executes.
    pub(crate) async fn command(ct: CtId, stream: StdStream, place: Place) -> Result<Self, Fault> {
        let mut this = Self::new(ct, stream, place)?;
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
    pub(crate) fn console(ct: CtId, stream: StdStream, place: Place) -> Result<Self, Fault> {
        Self::new(ct, stream, place)
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
        let Self { ct, mut frames, mut sink, mut place } = self;
        let (answers, receiver) = mpsc::channel(QUEUE);
        let closed = answers.clone();
        tokio::spawn(async move {
            let outward = async {
                loop {
                    match frames.next().await {
                        Ok(Some(frame)) => {
                            let last = frame.tag == Tag::Ended;
                            if let Some(answer) = to_answer(frame)
                                && answers.send(Ok(answer)).await.is_err()
                            {
                                return if last { Cut::Ended } else { Cut::CallerGone };
                            }
                            if last {
                                return Cut::Ended;
                            }
                        }
                        Ok(None) => return Cut::Ended,
                        Err(e) => {
                            let fault = Fault::from(Error::Node(e)).fact("ct", ct);
                            // The caller may be gone as well.
                            answers.send(Err(fault.into())).await.ok();
                            return Cut::Ended;
                        }
                    }
                }
            };
            let inward = async {
                let mut all_said = false;
                loop {
                    let due = tokio::select! {
                        biased;
                        () = place.stops() => break,
                        request = requests.next(), if !all_said => match request {
                            Some(Ok(request)) => to_frame(request),
                            // A caller that disappeared.
                            Some(Err(_)) => return Cut::CallerGone,
                            // The caller has nothing more to say but still listens.
                            None => {
                                all_said = true;
                                vec![Frame::new(Tag::InputEnd, [])]
                            }
                        },
                    };
                    for frame in due {
                        sink.add(&frame);
                        tokio::select! {
                            biased;
                            written = sink.flush() => if written.is_err() {
                                return std::future::pending().await;
                            },
                            // Nobody waits for a command that does not read.
                            () = place.stops() => return Cut::Ended,
                        }
                    }
                }
                sink.close().await;
                Cut::Ended
            };
            let cut = tokio::select! {
                // Whatever ends first ends the session; dropping the socket tells the helper, and
                // nothing that was read from it is lost, as only `outward` reads.
                cut = outward => cut,
                cut = inward => cut,
                () = closed.closed() => Cut::CallerGone,
            };
            if let Cut::CallerGone = cut {
                see_off(&mut frames, &mut sink, &mut place).await;
            }
        });
        receiver
    }
}

/// Why a session is not driven any more.
enum Cut {
    /// It is over, or nothing more can be done.
    Ended,
    /// Nobody listens any more.
    CallerGone,
}

/// Stays with a command whose caller is gone, whatever is to become of it, until it has ended: it keeps its place
/// and is ended with its container. A console has nothing to stay with.
async fn see_off(frames: &mut Frames, sink: &mut Sink, place: &mut Place) {
    if place.stopping.is_none() {
        return;
    }
    sink.add(&Frame::new(Tag::HangUp, []));
    // One that takes nothing more hears of it when the socket is closed.
    if !matches!(tokio::time::timeout(LAST, sink.flush()).await, Ok(Ok(()))) {
        return;
    }
    let over = async {
        while let Ok(Some(Frame { tag, .. })) = frames.next().await
            && tag != Tag::Ended
        {}
    };
    tokio::select! {
        () = over => {}
        () = place.stops() => sink.close().await,
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
    if step == FIND_USER {
        let message = format!("container {ct}: run a command as another user: {message}");
        return Fault::new(Reason::BadValue, message).fact("field", "start.user").fact("ct", ct);
    }
    if step == GO_TO_DIRECTORY {
        const ENOTDIR: i32 = Errno::NOTDIR.raw_os_error();
        const EACCES: i32 = Errno::ACCESS.raw_os_error();
        let why = match *errno {
            ENOENT => "it does not exist inside",
            ENOTDIR => "it is no directory",
            EACCES => "its user may not enter it",
            _ => "it cannot be entered",
        };
        let message =
            format!("container {ct}: begin a command in its directory: {why} ({message})");
        return Fault::new(Reason::BadValue, message)
            .fact("field", "start.cwd")
            .fact("ct", ct)
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
