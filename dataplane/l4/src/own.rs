//! What the director itself sends to a real server, on the way that forwarded packets take.

use crate::access::Packet;
use crate::directory::Vip;
use crate::encap;
use crate::hash;
use crate::layout::Backend;
use crate::parse::{self, Datagram, ETHERTYPE_IPV4, ETHERTYPE_IPV6};
use crate::verdict::{Reason, Verdict};

/// Delivers a frame that this machine made to a backend, alive or not, as [`crate::forward`] delivers a client's.
///
/// [`Packet::ingress`] has to be the interface that it would leave by otherwise. The reason of what is not dropped says
/// nothing, and nothing is counted or remembered.
#[inline(always)]
pub fn deliver_own<P: Packet>(packet: &mut P, backend: &Backend) -> Verdict {
    let (Ok(verdict) | Err(verdict)) = deliver(packet, backend);
    verdict
}

#[inline(always)]
fn deliver<P: Packet>(packet: &mut P, backend: &Backend) -> Result<Verdict, Verdict> {
    // Whose VIP it is matters to nothing but the answers that are not given here.
    let vip = Vip { id: 0, flags: 0 };
    let link = parse::link(packet).ok_or(Verdict::Drop(Reason::NotIp))?;
    let mut datagram = Datagram::EMPTY;
    match link.ethertype {
        ETHERTYPE_IPV4 => parse::ipv4(packet, link.length, vip, &mut datagram),
        ETHERTYPE_IPV6 => parse::ipv6(packet, link.length, vip, &mut datagram),
        _ => Err(Reason::NotIp),
    }
    .map_err(Verdict::Drop)?;
    let ports = match datagram.fragment.is_whole() {
        true => packet.view::<4>(datagram.transport).map_or(0, |ports| u32::from_ne_bytes(*ports)),
        false => 0,
    };
    let hash = hash::tuple(&datagram.source, ports, datagram.protocol);
    encap::deliver(packet, backend, &datagram, hash, Reason::FlowUntracked, false)
}
