//! What a container's resources are limited to.
//!
//! Never here: what a node makes of it, and how it reads on the wire.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::index_list::IndexList;
use crate::io::{IoBandwidth, IoPriority, IoRate};
use crate::quantity::{Bytes, CpuLimit, Limit};
use crate::ubc::{UbcResource, UbcValue};

/// Limits. UBC parameters that are not set are absent. Stored as they are here: a field that is added
/// needs a default.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Limits {
    /// UBC parameters.
    pub ubc: BTreeMap<UbcResource, UbcValue>,
    /// Processor time.
    pub cpu: Option<CpuLimit>,
    /// Processors.
    pub cpus: Option<u32>,
    /// Weight, 8 to 500000.
    pub cpu_units: Option<u32>,
    /// Which processors; `cpus` of them. None: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_mask: Option<IndexList>,
    /// Which memory nodes; none: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_mask: Option<IndexList>,
    /// Bytes a second it may read from its disk, and write to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io_bps: Option<IoBandwidth>,
    /// Requests a second, of either.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io_iops: Option<IoRate>,
    /// Weight of its disk traffic; none: [`IoPriority::DEFAULT`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io_priority: Option<IoPriority>,
}

impl Limits {
    /// Whether it bounds traffic with the disk, which takes knowing the device.
    pub const fn bound_io(&self) -> bool {
        self.io_bps.is_some() || self.io_iops.is_some()
    }

    /// The limit of `resource`, unlimited where it is not set.
    pub fn limit(&self, resource: UbcResource) -> Limit {
        self.ubc.get(&resource).map_or(Limit::Unlimited, |v| v.limit)
    }

    /// The limit of a parameter that counts pages, in bytes.
    pub fn limit_bytes(&self, resource: UbcResource) -> Option<Bytes> {
        self.limit(resource).max().map(|pages| Bytes(pages.saturating_mul(Bytes::PAGE)))
    }
}
