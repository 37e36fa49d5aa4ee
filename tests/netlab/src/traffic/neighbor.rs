//! Asks who has an address, by ARP and neighbour discovery, again and again. It listens to nobody: who answers is for
//! captures to see.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::{LabError, Namespace};

/// Sends an ARP request or neighbour solicitation for each address, one round after another, until it is dropped.
#[derive(Debug)]
pub struct NeighborAsker {
    rounds: Arc<AtomicU64>,
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl NeighborAsker {
    /// Asks from an interface, as a host with these addresses, with a pause between two rounds. The host need not have
    /// the addresses; if it has not, nobody can send it packets by them.
    pub fn start(
        namespace: &Namespace,
        interface: &str,
        host: (Ipv4Addr, Ipv6Addr),
        addresses: &[IpAddr],
        pause: Duration,
    ) -> Result<Self, LabError> {
        let mac = namespace.mac(interface)?;
        let sender = namespace.frame_sender(interface)?;
        let frames: Vec<Vec<u8>> = addresses
            .iter()
            .map(|address| match address {
                IpAddr::V4(address) => arp_request(mac, host.0, *address),
                IpAddr::V6(address) => neighbor_solicitation(mac, host.1, *address),
            })
            .collect();
        let (rounds, end) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (counted, ended) = (Arc::clone(&rounds), Arc::clone(&end));
        let thread = std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                // A frame that finds no room is lost, as any may be.
                let sent = frames.iter().filter(|frame| sender.send(frame).is_ok()).count();
                counted.fetch_add(u64::from(sent == frames.len()), Ordering::Relaxed);
                std::thread::sleep(pause);
            }
        });
        Ok(Self { rounds, end, thread: Some(thread) })
    }

    /// How many rounds were sent whole.
    pub fn rounds(&self) -> u64 {
        self.rounds.load(Ordering::Relaxed)
    }
}

impl Drop for NeighborAsker {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // One that panicked asks no more either.
            let _ = thread.join();
        }
    }
}

/// RFC 826.
fn arp_request(mac: [u8; 6], host: Ipv4Addr, wanted: Ipv4Addr) -> Vec<u8> {
    let head = [&[0xff; 6][..], &mac, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &mac, &host.octets()];
    [&head.concat()[..], &[0; 6], &wanted.octets()].concat()
}

/// RFC 4861, section 4.3, to the solicited-node group of RFC 4291, section 2.7.1.
fn neighbor_solicitation(mac: [u8; 6], host: Ipv6Addr, wanted: Ipv6Addr) -> Vec<u8> {
    let [.., a, b, c] = wanted.octets();
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from(b) << 8 | u16::from(c));
    let mut message = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &wanted.octets(), &[1, 1], &mac].concat();
    let addresses = [host.octets(), group.octets()].concat();
    let pseudo = [&addresses[..], &[0, 0, 0, message.len() as u8, 0, 0, 0, 58], &message].concat();
    let words = pseudo.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum = words.sum::<u32>();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !((folded & 0xffff) + (folded >> 16)) as u16;
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    let head = [&[0x33, 0x33, 0xff, a, b, c][..], &mac, &[0x86, 0xdd, 0x60, 0, 0, 0, 0, message.len() as u8, 58, 255]];
    [&head.concat()[..], &addresses, &message].concat()
}
