//! ARP over Ethernet (RFC 826) as RFC 5227 uses it.

use super::{BROADCAST, Mac};
use std::net::Ipv4Addr;

const ETHERTYPE: [u8; 2] = [0x08, 0x06];
/// Hardware type Ethernet, protocol type IPv4, address lengths.
const KIND: [u8; 6] = [0, 1, 0x08, 0, 6, 4];
const REQUEST: u8 = 1;
const REPLY: u8 = 2;
const LENGTH: usize = 42;

/// The announcement of RFC 5227, section 3, as a request; and the same as a reply, because some stations learn from
/// replies alone.
#[must_use]
pub fn announcements(mac: Mac, vip: Ipv4Addr) -> [Vec<u8>; 2] {
    [frame(mac, REQUEST, vip, [0; 6], vip), frame(mac, REPLY, vip, BROADCAST, vip)]
}

/// The probe of RFC 5227, section 2.1.1: a request whose sender has no address, so that no cache learns from it.
#[must_use]
pub fn probe(mac: Mac, vip: Ipv4Addr) -> Vec<u8> {
    frame(mac, REQUEST, Ipv4Addr::UNSPECIFIED, [0; 6], vip)
}

/// Who says that which address is theirs: the sender of a request or reply. Nobody in a probe.
#[must_use]
pub fn claim(frame: &[u8]) -> Option<(Ipv4Addr, Mac)> {
    let frame: &[u8; LENGTH] = frame.first_chunk()?;
    let is_arp = frame[12..14] == ETHERTYPE && frame[14..20] == KIND && frame[20] == 0;
    if !is_arp || !matches!(frame[21], REQUEST | REPLY) {
        return None;
    }
    let mac = [frame[22], frame[23], frame[24], frame[25], frame[26], frame[27]];
    let address = Ipv4Addr::new(frame[28], frame[29], frame[30], frame[31]);
    (!address.is_unspecified()).then_some((address, mac))
}

fn frame(mac: Mac, operation: u8, sender: Ipv4Addr, target_mac: Mac, target: Ipv4Addr) -> Vec<u8> {
    let mut frame = Vec::with_capacity(LENGTH);
    frame.extend(BROADCAST);
    frame.extend(mac);
    frame.extend(ETHERTYPE);
    frame.extend(KIND);
    frame.extend([0, operation]);
    frame.extend(mac);
    frame.extend(sender.octets());
    frame.extend(target_mac);
    frame.extend(target.octets());
    frame
}
