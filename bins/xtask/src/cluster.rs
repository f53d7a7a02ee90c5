//! `cargo xtask cluster`: Debian 13 nodes with our packages as system containers of this kernel, for
//! people; stories use the same library.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use ves_kit::lab::bridge::Bridge;
use ves_kit::lab::{Cluster, Fault, Golden, Node, Role, cluster, story};

use crate::serve::{Server, meant};
use crate::{lab, tool};

/// Debian packages that native nodes and their segment are made with.
const PACKAGES: &[&str] = &["iproute2", "mount", "nftables", "socat", "util-linux", "xfsprogs"];

/// What the cluster should do.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Start nodes with our packages, each a system container of this kernel
    Up {
        /// How many.
        #[arg(default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=16))]
        nodes: u8,
        /// With a routing daemon on each, in turn FRR and BIRD, neighbours by OSPF
        #[arg(long)]
        routers: bool,
    },
    /// Run a command on a node by its shell, or open a shell there
    Ssh {
        /// A node's number, from 1 on, or its name
        node: String,
        /// The command; its exit status becomes this one's
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// Let two nodes hear nothing of each other, beside those that do not yet
    Cut {
        /// One node's number
        a: usize,
        /// The other's
        b: usize,
    },
    /// Let all nodes hear each other again
    Heal,
    /// End all nodes, take everything of theirs away, and prove that nothing is left
    Down,
    /// Run one story of tests/cluster by (a part of) its name
    Run {
        /// The name
        story: String,
    },
    /// The process that carries nodes and segment; `up` starts it
    #[command(hide = true)]
    Serve {
        /// How many.
        nodes: u8,
        /// With routing daemons.
        #[arg(long)]
        routers: bool,
    },
}

/// Does it.
pub(crate) fn run(command: Command) -> Result<ExitCode> {
    let server = Server { command: "cluster", dir: story::cache().join("cluster") };
    match command {
        Command::Up { nodes, routers } => up(&server, nodes, routers)?,
        Command::Serve { nodes, routers } => serve(&server, nodes, routers)?,
        Command::Ssh { node, command } => return ssh(&server.dir, &node, &command),
        Command::Cut { a, b } => {
            ensure!(a != b, "a node always hears itself");
            let mut apart = cuts(&server.dir)?;
            apart.insert((a.min(b), a.max(b)));
            cut(&server, &apart)?;
            println!("node {a} and node {b} do not hear each other; `cargo xtask cluster heal`");
        }
        Command::Heal => {
            cut(&server, &BTreeSet::new())?;
            println!("all nodes hear each other");
        }
        Command::Down => down(&server)?,
        Command::Run { story } => {
            prepare(&lab::say())?;
            return lab::tell("ves-cluster", &story, "native");
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Makes what native nodes begin from, where it is not there. `say` hears what is being done.
pub(crate) fn prepare(say: &dyn Fn(&str)) -> Result<Golden> {
    tool::apt(PACKAGES)?;
    lab::golden(say)
}

fn roles(nodes: u8, routers: bool) -> Vec<Role> {
    if routers { Role::routers(nodes.into()) } else { vec![Role::NODE; nodes.into()] }
}

fn up(server: &Server, nodes: u8, routers: bool) -> Result<()> {
    ensure!(!server.alive(), "a cluster is up already; `cargo xtask cluster down` ends it");
    let say = lab::say();
    prepare(&say)?;
    let count = nodes.to_string();
    let mut words = vec![count.as_str()];
    words.extend(routers.then_some("--routers"));
    say("starting nodes");
    server.start(&words)?;
    let names: Vec<_> = cluster::find(&server.dir)?.into_iter().map(|(_, name)| name).collect();
    say(&format!("{} are up", names.join(", ")));
    println!(
        "`cargo xtask cluster ssh 1 -- virtctl list -a` runs a command on the first, \
         `cargo xtask cluster down` ends all."
    );
    Ok(())
}

fn serve(server: &Server, nodes: u8, routers: bool) -> Result<()> {
    let golden = Golden::current(&story::cache())?;
    let _cluster = Cluster::native(&golden, &server.dir, &roles(nodes, routers))?;
    server.stay()
}

fn ssh(dir: &Path, node: &str, command: &[String]) -> Result<ExitCode> {
    let (dir, name) = meant(dir, node)?;
    let words = if command.is_empty() { "exec /bin/bash".to_owned() } else { command.join(" ") };
    let status = Node::at(dir, name)?.command(&words)?.status().context("enter the node")?;
    Ok(lab::code(status.code().or_else(|| status.signal().map(|signal| 128 + signal))))
}

/// The pairs of nodes that do not hear each other, as `cut` has written them down.
fn cuts(dir: &Path) -> Result<BTreeSet<(usize, usize)>> {
    let mut text = String::new();
    match fs::File::open(dir.join("cuts.json")) {
        Ok(mut file) => file.read_to_string(&mut text)?,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        Err(e) => return Err(e).context("read which nodes are apart"),
    };
    serde_json::from_str(&text).context("read which nodes are apart")
}

fn cut(server: &Server, apart: &BTreeSet<(usize, usize)>) -> Result<()> {
    ensure!(server.alive(), "no cluster is up; `cargo xtask cluster up` starts one");
    let dir = &server.dir;
    let nodes = cluster::find(dir)?.len();
    let known = apart.iter().all(|(a, b)| [a, b].iter().all(|n| (1..=nodes).contains(*n)));
    ensure!(known, "nodes are numbered from 1 to {nodes}");
    Bridge::at(dir, nodes).set(&Fault { apart: apart.clone(), ..Fault::default() })?;
    fs::write(dir.join("cuts.json"), serde_json::to_string(apart)?)
        .context("write down which nodes are apart")
}

fn down(server: &Server) -> Result<()> {
    let nodes = cluster::find(&server.dir).unwrap_or_default().len();
    let left = server.end()?;
    ensure!(left.is_empty(), "left behind: {}", left.join(", "));
    match nodes {
        0 => println!("no cluster is up"),
        n => println!(
            "the cluster is down: no process, control group, loop device, mount or file of its \
             {n} nodes is left"
        ),
    }
    Ok(())
}
