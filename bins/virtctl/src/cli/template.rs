//! Words of `template` and its verbs.
//!
//! Never here: what a verb does.

use std::path::PathBuf;

use clap::Subcommand;
use ves_types::{ParseError, TemplateName};

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
    /// Make one from a tar archive, a directory, or "-" for stdin
    ///
    /// Archives are read as GNU tar, bsdtar, LXC, Proxmox and `docker export` write them: plain or compressed by
    /// gzip, bzip2, xz, zstd or lz4. The root file system may be below one directory, such as rootfs/. Holes of
    /// sparse files, hard links, access control lists, capabilities and attributes of users are kept. Device nodes,
    /// whiteouts and what other attributes say are left out and named; what cannot be taken without loss is
    /// refused, all of it at once.
    Import {
        /// Archive or directory
        source: PathBuf,
        /// Its name; otherwise made from the file's
        #[arg(long)]
        name: Option<TemplateName>,
        /// The SHA-256 the archive must have
        #[arg(long, value_name = "HEX")]
        sha256: Option<String>,
        /// Give what belongs to the user or group with the id FROM to TO; may be repeated
        #[arg(long = "map-owner", value_name = "FROM:TO", value_parser = map_owner)]
        map_owners: Vec<(u32, u32)>,
        /// Give what belongs to an id that no container has, above 65534, to 65534 (nobody)
        #[arg(long)]
        squash_owner: bool,
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

fn map_owner(s: &str) -> Result<(u32, u32), ParseError> {
    let ids = s.split_once(':').and_then(|(from, to)| Some((from.parse().ok()?, to.parse().ok()?)));
    ids.ok_or_else(|| ParseError::new("owner", s, "it must be FROM:TO, two numbers"))
}
