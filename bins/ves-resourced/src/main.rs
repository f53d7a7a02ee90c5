//! The resources daemon: the service of `ves-resources` on the chassis of `ves-daemon`.

use std::process::ExitCode;

use ves_types::layout::Daemon;

fn main() -> ExitCode {
    let log = ves_resources::kernel_log();
    ves_daemon::run(Daemon::Resources, ves_resources::CAPABILITIES, |config, layout| {
        ves_resources::build(config, layout, log)
    })
}
