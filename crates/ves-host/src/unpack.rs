//! Unpacks archives nobody trusts, confined to one mounted file system.
