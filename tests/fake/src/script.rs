//! What is asked of a node's services, and what goes wrong with it: the n-th call or step can fail, before
//! or after its effect, or kill a daemon in the middle.
//!
//! A [`Script`] stands before each service and sees its calls, and by [`Hand`] each step that is done to the
//! node. Never here: what a call or a step does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http_body_util::{BodyExt, Full};
use prost::Message;
use prost::bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tonic::Status;
use tonic::body::Body;
use tower::{ServiceExt, service_fn};
use ves_daemon::client::Link;
use ves_proto::{Fault, Reason, common, lifecycle, network, resources, storage};
use ves_types::layout::Daemon;

use crate::life::Life;

/// What happens at one call or step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mishap {
    /// It fails without effect. A step fails on its host, whatever the reason.
    FailBefore(Reason),
    /// It fails after its effect.
    FailAfter(Reason),
    /// These daemons are killed before its effect.
    KillBefore(Victim),
    /// These daemons are killed after its effect, before the answer.
    KillAfter(Victim),
    /// It and all calls that follow of its container hang for ever, before its effect.
    HangBefore,
    /// The same, after its effect.
    HangAfter,
}

impl Mishap {
    /// These daemons are killed, on either side of the effect.
    pub const fn kills(victim: Victim) -> [Self; 2] {
        [Self::KillBefore(victim), Self::KillAfter(victim)]
    }
}

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    /// The service that is asked.
    Daemon,
    /// The coordinator that asks.
    Coordinator,
    /// Everybody.
    All,
}

/// A mishap of one container.
#[derive(Debug)]
struct Appointment {
    rpc: &'static str,
    /// How many such calls are made before.
    before: usize,
    mishap: Mishap,
}

/// Mishaps that happen at the n-th of something, from 0.
#[derive(Debug, Default)]
struct Countdown {
    now: usize,
    due: BTreeMap<usize, Mishap>,
}

impl Countdown {
    fn begin(&mut self, n: usize, mishap: Mishap) {
        self.due.insert(self.now + n, mishap);
    }

    fn next(&mut self) -> Option<Mishap> {
        self.now += 1;
        self.due.remove(&(self.now - 1))
    }
}

#[derive(Debug, Default)]
struct State {
    log: Vec<String>,
    /// How often all volumes were looked at.
    looks: usize,
    calls: Countdown,
    steps: Countdown,
    appointments: BTreeMap<u32, Vec<Appointment>>,
    /// Containers whose calls hang for ever.
    hanging: BTreeSet<u32>,
    lives: BTreeMap<Daemon, Life>,
    deaths: Option<mpsc::UnboundedSender<Vec<Daemon>>>,
}

impl State {
    /// What happens at the call that is made now.
    fn due(&mut self, rpc: &'static str, ct: u32) -> Option<Mishap> {
        self.log.push(format!("{rpc} {ct}"));
        if self.hanging.contains(&ct) {
            return Some(Mishap::HangBefore);
        }
        let mut own = None;
        if let Some(all) = self.appointments.get_mut(&ct) {
            let now = all.iter().position(|a| a.rpc == rpc && a.before == 0);
            own = now.map(|n| all.remove(n).mishap);
            for later in all.iter_mut().filter(|a| a.rpc == rpc) {
                later.before = later.before.saturating_sub(1);
            }
        }
        self.calls.next().or(own)
    }
}

/// The script of a node.
#[derive(Debug, Default)]
pub struct Script {
    state: Mutex<State>,
    /// Containers whose calls wait.
    held: watch::Sender<BTreeSet<u32>>,
}

impl Script {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The `n`-th call that changes something from now on, from 0, has this mishap.
    pub fn at_call(&self, n: usize, mishap: Mishap) {
        self.state().calls.begin(n, mishap);
    }

    /// The `n`-th step on the node from now on, from 0, whose ever, has this mishap.
    pub fn at_step(&self, n: usize, mishap: Mishap) {
        self.state().steps.begin(n, mishap);
    }

    /// The `n`-th call of this name for this container from now on, from 0, has this mishap.
    pub fn at_call_of(&self, ct: u32, rpc: &'static str, n: usize, mishap: Mishap) {
        let appointment = Appointment { rpc, before: n, mishap };
        self.state().appointments.entry(ct).or_default().push(appointment);
    }

    /// Takes all mishaps away that are not a container's own; true: all came to pass.
    pub fn end(&self) -> bool {
        let mut state = self.state();
        let (calls, steps) = (std::mem::take(&mut state.calls), std::mem::take(&mut state.steps));
        calls.due.is_empty() && steps.due.is_empty()
    }

    /// Whether this container's calls hang for ever.
    pub fn hangs(&self, ct: u32) -> bool {
        self.state().hanging.contains(&ct)
    }

    /// Calls for this container wait from now on, or no more.
    pub fn hold(&self, ct: u32, held: bool) {
        self.held.send_modify(|all| {
            if held {
                all.insert(ct);
            } else {
                all.remove(&ct);
            }
        });
    }

    /// The calls that change something, in order: the name and the container.
    pub fn log(&self) -> Vec<String> {
        self.state().log.clone()
    }

    /// How many steps were begun on the node.
    pub fn steps(&self) -> usize {
        self.state().steps.now
    }

    /// How often somebody has looked at everything.
    pub fn looks(&self) -> usize {
        self.state().looks
    }

    /// Begins the log anew.
    pub fn clear_log(&self) {
        self.state().log.clear();
    }

    /// Who is told whom to kill; nobody any more where there is none.
    pub fn undertaker(&self, deaths: Option<mpsc::UnboundedSender<Vec<Daemon>>>) {
        self.state().deaths = deaths;
    }

    /// A daemon begins a life.
    pub fn begin(self: &Arc<Self>, service: Daemon) -> Hand {
        let life = Life::default();
        self.state().lives.insert(service, life.clone());
        Hand { service, script: Arc::clone(self), life }
    }

    /// Ends a daemon's life: from now on it does nothing to the node and answers nobody.
    pub fn kill(&self, service: Daemon) {
        let life = self.state().lives.get(&service).cloned();
        if let Some(life) = life {
            life.end();
        }
    }

    /// Whoever is meant dies, and somebody is told to bury and to start anew.
    fn die(&self, service: Daemon, victim: Victim) {
        let victims = match victim {
            Victim::Daemon => vec![service],
            Victim::Coordinator => vec![Daemon::Coordinator],
            Victim::All => Daemon::ALL.to_vec(),
        };
        victims.iter().for_each(|v| self.kill(*v));
        if let Some(deaths) = &self.state().deaths {
            // Nobody listens only when the test is over.
            deaths.send(victims).ok();
        }
    }

    /// The way to a service by this script, for as long as it lives.
    pub fn before(self: &Arc<Self>, service: Daemon, life: Life, link: Link) -> Link {
        let script = Arc::clone(self);
        Link::new(service_fn(move |request| {
            let (script, link, life) = (Arc::clone(&script), link.clone(), life.clone());
            async move {
                let answer = script.call(service, request, link).await;
                // A killed process does not answer.
                if !life.lives() {
                    return std::future::pending().await;
                }
                answer
            }
        }))
    }

    async fn call(
        &self,
        service: Daemon,
        request: http::Request<Body>,
        link: Link,
    ) -> Result<http::Response<Body>, Status> {
        let path = request.uri().path().to_owned();
        self.state().looks += usize::from(path.ends_with("/ListVolumes"));
        let Some(read) = reader(&path) else { return link.oneshot(request).await };
        let (parts, body) = request.into_parts();
        let bytes = body.collect().await?.to_bytes();
        let call = read(bytes.get(5..).unwrap_or_default());
        let request = http::Request::from_parts(parts, Body::new(Full::new(bytes)));
        let Some((rpc, ct)) = call else { return link.oneshot(request).await };
        let mishap = self.state().due(rpc, ct);
        // The sender is the script's own.
        self.held.subscribe().wait_for(|held| !held.contains(&ct)).await.ok();
        let fault = |reason, what| {
            let fault = Fault::new(reason, format!("container {ct}: {what}")).fact("ct", ct);
            Ok(Status::from(fault).into_http())
        };
        match mishap {
            Some(Mishap::FailBefore(reason)) => return fault(reason, "as scripted"),
            Some(Mishap::KillBefore(victim)) => return self.killed(service, victim).await,
            Some(Mishap::HangBefore) => return self.hang(ct).await,
            _ => {}
        }
        let answer = link.oneshot(request).await;
        match mishap {
            Some(Mishap::FailAfter(reason)) => fault(reason, "as scripted, too late"),
            Some(Mishap::KillAfter(victim)) => self.killed(service, victim).await,
            Some(Mishap::HangAfter) => self.hang(ct).await,
            _ => answer,
        }
    }

    async fn hang<T>(&self, ct: u32) -> T {
        self.state().hanging.insert(ct);
        std::future::pending().await
    }

    async fn killed<T>(&self, service: Daemon, victim: Victim) -> T {
        self.die(service, victim);
        std::future::pending().await
    }
}

/// A daemon as it acts on the node, for as long as it lives.
#[derive(Debug, Clone)]
pub struct Hand {
    service: Daemon,
    script: Arc<Script>,
    /// Its life.
    pub life: Life,
}

impl Hand {
    /// Does one step, with the mishap that it may have.
    pub(crate) fn step<E>(
        &self,
        act: impl FnOnce() -> Result<(), E>,
        failed: impl Fn() -> E,
    ) -> Result<(), E> {
        if !self.life.lives() {
            return Err(failed());
        }
        let act = || self.life.act(act, &failed);
        let mishap = self.script.state().steps.next();
        match mishap {
            Some(Mishap::FailBefore(_)) => Err(failed()),
            Some(Mishap::FailAfter(_)) => act().and_then(|()| Err(failed())),
            Some(Mishap::KillBefore(victim)) => {
                self.script.die(self.service, victim);
                Err(failed())
            }
            Some(Mishap::KillAfter(victim)) => {
                let done = act();
                self.script.die(self.service, victim);
                done.and_then(|()| Err(failed()))
            }
            Some(Mishap::HangBefore | Mishap::HangAfter) | None => act(),
        }
    }
}

/// The name of a call and whose it is; none for one that changes nothing.
type Call = Option<(&'static str, u32)>;

/// How to read the calls of a path; none where they change no container.
fn reader(path: &str) -> Option<fn(&[u8]) -> Call> {
    fn read<M: Message + Default>(
        bytes: &[u8],
        parts: impl FnOnce(M) -> (&'static str, Option<common::Fence>, bool),
    ) -> Call {
        // What cannot be read is refused by the service.
        let (name, fence, dry_run) = parts(M::decode(Bytes::copy_from_slice(bytes)).ok()?);
        (!dry_run).then_some((name, fence.unwrap_or_default().ct))
    }
    macro_rules! of {
        ($name:literal, $request:ty) => {
            |bytes| read(bytes, |r: $request| ($name, r.fence, r.dry_run))
        };
    }
    Some(match path.rsplit('/').next()? {
        "EnsureVolume" => of!("EnsureVolume", storage::EnsureVolumeRequest),
        "RemoveVolume" => of!("RemoveVolume", storage::RemoveVolumeRequest),
        "EnsureSnapshot" => of!("EnsureSnapshot", storage::EnsureSnapshotRequest),
        "RemoveSnapshot" => of!("RemoveSnapshot", storage::RemoveSnapshotRequest),
        "CheckVolume" => of!("CheckVolume", storage::CheckVolumeRequest),
        "RevertVolume" => of!("RevertVolume", storage::RevertVolumeRequest),
        "EnsureInterface" => of!("EnsureInterface", network::EnsureInterfaceRequest),
        "RemoveInterface" => of!("RemoveInterface", network::RemoveInterfaceRequest),
        "EnsureLimits" => of!("EnsureLimits", resources::EnsureLimitsRequest),
        "RemoveLimits" => of!("RemoveLimits", resources::RemoveLimitsRequest),
        "EnsureContainer" => |bytes| {
            read(bytes, |r: lifecycle::EnsureContainerRequest| {
                let name = match r.phase() {
                    lifecycle::Phase::Running if r.only_if_running => "KeepProcess",
                    lifecycle::Phase::Absent => "StopContainer",
                    lifecycle::Phase::Created => "CreateProcess",
                    _ => "RunProcess",
                };
                (name, r.fence, r.dry_run)
            })
        },
        _ => return None,
    })
}
