//! Words of `template` and its verbs.
//!
//! Never here: what a verb does.

use std::path::PathBuf;

use clap::Subcommand;
use ves_types::TemplateName;

use super::list_args::ListArgs;

/// What to do with templates.
#[derive(Debug, Subcommand)]
pub(crate) enum TemplateVerb {
    /// All templates
    List(ListArgs),
    /// Build one from the Debian mirror
    Build {
        /// Its name
        name: TemplateName,
        /// The Debian suite
        #[arg(long)]
        suite: String,
        /// The init system it gets
        #[arg(long, value_parser = ["systemd", "sysvinit"])]
        init: Option<String>,
        /// A further package; may be repeated
        #[arg(long = "package", value_name = "PACKAGE", value_delimiter = ',')]
        packages: Vec<String>,
        /// Change nothing; print the steps that would be done
        #[arg(long)]
        dry_run: bool,
    },
    /// Make one from a tar archive (plain, gzip, xz, zstd), a directory, or "-" for stdin
    Import {
        /// Archive or directory
        source: PathBuf,
        /// Its name; otherwise made from the file's
        #[arg(long)]
        name: Option<TemplateName>,
        /// The SHA-256 the archive must have
        #[arg(long, value_name = "HEX")]
        sha256: Option<String>,
        /// Change nothing; print the steps that would be done
        #[arg(long)]
        dry_run: bool,
    },
    /// Write one to a tar.zst archive
    Export {
        /// Its name
        name: TemplateName,
        /// Where to; "-" is stdout
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Delete one
    #[command(visible_alias = "remove")]
    Delete {
        /// Its name
        name: TemplateName,
        /// Change nothing; print the steps that would be done
        #[arg(long)]
        dry_run: bool,
    },
}
