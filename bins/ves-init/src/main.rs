//! Performs a list of init steps and execs.

fn main() {}
