//! What is told of calls, by OpenTelemetry's conventions for RPC: names of codes, which of them are a
//! server's errors, and how long answers took.
//!
//! A call lasts until its answer has ended, a stream's too. Never here: who may call what.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use http_body::{Frame, SizeHint};
use opentelemetry::metrics::Histogram;
use opentelemetry::{KeyValue, global};
use tonic::body::Body;
use tonic::{Code, Status};

use crate::statuses;

/// What stands for whatever there is no RPC for: its name is the caller's to choose.
pub(crate) const OTHER: &str = "_OTHER";

/// The bounds of durations, in seconds, as the conventions advise.
const BOUNDS: [f64; 14] =
    [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
/// Most calls of one node's daemons take less than the least of these.
const FAST: [f64; 2] = [0.000_5, 0.001];

/// The code in these headers or trailers; `None` where none is.
pub(crate) fn code(headers: &http::HeaderMap) -> Option<Code> {
    headers.get("grpc-status").map(|code| Code::from_bytes(code.as_bytes()))
}

/// A code's name.
pub(crate) const fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// Whether whoever serves is to blame; what is not found, refused or given up is nobody's error.
pub(crate) const fn is_server_error(code: Code) -> bool {
    matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    )
}

/// Writes into a call's span how it ended, and whether that is an error to whose span it is.
pub(crate) fn record(span: &tracing::Span, code: Code, is_error: bool) {
    span.record("rpc.response.status_code", name(code));
    if is_error {
        span.record("otel.status_code", "ERROR");
    }
}

/// How long calls took that were served.
#[derive(Debug, Clone)]
pub(crate) struct Durations(Histogram<f64>);

impl Durations {
    pub(crate) fn new() -> Self {
        let meter = global::meter("ves");
        let histogram = meter
            .f64_histogram("rpc.server.call.duration")
            .with_description("time until the answer ended")
            .with_unit("s")
            .with_boundaries(FAST.into_iter().chain(BOUNDS).collect());
        Self(histogram.build())
    }

    /// A call that has begun; where `completes` is set, statuses that are not ours are made such.
    pub(crate) fn begin(&self, method: String, completes: bool) -> Call {
        Call { durations: self.clone(), method, begun: Instant::now(), ended: false, completes }
    }
}

/// A call that is served. One that nobody ends was given up.
#[derive(Debug)]
pub(crate) struct Call {
    durations: Durations,
    method: String,
    begun: Instant,
    ended: bool,
    /// Whether statuses that are not ours are made such.
    completes: bool,
}

impl Drop for Call {
    fn drop(&mut self) {
        if !self.ended {
            self.tell(Code::Cancelled);
        }
    }
}

impl Call {
    /// It has ended.
    pub(crate) fn end(mut self, code: Code) {
        self.ended = true;
        self.tell(code);
    }

    fn tell(&self, code: Code) {
        let mut labels = vec![
            KeyValue::new("rpc.system.name", "grpc"),
            KeyValue::new("rpc.method", self.method.clone()),
            KeyValue::new("rpc.response.status_code", name(code)),
        ];
        if is_server_error(code) {
            labels.push(KeyValue::new("error.type", name(code)));
        }
        self.durations.0.record(self.begun.elapsed().as_secs_f64(), &labels);
    }

    /// It ends when its answer has: with the code in its headers or trailers.
    pub(crate) fn end_with(self, mut answer: http::Response<Body>) -> http::Response<Body> {
        if self.completes {
            statuses::complete(answer.headers_mut());
        }
        if let Some(code) = code(answer.headers()) {
            self.end(code);
            return answer;
        }
        answer.map(|inner| Body::new(Answer { inner, call: Some(self) }))
    }
}

/// The body of an answer, which tells of its end.
struct Answer {
    inner: Body,
    call: Option<Call>,
}

impl Answer {
    fn end(&mut self, code: Code) {
        if let Some(call) = self.call.take() {
            call.end(code);
        }
    }
}

impl http_body::Body for Answer {
    type Data = <Body as http_body::Body>::Data;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Status>>> {
        let mut frame = std::task::ready!(Pin::new(&mut self.inner).poll_frame(cx));
        match &mut frame {
            Some(Ok(frame)) => {
                if let Some(trailers) = frame.trailers_mut() {
                    if self.call.as_ref().is_some_and(|call| call.completes) {
                        statuses::complete(trailers);
                    }
                    if let Some(code) = code(trailers) {
                        self.end(code);
                    }
                }
            }
            Some(Err(status)) => self.end(status.code()),
            None => self.end(Code::Unknown),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use opentelemetry::metrics::MeterProvider;
    use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData};
    use opentelemetry_sdk::metrics::{InMemoryMetricExporter, PeriodicReader, SdkMeterProvider};

    use super::*;

    /// The codes that were counted, after `answered` had a call each.
    async fn counted(answered: impl AsyncFnOnce(&Durations)) -> Vec<(String, bool)> {
        let exporter = InMemoryMetricExporter::default();
        let reader = PeriodicReader::builder(exporter.clone()).build();
        let provider = SdkMeterProvider::builder().with_reader(reader).build();
        let durations = Durations(provider.meter("test").f64_histogram("calls").build());
        answered(&durations).await;
        provider.force_flush().expect("collected");
        let all = exporter.get_finished_metrics().expect("kept");
        let metrics = all.iter().flat_map(|m| m.scope_metrics()).flat_map(|s| s.metrics());
        let mut codes = Vec::new();
        for metric in metrics {
            let AggregatedMetrics::F64(MetricData::Histogram(data)) = metric.data() else {
                continue;
            };
            for point in data.data_points() {
                let has = |key| point.attributes().find(|kv| kv.key.as_str() == key);
                let code = has("rpc.response.status_code").expect("a code").value.to_string();
                codes.push((code, has("error.type").is_some()));
            }
        }
        codes.sort();
        codes
    }

    #[tokio::test]
    async fn a_call_is_counted_once_by_how_its_answer_ended() {
        let body = |trailers: Option<&'static str>| {
            let mut headers = http::HeaderMap::new();
            if let Some(code) = trailers {
                headers.insert("grpc-status", http::HeaderValue::from_static(code));
            }
            let body = http_body_util::Full::new(prost::bytes::Bytes::from_static(b"answer"));
            Body::new(body.with_trailers(async move { Some(Ok(headers)) }))
        };
        let counts = counted(async |durations| {
            for trailers in [Some("0"), Some("13"), None] {
                let call = durations.begin("ves.Test/Get".to_owned(), true);
                let answer = call.end_with(http::Response::new(body(trailers)));
                answer.into_body().collect().await.expect("read to its end");
            }
            // One that fails at once, and one that nobody waits for.
            let mut failed = http::Response::new(Body::empty());
            failed.headers_mut().insert("grpc-status", http::HeaderValue::from_static("5"));
            drop(durations.begin("ves.Test/Get".to_owned(), true).end_with(failed));
            let left = durations.begin("ves.Test/Get".to_owned(), true);
            drop(left.end_with(http::Response::new(body(Some("0")))));
            drop(durations.begin("ves.Test/Wait".to_owned(), true));
        });
        let counts = counts.await;
        let told = [
            ("CANCELLED", false),
            ("CANCELLED", false),
            ("INTERNAL", true),
            ("NOT_FOUND", false),
            ("OK", false),
            ("UNKNOWN", true),
        ];
        assert_eq!(counts, told.map(|(code, error)| (code.to_owned(), error)));
    }
}
