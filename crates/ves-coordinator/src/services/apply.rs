//! Performing a step: the RPC it is, and how long that may take.

use std::time::Duration;

use ves_proto::convert::{render_fence, render_limits};
use ves_proto::{Fault, common, lifecycle, network, resources, storage};
use ves_types::{Fence, SnapshotName};

use super::clients::{Services, ask};
use super::wire::{render_process, render_volume};
use crate::container::step::{ProcessWish, Step};

/// How long a small change may take.
const CHANGE: Duration = Duration::from_secs(60);

/// How long a volume may take to be made, grown or removed.
const VOLUME: Duration = Duration::from_secs(900);

impl Services {
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
                let request = storage::EnsureVolumeRequest { fence, spec, dry_run: false };
                ask(service, within, self.storage.clone().ensure_volume(request)).await.map(drop)
            }
            Step::RemoveVolume => {
                let request = storage::RemoveVolumeRequest { fence, dry_run: false };
                ask(service, within, self.storage.clone().remove_volume(request)).await.map(drop)
            }
            Step::TakeSnapshot { id, name } => {
                let name = name.as_ref().map_or("", SnapshotName::as_str).to_owned();
                let request = storage::EnsureSnapshotRequest {
                    fence,
                    id: id.to_string(),
                    name,
                    dry_run: false,
                };
                ask(service, within, self.storage.clone().ensure_snapshot(request)).await.map(drop)
            }
            Step::DeleteSnapshot { id } => {
                let request =
                    storage::RemoveSnapshotRequest { fence, id: id.to_string(), dry_run: false };
                ask(service, within, self.storage.clone().remove_snapshot(request)).await.map(drop)
            }
            Step::RevertVolume { id } => {
                let request = storage::RevertVolumeRequest {
                    fence,
                    snapshot: id.to_string(),
                    dry_run: false,
                };
                ask(service, within, self.storage.clone().revert_volume(request)).await.map(drop)
            }
            Step::EnsureLimits(limits) => {
                let limits = Some(render_limits(limits));
                let request = resources::EnsureLimitsRequest { fence, limits, dry_run: false };
                ask(service, within, self.resources.clone().ensure_limits(request)).await.map(drop)
            }
            Step::RemoveLimits => {
                let request = resources::RemoveLimitsRequest { fence, dry_run: false };
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
                let request = network::EnsureInterfaceRequest { fence, spec, dry_run: false };
                ask(service, within, self.network.clone().ensure_interface(request)).await.map(drop)
            }
            Step::RemoveLink => {
                let request = network::RemoveInterfaceRequest { fence, dry_run: false };
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
