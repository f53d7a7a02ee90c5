//! From command line to drained: the life of a daemon.

use std::fs::{File, OpenOptions, Permissions};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use caps::Capability;
use clap::Parser;
use nix::fcntl::{Flock, FlockArg};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::service::Routes;
use ves_types::layout::{COORDINATOR_USER, Daemon, Layout};

use crate::config::{self, ServiceConfig, Telemetry};
use crate::gate::GateLayer;
use crate::peer::{Peers, Policy};
use crate::telemetry::{self, Receiver};
use crate::{privilege, relay};

/// What a service failed to begin with.
pub type BuildError = Box<dyn std::error::Error + Send + Sync>;

/// How long calls under way may take after SIGTERM. Streams that never end are cut.
const DRAIN: Duration = Duration::from_secs(3);

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
            complain(service, &ves_proto::fault::chain(&*e));
            return ExitCode::from(BAD_CONFIG);
        }
    };
    if arguments.check_config {
        return ExitCode::SUCCESS;
    }
    let live = || -> Result<(), BuildError> {
        let (_lock, listener) = bind(&layout, service)?;
        privilege::keep_only(keep)?;
        publish(&layout, service)?;
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
        Err(e) => {
            complain(service, &ves_proto::fault::chain(&*e));
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stderr, reason = "before and after logging there is only standard error")]
fn complain(service: Daemon, what: &str) {
    eprintln!("ves-{}: {what}", service.name());
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

/// Where a socket is until its daemon has given up what it does not need.
fn unpublished(socket: &Path) -> PathBuf {
    socket.with_extension("new")
}

/// Lets callers see the socket: only now, since a caller must never meet a daemon with more power
/// than it declares.
fn publish(layout: &Layout, service: Daemon) -> Result<(), BuildError> {
    let socket = layout.socket(service);
    std::fs::rename(unpublished(&socket), &socket)
        .map_err(|e| format!("publish {}: {e}", socket.display()).into())
}

/// Takes the daemon's lock, so that there is one of it, and binds its socket, not yet at its place.
/// A socket that is left there from a daemon that was killed is replaced when the new one is
/// published; anything else there is left alone.
fn bind(layout: &Layout, service: Daemon) -> Result<(Flock<File>, UnixListener), BuildError> {
    let socket = layout.socket(service);
    let dir = socket.parent().unwrap_or_else(|| Path::new("/"));
    std::fs::create_dir_all(dir).map_err(|e| format!("make {}: {e}", dir.display()))?;
    let lock = socket.with_extension("lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&lock)
        .map_err(|e| format!("open {}: {e}", lock.display()))?;
    let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock)
        .map_err(|(_, e)| format!("another daemon holds {}: {e}", lock.display()))?;
    match std::fs::symlink_metadata(&socket) {
        Ok(there) if there.file_type().is_socket() => {}
        Ok(_) => return Err(format!("{} is in the way and no socket", socket.display()).into()),
        Err(_) => {}
    }
    let socket = unpublished(&socket);
    let listener = replace(&socket).map_err(|e| format!("bind {}: {e}", socket.display()))?;
    let mode = if service == Daemon::Coordinator {
        // Anybody may connect; the gate decides by credentials.
        0o666
    } else {
        // A service manager may have started this daemon with that group.
        let group = std::fs::metadata(&socket).map(|there| there.gid())?;
        if let Some(user) = nix::unistd::User::from_name(COORDINATOR_USER)?
            && nix::unistd::geteuid().is_root()
            && user.gid.as_raw() != group
        {
            chown(&socket, None, Some(user.gid.as_raw()))?;
        }
        0o660
    };
    std::fs::set_permissions(&socket, Permissions::from_mode(mode))?;
    Ok((lock, listener))
}

/// Binds a socket in the place of one that an earlier daemon left.
pub(crate) fn replace(socket: &Path) -> Result<UnixListener, std::io::Error> {
    match std::fs::remove_file(socket) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
        Ok(()) | Err(_) => {}
    }
    UnixListener::bind(socket)
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
///
/// # Errors
/// When an operator does not exist or the transport fails.
pub async fn serve_on(
    listener: tokio::net::UnixListener,
    app: App,
    shutdown: impl Future<Output = ()>,
) -> Result<(), BuildError> {
    let App { routes, policy, services, operators } = app;
    let peers = Peers::lookup(&operators)?;
    let (health, health_service) = tonic_health::server::health_reporter();
    for name in services {
        health.set_service_status(*name, tonic_health::ServingStatus::Serving).await;
    }
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(ves_proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = tonic::transport::Server::builder()
        .layer(GateLayer::new(policy, peers))
        .add_routes(routes)
        .add_service(health_service)
        .add_service(reflection)
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), async {
            // An error means that the sender is gone, which is the same wish.
            stopped.await.ok();
        });
    tokio::pin!(server);
    tokio::select! {
        // The server ends by itself only by failing.
        ended = &mut server => return Ok(ended?),
        () = shutdown => {}
    }
    stop.send(()).ok();
    // Calls that do not end in time are cut; their work goes on until the process ends and is
    // taken up again after the next start.
    tokio::time::timeout(DRAIN, server).await.unwrap_or(Ok(()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ves_proto::{Fault, Reason, network};

    /// The services a daemon lists.
    async fn reflected(channel: crate::client::Traced) -> Vec<String> {
        use tonic_reflection::pb::v1;
        use v1::server_reflection_request::MessageRequest;
        use v1::server_reflection_response::MessageResponse;
        let request = v1::ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::ListServices(String::new())),
        };
        let mut client = v1::server_reflection_client::ServerReflectionClient::new(channel);
        let answers = client.server_reflection_info(tokio_stream::iter([request])).await;
        let mut answers = answers.expect("answered").into_inner();
        let answer = answers.message().await.expect("no fault").expect("an answer");
        let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
            return Vec::new();
        };
        list.service.into_iter().map(|s| s.name).collect()
    }

    /// A daemon without services of its own, on a socket in a directory of the test's.
    #[tokio::test]
    async fn answers_health_refuses_what_has_no_row_and_drains() {
        let dir = tempfile::tempdir().expect("a directory");
        let layout = Layout::new(dir.path(), dir.path());
        let (_lock, listener) = bind(&layout, Daemon::Network).expect("bound");
        assert!(bind(&layout, Daemon::Network).is_err(), "there is one already");
        assert!(!layout.socket(Daemon::Network).exists(), "nobody sees it yet");
        publish(&layout, Daemon::Network).expect("published");
        listener.set_nonblocking(true).expect("set");
        let listener = tokio::net::UnixListener::from_std(listener).expect("in the runtime");
        let app = App {
            routes: Routes::default(),
            policy: &[],
            services: &["ves.network.v1.NetworkService"],
            operators: vec![],
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

        let listed = reflected(channel.clone()).await;
        for name in ["ves.network.v1.NetworkService", "grpc.health.v1.Health"] {
            assert!(listed.iter().any(|l| l == name), "{name}: {listed:?}");
        }

        let mut client = network::network_service_client::NetworkServiceClient::new(channel);
        let status = client.list_interfaces(network::ListInterfacesRequest {}).await;
        let fault = Fault::from(status.expect_err("refused"));
        assert_eq!(fault.reason, Reason::NotAllowed);
        assert_eq!(fault.facts["rpc"], "/ves.network.v1.NetworkService/ListInterfaces");

        stop.send(()).expect("served until now");
        served.await.expect("no panic").expect("drained");
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
        };
        let error = serve_on(listener, app, async {}).await.expect_err("no such user");
        assert!(error.to_string().contains("no-such-user"), "{error}");
    }

    #[test]
    fn what_is_in_the_way_is_left_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let layout = Layout::new(dir.path(), dir.path());
        let socket = layout.socket(Daemon::Storage);
        std::fs::write(&socket, "not a socket").expect("written");
        assert!(bind(&layout, Daemon::Storage).is_err());
        assert_eq!(std::fs::read(&socket).expect("still there"), b"not a socket");
    }
}
