//! Takes away everything `up` made and proves that nothing is left.

/// What the command line may say.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

/// Does it.
///
/// # Errors
/// The first step that failed, with why.
pub(crate) fn run(_: &Args) -> anyhow::Result<()> {
    anyhow::bail!("`cargo xtask down` is not part of this build")
}
