//! Pools, templates and volumes.
