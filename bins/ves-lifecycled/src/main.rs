//! The lifecycle daemon.

use std::process::ExitCode;

fn main() -> ExitCode {
    ves_daemon::run(ves_lifecycle::KIND, ves_lifecycle::CAPABILITIES, ves_lifecycle::build)
}
