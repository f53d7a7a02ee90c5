//! The service of templates.
//!
//! Never here: reading an archive.

use tonic::{Request, Response, Status, Streaming};
use ves_proto::api::operation::Kind;
use ves_proto::api::template_service_server::TemplateService;
use ves_proto::api::*;
use ves_proto::{Fault, Reason};

use super::{Api, BoxStream};

#[tonic::async_trait]
impl TemplateService for Api {
    async fn build_template(
        &self,
        request: Request<BuildTemplateRequest>,
    ) -> Result<Response<Operation>, Status> {
        self.called(request.get_ref())?;
        Ok(self.operation(Kind::TemplateBuild, &request.get_ref().name, false))
    }

    type ImportTemplateStream = BoxStream<ImportTemplateResponse>;
    async fn import_template(
        &self,
        request: Request<Streaming<ImportTemplateRequest>>,
    ) -> Result<Response<Self::ImportTemplateStream>, Status> {
        let mut requests = request.into_inner();
        let mut name = String::new();
        let mut data = Vec::new();
        while let Some(request) = requests.message().await? {
            match request.part {
                Some(import_template_request::Part::Header(header)) => {
                    self.called(&header)?;
                    name.clone_from(&header.name);
                    self.state().header = header;
                }
                Some(import_template_request::Part::Data(bytes)) => data.extend_from_slice(&bytes),
                None => {}
            }
        }
        self.state().imported = data;
        let progress = Progress { message: "read the archive".into(), done: 1, total: 2 };
        let notes = self.state().notes.clone();
        let template = Template { name, content_bytes: 300 << 20, notes, ..Template::default() };
        use import_template_response::Is;
        let items = [Is::Progress(progress), Is::Template(template)];
        let items = items.map(|is| Ok(ImportTemplateResponse { is: Some(is) }));
        Ok(Response::new(Box::pin(tokio_stream::iter(items))))
    }

    type ExportTemplateStream = BoxStream<ExportTemplateResponse>;
    async fn export_template(
        &self,
        request: Request<ExportTemplateRequest>,
    ) -> Result<Response<Self::ExportTemplateStream>, Status> {
        self.called(request.get_ref())?;
        let items = ["abc", "def"].map(|data| Ok(ExportTemplateResponse { data: data.into() }));
        Ok(Response::new(Box::pin(tokio_stream::iter(items))))
    }
    async fn delete_template(
        &self,
        request: Request<DeleteTemplateRequest>,
    ) -> Result<Response<DeleteTemplateResponse>, Status> {
        self.called(request.get_ref())?;
        Ok(Response::new(DeleteTemplateResponse {}))
    }
    async fn list_templates(
        &self,
        request: Request<ListTemplatesRequest>,
    ) -> Result<Response<ListTemplatesResponse>, Status> {
        self.called(request.get_ref())?;
        let templates = self.state().templates.clone();
        Ok(Response::new(ListTemplatesResponse { templates, ..Default::default() }))
    }
    async fn get_template(
        &self,
        request: Request<GetTemplateRequest>,
    ) -> Result<Response<Template>, Status> {
        self.called(request.get_ref())?;
        let name = &request.get_ref().name;
        let found = self.state().templates.iter().find(|t| t.name == *name).cloned();
        let unknown = || Fault::new(Reason::TemplateUnknown, format!("there is no {name}"));
        found.map(Response::new).ok_or_else(|| unknown().into())
    }
}
