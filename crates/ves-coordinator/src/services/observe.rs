//! Looking at containers: one in all four services, or all of them at once.

use std::collections::HashMap;
use std::time::Duration;

use ves_proto::convert::parse_ct;
use ves_proto::{Fault, lifecycle, network, resources, storage};
use ves_types::CtId;

use super::clients::{Services, ask, found};
use super::wire::{seen_group, seen_link, seen_process, seen_snapshot, seen_volume};
use crate::container::observed::{Observed, ProcessSeen};
use crate::usage::reading::Counted;

/// How long a question may take.
const QUESTION: Duration = Duration::from_secs(20);
/// How long measuring snapshots may take.
const MEASURE: Duration = Duration::from_secs(60);
/// How long a list of everything may take.
pub const LIST: Duration = Duration::from_secs(60);

impl Services {
    /// Looks at one container in all four.
    pub async fn observe(&self, ct: CtId) -> Result<Observed, Fault> {
        let (volume, snapshots, group, process, link) = tokio::join!(
            self.volume(ct),
            self.snapshots(ct, false),
            self.group(ct),
            self.process(ct),
            self.link(ct)
        );
        let (group, link) = (group?, link?);
        let traffic = link.as_ref().and_then(|link| link.traffic.as_ref());
        Ok(Observed {
            counted: Counted::of(None, traffic),
            volume: volume?.map(|v| seen_volume(&v)).transpose()?,
            snapshots: snapshots?.iter().map(seen_snapshot).collect::<Result<_, _>>()?,
            group: group.as_ref().map(seen_group),
            process: process?,
            link: link.as_ref().map(seen_link).transpose()?,
        })
    }

    /// Storage's share.
    pub async fn volume(&self, ct: CtId) -> Result<Option<storage::Volume>, Fault> {
        let mut client = self.storage.clone();
        let request = storage::GetVolumeRequest { ct: ct.get() };
        found(ask("storage", QUESTION, client.get_volume(request)).await)
    }

    /// Storage's snapshots, oldest first; where `measure` says so, with what only each has.
    pub async fn snapshots(
        &self,
        ct: CtId,
        measure: bool,
    ) -> Result<Vec<storage::Snapshot>, Fault> {
        let mut client = self.storage.clone();
        let request = storage::ListSnapshotsRequest { ct: ct.get(), measure };
        let within = if measure { MEASURE } else { QUESTION };
        Ok(ask("storage", within, client.list_snapshots(request)).await?.snapshots)
    }

    /// Resources' share.
    pub async fn group(&self, ct: CtId) -> Result<Option<resources::Group>, Fault> {
        let mut client = self.resources.clone();
        let request = resources::GetGroupRequest { ct: ct.get() };
        found(ask("resources", QUESTION, client.get_group(request)).await)
    }

    /// Lifecycle's share.
    pub async fn process(&self, ct: CtId) -> Result<ProcessSeen, Fault> {
        let mut client = self.lifecycle.clone();
        let request = lifecycle::GetContainerRequest { ct: ct.get() };
        let answer = found(ask("lifecycle", QUESTION, client.get_container(request)).await)?;
        Ok(answer.as_ref().map(seen_process).unwrap_or_default())
    }

    /// Network's share.
    pub async fn link(&self, ct: CtId) -> Result<Option<network::Interface>, Fault> {
        let mut client = self.network.clone();
        let request = network::GetInterfaceRequest { ct: ct.get() };
        found(ask("network", QUESTION, client.get_interface(request)).await)
    }

    /// Looks at all containers in all four: all but snapshots: what is wanted of those is an operation's, which looks itself.
    pub async fn observe_all(&self) -> Result<HashMap<CtId, Observed>, Fault> {
        let services = self.clone();
        let (mut s, mut r, mut l, mut n) =
            (services.storage, services.resources, services.lifecycle, services.network);
        let (volumes, groups, processes, links) = tokio::join!(
            ask("storage", LIST, s.list_volumes(storage::ListVolumesRequest { cts: vec![] })),
            ask("resources", LIST, r.list_groups(resources::ListGroupsRequest::default())),
            ask("lifecycle", LIST, l.list_containers(lifecycle::ListContainersRequest {})),
            ask("network", LIST, n.list_interfaces(network::ListInterfacesRequest {})),
        );
        let mut all: HashMap<CtId, Observed> = HashMap::new();
        for v in volumes?.volumes {
            all.entry(parse_ct(v.ct)?).or_default().volume = Some(seen_volume(&v)?);
        }
        for g in groups?.groups {
            all.entry(parse_ct(g.ct)?).or_default().group = Some(seen_group(&g));
        }
        for c in processes?.containers {
            all.entry(parse_ct(c.ct)?).or_default().process = seen_process(&c);
        }
        for i in links?.interfaces {
            all.entry(parse_ct(i.ct)?).or_default().link = Some(seen_link(&i)?);
        }
        Ok(all)
    }
}
