//! The wire: generated gRPC code, its conversions to the vocabulary, and the fault codec.
//!
//! Owns every translation between messages and [`ves_types`]; a conversion destructures all fields
//! of what it reads, so that a new field breaks the build until somebody decides about it. Never
//! here: decisions, I/O, or a service's own types.

#![warn(missing_docs)]

pub mod convert;
pub mod fault;
pub mod public;

pub use fault::{Fault, Reason};

/// The compiled file descriptors of all of `proto/`, for reflection and for policy tests.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

macro_rules! package {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[allow(
            missing_docs,
            unreachable_pub,
            unused_qualifications,
            missing_debug_implementations,
            clippy::all,
            clippy::disallowed_methods,
            clippy::cast_possible_truncation,
            clippy::cast_possible_wrap,
            clippy::cast_sign_loss,
            clippy::allow_attributes_without_reason,
            reason = "generated code; its documentation is in proto/"
        )]
        pub mod $name {
            #[doc(hidden)]
            pub mod v1 {
                include!(concat!(env!("OUT_DIR"), "/ves.", stringify!($name), ".v1.rs"));
            }
            pub use v1::*;
        }
    };
}

/// The generated packages, named as the protobuf packages are.
pub mod ves {
    package!(
        /// The public API.
        api
    );
    package!(
        /// Values several services speak of.
        common
    );
    package!(
        /// Volumes and templates.
        storage
    );
    package!(
        /// Links, addresses, routes.
        network
    );
    package!(
        /// Limits and accounting.
        resources
    );
    package!(
        /// Processes.
        lifecycle
    );
}

pub use ves::{api, common, lifecycle, network, resources, storage};
