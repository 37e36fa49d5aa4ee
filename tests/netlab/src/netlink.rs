//! Requests over netlink, each in the namespace of the calling thread. It holds no state: a socket lives for one
//! request, which is fast enough for building networks.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use futures_util::TryStreamExt;
use rtnetlink::packet_route::address::{AddressHeaderFlags, AddressMessage};
use rtnetlink::packet_route::link::{InfoBridge, InfoData, InfoVeth, LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::packet_route::neighbour::NeighbourState;
use rtnetlink::packet_route::route::RouteMessage;
use rtnetlink::{
    AddressMessageBuilder, Error, Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder,
};

use rustix::io::Errno;

use crate::LabError;

/// One end of a veth pair that is to be made.
pub(crate) struct VethEnd<'a> {
    pub(crate) interface: &'a str,
    pub(crate) mac: [u8; 6],
}

/// What is known of an interface.
#[derive(Debug, Clone)]
pub(crate) struct LinkFacts {
    pub(crate) index: u32,
    pub(crate) mac: [u8; 6],
    pub(crate) up: bool,
    /// The other end is up as well.
    pub(crate) running: bool,
    pub(crate) mtu: u32,
}

/// Makes a veth pair, one end here and the other in the namespace behind `there`. Both ends are down.
pub(crate) fn add_veth(
    here: &VethEnd<'_>,
    there: &VethEnd<'_>,
    namespace: BorrowedFd<'_>,
    mtu: u32,
) -> Result<(), LabError> {
    let peer = LinkMessageBuilder::<LinkUnspec>::new()
        .name(there.interface)
        .address(there.mac.to_vec())
        .mtu(mtu)
        .setns_by_fd(namespace.as_raw_fd())
        .build();
    let message = LinkMessageBuilder::<LinkVeth>::new(here.interface, there.interface)
        .address(here.mac.to_vec())
        .mtu(mtu)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .build();
    ask(format!("making the wire {} - {}", here.interface, there.interface), async |handle| {
        handle.link().add(message).execute().await
    })
}

/// Makes a bridge that is up and snoops multicast, with itself as the querier. Intervals are as short as the kernel
/// takes them, so that membership is known within a second.
pub(crate) fn add_snooping_bridge(interface: &str) -> Result<(), LabError> {
    // Hundredths of a second (`USER_HZ`).
    const SECOND: u64 = 100;
    let message = LinkBridge::new(interface)
        .append_info_data(InfoBridge::MulticastSnooping(true))
        .append_info_data(InfoBridge::MulticastMldVersion(2))
        .append_info_data(InfoBridge::MulticastIgmpVersion(3))
        .append_info_data(InfoBridge::MulticastQueryInterval(2 * SECOND))
        // Who is silent for two questions is forgotten.
        .append_info_data(InfoBridge::MulticastMembershipInterval(5 * SECOND))
        .append_info_data(InfoBridge::MulticastQueryResponseInterval(SECOND / 2))
        .append_info_data(InfoBridge::MulticastStartupQueryInterval(SECOND))
        .append_info_data(InfoBridge::MulticastStartupQueryCount(3))
        .append_info_data(InfoBridge::MulticastQuerier(true))
        // A bridge of a laboratory has no loops and need not listen before it forwards.
        .append_info_data(InfoBridge::ForwardDelay(0))
        .build();
    ask(format!("making the bridge {interface}"), async |handle| handle.link().add(message).execute().await)
}

/// Makes the interface a port of the bridge.
pub(crate) fn enslave(interface: &str, bridge: &str) -> Result<(), LabError> {
    let bridge = find(bridge)?.index;
    let port = LinkUnspec::new_with_name(interface).controller(bridge).build();
    ask(format!("attaching {interface} to the bridge"), async |handle| handle.link().set(port).execute().await)
}

/// Sets an interface up or down.
pub(crate) fn set_up(interface: &str, up: bool) -> Result<(), LabError> {
    let link = LinkUnspec::new_with_name(interface);
    let message = if up { link.up() } else { link.down() }.build();
    ask(format!("setting {interface} {}", if up { "up" } else { "down" }), async |handle| {
        handle.link().set(message).execute().await
    })
}

/// Sets the largest packet of an interface, in bytes without the Ethernet header.
pub(crate) fn set_mtu(interface: &str, mtu: u32) -> Result<(), LabError> {
    let message = LinkUnspec::new_with_name(interface).mtu(mtu).build();
    ask(format!("setting the MTU of {interface} to {mtu}"), async |handle| handle.link().set(message).execute().await)
}

pub(crate) fn set_mac(interface: &str, mac: [u8; 6]) -> Result<(), LabError> {
    let message = LinkUnspec::new_with_name(interface).address(mac.to_vec()).build();
    ask(format!("setting the hardware address of {interface}"), async |handle| {
        handle.link().set(message).execute().await
    })
}

/// What is known of an interface by that name.
pub(crate) fn find(interface: &str) -> Result<LinkFacts, LabError> {
    let missing = || LabError::NoInterface { namespace: "the namespace".to_owned(), interface: interface.to_owned() };
    let answer = ask(format!("looking for the interface {interface}"), async |handle| {
        handle.link().get().match_name(interface).execute().try_next().await
    });
    match answer {
        Ok(Some(message)) => Ok(facts(&message)),
        Ok(None) => Err(missing()),
        Err(LabError::Netlink { source: Error::NetlinkError(error), .. })
            if error.raw_code() == -Errno::NODEV.raw_os_error() =>
        {
            Err(missing())
        }
        Err(other) => Err(other),
    }
}

/// Adds an address; one of IPv6 is usable at once (no duplicate address detection).
pub(crate) fn add_address(interface: &str, address: IpAddr, prefix: u8) -> Result<(), LabError> {
    let index = find(interface)?.index;
    ask(format!("adding {address}/{prefix} to {interface}"), async |handle| {
        let mut request = handle.address().add(index, address, prefix);
        if address.is_ipv6() {
            request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        }
        request.execute().await
    })
}

/// Removes an address.
pub(crate) fn remove_address(interface: &str, address: IpAddr, prefix: u8) -> Result<(), LabError> {
    let index = find(interface)?.index;
    let message: AddressMessage = match address {
        IpAddr::V4(address) => {
            AddressMessageBuilder::<std::net::Ipv4Addr>::new().index(index).address(address, prefix).build()
        }
        IpAddr::V6(address) => {
            AddressMessageBuilder::<std::net::Ipv6Addr>::new().index(index).address(address, prefix).build()
        }
    };
    ask(format!("removing {address}/{prefix} from {interface}"), async |handle| {
        handle.address().del(message).execute().await
    })
}

/// Adds a route through a gateway.
pub(crate) fn add_route(destination: IpAddr, prefix: u8, gateway: IpAddr) -> Result<(), LabError> {
    let message = route(destination, prefix, gateway)?;
    ask(format!("adding the route {destination}/{prefix} via {gateway}"), async |handle| {
        handle.route().add(message).execute().await
    })
}

/// Removes a route through a gateway.
pub(crate) fn remove_route(destination: IpAddr, prefix: u8, gateway: IpAddr) -> Result<(), LabError> {
    let message = route(destination, prefix, gateway)?;
    ask(format!("removing the route {destination}/{prefix} via {gateway}"), async |handle| {
        handle.route().del(message).execute().await
    })
}

/// Sets a neighbour that never ages.
pub(crate) fn set_neighbour(interface: &str, address: IpAddr, mac: [u8; 6]) -> Result<(), LabError> {
    let index = find(interface)?.index;
    ask(format!("setting the neighbour {address} of {interface}"), async |handle| {
        handle.neighbours().add(index, address).link_layer_address(&mac).replace().execute().await
    })
}

/// Removes the neighbours of an interface that were learned.
pub(crate) fn forget_neighbours(interface: &str) -> Result<(), LabError> {
    let index = find(interface)?.index;
    ask(format!("forgetting the neighbours of {interface}"), async |handle| {
        let mut known = handle.neighbours().get().execute();
        while let Some(neighbour) = known.try_next().await? {
            let learned = !matches!(neighbour.header.state, NeighbourState::Permanent | NeighbourState::Noarp);
            if neighbour.header.ifindex == index && learned {
                // One that ages out in between is as good.
                let _gone = handle.neighbours().del(neighbour).execute().await;
            }
        }
        Ok(())
    })
}

fn route(destination: IpAddr, prefix: u8, gateway: IpAddr) -> Result<RouteMessage, LabError> {
    let wrong = |_| LabError::Prefix(format!("{destination}/{prefix} via {gateway}"));
    let builder = RouteMessageBuilder::<IpAddr>::new().destination_prefix(destination, prefix).map_err(wrong)?;
    Ok(builder.gateway(gateway).map_err(wrong)?.build())
}

fn facts(message: &LinkMessage) -> LinkFacts {
    let mut facts = LinkFacts {
        index: message.header.index,
        mac: [0; 6],
        up: message.header.flags.contains(LinkFlags::Up),
        running: message.header.flags.contains(LinkFlags::LowerUp),
        mtu: 0,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Address(mac) => facts.mac = mac.as_slice().try_into().unwrap_or_default(),
            LinkAttribute::Mtu(mtu) => facts.mtu = *mtu,
            _ => {}
        }
    }
    facts
}

/// Sends a request from the calling thread, on a runtime that lives as long as the request.
fn ask<T>(what: String, request: impl AsyncFnOnce(Handle) -> Result<T, Error>) -> Result<T, LabError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .map_err(LabError::system("starting a runtime for netlink"))?;
    runtime.block_on(async {
        let (connection, handle, _) =
            rtnetlink::new_connection().map_err(LabError::system("opening a netlink socket"))?;
        let connection = tokio::spawn(connection);
        let answer = request(handle).await;
        connection.abort();
        answer.map_err(|source| LabError::Netlink { what, source })
    })
}
