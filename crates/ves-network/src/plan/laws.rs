//! The laws of the planner over generated states: goal, fixed point, crash, safety, refusal,
//! determinism. The goal and safety are written from what users are promised, not from the plan.

use proptest::prelude::*;
use proptest::sample::subsequence;

use super::*;
use crate::fake;

const POOL: [&str; 5] =
    ["192.0.2.1", "192.0.2.2", "198.51.100.7", "2001:db8::1", "2001:db8:0:1::2"];

fn address(text: &str) -> CtAddress {
    text.parse().expect("a valid address")
}

fn pool() -> Vec<CtAddress> {
    POOL.iter().map(|a| address(a)).collect()
}

fn some() -> impl Strategy<Value = BTreeSet<CtAddress>> {
    subsequence(pool(), 0..=POOL.len()).prop_map(|v| v.into_iter().collect())
}

fn families() -> impl Strategy<Value = BTreeSet<Family>> {
    subsequence(Family::ALL.to_vec(), 0..=2).prop_map(|v| v.into_iter().collect())
}

/// Addresses as they may be found inside: ours, with another length, or nobody's.
fn inside() -> impl Strategy<Value = BTreeSet<(IpAddr, u8)>> {
    let mut all: Vec<_> = pool().iter().map(|a| (a.ip(), a.prefix_len())).collect();
    all.push((address("192.0.2.1").ip(), 24));
    all.push((address("2001:db8::1").ip(), 64));
    all.push((address("203.0.113.99").ip(), 32));
    let len = all.len();
    subsequence(all, 0..=len).prop_map(|v| {
        // IPv6 has an address once.
        let mut found: BTreeSet<(IpAddr, u8)> = v.into_iter().collect();
        let twice: Vec<_> =
            found.iter().filter(|(ip, len)| ip.is_ipv6() && *len == 128).copied().collect();
        for (ip, _) in twice {
            found.remove(&(ip, 64));
        }
        found
    })
}

prop_compose! {
    fn inner()(
        configured: bool, ipv6: bool, addresses in inside(), gateways in families(),
        defaults in families(),
    ) -> InnerEnd {
        let mut inner = InnerEnd { configured, ipv6, addresses, gateways, defaults };
        if !ipv6 {
            // Switching IPv6 off removes what was there.
            inner.addresses.retain(|(ip, _)| ip.is_ipv4());
            inner.defaults.remove(&Family::V6);
        }
        inner
    }
}

prop_compose! {
    fn host_end()(
        configured: bool, neighbours in some(), routes in some(), inner in proptest::option::of(inner()),
    ) -> HostEnd {
        HostEnd { veth: true, configured, neighbours, routes, inner }
    }
}

fn unread() -> impl Strategy<Value = Option<Unread>> {
    prop_oneof![4 => Just(None), 1 => Just(Some(Unread::Linked)), 1 => Just(Some(Unread::Apart))]
}

prop_compose! {
    fn state()(
        netns: bool, loopback_up: bool, name_conflict: bool, link in proptest::option::of(host_end()),
        sources in some(), unread in unread(),
    ) -> Observed {
        let mut state = Observed {
            ct: CtId::try_from(101).expect("valid"),
            netns, inhabited: false, unread, loopback_up, name_conflict, link, sources, holders: BTreeMap::new(), ipv6: true,
        };
        if !netns {
            state.unread = None;
        } else if state.unread.is_some() {
            (state.loopback_up, state.name_conflict) = (false, false);
            match &mut state.link {
                Some(link) => link.inner = None,
                None => state.unread = Some(Unread::Apart),
            }
        }
        if let Some(link) = &mut state.link {
            if !netns {
                link.inner = None;
            }
            state.name_conflict &= link.inner.is_none();
        }
        state.name_conflict &= netns;
        state.loopback_up &= netns;
        state
    }
}

fn desired() -> impl Strategy<Value = Desired> {
    subsequence(pool(), 0..=POOL.len()).prop_shuffle().prop_map(|addresses| Desired { addresses })
}

/// What a user is promised after an Ensure.
fn promised(desired: &Desired, state: &Observed) {
    let link = state.link.as_ref().expect("there is a link");
    promised_outside(desired, state, link);
    if state.unread.is_some() {
        return;
    }
    let inner = link.inner.as_ref().expect("it leads into the container");
    assert!(inner.configured && state.loopback_up && !state.name_conflict);
    for address in &desired.addresses {
        if address.ip().is_ipv4() || inner.ipv6 {
            assert!(inner.addresses.contains(&(address.ip(), address.prefix_len())), "{address}");
            let family = Family::of(address.ip());
            assert!(inner.gateways.contains(&family) && inner.defaults.contains(&family));
        }
    }
    let inside = desired.addresses.iter().filter(|a| a.ip().is_ipv4() || inner.ipv6).count();
    assert_eq!(inner.addresses.len(), inside, "just these");
}

/// The part of it that is the node's.
fn promised_outside(desired: &Desired, state: &Observed, link: &HostEnd) {
    assert!(link.configured);
    for address in &desired.addresses {
        assert!(link.routes.contains(address), "{address} is routed");
        assert!(link.neighbours.contains(address), "{address} is reached without discovery");
        assert!(state.sources.contains(address), "{address} may be a source");
    }
    let count = desired.addresses.len();
    assert_eq!(
        (link.routes.len(), link.neighbours.len(), state.sources.len()),
        (count, count, count)
    );
}

/// What must hold at every moment on the way from `start`.
fn safe(start: &Observed, desired: Option<&Desired>, state: &Observed, step: &Step) {
    let wanted: BTreeSet<_> = desired.iter().flat_map(|d| d.addresses.iter().copied()).collect();
    let routes = state.link.as_ref().map(|l| l.routes.clone()).unwrap_or_default();
    match &step.change {
        Change::AddRoute(address) => {
            assert!(wanted.contains(address), "nobody asked for {address}");
            assert!(state.link.as_ref().is_some_and(|l| l.neighbours.contains(address)));
        }
        Change::AllowSources(sources) => {
            assert!(sources.is_subset(&wanted), "nobody asked for these");
            assert!(sources.is_subset(&routes), "another container may have them");
        }
        Change::RemoveRoute(address) => {
            assert!(!state.sources.contains(address), "{address} is free and still allowed");
        }
        Change::ConfigureHostEnd => {
            assert!(state.sources.is_subset(&wanted), "old sources are forbidden before it is up");
        }
        _ => {}
    }
    let connected = |o: &Observed| {
        o.link.as_ref().is_some_and(|l| l.inner.is_some() || o.unread == Some(Unread::Linked))
    };
    if desired.is_some() && connected(start) {
        assert!(connected(state), "a working link is never replaced");
        // What worked and is still wanted works at every moment.
        let working: BTreeSet<_> = state.working().into_iter().collect();
        for address in start.working().iter().filter(|a| wanted.contains(a)) {
            assert!(working.contains(address), "{address} was disturbed by {step}");
        }
        let defaults = |o: &Observed| o.link.clone().and_then(|l| l.inner).map(|i| i.defaults);
        let kept = start.working().into_iter().filter(|a| wanted.contains(a));
        for family in kept.map(|a| Family::of(a.ip())).collect::<BTreeSet<_>>() {
            let had = defaults(start).is_some_and(|d| d.contains(&family));
            let has = defaults(state).is_some_and(|d| d.contains(&family));
            assert!(!had || has, "the {family} default route was disturbed by {step}");
        }
    }
}

fn run(start: &Observed, desired: Option<&Desired>, state: &mut Observed, steps: &[Step]) {
    for step in steps {
        fake::apply(state, &step.change).unwrap_or_else(|e| {
            panic!("{step}: {}", ves_proto::fault::chain(&e));
        });
        safe(start, desired, state, step);
    }
}

fn crash_anywhere(start: &Observed, desired: Option<&Desired>, goal: &dyn Fn(&Observed)) {
    let steps = plan(desired, start).expect("nothing is in the way");
    assert_eq!(Ok(&steps), plan(desired, start).as_ref(), "determinism");
    for cut in 0..=steps.len() {
        let mut state = start.clone();
        run(start, desired, &mut state, &steps[..cut]);
        // The daemon died after the step and before it knew; the step is done again.
        if let Some(last) = cut.checked_sub(1) {
            run(start, desired, &mut state, &steps[last..cut]);
        }
        let rest = plan(desired, &state).expect("nothing came in the way");
        let middle = state.clone();
        run(&middle, desired, &mut state, &rest);
        goal(&state);
        assert_eq!(plan(desired, &state), Ok(Vec::new()), "fixed point");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..Default::default() })]

    #[test]
    fn ensure_keeps_its_laws(start in state(), desired in desired()) {
        if start.netns && start.unread == Some(Unread::Apart) {
            let refused = plan(Some(&desired), &start);
            prop_assert_eq!(refused, Err(Refusal::Unreadable { ct: start.ct }));
        } else if start.netns {
            crash_anywhere(&start, Some(&desired), &|state| promised(&desired, state));
        } else {
            let refused = plan(Some(&desired), &start);
            prop_assert_eq!(refused, Err(Refusal::NoNamespace { ct: start.ct }));
        }
    }

    #[test]
    fn remove_keeps_its_laws(start in state()) {
        crash_anywhere(&start, None, &|state| {
            assert!(state.link.is_none() && state.sources.is_empty(), "nothing is left");
        });
        let steps = plan(None, &start).expect("nothing is in the way");
        let by_hand = steps.iter().any(|s| s.change == Change::DeleteLink);
        prop_assert!(!by_hand || start.netns, "a dying namespace takes its link along");
    }

    #[test]
    fn nothing_is_taken_from_who_lives_where_the_pin_is_lost(
        start in state(), desired in proptest::option::of(desired()),
    ) {
        let start = Observed { inhabited: true, ..start };
        let planned = plan(desired.as_ref(), &start);
        if start.netns {
            prop_assert_eq!(planned, plan(desired.as_ref(), &Observed { inhabited: false, ..start }));
        } else {
            prop_assert_eq!(planned, Err(Refusal::PinLost { ct: start.ct }));
        }
    }

    #[test]
    fn a_taken_address_changes_nothing(
        start in state(), desired in desired(), taken in some(), other in 1_u32..9,
    ) {
        let mut start = Observed { netns: true, unread: None, ..start };
        let holder = Holder::Container(CtId::try_from(other).expect("valid"));
        start.holders = taken.iter().map(|a| (*a, holder.clone())).collect();
        let first = desired.addresses.iter().find(|a| taken.contains(a));
        match (plan(Some(&desired), &start), first) {
            (Err(refusal), Some(first)) => {
                prop_assert_eq!(refusal, Refusal::AddressTaken { address: *first, holder });
            }
            (result, first) => prop_assert!(result.is_ok() && first.is_none()),
        }
    }
}

#[test]
fn what_is_not_ours_is_left_alone() {
    let mut start = Observed::nothing(CtId::try_from(101).expect("valid"));
    start.netns = true;
    start.link = Some(HostEnd::default());
    let refusal = Refusal::ForeignLink { link: "ves101".to_owned() };
    let desired = Desired { addresses: pool() };
    assert_eq!(plan(Some(&desired), &start), Err(refusal.clone()));
    assert_eq!(plan(None, &start), Err(refusal));
}

#[test]
fn what_is_inside_is_not_touched_unseen() {
    let mut start = Observed::nothing(CtId::try_from(101).expect("valid"));
    (start.netns, start.unread) = (true, Some(Unread::Linked));
    let (old, new) = (address("192.0.2.1"), address("192.0.2.2"));
    start.sources = [old].into();
    start.link = Some(HostEnd {
        veth: true,
        configured: true,
        neighbours: [old].into(),
        routes: [old].into(),
        inner: None,
    });
    assert_eq!(start.working(), [old], "by the outside");
    let steps = plan(Some(&Desired { addresses: vec![new] }), &start).expect("can be done");
    let words: Vec<_> = steps.iter().map(ToString::to_string).collect();
    assert_eq!(
        words,
        [
            "forbid source 192.0.2.1 from ves101",
            "remove route 192.0.2.1 through ves101",
            "remove neighbour 192.0.2.1 on ves101",
            "set neighbour 192.0.2.2 on ves101",
            "add route 192.0.2.2 through ves101",
            "allow source 192.0.2.2 from ves101",
        ]
    );
}

#[test]
fn a_node_without_ipv6_refuses_ipv6_only() {
    let mut start = Observed::nothing(CtId::try_from(101).expect("valid"));
    (start.netns, start.ipv6) = (true, false);
    let v4 = Desired { addresses: vec![address("192.0.2.1")] };
    assert!(plan(Some(&v4), &start).is_ok());
    let v6 = Desired { addresses: vec![address("2001:db8::1")] };
    let refusal = Refusal::NoIpv6 { address: address("2001:db8::1") };
    assert_eq!(plan(Some(&v6), &start), Err(refusal));
}

#[test]
fn a_new_link_is_made_in_this_order() {
    let mut start = Observed::nothing(CtId::try_from(101).expect("valid"));
    start.netns = true;
    let desired = Desired { addresses: vec![address("192.0.2.1"), address("2001:db8::1")] };
    let steps = plan(Some(&desired), &start).expect("nothing is in the way");
    let words: Vec<_> = steps.iter().map(ToString::to_string).collect();
    assert_eq!(
        words,
        [
            "create link ves101 to venet0 in container 101",
            "set link ves101 up",
            "set venet0 in container 101 up",
            "set lo in container 101 up",
            "add address 192.0.2.1 in container 101",
            "add address 2001:db8::1 in container 101",
            "set neighbour 169.254.0.1 in container 101",
            "set the IPv4 default route in container 101",
            "set neighbour fe80::1 in container 101",
            "set the IPv6 default route in container 101",
            "set neighbour 192.0.2.1 on ves101",
            "set neighbour 2001:db8::1 on ves101",
            "add route 192.0.2.1 through ves101",
            "add route 2001:db8::1 through ves101",
            "allow source 192.0.2.1, 2001:db8::1 from ves101",
        ]
    );
}
