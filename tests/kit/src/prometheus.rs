//! What Prometheus makes of OTLP: names and labels, as its receiver of OTLP and the collector's exporter
//! translate them. Pure.
//!
//! Rules: <https://opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics/>. Only what our
//! metrics need of them: units of seconds and bytes, sums, gauges and histograms with explicit bounds.

use std::fmt::Write;

use crate::otlp::{Metric, Point, Reading};

/// Attributes of the process that become labels, as `deploy/grafana/prometheus.yml` says.
const PROMOTED: [&str; 1] = ["host.name"];

/// One series and its value.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Its name.
    pub name: String,
    /// Its labels, by name.
    pub labels: Vec<(String, String)>,
    /// Its value.
    pub value: f64,
}

impl Sample {
    /// As a line of Prometheus' text format.
    pub fn line(&self) -> String {
        let mut labels = String::new();
        for (name, value) in &self.labels {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            // A string takes whatever is written.
            write!(labels, "{name}=\"{value}\",").ok();
        }
        format!("{}{{{}}} {}", self.name, labels.trim_end_matches(','), self.value)
    }
}

/// A name in which only letters, digits and `_` are left.
fn plain(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}

/// A metric's name, without what a histogram's series add.
pub fn name(metric: &Metric) -> String {
    let mut name = plain(&metric.name);
    let unit = match metric.unit.as_str() {
        "s" => "seconds",
        "By" => "bytes",
        _ => "",
    };
    if !unit.is_empty() && !name.split('_').any(|part| part == unit) {
        name = format!("{name}_{unit}");
    }
    if metric.monotonic && !name.ends_with("_total") {
        name.push_str("_total");
    }
    name
}

/// The series of a metric.
pub fn samples(metric: &Metric) -> Vec<Sample> {
    let of = |key: &str| metric.resource.iter().find(|(k, _)| k == key).map(|(_, v)| v.clone());
    let namespace = of("service.namespace").map_or_else(String::new, |name| name + "/");
    let mut all = vec![("job".to_owned(), namespace + &metric.service)];
    all.extend(of("service.instance.id").map(|id| ("instance".to_owned(), id)));
    all.extend(PROMOTED.iter().filter_map(|key| Some((plain(key), of(key)?))));
    metric.points.iter().flat_map(|point| series(&name(metric), &all, point)).collect()
}

fn series(name: &str, common: &[(String, String)], point: &Point) -> Vec<Sample> {
    let mut labels = common.to_vec();
    labels.extend(point.attributes.iter().map(|(key, value)| (plain(key), value.clone())));
    labels.sort();
    let sample = |suffix: &str, also: Option<String>, value| {
        let mut labels = labels.clone();
        labels.extend(also.map(|le| ("le".to_owned(), le)));
        Sample { name: format!("{name}{suffix}"), labels, value }
    };
    match &point.value {
        Reading::Number(value) => vec![sample("", None, *value)],
        Reading::Histogram { sum, bounds, counts } => {
            let bounds = bounds.iter().map(ToString::to_string).chain(["+Inf".to_owned()]);
            let mut seen = 0.0;
            let mut all: Vec<_> = bounds
                .zip(counts)
                .map(|(le, count)| {
                    seen += number(*count);
                    sample("_bucket", Some(le), seen)
                })
                .collect();
            all.extend([sample("_sum", None, *sum), sample("_count", None, seen)]);
            all
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a test's numbers are small")]
const fn number(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metric(name: &str, unit: &str, monotonic: bool, value: Reading) -> Metric {
        let attributes = vec![("cpu.mode".to_owned(), "a \"b\"".to_owned())];
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        Metric {
            service: "ves-storaged".to_owned(),
            resource: vec![
                pair("service.namespace", "ves"),
                pair("service.instance.id", "i"),
                pair("host.name", "n1"),
                pair("host.id", "h"),
            ],
            name: name.to_owned(),
            unit: unit.to_owned(),
            monotonic,
            points: vec![Point { attributes, value }],
        }
    }

    #[test]
    fn names_end_in_unit_and_total() {
        let named = |n, unit, monotonic| name(&metric(n, unit, monotonic, Reading::Number(0.0)));
        assert_eq!(named("container.cpu.time", "s", true), "container_cpu_time_seconds_total");
        assert_eq!(named("container.disk.io", "By", true), "container_disk_io_bytes_total");
        assert_eq!(named("ves.ubc.held", "", false), "ves_ubc_held");
        assert_eq!(named("ves.operation.active", "{operation}", false), "ves_operation_active");
        assert_eq!(named("ves.pool.bytes", "By", false), "ves_pool_bytes");
    }

    #[test]
    fn a_histogram_is_counted_up_and_labels_are_escaped() {
        let bounds = vec![0.5, 1.0];
        let value = Reading::Histogram { sum: 3.5, bounds, counts: vec![1, 0, 2] };
        let lines: Vec<_> =
            samples(&metric("t", "s", false, value)).iter().map(Sample::line).collect();
        let labels = r#"cpu_mode="a \"b\"",host_name="n1",instance="i",job="ves/ves-storaged""#;
        assert_eq!(
            lines,
            [
                format!(r#"t_seconds_bucket{{{labels},le="0.5"}} 1"#),
                format!(r#"t_seconds_bucket{{{labels},le="1"}} 1"#),
                format!(r#"t_seconds_bucket{{{labels},le="+Inf"}} 3"#),
                format!("t_seconds_sum{{{labels}}} 3.5"),
                format!("t_seconds_count{{{labels}}} 3"),
            ]
        );
    }
}
