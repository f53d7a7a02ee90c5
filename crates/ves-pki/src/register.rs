//! What was issued and revoked.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use ves_types::{Grant, HolderName};

/// The version that is written, and the only one that is read.
const VERSION: u32 = 1;

/// A certificate that was issued.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Its serial number, in hexadecimal digits.
    pub serial: String,
    /// Its subject.
    pub name: HolderName,
    /// What it grants.
    pub grant: Grant,
    /// When it was issued, in seconds since 1970.
    pub issued: u64,
    /// When it ends, in seconds since 1970.
    pub ends: u64,
    /// When it was revoked, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<u64>,
}

/// All of them, oldest first.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Register {
    version: u32,
    pub(crate) issued: Vec<Entry>,
}

impl Default for Register {
    fn default() -> Self {
        Self { version: VERSION, issued: vec![] }
    }
}

impl Register {
    pub(crate) fn read(text: &str) -> Result<Self, String> {
        let register: Self = serde_json::from_str(text).map_err(|e| e.to_string())?;
        match register.version {
            VERSION => Ok(register),
            other => Err(format!("it has version {other}, this build knows {VERSION}")),
        }
    }

    pub(crate) fn text(&self) -> String {
        // Of strings and numbers there is always a form.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }

    /// Revokes what has this serial number, or this holder; answers with all that is revoked of it.
    pub(crate) fn revoke(&mut self, which: &str, now: SystemTime) -> Vec<Entry> {
        let named = |entry: &&mut Entry| entry.serial == which || entry.name.as_str() == which;
        let mut revoked = Vec::new();
        for entry in self.issued.iter_mut().filter(named) {
            entry.revoked.get_or_insert_with(|| seconds(now));
            revoked.push(entry.clone());
        }
        revoked
    }

    /// The serial numbers that are revoked, and when; those that have ended anyway are left out.
    pub(crate) fn revoked(&self, now: SystemTime) -> impl Iterator<Item = (&str, SystemTime)> {
        let now = seconds(now);
        let revoked = self.issued.iter().filter(move |entry| entry.ends >= now);
        revoked.filter_map(|entry| Some((entry.serial.as_str(), time(entry.revoked?))))
    }
}

/// Seconds since 1970.
pub(crate) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn time(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}
