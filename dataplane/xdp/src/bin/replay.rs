//! Puts the next packet in front of a program that is timed: `BPF_PROG_TEST_RUN` repeats a run on what the one before
//! left, so each run first takes away what that one pushed and writes the headers of the next flow. It judges nothing.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(
    target_arch = "bpf",
    allow(unsafe_code, reason = "frames and maps are the kernel's memory; its verifier proves each access")
)]

#[cfg(target_arch = "bpf")]
mod bpf {
    use aya_ebpf::EbpfContext;
    use aya_ebpf::bindings::xdp_action;
    use aya_ebpf::helpers::{bpf_xdp_adjust_head, bpf_xdp_adjust_tail};
    use aya_ebpf::macros::{map, xdp};
    use aya_ebpf::maps::{Array, ProgramArray};
    use aya_ebpf::programs::XdpContext;
    use sluicegate_xdp::replay::{HEAD_BYTES, Script};

    #[map]
    static SCRIPT: Array<Script> = Array::with_max_entries(1, 0);
    #[map]
    static TURN: Array<u64> = Array::with_max_entries(1, 0);
    #[map]
    static NEXT: ProgramArray = ProgramArray::with_max_entries(1, 0);

    /// Ethernet, IPv4, TCP.
    const HEAD4: usize = 54;
    /// Ethernet, IPv6, TCP.
    const HEAD6: usize = 74;

    /// Number of the first flow of a flood: above all those of a template.
    const FLOOD: u64 = 1 << 26;
    /// The flags of a TCP segment that opens a connection; they stand 7 bytes before the end of its header.
    const SYN: u8 = 0x02;

    #[xdp]
    pub fn replay4(context: XdpContext) -> u32 {
        replay::<HEAD4>(context)
    }

    #[xdp]
    pub fn replay6(context: XdpContext) -> u32 {
        replay::<HEAD6>(context)
    }

    #[inline(always)]
    fn replay<const HEAD: usize>(context: XdpContext) -> u32 {
        if prepare::<HEAD>(&context).is_some() {
            // SAFETY: it holds no resource that a call which does not return would leak.
            unsafe { NEXT.tail_call(&context, 0) };
        }
        xdp_action::XDP_ABORTED
    }

    #[inline(always)]
    fn prepare<const HEAD: usize>(context: &XdpContext) -> Option<()> {
        let script = SCRIPT.get(0)?;
        let turn = TURN.get_ptr_mut(0)?;
        if script.pushed != 0 && context.data_end() - context.data() != script.length as usize {
            // SAFETY: the context is the one that the kernel passed.
            let moved = unsafe { bpf_xdp_adjust_head(context.as_ptr().cast(), script.pushed as i32) };
            let length = context.data_end() - context.data();
            let missing = script.length as i32 - length as i32;
            // SAFETY: as above.
            if moved != 0 || (missing != 0 && unsafe { bpf_xdp_adjust_tail(context.as_ptr().cast(), missing) } != 0) {
                return None;
            }
        }
        // SAFETY: the map's value; runs follow one another on one CPU.
        let number = unsafe {
            let number = *turn;
            *turn = number + 1;
            number
        };
        let (flow, opens) = match u64::from(script.flood) {
            0 => (number & script.flow_mask, false),
            every if number % every == 0 => (number / every & script.flow_mask, false),
            // No flow of the template's has such a number.
            _ => (number + FLOOD, true),
        };
        if context.data() + HEAD > context.data_end() {
            return None;
        }
        let head = context.data() as *mut [u8; HEAD];
        // SAFETY: the bounds were checked above.
        let head = unsafe { &mut *head };
        const { assert!(HEAD <= HEAD_BYTES) };
        let (template, _) = script.head.split_first_chunk::<HEAD>()?;
        *head = *template;
        if opens {
            head[HEAD - 7] = SYN;
        }
        if script.vary == 0 {
            return Some(());
        }
        // A bijection of the flow's number: 24 bits of address, the rest and a scrambled part in the port.
        let scattered = (flow as u32).wrapping_mul(0x9e37_79b1) & 0x00ff_ffff;
        let port = 1024 + (((flow as u32).wrapping_mul(40_503) >> 3) as u16 & 0x7fff) + ((flow >> 24) as u16 & 0x3fff);
        if HEAD == HEAD4 {
            let source = 0x0a00_0000 | scattered;
            head[26..30].copy_from_slice(&source.to_be_bytes());
            head[34..36].copy_from_slice(&port.to_be_bytes());
            let mut sum = script.checksum + (source >> 16) + (source & 0xffff);
            sum = (sum & 0xffff) + (sum >> 16);
            sum = (sum & 0xffff) + (sum >> 16);
            head[24..26].copy_from_slice(&(!sum as u16).to_be_bytes());
        } else {
            head[34..38].copy_from_slice(&scattered.to_be_bytes());
            head[54..56].copy_from_slice(&port.to_be_bytes());
        }
        Some(())
    }

    /// The floor of what pushes nothing.
    #[xdp]
    pub fn floor_0(_context: XdpContext) -> u32 {
        xdp_action::XDP_TX
    }

    /// The floor of IPIP: what the push itself costs.
    #[xdp]
    pub fn floor_20(context: XdpContext) -> u32 {
        push(&context, 20)
    }

    /// The floor of GUE over IPv4, and of ICMP errors.
    #[xdp]
    pub fn floor_28(context: XdpContext) -> u32 {
        push(&context, 28)
    }

    /// The floor of a tunnel over IPv6.
    #[xdp]
    pub fn floor_40(context: XdpContext) -> u32 {
        push(&context, 40)
    }

    #[inline(always)]
    fn push(context: &XdpContext, bytes: i32) -> u32 {
        // SAFETY: the context is the one that the kernel passed.
        match unsafe { bpf_xdp_adjust_head(context.as_ptr().cast(), -bytes) } {
            0 => xdp_action::XDP_TX,
            _ => xdp_action::XDP_ABORTED,
        }
    }

    #[panic_handler]
    fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
        loop {}
    }
}

#[cfg(not(target_arch = "bpf"))]
fn main() {
    eprintln!("replay is a program for the kernel: build it with 'cargo xtask ebpf'");
}
