//! Hearing of changes of monitors: one descriptor for all containers of the node.
//!
//! A monitor has its lock file open for writing as long as it lives and writes to it when its state
//! changes, so that inotify(7) tells of both. Nobody else opens the file for writing. Of what has no
//! monitor the kernel tells by a file of its control group. Never here: what has changed.

use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;
use ves_host::{Attempt, HostError};
use ves_types::CtId;

use crate::host::Changed;

/// The files that are watched.
#[derive(Debug)]
pub(super) struct Changes {
    fd: OwnedFd,
    watched: Mutex<HashMap<i32, CtId>>,
}

impl Changes {
    /// Watches nothing yet.
    pub(super) fn new() -> Result<Arc<Self>, HostError> {
        let fd = inotify::init(CreateFlags::CLOEXEC).attempt(|| "begin to watch".to_owned())?;
        Ok(Arc::new(Self { fd, watched: Mutex::default() }))
    }

    /// Watches a file of a container; answers whether it is there.
    pub(super) fn watch(&self, ct: CtId, path: &Path) -> Result<bool, HostError> {
        // Held over both, so that no event comes of a watch that is not known.
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let flags = WatchFlags::MODIFY | WatchFlags::CLOSE_WRITE;
        match inotify::add_watch(&self.fd, path, flags) {
            Ok(watch) => drop(watched.insert(watch, ct)),
            Err(Errno::NOENT) => return Ok(false),
            Err(e) => return Err(e).attempt(|| format!("watch {}", path.display())),
        }
        Ok(true)
    }

    /// Tells of each change, on a thread of its own.
    pub(super) fn tell(self: Arc<Self>, changed: Changed) -> Result<(), HostError> {
        let thread = std::thread::Builder::new().name("changes".to_owned());
        let watch = move || {
            let mut buffer = [MaybeUninit::uninit(); 4096];
            let mut reader = Reader::new(self.fd.as_fd(), &mut buffer);
            loop {
                match reader.next() {
                    Ok(event) if event.events().contains(ReadFlags::QUEUE_OVERFLOW) => {
                        changed(None)
                    }
                    Ok(event) => {
                        let mut watched =
                            self.watched.lock().unwrap_or_else(PoisonError::into_inner);
                        let ct = watched.get(&event.wd()).copied();
                        // The file is gone, and with it the watch.
                        if event.events().contains(ReadFlags::IGNORED) {
                            watched.remove(&event.wd());
                        }
                        drop(watched);
                        if ct.is_some() {
                            changed(ct);
                        }
                    }
                    Err(Errno::INTR) => {}
                    Err(error) => {
                        tracing::error!(%error, "changes of containers are heard no longer");
                        return;
                    }
                }
            }
        };
        thread.spawn(watch).attempt(|| "begin a thread".to_owned()).map(drop)
    }
}
