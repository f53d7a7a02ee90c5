//! Words of `node` and its verbs, built or not.
//!
//! Never here: what a verb does.

use clap::Subcommand;

use super::access::{CertVerb, InitCaArgs, TokenVerb};
use super::list_args::ListArgs;

/// What to do with nodes.
#[derive(Debug, Subcommand)]
pub(crate) enum NodeVerb {
    /// All nodes
    List(ListArgs),
    /// What of the pool is promised, allocated and backed, and what is wrong with it
    Pool,
    /// What a node has, what is promised, and what it can enforce
    Capacity,
    /// Make a certification authority and this node's certificate, for the API from the network
    InitCa(InitCaArgs),
    /// Certificates of clients
    #[command(subcommand)]
    Cert(CertVerb),
    /// Tokens of clients that cannot show a certificate
    #[command(subcommand)]
    Token(TokenVerb),
    /// Take a machine in (not built yet)
    Add {
        /// Its name or address
        node: String,
    },
    /// Move all containers away (not built yet)
    Drain {
        /// Its name
        node: String,
    },
    /// Let containers come again (not built yet)
    Undrain {
        /// Its name
        node: String,
    },
    /// Let a machine go (not built yet)
    Remove {
        /// Its name
        node: String,
    },
}
