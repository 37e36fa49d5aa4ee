//! What a netlink message says, as a change of the tables.

use crate::topology::{Hop, Link, LinkKind, Mac, Neighbour, Prefix, Route, RouteAction, Topology, VlanTag};
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{
    InfoBond, InfoData, InfoKind, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, LinkXdp,
};
use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteNextHopFlags, RouteType, RouteVia,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Puts into the tables what a message about a link, an address or a neighbour says. True where they changed.
pub(super) fn apply(topology: &mut Topology, message: &RouteNetlinkMessage) -> bool {
    match message {
        RouteNetlinkMessage::NewLink(message) => match link(message) {
            Some(link) if topology.link(link.index) == Some(&link) => false,
            Some(link) => {
                topology.set_link(link);
                true
            }
            None => false,
        },
        // The bridge says in the same words that a port left it.
        RouteNetlinkMessage::DelLink(message) if message.header.interface_family == AddressFamily::Unspec => {
            topology.remove_link(message.header.index);
            true
        }
        RouteNetlinkMessage::NewAddress(message) => match own_address(message) {
            Some((index, prefix)) if !topology.addresses_of(index).any(|known| known == prefix) => {
                topology.set_address(index, prefix.address, prefix.length);
                true
            }
            _ => false,
        },
        RouteNetlinkMessage::DelAddress(message) => match own_address(message) {
            Some((index, prefix)) => {
                topology.remove_address(index, prefix.address);
                true
            }
            None => false,
        },
        RouteNetlinkMessage::NewNeighbour(message) => apply_neighbour(topology, message, false),
        RouteNetlinkMessage::DelNeighbour(message) => apply_neighbour(topology, message, true),
        _ => false,
    }
}

/// A route of the main table that packets could be sent by.
pub(super) fn route(message: &RouteMessage) -> Option<Route> {
    let mut table = u32::from(message.header.table);
    let mut destination = None;
    let (mut metric, mut source, mut mtu) = (0, None, None);
    let mut hops = Vec::new();
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(id) => table = *id,
            RouteAttribute::Destination(address) => destination = ip(address),
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::PrefSource(address) => source = ip(address),
            RouteAttribute::Metrics(metrics) => {
                mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
            }
            RouteAttribute::MultiPath(ways) => hops.extend(
                ways.iter()
                    .filter(|way| !way.flags.contains(RouteNextHopFlags::Dead))
                    .map(|way| Hop { interface: way.interface_index, gateway: gateway(&way.attributes) }),
            ),
            _ => {}
        }
    }
    if table != u32::from(RouteHeader::RT_TABLE_MAIN) {
        return None;
    }
    let action = match message.header.kind {
        RouteType::Unicast => {
            let interface = message.attributes.iter().find_map(|attribute| match attribute {
                RouteAttribute::Oif(index) => Some(*index),
                _ => None,
            });
            hops.extend(interface.map(|interface| Hop { interface, gateway: gateway(&message.attributes) }));
            RouteAction::Send(hops)
        }
        RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit => RouteAction::Refuse,
        _ => return None,
    };
    let any = match message.header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let destination = Prefix::new(destination.unwrap_or(any), message.header.destination_prefix_length);
    Some(Route { destination, metric, source, action, mtu })
}

fn link(message: &LinkMessage) -> Option<Link> {
    // Bridge and IPv6 code report the same link in messages of their own, with other attributes.
    if message.header.interface_family != AddressFamily::Unspec {
        return None;
    }
    let mut link = Link {
        index: message.header.index,
        up: message.header.flags.contains(LinkFlags::Up),
        carrier: message.header.flags.contains(LinkFlags::LowerUp),
        kind: match message.header.link_layer_type {
            LinkLayerType::Ether => LinkKind::Port,
            LinkLayerType::Loopback => LinkKind::Loopback,
            _ => LinkKind::Other,
        },
        ..Link::default()
    };
    let mut foreign = false;
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Address(bytes) => link.mac = mac(bytes).unwrap_or_default(),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Controller(index) => link.controller = (*index != 0).then_some(*index),
            LinkAttribute::Link(index) => link.lower = (*index != 0).then_some(*index),
            LinkAttribute::LinkNetNsId(_) => foreign = true,
            LinkAttribute::LinkInfo(infos) => describe(&mut link, infos),
            LinkAttribute::Xdp(xdp) => {
                link.xdp_program = xdp.iter().find_map(|xdp| match xdp {
                    LinkXdp::ProgId(id) if *id != 0 => Some(*id),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    // The index of a lower link in another namespace means another link in this one.
    if foreign || !matches!(link.kind, LinkKind::Vlan(_)) {
        link.lower = None;
    }
    Some(link)
}

/// What the kind of a link says: only devices that carry frames as they are count as ports.
fn describe(link: &mut Link, infos: &[LinkInfo]) {
    for info in infos {
        match info {
            LinkInfo::Kind(kind) if link.kind != LinkKind::Loopback => {
                link.kind = match kind {
                    InfoKind::Bond => LinkKind::Bond,
                    InfoKind::Bridge => LinkKind::Bridge,
                    InfoKind::Vlan => LinkKind::Vlan(VlanTag { protocol: 0x8100, id: 0 }),
                    InfoKind::Veth | InfoKind::Tun | InfoKind::MacVlan | InfoKind::Netkit | InfoKind::Dummy => {
                        link.kind
                    }
                    _ => LinkKind::Other,
                }
            }
            LinkInfo::Data(InfoData::Bond(data)) => {
                link.active_port = data.iter().find_map(|item| match item {
                    InfoBond::ActivePort(index) if *index != 0 => Some(*index),
                    _ => None,
                });
            }
            LinkInfo::Data(InfoData::Vlan(data)) => {
                if let LinkKind::Vlan(tag) = &mut link.kind {
                    for item in data {
                        match item {
                            InfoVlan::Id(id) => tag.id = *id,
                            InfoVlan::Protocol(protocol) => tag.protocol = u16::from(*protocol),
                            _ => {}
                        }
                    }
                }
            }
            _ => {}
        }
    }
}

fn own_address(message: &AddressMessage) -> Option<(u32, Prefix)> {
    // The local one is this machine's where both are given (point-to-point links).
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let address = local.or_else(|| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })?;
    Some((message.header.index, Prefix { address, length: message.header.prefix_len }))
}

fn apply_neighbour(topology: &mut Topology, message: &NeighbourMessage, gone: bool) -> bool {
    let interface = message.header.ifindex;
    let mut hardware = None;
    let (mut destination, mut bridge) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => {
                destination = Some(IpAddr::V4(*address))
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => {
                destination = Some(IpAddr::V6(*address));
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => hardware = mac(bytes),
            NeighbourAttribute::Controller(index) => bridge = Some(*index),
            _ => {}
        }
    }
    if message.header.family == AddressFamily::Bridge {
        let (Some(bridge), Some(station)) = (bridge, hardware) else { return false };
        if gone {
            topology.remove_station(bridge, station);
        } else {
            topology.set_station(bridge, station, interface);
        }
        return true;
    }
    let Some(address) = destination else { return false };
    let before = topology.neighbour(interface, address);
    if gone {
        topology.remove_neighbour(interface, address);
        return before.is_some();
    }
    let state = match (message.header.state, hardware) {
        (NeighbourState::Failed, _) => Neighbour::Failed,
        (NeighbourState::Incomplete | NeighbourState::None, _) | (_, None) => Neighbour::Asked,
        (_, Some(mac)) => Neighbour::Known(mac),
    };
    // A neighbour that failed stays failed while it is asked again, so that its reason does not flicker.
    if state == Neighbour::Asked && before == Some(Neighbour::Failed) {
        return false;
    }
    topology.set_neighbour(interface, address, state);
    before != Some(state)
}

fn gateway(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(address) => ip(address),
        RouteAttribute::Via(RouteVia::Inet(address)) => Some(IpAddr::V4(*address)),
        RouteAttribute::Via(RouteVia::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

fn mac(bytes: &[u8]) -> Option<Mac> {
    bytes.try_into().ok()
}
