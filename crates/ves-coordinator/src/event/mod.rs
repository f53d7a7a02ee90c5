//! What an event is before it is stored: a new one, the outbox in which it waits, and the node's conditions, of whose
//! changes events tell.
//!
//! Never here: when one is published, or how it is stored and kept ([`crate::events`]).

pub mod condition;
pub mod outbox;
pub mod record;
