//! One end of a packet becomes another one, and what it says of that end everywhere: addresses, ports, checksums, and the
//! packet that an ICMP error quotes.

use super::datagram::Datagram;
use crate::frame::{Change, PROTOCOL_UDP, StackFrame};
use sluicegate_l4::checksum;
use sluicegate_l4::layout::Address;

/// Which end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum End {
    #[default]
    Source,
    Destination,
}

impl End {
    #[inline(always)]
    pub(super) const fn other(self) -> Self {
        match self {
            Self::Source => Self::Destination,
            Self::Destination => Self::Source,
        }
    }
}

/// What it becomes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Place {
    pub(super) address: Address,
    pub(super) port: u16,
}

/// Rewrites one end of a packet of TCP or UDP. `port` is what it says now; a later part has none.
#[inline(always)]
pub(super) fn rewrite<P: StackFrame>(
    packet: &mut P,
    datagram: &Datagram,
    end: End,
    port: u16,
    place: &Place,
) -> Option<()> {
    let from = match end {
        End::Source => datagram.source,
        End::Destination => datagram.destination,
    };
    if datagram.fragment.later().is_none() {
        let change = Change {
            checksum: datagram.checksum(),
            optional: datagram.protocol == PROTOCOL_UDP,
            ipv6: datagram.ipv6,
            from,
            to: place.address,
            from_port: port,
            to_port: place.port,
        };
        done(packet.make_up(&change))?;
        done(packet.write(port_at(datagram, end), place.port.to_be_bytes()))?;
    }
    readdress(packet, datagram, end, &from, &place.address)
}

/// Rewrites one end of the packet that an ICMP error quotes. The other end's port and all else stays.
#[inline(always)]
pub(super) fn requote<P: StackFrame>(
    packet: &mut P,
    error: &Datagram,
    quoted: &Datagram,
    end: End,
    port: u16,
    place: &Place,
) -> Option<()> {
    let from = match end {
        End::Source => quoted.source,
        End::Destination => quoted.destination,
    };
    // The change as each checksum sees it: that of the quoted segment sees addresses and port, the ICMP message sees the
    // port, what became of both checksums, and the addresses.
    let addresses = difference(&from, &place.address, quoted.ipv6);
    let ports = word(port, place.port);
    let mut message = addresses + ports;
    let at = quoted.checksum();
    if at + 2 <= error.end {
        let old = u16::from_be_bytes(*packet.view::<2>(at)?);
        if quoted.protocol != PROTOCOL_UDP || old != 0 {
            let new = match !checksum::fold(u32::from(!old) + addresses + ports) {
                0 if quoted.protocol == PROTOCOL_UDP => 0xffff,
                new => new,
            };
            message += word(old, new);
            done(packet.write(at, new.to_be_bytes()))?;
        }
    }
    if !quoted.ipv6 {
        let old = u16::from_be_bytes(*packet.view::<2>(quoted.ip + 10)?);
        let new = !checksum::fold(u32::from(!old) + addresses);
        message += word(old, new);
        done(packet.write(quoted.ip + 10, new.to_be_bytes()))?;
    }
    done(packet.write(port_at(quoted, end), place.port.to_be_bytes()))?;
    put_address(packet, quoted, end, &place.address)?;
    add_to_message(packet, error, message)
}

/// Rewrites one end of an ICMP error, which has no port.
#[inline(always)]
pub(super) fn readdress_error<P: StackFrame>(
    packet: &mut P,
    error: &Datagram,
    end: End,
    address: &Address,
) -> Option<()> {
    let from = match end {
        End::Source => error.source,
        End::Destination => error.destination,
    };
    if error.ipv6 {
        // Only there the message's checksum covers the addresses (RFC 4443, section 2.3).
        add_to_message(packet, error, difference(&from, address, true))?;
    }
    readdress(packet, error, end, &from, address)
}

#[inline(always)]
fn add_to_message<P: StackFrame>(packet: &mut P, error: &Datagram, change: u32) -> Option<()> {
    let at = error.transport + 2;
    let old = u16::from_be_bytes(*packet.view::<2>(at)?);
    done(packet.write(at, (!checksum::fold(u32::from(!old) + change)).to_be_bytes()))
}

/// The IP header alone.
#[inline(always)]
fn readdress<P: StackFrame>(packet: &mut P, datagram: &Datagram, end: End, from: &Address, to: &Address) -> Option<()> {
    if !datagram.ipv6 {
        let old = u16::from_be_bytes(*packet.view::<2>(datagram.ip + 10)?);
        let new = !checksum::fold(u32::from(!old) + difference(from, to, false));
        done(packet.write(datagram.ip + 10, new.to_be_bytes()))?;
    }
    put_address(packet, datagram, end, to)
}

#[inline(always)]
fn put_address<P: StackFrame>(packet: &mut P, datagram: &Datagram, end: End, address: &Address) -> Option<()> {
    let [first, second, third, fourth] = address.map(u32::to_ne_bytes);
    if datagram.ipv6 {
        let at = datagram.ip + if end == End::Source { 8 } else { 24 };
        done(packet.write(at, first) && packet.write(at + 4, second))?;
        done(packet.write(at + 8, third) && packet.write(at + 12, fourth))
    } else {
        let at = datagram.ip + if end == End::Source { 12 } else { 16 };
        done(packet.write(at, fourth))
    }
}

#[inline(always)]
const fn port_at(datagram: &Datagram, end: End) -> usize {
    datagram.transport + if matches!(end, End::Source) { 0 } else { 2 }
}

/// What is added to the complement of a checksum where these 16 bits change under it (RFC 1624, equation 3).
#[inline(always)]
const fn word(old: u16, new: u16) -> u32 {
    !old as u32 + new as u32
}

#[inline(always)]
fn difference(old: &Address, new: &Address, ipv6: bool) -> u32 {
    let half = |old: u32, new: u32| {
        let (old, new) = (u32::from_be(old), u32::from_be(new));
        word((old >> 16) as u16, (new >> 16) as u16) + word(old as u16, new as u16)
    };
    if ipv6 {
        half(old[0], new[0]) + half(old[1], new[1]) + half(old[2], new[2]) + half(old[3], new[3])
    } else {
        half(old[3], new[3])
    }
}

#[inline(always)]
const fn done(written: bool) -> Option<()> {
    if written { Some(()) } else { None }
}
