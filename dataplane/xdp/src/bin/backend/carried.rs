//! The kernel's socket buffer with a packet to a pod, or from one.

use crate::skb::Skb;
use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use aya_ebpf::programs::TcContext;
use sluicegate_dsr::{Change, StackFrame};
use sluicegate_l4::Packet;

#[map]
static OPAQUE: PerCpuArray<usize> = PerCpuArray::with_max_entries(1, 0);

/// A frame that came in, or one that leaves. It keeps its size.
pub struct Carried(Skb);

impl Carried {
    /// The first `headers` bytes are made to lie in the linear part, where a card may have put less.
    #[inline(always)]
    pub fn new(context: TcContext, headers: u32) -> Self {
        let wanted = context.len().min(headers);
        if context.data_end() - context.data() < wanted as usize {
            // Where there is no memory they are not seen, and the packet is none of ours.
            let _ = context.pull_data(wanted);
        }
        Self(Skb { context })
    }
}

impl Packet for Carried {
    #[inline(always)]
    fn length(&self) -> usize {
        self.0.length()
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
    fn ingress(&self) -> u32 {
        self.0.ingress()
    }

    #[inline(always)]
    fn view<const N: usize>(&self, offset: usize) -> Option<&[u8; N]> {
        self.0.view(offset)
    }

    #[inline(always)]
    fn view_mut<const N: usize>(&mut self, offset: usize) -> Option<&mut [u8; N]> {
        self.0.view_mut(offset)
    }

    #[inline(always)]
    fn move_head(&mut self, _by: isize) -> bool {
        false
    }

    #[inline(always)]
    fn truncate(&mut self, _length: usize) -> bool {
        false
    }
}

impl StackFrame for Carried {
    #[inline(always)]
    fn replace(&mut self, at: usize, bytes: [u8; 2], checksum: usize, from: u16, to: u16) -> bool {
        self.0.replace(at, bytes, checksum, from, to)
    }

    #[inline(always)]
    fn write<const N: usize>(&mut self, at: usize, bytes: [u8; N]) -> bool {
        self.0.write(at, bytes)
    }

    #[inline(always)]
    fn make_up(&mut self, change: &Change) -> bool {
        self.0.make_up(change)
    }
}
