//! `TemplateService`: storage's templates, passed through; a build is an operation.

use std::time::Duration;

use tokio_stream::StreamExt;
use tonic::{Request, Response, Status, Streaming};
use ves_proto::coordinator::template_service_server::TemplateService;
use ves_proto::{Fault, coordinator as pb, storage};
use ves_types::TemplateName;

use super::{Answers, Api, caller};
use crate::operation::kinds;
use crate::services::{ask, fault_of};

/// How long a list or a removal may take.
const SHORT: Duration = Duration::from_secs(60);

fn failed(status: &Status) -> Status {
    fault_of("storage", status).into()
}

fn parse_name(name: &str) -> Result<TemplateName, Fault> {
    if name.is_empty() {
        return Err(Fault::missing("name"));
    }
    name.parse().map_err(|e| Fault::bad_value("name", &e))
}

#[tonic::async_trait]
impl TemplateService for Api {
    async fn build_template(
        &self,
        request: Request<pb::BuildTemplateRequest>,
    ) -> Result<Response<pb::Operation>, Status> {
        let caller = caller("BuildTemplate", &request, |r| &mut r.request_id)?;
        let build = request.into_inner().build.ok_or_else(|| Fault::missing("build"))?;
        let action = kinds::template_build::admit(build)?;
        Ok(Response::new(self.0.build_template(caller, action).await?))
    }

    type ImportTemplateStream = Answers<storage::TemplateProgress>;

    async fn import_template(
        &self,
        request: Request<Streaming<storage::ImportTemplateRequest>>,
    ) -> Result<Response<Self::ImportTemplateStream>, Status> {
        // A caller that breaks off ends the archive, whose header or own end then says that it is
        // not whole.
        let archive = request.into_inner().map_while(Result::ok);
        let answer = self.0.services().storage.clone().import_template(archive).await;
        let progress = answer.map_err(|s| failed(&s))?.into_inner();
        Ok(Response::new(Box::pin(progress.map(|m| m.map_err(|s| failed(&s))))))
    }

    type ExportTemplateStream = Answers<storage::ExportTemplateResponse>;

    async fn export_template(
        &self,
        request: Request<storage::ExportTemplateRequest>,
    ) -> Result<Response<Self::ExportTemplateStream>, Status> {
        let request = request.into_inner();
        parse_name(&request.name)?;
        let answer = self.0.services().storage.clone().export_template(request).await;
        let archive = answer.map_err(|s| failed(&s))?.into_inner();
        Ok(Response::new(Box::pin(archive.map(|m| m.map_err(|s| failed(&s))))))
    }

    async fn delete_template(
        &self,
        request: Request<pb::DeleteTemplateRequest>,
    ) -> Result<Response<pb::DeleteTemplateResponse>, Status> {
        let name = parse_name(&request.into_inner().name)?.as_str().to_owned();
        let mut client = self.0.services().storage.clone();
        let call = client.remove_template(storage::RemoveTemplateRequest { name });
        ask("storage", SHORT, call).await?;
        Ok(Response::new(pb::DeleteTemplateResponse {}))
    }

    async fn list_templates(
        &self,
        _request: Request<pb::ListTemplatesRequest>,
    ) -> Result<Response<pb::ListTemplatesResponse>, Status> {
        let mut client = self.0.services().storage.clone();
        let call = client.list_templates(storage::ListTemplatesRequest {});
        let templates = ask("storage", SHORT, call).await?.templates;
        Ok(Response::new(pb::ListTemplatesResponse { templates }))
    }
}
