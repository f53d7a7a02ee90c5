//! Which coordinator is meant, and as whom it is asked.
//!
//! ```text
//! --socket, VES_SOCKET  >  --endpoint  >  VES_CONTEXT  >  `context use`  >  this node's socket
//! ```
//!
//! Never here: a connection.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use ves_daemon::tls::Remote;
use ves_proto::fault::chain;
use ves_types::layout::{Daemon, Layout};

use crate::cli::Global;
use crate::contexts::{self, ContextEntry, Contexts, LOCAL};
use crate::failure::Failure;

/// The most bytes of a file with a token.
const TOKEN: u64 = 4096;

/// A coordinator.
#[derive(Debug, Clone)]
pub(crate) enum Endpoint {
    /// This node's, by its socket.
    Socket(PathBuf),
    /// One in the network.
    Network(Box<Remote>),
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Socket(path) => path.display().fmt(f),
            Self::Network(remote) => remote.endpoint().fmt(f),
        }
    }
}

/// The one that is meant.
pub(crate) fn chosen(global: &Global) -> Result<Endpoint, Failure> {
    let Global { socket, endpoint, cert, key, ca, token_file, .. } = global;
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    if let Some(endpoint) = given(endpoint).filter(|e| e.contains("://") && !e.starts_with("unix:"))
    {
        let ca = ca.clone().ok_or_else(|| {
            Failure::usage("--endpoint needs --ca FILE: the authority of the node's certificate")
        })?;
        let entry = ContextEntry {
            endpoint,
            ca,
            cert: cert.clone(),
            key: key.clone(),
            token_file: token_file.clone(),
        };
        return network(&entry);
    }
    if cert.is_some() || key.is_some() || ca.is_some() || token_file.is_some() {
        let why = "--cert, --key, --ca and --token-file go with --endpoint https://HOST:PORT";
        return Err(Failure::usage(why));
    }
    if let Some(path) = given(endpoint).or_else(|| given(socket)) {
        let path = path.strip_prefix("unix:").unwrap_or(&path);
        return Ok(Endpoint::Socket(PathBuf::from(path.strip_prefix("//").unwrap_or(path))));
    }
    let local = Endpoint::Socket(Layout::default().socket(Daemon::Coordinator));
    let Some(file) = contexts::path() else { return Ok(local) };
    let named = std::env::var("VES_CONTEXT").ok().filter(|name| !name.is_empty());
    let known = Contexts::read(&file)?;
    let name = match named {
        Some(name) => Some(name.parse().map_err(|e| Failure::usage(format!("VES_CONTEXT: {e}")))?),
        None => known.current.clone(),
    };
    match name {
        Some(name) if name.as_str() != LOCAL => network(known.entry(&name)?),
        _ => Ok(local),
    }
}

fn network(entry: &ContextEntry) -> Result<Endpoint, Failure> {
    let ContextEntry { endpoint, ca, cert, key, token_file } = entry;
    let certificate = match (cert, key, token_file) {
        (Some(cert), Some(key), None) => Some((cert.as_path(), key.as_path())),
        (None, None, Some(_)) => None,
        (Some(_), None, None) | (None, Some(_), None) => {
            return Err(Failure::usage("a certificate and its key go together: --cert and --key"));
        }
        (None, None, None) => {
            let why = "who asks over the network shows a certificate (--cert and --key) or brings a \
                       token (--token-file)";
            return Err(Failure::usage(why));
        }
        (_, _, Some(_)) => {
            return Err(Failure::usage("show a certificate or bring a token, not both"));
        }
    };
    let token = token_file.as_deref().map(token).transpose()?;
    let remote = Remote::new(endpoint, ca, certificate, token.as_deref());
    let remote = remote.map_err(|e| Failure::usage(chain(&e)))?;
    Ok(Endpoint::Network(Box::new(remote)))
}

fn token(path: &Path) -> Result<String, Failure> {
    let failed = |e: std::io::Error| Failure::local(&format!("cannot read {}", path.display()), &e);
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(TOKEN).read_to_string(&mut text).map_err(failed)?;
    match text.trim() {
        "" => Err(Failure::usage(format!("{} holds no token", path.display()))),
        token => Ok(token.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::Cli;

    fn of(options: &str) -> Result<String, String> {
        let line = format!("virtctl list {options}");
        let cli = Cli::try_parse_from(line.split_whitespace()).map_err(|e| e.to_string())?;
        match chosen(&cli.global) {
            Ok(Endpoint::Socket(path)) => Ok(path.display().to_string()),
            Ok(Endpoint::Network(remote)) => Ok(remote.endpoint()),
            Err(Failure::Usage(why)) => Err(why),
            Err(other) => Err(format!("{other:?}")),
        }
    }

    #[test]
    fn sockets_and_what_the_network_needs() {
        for path in
            ["--socket /a/b", "--endpoint /a/b", "--endpoint unix:/a/b", "--socket unix:///a/b"]
        {
            assert_eq!(of(path).as_deref(), Ok("/a/b"), "{path}");
        }
        for (line, word) in [
            ("--endpoint https://n1", "--ca"),
            ("--endpoint https://n1 --ca /a", "--token-file"),
            ("--endpoint https://n1 --ca /a --cert /b", "together"),
            ("--endpoint https://n1 --ca /a --cert /b --key /c --token-file /d", "not both"),
            ("--endpoint https://n1 --ca /nonexistent --cert /b --key /c", "/nonexistent"),
            ("--endpoint https://n1 --ca /a --token-file /nonexistent", "/nonexistent"),
            ("--socket /a --cert /b --key /c", "go with --endpoint"),
        ] {
            let why = of(line).expect_err(line);
            assert!(why.contains(word), "{line}: {why}");
        }
    }
}
