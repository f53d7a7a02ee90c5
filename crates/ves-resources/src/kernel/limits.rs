//! One limit of a group, written by cgroups-rs' typed controllers: one write each.
//!
//! Not by them: `cpu.max`, which their setter reads before it writes, throttles of devices, of which theirs
//! takes none away on version 2, weights of disk traffic, which theirs looks for where kernels since 5.0 have
//! none, and the bounds on groups below
//! one, which are no controller's. Never here: in which order limits are set (the plan's: the version 1
//! memory pair needs it), where groups are (theirs finds a version 2 hierarchy at `/sys/fs/cgroup` only
//! and none beside version 1), and reading (theirs takes what it cannot read for zero).

use std::collections::BTreeMap;
use std::error::Error as _;
use std::io;
use std::path::Path;

use cgroups_rs::fs::MaxValue;
use cgroups_rs::fs::cpu::CpuController;
use cgroups_rs::fs::cpuset::CpuSetController;
use cgroups_rs::fs::error::Result as Written;
use cgroups_rs::fs::memory::{MemController, SetMemory};
use cgroups_rs::fs::pid::PidController;
use ves_host::{Attempt, HostError, cgroup};
use ves_types::Limit;

use crate::model::{Device, Home, Setting, Value};
use crate::observe::{parse_value, render_throttle, render_value};

/// Sets a group at `dir`.
pub(super) fn write(
    dir: &Path,
    home: Home,
    setting: Setting,
    value: &Value,
) -> Result<(), HostError> {
    let (at, v2) = (|| dir.to_path_buf(), home == Home::V2);
    let memory = || MemController::new(at(), at(), v2);
    let cpu = || CpuController::new(at(), at(), v2);
    let cpuset = || CpuSetController::new(at(), at(), v2);
    let text = || render_value(home, setting, value);
    let written = match (setting, value) {
        (Setting::PidsMax, Value::Level(most)) => {
            PidController::new(at(), at(), v2).set_pid_max(max_value(*most))
        }
        (Setting::Mems, Value::Set(_)) => cpuset().set_mems(&text()),
        (Setting::Cpus, Value::Set(_)) => cpuset().set_cpus(&text()),
        (Setting::MemoryMax, Value::Level(most)) => memory().set_limit(number(*most)),
        (Setting::MemswMax | Setting::SwapMax, Value::Level(most)) => {
            memory().set_memswap_limit(number(*most))
        }
        (Setting::MemoryHigh, Value::Level(most)) if v2 => {
            let high = Some(max_value(*most));
            memory().set_mem(SetMemory { high, low: None, max: None, min: None })
        }
        (Setting::MemoryHigh, Value::Level(most)) => memory().set_soft_limit(number(*most)),
        (Setting::TcpMax, Value::Level(most)) => memory().set_tcp_limit(number(*most)),
        (Setting::CpuWeight, Value::Number(weight)) => cpu().set_shares(*weight),
        (Setting::CpuPeriod, Value::Number(period)) if !v2 => cpu().set_cfs_period(*period),
        (Setting::CpuQuota, Value::Level(quota)) if !v2 => cpu().set_cfs_quota(number(*quota)),
        (_, Value::Throttle(to)) => return throttle(dir, home, setting, to),
        _ => {
            let file = setting.file(home).ok_or_else(|| HostError::Lacks {
                feature: format!("{setting:?}"),
                why: "this version of control groups has no such file".to_owned(),
            })?;
            return cgroup::write(&dir.join(file), &text());
        }
    };
    told(written, || {
        format!("set {} of {} to {value}", setting.file(home).unwrap_or_default(), dir.display())
    })
}

/// Sets what is throttled of each device; one that has gone meanwhile is not throttled.
fn throttle(
    dir: &Path,
    home: Home,
    setting: Setting,
    to: &BTreeMap<Device, u64>,
) -> Result<(), HostError> {
    let file = dir.join(setting.file(home).unwrap_or_default());
    let text = cgroup::read(&file)?;
    let Some(Value::Throttle(from)) = parse_value(setting, home, &text) else {
        return Err(HostError::parse(format!("read {}", file.display()), &text));
    };
    for line in render_throttle(setting, home, &from, to) {
        match cgroup::write(&file, &line) {
            Err(e) if e.is(rustix::io::Errno::NODEV) && !stays(&line, to) => {}
            other => other?,
        }
    }
    Ok(())
}

/// Whether a line is about a device that shall be throttled.
fn stays(line: &str, to: &BTreeMap<Device, u64>) -> bool {
    to.keys().any(|device| line.starts_with(&format!("{device} ")))
}

/// A bound as version 1 counts it; none is -1.
fn number(limit: Limit) -> i64 {
    match limit {
        Limit::Max(n) => i64::try_from(n).unwrap_or(i64::MAX),
        Limit::Unlimited => -1,
    }
}

fn max_value(limit: Limit) -> MaxValue {
    match limit {
        Limit::Max(_) => MaxValue::Value(number(limit)),
        Limit::Unlimited => MaxValue::Max,
    }
}

/// With the kernel's number, which is the cause of the library's error.
fn told(written: Written<()>, what: impl FnOnce() -> String) -> Result<(), HostError> {
    let kernels = |e: cgroups_rs::fs::error::Error| {
        let cause = e.source().and_then(|c| c.downcast_ref::<io::Error>());
        match cause.and_then(io::Error::raw_os_error) {
            Some(number) => io::Error::from_raw_os_error(number),
            None => io::Error::other(e),
        }
    };
    written.map_err(kernels).attempt(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_writes_what_we_read() {
        for home in [Home::V1, Home::V2] {
            let dir = tempfile::tempdir().expect("a directory");
            for setting in Setting::ALL.into_iter().filter(|s| s.file(home).is_some()) {
                let file = dir.path().join(setting.file(home).expect("it has one"));
                std::fs::write(&file, "").expect("made");
                let other = match setting.fresh(home) {
                    Value::Level(_) => Value::Level(Limit::Max(8192)),
                    Value::Number(_) => Value::Number(77),
                    Value::Quota(..) => Value::Quota(Limit::Max(2000), 100_000),
                    Value::Set(_) => Value::Set([0, 1, 3].into()),
                    // It reads what there is first, which an empty file of this kind does not tell.
                    Value::Throttle(_) => continue,
                };
                for value in [other, setting.fresh(home)] {
                    write(dir.path(), home, setting, &value).expect("written");
                    let text = std::fs::read_to_string(&file).expect("readable");
                    assert_eq!(text, render_value(home, setting, &value), "{setting:?} {home:?}");
                }
            }
            let files = std::fs::read_dir(dir.path()).expect("listed").count();
            let files_of = Setting::ALL.into_iter().filter_map(|s| s.file(home));
            let ours = files_of.collect::<std::collections::BTreeSet<_>>().len();
            assert_eq!(files, ours, "no other file was written");
        }
    }

    #[test]
    fn only_the_device_that_is_meant_is_throttled() {
        let [one, two] = [1, 2].map(|minor| Device { major: 7, minor });
        for (home, was, set) in [
            (Home::V1, "7:1 4096\n", "7:2 8192"),
            (Home::V2, "7:1 rbps=4096 wbps=max riops=max wiops=9\n", "7:2 rbps=8192"),
        ] {
            let dir = tempfile::tempdir().expect("a directory");
            let file = dir.path().join(Setting::IoReadBps.file(home).expect("it has one"));
            let write = |to: &[(Device, u64)]| {
                let value = Value::Throttle(to.iter().copied().collect());
                std::fs::write(&file, was).expect("made");
                write(dir.path(), home, Setting::IoReadBps, &value).expect("written");
                std::fs::read_to_string(&file).expect("readable")
            };
            assert_eq!(write(&[(one, 4096)]), was, "it is so already");
            assert_eq!(write(&[(one, 4096), (two, 8192)]), set);
            let gone = if home == Home::V1 { "7:1 0" } else { "7:1 rbps=max" };
            assert_eq!(write(&[]), gone);
        }
    }

    #[test]
    fn the_kernels_number_is_kept() {
        let (dir, value) = (Path::new("/no/such/group"), Value::Level(Limit::Max(1)));
        let error = write(dir, Home::V2, Setting::PidsMax, &value).expect_err("it is not there");
        assert!(error.is(rustix::io::Errno::NOENT), "{error}");
    }
}
