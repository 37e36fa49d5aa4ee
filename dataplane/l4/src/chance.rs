//! The second chance: a packet of a flow that nobody here knows goes to the owner of its slot with the address of the
//! slot's former owner, to whom the real server hands it where the flow is not its own ([`crate::gue`]).
//!
//! So a director with an empty flow table (it took over, while the set of real servers changes) breaks no connection,
//! without any state that directors would have to share.

use crate::access::{Packet, Tables};
use crate::encap::{self, IPV4_INSIDE, IPV6_INSIDE, LONGEST_LINK};
use crate::gue::{self, FORMER4, FORMER6};
use crate::icmp;
use crate::layout::{Address, Backend};
use crate::parse::{Datagram, Family};
use crate::select::{Chosen, Query};
use crate::verdict::{Reason, Verdict};

/// Counts the packet and delivers it with the former owner's address.
#[inline(always)]
pub(crate) fn deliver<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    datagram: &Datagram,
    query: &Query,
    chosen: Chosen,
) -> Verdict {
    let (id, reason) = chosen.parts();
    match packet.apart(|packet| judge(packet, tables, datagram, query.service, id)) {
        Verdict::Pass(_) => {}
        verdict => return verdict,
    }
    if packet.apart(|packet| prepare(packet, tables, datagram, chosen)).is_none() {
        return Verdict::Drop(Reason::NoRoom);
    }
    let Some(backend) = tables.backend(id) else {
        return Verdict::Drop(Reason::TableFault);
    };
    let added = added(backend.kind);
    // To the outer headers, what was added is a part of what they carry.
    match packet.apart(|packet| encap::tagged(packet, &backend, datagram, query.hash, added)) {
        Err(reason) => Verdict::Drop(reason),
        Ok(()) => encap::sent(packet, &backend, reason),
    }
}

/// Bytes of the header that a tunnel of this kind takes; 0 = it takes none.
#[inline(always)]
const fn added(kind: u8) -> usize {
    match kind {
        Backend::KIND_GUE4 => FORMER4,
        Backend::KIND_GUE6 => FORMER6,
        _ => 0,
    }
}

/// Counts the packet, and answers it if it is too big. `Pass` says that it is to be sent.
#[inline(never)]
fn judge<P: Packet, T: Tables>(packet: &mut P, tables: &T, datagram: &Datagram, service: u16, id: u16) -> Verdict {
    let Some(backend) = tables.backend(id) else {
        return Verdict::Drop(Reason::TableFault);
    };
    tables.count_traffic(service, id, packet.length(), false);
    let added = added(backend.kind);
    if added == 0 {
        return Verdict::Drop(Reason::TableFault);
    }
    if datagram.hops <= 1 {
        return Verdict::Drop(Reason::TtlExpired);
    }
    let room = backend.mtu.saturating_sub(added as u16);
    if datagram.length > usize::from(room) {
        return icmp::too_big(packet, datagram, room);
    }
    Verdict::Pass(Reason::SecondChance)
}

/// Takes a hop, and puts the former owner's header in front of the packet.
#[inline(never)]
fn prepare<P: Packet, T: Tables>(packet: &mut P, tables: &T, datagram: &Datagram, chosen: Chosen) -> Option<()> {
    let (id, _) = chosen.parts();
    let added = added(tables.backend(id)?.kind);
    let former = tables.backend(chosen.former())?;
    encap::take_hop(packet, datagram).ok()?;
    put_former(packet, datagram, added, &former.address)
}

/// Puts the header between the link header and the packet.
#[inline(always)]
fn put_former<P: Packet>(packet: &mut P, datagram: &Datagram, added: usize, former: &Address) -> Option<()> {
    let protocol = match datagram.family {
        Family::V4 => IPV4_INSIDE,
        Family::V6 => IPV6_INSIDE,
    };
    match added {
        FORMER4 => insert(packet, datagram.link(), gue::former4(protocol, former)),
        _ => insert(packet, datagram.link(), gue::former6(protocol, former)),
    }
}

/// The link header has up to 22 bytes; what is moved beyond it is overwritten.
#[inline(always)]
fn insert<P: Packet, const N: usize>(packet: &mut P, at: usize, header: [u8; N]) -> Option<()> {
    let link = *packet.view::<22>(0)?;
    if !packet.move_head(N as isize) {
        return None;
    }
    *packet.view_mut::<22>(0)? = link;
    let at = packet.opaque(at) & LONGEST_LINK;
    *packet.view_mut::<N>(at)? = header;
    Some(())
}
