//! The trace that a command begins.
//!
//! Never here: traces of daemons.

use crate::fake::Fake;
use crate::program::{out, virtctl};

#[test]
fn a_command_is_the_beginning_of_a_trace() {
    let fake = Fake::started();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let otlp = runtime.block_on(ves_kit::Otlp::start());
    for line in ["start 101", "start 999"] {
        let status = out(virtctl(&fake)
            .args(line.split(' '))
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", otlp.endpoint()));
        assert_eq!(status.2.is_empty(), status.0 == 0, "{}", status.2);
    }
    let spans: Vec<_> = otlp.spans().into_iter().filter(|s| s.name == "virtctl start").collect();
    assert_eq!(spans.len(), 2, "{spans:?}");
    assert!(spans.iter().all(|s| s.service == "virtctl" && s.parent.is_empty()));
    assert_eq!(spans.iter().map(|s| s.failed).collect::<Vec<_>>(), [false, true]);
    // The call carries it on.
    let parents = std::mem::take(&mut fake.state().parents);
    assert!(parents[0].contains(&spans[0].trace), "{parents:?} {spans:?}");
}
