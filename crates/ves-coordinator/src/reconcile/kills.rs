//! Following what resources tells of processes that the kernel killed because memory ran out, so that whoever
//! watches a container hears of them.
//!
//! Never here: what is done about them; a larger limit is somebody's decision.

use std::time::Duration;

use ves_proto::convert::parse_ct;
use ves_proto::{Fault, resources};
use ves_types::CtId;

use super::follow::{LATE, SOON};
use crate::coordinator::Coordinator;
use crate::services::fault_of;

impl Coordinator {
    /// Follows resources for ever.
    pub(crate) async fn follow_kills(self) {
        self.follow_for_ever("resources", LATE, Self::follow_kills_once).await;
    }

    async fn follow_kills_once(&self, pause: &mut Duration) -> Result<(), Fault> {
        let mut client = self.services().resources.clone();
        let fail = |status: tonic::Status| fault_of("resources", &status);
        let request = resources::WatchKillsRequest {};
        let mut stream = client.watch_kills(request).await.map_err(fail)?.into_inner();
        *pause = SOON;
        while let Some(resources::Kills { ct, oom_kills }) = stream.message().await.map_err(fail)? {
            self.saw_kills(parse_ct(ct)?, Some(oom_kills));
        }
        Ok(())
    }

    /// Takes in how many of a container's processes were killed; watchers hear of it.
    pub(crate) fn saw_kills(&self, ct: CtId, kills: Option<u64>) {
        if self.state().read().container(ct).is_ok() && self.cache().oom_kills(ct, kills) {
            tracing::warn!(%ct, kills, "processes were killed because memory ran out");
            self.state().touch(ct);
        }
    }
}
