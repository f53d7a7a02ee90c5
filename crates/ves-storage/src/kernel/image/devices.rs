//! Which loop device shows which image, without asking all of them at each look.
//!
//! What is remembered is believed only as far as it harms nobody. That a device shows an image is
//! checked with the kernel before it is answered. That none does is answered from memory for devices
//! which are attached and as large as they were; each that is new, or has another size, is asked. So a
//! device taken away or put there behind our back is seen, and a look at one container costs the same
//! however many there are. One case is not: a device of ours that somebody gave by hand, between two
//! looks, to another image of the same size. Before an image is deleted all are therefore asked.
//!
//! After a restart nothing is remembered, and the first look asks each attached device once.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ves_host::HostError;
use ves_host::loopdev::{self, Attached, FileId};
use ves_types::CtId;

#[derive(Debug, Default)]
struct Known {
    of: HashMap<CtId, u32>,
    /// What an attached device shows, and its size in KiB when it was asked.
    shows: BTreeMap<u32, (u64, FileId)>,
}

/// The loop devices, as they were last seen.
#[derive(Debug, Default)]
pub(super) struct Devices(Mutex<Known>);

/// Which devices were said to show each file, a moment ago; what one of them shows may have changed since
/// it was asked.
pub(super) type Snapshot = HashMap<FileId, Vec<u32>>;

impl Devices {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What each attached device shows; those that are remembered are not asked again.
    pub(super) fn all(&self) -> Result<Snapshot, HostError> {
        let mut known = self.known();
        let mut shows = BTreeMap::new();
        for (number, size) in loopdev::attached()? {
            let seen = match known.shows.get(&number).filter(|(then, _)| *then == size) {
                Some((_, file)) => Some(*file),
                None => loopdev::backing(number)?,
            };
            if let Some(file) = seen {
                shows.insert(number, (size, file));
            }
        }
        known.shows = shows;
        let mut all = Snapshot::new();
        for (number, (_, file)) in &known.shows {
            all.entry(*file).or_default().push(*number);
        }
        Ok(all)
    }

    /// The device that shows a container's image. `all` is what [`Self::all`] has just answered, where
    /// that is at hand.
    pub(super) fn find(
        &self,
        ct: CtId,
        image: FileId,
        all: Option<&Snapshot>,
    ) -> Result<Option<Attached>, HostError> {
        let last = self.known().of.get(&ct).copied();
        if let Some(device) = last.map(|n| showing(n, image)).transpose()?.flatten() {
            return Ok(Some(device));
        }
        let numbers = match all {
            Some(all) => all.get(&image).cloned(),
            None => self.all()?.remove(&image),
        };
        for number in numbers.into_iter().flatten() {
            if let Some(device) = showing(number, image)? {
                self.known().of.insert(ct, number);
                return Ok(Some(device));
            }
            // It has another file by now, and is asked when all are next looked at.
            self.known().shows.remove(&number);
        }
        self.known().of.remove(&ct);
        Ok(None)
    }

    /// A device that shows an image, if any does; all are asked.
    pub(super) fn shown(&self, image: FileId) -> Result<Option<u32>, HostError> {
        self.known().shows.clear();
        Ok(self.all()?.get(&image).and_then(|numbers| numbers.first().copied()))
    }

    /// A device now shows the container's image.
    pub(super) fn attached(&self, ct: CtId, number: u32) {
        let mut known = self.known();
        known.of.insert(ct, number);
        known.shows.remove(&number);
    }

    /// A device shows nothing any more.
    pub(super) fn detached(&self, number: u32) {
        let mut known = self.known();
        known.of.retain(|_, n| *n != number);
        known.shows.remove(&number);
    }
}

/// A device, if it shows this file.
fn showing(number: u32, file: FileId) -> Result<Option<Attached>, HostError> {
    Ok(loopdev::look(number)?.filter(|device| device.file == file))
}
