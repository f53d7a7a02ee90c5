//! Desired state, operations, and the public API.
