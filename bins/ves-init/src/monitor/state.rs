//! What a monitor knows of its container and its clients, its records, and its console.
//!
//! Never here: waiting, or what a client asks for.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use rustix::io::Errno;
use ves_host::{Attempt, HostError};
use ves_init_proto::InitStep;
use ves_init_proto::frame::{Frame, Tag};
use ves_init_proto::report::{self, Answer, InitKind, StateRecord, Status};
use ves_init_proto::{init_plan, memory, process};

use ves_types::Features;

use super::client::{Client, Role};
use super::files::{Guard, write_record};
use crate::console::Ring;
use crate::notify::NotifyListener;
use crate::perform::Waiting;
use crate::rate_limit::RateLimit;

/// What is done for a container, and what is remembered of it.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    /// The container's volatile directory: socket, lock and records are in it.
    pub(super) dir: PathBuf,
    /// The number of this run of the container.
    pub(super) incarnation: u64,
    /// What of the kernel all that runs inside may use.
    pub(super) features: Features,
    /// What the daemon wanted it to be, word by word.
    pub(super) opaque_spec: String,
    /// How it is made.
    pub(super) steps: Vec<InitStep>,
}

/// A container that waits or runs, and all who are connected.
#[derive(Debug)]
pub(super) struct Monitor {
    pub(super) plan: Plan,
    pub(super) waiting: Waiting,
    /// Says what init says of itself.
    pub(super) notify: Option<NotifyListener>,
    pub(super) listener: UnixListener,
    /// The users it answers.
    pub(super) may_ask: BTreeSet<u32>,
    /// Held until there is nothing left of the run.
    pub(super) lock: OwnedFd,
    pub(super) guard: Guard,
    pub(super) clients: Vec<Client>,
    pub(super) ring: Ring,
    /// What clients typed and the terminal has not taken yet.
    pub(super) input: Vec<u8>,
    /// 0 while init waits.
    pub(super) started_unix_ms: i64,
    pub(super) booted: bool,
    pub(super) stopping: bool,
    pub(super) kind: InitKind,
    pub(super) stop_requested: bool,
    pub(super) killed: bool,
    pub(super) rate_limit: RateLimit,
}

impl Monitor {
    /// Init's number.
    pub(super) fn pid(&self) -> u32 {
        u32::try_from(self.waiting.child.pid.as_raw_pid()).unwrap_or_default()
    }

    /// How things are.
    pub(super) fn status(&self) -> Status {
        Status {
            running: self.started_unix_ms != 0,
            init_pid: self.pid(),
            started_unix_ms: self.started_unix_ms,
            booted: self.booted,
            stopping: self.stopping,
            // A script that was init may have executed another one since.
            kind: if self.started_unix_ms == 0 { self.kind } else { self.kind_now() },
            incarnation: self.plan.incarnation,
            features: self.plan.features,
            opaque_spec: self.plan.opaque_spec.clone(),
            dropped: init_plan::init_drops(&self.plan.steps),
        }
    }

    /// What init is by the name of its executable, which is not opened.
    pub(super) fn kind_now(&self) -> InitKind {
        let exe = std::fs::read_link(format!("/proc/{}/exe", self.pid())).unwrap_or_default();
        InitKind::of(&exe.to_string_lossy())
    }

    /// Lets the kernel choose others of the container when its memory runs out. Only systemd gives what it
    /// starts another score than its own; other inits are the smallest process there is anyway.
    pub(super) fn spare_init(&self) {
        // Needs a privilege that the node may lack; then all that systemd starts still goes first.
        let score = format!("-{}", memory::OOM_SCORE);
        std::fs::write(format!("/proc/{}/oom_score_adj", self.pid()), score).ok();
    }

    /// Writes down which process is init, for whoever finds the monitor dead.
    pub(super) fn record(&self) -> Result<(), HostError> {
        let path = format!("/proc/{}/stat", self.pid());
        let stat = std::fs::read_to_string(&path).attempt(|| format!("read {path}"))?;
        let init_start = process::start_ticks(&stat)
            .ok_or_else(|| HostError::parse(format!("read {path}"), &stat))?;
        let record = StateRecord {
            init_pid: self.pid(),
            init_start,
            incarnation: self.plan.incarnation,
            started_unix_ms: self.started_unix_ms,
        };
        write_record(&report::state(&self.plan.dir), &record)
    }

    /// Tells the followers how things are, and who watches the lock file that they have changed.
    pub(super) fn publish(&mut self) {
        // Who watches looks; what stands in the file says nothing.
        rustix::io::pwrite(&self.lock, b"\n", 0).ok();
        let frame = Frame::json(Tag::Answer, &Answer::Status(self.status()));
        for client in self.clients.iter_mut().filter(|c| c.role == Role::Follower) {
            client.conn.send(&frame);
        }
    }

    /// Gives the terminal what it takes of the input.
    pub(super) fn type_input(&mut self) {
        match rustix::io::write(&self.waiting.console.master, &self.input) {
            Ok(n) => drop(self.input.drain(..n)),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.input.clear(),
        }
    }

    /// Reads what the console prints; answers whether there was something.
    pub(super) fn read_console(&mut self) -> bool {
        let mut chunk = [0; 16 * 1024];
        let Ok(n) = rustix::io::read(&self.waiting.console.master, &mut chunk) else {
            return false;
        };
        let bytes = chunk.get(..n).unwrap_or_default();
        self.rate_limit.spend(n);
        self.ring.push(bytes);
        let frame = Frame::new(Tag::Output, bytes);
        for client in self.clients.iter_mut().filter(|c| c.role == Role::Console) {
            if client.conn.is_full() {
                // A watcher that does not look must hold up neither the container nor a place; it
                // can come back for what is still in the scroll-back.
                client.role = Role::Dropped;
            } else {
                client.conn.send(&frame);
            }
        }
        n > 0
    }
}
