//! Storage as a model.

use futures::StreamExt;
use tonic::{Request, Response, Status, Streaming};
use ves_proto::{Fault, Reason, common, storage};
use ves_types::layout::Daemon;

use super::{Answers, Model, answers, fence, template, unknown};
use crate::kernel::{ensure_snapshot, ensure_volume, revert_volume};

#[tonic::async_trait]
impl storage::storage_service_server::StorageService for Model {
    async fn ensure_volume(
        &self,
        request: Request<storage::EnsureVolumeRequest>,
    ) -> Result<Response<storage::Volume>, Status> {
        answer_dry_run!(request);
        let request = request.into_inner();
        let fence = fence(request.fence)?;
        let ct = fence.ct.get();
        let spec = request.spec.ok_or_else(|| Fault::missing("spec"))?;
        let effect = |container: &mut _, state: &mut _| ensure_volume(ct, container, state, &spec);
        self.0.change(Daemon::Storage, "EnsureVolume", &fence, effect).await?;
        Ok(Response::new(self.volume(ct).unwrap_or_default()))
    }

    async fn remove_volume(
        &self,
        request: Request<storage::RemoveVolumeRequest>,
    ) -> Result<Response<storage::RemoveVolumeResponse>, Status> {
        answer_dry_run!(request);
        let fence = fence(request.into_inner().fence)?;
        let effect = |container: &mut crate::kernel::Ct, _: &mut _| {
            if container.volume.as_ref().is_some_and(|v| v.mounted) {
                return Err(Fault::new(Reason::Mounted, "the volume is mounted"));
            }
            container.volume = None;
            container.snapshots.clear();
            Ok(())
        };
        self.0.change(Daemon::Storage, "RemoveVolume", &fence, effect).await?;
        Ok(Response::new(storage::RemoveVolumeResponse::default()))
    }

    async fn get_volume(
        &self,
        request: Request<storage::GetVolumeRequest>,
    ) -> Result<Response<storage::Volume>, Status> {
        let ct = request.into_inner().ct;
        Ok(Response::new(self.volume(ct).ok_or_else(|| unknown(Reason::VolumeUnknown, ct))?))
    }

    async fn list_volumes(
        &self,
        _request: Request<storage::ListVolumesRequest>,
    ) -> Result<Response<storage::ListVolumesResponse>, Status> {
        Ok(Response::new(storage::ListVolumesResponse { volumes: self.all(Self::volume) }))
    }

    async fn ensure_snapshot(
        &self,
        request: Request<storage::EnsureSnapshotRequest>,
    ) -> Result<Response<storage::Snapshot>, Status> {
        answer_dry_run!(request);
        let storage::EnsureSnapshotRequest { fence: given, id, name, dry_run: _ } =
            request.into_inner();
        let fence = fence(given)?;
        let effect = |container: &mut _, _: &mut _| ensure_snapshot(container, &fence, &id, &name);
        self.0.change(Daemon::Storage, "EnsureSnapshot", &fence, effect).await?;
        let kept = self.0.ct(fence.ct.get()).snapshots.remove(&id);
        Ok(Response::new(kept.map(|k| k.shown).unwrap_or_default()))
    }

    async fn remove_snapshot(
        &self,
        request: Request<storage::RemoveSnapshotRequest>,
    ) -> Result<Response<storage::RemoveSnapshotResponse>, Status> {
        answer_dry_run!(request);
        let storage::RemoveSnapshotRequest { fence: given, id, dry_run: _ } = request.into_inner();
        let fence = fence(given)?;
        let effect = |container: &mut crate::kernel::Ct, _: &mut _| {
            container.snapshots.remove(&id);
            Ok(())
        };
        self.0.change(Daemon::Storage, "RemoveSnapshot", &fence, effect).await?;
        Ok(Response::new(storage::RemoveSnapshotResponse::default()))
    }

    async fn list_snapshots(
        &self,
        request: Request<storage::ListSnapshotsRequest>,
    ) -> Result<Response<storage::ListSnapshotsResponse>, Status> {
        let kept = self.0.ct(request.into_inner().ct).snapshots.into_values();
        let snapshots = kept.map(|k| k.shown).collect();
        Ok(Response::new(storage::ListSnapshotsResponse { snapshots }))
    }

    async fn revert_volume(
        &self,
        request: Request<storage::RevertVolumeRequest>,
    ) -> Result<Response<storage::Volume>, Status> {
        answer_dry_run!(request);
        let storage::RevertVolumeRequest { fence: given, snapshot, dry_run: _ } =
            request.into_inner();
        let fence = fence(given)?;
        let effect = |container: &mut _, _: &mut _| revert_volume(container, &fence, &snapshot);
        self.0.change(Daemon::Storage, "RevertVolume", &fence, effect).await?;
        Ok(Response::new(self.volume(fence.ct.get()).unwrap_or_default()))
    }

    type BuildTemplateStream = Answers<storage::TemplateProgress>;

    async fn build_template(
        &self,
        request: Request<storage::BuildTemplateRequest>,
    ) -> Result<Response<Self::BuildTemplateStream>, Status> {
        use storage::template_progress::Is;
        let request = request.into_inner();
        let progress = |what: &str, done| storage::TemplateProgress {
            is: Some(Is::Progress(common::Progress { what: what.to_owned(), done, total: 2 })),
        };
        let mut items = vec![progress("unpacking", 0), progress("configuring", 1)];
        if request.suite == "slow" {
            let never = futures::stream::pending();
            let items = futures::stream::iter(items.into_iter().map(Ok));
            return Ok(Response::new(Box::pin(items.chain(never))));
        }
        if request.suite == "nonsuch" {
            let message = "the mirror has no such suite";
            return Err(Fault::new(Reason::HostFailed, message).fact("step", "fetch").into());
        }
        self.0.state().templates.insert(request.name.clone());
        items.push(storage::TemplateProgress { is: Some(Is::Template(template(&request.name))) });
        Ok(Response::new(answers(items)))
    }

    type ImportTemplateStream = Answers<storage::TemplateProgress>;

    async fn import_template(
        &self,
        request: Request<Streaming<storage::ImportTemplateRequest>>,
    ) -> Result<Response<Self::ImportTemplateStream>, Status> {
        use storage::import_template_request::Part;
        let mut stream = request.into_inner();
        let (mut name, mut bytes) = (String::new(), 0);
        while let Some(message) = stream.message().await? {
            match message.part {
                Some(Part::Header(header)) => name = header.name,
                Some(Part::Data(data)) => bytes += data.len(),
                None => {}
            }
        }
        if bytes == 0 {
            return Err(Fault::new(Reason::BadArchive, "the archive is empty").into());
        }
        self.0.state().templates.insert(name.clone());
        let mut template = template(&name);
        template.content_bytes = u64::try_from(bytes).unwrap_or(0);
        let is = Some(storage::template_progress::Is::Template(template));
        Ok(Response::new(answers(vec![storage::TemplateProgress { is }])))
    }

    type ExportTemplateStream = Answers<storage::ExportTemplateResponse>;

    async fn export_template(
        &self,
        request: Request<storage::ExportTemplateRequest>,
    ) -> Result<Response<Self::ExportTemplateStream>, Status> {
        let name = request.into_inner().name;
        if !self.0.state().templates.contains(&name) {
            let message = format!("there is no template {name}");
            return Err(Fault::new(Reason::TemplateUnknown, message).fact("template", name).into());
        }
        let data = vec![0x28_u8; 4096].into();
        Ok(Response::new(answers(vec![storage::ExportTemplateResponse { data }])))
    }

    async fn remove_template(
        &self,
        request: Request<storage::RemoveTemplateRequest>,
    ) -> Result<Response<storage::RemoveTemplateResponse>, Status> {
        let name = request.into_inner().name;
        let mut state = self.0.state();
        let used =
            state.cts.values().any(|c| c.volume.as_ref().is_some_and(|v| v.template == name));
        if used {
            let message = format!("volumes come from {name}");
            return Err(Fault::new(Reason::TemplateInUse, message).fact("template", name).into());
        }
        state.templates.remove(&name);
        Ok(Response::new(storage::RemoveTemplateResponse {}))
    }

    async fn list_templates(
        &self,
        _request: Request<storage::ListTemplatesRequest>,
    ) -> Result<Response<storage::ListTemplatesResponse>, Status> {
        let templates = self.0.state().templates.iter().map(|n| template(n)).collect();
        Ok(Response::new(storage::ListTemplatesResponse { templates }))
    }

    async fn get_pool(
        &self,
        _request: Request<storage::GetPoolRequest>,
    ) -> Result<Response<storage::Pool>, Status> {
        let backend = "image-copy".to_owned();
        let size_bytes = 1 << 40;
        let free_bytes = 1 << 39;
        let pool = storage::Pool { backend, size_bytes, free_bytes, ..Default::default() };
        Ok(Response::new(pool))
    }
}
