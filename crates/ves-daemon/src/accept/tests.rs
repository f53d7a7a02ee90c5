//! Real sockets: who gets in, who is closed, and when.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_stream::StreamExt;

use super::*;

/// Bounds for whom a test does not want to wait.
const SOON: Bounds = Bounds {
    first_call: Duration::from_millis(300),
    stranger_time: Duration::from_millis(1500),
    stranger_sends: 1000,
    stranger_gets: 1000,
    check: Duration::from_millis(200),
};

/// An acceptor to which everybody is `role`, and how to connect to it.
fn acceptor(role: Role, public: bool) -> (Acceptor, impl AsyncFn() -> UnixStream) {
    let dir = tempfile::tempdir().expect("a directory");
    let socket = dir.path().join("s");
    let listener = UnixListener::bind(&socket).expect("bound");
    let acceptor = Acceptor::new(listener, public, Refusals::new().into(), move |_| role);
    let connect = async move || {
        let _there = &dir;
        UnixStream::connect(&socket).await.expect("somebody listens")
    };
    (acceptor.expect("limits are known"), connect)
}

/// Serves what comes as an echo that ends with its connection, and says of each that it called.
fn serve(mut acceptor: Acceptor, calls: bool) {
    tokio::spawn(async move {
        while let Some(Ok(connection)) = acceptor.next().await {
            if calls {
                connection.caller().note_call();
            }
            tokio::spawn(async move {
                let (mut from, mut to) = tokio::io::split(connection);
                tokio::io::copy(&mut from, &mut to).await.ok();
            });
        }
    });
}

/// How long until the other side ends the connection.
async fn ended(mut stream: UnixStream) -> Duration {
    let begun = tokio::time::Instant::now();
    let mut rest = Vec::new();
    let end = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut rest));
    end.await.expect("it ends").expect("closed");
    begun.elapsed()
}

async fn echoes(stream: &mut UnixStream) -> bool {
    let mut byte = [0];
    stream.write_all(b"x").await.is_ok() && stream.read_exact(&mut byte).await.is_ok()
}

#[tokio::test]
async fn strangers_fill_their_part_and_nobody_elses() {
    let who = Arc::new(std::sync::Mutex::new(Role::Other));
    let (mut acceptor, connect) = acceptor(Role::Other, true);
    let asked = Arc::clone(&who);
    acceptor.role = Box::new(move |_| *asked.lock().expect("whole"));
    let most = Limits::of(getrlimit(Resource::RLIMIT_NOFILE).expect("known").0, true).per_stranger;
    serve(acceptor, true);
    let mut held = Vec::new();
    for _ in 0..100 {
        let mut stream = connect().await;
        if echoes(&mut stream).await {
            held.push(stream);
        }
    }
    assert_eq!(held.len(), most);
    *who.lock().expect("whole") = Role::Root;
    for _ in 0..100 {
        let mut stream = connect().await;
        assert!(echoes(&mut stream).await, "root always finds a place");
        held.push(stream);
    }
    held.clear();
    *who.lock().expect("whole") = Role::Other;
    let again = async { while !echoes(&mut connect().await).await {} };
    tokio::time::timeout(Duration::from_secs(10), again).await.expect("there is room again");
}

#[tokio::test]
async fn a_socket_of_services_closes_strangers_at_once() {
    let (acceptor, connect) = acceptor(Role::Other, false);
    serve(acceptor, true);
    assert!(!echoes(&mut connect().await).await);
}

#[tokio::test]
async fn who_asks_for_nothing_is_closed_and_who_asked_is_not() {
    for role in [Role::Root, Role::Coordinator, Role::Operator, Role::Other] {
        let (mut acceptor, connect) = acceptor(role, true);
        acceptor.bounds = SOON;
        serve(acceptor, false);
        let took = ended(connect().await).await;
        assert!(took >= SOON.first_call && took < SOON.stranger_time, "{role:?}: {took:?}");
    }
    let mut stay = tokio::task::JoinSet::new();
    for role in [Role::Root, Role::Coordinator, Role::Operator] {
        let (mut acceptor, connect) = acceptor(role, true);
        acceptor.bounds = SOON;
        serve(acceptor, true);
        let connected = connect().await;
        stay.spawn(tokio::time::timeout(2 * SOON.stranger_time, ended(connected)));
    }
    while let Some(waited) = stay.join_next().await {
        assert!(waited.expect("no panic").is_err(), "who is known stays as long as it wants");
    }
}

#[tokio::test]
async fn a_stranger_ends_after_its_time_or_when_it_says_too_much() {
    let (mut acceptor, connect) = acceptor(Role::Other, true);
    acceptor.bounds = SOON;
    serve(acceptor, true);
    let took = ended(connect().await).await;
    assert!(took >= SOON.stranger_time && took < 4 * SOON.stranger_time, "{took:?}");

    let mut talker = connect().await;
    let mut said = 0;
    let mut chunk = [0; 100];
    while talker.write_all(&chunk).await.is_ok() && talker.read_exact(&mut chunk).await.is_ok() {
        said += chunk.len();
        assert!(said <= SOON.stranger_sends, "it was let talk");
    }
    assert_eq!(said, SOON.stranger_sends);
}

#[tokio::test]
async fn a_half_open_connection_is_no_request() {
    // What the gate never sees does not count as a call, however much of it came: a preface and half a frame.
    let (mut acceptor, connect) = acceptor(Role::Other, true);
    acceptor.bounds = SOON;
    let app = crate::App {
        routes: tonic::service::Routes::default(),
        policy: &[],
        services: &[],
        operators: vec![],
        needs: vec![],
        network: None,
    };
    let gate = crate::gate::GateLayer::new(app.policy, Refusals::new().into()).expect("a gate");
    tokio::spawn(crate::serve::serve_all(acceptor, gate, app, std::future::pending()));
    for half in [&b"PRI * HTTP/2.0\r\n"[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x40\x01"] {
        let mut stream = connect().await;
        stream.write_all(half).await.expect("taken");
        let took = ended(stream).await;
        assert!(took >= SOON.first_call && took < SOON.stranger_time, "{took:?}");
    }
}
