//! The whole packet path, top down.

use crate::access::{Packet, Tables};
use crate::directory::{self, Vip};
use crate::encap;
use crate::field::{address, be16, ne32};
use crate::layout::{Control, Service};
use crate::parse::{
    self, Datagram, ETHERNET, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Family, ICMP, ICMPV6, SCTP, TCP, UDP,
    mapped,
};
use crate::select::{self, Known, Query};
use crate::verdict::{Reason, Verdict};
use crate::{arp, chance, icmp, lane, ndp, station};

/// Decides what becomes of a frame, changes it accordingly, and counts the reason.
#[inline(always)]
pub fn forward<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Verdict {
    match tables.control() {
        Some(control) => match forward_known(packet, tables, &control) {
            Some(verdict) => verdict,
            None => forward_any(packet, tables, &control),
        },
        None => {
            tables.count_reason(Reason::Expired);
            Verdict::Pass(Reason::Expired)
        }
    }
}

/// The first half of [`forward`], for a caller that has looked up the switches: packets of known flows, and those that are
/// not for this machine or a VIP. `None`: nothing is decided, changed or counted, and [`forward_any`] goes on.
#[inline(always)]
pub fn forward_known<P: Packet, T: Tables>(packet: &mut P, tables: &T, control: &Control) -> Option<Verdict> {
    let verdict = if tables.now() >= control.live_until {
        Verdict::Pass(Reason::Expired)
    } else {
        let ethernet = packet.view::<ETHERNET>(0)?;
        let ethertype = be16(ethernet, 12);
        if station::is_for_another(ethernet, packet.ingress(), tables) {
            Verdict::Pass(Reason::OtherHost)
        } else {
            lane::forward(packet, tables, control, ethertype)?
        }
    };
    tables.count_reason(verdict.reason());
    Some(verdict)
}

/// The second half of [`forward`]: all that [`forward_known`] leaves.
#[inline(always)]
pub fn forward_any<P: Packet, T: Tables>(packet: &mut P, tables: &T, control: &Control) -> Verdict {
    let (Ok(verdict) | Err(verdict)) = decide(packet, tables, control);
    tables.count_reason(verdict.reason());
    verdict
}

/// `Err` is every way that leaves the main one: it lets `?` say so.
#[inline(always)]
fn decide<P: Packet, T: Tables>(packet: &mut P, tables: &T, control: &Control) -> Result<Verdict, Verdict> {
    let link = parse::link(packet).ok_or(Verdict::Pass(Reason::NotIp))?;
    let (family, vip) = match link.ethertype {
        ETHERTYPE_IPV4 => (Family::V4, vip4(packet, tables, link.length)?),
        ETHERTYPE_IPV6 => (Family::V6, vip6(packet, tables, link.length)?),
        ETHERTYPE_ARP => return packet.apart(|packet| arp::answer(packet, tables, link.length)),
        _ => return Err(Verdict::Pass(Reason::NotIp)),
    };
    // Filled in place: what is undefined on other ways is minded by the kernel's verifier even where nobody looks.
    let mut datagram = Datagram::EMPTY;
    match family {
        Family::V4 => parse::ipv4(packet, link.length, vip, &mut datagram),
        Family::V6 => parse::ipv6(packet, link.length, vip, &mut datagram),
    }
    .map_err(Verdict::Drop)?;
    let choice = choose(packet, tables, control, &datagram)?;
    hand_over(packet, tables, &datagram, choice)
}

/// The VIP that an IPv4 packet is for.
#[inline(always)]
fn vip4<P: Packet, T: Tables>(packet: &P, tables: &T, link: usize) -> Result<Vip, Verdict> {
    let header = packet.view::<20>(link).ok_or(Verdict::Pass(Reason::NotIp))?;
    let destination = mapped(ne32(header, 16));
    directory::find_address(tables, &destination).ok_or(Verdict::Pass(Reason::NotVip))
}

/// The VIP that an IPv6 packet is for. A question who has one ends here.
#[inline(always)]
fn vip6<P: Packet, T: Tables>(packet: &mut P, tables: &T, link: usize) -> Result<Vip, Verdict> {
    let header = packet.view::<40>(link).ok_or(Verdict::Pass(Reason::NotIp))?;
    let destination = address(header, 24);
    let is_icmp = header[6] == ICMPV6;
    let vip = directory::find_address(tables, &destination);
    if is_icmp && (vip.is_some() || ndp::is_solicited_node(&destination)) && ndp::is_solicitation(packet, link) {
        return Err(packet.apart(|packet| ndp::answer(packet, tables, link)));
    }
    vip.ok_or(Verdict::Pass(Reason::NotVip))
}

/// Where a packet for a VIP goes.
struct Choice {
    service: u16,
    backend: u16,
    reason: Reason,
    /// Spreads its way through the network.
    hash: u64,
}

#[inline(always)]
fn choose<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    control: &Control,
    datagram: &Datagram,
) -> Result<Choice, Verdict> {
    if datagram.fragment.is_later() {
        let hash = select::fragment_hash(control, datagram);
        return match select::of_fragment(tables, hash) {
            0 => Err(Verdict::Drop(Reason::FragmentUnknown)),
            backend => Ok(Choice { service: 0, backend, reason: Reason::Fragment, hash }),
        };
    }
    match (datagram.family, datagram.protocol) {
        (Family::V4, ICMP) | (Family::V6, ICMPV6) => {
            let mut flow = icmp::Flow::default();
            let verdict = packet.apart(|packet| icmp::message(packet, tables, datagram, &mut flow));
            match flow.backend as u16 {
                0 => Err(verdict),
                backend => {
                    Ok(Choice { service: flow.service as u16, backend, reason: Reason::IcmpError, hash: flow.hash })
                }
            }
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
) -> Result<Choice, Verdict> {
    let transport = parse::transport(packet, datagram).map_err(Verdict::Drop)?;
    let Some(id) = directory::find_service(tables, datagram.vip, datagram.protocol, transport.destination()) else {
        return Err(unbound(datagram.vip, datagram.protocol));
    };
    let service = tables.service(id).ok_or(Verdict::Drop(Reason::TableFault))?;
    if !datagram.fragment.is_whole() && service.flags & Service::FLAG_FRAGMENTS == 0 {
        return Err(Verdict::Drop(Reason::FragmentUnwanted));
    }
    let query = Query::new(tables, control, id, &datagram.source, datagram.protocol, transport);
    let (backend, reason) = match select::known(tables, control, &service, &query, datagram) {
        Known::Backend(backend) => (backend, Reason::FlowHit),
        known => {
            let query = Query { moved: matches!(known, Known::Gone), ..query };
            let chosen = select::anew(tables, &query, datagram);
            if chosen.former() != 0 {
                return Err(chance::deliver(packet, tables, datagram, &query, chosen));
            }
            match chosen.parts() {
                (0, reason) => return Err(Verdict::Drop(reason)),
                chosen => chosen,
            }
        }
    };
    if datagram.fragment.is_first() {
        select::keep_fragment(tables, select::fragment_hash(control, datagram), backend);
    }
    Ok(Choice { service: id, backend, reason, hash: query.hash })
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
fn hand_over<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    datagram: &Datagram,
    choice: Choice,
) -> Result<Verdict, Verdict> {
    let backend = tables.backend(choice.backend).ok_or(Verdict::Drop(Reason::TableFault))?;
    if backend.alive != 1 {
        return Err(Verdict::Drop(Reason::DeadBackend));
    }
    packet.meet();
    let follows = matches!(choice.reason, Reason::Fragment | Reason::IcmpError);
    let selected = !follows && choice.reason != Reason::FlowHit;
    tables.count_traffic(choice.service, choice.backend, packet.length(), selected);
    encap::deliver(packet, &backend, datagram, choice.hash, choice.reason, !follows)
}
