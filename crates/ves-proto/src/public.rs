//! Conversions of the public API, `ves.api.v1`, that its server and its clients need.
//!
//! Owns the names of resources, times, and what of a container's spec has a type of its own. Each reading
//! returns a [`Fault`] that names the field by its path inside the message that is read. Never here:
//! records, requests, or what may be asked of whom.

use std::fmt;
use std::time::Duration;

use ves_types::{
    CtId, Device, Enforcement, Features, Limit, Limits, NodeName, ParseError, RestartPolicy,
    SnapshotId, SnapshotInterval, SnapshotSchedule, TemplateName, UbcResource, UbcValue, Victim,
};

use crate::api as pb;
use crate::common;
use crate::convert::{self, features_exclude};
use crate::fault::{Fault, Reason};

/// Microseconds and smaller parts of a second, in nanoseconds.
const NANOS_PER_MILLI: i32 = 1_000_000;

/// `containers/600`.
pub fn container_name(ct: CtId) -> String {
    format!("containers/{ct}")
}

/// `containers/600/snapshots/UUID`.
pub fn snapshot_name(ct: CtId, snapshot: SnapshotId) -> String {
    format!("containers/{ct}/snapshots/{snapshot}")
}

/// `templates/NAME`.
pub fn template_name(template: &TemplateName) -> String {
    format!("templates/{template}")
}

/// `nodes/NAME`.
pub fn node_name(node: &NodeName) -> String {
    format!("nodes/{node}")
}

/// `operations/UUID`.
pub fn operation_name(id: &str) -> String {
    format!("operations/{id}")
}

/// `events/UUID`.
pub fn event_name(id: impl fmt::Display) -> String {
    format!("events/{id}")
}

/// What follows `collection/` in a name; it has no slash.
///
/// # Errors
/// `MISSING_FIELD` or `BAD_VALUE` on `field`.
pub fn parse_name<'a>(field: &str, collection: &str, name: &'a str) -> Result<&'a str, Fault> {
    if name.is_empty() {
        return Err(Fault::missing(field));
    }
    let rest = name.strip_prefix(collection).and_then(|rest| rest.strip_prefix('/'));
    rest.filter(|rest| !rest.is_empty() && !rest.contains('/')).ok_or_else(|| {
        let shown: String = name.chars().take(100).collect();
        let message = format!("{shown:?} is no name of this kind: {collection}/ and one word");
        Fault::new(Reason::BadValue, message).fact("field", field)
    })
}

/// The container and the snapshot in `containers/CT/snapshots/UUID`; CT is an id or an alias.
///
/// # Errors
/// `MISSING_FIELD` or `BAD_VALUE` on `field`.
pub fn parse_snapshot_name<'a>(field: &str, name: &'a str) -> Result<(&'a str, SnapshotId), Fault> {
    if name.is_empty() {
        return Err(Fault::missing(field));
    }
    let parts = name.split_once("/snapshots/").ok_or_else(|| {
        let shown: String = name.chars().take(100).collect();
        let why = "a snapshot's name is containers/CT/snapshots/UUID";
        Fault::bad_value(field, &ParseError::new("name", shown, why))
    })?;
    let ct = parse_name(field, "containers", parts.0)?;
    Ok((ct, parts.1.parse().map_err(|e| Fault::bad_value(field, &e))?))
}

/// A time from milliseconds since 1970.
pub fn timestamp(unix_ms: i64) -> prost_types::Timestamp {
    let nanos = i32::try_from(unix_ms.rem_euclid(1000)).unwrap_or(0) * NANOS_PER_MILLI;
    prost_types::Timestamp { seconds: unix_ms.div_euclid(1000), nanos }
}

/// The milliseconds since 1970 of a time; a part of one is left out.
pub fn unix_ms(time: &prost_types::Timestamp) -> i64 {
    let millis = i64::from(time.nanos / NANOS_PER_MILLI);
    time.seconds.saturating_mul(1000).saturating_add(millis)
}

/// A span of time.
///
/// # Errors
/// `BAD_VALUE` on `field` where it is negative, or its parts are not what google.protobuf.Duration says.
pub fn parse_duration(field: &str, span: &prost_types::Duration) -> Result<Duration, Fault> {
    let prost_types::Duration { seconds, nanos } = *span;
    // The library's own conversion overflows at the edges of what can be sent.
    match (u64::try_from(seconds), u32::try_from(nanos)) {
        (Ok(seconds), Ok(nanos)) if nanos < 1_000_000_000 => Ok(Duration::new(seconds, nanos)),
        _ => {
            let shown = format!("{seconds} s and {nanos} ns");
            let why = "it must not be negative, with less than a second of nanoseconds";
            Err(Fault::bad_value(field, &ParseError::new("duration", shown, why)))
        }
    }
}

/// Writes a span of time.
pub fn render_duration(span: Duration) -> prost_types::Duration {
    let seconds = i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
    prost_types::Duration { seconds, nanos: i32::try_from(span.subsec_nanos()).unwrap_or(0) }
}

/// Reads a restart policy.
///
/// # Errors
/// `BAD_VALUE` on "restart_policy".
pub fn parse_restart(policy: i32) -> Result<RestartPolicy, Fault> {
    use pb::RestartPolicy as P;
    match P::try_from(policy) {
        Ok(P::Unspecified | P::Never) => Ok(RestartPolicy::No),
        Ok(P::OnFailure) => Ok(RestartPolicy::OnFailure),
        Ok(P::Always) => Ok(RestartPolicy::Always),
        Err(_) => {
            let why = "it is none that this version knows";
            Err(Fault::bad_value("restart_policy", &ParseError::new("restart policy", policy, why)))
        }
    }
}

/// Writes a restart policy.
pub const fn render_restart(policy: RestartPolicy) -> pb::RestartPolicy {
    match policy {
        RestartPolicy::No => pb::RestartPolicy::Never,
        RestartPolicy::OnFailure => pb::RestartPolicy::OnFailure,
        RestartPolicy::Always => pb::RestartPolicy::Always,
    }
}

/// Reads which snapshots are taken by themselves; absent: none.
///
/// # Errors
/// `BAD_VALUE` on "snapshot_schedule".
pub fn parse_snapshot_schedule(
    schedule: Option<pb::SnapshotSchedule>,
) -> Result<SnapshotSchedule, Fault> {
    let pb::SnapshotSchedule { hourly, daily, weekly } = schedule.unwrap_or_default();
    SnapshotSchedule::new(hourly, daily, weekly)
        .map_err(|e| Fault::bad_value("snapshot_schedule", &e))
}

/// Writes which snapshots are taken by themselves.
pub fn render_snapshot_schedule(schedule: SnapshotSchedule) -> Option<pb::SnapshotSchedule> {
    let kept = |interval| schedule.kept(interval);
    let message = pb::SnapshotSchedule {
        hourly: kept(SnapshotInterval::Hourly),
        daily: kept(SnapshotInterval::Daily),
        weekly: kept(SnapshotInterval::Weekly),
    };
    (message != pb::SnapshotSchedule::default()).then_some(message)
}

/// Reads features; what is absent has its default.
///
/// # Errors
/// `BAD_VALUE` on "features" where two are asked for that exclude each other.
pub fn parse_features(features: Option<pb::Features>) -> Result<Features, Fault> {
    let pb::Features { nesting, migratable, abi32 } = features.unwrap_or_default();
    if nesting == Some(true) && migratable == Some(true) {
        return Err(features_exclude());
    }
    Ok(convert::parse_features(Some(common::Features { nesting, migratable, abi32 })))
}

/// Writes features as they come to be.
pub const fn render_features(features: Features) -> pb::Features {
    let common::Features { nesting, migratable, abi32 } = convert::render_features(features);
    pb::Features { nesting, migratable, abi32 }
}

/// Reads what a container has of the node's devices.
///
/// # Errors
/// `BAD_VALUE` on `field`.
pub fn parse_devices(field: &str, devices: &[pb::Device]) -> Result<Vec<Device>, Fault> {
    convert::parse_accesses(field, devices, |pb::Device { id, read, write }| (id, *read, *write))
}

/// Writes one of them.
pub fn render_device(device: &Device) -> pb::Device {
    let Device { id, access } = device;
    pb::Device { id: id.to_string(), read: access.read(), write: access.write() }
}

macro_rules! ubc_fields {
    ($($variant:ident $field:ident),* $(,)?) => {
        /// Writes one parameter's levels into its field.
        pub fn set_bounds(limits: &mut pb::UbcLimits, resource: UbcResource, bounds: Option<pb::Bounds>) {
            match resource { $(UbcResource::$variant => limits.$field = bounds,)* }
        }

        /// One parameter's levels, where they are given.
        pub const fn bounds(limits: &pb::UbcLimits, resource: UbcResource) -> Option<pb::Bounds> {
            match resource { $(UbcResource::$variant => limits.$field,)* }
        }

        /// Writes a parameter.
        pub const fn render_resource(resource: UbcResource) -> pb::UbcResource {
            match resource { $(UbcResource::$variant => pb::UbcResource::$variant,)* }
        }

        /// Reads a parameter; none where this version knows it not.
        pub const fn parse_resource(resource: pb::UbcResource) -> Option<UbcResource> {
            match resource {
                pb::UbcResource::Unspecified => None,
                $(pb::UbcResource::$variant => Some(UbcResource::$variant),)*
            }
        }
    };
}

ubc_fields! {
    Kmemsize kmemsize, Lockedpages lockedpages, Privvmpages privvmpages, Shmpages shmpages,
    Numproc numproc, Physpages physpages, Vmguarpages vmguarpages, Oomguarpages oomguarpages,
    Numtcpsock numtcpsock, Numflock numflock, Numpty numpty, Numsiginfo numsiginfo,
    Tcpsndbuf tcpsndbuf, Tcprcvbuf tcprcvbuf, Othersockbuf othersockbuf, Dgramrcvbuf dgramrcvbuf,
    Numothersock numothersock, Dcachesize dcachesize, Numfile numfile, Numiptent numiptent,
    Swappages swappages,
}

/// Writes a parameter's levels.
pub fn render_bounds(value: UbcValue) -> pb::Bounds {
    let level = |limit| match limit {
        Limit::Max(n) => Some(n),
        Limit::Unlimited => None,
    };
    pb::Bounds { barrier: level(value.barrier), limit: level(value.limit) }
}

/// Reads a parameter's levels; which need not be in order.
pub fn parse_bounds(bounds: pb::Bounds) -> UbcValue {
    let level = |n: Option<u64>| n.map_or(Limit::Unlimited, Limit::from_wire);
    UbcValue { barrier: level(bounds.barrier), limit: level(bounds.limit) }
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
        io_bytes_per_second,
        io_operations_per_second,
        io_priority,
    } = limits.unwrap_or_default();
    let ubc = ubc.unwrap_or_default();
    let values = UbcResource::ALL.into_iter().filter_map(|resource| {
        let value = parse_bounds(bounds(&ubc, resource)?);
        let value =
            common::UbcValue { barrier: value.barrier.to_wire(), limit: value.limit.to_wire() };
        Some((resource.name().to_owned(), value))
    });
    let given = |text: String| Some(text).filter(|text| !text.is_empty());
    // The rules are those of what the services take; only two fields have other names there.
    let common = common::Limits {
        ubc: values.collect(),
        cpu_millicpus,
        cpus,
        cpu_units,
        cpu_mask: given(cpu_mask),
        node_mask: given(node_mask),
        io_bps: io_bytes_per_second,
        io_iops: io_operations_per_second,
        io_priority,
    };
    convert::parse_limits(Some(common)).map_err(|mut fault| {
        let public = match fault.facts.get("field").map(String::as_str) {
            Some("io_bps") => "io_bytes_per_second",
            Some("io_iops") => "io_operations_per_second",
            _ => return fault,
        };
        fault.facts.insert("field".to_owned(), public.to_owned());
        fault
    })
}

/// Writes limits.
pub fn render_limits(limits: &Limits) -> pb::Limits {
    let mut ubc = pb::UbcLimits::default();
    for (resource, value) in &limits.ubc {
        set_bounds(&mut ubc, *resource, Some(render_bounds(*value)));
    }
    let common::Limits {
        ubc: _,
        cpu_millicpus,
        cpus,
        cpu_units,
        cpu_mask,
        node_mask,
        io_bps,
        io_iops,
        io_priority,
    } = convert::render_limits(limits);
    pb::Limits {
        ubc: Some(ubc),
        cpu_millicpus,
        cpus,
        cpu_units,
        cpu_mask: cpu_mask.unwrap_or_default(),
        node_mask: node_mask.unwrap_or_default(),
        io_bytes_per_second: io_bps,
        io_operations_per_second: io_iops,
        io_priority,
    }
}

/// Writes how far something is kept, and why not further.
pub fn render_enforcement(enforcement: Enforcement) -> (pb::Enforcement, String) {
    match enforcement {
        Enforcement::Hard => (pb::Enforcement::Hard, String::new()),
        Enforcement::Bounded => (pb::Enforcement::Bounded, String::new()),
        Enforcement::Accounted => (pb::Enforcement::Accounted, String::new()),
        Enforcement::Unavailable(why) => (pb::Enforcement::Unavailable, why),
    }
}

/// Writes who was killed.
pub fn render_victim(victim: &Victim) -> pb::OomVictim {
    pb::OomVictim { name: victim.name().to_owned(), pid: victim.pid() }
}

#[cfg(test)]
mod tests {
    use ves_types::CpuLimit;

    use super::*;

    #[test]
    fn every_parameter_has_its_field_and_its_number() {
        let mut limits = Limits { cpu: Some(CpuLimit { millicpus: 500 }), ..Limits::default() };
        for (n, resource) in (1u64..).zip(UbcResource::ALL) {
            let value = UbcValue { barrier: Limit::Max(n), limit: Limit::Unlimited };
            limits.ubc.insert(resource, value);
            assert_eq!(parse_resource(render_resource(resource)), Some(resource));
            assert_eq!(render_resource(resource) as u64, n, "{resource:?}");
        }
        let wire = render_limits(&limits);
        assert_eq!(
            wire.ubc.and_then(|u| u.numproc),
            Some(pb::Bounds { barrier: Some(5), limit: None })
        );
        assert_eq!(parse_limits(Some(wire)), Ok(limits));
    }

    #[test]
    fn bad_limits_name_their_public_field() {
        let field = |l: pb::Limits| parse_limits(Some(l)).map_err(|f| f.facts["field"].clone());
        let low = pb::Limits { io_bytes_per_second: Some(1), ..Default::default() };
        assert_eq!(field(low), Err("io_bytes_per_second".into()));
        let mut ubc = pb::UbcLimits::default();
        set_bounds(
            &mut ubc,
            UbcResource::Numproc,
            Some(pb::Bounds { barrier: None, limit: Some(1) }),
        );
        assert_eq!(
            field(pb::Limits { ubc: Some(ubc), ..Default::default() }),
            Err("ubc.numproc".into())
        );
    }

    #[test]
    fn features_exclude_each_other_only_where_both_were_asked_for() {
        let ask = |nesting, migratable| {
            let asked = pb::Features { nesting, migratable, ..pb::Features::default() };
            parse_features(Some(asked)).map(|features| features.effective().to_string())
        };
        assert_eq!(parse_features(None), Ok(Features::default()));
        assert_eq!(ask(Some(true), None).expect("so"), "nesting:on,migratable:off,abi32:on");
        assert_eq!(ask(None, Some(false)).expect("so"), "nesting:off,migratable:off,abi32:on");
        assert_eq!(ask(Some(true), Some(true)).expect_err("not both").facts["field"], "features");
    }

    #[test]
    fn names_are_a_collection_and_one_word() {
        assert_eq!(parse_name("name", "containers", "containers/web1"), Ok("web1"));
        for bad in
            ["600", "containers", "containers/", "containers/6/x", "nodes/600", "/containers/6"]
        {
            let fault = parse_name("name", "containers", bad).expect_err(bad);
            assert_eq!(fault.facts["field"], "name");
        }
        let id: SnapshotId = "01890a5d-ac96-774b-bcce-b302099a8057".parse().expect("a UUID");
        let ct = CtId::try_from(600).expect("an id");
        assert_eq!(parse_snapshot_name("name", &snapshot_name(ct, id)), Ok(("600", id)));
        assert!(parse_snapshot_name("name", "containers/6/snapshots/x").is_err());
        assert!(parse_snapshot_name("name", "containers/6").is_err());
    }

    #[test]
    fn times_survive_the_wire() {
        for ms in [0, 1, -1, -1001, 1_790_000_000_123, i64::MIN / 1000, i64::MAX / 1000] {
            assert_eq!(unix_ms(&timestamp(ms)), ms);
        }
        let span = Duration::from_millis(1_500);
        assert_eq!(parse_duration("grace", &render_duration(span)), Ok(span));
        for (seconds, nanos) in [(-1, 0), (0, -1), (0, i32::MIN), (i64::MIN, 0), (0, i32::MAX)] {
            let edge = prost_types::Duration { seconds, nanos };
            assert!(parse_duration("grace", &edge).is_err(), "{edge:?}");
        }
    }
}
