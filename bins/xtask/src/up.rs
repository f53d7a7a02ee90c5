//! Brings Ves up on this machine: installs, builds, starts the five daemons, builds a Debian
//! template, and makes container 101 answer on port 80 by both of its addresses.
//!
//! Everything about containers goes through `virtctl`, as an operator would do it. Each step looks
//! first at what is there, so running it twice is harmless and running it after daemons were killed
//! brings them back. Nothing here makes a mount, a link or a control group.

mod machine;
mod progress;
pub(crate) mod views;
mod virtctl;
mod web;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::Value;
use ves_kit::stack::{Stack, Started};
use ves_types::layout::Layout;

pub(crate) use machine::{
    bin_dir, cargo, description, make_account, require_root, target_dir, test_bin_dir, watch,
};
pub(crate) use progress::{Line, Steps};
pub(crate) use virtctl::Virtctl;

/// The container of the main job.
const CT: &str = "101";
const HOSTNAME: &str = "web1";
const SUITE: &str = "trixie";

/// What the command line may say.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The init that runs as the container's first process
    #[arg(long, value_enum, default_value = "systemd")]
    init: Init,
    /// The IPv4 address of container 101
    #[arg(long, default_value = "192.0.2.101")]
    ipv4: std::net::Ipv4Addr,
    /// The IPv6 address of container 101
    #[arg(long, default_value = "2001:db8:56::101")]
    ipv6: std::net::Ipv6Addr,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Init {
    Systemd,
    Sysvinit,
}

impl Init {
    const fn name(self) -> &'static str {
        match self {
            Self::Systemd => "systemd",
            Self::Sysvinit => "sysvinit",
        }
    }

    fn template(self) -> String {
        match self {
            Self::Systemd => format!("debian-{SUITE}"),
            Self::Sysvinit => format!("debian-{SUITE}-sysvinit"),
        }
    }
}

/// The daemons of this machine, with logs and pid files under `target/up`.
pub(crate) fn node_stack() -> Stack {
    Stack::new(Layout::default(), bin_dir(), target_dir().join("up"))
}

/// Does it.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    require_root()?;
    let mut steps = Steps::new("up");
    println!("Ves up, on {}", description());
    node(&mut steps, &[])?;
    let built = Instant::now();

    let virtctl = Virtctl::new();
    let template = args.init.template();
    build_template(&mut steps, &virtctl, args.init, &template)?;
    let state = create(&mut steps, &virtctl, &template, args)?;
    start(&mut steps, &virtctl, &state)?;
    serve(&mut steps, &virtctl, [args.ipv4.into(), args.ipv6.into()])?;
    let answered = built.elapsed();

    println!("\n$ virtctl list\n{}", virtctl.text(&["list"])?.trim_end());
    println!("\n$ virtctl resources {CT}\n{}", virtctl.text(&["resources", CT])?.trim_end());
    println!("\n{}", steps.table());
    println!(
        "\nContainer {CT} answers {} after the daemons were up. It goes on running.",
        progress::seconds(answered)
    );
    let shown = virtctl.shown();
    println!("enter: {shown} enter {CT}   stop: {shown} stop {CT}   clean up: cargo xtask down");
    Ok(())
}

/// Brings up the daemons and a template for those who measure; hands back the template's name.
pub(crate) fn ensure_node(steps: &mut Steps, packages: &[(&str, &str)]) -> anyhow::Result<String> {
    node(steps, packages)?;
    let template = Init::Systemd.template();
    build_template(steps, &Virtctl::new(), Init::Systemd, &template)?;
    Ok(template)
}

/// All that must be there before the first container; `packages` are further ones.
fn node(steps: &mut Steps, packages: &[(&str, &str)]) -> anyhow::Result<()> {
    programs(steps, packages)?;
    daemons(steps)
}

/// Packages, release programs and the coordinator's account; hands back where the programs are.
pub(crate) fn programs(
    steps: &mut Steps,
    packages: &[(&str, &str)],
) -> anyhow::Result<std::path::PathBuf> {
    let remedy = "a Debian mirror must be reachable; or install what is named yourself";
    steps.step("packages", remedy, |line| machine::packages(packages, line))?;
    steps.step("build", "mend what cargo reports", machine::build)?;
    steps.step("account", "create the system user `ves` by hand", |_| {
        let said = if make_account()? { "created `ves`" } else { "`ves` is there" };
        Ok(((), said.to_owned()))
    })?;
    Ok(bin_dir())
}

fn daemons(steps: &mut Steps) -> anyhow::Result<()> {
    let remedy = "read target/up/*.log; `cargo xtask down` and `up` again begin anew";
    steps.step("daemons", remedy, |line| {
        let mut stack = node_stack();
        stack.prepare()?;
        line.says("starting lxcfs, storage, network, resources, lifecycle, coordinator");
        views::provide(stack.layout(), &target_dir().join("up/lxcfs.log"))?;
        let all = stack.start_all()?;
        let count = |what| all.values().filter(|started| **started == what).count();
        let mut notes = Vec::new();
        for (started, word) in [
            (Started::Fresh, "started"),
            (Started::Upgraded, "restarted from the new build"),
            (Started::Already, "ran already"),
        ] {
            match count(started) {
                0 => {}
                n => notes.push(format!("{n} {word}")),
            }
        }
        Ok(((), notes.join(", ")))
    })
}

fn build_template(
    steps: &mut Steps,
    virtctl: &Virtctl,
    init: Init,
    template: &str,
) -> anyhow::Result<()> {
    let remedy = "a Debian mirror must be reachable; another one can be set as `mirror` in \
                  /etc/ves/storage.toml, see deploy/etc/storage.toml";
    steps.step("template", remedy, |line| {
        let find = || -> anyhow::Result<Option<Value>> {
            Ok(rows(virtctl.json(&["template", "list"])?)
                .into_iter()
                .find(|row| row.get("name").and_then(Value::as_str) == Some(template)))
        };
        let cached = find()?.is_some();
        if !cached {
            let args = ["template", "build", template, "--suite", SUITE, "--init", init.name()];
            virtctl.watch(&args, line)?;
        }
        let row = find()?.with_context(|| format!("the template {template} is not listed"))?;
        let os = row.get("os").and_then(Value::as_str).unwrap_or("Debian").to_owned();
        let how = if cached { "cached" } else { "built" };
        Ok(((), format!("{template} ({os}) {how}")))
    })
}

/// The state of the container, as `virtctl list` calls it.
fn create(
    steps: &mut Steps,
    virtctl: &Virtctl,
    template: &str,
    args: &Args,
) -> anyhow::Result<String> {
    let remedy = "an id or address that is taken must be freed first: `virtctl list -a`, \
                  `virtctl destroy`";
    steps.step("create", remedy, |line| {
        if let Some(row) = container(virtctl)? {
            let state = state(&row);
            return Ok((state.clone(), format!("container {CT} is there, {state}")));
        }
        let (v4, v6) = (args.ipv4.to_string(), args.ipv6.to_string());
        let words = [
            "create",
            CT,
            "--ostemplate",
            template,
            "--hostname",
            HOSTNAME,
            "--ipadd",
            &v4,
            "--ipadd",
            &v6,
            "--diskspace",
            "2G",
            "--ram",
            "512M",
            "--cpulimit",
            "100",
            "--numproc",
            "400",
        ];
        virtctl.watch(&words, line)?;
        let row = container(virtctl)?.with_context(|| format!("container {CT} is not listed"))?;
        Ok((state(&row), format!("container {CT}, {HOSTNAME}, {v4}, {v6}, 2 GiB, 512 MiB RAM")))
    })
}

fn start(steps: &mut Steps, virtctl: &Virtctl, state: &str) -> anyhow::Result<()> {
    let remedy = format!("`virtctl console {CT}` shows what its init said");
    steps.step("start", &remedy, |line| {
        let pid = |row: Option<Value>| {
            row.and_then(|row| row.get("init_pid").and_then(Value::as_u64))
                .map_or_else(String::new, |pid| format!(", its init is process {pid} here"))
        };
        if state == "running" {
            return Ok(((), format!("runs already{}", pid(container(virtctl)?))));
        }
        virtctl.watch(&["start", CT, "--wait"], line)?;
        Ok(((), format!("booted{}", pid(container(virtctl)?))))
    })
}

fn serve(steps: &mut Steps, virtctl: &Virtctl, addresses: [IpAddr; 2]) -> anyhow::Result<()> {
    let remedy = format!("look inside with `virtctl enter {CT}`: is hello-httpd running?");
    let [v4, v6] = addresses;
    steps.step("web server", &remedy, |line| {
        // A connection to a port where nobody listens is refused at once.
        if web::serves(v4) {
            return Ok(((), "serves already".to_owned()));
        }
        let script = target_dir().join("up").join("hello-httpd.sh");
        std::fs::write(&script, web::INSTALL)
            .with_context(|| format!("write {}", script.display()))?;
        virtctl.watch(&["runscript", CT, &script.display().to_string()], line)?;
        let user = virtctl.text(&["exec", CT, "/bin/cat", "/proc/sys/kernel/hostname"])?;
        Ok(((), format!("installed as a service of {}", user.trim())))
    })?;
    let remedy = "look at `ip route get` for the address and at `nft list table inet ves`";
    for (what, address) in [("answer v4", v4), ("answer v6", v6)] {
        steps.step(what, remedy, |_| {
            let answer = web::ask(address, Duration::from_secs(20))?;
            Ok(((), format!("{address}: {answer}")))
        })?;
    }
    Ok(())
}

fn container(virtctl: &Virtctl) -> anyhow::Result<Option<Value>> {
    Ok(rows(virtctl.json(&["list", "-a"])?).into_iter().find(|row| id(row).as_deref() == Some(CT)))
}

/// The rows of a list that was printed as JSON.
pub(crate) fn rows(list: Value) -> Vec<Value> {
    match list {
        Value::Array(rows) => rows,
        _ => Vec::new(),
    }
}

/// A container's id in a row of `virtctl list -o json`.
pub(crate) fn id(row: &Value) -> Option<String> {
    row.get("ctid").and_then(|id| match id {
        Value::String(id) => Some(id.clone()),
        Value::Number(id) => Some(id.to_string()),
        _ => None,
    })
}

/// A container's state in a row of `virtctl list -o json`.
pub(crate) fn state(row: &Value) -> String {
    row.get("status").and_then(Value::as_str).unwrap_or("unknown").to_owned()
}
