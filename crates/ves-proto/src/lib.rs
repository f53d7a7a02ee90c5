//! Generated gRPC code, its conversions to the vocabulary, and the fault codec.
