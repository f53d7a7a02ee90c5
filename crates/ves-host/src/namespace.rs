//! Namespaces: create, enter, pin.
