//! The chassis every daemon shares: configuration, telemetry, socket, peer check, health, signals.
