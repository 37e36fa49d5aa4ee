//! The fast lane: packets of known flows that need nothing but their delivery.
//!
//! Nearly all packets are of this kind: TCP or UDP without tags, options, extension headers or fragments, of a flow that
//! has its backend, fitting the way there. What the general path has to keep in memory, because it asks more questions of
//! more kinds of packets, is here in registers. The questions are the same, and so are the answers: whatever is not plain
//! in any respect leaves the lane before anything was changed or counted, and the general path begins anew.

use crate::access::{Packet, Tables};
use crate::directory;
use crate::encap;
use crate::field::{address, ne32};
use crate::flow;
use crate::layout::Control;
use crate::parse::{self, Datagram, ETHERNET, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ICMPV6, TCP, Transport, UDP, mapped};
use crate::select::{self, Query};
use crate::verdict::{Reason, Verdict};

/// Forwards a packet of a known flow, and passes what is not for a VIP. `None`: nothing is decided, and nothing is changed.
#[inline(always)]
pub(crate) fn forward<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    control: &Control,
    ethertype: u16,
) -> Option<Verdict> {
    match ethertype {
        ETHERTYPE_IPV4 => {
            let header = packet.view::<40>(ETHERNET)?;
            let destination = mapped(ne32(header, 16));
            if opens(header[9], header[33]) {
                return None;
            }
            let Some(vip) = directory::find_address(tables, &destination) else {
                return Some(Verdict::Pass(Reason::NotVip));
            };
            let (datagram, transport) = parse::common4(header, packet.length(), vip)?;
            hit(packet, tables, control, &datagram, transport)
        }
        ETHERTYPE_IPV6 => {
            let header = packet.view::<60>(ETHERNET)?;
            let destination = address(header, 24);
            // It may be a question who has an address.
            if header[6] == ICMPV6 || opens(header[6], header[53]) {
                return None;
            }
            let Some(vip) = directory::find_address(tables, &destination) else {
                return Some(Verdict::Pass(Reason::NotVip));
            };
            let (datagram, transport) = parse::common6(header, packet.length(), vip)?;
            hit(packet, tables, control, &datagram, transport)
        }
        _ => None,
    }
}

/// A TCP segment that opens a connection is of no known flow. Where it is one nevertheless, or where options move the flags
/// to another place, the general path is only slower.
#[inline(always)]
const fn opens(protocol: u8, flags: u8) -> bool {
    protocol == TCP && flags & 0x12 == 0x02
}

#[inline(always)]
fn hit<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    control: &Control,
    datagram: &Datagram,
    transport: Transport,
) -> Option<Verdict> {
    let id = directory::find_port(tables, datagram.vip, datagram.protocol, transport.destination())?;
    let query = Query::new(tables, control, id, &datagram.source, datagram.protocol, transport);
    let found = flow::find_at_home(tables, control.flow_mask, query.hash)?;
    let backend = tables.backend(found.entry.backend())?;
    if !found.entry.is_of(&backend) || !encap::is_plain(&backend, datagram) || datagram.hops <= 1 {
        return None;
    }
    let seen = found.entry.seen(query.stamp, transport);
    if datagram.protocol == UDP && select::is_idle(&*tables.service(id)?, &query, found.entry) {
        return None;
    }
    if seen != found.entry {
        if tables.service(id)?.persistence_stamps != 0 {
            return None;
        }
        found.replace(tables, seen);
    }
    packet.meet();
    tables.count_traffic(id, found.entry.backend(), packet.length(), false);
    let (Ok(verdict) | Err(verdict)) = encap::deliver_plain(packet, &backend, datagram, query.hash, Reason::FlowHit);
    Some(verdict)
}
