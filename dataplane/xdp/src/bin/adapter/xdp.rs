//! A frame as the driver received it.

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::{bpf_xdp_adjust_head, bpf_xdp_get_buff_len};
use aya_ebpf::programs::XdpContext;
use sluicegate_l4::Packet;

/// A frame, of one or several parts; what is read and written lies in the first one.
pub struct Frame {
    context: XdpContext,
}

impl Frame {
    pub fn new(context: XdpContext) -> Self {
        Self { context }
    }
}

impl Packet for Frame {
    #[inline(always)]
    fn length(&self) -> usize {
        // SAFETY: the context is the one that the kernel passed.
        unsafe { bpf_xdp_get_buff_len(self.context.as_ptr().cast()) as usize }
    }

    #[inline(always)]
    fn ingress(&self) -> u32 {
        self.context.ingress_ifindex() as u32
    }

    #[inline(always)]
    fn view<const N: usize>(&self, offset: usize) -> Option<&[u8; N]> {
        let start = self.context.data() + (offset & 0x7ff);
        if start + N > self.context.data_end() {
            return None;
        }
        // SAFETY: the bounds were checked above, and bytes have no alignment.
        Some(unsafe { &*(start as *const [u8; N]) })
    }

    #[inline(always)]
    fn view_mut<const N: usize>(&mut self, offset: usize) -> Option<&mut [u8; N]> {
        let start = self.context.data() + (offset & 0x7ff);
        if start + N > self.context.data_end() {
            return None;
        }
        // SAFETY: the bounds were checked above, and the frame belongs to the program while it runs.
        Some(unsafe { &mut *(start as *mut [u8; N]) })
    }

    #[inline(always)]
    fn move_head(&mut self, by: isize) -> bool {
        // SAFETY: the context is the kernel's; views that were lent before are gone, as `self` is borrowed alone.
        unsafe { bpf_xdp_adjust_head(self.context.as_ptr().cast(), -(by as i32)) == 0 }
    }

    /// Never: the stack cuts a frame to what the inner header says.
    #[inline(always)]
    fn truncate(&mut self, _length: usize) -> bool {
        false
    }
}
