//! The steps that turn a fresh process into a container's init, and their performance.
