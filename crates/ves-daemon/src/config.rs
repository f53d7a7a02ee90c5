//! Configuration: one TOML file a daemon, read and checked whole before a socket is bound.
//!
//! `[telemetry]` is the same for all; `[service]` is the service's own. Unknown keys are errors.

use std::fmt::Debug;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;

/// A service's own section.
pub trait ServiceConfig: DeserializeOwned + Default + Debug {
    /// Checks what types cannot say.
    fn validate(&self) -> Result<(), String>;
}

/// The `[telemetry]` section.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Telemetry {
    /// Where OTLP over gRPC goes, such as `http://127.0.0.1:4317` or `unix:/run/otel.sock`; none:
    /// nowhere. The environment's `OTEL_EXPORTER_OTLP_ENDPOINT` is used where this is absent.
    pub otlp_endpoint: Option<String>,
    /// Which events are logged, in `tracing` filter syntax; `VES_LOG` overrides it.
    pub log: String,
    /// How they are written to standard error.
    pub log_format: LogFormat,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self { otlp_endpoint: None, log: "info".to_owned(), log_format: LogFormat::Text }
    }
}

/// How events are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// A line for people.
    Text,
    /// A JSON object a line.
    Json,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, bound = "C: ServiceConfig")]
struct Sections<C> {
    #[serde(default)]
    telemetry: Telemetry,
    #[serde(default)]
    service: C,
}

/// What is wrong with a configuration file.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
    /// It is no TOML, or has keys or values that mean nothing.
    #[error("{}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Line, column and reason.
        #[source]
        source: toml::de::Error,
    },
    /// Its values do not go together.
    #[error("{}: {why}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// One sentence.
        why: String,
    },
}

/// Reads a file; where there is none and it was not asked for by name, all defaults.
pub(crate) fn read<C: ServiceConfig>(
    path: &Path,
    required: bool,
) -> Result<(Telemetry, C), ConfigError> {
    let text = match std::fs::read_to_string(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && !required => String::new(),
        Err(source) => return Err(ConfigError::Read { path: path.to_owned(), source }),
        Ok(text) => text,
    };
    let Sections { telemetry, service } = toml::from_str::<Sections<C>>(&text)
        .map_err(|source| ConfigError::Parse { path: path.to_owned(), source })?;
    service.validate().map_err(|why| ConfigError::Invalid { path: path.to_owned(), why })?;
    Ok((telemetry, service))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Own {
        size: u32,
    }
    impl ServiceConfig for Own {
        fn validate(&self) -> Result<(), String> {
            if self.size > 9 { Err("size must be at most 9".to_owned()) } else { Ok(()) }
        }
    }

    fn parse(text: &str) -> Result<u32, ConfigError> {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("c.toml");
        std::fs::write(&path, text).expect("written");
        read::<Own>(&path, true).map(|(_, own)| own.size)
    }

    #[test]
    fn reads_and_refuses() {
        assert_eq!(parse("").expect("empty is all defaults"), 0);
        assert_eq!(parse("[service]\nsize = 3\n[telemetry]\nlog = 'debug'").expect("valid"), 3);
        assert!(matches!(parse("[service]\nsize = 10"), Err(ConfigError::Invalid { .. })));
        for bad in ["[service]\nsise = 3", "[services]", "size", "[service]\nsize = 'x'"] {
            assert!(matches!(parse(bad), Err(ConfigError::Parse { .. })), "{bad}");
        }
        let absent = Path::new("/nonexistent/ves.toml");
        assert!(matches!(read::<Own>(absent, true), Err(ConfigError::Read { .. })));
        assert!(read::<Own>(absent, false).is_ok());
    }
}
