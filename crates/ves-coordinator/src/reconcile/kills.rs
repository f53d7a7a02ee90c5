//! Following what resources tells of processes that the kernel killed because memory ran out, so that whoever
//! watches a container hears of them.
//!
//! Never here: what is done about them; a larger limit is somebody's decision.

use std::time::Duration;

use ves_proto::convert::{parse_ct, parse_victim};
use ves_proto::{Fault, Reason, common, resources};
use ves_types::CtId;

use super::follow::{LATE, SOON};
use crate::coordinator::Coordinator;
use crate::services::fault_of;

/// How an init ended that was killed: 128 and SIGKILL.
const KILLED: u32 = 128 + 9;

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
        self.service_is_back("resources");
        while let Some(kills) = stream.message().await.map_err(fail)? {
            let resources::Kills { ct, oom_kills, oom_victims } = kills;
            self.saw_kills(parse_ct(ct)?, Some(oom_kills), &oom_victims);
        }
        Ok(())
    }

    /// Takes in how many of a container's processes were killed, and the last of them; watchers hear of it.
    pub(crate) fn saw_kills(&self, ct: CtId, kills: Option<u64>, victims: &[common::Victim]) {
        let victims: Vec<_> = victims.iter().map(parse_victim).collect();
        let last = victims.last().map(ToString::to_string);
        if self.state().read().container(ct).is_ok() && self.cache().oom_kills(ct, kills, victims) {
            tracing::warn!(%ct, kills, last, "processes were killed because memory ran out");
            self.state().touch(ct);
            self.publish_kills(ct);
        }
    }

    /// The fault of an init that ended at once, with the reason where that is memory.
    pub(crate) async fn explained(&self, ct: CtId, mut fault: Fault) -> Fault {
        let status = fault.facts.get("status").and_then(|status| status.parse().ok());
        if fault.reason == Reason::InitExited
            && let Some(status) = status
            && let Some(starved) = self.starved(ct, status).await
        {
            fault.message = format!("{}; {starved}", fault.message);
        }
        fault
    }

    /// What an operator should know of a container whose init ended with this status, which a killed one
    /// does, and that had no memory left.
    pub(crate) async fn starved(&self, ct: CtId, status: u32) -> Option<String> {
        if status != KILLED {
            return None;
        }
        let group = self.services().group(ct).await.ok().flatten()?;
        self.saw_kills(ct, group.oom_kills, &group.oom_victims);
        let kills = group.oom_kills.filter(|kills| *kills > 0)?;
        let last = group.oom_victims.last().map(parse_victim);
        let last = last.map(|victim| format!(", last {victim}")).unwrap_or_default();
        Some(format!(
            "memory ran out: {kills} of its processes were killed for that{last}, its init perhaps \
             among them; give it more by `set --ram`"
        ))
    }
}
