//! All daemons in one process with fake hosts.
