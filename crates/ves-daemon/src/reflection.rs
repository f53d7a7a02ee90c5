//! Reflection of what is served at a socket, by both versions of its protocol: the newer one and `v1alpha`,
//! which many clients' libraries still speak alone.
//!
//! Of files that are only imported, messages are told and services are not: whoever lists or describes finds
//! what can be called here, and nothing else. Never here: who may ask.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use prost::bytes::Bytes;
use prost_types::FileDescriptorProto;
use tonic::service::Routes;
use tonic_reflection::server::Builder;

/// A set of descriptors whose files are not decoded: options that we do not know stay in them.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Files {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    file: Vec<Bytes>,
}

/// `routes`, and reflection of these services, of health and of itself.
pub(crate) fn add_to(routes: Routes, services: &[&str]) -> Result<Routes, String> {
    let own = of(ves_proto::DESCRIPTORS, services)?.encode_to_vec();
    let builder = || {
        Builder::configure()
            .register_encoded_file_descriptor_set(&own)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(
                tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
            )
            .include_reflection_service(false)
    };
    let fail = |e: tonic_reflection::server::Error| format!("read the descriptors: {e}");
    let (new, old) =
        (builder().build_v1().map_err(fail)?, builder().build_v1alpha().map_err(fail)?);
    Ok(routes.add_service(new).add_service(old))
}

/// What tells of these services: the files that define them, and what those import, without other services.
fn of(descriptors: &[u8], services: &[&str]) -> Result<Files, String> {
    let unreadable = |e: prost::DecodeError| format!("read the descriptors: {e}");
    let mut all = BTreeMap::new();
    for bytes in Files::decode(descriptors).map_err(unreadable)?.file {
        let file = FileDescriptorProto::decode(bytes.clone()).map_err(unreadable)?;
        all.insert(file.name().to_owned(), (file, bytes));
    }
    let is_served = |file: &FileDescriptorProto, service: &str| {
        services.contains(&&*format!("{}.{service}", file.package()))
    };
    let has_own =
        |file: &FileDescriptorProto| file.service.iter().any(|s| is_served(file, s.name()));
    let mut next: Vec<&str> =
        all.values().filter(|(file, _)| has_own(file)).map(|(file, _)| file.name()).collect();
    let mut wanted = BTreeSet::new();
    while let Some(name) = next.pop() {
        if wanted.insert(name) {
            let (file, _) = all.get(name).ok_or_else(|| format!("no descriptor of {name}"))?;
            next.extend(file.dependency.iter().map(String::as_str));
        }
    }
    let told =
        all.iter().filter(|(name, _)| wanted.contains(&***name)).map(|(_, (file, bytes))| {
            if file.service.iter().all(|s| is_served(file, s.name())) {
                return bytes.clone();
            }
            let mut file = file.clone();
            let package = file.package().to_owned();
            file.service.retain(|s| services.contains(&&*format!("{package}.{}", s.name())));
            // It counts services by their places.
            file.source_code_info = None;
            file.encode_to_vec().into()
        });
    Ok(Files { file: told.collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_a_service_and_what_they_import_are_told_without_other_services() {
        let services = ["ves.api.v1.NodeService"];
        let files = of(ves_proto::DESCRIPTORS, &services).expect("they are whole").file;
        let files: Vec<_> = files
            .into_iter()
            .map(|bytes| FileDescriptorProto::decode(bytes).expect("a file"))
            .collect();
        let told: Vec<_> = files.iter().flat_map(|f| &f.service).map(|s| s.name()).collect();
        assert_eq!(told, ["NodeService"]);
        let names: BTreeSet<_> = files.iter().map(FileDescriptorProto::name).collect();
        assert!(
            files.iter().flat_map(|f| &f.dependency).all(|d| names.contains(&**d)),
            "{names:?}"
        );
        assert!(names.contains("ves/api/v1/common.proto"), "{names:?}");
        assert!(of(ves_proto::DESCRIPTORS, &[]).expect("whole").file.is_empty());
    }
}
