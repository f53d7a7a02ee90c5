//! Each real mechanism on this machine's kernel, one program for all, in rooms by what they use of the
//! machine. Never here: what could be decided on a plan, or by fake hosts in `tests/sim`.
#![allow(
    clippy::disallowed_methods,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "tests run programs, wait with deadlines, and say what they saw"
)]

mod lifecycle;
mod network;
mod resources;
mod storage;
mod system;
