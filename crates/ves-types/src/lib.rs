//! The vocabulary of Ves.
//!
//! Owns the identities, quantities and limits every room speaks of, and the pure derivation of each
//! host name and path from a [`CtId`]. Never here: async, gRPC, file access, clocks, randomness.
//!
//! Words: a *container* (`ct`) runs on a *node*; *template*, *volume*, *snapshot*, *pool*; *interface*,
//! *address*, *route*; *parameter* (UBC), *limit*; *desired*, *observed*, *step*, *plan*, *refusal*,
//! *fault*, *generation*, *epoch*.

#![warn(missing_docs)]

pub mod address;
pub mod capability;
pub mod device;
pub mod feature;
pub mod fence;
pub mod grant;
pub mod id;
pub mod index_list;
pub mod io;
pub mod layout;
pub mod limits;
pub mod phase;
pub mod quantity;
pub mod snapshot_schedule;
pub mod spec;
pub mod ubc;
pub mod victim;

pub use address::{CtAddress, MacAddress};
pub use capability::{Capability, CapabilityChange};
pub use device::{Access, Device, DeviceChange, DeviceId, DeviceName, DevicePattern};
pub use feature::{Feature, FeatureSwitch, Features};
pub use fence::Fence;
pub use grant::{Grant, GrantRole, HolderName, ProjectId};
pub use id::{
    CtId, CtName, Epoch, Generation, Hostname, IdSlot, NodeName, ParseError, SnapshotId,
    SnapshotName, TemplateName,
};
pub use index_list::IndexList;
pub use io::{IoBandwidth, IoPriority, IoRate};
pub use limits::Limits;
pub use phase::{ExitCause, Phase};
pub use quantity::{Bytes, CpuLimit, Limit};
pub use snapshot_schedule::{SnapshotInterval, SnapshotSchedule};
pub use spec::{
    DiskSize, InitArgv, InodeLimit, RestartPolicy, SearchDomain, SpecField, StopTimeout,
};
pub use ubc::{Enforcement, UbcResource, UbcRow, UbcValue};
pub use victim::Victim;
