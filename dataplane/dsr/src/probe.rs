//! The director's own packets to one real server, on the way that forwarded packets take: a health probe is sent to the
//! VIP, its mark names the real server, and its frame gets the same head as a client's. So a probe fails where the
//! client's packets would: a real server without its VIP, a tunnel that ends nowhere, a neighbour that is gone.

use crate::frame::{ETHERTYPE_IP4, ETHERTYPE_IP6, fold, network};
use crate::layout::marked_backend;
use crate::verdict::Reason;
use core::ops::Deref;
use sluicegate_l4::Packet;
use sluicegate_l4::layout::Backend;

/// What to do with a frame that leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeVerdict {
    /// No probe: goes its way untouched.
    Untouched,
    /// Goes its way: to this machine itself, or out of the interface where it is.
    Stay(Reason),
    /// Out of this interface. The mark has to be taken off first, so that the same program there leaves it alone.
    Redirect(Reason, u32),
    /// The end of it.
    Drop(Reason),
}

/// Gives a frame whose mark names a real server the head of that real server's packets.
///
/// `backend` is the table of the forwarder. A dead one is probed as well: that is how it comes back.
#[inline(always)]
pub fn probe<P: Packet, B: Deref<Target = Backend>>(
    packet: &mut P,
    mark: u32,
    backend: impl FnOnce(u16) -> Option<B>,
) -> ProbeVerdict {
    let Some(id) = marked_backend(mark) else { return ProbeVerdict::Untouched };
    let Some(backend) = backend(id) else { return ProbeVerdict::Drop(Reason::ProbeUnknown) };
    let delivered = match backend.kind {
        Backend::KIND_LOCAL => return ProbeVerdict::Stay(Reason::ProbedLocal),
        Backend::KIND_L2 => deliver_l2(packet, &backend),
        Backend::KIND_IP4 => deliver::<P, 34>(packet, &backend),
        Backend::KIND_GUE4 => deliver::<P, 42>(packet, &backend),
        Backend::KIND_IP6 => deliver::<P, 54>(packet, &backend),
        Backend::KIND_GUE6 => deliver::<P, 62>(packet, &backend),
        _ => Err(Reason::ProbeUnknown),
    };
    match delivered {
        Err(reason) => ProbeVerdict::Drop(reason),
        Ok(()) if backend.egress == 0 => ProbeVerdict::Stay(Reason::Probed),
        Ok(()) => ProbeVerdict::Redirect(Reason::Probed, backend.egress),
    }
}

/// The MAC addresses alone.
#[inline(always)]
fn deliver_l2<P: Packet>(packet: &mut P, backend: &Backend) -> Result<(), Reason> {
    let carried = Carried::read(packet)?;
    if carried.length > usize::from(backend.mtu) {
        return Err(Reason::ProbeTooBig);
    }
    let link = packet.view_mut::<12>(0).ok_or(Reason::ProbeMalformed)?;
    link.copy_from_slice(backend.head.first_chunk::<12>().ok_or(Reason::ProbeUnknown)?);
    Ok(())
}

/// The precomputed head instead of the Ethernet header; `H` bytes of it (more with VLAN tags, which probes do not have).
#[inline(always)]
fn deliver<P: Packet, const H: usize>(packet: &mut P, backend: &Backend) -> Result<(), Reason> {
    if usize::from(backend.head_len) != H {
        return Err(Reason::ProbeUnknown);
    }
    let carried = Carried::read(packet)?;
    if carried.at != 14 {
        return Err(Reason::ProbeMalformed);
    }
    if carried.length > usize::from(backend.mtu) {
        return Err(Reason::ProbeTooBig);
    }
    let mut head = *backend.head.first_chunk::<H>().ok_or(Reason::ProbeUnknown)?;
    complete(&mut head, backend.kind, &carried);
    if !packet.move_head((H - 14) as isize) {
        return Err(Reason::NoRoom);
    }
    *packet.view_mut::<H>(0).ok_or(Reason::NoRoom)? = head;
    Ok(())
}

/// What a head depends on.
struct Carried {
    /// Where the IP header begins.
    at: usize,
    /// Of the IP packet, in bytes.
    length: usize,
    /// DSCP and ECN.
    traffic_class: u8,
    /// Spreads the tunnels' packets over the queues of the real server.
    entropy: u16,
}

impl Carried {
    #[inline(always)]
    fn read<P: Packet>(packet: &P) -> Result<Self, Reason> {
        let (at, ethertype) = network(packet).ok_or(Reason::ProbeMalformed)?;
        let header = packet.view::<24>(at).ok_or(Reason::ProbeMalformed)?;
        let word = |i: usize| u16::from_be_bytes([header[i], header[i + 1]]);
        let (length, traffic_class, entropy) = match ethertype {
            // Behind a header without options the source port follows.
            ETHERTYPE_IP4 => (usize::from(word(2)), header[1], word(20)),
            ETHERTYPE_IP6 => {
                let ports = packet.view::<4>(at + 40).ok_or(Reason::ProbeMalformed)?;
                (40 + usize::from(word(4)), (word(0) >> 4) as u8, u16::from_be_bytes([ports[0], ports[1]]))
            }
            _ => return Err(Reason::ProbeMalformed),
        };
        if at + length > packet.length() {
            return Err(Reason::ProbeMalformed);
        }
        Ok(Self { at, length, traffic_class, entropy })
    }
}

/// Lengths, DSCP and ECN (copied: RFC 6040, section 4.1, normal mode), IPv4 checksum, UDP source port.
#[inline(always)]
fn complete<const H: usize>(head: &mut [u8; H], kind: u8, carried: &Carried) {
    let put = |head: &mut [u8; H], at: usize, word: u16| [head[at], head[at + 1]] = word.to_be_bytes();
    let class = carried.traffic_class;
    let ip_length = match kind {
        Backend::KIND_IP4 | Backend::KIND_GUE4 => 20,
        _ => 40,
    };
    let outer = (H - 14 + carried.length) as u16;
    if ip_length == 20 {
        head[15] = class;
        put(head, 16, outer);
        put(head, 24, 0);
        let mut sum = 0u32;
        let mut at = 14;
        while at < 34 {
            sum += u32::from(u16::from_be_bytes([head[at], head[at + 1]]));
            at += 2;
        }
        put(head, 24, !fold(sum));
    } else {
        head[14] = 0x60 | (class >> 4);
        head[15] = (class << 4) | (head[15] & 0x0f);
        put(head, 18, outer - 40);
    }
    if H > 14 + ip_length {
        put(head, 14 + ip_length, 0xc000 | carried.entropy);
        put(head, 14 + ip_length + 4, outer - ip_length as u16);
        put(head, 14 + ip_length + 6, 0);
    }
}
