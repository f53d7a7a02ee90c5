//! What tests share: clusters, guards, inventory of the host, waiting.

pub mod http;
pub mod stack;
