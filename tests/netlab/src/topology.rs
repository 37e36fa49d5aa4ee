//! A ready-made network for direct server return. It starts nothing in it and gives nobody a VIP.
//!
//! ```text
//!  client1 … clientN      198.51.100.0/24 in pieces of /30, 2001:db8:c:<n>::/64
//!      └──┬──┘            (one wire each)
//!       router            .1 in every network
//!      ┌──┴──┐
//!     lan   farm          switches that snoop multicast
//!      │     └─ backend1 … backendN, where they are not on the link: 203.0.113.0/24, 2001:db8:2::/64
//!      └─ director1 … directorN, backend1 … backendN on the link: 192.0.2.0/24, 2001:db8:1::/64, and the VIPs
//! ```
//!
//! Every interface towards a network is called `eth0`; only the router's are called after what they lead to. Replies of
//! backends go to the router and never pass a director. The router holds no route to VIPs: it finds them by ARP and NDP
//! on `lan`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{Bridge, Lab, LabError, Namespace, WireOptions};

/// How large the network is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DsrTopology {
    /// Hosts that ask, 1 to 60.
    pub clients: u8,
    /// Hosts on the VIP network that are to own VIPs, up to 9.
    pub directors: u8,
    /// Hosts that answer, up to 70.
    pub backends: u8,
    /// Backends are on the VIP network (L2 delivery reaches them); otherwise they are behind the router (TUNNEL, GUE).
    pub backends_on_link: bool,
    /// Hosts have IPv4 addresses.
    pub ipv4: bool,
    /// Hosts have IPv6 addresses.
    pub ipv6: bool,
    /// Largest packet of all networks in bytes, without the Ethernet header.
    pub mtu: u32,
    /// Largest packet of the backends' own network, where they are behind the router. Larger than `mtu` leaves room
    /// for a tunnel.
    pub farm_mtu: u32,
}

impl Default for DsrTopology {
    /// One client, one director and two backends on the link, both IP versions, 1500 bytes.
    fn default() -> Self {
        Self {
            clients: 1,
            directors: 1,
            backends: 2,
            backends_on_link: true,
            ipv4: true,
            ipv6: true,
            mtu: 1500,
            farm_mtu: 1500,
        }
    }
}

/// A host with its addresses at `eth0`.
#[derive(Debug, Clone)]
pub struct Host {
    /// Where it is.
    pub namespace: Namespace,
    /// Its address, where the network has IPv4; there is one in any case.
    pub ipv4: Ipv4Addr,
    /// Its address, where the network has IPv6; there is one in any case.
    pub ipv6: Ipv6Addr,
}

impl Host {
    /// Its address of the same version as `like`.
    pub fn address_like(&self, like: IpAddr) -> IpAddr {
        if like.is_ipv4() { self.ipv4.into() } else { self.ipv6.into() }
    }
}

/// The network. It is taken away when this is dropped.
#[derive(Debug)]
pub struct DsrLab {
    /// Hosts that ask.
    pub clients: Vec<Host>,
    /// The router between all networks.
    pub router: Namespace,
    /// The switch of the VIP network.
    pub lan: Bridge,
    /// The switch of the backends' network, where they are not on the link.
    pub farm: Option<Bridge>,
    /// Hosts that are to own VIPs.
    pub directors: Vec<Host>,
    /// Hosts that answer.
    pub backends: Vec<Host>,
    /// For more hosts and wires.
    pub lab: Lab,
    topology: DsrTopology,
}

impl Lab {
    /// Builds the network for direct server return.
    pub fn dsr(prefix: &str, topology: DsrTopology) -> Result<DsrLab, LabError> {
        for (what, count, most) in [
            ("the number of clients", topology.clients, 60),
            ("the number of directors", topology.directors, 9),
            ("the number of backends", topology.backends, 70),
        ] {
            if count > most {
                return Err(LabError::Name {
                    what,
                    name: count.to_string(),
                    reason: "there are not as many addresses",
                });
            }
        }
        Builder { topology, lab: Self::new(prefix)? }.build()
    }
}

impl DsrLab {
    /// A VIP of IPv4, for `number` from 0 to 99; nobody has it yet.
    pub fn vip4(number: u8) -> Ipv4Addr {
        Ipv4Addr::new(192, 0, 2, 100 + number.min(99))
    }

    /// A VIP of IPv6; nobody has it yet.
    pub fn vip6(number: u8) -> Ipv6Addr {
        Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x100 + u16::from(number))
    }

    /// Adds a host to the VIP network. Its addresses end in `number`, which no other host there has: the router has 1,
    /// directors count from 11, backends from 21, VIPs from 100.
    pub fn add_on_link(&mut self, label: &str, number: u8) -> Result<Host, LabError> {
        let namespace = self.lab.namespace(label)?;
        let options = WireOptions { mtu: self.topology.mtu, ..WireOptions::default() };
        self.lan.attach(&namespace, "eth0", options)?;
        self.topology.settle(namespace, LAN, number)
    }

    /// Adds a host to the backends' own network, as [`add_on_link`](Self::add_on_link) does to the VIP network.
    ///
    /// # Errors
    /// Also where the backends are on the link, and there is no network of their own.
    pub fn add_behind_router(&mut self, label: &str, number: u8) -> Result<Host, LabError> {
        let missing = || LabError::NoPort { bridge: "the backends' own network".to_owned(), host: label.to_owned() };
        let farm = self.farm.as_mut().ok_or_else(missing)?;
        let namespace = self.lab.namespace(label)?;
        let options = WireOptions { mtu: self.topology.farm_mtu, ..WireOptions::default() };
        farm.attach(&namespace, "eth0", options)?;
        self.topology.settle(namespace, FARM, number)
    }

    /// The router's address on the VIP network.
    pub fn router_on_lan(like: IpAddr) -> IpAddr {
        LAN.address_like(1, like)
    }
}

/// A network with both versions.
#[derive(Clone, Copy)]
struct Subnet {
    ipv4: Ipv4Addr,
    ipv4_length: u8,
    ipv6: Ipv6Addr,
}

const LAN: Subnet =
    Subnet { ipv4: Ipv4Addr::new(192, 0, 2, 0), ipv4_length: 24, ipv6: Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0) };
const FARM: Subnet = Subnet {
    ipv4: Ipv4Addr::new(203, 0, 113, 0),
    ipv4_length: 24,
    ipv6: Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 0),
};

impl Subnet {
    fn of_client(number: u8) -> Self {
        Self {
            ipv4: Ipv4Addr::new(198, 51, 100, number * 4),
            ipv4_length: 30,
            ipv6: Ipv6Addr::new(0x2001, 0xdb8, 0xc, number.into(), 0, 0, 0, 0),
        }
    }

    fn ipv4(self, host: u8) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.ipv4.to_bits() + u32::from(host))
    }

    /// The decimal digits of the host are those of its IPv4 address, to be told easily: `.21` and `::21`.
    fn ipv6(self, host: u8) -> Ipv6Addr {
        let digits = u128::from(host / 100) << 8 | u128::from(host / 10 % 10) << 4 | u128::from(host % 10);
        Ipv6Addr::from_bits(self.ipv6.to_bits() | digits)
    }

    fn address_like(self, host: u8, like: IpAddr) -> IpAddr {
        if like.is_ipv4() { self.ipv4(host).into() } else { self.ipv6(host).into() }
    }
}

struct Builder {
    topology: DsrTopology,
    lab: Lab,
}

impl Builder {
    fn build(mut self) -> Result<DsrLab, LabError> {
        let DsrTopology { clients, directors, backends, backends_on_link, mtu, farm_mtu, .. } = self.topology;
        let router = self.lab.namespace("router")?;
        router.become_router()?;
        let mut lan = self.lab.bridge("lan")?;
        self.plug_in(&mut lan, &router, "lan", LAN, 1, mtu)?;
        let directors = self.hosts("director", directors, 11, &mut lan, LAN, mtu)?;
        let (backends, farm) = if backends_on_link {
            (self.hosts("backend", backends, 21, &mut lan, LAN, mtu)?, None)
        } else {
            let mut farm = self.lab.bridge("farm")?;
            self.plug_in(&mut farm, &router, "farm", FARM, 1, farm_mtu)?;
            (self.hosts("backend", backends, 21, &mut farm, FARM, farm_mtu)?, Some(farm))
        };
        let clients = (1..=clients).map(|number| self.client(number, &router)).collect::<Result<_, _>>()?;
        Ok(DsrLab { clients, router, lan, farm, directors, backends, lab: self.lab, topology: self.topology })
    }

    fn client(&mut self, number: u8, router: &Namespace) -> Result<Host, LabError> {
        let label = format!("client{number}");
        let subnet = Subnet::of_client(number);
        let namespace = self.lab.namespace(&label)?;
        let options = WireOptions { mtu: self.topology.mtu, ..WireOptions::default() };
        self.lab.connect(&namespace, "eth0", router, &label, options)?;
        self.topology.give_addresses(router, &label, subnet, 1)?;
        self.topology.settle(namespace, subnet, 2)
    }

    fn hosts(
        &mut self,
        role: &str,
        count: u8,
        first: u8,
        bridge: &mut Bridge,
        subnet: Subnet,
        mtu: u32,
    ) -> Result<Vec<Host>, LabError> {
        let host = |number: u8| {
            let namespace = self.lab.namespace(&format!("{role}{}", number + 1))?;
            bridge.attach(&namespace, "eth0", WireOptions { mtu, ..WireOptions::default() })?;
            self.topology.settle(namespace, subnet, first + number)
        };
        (0..count).map(host).collect()
    }

    fn plug_in(
        &self,
        bridge: &mut Bridge,
        host: &Namespace,
        interface: &str,
        subnet: Subnet,
        number: u8,
        mtu: u32,
    ) -> Result<(), LabError> {
        bridge.attach(host, interface, WireOptions { mtu, ..WireOptions::default() })?;
        self.topology.give_addresses(host, interface, subnet, number)
    }
}

impl DsrTopology {
    /// Gives a host its addresses and the router as the way to everywhere else.
    fn settle(self, namespace: Namespace, subnet: Subnet, number: u8) -> Result<Host, LabError> {
        self.give_addresses(&namespace, "eth0", subnet, number)?;
        if self.ipv4 {
            namespace.add_route("0.0.0.0/0", subnet.ipv4(1).into())?;
        }
        if self.ipv6 {
            namespace.add_route("::/0", subnet.ipv6(1).into())?;
        }
        Ok(Host { namespace, ipv4: subnet.ipv4(number), ipv6: subnet.ipv6(number) })
    }

    fn give_addresses(self, host: &Namespace, interface: &str, subnet: Subnet, number: u8) -> Result<(), LabError> {
        if self.ipv4 {
            host.add_address(interface, &format!("{}/{}", subnet.ipv4(number), subnet.ipv4_length))?;
        }
        if self.ipv6 {
            host.add_address(interface, &format!("{}/64", subnet.ipv6(number)))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_do_not_collide() {
        assert_eq!(LAN.ipv4(21), Ipv4Addr::new(192, 0, 2, 21));
        assert_eq!(LAN.ipv6(21).to_string(), "2001:db8:1::21");
        let client = Subnet::of_client(60);
        assert_eq!(
            (client.ipv4(1).to_string(), client.ipv4(2).to_string()),
            ("198.51.100.241".into(), "198.51.100.242".into())
        );
        let hosts = (1..=1).chain(11..=19).chain(21..=90);
        let vips: Vec<IpAddr> = (0..=99).flat_map(|n| [DsrLab::vip4(n).into(), DsrLab::vip6(n).into()]).collect();
        for host in hosts {
            assert!(!vips.contains(&LAN.ipv4(host).into()) && !vips.contains(&LAN.ipv6(host).into()), "{host}");
        }
    }
}
