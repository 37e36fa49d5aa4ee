//! The director in XDP: the packet path of `sluicegate-l4` over the kernel's frame and maps. It decides nothing itself.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(
    target_arch = "bpf",
    allow(unsafe_code, reason = "frames and maps are the kernel's memory; its verifier proves each access")
)]

#[cfg(target_arch = "bpf")]
mod bpf {
    use aya_ebpf::bindings::xdp_action;
    use aya_ebpf::macros::xdp;
    use aya_ebpf::programs::XdpContext;

    #[xdp]
    pub fn director(_context: XdpContext) -> u32 {
        xdp_action::XDP_PASS
    }

    #[panic_handler]
    fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
        loop {}
    }
}

#[cfg(not(target_arch = "bpf"))]
fn main() {
    eprintln!("director is a program for the kernel: build it with 'cargo xtask ebpf'");
}
