//! ICMP of a VIP: echo is answered, errors go to the backend of the flow that they quote, and who sends what is too big
//! for the way to the backend is told so (RFC 792, RFC 1191, RFC 4443, RFC 8201).

use crate::access::{Packet, Tables};
use crate::checksum;
use crate::directory::{self, Vip};
use crate::encap;
use crate::field::{address, be16, bytes, ne32, put, put_address};
use crate::layout::{Address, AddressEntry};
use crate::parse::{
    self, Datagram, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Family, ICMP, ICMPV6, SCTP, TCP, Transport, UDP, mapped,
};
use crate::select::{self, Query};
use crate::verdict::{Reason, Verdict};

const V4_ECHO_REPLY: u8 = 0;
const V4_UNREACHABLE: u8 = 3;
const V4_FRAGMENTATION_NEEDED: u8 = 4;
const V4_ECHO: u8 = 8;
const V4_TIME_EXCEEDED: u8 = 11;
const V4_PARAMETER_PROBLEM: u8 = 12;
const V6_UNREACHABLE: u8 = 1;
const V6_PACKET_TOO_BIG: u8 = 2;
const V6_PARAMETER_PROBLEM: u8 = 4;
const V6_ECHO: u8 = 128;
const V6_ECHO_REPLY: u8 = 129;
/// Multicast listener discovery and neighbour discovery.
const V6_FIRST_OF_LINK: u8 = 130;
const V6_LAST_OF_LINK: u8 = 137;
const V6_MLD2_REPORT: u8 = 143;

/// TTL and hop limit of what is answered.
const HOPS: u8 = 64;
/// Precedence of ICMP errors: internetwork control (RFC 1812, section 4.3.2.5).
const ERROR_CLASS: u8 = 0xc0;
/// Bytes of a packet that is too big which the answer quotes. The header and 8 bytes suffice (RFC 792); IPv6 asks for as
/// much as fits, of which this much holds all headers in practice.
const V6_QUOTE: usize = 128;

/// Bytes of an ICMP header.
const ICMP_HEADER: usize = 8;

/// The flow that an error quotes; without a backend there is none.
#[derive(Default)]
pub(crate) struct Flow {
    pub(crate) service: u64,
    pub(crate) backend: u64,
    pub(crate) hash: u64,
}

/// An ICMP message to a VIP: answered, refused, or, where it is an error about a flow, for the caller to deliver.
#[inline(never)]
pub(crate) fn message<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    datagram: &Datagram,
    flow: &mut Flow,
) -> Verdict {
    let (Ok(verdict) | Err(verdict)) = judge(packet, tables, datagram, flow);
    verdict
}

#[inline(always)]
fn judge<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    datagram: &Datagram,
    flow: &mut Flow,
) -> Result<Verdict, Verdict> {
    let vip = datagram.vip;
    if !datagram.fragment.is_whole() {
        return Err(unserved(vip, Reason::FragmentUnwanted));
    }
    if datagram.transport + ICMP_HEADER > datagram.end() {
        return Err(Verdict::Drop(Reason::Truncated));
    }
    let kind = packet.view::<1>(datagram.transport).ok_or(Verdict::Drop(Reason::Truncated))?[0];
    match (datagram.family, kind) {
        (Family::V4, V4_ECHO) | (Family::V6, V6_ECHO) if vip.flags & AddressEntry::ECHO != 0 => echo(packet, datagram),
        (Family::V4, V4_UNREACHABLE | V4_TIME_EXCEEDED | V4_PARAMETER_PROBLEM)
        | (Family::V6, V6_UNREACHABLE..=V6_PARAMETER_PROBLEM) => error(packet, tables, datagram, flow),
        (Family::V6, V6_FIRST_OF_LINK..=V6_LAST_OF_LINK | V6_MLD2_REPORT) => Err(Verdict::Pass(Reason::NdpOther)),
        _ => Err(unserved(vip, Reason::IcmpUnsupported)),
    }
}

/// What is not served passes where the VIP is an address of this machine too.
#[inline(always)]
fn unserved(vip: Vip, reason: Reason) -> Verdict {
    if vip.is_local() { Verdict::Pass(Reason::LocalAddress) } else { Verdict::Drop(reason) }
}

/// Can an answer reach this source?
#[inline(always)]
fn is_answerable(datagram: &Datagram) -> bool {
    let [first, second, third, fourth] = datagram.source;
    match datagram.family {
        Family::V4 => {
            let octet = fourth.to_ne_bytes()[0];
            octet != 0 && octet != 127 && octet < 224 && datagram.source != datagram.destination
        }
        Family::V6 => {
            let is_low = first | second | third == 0;
            first.to_ne_bytes()[0] != 0xff && !is_low && datagram.source != datagram.destination
        }
    }
}

/// Turns an echo request round. The checksum changes by its type alone: the sum of the addresses is that of before.
#[inline(always)]
fn echo<P: Packet>(packet: &mut P, datagram: &Datagram) -> Result<Verdict, Verdict> {
    if !is_answerable(datagram) {
        return Err(Verdict::Drop(Reason::BroadcastSource));
    }
    turn_round(packet, datagram).ok_or(Verdict::Drop(Reason::Truncated))?;
    Ok(Verdict::Transmit(Reason::EchoAnswered))
}

#[inline(always)]
fn turn_round<P: Packet>(packet: &mut P, datagram: &Datagram) -> Option<()> {
    let reply = match datagram.family {
        Family::V4 => V4_ECHO_REPLY,
        Family::V6 => V6_ECHO_REPLY,
    };
    let message = packet.view_mut::<4>(datagram.transport)?;
    let new = u16::from(reply) << 8 | u16::from(message[1]);
    let sum = checksum::update(be16(message, 2), be16(message, 0), new);
    put(message, 0, new.to_be_bytes());
    put(message, 2, sum.to_be_bytes());
    match datagram.family {
        Family::V4 => {
            let header = packet.view_mut::<20>(datagram.link())?;
            let old = be16(header, 8);
            let new = u16::from(HOPS) << 8 | old & 0xff;
            let sum = checksum::update(be16(header, 10), old, new);
            put(header, 8, [HOPS]);
            put(header, 10, sum.to_be_bytes());
            put(header, 12, datagram.destination[3].to_ne_bytes());
            put(header, 16, datagram.source[3].to_ne_bytes());
        }
        Family::V6 => {
            let header = packet.view_mut::<40>(datagram.link())?;
            put(header, 7, [HOPS]);
            put_address(header, 8, datagram.destination);
            put_address(header, 24, datagram.source);
        }
    }
    swap_macs(packet)
}

#[inline(always)]
fn swap_macs<P: Packet>(packet: &mut P) -> Option<()> {
    let ethernet = packet.view_mut::<12>(0)?;
    let to = encap::mac(ethernet, 0);
    let from = encap::mac(ethernet, 6);
    encap::put_mac(ethernet, 0, from);
    encap::put_mac(ethernet, 6, to);
    Some(())
}

/// What an ICMP error quotes: a packet from the VIP to a client.
struct Quoted {
    client: Address,
    protocol: u64,
    /// As in a packet from the client.
    ports: u64,
}

/// An ICMP error goes where the packets of the quoted flow go.
#[inline(always)]
fn error<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    datagram: &Datagram,
    flow: &mut Flow,
) -> Result<Verdict, Verdict> {
    let vip = datagram.vip;
    let control = tables.control().ok_or(Verdict::Drop(Reason::TableFault))?;
    let quoted = quote(packet, datagram).map_err(|reason| unserved(vip, reason))?;
    let transport = Transport::of_ports(quoted.ports as u32);
    let id = directory::find_service(tables, vip, quoted.protocol as u8, transport.destination())
        .ok_or(unserved(vip, Reason::IcmpUnknownFlow))?;
    let service = tables.service(id).ok_or(Verdict::Drop(Reason::TableFault))?;
    let query = Query::new(tables, &control, id, &quoted.client, quoted.protocol as u8, transport);
    let mut as_client = *datagram;
    as_client.source = quoted.client;
    let backend = select::quoted(tables, &control, &service, &query, &as_client).map_err(Verdict::Drop)?;
    *flow = Flow { service: u64::from(id), backend: u64::from(backend), hash: query.hash };
    Ok(Verdict::Pass(Reason::IcmpError))
}

/// Reads the quoted packet.
#[inline(always)]
fn quote<P: Packet>(packet: &P, datagram: &Datagram) -> Result<Quoted, Reason> {
    let unknown = Reason::IcmpUnknownFlow;
    let inner = datagram.transport + ICMP_HEADER;
    let (client, protocol, at) = match datagram.family {
        Family::V4 => {
            let header = packet.view::<20>(inner).ok_or(Reason::Truncated)?;
            let length = usize::from(header[0] & 0x0f) * 4;
            let is_part = be16(header, 6) & 0x1fff != 0;
            if header[0] >> 4 != 4 || length < 20 || is_part || mapped(ne32(header, 12)) != datagram.destination {
                return Err(unknown);
            }
            (mapped(ne32(header, 16)), header[9], inner + length)
        }
        Family::V6 => {
            let header = packet.view::<40>(inner).ok_or(Reason::Truncated)?;
            if header[0] >> 4 != 6 || address(header, 8) != datagram.destination {
                return Err(unknown);
            }
            let client = address(header, 24);
            let upper = parse::extensions(packet, header[6], inner + 40, datagram.end())?;
            if upper.fragment.is_later() {
                return Err(unknown);
            }
            (client, upper.protocol, upper.offset)
        }
    };
    if !matches!(protocol, TCP | UDP | SCTP) {
        return Err(unknown);
    }
    if at + 4 > datagram.end() {
        return Err(Reason::Truncated);
    }
    let ports = parse::ports(packet.view::<4>(at).ok_or(Reason::Truncated)?);
    Ok(Quoted { client, protocol: u64::from(protocol), ports: u64::from(ports.rotate_left(16)) })
}

/// Tells the sender of a packet which size fits, or drops the packet where it must not or cannot be told.
#[inline(never)]
pub(crate) fn too_big<P: Packet>(packet: &mut P, datagram: &Datagram, mtu: u16) -> Verdict {
    let (Ok(verdict) | Err(verdict)) = tell(packet, datagram, mtu);
    verdict
}

#[inline(always)]
fn tell<P: Packet>(packet: &mut P, datagram: &Datagram, mtu: u16) -> Result<Verdict, Verdict> {
    let silent = Verdict::Drop(Reason::TooBig);
    if !datagram.whole || datagram.fragment.is_later() {
        return Err(silent);
    }
    if !is_answerable(datagram) {
        return Err(Verdict::Drop(Reason::BroadcastSource));
    }
    // Sent to a group on this link: whom the frame reached is not who was meant (RFC 1122, section 3.2.2).
    if packet.view::<12>(0).ok_or(silent)?[0] & 1 != 0 {
        return Err(silent);
    }
    let told = match datagram.family {
        Family::V4 => fragmentation_needed(packet, datagram, mtu),
        Family::V6 => packet_too_big(packet, datagram, mtu),
    };
    told.ok_or(Verdict::Drop(Reason::NoRoom))?;
    Ok(Verdict::Transmit(Reason::TooBigAnswered))
}

/// Quotes header and 8 bytes. The header's own sum is that of a right one, so that only the 8 bytes are summed.
#[inline(always)]
fn fragmentation_needed<P: Packet>(packet: &mut P, datagram: &Datagram, mtu: u16) -> Option<()> {
    const ADDED: usize = 20 + ICMP_HEADER;
    let beyond = checksum::sum(packet.view::<8>(datagram.transport)?);
    let quoted = datagram.transport - datagram.link() + 8;
    readdress(packet, datagram, ADDED, quoted, ETHERTYPE_IPV4)?;
    let length = (ADDED + quoted) as u16;
    let header = packet.view_mut::<20>(datagram.link())?;
    let [high, low] = length.to_be_bytes();
    put(header, 0, [0x45, ERROR_CLASS, high, low, 0, 0, 0x40, 0, HOPS, ICMP, 0, 0]);
    put(header, 12, datagram.destination[3].to_ne_bytes());
    put(header, 16, datagram.source[3].to_ne_bytes());
    let sum = !checksum::fold(checksum::sum(header));
    put(header, 10, sum.to_be_bytes());
    let message = packet.view_mut::<ICMP_HEADER>(datagram.link() + 20)?;
    put(message, 0, [V4_UNREACHABLE, V4_FRAGMENTATION_NEEDED, 0, 0, 0, 0]);
    put(message, 6, mtu.to_be_bytes());
    let sum = !checksum::fold(checksum::sum(message) + beyond + 0xffff);
    put(message, 2, sum.to_be_bytes());
    Some(())
}

#[inline(always)]
fn packet_too_big<P: Packet>(packet: &mut P, datagram: &Datagram, mtu: u16) -> Option<()> {
    const ADDED: usize = 40 + ICMP_HEADER;
    let beyond = checksum::sum(packet.view::<V6_QUOTE>(datagram.link())?);
    readdress(packet, datagram, ADDED, V6_QUOTE, ETHERTYPE_IPV6)?;
    let length = (ICMP_HEADER + V6_QUOTE) as u16;
    let header = packet.view_mut::<40>(datagram.link())?;
    let [high, low] = length.to_be_bytes();
    put(header, 0, [0x60, 0, 0, 0, high, low, ICMPV6, HOPS]);
    put_address(header, 8, datagram.destination);
    put_address(header, 24, datagram.source);
    let message = packet.view_mut::<ICMP_HEADER>(datagram.link() + 40)?;
    put(message, 0, [V6_PACKET_TOO_BIG, 0, 0, 0, 0, 0]);
    put(message, 6, mtu.to_be_bytes());
    let pseudo = checksum::pseudo_header(&datagram.destination, &datagram.source, length, ICMPV6);
    let sum = !checksum::fold(checksum::sum(message) + beyond + pseudo);
    put(message, 2, sum.to_be_bytes());
    Some(())
}

/// Cuts the packet to what is quoted, makes room for the headers of the answer, and sends the frame back.
#[inline(always)]
fn readdress<P: Packet>(
    packet: &mut P,
    datagram: &Datagram,
    added: usize,
    quoted: usize,
    ethertype: u16,
) -> Option<()> {
    let ethernet = packet.view::<12>(0)?;
    let swapped = (encap::mac(ethernet, 6), encap::mac(ethernet, 0));
    let tags: [u8; 8] = bytes(packet.view::<22>(0)?, 12);
    if !packet.truncate(datagram.link() + quoted) || !packet.move_head(added as isize) {
        return None;
    }
    encap::write_link(packet, swapped, tags, datagram.link(), ethertype)
}
