//! Pods and their flows in memory, and packets to and from them, built whole: what a translation has to come to.

use crate::support::{Tables, address, checksum, ip_with};
use sluicegate_dsr::HostTables;
use sluicegate_dsr::layout::{
    Bound, Flow, FlowKey, HostControl, POD_SLOTS, Part, PartKey, Pod, PodPort, PodPortKey, Reply,
};
use sluicegate_dsr::pod::{PodTables, Scratch};
use sluicegate_l4::layout::Address;
use sluicegate_l4::maglev::{self, Claimant};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::{Deref, DerefMut};

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const SYN: u8 = 0x02;
pub const ACK: u8 = 0x10;
pub const FIN: u8 = 0x01;
pub const RST: u8 = 0x04;
/// A second VIP with the same pods, and one that is an address of the host too.
pub const OTHER_VIP4: &str = "192.0.2.11";
pub const HOST_VIP4: &str = "192.0.2.12";
pub const PODS4: [&str; 3] = ["203.0.113.101", "203.0.113.102", "203.0.113.103"];
pub const PODS6: [&str; 3] = ["2001:db8:f::1", "2001:db8:f::2", "2001:db8:f::3"];
/// What the pods listen on, and the VIP's port.
pub const TARGET: u16 = 8080;
pub const PORT: u16 = 80;

/// The interface of clients of the host itself.
pub const TURN: u32 = 77;

/// The tables of a host with pods.
pub struct World {
    pub host: Tables,
    pub scratch: RefCell<Scratch>,
    pub now: Cell<u32>,
    pub ports: BTreeMap<PodPortKey, PodPort>,
    pub pods: Vec<Pod>,
    pub flows: RefCell<BTreeMap<FlowKey, Flow>>,
    pub replies: RefCell<BTreeMap<FlowKey, Reply>>,
    pub parts: RefCell<BTreeMap<PartKey, Part>>,
}

/// One end of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End<'a>(pub &'a str, pub u16);

impl World {
    /// No VIP ends in pods yet.
    pub fn new() -> Self {
        let mut host = Tables::of_host();
        host.control.flags |= HostControl::PODS;
        host.control.turn = TURN;
        host.bound.clear();
        Self {
            host,
            scratch: RefCell::default(),
            now: Cell::new(1000),
            ports: BTreeMap::new(),
            pods: vec![Pod::default()],
            flows: RefCell::default(),
            replies: RefCell::default(),
            parts: RefCell::default(),
        }
    }

    /// Port 80 of both VIPs of both families, over TCP and UDP, with three pods each.
    pub fn of_pods() -> Self {
        let mut world = Self::new();
        for vip in [super::VIP4, OTHER_VIP4, HOST_VIP4, super::VIP6] {
            let pods = if vip.contains(':') { PODS6 } else { PODS4 };
            for protocol in [TCP, UDP] {
                world.serve(vip, protocol, &pods);
            }
        }
        world.host.bound.get_mut(&address(HOST_VIP4)).expect("bound").flags = Bound::PODS;
        world
    }

    pub fn serve(&mut self, vip: &str, protocol: u8, pods: &[&str]) {
        let bound = Bound { tunnel_mtu: super::MTU, flags: Bound::PODS | Bound::NO_ADDRESS };
        self.host.bound.insert(address(vip), bound);
        for pod in pods {
            self.pods.push(Pod {
                address: address(pod),
                vip: address(vip),
                port: TARGET,
                vip_port: PORT,
                generation: 1,
                protocol,
                state: Pod::READY,
            });
        }
        self.spread(vip, protocol);
    }

    /// Fills the ring of a port with its ready pods.
    pub fn spread(&mut self, vip: &str, protocol: u8) {
        let of_port = |pod: &Pod| pod.vip == address(vip) && pod.protocol == protocol && pod.state == Pod::READY;
        let ready: Vec<u16> = (1..self.pods.len())
            .filter(|id| of_port(&self.pods[*id]))
            .map(|id| u16::try_from(id).expect("few"))
            .collect();
        let mut ring = [0; POD_SLOTS];
        let mut claimants: Vec<Claimant> =
            ready.iter().map(|id| Claimant::new(*id, 1, maglev::identity([*id as u8; 16]))).collect();
        maglev::fill(&mut claimants, &mut ring);
        let key = PodPortKey { vip: address(vip), port: u32::from(PORT), protocol: u32::from(protocol) };
        let flags = self.ports.get(&key).map_or(0, |port| port.flags);
        let ready = u16::try_from(ready.len()).expect("few");
        self.ports.insert(key, PodPort { ring, ready, flags, reserved: 0 });
    }

    /// The state of the pod behind a port of a VIP.
    pub fn set(&mut self, vip: &str, protocol: u8, pod: &str, state: u8) {
        let row = self
            .pods
            .iter_mut()
            .find(|row| (row.vip, row.protocol, row.address) == (address(vip), protocol, address(pod)))
            .expect("a pod of the port");
        row.state = state;
        self.spread(vip, protocol);
    }
}

impl HostTables for World {
    fn control(&self) -> HostControl {
        self.host.control()
    }

    fn is_endpoint(&self, address: &Address) -> bool {
        self.host.is_endpoint(address)
    }

    fn is_director(&self, address: &Address) -> bool {
        self.host.is_director(address)
    }

    fn is_peer(&self, address: &Address) -> bool {
        self.host.is_peer(address)
    }

    fn bound(&self, address: &Address) -> Option<Bound> {
        self.host.bound(address)
    }
}

impl PodTables for World {
    fn scratch(&self) -> Option<impl DerefMut<Target = Scratch>> {
        // With what the packet before has left.
        Some(self.scratch.borrow_mut())
    }

    fn now(&self) -> u32 {
        self.now.get()
    }

    fn port<'a>(&'a self, key: &PodPortKey) -> Option<impl Deref<Target = PodPort> + use<'a>> {
        self.ports.get(key)
    }

    fn pod(&self, id: u16) -> Option<impl Deref<Target = Pod>> {
        self.pods.get(usize::from(id))
    }

    fn flow<'a>(&'a self, key: &FlowKey) -> Option<impl Deref<Target = Flow> + use<'a>> {
        self.flows.borrow().get(key).copied().map(Box::new)
    }

    fn remember_flow(&self, key: &FlowKey, flow: &Flow) -> bool {
        self.flows.borrow_mut().insert(*key, *flow);
        true
    }

    fn reply<'a>(&'a self, key: &FlowKey) -> Option<impl Deref<Target = Reply> + use<'a>> {
        self.replies.borrow().get(key).copied().map(Box::new)
    }

    fn remember_reply(&self, key: &FlowKey, reply: &Reply) -> bool {
        self.replies.borrow_mut().insert(*key, *reply);
        true
    }

    fn mark_reply(&self, key: &FlowKey, seen: u32, ends: u32) {
        if let Some(reply) = self.replies.borrow_mut().get_mut(key) {
            (reply.seen, reply.ends) = (seen, ends);
        }
    }

    fn part<'a>(&'a self, key: &PartKey) -> Option<impl Deref<Target = Part> + use<'a>> {
        self.parts.borrow().get(key).copied().map(Box::new)
    }

    fn remember_part(&self, key: &PartKey, part: &Part) -> bool {
        self.parts.borrow_mut().insert(*key, *part);
        true
    }
}

fn octets(text: &str) -> Vec<u8> {
    match text.parse().expect("an address") {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// A TCP segment or a UDP datagram with a right checksum, without its IP header.
pub fn upper(protocol: u8, from: End<'_>, to: End<'_>, flags: u8, data: &[u8]) -> Vec<u8> {
    let ports = [from.1.to_be_bytes(), to.1.to_be_bytes()].concat();
    let length = u16::try_from(data.len() + 8).expect("short").to_be_bytes();
    let (mut bytes, at) = match protocol {
        TCP => {
            let options = [2, 4, 5, 0xb4];
            ([&ports[..], &[1, 2, 3, 4, 5, 6, 7, 8, 6 << 4, flags, 0xff, 0xff, 0, 0, 0, 0], &options].concat(), 16)
        }
        _ => ([&ports[..], &length, &[0, 0]].concat(), 6),
    };
    bytes.extend(data);
    let length = u16::try_from(bytes.len()).expect("short").to_be_bytes();
    let sum = match checksum(&[&octets(from.0), &octets(to.0), &[0, protocol], &length, &bytes]) {
        0 if protocol == UDP => 0xffff,
        sum => sum,
    };
    bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// An IP packet of TCP or UDP.
pub fn packet(protocol: u8, from: End<'_>, to: End<'_>, flags: u8, data: &[u8]) -> Vec<u8> {
    ip_with(from.0, to.0, protocol, 0, &[], &upper(protocol, from, to, flags, data))
}

/// The same UDP packet without a checksum.
pub fn without_checksum(mut packet: Vec<u8>) -> Vec<u8> {
    let at = if packet[0] >> 4 == 4 { 26 } else { 46 };
    packet[at..at + 2].fill(0);
    packet
}

/// A packet in two parts, the first of which has `cut` bytes (a multiple of 8) behind the IP header.
pub fn in_parts(packet: &[u8], cut: usize) -> [Vec<u8>; 2] {
    if packet[0] >> 4 == 4 {
        let part = |place: u16, payload: &[u8]| {
            let mut bytes = packet[..20].to_vec();
            bytes[2..4].copy_from_slice(&u16::try_from(20 + payload.len()).expect("short").to_be_bytes());
            bytes[6..8].copy_from_slice(&place.to_be_bytes());
            bytes[10..12].fill(0);
            let sum = checksum(&[&bytes]).to_be_bytes();
            bytes[10..12].copy_from_slice(&sum);
            [&bytes, payload].concat()
        };
        let place = u16::try_from(cut / 8).expect("short");
        return [part(0x2000, &packet[20..20 + cut]), part(place, &packet[20 + cut..])];
    }
    let part = |place: u16, payload: &[u8]| {
        let mut bytes = packet[..40].to_vec();
        bytes[4..6].copy_from_slice(&u16::try_from(8 + payload.len()).expect("short").to_be_bytes());
        let [high, low] = place.to_be_bytes();
        let header = [std::mem::replace(&mut bytes[6], 44), 0, high, low, 0xde, 0xad, 0xbe, 0xef];
        [&bytes, &header[..], payload].concat()
    };
    [part(1, &packet[40..40 + cut]), part(u16::try_from(cut).expect("short"), &packet[40 + cut..])]
}

/// An ICMP error from one to another, about the first bytes of a packet.
pub fn error(from: &str, to: &str, quoted: &[u8]) -> Vec<u8> {
    let six = from.contains(':');
    let head = if six { [2, 0, 0, 0, 0, 0, 5, 0] } else { [3, 4, 0, 0, 0, 0, 5, 0] };
    let mut message = [&head[..], quoted].concat();
    let protocol = if six { 58 } else { 1 };
    let length = u16::try_from(message.len()).expect("short").to_be_bytes();
    let sum = match six {
        true => checksum(&[&octets(from), &octets(to), &[0, protocol], &length, &message]),
        false => checksum(&[&message]),
    };
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    ip_with(from, to, protocol, 0, &[], &message)
}
