//! Logs to standard error always; traces, metrics and logs over OTLP where an endpoint is set.
//!
//! One operation is one trace: `virtctl` begins it, every call carries it on, every step is a span.

use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{Span, Tracer, TracerProvider};
use opentelemetry::{KeyValue, global};
use opentelemetry_appender_tracing::layer::{OpenTelemetryTracingBridge, TracingSpanAttributes};
use opentelemetry_otlp::{
    ExporterBuildError, LogExporter, MetricExporter, SpanExporter, WithTonicConfig,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::logs::SdkLoggerProvider;
use opentelemetry_sdk::metrics::{Instrument, SdkMeterProvider, Stream};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::resource::EnvResourceDetector;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tonic::transport::Channel;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};
use uuid::Uuid;

use crate::client;
use crate::config::{LogFormat, Telemetry};

/// The name space that OpenTelemetry gives for ids of instances:
/// <https://opentelemetry.io/docs/specs/semconv/registry/attributes/service/>.
const INSTANCES: Uuid = Uuid::from_u128(0x4d63_009a_8d0f_11ee_aad7_4c79_6ed8_e320);
/// What a line of the log has from the spans it stands in.
const OF_LOGS: [&str; 2] = ["container.id", "ves.operation.id"];

/// What metrics of containers begin with.
const OF_CONTAINERS: [&str; 3] = ["container.", "ves.container.", "ves.ubc."];
/// The most points of a stream: ten thousand containers with six each.
const POINTS: usize = 60_000;

/// Keeps telemetry going; [`Guard::flush`] sends what is left.
#[derive(Debug, Default)]
pub struct Guard {
    providers: Option<(SdkTracerProvider, SdkMeterProvider, SdkLoggerProvider)>,
}

impl Guard {
    /// Has what is to be told of metrics told now, too. Blocks: not on a runtime's own thread. True where
    /// the receiver has it.
    pub fn export_metrics(&self) -> bool {
        self.providers.as_ref().is_some_and(|(_, metrics, _)| metrics.force_flush().is_ok())
    }

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
    /// The endpoint is none we can send to.
    #[error("telemetry.otlp_endpoint {0:?} is neither http://HOST:PORT nor unix:/PATH")]
    Endpoint(String),
    /// The environment says of the protocol what we cannot do.
    #[error("set up OTLP as OTEL_EXPORTER_OTLP_… say")]
    Exporter(#[from] ExporterBuildError),
}

/// Who receives telemetry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Receiver {
    /// By TCP.
    Net {
        /// Its host, a name or an address.
        host: String,
        /// Its port.
        port: u16,
    },
    /// At a socket of this node's.
    Unix(PathBuf),
}

impl fmt::Display for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Net { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Net { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

impl Receiver {
    /// Reads an endpoint.
    fn parse(endpoint: &str) -> Result<Self, TelemetryError> {
        let malformed = || TelemetryError::Endpoint(endpoint.to_owned());
        if let Some(path) = endpoint.strip_prefix("unix:") {
            let path = PathBuf::from(path);
            return if path.is_absolute() { Ok(Self::Unix(path)) } else { Err(malformed()) };
        }
        let uri: http::Uri = endpoint.parse().map_err(|_| malformed())?;
        match (uri.scheme_str(), uri.host()) {
            (Some("http"), Some(host)) => Ok(Self::Net {
                host: host.trim_matches(['[', ']']).to_owned(),
                port: uri.port_u16().unwrap_or(80),
            }),
            _ => Err(malformed()),
        }
    }

    /// Who is named by the settings or the environment.
    ///
    /// # Errors
    /// [`TelemetryError::Endpoint`].
    pub(crate) fn of(settings: &Telemetry) -> Result<Option<Self>, TelemetryError> {
        settings
            .otlp_endpoint
            .clone()
            .or_else(|| std::env::var("OTEL_EXPORTER_OTLP_ENDPOINT").ok())
            .filter(|e| !e.is_empty())
            .map(|e| Self::parse(&e))
            .transpose()
    }

    /// A lazy channel there. Must be called inside a tokio runtime.
    fn channel(&self) -> Result<Channel, TelemetryError> {
        match self {
            Self::Unix(path) => Ok(client::untraced(path)),
            Self::Net { .. } => {
                let uri = format!("http://{self}");
                let endpoint = tonic::transport::Endpoint::from_shared(uri)
                    .map_err(|_| TelemetryError::Endpoint(self.to_string()))?;
                Ok(endpoint.connect_lazy())
            }
        }
    }
}

/// Begins telemetry for the whole process, under `service` as its name. Must be called inside a
/// tokio runtime, once.
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
    let Some(receiver) = Receiver::of(settings)? else {
        // A second begin in one process (a test) keeps the first.
        tracing_subscriber::registry().with(stderr).try_init().ok();
        return Ok(Guard::default());
    };
    let (traces, metrics, logs) = providers(service, &receiver.channel()?)?;
    global::set_tracer_provider(traces.clone());
    global::set_meter_provider(metrics.clone());
    // What the exporters themselves log must not be exported: it would never end.
    let exported =
        || parse("info,ves=debug,h2=off,hyper=off,tonic=off,tower=off,opentelemetry=off");
    let spans = tracing_opentelemetry::layer().with_tracer(traces.tracer("ves"));
    tracing_subscriber::registry()
        .with(stderr)
        .with(spans.with_filter(exported()?))
        .with(
            OpenTelemetryTracingBridge::builder(&logs)
                .with_tracing_span_attributes(TracingSpanAttributes::allowlist(OF_LOGS))
                .build()
                .with_filter(exported()?),
        )
        .try_init()
        .ok();
    Ok(Guard { providers: Some((traces, metrics, logs)) })
}

fn providers(
    service: &'static str,
    channel: &Channel,
) -> Result<(SdkTracerProvider, SdkMeterProvider, SdkLoggerProvider), ExporterBuildError> {
    let resource = resource(service);
    let span = SpanExporter::builder().with_tonic().with_channel(channel.clone()).build()?;
    let metric = MetricExporter::builder().with_tonic().with_channel(channel.clone()).build()?;
    let log = LogExporter::builder().with_tonic().with_channel(channel.clone()).build()?;
    Ok((
        SdkTracerProvider::builder()
            .with_batch_exporter(span)
            .with_resource(resource.clone())
            .build(),
        SdkMeterProvider::builder()
            .with_periodic_exporter(metric)
            .with_view(bounded)
            .with_resource(resource.clone())
            .build(),
        SdkLoggerProvider::builder().with_batch_exporter(log).with_resource(resource).build(),
    ))
}

/// Streams that have points of each container have room for as many as a node can have; the SDK's own bound,
/// 2000 points, would hide containers from the four-hundredth on.
fn bounded(instrument: &Instrument) -> Option<Stream> {
    let name = instrument.name();
    let of_containers = OF_CONTAINERS.iter().any(|prefix| name.starts_with(prefix));
    of_containers.then(|| Stream::builder().with_cardinality_limit(POINTS).build().ok()).flatten()
}

/// Which process of which node speaks; what `OTEL_RESOURCE_ATTRIBUTES` says wins.
fn resource(service: &'static str) -> Resource {
    let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    let machine = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let host = host.map(|name| KeyValue::new("host.name", name));
    Resource::builder_empty()
        .with_service_name(service)
        .with_attributes([
            KeyValue::new("service.namespace", "ves"),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        ])
        .with_attributes(host)
        .with_attributes(of_machine(machine.trim(), service))
        .with_detector(Box::new(EnvResourceDetector::new()))
        .build()
}

/// What tells nodes of one name apart, and is the same after each restart: derived from the id of the
/// machine, which machine-id(5) asks not to be told as it is.
fn of_machine(id: &str, service: &str) -> Vec<KeyValue> {
    if id.is_empty() {
        return vec![];
    }
    let derived = |what: &str| Uuid::new_v5(&INSTANCES, format!("{id}/{what}").as_bytes());
    let pairs = [("host.id", "host"), ("service.instance.id", service)];
    pairs.into_iter().map(|(key, what)| KeyValue::new(key, derived(what).to_string())).collect()
}

/// Tells, below the present span, of work that another process has done: of which kind, and what it was.
pub fn record_span(kind: &'static str, what: String, begun: SystemTime, took: Duration) {
    let tracer = global::tracer("ves");
    let context = tracing::Span::current().context();
    let span = tracer.span_builder(kind).with_start_time(begun);
    let span = span.with_attributes([KeyValue::new("ves.step", what)]);
    span.start_with_context(&tracer, &context).end_with_timestamp(begun + took);
}

/// A number of this daemon that goes up and down, as a metric.
#[derive(Debug)]
pub struct Gauge(opentelemetry::metrics::Gauge<u64>);

impl Gauge {
    /// One of this name.
    pub fn new(name: &'static str, description: &'static str) -> Self {
        Self(global::meter("ves").u64_gauge(name).with_description(description).build())
    }

    /// It is this now.
    pub fn set(&self, value: u64) {
        self.0.record(value, &[]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_from_those_of_other_nodes_and_from_others_of_its_own() {
        let told = |id, service| {
            let pairs = of_machine(id, service).into_iter();
            pairs.map(|kv| (kv.key.to_string(), kv.value.to_string())).collect::<Vec<_>>()
        };
        let one = told("0123456789abcdef0123456789abcdef", "ves-storaged");
        let beside = told("0123456789abcdef0123456789abcdef", "ves-networkd");
        let elsewhere = told("1123456789abcdef0123456789abcdef", "ves-storaged");
        assert_eq!(one, told("0123456789abcdef0123456789abcdef", "ves-storaged"));
        assert!(one[0] == beside[0] && one[1] != beside[1], "{one:?} {beside:?}");
        assert!(one[0] != elsewhere[0] && one[1] != elsewhere[1], "{one:?} {elsewhere:?}");
        assert!(told("", "ves-storaged").is_empty());
        let all = resource("ves-storaged");
        let named = |key: &'static str| all.get(&key.into()).map(|v| v.to_string());
        assert_eq!(named("service.name").as_deref(), Some("ves-storaged"));
        assert!(named("host.name").is_some_and(|name| !name.is_empty()));
    }

    #[test]
    fn endpoints_are_read_and_nonsense_is_not() {
        let shown = |endpoint: &str| Receiver::parse(endpoint).map(|r| r.to_string()).ok();
        assert_eq!(shown("http://collector:4317").as_deref(), Some("collector:4317"));
        assert_eq!(shown("http://[::1]:4317").as_deref(), Some("[::1]:4317"));
        assert_eq!(shown("http://192.0.2.1").as_deref(), Some("192.0.2.1:80"));
        assert_eq!(shown("unix:/run/otel.sock").as_deref(), Some("/run/otel.sock"));
        for bad in ["https://collector", "collector:4317", "unix:otel", "unix:", "http://", ""] {
            assert_eq!(shown(bad), None, "{bad}");
        }
    }
}
