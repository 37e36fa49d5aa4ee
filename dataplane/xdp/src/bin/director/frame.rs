//! The frame of an XDP program.

use core::arch::asm;
use core::hint::assert_unchecked;
use core::ptr::{self, NonNull};

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::generated::{bpf_xdp_adjust_head, bpf_xdp_adjust_tail, bpf_xdp_get_buff_len};
use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use sluicegate_l4::Packet;

/// Offsets of headers are far below this; the verifier wants to see a bound below 64 KiB.
const LARGEST_OFFSET: usize = 0x3fff;

#[map]
static OPAQUE: PerCpuArray<usize> = PerCpuArray::with_max_entries(1, 0);

/// The first part of a frame, and, with `FRAGS`, the length of all its parts.
pub struct Frame<const FRAGS: bool> {
    context: *mut xdp_md,
    data: *mut u8,
    end: *mut u8,
}

impl<const FRAGS: bool> Frame<FRAGS> {
    /// The frame of the running program.
    #[inline(always)]
    pub fn new(context: *mut xdp_md) -> Self {
        let mut frame = Self { context, data: ptr::null_mut(), end: ptr::null_mut() };
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
        let context = self.context;
        self.data = unsafe { (&raw const (*context).data).read_volatile() } as usize as *mut u8;
        self.end = unsafe { (&raw const (*context).data_end).read_volatile() } as usize as *mut u8;
    }

    #[inline(always)]
    fn place<const N: usize>(&self, offset: usize) -> Option<NonNull<[u8; N]>> {
        if offset > LARGEST_OFFSET {
            return None;
        }
        let mut place = self.data.wrapping_add(offset);
        // SAFETY: no instruction. Behind it the compiler knows nothing of the pointer, so that check and access are by one
        // register, as the verifier wants it, and alignments of different views are not compared.
        unsafe { asm!("/* {0} */", inout(reg) place, options(nomem, nostack, preserves_flags)) };
        if place.wrapping_add(N) > self.end {
            return None;
        }
        // SAFETY: a place within the frame is not null. Its alignment is claimed for the sake of the code: a header in a
        // frame is aligned to two bytes, but eBPF loads and stores packets at any address where the machine can, which the
        // verifier checks; without the claim each field would be moved byte by byte.
        unsafe {
            assert_unchecked(place.addr() & 7 == 0);
            Some(NonNull::new_unchecked(place.cast()))
        }
    }
}

impl<const FRAGS: bool> Packet for Frame<FRAGS> {
    #[inline(always)]
    fn length(&self) -> usize {
        if FRAGS {
            // SAFETY: the context is valid.
            (unsafe { bpf_xdp_get_buff_len(self.context) }) as usize
        } else {
            self.end as usize - self.data as usize
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
    fn opaque(&self, value: usize) -> usize {
        let Some(place) = OPAQUE.get_ptr_mut(0) else {
            return 0;
        };
        // SAFETY: this CPU's own row. The verifier does not follow what lies in maps.
        unsafe {
            place.write_volatile(value);
            place.read_volatile()
        }
    }

    #[inline(always)]
    fn meet(&mut self) {
        self.reload();
    }

    #[inline(always)]
    fn ingress(&self) -> u32 {
        // SAFETY: the context is valid.
        unsafe { (*self.context).ingress_ifindex }
    }

    #[inline(always)]
    fn view<const N: usize>(&self, offset: usize) -> Option<&[u8; N]> {
        // SAFETY: `place` checked that all of it lies within the frame, which nobody else writes meanwhile.
        self.place(offset).map(|place| unsafe { place.as_ref() })
    }

    #[inline(always)]
    fn view_mut<const N: usize>(&mut self, offset: usize) -> Option<&mut [u8; N]> {
        // SAFETY: as in `view`; the borrow of the frame is unique.
        self.place(offset).map(|mut place| unsafe { place.as_mut() })
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
