//! A process with one thread that makes a child, for tests of what the child has and when it ends.
//!
//! `parent MODE LOCK`: holds the lock at that path. In the mode `facts` both tell what they have, in
//! `joined` it makes many, each after a thread of its own has ended; in the others the child says `ready`
//! and its number and stays: `bound` and `inside` (in another process id namespace) to their parent's life,
//! `free` longer; with `-early` behind it, the parent does not stay at all.
#![allow(clippy::print_stdout, reason = "it is there to tell")]

use std::fs::File;
use std::os::fd::AsFd;
use std::process::ExitCode;

use ves_host::child::{self, Child, How, Life, Why};
use ves_host::namespace::Namespace;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let (mode, lock) = (args.next().unwrap_or_default(), args.next().unwrap_or_default());
    match run(&mode, &lock) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn run(mode: &str, lock: &str) -> Result<(), Box<dyn std::error::Error>> {
    let lock = File::create(lock)?;
    lock.lock()?;
    let (line, held) = std::io::pipe()?;
    let (name, early) = mode.strip_suffix("-early").map_or((mode, false), |name| (name, true));
    let how = match name {
        "inside" => {
            How { new: &[Namespace::Pid], life: Life::BoundBy(line.as_fd()), ..How::default() }
        }
        "free" => How { life: Life::Free(Why::Background), ..How::default() },
        _ => How::default(),
    };
    if name == "facts" {
        facts("parent")?;
        let keep = [line.as_fd()];
        let child = child::fork(How { keep: &keep, ..how }, || i32::from(facts("child").is_err()))?;
        while child::reap(&child)?.is_none() {
            std::thread::yield_now();
        }
        return Ok(());
    }
    if name == "joined" {
        for _ in 0..500 {
            std::thread::spawn(|| ()).join().map_err(|_| "a thread panicked")?;
            let child = child::fork(how, || 0)?;
            while child::reap(&child)?.is_none() {
                std::thread::yield_now();
            }
        }
        return Ok(());
    }
    let Child { pid, .. } = child::fork(how, || {
        if !early {
            println!("ready");
        }
        loop {
            std::thread::park();
        }
    })?;
    if !early {
        println!("{}", pid.as_raw_pid());
        loop {
            std::thread::park();
        }
    }
    drop(held);
    Ok(())
}

/// Tells of this process what it holds and what it does with signals.
fn facts(who: &str) -> std::io::Result<()> {
    for line in std::fs::read_to_string("/proc/self/status")?.lines() {
        if ["SigBlk", "SigIgn", "SigCgt"].iter().any(|kind| line.starts_with(kind)) {
            println!("{who} {}", line.replace(":\t", " "));
        }
    }
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let path = entry?.path();
        // The descriptor by which this is read is gone afterwards.
        if let Ok(target) = std::fs::read_link(&path)
            && !target.starts_with("/proc")
        {
            println!("{who} fd {}", target.display());
        }
    }
    Ok(())
}
