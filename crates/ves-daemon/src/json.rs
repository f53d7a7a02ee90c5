//! The unary calls of a public socket by HTTP and JSON, for who has no gRPC: `google.api.http` in the protocol
//! files says where each is.
//!
//! A request becomes the gRPC call it stands for and goes on to the gate, which knows no difference; its answer
//! becomes JSON, and a failure what AIP-193 makes of a status. Never here: who may call what.
//!
//! A crate that does this for any server (`structured-proxy`) brings an HTTP client, metrics and a proxy's
//! configuration of its own into the daemon that the network reaches; `prost-reflect`, which both use, does the
//! work here. Streams are for gRPC alone.
//!
//! A page of somebody else's sends nothing in the name of who looks at it with a certificate in the browser: what
//! names an origin is refused, and so is a body that is neither JSON nor gRPC by its content type.

mod message;
mod once;
mod rule;

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, MethodDescriptor, Value};
use serde_json::json;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};
use ves_proto::{Fault, Reason};

use crate::accept::Caller;
use rule::Template;

/// Where all of this is.
const ROOT: &str = "/v1/";
/// The most bytes of a request's body: what gRPC takes.
const REQUEST: usize = 4 * 1024 * 1024;
/// The most bytes of an answer, which the services bound themselves.
const ANSWER: usize = 64 * 1024 * 1024;
/// How long a request's body may take.
const BODY: Duration = Duration::from_secs(30);
/// Headers of a request that are its call's too.
const HEADERS: [&str; 5] =
    ["authorization", "grpc-timeout", "traceparent", "tracestate", "ves-on-behalf-of"];

/// A field's path, and its value in words.
type Field = (String, String);

/// A call and where it is.
#[derive(Debug)]
struct Route {
    verb: Method,
    template: Template,
    /// Whether the body is the message; otherwise the query says its fields.
    has_body: bool,
    /// `/package.Service/Method`.
    rpc: http::uri::PathAndQuery,
    input: MessageDescriptor,
    output: MessageDescriptor,
}

/// Puts [`Json`] before a service.
#[derive(Debug, Clone)]
pub(crate) struct JsonLayer {
    routes: Arc<Vec<Route>>,
    status: Option<MessageDescriptor>,
}

impl JsonLayer {
    /// Of the calls of these services that have a rule.
    pub(crate) fn new(services: &[&str]) -> Result<Self, String> {
        let read = |e| format!("read the descriptors: {e}");
        let pool = DescriptorPool::decode(ves_proto::DESCRIPTORS).map_err(read)?;
        // Statuses with the messages of their details, which no file of ours imports.
        let details = tonic_types::pb::FILE_DESCRIPTOR_SET;
        let details = DescriptorPool::decode(details).map_err(read)?;
        let methods = pool.services().filter(|s| services.contains(&s.full_name()));
        let methods: Vec<_> = methods.flat_map(|s| s.methods().collect::<Vec<_>>()).collect();
        let routes = methods.iter().filter_map(|m| route(&pool, m).transpose());
        let routes = routes.collect::<Result<Vec<_>, _>>()?;
        let status = details.get_message_by_name("google.rpc.Status");
        Ok(Self { routes: Arc::new(routes), status })
    }

    /// The call that is there, with what the path says; or which methods there are.
    fn find(&self, method: &Method, path: &str) -> Result<(&Route, Vec<Field>), Vec<&str>> {
        let mut others = Vec::new();
        for route in &*self.routes {
            if let Some(captures) = route.template.captures(path) {
                if route.verb == *method {
                    return Ok((route, captures));
                }
                others.push(route.verb.as_str());
            }
        }
        Err(others)
    }

    /// A failure as JSON.
    fn failure(&self, status: &Status) -> http::Response<Body> {
        self.failure_as(http_code(status.code()), status)
    }

    /// The same, where HTTP has a better code.
    fn failure_as(&self, code: StatusCode, status: &Status) -> http::Response<Body> {
        let details = self.status.as_ref().and_then(|kind| {
            let value = message::write(kind, status.details()).ok()?;
            value.get("details").cloned()
        });
        let error = json!({
            "error": {
                "code": code.as_u16(),
                "status": crate::rpc::name(status.code()),
                "message": status.message(),
                "details": details.unwrap_or_else(|| json!([])),
            }
        });
        answer(code, &error)
    }
}

/// The rule of a method, where it has one.
fn route(pool: &DescriptorPool, method: &MethodDescriptor) -> Result<Option<Route>, String> {
    let refused = |why: &str| format!("the google.api.http of {} {why}", method.full_name());
    let Some(http) = pool.get_extension_by_name("google.api.http") else { return Ok(None) };
    let options = method.options();
    if !options.has_extension(&http) || method.is_client_streaming() || method.is_server_streaming()
    {
        return Ok(None);
    }
    let rule = options.get_extension(&http);
    let rule: &DynamicMessage = rule.as_message().ok_or_else(|| refused("is no rule"))?;
    let text = |name: &str| {
        let value = rule.get_field_by_name(name).filter(|_| rule.has_field_by_name(name))?;
        value.as_str().map(str::to_owned)
    };
    let verbs = [
        ("get", Method::GET),
        ("post", Method::POST),
        ("put", Method::PUT),
        ("patch", Method::PATCH),
        ("delete", Method::DELETE),
    ];
    let found = verbs.into_iter().find_map(|(name, verb)| Some((verb, text(name)?)));
    let (verb, path) = found.ok_or_else(|| refused("has no path"))?;
    let has_body = match text("body").as_deref() {
        None | Some("") => false,
        Some("*") => true,
        Some(_) => return Err(refused("takes a part of the message as body")),
    };
    let more = rule.get_field_by_name("additional_bindings");
    if more.as_deref().and_then(Value::as_list).is_some_and(|list| !list.is_empty()) {
        return Err(refused("has more than one path"));
    }
    let rpc = format!("/{}/{}", method.parent_service().full_name(), method.name());
    Ok(Some(Route {
        verb,
        template: Template::parse(&path).map_err(|why| refused(&why))?,
        has_body,
        rpc: rpc.parse().map_err(|_| refused("is of no method"))?,
        input: method.input(),
        output: method.output(),
    }))
}

impl<S> Layer<S> for JsonLayer {
    type Service = Json<S>;
    fn layer(&self, inner: S) -> Json<S> {
        Json { layer: self.clone(), inner }
    }
}

/// A gRPC service that also speaks JSON.
#[derive(Debug, Clone)]
pub(crate) struct Json<S> {
    layer: JsonLayer,
    inner: S,
}

type Answer<E> =
    std::pin::Pin<Box<dyn Future<Output = Result<http::Response<Body>, E>> + Send + 'static>>;

impl<S> Service<http::Request<Body>> for Json<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = Answer<S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if self.layer.routes.is_empty() {
            return Box::pin(self.inner.call(request));
        }
        if let Some(refused) = self.layer.refuse(&request) {
            return Box::pin(async move {
                keep_pace(request.extensions(), request.headers()).await;
                Ok(refused)
            });
        }
        if !request.uri().path().starts_with(ROOT) {
            return Box::pin(self.inner.call(request));
        }
        // The one that was polled until it was ready, and a fresh one for the next call.
        let fresh = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, fresh);
        let layer = self.layer.clone();
        Box::pin(async move { layer.serve(inner, request).await })
    }
}

impl JsonLayer {
    /// What is answered to a request that a page may have made, or that is neither gRPC nor at a place of JSON.
    fn refuse(&self, request: &http::Request<Body>) -> Option<http::Response<Body>> {
        let (headers, path) = (request.headers(), request.uri().path());
        if headers.contains_key(header::ORIGIN) {
            let message = "pages in browsers are not served: leave the header origin out";
            let fault = Fault::new(Reason::BadValue, message).fact("field", "origin");
            return Some(self.failure_as(StatusCode::FORBIDDEN, &fault.into()));
        }
        if path.starts_with(ROOT) || is_kind(headers, |kind| kind.starts_with("application/grpc")) {
            return None;
        }
        if request.method() != Method::POST {
            return Some(self.nothing_there(path, &[]));
        }
        let message = "the content type of a call by gRPC is application/grpc";
        let fault = Fault::new(Reason::BadValue, message).fact("field", "content-type");
        Some(self.failure_as(StatusCode::UNSUPPORTED_MEDIA_TYPE, &fault.into()))
    }

    /// Makes the call that a request stands for.
    async fn serve<S>(
        &self,
        mut inner: S,
        request: http::Request<Body>,
    ) -> Result<http::Response<Body>, S::Error>
    where
        S: Service<http::Request<Body>, Response = http::Response<Body>>,
    {
        let (mut head, body) = request.into_parts();
        let path = head.uri.path().to_owned();
        let (route, captures) = match self.find(&head.method, &path) {
            Ok(found) => found,
            Err(methods) => {
                keep_pace(&head.extensions, &head.headers).await;
                return Ok(self.nothing_there(&path, &methods));
            }
        };
        let encoded = match read_request(route, &head, captures, body).await {
            Ok(encoded) => encoded,
            Err(fault) => {
                keep_pace(&head.extensions, &head.headers).await;
                return Ok(self.failure(&fault.into()));
            }
        };
        head.headers = head_of_call(&head.headers);
        head.method = Method::POST;
        head.version = http::Version::HTTP_2;
        head.uri = route.rpc.clone().into();
        let call = http::Request::from_parts(head, Body::new(Full::from(encoded)));
        let (head, body) = inner.call(call).await?.into_parts();
        Ok(match read_answer(&head.headers, body).await {
            Ok(bytes) => match message::write(&route.output, &bytes) {
                Ok(value) => answer(StatusCode::OK, &value),
                Err(fault) => self.failure(&fault.into()),
            },
            Err(status) => self.failure(&status),
        })
    }

    /// What is answered where no call is.
    fn nothing_there(&self, path: &str, methods: &[&str]) -> http::Response<Body> {
        let shown: String = path.chars().take(200).collect();
        if methods.is_empty() {
            let message = format!("there is nothing at {shown:?}; docs/api.md lists what there is");
            let fault = Fault::new(Reason::NotBuilt, message).fact("what", shown);
            return self.failure_as(StatusCode::NOT_FOUND, &fault.into());
        }
        let allowed = methods.join(", ");
        let message = format!("{shown:?} takes {allowed} only");
        let fault = Fault::new(Reason::BadValue, message).fact("field", "method");
        let mut response = self.failure_as(StatusCode::METHOD_NOT_ALLOWED, &fault.into());
        if let Ok(value) = HeaderValue::from_str(&allowed) {
            response.headers_mut().insert(header::ALLOW, value);
        }
        response
    }
}

/// Lets who asked for something that the gate does not see wait as long as it would have them.
async fn keep_pace(extensions: &http::Extensions, headers: &HeaderMap) {
    let wait = extensions.get::<Caller>().map(|caller| caller.calls(headers).1);
    if let Some(wait) = wait.filter(|wait| !wait.is_zero()) {
        tokio::time::sleep(wait).await;
    }
}

/// The call's message, as gRPC frames it.
async fn read_request(
    route: &Route,
    head: &http::request::Parts,
    captures: Vec<Field>,
    body: Body,
) -> Result<Vec<u8>, Fault> {
    let refused = |message: &str| Fault::new(Reason::BadValue, message);
    let body = tokio::time::timeout(BODY, Limited::new(body, REQUEST).collect()).await;
    let body = body.map_err(|_| refused("the body did not come within 30 s"))?;
    let body = body.map_err(|e| match e.downcast_ref::<LengthLimitError>() {
        Some(_) => refused(&format!("the body has more than {REQUEST} bytes")),
        None => refused("the body was broken off, or is none of HTTP"),
    });
    let body = body?.to_bytes();
    let query = head.uri.query().unwrap_or_default();
    let mut fields: Vec<Field> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    match (route.has_body, fields.is_empty(), body.is_empty()) {
        (true, false, _) => {
            return Err(refused("this call takes its fields in the body, not in the query"));
        }
        (false, _, false) => {
            return Err(refused("this call takes its fields in the query and has no body"));
        }
        (true, true, false) if !is_kind(&head.headers, |kind| kind == "application/json") => {
            return Err(refused("the body must be of the content type application/json"));
        }
        _ => {}
    }
    fields.extend(captures);
    let message = message::read(&route.input, &body, &fields)?;
    let length = u32::try_from(message.len()).map_err(|_| refused("the request is too long"))?;
    let mut framed = Vec::with_capacity(message.len().saturating_add(5));
    framed.push(0);
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(&message);
    Ok(framed)
}

/// Whether the one content type is such a one; it is given in small letters, without its parameters.
fn is_kind(headers: &HeaderMap, fits: impl FnOnce(&str) -> bool) -> bool {
    let mut kinds = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(kind), None) = (kinds.next(), kinds.next()) else { return false };
    let kind = kind.to_str().unwrap_or_default().split(';').next().unwrap_or_default();
    fits(&kind.trim().to_ascii_lowercase())
}

/// The headers of the call.
fn head_of_call(asked: &HeaderMap) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    for name in HEADERS {
        // All of them: what may be there once only is for the gate to refuse.
        for value in asked.get_all(name) {
            headers.append(name, value.clone());
        }
    }
    headers
}

/// The message of a call's answer, or why there is none.
async fn read_answer(headers: &HeaderMap, body: Body) -> Result<Vec<u8>, Status> {
    let broken = |message: &str| Status::from(Fault::new(Reason::Bug, message));
    let failed = |headers: &HeaderMap| {
        Status::from_header_map(headers).filter(|status| status.code() != Code::Ok)
    };
    if let Some(status) = failed(headers) {
        return Err(status);
    }
    let body = Limited::new(body, ANSWER).collect().await;
    let body = body.map_err(|e| broken(&format!("read the answer: {e}")))?;
    if let Some(status) = body.trailers().and_then(failed) {
        return Err(status);
    }
    let bytes = body.to_bytes();
    match bytes.split_at_checked(5) {
        Some(([0, ..], message)) => Ok(message.to_vec()),
        _ => Err(broken("the answer has no message")),
    }
}

fn answer(code: StatusCode, value: &serde_json::Value) -> http::Response<Body> {
    let mut text = value.to_string();
    text.push('\n');
    let mut response = http::Response::new(Body::new(Full::from(text)));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// As google.rpc.Code says it.
const fn http_code(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => {
            StatusCode::BAD_REQUEST
        }
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::Aborted | Code::AlreadyExists => StatusCode::CONFLICT,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        // 499, of a client that went away; who reads it did not.
        Code::Cancelled => StatusCode::CONFLICT,
        Code::DataLoss | Code::Unknown | Code::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
    }
}

#[cfg(test)]
mod tests;
