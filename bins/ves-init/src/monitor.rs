//! The monitor of a container: parent of its init, owner of its console, recorder of its end.
//!
//! ```text
//! start → lock → socket → steps → CREATED ──release──▶ RUNNING ──init ends──▶ exit.json → gone
//! ```
//!
//! One process, one loop over descriptors, and a [`NotifyListener`] beside it. It needs no daemon:
//! that may be killed and come back. When the monitor dies, init dies with it. Of a container's making
//! the loop touches bytes of the console only, and never waits for it. Never here: decisions about when
//! a container starts or stops.

mod client;
mod event_loop;
mod files;
mod lock;
mod requests;
mod state;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::ExitCode;

use rustix::fs::{Mode, OFlags};
use ves_host::cgroup::Hierarchies;
use ves_host::child::{self, How, Life, Why};
use ves_host::namespace;
use ves_host::{Attempt, HostError, file};
use ves_init_proto::init_plan::{self, Groups};
use ves_init_proto::report::{self, Created, Failure, InitKind};
use ves_init_proto::{InitStep, StartRequest};
use ves_types::CtId;
use ves_types::layout::Layout;

use crate::console::Ring;
use crate::notify::NotifyListener;
use crate::perform;
use crate::rate_limit::RateLimit;
use files::Guard;
use state::{Monitor, Plan};

/// The kernel should choose almost anybody else when memory runs out.
const OOM_SCORE: &str = "-900";

/// Starts the monitor, which goes on in the background; what it came to is written to fd 1.
pub(crate) fn main(ct: &str, run_dir: &Path) -> ExitCode {
    match begin(ct, &perform::layout(run_dir)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn begin(ct: &str, layout: &Layout) -> Result<(), HostError> {
    let mut text = Vec::new();
    std::io::stdin().read_to_end(&mut text).attempt(|| "read the request".to_owned())?;
    let plan = match plan(ct, layout, &text) {
        Ok(plan) => plan,
        Err(failure) => {
            report_created(namespace::inherit(1)?, &Created::Failed(failure));
            return Ok(());
        }
    };
    // Whoever reaps orphans becomes the parent, so the daemon's end does not matter.
    let how = How { life: Life::Free(Why::Background), ..How::default() };
    child::fork(how, || {
        // Without a way to report, nobody would ever know of the container.
        if let Ok(report) = namespace::inherit(1) {
            run(&plan, may_ask(layout), report);
        }
        0
    })?;
    Ok(())
}

/// What is done for a request.
fn plan(ct: &str, layout: &Layout, request: &[u8]) -> Result<Plan, Failure> {
    let failed = |message| Failure { step: "plan the start".to_owned(), message, errno: 0 };
    let ct: CtId = ct.parse().map_err(|_| failed(format!("{ct:?} is no container")))?;
    let request: StartRequest =
        serde_json::from_slice(request).map_err(|e| failed(e.to_string()))?;
    let StartRequest { incarnation, spec, allow_devices } = request;
    let hierarchies =
        Hierarchies::detect().map_err(|e| perform::failure("find control groups", &e))?;
    let groups = Groups::of(&hierarchies, ct);
    let steps = init_plan::plan_init(ct, layout, &spec, &allow_devices, &groups);
    if let Some(why) = init_plan::disorder(&steps) {
        return Err(failed(why));
    }
    let opaque_spec = serde_json::to_string(&spec).unwrap_or_default();
    let features = spec.features;
    Ok(Plan { dir: layout.ct_dir(ct), incarnation, features, opaque_spec, steps })
}

/// Tells the starter what came of it. It may be gone; then the next one asks.
pub(crate) fn report_created(report: OwnedFd, created: &Created) {
    File::from(report).write_all(&serde_json::to_vec(created).unwrap_or_default()).ok();
}

/// The users that a monitor answers: root, its own, and the lifecycle daemon's, whose the starter's socket is.
fn may_ask(layout: &Layout) -> BTreeSet<u32> {
    let lifecycle = rustix::fs::stat(layout.starter_socket()).map(|socket| socket.st_uid);
    let own = rustix::process::geteuid().as_raw();
    lifecycle.into_iter().chain([0, own]).collect()
}

fn run(plan: &Plan, may_ask: BTreeSet<u32>, report: OwnedFd) {
    let mut guard = Guard::default();
    match prepare(plan, may_ask, &mut guard) {
        Ok(Some(mut monitor)) => {
            let created = Created::Waiting {
                init_pid: monitor.pid(),
                warnings: std::mem::take(&mut monitor.waiting.warnings),
                performed: std::mem::take(&mut monitor.waiting.performed),
            };
            report_created(report, &created);
            monitor.serve();
        }
        Ok(None) => report_created(report, &Created::Occupied),
        Err(failure) => {
            guard.clean();
            report_created(report, &Created::Failed(failure));
        }
    }
}

fn prepare(
    plan: &Plan,
    may_ask: BTreeSet<u32>,
    guard: &mut Guard,
) -> Result<Option<Monitor>, Failure> {
    let failed = |e: HostError| perform::failure("start the monitor", &e);
    daemonize().map_err(failed)?;
    let Some(lock) = lock::acquire(plan).map_err(failed)? else { return Ok(None) };
    let socket = report::socket(&plan.dir);
    file::remove_if_exists(&socket).map_err(failed)?;
    let listen = || format!("listen at {}", socket.display());
    let listener = UnixListener::bind(&socket).attempt(listen).map_err(failed)?;
    guard.socket = Some(socket.clone());
    listener.set_nonblocking(true).attempt(listen).map_err(failed)?;
    guard.netns = plan.steps.iter().find_map(|step| match step {
        InitStep::PinNet(path) => Some(path.clone()),
        _ => None,
    });
    let mut waiting = perform::launch(&plan.steps)?;
    let state = report::state(&plan.dir);
    guard.state = Some(state);
    let flags = rustix::fs::fcntl_getfl(&waiting.console.master);
    flags
        .and_then(|f| rustix::fs::fcntl_setfl(&waiting.console.master, f | OFlags::NONBLOCK))
        .attempt(|| "set up the console".to_owned())
        .map_err(failed)?;
    // Nothing is in the socket yet: nobody of the container has executed.
    let notify = waiting.notify.take().map(NotifyListener::listen).transpose();
    let notify = notify.attempt(|| "listen to init".to_owned()).map_err(failed)?;
    let monitor = Monitor {
        plan: plan.clone(),
        waiting,
        notify,
        listener,
        may_ask,
        lock,
        guard: std::mem::take(guard),
        clients: Vec::new(),
        ring: Ring::default(),
        input: Vec::new(),
        started_unix_ms: 0,
        booted: false,
        stopping: false,
        kind: InitKind::Other,
        stop_requested: false,
        killed: false,
        rate_limit: RateLimit::new(),
    };
    monitor.record().map_err(failed)?;
    Ok(Some(monitor))
}

/// Takes leave of the one who started it.
fn daemonize() -> Result<(), HostError> {
    rustix::process::setsid().attempt(|| "begin a session".to_owned())?;
    rustix::process::chdir("/").attempt(|| "go to /".to_owned())?;
    rustix::process::umask(Mode::from_raw_mode(0o077));
    let null = File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .attempt(|| "open /dev/null".to_owned())?;
    for number in 0..3 {
        namespace::place(&null, number)?;
    }
    drop(null);
    namespace::hide()?;
    rustix::thread::set_name(c"ves-monitor").attempt(|| "take a name".to_owned())?;
    // Needs a privilege that a test may lack; the monitor is then as mortal as others.
    std::fs::write("/proc/self/oom_score_adj", OOM_SCORE).ok();
    Ok(())
}
