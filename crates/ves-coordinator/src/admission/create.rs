//! Admitting what is about a container that no record has: that one is made, and that what is left of an earlier one
//! is taken away.

use std::collections::BTreeSet;
use std::time::Duration;

use ves_proto::{Fault, Reason, storage};
use ves_types::{CtId, Epoch, Hostname, TemplateName};

use super::{Ask, begin_operation, begun};
use crate::clock::Clock;
use crate::container::meta::Meta;
use crate::container::observed::Observed;
use crate::container::record::{Presence, Record, Reserved, RunState, Since};
use crate::container::refusal::Refusal;
use crate::container::schedule::Scheduled;
use crate::container::spec::Spec;
use crate::coordinator::Coordinator;
use crate::driver::FirstLook;
use crate::operation::kinds::{self, Action};
use crate::operation::record::{Caller, OpRecord};
use crate::services::ask;
use crate::store::index::{Change, Index};

/// How long a look for leftovers may take before a create goes on without.
const FIRST_LOOK: Duration = Duration::from_secs(5);

/// A container that is to be made.
#[derive(Debug, Clone)]
pub struct Wish {
    /// Its id; none: the lowest that is free.
    pub ct: Option<CtId>,
    /// What it should be.
    pub spec: Spec,
    /// What of it is no matter of any service.
    pub meta: Meta,
    /// Whether somebody gave it a host name.
    pub is_named: bool,
}

impl Coordinator {
    /// Begins the making of a container.
    ///
    /// # Errors
    /// `CONTAINER_EXISTS`, `NAME_TAKEN`, `ADDRESS_TAKEN`, `IDS_EXHAUSTED`, `TEMPLATE_UNKNOWN`, and
    /// `FOREIGN_CONTENTS` where something of an earlier container with this id is there.
    pub async fn create(
        &self,
        caller: Caller,
        wish: Wish,
        validate_only: bool,
    ) -> Result<OpRecord, Fault> {
        let mut full = BTreeSet::new();
        let (op, new, seen) = loop {
            if !validate_only && let Some(op) = self.state().read().repeated(&caller)? {
                return Ok(OpRecord::clone(op));
            }
            let mut record = {
                let index = self.state().read();
                let record = self.new_record(&index, &wish, &full)?;
                if validate_only {
                    index.claimable(&record)?;
                }
                record
            };
            let left = self.nothing_left(record.id);
            let (left, known) = tokio::join!(left, self.knows_template(&wish.spec.template));
            let seen = match left {
                Ok(seen) => seen,
                Err(fault) if wish.ct.is_none() && fault.reason == Reason::ForeignContents => {
                    full.insert(record.id);
                    continue;
                }
                Err(fault) => return Err(fault),
            };
            known?;
            record.begin_after(seen.as_ref().map(Observed::newest).unwrap_or_default());
            if validate_only {
                return self.dry_run(caller, record, kinds::create::action()).await;
            }
            let (caller, own, any) = (caller.clone(), self.clone(), wish.ct.is_none());
            let begun = self
                .transact(move |index, change| {
                    if let Some(op) = index.repeated(&caller)? {
                        return Ok(Some((OpRecord::clone(op), false)));
                    }
                    if any && index.vacant(record.id).is_err() {
                        return Ok(None);
                    }
                    let action = kinds::create::action();
                    let op = begin_new(index, record, action, caller, own.clock(), change)?;
                    Ok(Some((op, true)))
                })
                .await?;
            if let Some((op, new)) = begun {
                break (op, new, seen);
            }
        };
        let look = seen.map(|seen| FirstLook::Seen(Box::new(seen)));
        self.carry_out(begun(&op, new), look);
        Ok(op)
    }

    /// Refuses a template that storage has not; it is asked where that is not known. Where storage does not answer, the operation waits for it and
    /// sees.
    async fn knows_template(&self, template: &TemplateName) -> Result<(), Fault> {
        if self.templates().contains(template.as_str()) {
            return Ok(());
        }
        let mut client = self.services().storage.clone();
        let call = client.list_templates(storage::ListTemplatesRequest {});
        let Ok(list) = ask("storage", FIRST_LOOK, call).await else { return Ok(()) };
        let mut known = self.templates();
        *known = list.templates.into_iter().map(|template| template.name).collect();
        if known.contains(template.as_str()) {
            return Ok(());
        }
        let message = format!("there is no template {template}; build or import it first");
        Err(Fault::new(Reason::TemplateUnknown, message).fact("template", template))
    }

    /// Refuses an id of which a service shows something; otherwise what they show, which is nothing.
    /// A service that is away is no answer: the operation looks again, and waits for it.
    async fn nothing_left(&self, ct: CtId) -> Result<Option<Observed>, Fault> {
        match tokio::time::timeout(FIRST_LOOK, self.services().observe(ct)).await {
            Ok(Ok(seen)) => match seen.everything() {
                what if what.is_empty() => Ok(Some(seen)),
                what => Err(Fault::from(&Refusal::Foreign(ct, what))),
            },
            Ok(Err(fault)) if fault.reason == Reason::ForeignContents => Err(fault),
            Ok(Err(_)) | Err(_) => Ok(None),
        }
    }

    /// Begins to take away what the services show of a container that no record knows; `unknown` where that is
    /// nothing.
    ///
    /// # Errors
    /// `unknown`, or when a service does not answer.
    pub async fn destroy_leftovers(&self, ask: Ask, unknown: Fault) -> Result<OpRecord, Fault> {
        let id = ask.ct;
        if self.state().read().vacant(id).is_err() {
            return Err(unknown);
        }
        let volume = self.services().volume(id).await?;
        let seen = self.services().observe(id).await?;
        if seen.everything().is_empty() {
            return Err(unknown);
        }
        let template = volume.and_then(|v| v.template.parse::<TemplateName>().ok());
        let template = match template {
            Some(template) => template,
            None => "unknown".parse().map_err(|e| Fault::bad_value("template", &e))?,
        };
        let spec = Spec::of_template(id, template);
        let wish = Wish { ct: Some(id), spec, meta: Meta::default(), is_named: false };
        let mut record = {
            let index = self.state().read();
            self.new_record(&index, &wish, &BTreeSet::new())?
        };
        record.begin_after(seen.newest());
        // Whatever it is, it is what shall go.
        record.creating_since = None;
        record.maybe_dirty = true;
        let caller = ask.caller;
        if ask.validate_only {
            return self.dry_run(caller, record, kinds::destroy::action()).await;
        }
        let own = self.clone();
        let (op, new) = self
            .transact(move |index, change| {
                if let Some(op) = index.repeated(&caller)? {
                    return Ok((OpRecord::clone(op), false));
                }
                let action = kinds::destroy::action();
                let op = begin_new(index, record, action, caller, own.clock(), change)?;
                Ok((op, true))
            })
            .await?;
        self.carry_out(begun(&op, new), None);
        Ok(op)
    }

    /// A container that is to be made, stored nowhere yet.
    fn new_record(
        &self,
        index: &Index,
        wish: &Wish,
        except: &BTreeSet<CtId>,
    ) -> Result<Record, Fault> {
        let Wish { ct, spec, meta, is_named } = wish.clone();
        let id = match ct {
            None => index.free_id(except)?,
            Some(id) => id,
        };
        let hostname = if is_named { spec.hostname.clone() } else { Hostname::of_container(id) };
        let mut spec = Spec { hostname, ..spec };
        self.defaults().fill(&mut spec.limits);
        index.vacant(id)?;
        let now_ms = self.clock().now_ms();
        let generation = index.first_generation(now_ms);
        Ok(Record {
            id,
            uid: self.clock().new_id(),
            node: self.node().clone(),
            slot: index.free_slot()?,
            spec,
            running: None,
            presence: Presence::Creating,
            run: RunState::Stopped,
            generation,
            creating_since: Some(generation),
            epoch: Epoch(1),
            since: Since::all(generation),
            created_unix: now_ms.div_euclid(1000),
            seen_incarnation: 0,
            maybe_dirty: false,
            problem: None,
            reserved: Reserved::default(),
            snapshot: None,
            meta,
            retry: None,
            scheduled: Scheduled::default(),
        })
    }
}

/// The same of a container that is nobody's yet.
fn begin_new(
    index: &Index,
    mut record: Record,
    action: Action,
    caller: Caller,
    clock: &dyn Clock,
    change: &mut Change,
) -> Result<OpRecord, Fault> {
    index.vacant(record.id)?;
    record.slot = index.free_slot()?;
    record.begin_after(index.first_generation(0));
    Ok(begin_operation(record, action, caller, clock, change))
}
