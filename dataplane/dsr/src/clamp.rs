//! The MSS of a real server's SYN-ACK: it sizes what the client sends, which has to fit into the director's tunnel. What
//! the real server sends goes to the client directly and needs no room, so its own MSS is left alone.

use crate::frame::{ETHERTYPE_IP4, ETHERTYPE_IP6, PROTOCOL_TCP, StackFrame, address4, address6, network};
use crate::unwrap::HostTables;
use crate::verdict::Reason;
use sluicegate_l4::Packet;

/// Smallest MSS that is ever written: what IPv4 demands of every host (RFC 9293, section 3.7.1).
const SMALLEST_MSS: u16 = 536;
const SYN_ACK: u8 = 0x12;
const FIN_SYN_RST_ACK: u8 = 0x17;
const OPTION_END: u8 = 0;
const OPTION_NONE: u8 = 1;
const OPTION_MSS: u8 = 2;
/// A TCP header has room for so many bytes of options.
const OPTIONS_ROOM: usize = 40;
/// Options that are looked at, paddings included: stacks put the MSS first, and the kernel's verifier follows every way
/// through them.
const MOST_OPTIONS: usize = 10;

/// Lowers the MSS of a SYN-ACK that leaves with a VIP as source, to what fits into the tunnel. Adds no option, raises
/// nothing, and touches no other packet.
#[inline(always)]
pub fn clamp<P: StackFrame, T: HostTables>(packet: &mut P, tables: &T) -> Reason {
    clamped(packet, tables).unwrap_or(Reason::NotSynAck)
}

#[inline(always)]
fn clamped<P: StackFrame, T: HostTables>(packet: &mut P, tables: &T) -> Option<Reason> {
    let (at, ethertype) = network(packet)?;
    let (source, tcp, headers) = match ethertype {
        ETHERTYPE_IP4 => {
            let header = packet.view::<20>(at)?;
            let length = usize::from(header[0] & 0x0f) * 4;
            let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0;
            if header[9] != PROTOCOL_TCP || fragment || length < 20 {
                return None;
            }
            (address4([header[12], header[13], header[14], header[15]]), at + length, 40)
        }
        ETHERTYPE_IP6 => {
            let header = packet.view::<40>(at)?;
            if header[6] != PROTOCOL_TCP {
                return None;
            }
            (address6(header, 8), at + 40, 60)
        }
        _ => return None,
    };
    let header = packet.view::<20>(tcp)?;
    if header[13] & FIN_SYN_RST_ACK != SYN_ACK {
        return None;
    }
    let options = (usize::from(header[12] >> 4) * 4).checked_sub(20)?;
    let tunnel_mtu = tables.bound(&source)?.tunnel_mtu;
    if tunnel_mtu == 0 {
        return Some(Reason::MssFits);
    }
    let largest = tunnel_mtu.saturating_sub(headers).max(SMALLEST_MSS);
    let Some((option, mss)) = mss_option(packet, tcp + 20, options) else { return Some(Reason::MssFits) };
    if mss <= largest {
        return Some(Reason::MssFits);
    }
    // Behind an odd number of no-operations the value lies across two words of the checksum, each byte in the other half.
    let odd = option & 1 != tcp & 1;
    let (from, to) = if odd { (mss.swap_bytes(), largest.swap_bytes()) } else { (mss, largest) };
    let written = packet.replace(option, largest.to_be_bytes(), tcp + 16, from, to);
    Some(if written { Reason::Clamped } else { Reason::MssFits })
}

/// Where the value of the MSS option lies, and the value.
#[inline(always)]
fn mss_option<P: Packet>(packet: &P, start: usize, length: usize) -> Option<(usize, u16)> {
    let mut at = 0;
    for _ in 0..MOST_OPTIONS {
        if at + 4 > length || at >= OPTIONS_ROOM {
            return None;
        }
        // An option of MSS has four bytes, so where four do not follow there is none.
        let option = packet.view::<4>(start + at)?;
        match option[0] {
            OPTION_END => return None,
            OPTION_NONE => at += 1,
            OPTION_MSS if option[1] == 4 => return Some((start + at + 2, u16::from_be_bytes([option[2], option[3]]))),
            _ if option[1] < 2 => return None,
            _ => at += usize::from(option[1]),
        }
    }
    None
}
