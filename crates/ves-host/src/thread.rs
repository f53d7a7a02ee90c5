//! A thread for one piece of work that needs a thread to itself.
//!
//! Never here: what the work is; a thread that stays.

use crate::error::{Attempt, HostError};

/// Does `work` on a thread made for it, which may enter namespaces as it likes: it ends with the work,
/// and all others stay where they are. A panic of the work is the caller's.
///
/// # Errors
/// [`HostError::Sys`]; what `work` fails with.
pub(crate) fn on_own_thread<T: Send>(
    name: &str,
    work: impl FnOnce() -> Result<T, HostError> + Send,
) -> Result<T, HostError> {
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name(name.to_owned())
            .stack_size(128 * 1024)
            .spawn_scoped(scope, work)
            .attempt(|| "start a thread".to_owned())?
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
