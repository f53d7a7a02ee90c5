//! A receiver of OTLP over gRPC on loopback that keeps what it is sent.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::logs::v1::logs_service_server::{
    LogsService, LogsServiceServer,
};
use opentelemetry_proto::tonic::collector::logs::v1::{
    ExportLogsServiceRequest, ExportLogsServiceResponse,
};
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as Number;
use opentelemetry_proto::tonic::metrics::v1::{HistogramDataPoint, NumberDataPoint};
use opentelemetry_proto::tonic::resource::v1::Resource;
pub use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use tokio::task::JoinHandle;
use tonic::{Request, Response, Status};

use crate::wait::wait_until_async;

/// A span that was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// `service.name` of its process.
    pub service: String,
    /// Its name.
    pub name: String,
    /// The trace it belongs to, in hex.
    pub trace: String,
    /// Its id, in hex.
    pub id: String,
    /// Its parent's id, in hex; empty for the root.
    pub parent: String,
    /// Whether it calls, is called, or neither.
    pub kind: SpanKind,
    /// Attributes, values as text.
    pub attributes: Vec<(String, String)>,
    /// Whether its status is an error.
    pub failed: bool,
}

/// A log record that was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// `service.name` of its process.
    pub service: String,
    /// Severity as text.
    pub severity: String,
    /// The message.
    pub body: String,
    /// The trace it belongs to, in hex; empty where none.
    pub trace: String,
    /// Attributes, values as text.
    pub attributes: Vec<(String, String)>,
}

/// A metric that was received, as of one export.
#[derive(Debug, Clone, PartialEq)]
pub struct Metric {
    /// `service.name` of its process.
    pub service: String,
    /// Attributes of its process, values as text.
    pub resource: Vec<(String, String)>,
    /// Its name.
    pub name: String,
    /// Its unit; empty where none.
    pub unit: String,
    /// Whether it only grows.
    pub monotonic: bool,
    /// Its points.
    pub points: Vec<Point>,
}

/// A point of a metric.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// Attributes, values as text.
    pub attributes: Vec<(String, String)>,
    /// What it is.
    pub value: Reading,
}

impl Point {
    /// What an attribute is.
    pub fn attribute(&self, key: &str) -> Option<&str> {
        self.attributes.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }
}

/// What a point says.
#[derive(Debug, Clone, PartialEq)]
pub enum Reading {
    /// A sum or a gauge.
    Number(f64),
    /// How many values were how great.
    Histogram {
        /// Their sum.
        sum: f64,
        /// Upper bounds of the buckets, but for the last.
        bounds: Vec<f64>,
        /// How many are in each bucket.
        counts: Vec<u64>,
    },
}

impl Reading {
    /// The number, if it is one.
    pub const fn number(&self) -> Option<f64> {
        match self {
            Self::Number(n) => Some(*n),
            Self::Histogram { .. } => None,
        }
    }

    /// How many values there are, of a number one.
    pub fn count(&self) -> u64 {
        match self {
            Self::Number(_) => 1,
            Self::Histogram { counts, .. } => counts.iter().sum(),
        }
    }
}

#[derive(Debug, Default)]
struct Received {
    spans: Vec<Span>,
    logs: Vec<Log>,
    metrics: Vec<Metric>,
}

/// The receiver. It stops when this goes.
#[derive(Debug)]
pub struct Otlp {
    address: SocketAddr,
    received: Arc<Mutex<Received>>,
    server: JoinHandle<()>,
}

impl Otlp {
    /// Starts one on a free port of 127.0.0.1, in the current runtime.
    ///
    /// # Panics
    /// When loopback has no free port.
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let received = Arc::new(Mutex::new(Received::default()));
        let sink = Sink(Arc::clone(&received));
        let routes = tonic::service::Routes::new(TraceServiceServer::new(sink.clone()))
            .add_service(MetricsServiceServer::new(sink.clone()))
            .add_service(LogsServiceServer::new(sink));
        let server = tokio::spawn(async move {
            let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
            let serving = tonic::transport::Server::builder().add_routes(routes);
            serving.serve_with_incoming(incoming).await.expect("the receiver serves");
        });
        Self { address, received, server }
    }
    /// What to configure as the endpoint.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }
    /// All spans so far.
    pub fn spans(&self) -> Vec<Span> {
        self.look(|r| r.spans.clone())
    }
    /// All log records so far.
    pub fn logs(&self) -> Vec<Log> {
        self.look(|r| r.logs.clone())
    }
    /// Names of all metrics so far, each with its service.
    pub fn metrics(&self) -> Vec<(String, String)> {
        self.look(|r| r.metrics.iter().map(|m| (m.service.clone(), m.name.clone())).collect())
    }
    /// All metrics that came since this was last asked, and forgets them.
    pub fn take_metrics(&self) -> Vec<Metric> {
        self.look(|r| std::mem::take(&mut r.metrics))
    }
    /// The spans of one trace.
    pub fn trace(&self, trace: &str) -> Vec<Span> {
        self.look(|r| r.spans.iter().filter(|s| s.trace == trace).cloned().collect())
    }
    /// Waits until the spans received satisfy `enough`, and answers them.
    ///
    /// # Panics
    /// When they do not within `deadline`.
    pub async fn wait_spans(
        &self,
        deadline: Duration,
        what: &str,
        enough: impl Fn(&[Span]) -> bool,
    ) -> Vec<Span> {
        wait_until_async(deadline, what, async || self.look(|r| enough(&r.spans))).await;
        self.spans()
    }
    fn look<T>(&self, f: impl FnOnce(&mut Received) -> T) -> T {
        f(&mut self.received.lock().expect("no test panics while holding it"))
    }
}

impl Drop for Otlp {
    fn drop(&mut self) {
        self.server.abort();
    }
}

#[derive(Debug, Clone)]
struct Sink(Arc<Mutex<Received>>);

impl Sink {
    fn keep(&self, f: impl FnOnce(&mut Received)) -> Result<(), Status> {
        let mut received = self.0.lock().map_err(|_| Status::aborted("the test has failed"))?;
        f(&mut received);
        Ok(())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn text(value: Option<AnyValue>) -> String {
    match value.and_then(|v| v.value) {
        None => String::new(),
        Some(Value::StringValue(s)) => s,
        Some(Value::BoolValue(b)) => b.to_string(),
        Some(Value::IntValue(n)) => n.to_string(),
        Some(Value::DoubleValue(n)) => n.to_string(),
        Some(other) => format!("{other:?}"),
    }
}

fn attributes(all: Vec<KeyValue>) -> Vec<(String, String)> {
    all.into_iter().map(|kv| (kv.key, text(kv.value))).collect()
}

fn service(resource: Option<Resource>) -> String {
    let all = attributes(resource.map(|r| r.attributes).unwrap_or_default());
    all.into_iter().find(|(k, _)| k == "service.name").map(|(_, v)| v).unwrap_or_default()
}

/// Whether it only grows, and its points.
fn points(data: Data) -> (bool, Vec<Point>) {
    let numbers = |points: Vec<NumberDataPoint>| {
        let point = |p: NumberDataPoint| Point {
            attributes: attributes(p.attributes),
            value: Reading::Number(match p.value {
                Some(Number::AsDouble(n)) => n,
                #[expect(clippy::cast_precision_loss, reason = "a test's numbers are small")]
                Some(Number::AsInt(n)) => n as f64,
                None => f64::NAN,
            }),
        };
        points.into_iter().map(point).collect()
    };
    match data {
        Data::Sum(sum) => (sum.is_monotonic, numbers(sum.data_points)),
        Data::Gauge(gauge) => (false, numbers(gauge.data_points)),
        Data::Histogram(histogram) => {
            let point = |p: HistogramDataPoint| Point {
                attributes: attributes(p.attributes),
                value: Reading::Histogram {
                    sum: p.sum.unwrap_or_default(),
                    bounds: p.explicit_bounds,
                    counts: p.bucket_counts,
                },
            };
            (false, histogram.data_points.into_iter().map(point).collect())
        }
        Data::ExponentialHistogram(_) | Data::Summary(_) => (false, vec![]),
    }
}

#[tonic::async_trait]
impl TraceService for Sink {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.keep(|received| {
            for group in request.into_inner().resource_spans {
                let service = service(group.resource);
                for span in group.scope_spans.into_iter().flat_map(|s| s.spans) {
                    received.spans.push(Span {
                        service: service.clone(),
                        name: span.name,
                        trace: hex(&span.trace_id),
                        id: hex(&span.span_id),
                        parent: hex(&span.parent_span_id),
                        kind: span.kind.try_into().unwrap_or(SpanKind::Unspecified),
                        attributes: attributes(span.attributes),
                        failed: span.status.is_some_and(|s| s.code == 2),
                    });
                }
            }
        })?;
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Sink {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        self.keep(|received| {
            for group in request.into_inner().resource_metrics {
                let service = service(group.resource.clone());
                let resource = attributes(group.resource.unwrap_or_default().attributes);
                for metric in group.scope_metrics.into_iter().flat_map(|s| s.metrics) {
                    let (monotonic, points) = metric.data.map_or((false, vec![]), points);
                    let (service, resource) = (service.clone(), resource.clone());
                    let (name, unit) = (metric.name, metric.unit);
                    let metric = Metric { service, resource, name, unit, monotonic, points };
                    received.metrics.push(metric);
                }
            }
        })?;
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl LogsService for Sink {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        self.keep(|received| {
            for group in request.into_inner().resource_logs {
                let service = service(group.resource);
                for log in group.scope_logs.into_iter().flat_map(|s| s.log_records) {
                    received.logs.push(Log {
                        service: service.clone(),
                        severity: log.severity_text,
                        body: text(log.body),
                        trace: hex(&log.trace_id),
                        attributes: attributes(log.attributes),
                    });
                }
            }
        })?;
        Ok(Response::new(ExportLogsServiceResponse::default()))
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
    use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span as WireSpan};

    use super::*;

    #[tokio::test]
    async fn a_span_that_is_sent_is_kept() {
        let otlp = Otlp::start().await;
        let mut client = TraceServiceClient::connect(otlp.endpoint()).await.expect("it listens");
        let name = AnyValue { value: Some(Value::StringValue("virtctl".to_owned())) };
        let resource = Resource {
            attributes: vec![KeyValue {
                key: "service.name".to_owned(),
                value: Some(name),
                ..KeyValue::default()
            }],
            ..Resource::default()
        };
        let span = WireSpan {
            name: "start".to_owned(),
            trace_id: vec![0xab; 16],
            span_id: vec![1; 8],
            ..WireSpan::default()
        };
        let scope = ScopeSpans { spans: vec![span], ..ScopeSpans::default() };
        let group = ResourceSpans {
            resource: Some(resource),
            scope_spans: vec![scope],
            ..ResourceSpans::default()
        };
        let request = ExportTraceServiceRequest { resource_spans: vec![group] };
        client.export(request).await.expect("kept");
        let spans = otlp.wait_spans(Duration::from_secs(60), "a span", |s| !s.is_empty()).await;
        assert_eq!(spans.len(), 1);
        assert_eq!((spans[0].service.as_str(), spans[0].name.as_str()), ("virtctl", "start"));
        assert_eq!(otlp.trace(&"ab".repeat(16)).len(), 1);
        assert!(spans[0].parent.is_empty());
    }
}
