//! Samples and their summary. No measuring here.

use std::time::Duration;

/// What one thing took, again and again.
#[derive(Debug)]
pub(crate) struct Series {
    what: &'static str,
    samples: Vec<Duration>,
}

impl Series {
    /// No sample yet.
    pub(crate) fn new(what: &'static str) -> Self {
        Self { what, samples: Vec::new() }
    }

    /// One more.
    pub(crate) fn push(&mut self, sample: Duration) {
        self.samples.push(sample);
    }

    /// The sample below which so many percent are.
    fn percentile(&self, percent: usize) -> Duration {
        let mut sorted = self.samples.clone();
        sorted.sort_unstable();
        let at = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
        sorted.get(at).copied().unwrap_or_default()
    }
}

/// A Markdown table of medians and 90th percentiles, each median also as a multiple of that of the
/// series at `base`.
pub(crate) fn table(all: &[&Series], base: usize) -> String {
    let unit = all.get(base).map_or(Duration::ZERO, |series| series.percentile(50));
    let mut text = "| what | median | p90 | ratio |\n|---|--:|--:|--:|\n".to_owned();
    for series in all {
        let median = series.percentile(50);
        let ratio = median.as_secs_f64() / unit.as_secs_f64().max(1e-9);
        text.push_str(&format!(
            "| {} | {} | {} | {ratio:.2} |\n",
            series.what,
            shown(median),
            shown(series.percentile(90))
        ));
    }
    text.trim_end().to_owned()
}

fn shown(took: Duration) -> String {
    let micros = took.as_secs_f64() * 1e6;
    match micros {
        0.0..1000.0 => format!("{micros:.0} µs"),
        1000.0..100_000.0 => format!("{:.2} ms", micros / 1e3),
        _ => format!("{:.0} ms", micros / 1e3),
    }
}
