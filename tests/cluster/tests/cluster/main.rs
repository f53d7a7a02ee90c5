//! Stories on several nodes that need no more of them than this kernel has: told on native nodes, and
//! on virtual machines where `cargo xtask test --all` says so.

mod build;
mod compromised;
mod etcd;
mod main_job;
mod packages;
mod reboot;
mod routers;
mod upgrade;
