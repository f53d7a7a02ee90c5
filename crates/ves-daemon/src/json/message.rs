//! Between JSON and the bytes of a message, by the descriptors of the protocol files.
//!
//! Pure. The JSON is that of protobuf: names in camel case (those of the protocol files are read too), numbers
//! of 64 bits and times as text. Never here: HTTP.

use prost::Message;
use prost_reflect::{DeserializeOptions, DynamicMessage, Kind, MessageDescriptor};
use serde_json::{Map, Value};
use ves_proto::{Fault, Reason};

use super::Field;
use super::once::Once;

/// How deep a path to a field may go.
const DEPTH: usize = 8;

/// A message of this kind from its JSON and from what path and query say of its fields, encoded.
pub(super) fn read(
    kind: &MessageDescriptor,
    body: &[u8],
    fields: &[Field],
) -> Result<Vec<u8>, Fault> {
    let mut object = if body.is_empty() {
        Map::new()
    } else {
        match serde_json::from_slice(body) {
            Ok(Once(Value::Object(object))) => object,
            Ok(Once(_)) => return Err(bad("the body is no JSON object")),
            Err(e) => return Err(bad(&format!("the body is no JSON: {e}"))),
        }
    };
    for (path, text) in fields {
        put(&mut object, kind, path, path, text, 0)?;
    }
    let options = DeserializeOptions::new();
    DynamicMessage::deserialize_with_options(kind.clone(), Value::Object(object), &options)
        .map(|message| message.encode_to_vec())
        .map_err(|e| bad(&format!("the request does not fit {}: {e}", kind.name())))
}

/// The JSON of an encoded message of this kind.
pub(super) fn write(kind: &MessageDescriptor, bytes: &[u8]) -> Result<Value, Fault> {
    let broken = |e: String| Fault::new(Reason::Bug, format!("write {} as JSON: {e}", kind.name()));
    let message = DynamicMessage::decode(kind.clone(), bytes).map_err(|e| broken(e.to_string()))?;
    serde_json::to_value(&message).map_err(|e| broken(e.to_string()))
}

/// Puts the field at `path` into a message's object. A list gets one more value each time.
fn put(
    object: &mut Map<String, Value>,
    kind: &MessageDescriptor,
    whole: &str,
    path: &str,
    text: &str,
    depth: usize,
) -> Result<(), Fault> {
    let unknown = || bad(&format!("there is no field {whole:?}")).fact("field", whole);
    let (first, rest) = match path.split_once('.') {
        Some((first, rest)) => (first, Some(rest)),
        None => (path, None),
    };
    let field = kind.get_field_by_name(first).or_else(|| kind.get_field_by_json_name(first));
    let field = field.ok_or_else(unknown)?;
    let key = field.json_name().to_owned();
    // It may be there by its other name.
    if field.name() != key
        && let Some(value) = object.remove(field.name())
    {
        object.insert(key.clone(), value);
    }
    match (rest, field.kind()) {
        (Some(rest), Kind::Message(inner)) if !field.is_list() && depth < DEPTH => {
            let inside = object.entry(key).or_insert_with(|| Value::Object(Map::new()));
            let Value::Object(inside) = inside else { return Err(unknown()) };
            put(inside, &inner, whole, rest, text, depth + 1)
        }
        (Some(_), _) => Err(unknown()),
        (None, kind) => {
            let value = match (kind, text) {
                (Kind::Bool, "true") => Value::Bool(true),
                (Kind::Bool, "false") => Value::Bool(false),
                (Kind::Bool, _) => {
                    let message = format!("{whole} is true or false, not {text:?}");
                    return Err(bad(&message).fact("field", whole));
                }
                _ => Value::String(text.to_owned()),
            };
            match object.get_mut(&key) {
                Some(Value::Array(list)) if field.is_list() => list.push(value),
                _ if field.is_list() => {
                    object.insert(key, Value::Array(vec![value]));
                }
                _ => {
                    object.insert(key, value);
                }
            }
            Ok(())
        }
    }
}

fn bad(message: &str) -> Fault {
    Fault::new(Reason::BadValue, message)
}

#[cfg(test)]
mod tests {
    use prost_reflect::DescriptorPool;
    use ves_proto::api;

    use super::*;

    fn kind(name: &str) -> MessageDescriptor {
        let pool = DescriptorPool::decode(ves_proto::DESCRIPTORS).expect("descriptors");
        pool.get_message_by_name(&format!("ves.api.v1.{name}")).expect("a message")
    }

    fn field(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn fields_come_from_everywhere() {
        let body = br#"{"container": {"alias": "web1", "spec": {"limits": {"cpus": 2}}}, "request_id": "x"}"#;
        let fields = [field("container.name", "containers/6"), field("requestId", "y")];
        let bytes = read(&kind("UpdateContainerRequest"), body, &fields).expect("it fits");
        let read = api::UpdateContainerRequest::decode(&*bytes).expect("a message");
        let container = read.container.expect("a container");
        assert_eq!((&*container.name, &*container.alias), ("containers/6", "web1"));
        assert_eq!(container.spec.and_then(|s| s.limits).and_then(|l| l.cpus), Some(2));
        assert_eq!(read.request_id, "y", "the query is heard after the body");
    }

    #[test]
    fn a_query_gives_numbers_lists_and_masks() {
        let fields = [field("page_size", "7"), field("readMask", "name,spec.hostname")];
        let bytes = read(&kind("ListContainersRequest"), b"", &fields).expect("it fits");
        let read_back = api::ListContainersRequest::decode(&*bytes).expect("a message");
        assert_eq!(read_back.page_size, 7);
        assert_eq!(read_back.read_mask.expect("a mask").paths, ["name", "spec.hostname"]);
        let fields = [field("names", "containers/1"), field("names", "containers/2")];
        let bytes = read(&kind("BatchGetContainersRequest"), b"", &fields).expect("it fits");
        let read_back = api::BatchGetContainersRequest::decode(&*bytes).expect("a message");
        assert_eq!(read_back.names, ["containers/1", "containers/2"]);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let list = kind("ListContainersRequest");
        let deep = "[".repeat(100_000);
        let huge = format!("{{\"pageSize\": {}}}", "9".repeat(300));
        let twice = "{\"pageSize\": 1, \"pageSize\": 2}";
        for body in [
            "[]",
            "{",
            "1",
            "{\"nonsense\": 1}",
            "{\"pageSize\": \"x\"}",
            "{\"pageSize\": 1.5}",
            "{\"pageSize\": 2147483648}",
            "{\"pageSize\": 1e300}",
            "{\"pageSize\": [1]}",
            "{\"filter\": {\"a\": 1}}",
            "{} {}",
            twice,
            &huge,
            &deep,
        ] {
            let fault = read(&list, body.as_bytes(), &[]).expect_err(body);
            assert_eq!(fault.reason, Reason::BadValue);
        }
        for (name, value) in
            [("nonsense", "1"), ("pageSize.x", "1"), ("skipRefresh", "maybe"), ("", "")]
        {
            let fault = read(&list, b"", &[field(name, value)]).expect_err(name);
            assert_eq!(fault.facts["field"], name);
        }
    }

    #[test]
    fn an_answer_is_what_protobuf_says() {
        let container = api::Container {
            name: "containers/6".to_owned(),
            create_time: Some(ves_proto::public::timestamp(1_500)),
            generation: u64::MAX,
            status: Some(api::ContainerStatus { state: 5, ..Default::default() }),
            ..Default::default()
        };
        let json = write(&kind("Container"), &container.encode_to_vec()).expect("it is one");
        assert_eq!(json["createTime"], "1970-01-01T00:00:01.500Z");
        assert_eq!(json["generation"], u64::MAX.to_string());
        assert_eq!(json["status"]["state"], "STATE_RUNNING");
    }
}
