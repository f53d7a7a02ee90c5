//! The lifecycle daemon.

fn main() {}
