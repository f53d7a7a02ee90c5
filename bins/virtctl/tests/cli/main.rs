//! The real binary against a coordinator: what is sent, what is printed, what it ends with. Mostly against one
//! that answers what a test tells it to; in `real`, against the real one on a node in memory.
//!
//! Never here: privilege.

mod access;
mod change;
mod failure;
mod fake;
mod help;
mod program;
mod real;
mod retry;
mod session;
mod show;
mod template;
mod terminal;
mod trace;
