//! The end of the director's tunnel on a real server: IP in IP in its four combinations, and GUE in both variants.
//!
//! A packet is unwrapped if its tunnel ends at an address of this host, a known director sent it, and what is inside is
//! for a VIP of this host. Everything else passes untouched: other tunnels are the business of the machine's own stack.
//! Nothing is dropped but what a director sent and what is broken or unfit. Peers are believed as directors are, for GUE
//! alone: that is how they hand packets over ([`crate::hand_over`]).

use crate::ecn;
use crate::frame::{
    ETHERTYPE_IP4, ETHERTYPE_IP6, PROTOCOL_IP4, PROTOCOL_IP6, PROTOCOL_UDP, address4, address6, network,
};
use crate::hand_over::{Sockets, is_of_unknown_flow};
use crate::layout::{Bound, HostControl};
use crate::verdict::{Reason, Verdict};
use sluicegate_l4::layout::{Address, GUE_PORT};
use sluicegate_l4::{Packet, checksum, gue};

/// What a real server knows of itself and its directors.
pub trait HostTables {
    /// The switches.
    fn control(&self) -> HostControl;

    /// Tunnels end at this address of the host.
    fn is_endpoint(&self, address: &Address) -> bool;

    /// Tunnels from this address are believed.
    fn is_director(&self, address: &Address) -> bool;

    /// The address is that of another real server, which hands packets over and to which they are handed over.
    fn is_peer(&self, address: &Address) -> bool;

    /// The address is a VIP of this real server.
    fn bound(&self, address: &Address) -> Option<Bound>;
}

/// Takes the tunnel off a frame that came in. After a pass with [`Reason::UnwrappedIp`], [`Reason::UnwrappedGue`] or
/// [`Reason::NoPeer`] the frame is the inner packet behind the Ethernet header and VLAN tags that it came with; after any
/// other it is as it was. What is to be handed over is as it was too: [`crate::hand_over::readdress`] is the next step.
#[inline(always)]
pub fn unwrap<P: Packet, T: HostTables, S: Sockets>(packet: &mut P, tables: &T, sockets: &S) -> Verdict {
    let (Ok(verdict) | Err(verdict)) = unwrapped(packet, tables, sockets);
    verdict
}

/// The outer header.
struct Outer {
    source: Address,
    destination: Address,
    protocol: u8,
    ecn: u8,
    /// The header is followed by a part of a packet.
    fragment: bool,
    /// The IPv4 checksum holds, or there is none.
    intact: bool,
    /// Directors send none: nothing but unwrapping is done with such a packet.
    has_options: bool,
    /// Where its payload begins and ends in the frame.
    payload: usize,
    end: usize,
}

/// What a tunnel carries.
struct Inner {
    at: usize,
    version: u8,
    reason: Reason,
    /// Who had the slot of the packet's flow before.
    former: Option<Address>,
}

#[inline(always)]
fn unwrapped<P: Packet, T: HostTables, S: Sockets>(
    packet: &mut P,
    tables: &T,
    sockets: &S,
) -> Result<Verdict, Verdict> {
    let not_tunnel = Verdict::Pass(Reason::NotTunnel);
    let (at, ethertype) = network(packet).ok_or(not_tunnel)?;
    let outer = match ethertype {
        ETHERTYPE_IP4 => outer4(packet, at),
        ETHERTYPE_IP6 => outer6(packet, at),
        _ => None,
    };
    let outer = outer.ok_or(not_tunnel)?;
    if !matches!(outer.protocol, PROTOCOL_IP4 | PROTOCOL_IP6 | PROTOCOL_UDP) {
        return Err(not_tunnel);
    }
    let inner = if outer.fragment { None } else { Some(inner(packet, &outer, ethertype)?) };
    if !tables.is_endpoint(&outer.destination) {
        return Err(Verdict::Pass(Reason::NotEndpoint));
    }
    let by_director = tables.control().flags & HostControl::ANY_DIRECTOR != 0 || tables.is_director(&outer.source);
    if !by_director && (outer.protocol != PROTOCOL_UDP || !tables.is_peer(&outer.source)) {
        return Err(Verdict::Pass(Reason::UnknownDirector));
    }
    let Some(inner) = inner else { return Err(Verdict::Pass(Reason::TunnelFragment)) };
    if !outer.intact {
        return Err(Verdict::Drop(Reason::BadChecksum));
    }
    if outer.end > packet.length() {
        return Err(Verdict::Drop(Reason::Truncated));
    }
    let ethertype = if inner.version == 4 {
        settle4(packet, tables, &outer, inner.at)?;
        ETHERTYPE_IP4
    } else {
        settle6(packet, tables, &outer, inner.at)?;
        ETHERTYPE_IP6
    };
    let mut reason = inner.reason;
    if let Some(former) = inner.former
        && by_director
        && is_of_unknown_flow(packet, sockets, inner.at, outer.end, inner.version)
    {
        if tables.is_peer(&former) && !tables.is_endpoint(&former) {
            return Ok(Verdict::HandOver(Reason::HandedOver));
        }
        reason = Reason::NoPeer;
    }
    let moved = match at {
        14 => strip::<P, 14>(packet, inner.at, ethertype),
        18 => strip::<P, 18>(packet, inner.at, ethertype),
        _ => strip::<P, 22>(packet, inner.at, ethertype),
    };
    moved.ok_or(Verdict::Drop(Reason::NoRoom))?;
    Ok(Verdict::Pass(reason))
}

#[inline(always)]
fn outer4<P: Packet>(packet: &P, at: usize) -> Option<Outer> {
    let header = packet.view::<20>(at)?;
    let length = usize::from(header[0] & 0x0f) * 4;
    let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if header[0] >> 4 != 4 || length < 20 || total < length {
        return None;
    }
    Some(Outer {
        source: address4([header[12], header[13], header[14], header[15]]),
        destination: address4([header[16], header[17], header[18], header[19]]),
        protocol: header[9],
        ecn: header[1] & 3,
        fragment: u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0,
        // Directors send no options; with some, the inner checksums are what protects the packet.
        intact: length != 20 || checksum::fold(checksum::sum(header)) == 0xffff,
        has_options: length != 20,
        payload: at + length,
        end: at + total,
    })
}

/// Directors send no extension headers: a packet with one is none of theirs.
#[inline(always)]
fn outer6<P: Packet>(packet: &P, at: usize) -> Option<Outer> {
    let header = packet.view::<40>(at)?;
    if header[0] >> 4 != 6 {
        return None;
    }
    Some(Outer {
        source: address6(header, 8),
        destination: address6(header, 24),
        protocol: header[6],
        ecn: (header[1] >> 4) & 3,
        fragment: false,
        intact: true,
        has_options: false,
        payload: at + 40,
        end: at + 40 + usize::from(u16::from_be_bytes([header[4], header[5]])),
    })
}

/// What the outer header announces. Only UDP to the port of GUE is a tunnel.
///
/// The UDP checksum is not verified: it may be zero (RFC 6935), and the inner packet has its own.
#[inline(always)]
fn inner<P: Packet>(packet: &P, outer: &Outer, ethertype: u16) -> Result<Inner, Verdict> {
    let plain = |at, version, reason| Inner { at, version, reason, former: None };
    match outer.protocol {
        PROTOCOL_IP4 => return Ok(plain(outer.payload, 4, Reason::UnwrappedIp)),
        PROTOCOL_IP6 => return Ok(plain(outer.payload, 6, Reason::UnwrappedIp)),
        _ => {}
    }
    // UDP header and the first four bytes of GUE, which any payload of a tunnel has.
    let header = packet.view::<12>(outer.payload).ok_or(Verdict::Pass(Reason::NotTunnel))?;
    if u16::from_be_bytes([header[2], header[3]]) != GUE_PORT {
        return Err(Verdict::Pass(Reason::NotTunnel));
    }
    let at = outer.payload + 8;
    let reason = Reason::UnwrappedGue;
    match header[8] >> 4 {
        // Variant 1: the version of the IP header says it (4 is 0b01_00, 6 is 0b01_10).
        4 => Ok(plain(at, 4, reason)),
        6 => Ok(plain(at, 6, reason)),
        // Variant 0: two bits of version, control bit, five bits of header length in words; then the protocol.
        0 | 1 => {
            let version = match header[9] {
                PROTOCOL_IP4 => 4,
                PROTOCOL_IP6 => 6,
                _ => return Err(Verdict::Pass(Reason::GueOther)),
            };
            let former = if outer.has_options {
                None
            } else if ethertype == ETHERTYPE_IP4 {
                packet.view(at).and_then(gue::read4)
            } else {
                packet.view(at).and_then(gue::read6)
            };
            let at = at + 4 + usize::from(header[8] & 0x1f) * 4;
            Ok(Inner { at, version, reason, former })
        }
        _ => Err(Verdict::Pass(Reason::GueOther)),
    }
}

/// Checks an inner IPv4 header, and lets it say what the outer one says of congestion.
#[inline(always)]
fn settle4<P: Packet, T: HostTables>(packet: &mut P, tables: &T, outer: &Outer, at: usize) -> Result<(), Verdict> {
    let end = outer.end;
    let header = packet.view_mut::<20>(at).ok_or(Verdict::Drop(Reason::Truncated))?;
    let length = usize::from(header[0] & 0x0f) * 4;
    let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if header[0] >> 4 != 4 || length < 20 || total < length || at + total > end {
        return Err(Verdict::Drop(Reason::BadInner));
    }
    if tables.bound(&address4([header[16], header[17], header[18], header[19]])).is_none() {
        return Err(Verdict::Pass(Reason::NotBound));
    }
    let ecn = ecn::decapsulated(header[1], outer.ecn).ok_or(Verdict::Drop(Reason::Congested))?;
    let from = u16::from_be_bytes([header[0], header[1]]);
    let to = (from & !3) | u16::from(ecn);
    if from != to {
        let sum = checksum::update(u16::from_be_bytes([header[10], header[11]]), from, to).to_be_bytes();
        (header[1], header[10], header[11]) = (to as u8, sum[0], sum[1]);
    }
    Ok(())
}

#[inline(always)]
fn settle6<P: Packet, T: HostTables>(packet: &mut P, tables: &T, outer: &Outer, at: usize) -> Result<(), Verdict> {
    let end = outer.end;
    let header = packet.view_mut::<40>(at).ok_or(Verdict::Drop(Reason::Truncated))?;
    let total = 40 + usize::from(u16::from_be_bytes([header[4], header[5]]));
    if header[0] >> 4 != 6 || at + total > end {
        return Err(Verdict::Drop(Reason::BadInner));
    }
    if tables.bound(&address6(header, 24)).is_none() {
        return Err(Verdict::Pass(Reason::NotBound));
    }
    let ecn = ecn::decapsulated(header[1] >> 4, outer.ecn).ok_or(Verdict::Drop(Reason::Congested))?;
    header[1] = (header[1] & !0x30) | (ecn << 4);
    Ok(())
}

/// Moves the first `L` bytes (Ethernet and tags) up to the inner packet.
#[inline(always)]
fn strip<P: Packet, const L: usize>(packet: &mut P, inner: usize, ethertype: u16) -> Option<()> {
    let mut link = *packet.view::<L>(0)?;
    [link[L - 2], link[L - 1]] = ethertype.to_be_bytes();
    let by = isize::try_from(inner - L).ok()?;
    if !packet.move_head(-by) {
        return None;
    }
    *packet.view_mut::<L>(0)? = link;
    Some(())
}
