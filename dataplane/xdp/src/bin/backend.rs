//! The real server's programs: `unwrap` (XDP) takes the director's tunnel off, or `unwrap_skb` (a classifier at the ingress)
//! where XDP is another one's; `to_pod` (a classifier at the ingress) and `clamp` (at the egress) deliver into pods and take
//! their answers out, and `clamp` sizes the clients' segments; `hand_over` (a classifier at
//! the ingress) sends to another real server what `unwrap` says: only there the kernel finds a next hop without being a
//! router, and waits until it answers. They are `sluicegate-dsr` over the kernel's frames and maps, and decide nothing
//! themselves.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(
    target_arch = "bpf",
    allow(unsafe_code, reason = "frames and maps are the kernel's memory; its verifier proves each access")
)]

#[cfg(target_arch = "bpf")]
#[path = "backend/carried.rs"]
mod carried;
#[cfg(target_arch = "bpf")]
#[path = "adapter/received.rs"]
mod received;
#[cfg(target_arch = "bpf")]
#[path = "adapter/skb.rs"]
mod skb;
#[cfg(target_arch = "bpf")]
#[path = "backend/sockets.rs"]
mod sockets;
#[cfg(target_arch = "bpf")]
#[path = "backend/tables.rs"]
mod tables;
#[cfg(target_arch = "bpf")]
#[path = "adapter/xdp.rs"]
mod xdp;

#[cfg(target_arch = "bpf")]
mod bpf {
    use crate::carried::Carried;
    use crate::received::Received;
    use crate::skb::{Skb, count};
    use crate::sockets::HostSockets;
    use crate::tables::{HOST_REASONS, Maps};
    use crate::xdp::Frame;
    use aya_ebpf::bindings::{__sk_buff, BPF_F_INGRESS, TC_ACT_SHOT, xdp_action, xdp_md};
    use aya_ebpf::helpers::generated::{bpf_redirect, bpf_redirect_neigh, bpf_xdp_adjust_meta};
    use aya_ebpf::macros::{classifier, xdp};
    use aya_ebpf::programs::{TcContext, XdpContext};
    use sluicegate_dsr::hand_over::{Segment, Socket, Sockets};
    use sluicegate_dsr::pod::{self, Step};
    use sluicegate_dsr::{Reason, Verdict};
    use sluicegate_l4::Packet;

    /// In front of what is to be handed over. Nobody but programs of this host writes there, so nothing that comes from the
    /// network can pretend to have been judged.
    const HANDED_OVER: u32 = 0x5347_484f;

    #[xdp(frags)]
    pub fn unwrap(context: XdpContext) -> u32 {
        let frame = context.ctx;
        let mut verdict = sluicegate_dsr::unwrap(&mut Frame::new(context), &Maps, &HostSockets(frame));
        if matches!(verdict, Verdict::HandOver(_)) && mark(frame).is_none() {
            verdict = Verdict::Drop(Reason::NoRoom);
        }
        count(&HOST_REASONS, verdict.reason().index());
        match verdict {
            Verdict::Pass(_) | Verdict::HandOver(_) => xdp_action::XDP_PASS,
            Verdict::Drop(_) => xdp_action::XDP_DROP,
        }
    }

    /// Leaves word for `hand_over`. Drivers that keep no room for it make it fail.
    #[inline(always)]
    fn mark(frame: *mut xdp_md) -> Option<()> {
        // SAFETY: the kernel's context; what was lent of the frame before is gone.
        unsafe {
            if bpf_xdp_adjust_meta(frame, -(NOTE as i32)) != 0 {
                return None;
            }
            let place = (&raw const (*frame).data_meta).read_volatile() as usize;
            if place + NOTE > (&raw const (*frame).data).read_volatile() as usize {
                return None;
            }
            (place as *mut [u32; 5]).write([0, 0, 0, 0, HANDED_OVER]);
        }
        Some(())
    }

    /// Bytes in front of the frame; the last four are [`HANDED_OVER`].
    ///
    /// There are more because of the kernel's generic XDP: it may copy the frame into a buffer that has forgotten how long its
    /// link header is (`mac_len`), and then shows the classifier what begins with the IP header.
    const NOTE: usize = 20;
    const LINK: usize = 14;

    /// What the classifier sees of the note.
    enum Note {
        None,
        /// Directly in front of the frame.
        Frame,
        /// In front of the link header, which is not shown.
        Packet,
    }

    #[inline(always)]
    fn note(context: &TcContext) -> Note {
        let frame = context.skb.skb;
        // SAFETY: the kernel's `__sk_buff`; what lies in front of the frame is read within the bounds that it gives.
        unsafe {
            let place = (&raw const (*frame).data_meta).read_volatile() as usize;
            if place + NOTE > (&raw const (*frame).data).read_volatile() as usize {
                return Note::None;
            }
            let word = |at: usize| ((place + at) as *const [u8; 4]).read_unaligned();
            if word(NOTE - 4) == HANDED_OVER.to_ne_bytes() {
                Note::Frame
            } else if word(NOTE - 4 - LINK) == HANDED_OVER.to_ne_bytes() {
                Note::Packet
            } else {
                Note::None
            }
        }
    }

    /// Puts a link header in front of a packet that is shown without. Its addresses are written when the next hop is known.
    #[inline(always)]
    fn show_link(skb: &mut Skb) -> Option<()> {
        let version = skb.view::<20>(0)?[0] >> 4;
        let ethertype: u16 = if version == 4 { 0x0800 } else { 0x86dd };
        if !skb.move_head(LINK as isize) {
            return None;
        }
        *skb.view_mut::<2>(LINK - 2)? = ethertype.to_be_bytes();
        Some(())
    }

    #[classifier]
    pub fn hand_over(context: TcContext) -> i32 {
        let note = note(&context);
        if matches!(note, Note::None) {
            return TC_ACT_UNSPEC;
        }
        let frame = context.skb.skb;
        // What is too short for it is found too short.
        let _ = context.pull_data(HEADERS);
        let mut skb = Skb { context };
        if matches!(note, Note::Packet) && show_link(&mut skb).is_none() {
            count(&HOST_REASONS, Reason::NoRoom.index());
            return TC_ACT_SHOT;
        }
        match sluicegate_dsr::hand_over::readdress(&mut skb) {
            // SAFETY: the context is valid. Without a next hop, the helper finds it by the packet's destination.
            Verdict::HandOver(_) => unsafe { bpf_redirect_neigh((*frame).ifindex, core::ptr::null_mut(), 0, 0) as i32 },
            verdict => {
                count(&HOST_REASONS, verdict.reason().index());
                TC_ACT_SHOT
            }
        }
    }

    /// Ethernet, two tags, IPv6, UDP, GUE with a former owner.
    const HEADERS: u32 = 14 + 8 + 40 + 8 + sluicegate_l4::gue::FORMER6 as u32;

    /// Behind XDP there is no second chance: every flow counts as known here.
    struct EveryFlow;

    impl Sockets for EveryFlow {
        #[inline(always)]
        fn find(&self, _: &Segment) -> Socket {
            Socket::Connection
        }
    }

    #[classifier]
    pub fn unwrap_skb(context: TcContext) -> i32 {
        let verdict = sluicegate_dsr::unwrap(&mut Received::new(context), &Maps, &EveryFlow);
        count(&HOST_REASONS, verdict.reason().index());
        match verdict {
            Verdict::Pass(_) | Verdict::HandOver(_) => TC_ACT_UNSPEC,
            Verdict::Drop(_) => TC_ACT_SHOT,
        }
    }

    /// Headers of what may be for a pod: Ethernet, and an ICMPv6 error that quotes a packet with extension headers.
    const INWARD: u32 = 14 + 40 + 8 + 40 + 24 + 20;
    /// Where the least of them lies of what the host's own stack sends; it builds all of them there.
    const OUTWARD: u32 = 14 + 20 + 20;

    /// Of `linux/if_packet.h`.
    const PACKET_OTHERHOST: u32 = 3;

    #[classifier]
    pub fn to_pod(context: TcContext) -> i32 {
        let frame = context.skb.skb;
        // SAFETY: the context is the kernel's `__sk_buff`.
        let is_others = unsafe { (*frame).pkt_type } == PACKET_OTHERHOST;
        let mut carried = Carried::new(context, INWARD);
        // For another machine: a switch floods. The stack drops it, but the flow would have been taken.
        if is_others && !pod::stays_inside(&carried) {
            return TC_ACT_UNSPEC;
        }
        let delivery = pod::to_pod(&mut carried, &Maps);
        // What is for no pod is the host's whole traffic.
        if delivery.reason != Reason::NotPods {
            count(&HOST_REASONS, delivery.reason.index());
        }
        match delivery.step {
            Step::Pass => TC_ACT_UNSPEC,
            Step::Drop => TC_ACT_SHOT,
            Step::Turn => come_in_by(frame, delivery.interface),
        }
    }

    /// Lets a packet go on as if it had come in by this interface: also without a mark, which is for the way that it came.
    #[inline(always)]
    fn come_in_by(frame: *mut __sk_buff, interface: u32) -> i32 {
        // SAFETY: the kernel's context, which lets programs write the mark.
        unsafe {
            (&raw mut (*frame).mark).write_volatile(0);
            bpf_redirect(interface, u64::from(BPF_F_INGRESS)) as i32
        }
    }

    /// What leaves: a pod's answer gets its VIP, and then a VIP's SYN-ACK, whoever's it is, the MSS of its tunnel.
    #[classifier]
    pub fn clamp(context: TcContext) -> i32 {
        let frame = context.skb.skb;
        let mut skb = Carried::new(context, OUTWARD);
        let delivery = pod::from_pod(&mut skb, &Maps);
        if delivery.reason != Reason::NotPods {
            count(&HOST_REASONS, delivery.reason.index());
        }
        if delivery.step == Step::Drop {
            return TC_ACT_SHOT;
        }
        let reason = sluicegate_dsr::clamp(&mut skb, &Maps);
        // What is no SYN-ACK is the host's whole traffic, and not worth a memory access a packet.
        if reason != Reason::NotSynAck {
            count(&HOST_REASONS, reason.index());
        }
        match delivery.step {
            Step::Turn => come_in_by(frame, delivery.interface),
            Step::Pass | Step::Drop => TC_ACT_UNSPEC,
        }
    }

    /// "As if this program were not there": `TCX_NEXT` for links, and for filters of the classic kind the default way on.
    const TC_ACT_UNSPEC: i32 = -1;

    #[panic_handler]
    fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
        loop {}
    }
}

#[cfg(not(target_arch = "bpf"))]
fn main() {
    eprintln!("backend is a program for the kernel: build it with 'cargo xtask ebpf'");
}
