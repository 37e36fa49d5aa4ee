//! Heads of backends, built once: what the packet path copies in front of a packet.
//!
//! Left to the packet path, because it depends on the packet: the Ethernet type of L2, lengths, DSCP and ECN, the protocol
//! number inside of a tunnel (so that IPv4 and IPv6 share a head), the IPv4 header checksum (from [`Backend::checksum`])
//! and the UDP source port.

use crate::fleet::{Delivery, DeliveryKind};
use sluicegate_l4::layout::{Address, Backend, GUE_PORT, HEAD_ROOM};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// VLAN tags that a head has room for.
pub const MOST_TAGS: usize = 2;
/// Hop limit of outer headers, as Linux starts with.
const HOP_LIMIT: u8 = 64;
/// IPv4 inside (RFC 2003).
const PROTOCOL_IPV4: u8 = 4;
const PROTOCOL_UDP: u8 = 17;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const IPV4_BYTES: usize = 20;
const IPV6_BYTES: usize = 40;
const UDP_BYTES: usize = 8;

/// The record of a real server in the table, with generation and `owner` 0 and not alive.
#[must_use]
pub fn record(real: IpAddr, delivery: &Delivery) -> Backend {
    let mut head = Head::default();
    match delivery.kind {
        DeliveryKind::Local => {}
        DeliveryKind::L2 => head.ethernet(delivery, real),
        DeliveryKind::Tunnel { source } => {
            head.ethernet(delivery, real);
            head.ip(source, real, PROTOCOL_IPV4);
        }
        DeliveryKind::Gue { source } => {
            head.ethernet(delivery, real);
            head.ip(source, real, PROTOCOL_UDP);
            head.udp();
        }
    }
    let room = delivery.mtu.saturating_sub(outer_bytes(delivery.kind));
    Backend {
        kind: kind_number(real, delivery.kind),
        head_len: head.used as u8,
        mtu: u16::try_from(room).unwrap_or(u16::MAX),
        checksum: head.checksum,
        egress: delivery.egress,
        address: address_words(real),
        head: head.bytes,
        ..Backend::default()
    }
}

/// Bytes of outer IP and UDP headers.
#[must_use]
pub const fn outer_bytes(kind: DeliveryKind) -> u32 {
    let bytes = match kind {
        DeliveryKind::L2 | DeliveryKind::Local => 0,
        DeliveryKind::Tunnel { source: IpAddr::V4(_) } => IPV4_BYTES,
        DeliveryKind::Tunnel { source: IpAddr::V6(_) } => IPV6_BYTES,
        DeliveryKind::Gue { source: IpAddr::V4(_) } => IPV4_BYTES + UDP_BYTES,
        DeliveryKind::Gue { source: IpAddr::V6(_) } => IPV6_BYTES + UDP_BYTES,
    };
    bytes as u32
}

/// An address as it lies in the tables: IPv4 as `::ffff:a.b.c.d`.
#[must_use]
pub fn address_words(address: IpAddr) -> Address {
    let octets = address_octets(address);
    let (words, _) = octets.as_chunks::<4>();
    let mut out = [0; 4];
    for (word, bytes) in out.iter_mut().zip(words) {
        *word = u32::from_ne_bytes(*bytes);
    }
    out
}

/// The 16 bytes of an address: IPv4 as `::ffff:a.b.c.d`.
#[must_use]
pub fn address_octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// The address that lies in the tables as these words.
#[must_use]
pub fn address_from_words(words: Address) -> IpAddr {
    let mut octets = [0; 16];
    for (bytes, word) in octets.chunks_exact_mut(4).zip(words) {
        bytes.copy_from_slice(&word.to_ne_bytes());
    }
    Ipv6Addr::from(octets).to_canonical()
}

/// `KIND_*` of a record.
pub(crate) const fn kind_number(real: IpAddr, kind: DeliveryKind) -> u8 {
    match (kind, real) {
        (DeliveryKind::L2, _) => Backend::KIND_L2,
        (DeliveryKind::Local, _) => Backend::KIND_LOCAL,
        (DeliveryKind::Tunnel { .. }, IpAddr::V4(_)) => Backend::KIND_IP4,
        (DeliveryKind::Tunnel { .. }, IpAddr::V6(_)) => Backend::KIND_IP6,
        (DeliveryKind::Gue { .. }, IpAddr::V4(_)) => Backend::KIND_GUE4,
        (DeliveryKind::Gue { .. }, IpAddr::V6(_)) => Backend::KIND_GUE6,
    }
}

/// A head as it grows.
struct Head {
    bytes: [u8; HEAD_ROOM],
    used: usize,
    checksum: u16,
}

impl Default for Head {
    fn default() -> Self {
        Self { bytes: [0; HEAD_ROOM], used: 0, checksum: 0 }
    }
}

impl Head {
    /// With the VLAN tags of the way.
    fn ethernet(&mut self, delivery: &Delivery, real: IpAddr) {
        self.push(&delivery.destination_mac);
        self.push(&delivery.source_mac);
        for tag in delivery.tags.iter().take(MOST_TAGS) {
            self.push(&tag.protocol.to_be_bytes());
            self.push(&tag.id.to_be_bytes());
        }
        self.push(&if real.is_ipv4() { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 }.to_be_bytes());
    }

    fn ip(&mut self, source: IpAddr, destination: IpAddr, payload: u8) {
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => self.ipv4(source, destination, payload),
            (_, IpAddr::V6(destination)) => self.ipv6(address_octets(source).into(), destination, payload),
            // `deliver` gives sources of the destination's family alone.
            (IpAddr::V6(_), IpAddr::V4(destination)) => self.ipv4(Ipv4Addr::UNSPECIFIED, destination, payload),
        }
    }

    /// DF: routers on the way must not fragment what a real server would have to put together. Id 0: with DF set it means nothing (RFC 6864 section 4.1).
    fn ipv4(&mut self, source: Ipv4Addr, destination: Ipv4Addr, protocol: u8) {
        let start = self.used;
        self.push(&[0x45, 0, 0, 0, 0, 0, 0x40, 0, HOP_LIMIT, protocol, 0, 0]);
        self.push(&source.octets());
        self.push(&destination.octets());
        self.checksum = sum(&self.bytes[start..self.used]);
    }

    fn ipv6(&mut self, source: Ipv6Addr, destination: Ipv6Addr, next_header: u8) {
        self.push(&[0x60, 0, 0, 0, 0, 0, next_header, HOP_LIMIT]);
        self.push(&source.octets());
        self.push(&destination.octets());
    }

    /// Checksum 0: allowed over IPv4, and over IPv6 for tunnels (RFC 6935).
    fn udp(&mut self) {
        self.push(&[0, 0]);
        self.push(&GUE_PORT.to_be_bytes());
        self.push(&[0; 4]);
    }

    /// The longest head (Ethernet, two tags, IPv6, UDP: 70 bytes) fits by construction.
    fn push(&mut self, bytes: &[u8]) {
        let end = self.used + bytes.len();
        self.bytes[self.used..end].copy_from_slice(bytes);
        self.used = end;
    }
}

/// Ones' complement sum of 16-bit words in network order (RFC 1071), carries folded in, not complemented.
fn sum(bytes: &[u8]) -> u16 {
    let (words, _) = bytes.as_chunks::<2>();
    let mut sum: u32 = words.iter().map(|word| u32::from(u16::from_be_bytes(*word))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}
