//! One container: what is kept about it, what it should be, what it is, and the way from the one to the
//! other. Pure, but for the lock of the cache.

pub mod cache;
pub mod defaults;
pub mod given;
pub mod meta;
pub mod observed;
pub mod plan;
pub mod record;
pub mod refusal;
pub mod retry;
pub mod schedule;
pub mod spec;
pub mod state;
pub mod step;
