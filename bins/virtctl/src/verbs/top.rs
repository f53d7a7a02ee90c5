//! `top`: running containers and what they use, again and again.
//!
//! Never here: a change.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use ves_proto::api::Container;
use ves_types::{Bytes, Limit, UbcResource, UbcRow};

use super::Context;
use super::list::{containers, state_of};
use crate::cli::TopArgs;
use crate::failure::{Failure, Outcome};
use crate::output::{Column, Format};
use crate::usage::{self, ContainerUsage, RUNNING, Whys};
use crate::value::Value;

/// One container between two samples.
struct Row {
    container: Container,
    rows: Vec<UbcRow>,
    cpu_time: Duration,
    /// Thousandths of one processor; unknown in the first sample.
    millicpus: Option<u64>,
}

impl Row {
    fn ubc(&self, resource: UbcResource) -> Option<&UbcRow> {
        self.rows.iter().find(|r| r.resource == resource)
    }
    fn held(&self, resource: UbcResource) -> Value {
        self.ubc(resource).map_or(Value::Null, |u| Value::Num(u.held))
    }
    fn held_bytes(&self, resource: UbcResource) -> Value {
        let bytes = self.ubc(resource).map(|r| r.held.saturating_mul(Bytes::PAGE));
        bytes.map_or(Value::Null, Value::Bytes)
    }
}

/// Processor time each container had used, by id.
type CpuTimes = BTreeMap<u32, Duration>;

impl Context {
    pub(super) async fn top(self, args: TopArgs) -> Outcome {
        let TopArgs { once, batch, delay, iterations, list } = args;
        let mut selection = list.selection(self.fields.clone());
        if selection.sort.is_none() {
            selection.sort = Some(("cpu".to_owned(), true));
        }
        let screen = std::io::stdout().is_terminal() && self.output.format == Format::Table;
        let views = match iterations {
            _ if once => 1,
            Some(views) => views,
            None if screen || batch => u32::MAX,
            None => 1,
        };
        let broken = |e: std::io::Error| Failure::local("cannot listen for signals", &e);
        let mut interrupt = signal(SignalKind::interrupt()).map_err(broken)?;
        // The first view too needs two samples: processor time in percent is a difference.
        let (mut times, mut at) = (self.sample(None).await?.1, Instant::now());
        let first = Duration::from_millis(500);
        let delay = Duration::from_secs(u64::from(delay));
        for view in 0..views {
            tokio::select! {
                () = tokio::time::sleep(if view == 0 { first } else { delay }) => {}
                _ = interrupt.recv() => return Ok(()),
            }
            let (rows, now) = self.sample(Some((&times, at.elapsed()))).await?;
            (times, at) = (now, Instant::now());
            if screen && !batch && views > 1 {
                let time = jiff::ZonedDateTime::now().strftime("%H:%M:%S").to_string();
                let count = rows.len();
                self.output.print(&format!("\x1b[H\x1b[J{time}  {count} running\n\n"))?;
            }
            let default_columns =
                ["ctid", "name", "status", "numproc", "cpu", "ram", "ram.limit", "swap", "failcnt"];
            self.output.list(&columns(), &default_columns, &selection, &rows)?;
        }
        Ok(())
    }

    async fn sample(
        &self,
        before: Option<(&CpuTimes, Duration)>,
    ) -> Result<(Vec<Row>, CpuTimes), Failure> {
        let usage = usage::of(&self.coordinator, None, &Whys::new()).await?;
        let shown = vec!["ct_id", "alias", "spec.hostname", "status.state"];
        let running = containers(&self.coordinator, RUNNING, Some(shown)).await?;
        let mut running: BTreeMap<u32, Container> =
            running.into_iter().map(|c| (c.ct_id, c)).collect();
        let mut rows = Vec::new();
        let mut times = CpuTimes::new();
        for ContainerUsage { ct, rows: ubc, cpu_time } in usage {
            let millicpus = before.and_then(|(times, elapsed)| {
                let used = cpu_time.checked_sub(*times.get(&ct)?)?.as_micros();
                u64::try_from((used * 1000).checked_div(elapsed.as_micros())?).ok()
            });
            times.insert(ct, cpu_time);
            let unknown = || Container { ct_id: ct, ..Container::default() };
            let container = running.remove(&ct).unwrap_or_else(unknown);
            rows.push(Row { container, rows: ubc, cpu_time, millicpus });
        }
        Ok((rows, times))
    }
}

fn columns() -> Vec<Column<Row>> {
    vec![
        Column::right("ctid", |r: &Row| Value::Num(u64::from(r.container.ct_id))),
        Column::new("name", |r: &Row| match (r.container.alias.as_str(), &r.container.spec) {
            ("", Some(spec)) => Value::text(&spec.hostname),
            (alias, _) => Value::text(alias),
        }),
        Column::new("status", |r: &Row| {
            Value::text(super::list::state_name(state_of(&r.container)))
        }),
        Column::right("numproc", |r: &Row| r.held(UbcResource::Numproc)).headed("NPROC"),
        Column::right("cpu", |r: &Row| r.millicpus.map_or(Value::Null, Value::Tenths))
            .headed("CPU%"),
        Column::right("cpu_usec", |r: &Row| {
            Value::Num(u64::try_from(r.cpu_time.as_micros()).unwrap_or(u64::MAX))
        }),
        Column::right("ram", |r: &Row| r.held_bytes(UbcResource::Physpages)),
        Column::right("ram.limit", |r: &Row| {
            match r.ubc(UbcResource::Physpages).map(|u| u.value.limit) {
                Some(Limit::Max(pages)) => Value::Bytes(pages.saturating_mul(Bytes::PAGE)),
                Some(Limit::Unlimited) | None => Value::Null,
            }
        })
        .headed("OF"),
        Column::right("swap", |r: &Row| r.held_bytes(UbcResource::Swappages)),
        Column::right("numfile", |r: &Row| r.held(UbcResource::Numfile)),
        Column::right("numtcpsock", |r: &Row| r.held(UbcResource::Numtcpsock)),
        Column::right("failcnt", |r: &Row| {
            Value::Num(r.rows.iter().fold(0, |sum: u64, u| sum.saturating_add(u.failcnt)))
        }),
    ]
}
