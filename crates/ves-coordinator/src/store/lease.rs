//! When leases end. Pure: the time is told from outside.

use std::collections::BTreeMap;
use std::time::Duration;

use super::LeaseId;

/// The leases there are.
#[derive(Debug, Clone, Default)]
pub(super) struct Leases {
    all: BTreeMap<LeaseId, Lease>,
}

#[derive(Debug, Clone, Copy)]
struct Lease {
    ttl_ms: i64,
    ends_ms: i64,
}

impl Leases {
    /// The lease is there from now on, and lasts for its whole time.
    pub(super) fn begin(&mut self, lease: LeaseId, ttl: Duration, now_ms: i64) {
        let ttl_ms = i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX);
        self.all.insert(lease, Lease { ttl_ms, ends_ms: now_ms.saturating_add(ttl_ms) });
    }

    /// It lasts for its whole time again; false: it has ended.
    pub(super) fn renew(&mut self, lease: LeaseId, now_ms: i64) -> bool {
        let Some(lease) = self.all.get_mut(&lease) else { return false };
        lease.ends_ms = now_ms.saturating_add(lease.ttl_ms);
        true
    }

    pub(super) fn is_there(&self, lease: LeaseId) -> bool {
        self.all.contains_key(&lease)
    }

    pub(super) fn end(&mut self, lease: LeaseId) {
        self.all.remove(&lease);
    }

    /// Those whose time is over.
    pub(super) fn over(&self, now_ms: i64) -> Vec<LeaseId> {
        let over = self.all.iter().filter(|(_, lease)| lease.ends_ms <= now_ms);
        over.map(|(id, _)| *id).collect()
    }
}
