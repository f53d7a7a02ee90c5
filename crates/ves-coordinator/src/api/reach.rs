//! What a call names, and what its caller reaches of it: who asks, by which request, about which container.
//!
//! The one place where a name becomes a container, and where it is said what a caller sees of a list or a watch.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use sha2::{Digest, Sha256};
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};
use ves_daemon::Principal;
use ves_proto::public::parse_name;
use ves_proto::{Fault, Reason, api as pb};
use ves_types::CtId;

use super::Api;
use crate::access;
use crate::admission::Ask;
use crate::container::observed::ProcessSeen;
use crate::container::record::Record;
use crate::operation::kinds::Action;
use crate::operation::record::{Caller, OpRecord, RequestKey};
use crate::queue::{Conflict, LONGEST_WAIT};
use crate::wrong::{Wrong, bad, known};

/// The longest id of a request, in bytes.
const LONGEST_REQUEST_ID: usize = 128;

/// A request that can be repeated by its id.
pub(super) trait Repeatable: Message + Clone {
    /// The RPC it is of.
    const RPC: &'static str;
    /// Its id.
    fn request_id(&mut self) -> &mut String;
}

/// A request that is to change a container.
pub(super) trait Change: Repeatable {
    /// What every such request carries.
    fn named(&self) -> Named<'_>;
}

/// What every request that is to change a container carries.
#[derive(Debug, Clone)]
pub(super) struct Named<'a> {
    /// The field that names it.
    pub(super) field: &'static str,
    /// What is in that field, as far as it is the container's name.
    pub(super) name: Cow<'a, str>,
    /// Its etag, if that matters.
    pub(super) etag: &'a str,
    /// Only plan.
    pub(super) validate_only: bool,
    /// While somebody else works on it.
    pub(super) conflict: i32,
}

macro_rules! repeatable {
    ($($request:ident $rpc:literal),* $(,)?) => {$(
        impl Repeatable for pb::$request {
            const RPC: &'static str = $rpc;
            fn request_id(&mut self) -> &mut String {
                &mut self.request_id
            }
        }
    )*};
}

macro_rules! change {
    ($($request:ident $($etag:ident)?),* $(,)?) => {$(
        impl Change for pb::$request {
            fn named(&self) -> Named<'_> {
                Named {
                    field: "name",
                    name: Cow::Borrowed(&self.name),
                    etag: [$(self.$etag.as_str())?].first().copied().unwrap_or_default(),
                    validate_only: self.validate_only,
                    conflict: self.conflict,
                }
            }
        }
    )*};
}

repeatable! {
    CreateContainerRequest "CreateContainer",
    UpdateContainerRequest "UpdateContainer",
    ChangeAddressesRequest "ChangeAddresses",
    DeleteContainerRequest "DeleteContainer",
    StartContainerRequest "StartContainer",
    StopContainerRequest "StopContainer",
    RestartContainerRequest "RestartContainer",
    MountContainerRequest "MountContainer",
    UnmountContainerRequest "UnmountContainer",
    CheckVolumeRequest "CheckVolume",
    CreateSnapshotRequest "CreateSnapshot",
    SwitchSnapshotRequest "SwitchSnapshot",
    DeleteSnapshotRequest "DeleteSnapshot",
    BuildTemplateRequest "BuildTemplate",
}

change! {
    ChangeAddressesRequest etag,
    DeleteContainerRequest etag,
    StartContainerRequest etag,
    StopContainerRequest etag,
    RestartContainerRequest etag,
    MountContainerRequest etag,
    UnmountContainerRequest etag,
    CheckVolumeRequest etag,
    SwitchSnapshotRequest,
    DeleteSnapshotRequest,
}

impl Change for pb::UpdateContainerRequest {
    fn named(&self) -> Named<'_> {
        let (name, etag) = self.container.as_ref().map_or(("", ""), |c| (&c.name, &c.etag));
        let Self { validate_only, conflict, .. } = *self;
        Named { field: "container.name", name: Cow::Borrowed(name), etag, validate_only, conflict }
    }
}

impl Change for pb::CreateSnapshotRequest {
    fn named(&self) -> Named<'_> {
        let name = Cow::Borrowed(self.parent.as_str());
        let Self { validate_only, conflict, .. } = *self;
        Named { field: "parent", name, etag: "", validate_only, conflict }
    }
}

/// What a call that is to change a container is about.
#[derive(Debug)]
pub(super) enum Target {
    /// It is to be admitted.
    New(Ask),
    /// It was, and became this.
    Repeated(Box<OpRecord>),
}

/// Who called, and by which request: its id is the caller's own, and stands for the RPC and all else that was
/// asked.
///
/// # Errors
/// `MISSING_FIELD` or `BAD_VALUE` on "request_id".
pub(super) fn caller<T: Repeatable>(request: &Request<T>) -> Result<Caller, Fault> {
    let asker = ves_daemon::principal(request);
    let principal = asker.to_string();
    let mut asked = request.get_ref().clone();
    let id = std::mem::take(asked.request_id());
    if id.is_empty() {
        return Err(Fault::missing("request_id"));
    }
    if id.len() > LONGEST_REQUEST_ID || id.chars().any(char::is_control) {
        let message = "a request id has at most 128 bytes and no control characters";
        return Err(bad("request_id", message));
    }
    let asked =
        Sha256::new().chain_update(T::RPC).chain_update([0]).chain_update(asked.encode_to_vec());
    let digest = asked.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    let request = RequestKey { id: format!("{principal}/{id}"), digest: Some(digest) };
    let on_behalf_of = asker.on_behalf_of.as_deref().map(str::to_owned);
    Ok(Caller { principal, on_behalf_of, request: Some(request) })
}

/// How long the caller waits, where it says so.
fn patience(metadata: &MetadataMap) -> Option<Duration> {
    let text = metadata.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let n: u64 = digits.parse().ok().filter(|_| digits.len() <= 8)?;
    match unit {
        "H" => Some(Duration::from_secs(n.saturating_mul(3600))),
        "M" => Some(Duration::from_secs(n.saturating_mul(60))),
        "S" => Some(Duration::from_secs(n)),
        "m" => Some(Duration::from_millis(n)),
        "u" => Some(Duration::from_micros(n)),
        "n" => Some(Duration::from_nanos(n)),
        _ => None,
    }
}

fn conflict(metadata: &MetadataMap, asked: pb::Conflict) -> Conflict {
    match asked {
        pb::Conflict::Unspecified | pb::Conflict::Fail => Conflict::Fail,
        pb::Conflict::Queue => Conflict::Queue(patience(metadata).unwrap_or(LONGEST_WAIT)),
    }
}

impl Api {
    /// Whether a caller sees what belongs to a project, or to none.
    pub(super) fn sees(&self, principal: &Principal, project: Option<&str>) -> bool {
        access::sees(principal, project)
    }

    /// The container that a request names by `containers/ID` or `containers/ALIAS`.
    ///
    /// # Errors
    /// `MISSING_FIELD` or `BAD_VALUE` on `field`, `CONTAINER_UNKNOWN` also of one that the caller does not see,
    /// `RECORD_CORRUPT`.
    pub(super) fn container(
        &self,
        principal: &Principal,
        field: &str,
        name: &str,
    ) -> Result<Arc<Record>, Fault> {
        let word = parse_name(field, "containers", name)?;
        let record = self.0.resolve(word).map_err(|fault| match fault.reason {
            Reason::BadValue => fault.fact("field", field),
            _ => fault,
        })?;
        if self.sees(principal, record.meta.project.as_deref()) {
            return Ok(record);
        }
        let message = format!("there is no container {word}");
        Err(Fault::new(Reason::ContainerUnknown, message).fact("ct", word))
    }

    /// The id of a container that no record knows and that a caller may take away.
    pub(super) fn unknown_container(&self, principal: &Principal, name: &str) -> Option<CtId> {
        let id = name.strip_prefix("containers/")?.parse().ok()?;
        self.sees(principal, None).then_some(id)
    }

    /// What a call that is to change a container is about. `wrong`: what is wrong with the rest of it.
    ///
    /// # Errors
    /// All that is wrong, `REQUEST_ID_REUSED`, or as [`Self::container`].
    pub(super) fn target<T: Change>(
        &self,
        request: &Request<T>,
        mut wrong: Wrong,
    ) -> Result<Target, Fault> {
        let Named { field, name, etag, validate_only, conflict: asked } = request.get_ref().named();
        // A snapshot's name begins with its container's.
        let name = name.split_once("/snapshots/").map_or(&*name, |(container, _)| container);
        wrong.take(parse_name(field, "containers", name));
        let asked = wrong.take(known::<pb::Conflict>("conflict", asked)).unwrap_or_default();
        let caller = wrong.take(caller(request));
        wrong.end()?;
        let Some(caller) = caller else { return Err(Fault::missing("request_id")) };
        if !validate_only && let Some(op) = self.0.state().read().repeated(&caller)? {
            return Ok(Target::Repeated(Box::new(OpRecord::clone(op))));
        }
        let principal = ves_daemon::principal(request);
        let record = self.container(&principal, field, name)?;
        Ok(Target::New(Ask {
            caller,
            ct: record.id,
            uid: Some(record.uid),
            etag: Some(etag.to_owned()).filter(|etag| !etag.is_empty()),
            validate_only,
            conflict: conflict(request.metadata(), asked),
            look: false,
        }))
    }

    /// Admits a change of a container.
    ///
    /// # Errors
    /// As [`Self::target`] and [`crate::Coordinator::begin`].
    pub(super) async fn change<T: Change>(
        &self,
        request: &Request<T>,
        wrong: Wrong,
        admit: impl Fn(&Record, &ProcessSeen) -> Result<Action, Fault> + Clone + Send + 'static,
    ) -> Result<Response<pb::Operation>, Status> {
        let op = match self.target(request, wrong)? {
            Target::New(ask) => self.0.begin(ask, admit).await?,
            Target::Repeated(op) => *op,
        };
        Ok(self.shown(&op))
    }

    /// An operation as an answer.
    pub(super) fn shown(&self, op: &OpRecord) -> Response<pb::Operation> {
        Response::new(self.0.render_operation(op))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_say_how_long_they_wait() {
        let said = |text: &str| {
            let mut metadata = MetadataMap::new();
            metadata.insert("grpc-timeout", text.parse().expect("a value"));
            patience(&metadata)
        };
        assert_eq!(said("2S"), Some(Duration::from_secs(2)));
        assert_eq!(said("1500m"), Some(Duration::from_millis(1500)));
        assert_eq!(said("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for bad in ["", "S", "5", "5x", "-1S", "123456789S", "é"] {
            if let Ok(value) = bad.parse() {
                let mut metadata = MetadataMap::new();
                metadata.insert("grpc-timeout", value);
                assert_eq!(patience(&metadata), None, "{bad:?}");
            }
        }
    }
}
