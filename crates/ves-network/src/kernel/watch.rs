//! Looks after the guard: hears what others do to its table, and has the service put it right.
//!
//! The kernel tells of each change of nf_tables; those of our own socket do not count, and many at once
//! are one. Never here: what is put right, and how.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use ves_host::nft::NftNews;
use ves_host::{Attempt, HostError};

use super::KernelHost;
use crate::plan::node::TABLE;
use crate::service::{Inner, Service};

/// How long changes are heard out after the first, so that one look does for all.
const SETTLE: Duration = Duration::from_millis(10);
/// And how long at most, where they do not end.
const MOST: Duration = Duration::from_millis(100);
/// After which time what could not be put right is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// How often it is looked at though nothing was heard: routes that somebody changed tell nothing.
const ANYWAY: Duration = Duration::from_secs(60);

/// Begins to look after the guard of a service on `host`, as long as that lives.
///
/// # Errors
/// [`HostError::Sys`] where it cannot be listened to.
pub fn watch(host: &Arc<KernelHost>, service: &Service) -> Result<(), HostError> {
    let news = NftNews::of(TABLE)?;
    let (host, service) = (Arc::downgrade(host), Arc::downgrade(&service.inner));
    let thread = std::thread::Builder::new().name("guard".to_owned());
    thread
        .spawn(move || look_after(news, &host, &service))
        .attempt(|| "start a thread that looks after the guard".to_owned())?;
    Ok(())
}

fn look_after(mut news: NftNews, host: &Weak<KernelHost>, service: &Weak<Inner>) {
    let mut patience = ANYWAY;
    loop {
        let heard = wait(&mut news, host, patience);
        let Some(service) = service.upgrade() else { return };
        let settled = match heard {
            Ok(()) => service.settle_guard().map_err(|fault| fault.to_string()),
            Err(e) => {
                std::thread::park_timeout(AGAIN);
                Err(ves_proto::fault::chain(&e))
            }
        };
        match &settled {
            Ok(0) => {}
            Ok(steps) => tracing::warn!(steps, "put the guard right, which somebody had changed"),
            // Said once, not each second.
            Err(_) if patience == AGAIN => {}
            Err(error) => tracing::error!(error, "cannot put the guard right, trying each second"),
        }
        patience = if settled.is_ok() { ANYWAY } else { AGAIN };
    }
}

/// Waits until somebody else changed the table and leaves it alone for a moment, or for `patience`.
fn wait(news: &mut NftNews, host: &Weak<KernelHost>, patience: Duration) -> Result<(), HostError> {
    // Without a socket nothing is our own doing. Nothing is held while waiting: when the last service
    // goes, so does the socket that owns the table.
    let ours = || host.upgrade().and_then(|h| h.nft.with(|nft| Ok(nft.port())).ok());
    let mut wait = |patience| news.wait(ours().unwrap_or_default(), patience);
    if wait(patience)? {
        let end = Instant::now() + MOST;
        while Instant::now() < end && wait(SETTLE)? {}
    }
    Ok(())
}
