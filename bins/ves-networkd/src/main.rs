//! The network daemon.

fn main() {}
