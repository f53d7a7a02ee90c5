//! The service of templates.
//!
//! Never here: reading an archive.

use tonic::{Request, Response, Status, Streaming};
use ves_proto::common::Progress;
use ves_proto::coordinator::template_service_server::TemplateService;
use ves_proto::coordinator::*;
use ves_proto::storage::{
    self, ExportTemplateResponse, Template, TemplateProgress, import_template_request,
    template_progress,
};

use super::{Api, BoxStream};

#[tonic::async_trait]
impl TemplateService for Api {
    async fn build_template(
        &self,
        request: Request<BuildTemplateRequest>,
    ) -> Result<Response<Operation>, Status> {
        self.called(request.get_ref())?;
        Ok(self.operation("template build", 0, false))
    }

    type ImportTemplateStream = BoxStream<TemplateProgress>;
    async fn import_template(
        &self,
        request: Request<Streaming<storage::ImportTemplateRequest>>,
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
        let progress = Progress { what: "read the archive".into(), done: 1, total: 2 };
        let notes = self.state().notes.clone();
        let template = Template { name, content_bytes: 300 << 20, notes, ..Template::default() };
        let items =
            [template_progress::Is::Progress(progress), template_progress::Is::Template(template)];
        let items = items.map(|is| Ok(TemplateProgress { is: Some(is) }));
        Ok(Response::new(Box::pin(tokio_stream::iter(items))))
    }

    type ExportTemplateStream = BoxStream<ExportTemplateResponse>;
    async fn export_template(
        &self,
        request: Request<storage::ExportTemplateRequest>,
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
        Ok(Response::new(ListTemplatesResponse { templates }))
    }
}
