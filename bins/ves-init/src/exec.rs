//! What is done inside a container, mostly a command, and the one outside who watches it.
//!
//! ```text
//! supervisor (outside)  ──clone into the group──▶ helper: joins groups, enters namespaces, root
//!      ▲  ▲  ▲                                       │ clone, as the supervisor's child
//!      │  │  └──── how the command ended ────────── reaper (inside)
//!      │  │                                          │ clone
//!      │  └─────── pipes or terminal ────────────── command (inside)
//!      └── frames over a socket ── daemon
//! ```
//!
//! From before it enters until it executes, whoever is inside is undumpable and holds no descriptor
//! but its own input, output and the way to report; a terminal is made in the container's devpts.
//! Never here: who may run what.

mod account;
mod command;
mod ending;
mod handshake;
mod helper;
mod reaper;
mod session;
mod start;

use std::fs::OpenOptions;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use rustix::fs::Mode;
use ves_host::cgroup::Hierarchies;
use ves_host::child::{self, How, Life, Why};
use ves_host::{Attempt, HostError, namespace};
use ves_init_proto::frame::{Frame, Tag};
use ves_init_proto::init_plan::{Groups, plan_exec};
use ves_init_proto::{ExecRequest, Work};
use ves_types::layout::{Layout, cgroup};

use crate::framed_conn::FramedConn;
use crate::perform;
use ending::Members;
use session::{Session, Terms};

/// Starts the supervisor, which goes on in the background; its session is fd 0.
pub(crate) fn main(run_dir: &Path) -> ExitCode {
    let how = How { life: Life::Free(Why::Background), ..How::default() };
    let begun = child::fork(how, || {
        // Nobody is left to tell of a failure but the session, which ends.
        namespace::inherit(0)
            .and_then(|session| supervise(session, &perform::layout(run_dir)))
            .ok();
        0
    });
    if begun.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn supervise(session: OwnedFd, layout: &Layout) -> Result<(), HostError> {
    rustix::process::setsid().attempt(|| "begin a session".to_owned())?;
    rustix::process::chdir("/").attempt(|| "go to /".to_owned())?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let null = OpenOptions::new().read(true).write(true).open("/dev/null");
    let null = null.attempt(|| "open /dev/null".to_owned())?;
    for number in 0..3 {
        namespace::place(&null, number)?;
    }
    drop(null);
    namespace::hide()?;
    // Where the kernel does not allow it, whoever is inside reads a directory's name.
    namespace::hide_words().ok();
    // Nobody inside waits for this process, which may be stopped.
    child::forget_children();
    // The daemon may be better protected than a command inside should be.
    std::fs::write("/proc/self/oom_score_adj", "0").ok();
    let conn =
        FramedConn::new(UnixStream::from(session)).attempt(|| "set up the session".to_owned())?;
    let mut session = Session::new(conn);
    let Some(ExecRequest { ct, work }) = session.request()? else { return Ok(()) };
    let started = Hierarchies::detect()
        .map_err(|e| perform::failure("find control groups", &e))
        .and_then(|hierarchies| {
            let groups = Groups::of(&hierarchies, ct);
            let plan = plan_exec(ct, layout, &groups, &work);
            Ok((start::start(&plan, &session.conn.stream)?, hierarchies))
        });
    match started {
        Ok((running, hierarchies)) => {
            session.conn.send(&Frame::new(Tag::Started, []));
            let group = cgroup(ct);
            let number = running.child.pid;
            let members = Members { hierarchies: &hierarchies, group: &group, session: number };
            let terms = match work {
                Work::Run(command) => Terms {
                    terminal: command.terminal.is_some(),
                    on_disconnect: command.on_disconnect,
                    timeout: command.timeout_ms.map(Duration::from_millis),
                },
                Work::Name(_) | Work::Fit(_) | Work::Views => Terms::default(),
            };
            session.run(running, terms, members)
        }
        Err(failure) => {
            session.conn.send(&Frame::json(Tag::Failed, &failure));
            session.conn.finish(5);
            Ok(())
        }
    }
}
