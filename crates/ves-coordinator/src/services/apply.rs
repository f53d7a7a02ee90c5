//! Performing a step: the RPC it is, and how long that may take.

use std::time::Duration;

use ves_proto::convert::{render_fence, render_limits};
use ves_proto::{Fault, common, lifecycle, network, resources, storage};
use ves_types::{Fence, Generation, SnapshotName};

use super::clients::{Services, ask};
use super::wire::{
    render_process, render_volume, seen_link, seen_process, seen_snapshot, seen_volume,
};
use crate::container::observed::{GroupSeen, Share};
use crate::container::step::{ProcessWish, Step};

/// How long a small change may take.
const CHANGE: Duration = Duration::from_secs(60);

/// How long a volume may take to be made, grown or removed.
const VOLUME: Duration = Duration::from_secs(900);

/// What a service has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// Its share as it is now.
    pub share: Share,
    /// What is worth telling beyond that it was done.
    pub remark: Option<&'static str>,
}

impl From<Share> for Applied {
    fn from(share: Share) -> Self {
        Self { share, remark: None }
    }
}

impl Services {
    /// Performs one step.
    ///
    /// # Errors
    /// The service's fault, `PEER_DOWN`, or `TIMEOUT`.
    pub async fn apply(&self, fence: Fence, step: &Step) -> Result<Applied, Fault> {
        let service = step.service();
        let within = deadline(step);
        let fence = Some(render_fence(fence));
        let (mut storage, mut network) = (self.storage.clone(), self.network.clone());
        let mut resources = self.resources.clone();
        let share = match step {
            Step::EnsureVolume { volume, mounted } => {
                let spec = Some(render_volume(volume, *mounted));
                let request = storage::EnsureVolumeRequest { fence, spec, dry_run: false };
                let volume = ask(service, within, storage.ensure_volume(request)).await?;
                Share::Volume(seen_volume(&volume)?)
            }
            Step::RemoveVolume => {
                let request = storage::RemoveVolumeRequest { fence, dry_run: false };
                ask(service, within, storage.remove_volume(request)).await?;
                Share::Gone
            }
            Step::TakeSnapshot { id, name } => {
                let name = name.as_ref().map_or("", SnapshotName::as_str).to_owned();
                let request = storage::EnsureSnapshotRequest {
                    fence,
                    id: id.to_string(),
                    name,
                    dry_run: false,
                };
                let taken = ask(service, within, storage.ensure_snapshot(request)).await?;
                let (id, generation) = seen_snapshot(&taken)?;
                Share::Snapshot(id, generation)
            }
            Step::DeleteSnapshot { id } => {
                let request =
                    storage::RemoveSnapshotRequest { fence, id: id.to_string(), dry_run: false };
                ask(service, within, storage.remove_snapshot(request)).await?;
                Share::Gone
            }
            Step::RevertVolume { id } => {
                let request = storage::RevertVolumeRequest {
                    fence,
                    snapshot: id.to_string(),
                    dry_run: false,
                };
                let volume = ask(service, within, storage.revert_volume(request)).await?;
                Share::Volume(seen_volume(&volume)?)
            }
            Step::EnsureLimits(limits) => {
                let limits = Some(render_limits(limits));
                let request = resources::EnsureLimitsRequest { fence, limits, dry_run: false };
                let group = ask(service, within, resources.ensure_limits(request)).await?;
                Share::Group(GroupSeen { generation: Generation(group.generation) })
            }
            Step::RemoveLimits => {
                let request = resources::RemoveLimitsRequest { fence, dry_run: false };
                ask(service, within, resources.remove_limits(request)).await?;
                Share::Gone
            }
            Step::CreateProcess(wish) => {
                let phase = lifecycle::Phase::Created;
                let container = self.ensure(fence, Some(wish), phase, 0, within).await?;
                Share::Process(seen_process(&container))
            }
            Step::RunProcess(wish) => {
                let phase = lifecycle::Phase::Running;
                let container = self.ensure(fence, Some(wish), phase, 0, within).await?;
                Share::Process(seen_process(&container))
            }
            Step::StopProcess { grace_ms } => {
                let phase = lifecycle::Phase::Absent;
                let container = self.ensure(fence, None, phase, *grace_ms, within).await?;
                let killed = *grace_ms > 0 && container.end() == lifecycle::EndReason::Killed;
                let remark =
                    killed.then_some("lifecycle: init did not stop in time and was killed");
                return Ok(Applied { share: Share::Process(seen_process(&container)), remark });
            }
            Step::EnsureLink { addresses } => {
                let addresses = addresses.iter().map(ToString::to_string).collect();
                let spec = Some(network::InterfaceSpec { addresses });
                let request = network::EnsureInterfaceRequest { fence, spec, dry_run: false };
                let link = ask(service, within, network.ensure_interface(request)).await?;
                Share::Link(seen_link(&link)?)
            }
            Step::RemoveLink => {
                let request = network::RemoveInterfaceRequest { fence, dry_run: false };
                ask(service, within, network.remove_interface(request)).await?;
                Share::Gone
            }
        };
        Ok(share.into())
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
        let request =
            lifecycle::EnsureContainerRequest { fence, spec, phase, grace_ms, dry_run: false };
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
