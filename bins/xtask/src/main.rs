//! The front door: up, down, check, test, bench.

fn main() {}
