//! `TemplateService`: storage's templates, passed through; a build is an operation.

use std::time::Duration;

use tokio_stream::StreamExt;
use tonic::{Request, Response, Status, Streaming};
use ves_daemon::Principal;
use ves_proto::api as pb;
use ves_proto::api::template_service_server::TemplateService;
use ves_proto::public::{template_name, timestamp};
use ves_proto::{Fault, Reason, storage};
use ves_types::TemplateName;

use super::page::Page;
use super::reach::caller;
use super::{Answers, Api};
use crate::container::given::read_template;
use crate::event::record::{NewEvent, Type};
use crate::operation::kinds::Action;
use crate::operation::kinds::template_build::{TemplateBuild, parse_suite};
use crate::operation::public::asker;
use crate::services::{ask, fault_of};
use crate::wrong::{Wrong, known};

/// How long a list or a removal may take.
const SHORT: Duration = Duration::from_secs(60);

/// The greatest page of templates.
const PAGE: usize = 1000;

fn failed(status: &Status) -> Status {
    fault_of("storage", status).into()
}

const fn render_init(init: storage::InitSystem) -> pb::InitSystem {
    match init {
        storage::InitSystem::Unspecified => pb::InitSystem::Unspecified,
        storage::InitSystem::Systemd => pb::InitSystem::Systemd,
        storage::InitSystem::Sysvinit => pb::InitSystem::Sysvinit,
        storage::InitSystem::Other => pb::InitSystem::Other,
    }
}

const fn parse_init(init: pb::InitSystem) -> storage::InitSystem {
    match init {
        pb::InitSystem::Unspecified => storage::InitSystem::Unspecified,
        pb::InitSystem::Systemd => storage::InitSystem::Systemd,
        pb::InitSystem::Sysvinit => storage::InitSystem::Sysvinit,
        pb::InitSystem::Other => storage::InitSystem::Other,
    }
}

fn render(template: storage::Template) -> pb::Template {
    let init = render_init(template.init());
    let storage::Template {
        name,
        content_bytes,
        content_inodes,
        allocated_bytes,
        init: _,
        sha256,
        os,
        created_unix,
        notes,
    } = template;
    pb::Template {
        name: format!("templates/{name}"),
        os,
        init: init.into(),
        sha256,
        content_bytes,
        content_inodes,
        create_time: Some(timestamp(created_unix.saturating_mul(1000))),
        allocated_bytes,
        notes,
    }
}

/// Who made or deleted a template.
fn changed(principal: &Principal, name: &TemplateName, kind: &str) -> NewEvent {
    let actor = asker(&principal.to_string(), None);
    NewEvent::to(Type::Template, template_name(name)).by(actor).fact("kind", kind)
}

/// A piece of what is imported, as storage takes it; `None` ends it there, where storage says what is wrong.
fn piece(message: pb::ImportTemplateRequest) -> storage::ImportTemplateRequest {
    use pb::import_template_request::Part;
    use storage::import_template_request::Part as To;
    let part = message.part.map(|part| match part {
        Part::Data(data) => To::Data(data),
        Part::Header(header) => {
            let pb::ImportTemplateHeader { name, sha256, owner_mappings, squash_owners } = header;
            let name = name.strip_prefix("templates/").unwrap_or(&name).to_owned();
            let map = |m: pb::OwnerMapping| storage::OwnerMap { from: m.from, to: m.to };
            let map_owners = owner_mappings.into_iter().map(map).collect();
            To::Header(storage::ImportTemplateHeader { name, sha256, map_owners, squash_owners })
        }
    });
    storage::ImportTemplateRequest { part }
}

fn progress(message: storage::TemplateProgress) -> pb::ImportTemplateResponse {
    use pb::import_template_response::Is;
    use storage::template_progress::Is as From;
    let is = message.is.map(|is| match is {
        From::Progress(p) => {
            Is::Progress(pb::Progress { message: p.what, done: p.done, total: p.total })
        }
        From::Template(template) => Is::Template(render(template)),
    });
    pb::ImportTemplateResponse { is }
}

impl Api {
    async fn templates(&self) -> Result<Vec<storage::Template>, Fault> {
        let mut client = self.0.services().storage.clone();
        let call = client.list_templates(storage::ListTemplatesRequest {});
        let mut templates = ask("storage", SHORT, call).await?.templates;
        templates.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(templates)
    }
}

#[tonic::async_trait]
impl TemplateService for Api {
    async fn get_template(
        &self,
        request: Request<pb::GetTemplateRequest>,
    ) -> Result<Response<pb::Template>, Status> {
        let name = read_template("name", &request.get_ref().name)?;
        let all = self.templates().await?;
        let found = all.into_iter().find(|template| template.name == name.as_str());
        let unknown = || {
            let message = format!("there is no template {name}");
            Fault::new(Reason::TemplateUnknown, message).fact("template", &name)
        };
        Ok(Response::new(render(found.ok_or_else(unknown)?)))
    }

    async fn list_templates(
        &self,
        request: Request<pb::ListTemplatesRequest>,
    ) -> Result<Response<pb::ListTemplatesResponse>, Status> {
        let pb::ListTemplatesRequest { page_size, page_token } = request.into_inner();
        let mut wrong = Wrong::default();
        let page = Page::read(page_size, &page_token, (PAGE, PAGE), &["templates"], &mut wrong);
        wrong.end()?;
        let Some(page) = page else { return Err(Fault::missing("page_size").into()) };
        let mut all = self.templates().await?;
        all.retain(|template| page.after.as_ref().is_none_or(|after| template.name > *after));
        let more = all.len() > page.size;
        all.truncate(page.size);
        let next_page_token = match all.last() {
            Some(last) if more => page.token(&last.name),
            _ => String::new(),
        };
        let templates = all.into_iter().map(render).collect();
        Ok(Response::new(pb::ListTemplatesResponse { templates, next_page_token }))
    }

    async fn build_template(
        &self,
        request: Request<pb::BuildTemplateRequest>,
    ) -> Result<Response<pb::Operation>, Status> {
        let mut wrong = Wrong::default();
        let caller = wrong.take(caller(&request));
        let pb::BuildTemplateRequest { name, suite, init, packages, request_id: _ } =
            request.into_inner();
        let name: Option<TemplateName> = wrong.take(read_template("name", &name));
        let suite = wrong.take(parse_suite(&suite));
        let init = wrong.take(known("init", init)).map(parse_init).unwrap_or_default();
        wrong.end()?;
        let (Some(caller), Some(name), Some(suite)) = (caller, name, suite) else {
            return Err(Fault::missing("name").into());
        };
        let action =
            Action::TemplateBuild(TemplateBuild { name, suite, init: init.into(), packages });
        Ok(self.shown(&self.0.build_template(caller, action).await?))
    }

    type ImportTemplateStream = Answers<pb::ImportTemplateResponse>;

    async fn import_template(
        &self,
        request: Request<Streaming<pb::ImportTemplateRequest>>,
    ) -> Result<Response<Self::ImportTemplateStream>, Status> {
        use pb::import_template_request::Part;
        use pb::import_template_response::Is;
        let principal = ves_daemon::principal(&request);
        let mut archive = request.into_inner();
        let first = archive.message().await?.unwrap_or_default();
        let Some(Part::Header(header)) = &first.part else {
            let message = "the first message of an import is its header";
            return Err(Fault::new(Reason::MissingField, message).fact("field", "header").into());
        };
        let name = read_template("header.name", &header.name)?;
        // A caller that breaks off ends the archive, whose header or own end then says that it is
        // not whole.
        let archive = tokio_stream::once(first).chain(archive.map_while(Result::ok)).map(piece);
        let answer = self.0.services().storage.clone().import_template(archive).await;
        let told = answer.map_err(|s| failed(&s))?.into_inner();
        let (own, mut made) = (self.clone(), Some(changed(&principal, &name, "TEMPLATE_IMPORT")));
        let told = told.map(move |message| {
            let message = message.map(progress).map_err(|s| failed(&s))?;
            if matches!(message.is, Some(Is::Template(_)))
                && let Some(made) = made.take()
            {
                own.0.publish(made);
            }
            Ok(message)
        });
        Ok(Response::new(Box::pin(told)))
    }

    type ExportTemplateStream = Answers<pb::ExportTemplateResponse>;

    async fn export_template(
        &self,
        request: Request<pb::ExportTemplateRequest>,
    ) -> Result<Response<Self::ExportTemplateStream>, Status> {
        let name = read_template("name", &request.get_ref().name)?.as_str().to_owned();
        let request = storage::ExportTemplateRequest { name };
        let answer = self.0.services().storage.clone().export_template(request).await;
        let archive = answer.map_err(|s| failed(&s))?.into_inner();
        let piece =
            |m: storage::ExportTemplateResponse| pb::ExportTemplateResponse { data: m.data };
        let archive = archive.map(move |m| m.map(piece).map_err(|s| failed(&s)));
        Ok(Response::new(Box::pin(archive)))
    }

    async fn delete_template(
        &self,
        request: Request<pb::DeleteTemplateRequest>,
    ) -> Result<Response<pb::DeleteTemplateResponse>, Status> {
        let name = read_template("name", &request.get_ref().name)?;
        let mut client = self.0.services().storage.clone();
        let removal = storage::RemoveTemplateRequest { name: name.as_str().to_owned() };
        ask("storage", SHORT, client.remove_template(removal)).await?;
        self.0.templates().remove(name.as_str());
        self.0.publish(changed(&ves_daemon::principal(&request), &name, "TEMPLATE_DELETE"));
        Ok(Response::new(pb::DeleteTemplateResponse {}))
    }
}
