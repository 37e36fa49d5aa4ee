//! ICMP echo (RFC 792, RFC 4443 section 4).
//!
//! Linux has two kinds of sockets for it. A ping socket (datagrams) needs no capability but a group within
//! `net.ipv4.ping_group_range`, and gets its own answers only. A raw socket needs CAP_NET_RAW and gets a copy of every
//! answer from the probed address, of which it looks for its own. The first that the kernel allows is used.

use crate::failure::Failure;
use crate::probe::Attempt;
use rustix::io::Errno;
use socket2::{Protocol, Socket, Type};
use std::io;

/// Header, then what tells one probe from every other on this machine.
const LENGTH: usize = 8 + 16;

pub(crate) async fn probe(attempt: &Attempt<'_>) -> Result<(), Failure> {
    let (socket, raw) = open(attempt)?;
    let socket = attempt.datagrams(socket)?;
    let echo = Echo::new(attempt.address.is_ipv6(), attempt.nonce, std::process::id());
    socket.send(&echo.request()).await.map_err(|error| attempt.failed(&error))?;
    // An IPv4 header with all options, and the message.
    let mut packet = [0; 60 + LENGTH];
    loop {
        let length = socket.recv(&mut packet).await.map_err(|error| attempt.failed(&error))?;
        if echo.is_answered_by(&packet[..length], raw) {
            return Ok(());
        }
    }
}

/// A socket for ICMP, and whether it is a raw one.
fn open(attempt: &Attempt<'_>) -> Result<(Socket, bool), Failure> {
    let protocol = if attempt.address.is_ipv6() { Protocol::ICMPV6 } else { Protocol::ICMPV4 };
    let denied = |error: &io::Error| matches!(Errno::from_io_error(error), Some(Errno::ACCESS | Errno::PERM));
    match attempt.socket(Type::DGRAM, protocol) {
        Ok(socket) => Ok((socket, false)),
        Err(error) if denied(&error) => match attempt.socket(Type::RAW, protocol) {
            Ok(socket) => Ok((socket, true)),
            Err(error) if denied(&error) => Err(Failure::Local(
                "no right to send ICMP; give the process CAP_NET_RAW, or its group a place in net.ipv4.ping_group_range"
                    .into(),
            )),
            Err(error) => Err(Failure::local("cannot open a socket for ICMP", &error)),
        },
        Err(error) => Err(Failure::local("cannot open a socket for ICMP", &error)),
    }
}

/// An echo request and what its reply looks like.
struct Echo {
    ipv6: bool,
    identifier: u16,
    sequence: u16,
    payload: [u8; 16],
}

impl Echo {
    fn new(ipv6: bool, nonce: u64, process: u32) -> Self {
        let [_, _, _, _, a, b, c, d] = nonce.to_be_bytes();
        let mut payload = *b"sluicegate: \0\0\0\0";
        payload[12..].copy_from_slice(&process.to_be_bytes());
        payload[4..12].copy_from_slice(&nonce.to_be_bytes());
        // On a ping socket the kernel puts its own identifier in the place of this one.
        Self { ipv6, identifier: u16::from_be_bytes([a, b]), sequence: u16::from_be_bytes([c, d]), payload }
    }

    fn request(&self) -> [u8; LENGTH] {
        let mut message = [0; LENGTH];
        message[0] = if self.ipv6 { 128 } else { 8 };
        message[4..6].copy_from_slice(&self.identifier.to_be_bytes());
        message[6..8].copy_from_slice(&self.sequence.to_be_bytes());
        message[8..].copy_from_slice(&self.payload);
        // Over IPv6 the sum covers addresses too, and the kernel makes it.
        if !self.ipv6 {
            let sum = checksum(&message);
            message[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        message
    }

    /// `packet` begins with the IPv4 header on a raw socket of that family, else with the ICMP message.
    fn is_answered_by(&self, packet: &[u8], raw: bool) -> bool {
        let message = match packet.first() {
            Some(first) if raw && !self.ipv6 => packet.get(usize::from(first & 0x0f) * 4..),
            _ => Some(packet),
        };
        let Some([kind, code, _, _, _, _, high, low, payload @ ..]) = message else { return false };
        let reply = if self.ipv6 { 129 } else { 0 };
        *kind == reply && *code == 0 && [*high, *low] == self.sequence.to_be_bytes() && payload == self.payload
    }
}

/// The Internet checksum (RFC 1071) of a message of even length.
fn checksum(message: &[u8; LENGTH]) -> u16 {
    let words = message.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    // Folded twice, the sum of so few words fits into 16 bits.
    !(folded as u16)
}
