//! The real server's tables, as maps of the kernel.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;
use aya_ebpf::macros::map;
use aya_ebpf::maps::lpm_trie::{Key as Prefix, LpmTrie};
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray};
use core::ops::{Deref, DerefMut};
use sluicegate_dsr::HostTables;
use sluicegate_dsr::layout::{
    Bound, Flow, FlowKey, HostControl, MAX_BOUND, MAX_DIRECTORS, MAX_ENDPOINTS, MAX_PEERS, MAX_POD_PARTS,
    MAX_POD_PORTS, MAX_PODS, Part, PartKey, Pod, PodPort, PodPortKey, REASON_COUNTERS, Reply,
};
use sluicegate_dsr::pod::{PodTables, Scratch};
use sluicegate_l4::layout::Address;

#[map]
static HOST: Array<HostControl> = Array::with_max_entries(1, 0);
#[map]
static DIRECTORS: HashMap<Key, u32> = HashMap::with_max_entries(MAX_DIRECTORS, 0);
#[map]
static ENDPOINTS: HashMap<Key, u32> = HashMap::with_max_entries(MAX_ENDPOINTS, 0);
#[map]
static BOUND: HashMap<Key, Bound> = HashMap::with_max_entries(MAX_BOUND, 0);
#[map]
pub static HOST_REASONS: PerCpuArray<u64> = PerCpuArray::with_max_entries(REASON_COUNTERS, 0);
#[map]
static PEERS: LpmTrie<Address, u32> = LpmTrie::with_max_entries(MAX_PEERS, 0);
/// Rows are large, and most hosts have few.
#[map]
static POD_PORTS: HashMap<PodPortKey, PodPort> = HashMap::with_max_entries(MAX_POD_PORTS, BPF_F_NO_PREALLOC);
#[map]
static PODS: Array<Pod> = Array::with_max_entries(MAX_PODS, 0);
/// How many entries the next two have is said by who loads them.
#[map]
static POD_FLOWS: LruHashMap<FlowKey, Flow> = LruHashMap::with_max_entries(1, 0);
#[map]
static POD_REPLIES: LruHashMap<FlowKey, Reply> = LruHashMap::with_max_entries(1, 0);
#[map]
static POD_PARTS: LruHashMap<PartKey, Part> = LruHashMap::with_max_entries(MAX_POD_PARTS, 0);

#[map]
static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// Aligned, because the compiler writes it by eight bytes and the verifier wants those aligned on the stack.
#[repr(C, align(8))]
struct Key(Address);

/// All of them.
pub struct Maps;

impl HostTables for Maps {
    #[inline(always)]
    fn control(&self) -> HostControl {
        HOST.get(0).copied().unwrap_or_default()
    }

    #[inline(always)]
    fn is_endpoint(&self, address: &Address) -> bool {
        ENDPOINTS.get_ptr(Key(*address)).is_some()
    }

    #[inline(always)]
    fn is_director(&self, address: &Address) -> bool {
        DIRECTORS.get_ptr(Key(*address)).is_some()
    }

    #[inline(always)]
    fn is_peer(&self, address: &Address) -> bool {
        PEERS.get(Prefix::new(128, *address)).is_some()
    }

    #[inline(always)]
    fn bound(&self, address: &Address) -> Option<Bound> {
        // SAFETY: four bytes, which are read whole; a VIP that is removed meanwhile gives the value before or after.
        BOUND.get_ptr(Key(*address)).map(|bound| unsafe { *bound })
    }
}

/// A row that is lent. The kernel frees none of them while a program runs.
struct Lent<T>(*const T);

impl<T> Deref for Lent<T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: a row of a map that was found, of plain numbers; whatever it is changed to meanwhile is one of its type.
        unsafe { &*self.0 }
    }
}

/// This CPU's notes. No classifier interrupts another one on its CPU.
struct Noted(*mut Scratch);

impl Deref for Noted {
    type Target = Scratch;

    #[inline(always)]
    fn deref(&self) -> &Scratch {
        // SAFETY: a row of a map, which the kernel begins with 0 (of all its fields a value), used by one program at a time.
        unsafe { &*self.0 }
    }
}

impl DerefMut for Noted {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut Scratch {
        // SAFETY: as above, and borrowed alone.
        unsafe { &mut *self.0 }
    }
}

impl PodTables for Maps {
    #[inline(always)]
    fn scratch(&self) -> Option<impl DerefMut<Target = Scratch>> {
        SCRATCH.get_ptr_mut(0).map(Noted)
    }

    #[inline(always)]
    fn now(&self) -> u32 {
        // SAFETY: no arguments.
        (unsafe { bpf_ktime_get_coarse_ns() } >> 30) as u32
    }

    #[inline(always)]
    fn port<'a>(&'a self, key: &PodPortKey) -> Option<impl Deref<Target = PodPort> + use<'a>> {
        POD_PORTS.get_ptr(key).map(Lent)
    }

    #[inline(always)]
    fn pod(&self, id: u16) -> Option<impl Deref<Target = Pod>> {
        PODS.get_ptr(u32::from(id)).map(Lent)
    }

    #[inline(always)]
    fn flow<'a>(&'a self, key: &FlowKey) -> Option<impl Deref<Target = Flow> + use<'a>> {
        POD_FLOWS.get_ptr(key).map(Lent)
    }

    #[inline(always)]
    fn remember_flow(&self, key: &FlowKey, flow: &Flow) -> bool {
        POD_FLOWS.insert(key, flow, 0).is_ok()
    }

    #[inline(always)]
    fn reply<'a>(&'a self, key: &FlowKey) -> Option<impl Deref<Target = Reply> + use<'a>> {
        POD_REPLIES.get_ptr(key).map(Lent)
    }

    #[inline(always)]
    fn remember_reply(&self, key: &FlowKey, reply: &Reply) -> bool {
        POD_REPLIES.insert(key, reply, 0).is_ok()
    }

    #[inline(always)]
    fn mark_reply(&self, key: &FlowKey, seen: u32, ends: u32) {
        if let Some(reply) = POD_REPLIES.get_ptr_mut(key) {
            // SAFETY: two aligned words, each written whole.
            unsafe {
                (&raw mut (*reply).seen).write_volatile(seen);
                (&raw mut (*reply).ends).write_volatile(ends);
            }
        }
    }

    #[inline(always)]
    fn part<'a>(&'a self, key: &PartKey) -> Option<impl Deref<Target = Part> + use<'a>> {
        POD_PARTS.get_ptr(key).map(Lent)
    }

    #[inline(always)]
    fn remember_part(&self, key: &PartKey, part: &Part) -> bool {
        POD_PARTS.insert(key, part, 0).is_ok()
    }
}
