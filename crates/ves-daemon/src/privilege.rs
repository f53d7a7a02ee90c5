//! Giving up capabilities for good.
//!
//! Capabilities belong to a thread and are inherited by the threads it makes, so this must run
//! while the process has one thread.

use caps::{CapSet, Capability, CapsHashSet};

/// Keeps just `keep`: out of the bounding set goes everything else, so that no program this
/// process runs can have it either; ambient and inheritable are emptied. Without capabilities at
/// the start it does nothing.
///
/// # Errors
/// What the kernel refused.
pub fn keep_only(keep: &[Capability]) -> Result<(), caps::errors::CapsError> {
    let have = caps::read(None, CapSet::Permitted)?;
    if have.is_empty() {
        return Ok(());
    }
    let keep: CapsHashSet = keep.iter().copied().filter(|c| have.contains(c)).collect();
    // Where the service manager left just these there is nothing to do, also none of the system
    // calls for it, which its filter may refuse.
    let is = |set, wanted: &CapsHashSet| caps::read(None, set).map(|now| now == *wanted);
    if is(CapSet::Bounding, &keep)?
        && is(CapSet::Permitted, &keep)?
        && is(CapSet::Effective, &keep)?
        && is(CapSet::Inheritable, &CapsHashSet::new())?
        && is(CapSet::Ambient, &CapsHashSet::new())?
    {
        return Ok(());
    }
    if have.contains(&Capability::CAP_SETPCAP) {
        for cap in caps::read(None, CapSet::Bounding)?.difference(&keep) {
            caps::drop(None, CapSet::Bounding, *cap)?;
        }
    }
    caps::clear(None, CapSet::Ambient)?;
    caps::clear(None, CapSet::Inheritable)?;
    caps::set(None, CapSet::Effective, &keep)?;
    caps::set(None, CapSet::Permitted, &keep)
}
