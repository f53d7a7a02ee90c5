//! Performing a step: the RPC it is, and how long that may take.

use std::time::Duration;

use ves_proto::convert::{parse_limits, render_fence, render_limits, render_phase};
use ves_proto::{Fault, lifecycle, network, resources, storage};
use ves_types::{Fence, Limits, Phase, SnapshotName};

use super::clients::{Services, ask};
use super::wire::{
    render_process, render_volume, seen_group, seen_link, seen_process, seen_snapshot, seen_volume,
};
use crate::container::observed::Share;
use crate::container::step::{ProcessWish, Step};

/// How long a small change may take.
const CHANGE: Duration = Duration::from_secs(60);

/// How long a volume may take to be made, grown or removed.
const VOLUME: Duration = Duration::from_secs(900);

/// The name of a snapshot that is taken before all of a file system is mended.
const BEFORE_FSCK: &str = "before-fsck";

/// What a service has done.
#[derive(Debug, Clone, PartialEq)]
pub struct Applied {
    /// Its share as it is now.
    pub share: Share,
    /// What somebody should know though it was done.
    pub warning: Option<String>,
    /// What the control groups that it took away had counted.
    pub last: Option<resources::Usage>,
}

/// What a service answers, as it came.
enum Answer {
    Volume(storage::Volume),
    Checked(storage::CheckVolumeResponse),
    Snapshot(storage::Snapshot),
    Group(Box<resources::Group>),
    Process(lifecycle::Container),
    Link(network::Interface),
    Gone(Vec<String>),
    Ungrouped(resources::RemoveLimitsResponse),
}

impl Answer {
    /// The service's share as it is now.
    fn share(&self) -> Result<Share, Fault> {
        Ok(match self {
            Self::Volume(volume) => Share::Volume(seen_volume(volume)?),
            Self::Checked(checked) => {
                let volume = checked.volume.as_ref().ok_or_else(|| Fault::missing("volume"))?;
                Share::Volume(seen_volume(volume)?)
            }
            Self::Snapshot(taken) => {
                let (id, generation) = seen_snapshot(taken)?;
                Share::Snapshot(id, generation)
            }
            Self::Group(group) => Share::Group(seen_group(group)),
            Self::Process(container) => Share::Process(seen_process(container)),
            Self::Link(link) => Share::Link(seen_link(link)?),
            Self::Gone(_) | Self::Ungrouped(_) => Share::Gone,
        })
    }

    /// What somebody should know though `step` was done.
    fn warning(&self, step: &Step) -> Option<String> {
        match (step, self) {
            (Step::StopProcess { grace_ms: 1.. }, Self::Process(container))
                if container.end() == lifecycle::EndReason::Killed =>
            {
                Some("init did not stop in time and was killed".to_owned())
            }
            (Step::EnsureVolume { mounted: false, .. }, Self::Volume(volume)) => {
                let held =
                    |by| format!("the volume is unmounted, and its device still held by {by}");
                volume.holder.as_ref().map(held)
            }
            (Step::TakeSnapshot { id, .. }, Self::Snapshot(taken)) if taken.damaged => {
                Some(format!(
                    "the file system is damaged, and so is what snapshot {id} holds; a disk that is \
                     put back to it is checked before it is used"
                ))
            }
            (Step::EnsureLimits(limits), Self::Group(group)) => not_there(limits, group),
            (Step::CheckVolume { before: Some(id) }, Self::Checked(checked)) => {
                Some(match checked.snapshot_taken {
                    true => format!(
                        "files may be lost, or moved to /lost+found; what the disk held before is \
                         snapshot {id}"
                    ),
                    false => "files may be lost, or moved to /lost+found; there was no room for a \
                              snapshot of what the disk held before"
                        .to_owned(),
                })
            }
            _ => None,
        }
    }

    /// What was done; after a dry run, what would be.
    fn steps(self) -> Vec<String> {
        match self {
            Self::Volume(volume) => volume.steps,
            Self::Checked(checked) => checked.volume.map(|v| v.steps).unwrap_or_default(),
            Self::Snapshot(taken) => taken.steps,
            Self::Group(group) => group.steps,
            Self::Process(container) => container.steps,
            Self::Link(link) => link.steps,
            Self::Gone(steps) => steps,
            Self::Ungrouped(gone) => gone.steps,
        }
    }
}

/// What of masks the node has not.
fn not_there(asked: &Limits, group: &resources::Group) -> Option<String> {
    let have = parse_limits(group.limits.clone()).ok()?;
    let masks = [
        ("processors", &asked.cpu_mask, &have.cpu_mask),
        ("memory nodes", &asked.node_mask, &have.node_mask),
    ];
    let less = masks.into_iter().filter_map(|(what, asked, have)| match (asked, have) {
        (Some(asked), Some(have)) if asked != have => {
            Some(format!("of {what} {asked} it has {have}: the others are not there"))
        }
        _ => None,
    });
    let unmet = asked.bound_io() && group.device.is_none();
    let unmet =
        unmet.then(|| "its disk traffic is not limited: storage tells no device of it".to_owned());
    let less: Vec<_> = less.chain(unmet).collect();
    (!less.is_empty()).then(|| less.join("; "))
}

impl Services {
    /// Performs one step; `device` is that of the volume, where it is known.
    ///
    /// # Errors
    /// The service's fault, `PEER_DOWN`, or `TIMEOUT`.
    pub async fn apply(
        &self,
        fence: Fence,
        step: &Step,
        device: Option<u64>,
    ) -> Result<Applied, Fault> {
        let answer = self.call(fence, step, device, false).await?;
        let warning = answer.warning(step);
        let share = answer.share()?;
        let last = match answer {
            Answer::Ungrouped(gone) => gone.last,
            _ => None,
        };
        Ok(Applied { share, warning, last })
    }

    /// What the service would do for a step, line by line. Nothing is changed.
    ///
    /// # Errors
    /// The service's fault, `PEER_DOWN`, or `TIMEOUT`.
    pub async fn dry_run(&self, fence: Fence, step: &Step) -> Result<Vec<String>, Fault> {
        self.call(fence, step, None, true).await.map(Answer::steps)
    }

    async fn call(
        &self,
        fence: Fence,
        step: &Step,
        device: Option<u64>,
        dry_run: bool,
    ) -> Result<Answer, Fault> {
        let service = step.service();
        let within = deadline(step);
        let fence = Some(render_fence(fence));
        let (mut storage, mut network) = (self.storage.clone(), self.network.clone());
        let mut resources = self.resources.clone();
        let process = |wish: Option<&ProcessWish>, phase: Phase, grace_ms| {
            let request = lifecycle::EnsureContainerRequest {
                fence,
                spec: wish.map(render_process),
                phase: render_phase(phase).into(),
                grace_ms,
                dry_run,
                only_if_running: matches!(step, Step::KeepProcess(_)),
            };
            let mut lifecycle = self.lifecycle.clone();
            async move { ask(service, within, lifecycle.ensure_container(request)).await }
        };
        Ok(match step {
            Step::EnsureVolume { volume, mounted } => {
                let spec = Some(render_volume(volume, *mounted));
                let request = storage::EnsureVolumeRequest { fence, spec, dry_run };
                Answer::Volume(ask(service, within, storage.ensure_volume(request)).await?)
            }
            Step::RemoveVolume => {
                let request = storage::RemoveVolumeRequest { fence, dry_run };
                Answer::Gone(ask(service, within, storage.remove_volume(request)).await?.steps)
            }
            Step::TakeSnapshot { id, name } => {
                let name = name.as_ref().map_or("", SnapshotName::as_str).to_owned();
                let id = id.to_string();
                let request = storage::EnsureSnapshotRequest { fence, id, name, dry_run };
                Answer::Snapshot(ask(service, within, storage.ensure_snapshot(request)).await?)
            }
            Step::DeleteSnapshot { id } => {
                let request = storage::RemoveSnapshotRequest { fence, id: id.to_string(), dry_run };
                Answer::Gone(ask(service, within, storage.remove_snapshot(request)).await?.steps)
            }
            Step::CheckVolume { before } => {
                let mend_all = before.map(|id| storage::MendAll {
                    snapshot: id.to_string(),
                    name: BEFORE_FSCK.to_owned(),
                });
                let request = storage::CheckVolumeRequest { fence, mend_all, dry_run };
                Answer::Checked(ask(service, within, storage.check_volume(request)).await?)
            }
            Step::RevertVolume { id } => {
                let snapshot = id.to_string();
                let request = storage::RevertVolumeRequest { fence, snapshot, dry_run };
                Answer::Volume(ask(service, within, storage.revert_volume(request)).await?)
            }
            Step::EnsureLimits(limits) => {
                let limits = Some(render_limits(limits));
                let request = resources::EnsureLimitsRequest { fence, limits, dry_run, device };
                Answer::Group(Box::new(
                    ask(service, within, resources.ensure_limits(request)).await?,
                ))
            }
            Step::RemoveLimits => {
                let request = resources::RemoveLimitsRequest { fence, dry_run };
                Answer::Ungrouped(ask(service, within, resources.remove_limits(request)).await?)
            }
            Step::CreateProcess(wish) => {
                Answer::Process(process(Some(wish), Phase::Created, 0).await?)
            }
            Step::RunProcess(wish) | Step::KeepProcess(wish) => {
                Answer::Process(process(Some(wish), Phase::Running, 0).await?)
            }
            Step::StopProcess { grace_ms } => {
                Answer::Process(process(None, Phase::Absent, *grace_ms).await?)
            }
            Step::EnsureLink { addresses } => {
                let addresses = addresses.iter().map(ToString::to_string).collect();
                let spec = Some(network::InterfaceSpec { addresses });
                let request = network::EnsureInterfaceRequest { fence, spec, dry_run };
                Answer::Link(ask(service, within, network.ensure_interface(request)).await?)
            }
            Step::RemoveLink => {
                let request = network::RemoveInterfaceRequest { fence, dry_run };
                Answer::Gone(ask(service, within, network.remove_interface(request)).await?.steps)
            }
        })
    }
}

/// How long a step may take.
pub fn deadline(step: &Step) -> Duration {
    match step {
        Step::EnsureVolume { .. }
        | Step::RemoveVolume
        | Step::TakeSnapshot { .. }
        | Step::DeleteSnapshot { .. }
        | Step::CheckVolume { .. }
        | Step::RevertVolume { .. } => VOLUME,
        Step::StopProcess { grace_ms } => CHANGE + Duration::from_millis(u64::from(*grace_ms)),
        Step::EnsureLimits(_)
        | Step::RemoveLimits
        | Step::CreateProcess(_)
        | Step::RunProcess(_)
        | Step::KeepProcess(_)
        | Step::EnsureLink { .. }
        | Step::RemoveLink => CHANGE,
    }
}
