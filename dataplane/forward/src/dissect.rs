//! What a frame says, for people: addresses, ports, flags, and what is inside of a tunnel. It reads headers as they come,
//! checks nothing and decides nothing; the packet path has its own reading.

use sluicegate_l4::layout::GUE_PORT;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_SERVICE_VLAN: u16 = 0x88a8;

const ICMP: u8 = 1;
const IPV4_INSIDE: u8 = 4;
const TCP: u8 = 6;
const UDP: u8 = 17;
const IPV6_INSIDE: u8 = 41;
const ICMPV6: u8 = 58;
const SCTP: u8 = 132;

/// Extension headers of IPv6 that are skipped.
const MOST_EXTENSIONS: usize = 8;
/// Tunnels inside of tunnels that are read.
const MOST_TUNNELS: usize = 2;

/// A frame, from its Ethernet header on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dissection {
    /// Destination MAC address.
    pub destination_mac: [u8; 6],
    /// Source MAC address.
    pub source_mac: [u8; 6],
    /// VLAN ids, outermost first, two at most.
    pub vlans: Vec<u16>,
    /// What the frame carries.
    pub network: Network,
}

/// What a frame carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Network {
    /// An IP packet.
    Ip(IpPacket),
    /// ARP for IPv4.
    Arp {
        /// An answer, not a question.
        reply: bool,
        /// Who says so.
        sender: Ipv4Addr,
        /// Whom it is about.
        target: Ipv4Addr,
    },
    /// Another EtherType, or a header that is cut.
    Other(u16),
}

/// An IP packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpPacket {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// IANA's number of what follows the IP header and its extensions.
    pub protocol: u8,
    /// Bytes with the IP header, as that says.
    pub length: u32,
    /// Part of a larger datagram.
    pub fragment: bool,
    /// Source and destination port; `None` where there are none, or they are cut.
    pub ports: Option<(u16, u16)>,
    /// Flags of TCP.
    pub tcp_flags: Option<u8>,
    /// Type and code of ICMP.
    pub icmp: Option<(u8, u8)>,
    /// The packet inside of a tunnel (IP in IP, or GUE variant 1).
    pub inside: Option<Box<Self>>,
}

impl Dissection {
    /// Reads the beginning of a frame; `None` where it is shorter than an Ethernet header.
    #[must_use]
    pub fn of(frame: &[u8]) -> Option<Self> {
        let (destination_mac, rest) = frame.split_first_chunk::<6>()?;
        let (source_mac, rest) = rest.split_first_chunk::<6>()?;
        let (kind, mut rest) = rest.split_first_chunk::<2>()?;
        let mut ethertype = u16::from_be_bytes(*kind);
        let mut vlans = Vec::new();
        while matches!(ethertype, ETHERTYPE_VLAN | ETHERTYPE_SERVICE_VLAN) && vlans.len() < 2 {
            let Some((tag, after)) = rest.split_first_chunk::<4>() else { break };
            vlans.push(u16::from_be_bytes([tag[0], tag[1]]) & 0x0fff);
            ethertype = u16::from_be_bytes([tag[2], tag[3]]);
            rest = after;
        }
        let network = match ethertype {
            ETHERTYPE_IPV4 | ETHERTYPE_IPV6 => packet(rest, MOST_TUNNELS).map(Network::Ip),
            ETHERTYPE_ARP => arp(rest),
            _ => None,
        };
        let network = network.unwrap_or(Network::Other(ethertype));
        Some(Self { destination_mac: *destination_mac, source_mac: *source_mac, vlans, network })
    }

    /// The address that the frame is about: the destination of IP, the target of ARP.
    #[must_use]
    pub fn destination(&self) -> Option<IpAddr> {
        match &self.network {
            Network::Ip(packet) => Some(packet.destination),
            Network::Arp { target, .. } => Some((*target).into()),
            Network::Other(_) => None,
        }
    }
}

/// RFC 826 over Ethernet and IPv4.
fn arp(bytes: &[u8]) -> Option<Network> {
    let header = bytes.first_chunk::<28>()?;
    let address = |at: usize| Some(Ipv4Addr::from(*header.get(at..)?.first_chunk::<4>()?));
    Some(Network::Arp { reply: header[7] == 2, sender: address(14)?, target: address(24)? })
}

fn packet(bytes: &[u8], tunnels: usize) -> Option<IpPacket> {
    match bytes.first()? >> 4 {
        4 => ipv4(bytes, tunnels),
        6 => ipv6(bytes, tunnels),
        _ => None,
    }
}

fn ipv4(bytes: &[u8], tunnels: usize) -> Option<IpPacket> {
    let header = bytes.first_chunk::<20>()?;
    let place = u16::from_be_bytes([header[6], header[7]]);
    let read = IpPacket {
        source: Ipv4Addr::new(header[12], header[13], header[14], header[15]).into(),
        destination: Ipv4Addr::new(header[16], header[17], header[18], header[19]).into(),
        protocol: header[9],
        length: u16::from_be_bytes([header[2], header[3]]).into(),
        fragment: place & 0x3fff != 0,
        ports: None,
        tcp_flags: None,
        icmp: None,
        inside: None,
    };
    // A later part of a datagram has no transport header.
    let rest = if place & 0x1fff == 0 { bytes.get(usize::from(header[0] & 0x0f) * 4..) } else { None };
    Some(transport(read, rest.unwrap_or_default(), tunnels))
}

fn ipv6(bytes: &[u8], tunnels: usize) -> Option<IpPacket> {
    let (header, mut rest) = bytes.split_first_chunk::<40>()?;
    let address = |at: usize| Some(Ipv6Addr::from(*header.get(at..)?.first_chunk::<16>()?));
    let (mut protocol, mut fragment, mut later) = (header[6], false, false);
    for _ in 0..MOST_EXTENSIONS {
        let Some((extension, _)) = rest.split_first_chunk::<8>() else { break };
        let length = match protocol {
            // Hop by hop, routing, destination options.
            0 | 43 | 60 => (usize::from(extension[1]) + 1) * 8,
            44 => {
                fragment = true;
                later = u16::from_be_bytes([extension[2], extension[3]]) & 0xfff8 != 0;
                8
            }
            51 => (usize::from(extension[1]) + 2) * 4,
            _ => break,
        };
        protocol = extension[0];
        rest = rest.get(length..).unwrap_or_default();
    }
    let read = IpPacket {
        source: address(8)?.into(),
        destination: address(24)?.into(),
        protocol,
        length: u32::from(u16::from_be_bytes([header[4], header[5]])) + 40,
        fragment,
        ports: None,
        tcp_flags: None,
        icmp: None,
        inside: None,
    };
    Some(transport(read, if later { &[] } else { rest }, tunnels))
}

fn transport(mut read: IpPacket, bytes: &[u8], tunnels: usize) -> IpPacket {
    match read.protocol {
        TCP | UDP | SCTP => {
            read.ports = bytes.first_chunk::<4>().map(|[a, b, c, d]| {
                let port = |high, low| u16::from_be_bytes([high, low]);
                (port(*a, *b), port(*c, *d))
            });
            if read.protocol == TCP {
                read.tcp_flags = bytes.get(13).copied();
            }
            let is_gue = read.protocol == UDP && read.ports.is_some_and(|(_, to)| to == GUE_PORT);
            // Variant 1: an IP header follows at once.
            if is_gue && tunnels > 0 {
                read.inside = bytes.get(8..).and_then(|inside| packet(inside, tunnels - 1)).map(Box::new);
            }
        }
        ICMP | ICMPV6 => read.icmp = bytes.first_chunk::<2>().map(|[kind, code]| (*kind, *code)),
        IPV4_INSIDE | IPV6_INSIDE if tunnels > 0 => read.inside = packet(bytes, tunnels - 1).map(Box::new),
        _ => {}
    }
    read
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(packet) => packet.fmt(f),
            Self::Arp { reply: false, sender, target } => write!(f, "ARP who has {target}, tell {sender}"),
            Self::Arp { reply: true, sender, .. } => write!(f, "ARP {sender} is here"),
            Self::Other(ethertype) => write!(f, "EtherType 0x{ethertype:04x}"),
        }
    }
}

impl fmt::Display for IpPacket {
    /// `TCP 198.51.100.7:40000 > 192.0.2.10:80 SYN`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.protocol {
            TCP => f.write_str("TCP ")?,
            UDP => f.write_str("UDP ")?,
            SCTP => f.write_str("SCTP ")?,
            ICMP => f.write_str("ICMP ")?,
            ICMPV6 => f.write_str("ICMPv6 ")?,
            IPV4_INSIDE | IPV6_INSIDE => f.write_str("IPIP ")?,
            other => write!(f, "protocol {other} ")?,
        }
        let (from, to) = self.ports.unzip();
        write!(f, "{} > {}", end(self.source, from), end(self.destination, to))?;
        if let Some(flags) = self.tcp_flags {
            let names = ["FIN", "SYN", "RST", "PSH", "ACK"];
            let set = (0..).zip(names).filter(|(bit, _)| flags & (1 << bit) != 0);
            set.into_iter().try_for_each(|(_, name)| write!(f, " {name}"))?;
        }
        if let Some((kind, code)) = self.icmp {
            match (self.protocol, kind) {
                (ICMP, 8) | (ICMPV6, 128) => f.write_str(" echo")?,
                (ICMP, 0) | (ICMPV6, 129) => f.write_str(" echo reply")?,
                (ICMPV6, 135) => f.write_str(" neighbour solicitation")?,
                (ICMPV6, 136) => f.write_str(" neighbour advertisement")?,
                _ => write!(f, " type {kind} code {code}")?,
            }
        }
        if self.fragment {
            f.write_str(" fragment")?;
        }
        match &self.inside {
            Some(inside) => write!(f, " ({inside})"),
            None => Ok(()),
        }
    }
}

/// An address with its port, as people write it.
fn end(address: IpAddr, port: Option<u16>) -> String {
    match port {
        Some(port) => std::net::SocketAddr::new(address, port).to_string(),
        None => address.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ethernet(ethertype: [u8; 2], rest: &[u8]) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        frame.extend(ethertype);
        frame.extend(rest);
        frame
    }

    fn ipv4(protocol: u8, payload: &[u8]) -> Vec<u8> {
        let length = (20 + payload.len()) as u16;
        let mut packet =
            vec![0x45, 0, length.to_be_bytes()[0], length.to_be_bytes()[1], 0, 0, 0, 0, 64, protocol, 0, 0];
        packet.extend([198, 51, 100, 7, 192, 0, 2, 10]);
        packet.extend(payload);
        packet
    }

    const SYN: [u8; 20] = [0x9c, 0x40, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 2, 0, 0, 0, 0, 0, 0];

    fn said(frame: &[u8]) -> String {
        Dissection::of(frame).expect("an Ethernet header").network.to_string()
    }

    #[test]
    fn packets_are_told_in_one_line() {
        let tcp = ipv4(TCP, &SYN);
        assert_eq!(said(&ethernet([8, 0], &tcp)), "TCP 198.51.100.7:40000 > 192.0.2.10:80 SYN");
        let ipip = ipv4(IPV4_INSIDE, &tcp);
        assert_eq!(
            said(&ethernet([8, 0], &ipip)),
            "IPIP 198.51.100.7 > 192.0.2.10 (TCP 198.51.100.7:40000 > 192.0.2.10:80 SYN)"
        );
        let mut gue = vec![0xc0, 0, 0x17, 0xc0, 0, 0, 0, 0];
        gue.extend(&tcp);
        let frame = ethernet([8, 0], &ipv4(UDP, &gue));
        assert!(said(&frame).starts_with("UDP 198.51.100.7:49152 > 192.0.2.10:6080 (TCP "), "{}", said(&frame));
        assert_eq!(said(&ethernet([8, 0], &ipv4(ICMP, &[8, 0, 0, 0]))), "ICMP 198.51.100.7 > 192.0.2.10 echo");
        let mut tagged = vec![0, 100, 8, 0];
        tagged.extend(&tcp);
        let frame = ethernet([0x81, 0], &tagged);
        assert_eq!(Dissection::of(&frame).expect("a frame").vlans, [100]);
        assert_eq!(Dissection::of(&frame).expect("a frame").destination(), Some("192.0.2.10".parse().expect("it")));
        let arp = [0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 2, 192, 0, 2, 1, 0, 0, 0, 0, 0, 0, 192, 0, 2, 10];
        assert_eq!(said(&ethernet([8, 6], &arp)), "ARP who has 192.0.2.10, tell 192.0.2.1");
    }

    #[test]
    fn what_is_cut_is_told_as_far_as_it_goes() {
        let mut six = vec![0x60, 0, 0, 0, 0, 20, 44, 64];
        six.extend(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7).octets());
        six.extend(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 16).octets());
        six.extend([TCP, 0, 0, 8, 0, 0, 0, 1]);
        let frame = ethernet([0x86, 0xdd], &six);
        assert_eq!(said(&frame), "TCP 2001:db8::7 > 2001:db8::10 fragment");
        for length in 0..frame.len() {
            // Whatever is left of it: no panic, and no address out of nothing.
            let read = Dissection::of(&frame[..length]);
            assert_eq!(read.is_some(), length >= 14);
            assert_eq!(read.and_then(|read| read.destination()).is_some(), length >= 54);
        }
    }
}
