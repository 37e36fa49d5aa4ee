//! The host's own TCP, as an XDP program can ask it, and the flows of its pods.

use crate::tables::Maps;
use aya_ebpf::bindings::{BPF_F_CURRENT_NETNS, bpf_sock_tuple, xdp_md};
use aya_ebpf::helpers::generated::{bpf_sk_release, bpf_skc_lookup_tcp, bpf_tcp_check_syncookie};
use core::mem::zeroed;
use sluicegate_dsr::hand_over::{Segment, Socket, Sockets};
use sluicegate_dsr::pod;

/// `TCP_LISTEN` of `bpf.h`.
const LISTEN: u32 = 10;
/// Bytes of the tuple that the helper reads.
const TUPLE4: u32 = 12;
const TUPLE6: u32 = 36;
const IP4: usize = 20;
const IP6: usize = 40;
const TCP: usize = 20;

/// Sockets of the network namespace that the frame came into.
pub struct HostSockets(pub *mut xdp_md);

impl Sockets for HostSockets {
    #[inline(always)]
    fn find(&self, segment: &Segment) -> Socket {
        if pod::knows(segment, &Maps) {
            return Socket::Connection;
        }
        // SAFETY: integers alone.
        let mut tuple: bpf_sock_tuple = unsafe { zeroed() };
        let [a, b, c, d, ..] = segment.header;
        let (source_port, port) = (u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d]));
        let size = if segment.ipv6 {
            // SAFETY: a variant of a union of integers is written.
            let ends = unsafe { &mut tuple.__bindgen_anon_1.ipv6 };
            (ends.saddr, ends.daddr) = (segment.source, segment.destination);
            (ends.sport, ends.dport) = (source_port, port);
            TUPLE6
        } else {
            // SAFETY: as above.
            let ends = unsafe { &mut tuple.__bindgen_anon_1.ipv4 };
            (ends.saddr, ends.daddr) = (segment.source[3], segment.destination[3]);
            (ends.sport, ends.dport) = (source_port, port);
            TUPLE4
        };
        let here = i64::from(BPF_F_CURRENT_NETNS) as u64;
        // SAFETY: the context is the kernel's, the tuple is whole. What is found is given back below, on every way.
        let socket = unsafe { bpf_skc_lookup_tcp(self.0.cast(), &raw mut tuple, size, here, 0) };
        if socket.is_null() {
            return Socket::None;
        }
        // SAFETY: a socket of any kind (also a request, or one in TIME-WAIT) has a state.
        let state = unsafe { (&raw const (*socket).state).read_volatile() };
        let found = if state != LISTEN {
            Socket::Connection
        } else if answers_cookie(socket.cast(), segment) {
            Socket::Cookie
        } else {
            Socket::Listener
        };
        // SAFETY: found above, and not used any more.
        unsafe { bpf_sk_release(socket.cast()) };
        found
    }
}

/// Asks the listener whether the segment acknowledges a cookie of his. The kernel wants to see the headers, of which it reads
/// addresses, ports and numbers: options, which it has no use for, are left out.
#[inline(always)]
fn answers_cookie(listener: *mut core::ffi::c_void, segment: &Segment) -> bool {
    let mut tcp = segment.header;
    tcp[12] = (TCP as u8 / 4) << 4;
    let words = |address: [u32; 4]| address.map(u32::to_ne_bytes);
    let mut ip = [0; IP6];
    let length = if segment.ipv6 {
        ip[0] = 0x60;
        for (place, word) in ip[8..24].as_chunks_mut::<4>().0.iter_mut().zip(words(segment.source)) {
            *place = word;
        }
        for (place, word) in ip[24..].as_chunks_mut::<4>().0.iter_mut().zip(words(segment.destination)) {
            *place = word;
        }
        IP6
    } else {
        ip[0] = 0x45;
        [ip[12], ip[13], ip[14], ip[15]] = segment.source[3].to_ne_bytes();
        [ip[16], ip[17], ip[18], ip[19]] = segment.destination[3].to_ne_bytes();
        IP4
    };
    let (ip, tcp) = (ip.as_mut_ptr().cast(), tcp.as_mut_ptr().cast());
    // SAFETY: a socket that is held, and headers of these lengths on the stack.
    unsafe { bpf_tcp_check_syncookie(listener, ip, length as u32, tcp, TCP as u32) == 0 }
}
