//! The real server's tables, as maps of the kernel.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;
use aya_ebpf::macros::map;
use aya_ebpf::maps::lpm_trie::{Key as Prefix, LpmTrie};
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray};
use core::ops::Deref;
use sluicegate_dsr::HostTables;
use sluicegate_dsr::layout::{
    Bound, FlowKey, HostControl, MAX_BOUND, MAX_DIRECTORS, MAX_ENDPOINTS, MAX_PEERS, MAX_POD_PARTS, MAX_POD_PORTS,
    MAX_PODS, Part, PartKey, Pod, PodPort, PodPortKey, PodRef, REASON_COUNTERS, Reply,
};
use sluicegate_dsr::pod::PodTables;
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
static POD_FLOWS: LruHashMap<FlowKey, PodRef> = LruHashMap::with_max_entries(1, 0);
#[map]
static POD_REPLIES: LruHashMap<FlowKey, Reply> = LruHashMap::with_max_entries(1, 0);
#[map]
static POD_PARTS: LruHashMap<PartKey, Part> = LruHashMap::with_max_entries(MAX_POD_PARTS, 0);

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
struct Lent(*const PodPort);

impl Deref for Lent {
    type Target = PodPort;

    #[inline(always)]
    fn deref(&self) -> &PodPort {
        // SAFETY: a row of a map that was found, of plain numbers; who changes it puts another one in its place.
        unsafe { &*self.0 }
    }
}

impl PodTables for Maps {
    #[inline(always)]
    fn now(&self) -> u32 {
        // SAFETY: no arguments.
        (unsafe { bpf_ktime_get_coarse_ns() } >> 30) as u32
    }

    #[inline(always)]
    fn port(&self, key: &PodPortKey) -> Option<impl Deref<Target = PodPort>> {
        POD_PORTS.get_ptr(key).map(Lent)
    }

    #[inline(always)]
    fn pod(&self, id: u16) -> Option<Pod> {
        PODS.get(u32::from(id)).copied()
    }

    #[inline(always)]
    fn flow(&self, key: &FlowKey) -> Option<PodRef> {
        // SAFETY: plain numbers; a row that is recycled meanwhile is of another flow, and its pod's answers show it.
        POD_FLOWS.get_ptr(key).map(|found| unsafe { *found })
    }

    #[inline(always)]
    fn remember_flow(&self, key: &FlowKey, pod: PodRef) -> bool {
        POD_FLOWS.insert(key, pod, 0).is_ok()
    }

    #[inline(always)]
    fn reply(&self, key: &FlowKey) -> Option<Reply> {
        // SAFETY: as above.
        POD_REPLIES.get_ptr(key).map(|found| unsafe { *found })
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
    fn part(&self, key: &PartKey) -> Option<Part> {
        // SAFETY: as above.
        POD_PARTS.get_ptr(key).map(|found| unsafe { *found })
    }

    #[inline(always)]
    fn remember_part(&self, key: &PartKey, part: &Part) -> bool {
        POD_PARTS.insert(key, part, 0).is_ok()
    }
}
