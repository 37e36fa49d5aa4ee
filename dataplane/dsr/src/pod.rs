//! Into the pods of a host, and out of them again: what a director sent for a VIP's port goes to a pod of this host
//! ([`to_pod`]), and the pod's answer leaves with the VIP as source ([`from_pod`]). Between the two everything of the host
//! (connection tracking, masquerading, policies) sees a flow from the client to the pod, in both directions.
//!
//! - A known flow keeps its pod while that is there, also while it drains. A SYN goes to a pod that is ready. A flow whose pod
//!   is gone gets another one, and a packet without any ready pod is dropped.
//! - Of datagrams in parts the first one says where the others go; a part that comes before it is dropped.
//! - ICMP errors about a flow are translated with the packet that they quote, both ways.
//! - SCTP is not carried: its checksum covers the whole packet, of which only the headers are at hand.

mod datagram;
mod flows;
mod rewrite;

use crate::frame::{PROTOCOL_TCP, StackFrame};
use crate::hand_over::Segment;
use crate::layout::{Bound, FlowKey, HostControl, Part, PartKey, Pod, PodPort, PodPortKey, PodRef, Reply};
use crate::unwrap::HostTables;
use crate::verdict::{Reason, Verdict};
use core::ops::Deref;
use datagram::{Datagram, Ports};
use rewrite::{End, Place};

/// Seconds (of 2³⁰ ns) for which the parts of a datagram are waited for; Linux waits 30.
const PARTS_SECONDS: u32 = 30;

/// What is known of pods and their flows. Several processors use it at once; each row is read and written whole, but for
/// [`PodTables::mark_reply`].
pub trait PodTables {
    /// Seconds of 2³⁰ ns, from any beginning, wrapping.
    fn now(&self) -> u32;

    /// A port of a VIP.
    fn port(&self, key: &PodPortKey) -> Option<impl Deref<Target = PodPort>>;

    /// Row of a pod.
    fn pod(&self, id: u16) -> Option<Pod>;

    /// The pod of a flow to a VIP.
    fn flow(&self, key: &FlowKey) -> Option<PodRef>;

    /// Remembers it. False if the tables are full.
    #[must_use]
    fn remember_flow(&self, key: &FlowKey, pod: PodRef) -> bool;

    /// What the answers of a pod belong to.
    fn reply(&self, key: &FlowKey) -> Option<Reply>;

    /// Remembers it. False if the tables are full.
    #[must_use]
    fn remember_reply(&self, key: &FlowKey, reply: &Reply) -> bool;

    /// Writes [`Reply::seen`] and [`Reply::ends`] of a row.
    fn mark_reply(&self, key: &FlowKey, seen: u32, ends: u32);

    /// What the first part of a datagram has said.
    fn part(&self, key: &PartKey) -> Option<Part>;

    /// Remembers it. False if the tables are full.
    #[must_use]
    fn remember_part(&self, key: &PartKey, part: &Part) -> bool;
}

/// Sends what came in for a port of a VIP to a pod: its destination becomes the pod's address and port. Tunnels have been
/// taken off ([`crate::unwrap()`]); what came without one is taken too, as a director on the same machine leaves it.
///
/// What is passed with [`Reason::NotPods`] is as it was, all other that is passed is for a pod. What is dropped may be changed.
#[inline(always)]
pub fn to_pod<P: StackFrame, T: HostTables + PodTables>(packet: &mut P, tables: &T) -> Verdict {
    let (Ok(verdict) | Err(verdict)) = deliver(packet, tables);
    verdict
}

#[inline(always)]
fn deliver<P: StackFrame, T: HostTables + PodTables>(packet: &mut P, tables: &T) -> Result<Verdict, Verdict> {
    let none = Verdict::Pass(Reason::NotPods);
    let datagram = datagram::read(packet).ok_or(none)?;
    let bound = tables.bound(&datagram.destination).filter(|bound| bound.flags & Bound::PODS != 0).ok_or(none)?;
    if datagram.is_icmp() {
        let pod = quoted_pod(packet, tables, &datagram).ok_or(unserved(bound, Reason::PodIcmpUnknown))?;
        return translate_error_in(packet, &datagram, &pod)
            .map_or(MALFORMED, |()| Ok(Verdict::Pass(Reason::ToPodIcmp)));
    }
    if !datagram.is_carried() {
        return Err(unserved(bound, Reason::PodNoService));
    }
    if let Some(id) = datagram.fragment.later() {
        let part = known_part(tables, &datagram, id).ok_or(unserved(bound, Reason::PodPartUnknown))?;
        let place = Place { address: part.address, port: 0 };
        let done = rewrite::rewrite(packet, &datagram, End::Destination, 0, &place);
        return done.map_or(MALFORMED, |()| Ok(Verdict::Pass(Reason::ToPodPart)));
    }
    let Some(ports) = datagram.ports(packet) else { return MALFORMED };
    let key = FlowKey {
        client: datagram.source,
        server: datagram.destination,
        client_port: ports.source,
        server_port: ports.destination,
        protocol: u32::from(datagram.protocol),
    };
    let chosen = flows::pod_of(packet, tables, &key, ports.flags).ok_or(unserved(bound, Reason::PodNoService))?;
    let chosen = chosen.map_err(Verdict::Drop)?;
    let place = Place { address: chosen.pod.address, port: chosen.pod.port };
    if !teach_parts(tables, &datagram, &place) {
        return Err(Verdict::Drop(Reason::PodUntracked));
    }
    let done = rewrite::rewrite(packet, &datagram, End::Destination, ports.destination, &place);
    done.map_or(MALFORMED, |()| Ok(Verdict::Pass(chosen.reason)))
}

const MALFORMED: Result<Verdict, Verdict> = Err(Verdict::Drop(Reason::PodMalformed));

/// What no pod gets passes where the VIP is an address of this host too.
#[inline(always)]
const fn unserved(bound: Bound, reason: Reason) -> Verdict {
    if bound.flags & Bound::NO_ADDRESS != 0 { Verdict::Drop(reason) } else { Verdict::Pass(Reason::NotPods) }
}

/// Gives what leaves the host, and is a pod's answer to a client of a VIP, the VIP and its port as source. Answers with
/// [`Reason::NotPods`] where it left the frame as it was; one that it could not translate whole is dropped.
#[inline(always)]
pub fn from_pod<P: StackFrame, T: HostTables + PodTables>(packet: &mut P, tables: &T) -> Verdict {
    if tables.control().flags & HostControl::PODS == 0 {
        return Verdict::Pass(Reason::NotPods);
    }
    let (Ok(verdict) | Err(verdict)) = answer(packet, tables);
    verdict
}

#[inline(always)]
fn answer<P: StackFrame, T: HostTables + PodTables>(packet: &mut P, tables: &T) -> Result<Verdict, Verdict> {
    let none = Verdict::Pass(Reason::NotPods);
    let datagram = datagram::read(packet).ok_or(none)?;
    if datagram.is_icmp() {
        return answer_error(packet, tables, &datagram).ok_or(none)?;
    }
    if !datagram.is_carried() {
        return Err(none);
    }
    if let Some(id) = datagram.fragment.later() {
        let part = known_part(tables, &datagram, id).ok_or(none)?;
        let place = Place { address: part.address, port: 0 };
        let done = rewrite::rewrite(packet, &datagram, End::Source, 0, &place);
        return done.map_or(MALFORMED, |()| Ok(Verdict::Pass(Reason::FromPodPart)));
    }
    let ports = datagram.ports(packet).ok_or(none)?;
    let key = FlowKey {
        client: datagram.destination,
        server: datagram.source,
        client_port: ports.destination,
        server_port: ports.source,
        protocol: u32::from(datagram.protocol),
    };
    let reply = tables.reply(&key).ok_or(none)?;
    let (now, ends) = (tables.now(), reply.ends | flows::ended(ports.flags, Reply::POD_DONE));
    if reply.seen != now || reply.ends != ends {
        tables.mark_reply(&key, now, ends);
    }
    let place = Place { address: reply.vip, port: reply.port as u16 };
    if !teach_parts(tables, &datagram, &place) {
        return Err(Verdict::Drop(Reason::PodUntracked));
    }
    let done = rewrite::rewrite(packet, &datagram, End::Source, ports.source, &place);
    done.map_or(MALFORMED, |()| Ok(Verdict::Pass(Reason::FromPod)))
}

/// Does a pod of this host have the flow of a segment? Then it is not handed over.
#[inline(always)]
pub fn knows<T: PodTables>(segment: &Segment, tables: &T) -> bool {
    let [a, b, c, d, ..] = segment.header;
    let key = FlowKey {
        client: segment.source,
        server: segment.destination,
        client_port: u16::from_be_bytes([a, b]),
        server_port: u16::from_be_bytes([c, d]),
        protocol: u32::from(PROTOCOL_TCP),
    };
    tables.flow(&key).and_then(|known| flows::current(tables, known)).is_some()
}

/// The first part of a datagram says where the others go. False if that could not be remembered.
#[inline(always)]
fn teach_parts<T: PodTables>(tables: &T, datagram: &Datagram, place: &Place) -> bool {
    let Some(id) = datagram.fragment.first() else { return true };
    tables.remember_part(&part_key(datagram, id), &Part { address: place.address, seen: tables.now(), reserved: 0 })
}

#[inline(always)]
fn known_part<T: PodTables>(tables: &T, datagram: &Datagram, id: u32) -> Option<Part> {
    tables.part(&part_key(datagram, id)).filter(|part| tables.now().wrapping_sub(part.seen) <= PARTS_SECONDS)
}

#[inline(always)]
fn part_key(datagram: &Datagram, id: u32) -> PartKey {
    PartKey { source: datagram.source, destination: datagram.destination, id, protocol: u32::from(datagram.protocol) }
}

/// An ICMP error that came in for a VIP: which pod's packet does it quote?
struct QuotedPod {
    quoted: Datagram,
    ports: Ports,
    pod: Pod,
}

#[inline(always)]
fn quoted_pod<P: StackFrame, T: PodTables>(packet: &P, tables: &T, error: &Datagram) -> Option<QuotedPod> {
    let (quoted, ports) = error.quoted(packet).filter(|(quoted, _)| quoted.source == error.destination)?;
    let key = FlowKey {
        client: quoted.destination,
        server: quoted.source,
        client_port: ports.destination,
        server_port: ports.source,
        protocol: u32::from(quoted.protocol),
    };
    let pod = flows::current(tables, tables.flow(&key)?)?;
    Some(QuotedPod { quoted, ports, pod })
}

#[inline(always)]
fn translate_error_in<P: StackFrame>(packet: &mut P, error: &Datagram, found: &QuotedPod) -> Option<()> {
    let place = Place { address: found.pod.address, port: found.pod.port };
    rewrite::requote(packet, error, &found.quoted, End::Source, found.ports.source, &place)?;
    rewrite::readdress_error(packet, error, End::Destination, &place.address)
}

/// An ICMP error of this host or a pod about a client's packet, which it quotes as the pod got it.
#[inline(always)]
fn answer_error<P: StackFrame, T: PodTables>(
    packet: &mut P,
    tables: &T,
    error: &Datagram,
) -> Option<Result<Verdict, Verdict>> {
    let (quoted, ports) = error.quoted(packet).filter(|(quoted, _)| quoted.source == error.destination)?;
    let reply = tables.reply(&FlowKey {
        client: quoted.source,
        server: quoted.destination,
        client_port: ports.source,
        server_port: ports.destination,
        protocol: u32::from(quoted.protocol),
    })?;
    let place = Place { address: reply.vip, port: reply.port as u16 };
    let done = rewrite::requote(packet, error, &quoted, End::Destination, ports.destination, &place)
        .and_then(|()| rewrite::readdress_error(packet, error, End::Source, &place.address));
    Some(done.map_or(MALFORMED, |()| Ok(Verdict::Pass(Reason::FromPodIcmp))))
}
