//! The director's program for its own packets: `probe` (a classifier at the egress) sends health probes the packets' way.
//! It is `sluicegate-dsr` over the kernel's buffers and the forwarder's table of backends, and decides nothing itself.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(
    target_arch = "bpf",
    allow(unsafe_code, reason = "frames and maps are the kernel's memory; its verifier proves each access")
)]

#[cfg(target_arch = "bpf")]
#[path = "adapter/skb.rs"]
mod skb;

#[cfg(target_arch = "bpf")]
mod bpf {
    use crate::skb::{Skb, count};
    use aya_ebpf::bindings::TC_ACT_SHOT;
    use aya_ebpf::helpers::bpf_redirect;
    use aya_ebpf::macros::{classifier, map};
    use aya_ebpf::maps::{Array, PerCpuArray};
    use aya_ebpf::programs::TcContext;
    use sluicegate_dsr::{ProbeVerdict, Reason};
    use sluicegate_l4::layout::{Backend, MAX_BACKENDS};

    /// The forwarder's, pinned by it.
    #[map]
    static BACKENDS: Array<Backend> = Array::with_max_entries(MAX_BACKENDS + 1, 0);
    #[map]
    static PROBE_REASONS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Reason::ALL.len() as u32, 0);

    /// "As if this program were not there": `TCX_NEXT` for links, and for filters of the classic kind the default way on.
    const TC_ACT_UNSPEC: i32 = -1;

    #[classifier]
    pub fn probe(context: TcContext) -> i32 {
        // SAFETY: the context is the one that the kernel passed.
        let mark = unsafe { (*context.skb.skb).mark };
        let mut skb = Skb { context };
        match sluicegate_dsr::probe(&mut skb, mark, |id| BACKENDS.get(u32::from(id))) {
            ProbeVerdict::Untouched => TC_ACT_UNSPEC,
            ProbeVerdict::Stay(reason) => {
                count(&PROBE_REASONS, reason.index());
                TC_ACT_UNSPEC
            }
            ProbeVerdict::Redirect(reason, interface) => {
                count(&PROBE_REASONS, reason.index());
                skb.context.set_mark(0);
                // SAFETY: a helper without pointers.
                unsafe { bpf_redirect(interface, 0) as i32 }
            }
            ProbeVerdict::Drop(reason) => {
                count(&PROBE_REASONS, reason.index());
                TC_ACT_SHOT
            }
        }
    }

    #[panic_handler]
    fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
        loop {}
    }
}

#[cfg(not(target_arch = "bpf"))]
fn main() {
    eprintln!("egress is a program for the kernel: build it with 'cargo xtask ebpf'");
}
