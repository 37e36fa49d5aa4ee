//! The frame of an XDP program.

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::generated::{bpf_xdp_adjust_head, bpf_xdp_adjust_tail, bpf_xdp_get_buff_len};
use sluicegate_l4::Packet;

/// Offsets of headers are far below this; the verifier wants to see a bound below 64 KiB.
const LARGEST_OFFSET: usize = 0x3fff;

/// The first part of a frame, and, with `FRAGS`, the length of all its parts.
pub struct Frame<const FRAGS: bool> {
    context: *mut xdp_md,
    data: usize,
    end: usize,
}

impl<const FRAGS: bool> Frame<FRAGS> {
    /// The frame of the running program.
    #[inline(always)]
    pub fn new(context: *mut xdp_md) -> Self {
        let mut frame = Self { context, data: 0, end: 0 };
        frame.reload();
        frame
    }

    /// What the helpers want.
    #[inline(always)]
    pub const fn context(&self) -> *mut xdp_md {
        self.context
    }

    /// Pointers are void after each change of the frame's bounds.
    #[inline(always)]
    fn reload(&mut self) {
        // SAFETY: the kernel gives a valid context for as long as the program runs.
        let context = unsafe { &*self.context };
        self.data = context.data as usize;
        self.end = context.data_end as usize;
    }

    #[inline(always)]
    fn place<const N: usize>(&self, offset: usize) -> Option<*mut [u8; N]> {
        if offset > LARGEST_OFFSET {
            return None;
        }
        let place = self.data + offset;
        if place + N > self.end {
            return None;
        }
        Some(place as *mut [u8; N])
    }
}

impl<const FRAGS: bool> Packet for Frame<FRAGS> {
    #[inline(always)]
    fn length(&self) -> usize {
        if FRAGS {
            // SAFETY: the context is valid.
            (unsafe { bpf_xdp_get_buff_len(self.context) }) as usize
        } else {
            self.end - self.data
        }
    }

    #[inline(always)]
    fn apart<R>(&mut self, run: impl FnOnce(&mut Self) -> R) -> R {
        let mut copy = Self { context: self.context, data: self.data, end: self.end };
        let result = run(&mut copy);
        *self = copy;
        result
    }

    #[inline(always)]
    fn ingress(&self) -> u32 {
        // SAFETY: the context is valid.
        unsafe { (*self.context).ingress_ifindex }
    }

    #[inline(always)]
    fn view<const N: usize>(&self, offset: usize) -> Option<&[u8; N]> {
        // SAFETY: `place` checked that all of it lies within the frame, which nobody else writes meanwhile.
        self.place(offset).map(|place| unsafe { &*place.cast_const() })
    }

    #[inline(always)]
    fn view_mut<const N: usize>(&mut self, offset: usize) -> Option<&mut [u8; N]> {
        // SAFETY: as in `view`; the borrow of the frame is unique.
        self.place(offset).map(|place| unsafe { &mut *place })
    }

    #[inline(always)]
    fn move_head(&mut self, by: isize) -> bool {
        // SAFETY: the context is valid; the pointers into the frame are read anew.
        let moved = unsafe { bpf_xdp_adjust_head(self.context, -by as i32) } == 0;
        self.reload();
        moved
    }

    #[inline(always)]
    fn truncate(&mut self, length: usize) -> bool {
        let by = length as i32 - self.length() as i32;
        if by == 0 {
            return true;
        }
        // SAFETY: the context is valid; the pointers into the frame are read anew.
        let cut = unsafe { bpf_xdp_adjust_tail(self.context, by) } == 0;
        self.reload();
        cut
    }
}
