//! Volumes of a thin pool by hand, for the lab: there the mechanism is tried and measured, by
//! `tests/lab` and by `cargo xtask bench storage --lvm`.
//!
//! `thin COMMAND POOL …` does one thing to the pool with this name in device-mapper; see `USAGE`. It
//! keeps no record of what it made, as Ves would: who calls it gives the numbers.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example that speaks to people")]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use ves_host::HostError;
use ves_host::device_mapper::thin::{self, Message, PoolStatus, PoolTable, ThinId};
use ves_host::device_mapper::{Control, Name};

const USAGE: &str = "thin status POOL               what the pool says, understood
thin create POOL ID            make an empty volume
thin clone  POOL ID OF [NAME]  make one with the contents of another, which device NAME shows
thin show   POOL ID NAME MIB   make a device that shows a volume; prints its node
thin hide   POOL NAME          take the device away
thin mapped POOL NAME          bytes that the volume maps
thin delete POOL ID            delete a volume
thin many   POOL FIRST COUNT OF  make so many clones, numbered from FIRST on
thin bench  POOL FIRST OF ROUNDS MIB  medians in microseconds";

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args().skip(1).collect();
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    match run(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let because = error.source().map(|e| format!(": {e}")).unwrap_or_default();
            eprintln!("thin: {error}{because}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[&str]) -> Result<(), Failure> {
    let [command, pool, rest @ ..] = words else { return Err(USAGE.into()) };
    let pool = Pool::open(pool)?;
    match (*command, rest) {
        ("status", []) => println!("{:#?}\n{:#?}", pool.status()?, pool.table()?),
        ("create", [id]) => pool.tell(Message::Create(read_id(id)?))?,
        ("clone", [id, of]) => pool.clone(read_id(id)?, read_id(of)?)?,
        ("clone", [id, of, name]) => {
            pool.clone_shown(read_id(id)?, read_id(of)?, &Name::parse(name)?)?;
        }
        ("show", [id, name, mib]) => {
            pool.show(read_id(id)?, &Name::parse(name)?, read_mib(mib)?)?
        }
        ("hide", [name]) => pool.control.remove(&Name::parse(name)?)?,
        ("mapped", [name]) => {
            for target in pool.control.status(&Name::parse(name)?)? {
                println!("{}", thin::mapped_bytes(&target)?.ok_or("the pool has failed")?);
            }
        }
        ("delete", [id]) => pool.tell(Message::Delete(read_id(id)?))?,
        ("many", [first, count, of]) => {
            let first = read_id(first)?;
            for more in 0..count.parse()? {
                pool.clone(after(first, more)?, read_id(of)?)?;
            }
        }
        ("bench", [first, of, rounds, mib]) => {
            bench(&pool, read_id(first)?, read_id(of)?, rounds.parse()?, read_mib(mib)?)?;
        }
        _ => return Err(USAGE.into()),
    }
    Ok(())
}

/// A pool that somebody else has set up.
struct Pool {
    control: Control,
    name: Name,
    device: u64,
}

impl Pool {
    fn open(name: &str) -> Result<Self, Failure> {
        let (control, name) = (Control::open()?, Name::parse(name)?);
        let info = control.look(&name)?.ok_or_else(|| format!("there is no device {name}"))?;
        Ok(Self { control, name, device: info.device })
    }

    fn status(&self) -> Result<Option<PoolStatus>, Failure> {
        let status = self.control.status(&self.name)?;
        Ok(PoolStatus::parse(status.first().ok_or("the pool has no target")?)?)
    }

    fn table(&self) -> Result<PoolTable, Failure> {
        let table = self.control.table(&self.name)?;
        Ok(PoolTable::parse(table.first().ok_or("the pool has no target")?)?)
    }

    fn tell(&self, message: Message) -> Result<(), HostError> {
        self.control.message(&self.name, &message.to_string())
    }

    fn clone(&self, id: ThinId, of: ThinId) -> Result<(), HostError> {
        self.tell(Message::Clone { id, of })
    }

    /// A clone of a volume that a device shows: its file system is frozen for that long.
    fn clone_shown(&self, id: ThinId, of: ThinId, name: &Name) -> Result<(), HostError> {
        self.control.suspend(name)?;
        let cloned = self.clone(id, of);
        self.control.resume(name)?;
        cloned
    }

    fn show(&self, id: ThinId, name: &Name, bytes: u64) -> Result<(), HostError> {
        let uuid = format!("VES-{}-{id}", self.name);
        let info = self.control.create(name, &uuid, &thin::table(self.device, id, bytes))?;
        println!("{}", info.path().display());
        Ok(())
    }
}

/// Times each message and each request for so many rounds, each of which leaves all as it was.
fn bench(pool: &Pool, first: ThinId, of: ThinId, rounds: usize, bytes: u64) -> Result<(), Failure> {
    let name = Name::parse(&format!("{}-bench", pool.name))?;
    let (id, snapshot) = (first, after(first, 1)?);
    let table = thin::table(pool.device, id, bytes);
    let mut times: [(&str, Vec<Duration>); 6] =
        ["clone", "show", "look", "snapshot", "hide", "delete"].map(|what| (what, Vec::new()));
    for _ in 0..rounds {
        let took = [
            timed(|| pool.clone(id, of))?,
            timed(|| pool.control.create(&name, "VES-bench", &table).map(drop))?,
            timed(|| pool.control.status(&pool.name).map(drop))?,
            timed(|| pool.clone_shown(snapshot, id, &name))?,
            timed(|| pool.control.remove(&name))?,
            timed(|| pool.tell(Message::Delete(id)))?,
        ];
        pool.tell(Message::Delete(snapshot))?;
        times.iter_mut().zip(took).for_each(|((_, all), one)| all.push(one));
    }
    for (what, all) in &mut times {
        all.sort_unstable();
        let median = all.get(all.len() / 2).ok_or("no round was asked for")?;
        println!("{what} {}", median.as_micros());
    }
    Ok(())
}

fn timed(act: impl FnOnce() -> Result<(), HostError>) -> Result<Duration, HostError> {
    let begun = Instant::now();
    act()?;
    Ok(begun.elapsed())
}

fn read_id(text: &str) -> Result<ThinId, Failure> {
    ThinId::new(text.parse()?).ok_or_else(|| format!("{text} has more than 24 bits").into())
}

fn after(id: ThinId, more: u32) -> Result<ThinId, Failure> {
    let sum = id.get().checked_add(more).and_then(ThinId::new);
    sum.ok_or_else(|| format!("{id} and {more} has more than 24 bits").into())
}

fn read_mib(text: &str) -> Result<u64, Failure> {
    let mib: u64 = text.parse()?;
    mib.checked_mul(1 << 20).ok_or_else(|| format!("{text} MiB is too much").into())
}
