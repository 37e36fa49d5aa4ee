//! Delivery: what a packet looks like on its way to the real server.
//!
//! - **L2** rewrites the MAC addresses. **Tunnels** put the precomputed outer header in front: IPv4 or IPv6 directly
//!   (RFC 2003, RFC 2473), or with UDP and GUE variant 1, in which the inner IP header follows the UDP header at once
//!   (draft-ietf-intarea-gue).
//! - **Link header.** A head without VLAN tags whose packet leaves by the port that it came in on keeps the tags of the
//!   frame. In all other cases the head's link header, with the tags that it has or without any, replaces that of the frame.
//! - **Hops.** The inner TTL or hop limit is decremented with every method, and a packet that has none left is dropped, as
//!   IPVS does (RFC 2003, section 3.1; RFC 2473, section 3.1): the outer header begins with a fresh one, and the link of
//!   L2 has none at all, so that only this ends a loop among directors. A packet for this machine keeps it.
//! - **DSCP and ECN** are copied to the outer header (RFC 6040, section 4.1, normal mode; RFC 2983, section 3, pipe).
//! - The **flow label** (RFC 6438) and the **UDP source port** carry bits of the flow hash, so that routers spread flows
//!   over equal paths. The outer UDP checksum is 0 (RFC 6935, RFC 6936).

use crate::access::Packet;
use crate::checksum;
use crate::field::{be16, bytes, put};
use crate::icmp;
use crate::layout::{Backend, GUE_PORT, HEAD_ROOM};
use crate::parse::{Datagram, ETHERNET, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Family, UDP};
use crate::verdict::{Reason, Verdict};

const IPV4: usize = 20;
const IPV6: usize = 40;
const UDP_HEADER: usize = 8;

/// Protocol numbers of IP in IP.
const IPV4_INSIDE: u8 = 4;
const IPV6_INSIDE: u8 = 41;

/// First of the source ports of GUE: the dynamic range of RFC 6335, of which 14 bits are used.
const FIRST_SOURCE_PORT: u16 = 49_152;

/// Hands the packet to a backend. `answers` says whether the sender may be told that the packet is too big.
#[inline(always)]
pub(crate) fn deliver<P: Packet>(
    packet: &mut P,
    backend: &Backend,
    datagram: &Datagram,
    hash: u64,
    reason: Reason,
    answers: bool,
) -> Result<Verdict, Verdict> {
    if backend.kind == Backend::KIND_LOCAL {
        return Ok(Verdict::Pass(Reason::LocalBackend));
    }
    if datagram.hops <= 1 {
        return Err(Verdict::Drop(Reason::TtlExpired));
    }
    if datagram.length > usize::from(backend.mtu) {
        return if answers { icmp::too_big(packet, datagram, backend.mtu) } else { Err(Verdict::Drop(Reason::TooBig)) };
    }
    take_hop(packet, datagram)?;
    let outcome = match backend.kind {
        Backend::KIND_L2 => link_header(packet, backend, datagram, 0, None).map(|_| ()),
        Backend::KIND_IP4 => outer_ipv4(packet, backend, datagram, hash, IPV4),
        Backend::KIND_GUE4 => outer_ipv4(packet, backend, datagram, hash, IPV4 + UDP_HEADER),
        Backend::KIND_IP6 => outer_ipv6(packet, backend, datagram, hash, IPV6),
        Backend::KIND_GUE6 => outer_ipv6(packet, backend, datagram, hash, IPV6 + UDP_HEADER),
        _ => Err(Reason::TableFault),
    };
    match outcome {
        Err(reason) => Err(Verdict::Drop(reason)),
        Ok(()) if backend.egress == 0 || backend.egress == packet.ingress() => Ok(Verdict::Transmit(reason)),
        Ok(()) => Ok(Verdict::Redirect(reason, backend.egress)),
    }
}

/// Decrements TTL or hop limit.
#[inline(always)]
fn take_hop<P: Packet>(packet: &mut P, datagram: &Datagram) -> Result<(), Verdict> {
    let fault = Verdict::Drop(Reason::Truncated);
    match datagram.family {
        Family::V4 => {
            let header = packet.view_mut::<IPV4>(datagram.link).ok_or(fault)?;
            let word = be16(header, 8);
            let fewer = word.wrapping_sub(0x0100);
            let sum = checksum::update(be16(header, 10), word, fewer);
            put(header, 8, [datagram.hops.wrapping_sub(1)]);
            put(header, 10, sum.to_be_bytes());
        }
        Family::V6 => {
            let header = packet.view_mut::<8>(datagram.link).ok_or(fault)?;
            put(header, 7, [datagram.hops.wrapping_sub(1)]);
        }
    }
    Ok(())
}

/// Makes room for an outer header of `outer` bytes and writes the link header in front of it. The offset of the outer
/// header.
#[inline(always)]
fn link_header<P: Packet>(
    packet: &mut P,
    backend: &Backend,
    datagram: &Datagram,
    outer: usize,
    ethertype: Option<u16>,
) -> Result<usize, Reason> {
    let own = usize::from(backend.head_len).wrapping_sub(outer);
    let room = Reason::NoRoom;
    if own == ETHERNET && datagram.link == ETHERNET {
        if outer != 0 && !packet.move_head(outer as isize) {
            return Err(room);
        }
        let link = packet.view_mut::<ETHERNET>(0).ok_or(room)?;
        put::<8, _>(link, 0, bytes(&backend.head, 0));
        put::<4, _>(link, 8, bytes(&backend.head, 8));
        if let Some(ethertype) = ethertype {
            put(link, 12, ethertype.to_be_bytes());
        }
        return Ok(ETHERNET);
    }
    tagged_link_header(packet, backend, datagram, outer, ethertype)
}

/// The same where frame or head has VLAN tags.
#[inline(always)]
fn tagged_link_header<P: Packet>(
    packet: &mut P,
    backend: &Backend,
    datagram: &Datagram,
    outer: usize,
    ethertype: Option<u16>,
) -> Result<usize, Reason> {
    let own = usize::from(backend.head_len).wrapping_sub(outer);
    let room = Reason::NoRoom;
    let leaves_by_its_port = backend.egress == 0 || backend.egress == packet.ingress();
    let (length, tags) = match own {
        ETHERNET if leaves_by_its_port => (datagram.link, bytes::<8, _>(packet.view::<22>(0).ok_or(room)?, 12)),
        ETHERNET | 18 | 22 => (own, bytes::<8, _>(&backend.head, 12)),
        _ => return Err(Reason::TableFault),
    };
    let ethertype = ethertype.unwrap_or(match datagram.family {
        Family::V4 => ETHERTYPE_IPV4,
        Family::V6 => ETHERTYPE_IPV6,
    });
    let growth = (length + outer) as isize - datagram.link as isize;
    if growth != 0 && !packet.move_head(growth) {
        return Err(room);
    }
    write_link(packet, bytes(&backend.head, 0), tags, length, ethertype).ok_or(room)?;
    Ok(length)
}

/// Writes a link header of 14, 18 or 22 bytes with the first tags of two.
#[inline(always)]
pub(crate) fn write_link<P: Packet>(
    packet: &mut P,
    macs: [u8; 12],
    tags: [u8; 8],
    length: usize,
    ethertype: u16,
) -> Option<()> {
    put::<12, _>(packet.view_mut::<12>(0)?, 0, macs);
    if length > ETHERNET {
        put::<4, _>(packet.view_mut::<4>(12)?, 0, bytes(&tags, 0));
    }
    if length > ETHERNET + 4 {
        put::<4, _>(packet.view_mut::<4>(16)?, 0, bytes(&tags, 4));
    }
    put(packet.view_mut::<2>(length - 2)?, 0, ethertype.to_be_bytes());
    Some(())
}

/// The protocol number of the packet inside.
#[inline(always)]
const fn inside(datagram: &Datagram) -> u8 {
    match datagram.family {
        Family::V4 => IPV4_INSIDE,
        Family::V6 => IPV6_INSIDE,
    }
}

/// `N` bytes of the head from the outer IP header on.
#[inline(always)]
fn outer_of<const N: usize>(backend: &Backend, outer: usize) -> Result<[u8; N], Reason> {
    let from = usize::from(backend.head_len).wrapping_sub(outer);
    match from {
        ETHERNET => Ok(bytes(&backend.head, ETHERNET)),
        18 => Ok(bytes(&backend.head, 18)),
        22 => Ok(bytes(&backend.head, 22)),
        _ => Err(Reason::TableFault),
    }
}

#[inline(always)]
fn outer_ipv4<P: Packet>(
    packet: &mut P,
    backend: &Backend,
    datagram: &Datagram,
    hash: u64,
    outer: usize,
) -> Result<(), Reason> {
    let head: [u8; IPV4] = outer_of(backend, outer)?;
    let at = link_header(packet, backend, datagram, outer, Some(ETHERTYPE_IPV4))?;
    let length = (datagram.length + outer) as u16;
    let protocol = if outer > IPV4 { UDP } else { inside(datagram) };
    // The precomputed sum has no length, no class and the protocol of the head.
    let sum = u32::from(backend.checksum)
        + u32::from(length)
        + u32::from(datagram.class)
        + u32::from(protocol)
        + u32::from(!u16::from(head[9]));
    let header = packet.view_mut::<IPV4>(at).ok_or(Reason::NoRoom)?;
    let [high, low] = length.to_be_bytes();
    put(header, 0, [head[0], datagram.class, high, low]);
    put::<4, _>(header, 4, bytes(&head, 4));
    put(header, 8, [head[8], protocol]);
    put(header, 10, (!checksum::fold(sum)).to_be_bytes());
    put::<8, _>(header, 12, bytes(&head, 12));
    if outer > IPV4 {
        udp_header(packet, at + IPV4, datagram, hash)?;
    }
    Ok(())
}

#[inline(always)]
fn outer_ipv6<P: Packet>(
    packet: &mut P,
    backend: &Backend,
    datagram: &Datagram,
    hash: u64,
    outer: usize,
) -> Result<(), Reason> {
    let head: [u8; IPV6] = outer_of(backend, outer)?;
    let at = link_header(packet, backend, datagram, outer, Some(ETHERTYPE_IPV6))?;
    let length = (datagram.length + outer - IPV6) as u16;
    let protocol = if outer > IPV6 { UDP } else { inside(datagram) };
    let label = (hash >> 44) as u32;
    let first = 6 << 28 | u32::from(datagram.class) << 20 | label;
    let header = packet.view_mut::<IPV6>(at).ok_or(Reason::NoRoom)?;
    put(header, 0, first.to_be_bytes());
    let [high, low] = length.to_be_bytes();
    put(header, 4, [high, low, protocol, head[7]]);
    put::<32, _>(header, 8, bytes(&head, 8));
    if outer > IPV6 {
        udp_header(packet, at + IPV6, datagram, hash)?;
    }
    Ok(())
}

#[inline(always)]
fn udp_header<P: Packet>(packet: &mut P, at: usize, datagram: &Datagram, hash: u64) -> Result<(), Reason> {
    let source = FIRST_SOURCE_PORT | (hash >> 44) as u16 & 0x3fff;
    let header = packet.view_mut::<UDP_HEADER>(at).ok_or(Reason::NoRoom)?;
    put(header, 0, source.to_be_bytes());
    put(header, 2, GUE_PORT.to_be_bytes());
    put(header, 4, ((datagram.length + UDP_HEADER) as u16).to_be_bytes());
    put(header, 6, [0, 0]);
    Ok(())
}

const _: () = assert!(HEAD_ROOM >= ETHERNET + 8 + IPV6 + UDP_HEADER);
