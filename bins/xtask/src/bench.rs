//! Measures start latency, create-from-template time and hop cost, and prints ratios.

/// What the command line may say.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

/// Does it.
///
/// # Errors
/// The first step that failed, with why.
pub(crate) fn run(_: &Args) -> anyhow::Result<()> {
    anyhow::bail!("`cargo xtask bench` is not part of this build")
}
