//! Templates: their plans are led here, each step in its span and counted as those of containers are, and
//! what they take of the pool is promised before.
//!
//! Never here: decisions, how anything is done.

use std::io::Read;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

use ves_archive::Refused;
use ves_daemon::converge::variant;
use ves_proto::Fault;
use ves_types::TemplateName;

use super::{Service, observing};
use crate::error::Error;
use crate::host::{Making, Source, Template};
use crate::ledger::Holder;
use crate::plan::template::{self as planned, Observed, Refusal, Step};
use crate::plan::{self, BaseImageId};
use crate::promises::Reservation;
use crate::template::{InUse, Progress};

/// By so much the room for an archive grows, whose size nobody knows before.
const PIECE: u64 = 64 << 20;

impl Service {
    /// All templates, by name.
    pub fn templates(&self) -> Result<Vec<Template>, Fault> {
        self.host.templates().map_err(|e| observing(&e))
    }

    /// Makes a template.
    ///
    /// # Errors
    /// `TEMPLATE_EXISTS`, `TEMPLATE_IN_USE`, `POOL_FULL`, what is wrong with the archive, or what failed.
    pub fn make_template(
        &self,
        name: &TemplateName,
        source: Source<'_>,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<Template, Fault> {
        let _alone = self.uses.alone(name, "being made")?;
        let span = tracing::info_span!("make template", %name);
        let made = span.in_scope(|| self.make(name, source, progress));
        made.map_err(|e| e.fault("make a template"))
    }

    fn make(
        &self,
        name: &TemplateName,
        source: Source<'_>,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<Template, Error> {
        let promised = self.promises.reserve(0);
        let allowed = AtomicU64::new(0);
        let allow = |bytes: u64| {
            let more = bytes.next_multiple_of(PIECE);
            self.promise(&promised, more - allowed.swap(more, Ordering::Relaxed))?;
            Ok(more)
        };
        let mut making = Making { source: Some(source), taken: None, progress, allow: &allow };
        let made = self.lead(name, &promised, &mut making, |o, _| planned::plan_take(o));
        let made = made.and_then(|()| {
            let taken = making.contents();
            self.lead(name, &promised, &mut making, |o, tried| planned::plan_make(taken, tried, o))
        });
        if let Err(error) = made {
            if !matches!(error, Error::TemplateExists(_)) {
                // The first failure is the one to tell; what cannot be removed is swept at the start.
                self.lead(name, &promised, &mut making, |o, _| Ok(planned::plan_sweep(o))).ok();
            }
            return Err(error);
        }
        let found = self.host.templates()?.into_iter().find(|t| t.name == *name);
        found.ok_or_else(|| Error::TemplateUnknown(name.clone()))
    }

    /// Makes a base image where there is none.
    ///
    /// # Errors
    /// [`Error::TemplateUnknown`], [`Error::NoRoom`], or what failed.
    pub fn make_base_image(&self, id: &BaseImageId) -> Result<(), Error> {
        // One at a time: a second call for it then finds it.
        let _one = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        let BaseImageId { template, inodes_per_group } = id;
        self.lead(template, &self.promises.reserve(0), &mut Making::nothing(), |o, tried| {
            planned::plan_base_image(*inodes_per_group, tried, o)
        })
    }

    /// A template's contents; it cannot be removed while the stream lives.
    ///
    /// # Errors
    /// `TEMPLATE_UNKNOWN`, `TEMPLATE_IN_USE`.
    pub fn export(&self, name: &TemplateName) -> Result<(Box<dyn Read + Send>, InUse), Fault> {
        let reading = self.uses.read(name)?;
        let stream = self.host.export(name).map_err(|e| e.fault("export a template"))?;
        Ok((stream, reading))
    }

    /// Makes a template not exist. Volumes made from it stay.
    ///
    /// # Errors
    /// `TEMPLATE_UNKNOWN`, `TEMPLATE_IN_USE`, or what failed.
    pub fn remove_template(&self, name: &TemplateName) -> Result<(), Fault> {
        let _alone = self.uses.alone(name, "being removed")?;
        let promised = self.promises.reserve(0);
        let plan = |o: &Observed, _| planned::plan_remove(o);
        let removed = self.lead(name, &promised, &mut Making::nothing(), plan);
        removed.map_err(|e| e.fault("remove a template"))
    }

    /// Looks, plans and does the steps; again, as often as a base image was too small.
    fn lead(
        &self,
        name: &TemplateName,
        promised: &Reservation,
        making: &mut Making<'_, '_>,
        plan: impl Fn(&Observed, u64) -> Result<Vec<Step>, Refusal>,
    ) -> Result<(), Error> {
        let mut tried = 0;
        loop {
            let observed = self.host.observe_template(name)?;
            let steps = plan(&observed, tried).map_err(|refusal| match refusal {
                Refusal::Exists => Error::TemplateExists(name.clone()),
                Refusal::Unknown => Error::TemplateUnknown(name.clone()),
                Refusal::NoRoom => Refused::NoRoom.into(),
            })?;
            let done = steps.iter().try_for_each(|step| {
                if let Step::MakeBaseImage { bytes, .. } = step {
                    self.promise(promised, *bytes)?;
                }
                let apply = || self.host.apply_template(name, step, making);
                self.shell.step(None, &variant(step), step, apply)
            });
            if !steps.is_empty() {
                match self.host.takes(name) {
                    Ok(bytes) => promised.take(Holder::Template(name.clone()), bytes),
                    Err(_) => self.promises.forget(),
                }
            }
            let makes = steps.iter().any(|step| matches!(step, Step::MakeBaseImage { .. }));
            match done {
                Err(Error::Archive(Refused::NoRoom)) if makes => {
                    tracing::info!(%name, "the base image is too small");
                    tried += 1;
                }
                done => return done,
            }
        }
    }

    /// Promises this much more of the pool, backed before the answer.
    ///
    /// # Errors
    /// [`Error::NoRoom`], or what failed.
    pub(crate) fn promise(&self, promised: &Reservation, more: u64) -> Result<(), Error> {
        let back = {
            let _alone = self.promises.alone();
            let back = self.promises.facts()?.back(more).map_err(|refusal| match refusal {
                plan::Refusal::PoolFull { need, free } => Error::NoRoom { need, free },
                _ => Refused::NoRoom.into(),
            })?;
            promised.add(more);
            back
        };
        let Some(bytes) = back else { return Ok(()) };
        let step = plan::Step::Back { bytes };
        self.shell.step(None, &variant(&step), &step, || self.host.back(bytes))
    }
}
