//! The resources daemon: the service of `ves-resources` on the chassis of `ves-daemon`.

use std::process::ExitCode;

use ves_types::layout::Daemon;

fn main() -> ExitCode {
    ves_daemon::run(Daemon::Resources, ves_resources::CAPABILITIES, ves_resources::build)
}
