//! How many connections each address of the network may have, and how fast it may make them: accounting
//! without a socket or a clock.
//!
//! Of IPv6 a /64 counts as one address: whoever has one has all of it. Never here: what happens to those who
//! get no permit.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::permits::{Pace, Rate, Refused};

/// The most connections of all addresses together, where there are descriptors enough.
const ALL: usize = 2048;
/// An address has at most this part of it.
const ADDRESSES: usize = 4;
/// The most of an address that have not shown who they are yet.
const UNKNOWN: usize = 32;
/// How fast an address may connect: each costs a signature.
const CONNECTS: Rate = Rate { burst: 256, every: Duration::from_millis(10) };
/// The most addresses whose pace is remembered.
const REMEMBERED: usize = 4096;

/// How many connections there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NetworkLimits {
    /// Of all addresses.
    pub(crate) all: usize,
    /// Of one.
    pub(crate) per_address: usize,
    /// Of one, before it is known who it is.
    pub(crate) unknown: usize,
}

impl NetworkLimits {
    /// What a daemon with so many descriptors grants.
    pub(crate) fn of(descriptors: u64) -> Self {
        let all = (usize::try_from(descriptors).unwrap_or(usize::MAX) / 8).min(ALL);
        let per_address = all / ADDRESSES;
        Self { all, per_address, unknown: per_address.min(UNKNOWN) }
    }
}

#[derive(Debug, Default)]
struct Address {
    open: usize,
    unknown: usize,
    connects: Pace,
}

#[derive(Debug, Default)]
struct Open {
    addresses: BTreeMap<IpAddr, Address>,
    all: usize,
}

/// Which address has how many connections.
#[derive(Debug)]
pub(crate) struct AddressPermits {
    limits: NetworkLimits,
    open: Mutex<Open>,
}

/// One connection's place, until it is dropped.
#[derive(Debug)]
pub(crate) struct AddressPermit {
    permits: Arc<AddressPermits>,
    address: IpAddr,
    unknown: bool,
}

/// What counts as one.
pub(crate) fn counted(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 => v4,
    }
}

impl AddressPermits {
    pub(crate) fn new(limits: NetworkLimits) -> Arc<Self> {
        Arc::new(Self { limits, open: Mutex::default() })
    }

    /// How many connections there are.
    #[cfg(test)]
    pub(super) fn open(&self) -> usize {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).all
    }

    /// A place for one more connection from there.
    ///
    /// # Errors
    /// [`Refused`]: why there is none.
    pub(crate) fn take(
        self: &Arc<Self>,
        address: IpAddr,
        now: Instant,
    ) -> Result<AddressPermit, Refused> {
        let address = counted(address);
        let NetworkLimits { all, per_address, unknown } = self.limits;
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let open = &mut *open;
        if open.all >= all {
            return Err(Refused::Kind);
        }
        if !open.addresses.contains_key(&address) && open.addresses.len() >= REMEMBERED {
            open.addresses.retain(|_, a| a.open > 0 || !a.connects.ahead(now).is_zero());
            if open.addresses.len() >= REMEMBERED {
                return Err(Refused::Kind);
            }
        }
        let one = open.addresses.entry(address).or_default();
        if one.open >= per_address || one.unknown >= unknown {
            return Err(Refused::Account);
        }
        if !one.connects.wait(CONNECTS, now).is_zero() {
            return Err(Refused::TooFast);
        }
        one.connects.spend(CONNECTS, now);
        one.open += 1;
        one.unknown += 1;
        open.all += 1;
        Ok(AddressPermit { permits: Arc::clone(self), address, unknown: true })
    }
}

impl AddressPermit {
    /// It has shown who it is.
    pub(crate) fn known(&mut self) {
        if !std::mem::replace(&mut self.unknown, false) {
            return;
        }
        let mut open = self.permits.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(one) = open.addresses.get_mut(&self.address) {
            one.unknown = one.unknown.saturating_sub(1);
        }
    }
}

impl Drop for AddressPermit {
    fn drop(&mut self) {
        self.known();
        let mut open = self.permits.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.all = open.all.saturating_sub(1);
        if let Some(one) = open.addresses.get_mut(&self.address) {
            one.open = one.open.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: NetworkLimits = NetworkLimits { all: 9, per_address: 4, unknown: 2 };

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn what_the_network_has_leaves_room() {
        for descriptors in [0, 7, 64, 1024, 65536, u64::MAX] {
            let limits = NetworkLimits::of(descriptors);
            assert!(limits.all as u64 <= descriptors / 8, "{descriptors}: {limits:?}");
            assert!(limits.unknown <= limits.per_address && limits.per_address <= limits.all / 4);
        }
        // What the unit gives the coordinator.
        let unit = include_str!("../../../../deploy/systemd/ves-coordinatord.service");
        let given = unit.lines().find_map(|line| line.strip_prefix("LimitNOFILE="));
        let usual = NetworkLimits::of(given.expect("a limit").parse().expect("a number"));
        assert_eq!((usual.all, usual.per_address, usual.unknown), (2048, 512, 32));
    }

    #[test]
    fn no_address_takes_what_is_anothers() {
        let (permits, now) = (AddressPermits::new(LIMITS), Instant::now());
        let taken = |address: &str| {
            let mut held = Vec::new();
            while let Ok(mut permit) = permits.take(ip(address), now) {
                permit.known();
                held.push(permit);
            }
            held
        };
        let first = taken("192.0.2.1");
        assert_eq!(first.len(), 4);
        assert_eq!(taken("::ffff:192.0.2.1").len(), 0, "it is the same");
        let second = taken("2001:db8::1");
        assert_eq!(second.len(), 4);
        assert_eq!(taken("2001:db8::ffff").len(), 0, "it has them all");
        let third = taken("2001:db8:0:1::1");
        assert_eq!(third.len(), 1, "nine in all");
        assert_eq!(permits.take(ip("192.0.2.2"), now).err(), Some(Refused::Kind));
        drop(first);
        assert_eq!(taken("192.0.2.2").len(), 4, "who leaves makes room");
    }

    #[test]
    fn who_says_nothing_has_few() {
        let (permits, now) = (AddressPermits::new(LIMITS), Instant::now());
        let take = || permits.take(ip("192.0.2.1"), now);
        let (mut one, _two) = (take().expect("room"), take().expect("room"));
        assert_eq!(take().err(), Some(Refused::Account));
        one.known();
        let three = take().expect("one of them is known");
        assert_eq!(take().err(), Some(Refused::Account));
        drop(three);
        assert!(take().is_ok());
    }

    #[test]
    fn who_comes_and_goes_is_held_to_its_pace_and_forgotten() {
        let (permits, now) = (AddressPermits::new(LIMITS), Instant::now());
        let connects = |at| (0..1000).filter(|_| permits.take(ip("192.0.2.1"), at).is_ok()).count();
        assert_eq!(connects(now), 256);
        assert_eq!(permits.take(ip("192.0.2.1"), now).err(), Some(Refused::TooFast));
        assert_eq!(connects(now + Duration::from_secs(1)), 100);
        let many = (0..5000_u32).map(|n| IpAddr::from(n.to_be_bytes()));
        let came = many.filter(|address| permits.take(*address, now).is_ok()).count();
        assert_eq!(came, REMEMBERED - 1);
        assert!(permits.take(ip("198.51.100.1"), now + Duration::from_secs(9)).is_ok());
        assert_eq!(permits.open.lock().expect("whole").addresses.len(), 1);
    }
}
