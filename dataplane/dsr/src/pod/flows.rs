//! Which pod has a flow, and whose flow a pod's answers belong to.
//!
//! A flow is known by client, VIP and ports; its pod's answers by client, pod and ports. Two flows of one client's port that
//! come by different VIPs (or ports of a VIP) cannot share a pod's port, since their answers could not be told apart: the
//! first one has it until it is over, the second one gets another pod, or is dropped.

use super::PodTables;
use crate::frame::{PROTOCOL_TCP, PROTOCOL_UDP};
use crate::layout::{FlowKey, Pod, PodPort, PodPortKey, PodRef, Reply};
use crate::verdict::Reason;
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

/// A pod for a packet, and why.
pub(super) struct Chosen {
    pub(super) pod: Pod,
    pub(super) reason: Reason,
}

/// The pod of a flow. `None` if no pods are behind this port.
#[inline(always)]
pub(super) fn pod_of<P: Packet, T: PodTables>(
    packet: &P,
    tables: &T,
    key: &FlowKey,
    flags: u8,
) -> Option<Result<Chosen, Reason>> {
    let opens = key.protocol == u32::from(PROTOCOL_TCP) && flags & (SYN | ACK) == SYN;
    let now = tables.now();
    let mut reason = Reason::ToPodNew;
    if let Some(known) = tables.flow(key) {
        match keeps(tables, key, known, opens, flags, now) {
            Some(pod) => return Some(Ok(Chosen { pod, reason: Reason::ToPod })),
            None => reason = Reason::ToPodMoved,
        }
    }
    let wanted = PodPortKey { vip: key.server, port: u32::from(key.server_port), protocol: key.protocol };
    let port = tables.port(&wanted)?;
    // A segment in the midst of a flow that nobody knows here is of no use to another pod than the ring's first choice.
    let tries = if opens || key.protocol == u32::from(PROTOCOL_UDP) { TRIES } else { 1 };
    Some(pick(packet, tables, key, &port, tries, flags, now).map(|pod| Chosen { pod, reason }))
}

/// The key of a pod's answers.
#[inline(always)]
const fn answers(key: &FlowKey, pod: &Pod) -> FlowKey {
    FlowKey {
        client: key.client,
        server: pod.address,
        client_port: key.client_port,
        server_port: pod.port,
        protocol: key.protocol,
    }
}

/// The pod that a flow had, if it may keep it.
#[inline(always)]
fn keeps<T: PodTables>(tables: &T, key: &FlowKey, known: PodRef, opens: bool, flags: u8, now: u32) -> Option<Pod> {
    let pod = current(tables, known)?;
    if opens && pod.state != Pod::READY {
        return None;
    }
    let answers = answers(key, &pod);
    let Some(reply) = tables.reply(&answers) else {
        return tables.remember_reply(&answers, &reply_to(key, known, flags, now)).then_some(pod);
    };
    if reply.vip != key.server || reply.port != u32::from(key.server_port) {
        // Another flow has the place by now.
        return None;
    }
    if key.protocol == u32::from(PROTOCOL_UDP) && now.wrapping_sub(reply.seen) > IDLE_UDP {
        return None;
    }
    let ends = if opens { 0 } else { reply.ends | ended(flags, Reply::CLIENT_DONE) };
    if reply.seen != now || reply.ends != ends {
        tables.mark_reply(&answers, now, ends);
    }
    Some(pod)
}

/// A ready pod whose port the client's port is free to talk to. It is remembered.
#[inline(always)]
fn pick<P: Packet, T: PodTables>(
    packet: &P,
    tables: &T,
    key: &FlowKey,
    port: &PodPort,
    tries: u32,
    flags: u8,
    now: u32,
) -> Result<Pod, Reason> {
    if port.ready == 0 {
        return Err(Reason::PodNoneReady);
    }
    let ports = u32::from(key.client_port.to_be()) | u32::from(key.server_port.to_be()) << 16;
    let tuple = match port.flags & PodPort::BY_CLIENT {
        0 => hash::tuple(&key.client, ports.to_le(), key.protocol as u8),
        _ => hash::client(&key.client),
    };
    let slots = port.ring.len() as u32;
    let mut slot = hash::slot(hash::ring(tuple ^ HERE), slots);
    for _ in 0..tries {
        slot = packet.opaque(slot as usize) as u32;
        let id = port.ring.get(slot as usize).copied().unwrap_or_default();
        if let Some(pod) = tables.pod(id).filter(|pod| pod.state == Pod::READY)
            && take(tables, key, id, &pod, flags, now)?
        {
            return Ok(pod);
        }
        slot += STRIDE;
        if slot >= slots {
            slot -= slots;
        }
    }
    Err(Reason::PodPortTaken)
}

/// Remembers that the flow is the pod's. False if another flow has its place there.
#[inline(always)]
fn take<T: PodTables>(tables: &T, key: &FlowKey, id: u16, pod: &Pod, flags: u8, now: u32) -> Result<bool, Reason> {
    let answers = answers(key, pod);
    if let Some(reply) = tables.reply(&answers)
        && (reply.vip != key.server || reply.port != u32::from(key.server_port))
        && !is_over(tables, &reply, key.protocol, now)
    {
        return Ok(false);
    }
    let pod = PodRef { id, generation: pod.generation };
    if tables.remember_reply(&answers, &reply_to(key, pod, flags, now)) && tables.remember_flow(key, pod) {
        Ok(true)
    } else {
        Err(Reason::PodUntracked)
    }
}

/// The row that a flow means, while it is of the same pod.
#[inline(always)]
pub(super) fn current<T: PodTables>(tables: &T, known: PodRef) -> Option<Pod> {
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

#[inline(always)]
const fn reply_to(key: &FlowKey, pod: PodRef, flags: u8, now: u32) -> Reply {
    Reply { vip: key.server, pod, port: key.server_port as u32, seen: now, ends: ended(flags, Reply::CLIENT_DONE) }
}

/// What a segment ends. Datagrams have no flags.
#[inline(always)]
pub(super) const fn ended(flags: u8, side: u32) -> u32 {
    (if flags & FIN != 0 { side } else { 0 }) | (if flags & RST != 0 { Reply::RESET } else { 0 })
}
