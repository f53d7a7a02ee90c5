//! The service's configuration.

use serde::Deserialize;
use ves_archive::Limits;
use ves_daemon::ServiceConfig;

/// How images are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PoolKind {
    /// Shared blocks where the state directory's file system has them or a pool image with a file
    /// system that has them can be made; else copies.
    #[default]
    Auto,
    /// Plain copies of the base image, in the state directory.
    ImageCopy,
    /// Shared blocks, or no service.
    ImageReflink,
}

/// The `[service]` section of `storage.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How images are kept.
    pub pool: PoolKind,
    /// The size of a pool image that is made, or the most that is used of the state directory's file
    /// system; absent: four fifths of what is free there when the pool is made.
    pub pool_bytes: Option<u64>,
    /// How much may be promised, in percent of the pool.
    pub overcommit_percent: u64,
    /// The most snapshots a container may have.
    pub max_snapshots: usize,
    /// The Debian mirror templates are built from; absent: the first in apt's sources, else
    /// mmdebstrap's own choice.
    pub mirror: Option<String>,
    /// The most bytes a template's files may have.
    pub max_template_bytes: u64,
    /// The most files a template may have.
    pub max_template_inodes: u64,
    /// The most changes made at once; others wait. Those that only wait for a container do not count.
    pub max_changes: usize,
}

impl Default for Config {
    fn default() -> Self {
        let limits = Limits::default();
        Self {
            pool: PoolKind::Auto,
            pool_bytes: None,
            overcommit_percent: 100,
            max_snapshots: 64,
            mirror: None,
            max_template_bytes: limits.bytes,
            max_template_inodes: limits.inodes,
            max_changes: ves_daemon::converge::CHANGES,
        }
    }
}

impl Config {
    /// What an archive may expand to.
    pub fn limits(&self) -> Limits {
        Limits {
            bytes: self.max_template_bytes,
            inodes: self.max_template_inodes,
            ..Limits::default()
        }
    }
}

/// The smallest pool image: what xfs asks for, and room for a template.
pub const LEAST_POOL: u64 = 1 << 30;

impl ServiceConfig for Config {
    fn validate(&self) -> Result<(), String> {
        if self.pool_bytes.is_some_and(|b| b < LEAST_POOL) {
            return Err(format!("pool_bytes must be at least {LEAST_POOL}"));
        }
        if !(1..=10_000).contains(&self.overcommit_percent) {
            return Err("overcommit_percent must be from 1 to 10000".to_owned());
        }
        if self.max_template_bytes < 1 << 20 || self.max_template_inodes < 16 {
            return Err(
                "max_template_bytes must be at least 1048576 and max_template_inodes 16".to_owned()
            );
        }
        ves_daemon::converge::check_changes(self.max_changes)?;
        if self.max_snapshots > 1024 {
            return Err("max_snapshots must be at most 1024".to_owned());
        }
        match self.mirror.as_deref() {
            Some(mirror) if !crate::template::is_mirror(mirror) => {
                Err("mirror must be an http, https or file URL without blanks".to_owned())
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_nonsense_is_not() {
        assert_eq!(Config::default().validate(), Ok(()));
        let read = |text: &str| toml::from_str::<Config>(text).map(|c| c.validate());
        assert!(matches!(read("pool = \"image-copy\"\npool_bytes = 2147483648"), Ok(Ok(()))));
        assert!(matches!(read("pool_bytes = 1"), Ok(Err(_))));
        assert!(matches!(read("overcommit_percent = 0"), Ok(Err(_))));
        assert!(matches!(read("max_snapshots = 0"), Ok(Ok(()))));
        assert!(matches!(read("max_snapshots = 1025"), Ok(Err(_))));
        assert!(matches!(read("mirror = \"--help\""), Ok(Err(_))));
        assert!(read("pool = \"zfs\"").is_err());
        assert!(read("colour = \"red\"").is_err());
    }
}
