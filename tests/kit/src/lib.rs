//! What tests share: clusters, guards, inventory of the host, waiting.
