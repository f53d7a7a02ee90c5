//! Stories that need what only a machine of its own has: Debian's kernel with its control groups,
//! power that can be cut, disks that fail.

mod faults;
mod limits;
mod main_job;
mod nested;
mod power;
mod thin;
mod units;
