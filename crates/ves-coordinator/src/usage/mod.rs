//! What containers have used since they were created, over all their restarts.
//!
//! The kernel counts for as long as a control group or a link exists; a restart makes both anew. What was counted
//! by those that are gone is kept here, so that a bill can be made of differences:
//!
//! ```text
//!  each look of an operation ─┐
//!  each question of a client ─┼─ reading ─ ledger ── fold (accrued, pure) ── base + last
//!  each interval ─────────────┤                │
//!  the answer to RemoveLimits ┘                └─ stored: what changed at each interval; with the commit that
//!                                                 ends the operation, what ended
//! ```
//!
//! In reading order: [`accrued`], [`reading`]; then [`crate::ledger`], `reconcile/usage.rs`, [`crate::last_words`]. Never
//! here: what a container uses just now, which services tell and nobody keeps.

pub mod accrued;
pub mod reading;
