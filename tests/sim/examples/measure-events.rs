//! What events cost that are kept: `measure-events [EVENTS]`.
//!
//! As many as are asked for are stored in a file, a few one by one and the others as many at once as the coordinator
//! stores at most; then a coordinator on that file is asked for pages of them. Pages are of a caller in this process,
//! so that they are made and sent, and taken, on the same processors.

use std::error::Error;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ves_coordinator::clock::SystemClock;
use ves_coordinator::event::record::{NewEvent, Type};
use ves_coordinator::store::embedded::EmbeddedStore;
use ves_coordinator::store::state::State;
use ves_proto::api;
use ves_proto::api::event_service_client::EventServiceClient;
use ves_sim::Sim;
use ves_sim::sim::Past;

/// How many are stored one by one.
const ALONE: usize = 200;
/// How many are stored at once.
const TOGETHER: usize = 256;
/// How many containers they are of; the last has one event alone.
const CONTAINERS: usize = 1000;
/// How often a page is asked for.
const TIMES: u32 = 10;

type Failed = Box<dyn Error>;

fn main() -> Result<(), Failed> {
    let count: usize = std::env::args().nth(1).map_or(Ok(100_000), |n| n.parse())?;
    let mut out = std::io::stdout();
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("state.redb");
    fill(&path, count, &mut out)?;
    let before = resident()?;
    let state = opened(&path)?;
    let after = resident()?;
    writeln!(out, "opened: {} KiB more are resident", after.saturating_sub(before))?;
    drop(state);
    let past = Past { store: std::fs::read(&path)?, boot: "another".to_owned(), asleep: true };
    let sim = Sim::resumed(past, |_| {});
    let rare = format!("target=\"containers/{}\"", 1000 + CONTAINERS);
    for (what, size, filter, all) in [
        ("the newest 100", 100, String::new(), false),
        ("the newest 1000", 1000, String::new(), false),
        ("the newest 100 of one container", 100, "target=\"containers/1000\"".to_owned(), false),
        ("all pages for the oldest event, by its container", 100, rare, true),
        ("all of them, in pages of 1000", 1000, String::new(), true),
    ] {
        let before = resident()?;
        let (mut pages, mut events) = (0, 0);
        let begun = Instant::now();
        let times = if all { 1 } else { TIMES };
        for _ in 0..times {
            let (seen, found) = list(&sim, size, &filter, all)?;
            pages += seen;
            events += found;
        }
        let took = begun.elapsed() / times;
        let more = resident()?.saturating_sub(before);
        writeln!(
            out,
            "{what}: {took:.1?}, {} pages, {} events, {more} KiB more are resident",
            pages / times,
            events / times
        )?;
    }
    Ok(())
}

fn opened(path: &Path) -> Result<State, Failed> {
    let (store, node) = (EmbeddedStore::open(path)?, "sim".parse()?);
    Ok(State::open(Box::new(store), &node, Arc::new(SystemClock))?)
}

/// Stores so many events.
fn fill(path: &Path, count: usize, out: &mut impl Write) -> Result<(), Failed> {
    let state = opened(path)?;
    let event = |n: usize| {
        // The first is of a container that has no other.
        let ct = if n == 0 { 1000 + CONTAINERS } else { 1000 + n % CONTAINERS };
        NewEvent::to(Type::Stopped, format!("containers/{ct}"))
            .by(api::Actor { id: "certificate:panel".to_owned(), ..api::Actor::default() })
            .in_operation("operations/019ab4a0-0000-7000-8000-000000000001".to_owned())
            .fact("cause", "STOPPED")
    };
    let store = |events: std::ops::Range<usize>| {
        state.transact(|_, change| {
            change.events = events.map(event).collect();
            Ok(())
        })
    };
    let alone = ALONE.min(count);
    let begun = Instant::now();
    for n in 0..alone {
        store(n..n + 1)?;
    }
    let each = begun.elapsed().checked_div(u32::try_from(alone)?).unwrap_or_default();
    let (begun, mut commits) = (Instant::now(), 0_u32);
    let mut first = alone;
    while first < count {
        let next = first.saturating_add(TOGETHER).min(count);
        store(first..next)?;
        (first, commits) = (next, commits + 1);
    }
    let together: Duration = begun.elapsed().checked_div(commits).unwrap_or_default();
    let size = std::fs::metadata(path)?.len();
    writeln!(
        out,
        "{count} events: {each:.1?} a commit of one, {together:.1?} one of {TOGETHER}; the file has \
         {} MiB, {} bytes an event",
        size >> 20,
        size / u64::try_from(count.max(1))?
    )?;
    Ok(())
}

/// Pages and events that a list has.
fn list(sim: &Sim, page_size: i32, filter: &str, all: bool) -> Result<(u32, u32), Failed> {
    let mut client = EventServiceClient::new(sim.channel());
    let (mut page_token, mut pages, mut events) = (String::new(), 0, 0);
    loop {
        let filter = filter.to_owned();
        let request = api::ListEventsRequest { page_size, page_token, filter };
        let page = sim.block(client.list_events(request))?.into_inner();
        pages += 1;
        events += u32::try_from(page.events.len())?;
        page_token = page.next_page_token;
        if page_token.is_empty() || !all {
            return Ok((pages, events));
        }
    }
}

/// KiB of this process that are resident.
fn resident() -> Result<u64, Failed> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}
