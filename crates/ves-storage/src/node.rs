//! The node as a whole: its pool is made, adopted and swept before there is a service.
//!
//! Leads the node's plan, as the shell leads those of containers. Never here: decisions, or how anything
//! is done.

use std::path::PathBuf;

use ves_daemon::Shell;
use ves_daemon::converge::variant;
use ves_types::layout::Layout;

use crate::config::Config;
use crate::error::Error;
use crate::kernel::KernelHost;
use crate::kernel::image::Images;
use crate::kernel::image::pool::{Place, Pool};
use crate::plan::node::{self, Desired};
use crate::plan::room::Sums;
use crate::plan::{self, PoolFacts};

/// Attaches the pool, making it where there is none.
pub fn prepare(shell: &Shell, config: &Config, layout: &Layout) -> Result<Pool, Error> {
    let place = Place::new(layout);
    let desired = Desired { kind: config.pool, bytes: config.pool_bytes };
    let steps = node::plan(&desired, &place.observe()?)
        .map_err(|refusal| Error::of_node(refusal, place.image()))?;
    for step in &steps {
        shell.step(None, &variant(step), step, || place.apply(step))?;
    }
    let pool = place.pool(config)?;
    tracing::info!(dir = %pool.dir.display(), "pool is attached");
    let facts = PoolFacts { room: pool.room()?, held: Sums::default(), reserved: 0 };
    if let Ok(Some(bytes)) = facts.back(0) {
        let step = plan::Step::Back { bytes };
        // Without it nothing is promised, and what was promised is there as far as it was.
        if let Err(error) = shell.step(None, &variant(&step), &step, || pool.back(bytes)) {
            tracing::warn!(%error, "the pool is not backed");
        }
    }
    Ok(pool)
}

/// The host on the node's pool; what a crash left in it is swept. `unpacker` is an executable whose
/// `main` begins with [`crate::dispatch`], such as the daemon's own.
pub fn open(
    shell: &Shell,
    config: &Config,
    layout: Layout,
    unpacker: PathBuf,
) -> Result<KernelHost, Error> {
    let images = Images::new(prepare(shell, config, &layout)?);
    let host = KernelHost::new(images, config, layout, unpacker)?;
    host.make_namespace()?;
    for step in &node::plan_sweep(&host.leftovers()?) {
        let swept = shell.step(None, &variant(step), step, || host.sweep(step));
        // What cannot be swept is in nobody's way but its own.
        if let Err(error) = swept {
            tracing::warn!(%error, %step, "ignoring");
        }
    }
    Ok(host)
}

#[cfg(test)]
mod tests;
