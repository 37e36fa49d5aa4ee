//! Into the pods of a host, and out of them again: what a director sent for a VIP's port goes to a pod of this host
//! ([`to_pod`]), and the pod's answer leaves with the VIP as source ([`from_pod`]). Between the two everything of the host
//! (connection tracking, masquerading, policies) sees a flow from the client to the pod, in both directions.
//!
//! - A known flow keeps its pod while that is there, also while it drains. A SYN goes to a pod that is ready. A flow whose pod
//!   is gone gets another one, and a packet without any ready pod is dropped.
//! - Of datagrams in parts the first one says where the others go; a part that comes before it is dropped.
//! - ICMP errors about a flow are translated with the packet that they quote, both ways.
//! - A client of this host itself gets an address of its own before the pods, and the way of an interface of its own: its
//!   packets come in with a source that the stack takes for forged, and pods would answer it within the host, where nothing
//!   translates.
//! - SCTP is not carried: its checksum covers the whole packet, of which only the headers are at hand.

mod datagram;
mod flows;
mod rewrite;

use crate::frame::{PROTOCOL_TCP, StackFrame};
use crate::hand_over::Segment;
use crate::layout::{
    Bound, Flow, FlowKey, HostControl, Part, PartKey, Pod, PodPort, PodPortKey, Reply, TURN_MAC, Way, turned,
};
use crate::unwrap::HostTables;
use crate::verdict::Reason;
use core::ops::{Deref, DerefMut};
use datagram::{Datagram, Ports};
use flows::{Chosen, Notes, Query};
use rewrite::{End, Place};

/// Seconds (of 2³⁰ ns) for which the parts of a datagram are waited for; Linux waits 30.
const PARTS_SECONDS: u32 = 30;

/// What is known of pods and their flows. Several processors use it at once, and rows are lent: what is read of one may be of
/// another flow, if the row was given away at that moment.
pub trait PodTables {
    /// Where one packet's matters are noted, for nobody else meanwhile; what it holds before does not matter. They do not lie on
    /// the stack, which is short, and of which a verifier follows every way that filled it.
    fn scratch(&self) -> Option<impl DerefMut<Target = Scratch>>;

    /// Seconds of 2³⁰ ns, from any beginning, wrapping.
    fn now(&self) -> u32;

    /// A port of a VIP.
    fn port<'a>(&'a self, key: &PodPortKey) -> Option<impl Deref<Target = PodPort> + use<'a, Self>>;

    /// Row of a pod.
    fn pod(&self, id: u16) -> Option<impl Deref<Target = Pod>>;

    /// The pod of a flow to a VIP.
    fn flow<'a>(&'a self, key: &FlowKey) -> Option<impl Deref<Target = Flow> + use<'a, Self>>;

    /// Remembers it. False if the tables are full.
    #[must_use]
    fn remember_flow(&self, key: &FlowKey, flow: &Flow) -> bool;

    /// What the answers of a pod belong to.
    fn reply<'a>(&'a self, key: &FlowKey) -> Option<impl Deref<Target = Reply> + use<'a, Self>>;

    /// Remembers it. False if the tables are full.
    #[must_use]
    fn remember_reply(&self, key: &FlowKey, reply: &Reply) -> bool;

    /// Writes [`Reply::seen`] and [`Reply::ends`] of a row.
    fn mark_reply(&self, key: &FlowKey, seen: u32, ends: u32);

    /// What the first part of a datagram has said.
    fn part<'a>(&'a self, key: &PartKey) -> Option<impl Deref<Target = Part> + use<'a, Self>>;

    /// Remembers it. False if the tables are full.
    #[must_use]
    fn remember_part(&self, key: &PartKey, part: &Part) -> bool;
}

/// What becomes of a packet. All of it is defined whatever it says: the kernel's verifier refuses programs that copy what is
/// not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// What to do.
    pub step: Step,
    /// Why.
    pub reason: Reason,
    /// Index of the interface of [`Step::Turn`]; else 0.
    pub interface: u32,
}

/// What to do with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Step {
    /// It goes on.
    Pass,
    /// The end of it.
    Drop,
    /// It goes on as if it had come in by another interface.
    Turn,
}

impl Delivery {
    /// It goes on.
    #[must_use]
    pub const fn pass(reason: Reason) -> Self {
        Self { step: Step::Pass, reason, interface: 0 }
    }

    /// The end of it.
    #[must_use]
    pub const fn drop(reason: Reason) -> Self {
        Self { step: Step::Drop, reason, interface: 0 }
    }

    /// It goes on as if it had come in by this interface.
    #[must_use]
    pub const fn turn(reason: Reason, interface: u32) -> Self {
        Self { step: Step::Turn, reason, interface }
    }
}

/// What was found out about a packet: that it is to be translated ([`translate()`]) for a reason, or why not.
#[derive(Clone, Copy)]
struct Found(u64);

impl Found {
    const TRANSLATE: u64 = 1 << 8;
    /// Its flow is to be asked for first.
    const PICK: Self = Self(1 << 9);

    #[inline(always)]
    const fn new(reason: Reason) -> Self {
        Self(reason as u64 | Self::TRANSLATE)
    }

    #[inline(always)]
    const fn not(reason: Reason) -> Self {
        Self(reason as u64)
    }

    #[inline(always)]
    const fn is_to_be_picked(self) -> bool {
        self.0 & Self::PICK.0 != 0
    }

    #[inline(always)]
    const fn is_to_be_translated(self) -> bool {
        self.0 & Self::TRANSLATE != 0
    }

    #[inline(always)]
    fn reason(self) -> Reason {
        Reason::ALL.get(self.0 as u8 as usize).copied().unwrap_or(Reason::PodMalformed)
    }
}

/// Notes about one packet.
#[derive(Debug, Default)]
#[repr(C, align(8))]
pub struct Scratch {
    datagram: Datagram,
    quoted: Datagram,
    ports: Ports,
    exchange: Exchange,
    query: Query,
    notes: Notes,
    part_key: PartKey,
    part: Part,
}

/// Sends what came in for a port of a VIP to a pod: its destination becomes the pod's address and port. Tunnels have been
/// taken off ([`crate::unwrap()`]); what came without one is taken too, as a director on the same machine leaves it.
///
/// What is passed with [`Reason::NotPods`] is as it was, all other that goes on is for a pod. What is dropped may be changed.
#[inline(always)]
pub fn to_pod<P: StackFrame, T: HostTables + PodTables>(packet: &mut P, tables: &T) -> Delivery {
    let none = Delivery::pass(Reason::NotPods);
    let Some(mut scratch) = tables.scratch() else { return none };
    let notes: &mut Scratch = &mut scratch;
    let Some(datagram) = datagram::read(packet) else { return none };
    notes.datagram = datagram;
    let bound = match tables.bound(&notes.datagram.destination) {
        Some(bound) if bound.flags & Bound::PODS != 0 => bound,
        _ => return none,
    };
    let mut found = deliver(packet, tables, notes);
    if found.is_to_be_picked() {
        let chosen = flows::pod_of(packet, tables, &notes.query, &mut notes.notes);
        found = match chosen.pod() {
            Some(pod) => settle(tables, notes, pod, chosen),
            None => Found::not(chosen.reason()),
        };
    }
    if found.is_to_be_translated() {
        return translate(packet, notes, found.reason());
    }
    match found.reason() {
        // What no pod gets passes where the VIP is an address of this host too.
        Reason::PodNoService | Reason::PodPartUnknown | Reason::PodIcmpUnknown
            if bound.flags & Bound::NO_ADDRESS == 0 =>
        {
            none
        }
        reason => Delivery::drop(reason),
    }
}

/// A function of its own, as those below: each has its part of the stack, which is free again when it is done.
#[inline(never)]
fn deliver<P: StackFrame, T: HostTables + PodTables>(packet: &P, tables: &T, notes: &mut Scratch) -> Found {
    if notes.datagram.is_icmp() {
        match quoted_pod(packet, tables, notes) {
            Some(()) => Found::new(Reason::ToPodIcmp),
            None => Found::not(Reason::PodIcmpUnknown),
        }
    } else if !notes.datagram.is_carried() {
        Found::not(Reason::PodNoService)
    } else if let Some(id) = notes.datagram.fragment.later() {
        match known_part(tables, notes, id, End::Destination) {
            Some(()) => Found::new(Reason::ToPodPart),
            None => Found::not(Reason::PodPartUnknown),
        }
    } else {
        match ask(packet, tables, notes) {
            Some(()) => Found::PICK,
            None => Found::not(Reason::PodMalformed),
        }
    }
}

/// What is asked for the packet's flow.
#[inline(always)]
fn ask<P: StackFrame, T: HostTables + PodTables>(packet: &P, tables: &T, notes: &mut Scratch) -> Option<()> {
    let ports = notes.datagram.ports(packet)?;
    notes.ports = ports;
    let control = tables.control();
    let is_own = control.turn != 0 && tables.is_endpoint(&notes.datagram.source);
    notes.query.key = FlowKey {
        client: notes.datagram.source,
        server: notes.datagram.destination,
        client_port: ports.source,
        server_port: ports.destination,
        protocol: u32::from(notes.datagram.protocol),
    };
    notes.query.back = match is_own {
        true if stays_inside(packet) && control.home.interface != 0 => control.home,
        true => here(packet),
        false => STRAIGHT,
    };
    (notes.query.flags, notes.query.ipv6) = (ports.flags, notes.datagram.ipv6);
    Some(())
}

#[inline(never)]
fn settle<T: HostTables + PodTables>(tables: &T, notes: &mut Scratch, pod: u16, chosen: Chosen) -> Found {
    let Some(pod) = tables.pod(pod) else { return Found::not(Reason::PodMalformed) };
    notes.exchange = Exchange::inward(&pod, chosen.turn(), tables.control().turn, notes.ports, notes.datagram.ipv6);
    if teach_parts(tables, notes) { Found::new(chosen.reason()) } else { Found::not(Reason::PodUntracked) }
}

/// It has never been on a wire: on `lo` there are no addresses, and what a director's own clients send by its pair of interfaces,
/// which resolve none, has that of the one end twice, so that the other end takes it for another machine's. Neither takes what has a
/// VIP as source.
#[inline(always)]
pub fn stays_inside<P: StackFrame>(packet: &P) -> bool {
    match packet.view::<12>(0) {
        Some([a, b, c, d, e, f, g, h, i, j, k, l]) => [*a, *b, *c, *d, *e, *f] == [*g, *h, *i, *j, *k, *l],
        None => false,
    }
}

const STRAIGHT: Way = Way { interface: 0, mac: [0; 8] };

/// Where a frame came in.
#[inline(always)]
fn here<P: StackFrame>(packet: &P) -> Way {
    match packet.view::<6>(0) {
        Some([a, b, c, d, e, f]) => Way { interface: packet.ingress(), mac: [*a, *b, *c, *d, *e, *f, 0, 0] },
        None => STRAIGHT,
    }
}

/// Gives what leaves the host, and is a pod's answer to a client of a VIP, the VIP and its port as source. Answers with
/// [`Reason::NotPods`] where it left the frame as it was; one that it could not translate whole is dropped.
#[inline(always)]
pub fn from_pod<P: StackFrame, T: HostTables + PodTables>(packet: &mut P, tables: &T) -> Delivery {
    let none = Delivery::pass(Reason::NotPods);
    if tables.control().flags & HostControl::PODS == 0 {
        return none;
    }
    let Some(mut scratch) = tables.scratch() else { return none };
    let notes: &mut Scratch = &mut scratch;
    let Some(datagram) = datagram::read(packet) else { return none };
    notes.datagram = datagram;
    let found = answer(packet, tables, notes);
    match found.reason() {
        reason if found.is_to_be_translated() => translate(packet, notes, reason),
        Reason::NotPods => none,
        reason => Delivery::drop(reason),
    }
}

#[inline(never)]
fn answer<P: StackFrame, T: PodTables>(packet: &P, tables: &T, notes: &mut Scratch) -> Found {
    let (found, reason) = if notes.datagram.is_icmp() {
        (quoted_reply(packet, tables, notes), Reason::FromPodIcmp)
    } else if !notes.datagram.is_carried() {
        (None, Reason::NotPods)
    } else if let Some(id) = notes.datagram.fragment.later() {
        (known_part(tables, notes, id, End::Source), Reason::FromPodPart)
    } else {
        (reply_of(packet, tables, notes), Reason::FromPod)
    };
    match found {
        None => Found::not(Reason::NotPods),
        Some(()) if reason == Reason::FromPod && !teach_parts(tables, notes) => Found::not(Reason::PodUntracked),
        Some(()) => Found::new(reason),
    }
}

#[inline(always)]
fn reply_of<P: StackFrame, T: PodTables>(packet: &P, tables: &T, notes: &mut Scratch) -> Option<()> {
    let ports = notes.datagram.ports(packet)?;
    notes.ports = ports;
    notes.query.key = FlowKey {
        client: notes.datagram.destination,
        server: notes.datagram.source,
        client_port: ports.destination,
        server_port: ports.source,
        protocol: u32::from(notes.datagram.protocol),
    };
    let reply = tables.reply(&notes.query.key)?;
    let (now, ends) = (tables.now(), reply.ends | flows::ended(ports.flags, Reply::POD_DONE));
    if reply.seen != now || reply.ends != ends {
        tables.mark_reply(&notes.query.key, now, ends);
    }
    notes.exchange = Exchange::outward(&reply, ports);
    Some(())
}

/// What was found out about a packet is done to it.
#[inline(always)]
fn translate<P: StackFrame>(packet: &mut P, notes: &Scratch, reason: Reason) -> Delivery {
    let done = match notes.datagram.is_icmp() {
        true => translate_error(packet, notes),
        false => translate_segment(packet, notes),
    };
    let way = &notes.exchange.way;
    let [a, b, c, d, e, f, ..] = way.mac;
    match done {
        true if way.interface == 0 => Delivery::pass(reason),
        true if packet.write(0, [a, b, c, d, e, f]) => Delivery::turn(reason, way.interface),
        _ => Delivery::drop(Reason::PodMalformed),
    }
}

#[inline(never)]
fn translate_segment<P: StackFrame>(packet: &mut P, notes: &Scratch) -> bool {
    let (datagram, exchange) = (&notes.datagram, &notes.exchange);
    let (end, client) = (exchange.end, &exchange.client);
    rewrite::rewrite(packet, datagram, end, exchange.port, &exchange.server).is_some()
        && (exchange.way.interface == 0
            || rewrite::rewrite(packet, datagram, end.other(), client.port, client).is_some())
}

/// An ICMP error goes against the packet that it quotes.
#[inline(never)]
fn translate_error<P: StackFrame>(packet: &mut P, notes: &Scratch) -> bool {
    let (error, quoted, exchange) = (&notes.datagram, &notes.quoted, &notes.exchange);
    let (end, server, client) = (exchange.end, &exchange.server, &exchange.client);
    let mut done = rewrite::requote(packet, error, quoted, end.other(), exchange.port, server)
        .and_then(|()| rewrite::readdress_error(packet, error, end, &server.address));
    if exchange.way.interface != 0 {
        done = done
            .and_then(|()| rewrite::requote(packet, error, quoted, end, client.port, client))
            .and_then(|()| rewrite::readdress_error(packet, error, end.other(), &client.address));
    }
    done.is_some()
}

/// What the ends of a packet become.
#[derive(Debug, Default)]
struct Exchange {
    server: Place,
    /// The other end, where the client is one of this host.
    client: Place,
    way: Way,
    /// The server's end: the destination on the way in, the source on the way out.
    end: End,
    /// Its port now.
    port: u16,
}

impl Exchange {
    #[inline(always)]
    const fn inward(pod: &Pod, turn: u32, interface: u32, ports: Ports, ipv6: bool) -> Self {
        Self {
            end: End::Destination,
            port: ports.destination,
            server: Place { address: pod.address, port: pod.port },
            client: Place { address: turned(turn, ipv6), port: ports.source },
            way: if turn == 0 { STRAIGHT } else { Way { interface, mac: TURN_MAC } },
        }
    }

    #[inline(always)]
    const fn outward(reply: &Reply, ports: Ports) -> Self {
        Self {
            end: End::Source,
            port: ports.source,
            server: Place { address: reply.vip, port: reply.port as u16 },
            client: Place { address: reply.client, port: ports.destination },
            way: reply.way,
        }
    }

    /// A later part has no ports.
    #[inline(always)]
    const fn of_part(end: End, part: &Part) -> Self {
        Self {
            end,
            port: 0,
            server: Place { address: part.address, port: 0 },
            client: Place { address: part.client, port: 0 },
            way: part.way,
        }
    }
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
    tables.flow(&key).and_then(|known| flows::current(tables, known.pod)).is_some()
}

/// The first part of a datagram says where the others go. False if that could not be remembered.
#[inline(always)]
fn teach_parts<T: PodTables>(tables: &T, notes: &mut Scratch) -> bool {
    let Some(id) = notes.datagram.fragment.first() else { return true };
    notes.part_key = notes.datagram.part_key(id);
    let exchange = &notes.exchange;
    notes.part = Part {
        address: exchange.server.address,
        client: exchange.client.address,
        seen: tables.now(),
        way: exchange.way,
    };
    tables.remember_part(&notes.part_key, &notes.part)
}

#[inline(always)]
fn known_part<T: PodTables>(tables: &T, notes: &mut Scratch, id: u32, end: End) -> Option<()> {
    notes.part_key = notes.datagram.part_key(id);
    let part = tables.part(&notes.part_key)?;
    if tables.now().wrapping_sub(part.seen) > PARTS_SECONDS {
        return None;
    }
    notes.exchange = Exchange::of_part(end, &part);
    Some(())
}

impl Datagram {
    #[inline(always)]
    const fn part_key(&self, id: u32) -> PartKey {
        PartKey { source: self.source, destination: self.destination, id, protocol: self.protocol as u32 }
    }
}

/// An ICMP error that came in for a VIP quotes what a pod sent, as the client saw it.
#[inline(always)]
fn quoted_pod<P: StackFrame, T: HostTables + PodTables>(packet: &P, tables: &T, notes: &mut Scratch) -> Option<()> {
    let ports = quote(packet, notes)?.turned_round();
    notes.query.key = FlowKey {
        client: notes.quoted.destination,
        server: notes.quoted.source,
        client_port: ports.source,
        server_port: ports.destination,
        protocol: u32::from(notes.quoted.protocol),
    };
    let flow = tables.flow(&notes.query.key)?;
    let pod = flows::current(tables, flow.pod)?;
    notes.exchange = Exchange::inward(&pod, flow.turn, tables.control().turn, ports, notes.quoted.ipv6);
    Some(())
}

/// An ICMP error of this host or a pod quotes what the client sent, as the pod got it.
#[inline(always)]
fn quoted_reply<P: StackFrame, T: PodTables>(packet: &P, tables: &T, notes: &mut Scratch) -> Option<()> {
    let ports = quote(packet, notes)?;
    notes.query.key = FlowKey {
        client: notes.quoted.source,
        server: notes.quoted.destination,
        client_port: ports.source,
        server_port: ports.destination,
        protocol: u32::from(notes.quoted.protocol),
    };
    let reply = tables.reply(&notes.query.key)?;
    notes.exchange = Exchange::outward(&reply, ports.turned_round());
    Some(())
}

/// What an error quotes is from whom it is sent to.
#[inline(always)]
fn quote<P: StackFrame>(packet: &P, notes: &mut Scratch) -> Option<Ports> {
    let (quoted, ports) = notes.datagram.quoted(packet)?;
    notes.quoted = quoted;
    if flows::differ(&notes.quoted.source, &notes.datagram.destination) == 0 { Some(ports) } else { None }
}
