//! Following a stream of a service's for ever: again after each loss of it, with longer and longer pauses while
//! the service is away.
//!
//! Never here: what comes by it.

use std::time::Duration;

use ves_proto::Fault;

use crate::coordinator::Coordinator;

/// How long to wait at first before the service is asked again.
pub(super) const SOON: Duration = Duration::from_millis(50);

/// How long to wait at most where what comes by the stream may come late.
pub(super) const LATE: Duration = Duration::from_secs(10);

impl Coordinator {
    /// Follows `service` by `once`, which sets the pause back to [`SOON`] when the stream has begun. Waits at
    /// most `longest` before it asks again.
    pub(super) async fn follow_for_ever(
        &self,
        service: &str,
        longest: Duration,
        once: impl AsyncFn(&Self, &mut Duration) -> Result<(), Fault>,
    ) {
        let mut pause = SOON;
        loop {
            match once(self, &mut pause).await {
                Ok(()) => tracing::info!("{service} ended its stream, following again"),
                Err(fault) => tracing::warn!(error = %fault, "{service} cannot be followed"),
            }
            self.service_is_away(service);
            self.clock().sleep(pause).await;
            pause = (pause * 2).min(longest);
        }
    }
}
