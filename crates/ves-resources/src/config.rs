//! The `[service]` section of the daemon's configuration.

use std::time::Duration;

use serde::Deserialize;
use ves_daemon::ServiceConfig;

/// What may be configured.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How long one process of the self-test may take before its mechanism counts as not working;
    /// raise it on very slow machines. It normally takes some ten milliseconds.
    pub self_test_seconds: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { self_test_seconds: 10 }
    }
}

impl Config {
    pub(crate) const fn patience(&self) -> Duration {
        Duration::from_secs(self.self_test_seconds)
    }
}

impl ServiceConfig for Config {
    fn validate(&self) -> Result<(), String> {
        match self.self_test_seconds {
            1..=600 => Ok(()),
            n => Err(format!("self_test_seconds is {n}; it must be from 1 to 600")),
        }
    }
}
