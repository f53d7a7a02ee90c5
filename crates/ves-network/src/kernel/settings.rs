//! The node's table and its kernel settings, and how both are taken back.
//!
//! Before a setting is changed for the first time its value is noted in `network/former.json` of the
//! run directory, where [`teardown`] finds it. Nothing of a single container.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use ves_host::file::{read_if_exists, remove_if_exists, write_atomic};
use ves_host::netlink::route::RouteSocket;
use ves_host::nft::{self, NftSocket};
use ves_host::{Attempt, HostError};
use ves_types::layout::Layout;

use crate::plan::Sources;
use crate::plan::node::{
    NodeObserved, Room, Rooms, SOURCES_V4, SOURCES_V6, SPOOFED, Setting, Space, TABLE, script,
};

const NET: &str = "/proc/sys/net";
const FORMER_MAX: u64 = 1 << 20;
/// `RTPROT_RA`.
const PROTOCOL_RA: u8 = 9;

/// Whether this kernel has IPv6.
pub(super) fn has_ipv6() -> bool {
    Path::new("/proc/sys/net/ipv6").is_dir()
}

fn read(path: &str) -> Result<Option<String>, HostError> {
    let path = Path::new(NET).join(path);
    match std::fs::read_to_string(&path) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        other => {
            let text = other.attempt(|| format!("read {}", path.display()))?;
            Ok(Some(text.trim().to_owned()))
        }
    }
}

fn write(path: &str, value: &str) -> Result<(), HostError> {
    let path = Path::new(NET).join(path);
    std::fs::write(&path, value).attempt(|| format!("write {value} to {}", path.display()))
}

/// Writes an IPv6 setting of a link.
pub(super) fn write_link(link: &str, name: &str, value: &str) -> Result<(), HostError> {
    write(&format!("ipv6/conf/{link}/{name}"), value)
}

/// What the node as a whole is.
pub(super) fn observe(nft: &mut NftSocket) -> Result<NodeObserved, HostError> {
    let sets = nft.sets(TABLE)?;
    let on = |value: Option<String>| value.map(|v| v != "0");
    let mut observed = NodeObserved {
        rules: nft.rules(TABLE)?,
        sets: sets.contains(SOURCES_V4)
            && sets.contains(SOURCES_V6)
            && nft.counter(TABLE, SPOOFED)?.is_some(),
        owner: nft.owner(TABLE)?,
        links: Sources::new(),
        sources: Sources::new(),
        forward_v4: on(read(&Setting::ForwardV4.path())?).unwrap_or_default(),
        forward_v6: on(read(&Setting::ForwardV6.path())?),
        learners: BTreeSet::new(),
    };
    if observed.forward_v6 == Some(false) {
        observed.learners = learners()?;
    }
    Ok(observed)
}

/// How much room there is. In a network namespace of its own the kernel shows no neighbours.
pub(super) fn rooms() -> Result<Rooms, HostError> {
    let number = |path: &str| Ok(read(path)?.and_then(|text| text.parse().ok()));
    let mut rooms = Rooms::new();
    for room in Room::ALL {
        let Some(limit) = number(&Setting::Room(room).path())? else { continue };
        let used = match room {
            Room::NeighboursV4 => neighbours("arp_cache")?,
            Room::NeighboursV6 => neighbours("ndisc_cache")?,
            Room::Terminals => number("/proc/sys/kernel/pty/nr")?,
            Room::OwnTerminals => None,
            Room::AsyncEvents => number("/proc/sys/fs/aio-nr")?,
        };
        rooms.insert(room, Space { limit, used });
    }
    Ok(rooms)
}

/// How many entries a neighbour table has: the first number of each line but the title's.
fn neighbours(table: &str) -> Result<Option<u64>, HostError> {
    let text = read(&format!("/proc/net/stat/{table}"))?.unwrap_or_default();
    let first = text.lines().nth(1).and_then(|line| line.split_whitespace().next());
    Ok(first.and_then(|number| u64::from_str_radix(number, 16).ok()))
}

/// Links with a route that a router advertised and that heed advertisements only while the node
/// does not forward.
fn learners() -> Result<BTreeSet<String>, HostError> {
    let mut socket = RouteSocket::open()?;
    let routes = socket.routes(true, None)?;
    let links: BTreeSet<u32> =
        routes.iter().filter(|r| r.protocol == PROTOCOL_RA).filter_map(|r| r.link).collect();
    let mut learners = BTreeSet::new();
    for link in links {
        if let Some(name) = socket.name_of(link)?
            && read(&Setting::AcceptAdvertisements(name.clone()).path())?.as_deref() == Some("1")
        {
            learners.insert(name);
        }
    }
    Ok(learners)
}

fn former_path(layout: &Layout) -> PathBuf {
    layout.run_dir().join("network").join("former.json")
}

fn former(layout: &Layout) -> Result<BTreeMap<String, String>, HostError> {
    let path = former_path(layout);
    let Some(bytes) = read_if_exists(&path, FORMER_MAX)? else { return Ok(BTreeMap::new()) };
    serde_json::from_slice(&bytes)
        .map_err(|_| HostError::parse(path.display().to_string(), &String::from_utf8_lossy(&bytes)))
}

/// Sets the guard's table up. Who owns it gives it up for that, since `nft` has a socket of its own.
pub(super) fn lay(nft: &mut NftSocket, sources: &Sources) -> Result<(), HostError> {
    *nft = NftSocket::open()?;
    nft.make_table(TABLE)?;
    nft::apply(&script(sources))?;
    nft.own_table(TABLE)
}

/// Changes a setting, after noting what it was.
pub(super) fn set(layout: &Layout, setting: &Setting) -> Result<(), HostError> {
    let path = setting.path();
    let mut former = former(layout)?;
    if !former.contains_key(&path) {
        former.insert(path.clone(), read(&path)?.unwrap_or_default());
        let file = former_path(layout);
        let dir = file.parent().unwrap_or_else(|| layout.run_dir());
        std::fs::create_dir_all(dir).attempt(|| format!("make {}", dir.display()))?;
        write_atomic(&file, &serde_json::to_vec(&former).unwrap_or_default())?;
    }
    write(&path, setting.value())
}

/// Takes the node's part back: removes the guard's table and restores every setting that was
/// changed. For when no container of the node has a link any more.
///
/// # Errors
/// [`HostError`] on the first thing that cannot be taken back; what was is.
pub fn teardown(layout: &Layout) -> Result<(), HostError> {
    match NftSocket::open().and_then(|mut nft| nft.remove_table(TABLE)) {
        // Then it was never laid.
        Err(HostError::Lacks { .. }) => {}
        other => other?,
    }
    // Forwarding first: turning it off resets settings of single links.
    let former = former(layout)?;
    let forwarding = [Setting::ForwardV4.path(), Setting::ForwardV6.path()];
    let (first, then): (Vec<_>, Vec<_>) =
        former.iter().partition(|(path, _)| forwarding.contains(path));
    for (path, value) in first.into_iter().chain(then) {
        // A link that was removed meanwhile has no settings.
        if read(path)?.is_some_and(|now| now != *value) {
            write(path, value)?;
        }
    }
    let file = former_path(layout);
    remove_if_exists(&file)?;
    if let Some(dir) = file.parent() {
        // Not ours alone to decide that it is empty.
        std::fs::remove_dir(dir).ok();
    }
    Ok(())
}
