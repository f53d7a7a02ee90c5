//! The resources daemon.

fn main() {}
