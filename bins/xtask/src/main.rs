//! The front door of the repository: up, down, check, test, ci, deb, cluster, lab, bench, tidy.
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
mod check;
mod ci;
mod clients;
mod cluster;
mod deb;
mod down;
mod lab;
mod part;
mod serve;
mod step;
mod task;
mod test;
mod tidy;
mod tool;
mod up;

fn main() -> std::process::ExitCode {
    task::Task::run(clap::Parser::parse())
}
