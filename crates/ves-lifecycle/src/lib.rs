//! Namespaces, init, exec sessions and consoles.
