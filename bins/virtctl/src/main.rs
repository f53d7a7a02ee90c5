//! The command line of Ves: parse → call → render.
//!
//! Owns the grammar vzctl users know, its exit statuses and how answers look. Decides nothing about
//! containers: every verb is one call of the coordinator's public API. Never here: a path of the
//! host that belongs to a container, privilege, or a second way to do what the API does.

mod archive;
mod cli;
mod completion;
mod connect;
mod contexts;
mod ct;
mod destination;
mod endpoint;
mod exit;
mod failure;
mod hint;
mod man;
mod names;
mod operation;
mod output;
mod pages;
mod params;
mod password;
mod progress;
mod refused;
mod report;
mod run;
mod sample;
mod session;
mod spec_update;
mod terminal;
mod unbuilt;
mod usage;
mod value;
mod verbs;

fn main() -> std::process::ExitCode {
    run::run(std::env::args_os())
}
