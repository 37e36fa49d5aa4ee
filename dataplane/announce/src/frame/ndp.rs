//! Neighbour discovery (RFC 4861) and duplicate address detection (RFC 4862).

use super::Mac;
use std::net::Ipv6Addr;

const ETHERTYPE: [u8; 2] = [0x86, 0xdd];
const ICMPV6: u8 = 58;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// Override, but neither router nor solicited: RFC 4861, section 7.2.6.
const OVERRIDE: u8 = 0x20;
const TARGET_LINK_LAYER_ADDRESS: u8 = 2;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// A router would have lowered it: what has less came from off the link (RFC 4861, section 7.1).
const HOP_LIMIT: u8 = 255;
const ETHERNET: usize = 14;
const IPV6: usize = 40;

/// The group that carries solicitations for the address: RFC 4291, section 2.7.1.
#[must_use]
pub fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::from([0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

/// To all nodes: the VIP is at this MAC address (RFC 4861, section 7.2.6).
#[must_use]
pub fn unsolicited_advertisement(mac: Mac, vip: Ipv6Addr) -> Vec<u8> {
    let mut body = vec![ADVERTISEMENT, 0, 0, 0, OVERRIDE, 0, 0, 0];
    body.extend(vip.octets());
    body.extend([TARGET_LINK_LAYER_ADDRESS, 1]);
    body.extend(mac);
    frame(mac, vip, ALL_NODES, body)
}

/// A solicitation as for duplicate address detection: from nobody, so that no cache learns from it (RFC 4862, section 5.4.2).
#[must_use]
pub fn probe(mac: Mac, vip: Ipv6Addr) -> Vec<u8> {
    let mut body = vec![SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
    body.extend(vip.octets());
    frame(mac, Ipv6Addr::UNSPECIFIED, solicited_node(vip), body)
}

/// Who says that which address is theirs: a valid advertisement with a target link-layer address (RFC 4861, section
/// 7.1.2). Extension headers do not occur in front of one.
#[must_use]
pub fn claim(frame: &[u8]) -> Option<(Ipv6Addr, Mac)> {
    let header: &[u8; ETHERNET + IPV6] = frame.first_chunk()?;
    let length = usize::from(u16::from_be_bytes([header[18], header[19]]));
    let body = frame.get(header.len()..header.len() + length)?;
    let is_advertisement = header[12..14] == ETHERTYPE
        && header[20] == ICMPV6
        && header[21] == HOP_LIMIT
        && body.first() == Some(&ADVERTISEMENT);
    let addresses: &[u8; 32] = header.last_chunk()?;
    if !is_advertisement || checksum(addresses, body) != 0 {
        return None;
    }
    let target: [u8; 16] = *body.get(8..)?.first_chunk()?;
    let mut options = body.get(24..)?;
    // An option of length zero ends it, as it would never end otherwise.
    while let [kind, eights, ..] = *options
        && eights > 0
    {
        let (option, rest) = options.split_at_checked(usize::from(eights) * 8)?;
        if let (TARGET_LINK_LAYER_ADDRESS, [_, 1, mac @ ..]) = (kind, option) {
            return Some((target.into(), mac.try_into().ok()?));
        }
        options = rest;
    }
    None
}

fn frame(mac: Mac, source: Ipv6Addr, group: Ipv6Addr, mut body: Vec<u8>) -> Vec<u8> {
    let [.., a, b, c, d] = group.octets();
    let mut addresses = [0; 32];
    addresses[..16].copy_from_slice(&source.octets());
    addresses[16..].copy_from_slice(&group.octets());
    let sum = checksum(&addresses, &body).to_be_bytes();
    body[2..4].copy_from_slice(&sum);
    let mut frame = Vec::with_capacity(ETHERNET + IPV6 + body.len());
    // RFC 2464, section 7.
    frame.extend([0x33, 0x33, a, b, c, d]);
    frame.extend(mac);
    frame.extend(ETHERTYPE);
    frame.extend([0x60, 0, 0, 0, 0, body.len() as u8, ICMPV6, HOP_LIMIT]);
    frame.extend(addresses);
    frame.extend(body);
    frame
}

/// RFC 4443, section 2.3: over the pseudo-header and the message. Over a message that carries its checksum: 0 if right.
fn checksum(addresses: &[u8; 32], body: &[u8]) -> u16 {
    let words = |bytes: &[u8]| -> u64 {
        bytes.chunks(2).map(|pair| u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]))).sum()
    };
    let mut sum = words(addresses) + body.len() as u64 + u64::from(ICMPV6) + words(body);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
