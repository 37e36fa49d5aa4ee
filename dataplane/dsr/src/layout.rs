//! What lies in the tables of the real server's programs, and the marks of probes: the contract with who fills them
//! (`dataplane/backend`) and with the process of the next version, which finds them pinned.
//!
//! Plain old data without padding, in the byte order of the machine; addresses as in `sluicegate_l4::layout`.

use sluicegate_l4::layout::{Address, MAX_BACKENDS};

/// Version of everything in this file; part of the path of the pins.
pub const VERSION: u32 = 1;

/// VIPs that one real server can have.
pub const MAX_BOUND: u32 = 2048;
/// Directors that one real server can know.
pub const MAX_DIRECTORS: u32 = 1024;
/// Networks of peers that one real server can know.
pub const MAX_PEERS: u32 = 4096;
/// Counters for reasons, with room for later ones.
pub const REASON_COUNTERS: u32 = 64;
/// Addresses of one host at which tunnels end.
pub const MAX_ENDPOINTS: u32 = 1024;
/// Ports of VIPs that end in pods, of one host.
pub const MAX_POD_PORTS: u32 = 4096;
/// Pods of one host, counted once for each port that they are behind, and one row that is none.
pub const MAX_PODS: u32 = 16_384;
/// Slots of the ring of a port; a prime ([`sluicegate_l4::maglev`]).
pub const POD_SLOTS: usize = 1021;
/// Datagrams in parts whose first one is remembered.
pub const MAX_POD_PARTS: u32 = 8192;

/// Names of the maps, in the object and below the pin directory.
pub mod map {
    /// `Array<HostControl>` with one entry.
    pub const HOST: &str = "HOST";
    /// `HashMap<Address, u32>`: outer sources that are believed. The value is 1.
    pub const DIRECTORS: &str = "DIRECTORS";
    /// `LpmTrie<Address, u32>`: networks of other real servers, with prefixes of 0 to 128 bits (IPv4: 96 to 128). The value
    /// is 1.
    pub const PEERS: &str = "PEERS";
    /// `HashMap<Address, u32>`: addresses of this host at which tunnels end. The value is 1.
    pub const ENDPOINTS: &str = "ENDPOINTS";
    /// `HashMap<Address, Bound>`: the VIPs of this real server.
    pub const BOUND: &str = "BOUND";
    /// `PerCpuArray<u64>` by [`crate::Reason`] index: packets.
    pub const HOST_REASONS: &str = "HOST_REASONS";
    /// `PerCpuArray<u64>` by [`crate::Reason`] index: packets that the director's probe program saw.
    pub const PROBE_REASONS: &str = "PROBE_REASONS";
    /// `HashMap<PodPortKey, PodPort>`: ports of VIPs that end in pods.
    pub const POD_PORTS: &str = "POD_PORTS";
    /// `Array<Pod>` by id; 0 is none.
    pub const PODS: &str = "PODS";
    /// `LruHashMap<FlowKey, Flow>`: which pod has a flow; the server's end of the key is the VIP.
    pub const POD_FLOWS: &str = "POD_FLOWS";
    /// `LruHashMap<FlowKey, Reply>`: whose flow it is; the server's end of the key is the pod.
    pub const POD_REPLIES: &str = "POD_REPLIES";
    /// `LruHashMap<PartKey, Part>`: what the first part of a datagram says of the others.
    pub const POD_PARTS: &str = "POD_PARTS";
}

/// Switches of the real server's programs.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostControl {
    /// [`HostControl::ANY_DIRECTOR`], [`HostControl::PODS`].
    pub flags: u32,
    /// Index of the interface by which clients of this host itself reach its pods ([`TURN_MAC`]); 0 = there is none.
    pub turn: u32,
    /// Where answers come in to clients of this host whose packets came by `lo` or a director's pair of interfaces: an uplink,
    /// since the kernel expects what has a VIP as source there. Without an interface: where the packets came in.
    pub home: Way,
}

impl HostControl {
    /// Tunnels are believed whatever their outer source is. Whoever can send packets to this host can then send packets
    /// with any source address to its VIPs.
    pub const ANY_DIRECTOR: u32 = 1;
    /// There are pods: what leaves is looked up among their flows.
    pub const PODS: u32 = 2;
}

/// A VIP of this real server.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bound {
    /// Largest IP packet that fits into the tunnel from the director, in bytes; 0 = the MSS is left alone.
    pub tunnel_mtu: u16,
    /// [`Bound::PODS`], [`Bound::NO_ADDRESS`].
    pub flags: u16,
}

impl Bound {
    /// Ports of it end in pods.
    pub const PODS: u16 = 1;
    /// It is no address of this host: what no pod gets is dropped.
    pub const NO_ADDRESS: u16 = 2;
}

/// A port of a VIP.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodPortKey {
    /// The VIP.
    pub vip: Address,
    /// Its port, as a number.
    pub port: u32,
    /// Protocol number of IP.
    pub protocol: u32,
}

/// The pods behind a port.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodPort {
    /// Ids of those that are ready, spread by [`sluicegate_l4::maglev::fill`].
    pub ring: [u16; POD_SLOTS],
    /// How many are ready; 0 = the ring is empty.
    pub ready: u16,
    /// [`PodPort::BY_CLIENT`].
    pub flags: u16,
    /// 0.
    pub reserved: u16,
}

impl PodPort {
    /// The client's address alone decides.
    pub const BY_CLIENT: u16 = 1;
}

/// A pod behind one port of a VIP. What else the row says of the port is for the process that finds it pinned.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// Where the host reaches it.
    pub address: Address,
    /// The VIP.
    pub vip: Address,
    /// Its port.
    pub port: u16,
    /// The VIP's port.
    pub vip_port: u16,
    /// Another one each time that the row gets another pod.
    pub generation: u16,
    /// Protocol number of IP.
    pub protocol: u8,
    /// [`Pod::NONE`], [`Pod::READY`], [`Pod::DRAINING`].
    pub state: u8,
}

impl Pod {
    /// Nobody has the row.
    pub const NONE: u8 = 0;
    /// Gets new flows.
    pub const READY: u8 = 1;
    /// Keeps the flows that it has.
    pub const DRAINING: u8 = 2;
}

/// A pod as a flow remembers it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PodRef {
    /// Its row.
    pub id: u16,
    /// [`Pod::generation`].
    pub generation: u16,
}

/// A flow, by its ends.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct FlowKey {
    /// The client.
    pub client: Address,
    /// The VIP, or the pod.
    pub server: Address,
    /// The client's port, as a number.
    pub client_port: u16,
    /// The server's.
    pub server_port: u16,
    /// Protocol number of IP.
    pub protocol: u32,
}

/// The pod of a flow.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// The pod.
    pub pod: PodRef,
    /// Which address a client of this host has before its pods, counted from 1 ([`turned`]); 0 = its own.
    pub turn: u32,
}

/// Where a packet goes on, as if it had come in there.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Way {
    /// Index of the interface; 0 = where it is.
    pub interface: u32,
    /// The interface's MAC address, and 0.
    pub mac: [u8; 8],
}

/// Addresses that clients of this host have before its pods: one for each of its flows that meet on one pod's port.
pub const TURNS: u32 = 8;
/// The network of those addresses, IPv4 and IPv6, with the bits of its prefix.
pub const TURN_NETWORKS: [([u8; 16], u8); 2] = [
    ([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 169, 254, 83, 0], 96 + 28),
    ([0xfd, 0x53, 0x47, 0x50, 0x4f, 0x44, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 124),
];
/// MAC address of the interface that leads to them.
pub const TURN_MAC: [u8; 8] = [0x02, 0x53, 0x47, 0x50, 0x4f, 0x44, 0, 0];

/// One of those addresses, counted from 1.
#[inline(always)]
#[must_use]
pub const fn turned(turn: u32, ipv6: bool) -> Address {
    let last = (turn & 0xf) as u8;
    if ipv6 {
        let network = [u32::from_ne_bytes([0xfd, 0x53, 0x47, 0x50]), u32::from_ne_bytes([0x4f, 0x44, 0, 0])];
        [network[0], network[1], 0, u32::from_ne_bytes([0, 0, 0, last])]
    } else {
        [0, 0, u32::from_ne_bytes([0, 0, 0xff, 0xff]), u32::from_ne_bytes([169, 254, 83, last])]
    }
}

/// What the answers of a pod to one client's port belong to.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// The VIP.
    pub vip: Address,
    /// The client, where it is one of this host; else 0, and as the key says.
    pub client: Address,
    /// The pod that the flow has.
    pub pod: PodRef,
    /// The VIP's port, as a number.
    pub port: u32,
    /// When a packet of either way was seen last ([`crate::pod::PodTables::now`]).
    pub seen: u32,
    /// [`Reply::CLIENT_DONE`] and others: how much of the flow is over.
    pub ends: u32,
    /// How the answer reaches a client of this host: by where its packets came in.
    pub way: Way,
}

impl Reply {
    /// The client has sent a FIN.
    pub const CLIENT_DONE: u32 = 1;
    /// The pod has sent a FIN.
    pub const POD_DONE: u32 = 2;
    /// One of them has sent a RST.
    pub const RESET: u32 = 4;
}

/// A datagram in parts.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PartKey {
    /// Its source.
    pub source: Address,
    /// Its destination.
    pub destination: Address,
    /// Its identification, as it lies in the header.
    pub id: u32,
    /// Protocol number of IP.
    pub protocol: u32,
}

/// What becomes of the parts of a datagram.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// The address that is put in: the pod's on the way in, the VIP on the way out.
    pub address: Address,
    /// The address of a client of this host that is put in, if the way says so.
    pub client: Address,
    /// When the first part was seen.
    pub seen: u32,
    /// Where they go on.
    pub way: Way,
}

/// A packet that the director itself sends goes to the real server with this id:
/// `mark = MARK_BASE | id`, `id` as in `sluicegate_l4::layout::map::BACKENDS`.
///
/// The bits that kube-proxy (0x4000, 0x8000) and Cilium (0x0f00 in its lower half, where it is alone) use are either
/// not set by it or not looked at under [`MARK_MASK`], so a probe is not taken for a packet to be masqueraded or dropped.
pub const MARK_BASE: u32 = 0x5347_0000;
/// Bits of the mark that say "a probe"; the others are the id.
pub const MARK_MASK: u32 = 0xffff_c000;

/// The mark of a probe to this real server; `None` if there is no such id.
#[must_use]
pub const fn mark(backend: u16) -> Option<u32> {
    if backend == 0 || backend as u32 > MAX_BACKENDS { None } else { Some(MARK_BASE | backend as u32) }
}

/// The real server that a mark names; `None` if it is no probe's.
#[must_use]
pub const fn marked_backend(mark: u32) -> Option<u16> {
    let id = (mark & !MARK_MASK) as u16;
    if mark & MARK_MASK != MARK_BASE || id == 0 { None } else { Some(id) }
}

const _: () = {
    assert!(size_of::<HostControl>() == 20);
    assert!(size_of::<Bound>() == 4);
    assert!(size_of::<PodPortKey>() == 24 && size_of::<PodPort>() == 2048 && size_of::<Pod>() == 40);
    assert!(size_of::<FlowKey>() == 40 && size_of::<Flow>() == 8 && size_of::<Reply>() == 60);
    assert!(size_of::<PartKey>() == 40 && size_of::<Part>() == 48);
    assert!(TURNS.is_power_of_two() && TURNS < 16);
    assert!(MAX_PODS <= 1 << 16);
    assert!(crate::Reason::ALL.len() <= REASON_COUNTERS as usize);
    assert!(MAX_BACKENDS == !MARK_MASK);
};
