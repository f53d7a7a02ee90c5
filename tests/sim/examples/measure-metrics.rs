//! What an export of the metrics of many containers costs, in processor time: `measure-metrics [CONTAINERS]`.
//!
//! First all daemons with fake hosts, the receiver and its copy of everything in this process; then, as root,
//! what resources reads of as many control groups that it makes in this machine's kernel below one of its
//! own, and takes away.

use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ves_daemon::config::{LogFormat, Telemetry};
use ves_daemon::telemetry::init;
use ves_kit::Otlp;
use ves_resources::host::Host;
use ves_resources::kernel::KernelHost;
use ves_resources::model::write_record;
use ves_sim::Sim;
use ves_sim::sim::Command;
use ves_types::layout::cgroup;
use ves_types::{CtId, Limits};

/// How often each is measured.
const TIMES: u32 = 10;
/// The least id.
const FIRST: u32 = 1000;

type Failed = Box<dyn Error>;

fn main() -> Result<(), Failed> {
    let count = std::env::args().nth(1).map_or(Ok(1000), |n| n.parse())?;
    let mut out = std::io::stdout();
    let (cpu, series) = export(count)?;
    writeln!(out, "{count} containers, {series} series: an export takes {}", told(cpu))?;
    match read(count) {
        Ok((cpu, took)) => {
            writeln!(out, "their groups in the kernel are read in {}, {took:.0?}", told(cpu))?;
        }
        Err(e) => writeln!(out, "their groups in the kernel: not measured: {e}")?,
    }
    Ok(())
}

fn told(cpu: Duration) -> String {
    let share = cpu.as_secs_f64() / 60.0 * 100.0;
    format!("{cpu:.0?} of processor time, {share:.2} % of a processor at one a minute")
}

/// What this process has used.
fn cpu() -> Result<Duration, Failed> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields = stat.rsplit_once(')').ok_or("no name")?.1.split_ascii_whitespace();
    let ticks: Vec<u64> = fields.skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
    Ok(Duration::from_millis(ticks.iter().sum::<u64>() * 10))
}

/// An export through everything.
fn export(count: u32) -> Result<(Duration, usize), Failed> {
    let runtime = tokio::runtime::Runtime::new()?;
    let otlp = runtime.block_on(Otlp::start());
    let guard = {
        let _inside = runtime.enter();
        let otlp_endpoint = Some(otlp.endpoint());
        let settings =
            Telemetry { otlp_endpoint, log: "off".to_owned(), log_format: LogFormat::Text };
        init("ves-sim", &settings)?
    };
    let sim = Sim::new();
    for ct in FIRST..FIRST + count {
        let create = Command::create(ct, |spec| {
            spec.name = format!("customer-{ct}");
            // The pool in memory has room for a thousand of these.
            spec.disk_bytes = 384 << 20;
        });
        sim.run(&create)?;
        sim.run(&Command::start(&ct.to_string()))?;
    }
    guard.export_metrics();
    otlp.take_metrics();
    let before = cpu()?;
    for _ in 0..TIMES {
        if !guard.export_metrics() {
            return Err("nothing was received".into());
        }
    }
    let used = cpu()?.saturating_sub(before) / TIMES;
    let points = otlp.take_metrics();
    let own =
        points.iter().flat_map(|m| &m.points).filter(|p| p.attribute("container.id").is_some());
    Ok((used, own.count() / TIMES as usize))
}

/// Reads the counters of as many groups in the kernel.
fn read(count: u32) -> Result<(Duration, Duration), Failed> {
    let records = tempfile::tempdir()?;
    let mut hierarchies =
        KernelHost::detect(records.path().into(), Duration::ZERO)?.hierarchies().clone();
    let own = format!("ves-measure-{}", std::process::id());
    let v1 = hierarchies.v1.iter_mut().map(|h| &mut h.mount);
    let mounts: Vec<PathBuf> = v1
        .chain(hierarchies.v2.iter_mut().map(|h| &mut h.mount))
        .map(|mount| {
            mount.push(&own);
            mount.clone()
        })
        .collect();
    let cts = (FIRST..FIRST + count).map(CtId::try_from).collect::<Result<Vec<_>, _>>()?;
    let made = mounts.iter().try_for_each(|mount| {
        cts.iter().try_for_each(|ct| std::fs::create_dir_all(mount.join(cgroup(*ct))))
    });
    let host = KernelHost::new(hierarchies, records.path().into(), "/proc".into(), Duration::ZERO);
    let measured = made.map_err(Failed::from).and_then(|()| measure(&host, records.path(), &cts));
    for mount in mounts {
        for ct in &cts {
            std::fs::remove_dir(mount.join(cgroup(*ct))).ok();
        }
        let above = mount.join(cgroup(CtId::try_from(FIRST)?));
        let mut above = above.parent();
        while let Some(dir) = above.filter(|dir| dir.starts_with(&mount)) {
            std::fs::remove_dir(dir).ok();
            above = dir.parent();
        }
    }
    measured
}

fn measure(
    host: &KernelHost,
    records: &Path,
    cts: &[CtId],
) -> Result<(Duration, Duration), Failed> {
    for ct in cts {
        std::fs::write(records.join(format!("{ct}.json")), write_record(&Limits::default(), None))?;
    }
    let (before, begun) = (cpu()?, Instant::now());
    for _ in 0..TIMES {
        for ct in cts {
            if host.metered(*ct)?.is_nothing() {
                return Err(format!("nothing is told of {ct}").into());
            }
        }
    }
    Ok((cpu()?.saturating_sub(before) / TIMES, begun.elapsed() / TIMES))
}
