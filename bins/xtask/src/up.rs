//! Brings Ves up on this machine: installs, builds, starts the daemons, makes container 101 answer.

/// What the command line may say.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

/// Does it.
///
/// # Errors
/// The first step that failed, with why.
pub(crate) fn run(_: &Args) -> anyhow::Result<()> {
    anyhow::bail!("`cargo xtask up` is not part of this build")
}
