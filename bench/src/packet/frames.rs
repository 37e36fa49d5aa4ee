//! The frame of a scenario, and what the replaying program is told about it.

use super::scenario::{Kind, Scenario};
use super::tables::{OWN_MAC, VIP4, VIP6};
use sluicegate_xdp::replay::{HEAD_BYTES, Script};
use std::net::Ipv4Addr;

const PORT: u16 = 80;
const ETHERNET: usize = 14;
/// What a link of 1,500 bytes carries and a tunnel through it does not.
const BIG: usize = ETHERNET + 1500;
/// The shortest frame of Ethernet, without its check sequence; IPv6 headers with TCP take more.
const SMALL4: usize = 64;
const SMALL6: usize = 78;

/// The frame that the first run gets.
pub fn frame(scenario: &Scenario) -> Vec<u8> {
    let length = match (scenario.kind, scenario.v6) {
        (Kind::TooBig, _) => BIG,
        (_, false) => SMALL4,
        (_, true) => SMALL6,
    };
    let mut frame = vec![0; length];
    frame[0..6].copy_from_slice(&OWN_MAC);
    frame[6..12].copy_from_slice(&[0x02, 0, 0, 0, 0, 0x02]);
    let transport = if scenario.v6 { ipv6(scenario, &mut frame) } else { ipv4(scenario, &mut frame) };
    match scenario.kind {
        Kind::Echo => frame[transport..transport + 4].copy_from_slice(&[8, 0, 0xf7, 0xff]),
        Kind::Udp => {
            ports(&mut frame[transport..]);
            let bytes = u16::try_from(length - transport).unwrap_or(u16::MAX);
            frame[transport + 4..transport + 6].copy_from_slice(&bytes.to_be_bytes());
        }
        Kind::Ack | Kind::Syn | Kind::TooBig | Kind::Elsewhere => {
            ports(&mut frame[transport..]);
            frame[transport + 12] = 5 << 4;
            frame[transport + 13] = if scenario.kind == Kind::Syn { 0x02 } else { 0x10 };
        }
    }
    frame
}

/// What `replay4` and `replay6` are told.
pub fn script(scenario: &Scenario, frame: &[u8]) -> Script {
    let mut head = [0; HEAD_BYTES];
    let known = frame.len().min(HEAD_BYTES);
    head[..known].copy_from_slice(&frame[..known]);
    let checksum = if scenario.v6 { 0 } else { sum(&without_source(&frame[ETHERNET..ETHERNET + 20])) };
    Script {
        flow_mask: scenario.flows.map_or(u64::MAX, |flows| flows - 1),
        length: u32::try_from(frame.len()).unwrap_or(u32::MAX),
        pushed: scenario.pushed(),
        checksum,
        vary: u32::from(scenario.kind != Kind::Echo),
        flood: scenario.flood,
        reserved: 0,
        head,
    }
}

/// Returns where the transport's header begins.
fn ipv4(scenario: &Scenario, frame: &mut [u8]) -> usize {
    let bytes = u16::try_from(frame.len() - ETHERNET).unwrap_or(u16::MAX);
    frame[12..14].copy_from_slice(&[0x08, 0x00]);
    let header = &mut frame[ETHERNET..ETHERNET + 20];
    header[0] = 0x45;
    header[2..4].copy_from_slice(&bytes.to_be_bytes());
    header[6] = 0x40;
    header[8] = 64;
    header[9] = match scenario.kind {
        Kind::Udp => 17,
        Kind::Echo => 1,
        _ => 6,
    };
    header[12..16].copy_from_slice(&Ipv4Addr::new(10, 0, 0, 1).octets());
    let destination = if scenario.kind == Kind::Elsewhere { Ipv4Addr::new(192, 0, 2, 77) } else { VIP4 };
    header[16..20].copy_from_slice(&destination.octets());
    let checksum = !fold(sum(header));
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
    ETHERNET + 20
}

fn ipv6(scenario: &Scenario, frame: &mut [u8]) -> usize {
    let bytes = u16::try_from(frame.len() - ETHERNET - 40).unwrap_or(u16::MAX);
    frame[12..14].copy_from_slice(&[0x86, 0xdd]);
    let header = &mut frame[ETHERNET..ETHERNET + 40];
    header[0] = 0x60;
    header[4..6].copy_from_slice(&bytes.to_be_bytes());
    header[6] = if scenario.kind == Kind::Udp { 17 } else { 6 };
    header[7] = 64;
    header[8..12].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
    header[24..40].copy_from_slice(&VIP6.octets());
    ETHERNET + 40
}

fn ports(transport: &mut [u8]) {
    transport[0..2].copy_from_slice(&1024_u16.to_be_bytes());
    transport[2..4].copy_from_slice(&PORT.to_be_bytes());
}

fn without_source(header: &[u8]) -> Vec<u8> {
    let mut header = header.to_vec();
    header[10..16].fill(0);
    header
}

fn sum(bytes: &[u8]) -> u32 {
    let (words, _) = bytes.as_chunks::<2>();
    words.iter().map(|word| u32::from(u16::from_be_bytes(*word))).sum()
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}
