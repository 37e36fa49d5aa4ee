//! The maps, as the tables of the packet path. Names and rows: `sluicegate_l4::layout`.

use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::helpers::generated::bpf_jiffies64;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, DevMapHash, HashMap, PerCpuArray, RingBuf};
use core::cell::Cell;
use core::hint::assert_unchecked;
use core::ops::Deref;
use core::ptr;
use sluicegate_l4::layout::{
    ADDRESS_BUCKETS, AddressBucket, Backend, Control, FLOW_SETS, FLOW_WAYS, FlowSet, Interface, MAX_ADDRESSES,
    MAX_BACKENDS, MAX_RINGS, MAX_SERVICES, OVERFLOW_LINE_SETS, OverflowLine, PortMacs, RING_LINE_SLOTS, RING_LINES,
    RingLine, SERVICE_BUCKETS, Service, ServiceBucket, Traffic,
};
use sluicegate_l4::verdict::Reason;
use sluicegate_l4::{FlowPlaces, Tables};

/// Counters for reasons, with room for later ones.
const REASON_COUNTERS: u32 = 64;
/// Ports that the program can be attached to, or send out of.
const PORTS: u32 = 256;
const SAMPLE_BYTES: u32 = 1 << 20;

#[map]
static CONTROL: Array<Control> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
static ADDRESSES: Array<AddressBucket> = Array::with_max_entries(ADDRESS_BUCKETS, BPF_F_MMAPABLE);
#[map]
static FENCES: Array<u64> = Array::with_max_entries(MAX_ADDRESSES + 1, BPF_F_MMAPABLE);
#[map]
static SERVICE_INDEX: Array<ServiceBucket> = Array::with_max_entries(SERVICE_BUCKETS, BPF_F_MMAPABLE);
#[map]
static SERVICES: Array<Service> = Array::with_max_entries(MAX_SERVICES + 1, BPF_F_MMAPABLE);
#[map]
static RINGS: Array<RingLine> = Array::with_max_entries(MAX_RINGS * RING_LINES, BPF_F_MMAPABLE);
#[map]
static BACKENDS: Array<Backend> = Array::with_max_entries(MAX_BACKENDS + 1, BPF_F_MMAPABLE);
/// The loader may make it larger or smaller: `Control::flow_mask` says how many sets are used.
#[map]
static FLOWS: Array<FlowSet> = Array::with_max_entries(FLOW_SETS, BPF_F_MMAPABLE);
/// The loader makes it as large as `FLOWS` wants it.
#[map]
static OVERFLOWS: Array<OverflowLine> = Array::with_max_entries(FLOW_SETS / OVERFLOW_LINE_SETS, BPF_F_MMAPABLE);
#[map]
static INTERFACES: HashMap<u32, Interface> = HashMap::with_max_entries(PORTS, 0);
#[map]
static MACS: Array<PortMacs> = Array::with_max_entries(PortMacs::ROWS, BPF_F_MMAPABLE);
#[map]
static EGRESS: DevMapHash = DevMapHash::with_max_entries(PORTS, 0);
#[map]
static REASONS: PerCpuArray<u64> = PerCpuArray::with_max_entries(REASON_COUNTERS, 0);
#[map]
static SERVICE_TRAFFIC: PerCpuArray<Traffic> = PerCpuArray::with_max_entries(MAX_SERVICES + 1, 0);
#[map]
static BACKEND_TRAFFIC: PerCpuArray<Traffic> = PerCpuArray::with_max_entries(MAX_BACKENDS + 1, 0);
#[map]
static TURNS: PerCpuArray<u64> = PerCpuArray::with_max_entries(MAX_SERVICES + 1, 0);
#[map]
pub static SAMPLES: RingBuf = RingBuf::with_byte_size(SAMPLE_BYTES, 0);
/// Jiffies at the last run of `clock`.
#[map]
static CLOCK: Array<u64> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Sends the frame out of another port.
#[inline(always)]
pub fn redirect(port: u32) -> Option<u32> {
    EGRESS.redirect(port, 0).ok()
}

/// Jiffies of this moment: one load, after the verifier has inlined the helper.
#[inline(always)]
pub fn jiffies() -> u64 {
    // SAFETY: the helper has no arguments.
    unsafe { bpf_jiffies64() }
}

/// Leaves the jiffies where user space reads them.
#[inline(always)]
pub fn write_clock() {
    if let Some(clock) = CLOCK.get_ptr_mut(0) {
        // SAFETY: a row of the map; nobody else writes it.
        unsafe { *clock = jiffies() };
    }
}

/// The switches.
#[inline(always)]
pub fn control() -> Option<&'static Control> {
    CONTROL.get(0)
}

/// The words of one set of flows. (Atomic operations of Rust are not to be had here before the fourth instruction set;
/// aligned words are loaded and stored whole by every CPU that this runs on.)
struct Places(*mut u64);

impl FlowPlaces for Places {
    #[inline(always)]
    fn load(&self, way: usize) -> u64 {
        if way >= FLOW_WAYS {
            return 0;
        }
        // SAFETY: one of the eight aligned words of a row.
        unsafe { self.0.add(way).read_volatile() }
    }

    #[inline(always)]
    fn store(&self, way: usize, word: u64) {
        if way < FLOW_WAYS {
            // SAFETY: one of the eight aligned words of a row.
            unsafe { self.0.add(way).write_volatile(word) }
        }
    }
}

/// Where the mark of a set of flows is.
#[inline(always)]
fn overflow_mark(set: u32) -> Option<*mut u8> {
    let line = OVERFLOWS.get_ptr_mut(set / OVERFLOW_LINE_SETS)?;
    Some(line.cast::<u8>().wrapping_add((set % OVERFLOW_LINE_SETS) as usize))
}

/// The maps, and what was last counted, for samples.
pub struct Maps {
    pub service: Cell<u16>,
    pub backend: Cell<u16>,
}

impl Maps {
    #[inline(always)]
    pub const fn new() -> Self {
        Self { service: Cell::new(0), backend: Cell::new(0) }
    }
}

impl Tables for Maps {
    #[inline(always)]
    fn control(&self) -> Option<impl Deref<Target = Control>> {
        control()
    }

    #[inline(always)]
    fn now(&self) -> u64 {
        jiffies()
    }

    #[inline(always)]
    fn address_bucket(&self, index: u32) -> Option<impl Deref<Target = AddressBucket>> {
        ADDRESSES.get(index)
    }

    #[inline(always)]
    fn service_bucket(&self, index: u32) -> Option<impl Deref<Target = ServiceBucket>> {
        SERVICE_INDEX.get(index)
    }

    #[inline(always)]
    fn service(&self, id: u16) -> Option<impl Deref<Target = Service>> {
        SERVICES.get(u32::from(id))
    }

    #[inline(always)]
    fn ring_slot(&self, ring: u32, slot: u32) -> Option<u16> {
        let line = RINGS.get(ring.wrapping_mul(RING_LINES).wrapping_add(slot / RING_LINE_SLOTS))?;
        line.slots.get((slot % RING_LINE_SLOTS) as usize).copied()
    }

    #[inline(always)]
    fn backend(&self, id: u16) -> Option<impl Deref<Target = Backend>> {
        let row = BACKENDS.get(u32::from(id))?;
        // SAFETY: rows follow one another from the beginning of a page on, and a row is 128 bytes. Without the claim the head
        // would be read byte by byte.
        unsafe { assert_unchecked(ptr::from_ref(row).addr() & 7 == 0) };
        Some(row)
    }

    #[inline(always)]
    fn flow_set(&self, index: u32) -> Option<impl FlowPlaces> {
        FLOWS.get_ptr_mut(index).map(|set| Places(set.cast()))
    }

    #[inline(always)]
    fn overflow(&self, set: u32) -> u8 {
        // SAFETY: a byte of a row, which CPUs read and write whole.
        overflow_mark(set).map_or(0, |mark| unsafe { mark.read_volatile() })
    }

    #[inline(always)]
    fn mark_overflow(&self, set: u32, mark: u8) -> bool {
        let Some(place) = overflow_mark(set) else {
            return false;
        };
        // SAFETY: as above.
        unsafe { place.write_volatile(mark) };
        true
    }

    #[inline(always)]
    fn fence(&self, address: u16) -> u64 {
        FENCES.get(u32::from(address)).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn interface(&self, index: u32) -> Option<Interface> {
        // SAFETY: entries are written whole and not removed while the program is attached to the port.
        unsafe { INTERFACES.get(index) }.copied()
    }

    #[inline(always)]
    fn port_macs(&self, row: u32) -> Option<impl Deref<Target = PortMacs>> {
        MACS.get(row)
    }

    #[inline(always)]
    fn turn(&self, service: u16) -> u64 {
        let Some(turn) = TURNS.get_ptr_mut(u32::from(service)) else {
            return 0;
        };
        // SAFETY: this CPU's own row, and no program interrupts another one on it.
        unsafe {
            let present = *turn;
            *turn = present.wrapping_add(1);
            present
        }
    }

    #[inline(always)]
    fn count_traffic(&self, service: u16, backend: u16, bytes: usize, selected: bool) {
        self.service.set(service);
        self.backend.set(backend);
        add(SERVICE_TRAFFIC.get_ptr_mut(u32::from(service)), bytes, selected);
        add(BACKEND_TRAFFIC.get_ptr_mut(u32::from(backend)), bytes, selected);
    }

    #[inline(always)]
    fn count_reason(&self, reason: Reason) {
        if let Some(counter) = REASONS.get_ptr_mut(reason.index()) {
            // SAFETY: this CPU's own row.
            unsafe { *counter = (*counter).wrapping_add(1) };
        }
    }
}

#[inline(always)]
fn add(traffic: Option<*mut Traffic>, bytes: usize, selected: bool) {
    let Some(traffic) = traffic else {
        return;
    };
    // SAFETY: this CPU's own row.
    let traffic = unsafe { &mut *traffic };
    traffic.packets = traffic.packets.wrapping_add(1);
    traffic.bytes = traffic.bytes.wrapping_add(bytes as u64);
    if selected {
        traffic.flows = traffic.flows.wrapping_add(1);
    }
}
