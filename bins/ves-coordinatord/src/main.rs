//! The coordinator daemon.

use std::process::ExitCode;

use ves_types::layout::Daemon;

fn main() -> ExitCode {
    ves_daemon::run(Daemon::Coordinator, ves_coordinator::CAPABILITIES, ves_coordinator::build)
}
