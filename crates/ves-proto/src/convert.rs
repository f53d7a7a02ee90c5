//! Conversions between messages and the vocabulary that more than one service needs.
//!
//! Each returns a [`Fault`] that names the field. Conversions of one service's own messages live in
//! that service's `api.rs`.

use std::collections::BTreeSet;

use ves_types::device::MAX_DEVICES;
use ves_types::{
    Access, CpuLimit, CtId, Device, Enforcement, Epoch, ExitCause, Features, Fence, Generation,
    IdSlot, Limit, Limits, ParseError, Phase, SnapshotId, SnapshotName, UbcRow, UbcValue, Victim,
};

use crate::common as pb;
use crate::fault::{Fault, Reason};
use crate::lifecycle;

/// Reads a container id.
///
/// # Errors
/// `BAD_VALUE` on "ct".
pub fn parse_ct(ct: u32) -> Result<CtId, Fault> {
    CtId::try_from(ct).map_err(|e| Fault::bad_value("ct", &e))
}

/// Reads container ids; in their order, each once.
///
/// # Errors
/// `BAD_VALUE` on "cts".
pub fn parse_cts(cts: &[u32]) -> Result<Vec<CtId>, Fault> {
    let parse = |ct: &u32| CtId::try_from(*ct).map_err(|e| Fault::bad_value("cts", &e));
    let cts = cts.iter().map(parse).collect::<Result<BTreeSet<_>, _>>()?;
    Ok(cts.into_iter().collect())
}

/// Reads features; what is absent has its default.
pub fn parse_features(features: Option<pb::Features>) -> Features {
    let pb::Features { nesting, migratable, abi32 } = features.unwrap_or_default();
    let default = Features::default();
    Features {
        nesting: nesting.unwrap_or(default.nesting),
        migratable: migratable.unwrap_or(default.migratable),
        abi32: abi32.unwrap_or(default.abi32),
    }
}

/// nesting and migratable were asked for together.
pub fn features_exclude() -> Fault {
    let why = "namespaces within namespaces cannot be written to a checkpoint: with nesting:on it is not \
               migratable; turn one of them off";
    Fault::bad_value("features", &ParseError::new("features", "nesting:on,migratable:on", why))
}

/// Writes features as they come to be.
pub const fn render_features(features: Features) -> pb::Features {
    let Features { nesting, migratable, abi32 } = features.effective();
    pb::Features { nesting: Some(nesting), migratable: Some(migratable), abi32: Some(abi32) }
}

/// Reads a list of at most `most` words, each by its rule.
///
/// # Errors
/// `BAD_VALUE` on `field`.
pub fn parse_list<T>(
    field: &str,
    words: &[String],
    most: usize,
    parse: impl Fn(&str) -> Result<T, ParseError>,
) -> Result<Vec<T>, Fault> {
    if words.len() > most {
        let message = format!("{field} has {} entries; {most} are the most", words.len());
        return Err(Fault::new(Reason::BadValue, message).fact("field", field));
    }
    words.iter().map(|word| parse(word).map_err(|e| Fault::bad_value(field, &e))).collect()
}

/// Reads what a container has of the node's devices.
///
/// # Errors
/// `BAD_VALUE` on `field`.
pub fn parse_grants(field: &str, grants: &[lifecycle::DeviceGrant]) -> Result<Vec<Device>, Fault> {
    parse_accesses(field, grants, |lifecycle::DeviceGrant { id, read, write }| (id, *read, *write))
}

/// Reads devices, each by its id and by whether it may be read and written.
pub(crate) fn parse_accesses<T>(
    field: &str,
    given: &[T],
    parts: impl Fn(&T) -> (&String, bool, bool),
) -> Result<Vec<Device>, Fault> {
    if given.len() > MAX_DEVICES {
        let message = format!("{field} has {} entries; {MAX_DEVICES} are the most", given.len());
        return Err(Fault::new(Reason::BadValue, message).fact("field", field));
    }
    let parse = |one: &T| {
        let (id, read, write) = parts(one);
        let none = || ParseError::new("device", id, "nothing may be done with it");
        let access = Access::new(read, write).ok_or_else(none)?;
        Ok(Device { id: id.parse()?, access })
    };
    given.iter().map(|one| parse(one).map_err(|e| Fault::bad_value(field, &e))).collect()
}

/// Writes one of them.
pub fn render_grant(device: &Device) -> lifecycle::DeviceGrant {
    let Device { id, access } = device;
    lifecycle::DeviceGrant { id: id.to_string(), read: access.read(), write: access.write() }
}

/// Reads a fence.
///
/// # Errors
/// `MISSING_FIELD` or `BAD_VALUE`.
pub fn parse_fence(fence: Option<pb::Fence>) -> Result<Fence, Fault> {
    let pb::Fence { ct, generation, epoch } = fence.ok_or_else(|| Fault::missing("fence"))?;
    Ok(Fence { ct: parse_ct(ct)?, generation: Generation(generation), epoch: Epoch(epoch) })
}

/// Writes a fence.
pub fn render_fence(fence: Fence) -> pb::Fence {
    let Fence { ct, generation, epoch } = fence;
    pb::Fence { ct: ct.get(), generation: generation.0, epoch: epoch.0 }
}

/// Reads an id slot.
///
/// # Errors
/// `BAD_VALUE` on "id_slot".
pub fn parse_slot(slot: u32) -> Result<IdSlot, Fault> {
    IdSlot::try_from(slot).map_err(|e| Fault::bad_value("id_slot", &e))
}

/// Reads a snapshot's id.
///
/// # Errors
/// `MISSING_FIELD` or `BAD_VALUE` on `field`.
pub fn parse_snapshot_id(field: &str, id: &str) -> Result<SnapshotId, Fault> {
    if id.is_empty() {
        return Err(Fault::missing(field));
    }
    id.parse().map_err(|e| Fault::bad_value(field, &e))
}

/// Reads a snapshot's name; empty: none.
///
/// # Errors
/// `BAD_VALUE` on "name".
pub fn parse_snapshot_name(name: &str) -> Result<Option<SnapshotName>, Fault> {
    let name = Some(name).filter(|n| !n.is_empty());
    name.map(|n| n.parse().map_err(|e| Fault::bad_value("name", &e))).transpose()
}

/// Reads a phase.
///
/// # Errors
/// `MISSING_FIELD` on "phase".
pub fn parse_phase(phase: lifecycle::Phase) -> Result<Phase, Fault> {
    Ok(match phase {
        lifecycle::Phase::Unspecified => return Err(Fault::missing("phase")),
        lifecycle::Phase::Absent => Phase::Absent,
        lifecycle::Phase::Created => Phase::Created,
        lifecycle::Phase::Running => Phase::Running,
        lifecycle::Phase::Frozen => Phase::Frozen,
    })
}

/// Writes a phase.
pub const fn render_phase(phase: Phase) -> lifecycle::Phase {
    match phase {
        Phase::Absent => lifecycle::Phase::Absent,
        Phase::Created => lifecycle::Phase::Created,
        Phase::Running => lifecycle::Phase::Running,
        Phase::Frozen => lifecycle::Phase::Frozen,
    }
}

/// Reads why a container ended; none where it did not.
pub const fn parse_exit_cause(end: lifecycle::EndReason) -> Option<ExitCause> {
    match end {
        lifecycle::EndReason::Unspecified => None,
        lifecycle::EndReason::Stopped => Some(ExitCause::Stopped),
        lifecycle::EndReason::Killed => Some(ExitCause::Killed),
        lifecycle::EndReason::Halted => Some(ExitCause::Halted),
        lifecycle::EndReason::Rebooted => Some(ExitCause::Rebooted),
        lifecycle::EndReason::Exited => Some(ExitCause::Exited),
    }
}

/// Writes why a container ended.
pub const fn render_exit_cause(cause: Option<ExitCause>) -> lifecycle::EndReason {
    match cause {
        None => lifecycle::EndReason::Unspecified,
        Some(ExitCause::Stopped) => lifecycle::EndReason::Stopped,
        Some(ExitCause::Killed) => lifecycle::EndReason::Killed,
        Some(ExitCause::Halted) => lifecycle::EndReason::Halted,
        Some(ExitCause::Rebooted) => lifecycle::EndReason::Rebooted,
        Some(ExitCause::Exited) => lifecycle::EndReason::Exited,
    }
}

/// A number by its own rule.
fn number<T: TryFrom<u64, Error = ParseError>>(
    field: &str,
    n: Option<u64>,
) -> Result<Option<T>, Fault> {
    n.map(|n| n.try_into().map_err(|e| Fault::bad_value(field, &e))).transpose()
}

/// Reads limits.
///
/// # Errors
/// `BAD_VALUE` on the field that is wrong.
pub fn parse_limits(limits: Option<pb::Limits>) -> Result<Limits, Fault> {
    let pb::Limits {
        ubc,
        cpu_millicpus,
        cpus,
        cpu_units,
        cpu_mask,
        node_mask,
        io_bps,
        io_iops,
        io_priority,
    } = limits.unwrap_or_default();
    let range = |field: &str, ok: bool, why: &str| {
        if ok { Ok(()) } else { Err(Fault::new(Reason::BadValue, why).fact("field", field)) }
    };
    range(
        "cpu_millicpus",
        cpu_millicpus.is_none_or(|m| m >= 10),
        "a cpu limit is at least 1 percent of one processor",
    )?;
    range(
        "cpus",
        cpus.is_none_or(|n| (1..=65_536).contains(&n)),
        "a container has from 1 to 65536 processors",
    )?;
    range(
        "cpu_units",
        cpu_units.is_none_or(|u| (8..=500_000).contains(&u)),
        "cpu units go from 8 to 500000",
    )?;
    let list = |field: &str, list: Option<String>| {
        let parse = |list: String| list.parse().map_err(|e| Fault::bad_value(field, &e));
        list.map(parse).transpose()
    };
    let ubc = ubc
        .into_iter()
        .map(|(name, value)| {
            let field = format!("ubc.{name}");
            let resource = name.parse().map_err(|e| Fault::bad_value(&field, &e))?;
            let pb::UbcValue { barrier, limit } = value;
            range(&field, barrier <= limit, "the barrier must not exceed the limit")?;
            Ok((
                resource,
                UbcValue { barrier: Limit::from_wire(barrier), limit: Limit::from_wire(limit) },
            ))
        })
        .collect::<Result<_, Fault>>()?;
    Ok(Limits {
        ubc,
        cpu: cpu_millicpus.map(|millicpus| CpuLimit { millicpus }),
        cpus,
        cpu_units,
        cpu_mask: list("cpu_mask", cpu_mask)?,
        node_mask: list("node_mask", node_mask)?,
        io_bps: number("io_bps", io_bps)?,
        io_iops: number("io_iops", io_iops)?,
        io_priority: number("io_priority", io_priority.map(u64::from))?,
    })
}

/// Writes limits.
pub fn render_limits(limits: &Limits) -> pb::Limits {
    let Limits { ubc, cpu, cpus, cpu_units, cpu_mask, node_mask, io_bps, io_iops, io_priority } =
        limits;
    pb::Limits {
        ubc: ubc.iter().map(|(r, v)| (r.name().to_owned(), render_ubc(*v))).collect(),
        cpu_millicpus: cpu.map(|c| c.millicpus),
        cpus: *cpus,
        cpu_units: *cpu_units,
        cpu_mask: cpu_mask.as_ref().map(ToString::to_string),
        node_mask: node_mask.as_ref().map(ToString::to_string),
        io_bps: io_bps.map(u64::from),
        io_iops: io_iops.map(u64::from),
        io_priority: io_priority.and_then(|p| u64::from(p).try_into().ok()),
    }
}

/// Writes a parameter's levels.
pub fn render_ubc(value: UbcValue) -> pb::UbcValue {
    let UbcValue { barrier, limit } = value;
    pb::UbcValue { barrier: barrier.to_wire(), limit: limit.to_wire() }
}

/// Writes who was killed.
pub fn render_victim(victim: &Victim) -> pb::Victim {
    pb::Victim { name: victim.name().to_owned(), pid: victim.pid() }
}

/// Reads who was killed.
pub fn parse_victim(victim: &pb::Victim) -> Victim {
    let pb::Victim { name, pid } = victim;
    Victim::new(name, *pid)
}

/// Writes how far a limit is kept: its field, that, and what cannot be.
pub fn render_promise((field, enforcement, why): (&str, Enforcement, String)) -> pb::LimitPromise {
    let enforcement = match enforcement {
        Enforcement::Hard => pb::Enforcement::Hard,
        Enforcement::Bounded => pb::Enforcement::Bounded,
        Enforcement::Accounted => pb::Enforcement::Accounted,
        Enforcement::Unavailable(_) => pb::Enforcement::Unavailable,
    };
    pb::LimitPromise { field: field.to_owned(), enforcement: enforcement.into(), why }
}

/// Writes a row of accounting.
pub fn render_row(row: UbcRow) -> pb::UbcRow {
    let UbcRow { resource, held, maxheld, value, failcnt, enforcement } = row;
    let (enforcement, why) = match enforcement {
        Enforcement::Hard => (pb::Enforcement::Hard, String::new()),
        Enforcement::Bounded => (pb::Enforcement::Bounded, String::new()),
        Enforcement::Accounted => (pb::Enforcement::Accounted, String::new()),
        Enforcement::Unavailable(why) => (pb::Enforcement::Unavailable, why),
    };
    pb::UbcRow {
        resource: resource.name().to_owned(),
        held,
        maxheld,
        value: Some(render_ubc(value)),
        failcnt,
        enforcement: enforcement.into(),
        why,
    }
}

/// Reads a row of accounting.
///
/// # Errors
/// `BAD_VALUE` where a peer of another version sent what we do not know.
pub fn parse_row(row: pb::UbcRow) -> Result<UbcRow, Fault> {
    let kind = row.enforcement();
    let pb::UbcRow { resource, held, maxheld, value, failcnt, enforcement: _, why } = row;
    // A row that tells of the node, not of a container, has no levels.
    let value = value.map_or_else(UbcValue::default, |pb::UbcValue { barrier, limit }| UbcValue {
        barrier: Limit::from_wire(barrier),
        limit: Limit::from_wire(limit),
    });
    let enforcement = match kind {
        pb::Enforcement::Hard => Enforcement::Hard,
        pb::Enforcement::Bounded => Enforcement::Bounded,
        pb::Enforcement::Accounted => Enforcement::Accounted,
        pb::Enforcement::Unavailable => Enforcement::Unavailable(why),
        pb::Enforcement::Unspecified => return Err(Fault::missing("enforcement")),
    };
    Ok(UbcRow {
        resource: resource.parse().map_err(|e| Fault::bad_value("resource", &e))?,
        held,
        maxheld,
        value,
        failcnt,
        enforcement,
    })
}

#[cfg(test)]
mod tests {
    use ves_types::UbcResource;

    use super::*;

    #[test]
    fn limits_survive_the_wire() {
        let mut limits = Limits {
            cpus: Some(2),
            cpu_units: Some(1000),
            cpu_mask: "0-2,5".parse().ok(),
            node_mask: "1".parse().ok(),
            io_bps: 4096.try_into().ok(),
            io_iops: 1.try_into().ok(),
            io_priority: 7.try_into().ok(),
            cpu: Some(CpuLimit { millicpus: 500 }),
            ..Limits::default()
        };
        limits.ubc.insert(
            UbcResource::Numproc,
            UbcValue { barrier: Limit::Max(10), limit: Limit::Unlimited },
        );
        assert_eq!(parse_limits(Some(render_limits(&limits))), Ok(limits));
    }

    #[test]
    fn features_survive_the_wire() {
        assert_eq!(parse_features(None), Features::default());
        for nesting in [false, true] {
            for abi32 in [false, true] {
                let features = Features { nesting, migratable: !nesting, abi32 };
                assert_eq!(parse_features(Some(render_features(features))), features);
            }
        }
    }

    #[test]
    fn a_row_of_the_node_has_no_levels() {
        let row = pb::UbcRow {
            resource: "numproc".to_owned(),
            enforcement: pb::Enforcement::Hard.into(),
            ..pb::UbcRow::default()
        };
        let read = parse_row(row).expect("capabilities are sent so");
        assert_eq!((read.value, read.enforcement), (UbcValue::default(), Enforcement::Hard));
        assert!(parse_row(pb::UbcRow::default()).is_err(), "it says nothing");
    }

    #[test]
    fn bad_limits_name_their_field() {
        let field = |l: pb::Limits| parse_limits(Some(l)).map_err(|f| f.facts["field"].clone());
        let ubc = |name: &str, barrier, limit| pb::Limits {
            ubc: [(name.to_owned(), pb::UbcValue { barrier, limit })].into(),
            ..pb::Limits::default()
        };
        assert_eq!(field(ubc("numproc", 2, 1)), Err("ubc.numproc".into()));
        assert_eq!(field(ubc("nonsense", 1, 1)), Err("ubc.nonsense".into()));
        assert_eq!(field(pb::Limits { cpus: Some(0), ..Default::default() }), Err("cpus".into()));
        let mask = |s: &str| Some(s.to_owned());
        assert_eq!(
            field(pb::Limits { cpu_mask: mask("all"), ..Default::default() }),
            Err("cpu_mask".into())
        );
        assert_eq!(
            field(pb::Limits { node_mask: mask(""), ..Default::default() }),
            Err("node_mask".into())
        );
        assert_eq!(
            field(pb::Limits { io_bps: Some(1), ..Default::default() }),
            Err("io_bps".into())
        );
        assert_eq!(
            field(pb::Limits { io_priority: Some(8), ..Default::default() }),
            Err("io_priority".into())
        );
        assert_eq!(
            field(pb::Limits { cpu_units: Some(7), ..Default::default() }),
            Err("cpu_units".into())
        );
        assert_eq!(
            field(pb::Limits { cpu_millicpus: Some(0), ..Default::default() }),
            Err("cpu_millicpus".into())
        );
    }
}
