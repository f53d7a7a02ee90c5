//! Starts a command in a container: finds the container's init, opens what the helper needs, and waits
//! until the command executes.
//!
//! Never here: what happens inside, or the command's input and output.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Component, Path};
use std::time::{Duration, Instant};

use rustix::event::{Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Gid, Signal, Uid};
use ves_host::channel;
use ves_host::child::{self, Child, How};
use ves_host::{Attempt, HostError, mount};
use ves_init_proto::frame::{Decoder, Frame, Tag};
use ves_init_proto::init_plan::ExecPlan;
use ves_init_proto::report::{self, Answer, Failure, Request, Status};

use super::command::Command;
use super::handshake::{Handshake, Message, START_TIMEOUT};
use super::helper::Helper;
use super::reaper::Reaper;
use super::session::Running;
use crate::perform;

/// How long the killed may take to die; the frozen of version 1 do not before they are thawed.
const KILL_TIMEOUT: Duration = Duration::from_secs(1);
/// Before a monitor is asked again.
const FULL: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };

/// A monitor's init, held by a descriptor. A monitor that has no place for one more is asked again.
fn target(plan: &ExecPlan) -> Result<(Status, OwnedFd), HostError> {
    let end = Instant::now() + START_TIMEOUT;
    loop {
        match ask_for_init(plan)? {
            Some((status, pidfd)) if status.running => return Ok((status, pidfd)),
            None if Instant::now() < end => {
                poll(&mut [], Some(&FULL)).ok();
            }
            _ => return Err(Errno::NOTCONN).attempt(|| "enter it".to_owned()),
        }
    }
}

/// What a monitor that is there answers; `None` where it has no place.
fn ask_for_init(plan: &ExecPlan) -> Result<Option<(Status, OwnedFd)>, HostError> {
    let what = || "ask the monitor for init".to_owned();
    let mut stream = match UnixStream::connect(report::socket(&plan.dir)) {
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
            return Err(Errno::NOTCONN).attempt(what);
        }
        other => other.attempt(what)?,
    };
    let request = Frame::json(Tag::Request, &Request::Pidfd).encode();
    match stream.write_all(&request) {
        Err(e) if matches!(e.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
            return Ok(None);
        }
        other => other.attempt(what)?,
    }
    if !channel::wait(&stream, START_TIMEOUT)? {
        return Err(Errno::TIMEDOUT).attempt(what);
    }
    let packet = match channel::receive(&stream) {
        Err(e) if e.is(Errno::CONNRESET) => return Ok(None),
        other => other?,
    };
    let mut decoder = Decoder::default();
    decoder.push(&packet.bytes);
    let answer = decoder.next_frame().ok().flatten().and_then(|frame| frame.parse());
    match (answer, packet.fds.into_iter().next()) {
        (Some(Answer::Status(status)), Some(pidfd)) => Ok(Some((status, pidfd))),
        _ => Ok(None),
    }
}

/// The version 2 group init is in, below the container's own; that one itself may not hold
/// processes once init has given controllers to its children.
fn unified(mount: &Path, group: &str, init_pid: u32) -> Result<File, HostError> {
    let path = format!("/proc/{init_pid}/cgroup");
    let text = std::fs::read_to_string(&path).attempt(|| format!("read {path}"))?;
    let inner = text.lines().find_map(|line| line.strip_prefix("0::/")).map(Path::new);
    let plain = |path: &&Path| path.components().all(|c| matches!(c, Component::Normal(_)));
    let chosen = inner.filter(plain).filter(|path| path.starts_with(group));
    let dir = mount.join(chosen.unwrap_or_else(|| Path::new(group)));
    File::open(&dir).attempt(|| format!("open {}", dir.display()))
}

/// The node's user that is root of the container. Its map never changes, and where its number
/// belongs to another process by now, entering fails.
fn owner(init_pid: u32) -> Result<u32, HostError> {
    let path = format!("/proc/{init_pid}/uid_map");
    let text = std::fs::read_to_string(&path).attempt(|| format!("read {path}"))?;
    let base = text.split_ascii_whitespace().nth(1).and_then(|base| base.parse().ok());
    base.ok_or_else(|| HostError::parse(format!("read {path}"), &text))
}

/// Starts the command, unless `peer` leaves before it executes.
pub(super) fn start(plan: &ExecPlan, peer: &UnixStream) -> Result<Running, Failure> {
    let failed = |e: HostError| perform::failure("enter the container", &e);
    let (status, pidfd) = target(plan).map_err(failed)?;
    start_in(plan, peer, &status, &pidfd).map_err(|failure| {
        if channel::wait(&pidfd, Duration::ZERO).unwrap_or(false) {
            // Whatever it was that failed then.
            return perform::failure(
                "enter the container",
                &HostError::Sys { what: "enter it".to_owned(), source: Errno::NOTCONN.into() },
            );
        }
        failure
    })
}

fn start_in(
    plan: &ExecPlan,
    peer: &UnixStream,
    status: &Status,
    pidfd: &OwnedFd,
) -> Result<Running, Failure> {
    let failed = |e: HostError| perform::failure("enter the container", &e);
    perform::limit(&plan.limits).map_err(failed)?;
    let mut groups = Vec::new();
    for dir in &plan.groups {
        let path = dir.join("tasks");
        let file = OpenOptions::new().write(true).open(&path);
        groups.push(file.attempt(|| format!("open {}", path.display())).map_err(failed)?);
    }
    let unified =
        plan.unified.as_ref().map(|(mount, group)| unified(mount, group, status.init_pid));
    let unified = unified.transpose().map_err(failed)?;
    let views = plan
        .views
        .as_ref()
        .map(|dir| perform::Views::take_for(dir, &mount::mounts_of(status.init_pid)?));
    let views = views.transpose().map_err(failed)?.unwrap_or_default();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    if plan.terminal.is_none() {
        let owner = owner(status.init_pid).map_err(failed)?;
        for number in 0..3 {
            let pipe = pipe_with(PipeFlags::CLOEXEC).attempt(|| "make a pipe".to_owned());
            let (read, write) = pipe.map_err(failed)?;
            let (our, their) = if number == 0 { (write, read) } else { (read, write) };
            // So that it can be opened again inside, as /dev/stdout and the like.
            let (user, group) = (Uid::from_raw(owner), Gid::from_raw(owner));
            rustix::fs::fchown(&their, Some(user), Some(group))
                .attempt(|| "give a pipe to the container".to_owned())
                .map_err(failed)?;
            nonblocking(&our).map_err(failed)?;
            ours.push(our);
            theirs.push(their);
        }
    }
    let (status_rx, status_tx) = channel::pair().map_err(failed)?;
    let (report, report_tx) = channel::pair().map_err(failed)?;
    let command = Command {
        plan,
        drop: plan.dropped(status.dropped),
        features: status.features,
        status: &status_tx,
        io: &theirs,
        views: &views,
    };
    let reaper = Reaper { command, report: &report_tx };
    let helper = Helper { reaper, groups: &groups, init: pidfd };
    let keep = helper.fds();
    let group = unified.as_ref().map(AsFd::as_fd);
    let helper = child::fork(How { group, keep: &keep, ..How::default() }, || helper.run());
    let helper = helper.map_err(failed)?;
    drop((status_tx, report_tx, theirs, groups, views));
    let mut handshake = Handshake::default();
    if !handshake.receive(&status_rx, Some(peer), START_TIMEOUT).map_err(failed)? {
        kill(&helper);
        // What it said last, its child above all.
        handshake.receive(&status_rx, None, KILL_TIMEOUT).ok();
        if let Some(child) = &handshake.child {
            kill(child);
        }
        return Err(Failure {
            step: "enter the container".to_owned(),
            message: "the container does not let a command start (is it frozen?)".to_owned(),
            errno: Errno::TIMEDOUT.raw_os_error(),
        });
    }
    let (child, master) = handshake.outcome()?;
    Message::Seen.send(&report, &[]).map_err(failed)?;
    let mut ours = ours.into_iter();
    match master {
        Some(master) => {
            let input = master.try_clone().attempt(|| "share the terminal".to_owned());
            let input = input.map_err(failed)?;
            Ok(Running { child, report, input: Some(input), outputs: [Some(master), None] })
        }
        None => {
            let input = ours.next();
            Ok(Running { child, report, input, outputs: [ours.next(), ours.next()] })
        }
    }
}

fn nonblocking(fd: impl AsFd) -> Result<(), HostError> {
    rustix::fs::fcntl_getfl(&fd)
        .and_then(|flags| rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK))
        .attempt(|| "set up a descriptor".to_owned())
}

/// Kills one on the way inside. One that is frozen dies when it is thawed.
fn kill(child: &Child) {
    rustix::process::pidfd_send_signal(&child.pidfd, Signal::KILL).ok();
    channel::wait(&child.pidfd, KILL_TIMEOUT).ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_beyond_the_containers_own_is_not_taken() {
        let dir = std::env::temp_dir().join(format!("ves-exec-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("ves/ct-1/payload")).expect("made");
        // This process is in no such group, so the container's own is chosen.
        unified(&dir, "ves/ct-1/payload", std::process::id()).expect("opened");
        assert!(unified(&dir, "ves/ct-2/payload", std::process::id()).is_err());
        std::fs::remove_dir_all(&dir).expect("removed");
    }
}
