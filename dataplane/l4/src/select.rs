//! Which backend gets this packet: the one that the flow has, the one that the client has, or the one in the slot.

use crate::access::Tables;
use crate::flow::{self, Entry};
use crate::hash;
use crate::layout::{Address, Backend, Control, MAX_RINGS, Service};
use crate::parse::{Datagram, Family, TCP, Transport, UDP};
use crate::verdict::Reason;

/// Keeps hashes of clients and of fragments apart from those of flows, whose lowest port bits never look like this.
const CLIENT_TAG: u64 = 0x5bd1_e995_0000_0000;
const FRAGMENT_TAG: u64 = 0x1b87_3593_0000_0000;

/// Stamps for which the parts of a datagram are waited for (16 to 24 seconds; RFC 8200 allows 60, Linux 30).
const FRAGMENT_STAMPS: u32 = 2;

/// A packet of a flow, before it has a backend.
#[derive(Clone, Copy)]
pub(crate) struct Query {
    /// Id of the service.
    pub(crate) service: u16,
    /// [`hash::tuple`] of the flow.
    pub(crate) tuple: u64,
    /// [`hash::flow`] of it.
    pub(crate) hash: u64,
    /// The present stamp.
    pub(crate) stamp: u32,
    /// Ports and flags.
    pub(crate) transport: Transport,
    /// Had a backend, which is dead.
    pub(crate) moved: bool,
}

impl Query {
    #[inline(always)]
    pub(crate) fn new<T: Tables>(
        tables: &T,
        control: &Control,
        service: u16,
        source: &Address,
        protocol: u8,
        transport: Transport,
    ) -> Self {
        let tuple = hash::tuple(source, transport.ports(), protocol);
        Self {
            service,
            tuple,
            hash: hash::flow(tuple, service, control.flow_secret),
            stamp: flow::stamp(tables.now(), control),
            transport,
            moved: false,
        }
    }
}

/// A backend that was chosen, and why.
///
/// One word, so that a function can return it in a register: the backend (0 = none), the index of the reason, and the
/// former owner of the flow's slot (0 = none).
#[derive(Clone, Copy)]
pub(crate) struct Chosen(u64);

impl Chosen {
    #[inline(always)]
    const fn new(backend: u16, reason: Reason) -> Self {
        Self(backend as u64 | (reason as u64) << 16)
    }

    #[inline(always)]
    const fn or_else(backend: u16, former: u16) -> Self {
        Self(backend as u64 | (Reason::SecondChance as u64) << 16 | (former as u64) << 32)
    }

    /// The backend, and why it or none.
    #[inline(always)]
    pub(crate) fn parts(self) -> (u16, Reason) {
        let reason = Reason::ALL.get((self.0 >> 16) as u16 as usize);
        (self.0 as u16, reason.copied().unwrap_or(Reason::TableFault))
    }

    /// Who may have the flow if the backend does not; 0 = nobody.
    #[inline(always)]
    pub(crate) const fn former(self) -> u16 {
        (self.0 >> 32) as u16
    }
}

/// The backend that the flow table has for a packet, if that one is still good.
#[inline(always)]
pub(crate) fn known<T: Tables>(
    tables: &T,
    control: &Control,
    service: &Service,
    query: &Query,
    datagram: &Datagram,
) -> Known {
    let Some(found) = flow::find(tables, control.flow_mask, query.hash) else {
        return Known::Nothing;
    };
    let entry = found.entry;
    let is_current = match tables.backend(entry.backend()) {
        Some(backend) => entry.is_of(&backend),
        None => false,
    };
    if !is_current {
        return Known::Gone;
    }
    if datagram.protocol == UDP && is_idle(service, query, entry) {
        return Known::Nothing;
    }
    let seen = entry.seen(query.stamp, query.transport);
    if seen != entry {
        found.replace(tables, seen);
        if service.persistence_stamps != 0 {
            refresh_client(tables, query, datagram, seen);
        }
    }
    Known::Backend(entry.backend())
}

/// What the flow table knows of a flow.
pub(crate) enum Known {
    /// Its backend.
    Backend(u16),
    /// It had one that is dead.
    Gone,
    /// Nothing.
    Nothing,
}

/// Has a flow of UDP been silent for as long as its service says?
#[inline(always)]
pub(crate) fn is_idle(service: &Service, query: &Query, entry: Entry) -> bool {
    service.udp_idle_stamps != 0 && entry.age(query.stamp) > u32::from(service.udp_idle_stamps)
}

/// Chooses a backend for a flow that has none, and remembers it.
#[inline(never)]
pub(crate) fn anew<T: Tables>(tables: &T, query: &Query, datagram: &Datagram) -> Chosen {
    match choose(tables, query, datagram) {
        Ok(chosen) => chosen,
        Err(reason) => Chosen::new(0, reason),
    }
}

#[inline(always)]
fn choose<T: Tables>(tables: &T, query: &Query, datagram: &Datagram) -> Result<Chosen, Reason> {
    let control = tables.control().ok_or(Reason::TableFault)?;
    let service = tables.service(query.service).ok_or(Reason::TableFault)?;
    let (control, service): (&Control, &Service) = (&control, &service);
    if datagram.protocol == UDP && service.flags & Service::FLAG_ONE_PACKET != 0 {
        let backend = from_ring(tables, service, query, datagram)?;
        return Ok(Chosen::new(backend, Reason::OnePacket));
    }
    let client = match service.persistence_stamps {
        0 => None,
        _ => of_client(tables, control, service, query, datagram),
    };
    let (backend, found) = match client {
        Some(backend) => (backend, Reason::Persistent),
        None => (from_ring(tables, service, query, datagram)?, Reason::FlowNew),
    };
    let generation = match tables.backend(backend) {
        Some(row) if row.alive == 1 => row.generation,
        Some(_) => return Err(Reason::DeadBackend),
        None => return Err(Reason::TableFault),
    };
    if client.is_none() {
        // Nothing is remembered: the later packets of the flow need the former owner as much as this one.
        match former_owner(tables, service, query, datagram, backend) {
            0 => {}
            former => return Ok(Chosen::or_else(backend, former)),
        }
    }
    let entry = Entry::new(backend, generation, query.stamp, false);
    let kept = flow::remember(tables, control.flow_mask, query.hash, entry, query.transport.opens() == 0);
    if service.persistence_stamps != 0 {
        keep_client(tables, control, service, query, datagram, entry);
    }
    let reason = match (query.moved, kept) {
        (true, _) => Reason::FlowMoved,
        (false, false) if found == Reason::FlowNew => Reason::FlowUntracked,
        _ => found,
    };
    Ok(Chosen::new(backend, reason))
}

/// The backend of a flow that an ICMP error quotes: as a packet of the flow would get it, but nothing is remembered.
#[inline(always)]
pub(crate) fn quoted<T: Tables>(
    tables: &T,
    control: &Control,
    service: &Service,
    query: &Query,
    datagram: &Datagram,
) -> Result<u16, Reason> {
    if let Some(found) = flow::find(tables, control.flow_mask, query.hash)
        && is_current(tables, found.entry)
    {
        return Ok(found.entry.backend());
    }
    if service.persistence_stamps != 0
        && let Some(backend) = of_client(tables, control, service, query, datagram)
    {
        return Ok(backend);
    }
    if service.select == Service::SELECT_TURN {
        return Err(Reason::IcmpUnknownFlow);
    }
    from_ring(tables, service, query, datagram)
}

/// The backend in the slot; it may turn out to be dead.
#[inline(always)]
fn from_ring<T: Tables>(tables: &T, service: &Service, query: &Query, datagram: &Datagram) -> Result<u16, Reason> {
    if service.ring_slots == 0 {
        return Err(Reason::NoBackend);
    }
    let slot = match service.select {
        Service::SELECT_TURN => in_turn(tables.turn(query.service), service.ring_slots),
        _ => slot_by_hash(service, query, datagram),
    };
    match tables.ring_slot(service.ring, slot) {
        None => Err(Reason::TableFault),
        Some(0) => Err(Reason::NoBackend),
        Some(backend) => Ok(backend),
    }
}

#[inline(always)]
fn slot_by_hash(service: &Service, query: &Query, datagram: &Datagram) -> u32 {
    let key = match service.select {
        Service::SELECT_SOURCE => hash::client(&datagram.source),
        Service::SELECT_DESTINATION => hash::client(&datagram.destination),
        _ => query.tuple,
    };
    hash::slot(hash::ring(key), service.ring_slots)
}

/// Who had the slot before `backend`, where that one may have the flow of this packet; 0 = nobody.
///
/// A packet that opens a connection is the present owner's. A flow whose backend died is nobody's any more. The address
/// goes into the tunnel's own header, so both must be behind GUE over the same family.
#[inline(always)]
fn former_owner<T: Tables>(tables: &T, service: &Service, query: &Query, datagram: &Datagram, backend: u16) -> u16 {
    let may_be_known_there =
        datagram.protocol == TCP && datagram.fragment.is_whole() && query.transport.opens() == 0 && !query.moved;
    let has_formers = service.flags & Service::FLAG_SECOND_CHANCE != 0 && service.former_ring < MAX_RINGS;
    if !has_formers || !may_be_known_there {
        return 0;
    }
    let slot = slot_by_hash(service, query, datagram);
    let former = match tables.ring_slot(service.former_ring, slot) {
        Some(former) if former != backend => former,
        _ => return 0,
    };
    let kind = match tables.backend(backend) {
        Some(row) => row.kind,
        None => return 0,
    };
    let is_gue = matches!(kind, Backend::KIND_GUE4 | Backend::KIND_GUE6);
    match tables.backend(former) {
        Some(row) if is_gue && row.alive == 1 && row.kind == kind => former,
        _ => 0,
    }
}

/// The remainder; `slots` is not 0.
#[inline(always)]
const fn in_turn(turn: u64, slots: u32) -> u32 {
    match (turn as u32).checked_rem(slots) {
        Some(slot) => slot,
        None => 0,
    }
}

/// The backend that a client has had within the time of persistence.
#[inline(always)]
fn of_client<T: Tables>(
    tables: &T,
    control: &Control,
    service: &Service,
    query: &Query,
    datagram: &Datagram,
) -> Option<u16> {
    let hash = client_hash(control, service, query.service, datagram);
    let entry = flow::find(tables, control.flow_mask, hash)?.entry;
    let fresh = entry.age(query.stamp) <= u32::from(service.persistence_stamps);
    if fresh && is_current(tables, entry) { Some(entry.backend()) } else { None }
}

/// [`keep_client`] for a packet that needed nothing else.
#[inline(never)]
fn refresh_client<T: Tables>(tables: &T, query: &Query, datagram: &Datagram, entry: Entry) {
    if let Some(control) = tables.control()
        && let Some(service) = tables.service(query.service)
    {
        keep_client(tables, &control, &service, query, datagram, entry);
    }
}

/// Remembers the backend of a client. Like flows, clients are tentative until a packet confirms that they are there.
#[inline(always)]
fn keep_client<T: Tables>(
    tables: &T,
    control: &Control,
    service: &Service,
    query: &Query,
    datagram: &Datagram,
    entry: Entry,
) {
    let hash = client_hash(control, service, query.service, datagram);
    let confirmed = entry.is_confirmed()
        || match flow::find(tables, control.flow_mask, hash) {
            Some(old) => old.entry.backend() == entry.backend() && old.entry.is_confirmed(),
            None => false,
        };
    flow::remember(tables, control.flow_mask, hash, entry.marked(query.stamp, u64::from(confirmed)), false);
}

#[inline(always)]
fn client_hash(control: &Control, service: &Service, id: u16, datagram: &Datagram) -> u64 {
    let client = match datagram.family {
        Family::V4 => [0, 0, datagram.source[2], datagram.source[3] & prefix(service.persistence_prefix4, 0)],
        Family::V6 => {
            let [first, second, third, fourth] = datagram.source;
            let bits = service.persistence_prefix6;
            [first & prefix(bits, 0), second & prefix(bits, 32), third & prefix(bits, 64), fourth & prefix(bits, 96)]
        }
    };
    hash::flow(hash::client(&client) ^ CLIENT_TAG, id, control.flow_secret)
}

/// Mask of the word that begins at bit `from` of an address, for a prefix of `bits` bits.
#[inline(always)]
const fn prefix(bits: u8, from: u8) -> u32 {
    let bits = bits.saturating_sub(from);
    let mask = if bits >= 32 { u64::MAX } else { !(u64::MAX >> 32 >> bits) };
    (mask as u32).to_be()
}

/// Remembers which backend the later parts of a datagram follow.
#[inline(never)]
pub(crate) fn keep_fragment<T: Tables>(tables: &T, hash: u64, backend: u16) {
    if let Some(row) = tables.backend(backend)
        && let Some(control) = tables.control()
    {
        let entry = Entry::new(backend, row.generation, flow::stamp(tables.now(), &control), false);
        flow::remember(tables, control.flow_mask, hash, entry, false);
    }
}

/// The backend that the first part of a datagram went to; 0 = none.
#[inline(never)]
pub(crate) fn of_fragment<T: Tables>(tables: &T, hash: u64) -> u16 {
    let Some(control) = tables.control() else {
        return 0;
    };
    let stamp = flow::stamp(tables.now(), &control);
    match flow::find(tables, control.flow_mask, hash) {
        Some(found) if found.entry.age(stamp) <= FRAGMENT_STAMPS && is_current(tables, found.entry) => {
            found.entry.backend()
        }
        _ => 0,
    }
}

/// The hash of all parts of a datagram: of source, destination and identification.
#[inline(always)]
pub(crate) fn fragment_hash(control: &Control, datagram: &Datagram) -> u64 {
    let ends = hash::client(&datagram.source) ^ hash::ring(hash::client(&datagram.destination));
    hash::flow(ends ^ u64::from(datagram.fragment.id()) << 32 ^ FRAGMENT_TAG, 0, control.flow_secret)
}

#[inline(always)]
fn is_current<T: Tables>(tables: &T, entry: Entry) -> bool {
    match tables.backend(entry.backend()) {
        Some(backend) => entry.is_of(&backend),
        None => false,
    }
}
