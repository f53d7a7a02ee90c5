//! Operations as data: what is stored of one, and for each kind its admission, its stages and its way
//! back, and what dashboards are told of them. Pure but for that: who carries one out is [`crate::driver`].

pub mod ends;
pub mod kinds;
pub(crate) mod metrics;
pub mod public;
pub mod record;
