//! `[service]` of the daemon's configuration file.

use serde::Deserialize;
use ves_daemon::ServiceConfig;

/// What an operator may choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Whether packet forwarding is switched on. Off where the node is set up by other means; then
    /// containers reach nothing but the node until somebody does.
    pub forwarding: bool,
    /// The most changes made at once; others wait. Those that only wait for a container do not count.
    pub max_changes: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { forwarding: true, max_changes: ves_daemon::converge::CHANGES }
    }
}

impl ServiceConfig for Config {
    fn validate(&self) -> Result<(), String> {
        ves_daemon::converge::check_changes(self.max_changes)
    }
}
