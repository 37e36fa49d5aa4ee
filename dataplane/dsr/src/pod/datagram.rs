//! IP packets, as far as delivery into pods reads them: on the wire, and quoted by an ICMP error.

use crate::frame::{
    ETHERTYPE_IP4, ETHERTYPE_IP6, PROTOCOL_ICMP4, PROTOCOL_ICMP6, PROTOCOL_TCP, PROTOCOL_UDP, address4, address6,
    network,
};
use sluicegate_l4::Packet;
use sluicegate_l4::layout::Address;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;
/// Extension headers that are followed: one of each kind that hosts put in front of a fragment or a segment.
const MAX_EXTENSIONS: usize = 4;
/// Bytes of an extension header that is followed.
const LONGEST_EXTENSION: usize = 64;
const ICMP_HEADER: usize = 8;

/// A part of a datagram? One word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Fragment(u64);

impl Fragment {
    /// The whole.
    pub(super) const NO: Self = Self(0);
    const FIRST: u64 = 1 << 32;
    const LATER: u64 = 2 << 32;

    #[inline(always)]
    const fn new(is_first: bool, has_more: bool, id: u32) -> Self {
        match (is_first, has_more) {
            (true, false) => Self::NO,
            (true, true) => Self(Self::FIRST | id as u64),
            (false, _) => Self(Self::LATER | id as u64),
        }
    }

    /// The identification of the first part, which has the ports.
    #[inline(always)]
    pub(super) const fn first(self) -> Option<u32> {
        if self.0 & Self::FIRST != 0 { Some(self.0 as u32) } else { None }
    }

    /// The identification of another part.
    #[inline(always)]
    pub(super) const fn later(self) -> Option<u32> {
        if self.0 & Self::LATER != 0 { Some(self.0 as u32) } else { None }
    }
}

/// An IP packet in a frame.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Datagram {
    pub(super) source: Address,
    pub(super) destination: Address,
    pub(super) fragment: Fragment,
    /// Where the IP header begins.
    pub(super) ip: usize,
    /// Where the header of the protocol above it begins.
    pub(super) transport: usize,
    /// Where the packet ends by its own account; `usize::MAX` where that does not say (larger than 64 KiB, within one host).
    pub(super) end: usize,
    pub(super) protocol: u8,
    pub(super) ipv6: bool,
}

/// Ports, and the flags of TCP.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ports {
    pub(super) source: u16,
    pub(super) destination: u16,
    pub(super) flags: u8,
}

impl Ports {
    /// Those of the other direction.
    #[inline(always)]
    pub(super) const fn turned_round(self) -> Self {
        Self { source: self.destination, destination: self.source, flags: self.flags }
    }
}

/// The IP packet of a frame; `None` if there is none, or if its headers cannot be followed.
#[inline(always)]
pub(super) fn read<P: Packet>(packet: &P) -> Option<Datagram> {
    let (at, ethertype) = network(packet)?;
    match ethertype {
        ETHERTYPE_IP4 => read4(packet, at),
        ETHERTYPE_IP6 => read6(packet, at),
        _ => None,
    }
}

#[inline(always)]
fn read4<P: Packet>(packet: &P, at: usize) -> Option<Datagram> {
    let header = packet.view::<20>(at)?;
    let length = usize::from(header[0] & 0x0f) * 4;
    if header[0] >> 4 != 4 || length < 20 {
        return None;
    }
    let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let id = u32::from(u16::from_be_bytes([header[4], header[5]]));
    let place = u16::from_be_bytes([header[6], header[7]]);
    let fragment = Fragment::new(place & 0x1fff == 0, place & 0x2000 != 0, id);
    Some(Datagram {
        source: address4([header[12], header[13], header[14], header[15]]),
        destination: address4([header[16], header[17], header[18], header[19]]),
        fragment,
        ip: at,
        transport: at + length,
        end: if total == 0 { usize::MAX } else { at + total },
        protocol: header[9],
        ipv6: false,
    })
}

#[inline(always)]
fn read6<P: Packet>(packet: &P, at: usize) -> Option<Datagram> {
    let header = packet.view::<40>(at)?;
    if header[0] >> 4 != 6 {
        return None;
    }
    let total = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let mut datagram = Datagram {
        source: address6(header, 8),
        destination: address6(header, 24),
        fragment: Fragment::NO,
        ip: at,
        transport: at + 40,
        end: if total == 0 { usize::MAX } else { at + 40 + total },
        protocol: header[6],
        ipv6: true,
    };
    follow(packet, &mut datagram)?;
    Some(datagram)
}

/// Follows extension headers (RFC 8200, section 4). What stands behind a later part is no header.
#[inline(always)]
fn follow<P: Packet>(packet: &P, datagram: &mut Datagram) -> Option<()> {
    for _ in 0..MAX_EXTENSIONS {
        if !matches!(datagram.protocol, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION_OPTIONS) {
            return Some(());
        }
        let header = packet.view::<8>(datagram.transport)?;
        let length = (usize::from(header[1]) + 1) * 8;
        let is_fragment = datagram.protocol == FRAGMENT;
        datagram.protocol = header[0];
        if is_fragment {
            let place = u16::from_be_bytes([header[2], header[3]]);
            let id = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
            datagram.transport += 8;
            datagram.fragment = Fragment::new(place & 0xfff8 == 0, place & 1 != 0, id);
            if datagram.fragment.later().is_some() {
                return Some(());
            }
        } else if length > LONGEST_EXTENSION {
            return None;
        } else {
            datagram.transport += length;
        }
    }
    None
}

impl Datagram {
    /// TCP or UDP?
    #[inline(always)]
    pub(super) const fn is_carried(&self) -> bool {
        matches!(self.protocol, PROTOCOL_TCP | PROTOCOL_UDP)
    }

    /// ICMP of its own family?
    #[inline(always)]
    pub(super) const fn is_icmp(&self) -> bool {
        self.protocol == if self.ipv6 { PROTOCOL_ICMP6 } else { PROTOCOL_ICMP4 }
    }

    /// Ports of TCP or UDP, whose whole header lies in the packet.
    #[inline(always)]
    pub(super) fn ports<P: Packet>(&self, packet: &P) -> Option<Ports> {
        let ports =
            |header: &[u8; 4]| (u16::from_be_bytes([header[0], header[1]]), u16::from_be_bytes([header[2], header[3]]));
        if self.protocol == PROTOCOL_TCP {
            let header = packet.view::<20>(self.transport).filter(|_| self.transport + 20 <= self.end)?;
            let (source, destination) = ports(header.first_chunk()?);
            Some(Ports { source, destination, flags: header[13] })
        } else {
            let header = packet.view::<8>(self.transport).filter(|_| self.transport + 8 <= self.end)?;
            let (source, destination) = ports(header.first_chunk()?);
            Some(Ports { source, destination, flags: 0 })
        }
    }

    /// Where the checksum of TCP or UDP lies.
    #[inline(always)]
    pub(super) const fn checksum(&self) -> usize {
        self.transport + if self.protocol == PROTOCOL_TCP { 16 } else { 6 }
    }

    /// What an ICMP error quotes: the first part, or the whole, of a packet of TCP or UDP, at least to its ports. `None` if it
    /// is no error, quotes something else, or is longer or shorter than the frame.
    #[inline(always)]
    pub(super) fn quoted<P: Packet>(&self, packet: &P) -> Option<(Self, Ports)> {
        if self.fragment != Fragment::NO || self.end > packet.length() {
            return None;
        }
        let kind = packet.view::<ICMP_HEADER>(self.transport)?[0];
        let at = self.transport + ICMP_HEADER;
        // Unreachable (4: or too big), source quench is none (RFC 6633), time exceeded, parameter problem.
        let quoted = match (self.ipv6, kind) {
            (false, 3 | 11 | 12) => read4(packet, at)?,
            (true, 1..=4) => read6(packet, at)?,
            _ => return None,
        };
        if !quoted.is_carried() || quoted.fragment.later().is_some() || quoted.transport + 8 > self.end {
            return None;
        }
        let header = packet.view::<4>(quoted.transport)?;
        let source = u16::from_be_bytes([header[0], header[1]]);
        let destination = u16::from_be_bytes([header[2], header[3]]);
        Some((quoted, Ports { source, destination, flags: 0 }))
    }
}
