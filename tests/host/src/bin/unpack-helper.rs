//! The confined unpacker, as the storage daemon's executable has it, for tests that have no daemon.

use std::process::ExitCode;

fn main() -> ExitCode {
    ves_archive::helper(std::env::args_os().skip(1)).unwrap_or(ExitCode::FAILURE)
}
