//! Operations as data: what is stored of one, and for each kind its admission, its stages and its way
//! back. Pure: who carries one out is [`crate::driver`].

pub mod kinds;
pub mod record;
