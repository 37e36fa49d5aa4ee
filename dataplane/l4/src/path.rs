//! The whole packet path, top down.

use crate::access::{Packet, Tables};
use crate::directory::{self, Vip};
use crate::encap;
use crate::field::{address, ne32};
use crate::layout::{Control, Service};
use crate::parse::{
    self, Datagram, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Family, Fragment, ICMP, ICMPV6, SCTP, TCP, UDP,
    mapped,
};
use crate::select::{self, Known, Query};
use crate::verdict::{Reason, Verdict};
use crate::{arp, icmp, ndp};

/// Decides what becomes of a frame, changes it accordingly, and counts the reason.
#[inline(always)]
pub fn forward<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Verdict {
    let (Ok(verdict) | Err(verdict)) = decide(packet, tables);
    tables.count_reason(verdict.reason());
    verdict
}

/// `Err` is every way that leaves the main one: it lets `?` say so.
#[inline(always)]
fn decide<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Result<Verdict, Verdict> {
    let control = tables.control().ok_or(Verdict::Pass(Reason::Expired))?;
    if tables.now() >= control.live_until {
        return Err(Verdict::Pass(Reason::Expired));
    }
    let link = parse::link(packet).ok_or(Verdict::Pass(Reason::NotIp))?;
    match link.ethertype {
        ETHERTYPE_IPV4 => {
            let header = packet.view::<20>(link.length).ok_or(Verdict::Pass(Reason::NotIp))?;
            let destination = mapped(ne32(header, 16));
            let vip = directory::find_address(tables, &destination).ok_or(Verdict::Pass(Reason::NotVip))?;
            let datagram = parse::ipv4(packet, link.length, vip).map_err(Verdict::Drop)?;
            to_vip(packet, tables, &control, &datagram)
        }
        ETHERTYPE_IPV6 => {
            let header = packet.view::<40>(link.length).ok_or(Verdict::Pass(Reason::NotIp))?;
            let destination = address(header, 24);
            let Some(vip) = directory::find_address(tables, &destination) else {
                return if ndp::is_solicited_node(&destination) {
                    packet.apart(|packet| ndp::answer(packet, tables, link.length))
                } else {
                    Err(Verdict::Pass(Reason::NotVip))
                };
            };
            let datagram = parse::ipv6(packet, link.length, vip).map_err(Verdict::Drop)?;
            to_vip(packet, tables, &control, &datagram)
        }
        ETHERTYPE_ARP => packet.apart(|packet| arp::answer(packet, tables, link.length)),
        _ => Err(Verdict::Pass(Reason::NotIp)),
    }
}

/// What comes to a VIP.
#[inline(always)]
fn to_vip<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    control: &Control,
    datagram: &Datagram,
) -> Result<Verdict, Verdict> {
    if let Fragment::Later(id) = datagram.fragment {
        let copy = *datagram;
        let backend = select::of_fragment(tables, &copy, id);
        if backend == 0 {
            return Err(Verdict::Drop(Reason::FragmentUnknown));
        }
        return hand_over(packet, tables, datagram, 0, (backend, Reason::Fragment), u64::from(id) << 32, false);
    }
    match (datagram.family, datagram.protocol) {
        (Family::V4, ICMP) | (Family::V6, ICMPV6) => {
            let copy = *datagram;
            let mut flow = icmp::Flow::default();
            let verdict = packet.apart(|packet| icmp::message(packet, tables, &copy, &mut flow));
            if flow.backend == 0 {
                return verdict;
            }
            let chosen = (flow.backend as u16, Reason::IcmpError);
            hand_over(packet, tables, datagram, flow.service as u16, chosen, flow.hash, false)
        }
        _ => to_service(packet, tables, control, datagram),
    }
}

/// What comes to a port of a VIP.
#[inline(always)]
fn to_service<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    control: &Control,
    datagram: &Datagram,
) -> Result<Verdict, Verdict> {
    let transport = parse::transport(packet, datagram).map_err(Verdict::Drop)?;
    let Some(id) = directory::find_service(tables, datagram.vip, datagram.protocol, transport.destination()) else {
        return Err(unbound(datagram.vip, datagram.protocol));
    };
    let service = tables.service(id).ok_or(Verdict::Drop(Reason::TableFault))?;
    if datagram.fragment != Fragment::No && service.flags & Service::FLAG_FRAGMENTS == 0 {
        return Err(Verdict::Drop(Reason::FragmentUnwanted));
    }
    let query = Query::new(tables, control, id, &datagram.source, datagram.protocol, transport);
    let chosen = match select::known(tables, control, &service, &query, datagram) {
        Known::Backend(backend) => (backend, Reason::FlowHit),
        known => {
            let moved = matches!(known, Known::Gone);
            let query = Query { moved, ..query };
            let copy = *datagram;
            match select::anew(tables, &query, &copy).parts() {
                (0, reason) => return Err(Verdict::Drop(reason)),
                chosen => chosen,
            }
        }
    };
    if datagram.fragment != Fragment::No {
        let copy = *datagram;
        select::keep_fragment(tables, query.stamp, &copy, chosen.0);
    }
    hand_over(packet, tables, datagram, id, chosen, query.hash, true)
}

/// Nothing is bound there.
#[inline(always)]
fn unbound(vip: Vip, protocol: u8) -> Verdict {
    match protocol {
        _ if vip.is_local() => Verdict::Pass(Reason::LocalAddress),
        TCP | UDP | SCTP => Verdict::Drop(Reason::NoService),
        _ => Verdict::Drop(Reason::UnknownProtocol),
    }
}

/// Counts the packet and delivers it.
#[inline(always)]
pub(crate) fn hand_over<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    datagram: &Datagram,
    service: u16,
    (id, reason): (u16, Reason),
    hash: u64,
    answers: bool,
) -> Result<Verdict, Verdict> {
    let backend = tables.backend(id).ok_or(Verdict::Drop(Reason::TableFault))?;
    if backend.alive != 1 {
        return Err(Verdict::Drop(Reason::DeadBackend));
    }
    packet.meet();
    let selected = !matches!(reason, Reason::FlowHit | Reason::Fragment | Reason::IcmpError);
    tables.count_traffic(service, id, packet.length(), selected);
    encap::deliver(packet, &backend, datagram, hash, reason, answers)
}
