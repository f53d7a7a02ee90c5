//! What must hold of a node when nothing goes wrong any more: all work ends, the node holds what the records
//! say and nothing else, and every container has a way out. Never here: how it came there.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use ves_coordinator::store::{Kind, all_rows};
use ves_fake::ct::Ct;
use ves_proto::resources::GetGroupRequest;
use ves_proto::resources::resources_service_client::ResourcesServiceClient;
use ves_proto::{Fault, Reason, api, common};
use ves_types::layout::Daemon;

use crate::command::Command;
use crate::sim::{PATIENCE, Sim};
use crate::words as pb;

/// Checks all of it, with containers of no other ids than these; fails with what does not hold.
pub fn check(sim: &Sim, ids: &[u32]) -> Result<(), String> {
    let containers = idle(sim)?;
    let mut holders = BTreeMap::new();
    for ct in ids {
        let there = sim.kernel().ct(*ct);
        for address in &there.routed {
            if let Some(other) = holders.insert(address.clone(), *ct) {
                return Err(format!("{other} and {ct} both have {address}"));
            }
        }
        match containers.iter().find(|c| c.id == *ct) {
            None if there.is_nothing() => {}
            None => return Err(format!("nobody knows {ct}, and there is {there:?}")),
            Some(shown) => {
                as_recorded(sim, shown, &there)
                    .map_err(|e| format!("{e}: {shown:?}, {there:?}"))?;
            }
        }
    }
    for shown in &containers {
        way_out(sim, shown).map_err(|e| format!("{e}: it was {shown:?}"))?;
    }
    // Of a create that failed a clone may be left, which goes when storage starts.
    sim.restart(Daemon::Storage);
    let until = Instant::now() + PATIENCE;
    while !sim.kernel().is_clean() {
        if Instant::now() > until {
            return Err(format!("something is left: {:?}", sim.kernel()));
        }
        sim.pause(2);
    }
    let claims = [Kind::Container, Kind::Name, Kind::Address, Kind::Slot];
    let rows = all_rows(sim.store()).map_err(|e| e.to_string())?;
    let mut left = rows.iter().filter(|(key, _)| claims.contains(&key.kind));
    left.next().map_or(Ok(()), |(key, _)| Err(format!("{key:?} is left in the store")))
}

/// Waits until nobody works on anything.
fn idle(sim: &Sim) -> Result<Vec<pb::Container>, String> {
    let until = Instant::now() + PATIENCE;
    loop {
        let asked = sim.within(async {
            let request = api::ListContainersRequest::default();
            let list = sim.containers().list_containers(request).await?.into_inner().containers;
            let list: Vec<_> = list.into_iter().map(pb::Container::from).collect();
            let request = api::ListOperationsRequest::default();
            let all = sim.operations().list_operations(request).await?.into_inner().operations;
            Ok::<_, tonic::Status>((list, all))
        });
        if let Ok(Ok((containers, operations))) = &asked
            && operations.iter().all(|op| op.end_time.is_some())
        {
            return Ok(containers.clone());
        }
        if Instant::now() > until {
            return Err(format!("nobody comes to an end: {asked:?}"));
        }
        sim.pause(2);
    }
}

fn as_recorded(sim: &Sim, shown: &pb::Container, there: &Ct) -> Result<(), String> {
    use pb::ContainerState as State;
    let spec = shown.running_spec.as_ref().or(shown.spec.as_ref()).ok_or("it has no spec")?;
    // What could not be finished says so, and is as far as it came.
    if !shown.problem.is_empty() {
        return Ok(());
    }
    let (up, mounted) = match shown.state() {
        State::Running => (true, true),
        State::Mounted => (false, true),
        State::Stopped => (false, false),
        other => return Err(format!("it is {other:?} and nobody works on it")),
    };
    let volume = there.volume.as_ref().ok_or("its volume is lost")?;
    let addresses: BTreeSet<String> = match up {
        true => spec.addresses.iter().cloned().collect(),
        false => BTreeSet::new(),
    };
    let link = up.then(|| addresses.clone());
    for (what, holds) in [
        ("its processes", there.alive() == up),
        ("its volume is mounted", volume.mounted == mounted),
        ("the size of its volume", volume.size >= spec.disk_bytes),
        ("its link", there.link == link),
        ("its routes", there.routed == addresses),
        ("its guard", there.allowed == addresses),
        ("its control groups", there.group.is_some() == up),
    ] {
        if !holds {
            return Err(format!("{what} is not as it should be"));
        }
    }
    if up {
        let mut groups = ResourcesServiceClient::new(sim.channel_to(Daemon::Resources));
        let group = sim.within(groups.get_group(GetGroupRequest { ct: shown.id }));
        let limits =
            group.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?.into_inner().limits;
        let numproc = |l: Option<&common::Limits>| l.and_then(|l| l.ubc.get("numproc").copied());
        if numproc(limits.as_ref()) != numproc(spec.limits.as_ref()) {
            return Err(format!("its limits are {limits:?}"));
        }
    }
    Ok(())
}

/// Whatever became of it, it is stopped, started, stopped and destroyed.
fn way_out(sim: &Sim, shown: &pb::Container) -> Result<(), String> {
    let ct = shown.id.to_string();
    let run = |command: Command| match sim.within(sim.carry(&command)) {
        Ok(done) => done.map(drop),
        Err(late) => Err(Fault::new(Reason::Timeout, late)),
    };
    let must = |what: &str, done: Result<(), Fault>| done.map_err(|f| format!("{what}: {f}"));
    if shown.state() != pb::ContainerState::Deleting {
        match run(Command::stop(&ct)) {
            Err(fault) if fault.reason == Reason::NotRunning => {}
            done => must("stop", done)?,
        }
        must("start", run(Command::start(&ct)))?;
        must("stop again", run(Command::stop(&ct)))?;
    }
    must("destroy", run(Command::delete(&ct)))
}
