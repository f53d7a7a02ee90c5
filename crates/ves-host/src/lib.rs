//! The only crate that touches the kernel with unsafe code or spawns processes.
