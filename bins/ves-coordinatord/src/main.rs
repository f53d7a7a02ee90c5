//! The coordinator daemon.

fn main() {}
