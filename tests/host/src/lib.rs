//! Each real mechanism on this machine's kernel.
