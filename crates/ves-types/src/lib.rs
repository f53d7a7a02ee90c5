//! The vocabulary of Ves: identities, quantities, names derived from a container id.
