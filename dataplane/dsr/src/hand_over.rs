//! The second chance on a real server: a packet of a flow that is not known here goes on to the former owner of the flow's
//! slot, whose address the director put into the GUE header ([`sluicegate_l4::gue`]).
//!
//! Only once: what is handed over carries no address any more, and the former owner delivers it to its own stack whether it
//! knows the flow or not. Only a director's packet is handed over, and only to a peer: nobody can have packets sent to
//! whom he likes.

use crate::frame::{ETHERTYPE_IP4, ETHERTYPE_IP6, PROTOCOL_TCP, PROTOCOL_UDP, address4, address6, network};
use crate::verdict::{Reason, Verdict};
use sluicegate_l4::gue::{self, FORMER4, FORMER6};
use sluicegate_l4::layout::{Address, GUE_PORT};
use sluicegate_l4::{Packet, checksum};

/// What the host's own TCP knows.
pub trait Sockets {
    /// The socket that a segment that came in is for.
    fn find(&self, segment: &Segment) -> Socket;
}

/// A TCP segment, as it came to a VIP of this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The client.
    pub source: Address,
    /// The VIP.
    pub destination: Address,
    /// IPv6, not IPv4.
    pub ipv6: bool,
    /// The TCP header without its options.
    pub header: [u8; 20],
}

/// A socket for a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Socket {
    /// There is none.
    None,
    /// Somebody listens there, which says nothing about the flow.
    Listener,
    /// Somebody listens there, and the segment acknowledges a SYN cookie of his: the flow is known by that alone.
    Cookie,
    /// The flow's own, in any state from the first SYN to the end of TIME-WAIT.
    Connection,
}

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const IP4: usize = 20;
const IP6: usize = 40;
const UDP: usize = 8;

/// Is the inner packet at `at`, which ends before `end`, of a flow that this host does not know?
///
/// A SYN opens a flow here. What is not TCP, or not a whole segment, belongs to no flow that could be looked for.
#[inline(always)]
pub(crate) fn is_of_unknown_flow<P: Packet, S: Sockets>(
    packet: &P,
    sockets: &S,
    at: usize,
    end: usize,
    version: u8,
) -> bool {
    let segment = if version == 4 { segment4(packet, at, end) } else { segment6(packet, at, end) };
    match segment {
        Some(segment) if segment.header[13] & (SYN | ACK) != SYN => {
            matches!(sockets.find(&segment), Socket::None | Socket::Listener)
        }
        _ => false,
    }
}

#[inline(always)]
fn segment4<P: Packet>(packet: &P, at: usize, end: usize) -> Option<Segment> {
    let header = packet.view::<IP4>(at)?;
    let is_part = u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0;
    let transport = at + usize::from(header[0] & 0x0f) * 4;
    if header[9] != PROTOCOL_TCP || is_part || transport + 20 > end {
        return None;
    }
    let source = address4([header[12], header[13], header[14], header[15]]);
    let destination = address4([header[16], header[17], header[18], header[19]]);
    Some(Segment { source, destination, ipv6: false, header: *packet.view::<20>(transport)? })
}

#[inline(always)]
fn segment6<P: Packet>(packet: &P, at: usize, end: usize) -> Option<Segment> {
    let header = packet.view::<IP6>(at)?;
    if header[6] != PROTOCOL_TCP || at + IP6 + 20 > end {
        return None;
    }
    let (source, destination) = (address6(header, 8), address6(header, 24));
    Some(Segment { source, destination, ipv6: true, header: *packet.view::<20>(at + IP6)? })
}

/// Readdresses a frame that [`crate::unwrap()`] would hand over: GUE variant 1 from this host to the former owner, without
/// the address of anybody else. Hops, class and source port stay those of the director's packet, less the one hop. What is
/// dropped may be changed.
#[inline(always)]
pub fn readdress<P: Packet>(packet: &mut P) -> Verdict {
    let done = match network(packet) {
        Some((14, ETHERTYPE_IP4)) => readdress4::<P, 14>(packet),
        Some((18, ETHERTYPE_IP4)) => readdress4::<P, 18>(packet),
        Some((22, ETHERTYPE_IP4)) => readdress4::<P, 22>(packet),
        Some((14, ETHERTYPE_IP6)) => readdress6::<P, 14>(packet),
        Some((18, ETHERTYPE_IP6)) => readdress6::<P, 18>(packet),
        Some((22, ETHERTYPE_IP6)) => readdress6::<P, 22>(packet),
        _ => Err(Reason::Truncated),
    };
    match done {
        Ok(()) => Verdict::HandOver(Reason::HandedOver),
        Err(reason) => Verdict::Drop(reason),
    }
}

/// The IP header begins at `L` and has no options.
#[inline(always)]
fn readdress4<P: Packet, const L: usize>(packet: &mut P) -> Result<(), Reason> {
    let link = *packet.view::<L>(0).ok_or(Reason::Truncated)?;
    let outer = *packet.view::<IP4>(L).ok_or(Reason::Truncated)?;
    let port = *packet.view::<2>(L + IP4).ok_or(Reason::Truncated)?;
    let former = packet.view(L + IP4 + UDP).and_then(gue::read4).ok_or(Reason::Truncated)?;
    let length = u16::from_be_bytes([outer[2], outer[3]]).checked_sub(FORMER4 as u16).ok_or(Reason::Truncated)?;
    if outer[8] <= 1 {
        return Err(Reason::HopsUsedUp);
    }
    if !packet.move_head(-(FORMER4 as isize)) {
        return Err(Reason::NoRoom);
    }
    let [high, low] = length.to_be_bytes();
    let [a, b, c, d] = former[3].to_ne_bytes();
    let mut header =
        [0x45, outer[1], high, low, 0, 0, 0x40, 0, outer[8] - 1, PROTOCOL_UDP, 0, 0, 0, 0, 0, 0, a, b, c, d];
    [header[12], header[13], header[14], header[15]] = [outer[16], outer[17], outer[18], outer[19]];
    let sum = !checksum::fold(checksum::sum(&header));
    [header[10], header[11]] = sum.to_be_bytes();
    *packet.view_mut::<L>(0).ok_or(Reason::NoRoom)? = link;
    *packet.view_mut::<IP4>(L).ok_or(Reason::NoRoom)? = header;
    *packet.view_mut::<UDP>(L + IP4).ok_or(Reason::NoRoom)? = udp(port, length.wrapping_sub(IP4 as u16));
    Ok(())
}

#[inline(always)]
fn readdress6<P: Packet, const L: usize>(packet: &mut P) -> Result<(), Reason> {
    let link = *packet.view::<L>(0).ok_or(Reason::Truncated)?;
    let mut outer = *packet.view::<IP6>(L).ok_or(Reason::Truncated)?;
    let port = *packet.view::<2>(L + IP6).ok_or(Reason::Truncated)?;
    let former = packet.view(L + IP6 + UDP).and_then(gue::read6).ok_or(Reason::Truncated)?;
    let length = u16::from_be_bytes([outer[4], outer[5]]).checked_sub(FORMER6 as u16).ok_or(Reason::Truncated)?;
    if outer[7] <= 1 {
        return Err(Reason::HopsUsedUp);
    }
    if !packet.move_head(-(FORMER6 as isize)) {
        return Err(Reason::NoRoom);
    }
    [outer[4], outer[5]] = length.to_be_bytes();
    outer[7] -= 1;
    outer.copy_within(24..40, 8);
    for (place, word) in outer[24..].as_chunks_mut::<4>().0.iter_mut().zip(former) {
        *place = word.to_ne_bytes();
    }
    *packet.view_mut::<L>(0).ok_or(Reason::NoRoom)? = link;
    *packet.view_mut::<IP6>(L).ok_or(Reason::NoRoom)? = outer;
    *packet.view_mut::<UDP>(L + IP6).ok_or(Reason::NoRoom)? = udp(port, length);
    Ok(())
}

/// Checksum 0, as the director's (RFC 6935).
#[inline(always)]
fn udp(source: [u8; 2], length: u16) -> [u8; UDP] {
    let [high, low] = length.to_be_bytes();
    let [port_high, port_low] = GUE_PORT.to_be_bytes();
    [source[0], source[1], port_high, port_low, high, low, 0, 0]
}
