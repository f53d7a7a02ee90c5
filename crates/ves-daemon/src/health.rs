//! Health of each service, true about the other daemons that it needs: where one of them cannot be reached, a
//! service that can do nothing without it is not serving.
//!
//! Each daemon's own health is watched by a stream, which ends when the daemon does: nothing is polled while it
//! lives. Health of the daemon itself, which has the empty name, is that it answers. Never here: which service
//! needs what.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic_health::ServingStatus;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus as Told;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::server::HealthReporter;

use crate::client;

/// How long to wait at first before a daemon that is away is asked again, and at most.
const SOON: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(2);

/// A service and the socket of another daemon that it needs.
pub type Need = (&'static str, PathBuf);

/// The sockets of daemons that are reached.
type Reached = watch::Sender<BTreeSet<PathBuf>>;

/// Tells `health` of these services while no other daemon is reached.
pub(crate) async fn begin(health: &HealthReporter, services: &[&'static str], needs: &[Need]) {
    set(health, services, needs, &BTreeSet::new()).await;
}

async fn set(
    health: &HealthReporter,
    services: &[&'static str],
    needs: &[Need],
    reached: &BTreeSet<PathBuf>,
) {
    for service in services {
        let lacks = needs.iter().any(|(of, socket)| of == service && !reached.contains(socket));
        let status = if lacks { ServingStatus::NotServing } else { ServingStatus::Serving };
        health.set_service_status(service, status).await;
    }
}

/// Follows the other daemons and tells `health` of these services, for ever.
pub(crate) async fn tell(health: HealthReporter, services: &[&'static str], needs: &[Need]) {
    let reached = Reached::default();
    let mut followed = JoinSet::new();
    for socket in needs.iter().map(|(_, socket)| socket).collect::<BTreeSet<_>>() {
        followed.spawn(follow(socket.clone(), reached.clone()));
    }
    let mut changes = reached.subscribe();
    loop {
        let now = changes.borrow_and_update().clone();
        set(&health, services, needs, &now).await;
        // Never closed: a sender is here.
        changes.changed().await.ok();
    }
}

/// Ends what watches health, which would else wait for news until it is cut.
pub(crate) async fn end(mut health: HealthReporter, services: &[&'static str]) {
    for service in services.iter().copied().chain([""]) {
        health.set_service_status(service, ServingStatus::NotServing).await;
        health.clear_service_status(service).await;
    }
}

/// Says for ever whether the daemon at `socket` serves.
async fn follow(socket: PathBuf, reached: Reached) {
    let mut before = None;
    let mut say = |now: bool| {
        reached.send_if_modified(|all| {
            if now { all.insert(socket.clone()) } else { all.remove(&socket) }
        });
        match (before.replace(now), now) {
            (Some(true) | None, false) => {
                tracing::warn!(socket = %socket.display(), "a daemon cannot be reached");
            }
            (Some(false), true) => {
                tracing::info!(socket = %socket.display(), "a daemon is reached again");
            }
            (None | Some(true), true) | (Some(false), false) => {}
        }
    };
    let mut client = HealthClient::new(client::untraced(&socket));
    let mut pause = SOON;
    loop {
        if let Ok(stream) = client.watch(HealthCheckRequest::default()).await {
            let mut stream = stream.into_inner();
            while let Ok(Some(told)) = stream.message().await {
                pause = SOON;
                say(told.status() == Told::Serving);
            }
        }
        say(false);
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST);
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;
    use tokio::sync::oneshot;
    use tokio::time::{Instant, timeout};
    use tonic::service::Routes;

    use super::*;
    use crate::App;

    const PATIENCE: Duration = Duration::from_secs(20);
    const NEEDING: &str = "ves.network.v1.NetworkService";
    const ALONE: &str = "ves.storage.v1.StorageService";

    /// Serves at `socket` until the sender is gone.
    fn serve(
        socket: &std::path::Path,
        needs: Vec<Need>,
    ) -> (oneshot::Sender<()>, tokio::task::JoinHandle<()>) {
        std::fs::remove_file(socket).ok(); // none the first time
        let listener = UnixListener::bind(socket).expect("bound");
        let services = &[NEEDING, ALONE];
        let app = App {
            routes: Routes::default(),
            policy: &[],
            services,
            operators: vec![],
            needs,
            network: None,
        };
        let (stop, stopped) = oneshot::channel();
        let served = crate::serve_on(listener, app, async { stopped.await.unwrap_or(()) });
        (stop, tokio::spawn(async { served.await.expect("drained") }))
    }

    #[tokio::test]
    async fn a_service_serves_while_what_it_needs_is_there() {
        let dir = tempfile::tempdir().expect("a directory");
        let (own, other) = (dir.path().join("own"), dir.path().join("other"));
        let (_stop, _served) = serve(&own, vec![(NEEDING, other.clone())]);
        let mut health = HealthClient::new(client::untraced(&own));
        for (service, status) in
            [("", Told::Serving), (ALONE, Told::Serving), (NEEDING, Told::NotServing)]
        {
            let request = HealthCheckRequest { service: service.to_owned() };
            let answer = health.check(request).await.expect("answered").into_inner();
            assert_eq!(answer.status(), status, "{service:?}");
        }
        let request = HealthCheckRequest { service: NEEDING.to_owned() };
        let mut told = health.watch(request).await.expect("it streams").into_inner();
        let mut next = async || {
            let news = timeout(PATIENCE, told.message()).await.expect("in time");
            news.expect("no failure").expect("it goes on").status()
        };
        assert_eq!(next().await, Told::NotServing);
        for _ in 0..2 {
            let (stop, served) = serve(&other, vec![]);
            assert_eq!(next().await, Told::Serving);
            let begun = Instant::now();
            drop(stop);
            assert_eq!(next().await, Told::NotServing);
            served.await.expect("no panic");
            assert!(
                begun.elapsed() < Duration::from_secs(2),
                "who watches health is not waited for"
            );
        }
    }
}
