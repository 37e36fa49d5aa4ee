//! Packets of the flows, as a router on the director's link would send them.

use sluicegate_l4::hash;
use sluicegate_netlab::Frame;
use sluicegate_netlab::topology::DsrLab;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Where the flows go; real sockets have a VIP of their own.
pub const PORT: u16 = 80;
/// Source ports of one client.
const PORTS: u32 = 60_000;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// The VIPs of the flows.
pub fn vips() -> [IpAddr; 2] {
    [DsrLab::vip4(1).into(), DsrLab::vip6(1).into()]
}

/// One flow, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    protocol: u8,
    pub vip: IpAddr,
    source: IpAddr,
    port: u16,
}

impl Flow {
    /// Four in a row have the same client and port, over both protocols and versions of IP.
    pub fn new(number: u32) -> Self {
        let (kind, number) = (number % 4, number / 4);
        let host = (number / PORTS) as u8 + 1;
        let [vip4, vip6] = vips();
        let (vip, source) = match kind & 1 {
            0 => (vip4, IpAddr::from(Ipv4Addr::new(203, 0, 113, host))),
            _ => (vip6, IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, host.into()))),
        };
        Self { protocol: if kind < 2 { TCP } else { UDP }, vip, source, port: 1024 + (number % PORTS) as u16 }
    }

    /// The flow of a frame that arrived.
    pub fn of(frame: &Frame) -> Option<Self> {
        let packet = frame.packet()?;
        let (port, _) = packet.ports()?;
        Some(Self { protocol: packet.protocol, vip: packet.destination, source: packet.source, port })
    }

    /// What the packet path picks a slot by.
    pub fn slot(&self, slots: u32) -> u32 {
        let address = sluicegate_forward::head::address_words(self.source);
        let [a, b] = self.port.to_be_bytes();
        let [c, d] = PORT.to_be_bytes();
        hash::slot(hash::ring(hash::tuple(&address, u32::from_le_bytes([a, b, c, d]), self.protocol)), slots)
    }

    /// Its first packet, or a later one, for who has this MAC address.
    pub fn frame(&self, to: [u8; 6], opens: bool) -> Vec<u8> {
        let transport = self.transport(opens);
        let length = transport.len() as u16;
        let mut frame = to.to_vec();
        frame.extend([0x02, 0, 0, 0, 0, 0x01]);
        match (self.source, self.vip) {
            (IpAddr::V4(source), IpAddr::V4(vip)) => {
                frame.extend([0x08, 0x00]);
                let mut header = [0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, self.protocol, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
                header[2..4].copy_from_slice(&(20 + length).to_be_bytes());
                header[12..16].copy_from_slice(&source.octets());
                header[16..20].copy_from_slice(&vip.octets());
                let checksum = checksum(&header);
                header[10..12].copy_from_slice(&checksum.to_be_bytes());
                frame.extend(header);
            }
            (source, vip) => {
                frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
                frame.extend(length.to_be_bytes());
                frame.extend([self.protocol, 64]);
                frame.extend(sluicegate_forward::head::address_octets(source));
                frame.extend(sluicegate_forward::head::address_octets(vip));
            }
        }
        frame.extend(transport);
        frame
    }

    fn transport(&self, opens: bool) -> Vec<u8> {
        let mut header = Vec::with_capacity(20);
        header.extend(self.port.to_be_bytes());
        header.extend(PORT.to_be_bytes());
        if self.protocol == UDP {
            header.extend([0, 8, 0, 0]);
            return header;
        }
        let flags = if opens { 0x02 } else { 0x10 };
        header.extend([0, 0, 0, 1, 0, 0, 0, 1, 5 << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
        header
    }
}

fn checksum(header: &[u8; 20]) -> u16 {
    let (words, _) = header.as_chunks::<2>();
    let sum: u32 = words.iter().map(|word| u32::from(u16::from_be_bytes(*word))).sum();
    !((sum & 0xffff) + (sum >> 16)) as u16
}
