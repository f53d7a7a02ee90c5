//! A storage service on a pool of its own, for whoever measures it: no daemons, no node.
//!
//! As `storage COUNT…` it makes a pool of image files on XFS in a directory for temporary files and, for each
//! count, in ascending order, as many small volumes in it, and says `ready`. Then a line with a number is
//! read, and what is compared is done that many times, and once more before to warm caches. A line says what
//! was done when: `WHAT BEGAN ENDED`, in microseconds since the epoch, and `end` that it is over. With an empty
//! line it goes on to the next count. Nothing is left of it: run it in a mount namespace of its own, so that what
//! was mounted goes with it however it ends. Decides nothing about what is good enough.
#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "it tells whoever measures, and runs the programs it compares with"
)]

mod peers;
mod pool;

use std::io::{BufRead, Write};
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::{Context, Result};

use crate::peers::{Btrfs, Peers};
use crate::pool::Pool;

fn main() -> ExitCode {
    // It is its own unpacker.
    if let Some(code) = ves_storage::dispatch(std::env::args_os()) {
        return code;
    }
    match measure() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("error {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure() -> Result<()> {
    let usage = "usage: storage COUNT…";
    let counts = std::env::args().skip(1).map(|word| word.parse::<u32>().context(usage));
    let counts = counts.collect::<Result<Vec<_>>>()?;
    let mut pool = Pool::new()?;
    let btrfs = Btrfs::new(pool.dir(), &pool.archive)?;
    let mut made = 0;
    for count in counts {
        pool.fill(count.saturating_sub(made).max(1))?;
        made = count;
        let (base_image, archive) = (pool.base_image()?, pool.archive.clone());
        let peers = Peers { base_image: &base_image, archive: &archive };
        say("ready")?;
        while let Some(rounds) = asked()? {
            for _ in 0..=rounds {
                round(&mut pool, &peers, btrfs.as_ref())?;
            }
            verb("end", || Ok(()))?;
        }
    }
    Ok(())
}

/// The number of rounds that are asked for.
fn asked() -> Result<Option<u32>> {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    match line.trim() {
        "" => Ok(None),
        number => Ok(Some(number.parse().context("a number of rounds")?)),
    }
}

/// Each thing once, so that a busy moment of the machine falls on all alike.
fn round(pool: &mut Pool, peers: &Peers<'_>, btrfs: Option<&Btrfs>) -> Result<()> {
    let ct = verb("create", || pool.create())?;
    verb("snapshot", || pool.snapshot(ct))?;
    verb("snapshot-delete", || pool.delete_snapshot(ct))?;
    verb("delete", || pool.delete(ct))?;
    verb("clone", || peers.clone_image())?;
    verb("unlink", || peers.unlink())?;
    verb("tar", || peers.unpack())?;
    peers.clean()?;
    if let Some(btrfs) = btrfs {
        verb("subvolume", || btrfs.snapshot())?;
        verb("subvolume-delete", || btrfs.delete())?;
    }
    Ok(())
}

fn verb<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let began = now()?;
    let done = work().with_context(|| name.to_owned())?;
    say(&format!("{name} {began} {}", now()?))?;
    Ok(done)
}

fn say(line: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

fn now() -> Result<u128> {
    Ok(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_micros())
}
