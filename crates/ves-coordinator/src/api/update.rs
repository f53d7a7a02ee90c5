//! What `UpdateContainer` and `ChangeAddresses` ask for, read from their messages. Pure.

use prost_types::FieldMask;
use ves_proto::{Fault, api as pb};
use ves_types::capability::MAX_CAPABILITIES;
use ves_types::device::MAX_DEVICES;
use ves_types::{Capability, CapabilityChange, CtId, DeviceChange, SpecField, UbcResource};

use super::mask::Mask;
use crate::container::given;
use crate::container::meta::MetaField;
use crate::container::spec::path_of;
use crate::operation::kinds::set::{Addresses, SetMode, Update};
use crate::wrong::{Wrong, bad, known};

/// What an update mask can mean beside what of a specification.
const META: [(&str, MetaField); 4] = [
    ("project", MetaField::Project),
    ("labels", MetaField::Labels),
    ("annotations", MetaField::Annotations),
    ("delete_protection", MetaField::DeleteProtection),
];

/// Stands where a template is not meant, and is not used.
const ANY_TEMPLATE: &str = "templates/any";

/// Reads what an update asks for.
pub(super) fn read(request: &pb::UpdateContainerRequest, wrong: &mut Wrong) -> Option<Update> {
    use pb::update_container_request::Apply;
    let pb::UpdateContainerRequest {
        container,
        update_mask,
        request_id: _,
        validate_only: _,
        apply,
        conflict: _,
        until_stop,
        changes,
    } = request;
    let paths = update_mask.as_ref().map(|mask| mask.paths.as_slice()).unwrap_or_default();
    let meant = wrong.take(fields(paths, update_mask.as_ref()));
    let mode = wrong.take(known::<Apply>("apply", *apply)).map(|apply| match apply {
        Apply::Unspecified | Apply::LiveOrFail => SetMode::Refuse,
        Apply::Restart => SetMode::Restart,
        Apply::NextStart => SetMode::Later,
    });
    let changes = read_changes(changes.as_ref(), wrong);
    let (mask, fields, meta_fields) = meant?;
    let mut container = mask.prune(container.clone().unwrap_or_default());
    let spec = container.spec.get_or_insert_default();
    let is_meant = |field| fields.contains(&field);
    if spec.template.is_empty() && !is_meant(SpecField::Template) {
        ANY_TEMPLATE.clone_into(&mut spec.template);
    }
    if is_meant(SpecField::Disk) && spec.volumes.is_empty() {
        let message = "a container keeps its volume; say its size to make it larger";
        wrong.push(bad("container.spec.volumes", message));
    }
    let volume = spec.volumes.first().cloned().unwrap_or_default();
    let is_named = !spec.hostname.is_empty();
    let asks_migratable = spec.features.is_some_and(|f| f.migratable == Some(true));
    // Which container it is says only what its host name is where it has none.
    let any = CtId::try_from(1).ok()?;
    let (spec, meta) = wrong.take(given::parse(any, Some(container)))?;
    // What a volume is not said to become it stays.
    let kept = |field: &SpecField| match field {
        SpecField::Disk => volume.size_bytes != 0,
        SpecField::Inodes => volume.inodes.is_some(),
        _ => true,
    };
    let fields = fields.into_iter().filter(kept).collect();
    Some(Update {
        fields,
        meta_fields,
        spec: Some(Box::new(spec)),
        meta: Box::new(meta),
        is_named,
        asks_migratable,
        until_stop: *until_stop,
        mode: mode?,
        ..changes
    })
}

/// Reads what a change of addresses asks for.
pub(super) fn read_addresses(request: &pb::ChangeAddressesRequest, wrong: &mut Wrong) -> Update {
    let pb::ChangeAddressesRequest {
        name: _,
        interface,
        add,
        remove,
        remove_all,
        etag: _,
        request_id: _,
        validate_only: _,
        conflict: _,
        until_stop,
    } = request;
    if !interface.is_empty() && interface != given::INTERFACE {
        let message = format!("the one interface that a container has is {}", given::INTERFACE);
        wrong.push(bad("interface", message));
    }
    if add.is_empty() && remove.is_empty() && !remove_all {
        wrong.push(Fault::missing("add"));
    }
    let add = given::read_addresses("add", add, wrong);
    let remove = given::read_addresses("remove", remove, wrong);
    let addresses = Addresses { add, remove, remove_all: *remove_all };
    Update { addresses, until_stop: *until_stop, ..nothing() }
}

/// An update that changes nothing.
fn nothing() -> Update {
    Update {
        fields: vec![],
        meta_fields: vec![],
        spec: None,
        meta: Box::default(),
        is_named: false,
        asks_migratable: false,
        until_stop: false,
        mode: SetMode::Refuse,
        addresses: Addresses::default(),
        devices: vec![],
        capabilities: vec![],
    }
}

fn read_changes(changes: Option<&pb::ListChanges>, wrong: &mut Wrong) -> Update {
    let Some(changes) = changes else { return nothing() };
    let pb::ListChanges {
        add_addresses,
        remove_addresses,
        remove_all_addresses,
        set_devices,
        remove_devices,
        drop_capabilities,
        restore_capabilities,
    } = changes;
    let addresses = Addresses {
        add: given::read_addresses("changes.add_addresses", add_addresses, wrong),
        remove: given::read_addresses("changes.remove_addresses", remove_addresses, wrong),
        remove_all: *remove_all_addresses,
    };
    let field = "changes.remove_devices";
    let gone = given::read_list(field, remove_devices, MAX_DEVICES, str::parse, wrong);
    let gone = gone.into_iter().map(|id| DeviceChange { id, access: None });
    let set = given::read_devices("changes.set_devices", set_devices, wrong);
    let set = set.into_iter().map(|d| DeviceChange { id: d.id, access: Some(d.access) });
    let devices = gone.chain(set).collect();
    let drop = |name: &str| format!("{name}:off").parse::<CapabilityChange>();
    let field = "changes.drop_capabilities";
    let off = given::read_list(field, drop_capabilities, MAX_CAPABILITIES, drop, wrong);
    let field = "changes.restore_capabilities";
    let on = given::read_list(
        field,
        restore_capabilities,
        MAX_CAPABILITIES,
        str::parse::<Capability>,
        wrong,
    );
    let on = on.into_iter().map(|capability| CapabilityChange { capability, on: true });
    let capabilities = off.into_iter().chain(on).collect();
    Update { addresses, devices, capabilities, ..nothing() }
}

/// The fields that a mask means.
///
/// # Errors
/// `BAD_VALUE` on "update_mask", with the path that is none or that nobody can change.
fn fields(
    paths: &[String],
    mask: Option<&FieldMask>,
) -> Result<(Mask, Vec<SpecField>, Vec<MetaField>), Fault> {
    let field = "update_mask";
    let pruned = match Mask::read(field, "ves.api.v1.Container", mask)? {
        // Without a path nothing is meant.
        Mask::All => Mask::none(),
        mask => mask,
    };
    let ubc = UbcResource::ALL.map(SpecField::Ubc);
    let (mut fields, mut meta_fields) = (vec![], vec![]);
    for path in paths {
        let means = |of: &str| {
            of == path || of.strip_prefix(path.as_str()).is_some_and(|rest| rest.starts_with('.'))
        };
        let before = fields.len() + meta_fields.len();
        let all = SpecField::PLAIN.iter().chain(&ubc);
        fields.extend(all.filter(|f| means(&path_of(**f))));
        meta_fields.extend(META.iter().filter(|(of, _)| means(of)).map(|(_, field)| field));
        if fields.len() + meta_fields.len() == before {
            let shown: String = path.chars().take(100).collect();
            let message = format!("{field}: {shown:?} is nothing that can be changed by itself");
            return Err(bad(field, message));
        }
    }
    fields.sort_unstable();
    fields.dedup();
    Ok((pruned, fields, meta_fields))
}
