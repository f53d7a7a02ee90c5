//! Fresh figures for what is about to be shown.

use std::collections::BTreeSet;
use std::time::Duration;

use ves_proto::convert::parse_ct;
use ves_proto::{resources, storage};
use ves_types::{Bytes, CtId};

use crate::coordinator::Coordinator;
use crate::services::ask;

impl Coordinator {
    /// Takes in a fresh count of one container's processes.
    pub(super) async fn refresh_count(&self, ct: CtId) {
        if let Ok(Some(group)) = self.services().group(ct).await {
            let numproc = group.rows.iter().find(|row| row.resource == "numproc");
            self.cache().count(ct, numproc.map(|row| row.held));
            self.saw_kills(ct, group.oom_kills, &group.oom_victims);
        }
    }

    /// Takes in fresh figures of `cts` for a list: two calls, whatever their number.
    pub(super) async fn refresh(&self, cts: &BTreeSet<CtId>) {
        if cts.is_empty() {
            return;
        }
        let ids: Vec<u32> = cts.iter().map(|ct| ct.get()).collect();
        let services = self.services().clone();
        let (mut s, mut r) = (services.storage, services.resources);
        let soon = Duration::from_secs(5);
        let groups = resources::ListGroupsRequest { cts: ids.clone(), with_usage: false };
        let (volumes, groups) = tokio::join!(
            ask("storage", soon, s.list_volumes(storage::ListVolumesRequest { cts: ids })),
            ask("resources", soon, r.list_groups(groups)),
        );
        // A service that is away costs its figures, not the list.
        if let Ok(volumes) = volumes {
            let mounted = volumes.volumes.iter().filter(|v| v.mounted);
            let used =
                mounted.filter_map(|v| Some((parse_ct(v.ct).ok()?, v.used_bytes.map(Bytes))));
            self.cache().volumes(cts, &used.collect());
            for volume in &volumes.volumes {
                self.saw_errors(volume);
            }
        }
        if let Ok(groups) = groups {
            let counts = groups.groups.iter().filter_map(|g| {
                let held = g.rows.iter().find(|row| row.resource == "numproc")?.held;
                Some((parse_ct(g.ct).ok()?, held))
            });
            self.cache().counts(cts, &counts.collect());
            for group in &groups.groups {
                if let Ok(ct) = parse_ct(group.ct) {
                    self.saw_kills(ct, group.oom_kills, &group.oom_victims);
                }
            }
        }
    }
}
