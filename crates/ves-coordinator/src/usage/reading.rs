//! What services tell of counters, as [`super::accrued`] takes it in. Pure.
//!
//! Never here: asking them.

use ves_proto::{network, resources};

use super::accrued::{Accrued, Counts, Through};

/// What was counted of one container when it was looked at: by its groups and by its link, each with the number of
/// its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counted {
    /// Its control groups, where they are there and tell.
    pub group: Option<(u64, Counts)>,
    /// Its link, where it is there.
    pub link: Option<(u64, Through)>,
}

impl Counted {
    /// Of what resources and network tell.
    pub fn of(usage: Option<&resources::Usage>, traffic: Option<&network::Traffic>) -> Self {
        Self { group: usage.map(group), link: traffic.map(link) }
    }

    /// Takes it in.
    pub fn add_to(&self, accrued: &mut Accrued) {
        if let Some((life, counts)) = self.group {
            accrued.group.read(life, counts);
        }
        if let Some((life, through)) = self.link {
            accrued.link.read(life, through);
        }
    }
}

/// What groups count.
fn group(usage: &resources::Usage) -> (u64, Counts) {
    let disk = usage.disk.as_ref();
    let cpu = usage.cpu_user_usec.zip(usage.cpu_system_usec);
    let counts = Counts {
        cpu_usec: cpu.map(|(user, system)| user.saturating_add(system)),
        throttled_usec: usage.cpu_throttled_usec,
        read_bytes: disk.map(|disk| disk.read_bytes),
        write_bytes: disk.map(|disk| disk.write_bytes),
        reads: disk.map(|disk| disk.reads),
        writes: disk.map(|disk| disk.writes),
        oom_kills: usage.oom_kills,
    };
    (usage.life, counts)
}

/// What a link counts.
fn link(traffic: &network::Traffic) -> (u64, Through) {
    let received = traffic.received.unwrap_or_default();
    let transmitted = traffic.transmitted.unwrap_or_default();
    let through = Through {
        receive_bytes: Some(received.bytes),
        transmit_bytes: Some(transmitted.bytes),
        receive_packets: Some(received.packets),
        transmit_packets: Some(transmitted.packets),
        dropped_packets: Some(received.dropped.saturating_add(transmitted.dropped)),
    };
    (traffic.link.into(), through)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_service_does_not_tell_is_absent() {
        let usage = resources::Usage { life: 3, cpu_user_usec: Some(1), ..Default::default() };
        let counted = Counted::of(Some(&usage), None);
        assert_eq!(counted.group, Some((3, Counts::default())), "half of it is nothing");
        assert_eq!(counted.link, None);
        let counts = |bytes, dropped| Some(network::Counts { bytes, packets: 1, dropped });
        let (received, transmitted) = (counts(5, 1), counts(7, 2));
        let traffic = network::Traffic { ct: 7, link: 9, received, transmitted };
        let (life, through) = Counted::of(None, Some(&traffic)).link.expect("told");
        let told = (through.receive_bytes, through.transmit_bytes, through.dropped_packets);
        assert_eq!((life, told), (9, (Some(5), Some(7), Some(3))));
    }
}
