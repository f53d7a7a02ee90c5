//! The four services: how a container is looked at, and how a step becomes an RPC.
//!
//! Owns the translation between [`crate::plan`] and the wire, and telling a service that refuses
//! from one that is not there. Never here: which step comes when, or trying again.

use std::collections::BTreeSet;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt;
use ves_daemon::client::{Traced, channel};
use ves_proto::convert::{Fence, parse_snapshot_id, render_fence, render_limits};
use ves_proto::fault::DOMAIN;
use ves_proto::lifecycle::lifecycle_service_client::LifecycleServiceClient;
use ves_proto::network::network_service_client::NetworkServiceClient;
use ves_proto::resources::resources_service_client::ResourcesServiceClient;
use ves_proto::storage::storage_service_client::StorageServiceClient;
use ves_proto::{Fault, Reason, common, lifecycle, network, resources, storage};
use ves_types::layout::{Daemon, Layout};
use ves_types::{Bytes, CtId, Generation, SnapshotId, SnapshotName};

use crate::plan::{
    End, GroupSeen, LinkSeen, Observed, Phase, ProcessSeen, ProcessWish, Step, VolumeSeen,
    VolumeWish,
};

/// The largest answer: a list of ten thousand containers' groups takes about 10 MiB.
const ANSWER: usize = 64 << 20;
/// How long a question may take.
const QUESTION: Duration = Duration::from_secs(20);
/// How long a small change may take.
const CHANGE: Duration = Duration::from_secs(60);
/// How long a volume may take to be made, grown or removed.
const VOLUME: Duration = Duration::from_secs(900);

/// Clients of the four services. They connect when first used and again after a restart.
#[derive(Debug, Clone)]
pub struct Services {
    /// Storage.
    pub storage: StorageServiceClient<Traced>,
    /// Network.
    pub network: NetworkServiceClient<Traced>,
    /// Resources.
    pub resources: ResourcesServiceClient<Traced>,
    /// Lifecycle.
    pub lifecycle: LifecycleServiceClient<Traced>,
}

impl Services {
    /// The services of this layout. Inside a tokio runtime.
    pub fn new(layout: &Layout) -> Self {
        Self {
            storage: StorageServiceClient::new(channel(&layout.socket(Daemon::Storage)))
                .max_decoding_message_size(ANSWER),
            network: NetworkServiceClient::new(channel(&layout.socket(Daemon::Network)))
                .max_decoding_message_size(ANSWER),
            resources: ResourcesServiceClient::new(channel(&layout.socket(Daemon::Resources)))
                .max_decoding_message_size(ANSWER),
            lifecycle: LifecycleServiceClient::new(channel(&layout.socket(Daemon::Lifecycle)))
                .max_decoding_message_size(ANSWER),
        }
    }

    /// Looks at one container in all four.
    ///
    /// # Errors
    /// The first service's that could not answer.
    pub async fn observe(&self, ct: CtId) -> Result<Observed, Fault> {
        let (volume, snapshots, group, process, link) = tokio::join!(
            self.volume(ct),
            self.snapshots(ct, false),
            self.group(ct),
            self.process(ct),
            self.link(ct)
        );
        Ok(Observed {
            volume: volume?.map(|v| seen_volume(&v)).transpose()?,
            snapshots: snapshots?.iter().map(seen_snapshot).collect::<Result<_, _>>()?,
            group: group?.map(|g| GroupSeen { generation: Generation(g.generation) }),
            process: process?,
            link: link?,
        })
    }

    /// Storage's share.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn volume(&self, ct: CtId) -> Result<Option<storage::Volume>, Fault> {
        let mut client = self.storage.clone();
        let request = storage::GetVolumeRequest { ct: ct.get() };
        found(ask("storage", QUESTION, client.get_volume(request)).await)
    }

    /// Storage's snapshots, oldest first; where `measure` says so, with what only each has.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn snapshots(
        &self,
        ct: CtId,
        measure: bool,
    ) -> Result<Vec<storage::Snapshot>, Fault> {
        let mut client = self.storage.clone();
        let request = storage::ListSnapshotsRequest { ct: ct.get(), measure };
        let within = if measure { CHANGE } else { QUESTION };
        Ok(ask("storage", within, client.list_snapshots(request)).await?.snapshots)
    }

    /// Resources' share.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn group(&self, ct: CtId) -> Result<Option<resources::Group>, Fault> {
        let mut client = self.resources.clone();
        let request = resources::GetGroupRequest { ct: ct.get() };
        found(ask("resources", QUESTION, client.get_group(request)).await)
    }

    /// Lifecycle's share.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn process(&self, ct: CtId) -> Result<ProcessSeen, Fault> {
        let mut client = self.lifecycle.clone();
        let request = lifecycle::GetContainerRequest { ct: ct.get() };
        let answer = found(ask("lifecycle", QUESTION, client.get_container(request)).await)?;
        Ok(answer.as_ref().map(seen_process).unwrap_or_default())
    }

    /// Network's share.
    ///
    /// # Errors
    /// When it does not answer, or answers with what is no address.
    pub async fn link(&self, ct: CtId) -> Result<Option<LinkSeen>, Fault> {
        let mut client = self.network.clone();
        let request = network::GetInterfaceRequest { ct: ct.get() };
        let answer = found(ask("network", QUESTION, client.get_interface(request)).await)?;
        answer.as_ref().map(seen_link).transpose()
    }

    /// Performs one step, and answers what is worth telling beyond that it was done.
    ///
    /// # Errors
    /// The service's fault, `PEER_DOWN`, or `TIMEOUT`.
    pub async fn apply(&self, fence: Fence, step: &Step) -> Result<Option<&'static str>, Fault> {
        let service = step.service();
        let within = deadline(step);
        let fence = Some(render_fence(fence));
        match step {
            Step::EnsureVolume { volume, mounted } => {
                let spec = Some(render_volume(volume, *mounted));
                let request = storage::EnsureVolumeRequest { fence, spec };
                ask(service, within, self.storage.clone().ensure_volume(request)).await.map(drop)
            }
            Step::RemoveVolume => {
                let request = storage::RemoveVolumeRequest { fence };
                ask(service, within, self.storage.clone().remove_volume(request)).await.map(drop)
            }
            Step::TakeSnapshot { id, name } => {
                let name = name.as_ref().map_or("", SnapshotName::as_str).to_owned();
                let request = storage::EnsureSnapshotRequest { fence, id: id.to_string(), name };
                ask(service, within, self.storage.clone().ensure_snapshot(request)).await.map(drop)
            }
            Step::DeleteSnapshot { id } => {
                let request = storage::RemoveSnapshotRequest { fence, id: id.to_string() };
                ask(service, within, self.storage.clone().remove_snapshot(request)).await.map(drop)
            }
            Step::RevertVolume { id } => {
                let request = storage::RevertVolumeRequest { fence, snapshot: id.to_string() };
                ask(service, within, self.storage.clone().revert_volume(request)).await.map(drop)
            }
            Step::EnsureLimits(limits) => {
                let limits = Some(render_limits(limits));
                let request = resources::EnsureLimitsRequest { fence, limits };
                ask(service, within, self.resources.clone().ensure_limits(request)).await.map(drop)
            }
            Step::RemoveLimits => {
                let request = resources::RemoveLimitsRequest { fence };
                ask(service, within, self.resources.clone().remove_limits(request)).await.map(drop)
            }
            Step::CreateProcess(wish) => {
                let phase = lifecycle::Phase::Created;
                self.ensure(fence, Some(wish), phase, 0, within).await.map(drop)
            }
            Step::RunProcess(wish) => {
                let phase = lifecycle::Phase::Running;
                self.ensure(fence, Some(wish), phase, 0, within).await.map(drop)
            }
            Step::StopProcess { grace_ms } => {
                let phase = lifecycle::Phase::Absent;
                let end = self.ensure(fence, None, phase, *grace_ms, within).await?.end();
                let killed = *grace_ms > 0 && end == lifecycle::EndReason::Killed;
                return Ok(killed.then_some("lifecycle: init did not stop in time and was killed"));
            }
            Step::EnsureLink { addresses } => {
                let addresses = addresses.iter().map(ToString::to_string).collect();
                let spec = Some(network::InterfaceSpec { addresses });
                let request = network::EnsureInterfaceRequest { fence, spec };
                ask(service, within, self.network.clone().ensure_interface(request)).await.map(drop)
            }
            Step::RemoveLink => {
                let request = network::RemoveInterfaceRequest { fence };
                ask(service, within, self.network.clone().remove_interface(request)).await.map(drop)
            }
        }?;
        Ok(None)
    }

    async fn ensure(
        &self,
        fence: Option<common::Fence>,
        wish: Option<&ProcessWish>,
        phase: lifecycle::Phase,
        grace_ms: u32,
        within: Duration,
    ) -> Result<lifecycle::Container, Fault> {
        let spec = wish.map(render_process);
        let phase = phase.into();
        let request = lifecycle::EnsureContainerRequest { fence, spec, phase, grace_ms };
        ask("lifecycle", within, self.lifecycle.clone().ensure_container(request)).await
    }
}

/// How long a step may take.
pub fn deadline(step: &Step) -> Duration {
    match step {
        Step::EnsureVolume { .. }
        | Step::RemoveVolume
        | Step::TakeSnapshot { .. }
        | Step::DeleteSnapshot { .. }
        | Step::RevertVolume { .. } => VOLUME,
        Step::StopProcess { grace_ms } => CHANGE + Duration::from_millis(u64::from(*grace_ms)),
        Step::EnsureLimits(_)
        | Step::RemoveLimits
        | Step::CreateProcess(_)
        | Step::RunProcess(_)
        | Step::EnsureLink { .. }
        | Step::RemoveLink => CHANGE,
    }
}

/// Waits for a unary call's answer, within a time.
///
/// # Errors
/// What the service says, `PEER_DOWN` or `TIMEOUT`, with the fact `service`.
pub async fn ask<T>(
    service: &'static str,
    within: Duration,
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, Fault> {
    match tokio::time::timeout(within, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(fault_of(service, &status)),
        Err(_) => {
            let message = format!("{service} has not answered for {} s", within.as_secs());
            Err(Fault::new(Reason::Timeout, message).fact("what", service).fact("service", service))
        }
    }
}

/// The fault a service's status stands for. What does not carry our own details comes from the
/// transport: the service is gone, or went while it worked.
pub fn fault_of(service: &'static str, status: &Status) -> Fault {
    let ours = status.get_error_details().error_info().is_some_and(|i| i.domain == DOMAIN);
    let transport = matches!(
        status.code(),
        Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal | Code::Aborted
    );
    if !ours && transport {
        let message = format!(
            "{service} cannot be reached: {}; look at the log of its daemon",
            status.message()
        );
        return Fault::new(Reason::PeerDown, message).fact("service", service);
    }
    Fault::from_status(status)
}

fn found<T>(answer: Result<T, Fault>) -> Result<Option<T>, Fault> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(fault) if fault.code() == Code::NotFound => Ok(None),
        Err(fault) => Err(fault),
    }
}

fn render_volume(wish: &VolumeWish, mounted: bool) -> storage::VolumeSpec {
    let VolumeWish { template, size, inodes, slot } = wish;
    storage::VolumeSpec {
        template: template.as_str().to_owned(),
        size_bytes: size.0,
        inodes: *inodes,
        id_slot: slot.get(),
        mounted,
    }
}

fn render_process(wish: &ProcessWish) -> lifecycle::ContainerSpec {
    let ProcessWish { slot, hostname, init, nameservers, search_domains, max_ptys, shm } = wish;
    lifecycle::ContainerSpec {
        id_slot: slot.get(),
        hostname: hostname.as_str().to_owned(),
        init: init.clone(),
        nameservers: nameservers.iter().map(ToString::to_string).collect(),
        search_domains: search_domains.clone(),
        max_ptys: max_ptys.map(|n| u32::try_from(n).unwrap_or(u32::MAX)),
        shm_bytes: shm.map(|b| b.0),
    }
}

/// What storage shows of a volume.
///
/// # Errors
/// When it names a snapshot by what is no id.
pub fn seen_volume(volume: &storage::Volume) -> Result<VolumeSeen, Fault> {
    let reverted = |r: &storage::Reverted| {
        let id = parse_snapshot_id("reverted", &r.snapshot)?;
        Ok::<_, Fault>((id, Generation(r.generation)))
    };
    Ok(VolumeSeen {
        generation: Generation(volume.generation),
        size: Bytes(volume.size_bytes),
        mounted: volume.mounted,
        used: volume.used_bytes.map(Bytes),
        reverted: volume.reverted.as_ref().map(reverted).transpose()?,
    })
}

fn seen_snapshot(snapshot: &storage::Snapshot) -> Result<(SnapshotId, Generation), Fault> {
    Ok((parse_snapshot_id("id", &snapshot.id)?, Generation(snapshot.generation)))
}

fn seen_link(link: &network::Interface) -> Result<LinkSeen, Fault> {
    let parse = |a: &String| a.parse().map_err(|e| Fault::bad_value("addresses", &e));
    let addresses = link.addresses.iter().map(parse).collect::<Result<BTreeSet<_>, _>>()?;
    Ok(LinkSeen { generation: Generation(link.generation), addresses })
}

/// What lifecycle shows of a container's processes.
pub fn seen_process(container: &lifecycle::Container) -> ProcessSeen {
    let phase = match container.phase() {
        lifecycle::Phase::Unspecified | lifecycle::Phase::Absent => Phase::Absent,
        lifecycle::Phase::Created => Phase::Created,
        lifecycle::Phase::Running => Phase::Running,
        lifecycle::Phase::Frozen => Phase::Frozen,
    };
    let end = match container.end() {
        lifecycle::EndReason::Unspecified => End::None,
        lifecycle::EndReason::Stopped | lifecycle::EndReason::Killed => End::Stopped,
        lifecycle::EndReason::Halted => End::Halted,
        lifecycle::EndReason::Rebooted => End::Rebooted,
        lifecycle::EndReason::Exited => End::Exited,
    };
    use common::exit_status::How;
    let end_status =
        container.end_status.as_ref().and_then(|s| s.how.as_ref()).map(|how| match how {
            How::Code(code) => *code,
            How::Signal(signal) => signal.saturating_add(128),
        });
    ProcessSeen {
        generation: Generation(container.generation),
        phase,
        end,
        end_status,
        incarnation: container.incarnation,
        init_pid: container.init_pid,
        started_unix_ms: (container.started_unix_ms > 0).then_some(container.started_unix_ms),
        booted: container.booted,
        unresponsive: container.unresponsive,
    }
}
