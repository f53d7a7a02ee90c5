//! Words of the verbs about who may ask from the network: authority, certificates, tokens, contexts.
//!
//! Never here: what a verb does.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use ves_pki::Host;
use ves_types::{GrantRole, HolderName, ProjectId};

use super::list_args::ListArgs;
use crate::contexts::ContextName;

/// Where the authority's files are.
#[derive(Debug, Args)]
pub(crate) struct PkiDir {
    /// The authority's directory
    #[arg(long, value_name = "DIR", default_value = "/etc/ves/pki")]
    pub(crate) pki: PathBuf,
}

/// `node init-ca`.
#[derive(Debug, Args)]
pub(crate) struct InitCaArgs {
    #[command(flatten)]
    pub(crate) dir: PkiDir,
    /// The authority's name [default: the node's]
    #[arg(long)]
    pub(crate) name: Option<HolderName>,
    /// A name or an address by which clients reach this node, beside its host name; may come again
    #[arg(long, value_name = "HOST")]
    pub(crate) san: Vec<Host>,
    /// Only make the certificate of this node's coordinator anew
    #[arg(long, conflicts_with = "name")]
    pub(crate) renew_server: bool,
}

/// What a certificate or a token grants.
#[derive(Debug, Args)]
pub(crate) struct GrantArgs {
    /// What its holder may: admin, operator, tenant, read-only or node
    #[arg(long)]
    pub(crate) role: GrantRole,
    /// The project it is bounded to; may come again
    #[arg(long, value_name = "PROJECT")]
    pub(crate) project: Vec<ProjectId>,
}

/// `node cert`.
#[derive(Debug, Subcommand)]
pub(crate) enum CertVerb {
    /// Issue a client's certificate: NAME.crt, NAME.key and ca.crt
    Issue {
        /// Who is to have it
        name: HolderName,
        #[command(flatten)]
        grant: GrantArgs,
        /// How many days it lasts
        #[arg(long, default_value_t = 365)]
        days: u32,
        /// Where the files are written; nothing there is replaced
        #[arg(long, value_name = "DIR", default_value = ".")]
        out: PathBuf,
        /// Keep a context of this name for it, with --endpoint
        #[arg(long, value_name = "CONTEXT")]
        context: Option<ContextName>,
        #[command(flatten)]
        dir: PkiDir,
    },
    /// What was issued, and what of it was revoked
    List {
        #[command(flatten)]
        list: ListArgs,
        #[command(flatten)]
        dir: PkiDir,
    },
    /// Revoke a certificate; it counts no more within seconds
    Revoke {
        /// Its serial number, or whose: all of that holder
        which: String,
        #[command(flatten)]
        dir: PkiDir,
    },
}

/// `node token`.
#[derive(Debug, Subcommand)]
pub(crate) enum TokenVerb {
    /// Make a token; its secret is printed this once
    Create {
        /// Who is to have it
        name: HolderName,
        #[command(flatten)]
        grant: GrantArgs,
        /// How long it lasts, such as 90d, 12h or 30m [default: for ever]
        #[arg(long, value_name = "TIME", value_parser = expire)]
        expire: Option<std::time::Duration>,
    },
    /// Tokens that there are
    List(ListArgs),
    /// Revoke a token
    Revoke {
        /// Its id, or its holder
        token: String,
    },
}

/// `context`.
#[derive(Debug, Subcommand)]
pub(crate) enum ContextVerb {
    /// Contexts that there are
    List(ListArgs),
    /// Let a context be the one that is asked from now on; `local` is this node's coordinator
    Use {
        /// Its name
        name: ContextName,
    },
}

/// Days, hours or minutes.
fn expire(text: &str) -> Result<std::time::Duration, String> {
    let bad = || "write it as 90d, 12h or 30m, at most 3650d".to_owned();
    let unit = text.chars().last().ok_or_else(bad)?;
    let seconds: u64 = match unit {
        'd' => 86_400,
        'h' => 3600,
        'm' => 60,
        _ => return Err(bad()),
    };
    let count = text.strip_suffix(unit).and_then(|count| count.parse::<u64>().ok());
    let time = count.and_then(|count| count.checked_mul(seconds));
    let time = time.filter(|s| (1..=3650 * 86_400).contains(s));
    time.map(std::time::Duration::from_secs).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        assert_eq!(expire("90d").map(|t| t.as_secs()), Ok(90 * 86_400));
        assert_eq!(expire("12h").map(|t| t.as_secs()), Ok(12 * 3600));
        for bad in ["", "d", "0d", "90", "-1d", "3651d", "99999999999999999999d", "1dd", "1 d", "ä"]
        {
            assert!(expire(bad).is_err(), "{bad:?}");
        }
    }
}
