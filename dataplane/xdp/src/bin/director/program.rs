//! The programs.

use crate::frame::Frame;
use crate::sample;
use crate::tables::{self, Maps};
use aya_ebpf::bindings::xdp_action;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use sluicegate_l4::layout::Control;
use sluicegate_l4::verdict::Verdict;

#[xdp]
#[inline(always)]
pub fn director(context: XdpContext) -> u32 {
    run::<false>(context)
}

#[xdp(frags)]
#[inline(always)]
pub fn director_frags(context: XdpContext) -> u32 {
    run::<true>(context)
}

#[xdp]
pub fn clock(_: XdpContext) -> u32 {
    tables::write_clock();
    xdp_action::XDP_PASS
}

#[inline(always)]
fn run<const FRAGS: bool>(context: XdpContext) -> u32 {
    let mut frame = Frame::<FRAGS>::new(context.ctx);
    let maps = Maps::new();
    // The one row of an array is always there.
    let Some(control) = tables::control() else {
        return xdp_action::XDP_PASS;
    };
    sample::begin(control, &frame);
    // Two ends: what the first half found stays in registers.
    match sluicegate_l4::forward_known(&mut frame, &maps, control) {
        Some(verdict) => finish(control, &maps, verdict),
        None => {
            let verdict = sluicegate_l4::forward_any(&mut frame, &maps, control);
            finish(control, &maps, verdict)
        }
    }
}

#[inline(always)]
fn finish(control: &Control, maps: &Maps, verdict: Verdict) -> u32 {
    sample::finish(control, verdict, maps);
    match verdict {
        Verdict::Pass(_) => xdp_action::XDP_PASS,
        Verdict::Drop(_) => xdp_action::XDP_DROP,
        Verdict::Transmit(_) => xdp_action::XDP_TX,
        // A port that is not in the map has gone: what was meant for it is lost, as on a link that is down.
        Verdict::Redirect(_, port) => tables::redirect(port).unwrap_or(xdp_action::XDP_DROP),
    }
}

/// Never reached: the packet path has no panic. The verifier would not accept the endless loop otherwise.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
