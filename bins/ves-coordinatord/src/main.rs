//! The coordinator daemon.

use std::process::ExitCode;

use ves_types::layout::Service;

fn main() -> ExitCode {
    ves_daemon::run(Service::Coordinator, ves_coordinator::CAPABILITIES, ves_coordinator::build)
}
