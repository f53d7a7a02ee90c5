//! What each container has used so far, in memory; and which of that is not stored.
//!
//! A container's page is begun by who works on it alone, and read on by anybody who looks: what is read of a
//! container that had the id before is taken in nowhere. Never here: calls, or when something is stored.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use uuid::Uuid;
use ves_proto::Fault;
use ves_types::CtId;

use crate::container::record::Record;
use crate::store::state::State;
use crate::store::{Kind, record as rows};
use crate::usage::accrued::Accrued;

/// What all containers have used.
#[derive(Debug, Default)]
pub struct Ledger {
    pages: Mutex<HashMap<CtId, Page>>,
    /// The boot that the node is in, once that is known; before, nothing is counted.
    boot: OnceLock<String>,
}

/// One container's.
#[derive(Debug)]
struct Page {
    accrued: Accrued,
    /// Whether it is other than what is stored.
    changed: bool,
    /// Whether it goes along with the next change of its container: something ended, or it has just begun.
    due: bool,
}

impl Ledger {
    /// What is stored. A container of a release that did not count yet is counted from `now_ms` on. One whose
    /// figures cannot be read is, too.
    ///
    /// # Errors
    /// `HOST_FAILED` where the store cannot be read.
    pub fn open(state: &State, now_ms: i64) -> Result<Self, Fault> {
        let mut pages = HashMap::new();
        let mut stored = HashMap::new();
        for (key, bytes) in state.rows(Kind::Usage)? {
            match (key.text.parse::<CtId>(), rows::read::<Accrued>(&key, &bytes)) {
                (Ok(ct), Ok(accrued)) => {
                    stored.insert(ct, accrued);
                }
                (_, Err(fault)) => tracing::error!(error = %fault, "what it used begins anew"),
                (Err(e), _) => tracing::error!(error = %e, "what nobody used is ignored"),
            }
        }
        for record in state.read().containers() {
            let own = stored.remove(&record.id).filter(|accrued| accrued.uid == record.uid);
            let page = match own {
                Some(accrued) => Page { accrued, changed: false, due: false },
                None => {
                    let born = record.creating_since.is_some();
                    let since = if born { created_ms(record) } else { now_ms };
                    Page { accrued: Accrued::new(record.uid, since, ""), changed: true, due: true }
                }
            };
            pages.insert(record.id, page);
        }
        Ok(Self { pages: Mutex::new(pages), boot: OnceLock::new() })
    }

    fn pages(&self) -> MutexGuard<'_, HashMap<CtId, Page>> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says which boot the node is in.
    pub fn enter_boot(&self, boot: &str) {
        self.boot.get_or_init(|| boot.to_owned());
    }

    /// Begins a container's page, where it has none yet. For who alone works on the container.
    pub fn begin(&self, record: &Record) {
        let mut pages = self.pages();
        if pages.get(&record.id).is_none_or(|page| page.accrued.uid != record.uid) {
            let boot = self.boot.get().map_or("", String::as_str);
            let accrued = Accrued::new(record.uid, created_ms(record), boot);
            pages.insert(record.id, Page { accrued, changed: true, due: true });
        }
    }

    /// Takes in what was read of a container, if it still is the one that was looked at.
    pub fn read(&self, ct: CtId, uid: Uuid, take: impl FnOnce(&mut Accrued)) {
        self.change(ct, uid, take);
    }

    /// The same of something that has ended: that is stored with the next change of the container.
    pub fn close(&self, ct: CtId, uid: Uuid, take: impl FnOnce(&mut Accrued)) {
        if self.change(ct, uid, take)
            && let Some(page) = self.pages().get_mut(&ct)
        {
            page.due = true;
        }
    }

    /// Whether that has changed something.
    fn change(&self, ct: CtId, uid: Uuid, take: impl FnOnce(&mut Accrued)) -> bool {
        let Some(boot) = self.boot.get() else { return false };
        let mut pages = self.pages();
        let Some(page) = pages.get_mut(&ct).filter(|page| page.accrued.uid == uid) else {
            return false;
        };
        let before = page.accrued.clone();
        page.accrued.enter_boot(boot);
        take(&mut page.accrued);
        let changed = page.accrued != before;
        page.changed |= changed;
        changed
    }

    /// What a container has used so far.
    pub fn of(&self, record: &Record) -> Accrued {
        let pages = self.pages();
        let page = pages.get(&record.id).filter(|page| page.accrued.uid == record.uid);
        page.map_or_else(
            || Accrued::new(record.uid, created_ms(record), ""),
            |page| page.accrued.clone(),
        )
    }

    /// What is to be stored along with a change of this container.
    pub fn due(&self, ct: CtId) -> Option<Accrued> {
        self.pages().get(&ct).filter(|page| page.due).map(|page| page.accrued.clone())
    }

    /// Whether anything is other than what is stored.
    pub fn has_changed(&self) -> bool {
        self.pages().values().any(|page| page.changed)
    }

    /// All that is other than what is stored.
    pub fn changed(&self) -> Vec<(CtId, Accrued)> {
        let pages = self.pages();
        let changed = pages.iter().filter(|(_, page)| page.changed);
        changed.map(|(ct, page)| (*ct, page.accrued.clone())).collect()
    }

    /// This is stored now.
    pub fn stored(&self, ct: CtId, accrued: &Accrued) {
        if let Some(page) = self.pages().get_mut(&ct)
            && page.accrued == *accrued
        {
            (page.changed, page.due) = (false, false);
        }
    }

    /// A container is gone.
    pub fn forget(&self, ct: CtId, uid: Uuid) {
        let mut pages = self.pages();
        if pages.get(&ct).is_some_and(|page| page.accrued.uid == uid) {
            pages.remove(&ct);
        }
    }
}

/// When it was created, in milliseconds since 1970.
const fn created_ms(record: &Record) -> i64 {
    record.created_unix.saturating_mul(1000)
}
