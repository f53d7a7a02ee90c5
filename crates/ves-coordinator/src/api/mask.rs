//! Field masks: which fields of a message are meant, read by the descriptors of `proto/`. Pure.
//!
//! A message is pruned in its encoded form, so that a new field needs nothing here. A path that leads to no field
//! is refused and named.

use std::collections::{BTreeMap, HashMap};
use std::sync::OnceLock;

use prost::Message;
use prost::encoding::{decode_varint, encode_varint};
use prost_types::field_descriptor_proto::Type;
use prost_types::{DescriptorProto, FieldMask, FileDescriptorSet};
use ves_proto::{DESCRIPTORS, Fault};

use crate::wrong::bad;

/// The most paths of a mask.
const MOST_PATHS: usize = 256;

/// What of a message is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mask {
    /// All of it.
    All,
    /// These fields of it, by number.
    Fields(BTreeMap<u32, Self>),
}

/// A field: its number, and the name of the message in it where there is one.
type Field = (u32, Option<String>);

/// The fields of all messages, by the names of both.
fn schema() -> &'static HashMap<String, HashMap<String, Field>> {
    static SCHEMA: OnceLock<HashMap<String, HashMap<String, Field>>> = OnceLock::new();
    SCHEMA.get_or_init(|| {
        let mut all = HashMap::new();
        for file in FileDescriptorSet::decode(DESCRIPTORS).unwrap_or_default().file {
            let package = file.package().to_owned();
            for message in &file.message_type {
                note(&package, message, &mut all);
            }
        }
        all
    })
}

fn note(scope: &str, message: &DescriptorProto, all: &mut HashMap<String, HashMap<String, Field>>) {
    let name = format!("{scope}.{}", message.name());
    // The keys of a map are no fields.
    let is_map = |of: &str| {
        let of = of.rsplit('.').next().unwrap_or_default();
        let entry = message.nested_type.iter().find(|nested| nested.name() == of);
        entry.and_then(|e| e.options.as_ref()).is_some_and(|options| options.map_entry())
    };
    let field = |field: &prost_types::FieldDescriptorProto| {
        let of = (field.r#type() == Type::Message && !is_map(field.type_name()))
            .then(|| field.type_name().trim_start_matches('.').to_owned());
        (field.name().to_owned(), (u32::try_from(field.number()).unwrap_or(0), of))
    };
    let fields = message.field.iter().map(field).collect();
    for nested in &message.nested_type {
        note(&name, nested, all);
    }
    all.insert(name, fields);
}

impl Mask {
    /// Nothing of it.
    pub(super) const fn none() -> Self {
        Self::Fields(BTreeMap::new())
    }

    /// Reads a mask of `message`; absent or without a path: all of it.
    ///
    /// # Errors
    /// `BAD_VALUE` on `field`.
    pub(super) fn read(
        field: &str,
        message: &str,
        mask: Option<&FieldMask>,
    ) -> Result<Self, Fault> {
        let Some(mask) = mask.filter(|mask| !mask.paths.is_empty()) else { return Ok(Self::All) };
        if mask.paths.len() > MOST_PATHS {
            let message =
                format!("{field} has {} paths; {MOST_PATHS} are the most", mask.paths.len());
            return Err(bad(field, message));
        }
        let mut read = Self::Fields(BTreeMap::new());
        for path in &mask.paths {
            read.add(message, path).ok_or_else(|| {
                let shown: String = path.chars().take(100).collect();
                bad(field, format!("{field}: there is no field {shown:?}"))
            })?;
        }
        Ok(read)
    }

    fn add(&mut self, message: &str, path: &str) -> Option<()> {
        let mut message = message.to_owned();
        let mut at = self;
        let mut words = path.split('.').peekable();
        while let Some(word) = words.next() {
            let (number, of) = schema().get(&message)?.get(word)?;
            let last = words.peek().is_none();
            at = match at {
                // All of what is around it is meant already; the path must still be one.
                Self::All => at,
                Self::Fields(fields) => {
                    let inner =
                        fields.entry(*number).or_insert_with(|| Self::Fields(BTreeMap::new()));
                    if last {
                        *inner = Self::All;
                    }
                    inner
                }
            };
            if !last {
                message.clone_from(of.as_ref()?);
            }
        }
        Some(())
    }

    /// What is meant of a message.
    pub(super) fn prune<M: Message + Default>(&self, message: M) -> M {
        match self {
            Self::All => message,
            Self::Fields(_) => {
                let mut pruned = Vec::new();
                match self.copy(&message.encode_to_vec(), &mut pruned) {
                    Some(()) => M::decode(pruned.as_slice()).unwrap_or_default(),
                    None => M::default(),
                }
            }
        }
    }

    /// Copies what is meant; `None` where it is no encoded message, which what was just encoded is.
    fn copy(&self, mut from: &[u8], into: &mut Vec<u8>) -> Option<()> {
        let Self::Fields(fields) = self else {
            into.extend_from_slice(from);
            return Some(());
        };
        while !from.is_empty() {
            let begin = from;
            let key = decode_varint(&mut from).ok()?;
            let length = match key & 7 {
                0 => {
                    decode_varint(&mut from).ok()?;
                    0
                }
                1 => 8,
                2 => usize::try_from(decode_varint(&mut from).ok()?).ok()?,
                5 => 4,
                _ => return None,
            };
            let (value, rest) = from.split_at_checked(length)?;
            let whole = begin.get(..begin.len().checked_sub(rest.len())?)?;
            from = rest;
            match fields.get(&u32::try_from(key >> 3).ok()?) {
                None => {}
                Some(Self::All) => into.extend_from_slice(whole),
                Some(inner) => {
                    let mut inside = Vec::new();
                    inner.copy(value, &mut inside)?;
                    encode_varint(key, into);
                    encode_varint(u64::try_from(inside.len()).ok()?, into);
                    into.extend_from_slice(&inside);
                }
            }
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ves_proto::api as pb;

    use super::*;

    const CONTAINER: &str = "ves.api.v1.Container";

    fn read(paths: &[&str]) -> Result<Mask, Fault> {
        let mask = FieldMask { paths: paths.iter().map(|p| (*p).to_owned()).collect() };
        Mask::read("read_mask", CONTAINER, Some(&mask))
    }

    fn container() -> pb::Container {
        let interface =
            |n| pb::Interface { id: format!("venet{n}"), addresses: vec!["x".into()], r#type: 1 };
        pb::Container {
            name: "containers/600".into(),
            ct_id: 600,
            labels: [("a".to_owned(), "b".to_owned())].into(),
            spec: Some(pb::ContainerSpec {
                hostname: "web".into(),
                interfaces: vec![interface(0), interface(1)],
                limits: Some(pb::Limits {
                    cpus: Some(0),
                    cpu_units: Some(9),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            status: Some(pb::ContainerStatus { incarnation: 7, state: 5, ..Default::default() }),
            generation: u64::MAX,
            ..Default::default()
        }
    }

    #[test]
    fn what_is_meant_stays_and_nothing_else() {
        let all = container();
        assert_eq!(read(&[]).expect("all").prune(all.clone()), all);
        let mask =
            read(&["name", "spec.limits.cpus", "spec.interfaces.id", "status.state", "labels"]);
        let some = mask.expect("they are there").prune(all.clone());
        let spec = some.spec.clone().expect("some of it");
        assert_eq!(spec.limits, Some(pb::Limits { cpus: Some(0), ..Default::default() }));
        let ids: Vec<_> = spec.interfaces.iter().map(|i| (i.id.as_str(), i.r#type)).collect();
        assert_eq!(ids, [("venet0", 0), ("venet1", 0)]);
        assert_eq!((spec.hostname.as_str(), some.ct_id, some.generation), ("", 0, 0));
        assert_eq!((some.name, some.labels), (all.name.clone(), all.labels.clone()));
        assert_eq!(some.status.expect("some of it").incarnation, 0);
        let both = [read(&["spec", "spec.hostname"]), read(&["spec.hostname", "spec"])];
        for mask in both {
            assert_eq!(mask.expect("they are there").prune(container()).spec, all.spec);
        }
    }

    const PATHS: [&str; 8] = [
        "name",
        "labels",
        "spec",
        "spec.hostname",
        "spec.interfaces.addresses",
        "spec.limits.cpus",
        "status.state",
        "generation",
    ];

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 128,
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        /// Pruning twice is pruning once; what two masks leave, both together leave.
        #[test]
        fn masks_add_up(
            one in prop::sample::subsequence(&PATHS[..], 1..5),
            other in prop::sample::subsequence(&PATHS[..], 1..5),
        ) {
            let prune = |paths: &[&str], container| {
                read(paths).expect("they are there").prune::<pb::Container>(container)
            };
            let some = prune(&one, container());
            prop_assert_eq!(prune(&one, some.clone()), some.clone());
            let both = [one.clone(), other].concat();
            prop_assert_eq!(prune(&one, prune(&both, container())), some);
        }
    }

    #[test]
    fn a_path_that_leads_nowhere_is_named() {
        for bad in
            ["", "nosuch", "spec.nosuch", "spec.", ".spec", "name.x", "labels.a", "spec.hostname.x"]
        {
            let fault = read(&["name", bad]).expect_err(bad);
            assert_eq!(fault.facts["field"], "read_mask");
            assert!(fault.message.contains(&format!("{bad:?}")), "{fault}");
        }
    }
}
