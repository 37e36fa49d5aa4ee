//! Which pod has a flow, and whose flow a pod's answers belong to.
//!
//! A flow is known by client, VIP and ports; its pod's answers by client, pod and ports. Two flows of one client's port that
//! come by different VIPs (or ports of a VIP) cannot share a pod's port, since their answers could not be told apart: the
//! first one has it until it is over, the second one gets another pod, or is dropped.
//!
//! A client of this host itself has one of a few addresses of its own before the pods: to its real one they would answer
//! without passing any program.

use super::PodTables;
use crate::frame::{PROTOCOL_TCP, PROTOCOL_UDP};
use crate::layout::{Flow, FlowKey, Pod, PodPort, PodPortKey, PodRef, Reply, TURNS, Way, turned};
use crate::verdict::Reason;
use core::ops::Deref;
use sluicegate_l4::layout::Address;
use sluicegate_l4::{Packet, hash};

pub(super) const FIN: u8 = 0x01;
pub(super) const SYN: u8 = 0x02;
pub(super) const RST: u8 = 0x04;
pub(super) const ACK: u8 = 0x10;

/// After so much silence a flow of TCP counts as over: others may have its place with the pod (15 minutes).
const IDLE_TCP: u32 = 840;
/// And one of UDP, which is picked anew then (2 minutes, as the kernel's connection tracking has it for streams).
const IDLE_UDP: u32 = 112;
/// Slots that are tried until a pod is found that does not talk to this port of the client already.
const TRIES: u32 = 16;
/// From one of them to the next.
const STRIDE: u32 = 389;
/// The director has picked this host by the same hash of the same flow, which must not say which pod it gets.
const HERE: u64 = 0x706f_6473_2068_6572;

/// Keys and rows that are looked up and written.
#[derive(Debug, Default)]
#[repr(C, align(8))]
pub(super) struct Notes {
    answers: FlowKey,
    wanted: PodPortKey,
    reply: Reply,
    flow: Flow,
}

/// A packet of a flow.
#[derive(Debug, Default)]
#[repr(C, align(8))]
pub(super) struct Query {
    pub(super) key: FlowKey,
    /// How answers reach the client, if it is one of this host.
    pub(super) back: Way,
    /// Flags of TCP.
    pub(super) flags: u8,
    pub(super) ipv6: bool,
}

/// A pod for a packet, or none, and why. One word, so that a function can return it in a register: the row (0 = none), the
/// index of the reason, and [`Flow::turn`].
#[derive(Clone, Copy)]
pub(super) struct Chosen(u64);

impl Chosen {
    #[inline(always)]
    const fn new(pod: u16, reason: Reason, turn: u32) -> Self {
        Self(pod as u64 | (reason as u64) << 16 | (turn as u64) << 32)
    }

    /// The pod's row, if there is one.
    #[inline(always)]
    pub(super) const fn pod(self) -> Option<u16> {
        if self.0 as u16 == 0 { None } else { Some(self.0 as u16) }
    }

    #[inline(always)]
    pub(super) fn reason(self) -> Reason {
        Reason::ALL.get((self.0 >> 16) as u16 as usize).copied().unwrap_or(Reason::PodMalformed)
    }

    #[inline(always)]
    pub(super) const fn turn(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// The pod of a flow, or [`Reason::PodNoService`] and others where there is none.
#[inline(never)]
pub(super) fn pod_of<P: Packet, T: PodTables>(packet: &P, tables: &T, query: &Query, notes: &mut Notes) -> Chosen {
    let key = &query.key;
    let opens = key.protocol == u32::from(PROTOCOL_TCP) && query.flags & (SYN | ACK) == SYN;
    let now = tables.now();
    let mut reason = Reason::ToPodNew;
    if let Some(known) = tables.flow(key).map(|known| *known) {
        if keeps(tables, query, notes, known, opens, now) {
            return Chosen::new(known.pod.id, Reason::ToPod, known.turn);
        }
        reason = Reason::ToPodMoved;
    }
    notes.wanted = PodPortKey { vip: key.server, port: u32::from(key.server_port), protocol: key.protocol };
    let Some(port) = tables.port(&notes.wanted) else { return Chosen::new(0, Reason::PodNoService, 0) };
    // A segment in the midst of a flow that nobody knows here is of no use to another pod than the ring's first choice.
    let tries = if opens || key.protocol == u32::from(PROTOCOL_UDP) { TRIES } else { 1 };
    match pick(packet, tables, query, notes, &port, tries, now) {
        Ok((pod, turn)) => Chosen::new(pod, reason, turn),
        Err(reason) => Chosen::new(0, reason, 0),
    }
}

impl Query {
    /// The key of a pod's answers.
    #[inline(always)]
    const fn answers(&self, pod: &Pod, turn: u32) -> FlowKey {
        let key = &self.key;
        FlowKey {
            client: if turn == 0 { key.client } else { turned(turn, self.ipv6) },
            server: pod.address,
            client_port: key.client_port,
            server_port: pod.port,
            protocol: key.protocol,
        }
    }

    /// Is the client one of this host?
    #[inline(always)]
    const fn is_turned(&self) -> bool {
        self.back.interface != 0
    }

    /// Are the answers those of this flow?
    #[inline(always)]
    const fn owns(&self, reply: &Reply) -> bool {
        let client = if self.is_turned() { self.key.client } else { [0; 4] };
        differ(&reply.vip, &self.key.server) | differ(&reply.client, &client) | reply.port ^ self.key.server_port as u32
            == 0
    }

    #[inline(always)]
    const fn reply(&self, pod: PodRef, now: u32) -> Reply {
        Reply {
            vip: self.key.server,
            client: if self.is_turned() { self.key.client } else { [0; 4] },
            pod,
            port: self.key.server_port as u32,
            seen: now,
            ends: ended(self.flags, Reply::CLIENT_DONE),
            way: self.back,
        }
    }
}

/// May a flow keep the pod that it had?
#[inline(always)]
fn keeps<T: PodTables>(tables: &T, query: &Query, notes: &mut Notes, known: Flow, opens: bool, now: u32) -> bool {
    let Some(pod) = current(tables, known.pod) else { return false };
    if (known.turn != 0) != query.is_turned() || (opens && pod.state != Pod::READY) {
        return false;
    }
    notes.answers = query.answers(&pod, known.turn);
    let Some(reply) = tables.reply(&notes.answers) else {
        notes.reply = query.reply(known.pod, now);
        return tables.remember_reply(&notes.answers, &notes.reply);
    };
    // Another flow may have the place by now.
    if !query.owns(&reply) {
        return false;
    }
    if query.key.protocol == u32::from(PROTOCOL_UDP) && now.wrapping_sub(reply.seen) > IDLE_UDP {
        return false;
    }
    let ends = if opens { 0 } else { reply.ends | ended(query.flags, Reply::CLIENT_DONE) };
    if reply.seen != now || reply.ends != ends {
        tables.mark_reply(&notes.answers, now, ends);
    }
    true
}

/// A ready pod whose port the client's port is free to talk to, and the address of a client of this host for that. It is
/// remembered.
#[inline(always)]
fn pick<P: Packet, T: PodTables>(
    packet: &P,
    tables: &T,
    query: &Query,
    notes: &mut Notes,
    port: &PodPort,
    tries: u32,
    now: u32,
) -> Result<(u16, u32), Reason> {
    if port.ready == 0 {
        return Err(Reason::PodNoneReady);
    }
    let key = &query.key;
    let ports = u32::from(key.client_port.to_be()) | u32::from(key.server_port.to_be()) << 16;
    let tuple = match port.flags & PodPort::BY_CLIENT {
        0 => hash::tuple(&key.client, ports.to_le(), key.protocol as u8),
        _ => hash::client(&key.client),
    };
    let slots = port.ring.len() as u32;
    let mut slot = hash::slot(hash::ring(tuple ^ HERE), slots);
    for attempt in 0..tries {
        slot = packet.opaque(slot as usize) as u32;
        let turn = if query.is_turned() { 1 + packet.opaque(attempt as usize) as u32 % TURNS } else { 0 };
        let id = port.ring.get(slot as usize).copied().unwrap_or_default();
        if let Some(pod) = tables.pod(id).filter(|pod| pod.state == Pod::READY)
            && take(tables, query, notes, (id, turn), &pod, now)?
        {
            return Ok((id, turn));
        }
        // One of this host may be told apart by another address, with the same pod.
        if turn == 0 || turn == TURNS {
            slot += STRIDE;
        }
        if slot >= slots {
            slot -= slots;
        }
    }
    Err(Reason::PodPortTaken)
}

/// Remembers that the flow is the pod's. False if another flow has its place there.
#[inline(always)]
fn take<T: PodTables>(
    tables: &T,
    query: &Query,
    notes: &mut Notes,
    (id, turn): (u16, u32),
    pod: &Pod,
    now: u32,
) -> Result<bool, Reason> {
    notes.answers = query.answers(pod, turn);
    if let Some(reply) = tables.reply(&notes.answers)
        && !query.owns(&reply)
        && !is_over(tables, &reply, query.key.protocol, now)
    {
        return Ok(false);
    }
    notes.flow = Flow { pod: PodRef { id, generation: pod.generation }, turn };
    notes.reply = query.reply(notes.flow.pod, now);
    if tables.remember_reply(&notes.answers, &notes.reply) && tables.remember_flow(&query.key, &notes.flow) {
        Ok(true)
    } else {
        Err(Reason::PodUntracked)
    }
}

/// 0 if they are the same. One comparison, so that a verifier need not follow one for each word.
#[inline(always)]
pub(super) const fn differ(one: &Address, other: &Address) -> u32 {
    one[0] ^ other[0] | one[1] ^ other[1] | one[2] ^ other[2] | one[3] ^ other[3]
}

/// The row that a flow means, while it is of the same pod.
#[inline(always)]
pub(super) fn current<T: PodTables>(tables: &T, known: PodRef) -> Option<impl Deref<Target = Pod>> {
    tables.pod(known.id).filter(|pod| pod.state != Pod::NONE && pod.generation == known.generation)
}

#[inline(always)]
fn is_over<T: PodTables>(tables: &T, reply: &Reply, protocol: u32, now: u32) -> bool {
    let idle = if protocol == u32::from(PROTOCOL_TCP) { IDLE_TCP } else { IDLE_UDP };
    let both = Reply::CLIENT_DONE | Reply::POD_DONE;
    reply.ends & Reply::RESET != 0
        || reply.ends & both == both
        || now.wrapping_sub(reply.seen) > idle
        || current(tables, reply.pod).is_none()
}

/// What a segment ends. Datagrams have no flags.
#[inline(always)]
pub(super) const fn ended(flags: u8, side: u32) -> u32 {
    (if flags & FIN != 0 { side } else { 0 }) | (if flags & RST != 0 { Reply::RESET } else { 0 })
}
