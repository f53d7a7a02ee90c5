//! Following what storage tells of errors in mounted file systems, so that whoever watches a container hears
//! of them.
//!
//! Never here: what is done about them, which is somebody's restart.

use std::time::Duration;

use ves_proto::convert::parse_ct;
use ves_proto::{Fault, storage};

use super::follow::{LATE, SOON};
use crate::coordinator::Coordinator;
use crate::services::fault_of;

impl Coordinator {
    /// Follows storage for ever.
    pub(crate) async fn follow_errors(self) {
        self.follow_for_ever("storage", LATE, Self::follow_errors_once).await;
    }

    async fn follow_errors_once(&self, pause: &mut Duration) -> Result<(), Fault> {
        let mut client = self.services().storage.clone();
        let fail = |status: tonic::Status| fault_of("storage", &status);
        let request = storage::WatchErrorsRequest {};
        let mut stream = client.watch_errors(request).await.map_err(fail)?.into_inner();
        *pause = SOON;
        self.service_is_back("storage");
        while let Some(volume) = stream.message().await.map_err(fail)? {
            self.saw_errors(&volume);
        }
        Ok(())
    }

    /// Takes in what storage tells of a volume; watchers hear of it.
    pub(crate) fn saw_errors(&self, volume: &storage::Volume) {
        let damage = volume.damage.as_ref().map(|damage| damage.errors);
        if let Ok(ct) = parse_ct(volume.ct)
            && self.state().read().container(ct).is_ok()
            && self.cache().damage(ct, damage)
        {
            self.state().touch(ct);
        }
    }
}
