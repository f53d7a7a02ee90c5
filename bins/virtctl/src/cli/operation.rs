//! Words of `operation` and its verbs.
//!
//! Never here: what a verb does.

use clap::Subcommand;

use super::list_args::ListArgs;

/// What to do with operations.
#[derive(Debug, Subcommand)]
pub(crate) enum OperationVerb {
    /// Operations, newest first
    List(ListArgs),
    /// One operation and its steps
    Show {
        /// Its id
        id: String,
    },
    /// Ask it to stop
    Cancel {
        /// Its id
        id: String,
    },
    /// Wait until it is done
    Wait {
        /// Its id
        id: String,
    },
}
