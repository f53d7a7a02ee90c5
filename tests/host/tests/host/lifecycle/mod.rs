//! Processes of containers: their init, commands inside, what they may try.

mod adapt;
mod daemon;
mod devices;
mod distributions;
mod exec;
mod features;
mod hostile;
mod nested;
mod start;
mod starter;
mod strays;
mod support;
mod terms;
mod unit_namespaces;
mod views;
