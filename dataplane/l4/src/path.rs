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
            let datagram = parse::ipv4(packet, link.length).map_err(Verdict::Drop)?;
            to_vip(packet, tables, &control, vip, &datagram)
        }
        ETHERTYPE_IPV6 => {
            let header = packet.view::<40>(link.length).ok_or(Verdict::Pass(Reason::NotIp))?;
            let destination = address(header, 24);
            let Some(vip) = directory::find_address(tables, &destination) else {
                return if ndp::is_solicited_node(&destination) {
                    ndp::answer(packet, tables, link.length)
                } else {
                    Err(Verdict::Pass(Reason::NotVip))
                };
            };
            let datagram = parse::ipv6(packet, link.length).map_err(Verdict::Drop)?;
            to_vip(packet, tables, &control, vip, &datagram)
        }
        ETHERTYPE_ARP => arp::answer(packet, tables, link.length),
        _ => Err(Verdict::Pass(Reason::NotIp)),
    }
}

/// What comes to a VIP.
#[inline(always)]
fn to_vip<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    control: &Control,
    vip: Vip,
    datagram: &Datagram,
) -> Result<Verdict, Verdict> {
    if let Fragment::Later(id) = datagram.fragment {
        let (backend, hash) = select::of_fragment(tables, control, datagram, id).map_err(Verdict::Drop)?;
        return hand_over(packet, tables, datagram, 0, (backend, Reason::Fragment), hash, false);
    }
    match (datagram.family, datagram.protocol) {
        (Family::V4, ICMP) | (Family::V6, ICMPV6) => icmp::message(packet, tables, control, vip, datagram),
        _ => to_service(packet, tables, control, vip, datagram),
    }
}

/// What comes to a port of a VIP.
#[inline(always)]
fn to_service<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    control: &Control,
    vip: Vip,
    datagram: &Datagram,
) -> Result<Verdict, Verdict> {
    let transport = parse::transport(packet, datagram).map_err(Verdict::Drop)?;
    let Some(id) = directory::find_service(tables, vip, datagram.protocol, transport.destination()) else {
        return Err(unbound(vip, datagram.protocol));
    };
    let service = tables.service(id).ok_or(Verdict::Drop(Reason::TableFault))?;
    if datagram.fragment != Fragment::No && service.flags & Service::FLAG_FRAGMENTS == 0 {
        return Err(Verdict::Drop(Reason::FragmentUnwanted));
    }
    let query = Query::new(tables, control, id, &datagram.source, datagram.protocol, transport);
    let chosen = match select::known(tables, control, &service, &query, datagram, transport) {
        Known::Backend(backend) => (backend, Reason::FlowHit),
        known => {
            let moved = matches!(known, Known::Gone);
            let chosen = select::anew(tables, control, &service, &query, datagram, moved).map_err(Verdict::Drop)?;
            (chosen.backend, chosen.reason)
        }
    };
    if datagram.fragment != Fragment::No {
        select::keep_fragment(tables, control, query.stamp, datagram, chosen.0);
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
    let selected = !matches!(reason, Reason::FlowHit | Reason::Fragment | Reason::IcmpError);
    tables.count_traffic(service, id, packet.length(), selected);
    encap::deliver(packet, &backend, datagram, hash, reason, answers)
}
