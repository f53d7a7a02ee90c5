//! A coordinator's store as a release leaves it, kept in git for all later ones to upgrade from.
//!
//! A fixture is two files in `tests/fixtures`: the store, and in JSON what that release makes of it:
//! what its public API shows, who has which name and address, which request became which
//! operation, what the kernel held at that moment, and what comes of it when the coordinator goes
//! on, and when the node boots. Before a change of what is stored, and at each release, one is added
//! with
//!
//! ```sh
//! cargo run -p ves-sim --all-features --example keep-store NAME
//! ```
//!
//! run on the code that writes it. Those that are there stay as they are: no later code can make
//! them again, and the program refuses to.

pub mod answers;
mod story;
pub mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use ves_coordinator::operation::record::OpId;
use ves_coordinator::store::embedded::EmbeddedStore;
use ves_coordinator::store::{Key, Kind, Row, all_rows, record};

use crate::Sim;
use crate::sim::{PATIENCE, Past};
use answers::{Answers, Outcome};
use world::World;

/// What is known of a kept store.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Known {
    /// The release that wrote it, or that was next when it was written.
    pub release: String,
    /// The boot it was written in.
    pub boot: String,
    /// How often the coordinator had been started.
    pub starts: u64,
    /// The greatest generation of a container that was gone.
    pub floor: u64,
    /// Names and whose they are.
    pub names: BTreeMap<String, u32>,
    /// Addresses and whose they are.
    pub addresses: BTreeMap<String, u32>,
    /// Id slots that are taken.
    pub slots: BTreeSet<u32>,
    /// Callers' ids of requests and the operations these became.
    pub requests: BTreeMap<String, String>,
    /// What its public API showed.
    pub stored: Answers,
    /// What comes of it when the coordinator goes on.
    pub resumed: Outcome,
    /// What comes of it when the node boots.
    pub booted: Outcome,
    /// What the kernel held.
    pub world: World,
}

/// A kept store.
#[derive(Debug, Clone)]
pub struct Kept {
    /// The bytes of its file.
    pub store: Vec<u8>,
    /// What is known of it.
    pub known: Known,
}

/// Where kept stores are.
pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

impl Kept {
    /// All that are kept.
    ///
    /// # Panics
    /// Where one cannot be read.
    pub fn all() -> Vec<Self> {
        let mut paths: Vec<_> = std::fs::read_dir(directory())
            .expect("kept stores")
            .map(|entry| entry.expect("listed").path())
            .filter(|path| path.extension().is_some_and(|e| e == "zst"))
            .collect();
        paths.sort();
        let read = |path: &PathBuf| {
            let store = std::fs::read(path).expect("read");
            let store = zstd::decode_all(store.as_slice()).expect("compressed by zstd");
            // From store-1.2.3.redb.zst to store-1.2.3.json.
            let known = path.with_extension("").with_extension("json");
            let known = std::fs::read(known).expect("beside its store");
            Self { store, known: serde_json::from_slice(&known).expect("of this form") }
        };
        paths.iter().map(read).collect()
    }

    /// A node with it, in the boot it was written in; `asleep`: where nothing is taken up.
    pub fn resume(&self, asleep: bool) -> Sim {
        let Known { boot, world, stored, .. } = &self.known;
        let past = Past { store: self.store.clone(), boot: boot.clone(), asleep };
        Sim::resumed(past, |sim| world.settle(sim, stored))
    }

    /// The same node after it has booted.
    pub fn boot(&self) -> Sim {
        let Known { world, stored, .. } = &self.known;
        let boot = "a later one".to_owned();
        let past = Past { store: self.store.clone(), boot, asleep: false };
        Sim::resumed(past, |sim| {
            world.settle(sim, stored);
            sim.boot_services();
        })
    }

    /// Its rows.
    pub fn rows(&self) -> Vec<Row> {
        rows(&self.store)
    }
}

fn rows(store: &[u8]) -> Vec<Row> {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("state.redb");
    std::fs::write(&path, store).expect("written");
    all_rows(&EmbeddedStore::open(&path).expect("a store")).expect("read")
}

fn read<T: DeserializeOwned>(key: &Key, bytes: &[u8]) -> T {
    record::read(key, bytes).expect("a record")
}

/// Makes a store of this build and keeps it under a name.
///
/// # Panics
/// Where something is not as the story wants it, or the name is that of one which is there.
pub fn keep(name: &str) -> PathBuf {
    let path = directory().join(format!("store-{name}.redb.zst"));
    assert!(!path.exists(), "{} is there; no later code can make it again", path.display());
    let release = env!("CARGO_PKG_VERSION").to_owned();
    let (store, world) = story::tell();
    let rows = rows(&store);
    story::check(&rows);
    let of = |kind: Kind| rows.iter().filter(move |(key, _)| key.kind == kind);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let holder = |(key, bytes): &Row| (key.text.clone(), text(bytes).parse().expect("an id"));
    let fact = |(key, bytes): &Row| (key.text.clone(), read::<String>(key, bytes));
    let facts: BTreeMap<String, String> = of(Kind::Fact).map(fact).collect();
    let request = |(key, bytes): &Row| (key.text.clone(), read::<OpId>(key, bytes).0);
    let known = Known {
        release,
        boot: facts["boot"].clone(),
        starts: facts["starts"].parse().expect("a number"),
        floor: facts["generation_floor"].parse().expect("a number"),
        names: of(Kind::Name).map(holder).collect(),
        addresses: of(Kind::Address).map(holder).collect(),
        slots: of(Kind::Slot).map(|(key, _)| key.text.parse().expect("a number")).collect(),
        requests: of(Kind::Request).map(request).collect(),
        stored: Answers::default(),
        resumed: Outcome::default(),
        booted: Outcome::default(),
        world,
    };
    let mut kept = Kept { store, known };
    kept.known.stored = answers::stored(&kept.resume(true));
    kept.known.resumed = last(&kept.resume(false), &kept.known.stored);
    kept.known.booted = last(&kept.boot(), &kept.known.stored);
    let store = zstd::encode_all(kept.store.as_slice(), 19).expect("compressed");
    std::fs::write(&path, store).expect("written");
    let value = serde_json::to_value(&kept.known).expect("it has a JSON form");
    let json = path.with_extension("").with_extension("json");
    std::fs::write(json, format!("{}\n", lines(&value, 3, ""))).expect("written");
    path
}

/// The outcome that stays for a while.
fn last(sim: &Sim, stored: &Answers) -> Outcome {
    let until = Instant::now() + PATIENCE;
    let mut outcome = answers::outcome(sim, stored);
    let mut since = Instant::now();
    while outcome.works() || since.elapsed() < Duration::from_secs(2) {
        assert!(Instant::now() < until, "nobody comes to an end");
        sim.pause(50);
        let now = answers::outcome(sim, stored);
        if now != outcome {
            (outcome, since) = (now, Instant::now());
        }
    }
    outcome
}

/// JSON with a line for each thing of the first `depth` levels, so that differences can be read.
fn lines(value: &Value, depth: usize, indent: &str) -> String {
    let inner = format!("{indent} ");
    let (open, all, close): (_, Vec<String>, _) = match value {
        Value::Object(map) if depth > 0 && !map.is_empty() => {
            let one = |(k, v)| format!("{inner}\"{k}\": {}", lines(v, depth - 1, &inner));
            ('{', map.iter().map(one).collect(), '}')
        }
        Value::Array(list) if depth > 0 && !list.is_empty() => {
            let one = |v| format!("{inner}{}", lines(v, depth - 1, &inner));
            ('[', list.iter().map(one).collect(), ']')
        }
        other => return other.to_string(),
    };
    format!("{open}\n{}\n{indent}{close}", all.join(",\n"))
}
