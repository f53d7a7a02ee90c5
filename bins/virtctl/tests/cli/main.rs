//! The real binary against a fake coordinator: what is sent, what is printed, what it ends with.
//!
//! Never here: a real coordinator, or privilege.

mod change;
mod failure;
mod fake;
mod help;
mod program;
mod retry;
mod session;
mod show;
mod template;
mod terminal;
mod trace;
