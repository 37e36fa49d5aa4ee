//! The way of clients of this host itself to pods of this host: what such a client sends to a VIP comes back by an uplink with
//! a source that is the host's own, which the kernel takes for forged, and pods would answer it within the host. So their
//! packets come in by an interface of their own, with addresses that lead back there, and the program at its egress translates
//! the answers.

use crate::addresses::AddressError;
use crate::programs;
use futures_util::TryStreamExt;
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::packet_route::route::RouteScope;
use rtnetlink::{Handle, LinkUnspec, LinkVeth, RouteMessageBuilder};
use sluicegate_dsr::layout::{TURN_MAC, TURN_NETWORKS, Way};
use std::fs;
use std::net::{IpAddr, Ipv6Addr};

/// The interface.
pub(crate) const DEVICE: &str = "sluicegate2";
/// Where a director on the same machine leaves what it sends to this host itself: its health checks, and its own clients'
/// packets. What is not there has none.
pub(crate) const OF_DIRECTOR: [&str; 2] = ["lo", "sluicegate1"];
/// Its other end, which nothing passes.
const OTHER_END: &str = "sluicegate3";
/// What does not leave the host needs no cutting.
const MTU: u32 = 65_535;
/// What /proc calls "no address of its own".
const NO_ADDRESS: &str = "1";

/// What the programs are to know of it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Turn {
    /// Its index; 0 = there is none.
    pub(crate) index: u32,
    /// Where answers come in to packets of this host that came by `lo`.
    pub(crate) home: Way,
}

/// Makes it, or brings what is there into shape; answers come in by `uplink`. Needs a tokio runtime.
pub(crate) async fn make(uplink: &str) -> Result<Turn, AddressError> {
    let link = Link::open()?;
    let home = link.way(uplink).await?;
    if index().is_none() {
        let pair = LinkVeth::new(DEVICE, OTHER_END).build();
        link.handle.link().add(pair).execute().await.map_err(refused("make the interfaces"))?;
    }
    for name in [format!("{DEVICE}/addr_gen_mode"), format!("{OTHER_END}/disable_ipv6")] {
        // Without IPv6 there is no such setting, and an address that nobody uses does no harm.
        let _missing = fs::write(format!("/proc/sys/net/ipv6/conf/{name}"), NO_ADDRESS);
    }
    // Without ARP: whoever is behind it is the program.
    let shape = LinkUnspec::new_with_name(DEVICE).address(TURN_MAC[..6].to_vec()).mtu(MTU).arp(false).up().build();
    let other = LinkUnspec::new_with_name(OTHER_END).mtu(MTU).arp(false).up().build();
    for message in [other, shape] {
        link.handle.link().set(message).execute().await.map_err(refused("set the interfaces up"))?;
    }
    let gone = || refused("keep the interfaces")(rtnetlink::Error::RequestFailed);
    let index = index().ok_or_else(gone)?;
    for (network, prefix) in TURN_NETWORKS {
        let network = Ipv6Addr::from(network);
        let (network, prefix) = match network.to_ipv4_mapped() {
            Some(network) => (IpAddr::V4(network), prefix - 96),
            None => (IpAddr::V6(network), prefix),
        };
        let route = RouteMessageBuilder::<IpAddr>::new().destination_prefix(network, prefix);
        let Ok(route) = route.map(|route| route.output_interface(index)) else { continue };
        let route = if network.is_ipv4() { route.scope(RouteScope::Link) } else { route };
        let added = link.handle.route().add(route.build()).replace().execute().await;
        match added.map_err(refused("make a route")) {
            // A host without IPv6 has no clients of it.
            Err(_) if network.is_ipv6() && !fs::exists("/proc/net/if_inet6").unwrap_or(false) => {}
            other => other?,
        }
    }
    Ok(Turn { index, home })
}

/// Takes it away, also that of a process that is gone. True if it was there.
pub(crate) async fn remove() -> Result<bool, AddressError> {
    let link = Link::open()?;
    let Some(index) = index() else { return Ok(false) };
    link.handle.link().del(index).execute().await.map_err(refused("remove the interfaces"))?;
    Ok(true)
}

struct Link {
    handle: Handle,
    connection: tokio::task::JoinHandle<()>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Link {
    fn open() -> Result<Self, AddressError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(AddressError::Open)?;
        Ok(Self { handle, connection: tokio::spawn(connection) })
    }

    /// An interface with its MAC address; one that has none is no way.
    async fn way(&self, interface: &str) -> Result<Way, AddressError> {
        let found = self.handle.link().get().match_name(interface).execute().try_next().await;
        let found = found.map_err(refused("find the uplink"))?;
        let mac = found.as_ref().and_then(|link| {
            link.attributes.iter().find_map(|attribute| match attribute {
                LinkAttribute::Address(mac) => mac.as_slice().first_chunk::<6>(),
                _ => None,
            })
        });
        Ok(match (&found, mac) {
            (Some(link), Some([a, b, c, d, e, f])) => {
                Way { interface: link.header.index, mac: [*a, *b, *c, *d, *e, *f, 0, 0] }
            }
            _ => Way::default(),
        })
    }
}

fn index() -> Option<u32> {
    programs::index_of(DEVICE).ok()
}

fn refused(what: &'static str) -> impl FnOnce(rtnetlink::Error) -> AddressError {
    move |source| AddressError::Refused {
        what: format!("{what} {DEVICE} and {OTHER_END} for clients of this host"),
        source: Box::new(source),
    }
}
