//! The kernel's socket buffer, as a classifier sees it.

use aya_ebpf::bindings::bpf_adj_room_mode::BPF_ADJ_ROOM_NET;
use aya_ebpf::bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR};
use aya_ebpf::helpers::{bpf_csum_diff, bpf_csum_update, bpf_skb_adjust_room, bpf_skb_change_head};
use aya_ebpf::programs::TcContext;
use sluicegate_dsr::{Change, StackFrame};
use sluicegate_l4::Packet;

/// A frame that leaves, or one that came in. Only its linear part is seen: there the stack builds all headers, and there
/// headers of what came in are pulled to.
pub struct Skb {
    /// The kernel's `__sk_buff`.
    pub context: TcContext,
}

impl Packet for Skb {
    #[inline(always)]
    fn length(&self) -> usize {
        self.context.len() as usize
    }

    /// Index of the interface that it leaves by, or came in on.
    #[inline(always)]
    fn ingress(&self) -> u32 {
        // SAFETY: the context is the kernel's `__sk_buff`.
        unsafe { (*self.context.skb.skb).ifindex }
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
        // SAFETY: the bounds were checked above; nobody else has the buffer, since the kernel unshares it before a
        // program that writes.
        Some(unsafe { &mut *(start as *mut [u8; N]) })
    }

    /// Grows in front. What it loses is taken from behind the IP header, so who shrinks a frame writes link and IP header
    /// anew, which is what moving its head comes to.
    #[inline(always)]
    fn move_head(&mut self, by: isize) -> bool {
        let frame = self.context.skb.skb;
        // SAFETY: the context is the kernel's; views that were lent before are gone, as `self` is borrowed alone.
        unsafe {
            if by > 0 {
                bpf_skb_change_head(frame, by as u32, 0) == 0
            } else {
                bpf_skb_adjust_room(frame, by as i32, BPF_ADJ_ROOM_NET, 0) == 0
            }
        }
    }

    /// Never: nothing that leaves is cut.
    #[inline(always)]
    fn truncate(&mut self, _length: usize) -> bool {
        false
    }
}

/// By the kernel, which knows whether the card is still to complete the checksum: then only what is to be in it is written.
/// All is written by its helpers: a program that writes by itself makes the kernel copy the headers of all that it only looks
/// at and that is not its alone.
impl StackFrame for Skb {
    #[inline(always)]
    fn replace(&mut self, at: usize, bytes: [u8; 2], checksum: usize, from: u16, to: u16) -> bool {
        let (from, to) = (u64::from(from.to_be()), u64::from(to.to_be()));
        self.context.l4_csum_replace(checksum, from, to, 2).is_ok() && self.context.store(at, &bytes, 0).is_ok()
    }

    #[inline(always)]
    fn write<const N: usize>(&mut self, at: usize, bytes: [u8; N]) -> bool {
        self.context.store(at, &bytes, 0).is_ok()
    }

    #[inline(always)]
    fn make_up(&mut self, change: &Change) -> bool {
        let optional = if change.optional { u64::from(BPF_F_MARK_MANGLED_0) } else { 0 };
        let pseudo = u64::from(BPF_F_PSEUDO_HDR) | optional;
        let at = change.checksum;
        let addresses = if change.ipv6 {
            let (mut from, mut to) = (change.from, change.to);
            // SAFETY: two addresses on the stack, of which 16 bytes are read.
            let difference = unsafe { bpf_csum_diff(from.as_mut_ptr(), 16, to.as_mut_ptr(), 16, 0) };
            let replaced = self.context.l4_csum_replace(at, 0, difference as u32 as u64, pseudo);
            // Where the card has summed the frame, that makes up for the addresses as if a header checksum covered them, which
            // IPv6 does not have. This takes it back; else it fails, and is to. SAFETY: the kernel's context.
            let _not_summed = unsafe { bpf_csum_update(self.context.skb.skb, difference as u32) };
            replaced
        } else {
            self.context.l4_csum_replace(at, change.from[3].into(), change.to[3].into(), pseudo | 4)
        };
        let (from, to) = (u64::from(change.from_port.to_be()), u64::from(change.to_port.to_be()));
        addresses.is_ok() && self.context.l4_csum_replace(at, from, to, optional | 2).is_ok()
    }
}

/// Adds one to a counter of this CPU.
#[inline(always)]
pub fn count(counters: &aya_ebpf::maps::PerCpuArray<u64>, index: u32) {
    if let Some(counter) = counters.get_ptr_mut(index) {
        // SAFETY: the value is this CPU's own, and programs are not interrupted by each other on one CPU.
        unsafe { *counter += 1 };
    }
}
