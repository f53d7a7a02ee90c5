//! `node init-ca`, `node cert`, `node token`, `context`: who may ask from the network, and whom we ask.
//!
//! Never here: what anybody may.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use ves_pki::{Entry, Host, Pki, PkiError};
use ves_proto::api::{self, AccessRole, Token};
use ves_proto::fault::chain;
use ves_proto::public::{timestamp, unix_ms};
use ves_proto::{Fault, Reason};
use ves_types::{Grant, GrantRole};

use super::Context;
use crate::cli::{CertVerb, ContextVerb, GrantArgs, InitCaArgs, TokenVerb};
use crate::contexts::{self, ContextEntry, Contexts, LOCAL};
use crate::failure::{Failure, Outcome};
use crate::names::bare;
use crate::output::{Column, Format, Output};
use crate::pages;
use crate::value::Value;

/// The coordinator's account, whose group reads the server's key.
fn group() -> Option<u32> {
    rustix::process::geteuid().is_root().then(ves_daemon::peer::coordinator_group).flatten()
}

impl From<PkiError> for Failure {
    fn from(error: PkiError) -> Self {
        match error {
            PkiError::File { what, path, source } => {
                Self::local(&format!("cannot {what} {}", path.display()), &source)
            }
            PkiError::Foreign { .. } => {
                Self::Fault(Fault::new(Reason::ForeignContents, error.to_string()))
            }
            PkiError::Register { .. } => {
                Self::Fault(Fault::new(Reason::RecordCorrupt, error.to_string()))
            }
            PkiError::Make { .. } | PkiError::Random(_) => {
                Self::Fault(Fault::new(Reason::HostFailed, chain(&error)))
            }
            PkiError::Absent(_) => {
                Self::usage(format!("{error}; `virtctl node init-ca` makes one"))
            }
            PkiError::Exists(_) => {
                Self::usage(format!("{error}; --renew-server makes the node's certificate anew"))
            }
            PkiError::Asked(_) => Self::usage(error.to_string()),
        }
    }
}

fn grant(args: GrantArgs) -> Result<Grant, Failure> {
    let GrantArgs { role, project } = args;
    Ok(Grant::new(role, project.into_iter().collect())?)
}

/// Makes an authority, and says what to configure.
pub(crate) fn init_ca(args: InitCaArgs, output: Output) -> Outcome {
    let InitCaArgs { dir, name, san, renew_server } = args;
    let node = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let node = node.trim();
    let mut hosts = san;
    hosts.extend([node, "localhost", "127.0.0.1", "::1"].iter().filter_map(|h| h.parse().ok()));
    let now = SystemTime::now();
    if renew_server {
        Pki::open(&dir.pki)?.renew_server(&hosts, group(), now)?;
        output.say("the node's certificate is new; the coordinator takes it by itself");
        return Ok(());
    }
    let name = match name {
        Some(name) => name,
        None => node.parse().map_err(|e| Failure::usage(format!("{e}: name it with --name")))?,
    };
    Pki::init(&dir.pki, &name, &hosts, group(), now)?;
    let reached: Vec<String> = hosts.iter().map(shown).collect();
    output.say(&format!(
        "authority {name} is in {}; the node is certified as {}",
        dir.pki.display(),
        reached.join(", ")
    ));
    output.say(
        "nothing listens yet: add this to /etc/ves/coordinator.toml and restart ves-coordinatord",
    );
    let mut text = "[service.listen]\ntcp = [\"0.0.0.0:7443\"]\n".to_owned();
    if dir.pki != Path::new("/etc/ves/pki") {
        // Writing to a string does not fail.
        writeln!(text, "pki = {:?}", dir.pki.display().to_string()).ok();
    }
    text.push_str(
        "# Whether clients without a certificate count that bring a token.\ntokens = false\n",
    );
    output.print(&text)
}

fn shown(host: &Host) -> String {
    match host {
        Host::Name(name) => name.clone(),
        Host::Address(address) => address.to_string(),
    }
}

/// Issues, lists and revokes certificates.
pub(crate) fn cert(
    verb: CertVerb,
    endpoint: Option<String>,
    output: Output,
    fields: Vec<String>,
) -> Outcome {
    let now = SystemTime::now();
    match verb {
        CertVerb::Issue { name, grant: args, days, out, context, dir } => {
            let granted = grant(args)?;
            let endpoint = match (&context, endpoint) {
                (Some(_), None) => {
                    return Err(Failure::usage("--context needs --endpoint https://HOST:PORT"));
                }
                (_, endpoint) => endpoint,
            };
            let pki = Pki::open(&dir.pki)?;
            let issued = pki.issue(&name, &granted, days, now)?;
            let serial = issued.entry.serial.clone();
            let files = ves_pki::write_out(&issued, &out).map_err(Failure::from);
            // Nobody has it, so that it is none.
            let [cert, key, ca] =
                files.inspect_err(|_| drop(pki.revoke(&serial, SystemTime::now())))?;
            if let (Some(context), Some(endpoint)) = (context, endpoint) {
                let whole = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
                let (ca, cert, key) = (whole(ca), Some(whole(cert.clone())), Some(whole(key)));
                let entry = ContextEntry { endpoint, ca, cert, key, token_file: None };
                let file = contexts_file()?;
                let mut known = Contexts::read(&file)?;
                known.contexts.insert(context, entry);
                known.write(&file)?;
            }
            if output.format == Format::Table {
                output.say(&format!(
                    "certificate {serial} of {name} is in {}, and its key beside it",
                    cert.display()
                ));
                return Ok(());
            }
            let entries = columns().into_iter().map(|c| (c.name, (c.get)(&issued.entry)));
            output.value(&Value::Map(entries.collect()))
        }
        CertVerb::List { list, dir } => {
            let issued = Pki::open(&dir.pki)?.list()?;
            let usual = ["serial", "name", "role", "projects", "ends", "revoked"];
            output.list(&columns(), &usual, &list.selection(fields), &issued)
        }
        CertVerb::Revoke { which, dir } => {
            for entry in Pki::open(&dir.pki)?.revoke(&which, now)? {
                output.say(&format!("certificate {} of {} is revoked", entry.serial, entry.name));
            }
            Ok(())
        }
    }
}

fn columns() -> Vec<Column<Entry>> {
    let time = |seconds: u64| i64::try_from(seconds).map(|s| s.saturating_mul(1000)).ok();
    vec![
        Column::new("serial", |e: &Entry| Value::text(&e.serial)),
        Column::new("name", |e: &Entry| Value::text(e.name.as_str())),
        Column::new("role", |e: &Entry| Value::text(e.grant.role().as_str())),
        Column::new("projects", |e: &Entry| {
            Value::texts(e.grant.projects().iter().map(ves_types::ProjectId::as_str))
        }),
        Column::new("issued", move |e: &Entry| Value::maybe_time(time(e.issued))),
        Column::new("ends", move |e: &Entry| Value::maybe_time(time(e.ends))),
        Column::new("revoked", move |e: &Entry| Value::maybe_time(e.revoked.and_then(time))),
    ]
}

fn contexts_file() -> Result<PathBuf, Failure> {
    contexts::path().ok_or_else(|| Failure::usage("HOME is not set: nobody's contexts are known"))
}

/// Lists contexts, and chooses one.
pub(crate) fn context(verb: ContextVerb, output: Output, fields: Vec<String>) -> Outcome {
    let file = contexts_file()?;
    let mut known = Contexts::read(&file)?;
    match verb {
        ContextVerb::List(list) => {
            let current = known.current.clone();
            let current = current.as_ref().map_or(LOCAL, |name| name.as_str()).to_owned();
            let mut rows = vec![(LOCAL.to_owned(), None)];
            let entries = known.contexts.into_iter();
            rows.extend(entries.map(|(name, entry)| (String::from(name), Some(entry))));
            let usual = ["name", "current", "endpoint", "as"];
            output.list(&context_columns(current), &usual, &list.selection(fields), &rows)
        }
        ContextVerb::Use { name } => {
            known.choose(name.clone())?;
            known.write(&file)?;
            output.say(&format!("{} is asked from now on", name.as_str()));
            Ok(())
        }
    }
}

type Row = (String, Option<ContextEntry>);

fn context_columns(current: String) -> Vec<Column<Row>> {
    let path = |path: &PathBuf| Value::text(path.display().to_string());
    vec![
        Column::new("name", |(name, _): &Row| Value::text(name)),
        Column::new("current", move |(name, _): &Row| Value::Bool(*name == current)),
        Column::new("endpoint", |(_, entry): &Row| {
            entry.as_ref().map_or(Value::Null, |entry| Value::text(&entry.endpoint))
        }),
        Column::new("as", move |(_, entry): &Row| {
            let of = entry.as_ref().and_then(|e| e.cert.as_ref().or(e.token_file.as_ref()));
            of.map_or(Value::Null, path)
        }),
        Column::new("ca", move |(_, entry): &Row| {
            entry.as_ref().map_or(Value::Null, |entry| path(&entry.ca))
        }),
    ]
}

fn role(role: GrantRole) -> AccessRole {
    match role {
        GrantRole::Admin => AccessRole::Admin,
        GrantRole::Operator => AccessRole::Operator,
        GrantRole::Tenant => AccessRole::Tenant,
        GrantRole::ReadOnly => AccessRole::ReadOnly,
        GrantRole::Node => AccessRole::Node,
    }
}

const fn role_word(role: AccessRole) -> &'static str {
    match role {
        AccessRole::Unspecified => "unknown",
        AccessRole::Admin => GrantRole::Admin.as_str(),
        AccessRole::Operator => GrantRole::Operator.as_str(),
        AccessRole::Tenant => GrantRole::Tenant.as_str(),
        AccessRole::ReadOnly => GrantRole::ReadOnly.as_str(),
        AccessRole::Node => GrantRole::Node.as_str(),
    }
}

impl Context {
    pub(super) async fn token(self, verb: TokenVerb) -> Outcome {
        match verb {
            TokenVerb::Create { name, grant: args, expire } => {
                let granted = grant(args)?;
                let end = expire.map(|time| SystemTime::now() + time);
                let end = end.and_then(|end| end.duration_since(SystemTime::UNIX_EPOCH).ok());
                let end = end.and_then(|end| i64::try_from(end.as_millis()).ok());
                let projects = granted.projects().iter();
                let token = Token {
                    holder: name.to_string(),
                    role: role(granted.role()).into(),
                    projects: projects.map(|project| format!("projects/{project}")).collect(),
                    expire_time: end.map(timestamp),
                    ..Token::default()
                };
                let request = api::CreateTokenRequest { token: Some(token) };
                let mut client = self.coordinator.access();
                // Not asked again: each time another token would be made.
                let made = self.coordinator.call_once(client.create_token(request)).await?;
                let api::CreateTokenResponse { token, secret } = made;
                let token = token.unwrap_or_default();
                if self.output.format == Format::Table {
                    let id = bare(&token.name);
                    self.output
                        .say(&format!("token {id} of {name}; its secret is told this once:"));
                    return self.output.print(&format!("{secret}\n"));
                }
                let entries = token_columns().into_iter().map(|c| (c.name, (c.get)(&token)));
                let secret = ("secret".to_owned(), Value::text(secret));
                self.output.value(&Value::Map(entries.chain([secret]).collect()))
            }
            TokenVerb::List(list) => {
                let tokens = self.tokens().await?;
                let usual = ["id", "name", "role", "projects", "ends", "used"];
                let selection = list.selection(self.fields);
                self.output.list(&token_columns(), &usual, &selection, &tokens)
            }
            TokenVerb::Revoke { token } => {
                let held: BTreeSet<String> = (self.tokens().await?.into_iter())
                    .filter(|t| t.holder == token || bare(&t.name) == token)
                    .map(|t| t.name)
                    .collect();
                let named = held.into_iter().next();
                let name = named.unwrap_or_else(|| format!("tokens/{token}"));
                let mut client = self.coordinator.access();
                let request = api::RevokeTokenRequest { name: name.clone() };
                self.coordinator.call_once(client.revoke_token(request)).await?;
                self.output.say(&format!("token {} is revoked", bare(&name)));
                Ok(())
            }
        }
    }

    async fn tokens(&self) -> Result<Vec<Token>, Failure> {
        let list = |page_token| {
            let mut client = self.coordinator.access();
            let request = api::ListTokensRequest { page_size: 0, page_token };
            async move { client.list_tokens(request).await }
        };
        Ok(pages::all(&self.coordinator, list).await?)
    }
}

fn token_columns() -> Vec<Column<Token>> {
    let time =
        |time: &Option<prost_types::Timestamp>| Value::maybe_time(time.as_ref().map(unix_ms));
    vec![
        Column::new("id", |t: &Token| Value::text(bare(&t.name))),
        Column::new("name", |t: &Token| Value::text(&t.holder)),
        Column::new("role", |t: &Token| Value::text(role_word(t.role()))),
        Column::new("projects", |t: &Token| Value::texts(t.projects.iter().map(|p| bare(p)))),
        Column::new("created", move |t: &Token| time(&t.create_time)),
        Column::new("ends", move |t: &Token| time(&t.expire_time)),
        Column::new("used", move |t: &Token| time(&t.last_use_time)),
    ]
}
