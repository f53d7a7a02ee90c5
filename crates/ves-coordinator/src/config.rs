//! The coordinator's settings.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Deserialize;
use ves_daemon::{Listen, ServiceConfig};
use ves_types::{Bytes, NodeName};

use crate::container::defaults::DefaultLimits;
use crate::container::meta;

/// The most labels that metrics have of a container: each makes every series longer.
const MOST_METRIC_LABELS: usize = 8;

/// `[service]` of coordinator.toml.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Accounts that may use the public API, beside root.
    pub operators: Vec<String>,
    /// The node's name; unset: its host name.
    pub node: Option<NodeName>,
    /// How many containers are started at once when the node boots.
    pub boot_parallel: usize,
    /// How many operations that somebody asked for are carried out at once; the others wait.
    pub operations_parallel: usize,
    /// How many containers are repaired at once. Few, so that operators go first.
    pub repair_parallel: usize,
    /// How long to wait between two looks at whether all containers are what they should be, in
    /// seconds.
    pub reconcile_every_s: u64,
    /// How long a service may be away before an operation that needs it fails, in milliseconds.
    pub patience_ms: u64,
    /// How much longer than lifecycle itself waits a container whose init ends counts as not started,
    /// in milliseconds.
    #[serde(alias = "settle_ms")]
    pub early_exit_grace_ms: u64,
    /// How long `start --wait` waits for init to say that it booted.
    pub booted_within_ms: u64,
    /// How long an operation is kept after its end, in seconds.
    pub keep_operations_s: u64,
    /// How many operations that have ended are kept at most.
    pub keep_operations: usize,
    /// How many events are kept at most.
    pub events_kept: usize,
    /// How many days an event is kept at most.
    pub events_days: u32,
    /// Keys of labels of containers that are told with all their metrics, as `container.label.KEY`.
    pub metric_labels: Vec<String>,
    /// How long to wait between two readings of what containers have used, in seconds: what a crash of the node
    /// may lose of it.
    pub usage_every_s: u64,
    /// What containers are limited to that are made without a limit.
    pub defaults: Defaults,
    /// How the public API is served to the network; unset: not at all.
    pub listen: Option<Listen>,
}

/// `[service.defaults]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Defaults {
    /// Processes and threads; 0: no limit.
    pub numproc: u64,
    /// Memory in mebibytes; 0: no limit. Unset: a sixteenth of the node's, but at least 256.
    pub ram_mib: Option<u64>,
}

impl Default for Defaults {
    fn default() -> Self {
        Self { numproc: 400, ram_mib: None }
    }
}

impl Defaults {
    /// As they are on a node with so much memory, where that is known.
    pub fn on(&self, node_ram: Option<Bytes>) -> DefaultLimits {
        let ram = match self.ram_mib {
            Some(mib) => Some(Bytes(mib.saturating_mul(1 << 20))),
            None => node_ram.map(DefaultLimits::share_of),
        };
        let numproc = Some(self.numproc);
        DefaultLimits { numproc: numproc.filter(|n| *n > 0), ram: ram.filter(|ram| ram.0 > 0) }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            operators: vec![],
            node: None,
            boot_parallel: 4,
            operations_parallel: 64,
            repair_parallel: 4,
            reconcile_every_s: 300,
            patience_ms: 30_000,
            early_exit_grace_ms: 0,
            booted_within_ms: 180_000,
            keep_operations_s: 86_400,
            keep_operations: 10_000,
            events_kept: 100_000,
            events_days: 90,
            metric_labels: vec![],
            usage_every_s: 300,
            defaults: Defaults::default(),
            listen: None,
        }
    }
}

impl Config {
    /// See [`Self::patience_ms`].
    pub const fn patience(&self) -> Duration {
        Duration::from_millis(self.patience_ms)
    }
    /// See [`Self::early_exit_grace_ms`].
    pub const fn early_exit_grace(&self) -> Duration {
        Duration::from_millis(self.early_exit_grace_ms)
    }
    /// See [`Self::booted_within_ms`].
    pub const fn booted_within(&self) -> Duration {
        Duration::from_millis(self.booted_within_ms)
    }
}

impl ServiceConfig for Config {
    fn validate(&self) -> Result<(), String> {
        for (name, count) in [
            ("boot_parallel", self.boot_parallel),
            ("operations_parallel", self.operations_parallel),
            ("repair_parallel", self.repair_parallel),
        ] {
            if !(1..=1024).contains(&count) {
                return Err(format!("{name} must be from 1 to 1024"));
            }
        }
        if self.reconcile_every_s == 0 {
            return Err("reconcile_every_s must be at least 1".to_owned());
        }
        if !(1..=10_000_000).contains(&self.events_kept) {
            return Err("events_kept must be from 1 to 10000000".to_owned());
        }
        if self.usage_every_s == 0 {
            return Err("usage_every_s must be at least 1".to_owned());
        }
        if self.events_days == 0 {
            return Err("events_days must be at least 1".to_owned());
        }
        if self.metric_labels.len() > MOST_METRIC_LABELS {
            return Err(format!("metric_labels must have at most {MOST_METRIC_LABELS} keys"));
        }
        if let Some(key) = self.metric_labels.iter().find(|key| !meta::is_key(key)) {
            return Err(format!("metric_labels: {key:?} is no key of a label: {}", meta::KEY));
        }
        let different: BTreeSet<_> = self.metric_labels.iter().collect();
        if different.len() < self.metric_labels.len() {
            return Err("metric_labels names a key twice".to_owned());
        }
        if self.early_exit_grace_ms > 10_000 {
            return Err("early_exit_grace_ms must be at most 10000".to_owned());
        }
        self.listen.as_ref().map_or(Ok(()), Listen::validate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_nonsense_is_not() {
        assert_eq!(Config::default().validate(), Ok(()));
        let none = Config { boot_parallel: 0, ..Config::default() };
        assert!(none.validate().is_err());
        let told = |keys: &[&str]| Config {
            metric_labels: keys.iter().map(|&key| key.to_owned()).collect(),
            ..Config::default()
        };
        assert_eq!(told(&["customer"]).validate(), Ok(()));
        assert!(told(&["a b"]).validate().is_err());
        assert!(told(&["k", "k"]).validate().is_err());
        assert!(told(&["k"; 9]).validate().is_err());
        let named =
            |name: &str| serde_json::from_value::<Config>(serde_json::json!({ "node": name }));
        assert_eq!(named("n1").expect("a name").node, "n1".parse().ok());
        assert!(named("a b").is_err());
    }
}
