//! Stories on Debian 13 nodes in virtual machines, one program for all.

mod build;
mod faults;
mod limits;
mod main_job;
mod power;
mod reboot;
mod units;
mod upgrade;
