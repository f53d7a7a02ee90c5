//! Limits, and the accounting of what is used.

mod hostile;
mod kernel;
mod support;
mod v2;
