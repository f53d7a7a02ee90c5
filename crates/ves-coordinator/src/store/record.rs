//! How records are written: JSON in an envelope that says its version.
//!
//! A record of a newer version, or one that is garbage, is an error that names it; nobody guesses.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use ves_proto::{Fault, Reason};

use super::Key;

/// The version this build writes, and the only one it reads; [`super::migrate`] makes it of earlier ones.
pub const VERSION: u32 = 4;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope<T> {
    version: u32,
    record: T,
}

#[derive(Deserialize)]
struct VersionOnly {
    version: u32,
}

/// The version a row says it has; `None` where it says none.
pub(super) fn version(bytes: &[u8]) -> Option<u32> {
    serde_json::from_slice::<VersionOnly>(bytes).ok().map(|row| row.version)
}

/// Writes a record.
///
/// # Errors
/// `BUG` where a value has no JSON form.
pub fn write<T: Serialize>(key: &Key, record: &T) -> Result<Vec<u8>, Fault> {
    serde_json::to_vec(&Envelope { version: VERSION, record }).map_err(|e| {
        let message = format!("write the record {}/{}: {e}", key.kind.table(), key.text);
        Fault::new(Reason::Bug, message)
    })
}

/// Reads a record.
///
/// # Errors
/// `RECORD_CORRUPT`.
pub fn read<T: DeserializeOwned>(key: &Key, bytes: &[u8]) -> Result<T, Fault> {
    let name = format!("{}/{}", key.kind.table(), key.text);
    let corrupt = |why: String| {
        let message = format!(
            "the stored record {name} cannot be read: {why}; restore the coordinator's state from \
             a backup, or remove the record"
        );
        Fault::new(Reason::RecordCorrupt, message).fact("record", &name)
    };
    let VersionOnly { version } =
        serde_json::from_slice(bytes).map_err(|e| corrupt(e.to_string()))?;
    if version != VERSION {
        return Err(corrupt(format!("it has version {version}, this build knows {VERSION}")));
    }
    let envelope: Envelope<T> =
        serde_json::from_slice(bytes).map_err(|e| corrupt(e.to_string()))?;
    Ok(envelope.record)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn garbage_and_the_future_are_named() {
        let key = Key::fact("boot");
        let good = write(&key, &"x").expect("written");
        assert_eq!(read::<String>(&key, &good), Ok("x".to_owned()));
        for bad in [
            &b""[..],
            b"{",
            b"\xff\xfe",
            b"{\"version\":5,\"record\":\"x\"}",
            b"{\"version\":4,\"record\":7}",
            b"{\"version\":4}",
        ] {
            let fault = read::<String>(&key, bad).expect_err("corrupt");
            assert_eq!(fault.reason, Reason::RecordCorrupt);
            assert_eq!(fault.facts["record"], "facts/boot");
        }
    }
}
