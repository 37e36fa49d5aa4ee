//! What the kernel knows of the network, as plain tables, and the question that a director asks of them: how does a
//! frame reach this address?
//!
//! Nothing here asks the kernel. [`crate::netlink`] keeps the tables true; tests fill them by hand.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

/// Links on top of each other that are followed down to a port.
const MAX_LINK_DEPTH: usize = 8;

/// A MAC address.
pub type Mac = [u8; 6];

/// What a network interface is, as far as a frame's way depends on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LinkKind {
    /// A NIC, a veth end: frames leave here.
    #[default]
    Port,
    /// Frames leave by one of the ports, by a hash or by which one is active.
    Bond,
    /// Frames leave by the port behind which the destination was seen.
    Bridge,
    /// Frames leave by the lower link with a tag more.
    Vlan(VlanTag),
    /// The machine itself.
    Loopback,
    /// A team, tunnel or other device whose frames cannot be built in XDP.
    Other,
}

/// A VLAN tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VlanTag {
    /// Ethernet type in front of the tag: 0x8100 (802.1Q) or 0x88a8 (802.1ad).
    pub protocol: u16,
    /// VLAN id, 1..=4094.
    pub id: u16,
}

/// A network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// MAC address; zero where there is none.
    pub mac: Mac,
    /// Largest IP packet in bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// The cable or peer is there.
    pub carrier: bool,
    /// What it is.
    pub kind: LinkKind,
    /// Bond or bridge that it is a port of.
    pub controller: Option<u32>,
    /// Link below a VLAN device.
    pub lower: Option<u32>,
    /// The port that an active-backup bond sends by.
    pub active_port: Option<u32>,
    /// Id of the XDP program that is attached, whoever attached it.
    pub xdp_program: Option<u32>,
}

/// An address and the length of its prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    /// Address; bits beyond the length are ignored.
    pub address: IpAddr,
    /// 0..=32 or 0..=128.
    pub length: u8,
}

impl Prefix {
    /// The prefix with its host bits cleared; a length beyond the address counts as the whole address.
    #[must_use]
    pub fn new(address: IpAddr, length: u8) -> Self {
        match address {
            IpAddr::V4(v4) => {
                let length = length.min(32);
                let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
                Self { address: IpAddr::V4((u32::from(v4) & mask).into()), length }
            }
            IpAddr::V6(v6) => {
                let length = length.min(128);
                let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
                Self { address: IpAddr::V6((u128::from(v6) & mask).into()), length }
            }
        }
    }

    /// True where the address lies in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4()
            && Self::new(address, self.length).address == Self::new(self.address, self.length).address
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// One way that a route offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// Interface.
    pub interface: u32,
    /// Router; `None` = the destination is on the link.
    pub gateway: Option<IpAddr>,
}

/// What a route says of its destinations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteAction {
    /// Send by one of these, in the order of preference.
    Send(Vec<Hop>),
    /// Blackhole, unreachable or prohibited.
    Refuse,
}

/// A route of the main table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where to.
    pub destination: Prefix,
    /// The lower one wins among routes of equal prefixes.
    pub metric: u32,
    /// Source address that it prefers.
    pub source: Option<IpAddr>,
    /// What to do.
    pub action: RouteAction,
    /// The route's own MTU, where it has one.
    pub mtu: Option<u32>,
}

/// What is known of a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Neighbour {
    /// Its MAC address. Stale ones count: the kernel uses them too, and verifies while it does.
    Known(Mac),
    /// Asked, no answer yet.
    Asked,
    /// Asked in vain.
    Failed,
}

/// How a frame reaches an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// It is an address of this machine.
    Local,
    /// Out of a port.
    Out(NextHop),
}

/// The next hop of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// Port to leave by; `None` = any port of the bond `logical`, so the one that the packet came in on.
    pub egress: Option<u32>,
    /// The interface of the route (a VLAN device, a bond), whose MAC and MTU count.
    pub logical: u32,
    /// Tags to push, outermost first.
    pub tags: Vec<VlanTag>,
    /// MAC address of `logical`.
    pub source_mac: Mac,
    /// MAC address of the neighbour.
    pub destination_mac: Mac,
    /// Largest IP packet on the way, bytes.
    pub mtu: u32,
    /// Address of this machine that packets of its own (tunnels) carry as source; `None` = it has none of that family.
    pub source: Option<IpAddr>,
    /// Router in between; `None` = the address is on the link.
    pub gateway: Option<IpAddr>,
}

/// Why there is no way to an address. What the operator reads as the reason of an unhealthy real server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum NoNextHop {
    /// No route covers it.
    #[error("no route to {0}: add one to the main table of this machine")]
    NoRoute(IpAddr),
    /// A blackhole, unreachable or prohibit route covers it.
    #[error("the route to {0} refuses it")]
    Refused(IpAddr),
    /// The route's interface is gone.
    #[error("interface {0} of the route is gone")]
    LinkGone(u32),
    /// The interface is down or has no carrier.
    #[error("interface {0} is down or has no carrier")]
    LinkDown(String),
    /// A kind of interface whose frames cannot be built in XDP.
    #[error("interface {0} is of a kind that the packet path cannot send by")]
    UnsupportedLink(String),
    /// The bridge has not seen the neighbour.
    #[error("bridge {bridge} does not know behind which port {address} is")]
    PortUnknown {
        /// Bridge.
        bridge: String,
        /// The neighbour.
        address: IpAddr,
    },
    /// The neighbour has not answered yet.
    #[error("the MAC address of {address} on {interface} is being asked for")]
    NeighbourUnknown {
        /// The neighbour.
        address: IpAddr,
        /// Interface name.
        interface: String,
        /// Interface index.
        index: u32,
    },
    /// The neighbour does not answer ARP or neighbour discovery.
    #[error("{address} does not answer ARP or NDP on {interface}")]
    NeighbourSilent {
        /// The neighbour.
        address: IpAddr,
        /// Interface name.
        interface: String,
        /// Interface index.
        index: u32,
    },
}

impl NoNextHop {
    /// The neighbour that has to be asked for, with the interface's index.
    #[must_use]
    pub fn neighbour(&self) -> Option<(u32, IpAddr)> {
        match self {
            Self::NeighbourUnknown { address, index, .. } | Self::NeighbourSilent { address, index, .. } => {
                Some((*index, *address))
            }
            _ => None,
        }
    }
}

/// The tables. All of them are ordered, so that what is derived from them does not depend on the order of events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    links: BTreeMap<u32, Link>,
    addresses: BTreeMap<(IpAddr, u32), u8>,
    routes: BTreeMap<Prefix, Vec<Route>>,
    neighbours: BTreeMap<(u32, IpAddr), Neighbour>,
    stations: BTreeMap<(u32, Mac), u32>,
}

impl Topology {
    /// How a frame reaches `to`: longest prefix, then metric; of several next hops the first that can be used.
    ///
    /// Only the main table is followed: policy rules are not.
    ///
    /// # Errors
    /// Why not, of the last next hop that was tried.
    pub fn delivery(&self, to: IpAddr) -> Result<Way, NoNextHop> {
        if self.is_local(to) {
            return Ok(Way::Local);
        }
        let route = self.route(to).ok_or(NoNextHop::NoRoute(to))?;
        let RouteAction::Send(hops) = &route.action else { return Err(NoNextHop::Refused(to)) };
        let mut reason = NoNextHop::NoRoute(to);
        for hop in hops {
            match self.by_hop(to, route, hop) {
                Ok(next) => return Ok(Way::Out(next)),
                Err(why) => reason = why,
            }
        }
        Err(reason)
    }

    /// True where the address belongs to this machine.
    #[must_use]
    pub fn is_local(&self, address: IpAddr) -> bool {
        address.is_loopback() || self.addresses.range((address, 0)..=(address, u32::MAX)).next().is_some()
    }

    /// The address that this machine has towards another one, of the same family; `None` = no route, or no such address.
    #[must_use]
    pub fn source_towards(&self, to: IpAddr) -> Option<IpAddr> {
        let route = self.route(to)?;
        let RouteAction::Send(hops) = &route.action else { return None };
        let hop = hops.first()?;
        route.source.or_else(|| self.source_address(hop.interface, hop.gateway.unwrap_or(to)))
    }

    /// True where a router of this machine's own routes has the address: no VIP may take it.
    #[must_use]
    pub fn is_gateway(&self, address: IpAddr) -> bool {
        self.routes.values().flatten().any(|route| match &route.action {
            RouteAction::Send(hops) => hops.iter().any(|hop| hop.gateway == Some(address)),
            RouteAction::Refuse => false,
        })
    }

    /// The interface whose subnet the address is in, if any: where its ARP or NDP belongs.
    #[must_use]
    pub fn on_link(&self, address: IpAddr) -> Option<u32> {
        let route = self.route(address)?;
        match &route.action {
            RouteAction::Send(hops) => hops.iter().find(|hop| hop.gateway.is_none()).map(|hop| hop.interface),
            RouteAction::Refuse => None,
        }
    }

    /// A link by its index.
    #[must_use]
    pub fn link(&self, index: u32) -> Option<&Link> {
        self.links.get(&index)
    }

    /// A link by its name.
    #[must_use]
    pub fn link_named(&self, name: &str) -> Option<&Link> {
        self.links.values().find(|link| link.name == name)
    }

    /// All links, by index.
    pub fn links(&self) -> impl Iterator<Item = &Link> {
        self.links.values()
    }

    /// The addresses of a link with the lengths of their prefixes.
    pub fn addresses_of(&self, index: u32) -> impl Iterator<Item = Prefix> + '_ {
        self.addresses
            .iter()
            .filter(move |((_, link), _)| *link == index)
            .map(|((address, _), length)| Prefix { address: *address, length: *length })
    }

    /// What is known of a neighbour.
    #[must_use]
    pub fn neighbour(&self, interface: u32, address: IpAddr) -> Option<Neighbour> {
        self.neighbours.get(&(interface, address)).copied()
    }

    /// The interfaces of default routes: where the program is attached when nobody names an interface.
    #[must_use]
    pub fn default_interfaces(&self) -> Vec<u32> {
        let mut found: Vec<u32> = self
            .routes
            .iter()
            .filter(|(prefix, _)| prefix.length == 0)
            .flat_map(|(_, routes)| routes)
            .filter_map(|route| match &route.action {
                RouteAction::Send(hops) => Some(hops),
                RouteAction::Refuse => None,
            })
            .flatten()
            .map(|hop| hop.interface)
            .collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// A link appeared or changed.
    pub fn set_link(&mut self, link: Link) {
        self.links.insert(link.index, link);
    }

    /// A link is gone, and with it what hung on it.
    pub fn remove_link(&mut self, index: u32) {
        self.links.remove(&index);
        self.addresses.retain(|(_, link), _| *link != index);
        self.neighbours.retain(|(link, _), _| *link != index);
        self.stations.retain(|(bridge, _), port| *bridge != index && *port != index);
    }

    /// The machine has an address.
    pub fn set_address(&mut self, interface: u32, address: IpAddr, prefix_length: u8) {
        self.addresses.insert((address, interface), prefix_length);
    }

    /// The machine lost an address.
    pub fn remove_address(&mut self, interface: u32, address: IpAddr) {
        self.addresses.remove(&(address, interface));
    }

    /// All routes of the main table.
    pub fn set_routes(&mut self, routes: impl IntoIterator<Item = Route>) {
        self.routes.clear();
        for route in routes {
            let key = Prefix::new(route.destination.address, route.destination.length);
            self.routes.entry(key).or_default().push(route);
        }
        for same in self.routes.values_mut() {
            same.sort_by_key(|route| route.metric);
        }
    }

    /// What is known of a neighbour changed.
    pub fn set_neighbour(&mut self, interface: u32, address: IpAddr, neighbour: Neighbour) {
        self.neighbours.insert((interface, address), neighbour);
    }

    /// A neighbour was forgotten.
    pub fn remove_neighbour(&mut self, interface: u32, address: IpAddr) {
        self.neighbours.remove(&(interface, address));
    }

    /// A bridge saw a station behind a port.
    pub fn set_station(&mut self, bridge: u32, mac: Mac, port: u32) {
        self.stations.insert((bridge, mac), port);
    }

    /// A bridge forgot a station.
    pub fn remove_station(&mut self, bridge: u32, mac: Mac) {
        self.stations.remove(&(bridge, mac));
    }

    /// The route that covers an address.
    fn route(&self, to: IpAddr) -> Option<&Route> {
        let longest = if to.is_ipv4() { 32 } else { 128 };
        (0..=longest).rev().find_map(|length| self.routes.get(&Prefix::new(to, length))?.first())
    }

    fn by_hop(&self, to: IpAddr, route: &Route, hop: &Hop) -> Result<NextHop, NoNextHop> {
        let link = self.usable_link(hop.interface)?;
        if matches!(link.kind, LinkKind::Loopback | LinkKind::Other) {
            return Err(NoNextHop::UnsupportedLink(link.name.clone()));
        }
        let neighbour = hop.gateway.unwrap_or(to);
        let destination_mac = match self.neighbour(link.index, neighbour) {
            Some(Neighbour::Known(mac)) => mac,
            Some(Neighbour::Failed) => {
                let (interface, index) = (link.name.clone(), link.index);
                return Err(NoNextHop::NeighbourSilent { address: neighbour, interface, index });
            }
            Some(Neighbour::Asked) | None => {
                let (interface, index) = (link.name.clone(), link.index);
                return Err(NoNextHop::NeighbourUnknown { address: neighbour, interface, index });
            }
        };
        let (egress, tags) = self.egress(link, destination_mac, neighbour)?;
        Ok(NextHop {
            egress,
            logical: link.index,
            tags,
            source_mac: link.mac,
            destination_mac,
            mtu: route.mtu.filter(|mtu| *mtu > 0).map_or(link.mtu, |mtu| mtu.min(link.mtu)),
            source: route.source.or_else(|| self.source_address(link.index, neighbour)),
            gateway: hop.gateway,
        })
    }

    /// The port below a link by which a frame to `mac` leaves, and the tags that it gets on the way down.
    fn egress(&self, link: &Link, mac: Mac, neighbour: IpAddr) -> Result<(Option<u32>, Vec<VlanTag>), NoNextHop> {
        let mut at = link;
        let mut tags = Vec::new();
        // A bond of a VLAN of a bond is three; events that arrive out of order could show a loop.
        for _ in 0..MAX_LINK_DEPTH {
            let below = match at.kind {
                LinkKind::Port => return Ok((Some(at.index), tags)),
                LinkKind::Vlan(tag) => {
                    tags.insert(0, tag);
                    at.lower.ok_or_else(|| NoNextHop::UnsupportedLink(at.name.clone()))?
                }
                LinkKind::Bond => match at.active_port {
                    Some(port) => port,
                    None => return Ok((None, tags)),
                },
                LinkKind::Bridge => *self
                    .stations
                    .get(&(at.index, mac))
                    .ok_or_else(|| NoNextHop::PortUnknown { bridge: at.name.clone(), address: neighbour })?,
                LinkKind::Loopback | LinkKind::Other => {
                    return Err(NoNextHop::UnsupportedLink(at.name.clone()));
                }
            };
            // Two tags are what the packet path reads.
            if tags.len() > 2 {
                break;
            }
            at = self.usable_link(below)?;
        }
        Err(NoNextHop::UnsupportedLink(link.name.clone()))
    }

    fn usable_link(&self, index: u32) -> Result<&Link, NoNextHop> {
        let link = self.links.get(&index).ok_or(NoNextHop::LinkGone(index))?;
        if link.up && link.carrier { Ok(link) } else { Err(NoNextHop::LinkDown(link.name.clone())) }
    }

    /// RFC 6724 in short: an address of the interface in the neighbour's own subnet, else any of the interface with a
    /// scope as wide, else any of the machine.
    fn source_address(&self, interface: u32, neighbour: IpAddr) -> Option<IpAddr> {
        let routable = |address: &IpAddr| match address {
            IpAddr::V4(v4) => neighbour.is_ipv4() && !v4.is_loopback(),
            IpAddr::V6(v6) => neighbour.is_ipv6() && !v6.is_loopback() && !v6.is_unicast_link_local(),
        };
        let own = || self.addresses_of(interface).filter(|prefix| routable(&prefix.address));
        own()
            .find(|prefix| prefix.contains(neighbour))
            .or_else(|| own().next())
            .map(|prefix| prefix.address)
            .or_else(|| self.addresses.keys().map(|(address, _)| *address).find(routable))
    }
}
