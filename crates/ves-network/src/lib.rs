//! Interfaces, addresses, routes and the firewall base.
