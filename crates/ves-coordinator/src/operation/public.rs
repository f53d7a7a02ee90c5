//! What of an operation the public API has a name for. Pure.

use ves_proto::api as pb;

use super::kinds::Action;
use super::record::{Cause, OpRecord};

/// What it does.
pub const fn kind(action: &Action) -> pb::operation::Kind {
    use pb::operation::Kind as K;
    match action {
        Action::Create(_) => K::Create,
        Action::Start(_) => K::Start,
        Action::Mount(_) => K::Mount,
        Action::Stop(_) => K::Stop,
        Action::Umount(_) => K::Unmount,
        Action::Restart(_) => K::Restart,
        Action::Set(_) => K::Update,
        Action::Destroy(_) => K::Delete,
        Action::Repair(_) => K::Repair,
        Action::Fsck(_) => K::CheckVolume,
        Action::Snapshot(_) => K::Snapshot,
        Action::SnapshotSwitch(_) => K::SnapshotSwitch,
        Action::SnapshotDelete(_) => K::SnapshotDelete,
        Action::TemplateBuild(_) => K::TemplateBuild,
    }
}

/// Who asked for an operation.
pub fn actor(op: &OpRecord) -> pb::Actor {
    match op.cause() {
        Some(cause) => own(cause),
        None => asker(&op.principal, op.on_behalf_of.as_deref()),
    }
}

/// Whoever called.
pub fn asker(principal: &str, on_behalf_of: Option<&str>) -> pb::Actor {
    use pb::actor::Type as T;
    let (kind, id) = match principal.split_once(':') {
        // No user's name has a colon.
        Some(("certificate", name)) => (T::Certificate, name),
        Some(("token", name)) => (T::Token, name),
        _ => (T::Unix, principal),
    };
    let on_behalf_of = on_behalf_of.unwrap_or_default().to_owned();
    pb::Actor { r#type: kind.into(), id: id.to_owned(), on_behalf_of }
}

/// The coordinator itself, or what made it act.
pub fn own(cause: Cause) -> pb::Actor {
    use pb::actor::Type as T;
    let kind = match cause {
        Cause::Container => T::Guest,
        Cause::Boot | Cause::Node | Cause::Schedule => T::Node,
    };
    let id = cause.principal().to_owned();
    pb::Actor { r#type: kind.into(), id, on_behalf_of: String::new() }
}
