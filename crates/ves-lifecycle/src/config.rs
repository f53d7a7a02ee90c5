//! Settings of the lifecycle service.

use std::path::PathBuf;

use serde::Deserialize;
use ves_init_proto::views::Provider;
use ves_types::DevicePattern;

/// The `[service]` table of its configuration file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The program that makes containers; without this, `ves-init` beside the daemon's own.
    pub ves_init: Option<PathBuf>,
    /// How long after its start an init that ends counts as having failed to start. An init that
    /// lives costs a start this long.
    #[serde(alias = "settle_ms")]
    pub early_exit_grace_ms: u32,
    /// The most exec and console sessions at once.
    pub max_sessions: usize,
    /// The most changes made at once; others wait. Those that only wait for a container do not count.
    pub max_changes: usize,
    /// Devices below /dev that containers may have when asked for, besides the usual ones; with `*` at its end
    /// a name means all that begin so.
    pub allow_devices: Vec<DevicePattern>,
    /// Who provides what containers see in place of the node's in files of /proc and /sys.
    pub views: Views,
}

/// The `[service.views]` table.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Views {
    /// Which program.
    pub provider: Provider,
    /// Where its file system is mounted; without this, `lxcfs` beside the daemons' sockets, where `ves-lxcfs`
    /// mounts it.
    pub dir: Option<PathBuf>,
}

impl Default for Views {
    fn default() -> Self {
        Self { provider: Provider::Lxcfs, dir: None }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            ves_init: None,
            early_exit_grace_ms: 20,
            max_sessions: 512,
            max_changes: ves_daemon::converge::CHANGES,
            allow_devices: Vec::new(),
            views: Views::default(),
        }
    }
}

impl ves_daemon::ServiceConfig for Config {
    fn validate(&self) -> Result<(), String> {
        if self.early_exit_grace_ms > 60_000 {
            return Err("service.early_exit_grace_ms is more than a minute; 20 is usual".to_owned());
        }
        ves_daemon::converge::check_changes(self.max_changes)?;
        if self.max_sessions == 0 {
            return Err("service.max_sessions is 0; no command could run".to_owned());
        }
        if self.ves_init.as_ref().is_some_and(|path| !path.is_absolute()) {
            return Err("service.ves_init is no absolute path".to_owned());
        }
        if self.views.dir.as_ref().is_some_and(|dir| !dir.is_absolute()) {
            return Err("service.views.dir is no absolute path".to_owned());
        }
        Ok(())
    }
}
