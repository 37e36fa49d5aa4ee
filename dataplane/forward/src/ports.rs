//! To which ports the program must be attached so that it sees what comes to an interface: bonds, bridges and VLANs
//! resolved down to the NICs.
//!
//! XDP runs where a frame enters the machine, before VLAN, bonding and bridge code. What is asked for as `bond0.100`
//! therefore means the ports of `bond0`. Bonds and VLAN devices are checked with tables alone: the kernels of the test
//! machines have neither, so no frame has gone through one in a test.

use crate::own_clients;
use crate::topology::{Link, LinkKind, Mac, Topology};
use std::collections::{BTreeMap, BTreeSet};

/// A port to attach to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Interface index.
    pub index: u32,
    /// Interface name.
    pub name: String,
    /// MAC address that answers from it carry: that of the bond or bridge above it, else its own.
    pub mac: [u8; 6],
    /// MAC addresses that frames for this machine carry here: its own and those of the bonds, bridges and VLAN devices above
    /// it. Empty: every frame is meant.
    pub macs: Vec<Mac>,
    /// Largest IP packet, bytes: the smaller of the port's and that of what stands above it.
    pub mtu: u32,
    /// The interface that was asked for.
    pub asked_as: String,
}

impl Port {
    /// Is it where packets of clients on this machine come in ([`crate::own_clients`])?
    #[must_use]
    pub fn is_of_own_clients(&self) -> bool {
        self.name == own_clients::PORT
    }
}

/// Why an interface cannot be attached to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum NoPort {
    /// No such interface.
    #[error("there is no interface {0}: name one that `ip link` shows, or leave --interface out")]
    Unknown(String),
    /// An interface without ports.
    #[error("{0} has no ports that frames could come in by")]
    Empty(String),
    /// A device whose frames never pass XDP as Ethernet frames.
    #[error("{0} is a device without Ethernet frames of its own: name the NIC that it uses")]
    Unsupported(String),
}

/// What was asked for, resolved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ports {
    /// By index.
    pub ports: BTreeMap<u32, Port>,
    /// What could not be resolved.
    pub failures: Vec<NoPort>,
}

/// The ports of the named interfaces; without a name those of the interfaces that default routes leave by and of `also`
/// (where VIPs and real servers are).
#[must_use]
pub fn resolve(topology: &Topology, names: &[String], also: &BTreeSet<u32>) -> Ports {
    let mut found = Ports::default();
    if names.is_empty() {
        let mut wanted = also.clone();
        wanted.extend(topology.default_interfaces());
        for index in wanted {
            if let Some(link) = topology.link(index)
                && !matches!(link.kind, LinkKind::Loopback | LinkKind::Other)
            {
                resolve_one(topology, link, &mut found);
            }
        }
        return found;
    }
    for name in names {
        match topology.link_named(name) {
            Some(link) => resolve_one(topology, link, &mut found),
            None => found.failures.push(NoPort::Unknown(name.clone())),
        }
    }
    found
}

fn resolve_one(topology: &Topology, asked: &Link, found: &mut Ports) {
    let mut waiting = vec![asked.index];
    let mut seen = Vec::new();
    let before = found.ports.len();
    while let Some(index) = waiting.pop() {
        if seen.contains(&index) {
            continue;
        }
        seen.push(index);
        let Some(link) = topology.link(index) else { continue };
        match link.kind {
            LinkKind::Port => {
                let face = face(topology, link);
                let mtu = face.mtu.min(link.mtu);
                let port = Port {
                    index,
                    name: link.name.clone(),
                    mac: face.mac,
                    macs: macs(topology, link),
                    mtu,
                    asked_as: asked.name.clone(),
                };
                found.ports.entry(index).or_insert(port);
            }
            LinkKind::Vlan(_) => waiting.extend(link.lower),
            LinkKind::Bond | LinkKind::Bridge => {
                waiting.extend(topology.links().filter(|port| port.controller == Some(index)).map(|port| port.index))
            }
            LinkKind::Loopback | LinkKind::Other => found.failures.push(NoPort::Unsupported(link.name.clone())),
        }
    }
    let none = found.ports.len() == before && !seen.iter().any(|index| found.ports.contains_key(index));
    if none && !found.failures.iter().any(|failure| matches!(failure, NoPort::Unsupported(_))) {
        found.failures.push(NoPort::Empty(asked.name.clone()));
    }
}

/// The MAC addresses of a port and of all that stands above it, without repetitions.
fn macs(topology: &Topology, port: &Link) -> Vec<Mac> {
    let mut found = vec![port.mac];
    let mut seen = vec![port.index];
    let mut waiting = vec![port];
    while let Some(link) = waiting.pop() {
        let above = topology.links().filter(|above| match above.kind {
            LinkKind::Bond | LinkKind::Bridge => link.controller == Some(above.index),
            LinkKind::Vlan(_) => above.lower == Some(link.index),
            LinkKind::Port | LinkKind::Loopback | LinkKind::Other => false,
        });
        for above in above {
            if !seen.contains(&above.index) {
                seen.push(above.index);
                waiting.push(above);
                if !found.contains(&above.mac) {
                    found.push(above.mac);
                }
            }
        }
    }
    found
}

/// The interface whose MAC address the network knows for a port: the topmost bond or bridge that it belongs to.
fn face<'a>(topology: &'a Topology, port: &'a Link) -> &'a Link {
    let mut at = port;
    // Deeper than this no one stacks bonds and bridges; events out of order could show a loop.
    for _ in 0..8 {
        match at.controller.and_then(|index| topology.link(index)) {
            Some(above) if matches!(above.kind, LinkKind::Bond | LinkKind::Bridge) => at = above,
            _ => break,
        }
    }
    at
}
