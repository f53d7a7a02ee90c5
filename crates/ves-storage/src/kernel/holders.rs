//! Who holds devices, in words. Never here: what is done about it.

use std::collections::BTreeMap;

use ves_host::holder;

/// Who holds each of these devices; every one of them has an answer.
pub(super) fn of(devices: impl IntoIterator<Item = u64>) -> BTreeMap<u64, String> {
    let devices = devices.into_iter().collect();
    let found = holder::of_devices(&devices).unwrap_or_else(|error| {
        tracing::warn!(%error, "look for who holds a device");
        BTreeMap::new()
    });
    let words = |device: u64| match found.get(&device).map(Vec::as_slice) {
        None | Some([]) => unseen(device),
        Some([one]) => one.to_string(),
        Some([first, others @ ..]) => format!("{first} and {} more", others.len()),
    };
    devices.into_iter().map(|device| (device, words(device))).collect()
}

/// Of whom nothing is seen: a process of root that shows itself to nobody, or a namespace without any.
fn unseen(device: u64) -> String {
    let number = rustix::fs::minor(device);
    format!("a process that is not seen from here (`fuser -vm /dev/loop{number}` as root names it)")
}
