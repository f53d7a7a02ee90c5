//! gRPC: parse → call → render, no decisions.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};
use ves_archive::{Feed, Init};
use ves_daemon::{App, CHANGE, Call, Done, Policy, READ, blocking};
use ves_host::ext4::Damage;
use ves_proto::convert::{
    parse_ct, parse_cts, parse_fence, parse_slot, parse_snapshot_id, parse_snapshot_name,
};
use ves_proto::storage::storage_service_server::{StorageService, StorageServiceServer};
use ves_proto::storage::{self as pb, template_progress::Is};
use ves_proto::{Fault, Reason, common};
use ves_types::{DiskSize, Fence, InodeLimit, SnapshotId, TemplateName};

use crate::host::{BackendKind, Source, Template};
use crate::plan::{Desired, Record, Reverted, check, snapshot};
use crate::service::{Service, Snapshot, Volume};
use crate::template::{Build, BuildInit, Progress, parse_owners, parse_sha256};

/// Who may call what: the coordinator, and root for repairs.
pub const POLICY: Policy = &[
    ("/ves.storage.v1.StorageService/EnsureVolume", CHANGE),
    ("/ves.storage.v1.StorageService/RemoveVolume", CHANGE),
    ("/ves.storage.v1.StorageService/GetVolume", READ),
    ("/ves.storage.v1.StorageService/ListVolumes", READ),
    ("/ves.storage.v1.StorageService/EnsureSnapshot", CHANGE),
    ("/ves.storage.v1.StorageService/RemoveSnapshot", CHANGE),
    ("/ves.storage.v1.StorageService/ListSnapshots", READ),
    ("/ves.storage.v1.StorageService/RevertVolume", CHANGE),
    ("/ves.storage.v1.StorageService/CheckVolume", CHANGE),
    ("/ves.storage.v1.StorageService/WatchErrors", READ),
    ("/ves.storage.v1.StorageService/BuildTemplate", CHANGE),
    ("/ves.storage.v1.StorageService/ImportTemplate", CHANGE),
    ("/ves.storage.v1.StorageService/ExportTemplate", CHANGE),
    ("/ves.storage.v1.StorageService/RemoveTemplate", CHANGE),
    ("/ves.storage.v1.StorageService/ListTemplates", READ),
    ("/ves.storage.v1.StorageService/GetPool", READ),
];

/// Names of the services.
pub const SERVICES: &[&str] = &["ves.storage.v1.StorageService"];

/// The routes of a service.
pub fn routes(service: Service) -> tonic::service::Routes {
    tonic::service::Routes::new(StorageServiceServer::new(Api(service)))
}

/// The service, ready for the chassis.
pub fn app(service: Service) -> App {
    App {
        routes: routes(service),
        policy: POLICY,
        services: SERVICES,
        operators: Vec::new(),
        needs: Vec::new(),
        network: None,
    }
}

struct Api(Service);

type Answer<T> = Result<Response<T>, Status>;
type Out<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Messages that may wait for a slow reader.
const QUEUE: usize = 16;
/// The most bytes of one message of an archive.
const PIECE: usize = 256 << 10;
/// How long a sender of an archive may be silent.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

fn parse_template(name: &str, field: &str) -> Result<TemplateName, Fault> {
    if name.is_empty() {
        return Err(Fault::missing(field));
    }
    name.parse().map_err(|e| Fault::bad_value(field, &e))
}

fn parse_spec(spec: Option<pb::VolumeSpec>) -> Result<Desired, Fault> {
    let pb::VolumeSpec { template, size_bytes, inodes, id_slot, mounted } =
        spec.ok_or_else(|| Fault::missing("spec"))?;
    let size =
        DiskSize::try_from(size_bytes).map_err(|e| Fault::bad_value("spec.size_bytes", &e))?;
    let inodes = inodes.map(InodeLimit::try_from).transpose();
    let inodes = inodes.map_err(|e| Fault::bad_value("spec.inodes", &e))?;
    Ok(Desired {
        template: parse_template(&template, "spec.template")?,
        // Whole blocks, rounded down: the limit is hard.
        bytes: size.bytes().0 / ves_host::ext4::BLOCK * ves_host::ext4::BLOCK,
        inodes: inodes.map(u64::from),
        slot: parse_slot(id_slot)?,
        mounted,
    })
}

fn render_volume(volume: Volume) -> pb::Volume {
    let Volume { ct, generation, record, bytes, usage, mounted, damage, holder } = volume;
    let Record { template, inodes: _, inodes_per_group: _, reverted, checked } = record;
    let crate::host::Usage { allocated, used, inodes, used_inodes, device } = usage;
    pb::Volume {
        ct: ct.get(),
        generation: generation.0,
        template: template.into(),
        size_bytes: bytes,
        used_bytes: used,
        inodes,
        used_inodes,
        allocated_bytes: allocated,
        mounted,
        device,
        holder,
        reverted: reverted.map(|Reverted { snapshot, generation }| pb::Reverted {
            snapshot: snapshot.to_string(),
            generation: generation.0,
        }),
        damage: damage.map(|Damage { errors, last_unix, last_in }| pb::Damage {
            errors,
            last_unix,
            last_in,
        }),
        checked_generation: checked.map(|generation| generation.0),
        steps: Vec::new(),
    }
}

fn answer_volume(call: &Call, done: Done<Volume>) -> pb::Volume {
    let Done { answer, steps } = done;
    let planned = || pb::Volume { ct: call.fence.ct.get(), ..pb::Volume::default() };
    pb::Volume { steps, ..answer.map_or_else(planned, render_volume) }
}

fn parse_snapshot(id: &str, name: &str, fence: &Fence) -> Result<snapshot::Desired, Fault> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(snapshot::Desired {
        id: parse_snapshot_id("id", id)?,
        name: parse_snapshot_name(name)?,
        created_unix_ms: i64::try_from(now.as_millis()).unwrap_or(i64::MAX),
        generation: fence.generation,
    })
}

fn render_snapshot(snapshot: Snapshot) -> pb::Snapshot {
    let Snapshot { id, seen, parent, current, own } = snapshot;
    let snapshot::Snapshot { record, bytes, allocated, damaged } = seen;
    let snapshot::Record { name, created_unix_ms, generation, parent: _, volume: _ } = record;
    pb::Snapshot {
        id: id.to_string(),
        name: name.map(String::from).unwrap_or_default(),
        created_unix_ms,
        generation: generation.0,
        parent: parent.map(String::from).unwrap_or_default(),
        current,
        size_bytes: bytes,
        allocated_bytes: allocated,
        own_bytes: own,
        damaged,
        steps: Vec::new(),
    }
}

fn answer_snapshot(id: SnapshotId, done: Done<Snapshot>) -> pb::Snapshot {
    let Done { answer, steps } = done;
    let planned = || pb::Snapshot { id: id.to_string(), ..pb::Snapshot::default() };
    pb::Snapshot { steps, ..answer.map_or_else(planned, render_snapshot) }
}

const fn render_backend(kind: BackendKind) -> pb::Backend {
    match kind {
        BackendKind::ImageReflink => pb::Backend::ImageReflink,
        BackendKind::ImageCopy => pb::Backend::ImageCopy,
    }
}

fn render_template(template: Template) -> pb::Template {
    let Template {
        name,
        content_bytes,
        content_inodes,
        allocated,
        init,
        sha256,
        os,
        created_unix,
        notes,
    } = template;
    let init = match init {
        Init::Systemd => pb::InitSystem::Systemd,
        Init::Sysvinit => pb::InitSystem::Sysvinit,
        Init::Other => pb::InitSystem::Other,
        Init::Absent => pb::InitSystem::Unspecified,
    };
    pb::Template {
        name: name.into(),
        content_bytes,
        content_inodes,
        allocated_bytes: allocated,
        init: init.into(),
        sha256,
        os: os.unwrap_or_default(),
        created_unix,
        notes,
    }
}

fn render_progress(progress: Progress) -> pb::TemplateProgress {
    let Progress { what, done, total } = progress;
    pb::TemplateProgress { is: Some(Is::Progress(common::Progress { what, done, total })) }
}

/// An archive that comes in messages.
struct Messages(mpsc::Receiver<Result<Vec<u8>, Fault>>);

impl Feed for Messages {
    fn next(&mut self) -> std::io::Result<Option<Vec<u8>>> {
        match self.0.blocking_recv() {
            None => Ok(None),
            Some(Ok(piece)) => Ok(Some(piece)),
            Some(Err(fault)) => Err(std::io::Error::other(fault)),
        }
    }
}

/// Carries an archive's messages to the thread that reads them, until either side ends.
async fn carry(
    mut incoming: Streaming<pb::ImportTemplateRequest>,
    to: mpsc::Sender<Result<Vec<u8>, Fault>>,
) {
    use pb::import_template_request::Part;
    loop {
        let Ok(message) = tokio::time::timeout(PATIENCE, incoming.message()).await else {
            let why = format!("no piece of the archive came for {} s", PATIENCE.as_secs());
            let fault = Fault::new(Reason::Timeout, why).fact("what", "the archive");
            // Nobody reads any more if this is not heard.
            to.send(Err(fault)).await.ok();
            return;
        };
        let piece = match message {
            Ok(None) => return,
            Ok(Some(pb::ImportTemplateRequest { part: Some(Part::Data(data)) }))
                if data.len() <= PIECE =>
            {
                Ok(data.to_vec())
            }
            Ok(Some(_)) => {
                let why = "after the header come pieces of at most 256 KiB";
                Err(Fault::new(Reason::BadValue, why).fact("field", "data"))
            }
            Err(status) => {
                let message = format!("the archive stopped coming: {}", status.message());
                Err(Fault::new(Reason::Cancelled, message))
            }
        };
        let last = piece.is_err();
        if to.send(piece).await.is_err() || last {
            return;
        }
    }
}

impl Api {
    /// Makes a template on a thread of its own, telling of it; goes on when the caller hangs up.
    fn make(
        &self,
        name: TemplateName,
        work: impl FnOnce(
            &Service,
            &TemplateName,
            &(dyn Fn(Progress) + Sync),
        ) -> Result<Template, Fault>
        + Send
        + 'static,
    ) -> Response<Out<pb::TemplateProgress>> {
        let (to, from) = mpsc::channel(QUEUE);
        let service = self.0.clone();
        let tell = Arc::new(to);
        tokio::spawn(async move {
            let telling = tell.clone();
            let made = blocking(move || {
                work(&service, &name, &move |progress| {
                    // A caller that reads slowly or not at all misses progress, nothing else.
                    telling.try_send(Ok(render_progress(progress))).ok();
                })
            })
            .await;
            let last = made
                .map(|t| pb::TemplateProgress { is: Some(Is::Template(render_template(t))) })
                .map_err(Status::from);
            // A caller that hung up does not hear it.
            tell.send(last).await.ok();
        });
        Response::new(Box::pin(ReceiverStream::new(from)))
    }
}

#[tonic::async_trait]
impl StorageService for Api {
    type WatchErrorsStream = Out<pb::Volume>;
    type BuildTemplateStream = Out<pb::TemplateProgress>;
    type ImportTemplateStream = Out<pb::TemplateProgress>;
    type ExportTemplateStream = Out<pb::ExportTemplateResponse>;

    async fn ensure_volume(&self, request: Request<pb::EnsureVolumeRequest>) -> Answer<pb::Volume> {
        let pb::EnsureVolumeRequest { fence, spec, dry_run } = request.into_inner();
        let (call, desired) = (Call { fence: parse_fence(fence)?, dry_run }, parse_spec(spec)?);
        let done = self.0.ensure(call, desired).await?;
        Ok(Response::new(answer_volume(&call, done)))
    }

    async fn remove_volume(
        &self,
        request: Request<pb::RemoveVolumeRequest>,
    ) -> Answer<pb::RemoveVolumeResponse> {
        let pb::RemoveVolumeRequest { fence, dry_run } = request.into_inner();
        let Done { answer: _, steps } =
            self.0.remove(Call { fence: parse_fence(fence)?, dry_run }).await?;
        Ok(Response::new(pb::RemoveVolumeResponse { steps }))
    }

    async fn get_volume(&self, request: Request<pb::GetVolumeRequest>) -> Answer<pb::Volume> {
        let pb::GetVolumeRequest { ct } = request.into_inner();
        let ct = parse_ct(ct)?;
        let service = self.0.clone();
        Ok(Response::new(render_volume(blocking(move || service.get(ct)).await?)))
    }

    async fn list_volumes(
        &self,
        request: Request<pb::ListVolumesRequest>,
    ) -> Answer<pb::ListVolumesResponse> {
        let pb::ListVolumesRequest { cts } = request.into_inner();
        let cts = parse_cts(&cts)?;
        let service = self.0.clone();
        let volumes = blocking(move || service.list(&cts)).await?;
        let volumes = volumes.into_iter().map(render_volume).collect();
        Ok(Response::new(pb::ListVolumesResponse { volumes }))
    }

    async fn ensure_snapshot(
        &self,
        request: Request<pb::EnsureSnapshotRequest>,
    ) -> Answer<pb::Snapshot> {
        let pb::EnsureSnapshotRequest { fence, id, name, dry_run } = request.into_inner();
        let call = Call { fence: parse_fence(fence)?, dry_run };
        let desired = parse_snapshot(&id, &name, &call.fence)?;
        let id = desired.id;
        let done = self.0.ensure_snapshot(call, desired).await?;
        Ok(Response::new(answer_snapshot(id, done)))
    }

    async fn remove_snapshot(
        &self,
        request: Request<pb::RemoveSnapshotRequest>,
    ) -> Answer<pb::RemoveSnapshotResponse> {
        let pb::RemoveSnapshotRequest { fence, id, dry_run } = request.into_inner();
        let call = Call { fence: parse_fence(fence)?, dry_run };
        let id = parse_snapshot_id("id", &id)?;
        let Done { answer: _, steps } = self.0.remove_snapshot(call, id).await?;
        Ok(Response::new(pb::RemoveSnapshotResponse { steps }))
    }

    async fn list_snapshots(
        &self,
        request: Request<pb::ListSnapshotsRequest>,
    ) -> Answer<pb::ListSnapshotsResponse> {
        let pb::ListSnapshotsRequest { ct, measure } = request.into_inner();
        let ct = parse_ct(ct)?;
        let service = self.0.clone();
        let snapshots = blocking(move || service.snapshots(ct, measure)).await?;
        let snapshots = snapshots.into_iter().map(render_snapshot).collect();
        Ok(Response::new(pb::ListSnapshotsResponse { snapshots }))
    }

    async fn revert_volume(&self, request: Request<pb::RevertVolumeRequest>) -> Answer<pb::Volume> {
        let pb::RevertVolumeRequest { fence, snapshot, dry_run } = request.into_inner();
        let call = Call { fence: parse_fence(fence)?, dry_run };
        let id = parse_snapshot_id("snapshot", &snapshot)?;
        let done = self.0.revert(call, id).await?;
        Ok(Response::new(answer_volume(&call, done)))
    }

    async fn check_volume(
        &self,
        request: Request<pb::CheckVolumeRequest>,
    ) -> Answer<pb::CheckVolumeResponse> {
        let pb::CheckVolumeRequest { fence, mend_all, dry_run } = request.into_inner();
        let call = Call { fence: parse_fence(fence)?, dry_run };
        let snapshot =
            |pb::MendAll { snapshot, name }| parse_snapshot(&snapshot, &name, &call.fence);
        let mend_all = mend_all.map(snapshot).transpose()?;
        let desired = check::Desired { generation: call.fence.generation, mend_all };
        let Done { answer, steps } = self.0.check(call, desired).await?;
        let snapshot_taken = answer.as_ref().is_some_and(|checked| checked.kept);
        let volume = Done { answer: answer.map(|checked| checked.volume), steps };
        let volume = Some(answer_volume(&call, volume));
        Ok(Response::new(pb::CheckVolumeResponse { volume, snapshot_taken }))
    }

    async fn watch_errors(
        &self,
        request: Request<pb::WatchErrorsRequest>,
    ) -> Answer<Self::WatchErrorsStream> {
        let pb::WatchErrorsRequest {} = request.into_inner();
        let (service, mut errors) = (self.0.clone(), self.0.errors.subscribe());
        let (to, from) = mpsc::channel(QUEUE);
        tokio::spawn(async move {
            let mut told = BTreeMap::new();
            loop {
                let met = errors.borrow_and_update().clone();
                let cts = met.keys().chain(told.keys());
                let news: BTreeSet<_> =
                    cts.filter(|ct| met.get(ct) != told.get(ct)).copied().collect();
                for ct in news {
                    let own = service.clone();
                    // One that is gone meanwhile has no errors.
                    let Ok(volume) = blocking(move || own.get(ct)).await else { continue };
                    if to.send(Ok(render_volume(volume))).await.is_err() {
                        return;
                    }
                }
                told = met;
                tokio::select! {
                    // Nothing is lost here when the caller goes, for it goes too.
                    changed = errors.changed() => if changed.is_err() { return },
                    () = to.closed() => return,
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(from))))
    }

    async fn build_template(
        &self,
        request: Request<pb::BuildTemplateRequest>,
    ) -> Answer<Self::BuildTemplateStream> {
        let request = request.into_inner();
        let init = match request.init() {
            pb::InitSystem::Systemd | pb::InitSystem::Unspecified => BuildInit::Systemd,
            pb::InitSystem::Sysvinit => BuildInit::Sysvinit,
            pb::InitSystem::Other => {
                let why = "a template is built with systemd or sysvinit";
                return Err(Fault::new(Reason::BadValue, why).fact("field", "init").into());
            }
        };
        let pb::BuildTemplateRequest { name, suite, init: _, packages } = request;
        let name = parse_template(&name, "name")?;
        let build = Build::parse(suite, init, packages)?;
        Ok(self.make(name, move |service, name, progress| {
            service.make_template(name, Source::Build(build), progress)
        }))
    }

    async fn import_template(
        &self,
        request: Request<Streaming<pb::ImportTemplateRequest>>,
    ) -> Answer<Self::ImportTemplateStream> {
        use pb::import_template_request::Part;
        let mut incoming = request.into_inner();
        let first = incoming.message().await?;
        let Some(pb::ImportTemplateRequest { part: Some(Part::Header(header)) }) = first else {
            return Err(Fault::missing("header").into());
        };
        let pb::ImportTemplateHeader { name, sha256, map_owners, squash_owners } = header;
        let name = parse_template(&name, "name")?;
        let sha256 = parse_sha256(&sha256)?;
        let map = map_owners.into_iter().map(|pb::OwnerMap { from, to }| (from, to));
        let owners = parse_owners(map, squash_owners)?;
        let (to, from) = mpsc::channel(QUEUE);
        tokio::spawn(carry(incoming, to));
        Ok(self.make(name, move |service, name, progress| {
            let mut feed = Messages(from);
            let source = Source::Archive { feed: &mut feed, sha256, owners };
            service.make_template(name, source, progress)
        }))
    }

    async fn export_template(
        &self,
        request: Request<pb::ExportTemplateRequest>,
    ) -> Answer<Self::ExportTemplateStream> {
        let pb::ExportTemplateRequest { name } = request.into_inner();
        let name = parse_template(&name, "name")?;
        let service = self.0.clone();
        let (mut archive, reading) = blocking(move || service.export(&name)).await?;
        let (to, from) = mpsc::channel(QUEUE);
        tokio::task::spawn_blocking(move || {
            let _reading = reading;
            loop {
                let mut data = vec![0; PIECE];
                let piece = match archive.read(&mut data) {
                    Ok(0) => return,
                    Ok(n) => {
                        data.truncate(n);
                        Ok(pb::ExportTemplateResponse { data: data.into() })
                    }
                    Err(e) => {
                        let message = format!("read the template's archive: {e}");
                        Err(Fault::new(Reason::HostFailed, message).into())
                    }
                };
                let last = piece.is_err();
                if to.blocking_send(piece).is_err() || last {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(from).fuse())))
    }

    async fn remove_template(
        &self,
        request: Request<pb::RemoveTemplateRequest>,
    ) -> Answer<pb::RemoveTemplateResponse> {
        let pb::RemoveTemplateRequest { name } = request.into_inner();
        let name = parse_template(&name, "name")?;
        let service = self.0.clone();
        blocking(move || service.remove_template(&name)).await?;
        Ok(Response::new(pb::RemoveTemplateResponse {}))
    }

    async fn list_templates(
        &self,
        request: Request<pb::ListTemplatesRequest>,
    ) -> Answer<pb::ListTemplatesResponse> {
        let pb::ListTemplatesRequest {} = request.into_inner();
        let service = self.0.clone();
        let templates = blocking(move || service.templates()).await?;
        let templates = templates.into_iter().map(render_template).collect();
        Ok(Response::new(pb::ListTemplatesResponse { templates }))
    }

    async fn get_pool(&self, request: Request<pb::GetPoolRequest>) -> Answer<pb::Pool> {
        let pb::GetPoolRequest {} = request.into_inner();
        let service = self.0.clone();
        let (backend, facts) = blocking(move || service.pool()).await?;
        Ok(Response::new(pb::Pool {
            backend: render_backend(backend).into(),
            size_bytes: facts.room.limit,
            free_bytes: facts.room.free(),
            promised_bytes: facts.committed(),
            allocated_bytes: facts.room.used,
            backed_bytes: facts.room.backed,
            promisable_bytes: facts.promisable(),
            alarms: facts.alarms().iter().map(ToString::to_string).collect(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_has_its_row() {
        assert_eq!(ves_daemon::check_service_policy(SERVICES, POLICY), Ok(()));
    }

    #[test]
    fn specs_are_checked() {
        let good = pb::VolumeSpec {
            template: "debian".to_owned(),
            size_bytes: (1 << 30) + 1,
            inodes: None,
            id_slot: 20,
            mounted: true,
        };
        let field =
            |spec: pb::VolumeSpec| parse_spec(Some(spec)).map_err(|f| f.facts["field"].clone());
        assert_eq!(parse_spec(Some(good.clone())).map(|d| d.bytes), Ok(1 << 30));
        let with = |change: fn(&mut pb::VolumeSpec)| {
            let mut spec = good.clone();
            change(&mut spec);
            field(spec).err()
        };
        assert_eq!(with(|s| s.size_bytes = 1).as_deref(), Some("spec.size_bytes"));
        assert_eq!(with(|s| s.size_bytes = u64::MAX).as_deref(), Some("spec.size_bytes"));
        assert_eq!(with(|s| s.inodes = Some(0)).as_deref(), Some("spec.inodes"));
        assert_eq!(with(|s| s.id_slot = 0).as_deref(), Some("id_slot"));
        assert_eq!(with(|s| s.template = "../x".to_owned()).as_deref(), Some("spec.template"));
        assert_eq!(with(|s| s.template = String::new()).as_deref(), Some("spec.template"));
        assert_eq!(parse_spec(None).map_err(|f| f.reason), Err(Reason::MissingField));
    }
}
