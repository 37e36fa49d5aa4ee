//! Neighbour solicitations for a VIP that this director holds are answered in place (RFC 4861, section 7.2).

use crate::access::{Packet, Tables};
use crate::checksum;
use crate::directory;
use crate::encap;
use crate::field::{address, be16, bytes, put, put_address};
use crate::layout::Address;
use crate::parse::{ETHERTYPE_IPV6, ICMPV6};
use crate::verdict::{Reason, Verdict};

const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;
/// Option "target link-layer address" of 8 bytes.
const TARGET_LINK_LAYER: [u8; 2] = [2, 1];

const HEADER: usize = 40;
/// An advertisement with that option.
const ADVERTISEMENT_BYTES: usize = 32;
/// Longest solicitation whose checksum is verified: with every option that is known.
const LONGEST: usize = 96;

/// ff02::1, and the MAC address of that group (RFC 2464, section 7).
const ALL_NODES: Address = [u32::from_ne_bytes([0xff, 0x02, 0, 0]), 0, 0, u32::from_ne_bytes([0, 0, 0, 1])];
const ALL_NODES_MAC: u64 = u64::from_le_bytes([0x33, 0x33, 0, 0, 0, 1, 0, 0]);

/// Is this the solicited-node group of some address (ff02::1:ff00:0/104)?
#[inline(always)]
pub(crate) const fn is_solicited_node(address: &Address) -> bool {
    address[0] == u32::from_ne_bytes([0xff, 0x02, 0, 0])
        && address[1] == 0
        && address[2] == u32::from_ne_bytes([0, 0, 0, 1])
        && address[3].to_ne_bytes()[0] == 0xff
}

/// Is this ICMPv6 message, behind an IPv6 header at `link`, a neighbour solicitation?
#[inline(always)]
pub(crate) fn is_solicitation<P: Packet>(packet: &P, link: usize) -> bool {
    packet.view::<1>(link + HEADER).is_some_and(|message| message[0] == SOLICITATION)
}

/// Answers a solicitation whose IPv6 header, without extension headers, lies at `link`. What is not one for a VIP, or not
/// ours to answer, passes to the machine's own stack.
#[inline(never)]
pub(crate) fn answer<P: Packet, T: Tables>(packet: &mut P, tables: &T, link: usize) -> Verdict {
    let (Ok(verdict) | Err(verdict)) = advertise(packet, tables, link);
    verdict
}

#[inline(always)]
fn advertise<P: Packet, T: Tables>(packet: &mut P, tables: &T, link: usize) -> Result<Verdict, Verdict> {
    let other = Verdict::Pass(Reason::NotVip);
    let header = packet.view::<HEADER>(link).ok_or(other)?;
    let length = usize::from(be16(header, 4));
    // RFC 4861, section 7.1.1.
    if header[6] != ICMPV6 || header[7] != 255 || length < 24 {
        return Err(other);
    }
    let source = address(header, 8);
    let destination = address(header, 24);
    let message = packet.view::<24>(link + HEADER).ok_or(other)?;
    if message[0] != SOLICITATION || message[1] != 0 {
        return Err(other);
    }
    let target = address(message, 8);
    let vip = directory::find_address(tables, &target).ok_or(other)?;
    if tables.now() >= tables.fence(vip.id) {
        return Err(Verdict::Pass(Reason::NotOwned));
    }
    let interface = tables.interface(packet.ingress()).ok_or(Verdict::Pass(Reason::NotOwned))?;
    if !is_intact(packet, link, length, &source, &destination) {
        return Err(Verdict::Drop(Reason::BadChecksum));
    }
    let sender = encap::mac(packet.view::<12>(0).ok_or(other)?, 6);
    let is_probe = source == [0; 4];
    let to = if is_probe { ALL_NODES } else { source };
    let to_mac = if is_probe { ALL_NODES_MAC } else { sender };
    let flags = if is_probe { OVERRIDE } else { OVERRIDE | SOLICITED };
    write(packet, link, (target, encap::mac(&interface.mac, 0)), (to, to_mac), flags)
        .ok_or(Verdict::Drop(Reason::NoRoom))?;
    Ok(Verdict::Transmit(Reason::NdpAnswered))
}

/// Is the checksum of the solicitation right? Of an overlong one it is not asked: answering it harms nobody.
#[inline(always)]
fn is_intact<P: Packet>(packet: &P, link: usize, length: usize, source: &Address, destination: &Address) -> bool {
    if length > LONGEST {
        return true;
    }
    match checksum::region::<{ LONGEST / 4 }, _>(packet, link + HEADER, length) {
        Some(sum) => {
            let pseudo = checksum::pseudo_header(source, destination, length as u16, ICMPV6);
            checksum::fold(sum + pseudo) == 0xffff
        }
        None => false,
    }
}

/// Writes the whole advertisement over the solicitation.
#[inline(always)]
fn write<P: Packet>(
    packet: &mut P,
    link: usize,
    (target, mac): (Address, u64),
    (to, to_mac): (Address, u64),
    flags: u8,
) -> Option<()> {
    let tags: [u8; 8] = bytes(packet.view::<22>(0)?, 12);
    let length = link + HEADER + ADVERTISEMENT_BYTES;
    // A solicitation without options is shorter than its answer. It grows at its front, where there is always room.
    if packet.length() < length && !packet.move_head(8) {
        return None;
    }
    if !packet.truncate(length) {
        return None;
    }
    encap::write_link(packet, (to_mac, mac), tags, link, ETHERTYPE_IPV6)?;
    let header = packet.view_mut::<HEADER>(link)?;
    put(header, 0, [0x60, 0, 0, 0, 0, ADVERTISEMENT_BYTES as u8, ICMPV6, 255]);
    put_address(header, 8, target);
    put_address(header, 24, to);
    let message = packet.view_mut::<ADVERTISEMENT_BYTES>(link + HEADER)?;
    put(message, 0, [ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0]);
    put_address(message, 8, target);
    put(message, 24, TARGET_LINK_LAYER);
    encap::put_mac(message, 26, mac);
    let pseudo = checksum::pseudo_header(&target, &to, ADVERTISEMENT_BYTES as u16, ICMPV6);
    let sum = checksum::fold(checksum::sum(message) + pseudo);
    put(message, 2, (!sum).to_be_bytes());
    Some(())
}
