//! The network on loopback: who is served, who is not, and why.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Mutex;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use ves_proto::{Fault, Reason};

use super::addresses::{AddressPermits, NetworkLimits};
use super::tcp::{Common, Tcp};
use super::*;
use crate::principal::Identity;
use crate::tls::authority::{Authority, authority, grant};
use crate::tls::{Remote, Trust};
use crate::token::{Tokens, refused};

const GET_NODE: &str = "/ves.network.v1.NetworkService/GetNode";
/// Bounds for whom a test does not want to wait.
const SOON: Bounds = Bounds {
    first_call: Duration::from_millis(400),
    stranger_time: Duration::from_secs(30),
    stranger_sends: 64 * 1024,
    stranger_gets: 64 * 1024,
    check: Duration::from_millis(50),
};

/// Knows two tokens, of which one may be revoked.
#[derive(Debug, Default)]
struct TwoTokens {
    revoked: Mutex<bool>,
}

impl Tokens for TwoTokens {
    fn holder(&self, token: &str) -> Result<Principal, Fault> {
        match token {
            "good" | "better" if self.counts(token) => {
                let name = token.parse().expect("a name");
                Ok(Principal::granted(Identity::Token { id: token.into(), name }, &grant()))
            }
            _ => Err(refused("unknown", "no such token")),
        }
    }
    fn counts(&self, id: &str) -> bool {
        id != "good" || !*self.revoked.lock().expect("whole")
    }
}

/// A node that listens, and who is trusted there.
struct Node {
    address: SocketAddr,
    trust: Arc<Trust>,
    tokens: Arc<TwoTokens>,
    permits: Arc<AddressPermits>,
    accounts: Arc<Permits>,
    /// What accounts of this machine are.
    role: Arc<Mutex<Role>>,
    socket: TempDir,
}

async fn node(authority: &Authority, tokens: bool, limits: NetworkLimits) -> Node {
    node_within(SOON, authority, tokens, limits).await
}

async fn node_within(
    bounds: Bounds,
    authority: &Authority,
    tokens: bool,
    limits: NetworkLimits,
) -> Node {
    let trust = Arc::new(Trust::new(authority.dir.path().to_owned(), tokens));
    trust.load().expect("good files");
    let known = Arc::new(TwoTokens::default());
    let permits = AddressPermits::new(limits);
    let refusals = Arc::new(Refusals::new());
    let common = Common {
        trust: Arc::clone(&trust),
        tokens: tokens.then(|| Arc::clone(&known) as Arc<dyn Tokens>),
        permits: Arc::clone(&permits),
        bounds,
        refusals: Arc::clone(&refusals),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("known");
    let socket = tempfile::tempdir().expect("a directory");
    let unix = UnixListener::bind(socket.path().join("s")).expect("bound");
    let policy: crate::Policy = &[(GET_NODE, &[Role::Operator])];
    let role = Arc::new(Mutex::new(Role::Other));
    let known_as = Arc::clone(&role);
    let role_of = move |_: &UCred| *known_as.lock().expect("whole");
    let acceptor = Acceptor::new(unix, true, Arc::clone(&refusals), role_of);
    let mut acceptor = acceptor.expect("limits").with_network(Some(Tcp::at(listener, common)));
    acceptor.bounds = bounds;
    let accounts = Arc::clone(&acceptor.permits);
    let gate = crate::gate::GateLayer::new(policy, refusals).expect("a gate");
    let routes = tonic::service::Routes::default();
    let app = crate::App {
        routes,
        policy,
        services: &[],
        operators: vec![],
        needs: vec![],
        network: None,
    };
    tokio::spawn(crate::serve::serve_all(acceptor, gate, app, std::future::pending()));
    Node { address, trust, tokens: known, permits, accounts, role, socket }
}

impl Node {
    fn remote(&self, ca: &Path, certificate: Option<&Path>, token: Option<&str>) -> Remote {
        let endpoint = format!("https://localhost:{}", self.address.port());
        let key = certificate.map(|path| path.with_extension("key"));
        Remote::new(&endpoint, ca, certificate.zip(key.as_deref()), token).expect("good files")
    }

    async fn asked(
        &self,
        authority: &Authority,
        name: Option<&str>,
        token: Option<&str>,
    ) -> Result<(), Fault> {
        let certificate = name.map(|name| authority.path(&format!("{name}.crt")));
        let ca = authority.path("ca.crt");
        check(crate::client::remote(self.remote(&ca, certificate.as_deref(), token))).await
    }
}

async fn check(channel: crate::client::Traced) -> Result<(), Fault> {
    let answer = HealthClient::new(channel).check(HealthCheckRequest::default()).await;
    answer.map(drop).map_err(|status| {
        assert_ne!(status.code(), Code::Internal, "{status}");
        Fault::from(status)
    })
}

fn usual() -> NetworkLimits {
    NetworkLimits::of(65536)
}

#[tokio::test]
async fn a_certificate_of_ours_is_served_and_no_other() {
    let (ours, theirs) = (authority(), authority());
    ours.operator("good", 1);
    ours.operator("revoked", 2);
    ours.client("expired", 3, &grant().uris(), [-9, -1]);
    ours.client("early", 4, &grant().uris(), [1, 9]);
    ours.client("mute", 5, &[], [-1, 1]);
    ours.revoke(&[2]);
    theirs.operator("foreign", 1);
    for name in ["foreign.crt", "foreign.key"] {
        fs::copy(theirs.path(name), ours.path(name)).expect("copied");
    }
    let node = node(&ours, false, usual()).await;
    assert_eq!(node.asked(&ours, Some("good"), None).await, Ok(()));
    for name in [Some("revoked"), Some("expired"), Some("early"), Some("foreign"), None] {
        let fault = node.asked(&ours, name, None).await.expect_err("closed in the handshake");
        assert_eq!(fault.reason, Reason::PeerDown, "{name:?}: {fault}");
    }
    let server = Some("server");
    assert!(node.asked(&ours, server, None).await.is_err(), "its own is no client's");
    let fault = node.asked(&ours, Some("mute"), None).await.expect_err("no role");
    assert_eq!((fault.reason, &*fault.facts["why"]), (Reason::Unauthenticated, "certificate"));
    let fault = node.asked(&ours, Some("good"), Some("good")).await.expect_err("both");
    assert_eq!((fault.reason, &*fault.facts["why"]), (Reason::Unauthenticated, "both"));
    let foreign = node.remote(&theirs.path("ca.crt"), Some(&ours.path("good.crt")), None);
    assert!(foreign.connect().await.is_err(), "the client trusts another");
}

#[tokio::test]
async fn what_is_revoked_ends_on_connections_that_there_are() {
    let ours = authority();
    ours.operator("one", 1);
    ours.operator("two", 2);
    let node = node(&ours, false, usual()).await;
    let channel = |name: &str| {
        let certificate = ours.path(&format!("{name}.crt"));
        crate::client::remote(node.remote(&ours.path("ca.crt"), Some(&certificate), None))
    };
    let (one, two) = (channel("one"), channel("two"));
    let mut streams = Vec::new();
    for channel in [&one, &two] {
        let watch = HealthClient::new(channel.clone()).watch(HealthCheckRequest::default()).await;
        let mut watch = watch.expect("it streams").into_inner();
        watch.message().await.expect("no fault").expect("the present state");
        streams.push(watch);
    }
    ours.revoke(&[1]);
    node.trust.load().expect("good files");
    let cut = tokio::time::timeout(Duration::from_secs(10), streams[0].message()).await;
    cut.expect("it ends").expect_err("cut");
    assert!(check(one).await.is_err(), "and cannot be made again");
    assert_eq!(check(two).await, Ok(()), "another goes on");
    let still = tokio::time::timeout(4 * SOON.check, streams[1].message()).await;
    still.expect_err("it goes on");

    fs::write(ours.path("crl.pem"), "rubbish").expect("written");
    node.trust.load().expect_err("no good");
    assert!(node.asked(&ours, Some("one"), None).await.is_err(), "what was good is kept");
    assert_eq!(node.asked(&ours, Some("two"), None).await, Ok(()));
    // A second list of the same authority, which would not be looked at.
    let list = |serials: &[u64]| {
        ours.revoke(serials);
        fs::read_to_string(ours.path("crl.pem")).expect("written")
    };
    fs::write(ours.path("crl.pem"), list(&[1]) + &list(&[2])).expect("written");
    let error = node.trust.load().expect_err("which one counts?").to_string();
    assert!(error.contains("two lists are of CN=authority"), "{error}");
    fs::remove_file(ours.path("crl.pem")).expect("removed");
    node.trust.load().expect_err("a list that is gone revokes nothing less");
}

#[tokio::test]
async fn tokens_count_where_they_should_and_no_longer() {
    let ours = authority();
    ours.operator("good", 1);
    let without = node(&ours, false, usual()).await;
    assert!(without.asked(&ours, None, Some("good")).await.is_err());
    let node = node(&ours, true, usual()).await;
    assert_eq!(node.asked(&ours, Some("good"), None).await, Ok(()), "certificates too");
    assert_eq!(node.asked(&ours, None, Some("good")).await, Ok(()));
    for (token, why) in [(None, "none"), (Some("bad"), "unknown")] {
        let fault = node.asked(&ours, None, token).await.expect_err("nobody");
        assert_eq!((fault.reason, &*fault.facts["why"]), (Reason::Unauthenticated, why));
    }
    let remote = node.remote(&ours.path("ca.crt"), None, Some("good"));
    let mut client = HealthClient::new(crate::client::remote(remote));
    let watch = client.watch(HealthCheckRequest::default()).await.expect("it streams");
    let mut watch = watch.into_inner();
    watch.message().await.expect("no fault").expect("the present state");
    *node.tokens.revoked.lock().expect("whole") = true;
    let cut = tokio::time::timeout(Duration::from_secs(10), watch.message()).await;
    cut.expect("it ends").expect_err("cut");
    assert!(node.asked(&ours, None, Some("good")).await.is_err(), "replayed");
    assert_eq!(node.asked(&ours, None, Some("better")).await, Ok(()));
}

/// How long until the other side ends the connection, and what it said.
async fn ended(mut stream: TcpStream) -> (Duration, Vec<u8>) {
    let begun = tokio::time::Instant::now();
    let mut rest = Vec::new();
    let end = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut rest));
    end.await.expect("it ends").ok();
    (begun.elapsed(), rest)
}

/// A `ClientHello` of TLS 1.2: no extension says that more is understood.
fn hello_12() -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0xc0, 0x2f, 1, 0]);
    let extensions: &[u8] = &[
        0, 10, 0, 4, 0, 2, 0, 0x17, // groups: secp256r1
        0, 13, 0, 4, 0, 2, 4, 3, // signatures: ecdsa with SHA-256
    ];
    body.extend([0, u8::try_from(extensions.len()).expect("short")]);
    body.extend(extensions);
    let length = u8::try_from(body.len()).expect("short");
    [&[22, 3, 1, 0, length + 4, 1, 0, 0, length][..], &body].concat()
}

#[tokio::test]
async fn who_speaks_something_else_or_nothing_is_closed() {
    let ours = authority();
    ours.operator("good", 1);
    let node = node(&ours, true, usual()).await;
    let connect = async || TcpStream::connect(node.address).await.expect("it listens");
    let (took, said) = ended(connect().await).await;
    assert!(took >= SOON.first_call && said.is_empty(), "nothing is said to who says nothing");
    let mut old = connect().await;
    old.write_all(&hello_12()).await.expect("sent");
    let (took, said) = ended(old).await;
    assert_eq!(said, [21, 3, 3, 0, 2, 2, 70], "an alert: protocol_version");
    assert!(took < SOON.first_call);
    let mut half = connect().await;
    half.write_all(hello_12().get(..20).expect("longer")).await.expect("sent");
    assert!(ended(half).await.0 >= SOON.first_call);
    let mut plain = connect().await;
    plain.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("sent");
    assert!(ended(plain).await.0 < SOON.first_call);
    let other = node.remote(&ours.path("ca.crt"), None, None);
    let stream = connect().await;
    let spoken = other.connect_with(stream, vec![b"h3".to_vec()]).await;
    assert!(spoken.is_err_and(|e| e.to_string().contains("NoApplicationProtocol")));
    // One that has shown its certificate and asks for nothing.
    let certificate = ours.path("good.crt");
    let idle = node.remote(&ours.path("ca.crt"), Some(&certificate), None);
    let mut idle = idle.connect().await.expect("it is ours");
    let begun = Instant::now();
    let mut rest = Vec::new();
    let end = tokio::time::timeout(Duration::from_secs(10), idle.read_to_end(&mut rest)).await;
    end.expect("it ends").ok();
    assert!(begun.elapsed() >= SOON.first_call);
}

#[tokio::test]
async fn an_address_has_its_part() {
    let ours = authority();
    ours.operator("good", 1);
    let limits = NetworkLimits { all: 6, per_address: 4, unknown: 2 };
    let node = node(&ours, false, limits).await;
    let certificate = ours.path("good.crt");
    let ca = ours.path("ca.crt");
    let mut kept = Vec::new();
    for _ in 0..4 {
        let channel = crate::client::remote(node.remote(&ca, Some(&certificate), None));
        assert_eq!(check(channel.clone()).await, Ok(()));
        kept.push(channel);
    }
    assert!(node.asked(&ours, Some("good"), None).await.is_err(), "four are open");
    let elsewhere = node.permits.take("192.0.2.1".parse().expect("one"), Instant::now());
    assert!(elsewhere.is_ok(), "another address has its own");
    for channel in &kept {
        assert_eq!(check(channel.clone()).await, Ok(()), "who is there stays");
    }
    kept.clear();
    let again = async { while node.asked(&ours, Some("good"), None).await.is_err() {} };
    tokio::time::timeout(Duration::from_secs(10), again).await.expect("there is room again");

    let mut silent = Vec::new();
    for _ in 0..2 {
        silent.push(TcpStream::connect(node.address).await.expect("it listens"));
    }
    let begun = Instant::now();
    while begun.elapsed() < SOON.first_call / 2 {
        assert!(node.asked(&ours, Some("good"), None).await.is_err(), "the silent have it");
    }
    let again = async { while node.asked(&ours, Some("good"), None).await.is_err() {} };
    tokio::time::timeout(Duration::from_secs(10), again).await.expect("not for long");
}

/// Bounds under which nobody is closed while a test looks on.
const LATE: Bounds = Bounds {
    first_call: Duration::from_secs(120),
    stranger_time: Duration::from_secs(120),
    ..SOON
};

/// How many descriptors this process has.
fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").expect("Linux").count()
}

/// How much memory this process has, in bytes.
fn memory() -> usize {
    let pages = fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages = pages.split(' ').nth(1).expect("resident pages");
    pages.parse::<usize>().expect("a number") * 4096
}

/// Waits until a number is this one.
async fn becomes(what: &str, wanted: usize, now: impl Fn() -> usize) {
    let waiting = async {
        while now() != wanted {
            sleep(Duration::from_millis(10)).await;
        }
    };
    let done = tokio::time::timeout(Duration::from_secs(60), waiting).await;
    assert!(done.is_ok(), "{what}: {}, not {wanted}", now());
}

/// A client that wants nothing but a place.
enum Slow {
    Tcp { _stream: TcpStream },
    Tls { _stream: Box<tokio_rustls::client::TlsStream<TcpStream>> },
}

/// So many of an address: a part of them silent, a part in the middle of the handshake, or of their first request.
async fn slow(node: &Node, remote: &Remote, address: [u8; 4], held: usize) -> Vec<Slow> {
    let mut all = Vec::new();
    for n in 0..held {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.bind((address, 0).into()).expect("an address of ours");
        let mut stream = socket.connect(node.address).await.expect("it listens");
        all.push(match n % 8 {
            0..=2 => Slow::Tcp { _stream: stream },
            3..=5 => {
                let hello = hello_12();
                stream.write_all(hello.get(..30).expect("longer")).await.expect("sent");
                Slow::Tcp { _stream: stream }
            }
            odd => {
                let protocol = if odd == 6 { b"h2".to_vec() } else { b"http/1.1".to_vec() };
                let begun = if odd == 6 { "PRI * HTTP/2.0\r\n\r\nSM" } else { "GET /v1/nodes HT" };
                let shaken = remote.connect_with(stream, vec![protocol]).await;
                let mut stream = shaken.expect("the server is ours");
                stream.write_all(begun.as_bytes()).await.expect("sent");
                stream.flush().await.expect("sent");
                Slow::Tls { _stream: Box::new(stream) }
            }
        });
    }
    all
}

/// Whether a connection that is made from there is closed at once.
async fn closed(node: &Node, address: [u8; 4]) -> bool {
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.bind((address, 0).into()).expect("an address of ours");
    let mut stream = socket.connect(node.address).await.expect("it listens");
    let mut byte = [0];
    let end = tokio::time::timeout(Duration::from_secs(60), stream.read(&mut byte)).await;
    // An end, or a reset.
    end.is_ok_and(|read| !matches!(read, Ok(1..)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_that_say_little_take_no_more_than_their_part() {
    // Both ends of each are in this process.
    raise_descriptors().expect("raised");
    let (most, _) = getrlimit(Resource::RLIMIT_NOFILE).expect("known");
    assert!(most >= 8192, "the limit of descriptors is {most}, and the test needs 8192");
    let ours = authority();
    ours.operator("good", 1);
    let limits = usual();
    let node = node_within(LATE, &ours, true, limits).await;
    let ca = ours.path("ca.crt");
    let certificate = ours.path("good.crt");
    let begun = (descriptors(), memory());
    let honest = crate::client::remote(node.remote(&ca, Some(&certificate), None));
    assert_eq!(check(honest.clone()).await, Ok(()));
    let remote = node.remote(&ca, None, None);

    let mut held = Vec::new();
    let full = limits.all / limits.unknown;
    for nth in 1..=full {
        let address = [127, 0, 1, u8::try_from(nth).expect("few")];
        let left = limits.all - node.permits.open();
        held.extend(slow(&node, &remote, address, limits.unknown.min(left)).await);
        if nth == full / 2 {
            assert!(closed(&node, address).await, "an address has {}", limits.unknown);
            assert_eq!(node.asked(&ours, Some("good"), None).await, Ok(()), "who is new");
            assert_eq!(node.asked(&ours, None, Some("good")).await, Ok(()), "with a token too");
        }
        becomes("accepted", (held.len() + 1).min(limits.all), || node.permits.open()).await;
    }
    assert_eq!((held.len() + 1, node.permits.open()), (limits.all, limits.all));
    for nth in 0..200 {
        assert!(closed(&node, [127, 0, 2, nth]).await, "there is no place for {nth}");
    }
    assert_eq!(node.permits.open(), limits.all);
    assert_eq!(check(honest.clone()).await, Ok(()), "who was there stays, and is answered");

    // The socket is the node's own: what the network does is nothing to it, nor are strangers to root.
    let path = node.socket.path().join("s");
    let (descriptors_now, _) = getrlimit(Resource::RLIMIT_NOFILE).expect("known");
    let part = Limits::of(descriptors_now, true).per_stranger;
    let mut strangers = Vec::new();
    for _ in 0..2000 {
        strangers.push(UnixStream::connect(&path).await.expect("it listens"));
        if strangers.len() > 2 * part {
            // Those are closed already: only their places would count.
            strangers.remove(part);
        }
    }
    becomes("strangers", part, || node.accounts.strangers()).await;
    *node.role.lock().expect("whole") = Role::Root;
    assert_eq!(check(crate::client::channel(&path)).await, Ok(()), "root is answered");
    let each = memory().saturating_sub(begun.1) / limits.all;
    println!("{} connections take {each} bytes each, both ends together", limits.all);
    assert!(each < 48 * 1024, "{each} bytes");

    drop((held, strangers, honest));
    becomes("places", 0, || node.permits.open()).await;
    becomes("places of strangers", 0, || node.accounts.strangers()).await;
    assert_eq!(node.asked(&ours, Some("good"), None).await, Ok(()), "there is room again");
    becomes("descriptors", begun.0, descriptors).await;
}
