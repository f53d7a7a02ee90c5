//! The clients in Python, TypeScript and Go each live a container's life on a real node, by its socket and from the
//! network, where each has a token too; so does the panel of the examples, and curl does the same by JSON. Never here:
//! what the clients do, which stands beside each of them.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::SystemTime;

use serde_json::{Value, json};
use ves_kit::{Rootfs, TestNode, clients, need, node, python, run, stack};
use ves_pki::{Pki, write_out};
use ves_types::layout::{COORDINATOR_USER, Daemon};
use ves_types::{Grant, GrantRole};

/// What clients are tested in.
#[derive(Debug, Clone, Copy)]
enum Test {
    Life,
    Token,
}

/// What starts a client's test.
fn programs(test: Test) -> [(&'static str, Command); 3] {
    let (name, name_in_go) = match test {
        Test::Life => ("life", "^TestLife$"),
        Test::Token => ("token", "^TestToken$"),
    };
    let mut in_python = Command::new(python::dir().join("bin/python"));
    in_python.arg("-B").arg(clients::python().join(format!("tests/test_{name}.py")));
    let mut in_typescript = Command::new("node");
    in_typescript.arg(clients::node_test().with_file_name(format!("{name}.test.js")));
    let mut in_go = Command::new(clients::go_test());
    in_go.args(["-test.v", "-test.run", name_in_go]);
    [("Python", in_python), ("TypeScript", in_typescript), ("Go", in_go)]
}

/// Lets each go through a test by itself, all at once: `settings` say how the node is reached.
#[track_caller]
fn let_all(test: Test, node: &TestNode, settings: &[(&str, &str)]) {
    let begin = |(name, mut program): (&'static str, Command)| {
        let ct = node.ct();
        program.envs(settings.iter().copied()).env("VES_TEST_TEMPLATE", "plain");
        program.env("VES_TEST_CT", ct.to_string());
        program.env("VES_TEST_ADDRESS", node::ipv4(ct).to_string());
        (name, start(program))
    };
    let begun = programs(test).map(begin);
    let ended = begun.map(|(name, child)| (name, child.wait_with_output().expect("it ends")));
    for (name, out) in ended {
        let said = [out.stdout, out.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(out.status.success(), "the client in {name}: {}\n{said}", out.status);
    }
}

fn start(mut program: Command) -> Child {
    let piped = program.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    piped.spawn().expect("it starts")
}

/// An authority in a directory, with the certificate of a server that is `localhost`, and an operator's: the paths of
/// what the operator has.
fn authority(dir: &Path) -> [String; 3] {
    let group = stack::account(COORDINATOR_USER).expect("accounts are known");
    let (name, now) = ("panel".parse().expect("valid"), SystemTime::now());
    let hosts = ["localhost".parse().expect("valid")];
    let pki =
        Pki::init(dir, &"test".parse().expect("valid"), &hosts, group.map(|(_, gid)| gid), now);
    let operator = Grant::new(GrantRole::Operator, BTreeSet::new()).expect("valid");
    let issued = pki.and_then(|pki| pki.issue(&name, &operator, 1, now)).expect("an authority");
    let files = write_out(&issued, &dir.join("panel")).expect("files of a client");
    files.map(|file| file.display().to_string())
}

/// curl, and what it is given of itself.
struct Curl<'a> {
    /// Whom it trusts.
    ca: &'a str,
    /// As whom it asks.
    who: Vec<String>,
}

impl Curl<'_> {
    /// The code and the JSON of an answer; curl's own status where there is none.
    fn asked(&self, more: &[&str], url: &str) -> Result<(u64, Value), i32> {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "-m", "60", "-w", "\n%{http_code}", "--cacert", self.ca]);
        curl.args(&self.who).args(more).arg(url);
        let out = curl.output().expect("curl starts");
        if !out.status.success() {
            return Err(out.status.code().unwrap_or(-1));
        }
        let said = String::from_utf8(out.stdout).expect("text");
        let (body, code) = said.rsplit_once('\n').expect("a code");
        let body = serde_json::from_str(body).unwrap_or_else(|e| panic!("{url}: {e}: {body}"));
        Ok((code.parse().expect("a number"), body))
    }

    /// Sends JSON.
    fn sent(&self, url: &str, body: &Value) -> (u64, Value) {
        let body = body.to_string();
        let more = ["-H", "content-type: application/json", "-d", &*body];
        self.asked(&more, url).expect("an answer")
    }

    /// The reason of a failure and what is known of it.
    #[track_caller]
    fn fails(&self, more: &[&str], url: &str, code: u64) -> (String, Value) {
        let (got, body) = self.asked(more, url).expect("an answer");
        assert_eq!((got, &body["error"]["code"]), (code, &json!(code)), "{body}");
        let details = body["error"]["details"].as_array().expect("details");
        let of = |d: &&Value| d["@type"] == "type.googleapis.com/google.rpc.ErrorInfo";
        let info = details.iter().find(of).unwrap_or_else(|| panic!("no ErrorInfo: {body}"));
        (info["reason"].as_str().expect("a reason").to_owned(), info["metadata"].clone())
    }
}

/// A container is made, listed and taken away by curl with a certificate; a token is made, used, and used no more.
fn by_curl(node: &TestNode, far: &str, certified: &Curl<'_>, cert: &str) {
    let at = |path: &str| format!("{far}/v1/{path}");
    let wait = |operation: &Value| {
        let name = operation["name"].as_str().expect("an operation");
        let (code, ended) =
            certified.sent(&at(&format!("{name}:wait")), &json!({"timeout": "60s"}));
        assert_eq!((code, &ended["state"]), (200, &json!("STATE_SUCCEEDED")), "{ended}");
    };
    let ct = node.ct();
    let spec = json!({"template": "templates/plain", "volumes": [{"id": "root", "sizeBytes": "134217728"}]});
    let create = |spec: &Value| json!({"ctId": u32::from(ct), "requestId": "by-curl", "container": {"spec": spec}});
    let wrong = json!({"template": "templates/plain", "hostname": "no host name"});
    let (code, refused) = certified.sent(&at("containers"), &create(&wrong));
    assert_eq!(code, 400, "{refused}");
    assert!(refused.to_string().contains("container.spec.hostname"), "{refused}");
    let (code, operation) = certified.sent(&at("containers"), &create(&spec));
    assert_eq!((code, &operation["actor"]["id"]), (200, &json!("panel")), "{operation}");
    wait(&operation);
    let name = json!(format!("containers/{ct}"));
    let lists = |curl: &Curl<'_>, more: &[&str]| {
        let (code, listed) = curl.asked(more, &at("containers")).expect("an answer");
        assert_eq!(code, 200, "{listed}");
        let all = listed["containers"].as_array().cloned().unwrap_or_default();
        assert!(all.iter().any(|each| each["name"] == name), "{listed}");
    };
    lists(certified, &[]);
    lists(certified, &["--http1.1"]);
    let missing = certified.fails(&[], &at("containers/2147483000"), 404);
    assert_eq!(missing, ("CONTAINER_UNKNOWN".into(), json!({"ct": "2147483000"})));
    let page = certified.fails(&["-H", "origin: https://panel.example"], &at("containers"), 403);
    assert_eq!(page.0, "BAD_VALUE", "a browser's page has nothing from it");

    // Root of this machine makes tokens, by curl too.
    let socket = node.layout().socket(Daemon::Coordinator).display().to_string();
    let root = Curl { ca: certified.ca, who: vec!["--unix-socket".into(), socket] };
    let token = json!({"token": {"holder": "by-curl", "role": "ACCESS_ROLE_OPERATOR"}});
    let (code, made) = root.sent("http://localhost/v1/tokens", &token);
    assert_eq!(code, 200, "{made}");
    let bearer = format!("authorization: Bearer {}", made["secret"].as_str().expect("a secret"));
    let with_token = Curl { ca: certified.ca, who: vec!["-H".into(), bearer.clone()] };
    lists(&with_token, &[]);
    let (reason, facts) = with_token.fails(&[], &at("tokens"), 403);
    assert_eq!((&*reason, &facts["principal"]), ("NOT_ALLOWED", &json!("token:by-curl")));
    let (code, deleted) = with_token
        .asked(&["-X", "DELETE"], &at(&format!("containers/{ct}?requestId=by-curl-too")))
        .expect("an answer");
    assert_eq!(code, 200, "{deleted}");
    wait(&deleted);

    // Who shows both, a token twice, or nothing is nobody, and so is the holder once it is revoked.
    let why = |curl: &Curl<'_>, more: &[&str]| {
        let (reason, facts) = curl.fails(more, &at("containers"), 401);
        assert_eq!(reason, "UNAUTHENTICATED");
        facts["why"].as_str().expect("why").to_owned()
    };
    let nobody = Curl { ca: certified.ca, who: vec![] };
    assert_eq!(why(certified, &["-H", &bearer]), "both");
    assert_eq!(why(&with_token, &["-H", "Authorization: Bearer other"]), "malformed");
    assert_eq!(why(&nobody, &[]), "none");
    let name = made["token"]["name"].as_str().expect("a name");
    let (code, gone) =
        root.asked(&["-X", "DELETE"], &format!("http://localhost/v1/{name}")).expect("an answer");
    assert_eq!(code, 200, "{gone}");
    assert_eq!(why(&with_token, &[]), "unknown");
    // A server that is not certified by whom the client trusts.
    let stranger = Curl { ca: cert, who: vec![] };
    assert_eq!(stranger.asked(&[], &at("containers")), Err(60));
}

#[test]
fn clients_in_other_languages_live_a_containers_life() {
    need!(node::node(), clients::all(), need::program("curl", "curl"));
    let pki = tempfile::Builder::new().prefix("ves-pki-").tempdir().expect("a directory");
    // The coordinator's account must get through to what it may read.
    run("chmod", &["0755", pki.path().to_str().expect("test paths are text")]);
    let pki = pki.path().join("pki");
    let [cert, key, ca] = authority(&pki);
    // It is free again when the coordinator wants it.
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|free| free.local_addr());
    let address = free.expect("a free port");
    let pki = pki.display();
    let listen = format!("[service.listen]\ntcp = ['{address}']\npki = '{pki}'\ntokens = true\n");
    let node = TestNode::start_with(|which, _| match which {
        Daemon::Coordinator => listen.clone(),
        _ => String::new(),
    });
    let node = node.with_template("plain", &Rootfs::busybox());
    let socket = format!("unix:{}", node.layout().socket(Daemon::Coordinator).display());
    let_all(Test::Life, &node, &[("VES_TEST_TARGET", &socket)]);
    let far = format!("https://localhost:{}", address.port());
    let target = [("VES_TEST_TARGET", &*far), ("VES_TEST_CA", &*ca)];
    let certified = [("VES_TEST_CERT", &*cert), ("VES_TEST_KEY", &*key)];
    let_all(Test::Life, &node, &[target, certified].concat());
    let_all(Test::Token, &node, &[&target[..], &[("VES_TEST_ADMIN", &*socket)]].concat());
    let who = vec!["--cert".into(), cert.clone(), "--key".into(), key];
    by_curl(&node, &far, &Curl { ca: &ca, who }, &cert);

    let ct = node.ct();
    let mut panel = Command::new(python::dir().join("bin/python"));
    panel.arg("-B").arg(clients::panel()).args([&socket, "plain"]);
    panel.args([ct.to_string(), node::ipv4(ct).to_string()]);
    let out = start(panel).wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{said}{}", String::from_utf8_lossy(&out.stderr));
    let refused = format!("second: ADDRESS_TAKEN, {} is of {ct}", node::ipv4(ct));
    for line in ["page: there", &refused, "bill: 0.", "delete: "] {
        assert!(said.contains(line), "{line:?} is not in:\n{said}");
    }
}
