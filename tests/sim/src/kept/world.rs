//! What a node holds, to be kept in a file: what a stored state of the coordinator belongs to.
//!
//! It is put on a node by the node's own services, as they made it once.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use ves_daemon::client::Traced;
use ves_fake::{End, Ended, FakeNode, id};
use ves_proto::convert::{
    parse_exit_cause, render_exit_cause, render_features, render_grant, render_limits, render_phase,
};
use ves_proto::lifecycle::lifecycle_service_client::LifecycleServiceClient;
use ves_proto::network::network_service_client::NetworkServiceClient;
use ves_proto::resources::resources_service_client::ResourcesServiceClient;
use ves_proto::storage::storage_service_client::StorageServiceClient;
use ves_proto::{common, lifecycle, network, resources, storage};
use ves_types::layout::Daemon;
use ves_types::{Epoch, ExitCause, Generation};

use super::answers::Answers;
use crate::sim::Sim;

/// A snapshot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// As storage shows it.
    #[serde(with = "wire")]
    pub shown: storage::Snapshot,
    /// What is in it.
    pub contents: u64,
}

/// A volume.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Volume {
    /// Where it came from.
    pub template: String,
    /// Its size.
    pub size: u64,
    /// Whether it is mounted.
    pub mounted: bool,
    /// The id slot of its mount.
    pub slot: u32,
    /// What is in it: a number in place of files.
    pub contents: u64,
    /// The snapshot it was put back to.
    #[serde(with = "wire::option")]
    pub reverted: Option<storage::Reverted>,
}

/// Processes.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Process {
    /// How far.
    pub phase: i32,
    /// How they ended.
    pub end: i32,
    /// With which status.
    pub status: Option<u32>,
    /// How often.
    pub incarnation: u64,
    /// What they run with.
    #[serde(with = "wire")]
    pub spec: lifecycle::ContainerSpec,
    /// How often init was started.
    pub starts: u64,
}

/// All of one container that is there.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Ct {
    /// Its volume.
    pub volume: Option<Volume>,
    /// Its snapshots, by id.
    pub snapshots: BTreeMap<String, Snapshot>,
    /// Its limits.
    #[serde(with = "wire::option")]
    pub group: Option<common::Limits>,
    /// Its processes.
    pub process: Process,
    /// Addresses of its link.
    pub link: Option<BTreeSet<String>>,
    /// Elements of the packet filter, which do not go with the link.
    pub guard: bool,
}

/// What a node and its services hold.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct World {
    /// Templates by name.
    pub templates: BTreeSet<String>,
    /// Whether volumes grow only while they are not mounted.
    pub stiff: bool,
    /// Containers by id.
    pub cts: BTreeMap<u32, Ct>,
    /// What services have accepted: by service and container, the generation and the epoch.
    pub fences: BTreeMap<String, BTreeMap<u32, (Generation, Epoch)>>,
}

impl World {
    /// What a node holds now.
    pub fn of(sim: &Sim) -> Self {
        let node = sim.kernel();
        let templates = node.templates();
        let mut fences: BTreeMap<String, BTreeMap<u32, _>> = BTreeMap::new();
        for service in Daemon::SERVICES {
            for entry in std::fs::read_dir(sim.fences(service)).expect("kept") {
                let entry = entry.expect("listed");
                let ct = entry.file_name().to_string_lossy().parse().expect("an id");
                let accepted: Accepted =
                    serde_json::from_slice(&std::fs::read(entry.path()).expect("read"))
                        .expect("a fence");
                let own = fences.entry(service.name().to_owned()).or_default();
                own.insert(ct, (accepted.generation, accepted.epoch));
            }
        }
        let ids: BTreeSet<u32> = fences.values().flat_map(BTreeMap::keys).copied().collect();
        let one = |ct| {
            let mut there = Ct::of(node, ct);
            let mut client = StorageServiceClient::new(sim.channel_to(Daemon::Storage));
            let request = storage::ListSnapshotsRequest { ct, measure: false };
            let list = sim.block(client.list_snapshots(request)).expect("listed").into_inner();
            let contents = node.ct(ct).snapshots;
            for shown in list.snapshots {
                let contents = contents[&shown.id.parse().expect("an id")];
                there.snapshots.insert(shown.id.clone(), Snapshot { shown, contents });
            }
            (ct, there)
        };
        Self { templates, stiff: false, cts: ids.into_iter().map(one).collect(), fences }
    }

    /// Puts all of it on a node, whose services are up; `stored`: what its coordinator has stored.
    pub fn settle(&self, sim: &Sim, stored: &Answers) {
        let node = sim.kernel();
        for name in &self.templates {
            node.volumes.add_template(&name.parse().expect("a name"));
        }
        let ids: BTreeSet<_> = self.fences.values().flat_map(BTreeMap::keys).collect();
        {
            for ct in ids {
                let spec = stored.containers.iter().find(|c| c.id == *ct);
                let spec = spec.map(|c| c.running_spec.as_ref().unwrap_or(&c.spec));
                let (addresses, inodes) =
                    spec.map(|s| (s.addresses.as_slice(), s.disk_inodes)).unwrap_or_default();
                let there = self.cts.get(ct).cloned().unwrap_or_default();
                sim.block(self.settle_one(sim, *ct, &there, inodes));
                if there.guard && there.link.is_none() {
                    let addresses = addresses.iter().map(|a| a.parse().expect("an address"));
                    node.links.state().container(id(*ct)).sources = addresses.collect();
                }
                there.process.settle(node, *ct);
            }
        }
        node.volumes.grow_online(!self.stiff);
    }

    fn fence(&self, service: Daemon, ct: u32) -> Option<common::Fence> {
        let (generation, epoch) = *self.fences.get(service.name())?.get(&ct)?;
        Some(common::Fence { ct, generation: generation.0, epoch: epoch.0 })
    }

    async fn settle_one(&self, sim: &Sim, ct: u32, there: &Ct, inodes: Option<u64>) {
        let known = "as it was";
        let (node, dry_run) = (sim.kernel(), false);
        let alive = there.process.phase > lifecycle::Phase::Absent as i32;
        let mut volumes = StorageServiceClient::new(sim.channel_to(Daemon::Storage));
        match (self.fence(Daemon::Storage, ct), &there.volume) {
            (None, _) => {}
            (fence, None) => {
                let request = storage::RemoveVolumeRequest { fence, dry_run };
                volumes.remove_volume(request).await.expect(known);
            }
            (fence, Some(volume)) => {
                let at = |generation| Some(common::Fence { ct, generation, epoch: 1 });
                let ensure = |fence, mounted| {
                    let spec = Some(storage::VolumeSpec {
                        template: volume.template.clone(),
                        size_bytes: volume.size,
                        inodes,
                        // Of a foreign one that is not mounted it says nothing.
                        id_slot: volume.slot.max(16),
                        mounted,
                    });
                    storage::EnsureVolumeRequest { fence, spec, dry_run }
                };
                volumes.ensure_volume(ensure(at(1), false)).await.expect(known);
                let mut snapshots: Vec<_> = there.snapshots.values().collect();
                snapshots.sort_by_key(|s| s.shown.generation);
                let mut reverted = volume.reverted.clone();
                for Snapshot { shown, contents } in snapshots {
                    if reverted.as_ref().is_some_and(|r| r.generation < shown.generation) {
                        revert(&mut volumes, ct, reverted.take()).await;
                    }
                    node.write(ct, *contents);
                    let (fence, id) = (at(shown.generation), shown.id.clone());
                    let name = shown.name.clone();
                    let request = storage::EnsureSnapshotRequest { fence, id, name, dry_run };
                    volumes.ensure_snapshot(request).await.expect(known);
                }
                revert(&mut volumes, ct, reverted).await;
                node.write(ct, volume.contents);
                volumes.ensure_volume(ensure(fence, volume.mounted)).await.expect(known);
            }
        }
        if let Some(fence) = self.fence(Daemon::Resources, ct) {
            let mut groups = ResourcesServiceClient::new(sim.channel_to(Daemon::Resources));
            let (fence, limits) = (Some(fence), there.group.clone());
            if limits.is_some() {
                let request =
                    resources::EnsureLimitsRequest { fence, limits, dry_run, device: None };
                groups.ensure_limits(request).await.expect(known);
            } else {
                let request = resources::RemoveLimitsRequest { fence, dry_run };
                groups.remove_limits(request).await.expect(known);
            }
        }
        if let Some(fence) = self.fence(Daemon::Lifecycle, ct) {
            let mut processes = LifecycleServiceClient::new(sim.channel_to(Daemon::Lifecycle));
            for phase in [lifecycle::Phase::Created, lifecycle::Phase::Running] {
                let request = lifecycle::EnsureContainerRequest {
                    fence: Some(fence),
                    spec: alive.then(|| there.process.spec.clone()),
                    phase: if alive { phase } else { lifecycle::Phase::Absent }.into(),
                    ..Default::default()
                };
                if !alive || there.process.phase >= phase.into() {
                    processes.ensure_container(request).await.expect(known);
                }
            }
        }
        if let Some(fence) = self.fence(Daemon::Network, ct) {
            let mut links = NetworkServiceClient::new(sim.channel_to(Daemon::Network));
            let fence = Some(fence);
            if let Some(addresses) = &there.link {
                let addresses = addresses.iter().cloned().collect();
                let spec = Some(network::InterfaceSpec { addresses });
                let request = network::EnsureInterfaceRequest { fence, spec, dry_run };
                links.ensure_interface(request).await.expect(known);
            } else {
                let request = network::RemoveInterfaceRequest { fence, dry_run };
                links.remove_interface(request).await.expect(known);
            }
        }
    }
}

/// Goes back to a snapshot, which may be gone since.
async fn revert(
    volumes: &mut StorageServiceClient<Traced>,
    ct: u32,
    reverted: Option<storage::Reverted>,
) {
    let Some(storage::Reverted { snapshot: id, generation }) = reverted else { return };
    let (known, dry_run) = ("as it was", false);
    let fence = Some(common::Fence { ct, generation, epoch: 1 });
    let list = storage::ListSnapshotsRequest { ct, measure: false };
    let list = volumes.list_snapshots(list).await.expect(known).into_inner().snapshots;
    let gone = !list.iter().any(|s| s.id == id);
    if gone {
        let (id, name) = (id.clone(), String::new());
        let request = storage::EnsureSnapshotRequest { fence, id, name, dry_run };
        volumes.ensure_snapshot(request).await.expect(known);
    }
    let request = storage::RevertVolumeRequest { fence, snapshot: id.clone(), dry_run };
    volumes.revert_volume(request).await.expect(known);
    if gone {
        let request = storage::RemoveSnapshotRequest { fence, id, dry_run };
        volumes.remove_snapshot(request).await.expect(known);
    }
}

impl Process {
    /// Puts what no service was asked for on a node: how often they ran, and how they ended by themselves.
    fn settle(&self, node: &FakeNode, ct: u32) {
        let end = parse_exit_cause(self.end());
        node.processes.change(id(ct), |model| {
            model.starts = self.starts;
            model.run = self.incarnation;
            if let Some(monitor) = &mut model.state.monitor {
                // A run's number is its end's.
                monitor.incarnation = self.incarnation + 1;
                model.run = monitor.incarnation;
            }
            model.ended = end.map(|cause| End {
                incarnation: self.incarnation,
                cause,
                ended: Ended::Code(self.status.unwrap_or_default()),
                started_unix_ms: 1,
            });
            // What was stopped was forgotten.
            if model.state.monitor.is_none() && end.is_some_and(|e| e > ExitCause::Killed) {
                model.state.last = model.ended;
            }
        });
    }

    fn end(&self) -> lifecycle::EndReason {
        self.end.try_into().unwrap_or_default()
    }
}

impl Ct {
    /// One container of a node, all but its snapshots.
    pub fn of(node: &FakeNode, ct: u32) -> Self {
        let there = node.ct(ct);
        let (spec, guard) = (there.process.spec.as_ref(), there.guard());
        let ended = there.process.ended;
        let status = ended.map(|e| match e.ended {
            Ended::Code(code) => code,
            Ended::Signal(signal) => 128 + signal,
        });
        Self {
            volume: there.volume.map(|v| Volume {
                template: v.template,
                size: v.size,
                mounted: v.mounted,
                slot: v.slot.unwrap_or_default(),
                contents: v.contents,
                reverted: v.reverted.map(|r| storage::Reverted {
                    snapshot: r.snapshot.to_string(),
                    generation: r.generation.0,
                }),
            }),
            snapshots: BTreeMap::new(),
            group: there.group.as_ref().map(render_limits),
            process: Process {
                phase: render_phase(there.process.phase).into(),
                end: render_exit_cause(ended.map(|e| e.cause)).into(),
                status,
                incarnation: ended.map_or(0, |e| e.incarnation),
                spec: spec
                    .map(|s| lifecycle::ContainerSpec {
                        id_slot: s.slot.get(),
                        hostname: s.hostname.as_ref().map(ToString::to_string).unwrap_or_default(),
                        init: s.init.words().to_vec(),
                        nameservers: s.nameservers.iter().map(ToString::to_string).collect(),
                        search_domains: s.search.iter().map(ToString::to_string).collect(),
                        max_ptys: s.max_ptys,
                        shm_bytes: s.shm_bytes,
                        ram_bytes: s.ram_bytes,
                        grants: s.devices.iter().map(render_grant).collect(),
                        capabilities_off: s
                            .capabilities_off
                            .iter()
                            .map(ToString::to_string)
                            .collect(),
                        features: Some(render_features(s.features)),
                    })
                    .unwrap_or_default(),
                starts: there.process.starts,
            },
            guard,
            link: there.link,
        }
    }
}

/// A fence as services keep it.
#[derive(Deserialize)]
struct Accepted {
    generation: Generation,
    epoch: Epoch,
}

/// Messages as their bytes on the wire, in hexadecimal: these stay readable as the protocol grows.
mod wire {
    use prost::Message;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    fn hex(message: &impl Message) -> String {
        message.encode_to_vec().iter().map(|b| format!("{b:02x}")).collect()
    }

    fn message<M: Message + Default, E: Error>(text: &str) -> Result<M, E> {
        let digits = text.as_bytes().chunks(2);
        let byte = |d| std::str::from_utf8(d).ok().and_then(|d| u8::from_str_radix(d, 16).ok());
        let bytes: Option<Vec<u8>> = digits.map(byte).collect();
        let bytes = bytes.ok_or_else(|| E::custom("no bytes in hexadecimal"))?;
        M::decode(bytes.as_slice()).map_err(E::custom)
    }

    pub(in super::super) fn serialize<M: Message, S: Serializer>(
        message: &M,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.serialize_str(&hex(message))
    }

    pub(in super::super) fn deserialize<'de, M: Message + Default, D: Deserializer<'de>>(
        from: D,
    ) -> Result<M, D::Error> {
        message(&String::deserialize(from)?)
    }

    /// The same where there may be none.
    pub(in super::super) mod option {
        use super::{Deserialize, Deserializer, Message, Serializer, hex, message};

        pub(in super::super) fn serialize<M: Message, S: Serializer>(
            message: &Option<M>,
            to: S,
        ) -> Result<S::Ok, S::Error> {
            match message {
                Some(message) => to.serialize_some(&hex(message)),
                None => to.serialize_none(),
            }
        }

        pub(in super::super) fn deserialize<'de, M: Message + Default, D: Deserializer<'de>>(
            from: D,
        ) -> Result<Option<M>, D::Error> {
            Option::<String>::deserialize(from)?.map(|text| message(&text)).transpose()
        }
    }
}
