//! One of so many frames, with its verdict, into a ring for `tap`.

use crate::frame::Frame;
use crate::tables::{Maps, SAMPLES, control};
use aya_ebpf::helpers::generated::{bpf_get_prandom_u32, bpf_ktime_get_ns, bpf_xdp_load_bytes};
use aya_ebpf::maps::ring_buf::RingBufEntry;
use sluicegate_l4::Packet;
use sluicegate_l4::layout::SampleHead;
use sluicegate_l4::verdict::Verdict;

/// Bytes of a frame that are kept: all headers.
const CAPTURED: usize = 232;

/// What lies in the ring.
#[repr(C)]
pub struct Sample {
    head: SampleHead,
    frame: [u8; CAPTURED],
}

/// A sample that waits for its verdict.
pub struct Pending(RingBufEntry<Sample>);

/// Takes a sample of the frame as it came in, if it is one of those.
#[inline(always)]
pub fn begin<const FRAGS: bool>(frame: &Frame<FRAGS>) -> Option<Pending> {
    let every = control()?.sample_every;
    if every == 0 {
        return None;
    }
    take(frame, every)
}

#[inline(always)]
fn take<const FRAGS: bool>(frame: &Frame<FRAGS>, every: u32) -> Option<Pending> {
    // SAFETY: the helper has no arguments.
    let chance = unsafe { bpf_get_prandom_u32() };
    if chance.checked_rem(every) != Some(0) {
        return None;
    }
    let length = frame.length();
    let captured = if length < CAPTURED { length } else { CAPTURED };
    let mut entry = SAMPLES.reserve::<Sample>(0)?;
    let sample = entry.as_mut_ptr();
    // SAFETY: all of the reserved place is written before it is submitted. The helper writes `captured` bytes, which is
    // at most the size of the field.
    let loaded = unsafe {
        (*sample).head = SampleHead {
            time: bpf_ktime_get_ns(),
            ifindex: frame.ingress(),
            length: length as u32,
            captured: captured as u16,
            reason: 0,
            backend: 0,
            service: 0,
        };
        (*sample).frame = [0; CAPTURED];
        load(frame, captured, (*sample).frame.as_mut_ptr())
    };
    if !loaded {
        entry.discard(0);
        return None;
    }
    Some(Pending(entry))
}

/// # Safety
/// `to` has room for `CAPTURED` bytes.
#[inline(always)]
unsafe fn load<const FRAGS: bool>(frame: &Frame<FRAGS>, captured: usize, to: *mut u8) -> bool {
    if captured == 0 || captured > CAPTURED {
        return false;
    }
    // SAFETY: the context is valid, and the caller says that there is room.
    unsafe { bpf_xdp_load_bytes(frame.context(), 0, to.cast(), captured as u32) == 0 }
}

impl Pending {
    /// Adds the verdict and lets user space have it.
    #[inline(always)]
    pub fn finish(mut self, verdict: Verdict, maps: &Maps) {
        let sample = self.0.as_mut_ptr();
        // SAFETY: the reserved place was written whole.
        unsafe {
            (*sample).head.reason = verdict.reason() as u16;
            (*sample).head.backend = maps.backend.get();
            (*sample).head.service = maps.service.get();
        }
        self.0.submit(0);
    }
}
