//! The real server's programs: `unwrap` (XDP) takes the director's tunnel off, `clamp` (a classifier at the egress) sizes
//! the clients' segments. They are `sluicegate-dsr` over the kernel's frames and maps, and decide nothing themselves.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(
    target_arch = "bpf",
    allow(unsafe_code, reason = "frames and maps are the kernel's memory; its verifier proves each access")
)]

#[cfg(target_arch = "bpf")]
#[path = "adapter/skb.rs"]
mod skb;
#[cfg(target_arch = "bpf")]
#[path = "adapter/xdp.rs"]
mod xdp;

#[cfg(target_arch = "bpf")]
mod bpf {
    use crate::skb::{Skb, count};
    use crate::xdp::Frame;
    use aya_ebpf::bindings::xdp_action;
    use aya_ebpf::macros::{classifier, map, xdp};
    use aya_ebpf::maps::{Array, HashMap, PerCpuArray};
    use aya_ebpf::programs::{TcContext, XdpContext};
    use sluicegate_dsr::layout::{Bound, HostControl, MAX_BOUND, MAX_DIRECTORS, MAX_ENDPOINTS};
    use sluicegate_dsr::{HostTables, Reason, Verdict};
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
    static HOST_REASONS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Reason::ALL.len() as u32, 0);

    /// Aligned, because the compiler writes it by eight bytes and the verifier wants those aligned on the stack.
    #[repr(C, align(8))]
    struct Key(Address);

    struct Maps;

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
        fn bound(&self, address: &Address) -> Option<Bound> {
            // SAFETY: four bytes, which are read whole; a VIP that is removed meanwhile gives the value before or after.
            BOUND.get_ptr(Key(*address)).map(|bound| unsafe { *bound })
        }
    }

    #[xdp(frags)]
    pub fn unwrap(context: XdpContext) -> u32 {
        let verdict = sluicegate_dsr::unwrap(&mut Frame::new(context), &Maps);
        count(&HOST_REASONS, verdict.reason().index());
        match verdict {
            Verdict::Pass(_) => xdp_action::XDP_PASS,
            Verdict::Drop(_) => xdp_action::XDP_DROP,
        }
    }

    #[classifier]
    pub fn clamp(context: TcContext) -> i32 {
        let reason = sluicegate_dsr::clamp(&mut Skb { context }, &Maps);
        // What is no SYN-ACK is the host's whole traffic, and not worth a memory access a packet.
        if reason != Reason::NotSynAck {
            count(&HOST_REASONS, reason.index());
        }
        TC_ACT_UNSPEC
    }

    /// "As if this program were not there": `TCX_NEXT` for links, and for filters of the classic kind the default way on.
    const TC_ACT_UNSPEC: i32 = -1;

    #[panic_handler]
    fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
        loop {}
    }
}

#[cfg(not(target_arch = "bpf"))]
fn main() {
    eprintln!("backend is a program for the kernel: build it with 'cargo xtask ebpf'");
}
