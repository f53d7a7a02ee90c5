//! How many connections each may have at once, how many it may make, and how fast a stranger's calls are
//! answered: accounting without a socket or a clock.
//!
//! ```text
//! descriptors  ├─ strangers ─┤├─ the network ─┤├──── operators ────┤├── root, the coordinator, itself ──┤
//!                at most 1/8     at most 1/8        at most 1/2        what is left: never less than 1/4
//! ```
//!
//! Never here: who is what, or what happens to those who get no permit.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::principal::Role;

/// The most connections of all strangers together, where there are descriptors enough.
const STRANGERS: usize = 64;
/// The same of all operators.
const OPERATORS: usize = 2048;
/// An account has at most this part of what all of its kind have.
const ACCOUNTS: usize = 4;
/// How fast a stranger's account may connect.
const CONNECTS: Rate = Rate { burst: 32, every: Duration::from_millis(100) };
/// How fast calls of a stranger's account are answered.
const CALLS: Rate = Rate { burst: 32, every: Duration::from_millis(50) };
/// The most accounts whose pace is remembered.
const REMEMBERED: usize = 256;
/// Nobody waits longer; a stranger's connection does not last that long.
const LONGEST: Duration = Duration::from_secs(60);

/// How many connections there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Of all strangers; none: they are not served.
    pub(crate) strangers: usize,
    /// Of one stranger's account.
    pub(crate) per_stranger: usize,
    /// Of all operators.
    pub(crate) operators: usize,
    /// Of one operator.
    pub(crate) per_operator: usize,
}

impl Limits {
    /// What a daemon with so many descriptors grants. The `public` one serves strangers.
    pub(crate) fn of(descriptors: u64, public: bool) -> Self {
        let all = usize::try_from(descriptors).unwrap_or(usize::MAX);
        let strangers = if public { (all / 8).min(STRANGERS) } else { 0 };
        let operators = (all / 2).min(OPERATORS);
        Self {
            strangers,
            per_stranger: strangers / ACCOUNTS,
            operators,
            per_operator: operators / ACCOUNTS,
        }
    }
}

/// Why a connection gets no permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// This socket does not serve the account.
    Stranger,
    /// The account has as many as it may.
    Account,
    /// All of its kind together have as many as they may.
    Kind,
    /// The account connects too fast.
    TooFast,
}

impl Refused {
    /// The name in logs and metrics.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Stranger => "not_served",
            Self::Account => "account_has_too_many",
            Self::Kind => "all_have_too_many",
            Self::TooFast => "too_fast",
        }
    }
}

/// So many at once, then one each `every`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rate {
    pub(super) burst: u32,
    pub(super) every: Duration,
}

/// How far one is ahead of its rate.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Pace {
    paid_until: Option<Instant>,
}

impl Pace {
    pub(super) fn ahead(self, now: Instant) -> Duration {
        self.paid_until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now))
    }
    /// How long one more has to wait.
    pub(super) fn wait(self, rate: Rate, now: Instant) -> Duration {
        self.ahead(now).saturating_sub(rate.every * rate.burst.saturating_sub(1))
    }
    pub(super) fn spend(&mut self, rate: Rate, now: Instant) {
        self.paid_until = Some(now + (self.ahead(now) + rate.every).min(LONGEST));
    }
}

#[derive(Debug, Default, Clone, Copy)]
struct Account {
    open: usize,
    connects: Pace,
    calls: Pace,
}

impl Account {
    /// Whether nothing is known of it that one which was never here has not.
    fn is_forgettable(&self, now: Instant) -> bool {
        self.open == 0 && (self.connects.ahead(now) + self.calls.ahead(now)).is_zero()
    }
}

#[derive(Debug, Default)]
struct Open {
    accounts: BTreeMap<u32, Account>,
    strangers: usize,
    operators: usize,
}

/// Who has how many connections.
#[derive(Debug)]
pub(crate) struct Permits {
    limits: Limits,
    open: Mutex<Open>,
}

/// One connection's place, until it is dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    permits: Arc<Permits>,
    uid: u32,
    role: Role,
}

impl Permits {
    pub(crate) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self { limits, open: Mutex::default() })
    }

    /// How many connections strangers have.
    #[cfg(test)]
    pub(super) fn strangers(&self) -> usize {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).strangers
    }

    /// A place for one more connection of this account.
    ///
    /// # Errors
    /// [`Refused`]: why there is none.
    pub(crate) fn take(
        self: &Arc<Self>,
        uid: u32,
        role: Role,
        now: Instant,
    ) -> Result<Permit, Refused> {
        let permit = || Permit { permits: Arc::clone(self), uid, role };
        let Limits { strangers, per_stranger, operators, per_operator } = self.limits;
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let open = &mut *open;
        let (all, most, each) = match role {
            // What others cannot have is theirs.
            Role::Root | Role::Own | Role::Coordinator => return Ok(permit()),
            // No account of this machine is any of these.
            Role::Admin | Role::Tenant | Role::ReadOnly | Role::TenantReadOnly | Role::Node => {
                return Err(Refused::Stranger);
            }
            Role::Other if strangers == 0 => return Err(Refused::Stranger),
            Role::Other => (&mut open.strangers, strangers, per_stranger),
            Role::Operator => (&mut open.operators, operators, per_operator),
        };
        // Operators are no more than the configuration names.
        let unknown = role == Role::Other && !open.accounts.contains_key(&uid);
        if unknown && open.accounts.len() >= REMEMBERED {
            open.accounts.retain(|_, account| !account.is_forgettable(now));
            if open.accounts.len() >= REMEMBERED {
                return Err(Refused::Kind);
            }
        }
        let account = open.accounts.entry(uid).or_default();
        if account.open >= each {
            return Err(Refused::Account);
        }
        if *all >= most {
            return Err(Refused::Kind);
        }
        if role == Role::Other {
            if !account.connects.wait(CONNECTS, now).is_zero() {
                return Err(Refused::TooFast);
            }
            account.connects.spend(CONNECTS, now);
        }
        account.open += 1;
        *all += 1;
        Ok(permit())
    }

    /// How long the next call of a stranger's account waits, which is taken as made.
    pub(crate) fn call(&self, uid: u32, now: Instant) -> Duration {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(account) = open.accounts.get_mut(&uid) else { return LONGEST };
        let wait = account.calls.wait(CALLS, now);
        account.calls.spend(CALLS, now);
        wait
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut open = self.permits.open.lock().unwrap_or_else(PoisonError::into_inner);
        match self.role {
            Role::Root
            | Role::Own
            | Role::Coordinator
            | Role::Admin
            | Role::Tenant
            | Role::ReadOnly
            | Role::TenantReadOnly
            | Role::Node => return,
            Role::Other => open.strangers = open.strangers.saturating_sub(1),
            Role::Operator => open.operators = open.operators.saturating_sub(1),
        }
        if let Some(account) = open.accounts.get_mut(&self.uid) {
            account.open = account.open.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { strangers: 8, per_stranger: 2, operators: 9, per_operator: 3 };

    /// How many of so many attempts get a permit, which are kept.
    fn taken(permits: &Arc<Permits>, uid: u32, role: Role, attempts: usize) -> Vec<Permit> {
        let now = Instant::now();
        (0..attempts).filter_map(|_| permits.take(uid, role, now).ok()).collect()
    }

    #[test]
    fn what_strangers_and_operators_have_together_leaves_room() {
        for descriptors in [0, 7, 64, 256, 1024, 4096, 1 << 20, u64::MAX] {
            for public in [false, true] {
                let limits = Limits::of(descriptors, public);
                let others = limits.strangers + limits.operators;
                assert!(others as u64 <= descriptors / 8 * 5 + 4, "{descriptors}: {limits:?}");
                assert!(limits.per_stranger <= limits.strangers / 4);
                assert!(limits.per_operator <= limits.operators / 4);
                assert_eq!(limits.strangers == 0, !public || descriptors < 8);
            }
        }
        let usual = Limits::of(1024, true);
        assert_eq!((usual.strangers, usual.per_stranger), (64, 16));
        assert_eq!((usual.operators, usual.per_operator), (512, 128));
    }

    #[test]
    fn no_account_and_no_kind_takes_what_is_anothers() {
        let permits = Permits::new(LIMITS);
        let strangers: Vec<_> =
            (0..50).map(|uid| taken(&permits, 1000 + uid, Role::Other, 50)).collect();
        let counts: Vec<_> = strangers.iter().map(Vec::len).filter(|n| *n > 0).collect();
        assert_eq!(counts, [2, 2, 2, 2], "two each, eight in all");
        let now = Instant::now();
        let refused = |uid, role| permits.take(uid, role, now).err();
        assert_eq!(refused(1000, Role::Other), Some(Refused::Account));
        assert_eq!(refused(2000, Role::Other), Some(Refused::Kind));
        let operator = taken(&permits, 700, Role::Operator, 50);
        assert_eq!(operator.len(), 3);
        assert_eq!(taken(&permits, 701, Role::Operator, 50).len(), 3, "another has its own");
        for role in [Role::Root, Role::Coordinator] {
            assert_eq!(taken(&permits, 0, role, 5000).len(), 5000, "{role:?} is never refused");
        }
        drop(strangers);
        assert_eq!(refused(2000, Role::Other), None, "who leaves makes room");
    }

    #[test]
    fn a_socket_for_services_has_nothing_for_strangers() {
        let permits = Permits::new(Limits::of(1024, false));
        let refused = permits.take(1000, Role::Other, Instant::now()).err();
        assert_eq!(refused, Some(Refused::Stranger));
        assert!(permits.take(0, Role::Root, Instant::now()).is_ok());
    }

    #[test]
    fn a_stranger_that_comes_and_goes_is_held_to_its_pace() {
        let (permits, now) = (Permits::new(LIMITS), Instant::now());
        let connects = |at| (0..1000).filter(|_| permits.take(9, Role::Other, at).is_ok()).count();
        assert_eq!(connects(now), 32);
        assert_eq!(permits.take(9, Role::Other, now).err(), Some(Refused::TooFast));
        assert_eq!(connects(now + Duration::from_secs(1)), 10);
        let operator = (0..1000).filter(|_| permits.take(7, Role::Operator, now).is_ok()).count();
        assert_eq!(operator, 1000, "an operator has none");
    }

    #[test]
    fn calls_of_a_stranger_wait_their_turn_and_never_for_ever() {
        let (permits, now) = (Permits::new(LIMITS), Instant::now());
        let _open = permits.take(9, Role::Other, now).expect("there is room");
        let waits: Vec<_> = (0..5000).map(|_| permits.call(9, now)).collect();
        assert_eq!(waits.iter().filter(|wait| wait.is_zero()).count(), 32);
        assert_eq!(waits.get(32 + 19), Some(&Duration::from_secs(1)), "20 a second");
        assert!(waits.iter().all(|wait| *wait <= LONGEST));
    }

    #[test]
    fn many_accounts_are_not_remembered_for_ever() {
        let (permits, now) = (Permits::new(LIMITS), Instant::now());
        let came = (0..10_000).filter(|uid| permits.take(*uid, Role::Other, now).is_ok()).count();
        assert_eq!(came, REMEMBERED);
        let known = || permits.open.lock().expect("whole").accounts.len();
        assert_eq!(known(), REMEMBERED);
        let operator = permits.take(50_000, Role::Operator, now);
        assert!(operator.is_ok(), "strangers' accounts, of which one may have many, keep none out");
        drop(operator);
        assert!(permits.take(99_999, Role::Other, now + Duration::from_secs(5)).is_ok());
        assert_eq!(known(), 1);
    }
}
