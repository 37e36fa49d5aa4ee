//! Headers, as far as they are read here.

use sluicegate_l4::Packet;
use sluicegate_l4::layout::Address;

pub(crate) const ETHERTYPE_IP4: u16 = 0x0800;
pub(crate) const ETHERTYPE_IP6: u16 = 0x86dd;
pub(crate) const PROTOCOL_IP4: u8 = 4;
pub(crate) const PROTOCOL_TCP: u8 = 6;
pub(crate) const PROTOCOL_UDP: u8 = 17;
pub(crate) const PROTOCOL_IP6: u8 = 41;
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
