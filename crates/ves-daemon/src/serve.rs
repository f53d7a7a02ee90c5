//! From command line to drained: the life of a daemon.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use caps::Capability;
use clap::Parser;
use tokio::net::unix::UCred;
use tonic::service::Routes;
use tower::{Layer, ServiceExt};
use ves_types::layout::{Daemon, Layout};

use crate::accept::{self, Acceptor, Caller, Tcp};
use crate::client::Link;
use crate::config::{self, ServiceConfig, Telemetry};
use crate::gate::GateLayer;
use crate::health::{self, Need};
use crate::json::JsonLayer;
use crate::peer::{Peers, Policy, is_public};
use crate::refusals::Refusals;
use crate::telemetry::{self, Receiver};
use crate::tls::{Certificates, Listen};
use crate::token::Tokens;
use crate::{BuildError, complain, privilege, reflection, relay, socket};

/// How long calls under way may take after SIGTERM. Streams that never end are cut.
const DRAIN: Duration = Duration::from_secs(3);

/// How long a connection is silent before its peer is asked whether it is there.
const SILENCE: Duration = Duration::from_secs(60);
/// How long that peer may take to answer; a program that was stopped for a look at it takes long.
const ANSWER: Duration = Duration::from_secs(240);
/// The most calls at once of a connection that anybody may have made.
const CALLS: u32 = 128;
/// The same of the coordinator's one connection to a service, which carries all calls and sessions.
const CALLS_OF_COORDINATOR: u32 = 4096;
/// The most bytes of a request's headers.
const HEADERS: u32 = 16 * 1024;

/// `EX_CONFIG` of sysexits.h.
const BAD_CONFIG: u8 = 78;

/// A service, ready to be served.
#[derive(Debug)]
pub struct App {
    /// Its gRPC services.
    pub routes: Routes,
    /// Who may call what.
    pub policy: Policy,
    /// Full names of its gRPC services, for health.
    pub services: &'static [&'static str],
    /// Names of accounts with [`crate::Role::Operator`].
    pub operators: Vec<String>,
    /// Which of its services need which other daemons, for health.
    pub needs: Vec<Need>,
    /// How it is served to the network; none: not at all.
    pub network: Option<Network>,
}

/// How an [`App`] is served to the network.
#[derive(Debug)]
pub struct Network {
    /// Where, and with which certificates.
    pub listen: Listen,
    /// Who knows tokens.
    pub tokens: Option<Arc<dyn Tokens>>,
    /// Who is told of certificates.
    pub certificates: Option<Arc<dyn Certificates>>,
}

impl App {
    /// The same behind its gate without a socket, for callers in this process, who call as the user it runs
    /// as. Inside a runtime.
    pub fn in_process(self) -> Result<Link, BuildError> {
        let gate = GateLayer::new(self.policy, Refusals::new().into())?;
        let (routes, caller) = (self.routes, Caller::within());
        let named = move |mut request: http::Request<_>| {
            request.extensions_mut().insert(caller.clone());
            request
        };
        Ok(Link::new(gate.layer(routes).map_request(named).map_err(|never| match never {})))
    }
}

/// A daemon of Ves.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The configuration file; without this, /etc/ves/SERVICE.toml if there is one.
    #[arg(long)]
    config: Option<PathBuf>,
    /// Read the configuration, say what is wrong with it, and end.
    #[arg(long)]
    check_config: bool,
    /// Where volatile things live.
    #[arg(long, default_value = "/run/ves")]
    run_dir: PathBuf,
    /// Where durable things live.
    #[arg(long, default_value = "/var/lib/ves")]
    state_dir: PathBuf,
}

/// Runs a daemon to its end: the whole `main` of each. `build` is called inside the runtime, when
/// capabilities are dropped and the socket is bound.
pub fn run<C: ServiceConfig>(
    service: Daemon,
    keep: &'static [Capability],
    build: impl FnOnce(C, Layout) -> Result<App, BuildError>,
) -> ExitCode {
    let arguments = Arguments::parse();
    let path = arguments
        .config
        .clone()
        .unwrap_or_else(|| PathBuf::from(format!("/etc/ves/{}.toml", service.name())));
    let layout = Layout::new(arguments.run_dir, arguments.state_dir);
    let settings = || -> Result<_, BuildError> {
        let (telemetry, own) = config::read::<C>(&path, arguments.config.is_some())?;
        let lent = lent(service, &layout, &telemetry)?;
        Ok((telemetry, own, lent))
    };
    let (telemetry, own, lent) = match settings() {
        Ok(settings) => settings,
        Err(e) => {
            return complain(service, &ves_proto::fault::chain(&*e), BAD_CONFIG);
        }
    };
    if arguments.check_config {
        return ExitCode::SUCCESS;
    }
    let live = || -> Result<(), BuildError> {
        accept::raise_descriptors().map_err(|e| format!("raise the limit of descriptors: {e}"))?;
        let (_lock, listener) = socket::bind(&layout, service)?;
        privilege::keep_only(keep)?;
        socket::publish(&layout, service)?;
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let guard = {
            let _inside = runtime.enter();
            if let Some(receiver) = lent {
                let socket = layout.telemetry_socket();
                relay::begin(&socket, receiver)
                    .map_err(|e| format!("listen at {}: {e}", socket.display()))?;
            }
            telemetry::init(service.program(), &telemetry)?
        };
        let result = runtime.block_on(async {
            let app = build(own, layout.clone())?;
            listener.set_nonblocking(true)?;
            let listener = tokio::net::UnixListener::from_std(listener)?;
            let term = terminated()?;
            // Without systemd there is nobody to tell.
            sd_notify::notify(&[sd_notify::NotifyState::Ready]).ok();
            tracing::info!(socket = %layout.socket(service).display(), "serving");
            serve_on(listener, app, term).await
        });
        guard.flush();
        runtime.shutdown_timeout(DRAIN);
        result
    };
    match live() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => complain(service, &ves_proto::fault::chain(&*e), 1),
    }
}

/// The receiver of telemetry to which this daemon lends others its way: the coordinator's.
fn lent(
    service: Daemon,
    layout: &Layout,
    telemetry: &Telemetry,
) -> Result<Option<Receiver>, BuildError> {
    let receiver = Receiver::of(telemetry)?;
    if service != Daemon::Coordinator {
        return Ok(None);
    }
    let socket = layout.telemetry_socket();
    if receiver == Some(Receiver::Unix(socket.clone())) {
        let why = "is the coordinator's own; name where telemetry goes from there";
        return Err(format!("telemetry.otlp_endpoint {:?} {why}", socket.display()).into());
    }
    Ok(receiver)
}

/// Resolves when the process is asked to end.
fn terminated() -> Result<impl Future<Output = ()>, std::io::Error> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            // Either signal means the same, and neither is lost by dropping the other.
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    })
}

/// Serves `app` on `listener` until `shutdown`, then lets calls under way end for a few seconds.
pub async fn serve_on(
    listener: tokio::net::UnixListener,
    app: App,
    shutdown: impl Future<Output = ()>,
) -> Result<(), BuildError> {
    let peers = Peers::lookup(&app.operators)?;
    let refusals = Arc::new(Refusals::new());
    let gate = GateLayer::new(app.policy, Arc::clone(&refusals))?;
    let role = move |peer: &UCred| peers.role(peer.uid());
    let mut app = app;
    let network = app.network.take().map(|Network { listen, tokens, certificates }| {
        Tcp::listen(listen, tokens, certificates, Arc::clone(&refusals))
    });
    let connections = Acceptor::new(listener, is_public(app.policy), refusals, role)?;
    let connections = connections.with_network(network.transpose()?);
    serve_all(connections, gate, app, shutdown).await
}

/// Serves `app` behind `gate` to these connections.
pub(crate) async fn serve_all(
    connections: Acceptor,
    gate: GateLayer,
    app: App,
    shutdown: impl Future<Output = ()>,
) -> Result<(), BuildError> {
    let App { routes, policy, services, operators: _, needs, network: _ } = app;
    let (health, health_service) = tonic_health::server::health_reporter();
    health::begin(&health, services, &needs).await;
    let json = JsonLayer::new(if is_public(policy) { services } else { &[] })?;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(SILENCE))
        .http2_keepalive_timeout(Some(ANSWER))
        .http2_max_header_list_size(HEADERS)
        .max_concurrent_streams(if is_public(policy) { CALLS } else { CALLS_OF_COORDINATOR })
        // HTTP 1.1 is for JSON; gRPC has version 2 everywhere.
        .accept_http1(is_public(policy))
        .layer(json)
        .layer(gate)
        .add_routes(reflection::add_to(routes, services)?)
        .add_service(health_service)
        .serve_with_incoming_shutdown(connections, async {
            // An error means that the sender is gone, which is the same wish.
            stopped.await.ok();
        });
    tokio::pin!(server);
    tokio::select! {
        // The server ends by itself only by failing.
        ended = &mut server => return Ok(ended?),
        () = health::tell(health.clone(), services, &needs) => {}
        () = shutdown => {}
    }
    stop.send(()).ok();
    health::end(health, services).await;
    // Calls that do not end in time are cut; their work goes on until the process ends and is
    // taken up again after the next start.
    tokio::time::timeout(DRAIN, server).await.unwrap_or(Ok(()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ves_proto::{Fault, Reason, network};

    const GET_NODE: &str = "/ves.network.v1.NetworkService/GetNode";
    const LIST: &str = "/ves.network.v1.NetworkService/ListInterfaces";

    /// Calls what may not be there, without a message.
    async fn called(
        channel: crate::client::Traced,
        path: &'static str,
    ) -> Result<(), tonic::Status> {
        let mut client = tonic::client::Grpc::new(channel);
        client.ready().await.expect("it listens");
        let codec = tonic_prost::ProstCodec::<(), ()>::default();
        let path = http::uri::PathAndQuery::from_static(path);
        client.unary(tonic::Request::new(()), path, codec).await.map(drop)
    }

    /// The services a daemon lists, by this version of the protocol.
    macro_rules! reflected {
        ($version:ident, $channel:expr) => {{
            use pb::server_reflection_request::MessageRequest;
            use pb::server_reflection_response::MessageResponse;
            use tonic_reflection::pb::$version as pb;
            let request = pb::ServerReflectionRequest {
                host: String::new(),
                message_request: Some(MessageRequest::ListServices(String::new())),
            };
            let mut client = pb::server_reflection_client::ServerReflectionClient::new($channel);
            let answers = client.server_reflection_info(tokio_stream::iter([request])).await;
            let mut answers = answers.expect("answered").into_inner();
            let answer = answers.message().await.expect("no fault").expect("an answer");
            let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
                panic!("no list: {answer:?}");
            };
            list.service.into_iter().map(|s| s.name).collect::<std::collections::BTreeSet<_>>()
        }};
    }

    /// A daemon without services of its own, on a socket in a directory of the test's.
    #[tokio::test]
    async fn answers_health_refuses_what_has_no_row_and_drains() {
        let dir = tempfile::tempdir().expect("a directory");
        let layout = Layout::new(dir.path(), dir.path());
        let (_lock, listener) = socket::bind(&layout, Daemon::Network).expect("bound");
        assert!(socket::bind(&layout, Daemon::Network).is_err(), "there is one already");
        assert!(!layout.socket(Daemon::Network).exists(), "nobody sees it yet");
        socket::publish(&layout, Daemon::Network).expect("published");
        listener.set_nonblocking(true).expect("set");
        let listener = tokio::net::UnixListener::from_std(listener).expect("in the runtime");
        let app = App {
            routes: Routes::default(),
            policy: &[(GET_NODE, &[])],
            services: &["ves.network.v1.NetworkService"],
            operators: vec![],
            needs: vec![],
            network: None,
        };
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let served = tokio::spawn(serve_on(listener, app, async { stopped.await.unwrap_or(()) }));

        let channel = crate::client::channel(&layout.socket(Daemon::Network));
        let mut health = tonic_health::pb::health_client::HealthClient::new(channel.clone());
        let request = tonic_health::pb::HealthCheckRequest {
            service: "ves.network.v1.NetworkService".to_owned(),
        };
        let answer = health.check(request).await.expect("healthy").into_inner();
        assert_eq!(
            answer.status(),
            tonic_health::pb::health_check_response::ServingStatus::Serving
        );

        let listed = reflected!(v1, channel.clone());
        let names = [
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection",
            "ves.network.v1.NetworkService",
        ];
        assert!(listed.iter().eq(names), "what is served and nothing else: {listed:?}");
        assert_eq!(reflected!(v1alpha, channel.clone()), listed);

        let mut client =
            network::network_service_client::NetworkServiceClient::new(channel.clone());
        let status = client.get_node(network::GetNodeRequest {}).await;
        let fault = Fault::from(status.expect_err("refused"));
        assert_eq!(fault.reason, Reason::NotAllowed);
        assert_eq!(fault.facts["rpc"], GET_NODE);

        for made_up in [LIST, "/grpc.health.v1.Health/x1", "/grpc.reflection.v1.Any/Thing"] {
            let status = called(channel.clone(), made_up).await.expect_err("there is no such call");
            assert_eq!(status.code(), tonic::Code::Unimplemented, "{made_up}");
            let fault = Fault::from(status);
            assert_eq!((fault.reason, &*fault.facts["what"]), (Reason::NotBuilt, made_up));
        }

        stop.send(()).expect("served until now");
        served.await.expect("no panic").expect("drained");
    }

    #[tokio::test]
    async fn many_sessions_over_one_connection_leave_room_for_calls() {
        let dir = tempfile::tempdir().expect("a directory");
        let socket = dir.path().join("s");
        let listener = tokio::net::UnixListener::bind(&socket).expect("bound");
        let app = App {
            routes: Routes::default(),
            policy: &[],
            services: &[],
            operators: vec![],
            needs: vec![],
            network: None,
        };
        tokio::spawn(serve_on(listener, app, std::future::pending()));
        let channel = crate::client::channel(&socket);
        let mut health = tonic_health::pb::health_client::HealthClient::new(channel);
        let request = tonic_health::pb::HealthCheckRequest::default();
        let many = async {
            let mut sessions = Vec::new();
            for _ in 0..600 {
                sessions.push(health.watch(request.clone()).await.expect("it streams"));
            }
            health.check(request).await.expect("healthy");
        };
        tokio::time::timeout(3 * DRAIN, many).await.expect("nobody waits for another's end");
    }

    #[tokio::test]
    async fn an_operator_that_does_not_exist_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let listener = tokio::net::UnixListener::bind(dir.path().join("s")).expect("bound");
        let app = App {
            routes: Routes::default(),
            policy: &[],
            services: &[],
            operators: vec!["no-such-user".to_owned()],
            needs: vec![],
            network: None,
        };
        let error = serve_on(listener, app, async {}).await.expect_err("no such user");
        assert!(error.to_string().contains("no-such-user"), "{error}");
    }
}
