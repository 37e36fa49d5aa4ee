//! What lies in the tables: the contract between the packet path, who fills the tables (`dataplane/forward`) and the
//! process of the next version, which finds them pinned.
//!
//! All of it is plain old data of fixed size without padding. A change of any size, order or meaning is a new
//! [`VERSION`]: tables of two versions live side by side under their own pins.
//!
//! Numbers are in the byte order of the machine, addresses and ports that are compared with packets in network order as
//! they lie in the packet ([`Address`] words by `u32::from_ne_bytes`, ports by `u16::from_be_bytes`).

/// Version of everything in this file; part of the path of the pins.
pub const VERSION: u32 = 2;
/// Versions before whose tables mean the same as far as they go: what they lack is made anew, empty.
///
/// 1: flows had one set each.
pub const COMPATIBLE: &[u32] = &[1];

/// Number of VIPs that fit, at a fill that lets a new one always find its bucket: ids are `1..=MAX_ADDRESSES`.
pub const MAX_ADDRESSES: u32 = 2048;
/// Number of (VIP, protocol, port): ids are `1..=MAX_SERVICES`.
pub const MAX_SERVICES: u32 = 4095;
/// Number of (real server, method) pairs: ids are `1..=MAX_BACKENDS`. Id 0 is "none".
pub const MAX_BACKENDS: u32 = 16_383;
/// Slots of a Maglev ring (a prime).
pub const RING_SLOTS: u32 = 65_537;
/// Slots in one line of [`RingLine`].
pub const RING_LINE_SLOTS: u32 = 32;
/// Lines that one ring of [`RING_SLOTS`] takes.
pub const RING_LINES: u32 = RING_SLOTS.div_ceil(RING_LINE_SLOTS);
/// Rings in the table. Services with the same backends and weights share one.
pub const MAX_RINGS: u32 = 512;
/// Buckets of the address directory. A power of two.
pub const ADDRESS_BUCKETS: u32 = 2048;
/// Buckets of the service directory. A power of two.
pub const SERVICE_BUCKETS: u32 = 2048;
/// Sets of the flow table by default: 2 M entries, of which 1 M are used well. A power of two; see [`Control::flow_mask`].
pub const FLOW_SETS: u32 = 1 << 18;
/// Ways of one set: one cache line.
pub const FLOW_WAYS: usize = 8;

/// Sets whose marks share a line of [`OverflowLine`].
pub const OVERFLOW_LINE_SETS: u32 = 64;

/// Names of the maps, in the object and below the pin directory.
pub mod map {
    /// `Array<Control>` with one entry.
    pub const CONTROL: &str = "CONTROL";
    /// `Array<AddressBucket>` of [`super::ADDRESS_BUCKETS`].
    pub const ADDRESSES: &str = "ADDRESSES";
    /// `Array<u64>` by address id: jiffies until which ARP, NDP and nothing else is answered for it (the fence).
    pub const FENCES: &str = "FENCES";
    /// `Array<ServiceBucket>` of [`super::SERVICE_BUCKETS`].
    pub const SERVICE_INDEX: &str = "SERVICE_INDEX";
    /// `Array<Service>` by service id.
    pub const SERVICES: &str = "SERVICES";
    /// `Array<RingLine>`: ring `r` begins at line `r * RING_LINES`.
    pub const RINGS: &str = "RINGS";
    /// `Array<Backend>` by backend id.
    pub const BACKENDS: &str = "BACKENDS";
    /// `Array<FlowSet>`, memory-mappable.
    pub const FLOWS: &str = "FLOWS";
    /// `Array<OverflowLine>` by the number of the set of flows divided by [`super::OVERFLOW_LINE_SETS`], memory-mappable.
    pub const OVERFLOWS: &str = "OVERFLOWS";
    /// `HashMap<u32, Interface>` by interface index: ports that the program is attached to.
    pub const INTERFACES: &str = "INTERFACES";
    /// `Array<PortMacs>` of [`super::PortMacs::ROWS`].
    pub const MACS: &str = "MACS";
    /// `DevMapHash` by interface index: ports that packets may leave by.
    pub const EGRESS: &str = "EGRESS";
    /// `PerCpuArray<u64>` by [`crate::verdict::Reason`] index: packets.
    pub const REASONS: &str = "REASONS";
    /// `PerCpuArray<Traffic>` by service id.
    pub const SERVICE_TRAFFIC: &str = "SERVICE_TRAFFIC";
    /// `PerCpuArray<Traffic>` by backend id.
    pub const BACKEND_TRAFFIC: &str = "BACKEND_TRAFFIC";
    /// `PerCpuArray<u64>` by service id: the turn of round robin.
    pub const TURNS: &str = "TURNS";
    /// `RingBuf` of sampled packets ([`super::SampleHead`], then the beginning of the frame).
    pub const SAMPLES: &str = "SAMPLES";
}

/// Switches of the whole program.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Control {
    /// Dead man's deadline, in jiffies: from then on every packet passes untouched and nothing is answered. Who programs
    /// the tables keeps moving it forward. 0 = nobody has begun.
    pub live_until: u64,
    /// Odd random number of this machine: mixes the place of a flow, so that nobody outside can aim at a set.
    pub flow_secret: u64,
    /// Number of flow sets minus one (the number is a power of two).
    pub flow_mask: u32,
    /// A flow stamp counts `jiffies >> stamp_shift`, about 8 seconds: 11 at 250 Hz, 13 at 1000 Hz.
    pub stamp_shift: u32,
    /// One packet of so many is sampled for `tap`; 0 = none.
    pub sample_every: u32,
    /// Reserved, 0.
    pub reserved: u32,
}

/// An IPv4 (as `::ffff:a.b.c.d`) or IPv6 address in network order.
pub type Address = [u32; 4];

/// One VIP of the directory.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AddressEntry {
    /// The address.
    pub address: Address,
    /// 1.. ; 0 = free. Written last.
    pub id: u16,
    /// [`AddressEntry::ECHO`] …
    pub flags: u16,
}

impl AddressEntry {
    /// ICMP echo is answered.
    pub const ECHO: u16 = 1;
    /// The address is also configured on this machine (director and backend at once): what no backend elsewhere gets, passes.
    pub const LOCAL: u16 = 2;
}

/// A bucket of the directory of VIPs: an address is in one of two buckets
/// ([`crate::directory::address_buckets`]).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AddressBucket {
    /// In any order, with gaps.
    pub entries: [AddressEntry; 3],
    /// 0.
    pub reserved: u32,
}

/// A bucket of the directory of services: words made by [`service_word`], 0 = free. Two buckets a key
/// ([`crate::directory::service_buckets`]).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceBucket {
    /// In any order, with gaps.
    pub words: [u64; 8],
}

/// Key of (VIP, protocol, port) with the low 16 bits free for the service's id. Port 0 = any port of that protocol,
/// protocol 0 and port 0 = everything that comes to the address.
#[must_use]
pub const fn service_key(address: u16, protocol: u8, port: u16) -> u64 {
    ((address as u64) << 48) | ((protocol as u64) << 32) | ((port as u64) << 16)
}

/// The word of a service in the directory.
#[must_use]
pub const fn service_word(key: u64, service: u16) -> u64 {
    key | service as u64
}

/// What is bound to (VIP, protocol, port).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Service {
    /// Ring in [`map::RINGS`]; the first line is `ring * RING_LINES`.
    pub ring: u32,
    /// Slots of the ring that are filled (a prime for Maglev, any number up to [`RING_SLOTS`] for round robin);
    /// 0 = no backend: packets are dropped with that reason.
    pub ring_slots: u32,
    /// Ring in which each slot's former owner stands (second chance; 0 = none), with as many slots; `u32::MAX` = none.
    pub former_ring: u32,
    /// One of `SELECT_*`.
    pub select: u8,
    /// `FLAG_*`.
    pub flags: u8,
    /// Bits of an IPv4 client address that make one client (persistence): 0..=32.
    pub persistence_prefix4: u8,
    /// The same of an IPv6 address: 0..=128.
    pub persistence_prefix6: u8,
    /// How long persistence outlives the last packet, in stamps; 0 = no persistence.
    pub persistence_stamps: u16,
    /// Idle time after which a UDP flow may be selected anew, in stamps; 0 = never by time.
    pub udp_idle_stamps: u16,
    /// 0.
    pub reserved: [u8; 44],
}

impl Default for Service {
    fn default() -> Self {
        Self {
            ring: 0,
            ring_slots: 0,
            former_ring: u32::MAX,
            select: Self::SELECT_TUPLE,
            flags: 0,
            persistence_prefix4: 0,
            persistence_prefix6: 0,
            persistence_stamps: 0,
            udp_idle_stamps: 0,
            reserved: [0; 44],
        }
    }
}

impl Service {
    /// By source address, source port and destination port (Maglev and all that is a weighted ring: `mh lc wlc`).
    pub const SELECT_TUPLE: u8 = 0;
    /// By source address (`sh`).
    pub const SELECT_SOURCE: u8 = 1;
    /// By destination address (`dh`).
    pub const SELECT_DESTINATION: u8 = 2;
    /// In turn (`rr`, `wrr`): the ring is an interleaved sequence.
    pub const SELECT_TURN: u8 = 3;

    /// Each UDP packet is scheduled by itself; nothing is remembered.
    pub const FLAG_ONE_PACKET: u8 = 1;
    /// Fragments follow their first one; without it they are dropped by name.
    pub const FLAG_FRAGMENTS: u8 = 2;
    /// GUE packets of TCP flows that are not known carry the address of the slot's former owner
    /// ([`Service::former_ring`], [`crate::gue`]). Not with [`Service::SELECT_TURN`], where a flow has no slot.
    pub const FLAG_SECOND_CHANCE: u8 = 4;
}

/// 32 slots of a ring: ids of backends, 0 = none.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingLine {
    /// Slot `32 * line + i`.
    pub slots: [u16; RING_LINE_SLOTS as usize],
}

/// Longest precomputed head: Ethernet, two VLAN tags, IPv6, UDP.
pub const HEAD_ROOM: usize = 72;

/// A real server under one delivery method.
///
/// `head` is copied in front of the packet as it is (L2: its first 14 bytes over the Ethernet header); what depends on the
/// packet (lengths, DSCP and ECN, checksum, UDP source port) is filled in after.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend {
    /// One of `KIND_*`.
    pub kind: u8,
    /// 0..=15. Counts up when the backend dies or the id gets another meaning: flows of an older one are selected anew.
    pub generation: u8,
    /// Bytes of `head` in use.
    pub head_len: u8,
    /// 1 = usable. 0 = what still leads here is selected anew (dead), or dropped by name.
    pub alive: u8,
    /// Largest IP packet that fits unencapsulated the way to it: link MTU minus the outer headers.
    pub mtu: u16,
    /// Ones' complement sum of the precomputed outer IPv4 header with length and TOS 0, as 16-bit words in network order,
    /// carries folded in, not complemented; 0 for others.
    pub checksum: u16,
    /// Interface to leave by; 0 = the one that the packet came in on.
    pub egress: u32,
    /// What else tells records of one address apart (the port whose probes decide): who fills the table knows its records
    /// again by it after a restart. The packet path does not look at it.
    pub owner: u32,
    /// The address, for `tap`, counters and second chance.
    pub address: Address,
    /// Ethernet header, outer IP, outer UDP.
    pub head: [u8; HEAD_ROOM],
    /// 0.
    pub reserved_tail: [u8; 24],
}

impl Default for Backend {
    fn default() -> Self {
        Self {
            kind: 0,
            generation: 0,
            head_len: 0,
            alive: 0,
            mtu: 0,
            checksum: 0,
            egress: 0,
            owner: 0,
            address: [0; 4],
            head: [0; HEAD_ROOM],
            reserved_tail: [0; 24],
        }
    }
}

impl Backend {
    /// Not in use.
    pub const KIND_NONE: u8 = 0;
    /// Rewrite the MAC addresses (LVS-DR).
    pub const KIND_L2: u8 = 1;
    /// Outer IPv4 (protocol 4 or 41).
    pub const KIND_IP4: u8 = 2;
    /// Outer IPv6 (next header 4 or 41).
    pub const KIND_IP6: u8 = 3;
    /// Outer IPv4, UDP to [`GUE_PORT`], GUE variant 1 (the inner IP header follows).
    pub const KIND_GUE4: u8 = 4;
    /// Outer IPv6, UDP (checksum 0, RFC 6935), GUE variant 1.
    pub const KIND_GUE6: u8 = 5;
    /// This machine: the packet passes to its own stack, which has the VIP on `lo`.
    pub const KIND_LOCAL: u8 = 6;
}

/// Destination port of GUE (IANA).
pub const GUE_PORT: u16 = 6080;

/// A port that the program is attached to.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its MAC address (a bond's or bridge's where it belongs to one): answers to ARP and NDP carry it.
    pub mac: [u8; 6],
    /// MTU in bytes.
    pub mtu: u16,
}

/// The MAC addresses that a port takes frames for, in the row [`PortMacs::row_of`] its index: its own, and those of the
/// bonds, bridges and VLAN devices above it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortMacs {
    /// Interface index; 0 = frames for whomever are taken by the ports of this row.
    pub ifindex: u32,
    /// 0.
    pub reserved: u32,
    /// [`PortMacs::word`]s; 0 = none.
    pub macs: [u64; 7],
}

impl PortMacs {
    /// Rows of the table. A power of two.
    pub const ROWS: u32 = 256;

    /// The row of a port. Two ports that share one have no row of their own.
    #[must_use]
    pub const fn row_of(ifindex: u32) -> u32 {
        ifindex & (Self::ROWS - 1)
    }

    /// A MAC address as a number: its first byte is the lowest.
    #[must_use]
    pub const fn word(mac: [u8; 6]) -> u64 {
        let [a, b, c, d, e, f] = mac;
        u64::from_le_bytes([a, b, c, d, e, f, 0, 0])
    }
}

/// Packets and bytes (whole frames as they came).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Frames.
    pub packets: u64,
    /// Bytes of these frames.
    pub bytes: u64,
    /// Flows that were selected anew (services), or got this backend (backends).
    pub flows: u64,
}

/// Eight flows whose hashes share a set. Each word is written and read whole, by any CPU.
///
/// | bits | |
/// | --- | --- |
/// | 0..14 | backend id; 0 with all others 0 = free |
/// | 14..18 | generation of the backend |
/// | 18 | confirmed: a second packet came |
/// | 19..30 | stamp: [`Control::stamp_shift`]ed jiffies of the last packet, modulo 2048 |
/// | 30..64 | signature of the flow |
///
/// A packet of a flow that is not in the table takes another one's entry for its own with probability 8 · 2⁻³⁴ ≈ 4.7e-10,
/// in a table that is full, and twice that if its set is marked as overflowed.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowSet {
    /// In any order, with gaps.
    pub words: [u64; FLOW_WAYS],
}

/// The two sets in which a flow with this [`crate::hash::flow`] may be, where `mask` is [`Control::flow_mask`]: it is in the
/// second one only if the first one has a mark in [`OverflowLine`].
///
/// How far they are apart depends on the signature alone, so that entries of one set have independent signatures whichever
/// of their sets it is.
#[inline(always)]
#[must_use]
pub const fn flow_sets(hash: u64, mask: u32) -> [u32; 2] {
    let home = hash as u32;
    let apart = (hash >> 32) as u32 | 1;
    [home & mask, (home ^ apart) & mask]
}

/// Marks of 64 sets of flows, each written and read whole: 0, or [`overflow_mark`] of the last packet of a flow that is in
/// its second set because this one was full of established flows.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverflowLine {
    /// By the set's number modulo 64.
    pub marks: [u8; OVERFLOW_LINE_SETS as usize],
}

/// The mark of a set at a stamp: bit 7, and the seven upper bits of the stamp.
#[inline(always)]
#[must_use]
pub const fn overflow_mark(stamp: u16) -> u8 {
    1 << 7 | (stamp >> (flow_word::STAMP_BITS - 7) & 0x7f) as u8
}

/// Bits of a flow word.
pub mod flow_word {
    /// Bits of the backend's id.
    pub const BACKEND_BITS: u32 = 14;
    /// First bit of the generation.
    pub const GENERATION_SHIFT: u32 = 14;
    /// Bits of the generation.
    pub const GENERATION_BITS: u32 = 4;
    /// The flow has had a second packet.
    pub const CONFIRMED: u64 = 1 << 18;
    /// First bit of the stamp.
    pub const STAMP_SHIFT: u32 = 19;
    /// Bits of the stamp.
    pub const STAMP_BITS: u32 = 11;
    /// First bit of the signature.
    pub const SIGNATURE_SHIFT: u32 = 30;
}

/// In front of a sampled frame.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SampleHead {
    /// Nanoseconds of the monotonic clock (`bpf_ktime_get_ns`).
    pub time: u64,
    /// Interface that the frame came in on.
    pub ifindex: u32,
    /// Its length in bytes, before the packet path touched it.
    pub length: u32,
    /// Bytes of it that follow.
    pub captured: u16,
    /// Index of the [`crate::verdict::Reason`].
    pub reason: u16,
    /// Id of the backend; 0 = none.
    pub backend: u16,
    /// Id of the service; 0 = none.
    pub service: u16,
}

const _: () = {
    assert!(size_of::<Control>() == 32);
    assert!(size_of::<AddressBucket>() == 64);
    assert!(size_of::<ServiceBucket>() == 64);
    assert!(size_of::<Service>() == 64);
    assert!(size_of::<RingLine>() == 64);
    assert!(size_of::<Backend>() == 128);
    assert!(size_of::<Interface>() == 8);
    assert!(size_of::<PortMacs>() == 64);
    assert!(size_of::<Traffic>() == 24);
    assert!(size_of::<FlowSet>() == 64);
    assert!(size_of::<OverflowLine>() == 64);
    assert!(size_of::<SampleHead>() == 24);
};
