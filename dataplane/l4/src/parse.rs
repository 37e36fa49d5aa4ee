//! From bytes to a datagram: Ethernet with up to two VLAN tags, IPv4 with options, IPv6 with extension headers.
//!
//! Small types that travel inside of others are aligned to a word: a compiler that moves them as one must not do so across
//! a boundary, which the kernel's verifier forbids on the stack.
//!
//! Nothing here drops what is not for a VIP: the destination is read first, and the rest is judged only after it was
//! found in the directory.

use crate::access::Packet;
use crate::checksum;
use crate::directory::Vip;
use crate::field::{address, be16, ne32};
use crate::layout::Address;
use crate::verdict::Reason;

pub(crate) const ETHERTYPE_IPV4: u16 = 0x0800;
pub(crate) const ETHERTYPE_ARP: u16 = 0x0806;
pub(crate) const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_SERVICE_VLAN: u16 = 0x88a8;

pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMPV6: u8 = 58;
pub(crate) const SCTP: u8 = 132;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;

/// Bytes of an Ethernet header without tags.
pub(crate) const ETHERNET: usize = 14;

/// Mask that covers the length of an IPv4 header.
const LONGEST_IPV4: usize = 63;
/// Mask that covers the length of a link header.
const LONGEST_LINK: usize = 31;

/// Extension headers that are followed.
const MAX_EXTENSIONS: usize = 6;
/// Bytes of extension headers that are followed: a mask that covers them.
const MAX_EXTENSION_BYTES: usize = 511;

/// The link header.
#[derive(Clone, Copy)]
pub(crate) struct Link {
    /// Bytes of it: 14, 18 or 22.
    pub(crate) length: usize,
    /// What follows it.
    pub(crate) ethertype: u16,
}

/// Which IP.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

/// Part of a larger datagram? One word, all of which is defined whatever it says.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fragment(u64);

impl Fragment {
    const FIRST: u64 = 1 << 32;
    const LATER: u64 = 2 << 32;

    /// The whole of it.
    pub(crate) const NO: Self = Self(0);

    /// The first part, with the ports, under this identification.
    #[inline(always)]
    const fn first(id: u32) -> Self {
        Self(Self::FIRST | id as u64)
    }

    /// A later part.
    #[inline(always)]
    const fn later(id: u32) -> Self {
        Self(Self::LATER | id as u64)
    }

    #[inline(always)]
    pub(crate) const fn is_whole(self) -> bool {
        self.0 == 0
    }

    #[inline(always)]
    pub(crate) const fn is_first(self) -> bool {
        self.0 & Self::FIRST != 0
    }

    #[inline(always)]
    pub(crate) const fn is_later(self) -> bool {
        self.0 & Self::LATER != 0
    }

    /// The identification of all parts.
    #[inline(always)]
    pub(crate) const fn id(self) -> u32 {
        self.0 as u32
    }
}

/// An IP packet for a VIP. The words stand first, where they are aligned, and the small fields share one: it lies on the
/// stack, of which eBPF has 512 bytes.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(crate) struct Datagram {
    pub(crate) source: Address,
    pub(crate) destination: Address,
    /// Where it goes.
    pub(crate) vip: Vip,
    /// Bytes of the IP packet with its headers; what follows in the frame is padding.
    pub(crate) length: usize,
    /// Where the header of the protocol above IP begins in the frame.
    pub(crate) transport: usize,
    pub(crate) fragment: Fragment,
    link: u8,
    pub(crate) family: Family,
    /// Differentiated services and ECN.
    pub(crate) class: u8,
    /// TTL or hop limit.
    pub(crate) hops: u8,
    /// The protocol above IP and its extension headers.
    pub(crate) protocol: u8,
    /// IPv4: may not be fragmented. Always so in IPv6.
    pub(crate) whole: bool,
}

impl Datagram {
    /// Not parsed yet.
    pub(crate) const EMPTY: Self = Self {
        source: [0; 4],
        destination: [0; 4],
        vip: Vip { id: 0, flags: 0 },
        length: 0,
        transport: 0,
        fragment: Fragment::NO,
        link: 0,
        family: Family::V4,
        class: 0,
        hops: 0,
        protocol: 0,
        whole: false,
    };

    /// Where the IP header begins: the length of the link header.
    #[inline(always)]
    pub(crate) const fn link(&self) -> usize {
        self.link as usize
    }

    /// Where the packet ends in the frame.
    #[inline(always)]
    pub(crate) const fn end(&self) -> usize {
        self.link() + self.length
    }
}

/// An IPv4 address, as it lies in the packet, in the form of the tables.
#[inline(always)]
pub(crate) const fn mapped(address: u32) -> Address {
    [0, 0, u32::from_ne_bytes([0, 0, 0xff, 0xff]), address]
}

/// The link header; `None` for what is too short for one. A third tag is left to be an unknown EtherType.
#[inline(always)]
pub(crate) fn link<P: Packet>(packet: &P) -> Option<Link> {
    let ethernet = packet.view::<ETHERNET>(0)?;
    let mut link = Link { length: ETHERNET, ethertype: be16(ethernet, 12) };
    if is_tag(link.ethertype) {
        link = Link { length: ETHERNET + 4, ethertype: be16(packet.view::<2>(ETHERNET + 2)?, 0) };
        if is_tag(link.ethertype) {
            link = Link { length: ETHERNET + 8, ethertype: be16(packet.view::<2>(ETHERNET + 6)?, 0) };
        }
        link.length = packet.opaque(link.length) & LONGEST_LINK;
    }
    Some(link)
}

#[inline(always)]
pub(crate) const fn is_tag(ethertype: u16) -> bool {
    matches!(ethertype, ETHERTYPE_VLAN | ETHERTYPE_SERVICE_VLAN)
}

/// The whole IPv4 header.
#[inline(always)]
pub(crate) fn ipv4<P: Packet>(packet: &P, link: usize, vip: Vip, datagram: &mut Datagram) -> Result<(), Reason> {
    let header = packet.view::<20>(link).ok_or(Reason::Truncated)?;
    let mut header_length = usize::from(header[0] & 0x0f) * 4;
    let length = usize::from(be16(header, 2));
    if header[0] >> 4 != 4 || header_length < 20 || length < header_length {
        return Err(Reason::BadHeader);
    }
    if link + length > packet.length() {
        return Err(Reason::Truncated);
    }
    let mut sum = checksum::header_sum(header);
    if header_length > 20 {
        sum += options(packet, link + 20, header_length - 20)?;
        header_length = packet.opaque(header_length) & LONGEST_IPV4;
    }
    if !checksum::is_valid(sum) {
        return Err(Reason::BadChecksum);
    }
    let flags = be16(header, 6);
    let id = u32::from(be16(header, 4));
    let fragment = match (flags & 0x1fff, flags & 0x2000) {
        (0, 0) => Fragment::NO,
        (0, _) => Fragment::first(id),
        _ => Fragment::later(id),
    };
    *datagram = Datagram {
        vip,
        link: link as u8,
        family: Family::V4,
        source: mapped(ne32(header, 12)),
        destination: mapped(ne32(header, 16)),
        length,
        class: header[1],
        hops: header[8],
        protocol: header[9],
        transport: link + header_length,
        fragment,
        whole: flags & 0x4000 != 0,
    };
    Ok(())
}

/// The common IPv4 packet: TCP or UDP, whole, without tags and options, all of whose headers lie in the frame. `None` is no
/// judgement: the packet wants a closer look.
///
/// `head` is what follows the link header in a frame of `frame` bytes.
///
/// All offsets are fixed and nothing is filled in by halves, so that the compiler keeps it in registers.
#[inline(always)]
pub(crate) fn common4(head: &[u8; 40], frame: usize, vip: Vip) -> Option<(Datagram, Transport)> {
    let length = usize::from(be16(head, 2));
    let protocol = head[9];
    let place = be16(head, 6);
    if head[0] != 0x45 || place & 0x3fff != 0 || ETHERNET + length > frame {
        return None;
    }
    if !checksum::is_valid(checksum::header_sum(head)) {
        return None;
    }
    let transport = common_transport(protocol, length, 20, ports_at(head, 20), head[33])?;
    let datagram = Datagram {
        source: mapped(ne32(head, 12)),
        destination: mapped(ne32(head, 16)),
        vip,
        link: ETHERNET as u8,
        family: Family::V4,
        length,
        class: head[1],
        hops: head[8],
        protocol,
        transport: ETHERNET + 20,
        fragment: Fragment::NO,
        whole: place & 0x4000 != 0,
    };
    Some((datagram, transport))
}

/// The common IPv6 packet: TCP or UDP without tags and extension headers. As [`common4`].
#[inline(always)]
pub(crate) fn common6(head: &[u8; 60], frame: usize, vip: Vip) -> Option<(Datagram, Transport)> {
    let payload = usize::from(be16(head, 4));
    let protocol = head[6];
    if head[0] >> 4 != 6 || ETHERNET + 40 + payload > frame {
        return None;
    }
    let transport = common_transport(protocol, payload, 0, ports_at(head, 40), head[53])?;
    let datagram = Datagram {
        source: address(head, 8),
        destination: address(head, 24),
        vip,
        link: ETHERNET as u8,
        family: Family::V6,
        length: 40 + payload,
        class: head[0] << 4 | head[1] >> 4,
        hops: head[7],
        protocol,
        transport: ETHERNET + 40,
        fragment: Fragment::NO,
        whole: true,
    };
    Some((datagram, transport))
}

/// The transport header of a common packet, which begins `at` bytes into `length`.
#[inline(always)]
fn common_transport(protocol: u8, length: usize, at: usize, ports: u32, flags: u8) -> Option<Transport> {
    match protocol {
        TCP if length >= at + 20 => Some(Transport(u64::from(ports) | u64::from(flags) << Transport::FLAGS)),
        UDP if length >= at + 8 => Some(Transport::of_ports(ports)),
        _ => None,
    }
}

/// Sum of the options of an IPv4 header, up to ten words.
#[inline(always)]
fn options<P: Packet>(packet: &P, offset: usize, length: usize) -> Result<u64, Reason> {
    let mut sum = 0;
    for word in 0..10 {
        if word * 4 >= length {
            break;
        }
        let bytes = packet.view::<4>(offset + word * 4).ok_or(Reason::Truncated)?;
        sum += u64::from(ne32(bytes, 0));
    }
    Ok(sum)
}

/// The IPv6 header and what extends it.
#[inline(always)]
pub(crate) fn ipv6<P: Packet>(packet: &P, link: usize, vip: Vip, datagram: &mut Datagram) -> Result<(), Reason> {
    let header = packet.view::<40>(link).ok_or(Reason::Truncated)?;
    if header[0] >> 4 != 6 {
        return Err(Reason::BadHeader);
    }
    let length = 40 + usize::from(be16(header, 4));
    if link + length > packet.length() {
        return Err(Reason::Truncated);
    }
    *datagram = Datagram {
        vip,
        link: link as u8,
        family: Family::V6,
        source: address(header, 8),
        destination: address(header, 24),
        length,
        class: header[0] << 4 | header[1] >> 4,
        hops: header[7],
        protocol: header[6],
        transport: link + 40,
        fragment: Fragment::NO,
        whole: true,
    };
    if is_extension(datagram.protocol) {
        let upper = extensions(packet, datagram.protocol, datagram.transport, datagram.end())?;
        datagram.protocol = upper.protocol;
        datagram.transport = link + 40 + (packet.opaque(upper.offset - link - 40) & MAX_EXTENSION_BYTES);
        datagram.fragment = upper.fragment;
    }
    Ok(())
}

#[inline(always)]
pub(crate) const fn is_extension(protocol: u8) -> bool {
    matches!(protocol, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION_OPTIONS)
}

/// What stands behind the extension headers.
pub(crate) struct Upper {
    pub(crate) protocol: u8,
    pub(crate) offset: usize,
    pub(crate) fragment: Fragment,
}

/// Follows extension headers (RFC 8200, section 4; AH: RFC 4302) up to a bound.
#[inline(always)]
pub(crate) fn extensions<P: Packet>(packet: &P, protocol: u8, offset: usize, end: usize) -> Result<Upper, Reason> {
    let mut upper = Upper { protocol, offset, fragment: Fragment::NO };
    let mut followed = 0;
    for _ in 0..MAX_EXTENSIONS {
        if !is_extension(upper.protocol) {
            return Ok(upper);
        }
        let at = offset + followed;
        if at + 8 > end {
            return Err(Reason::Truncated);
        }
        let header = packet.view::<8>(at).ok_or(Reason::Truncated)?;
        let length = match upper.protocol {
            FRAGMENT => 8,
            AUTHENTICATION => (usize::from(header[1]) + 2) * 4,
            _ => (usize::from(header[1]) + 1) * 8,
        };
        if upper.protocol == FRAGMENT {
            let id = ne32(header, 4);
            let place = be16(header, 2);
            upper.fragment = match (place & 0xfff8, place & 1) {
                (0, 0) => Fragment::NO,
                (0, _) => Fragment::first(id),
                _ => Fragment::later(id),
            };
        }
        upper.protocol = header[0];
        followed += length;
        if followed > MAX_EXTENSION_BYTES {
            return Err(Reason::TooManyHeaders);
        }
        upper.offset = offset + followed;
        if upper.fragment.is_later() {
            return Ok(upper);
        }
    }
    if is_extension(upper.protocol) { Err(Reason::TooManyHeaders) } else { Ok(upper) }
}

/// What the ports and flags of a transport header say of the flow, in one word: the ports in the lower half, the flags of
/// TCP above. Flags are asked as numbers, not by branches: so the verifier has one state to follow, not one for each.
#[derive(Clone, Copy)]
pub(crate) struct Transport(u64);

impl Transport {
    /// Of protocols without ports.
    pub(crate) const NONE: Self = Self(0);

    const FLAGS: u32 = 32;
    const SYN: u64 = 1 << Self::FLAGS << 1;

    /// Ports as of [`Transport::ports`], no flags.
    #[inline(always)]
    pub(crate) const fn of_ports(ports: u32) -> Self {
        Self(ports as u64)
    }

    /// Source and destination port as they lie, as one little-endian number (the source port is in the low half).
    #[inline(always)]
    pub(crate) const fn ports(self) -> u32 {
        self.0 as u32
    }

    /// Destination port as a number.
    #[inline(always)]
    pub(crate) const fn destination(self) -> u16 {
        ((self.0 >> 16) as u16).swap_bytes()
    }

    /// 1 for TCP SYN without ACK, or SCTP INIT.
    #[inline(always)]
    pub(crate) const fn opens(self) -> u64 {
        let flags = self.0 >> Self::FLAGS;
        flags >> 1 & !(flags >> 4) & 1
    }

    /// 1 for TCP RST.
    #[inline(always)]
    pub(crate) const fn resets(self) -> u64 {
        self.0 >> Self::FLAGS >> 2 & 1
    }
}

/// Reads the transport header of a first or only fragment.
#[inline(always)]
pub(crate) fn transport<P: Packet>(packet: &P, datagram: &Datagram) -> Result<Transport, Reason> {
    let at = datagram.transport;
    let room = datagram.end();
    match datagram.protocol {
        TCP => {
            if at + 20 > room {
                return Err(Reason::Truncated);
            }
            let header = packet.view::<14>(at).ok_or(Reason::Truncated)?;
            Ok(Transport(u64::from(ports(header)) | u64::from(header[13]) << Transport::FLAGS))
        }
        UDP => {
            if at + 8 > room {
                return Err(Reason::Truncated);
            }
            let header = packet.view::<4>(at).ok_or(Reason::Truncated)?;
            Ok(Transport::of_ports(ports(header)))
        }
        SCTP => {
            if at + 12 > room {
                return Err(Reason::Truncated);
            }
            let header = packet.view::<12>(at).ok_or(Reason::Truncated)?;
            // INIT is the only chunk under verification tag 0 (RFC 9260, section 8.5.1).
            let opens = if ne32(header, 4) == 0 { Transport::SYN } else { 0 };
            Ok(Transport(u64::from(ports(header)) | opens))
        }
        _ => Ok(Transport::NONE),
    }
}

#[inline(always)]
pub(crate) fn ports<const N: usize>(header: &[u8; N]) -> u32 {
    ports_at(header, 0)
}

#[inline(always)]
fn ports_at<const N: usize>(header: &[u8; N], at: usize) -> u32 {
    u32::from_le_bytes(crate::field::bytes(header, at))
}
