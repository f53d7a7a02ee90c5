//! Makes containers and monitors them; runs commands inside.
//!
//! Started by the lifecycle daemon only, with one thread and no state of its own: `monitor CTID DIR` makes
//! a container and stays its parent (what it should be comes by stdin; once it is made, a second thread
//! listens to it), `exec DIR` runs a command inside one, `views DIR` looks after what containers see in place
//! of the node's; DIR is where the daemons have their sockets.
//! `starter` starts both where the daemon is in a sandbox. What is asked for is a container and a
//! specification; the steps are planned here, from these.
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
mod views;

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    perform::remember_program();
    let args: Vec<_> = std::env::args().skip(1).collect();
    let words: Vec<_> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["monitor", ct, dir] => monitor::main(ct, Path::new(dir)),
        ["exec", dir] => exec::main(Path::new(dir)),
        ["views", dir] => views::main(Path::new(dir)),
        ["starter"] => starter::main(),
        _ => ExitCode::from(64),
    }
}
