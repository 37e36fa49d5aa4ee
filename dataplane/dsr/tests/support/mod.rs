//! Frames, tables and cases that the tests in user space and those in the kernel share.
#![allow(dead_code, reason = "each test binary uses a part")]

pub mod pods;

use sluicegate_dsr::hand_over::{Segment, Socket, Sockets};
use sluicegate_dsr::layout::{Bound, HostControl};
use sluicegate_dsr::{Change, HostTables, Reason, StackFrame, Verdict};
use sluicegate_l4::Packet;
use sluicegate_l4::checksum::update;
use sluicegate_l4::layout::{Address, Backend, GUE_PORT};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

pub const VIP4: &str = "192.0.2.10";
pub const VIP6: &str = "2001:db8::10";
pub const CLIENT4: &str = "198.51.100.7";
pub const CLIENT6: &str = "2001:db8:1::7";
pub const DIRECTOR4: &str = "203.0.113.1";
pub const DIRECTOR6: &str = "2001:db8:2::1";
pub const HOST4: &str = "203.0.113.20";
pub const HOST6: &str = "2001:db8:2::20";
pub const STRANGER4: &str = "203.0.113.99";
pub const PEER4: &str = "203.0.113.21";
pub const PEER6: &str = "2001:db8:2::21";
pub const MTU: u16 = 1452;

/// A frame in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame(pub Vec<u8>);

impl Packet for Frame {
    fn length(&self) -> usize {
        self.0.len()
    }

    fn ingress(&self) -> u32 {
        1
    }

    fn view<const N: usize>(&self, offset: usize) -> Option<&[u8; N]> {
        self.0.get(offset..)?.first_chunk()
    }

    fn view_mut<const N: usize>(&mut self, offset: usize) -> Option<&mut [u8; N]> {
        self.0.get_mut(offset..)?.first_chunk_mut()
    }

    /// As the kernel: an Ethernet header stays, and room in front is bounded.
    fn move_head(&mut self, by: isize) -> bool {
        match usize::try_from(by) {
            Ok(grow) if grow <= 192 => drop(self.0.splice(0..0, std::iter::repeat_n(0, grow))),
            Err(_) if by.unsigned_abs() + 14 <= self.0.len() => drop(self.0.drain(..by.unsigned_abs())),
            _ => return false,
        }
        true
    }

    fn truncate(&mut self, length: usize) -> bool {
        self.0.truncate(length);
        true
    }
}

impl StackFrame for Frame {
    fn replace(&mut self, at: usize, bytes: [u8; 2], checksum: usize, from: u16, to: u16) -> bool {
        let Some(field) = self.view_mut::<2>(checksum) else { return false };
        *field = update(u16::from_be_bytes(*field), from, to).to_be_bytes();
        self.view_mut::<2>(at).map(|value| *value = bytes).is_some()
    }

    fn write<const N: usize>(&mut self, at: usize, bytes: [u8; N]) -> bool {
        self.view_mut::<N>(at).map(|place| *place = bytes).is_some()
    }

    /// As the kernel, for a checksum that is complete.
    fn make_up(&mut self, change: &Change) -> bool {
        let Some(field) = self.view_mut::<2>(change.checksum) else { return false };
        let mut sum = u16::from_be_bytes(*field);
        if change.optional && sum == 0 {
            return true;
        }
        let mut words = vec![(change.from_port, change.to_port)];
        for (from, to) in change.from.iter().zip(change.to) {
            let (from, to) = (u32::from_be(*from), u32::from_be(to));
            words.extend([((from >> 16) as u16, (to >> 16) as u16), (from as u16, to as u16)]);
        }
        for (from, to) in words {
            // The kernel never comes to the other zero.
            sum = update(sum, from, to) % 0xffff;
        }
        *field = if change.optional && sum == 0 { [0xff; 2] } else { sum.to_be_bytes() };
        true
    }
}

/// The same answer for every segment.
pub struct Always(pub Socket);

impl Sockets for Always {
    fn find(&self, _segment: &Segment) -> Socket {
        self.0
    }
}

/// Tables in memory.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    pub control: HostControl,
    pub endpoints: BTreeSet<Address>,
    pub directors: BTreeSet<Address>,
    pub peers: BTreeSet<Address>,
    pub bound: BTreeMap<Address, Bound>,
}

impl Tables {
    /// The host of the cases: one director, one peer and one VIP of each family.
    pub fn of_host() -> Self {
        let bound = Bound { tunnel_mtu: MTU, flags: 0 };
        Self {
            control: HostControl::default(),
            endpoints: [HOST4, HOST6].map(address).into(),
            directors: [DIRECTOR4, DIRECTOR6].map(address).into(),
            // All hosts are given the same peers, so each finds itself among them.
            peers: [PEER4, PEER6, HOST4, HOST6].map(address).into(),
            bound: [VIP4, VIP6].map(|vip| (address(vip), bound)).into(),
        }
    }
}

impl HostTables for Tables {
    fn control(&self) -> HostControl {
        self.control
    }

    fn is_endpoint(&self, address: &Address) -> bool {
        self.endpoints.contains(address)
    }

    fn is_director(&self, address: &Address) -> bool {
        self.directors.contains(address)
    }

    fn is_peer(&self, address: &Address) -> bool {
        self.peers.contains(address)
    }

    fn bound(&self, address: &Address) -> Option<Bound> {
        self.bound.get(address).copied()
    }
}

pub fn address(text: &str) -> Address {
    let octets = match text.parse().expect("an address") {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    };
    std::array::from_fn(|word| {
        let octet = |i| octets[4 * word + i];
        u32::from_ne_bytes([octet(0), octet(1), octet(2), octet(3)])
    })
}

/// Internet checksum the slow way, over the whole.
pub fn checksum(parts: &[&[u8]]) -> u16 {
    let bytes: Vec<u8> = parts.concat();
    let words = bytes.chunks(2).map(|word| u64::from(word[0]) << 8 | word.get(1).map_or(0, |low| u64::from(*low)));
    let mut sum: u64 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded")
}

fn octets(text: &str) -> Vec<u8> {
    match text.parse().expect("an address") {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// An Ethernet header with VLAN tags; the type is that of the IP version in the payload's first nibble.
pub fn frame(tags: &[u16], payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0, 0, 0x20, 2, 0, 0, 0, 0, 1];
    for (i, tag) in tags.iter().enumerate() {
        bytes.extend(if i + 1 < tags.len() { [0x88, 0xa8] } else { [0x81, 0x00] });
        bytes.extend(tag.to_be_bytes());
    }
    bytes.extend(if payload[0] >> 4 == 6 { [0x86, 0xdd] } else { [0x08, 0x00] });
    bytes.extend(payload);
    bytes
}

pub fn ip(source: &str, destination: &str, protocol: u8, class: u8, payload: &[u8]) -> Vec<u8> {
    ip_with(source, destination, protocol, class, &[], payload)
}

/// An IP packet; `options` only with IPv4, a multiple of 4 bytes.
pub fn ip_with(source: &str, destination: &str, protocol: u8, class: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let length = |n: usize| u16::try_from(n).expect("short").to_be_bytes();
    let mut header = if source.contains(':') {
        let mut header = vec![0x60 | class >> 4, class << 4, 0, 0];
        header.extend(length(payload.len()));
        header.extend([protocol, 64]);
        header
    } else {
        let words = u8::try_from(5 + options.len() / 4).expect("few");
        let mut header = vec![0x40 | words, class];
        header.extend(length(20 + options.len() + payload.len()));
        header.extend([0x12, 0x34, 0x40, 0, 64, protocol, 0, 0]);
        header
    };
    header.extend(octets(source));
    header.extend(octets(destination));
    if header[0] >> 4 == 4 {
        header.extend(options);
        let sum = checksum(&[&header]).to_be_bytes();
        header[10..12].copy_from_slice(&sum);
    }
    header.extend(payload);
    header
}

/// A TCP segment with a right checksum.
pub fn tcp(source: &str, destination: &str, flags: u8, options: &[u8], data: &[u8]) -> Vec<u8> {
    let words = u8::try_from(5 + options.len() / 4).expect("few");
    let mut segment = vec![0x9c, 0x40, 0, 80, 1, 2, 3, 4, 5, 6, 7, 8, words << 4, flags, 0xff, 0xff, 0, 0, 0, 0];
    segment.extend(options);
    segment.extend(data);
    let sum = tcp_checksum(source, destination, &segment).to_be_bytes();
    segment[16..18].copy_from_slice(&sum);
    segment
}

/// 0 if the segment's checksum is right; what belongs into a field that holds 0.
pub fn tcp_checksum(source: &str, destination: &str, segment: &[u8]) -> u16 {
    let length = u16::try_from(segment.len()).expect("short").to_be_bytes();
    checksum(&[&octets(source), &octets(destination), &[0, 6], &length, segment])
}

pub fn gue(variant0: Option<(u8, u8, usize)>, payload: &[u8]) -> Vec<u8> {
    let mut header = Vec::new();
    if let Some((first, protocol, words)) = variant0 {
        header.extend([first | u8::try_from(words).expect("few"), protocol, 0, 0]);
        header.extend(vec![0xaa; 4 * words]);
    }
    let mut datagram = vec![0xc1, 0x23];
    datagram.extend(GUE_PORT.to_be_bytes());
    datagram.extend(u16::try_from(8 + header.len() + payload.len()).expect("short").to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(header);
    datagram.extend(payload);
    datagram
}

/// A datagram of GUE whose header carries a former owner.
pub fn gue_with_former(former: &str, payload: &[u8]) -> Vec<u8> {
    let mut header = vec![0, if payload[0] >> 4 == 4 { 4 } else { 41 }, 0, 0, b'S', b'G', 1, 0];
    header.extend(octets(former));
    header[0] = u8::try_from(header.len() / 4 - 1).expect("short");
    gue(None, &[header, payload.to_vec()].concat())
}

/// A client's packet to a VIP.
pub fn client4(class: u8) -> Vec<u8> {
    ip(CLIENT4, VIP4, 6, class, &tcp(CLIENT4, VIP4, 0x10, &[], b"over v4"))
}

pub fn client6(class: u8) -> Vec<u8> {
    ip(CLIENT6, VIP6, 6, class, &tcp(CLIENT6, VIP6, 0x10, &[], b"over v6"))
}

/// What comes in, and what has to become of it with [`Tables::of_host`].
pub struct Case {
    pub name: String,
    pub before: Vec<u8>,
    pub verdict: Verdict,
    pub after: Vec<u8>,
}

impl Case {
    fn unwrapped(name: impl Into<String>, before: Vec<u8>, reason: Reason, after: Vec<u8>) -> Self {
        Self { name: name.into(), before, verdict: Verdict::Pass(reason), after }
    }

    fn untouched(name: &str, before: Vec<u8>, verdict: Verdict) -> Self {
        Self { name: name.to_owned(), after: before.clone(), before, verdict }
    }
}

pub fn unwrap_cases() -> Vec<Case> {
    let mut cases = tunnels();
    cases.extend(congestion());
    cases.extend(others());
    cases.extend(unknown_flows());
    cases
}

/// Packets with a former owner, where no socket knows their flow.
fn unknown_flows() -> Vec<Case> {
    let mut cases = Vec::new();
    for tags in [&[][..], &[7], &[100, 7]] {
        for (source, host, peer) in [(DIRECTOR4, HOST4, PEER4), (DIRECTOR6, HOST6, PEER6)] {
            for packet in [client4(0), client6(0)] {
                let name = format!("from {host} to {peer}, inner {}, {} tags", packet[0] >> 4, tags.len());
                let before = frame(tags, &ip(source, host, 17, 0b1011_1010, &gue_with_former(peer, &packet)));
                cases.push(Case::untouched(&name, before, Verdict::HandOver(Reason::HandedOver)));
            }
        }
    }
    let to_host = |former: &str, packet: &[u8]| ip(DIRECTOR4, HOST4, 17, 0, &gue_with_former(former, packet));
    let gue = Reason::UnwrappedGue;
    let mut unwrapped = |name: &str, reason, packet: &[u8], outer: &[u8]| {
        cases.push(Case::unwrapped(name, frame(&[], outer), reason, frame(&[], packet)));
    };
    let four = client4(0);
    unwrapped("a former owner who is no peer", Reason::NoPeer, &four, &to_host(STRANGER4, &four));
    unwrapped("the former owner is this host", Reason::NoPeer, &four, &to_host(HOST4, &four));
    unwrapped("a former owner of the other family", gue, &four, &to_host(PEER6, &four));
    let syn = ip(CLIENT4, VIP4, 6, 0, &tcp(CLIENT4, VIP4, 0x02, &[], b""));
    unwrapped("a SYN with a former owner", gue, &syn, &to_host(PEER4, &syn));
    let datagram = ip(CLIENT4, VIP4, 17, 0, &[0; 20]);
    unwrapped("UDP with a former owner", gue, &datagram, &to_host(PEER4, &datagram));
    let short = ip(CLIENT4, VIP4, 6, 0, &[0; 19]);
    unwrapped("half a TCP header with a former owner", gue, &short, &to_host(PEER4, &short));
    let by_peer = ip(PEER4, HOST4, 17, 0, &gue_with_former(PEER4, &four));
    unwrapped("a peer that names a former owner", gue, &four, &by_peer);
    let plain = ip(PEER4, HOST4, 17, 0, &variant1(&four));
    unwrapped("what a peer hands over", gue, &four, &plain);
    let options = ip_with(DIRECTOR4, HOST4, 17, 0, &[1; 4], &gue_with_former(PEER4, &four));
    unwrapped("outer options and a former owner", gue, &four, &options);
    let altered = |at: usize, value: u8| {
        let mut datagram = gue_with_former(PEER4, &four);
        datagram[8 + at] = value;
        ip(DIRECTOR4, HOST4, 17, 0, &datagram)
    };
    unwrapped("flags, so that private data lies elsewhere", gue, &four, &altered(2, 0x80));
    unwrapped("private data of somebody else", gue, &four, &altered(4, b'X'));
    unwrapped("private data of another kind", gue, &four, &altered(6, 2));
    let tunnel = frame(&[], &ip(PEER4, HOST4, 4, 0, &four));
    cases.push(Case::untouched("a peer's IPIP", tunnel, Verdict::Pass(Reason::UnknownDirector)));
    let longer = altered(0, 3);
    cases.push(Case::untouched("a header that is too long", frame(&[], &longer), Verdict::Drop(Reason::BadInner)));
    cases
}

/// GUE as it is without a former owner.
pub fn variant1(packet: &[u8]) -> Vec<u8> {
    gue(None, packet)
}

/// Each kind of tunnel, with none, one and two VLAN tags, and with padding behind a short packet.
fn tunnels() -> Vec<Case> {
    let mut cases = Vec::new();
    for tags in [&[][..], &[7], &[100, 7]] {
        for (outer, source, host) in [("v4", DIRECTOR4, HOST4), ("v6", DIRECTOR6, HOST6)] {
            for (version, protocol, packet) in [("v4", 4, client4(0)), ("v6", 41, client6(0))] {
                let name = |kind: &str| format!("{kind}, {version} in {outer}, {} tags", tags.len());
                let after = frame(tags, &packet);
                let mut add = |kind: &str, reason, protocol, payload: &[u8]| {
                    let before = frame(tags, &ip(source, host, protocol, 0, payload));
                    cases.push(Case::unwrapped(name(kind), before, reason, after.clone()));
                };
                add("IPIP", Reason::UnwrappedIp, protocol, &packet);
                add("GUE 1", Reason::UnwrappedGue, 17, &gue(None, &packet));
                add("GUE 0", Reason::UnwrappedGue, 17, &gue(Some((0, protocol, 0)), &packet));
                add("GUE 0 with fields", Reason::UnwrappedGue, 17, &gue(Some((0, protocol, 5)), &packet));
                add("GUE 0 with most fields", Reason::UnwrappedGue, 17, &gue(Some((0, protocol, 31)), &packet));
            }
        }
    }
    let mut padded = frame(&[], &ip(DIRECTOR4, HOST4, 4, 0, &client4(0)));
    padded.extend([0; 9]);
    let mut after = frame(&[], &client4(0));
    after.extend([0; 9]);
    cases.push(Case::unwrapped("padding", padded, Reason::UnwrappedIp, after));
    let options = frame(&[], &ip_with(DIRECTOR4, HOST4, 4, 0, &[1; 12], &client4(0)));
    cases.push(Case::unwrapped("outer options", options, Reason::UnwrappedIp, frame(&[], &client4(0))));
    cases
}

/// DSCP of the inner packet is kept, ECN combined.
fn congestion() -> Vec<Case> {
    let mut cases = Vec::new();
    let dscp = 0b1011_1000;
    for (inner, outer, after) in [(2, 3, 3), (2, 1, 1), (1, 2, 1), (3, 0, 3), (0, 2, 0), (1, 3, 3), (2, 0, 2)] {
        let name = format!("ECN {inner:02b} in {outer:02b}");
        let before = frame(&[], &ip(DIRECTOR4, HOST4, 4, outer, &client4(dscp | inner)));
        cases.push(Case::unwrapped(&name, before, Reason::UnwrappedIp, frame(&[], &client4(dscp | after))));
        let before = frame(&[], &ip(DIRECTOR6, HOST6, 41, outer, &client6(dscp | inner)));
        cases.push(Case::unwrapped(&name, before, Reason::UnwrappedIp, frame(&[], &client6(dscp | after))));
    }
    let dropped = Verdict::Drop(Reason::Congested);
    let before = frame(&[], &ip(DIRECTOR4, HOST4, 4, 3, &client4(0)));
    cases.push(Case::untouched("CE around what knows no ECN, v4", before, dropped));
    let before = frame(&[], &ip(DIRECTOR6, HOST6, 41, 3, &client6(0)));
    cases.push(Case::untouched("CE around what knows no ECN, v6", before, dropped));
    cases
}

fn others() -> Vec<Case> {
    let pass = Verdict::Pass;
    let good = || ip(DIRECTOR4, HOST4, 4, 0, &client4(0));
    let patched = |mut bytes: Vec<u8>, at: usize, value: u8| {
        bytes[at] = value;
        frame(&[], &bytes)
    };
    // As `patched`, with the header checksum made right again.
    let rewritten = |mut bytes: Vec<u8>, at: usize, value: u8| {
        bytes[at] = value;
        bytes[10..12].fill(0);
        let sum = checksum(&[&bytes[..20]]).to_be_bytes();
        bytes[10..12].copy_from_slice(&sum);
        frame(&[], &bytes)
    };
    let mut arp = frame(&[], &[0x40; 28]);
    arp[12..14].copy_from_slice(&[8, 6]);
    let plain = frame(&[], &client4(0));
    let stranger = frame(&[], &ip(STRANGER4, HOST4, 4, 0, &client4(0)));
    let elsewhere = frame(&[], &ip(DIRECTOR4, "203.0.113.21", 4, 0, &client4(0)));
    let unbound = frame(&[], &ip(DIRECTOR4, HOST4, 4, 0, &ip(CLIENT4, HOST4, 6, 0, &tcp(CLIENT4, HOST4, 2, &[], b""))));
    let dns = {
        let mut datagram = gue(None, &client4(0));
        datagram[2..4].copy_from_slice(&53u16.to_be_bytes());
        frame(&[], &ip(DIRECTOR4, HOST4, 17, 0, &datagram))
    };
    let control = frame(&[], &ip(DIRECTOR4, HOST4, 17, 0, &gue(Some((0x20, 4, 0)), &client4(0))));
    let ethernet = frame(&[], &ip(DIRECTOR4, HOST4, 17, 0, &gue(Some((0, 47, 0)), &client4(0))));
    let unknown = frame(&[], &ip(DIRECTOR4, HOST4, 17, 0, &gue(None, &[0xf0; 40])));
    let short_inner = frame(&[], &ip(DIRECTOR4, HOST4, 4, 0, &client4(0)[..19]));
    let overlong = {
        let mut bytes = client4(0);
        bytes[3] += 1;
        frame(&[], &ip(DIRECTOR4, HOST4, 4, 0, &bytes))
    };
    let mut cut = frame(&[], &good());
    cut.truncate(cut.len() - 3);
    let overlong6 = {
        let mut bytes = client6(0);
        bytes[5] += 1;
        frame(&[], &ip(DIRECTOR6, HOST6, 41, 0, &bytes))
    };
    vec![
        Case::untouched("ARP", arp, pass(Reason::NotTunnel)),
        Case::untouched("no tunnel", plain, pass(Reason::NotTunnel)),
        Case::untouched("a runt", frame(&[], &good()[..12]), pass(Reason::NotTunnel)),
        Case::untouched("another UDP port", dns, pass(Reason::NotTunnel)),
        Case::untouched("a stranger's tunnel", stranger, pass(Reason::UnknownDirector)),
        Case::untouched("a tunnel to another host", elsewhere, pass(Reason::NotEndpoint)),
        Case::untouched("to an address that is no VIP", unbound, pass(Reason::NotBound)),
        Case::untouched("a first fragment", rewritten(good(), 6, 0x20), pass(Reason::TunnelFragment)),
        Case::untouched("a later fragment", rewritten(good(), 7, 0x10), pass(Reason::TunnelFragment)),
        Case::untouched("GUE control", control, pass(Reason::GueOther)),
        Case::untouched("GUE with something else", ethernet, pass(Reason::GueOther)),
        Case::untouched("GUE of an unknown variant", unknown, pass(Reason::GueOther)),
        Case::untouched("a damaged outer header", patched(good(), 8, 63), Verdict::Drop(Reason::BadChecksum)),
        Case::untouched("longer than its frame", cut, Verdict::Drop(Reason::Truncated)),
        Case::untouched("half an inner header", short_inner, Verdict::Drop(Reason::Truncated)),
        Case::untouched("longer than its tunnel", overlong, Verdict::Drop(Reason::BadInner)),
        Case::untouched("longer than its tunnel, v6", overlong6, Verdict::Drop(Reason::BadInner)),
        Case::untouched("v6 where v4 was said", patched(good(), 20, 0x65), Verdict::Drop(Reason::BadInner)),
        Case::untouched("an inner header of 16 bytes", patched(good(), 20, 0x44), Verdict::Drop(Reason::BadInner)),
    ]
}

/// A SYN-ACK of a VIP with these options, what has to become of it, and why.
pub struct ClampCase {
    pub name: &'static str,
    pub before: Vec<u8>,
    pub reason: Reason,
    /// The MSS that it says afterwards, where it says one: at this offset in the segment.
    pub mss: Option<(usize, u16)>,
}

pub fn clamp_cases() -> Vec<ClampCase> {
    let syn_ack = |source: &str, destination: &str, flags: u8, options: &[u8]| {
        frame(&[], &ip(source, destination, 6, 0, &tcp(source, destination, flags, options, b"")))
    };
    let mss = |value: u16| [&[2, 4][..], &value.to_be_bytes()].concat();
    let usual = |value: u16| [&mss(value)[..], &[4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7]].concat();
    let odd = |value: u16| [&[1][..], &mss(value), &[1, 1, 1]].concat();
    let late = |padding: usize, value: u16| [&vec![1; padding][..], &mss(value), &vec![1; 36 - padding]].concat();
    let case = |name, before, reason, mss| ClampCase { name, before, reason, mss };
    let (c, fits) = (Reason::Clamped, Reason::MssFits);
    vec![
        case("v4", syn_ack(VIP4, CLIENT4, 0x12, &usual(1460)), c, Some((22, MTU - 40))),
        case("v6", syn_ack(VIP6, CLIENT6, 0x12, &usual(1440)), c, Some((22, MTU - 60))),
        case("jumbo", syn_ack(VIP4, CLIENT4, 0x12, &usual(8960)), c, Some((22, MTU - 40))),
        case("with ECE", syn_ack(VIP4, CLIENT4, 0x52, &usual(1460)), c, Some((22, MTU - 40))),
        case("at an odd offset", syn_ack(VIP4, CLIENT4, 0x12, &odd(1460)), c, Some((23, MTU - 40))),
        case("at an odd offset, v6", syn_ack(VIP6, CLIENT6, 0x12, &odd(1440)), c, Some((23, MTU - 60))),
        case("as the tenth option", syn_ack(VIP4, CLIENT4, 0x12, &late(9, 1460)), c, Some((31, MTU - 40))),
        case("behind ten options", syn_ack(VIP4, CLIENT4, 0x12, &late(10, 1460)), fits, Some((32, 1460))),
        case("fits exactly", syn_ack(VIP4, CLIENT4, 0x12, &usual(MTU - 40)), fits, Some((22, MTU - 40))),
        case("is small", syn_ack(VIP4, CLIENT4, 0x12, &usual(536)), fits, Some((22, 536))),
        case("no options", syn_ack(VIP4, CLIENT4, 0x12, &[]), fits, None),
        case("no MSS", syn_ack(VIP4, CLIENT4, 0x12, &[1, 3, 3, 7]), fits, None),
        case("behind the end", syn_ack(VIP4, CLIENT4, 0x12, &[0, 0, 0, 0, 2, 4, 5, 180]), fits, Some((26, 1460))),
        case("an option of length 0", syn_ack(VIP4, CLIENT4, 0x12, &[3, 0, 1, 1, 2, 4, 5, 180]), fits, None),
        case("an overlong option", syn_ack(VIP4, CLIENT4, 0x12, &[3, 255, 1, 1]), fits, None),
        case("MSS of a wrong length", syn_ack(VIP4, CLIENT4, 0x12, &[2, 3, 5, 1]), fits, None),
        case("of no VIP", syn_ack(HOST4, CLIENT4, 0x12, &usual(1460)), Reason::NotSynAck, Some((22, 1460))),
        case("a SYN", syn_ack(VIP4, CLIENT4, 0x02, &usual(1460)), Reason::NotSynAck, Some((22, 1460))),
        case("an ACK", syn_ack(VIP4, CLIENT4, 0x10, &usual(1460)), Reason::NotSynAck, Some((22, 1460))),
        case("a reset", syn_ack(VIP4, CLIENT4, 0x16, &usual(1460)), Reason::NotSynAck, Some((22, 1460))),
    ]
}

/// A backend whose head is precomputed as the forwarder does it.
pub fn backend(kind: u8) -> Backend {
    let mut head = vec![2, 0, 0, 0, 0, 0x20, 2, 0, 0, 0, 0, 1];
    let payload: &[u8] = &[];
    match kind {
        Backend::KIND_L2 => head.extend([0, 0]),
        Backend::KIND_IP4 => head = frame(&[], &ip(DIRECTOR4, HOST4, 4, 0, payload)),
        Backend::KIND_IP6 => head = frame(&[], &ip(DIRECTOR6, HOST6, 4, 0, payload)),
        Backend::KIND_GUE4 => head = frame(&[], &ip(DIRECTOR4, HOST4, 17, 0, &gue(None, payload))),
        Backend::KIND_GUE6 => head = frame(&[], &ip(DIRECTOR6, HOST6, 17, 0, &gue(None, payload))),
        _ => head.clear(),
    }
    let mut backend = Backend {
        kind,
        head_len: u8::try_from(head.len()).expect("short"),
        mtu: 1500 - u16::try_from(head.len().saturating_sub(14)).expect("short"),
        egress: 9,
        ..Backend::default()
    };
    if head.len() >= 34 && head[14] >> 4 == 4 {
        let mut outer = head[14..34].to_vec();
        outer[2..4].fill(0);
        outer[10..12].fill(0);
        backend.checksum = !checksum(&[&outer]);
    }
    backend.head[..head.len()].copy_from_slice(&head);
    backend
}
