//! Between the plan's words and those of the wire.

use std::collections::BTreeSet;

use ves_proto::convert::{
    parse_exit_cause, parse_phase, parse_snapshot_id, render_features, render_grant,
};
use ves_proto::{Fault, common, lifecycle, network, resources, storage};
use ves_types::{Bytes, Generation, SnapshotId};

use crate::container::observed::{GroupSeen, LinkSeen, ProcessSeen, VolumeSeen};
use crate::container::step::{ProcessWish, VolumeWish};

pub(super) fn render_volume(wish: &VolumeWish, mounted: bool) -> storage::VolumeSpec {
    let VolumeWish { template, size, inodes, slot } = wish;
    storage::VolumeSpec {
        template: template.as_str().to_owned(),
        size_bytes: size.bytes().0,
        inodes: inodes.map(u64::from),
        id_slot: slot.get(),
        mounted,
    }
}

pub(super) fn render_process(wish: &ProcessWish) -> lifecycle::ContainerSpec {
    let ProcessWish {
        slot,
        hostname,
        init,
        nameservers,
        search_domains,
        max_ptys,
        shm,
        ram,
        devices,
        capabilities_off,
        features,
    } = wish;
    lifecycle::ContainerSpec {
        id_slot: slot.get(),
        hostname: hostname.as_ref().map(ToString::to_string).unwrap_or_default(),
        init: init.words().to_vec(),
        nameservers: nameservers.iter().map(ToString::to_string).collect(),
        search_domains: search_domains.iter().map(ToString::to_string).collect(),
        max_ptys: max_ptys.map(|n| u32::try_from(n).unwrap_or(u32::MAX)),
        shm_bytes: shm.map(|b| b.0),
        ram_bytes: ram.map(|b| b.0),
        grants: devices.iter().map(render_grant).collect(),
        capabilities_off: capabilities_off.iter().map(ToString::to_string).collect(),
        features: Some(render_features(*features)),
    }
}

pub(super) fn seen_snapshot(
    snapshot: &storage::Snapshot,
) -> Result<(SnapshotId, Generation), Fault> {
    Ok((parse_snapshot_id("id", &snapshot.id)?, Generation(snapshot.generation)))
}

pub(super) fn seen_link(link: &network::Interface) -> Result<LinkSeen, Fault> {
    let parse = |a: &String| a.parse().map_err(|e| Fault::bad_value("addresses", &e));
    let addresses = link.addresses.iter().map(parse).collect::<Result<BTreeSet<_>, _>>()?;
    Ok(LinkSeen { generation: Generation(link.generation), addresses })
}

/// What resources shows of control groups.
pub(super) const fn seen_group(group: &resources::Group) -> GroupSeen {
    GroupSeen { generation: Generation(group.generation), device: group.device }
}

/// What storage shows of a volume.
pub(super) fn seen_volume(volume: &storage::Volume) -> Result<VolumeSeen, Fault> {
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
        damage: volume.damage.as_ref().map(|damage| damage.errors),
        checked: volume.checked_generation.map(Generation),
        device: volume.device,
    })
}

/// What lifecycle shows of a container's processes.
pub(crate) fn seen_process(container: &lifecycle::Container) -> ProcessSeen {
    use common::exit_status::How;
    let end_status =
        container.end_status.as_ref().and_then(|s| s.how.as_ref()).map(|how| match how {
            How::Code(code) => *code,
            How::Signal(signal) => signal.saturating_add(128),
        });
    let end_signal = match container.end_status.as_ref().and_then(|s| s.how.as_ref()) {
        Some(How::Signal(signal)) => Some(*signal),
        Some(How::Code(_)) | None => None,
    };
    ProcessSeen {
        generation: Generation(container.generation),
        phase: parse_phase(container.phase()).unwrap_or_default(),
        end: parse_exit_cause(container.end()),
        end_status,
        end_signal,
        incarnation: container.incarnation,
        init_pid: container.init_pid,
        started_unix_ms: (container.started_unix_ms > 0).then_some(container.started_unix_ms),
        booted: container.booted,
        stopping: container.stopping,
        unresponsive: container.unresponsive,
    }
}
