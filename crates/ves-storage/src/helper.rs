//! What the daemon's executable does besides serving: the confined unpacker, the
//! builder of templates, and `--detach-pool`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use ves_daemon::complain;
use ves_host::mount::volumes::Volumes;
use ves_types::layout::{Daemon, Layout};

use crate::error::Error;
use crate::kernel::builder;
use crate::kernel::image::pool::Place;

/// Does what the arguments (with the program's name) ask for, or answers `None` where they ask for
/// the daemon. Must be called first in `main`, while there is one thread.
///
/// `--detach-pool [--run-dir DIR] [--state-dir DIR]` takes the mount namespace of volumes away, and the
/// pool's mount and loop device; it keeps all data, and fails while a volume is attached.
pub fn dispatch(args: impl IntoIterator<Item = OsString>) -> Option<ExitCode> {
    let args: Vec<OsString> = args.into_iter().skip(1).collect();
    if let Some(code) = ves_archive::helper(args.iter().cloned()) {
        return Some(code);
    }
    if args.first().is_some_and(|a| a == builder::BUILDER) {
        return Some(builder::serve());
    }
    if args.first().is_none_or(|a| a != "--detach-pool") {
        return None;
    }
    let (mut run, mut state) = (PathBuf::from("/run/ves"), PathBuf::from("/var/lib/ves"));
    let mut rest = args.into_iter().skip(1);
    while let Some(option) = rest.next() {
        match (option.to_str(), rest.next()) {
            (Some("--run-dir"), Some(dir)) => run = dir.into(),
            (Some("--state-dir"), Some(dir)) => state = dir.into(),
            _ => {
                return Some(complain(
                    Daemon::Storage,
                    "usage: --detach-pool [--run-dir DIR] [--state-dir DIR]",
                    2,
                ));
            }
        }
    }
    let layout = Layout::new(run, state);
    // Whoever holds the pool does not hold the namespace.
    let ended = Volumes::new(layout.volumes_dir()).end().map_err(Error::from);
    let detached = Place::new(&layout).detach();
    Some(match ended.and(detached) {
        Ok(_) => ExitCode::SUCCESS,
        Err(e) => complain(Daemon::Storage, &ves_proto::fault::chain(&e), 1),
    })
}
