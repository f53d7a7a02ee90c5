//! The command line of xtask.

use std::process::ExitCode;

use crate::{bench, check, ci, clients, cluster, deb, down, lab, test, tidy, tool, up};

/// Builds, runs and checks Ves.
#[derive(Debug, clap::Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
pub(crate) enum Task {
    /// Bring Ves up here: five daemons, a Debian template, container 101 with a web server
    Up(up::Args),
    /// Take away everything `up` made and prove that nothing is left
    Down(down::Args),
    /// What a change must pass: format, lints, tests without root, documents, tidiness, licences
    Check(check::Args),
    /// Tests: unit, laws, the system with fake hosts, and as root the real kernel and the lab
    Test(test::Args),
    /// What CI runs: `check`, `up` twice, `down`, `test`; and what each part took
    Ci(ci::Args),
    /// Build the clients in Python, TypeScript and Go, and their tests
    Clients,
    /// Debian packages of everything, in target/debian
    Deb,
    /// Write the public API as it is into proto/released.binpb, which later ones are held to: at a release
    ReleaseApi,
    /// Debian 13 nodes with our packages, each a system container of this kernel
    #[command(subcommand)]
    Cluster(cluster::Command),
    /// Debian 13 nodes with our packages, each a virtual machine
    #[command(subcommand)]
    Lab(lab::Lab),
    /// Count what each verb costs, measure start latency, create time and hop cost, and print ratios
    Bench(bench::Args),
    /// The house rules that no other tool knows; also a step of `check`
    Tidy,
}

impl Task {
    /// Does it.
    pub(crate) fn run(self) -> ExitCode {
        let done = match self {
            Self::Up(args) => up::run(&args),
            Self::Down(args) => down::run(&args),
            Self::Check(args) => check::run(&args),
            Self::Test(args) => test::run(&args),
            Self::Ci(args) => return ci::run(&args),
            Self::Bench(args) => bench::run(&args),
            Self::Deb => deb::build(&|what| println!("{what}")).map(|files| {
                for file in files {
                    println!("{}", file.display());
                }
            }),
            Self::Clients => clients::build(),
            Self::ReleaseApi => check::release_api(),
            Self::Cluster(command) => match cluster::run(command) {
                Ok(code) => return code,
                Err(error) => Err(error),
            },
            Self::Lab(lab) => match lab::run(lab) {
                Ok(code) => return code,
                Err(error) => Err(error),
            },
            Self::Tidy => tidy::run(&tool::root()).map(|summary| println!("{summary}")),
        };
        match done {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("error: {error:#}");
                ExitCode::FAILURE
            }
        }
    }
}
