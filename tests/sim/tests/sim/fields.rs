//! Every field of every request at its edges, made from the protocol files: whatever it holds, the answer is one
//! of ours, of a bounded size, that a terminal can show, and comes in time.

use std::time::Duration;

use prost::Message;
use prost::bytes::{Buf, BufMut, Bytes};
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, MethodDescriptor,
    ReflectMessage, Value,
};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Code, Request, Status};
use ves_daemon::client::Traced;
use ves_proto::Fault;
use ves_sim::Sim;
use ves_sim::sim::Command;

/// How deep fields of fields go.
const DEPTH: usize = 5;
/// How long an answer may take; a wait that was asked for may take longer and is cut.
const PATIENCE: Duration = Duration::from_secs(5);
/// The most bytes of what a caller is told.
const TOLD: usize = 8 * 1024;
/// An operation, or a snapshot, that there is not.
const NOBODY: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

/// Messages as their bytes.
#[derive(Debug, Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;
    fn encoder(&mut self) -> Self {
        Self
    }
    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;
    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;
    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

/// What is worth trying in a field that is not a list.
fn edges(field: &FieldDescriptor, depth: usize) -> Vec<Value> {
    let texts = || {
        let plain =
            ["", "x", "\0", "\u{1b}[2Jx\r\n", "é🦀\u{202e}", "../../etc/passwd", "-", "%2F"];
        let long = "a".repeat(70_000);
        let names = ["containers/101", "containers/x/../y", "templates/none", "nodes/-", NOBODY];
        let plain = plain.into_iter().chain(names).map(str::to_owned).collect::<Vec<_>>();
        plain.into_iter().chain([long]).map(Value::String).collect()
    };
    match field.kind() {
        Kind::Bool => vec![Value::Bool(true)],
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => {
            [0, 1, -1, i32::MIN, i32::MAX].map(Value::I32).into()
        }
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
            [0, 1, -1, i64::MIN, i64::MAX].map(Value::I64).into()
        }
        Kind::Uint32 | Kind::Fixed32 => [0, 1, 101, u32::MAX].map(Value::U32).into(),
        Kind::Uint64 | Kind::Fixed64 => [0, 1, 4096, u64::MAX].map(Value::U64).into(),
        Kind::Float => [0.0, f32::NAN].map(Value::F32).into(),
        Kind::Double => [0.0, f64::INFINITY].map(Value::F64).into(),
        Kind::String => texts(),
        Kind::Bytes => [0, 70_000].map(|n| Value::Bytes(vec![0xff; n].into())).into(),
        Kind::Enum(_) => [0, 1, 2, 99, -1].map(Value::EnumNumber).into(),
        Kind::Message(kind) => {
            let empty = DynamicMessage::new(kind);
            let more = if depth < DEPTH { variants(&empty, depth + 1) } else { Vec::new() };
            let more = more.into_iter().map(|(_, message)| message);
            [empty].into_iter().chain(more).map(Value::Message).collect()
        }
    }
}

/// `base` with one field at a time at each of its edges; with its name.
fn variants(base: &DynamicMessage, depth: usize) -> Vec<(String, DynamicMessage)> {
    let kind = base.descriptor();
    let mut all = Vec::new();
    for field in kind.fields() {
        let mut add = |value: Value| {
            let mut message = base.clone();
            merge(&mut message, &field, value);
            all.push((format!("{}.{}", kind.name(), field.name()), message));
        };
        match field.kind() {
            Kind::Message(entry) if field.is_map() => {
                let value = entry.map_entry_value_field();
                for (key, value) in [("", ""), ("k", "v"), ("\u{1b}", "\0"), ("ü/ k", "é")] {
                    let value = Value::String(value.to_owned());
                    add(Value::Map([(MapKey::String(key.to_owned()), value)].into()));
                }
                let many = (0..500)
                    .map(|n| (MapKey::String(format!("k{n}")), edges(&value, depth)[1].clone()));
                add(Value::Map(many.collect()));
            }
            _ if field.is_list() => {
                let edges = edges(&field, depth);
                for edge in &edges {
                    add(Value::List(vec![edge.clone()]));
                }
                let some = edges.get(1).or_else(|| edges.first()).expect("an edge").clone();
                add(Value::List(vec![some; 3_000]));
            }
            _ => edges(&field, depth).into_iter().for_each(add),
        }
    }
    all
}

/// Puts a value into a field; of a message only what the value says.
fn merge(message: &mut DynamicMessage, field: &FieldDescriptor, value: Value) {
    match (message.get_field_mut(field), value) {
        (Value::Message(there), Value::Message(given)) if !field.is_list() => {
            for (inner, value) in given.fields() {
                merge(there, &inner, value.clone());
            }
        }
        (there, value) => *there = value,
    }
}

/// A request that would be one, as far as names go.
fn base(method: &MethodDescriptor, n: usize) -> DynamicMessage {
    let mut message = DynamicMessage::new(method.input());
    let name = match method.parent_service().name() {
        "SnapshotService" => format!("containers/101/snapshots/{NOBODY}"),
        "TemplateService" => "templates/none".to_owned(),
        "OperationService" => format!("operations/{NOBODY}"),
        "NodeService" => "nodes/-".to_owned(),
        _ => "containers/101".to_owned(),
    };
    let of = |message: &mut DynamicMessage, field: &str, value: &str| {
        let text = |f: &FieldDescriptor| f.kind() == Kind::String && !f.is_list();
        if message.descriptor().get_field_by_name(field).is_some_and(|f| text(&f)) {
            message.set_field_by_name(field, Value::String(value.to_owned()));
        }
    };
    of(&mut message, "name", &name);
    of(&mut message, "parent", "containers/101");
    of(&mut message, "container", "containers/101");
    of(&mut message, "request_id", &format!("fields-{n}"));
    if method.name() == "UpdateContainer" {
        let field = message.descriptor().get_field_by_name("container").expect("a container");
        if let Value::Message(container) = message.get_field_mut(&field) {
            of(container, "name", &name);
        }
    }
    message
}

/// The requests of a method, each with the field that is tried.
fn requests(method: &MethodDescriptor) -> Vec<(String, DynamicMessage)> {
    let mut all = variants(&base(method, 0), 0);
    if method.name() == "UpdateContainer" {
        // What is in the mask is looked at.
        let masked = all.clone().into_iter().filter_map(|(name, mut message)| {
            let mask = message.descriptor().get_field_by_name("update_mask")?;
            if message.has_field(&mask) {
                return None;
            }
            let Value::Message(mask) = message.get_field_mut(&mask) else { return None };
            let paths = [
                "alias",
                "labels",
                "annotations",
                "description",
                "delete_protection",
                "spec.hostname",
                "spec.interfaces",
                "spec.nameservers",
                "spec.search_domains",
                "spec.volumes",
                "spec.limits",
                "spec.boot_order",
                "spec.init",
                "spec.stop_timeout",
                "spec.features",
                "spec.restart_policy",
                "spec.devices",
                "spec.dropped_capabilities",
                "spec.snapshot_schedule",
            ];
            let paths = paths.map(|path| Value::String(path.to_owned())).to_vec();
            mask.set_field_by_name("paths", Value::List(paths));
            Some((name, message))
        });
        let masked: Vec<_> = masked.collect();
        all.extend(masked);
    }
    for (n, (field, message)) in all.iter_mut().enumerate() {
        if !field.ends_with("Request.request_id")
            && let Some(id) = message.descriptor().get_field_by_name("request_id")
        {
            message.set_field(&id, Value::String(format!("{}-{n}", method.name())));
        }
    }
    all
}

/// Checks an answer.
fn check(what: &str, status: &Status) {
    let fault = Fault::from(status.clone());
    let told = status.message();
    assert!(
        !matches!(
            status.code(),
            Code::Internal | Code::Unknown | Code::DataLoss | Code::Unavailable
        ),
        "{what}: {status:?}"
    );
    assert!(
        !status.details().is_empty() || status.code() == Code::DeadlineExceeded,
        "{what}: {status:?}"
    );
    assert!(
        told.len() <= TOLD && status.details().len() <= 4 * TOLD,
        "{what}: {} bytes",
        told.len()
    );
    let shown = |c: char| {
        (!c.is_control() || matches!(c, '\n' | '\t')) && !('\u{202a}'..='\u{202e}').contains(&c)
    };
    assert!(told.chars().all(shown), "{what}: {told:?}");
    for (name, fact) in &fault.facts {
        assert!(fact.len() <= TOLD && fact.chars().all(shown), "{what}: {name}: {fact:?}");
    }
}

/// Calls with one message, and reads at most one answer.
async fn call(channel: &Traced, method: &MethodDescriptor, message: Vec<u8>) -> Result<(), Status> {
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await.expect("it listens");
    let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
    let path = path.parse::<http::uri::PathAndQuery>().expect("a path");
    let mut request = Request::new(tokio_stream::iter([message]));
    request.set_timeout(PATIENCE);
    let mut answers = client.streaming(request, path, Raw).await?.into_inner();
    tokio::time::timeout(PATIENCE, answers.message()).await.unwrap_or(Ok(None)).map(drop)
}

#[test]
fn every_field_of_every_request_at_its_edges() {
    let sim = Sim::listening();
    sim.run(&Command::create(101, |_| {})).expect("created");
    let pool = DescriptorPool::decode(ves_proto::DESCRIPTORS).expect("descriptors");
    let public = pool.services().filter(|s| s.package_name() == "ves.api.v1");
    let methods: Vec<_> = public.flat_map(|s| s.methods().collect::<Vec<_>>()).collect();
    assert!(methods.len() > 30, "{}", methods.len());
    let channel = sim.block(async { ves_daemon::client::channel(&sim.socket()) });
    let mut asked = 0;
    for method in &methods {
        for (field, message) in requests(method) {
            let what = format!("{} {field}", method.full_name());
            let bytes = message.encode_to_vec();
            if let Err(status) = sim.block(call(&channel, method, bytes)) {
                check(&what, &status);
            }
            asked += 1;
        }
        // What is no message at all.
        if let Err(status) = sim.block(call(&channel, method, vec![0xff; 64])) {
            check(method.full_name(), &status);
        }
    }
    assert!(asked > 1_000, "{asked}");
    // It is well, and what was there before is there.
    sim.run(&Command::create(102, |_| {})).expect("it goes on");
}
