//! Performs a list of init steps and execs; monitors what it started.
//!
//! Started by the lifecycle daemon only, with one thread and no state of its own: `monitor CTID` makes
//! a container and stays its parent (the number is for `ps`; the plan comes by stdin; once it is made, a
//! second thread listens to it), `exec` runs a command inside one. What to do comes as data. `starter`
//! starts both where the daemon is in a sandbox.
//!
//! Never here: what is performed, which is in the files beside it.

mod console;
mod exec;
mod framed_conn;
mod monitor;
mod notify;
mod perform;
mod rate_limit;
mod starter;

use std::process::ExitCode;

fn main() -> ExitCode {
    perform::remember_program();
    match std::env::args().nth(1).as_deref() {
        Some("monitor") => monitor::main(),
        Some("exec") => exec::main(),
        Some("starter") => starter::main(),
        _ => ExitCode::from(64),
    }
}
