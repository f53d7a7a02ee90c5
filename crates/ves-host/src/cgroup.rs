//! Control group hierarchies: which there are, and their files.
