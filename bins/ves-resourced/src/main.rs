//! The resources daemon: the service of `ves-resources` on the chassis of `ves-daemon`.

use std::process::ExitCode;

use ves_types::layout::Service;

fn main() -> ExitCode {
    ves_daemon::run(Service::Resources, ves_resources::CAPABILITIES, ves_resources::build)
}
