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

/// Mask that covers the length of a link header.
pub(crate) const LONGEST_LINK: usize = 31;

/// Protocol numbers of IP in IP.
pub(crate) const IPV4_INSIDE: u8 = 4;
pub(crate) const IPV6_INSIDE: u8 = 41;

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
    if !is_plain(backend, datagram) {
        if datagram.length > usize::from(backend.mtu) && !answers {
            return Err(Verdict::Drop(Reason::TooBig));
        }
        let verdict = packet.apart(|packet| unusual(packet, backend, datagram, hash));
        return match verdict {
            Verdict::Pass(_) => Ok(sent(packet, backend, reason)),
            verdict => Err(verdict),
        };
    }
    deliver_plain(packet, backend, datagram, hash, reason)
}

/// Does the packet fit the way to the backend, and has neither its frame nor the head VLAN tags?
#[inline(always)]
pub(crate) fn is_plain(backend: &Backend, datagram: &Datagram) -> bool {
    const L2: usize = ETHERNET;
    const IP4: usize = ETHERNET + IPV4;
    const GUE4: usize = ETHERNET + IPV4 + UDP_HEADER;
    const IP6: usize = ETHERNET + IPV6;
    const GUE6: usize = ETHERNET + IPV6 + UDP_HEADER;
    let has_no_tags = matches!(
        (backend.kind, usize::from(backend.head_len)),
        (Backend::KIND_L2, L2)
            | (Backend::KIND_IP4, IP4)
            | (Backend::KIND_GUE4, GUE4)
            | (Backend::KIND_IP6, IP6)
            | (Backend::KIND_GUE6, GUE6)
    );
    has_no_tags && datagram.link() == ETHERNET && datagram.length <= usize::from(backend.mtu)
}

/// [`deliver`] for what [`is_plain`] and has hops left.
#[inline(always)]
pub(crate) fn deliver_plain<P: Packet>(
    packet: &mut P,
    backend: &Backend,
    datagram: &Datagram,
    hash: u64,
    reason: Reason,
) -> Result<Verdict, Verdict> {
    take_hop(packet, datagram)?;
    match plain(packet, backend, datagram, hash) {
        Err(reason) => Err(Verdict::Drop(reason)),
        Ok(()) => Ok(sent(packet, backend, reason)),
    }
}

/// Out it goes.
#[inline(always)]
pub(crate) fn sent<P: Packet>(packet: &P, backend: &Backend, reason: Reason) -> Verdict {
    if leaves_by_its_port(packet, backend) {
        Verdict::Transmit(reason)
    } else {
        Verdict::Redirect(reason, backend.egress)
    }
}

/// What is too big, or has tags. `Pass` says that it is ready to be sent.
#[inline(never)]
fn unusual<P: Packet>(packet: &mut P, backend: &Backend, datagram: &Datagram, hash: u64) -> Verdict {
    if datagram.length > usize::from(backend.mtu) {
        return icmp::too_big(packet, datagram, backend.mtu);
    }
    if let Err(verdict) = take_hop(packet, datagram) {
        return verdict;
    }
    match tagged(packet, backend, datagram, hash, 0) {
        Err(reason) => Verdict::Drop(reason),
        Ok(()) => Verdict::Pass(Reason::FlowHit),
    }
}

/// Bytes of the outer headers behind the link header.
#[inline(always)]
const fn outer_length(kind: u8) -> usize {
    match kind {
        Backend::KIND_IP4 => IPV4,
        Backend::KIND_GUE4 => IPV4 + UDP_HEADER,
        Backend::KIND_IP6 => IPV6,
        Backend::KIND_GUE6 => IPV6 + UDP_HEADER,
        _ => 0,
    }
}

#[inline(always)]
fn leaves_by_its_port<P: Packet>(packet: &P, backend: &Backend) -> bool {
    backend.egress == 0 || backend.egress == packet.ingress()
}

/// Neither the frame nor the head has tags: all offsets are fixed.
#[inline(always)]
fn plain<P: Packet>(packet: &mut P, backend: &Backend, datagram: &Datagram, hash: u64) -> Result<(), Reason> {
    let (outer, ethertype) = match backend.kind {
        Backend::KIND_L2 => {
            let link = packet.view_mut::<12>(0).ok_or(Reason::NoRoom)?;
            put::<8, _>(link, 0, bytes(&backend.head, 0));
            put::<4, _>(link, 8, bytes(&backend.head, 8));
            return Ok(());
        }
        Backend::KIND_IP4 => (IPV4, ETHERTYPE_IPV4),
        Backend::KIND_GUE4 => (IPV4 + UDP_HEADER, ETHERTYPE_IPV4),
        Backend::KIND_IP6 => (IPV6, ETHERTYPE_IPV6),
        Backend::KIND_GUE6 => (IPV6 + UDP_HEADER, ETHERTYPE_IPV6),
        _ => return Err(Reason::TableFault),
    };
    if !packet.move_head(outer as isize) {
        return Err(Reason::NoRoom);
    }
    let link = packet.view_mut::<ETHERNET>(0).ok_or(Reason::NoRoom)?;
    put::<8, _>(link, 0, bytes(&backend.head, 0));
    put::<4, _>(link, 8, bytes(&backend.head, 8));
    put(link, 12, ethertype.to_be_bytes());
    outer_headers(packet, backend, (datagram, datagram.length), hash, ETHERNET, ETHERNET)
}

/// Frame or head have tags, or may have them. `added` bytes were put in front of the packet.
#[inline(never)]
pub(crate) fn tagged<P: Packet>(
    packet: &mut P,
    backend: &Backend,
    datagram: &Datagram,
    hash: u64,
    added: usize,
) -> Result<(), Reason> {
    let outer = outer_length(backend.kind);
    let own = usize::from(backend.head_len).wrapping_sub(outer);
    let (length, tags) = match own {
        ETHERNET if leaves_by_its_port(packet, backend) => {
            (datagram.link(), bytes::<8, _>(packet.view::<22>(0).ok_or(Reason::NoRoom)?, 12))
        }
        ETHERNET | 18 | 22 => (own, bytes::<8, _>(&backend.head, 12)),
        _ => return Err(Reason::TableFault),
    };
    let ethertype = match (backend.kind, datagram.family) {
        (Backend::KIND_IP4 | Backend::KIND_GUE4, _) | (Backend::KIND_L2, Family::V4) => ETHERTYPE_IPV4,
        (Backend::KIND_IP6 | Backend::KIND_GUE6, _) | (Backend::KIND_L2, Family::V6) => ETHERTYPE_IPV6,
        _ => return Err(Reason::TableFault),
    };
    let length = packet.opaque(length) & LONGEST_LINK;
    let own = packet.opaque(own) & LONGEST_LINK;
    let growth = (length + outer) as isize - datagram.link() as isize;
    if growth != 0 && !packet.move_head(growth) {
        return Err(Reason::NoRoom);
    }
    write_link(packet, (mac(&backend.head, 0), mac(&backend.head, 6)), tags, length, ethertype)
        .ok_or(Reason::NoRoom)?;
    if outer == 0 {
        return Ok(());
    }
    outer_headers(packet, backend, (datagram, datagram.length + added), hash, length, own)
}

/// Decrements TTL or hop limit.
#[inline(always)]
pub(crate) fn take_hop<P: Packet>(packet: &mut P, datagram: &Datagram) -> Result<(), Verdict> {
    let fault = Verdict::Drop(Reason::Truncated);
    match datagram.family {
        Family::V4 => {
            let header = packet.view_mut::<IPV4>(datagram.link()).ok_or(fault)?;
            let word = be16(header, 8);
            let fewer = word.wrapping_sub(0x0100);
            let sum = checksum::update(be16(header, 10), word, fewer);
            put(header, 8, [datagram.hops.wrapping_sub(1)]);
            put(header, 10, sum.to_be_bytes());
        }
        Family::V6 => {
            let header = packet.view_mut::<8>(datagram.link()).ok_or(fault)?;
            put(header, 7, [datagram.hops.wrapping_sub(1)]);
        }
    }
    Ok(())
}

/// A MAC address as a number: on the stack it would be accessed across the boundaries of words.
#[inline(always)]
pub(crate) fn mac<const N: usize>(view: &[u8; N], at: usize) -> u64 {
    let low = u32::from_le_bytes(bytes(view, at));
    let high = u16::from_le_bytes(bytes(view, at + 4));
    u64::from(low) | u64::from(high) << 32
}

/// Writes it.
#[inline(always)]
pub(crate) fn put_mac<const N: usize>(view: &mut [u8; N], at: usize, mac: u64) {
    put(view, at, (mac as u32).to_le_bytes());
    put(view, at + 4, ((mac >> 32) as u16).to_le_bytes());
}

/// Writes a link header of 14, 18 or 22 bytes with the first tags of two.
#[inline(always)]
pub(crate) fn write_link<P: Packet>(
    packet: &mut P,
    (to, from): (u64, u64),
    tags: [u8; 8],
    length: usize,
    ethertype: u16,
) -> Option<()> {
    let macs = packet.view_mut::<12>(0)?;
    put_mac(macs, 0, to);
    put_mac(macs, 6, from);
    if length > ETHERNET {
        put::<4, _>(packet.view_mut::<4>(12)?, 0, bytes(&tags, 0));
    }
    if length > ETHERNET + 4 {
        put::<4, _>(packet.view_mut::<4>(16)?, 0, bytes(&tags, 4));
    }
    put(packet.view_mut::<2>(length - 2)?, 0, ethertype.to_be_bytes());
    Some(())
}

/// `N` bytes of the head, 8 at most, at an offset that need not be fixed: by the words in which they lie, since at an odd
/// place eBPF would read them one by one.
#[inline(always)]
fn head_at<const N: usize>(backend: &Backend, at: usize) -> [u8; N] {
    const { assert!(N <= 8) };
    if at >= HEAD_ROOM {
        return [0; N];
    }
    let word = at & !7;
    let shift = (at & 7) * 8;
    let low = u64::from_le_bytes(bytes(&backend.head, word)) >> shift;
    let value = match shift {
        0 => low,
        _ => low | u64::from_le_bytes(bytes(&backend.head, word + 8)) << (64 - shift),
    };
    bytes(&value.to_le_bytes(), 0)
}

/// Writes what follows the link header at `at`, from what lies in the head at `from`, in front of `length` bytes.
#[inline(always)]
fn outer_headers<P: Packet>(
    packet: &mut P,
    backend: &Backend,
    (datagram, length): (&Datagram, usize),
    hash: u64,
    at: usize,
    from: usize,
) -> Result<(), Reason> {
    let inside = match datagram.family {
        Family::V4 => IPV4_INSIDE,
        Family::V6 => IPV6_INSIDE,
    };
    let udp = match backend.kind {
        Backend::KIND_IP4 => {
            return outer_ipv4(packet, backend, (at, from), length + IPV4, (datagram.class, inside));
        }
        Backend::KIND_IP6 => {
            return outer_ipv6(packet, backend, (at, from), length, (datagram.class, inside), hash);
        }
        Backend::KIND_GUE4 => {
            outer_ipv4(packet, backend, (at, from), length + IPV4 + UDP_HEADER, (datagram.class, UDP))?;
            at + IPV4
        }
        _ => {
            outer_ipv6(packet, backend, (at, from), length + UDP_HEADER, (datagram.class, UDP), hash)?;
            at + IPV6
        }
    };
    let source = FIRST_SOURCE_PORT | (hash >> 44) as u16 & 0x3fff;
    let header = packet.view_mut::<UDP_HEADER>(udp).ok_or(Reason::NoRoom)?;
    put(header, 0, source.to_be_bytes());
    put(header, 2, GUE_PORT.to_be_bytes());
    put(header, 4, ((length + UDP_HEADER) as u16).to_be_bytes());
    put(header, 6, [0, 0]);
    Ok(())
}

#[inline(always)]
fn outer_ipv4<P: Packet>(
    packet: &mut P,
    backend: &Backend,
    (at, from): (usize, usize),
    length: usize,
    (class, protocol): (u8, u8),
) -> Result<(), Reason> {
    let header = packet.view_mut::<IPV4>(at).ok_or(Reason::NoRoom)?;
    let [first, _, _, _, kept @ ..] = head_at::<8>(backend, from);
    let [hops, precomputed] = head_at::<2>(backend, from + 8);
    let length = length as u16;
    // The precomputed sum has no length, no class, and the protocol of the head.
    let sum = u32::from(backend.checksum)
        + u32::from(length)
        + u32::from(class)
        + u32::from(protocol)
        + u32::from(!u16::from(precomputed));
    let [high, low] = length.to_be_bytes();
    put(header, 0, [first, class, high, low]);
    put::<4, _>(header, 4, kept);
    put(header, 8, [hops, protocol]);
    put(header, 10, (!checksum::fold(sum)).to_be_bytes());
    put::<8, _>(header, 12, head_at(backend, from + 12));
    Ok(())
}

#[inline(always)]
fn outer_ipv6<P: Packet>(
    packet: &mut P,
    backend: &Backend,
    (at, from): (usize, usize),
    payload: usize,
    (class, protocol): (u8, u8),
    hash: u64,
) -> Result<(), Reason> {
    let header = packet.view_mut::<IPV6>(at).ok_or(Reason::NoRoom)?;
    let label = (hash >> 44) as u32;
    let first = 6 << 28 | u32::from(class) << 20 | label;
    let [high, low] = (payload as u16).to_be_bytes();
    let [hops] = head_at(backend, from + 7);
    put(header, 0, first.to_be_bytes());
    put(header, 4, [high, low, protocol, hops]);
    put::<8, _>(header, 8, head_at(backend, from + 8));
    put::<8, _>(header, 16, head_at(backend, from + 16));
    put::<8, _>(header, 24, head_at(backend, from + 24));
    put::<8, _>(header, 32, head_at(backend, from + 32));
    Ok(())
}

const _: () = assert!(HEAD_ROOM >= ETHERNET + 8 + IPV6 + UDP_HEADER);
