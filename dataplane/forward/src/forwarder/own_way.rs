//! Which VIPs clients on this machine are led to, and by which port the program takes their packets in.

use crate::own_clients::{DEVICE, OwnClients, OwnClientsError, PORT, Ways};
use crate::ports::{Port, Ports};
use crate::topology::Topology;
use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;

/// The way, and what was said of it.
#[derive(Default)]
pub(super) struct OwnWay {
    opened: Option<OwnClients>,
    said: BTreeSet<String>,
    failed: Option<Ways>,
}

impl OwnWay {
    /// Leads clients on this machine to these VIPs and no others. What the kernel refuses is said once, and tried again
    /// when something changes.
    pub(super) async fn lead(&mut self, vips: impl Iterator<Item = IpAddr>, ports: &[&Port], topology: &Topology) {
        let strict = ports.iter().find_map(|port| strict_filter(port));
        let wanted = ways(vips, ports, topology, strict.is_some());
        if let Some(interface) = strict {
            self.say(format!(
                "clients on this machine do not reach VIPs of IPv4, because rp_filter of {interface} is strict: run \
                 `sysctl -w net/ipv4/conf/all/rp_filter=0 net/ipv4/conf/{interface}/rp_filter=2`"
            ));
        }
        if self.failed.as_ref() == Some(&wanted) {
            return;
        }
        self.failed = None;
        if let Err(error) = self.bring_to(&wanted).await {
            self.say(format!("clients on this machine do not reach VIPs: {error}"));
            self.failed = Some(wanted);
        }
    }

    async fn bring_to(&mut self, wanted: &Ways) -> Result<(), OwnClientsError> {
        let opened = match self.opened.take() {
            Some(opened) => opened,
            None => OwnClients::open()?,
        };
        self.opened.insert(opened).bring_to(wanted).await
    }

    fn say(&mut self, what: String) {
        if !self.said.contains(&what) {
            tracing::warn!("{what}");
            self.said.insert(what);
        }
    }
}

/// VIPs that are addresses of this machine need no way, and without a port packets have none. A strict filter would drop
/// the answers, which come in by another interface than the way to the VIP leads to; the probes' too.
fn ways(vips: impl Iterator<Item = IpAddr>, ports: &[&Port], topology: &Topology, only_ipv6: bool) -> Ways {
    let Some(mtu) = ports.iter().map(|port| port.mtu).min() else { return Ways::default() };
    let led = vips.filter(|vip| !topology.is_local(*vip)).filter(|vip| vip.is_ipv6() || !only_ipv6);
    Ways { vips: led.map(|vip| (vip, topology.source_towards(vip))).collect(), mtu }
}

/// The interface of a port whose `rp_filter` is strict (1), which it is if the larger of its own and that of `all` is.
fn strict_filter(port: &Port) -> Option<String> {
    let read = |name: &str| -> Option<u32> {
        fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{name}/rp_filter")).ok()?.trim().parse().ok()
    };
    let all = read("all");
    [&port.name, &port.asked_as].into_iter().find(|name| read(name).max(all) == Some(1)).cloned()
}

/// The ports, and where packets of clients on this machine come in.
pub(super) fn with_own_clients(mut ports: Ports, topology: &Topology) -> Ports {
    if let Some(link) = topology.link_named(PORT)
        && topology.link_named(DEVICE).is_some()
    {
        let (index, name) = (link.index, link.name.clone());
        let (mac, mtu, asked_as) = (link.mac, link.mtu, DEVICE.to_owned());
        // Addresses are not resolved there: frames carry that of the end that they leave by.
        ports.ports.insert(index, Port { index, name, mac, macs: Vec::new(), mtu, asked_as });
    }
    ports
}

/// Those that lead to other machines.
pub(super) fn shown_ports(ports: &Ports) -> impl Iterator<Item = &Port> {
    ports.ports.values().filter(|port| !port.is_of_own_clients())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{Hop, Link, Prefix, Route, RouteAction};

    fn port(name: &str, mtu: u32) -> Port {
        Port { index: 2, name: name.to_owned(), mac: [2; 6], macs: vec![[2; 6]], mtu, asked_as: name.to_owned() }
    }

    #[test]
    fn clients_are_led_to_vips_that_are_elsewhere() {
        let [own, held, vip, vip6]: [IpAddr; 4] =
            ["192.0.2.11", "192.0.2.101", "192.0.2.100", "2001:db8:1::100"].map(|text| text.parse().expect("good"));
        let mut topology = Topology::default();
        topology.set_link(Link { index: 2, name: "eth0".to_owned(), up: true, carrier: true, ..Link::default() });
        topology.set_address(2, own, 24);
        topology.set_address(1, held, 32);
        topology.set_routes([Route {
            destination: Prefix::new(own, 24),
            metric: 0,
            source: None,
            action: RouteAction::Send(vec![Hop { interface: 2, gateway: None }]),
            mtu: None,
        }]);
        let (wide, narrow) = (port("eth0", 9000), port("eth1", 1500));
        let all = || [held, vip, vip6].into_iter();
        let found = ways(all(), &[&wide, &narrow], &topology, false);
        assert_eq!(found, Ways { vips: [(vip, Some(own)), (vip6, None)].into(), mtu: 1500 });
        assert_eq!(ways(all(), &[&wide], &topology, true), Ways { vips: [(vip6, None)].into(), mtu: 9000 });
        assert_eq!(ways(all(), &[], &topology, false), Ways::default(), "no port, no way");
    }

    #[test]
    fn the_port_of_own_clients_is_taken_and_not_shown() {
        let mut topology = Topology::default();
        let mut ports = Ports::default();
        ports.ports.insert(2, port("eth0", 1500));
        assert_eq!(with_own_clients(ports.clone(), &topology), ports);
        for (index, name) in [(7, PORT), (8, DEVICE)] {
            topology.set_link(Link { index, name: name.to_owned(), mtu: 1500, ..Link::default() });
        }
        let with = with_own_clients(ports, &topology);
        assert_eq!(with.ports.keys().copied().collect::<Vec<_>>(), [2, 7]);
        assert_eq!(shown_ports(&with).map(|port| port.index).collect::<Vec<_>>(), [2]);
    }
}
