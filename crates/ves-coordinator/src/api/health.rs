//! Which public service needs which of the four daemons: without one of these it is not serving. Pure.
//!
//! Never here: whether a daemon can be reached, which the chassis follows.

use ves_daemon::Need;
use ves_types::layout::{Daemon, Layout};

use super::SERVICES;

/// The four.
const ALL: &[Daemon] = &[Daemon::Storage, Daemon::Network, Daemon::Resources, Daemon::Lifecycle];

/// What each service needs, by the last part of its name. Operations, events and tokens are the coordinator's own
/// records, and of the node it says itself what cannot be reached.
const NEEDS: [(&str, &[Daemon]); 9] = [
    ("AccessService", &[]),
    ("ContainerService", ALL),
    ("EventService", &[]),
    ("NodeService", &[]),
    ("OperationService", &[]),
    ("SessionService", &[Daemon::Lifecycle]),
    ("SnapshotService", &[Daemon::Storage]),
    ("TemplateService", &[Daemon::Storage]),
    ("UsageService", &[Daemon::Resources]),
];

/// What each service needs of a node with this layout.
pub fn needs(layout: &Layout) -> Vec<Need> {
    let of = |service: &'static str| {
        let daemons = NEEDS.iter().find(|(short, _)| is_named(service, short));
        let daemons = daemons.map_or(ALL, |(_, daemons)| daemons);
        daemons.iter().map(move |daemon| (service, layout.socket(*daemon)))
    };
    SERVICES.iter().copied().flat_map(of).collect()
}

fn is_named(service: &str, short: &str) -> bool {
    service.rsplit('.').next() == Some(short)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_service_has_one_row() {
        for service in SERVICES {
            let rows = NEEDS.iter().filter(|(short, _)| is_named(service, short)).count();
            assert_eq!(rows, 1, "{service}");
        }
        assert_eq!(NEEDS.len(), SERVICES.len(), "and no row is of no service");
    }

    #[test]
    fn what_reads_records_alone_needs_nobody() {
        let needs = needs(&Layout::new("/run/ves", "/var/lib/ves"));
        let of = |short| needs.iter().filter(|(service, _)| is_named(service, short)).count();
        assert_eq!((of("ContainerService"), of("TemplateService")), (4, 1));
        assert_eq!((of("OperationService"), of("NodeService")), (0, 0));
    }
}
