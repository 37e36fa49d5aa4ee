//! One of so many frames, with its verdict, into a ring for `tap`.
//!
//! The frame is kept as it came in, in a place of the CPU, until there is a verdict: what the verifier need not follow
//! through the packet path does not multiply its ways.

use crate::frame::Frame;
use crate::tables::{Maps, SAMPLES};
use aya_ebpf::helpers::generated::{bpf_get_prandom_u32, bpf_ktime_get_ns, bpf_xdp_load_bytes};
use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use sluicegate_l4::Packet;
use sluicegate_l4::layout::{Control, SampleHead};
use sluicegate_l4::verdict::Verdict;

/// Bytes of a frame that are kept: all headers.
const CAPTURED: usize = 232;

/// What lies in the ring; of `frame` the head says how much.
#[repr(C)]
pub struct Sample {
    head: SampleHead,
    frame: [u8; CAPTURED],
}

#[map]
static SAMPLE: PerCpuArray<Sample> = PerCpuArray::with_max_entries(1, 0);

/// Takes a sample of the frame as it came in, if it is one of those.
#[inline(always)]
pub fn begin<const FRAGS: bool>(control: &Control, frame: &Frame<FRAGS>) {
    if control.sample_every != 0 {
        take(control.sample_every, frame.context(), frame.length(), frame.ingress());
    }
}

#[inline(never)]
fn take(every: u32, context: *mut aya_ebpf::bindings::xdp_md, length: usize, ingress: u32) {
    let Some(sample) = SAMPLE.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: this CPU's own row; the helper writes at most the size of the field.
    unsafe {
        (*sample).head.captured = 0;
        if bpf_get_prandom_u32().checked_rem(every) != Some(0) {
            return;
        }
        let captured = length.min(CAPTURED) as u32;
        if captured == 0 || bpf_xdp_load_bytes(context, 0, (*sample).frame.as_mut_ptr().cast(), captured) != 0 {
            return;
        }
        (*sample).head = SampleHead {
            time: bpf_ktime_get_ns(),
            ifindex: ingress,
            length: length as u32,
            captured: captured as u16,
            reason: 0,
            backend: 0,
            service: 0,
        };
    }
}

/// Adds the verdict and lets user space have it.
#[inline(always)]
pub fn finish(control: &Control, verdict: Verdict, maps: &Maps) {
    if control.sample_every != 0 {
        give(verdict.reason() as u16, maps.backend.get(), maps.service.get());
    }
}

#[inline(never)]
fn give(reason: u16, backend: u16, service: u16) {
    let Some(sample) = SAMPLE.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: this CPU's own row.
    let sample = unsafe { &mut *sample };
    if sample.head.captured == 0 {
        return;
    }
    sample.head.reason = reason;
    sample.head.backend = backend;
    sample.head.service = service;
    // A full ring loses the sample: nobody reads it.
    let _ = SAMPLES.output::<Sample>(&*sample, 0);
}
