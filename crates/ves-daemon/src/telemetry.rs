//! Logs to standard error always; traces, metrics and logs over OTLP where an endpoint is set.
//!
//! One operation is one trace: `virtctl` begins it, every call carries it on, every step is a span.

use std::time::Duration;

use opentelemetry::global;
use opentelemetry::trace::TracerProvider;
use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
use opentelemetry_otlp::{
    ExporterBuildError, LogExporter, MetricExporter, SpanExporter, WithExportConfig,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::logs::SdkLoggerProvider;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::config::{LogFormat, Telemetry};

/// Keeps telemetry going; [`Guard::flush`] sends what is left.
#[derive(Debug, Default)]
pub struct Guard {
    providers: Option<(SdkTracerProvider, SdkMeterProvider, SdkLoggerProvider)>,
}

impl Guard {
    /// Sends what was collected, for at most two seconds each. Blocks: not on a runtime's own
    /// thread. What cannot be sent is lost; telemetry never fails an operation.
    pub fn flush(self) {
        let limit = Duration::from_secs(2);
        if let Some((traces, metrics, logs)) = self.providers {
            traces.shutdown_with_timeout(limit).ok();
            logs.shutdown_with_timeout(limit).ok();
            metrics.shutdown_with_timeout(limit).ok();
        }
    }
}

/// Why telemetry could not begin.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter for events is malformed.
    #[error("telemetry.log {0:?}")]
    Filter(String, #[source] tracing_subscriber::filter::ParseError),
    /// The endpoint is malformed.
    #[error("telemetry.otlp_endpoint {0:?}")]
    Endpoint(String, #[source] ExporterBuildError),
}

/// Begins telemetry for the whole process, under `service` as its name. Must be called inside a
/// tokio runtime, once.
///
/// # Errors
/// When the settings are malformed. An endpoint that does not answer is no error.
pub fn init(service: &'static str, settings: &Telemetry) -> Result<Guard, TelemetryError> {
    global::set_text_map_propagator(TraceContextPropagator::new());
    let filter = std::env::var("VES_LOG").unwrap_or_else(|_| settings.log.clone());
    let parse = |text: &str| {
        EnvFilter::try_new(text).map_err(|e| TelemetryError::Filter(text.to_owned(), e))
    };
    let stderr = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let stderr = match settings.log_format {
        LogFormat::Text => stderr.with_target(false).boxed(),
        LogFormat::Json => stderr.json().boxed(),
    }
    .with_filter(parse(&filter)?);
    let endpoint = settings
        .otlp_endpoint
        .clone()
        .or_else(|| std::env::var("OTEL_EXPORTER_OTLP_ENDPOINT").ok())
        .filter(|e| !e.is_empty());
    let Some(endpoint) = endpoint else {
        // A second begin in one process (a test) keeps the first.
        tracing_subscriber::registry().with(stderr).try_init().ok();
        return Ok(Guard::default());
    };
    let (traces, metrics, logs) =
        providers(service, &endpoint).map_err(|e| TelemetryError::Endpoint(endpoint.clone(), e))?;
    global::set_tracer_provider(traces.clone());
    global::set_meter_provider(metrics.clone());
    // What the exporters themselves log must not be exported: it would never end.
    let exported =
        || parse("info,ves=debug,h2=off,hyper=off,tonic=off,tower=off,opentelemetry=off");
    let spans = tracing_opentelemetry::layer().with_tracer(traces.tracer("ves"));
    tracing_subscriber::registry()
        .with(stderr)
        .with(spans.with_filter(exported()?))
        .with(OpenTelemetryTracingBridge::new(&logs).with_filter(exported()?))
        .try_init()
        .ok();
    Ok(Guard { providers: Some((traces, metrics, logs)) })
}

fn providers(
    service: &'static str,
    endpoint: &str,
) -> Result<(SdkTracerProvider, SdkMeterProvider, SdkLoggerProvider), ExporterBuildError> {
    let resource = Resource::builder().with_service_name(service).build();
    let span = SpanExporter::builder().with_tonic().with_endpoint(endpoint).build()?;
    let metric = MetricExporter::builder().with_tonic().with_endpoint(endpoint).build()?;
    let log = LogExporter::builder().with_tonic().with_endpoint(endpoint).build()?;
    Ok((
        SdkTracerProvider::builder()
            .with_batch_exporter(span)
            .with_resource(resource.clone())
            .build(),
        SdkMeterProvider::builder()
            .with_periodic_exporter(metric)
            .with_resource(resource.clone())
            .build(),
        SdkLoggerProvider::builder().with_batch_exporter(log).with_resource(resource).build(),
    ))
}
