//! The storage daemon.

use std::process::ExitCode;

use ves_types::layout::Daemon;

fn main() -> ExitCode {
    // The unpacker must be confined while there is one thread, before anything else.
    ves_storage::dispatch(std::env::args_os()).unwrap_or_else(|| {
        ves_daemon::run(Daemon::Storage, ves_storage::CAPABILITIES, ves_storage::build)
    })
}
