//! Contexts: coordinators in the network and as whom they are asked, by name, in a file of the user's.
//!
//! Secrets are not in it, only where they are. Never here: which context is meant ([`crate::endpoint`]).

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::failure::Failure;

/// The most bytes of the file.
const MOST: u64 = 1 << 20;
/// The context that there always is: this node's coordinator, by its socket.
pub(crate) const LOCAL: &str = "local";

/// A context's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct ContextName(String);

impl ContextName {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ContextName {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let word = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        if (1..=63).contains(&s.len()) && s.bytes().all(word) && !s.starts_with(['-', '.']) {
            return Ok(Self(s.to_owned()));
        }
        Err("a context has a name of 1 to 63 letters, digits, '-', '_' and '.'".to_owned())
    }
}

impl TryFrom<String> for ContextName {
    type Error = String;
    fn try_from(s: String) -> Result<Self, String> {
        s.parse()
    }
}

impl From<ContextName> for String {
    fn from(name: ContextName) -> Self {
        name.0
    }
}

/// A coordinator in the network, and as whom it is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ContextEntry {
    /// `https://HOST:PORT`.
    pub(crate) endpoint: String,
    /// The authority of its certificate.
    pub(crate) ca: PathBuf,
    /// The client's certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cert: Option<PathBuf>,
    /// Its key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<PathBuf>,
    /// Where a token is, instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token_file: Option<PathBuf>,
}

/// All of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Contexts {
    /// The one that is meant where none is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) current: Option<ContextName>,
    #[serde(default)]
    pub(crate) contexts: BTreeMap<ContextName, ContextEntry>,
}

/// Where the file is: `$XDG_CONFIG_HOME`, or `.config` of the user's directory.
pub(crate) fn path() -> Option<PathBuf> {
    let absolute = |name: &str| {
        let dir = PathBuf::from(std::env::var_os(name)?);
        dir.is_absolute().then_some(dir)
    };
    let config = absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")));
    Some(config?.join("ves/contexts.toml"))
}

impl Contexts {
    /// Those of the file; none where there is no file.
    pub(crate) fn read(path: &Path) -> Result<Self, Failure> {
        let failed =
            |e: std::io::Error| Failure::local(&format!("cannot read {}", path.display()), &e);
        let file = match fs::File::open(path) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            file => file.map_err(failed)?,
        };
        let mut text = String::new();
        file.take(MOST).read_to_string(&mut text).map_err(failed)?;
        toml::from_str(&text).map_err(|e| Failure::usage(format!("{}: {e}", path.display())))
    }

    /// Lets the file be this, for its owner alone; whole, or as it was.
    pub(crate) fn write(&self, path: &Path) -> Result<(), Failure> {
        let failed =
            |e: std::io::Error| Failure::local(&format!("cannot write {}", path.display()), &e);
        let text = toml::to_string(self).map_err(|e| failed(std::io::Error::other(e)))?;
        if let Some(dir) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
        }
        // A link of the user's stays a link.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let new = path.with_extension("toml.new");
        let written = || {
            let mut file =
                OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&new, &path)
        };
        written().map_err(failed)
    }

    /// Lets `name` be the one that is meant.
    pub(crate) fn choose(&mut self, name: ContextName) -> Result<(), Failure> {
        if name.as_str() == LOCAL {
            self.current = None;
            return Ok(());
        }
        self.entry(&name)?;
        self.current = Some(name);
        Ok(())
    }

    /// The context of this name.
    pub(crate) fn entry(&self, name: &ContextName) -> Result<&ContextEntry, Failure> {
        self.contexts.get(name).ok_or_else(|| {
            let names: Vec<_> = self.contexts.keys().map(ContextName::as_str).collect();
            let there = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            let name = name.as_str();
            Failure::usage(format!(
                "no context is called {name:?}; beside {LOCAL} there are: {there}"
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use super::*;

    fn entry() -> ContextEntry {
        ContextEntry {
            endpoint: "https://n1:7443".to_owned(),
            ca: "/a/ca.crt".into(),
            cert: Some("/a/me.crt".into()),
            key: Some("/a/me.key".into()),
            token_file: None,
        }
    }

    #[test]
    fn what_is_written_is_read_and_is_the_owners() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("new/ves/contexts.toml");
        assert_eq!(Contexts::read(&path).expect("none"), Contexts::default());
        let mut contexts = Contexts::default();
        contexts.contexts.insert("n1".parse().expect("a name"), entry());
        contexts.choose("n1".parse().expect("a name")).expect("there");
        contexts.write(&path).expect("written");
        assert_eq!(fs::metadata(&path).expect("there").mode() & 0o777, 0o600);
        assert_eq!(Contexts::read(&path).expect("there"), contexts);
        assert!(contexts.choose("n2".parse().expect("a name")).is_err());
        contexts.choose("local".parse().expect("a name")).expect("always");
        assert_eq!(contexts.current, None);
        let link = dir.path().join("contexts.toml");
        symlink(&path, &link).expect("linked");
        contexts.write(&link).expect("written");
        assert!(fs::symlink_metadata(&link).expect("there").is_symlink());
        assert_eq!(Contexts::read(&path).expect("there"), contexts);
    }

    #[test]
    fn what_is_not_understood_is_told() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("contexts.toml");
        for bad in ["[", "what = 1", "[contexts.'a b']", "[contexts.a]\nendpoint = 'x'"] {
            fs::write(&path, bad).expect("written");
            assert!(Contexts::read(&path).is_err(), "{bad}");
        }
        for bad in ["", "a b", "a/b", "-a", ".", &"a".repeat(64)] {
            assert!(bad.parse::<ContextName>().is_err(), "{bad:?}");
        }
    }
}
