//! The `[service]` section of the daemon's configuration.

use std::time::Duration;

use serde::Deserialize;
use ves_daemon::ServiceConfig;
use ves_types::Bytes;

use crate::model::Reserve;

/// What may be configured.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How long one process of the self-test may take before its mechanism counts as not working;
    /// raise it on very slow machines. It normally takes some ten milliseconds.
    pub self_test_seconds: u64,
    /// How much memory the node keeps for itself, in MiB: all containers together have no more than the
    /// rest. At most half of what there is.
    pub reserve_ram_mib: u64,
    /// How many processes and threads it keeps.
    pub reserve_pids: u64,
    /// The most changes made at once; others wait. Those that only wait for a container do not count.
    pub max_changes: usize,
}

impl Default for Config {
    fn default() -> Self {
        let Reserve { ram, pids } = Reserve::default();
        Self {
            self_test_seconds: 10,
            reserve_ram_mib: ram.0 >> 20,
            reserve_pids: pids,
            max_changes: ves_daemon::converge::CHANGES,
        }
    }
}

impl Config {
    pub(crate) const fn patience(&self) -> Duration {
        Duration::from_secs(self.self_test_seconds)
    }

    pub(crate) fn reserve(&self) -> Reserve {
        let ram = Bytes(self.reserve_ram_mib.saturating_mul(1 << 20));
        Reserve { ram, pids: self.reserve_pids }
    }
}

impl ServiceConfig for Config {
    fn validate(&self) -> Result<(), String> {
        ves_daemon::converge::check_changes(self.max_changes)?;
        match self.self_test_seconds {
            1..=600 => Ok(()),
            n => Err(format!("self_test_seconds is {n}; it must be from 1 to 600")),
        }
    }
}
