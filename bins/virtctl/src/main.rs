//! The command line of Ves.

fn main() {}
