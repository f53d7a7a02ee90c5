//! Links, addresses, routes and the guard against false sources.

mod daemon;
mod guard;
mod hostile;
mod node;
mod support;
mod venet;

pub(crate) use hostile::many_names;
