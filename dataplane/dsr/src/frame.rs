//! Headers, as far as they are read here.

use sluicegate_l4::Packet;
use sluicegate_l4::layout::Address;

/// A frame in the stack of a host: the network card may still have to complete its checksums, or has summed it.
pub trait StackFrame: Packet {
    /// Writes two bytes and makes up for it in the checksum (at offset `checksum`) that covers them: `from` and `to` are
    /// the change as that checksum's 16-bit words see it. False if the frame ends before.
    #[must_use]
    fn replace(&mut self, at: usize, bytes: [u8; 2], checksum: usize, from: u16, to: u16) -> bool;

    /// Writes bytes, and makes up for them nowhere. False if the frame ends before.
    #[must_use]
    fn write<const N: usize>(&mut self, at: usize, bytes: [u8; N]) -> bool;

    /// Makes up for another address and port in the checksum of TCP or UDP; writes nothing else. False if the frame ends
    /// before.
    #[must_use]
    fn make_up(&mut self, change: &Change) -> bool;
}

/// One end of a segment or datagram that becomes another one.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    /// Where the checksum lies.
    pub checksum: usize,
    /// 0 says that there is no checksum, and stays (UDP).
    pub optional: bool,
    /// The addresses are of IPv6, and no header checksum covers them.
    pub ipv6: bool,
    /// The address.
    pub from: Address,
    /// What it becomes, of the same family.
    pub to: Address,
    /// The port, as a number.
    pub from_port: u16,
    /// What it becomes.
    pub to_port: u16,
}

pub(crate) const ETHERTYPE_IP4: u16 = 0x0800;
pub(crate) const ETHERTYPE_IP6: u16 = 0x86dd;
pub(crate) const PROTOCOL_ICMP4: u8 = 1;
pub(crate) const PROTOCOL_IP4: u8 = 4;
pub(crate) const PROTOCOL_TCP: u8 = 6;
pub(crate) const PROTOCOL_UDP: u8 = 17;
pub(crate) const PROTOCOL_IP6: u8 = 41;
pub(crate) const PROTOCOL_ICMP6: u8 = 58;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_SERVICE_VLAN: u16 = 0x88a8;

/// Where the network header begins, and its type: behind up to two VLAN tags.
#[inline(always)]
pub(crate) fn network<P: Packet>(packet: &P) -> Option<(usize, u16)> {
    let ethernet = packet.view::<14>(0)?;
    let mut ethertype = u16::from_be_bytes([ethernet[12], ethernet[13]]);
    let mut at = 14;
    if is_vlan(ethertype) {
        let tag = packet.view::<4>(14)?;
        ethertype = u16::from_be_bytes([tag[2], tag[3]]);
        at = 18;
        if is_vlan(ethertype) {
            let tag = packet.view::<4>(18)?;
            ethertype = u16::from_be_bytes([tag[2], tag[3]]);
            at = 22;
        }
    }
    Some((at, ethertype))
}

const fn is_vlan(ethertype: u16) -> bool {
    ethertype == ETHERTYPE_VLAN || ethertype == ETHERTYPE_SERVICE_VLAN
}

/// An IPv4 address as the tables hold it.
#[inline(always)]
pub(crate) fn address4(bytes: [u8; 4]) -> Address {
    [0, 0, u32::from_ne_bytes([0, 0, 0xff, 0xff]), u32::from_ne_bytes(bytes)]
}

/// The source (offset 8) or destination (24) of an IPv6 header.
#[inline(always)]
pub(crate) fn address6(header: &[u8; 40], at: usize) -> Address {
    let word =
        |i: usize| u32::from_ne_bytes([header[at + i], header[at + i + 1], header[at + i + 2], header[at + i + 3]]);
    [word(0), word(4), word(8), word(12)]
}
