//! `template`: what containers are created from.
//!
//! Never here: reading a source, or what is in a template.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use ves_proto::api::{
    self, ImportTemplateHeader, ImportTemplateRequest, InitSystem, OwnerMapping, Template,
    import_template_request, import_template_response,
};
use ves_proto::{Fault, Reason};
use ves_types::{Bytes, ParseError, TemplateName};

use super::Context;
use crate::archive::Source;
use crate::cli::TemplateVerb;
use crate::destination::Destination;
use crate::exit;
use crate::failure::{Failure, Outcome};
use crate::names::{self, bare};
use crate::operation;
use crate::output::{Column, Format};
use crate::pages;
use crate::progress::ProgressDisplay;
use crate::unbuilt::not_built;
use crate::value::{Value, format_duration};

impl Context {
    pub(super) async fn template(self, verb: TemplateVerb) -> Outcome {
        let began = Instant::now();
        match verb {
            TemplateVerb::List(list) => {
                let templates = self.templates().await?;
                let default_columns = ["name", "os", "init", "content", "allocated", "created"];
                let selection = list.selection(self.fields);
                self.output.list(&columns(), &default_columns, &selection, &templates)
            }
            TemplateVerb::Build { name, suite, dry_run: true, .. } => {
                self.plan_creation(&name, &format!("build template {name} from {suite}")).await
            }
            TemplateVerb::Build { name, suite, init, packages, dry_run: false } => {
                let init = match init.as_deref() {
                    Some("systemd") => InitSystem::Systemd,
                    Some("sysvinit") => InitSystem::Sysvinit,
                    _ => InitSystem::Unspecified,
                };
                let request = api::BuildTemplateRequest {
                    name: names::template(&name),
                    suite,
                    init: init.into(),
                    packages,
                    request_id: super::change::request_id(),
                };
                self.build(request).await
            }
            TemplateVerb::Import { source, name, dry_run: true, .. } => {
                let name = name.map_or_else(|| name_of(&source), Ok)?;
                Source::open(&source)?;
                let step = format!("import template {name} from {}", source.display());
                self.plan_creation(&name, &step).await
            }
            TemplateVerb::Import {
                source,
                name,
                sha256,
                map_owners,
                squash_owner,
                dry_run: false,
            } => {
                if source.to_string_lossy().starts_with("oci:") {
                    return Err(not_built("template import oci:").into());
                }
                let header = ImportTemplateHeader {
                    name: names::template(&name.map_or_else(|| name_of(&source), Ok)?),
                    sha256: sha256.unwrap_or_default().to_ascii_lowercase(),
                    owner_mappings: map_owners
                        .into_iter()
                        .map(|(from, to)| OwnerMapping { from, to })
                        .collect(),
                    squash_owners: squash_owner,
                };
                self.import(source, header).await
            }
            TemplateVerb::Export { name, file } => self.export(&name, file).await,
            TemplateVerb::Delete { name, dry_run: true } => {
                if !self.is_there(&name).await? {
                    let message = format!("there is no template {name}");
                    let fault = Fault::new(Reason::TemplateUnknown, message);
                    return Err(fault.fact("template", name).into());
                }
                self.print_plan(&format!("delete template {name}"))
            }
            TemplateVerb::Delete { name, dry_run: false } => {
                self.coordinator
                    .call(|| {
                        let mut client = self.coordinator.templates();
                        let request = api::DeleteTemplateRequest { name: names::template(&name) };
                        async move { client.delete_template(request).await }
                    })
                    .await?;
                self.done(&format!("template {name} deleted"), began)
            }
        }
    }

    async fn templates(&self) -> Result<Vec<Template>, Failure> {
        let list = |page_token| {
            let mut client = self.coordinator.templates();
            let request = api::ListTemplatesRequest { page_size: 0, page_token };
            async move { client.list_templates(request).await }
        };
        Ok(pages::all(&self.coordinator, list).await?)
    }

    /// Whether there is a template of this name.
    async fn is_there(&self, name: &TemplateName) -> Result<bool, Failure> {
        let answer = self
            .coordinator
            .call(|| {
                let mut client = self.coordinator.templates();
                let request = api::GetTemplateRequest { name: names::template(name) };
                async move { client.get_template(request).await }
            })
            .await;
        match answer {
            Ok(_) => Ok(true),
            Err(fault) if fault.reason == Reason::TemplateUnknown => Ok(false),
            Err(fault) => Err(fault.into()),
        }
    }

    /// The one step of a dry run. The API plans containers only; of templates there is little to
    /// plan.
    fn print_plan(&self, step: &str) -> Outcome {
        if self.output.format != Format::Table {
            return self.output.value(&Value::map([("steps", Value::texts([step]))]));
        }
        self.output.print(&format!("{step}\n"))
    }

    async fn plan_creation(&self, name: &TemplateName, step: &str) -> Outcome {
        if self.is_there(name).await? {
            let message = format!("there is a template {name} already; delete it first");
            let fault = Fault::new(Reason::TemplateExists, message);
            return Err(fault.fact("template", name).into());
        }
        self.print_plan(step)
    }

    fn done(&self, what: &str, began: Instant) -> Outcome {
        if self.output.format != Format::Table {
            let took = Value::millis(began.elapsed());
            return self.output.value(&Value::map([("done", Value::text(what)), ("took", took)]));
        }
        if self.output.quiet {
            return Ok(());
        }
        self.output.print(&format!("{what} in {}\n", format_duration(began.elapsed())))
    }

    async fn build(self, request: api::BuildTemplateRequest) -> Outcome {
        let Self { coordinator, output, .. } = self;
        let name = bare(&request.name).to_owned();
        let operation = coordinator
            .call(|| {
                let mut client = coordinator.templates();
                let request = request.clone();
                async move { client.build_template(request).await }
            })
            .await?;
        let done = |_: &api::Operation| format!("template {name} built");
        operation::wait(&coordinator, output, operation, false, done).await
    }

    async fn import(self, path: PathBuf, header: ImportTemplateHeader) -> Outcome {
        let began = Instant::now();
        let (name, sha256) = (bare(&header.name).to_owned(), &header.sha256);
        let hex = sha256.len() == 64 && sha256.bytes().all(|b| b.is_ascii_hexdigit());
        if !sha256.is_empty() && !hex {
            return Err(Failure::usage("a SHA-256 has 64 hexadecimal digits"));
        }
        let source = Source::open(&path)?;
        if !sha256.is_empty() && matches!(source, Source::Directory(_)) {
            return Err(Failure::usage("--sha256 is of an archive; a directory has none"));
        }
        let (requests, rest) = mpsc::channel(4);
        let part = Some(import_template_request::Part::Header(header));
        requests.try_send(ImportTemplateRequest { part }).ok(); // the queue is empty and `rest` here
        let mut breaks = std::pin::pin!(source.send(requests));
        let unreadable = |e| Failure::local(&format!("cannot read all of {}", path.display()), &e);
        let mut client = self.coordinator.templates();
        let call = client.import_template(ReceiverStream::new(rest));
        let mut answers = tokio::select! {
            answers = self.coordinator.call_once(call) => answers?,
            error = &mut breaks => return Err(unreadable(error)),
        };
        let mut display = ProgressDisplay::new(self.output);
        let template: Template = loop {
            let answer = tokio::select! {
                // Cancel-safe: a message is taken whole or left in the stream.
                answer = answers.message() => answer,
                error = &mut breaks => return Err(unreadable(error)),
            };
            match answer.map_err(|s| self.coordinator.fault(s))?.and_then(|a| a.is) {
                Some(import_template_response::Is::Progress(progress)) => {
                    display.progress(&progress)
                }
                Some(import_template_response::Is::Template(template)) => break template,
                None => {
                    let why = "the import ended without a template";
                    return Err(self.coordinator.connection_lost(why).into());
                }
            }
        };
        display.end();
        if self.output.format != Format::Table {
            let entries = columns().into_iter().map(|c| (c.name, (c.get)(&template)));
            return self.output.value(&Value::Map(entries.collect()));
        }
        for note in &template.notes {
            writeln!(std::io::stderr(), "virtctl: template {name}: {note}").ok(); // nowhere else to say it
        }
        self.done(&format!("template {name} imported"), began)
    }

    async fn export(self, name: &TemplateName, file: Option<PathBuf>) -> Outcome {
        let began = Instant::now();
        let mut client = self.coordinator.templates();
        let request = api::ExportTemplateRequest { name: names::template(name) };
        let mut chunks = self.coordinator.call_once(client.export_template(request)).await?;
        let file = file.unwrap_or_else(|| PathBuf::from(format!("{name}.tar.zst")));
        let stdout = file.as_os_str() == "-";
        let wrong = |e: std::io::Error| match stdout {
            true => e.into(),
            false => Failure::local(&format!("cannot write the archive {}", file.display()), &e),
        };
        let mut out = Destination::open(&file).map_err(wrong)?;
        // Where nothing would be left of it, Ctrl-C ends us as it ends everybody.
        let broken = |e: std::io::Error| Failure::local("cannot listen for signals", &e);
        let interrupt = out.is_file().then(|| signal(SignalKind::interrupt())).transpose();
        let mut interrupt = interrupt.map_err(broken)?;
        let interrupted = async move {
            match &mut interrupt {
                Some(signal) => signal.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(interrupted);
        let mut size: u64 = 0;
        loop {
            let chunk = tokio::select! {
                // Cancel-safe: a message is taken whole or left in the stream.
                chunk = chunks.message() => chunk.map_err(|s| self.coordinator.fault(s))?,
                _ = &mut interrupted => return Err(Failure::Status(exit::INTERRUPTED)),
            };
            let Some(chunk) = chunk else { break };
            out.write_all(&chunk.data).map_err(wrong)?;
            size = size.saturating_add(u64::try_from(chunk.data.len()).unwrap_or(0));
        }
        out.finish().map_err(wrong)?;
        if stdout {
            return Ok(());
        }
        let (to, size) = (file.display(), Bytes(size));
        self.done(&format!("template {name} exported to {to} ({size})"), began)
    }
}

/// A template's name out of a file's.
fn name_of(source: &Path) -> Result<TemplateName, Failure> {
    let file = source.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    let endings =
        [".gz", ".bz2", ".xz", ".zst", ".lz4", ".tgz", ".tbz", ".tbz2", ".txz", ".tzst", ".tar"];
    let mut name = file.as_str();
    while let Some(shorter) = endings.iter().find_map(|e| name.strip_suffix(e)) {
        name = shorter;
    }
    let name: Result<TemplateName, ParseError> = name.parse();
    name.map_err(|e| {
        let message = format!("{e}; give the template a name with --name");
        Fault::new(Reason::BadValue, message).fact("field", "name").into()
    })
}

fn columns() -> Vec<Column<Template>> {
    vec![
        Column::new("name", |t: &Template| Value::text(bare(&t.name))),
        Column::new("os", |t: &Template| Value::text(&t.os)),
        Column::new("init", |t: &Template| {
            Value::text(match t.init() {
                InitSystem::Unspecified => "",
                InitSystem::Systemd => "systemd",
                InitSystem::Sysvinit => "sysvinit",
                InitSystem::Other => "other",
            })
        }),
        Column::right("content", |t: &Template| Value::Bytes(t.content_bytes)),
        Column::right("inodes", |t: &Template| Value::Num(t.content_inodes)),
        Column::right("allocated", |t: &Template| Value::Bytes(t.allocated_bytes)),
        Column::new("created", |t: &Template| Value::whole_seconds(t.create_time.as_ref())),
        Column::new("sha256", |t: &Template| Value::text(&t.sha256)),
        Column::new("notes", |t: &Template| Value::texts(&t.notes)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_out_of_files() {
        let name = |s: &str| name_of(Path::new(s)).map(|n| n.to_string()).ok();
        assert_eq!(name("/a/Debian-13.tar.zst"), Some("debian-13".into()));
        assert_eq!(name("x.tgz"), Some("x".into()));
        assert_eq!(name("x.tar.bz2"), Some("x".into()));
        assert_eq!(name("x.tar.lz4"), Some("x".into()));
        assert_eq!(name("dir.name"), Some("dir.name".into()));
        assert_eq!(name("-"), None);
        assert_eq!(name("/"), None);
    }
}
