//! The kernel's socket buffer, as a classifier at the ingress sees it.

use crate::skb::Skb;
use aya_ebpf::bindings::{BPF_F_ADJ_ROOM_DECAP_L3_IPV4, BPF_F_ADJ_ROOM_DECAP_L3_IPV6};
use aya_ebpf::helpers::{bpf_skb_adjust_room, bpf_skb_pull_data};
use aya_ebpf::programs::TcContext;
use sluicegate_l4::Packet;

/// Behind an Ethernet header; the kernel has taken VLAN tags out.
const ETHERNET: usize = 14;
/// `BPF_ADJ_ROOM_MAC`: room is taken away behind the Ethernet header.
const BEHIND_ETHERNET: u32 = 1;
/// Ethernet, and the longest tunnel: IPv6, UDP, GUE with an option, then the inner IPv6 header.
const HEADERS: u32 = 14 + 40 + 8 + 16 + 40;

/// A frame that came in.
pub struct Received(Skb);

impl Received {
    /// Its headers are made to lie in the linear part, where a card may have put less.
    #[inline(always)]
    pub fn new(context: TcContext) -> Self {
        let wanted = context.len().min(HEADERS);
        if context.data_end() - context.data() < wanted as usize {
            // Where there is no memory the headers are not seen, and the packet is none of ours. SAFETY: the context is
            // the kernel's, and nothing of the frame is borrowed yet.
            unsafe { bpf_skb_pull_data(context.skb.skb, wanted) };
        }
        Self(Skb { context })
    }
}

impl Packet for Received {
    #[inline(always)]
    fn length(&self) -> usize {
        self.0.length()
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

    /// Only shrinks: nothing that comes in is wrapped. The Ethernet header stays in front, and the kernel learns which
    /// IP follows, by which it goes on; checksums that the card has verified count as not verified.
    #[inline(always)]
    fn move_head(&mut self, by: isize) -> bool {
        if !(-1024..0).contains(&by) {
            return false;
        }
        // By the helper: what the compiler folds into the offset here is more than the verifier follows.
        let Ok(inner) = self.0.context.load::<u8>(ETHERNET + -by as usize) else { return false };
        let is_ipv6 = inner >> 4 == 6;
        let skb = self.0.context.skb.skb;
        // SAFETY: the context is the kernel's `__sk_buff`.
        let outer_is_ipv6 = unsafe { (*skb).protocol } == u32::from(0x86dd_u16.to_be());
        // Kernels before 6.3 know no flag, and need none where outer and inner are the same.
        let flags = match (is_ipv6, outer_is_ipv6) {
            (true, false) => u64::from(BPF_F_ADJ_ROOM_DECAP_L3_IPV6),
            (false, true) => u64::from(BPF_F_ADJ_ROOM_DECAP_L3_IPV4),
            _ => 0,
        };
        // SAFETY: the context is the kernel's; views that were lent before are gone, as `self` is borrowed alone.
        unsafe { bpf_skb_adjust_room(skb, by as i32, BEHIND_ETHERNET, flags) == 0 }
    }

    /// Never: the stack cuts a packet to what its header says.
    #[inline(always)]
    fn truncate(&mut self, _length: usize) -> bool {
        false
    }
}
