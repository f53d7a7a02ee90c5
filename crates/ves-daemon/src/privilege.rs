//! Giving up capabilities for good.
//!
//! Capabilities belong to a thread and are inherited by the threads it makes, so this must run
//! while the process has one thread.

use caps::{CapSet, Capability, CapsHashSet};

/// Keeps just `keep`: out of the bounding set goes everything else, so that no program this
/// process runs can have it either, and none is inherited by one. Without capabilities at the start
/// it does nothing.
pub fn keep_only(keep: &[Capability]) -> Result<(), caps::errors::CapsError> {
    let have = caps::read(None, CapSet::Permitted)?;
    if have.is_empty() {
        return Ok(());
    }
    let keep: CapsHashSet = keep.iter().copied().filter(|c| have.contains(c)).collect();
    caps::clear(None, CapSet::Ambient)?;
    // Where the service manager left just these, its filter may refuse the system call that changes
    // them. What it left inheritable stays so and gives nothing: a program would have to ask for it
    // by its file, and could not have more than this process.
    let is_right = |set| caps::read(None, set).map(|now| now == keep);
    if is_right(CapSet::Bounding)? && is_right(CapSet::Permitted)? && is_right(CapSet::Effective)? {
        return Ok(());
    }
    if have.contains(&Capability::CAP_SETPCAP) {
        for cap in caps::read(None, CapSet::Bounding)?.difference(&keep) {
            caps::drop(None, CapSet::Bounding, *cap)?;
        }
    }
    caps::clear(None, CapSet::Inheritable)?;
    caps::set(None, CapSet::Effective, &keep)?;
    caps::set(None, CapSet::Permitted, &keep)
}
