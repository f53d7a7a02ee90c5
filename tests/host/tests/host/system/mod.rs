//! All daemons together, and what is true of the whole host.

mod bad_input;
mod clients;
mod cycles;
mod damage;
mod deploy;
mod forks;
mod hostile;
mod kit_inventory;
mod languages;
mod lost_volume;
mod main_job;
mod pins;
mod privilege;
mod snapshots;
mod soup;
mod store;
mod strangers;
mod support;
mod survive;
mod telemetry;
mod verbs;
