//! Takes away everything `up` made and proves that nothing is left.
//!
//! Containers go through `virtctl`; then the daemons end; then what a half-made or broken node may
//! have left is swept away by hand; then an inventory of the host, taken by other means than Ves's
//! own, must hold nothing of ours. Built templates stay, unless all is to go.

mod sweep;

use std::time::{Duration, Instant};

use anyhow::ensure;
use ves_kit::Inventory;
use ves_kit::inventory::Kind;
use ves_types::layout::{Daemon, Layout};

use crate::up::{self, Line, Steps, Virtctl};

/// How long the kernel may take to give back what is torn down in the background.
const PATIENCE: Duration = Duration::from_secs(60);

/// In this order each daemon's users are gone before it.
const ORDER: [Daemon; 5] =
    [Daemon::Coordinator, Daemon::Lifecycle, Daemon::Network, Daemon::Resources, Daemon::Storage];

/// What the command line may say.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Remove built templates and the system user too
    #[arg(long)]
    purge: bool,
}

/// Does it.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    up::require_root()?;
    let layout = Layout::default();
    let mut steps = Steps::new("down");
    let remedy = "run it again; `--purge` also removes what cannot be removed in order";
    steps.step("containers", remedy, containers)?;
    steps.step("daemons", remedy, |line| {
        let stack = up::node_stack();
        let mut ended = 0;
        for service in ORDER {
            line.says(&format!("ending {}", service.name()));
            ended += usize::from(stack.stop(service)?);
        }
        up::views::end(&layout)?;
        Ok(((), format!("{ended} ended")))
    })?;
    steps.step("sweep", remedy, |_| {
        let swept = sweep::all(&layout, args.purge)?;
        let note =
            if swept.is_empty() { "nothing was left over".to_owned() } else { swept.join(", ") };
        Ok(((), note))
    })?;
    steps.step(
        "proof",
        "what is listed is in the way of a clean start; remove it by hand",
        |_| proof(&layout, args.purge),
    )?;
    if !args.purge && layout.state_dir().exists() {
        println!(
            "\nBuilt templates stay in {}; `--purge` removes them.",
            layout.state_dir().display()
        );
    }
    Ok(())
}

/// Stops and destroys all containers. What cannot be asked is left to the sweep.
fn containers(line: &Line) -> anyhow::Result<((), String)> {
    let layout = Layout::default();
    let virtctl = Virtctl::new();
    let known = layout.service_dir(Daemon::Coordinator).is_dir();
    if !known || !virtctl.exists() {
        return Ok(((), "there is no node here".to_owned()));
    }
    let mut stack = up::node_stack();
    line.says("the daemons are needed to destroy containers in order");
    if let Err(e) = stack.prepare().and_then(|()| stack.start_all()) {
        return Ok(((), format!("left to the sweep, as the daemons do not start: {e:#}")));
    }
    let list = match virtctl.json(&["list", "-a"]) {
        Ok(list) => up::rows(list),
        Err(e) => return Ok(((), format!("left to the sweep: {e:#}"))),
    };
    let (mut destroyed, mut failed) = (0, Vec::new());
    for row in &list {
        let Some(id) = up::id(row) else { continue };
        line.says(&format!("destroying {id}"));
        let stopped = match up::state(row).as_str() {
            "stopped" => Ok(String::new()),
            _ => virtctl.text(&["stop", &id, "--fast"]),
        };
        match stopped.and_then(|_| virtctl.text(&["destroy", &id])) {
            Ok(_) => destroyed += 1,
            Err(e) => failed.push(format!("{id}: {e:#}")),
        }
    }
    let mut note = format!("{destroyed} destroyed");
    if !failed.is_empty() {
        note.push_str(&format!("; left to the sweep: {}", failed.join("; ")));
    }
    Ok(((), note))
}

/// Nothing of ours may be there; says how much of each kind was looked at.
fn proof(layout: &Layout, purge: bool) -> anyhow::Result<((), String)> {
    let end = Instant::now() + PATIENCE;
    let left = loop {
        let left = sweep::inventory(layout, purge);
        if Inventory::default().diff(&left).is_empty() || Instant::now() >= end {
            break left;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let diff = Inventory::default().diff(&left);
    ensure!(diff.is_empty(), "this is left:\n{diff}");
    let kinds = [
        (Kind::Mount, "mounts"),
        (Kind::Loop, "loop devices"),
        (Kind::Cgroup, "control groups"),
        (Kind::Link, "links"),
        (Kind::Route, "routes"),
        (Kind::Neighbour, "neighbours"),
        (Kind::Nft, "nftables rules"),
        (Kind::Bpf, "pinned BPF objects"),
        (Kind::Process, "processes"),
        (Kind::File, "files"),
    ];
    let counts = kinds.map(|(kind, name)| format!("{} {name}", left.of(kind).count()));
    Ok(((), format!("of Ves there are {}", counts.join(", "))))
}
