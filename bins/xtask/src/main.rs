//! The front door of the repository: up, down, check, test, bench, tidy.
//!
//! Owns what a person or a CI machine runs. Nothing here is installed on a node, and no daemon
//! depends on it.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a command line tool talks to a terminal and runs cargo, apt-get and the like"
)]

mod bench;
mod down;
mod up;

use std::process::ExitCode;

/// Builds, runs and checks Ves.
#[derive(Debug, clap::Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Task {
    /// Bring Ves up here: five daemons, a Debian template, container 101 with a web server
    Up(up::Args),
    /// Take away everything `up` made and prove that nothing is left
    Down(down::Args),
    /// Measure start latency, create time and hop cost, and print ratios
    Bench(bench::Args),
}

fn main() -> ExitCode {
    let done = match clap::Parser::parse() {
        Task::Up(args) => up::run(&args),
        Task::Down(args) => down::run(&args),
        Task::Bench(args) => bench::run(&args),
    };
    done.map_or_else(|e| report(&e), |()| ExitCode::SUCCESS)
}

fn report(error: &anyhow::Error) -> ExitCode {
    eprintln!("error: {error:#}");
    ExitCode::FAILURE
}
