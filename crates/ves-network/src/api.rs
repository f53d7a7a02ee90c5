//! The gRPC face: parse, call, render. No decisions.

use std::collections::BTreeSet;

use tonic::service::Routes;
use tonic::{Request, Response, Status};
use ves_daemon::{CHANGE, Call, Done, Policy, READ};
use ves_host::netlink::route::Traffic;
use ves_host::nft::Owner;
use ves_proto::convert::{parse_ct, parse_fence};
use ves_proto::network::network_service_server::{NetworkService, NetworkServiceServer};
use ves_proto::{Fault, Reason, network as pb};
use ves_types::layout::host_link;
use ves_types::{CtAddress, CtId};

use crate::host::Through;
use crate::plan::Desired;
use crate::plan::node::{Room, Space};
use crate::service::{Interface, NodeFacts, Service};

/// Full names of the gRPC services.
pub const SERVICES: &[&str] = &["ves.network.v1.NetworkService"];

/// Who may call what.
pub const POLICY: Policy = &[
    ("/ves.network.v1.NetworkService/EnsureInterface", CHANGE),
    ("/ves.network.v1.NetworkService/RemoveInterface", CHANGE),
    ("/ves.network.v1.NetworkService/GetInterface", READ),
    ("/ves.network.v1.NetworkService/ListInterfaces", READ),
    ("/ves.network.v1.NetworkService/ListTraffic", READ),
    ("/ves.network.v1.NetworkService/GetNode", READ),
];

/// More addresses than this are an error of the caller.
const ADDRESSES_MAX: usize = 1024;

/// The routes of a service.
pub fn routes(service: Service) -> Routes {
    Routes::new(NetworkServiceServer::new(Api { service }))
}

struct Api {
    service: Service,
}

fn parse_spec(spec: Option<pb::InterfaceSpec>) -> Result<Desired, Fault> {
    let pb::InterfaceSpec { addresses } = spec.ok_or_else(|| Fault::missing("spec"))?;
    let bad = |why: String| Fault::new(Reason::BadValue, why).fact("field", "spec.addresses");
    if addresses.len() > ADDRESSES_MAX {
        return Err(bad(format!("a container has at most {ADDRESSES_MAX} addresses")));
    }
    let mut parsed: Vec<CtAddress> = Vec::with_capacity(addresses.len());
    let mut seen = BTreeSet::new();
    for address in &addresses {
        let address =
            address.parse::<CtAddress>().map_err(|e| Fault::bad_value("spec.addresses", &e))?;
        if !seen.insert(address) {
            return Err(bad(format!("address {address} is given twice")));
        }
        parsed.push(address);
    }
    Ok(Desired { addresses: parsed })
}

fn render(interface: Interface) -> pb::Interface {
    let Interface { ct, generation, addresses, through, spoofed } = interface;
    let traffic = through.traffic;
    pb::Interface {
        ct: ct.get(),
        generation: generation.0,
        host_link: host_link(ct),
        addresses: addresses.iter().map(ToString::to_string).collect(),
        traffic: Some(render_traffic((ct, through))),
        bytes_out: traffic.rx_bytes,
        bytes_in: traffic.tx_bytes,
        packets_out: traffic.rx_packets,
        packets_in: traffic.tx_packets,
        spoofed_packets: spoofed,
        steps: Vec::new(),
    }
}

/// What the node's end received is what the container has transmitted.
fn render_traffic((ct, through): (CtId, Through)) -> pb::Traffic {
    let Through { link, traffic } = through;
    let Traffic { rx_bytes, rx_packets, tx_bytes, tx_packets, rx_dropped, tx_dropped } = traffic;
    let counts = |bytes, packets, dropped| Some(pb::Counts { bytes, packets, dropped });
    pb::Traffic {
        ct: ct.get(),
        received: counts(tx_bytes, tx_packets, tx_dropped),
        transmitted: counts(rx_bytes, rx_packets, rx_dropped),
        link,
    }
}

fn render_room((room, space): (&Room, &Space)) -> pb::Room {
    let kind = match room {
        Room::NeighboursV4 => pb::RoomKind::NeighboursV4,
        Room::NeighboursV6 => pb::RoomKind::NeighboursV6,
        Room::Terminals => pb::RoomKind::Terminals,
        Room::OwnTerminals => pb::RoomKind::OwnTerminals,
        Room::AsyncEvents => pb::RoomKind::AsyncEvents,
    };
    let least = room.least().parse().unwrap_or_default();
    pb::Room { kind: kind.into(), limit: space.limit, least, used: space.used }
}

const fn render_guard(guard: Option<Owner>) -> pb::Guard {
    match guard {
        None => pb::Guard::Absent,
        Some(Owner::Nobody | Owner::Gone) => pb::Guard::Watched,
        Some(Owner::Somebody) => pb::Guard::Owned,
    }
}

#[tonic::async_trait]
impl NetworkService for Api {
    async fn ensure_interface(
        &self,
        request: Request<pb::EnsureInterfaceRequest>,
    ) -> Result<Response<pb::Interface>, Status> {
        let pb::EnsureInterfaceRequest { fence, spec, dry_run } = request.into_inner();
        let (call, desired) = (Call { fence: parse_fence(fence)?, dry_run }, parse_spec(spec)?);
        let Done { answer, steps } = self.service.ensure(call, desired).await?;
        let planned = || pb::Interface { ct: call.fence.ct.get(), ..pb::Interface::default() };
        Ok(Response::new(pb::Interface { steps, ..answer.map_or_else(planned, render) }))
    }

    async fn remove_interface(
        &self,
        request: Request<pb::RemoveInterfaceRequest>,
    ) -> Result<Response<pb::RemoveInterfaceResponse>, Status> {
        let pb::RemoveInterfaceRequest { fence, dry_run } = request.into_inner();
        let call = Call { fence: parse_fence(fence)?, dry_run };
        let Done { answer: _, steps } = self.service.remove(call).await?;
        Ok(Response::new(pb::RemoveInterfaceResponse { steps }))
    }

    async fn get_interface(
        &self,
        request: Request<pb::GetInterfaceRequest>,
    ) -> Result<Response<pb::Interface>, Status> {
        let pb::GetInterfaceRequest { ct } = request.into_inner();
        Ok(Response::new(render(self.service.get(parse_ct(ct)?).await?)))
    }

    async fn list_interfaces(
        &self,
        request: Request<pb::ListInterfacesRequest>,
    ) -> Result<Response<pb::ListInterfacesResponse>, Status> {
        let pb::ListInterfacesRequest {} = request.into_inner();
        let interfaces = self.service.list().await?.into_iter().map(render).collect();
        Ok(Response::new(pb::ListInterfacesResponse { interfaces }))
    }

    async fn list_traffic(
        &self,
        request: Request<pb::ListTrafficRequest>,
    ) -> Result<Response<pb::ListTrafficResponse>, Status> {
        let pb::ListTrafficRequest {} = request.into_inner();
        let (links, spoofed_packets) = self.service.traffic().await?;
        let links = links.into_iter().map(render_traffic).collect();
        Ok(Response::new(pb::ListTrafficResponse { links, spoofed_packets }))
    }

    async fn get_node(
        &self,
        request: Request<pb::GetNodeRequest>,
    ) -> Result<Response<pb::GetNodeResponse>, Status> {
        let pb::GetNodeRequest {} = request.into_inner();
        let NodeFacts { rooms, guard } = self.service.node().await?;
        Ok(Response::new(pb::GetNodeResponse {
            rooms: rooms.iter().map(render_room).collect(),
            guard: render_guard(guard).into(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rpc_has_its_row() {
        ves_daemon::check_service_policy(SERVICES, POLICY).expect("policy and descriptors agree");
    }

    #[test]
    fn what_the_node_receives_the_container_has_sent() {
        let ct = CtId::try_from(7).expect("valid");
        let traffic = Traffic { rx_bytes: 1, rx_dropped: 2, tx_packets: 3, ..Traffic::default() };
        let told = render_traffic((ct, Through { link: 4, traffic }));
        assert_eq!(told.link, 4);
        let counts = |bytes, packets, dropped| Some(pb::Counts { bytes, packets, dropped });
        assert_eq!((told.received, told.transmitted), (counts(0, 3, 0), counts(1, 0, 2)));
    }

    #[test]
    fn bad_addresses_name_their_field() {
        let parse = |addresses: &[&str]| {
            let addresses = addresses.iter().map(ToString::to_string).collect();
            parse_spec(Some(pb::InterfaceSpec { addresses })).map_err(|f| f.facts["field"].clone())
        };
        assert!(parse(&[]).is_ok());
        let order = parse(&["192.0.2.2", "192.0.2.1/32"]).expect("valid");
        assert_eq!(order.addresses[0].to_string(), "192.0.2.2", "order is kept");
        for bad in [&["192.0.2.1/24"][..], &["x"], &["fe80::1"], &["192.0.2.1", "192.0.2.1/32"]] {
            assert_eq!(parse(bad), Err("spec.addresses".to_owned()), "{bad:?}");
        }
        let many: Vec<_> = (0..=ADDRESSES_MAX).map(|n| format!("2001:db8::{n:x}:1")).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        assert_eq!(parse(&many), Err("spec.addresses".to_owned()));
        assert_eq!(parse_spec(None).map_err(|f| f.reason), Err(Reason::MissingField));
    }
}
