//! The network daemon; with `--teardown` it takes the node's firewall base and settings back.

use std::process::ExitCode;

fn main() -> ExitCode {
    match ves_network::teardown_asked(std::env::args().skip(1)) {
        Some(done) => done,
        None => ves_daemon::run(ves_network::KIND, ves_network::CAPABILITIES, ves_network::build),
    }
}
