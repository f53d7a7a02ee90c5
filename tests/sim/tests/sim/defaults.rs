//! What a container has of the node that is made without a word about it.

use ves_coordinator::config::Defaults;
use ves_proto::common::UbcValue;
use ves_sim::Sim;
use ves_sim::sim::Command;
use ves_sim::words as pb;

fn limits(sim: &Sim, ct: u32) -> Vec<(String, u64)> {
    let spec = sim.get(&ct.to_string()).expect("made").spec.expect("it has one");
    let ubc = spec.limits.unwrap_or_default().ubc;
    ubc.into_iter().map(|(name, value)| (name, value.limit)).collect()
}

#[test]
fn a_container_without_limits_has_those_of_the_node() {
    let sim = Sim::configured(|config| {
        config.defaults = Defaults { numproc: 400, ram_mib: Some(512) };
    });
    sim.run(&Command::create(101, |_| {})).expect("made");
    let all = [("numproc", 400), ("physpages", 131_072), ("shmpages", 65_536)];
    assert_eq!(limits(&sim, 101), all.map(|(name, limit)| (name.to_owned(), limit)));
    // They are its own: what is changed stays changed, and none can be asked for.
    let unlimited = u64::try_from(i64::MAX).expect("positive");
    let value = UbcValue { barrier: unlimited, limit: unlimited };
    sim.run(&Command::create(102, |spec| {
        let mut limits = spec.limits.take().unwrap_or_default();
        limits.ubc.insert("numproc".to_owned(), value);
        spec.limits = Some(limits);
    }))
    .expect("made");
    assert!(limits(&sim, 102).iter().all(|(name, limit)| name != "numproc" || *limit == unlimited));
    assert_eq!(sim.state("101"), pb::ContainerState::Stopped);
}
