//! The tables in process memory: the rows of `layout`, and what workers see of them.
//!
//! Workers hold the rows' lock for one batch of packets, and writers for one operation: no packet sees half of a row, and
//! the order of a plan is the order in which packets see it.

use super::counters::Counters;
use crate::engine::{EngineError, SampleQueue};
use crate::tables::{MapOp, Tables as Image};
use rustix::time::{ClockId, clock_gettime};
use sluicegate_l4::layout::{
    self, AddressBucket, AddressEntry, Backend, Control, FLOW_WAYS, Interface, PortMacs, RING_LINE_SLOTS, RingLine,
    Service, ServiceBucket, map,
};
use sluicegate_l4::verdict::Reason;
use sluicegate_l4::{FlowPlaces, Tables};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Ticks of this engine's clock a second: what stands in for jiffies are milliseconds of the monotonic clock.
pub const TICKS: u32 = 1000;

/// What all workers and the engine share.
#[derive(Debug)]
pub struct Shared {
    rows: RwLock<Rows>,
    /// By address id.
    pub fences: Arc<[AtomicU64]>,
    /// Sampled packets.
    pub samples: Arc<SampleQueue>,
    flows: Flows,
    /// By the set of flows.
    overflows: Box<[AtomicU8]>,
    counters: Mutex<Vec<Arc<Counters>>>,
}

/// The rows that operations write.
#[derive(Debug)]
pub struct Rows {
    /// The switches.
    pub control: Control,
    /// Ports that packets come in and leave by.
    pub interfaces: BTreeMap<u32, Interface>,
    addresses: Vec<AddressBucket>,
    /// As `addresses`, without the VIPs that this machine has for itself.
    served: Vec<AddressBucket>,
    service_index: Vec<ServiceBucket>,
    services: Vec<Service>,
    /// Rings take memory once something is in them.
    rings: Vec<Vec<RingLine>>,
    backends: Vec<Backend>,
}

impl Shared {
    /// Empty tables with so many flow sets, a power of two.
    pub fn new(control: Control, flow_sets: u32) -> Self {
        let rows = Rows {
            control,
            interfaces: BTreeMap::new(),
            addresses: vec![AddressBucket::default(); layout::ADDRESS_BUCKETS as usize],
            served: vec![AddressBucket::default(); layout::ADDRESS_BUCKETS as usize],
            service_index: vec![ServiceBucket::default(); layout::SERVICE_BUCKETS as usize],
            services: vec![Service { former_ring: 0, ..Service::default() }; layout::MAX_SERVICES as usize + 1],
            rings: vec![Vec::new(); layout::MAX_RINGS as usize],
            backends: vec![Backend::default(); layout::MAX_BACKENDS as usize + 1],
        };
        let fences = std::iter::repeat_with(AtomicU64::default).take(layout::MAX_ADDRESSES as usize + 1).collect();
        Self {
            rows: RwLock::new(rows),
            fences,
            samples: Arc::default(),
            flows: Flows::new(flow_sets),
            overflows: std::iter::repeat_with(AtomicU8::default).take(flow_sets as usize).collect(),
            counters: Mutex::default(),
        }
    }

    /// The rows, to be read.
    pub fn rows(&self) -> RwLockReadGuard<'_, Rows> {
        self.rows.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The rows, to be written. Rows are plain values: a writer that panicked left each of them whole.
    pub fn rows_mut(&self) -> RwLockWriteGuard<'_, Rows> {
        self.rows.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The words of the flow table.
    pub fn flow_words(&self) -> &[AtomicU64] {
        self.flows.words()
    }

    /// The marks of sets of the flow table.
    pub fn overflows(&self) -> &[AtomicU8] {
        &self.overflows
    }

    /// Counters that no worker writes.
    pub fn free_counters(&self) -> Arc<Counters> {
        let mut all = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        // The list holds one reference; a worker would hold another one.
        if let Some(free) = all.iter().find(|counters| Arc::strong_count(counters) == 1) {
            return free.clone();
        }
        let fresh = Arc::new(Counters::default());
        all.push(fresh.clone());
        fresh
    }

    /// Sums something over all workers.
    pub fn sum<T>(&self, start: T, add: impl Fn(T, &Counters) -> T) -> T {
        let all = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().fold(start, |sum, counters| add(sum, counters))
    }

    /// What one worker forwards by, for one batch.
    pub fn view<'a>(&'a self, rows: &'a Rows, counters: &'a Counters) -> View<'a> {
        View { rows, shared: self, counters, service: Cell::new(0), backend: Cell::new(0) }
    }
}

impl Rows {
    /// Carries out one operation.
    pub fn write(&mut self, op: &MapOp) -> Result<(), EngineError> {
        match op {
            MapOp::Backend { id, value } => *row(&mut self.backends, u32::from(*id), map::BACKENDS)? = *value,
            MapOp::Service { id, value } => *row(&mut self.services, u32::from(*id), map::SERVICES)? = *value,
            MapOp::Ring { ring, lines } => {
                let held = row(&mut self.rings, *ring, map::RINGS)?;
                for (line, value) in lines {
                    if *line >= layout::RING_LINES {
                        return Err(EngineError::Range { name: map::RINGS, row: *line });
                    }
                    if held.len() <= *line as usize {
                        held.resize(*line as usize + 1, RingLine::default());
                    }
                    *row(held, *line, map::RINGS)? = *value;
                }
            }
            MapOp::NewRing { ring, filling } => *row(&mut self.rings, *ring, map::RINGS)? = filling.lines(),
            MapOp::ServiceWord { bucket, way, word } => {
                let bucket = row(&mut self.service_index, *bucket, map::SERVICE_INDEX)?;
                *row(&mut bucket.words, *way, map::SERVICE_INDEX)? = *word;
            }
            MapOp::Address { bucket, way, entry } => {
                let held = row(&mut self.addresses, *bucket, map::ADDRESSES)?;
                *row(&mut held.entries, *way, map::ADDRESSES)? = *entry;
                let served = row(&mut self.served, *bucket, map::ADDRESSES)?;
                let local = entry.flags & AddressEntry::LOCAL != 0;
                *row(&mut served.entries, *way, map::ADDRESSES)? = if local { AddressEntry::default() } else { *entry };
            }
        }
        Ok(())
    }

    /// The entry of a place in the directory of VIPs.
    pub fn address(&self, bucket: u32, way: u32) -> Option<AddressEntry> {
        self.addresses.get(bucket as usize)?.entries.get(way as usize).copied()
    }

    /// All that is in the tables.
    pub fn image(&self) -> Image {
        let mut image =
            Image { addresses: self.addresses.clone(), service_index: self.service_index.clone(), ..Image::default() };
        let ids = |length: usize| (1..length).filter_map(|id| u16::try_from(id).ok());
        for (id, backend) in ids(self.backends.len()).zip(self.backends.iter().skip(1)) {
            if backend.kind != Backend::KIND_NONE {
                image.backends.insert(id, *backend);
            }
        }
        for (id, service) in ids(self.services.len()).zip(self.services.iter().skip(1)) {
            if service.ring_slots == 0 && service.ring == 0 && service.former_ring == 0 {
                continue;
            }
            image.services.insert(id, *service);
            for ring in [service.ring, service.former_ring] {
                if let Some(lines) = self.rings.get(ring as usize) {
                    image.rings.entry(ring).or_insert_with(|| lines.clone());
                }
            }
        }
        image
    }
}

/// The flow table: words whose sets lie each in one cache line.
#[derive(Debug)]
struct Flows {
    memory: Box<[AtomicU64]>,
    first: usize,
    words: usize,
}

impl Flows {
    fn new(sets: u32) -> Self {
        let words = sets as usize * FLOW_WAYS;
        let memory: Box<[AtomicU64]> = std::iter::repeat_with(AtomicU64::default).take(words + FLOW_WAYS - 1).collect();
        let first = memory.as_ptr().align_offset(size_of::<layout::FlowSet>());
        // Where an alignment cannot be had, sets straddle cache lines, which is slower and no fault.
        Self { first: if first < FLOW_WAYS { first } else { 0 }, memory, words }
    }

    fn words(&self) -> &[AtomicU64] {
        self.memory.get(self.first..self.first + self.words).unwrap_or_default()
    }
}

/// The tables as a worker sees them while it holds the rows.
#[derive(Debug)]
pub struct View<'a> {
    rows: &'a Rows,
    shared: &'a Shared,
    counters: &'a Counters,
    /// Who the last packet was counted for, for its sample.
    service: Cell<u16>,
    backend: Cell<u16>,
}

impl View<'_> {
    /// Service and backend that were counted since the last call; 0 = none.
    pub fn take_counted(&self) -> (u16, u16) {
        (self.service.take(), self.backend.take())
    }
}

impl Tables for View<'_> {
    #[inline(always)]
    fn control(&self) -> Option<impl Deref<Target = Control>> {
        Some(&self.rows.control)
    }

    #[inline(always)]
    fn now(&self) -> u64 {
        coarse_ticks()
    }

    #[inline(always)]
    fn address_bucket(&self, index: u32) -> Option<impl Deref<Target = AddressBucket>> {
        self.rows.served.get(index as usize)
    }

    #[inline(always)]
    fn service_bucket(&self, index: u32) -> Option<impl Deref<Target = ServiceBucket>> {
        self.rows.service_index.get(index as usize)
    }

    #[inline(always)]
    fn service(&self, id: u16) -> Option<impl Deref<Target = Service>> {
        self.rows.services.get(usize::from(id))
    }

    #[inline(always)]
    fn ring_slot(&self, ring: u32, slot: u32) -> Option<u16> {
        let line = self.rows.rings.get(ring as usize)?.get((slot / RING_LINE_SLOTS) as usize)?;
        line.slots.get((slot % RING_LINE_SLOTS) as usize).copied()
    }

    #[inline(always)]
    fn backend(&self, id: u16) -> Option<impl Deref<Target = Backend>> {
        self.rows.backends.get(usize::from(id))
    }

    #[inline(always)]
    fn flow_set(&self, index: u32) -> Option<impl FlowPlaces> {
        self.shared.flow_words().as_chunks::<FLOW_WAYS>().0.get(index as usize)
    }

    #[inline(always)]
    fn overflow(&self, set: u32) -> u8 {
        self.shared.overflows.get(set as usize).map_or(0, |mark| mark.load(Ordering::Relaxed))
    }

    #[inline(always)]
    fn mark_overflow(&self, set: u32, mark: u8) -> bool {
        self.shared.overflows.get(set as usize).map(|place| place.store(mark, Ordering::Relaxed)).is_some()
    }

    #[inline(always)]
    fn fence(&self, address: u16) -> u64 {
        self.shared.fences.get(usize::from(address)).map_or(0, |fence| fence.load(Ordering::Relaxed))
    }

    #[inline(always)]
    fn interface(&self, index: u32) -> Option<Interface> {
        self.rows.interfaces.get(&index).copied()
    }

    /// The kernel tells frames of others apart, and the worker knows the address of the bridge.
    #[inline(always)]
    fn port_macs(&self, _row: u32) -> Option<impl Deref<Target = PortMacs>> {
        None::<&PortMacs>
    }

    #[inline(always)]
    fn turn(&self, service: u16) -> u64 {
        self.counters.turn(service)
    }

    #[inline(always)]
    fn count_traffic(&self, service: u16, backend: u16, bytes: usize, selected: bool) {
        self.service.set(service);
        self.backend.set(backend);
        self.counters.traffic(service, backend, bytes, selected);
    }

    #[inline(always)]
    fn count_reason(&self, reason: Reason) {
        self.counters.reason(reason);
    }
}

/// The present by the clock that costs next to nothing; it is up to one tick of the kernel behind, as jiffies are.
#[inline]
pub fn coarse_ticks() -> u64 {
    ticks_of(ClockId::MonotonicCoarse)
}

/// The present.
pub fn ticks() -> u64 {
    ticks_of(ClockId::Monotonic)
}

fn ticks_of(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    time.tv_sec.unsigned_abs() * u64::from(TICKS) + time.tv_nsec.unsigned_abs() / (1_000_000_000 / u64::from(TICKS))
}

fn row<'a, T>(rows: &'a mut [T], index: u32, name: &'static str) -> Result<&'a mut T, EngineError> {
    rows.get_mut(index as usize).ok_or(EngineError::Range { name, row: index })
}
