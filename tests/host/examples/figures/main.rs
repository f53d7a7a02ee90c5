//! Measures a node that is up: how long a start takes against the kernel's floor and against crun
//! and runc, how long a create takes against copying and unpacking, and what one call costs.
//!
//! `cargo xtask bench` runs it, in release, with the daemons up. Rounds are interleaved, so that a
//! busy moment of the machine falls on all alike. It makes containers and a template of its own
//! through the public API and removes them; it decides nothing about what is good enough.
//!
//! As `figures lives …` it leads containers through their lives and says when each verb began and
//! ended, for whoever counts meanwhile what the daemons do.
#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "it prints a table, runs the programs it compares with, and waits with a deadline"
)]

mod lives;
mod node;
mod peers;
mod series;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;

use crate::node::Node;
use crate::peers::{Floor, Oci, Work};
use crate::series::{Series, table};

struct Args {
    // None: only lives.
    floor: Option<PathBuf>,
    template: String,
    rounds: usize,
}

fn args() -> anyhow::Result<Args> {
    let mut words = std::env::args().skip(1);
    let floor = words.next().context("usage: figures FLOOR|lives TEMPLATE ROUNDS")?;
    let floor = Some(floor).filter(|floor| floor != "lives").map(PathBuf::from);
    let template = words.next().context("the template's name")?;
    let rounds = words.next().context("the number of rounds")?.parse()?;
    Ok(Args { floor, template, rounds })
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let Args { floor, template, rounds } = args()?;
    let node = Node::connect();
    let measured = match floor {
        Some(floor) => all(&node, &floor, &template, rounds).await,
        None => lives::lead(&node, &template, rounds).await,
    };
    node.clean().await?;
    measured
}

async fn all(node: &Node, floor: &Path, template: &str, rounds: usize) -> anyhow::Result<()> {
    let work = Work::new()?;

    println!("## One start of `/bin/true` as init\n");
    let archive = work.dir().join("template.tar.zst");
    node.export(template, &archive).await?;
    let rootfs = work.unpack(&archive)?;
    println!("{}\n", starts(node, &work, floor, template, rounds).await?);

    println!("## One create from the template ({} of files)\n", work.size(&rootfs)?);
    println!("{}\n", creates(node, &work, &archive, template, rounds.div_ceil(4)).await?);

    println!("## One call\n");
    println!("{}", hops(node, template, rounds * 20).await?);
    Ok(())
}

/// Floor, crun, runc, and Ves on the same files.
async fn starts(
    node: &Node,
    work: &Work,
    floor: &Path,
    template: &str,
    rounds: usize,
) -> anyhow::Result<String> {
    let mut kernel = Series::new("kernel floor: clone3, 7 namespaces, pivot_root, exec, reap");
    let mut crun = Series::new("`crun run`, no network, no limits");
    let mut runc = Series::new("`runc run`, no network, no limits");
    let mut runs = Series::new("Ves start, until init runs: call to the coordinator → exec");
    let mut ends = Series::new("Ves start, until its end is known and taken down");

    let mut floor = Floor::start(floor, &work.rootfs())?;
    let oci = Oci::new(&work.rootfs(), work.dir())?;
    let ct = node.create(template, true).await?;
    for round in 0..=rounds {
        let floor = floor.once()?;
        let crun_took = oci.run("crun")?;
        let runc_took = oci.run("runc")?;
        node.mount(ct).await?;
        let (ran, ended) = node.start_to_end(ct).await?;
        // The first round warms caches.
        if round > 0 {
            kernel.push(floor);
            crun.push(crun_took);
            runc.push(runc_took);
            runs.push(ran);
            ends.push(ended);
        }
    }
    node.destroy(ct).await?;
    Ok(table(&[&kernel, &runs, &ends, &crun, &runc], 0))
}

/// Ves, a sparse copy of a golden image, and unpacking an archive.
async fn creates(
    node: &Node,
    work: &Work,
    archive: &Path,
    template: &str,
    rounds: usize,
) -> anyhow::Result<String> {
    let mut ves = Series::new("Ves create: call to the coordinator → volume of 2 GiB there");
    let mut copy = Series::new("`cp --sparse=always` of an ext4 image of it");
    let mut tar = Series::new("`tar --zstd -x` of its archive");
    let image = work.image()?;
    for round in 0..=rounds {
        let (ct, created) = node.create_timed(template).await?;
        let copied = work.copy(&image)?;
        let unpacked = work.unpack_timed(archive)?;
        node.destroy(ct).await?;
        if round > 0 {
            ves.push(created);
            copy.push(copied);
            tar.push(unpacked);
        }
    }
    Ok(table(&[&ves, &copy, &tar], 0))
}

/// What gRPC over a unix socket adds to the socket.
async fn hops(node: &Node, template: &str, rounds: usize) -> anyhow::Result<String> {
    let mut bare = Series::new("64 bytes to and fro over a unix socket");
    let mut service = Series::new("gRPC health of a privileged service (one hop)");
    let mut public = Series::new("gRPC health of the coordinator (one hop)");
    let mut get = Series::new("GetContainer of the coordinator, all facts fresh");
    let mut echo = peers::Echo::new()?;
    let ct = node.create(template, false).await?;
    for round in 0..=rounds {
        let a = echo.once()?;
        let b = node.health_of_service().await?;
        let c = node.health_of_coordinator().await?;
        let d = node.get(ct).await?;
        if round >= rounds / 10 {
            bare.push(a);
            service.push(b);
            public.push(c);
            get.push(d);
        }
    }
    node.destroy(ct).await?;
    Ok(table(&[&bare, &service, &public, &get], 0))
}

/// How long anything here may take before it counts as broken.
const PATIENCE: Duration = Duration::from_secs(60);
