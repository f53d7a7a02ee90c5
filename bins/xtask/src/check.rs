//! `cargo xtask check`: what a change must pass before it lands. Needs no root but for installing
//! tools, makes nothing on the machine outside `target/`.

use anyhow::Result;
use clap::builder::PossibleValuesParser;

use crate::step::{self, Outcome, Step};
use crate::tool::{self, cargo, command};
use crate::{test, tidy};

/// What the command line may say.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only this step; may be given more than once
    #[arg(long, value_name = "STEP", value_parser = names())]
    only: Vec<String>,
    /// All but this step; may be given more than once
    #[arg(long, value_name = "STEP", conflicts_with = "only", value_parser = names())]
    without: Vec<String>,
    /// Ask for known holes in dependencies too; their list lives on a git host
    #[arg(long)]
    advisories: bool,
    /// Run the other steps too when one fails
    #[arg(long)]
    keep_going: bool,
}

impl Args {
    /// All but these steps.
    pub(crate) fn without(steps: &[&str]) -> Self {
        let without = steps.iter().map(|step| (*step).to_owned()).collect();
        Self { only: Vec::new(), without, advisories: false, keep_going: false }
    }
}

const STEPS: &[Step] = &[
    Step { name: "fmt", what: "every file is formatted", run: fmt },
    Step { name: "tidy", what: "the house rules hold", run: house_rules },
    Step { name: "buf", what: "the protocol files pass buf lint and break nothing", run: buf },
    Step { name: "clippy", what: "no lint speaks, tests and all features included", run: clippy },
    Step { name: "nextest", what: "unit tests, laws, the system with fake hosts", run: nextest },
    Step { name: "doctest", what: "examples in documents run", run: doctest },
    Step { name: "doc", what: "documents build without a broken link", run: doc },
    Step { name: "deny", what: "licences, sources and versions of dependencies", run: deny },
    Step { name: ADVISORIES, what: "no dependency has a known hole", run: advisories },
];

/// The public API as the last release has it: a descriptor set, for programs that read one too.
const RELEASED: &str = "proto/released.binpb";

/// Makes that file anew of the protocol files as they are.
pub(crate) fn release_api() -> Result<()> {
    tool::tool("buf")?;
    let public = ["build", "proto", "--path", "proto/ves/api"];
    // The error details that statuses carry, so that who has the file can read them.
    let errors = ["--path", "proto/google/rpc"];
    let to = ["--exclude-source-info", "--output", RELEASED];
    tool::run(command("buf", &[&public[..], &errors, &to].concat()))
}

/// The step that needs more of the network than packages come by.
const ADVISORIES: &str = "advisories";

fn names() -> PossibleValuesParser {
    PossibleValuesParser::new(STEPS.iter().map(|step| step.name))
}

/// Runs all steps, the quick ones first.
pub(crate) fn run(args: &Args) -> Result<()> {
    let named = |names: &[String], name: &str| names.iter().any(|n| n == name);
    let wanted = |name: &str| match args.only.as_slice() {
        [] if name == ADVISORIES => args.advisories,
        [] => !named(&args.without, name),
        only => named(only, name),
    };
    step::run("cargo xtask check", STEPS, wanted, args.keep_going)
}

fn done() -> Outcome {
    Outcome::Done(String::new())
}

fn fmt() -> Result<Outcome> {
    tool::run(cargo(&["fmt", "--all", "--check"])).map(|()| done())
}

fn house_rules() -> Result<Outcome> {
    tidy::run(&tool::root()).map(Outcome::Done)
}

fn buf() -> Result<Outcome> {
    if let Err(e) = tool::tool("buf") {
        return Ok(Outcome::Skipped(format!("{e:#}")));
    }
    tool::run(command("buf", &["lint", "proto"]))?;
    tool::run(command("buf", &["breaking", "proto", "--against", RELEASED])).map(|()| done())
}

fn clippy() -> Result<Outcome> {
    let args = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--all-features",
        "--keep-going",
        "--",
        "-D",
        "warnings",
    ];
    tool::run(cargo(&args)).map(|()| done())
}

fn nextest() -> Result<Outcome> {
    let counts = test::without_root()?;
    counts.into_result().map(|c| Outcome::Done(format!("{} passed", c.passed)))
}

fn doctest() -> Result<Outcome> {
    let counts = test::doctest()?;
    counts.into_result().map(|c| Outcome::Done(format!("{} passed", c.passed)))
}

fn doc() -> Result<Outcome> {
    let mut doc = cargo(&["doc", "--workspace", "--all-features", "--no-deps"]);
    // Examples, so that dependencies have the features that tests give them and are checked once.
    doc.args(["--lib", "--bins", "--examples", "--document-private-items"])
        .env("RUSTDOCFLAGS", "-D warnings");
    tool::run(doc).map(|()| done())
}

fn deny() -> Result<Outcome> {
    let without = format!("known holes are not asked for: `cargo xtask check --only {ADVISORIES}`");
    ask_deny(&["bans", "licenses", "sources"]).map(|()| Outcome::Partly(without))
}

fn advisories() -> Result<Outcome> {
    ask_deny(&[ADVISORIES]).map(|()| done())
}

fn ask_deny(what: &[&str]) -> Result<()> {
    tool::tool("cargo-deny")?;
    tool::run(command("cargo-deny", &[&["check", "--hide-inclusion-graph"], what].concat()))
}
