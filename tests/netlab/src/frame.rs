//! Frames that were captured, and the questions that tests ask of them. Reading is lenient and shallow: it is for
//! looking at traffic, not for forwarding it.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

const ARP: u16 = 0x0806;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
/// 802.1Q and 802.1ad
const TAGS: [u16; 2] = [0x8100, 0x88a8];

/// Protocol numbers of IANA that tests ask for.
pub(crate) const ICMPV4: u8 = 1;
pub(crate) const ICMPV6: u8 = 58;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// An Ethernet frame as it passed an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// When the kernel saw it.
    pub at: SystemTime,
    /// The interface sent it; otherwise it received it.
    pub outgoing: bool,
    /// From the destination address on, without the check sequence.
    pub bytes: Vec<u8>,
}

/// An IP packet in a frame or in a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet<'a> {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Protocol, or the first next header of IPv6; extension headers are not followed.
    pub protocol: u8,
    /// TTL or hop limit.
    pub hops: u8,
    /// What follows the header, as long as the header says or as was captured.
    pub payload: &'a [u8],
    /// The packet with its header.
    pub bytes: &'a [u8],
}

/// Flags of a TCP segment (RFC 9293).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// No more data from the sender.
    pub fn fin(self) -> bool {
        self.0 & 0x01 != 0
    }

    /// Synchronises sequence numbers.
    pub fn syn(self) -> bool {
        self.0 & 0x02 != 0
    }

    /// Resets the connection.
    pub fn rst(self) -> bool {
        self.0 & 0x04 != 0
    }

    /// The acknowledgement number counts.
    pub fn ack(self) -> bool {
        self.0 & 0x10 != 0
    }
}

impl Frame {
    /// Destination hardware address.
    pub fn destination_mac(&self) -> Option<[u8; 6]> {
        self.bytes.get(..6)?.try_into().ok()
    }

    /// Source hardware address.
    pub fn source_mac(&self) -> Option<[u8; 6]> {
        self.bytes.get(6..12)?.try_into().ok()
    }

    /// The type after any VLAN tags.
    pub fn ether_type(&self) -> Option<u16> {
        Some(self.content()?.0)
    }

    /// The IP packet in it.
    pub fn packet(&self) -> Option<Packet<'_>> {
        match self.content()? {
            (IPV4 | IPV6, content) => Packet::parse(content),
            _ => None,
        }
    }

    /// Source address of its IP packet.
    pub fn ip_source(&self) -> Option<IpAddr> {
        Some(self.packet()?.source)
    }

    /// Destination address of its IP packet.
    pub fn ip_destination(&self) -> Option<IpAddr> {
        Some(self.packet()?.destination)
    }

    /// Source and destination port, if it holds TCP, UDP or SCTP and is no later fragment.
    pub fn ports(&self) -> Option<(u16, u16)> {
        self.packet()?.ports()
    }

    /// The flags of a TCP segment.
    pub fn tcp_flags(&self) -> Option<TcpFlags> {
        self.packet()?.tcp_flags()
    }

    /// An ARP request that asks for the address; gratuitous ones are among them.
    pub fn is_arp_request_for(&self, address: Ipv4Addr) -> bool {
        self.arp().is_some_and(|(operation, _, target)| operation == 1 && target == address)
    }

    /// An ARP reply that says where the address is.
    pub fn is_arp_reply_for(&self, address: Ipv4Addr) -> bool {
        self.arp().is_some_and(|(operation, sender, _)| operation == 2 && sender == address)
    }

    /// An ARP announcement or gratuitous reply: sender and target are the address (RFC 5227).
    pub fn is_gratuitous_arp_for(&self, address: Ipv4Addr) -> bool {
        self.arp().is_some_and(|(_, sender, target)| sender == address && target == address)
    }

    /// A neighbour solicitation that asks for the address (RFC 4861).
    pub fn is_neighbor_solicitation_for(&self, address: Ipv6Addr) -> bool {
        self.neighbor_message() == Some((135, address))
    }

    /// A neighbour advertisement that says where the address is.
    pub fn is_neighbor_advertisement_for(&self, address: Ipv6Addr) -> bool {
        self.neighbor_message() == Some((136, address))
    }

    /// Whether it tells others where the address is, by ARP or NDP: an answer, or an announcement. A request that asks
    /// for one's own address counts, a probe (sender 0.0.0.0) does not.
    pub fn claims(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.arp().is_some_and(|(_, sender, _)| sender == address),
            IpAddr::V6(address) => self.is_neighbor_advertisement_for(address),
        }
    }

    /// Operation, sender and target of an ARP message.
    fn arp(&self) -> Option<(u16, Ipv4Addr, Ipv4Addr)> {
        let (ARP, arp) = self.content()? else {
            return None;
        };
        // Ethernet and IPv4 with their lengths.
        if arp.get(..6)? != [0, 1, 8, 0, 6, 4] {
            return None;
        }
        Some((half(arp, 6)?, ipv4(arp, 14)?, ipv4(arp, 24)?))
    }

    /// Type and target of a neighbour solicitation or advertisement.
    fn neighbor_message(&self) -> Option<(u8, Ipv6Addr)> {
        let packet = self.packet()?;
        let kind = *packet.payload.first()?;
        if packet.protocol != ICMPV6 || !matches!(kind, 135 | 136) {
            return None;
        }
        Some((kind, ipv6(packet.payload, 8)?))
    }

    fn content(&self) -> Option<(u16, &[u8])> {
        let mut at = 12;
        // Two tags at most, as on the wires that there are.
        for _ in 0..2 {
            if !TAGS.contains(&half(&self.bytes, at)?) {
                break;
            }
            at += 4;
        }
        Some((half(&self.bytes, at)?, self.bytes.get(at + 2..)?))
    }
}

impl<'a> Packet<'a> {
    /// Reads an IP packet; padding after it is left out.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        match bytes.first()? >> 4 {
            4 => {
                let header = usize::from(bytes[0] & 0xf) * 4;
                let bytes = &bytes[..bytes.len().min(half(bytes, 2)?.into())];
                Some(Self {
                    source: ipv4(bytes, 12)?.into(),
                    destination: ipv4(bytes, 16)?.into(),
                    protocol: *bytes.get(9)?,
                    hops: *bytes.get(8)?,
                    payload: bytes.get(header..)?,
                    bytes,
                })
            }
            6 => {
                let bytes = &bytes[..bytes.len().min(usize::from(half(bytes, 4)?) + 40)];
                Some(Self {
                    source: ipv6(bytes, 8)?.into(),
                    destination: ipv6(bytes, 24)?.into(),
                    protocol: *bytes.get(6)?,
                    hops: *bytes.get(7)?,
                    payload: bytes.get(40..)?,
                    bytes,
                })
            }
            _ => None,
        }
    }

    /// The packet inside of an IPIP tunnel (protocols 4 and 41), or of GUE (UDP to `gue_port`, version 0 or 1) when the
    /// port is given.
    pub fn inner(&self, gue_port: Option<u16>) -> Option<Packet<'a>> {
        match self.protocol {
            4 | 41 => Packet::parse(self.payload),
            UDP if gue_port.is_some() && self.ports().map(|(_, to)| to) == gue_port => {
                let gue = self.payload.get(8..)?;
                // draft-ietf-intarea-gue: version 1 is an IP packet without a header of its own; version 0 has its length
                // without the first word, in words.
                let first = *gue.first()?;
                let header = if first >> 6 == 1 { 0 } else { 4 + usize::from(first & 0x1f) * 4 };
                Packet::parse(gue.get(header..)?)
            }
            _ => None,
        }
    }

    /// Source and destination port of TCP, UDP and SCTP; none for later fragments.
    pub fn ports(&self) -> Option<(u16, u16)> {
        let has_ports = matches!(self.protocol, TCP | UDP | 132) && !self.is_later_fragment();
        if has_ports { Some((half(self.payload, 0)?, half(self.payload, 2)?)) } else { None }
    }

    /// The flags of a TCP segment.
    pub fn tcp_flags(&self) -> Option<TcpFlags> {
        if self.protocol == TCP && !self.is_later_fragment() {
            self.payload.get(13).copied().map(TcpFlags)
        } else {
            None
        }
    }

    fn is_later_fragment(&self) -> bool {
        self.source.is_ipv4() && half(self.bytes, 6).is_some_and(|word| word & 0x1fff != 0)
    }
}

/// Writes frames as a pcap file (nanosecond times, Ethernet), to look at what a failing test saw.
pub fn write_pcap(path: &Path, frames: &[Frame]) -> io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    for word in [0xa1b2_3c4d_u32, 0x0004_0002, 0, 0, u32::MAX >> 14, 1] {
        file.write_all(&word.to_le_bytes())?;
    }
    for frame in frames {
        let at = frame.at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let length = u32::try_from(frame.bytes.len()).unwrap_or(u32::MAX);
        // Seconds are 32 bits wide in this format.
        for word in [u32::try_from(at.as_secs()).unwrap_or(u32::MAX), at.subsec_nanos(), length, length] {
            file.write_all(&word.to_le_bytes())?;
        }
        file.write_all(&frame.bytes)?;
    }
    file.flush()
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_be_bytes)
}

fn ipv4(bytes: &[u8], at: usize) -> Option<Ipv4Addr> {
    <[u8; 4]>::try_from(bytes.get(at..at + 4)?).ok().map(Ipv4Addr::from)
}

fn ipv6(bytes: &[u8], at: usize) -> Option<Ipv6Addr> {
    <[u8; 16]>::try_from(bytes.get(at..at + 16)?).ok().map(Ipv6Addr::from)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const CLIENT: [u8; 4] = [198, 51, 100, 2];
    const VIP: [u8; 4] = [192, 0, 2, 100];

    fn frame(ether_type: &[u8], content: &[u8]) -> Frame {
        let at = UNIX_EPOCH + Duration::new(1, 2);
        let bytes = [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2], ether_type, content].concat();
        Frame { at, outgoing: false, bytes }
    }

    fn ipv4(protocol: u8, payload: &[u8]) -> Vec<u8> {
        let length = (20 + payload.len() as u16).to_be_bytes();
        let head = [0x45, 0, length[0], length[1], 0, 0, 0, 0, 64, protocol, 0, 0];
        [&head[..], &CLIENT, &VIP, payload].concat()
    }

    fn ipv6(protocol: u8, payload: &[u8]) -> Vec<u8> {
        let length = (payload.len() as u16).to_be_bytes();
        let addresses = ["2001:db8::1", "2001:db8::2"].map(|text| text.parse::<Ipv6Addr>().expect("good").octets());
        [&[0x60, 0, 0, 0, length[0], length[1], protocol, 63][..], &addresses[0], &addresses[1], payload].concat()
    }

    fn tcp(flags: u8) -> Vec<u8> {
        [&[0x9c, 0x40, 0, 80][..], &[0; 9], &[flags], &[0; 6]].concat()
    }

    fn arp(operation: u8, sender: [u8; 4], target: [u8; 4]) -> Frame {
        let content = [&[0, 1, 8, 0, 6, 4, 0, operation][..], &[2; 6], &sender, &[0; 6], &target, &[0; 18]].concat();
        frame(&[8, 6], &content)
    }

    #[test]
    fn tcp_is_read_under_any_tags() {
        let packet = ipv4(6, &tcp(0x12));
        for tags in [&[][..], &[0x81, 0, 0, 7], &[0x88, 0xa8, 0, 1, 0x81, 0, 0, 2]] {
            let frame = frame(&[tags, &[8, 0]].concat(), &[&packet[..], &[0; 6]].concat());
            assert_eq!(frame.ether_type(), Some(0x0800));
            assert_eq!(frame.ip_source(), Some(CLIENT.into()));
            assert_eq!(frame.ip_destination(), Some(VIP.into()));
            assert_eq!(frame.ports(), Some((40_000, 80)));
            let flags = frame.tcp_flags().expect("TCP");
            assert!(flags.syn() && flags.ack() && !flags.rst() && !flags.fin());
            assert_eq!(frame.packet().expect("a packet").bytes, packet, "padding is left out");
        }
    }

    #[test]
    fn packets_are_found_in_tunnels() {
        let inner = ipv6(6, &tcp(2));
        let gue = |header: &[u8]| {
            let udp = [&[0x30, 0x39, 0x17, 0xc0, 0, 0, 0, 0][..], header, &inner].concat();
            ipv4(17, &udp)
        };
        for outer in
            [ipv4(41, &inner), ipv6(41, &inner), gue(&[0, 41, 0, 0]), gue(&[1, 41, 0, 0, 9, 9, 9, 9]), gue(&[])]
        {
            let outer = Packet::parse(&outer).expect("a packet");
            let found = outer.inner(Some(6080)).expect("a packet inside");
            assert_eq!((found.bytes, found.hops), (&inner[..], 63));
        }
        let udp = gue(&[]);
        let udp = Packet::parse(&udp).expect("a packet");
        assert_eq!(udp.inner(None), None);
        assert_eq!(udp.inner(Some(53)), None);
    }

    #[test]
    fn arp_says_who_claims_what() {
        let vip = Ipv4Addr::from(VIP);
        let cases = [
            // operation, sender, target → request, reply, gratuitous, claims
            (1, CLIENT, VIP, [true, false, false, false]),
            (2, VIP, CLIENT, [false, true, false, true]),
            (1, VIP, VIP, [true, false, true, true]),
            (2, VIP, VIP, [false, true, true, true]),
            (1, [0; 4], VIP, [true, false, false, false]),
            (2, CLIENT, VIP, [false, false, false, false]),
        ];
        for (operation, sender, target, expected) in cases {
            let frame = arp(operation, sender, target);
            let found = [
                frame.is_arp_request_for(vip),
                frame.is_arp_reply_for(vip),
                frame.is_gratuitous_arp_for(vip),
                frame.claims(vip.into()),
            ];
            assert_eq!(found, expected, "{operation} {sender:?} {target:?}");
        }
    }

    #[test]
    fn neighbour_messages_say_who_claims_what() {
        let target: Ipv6Addr = "2001:db8:1::100".parse().expect("good");
        let message =
            |kind: u8| frame(&[0x86, 0xdd], &ipv6(58, &[&[kind, 0, 0, 0, 0, 0, 0, 0], &target.octets()[..]].concat()));
        assert!(message(135).is_neighbor_solicitation_for(target) && !message(135).claims(target.into()));
        assert!(message(136).is_neighbor_advertisement_for(target) && message(136).claims(target.into()));
        assert!(!message(128).claims(target.into()));
    }

    #[test]
    fn nothing_is_read_beyond_the_end() {
        let whole = [
            frame(&[0x81, 0, 0, 7, 8, 0], &ipv4(6, &tcp(2))),
            frame(&[0x86, 0xdd], &ipv6(41, &ipv4(17, &tcp(0)))),
            arp(1, CLIENT, VIP),
        ];
        for whole in whole {
            for length in 0..whole.bytes.len() {
                let cut = Frame { bytes: whole.bytes[..length].to_vec(), ..whole.clone() };
                let _ = (cut.ports(), cut.tcp_flags(), cut.claims(Ipv4Addr::from(VIP).into()), cut.source_mac());
                let inner = cut.packet().and_then(|packet| packet.inner(Some(80)).and_then(|inner| inner.ports()));
                assert!(inner.is_none() || length > 60);
            }
        }
        let lying = frame(&[8, 0], &[&[0x4f, 0, 0, 4][..], &[0; 16]].concat());
        assert_eq!(lying.packet(), None, "a header that is longer than its packet");
    }
}
