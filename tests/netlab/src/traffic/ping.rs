//! ICMP echo, IPv4 and IPv6, through a raw socket.

use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::capture::initialised;
use crate::frame::{ICMPV4, ICMPV6, Packet};
use crate::{LabError, Namespace};

/// How long to wait before asking again.
const AGAIN: Duration = Duration::from_millis(250);

/// Sends echo requests with that many bytes of data from the namespace, four a second, until one is answered by the
/// address that was asked; returns the time that the answered one took.
pub fn ping(namespace: &Namespace, target: IpAddr, data: usize, at_most: Duration) -> Result<Duration, LabError> {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    let what = || format!("ping from {} to {target}", namespace.label());
    let kinds = Kinds::of(target);
    let socket = namespace.run(|| kinds.open(target)).map_err(LabError::system(what()))?;
    // Raw sockets see the answers to everyone in the namespace.
    let identifier = NEXT.fetch_add(1, Ordering::Relaxed) ^ std::process::id() as u16;
    let deadline = Instant::now() + at_most;
    let mut buffer = vec![MaybeUninit::uninit(); 65_536];
    for sequence in 1.. {
        let sent = Instant::now();
        if sent >= deadline {
            break;
        }
        // No route, or an error that came back for the request before: the next may get through.
        let _ = socket.send(&kinds.request(identifier, sequence, data));
        let next = deadline.min(sent + AGAIN);
        while let Some(left) = next.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            socket.set_read_timeout(Some(left)).map_err(LabError::system(what()))?;
            match socket.recv(&mut buffer) {
                Ok(length) if kinds.is_answer(&initialised(&buffer, length), identifier, sequence) => {
                    return Ok(sent.elapsed());
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => std::thread::sleep(left.min(Duration::from_millis(10))),
            }
        }
    }
    Err(LabError::Silence { what: what(), waited: at_most })
}

/// What differs between the two versions.
struct Kinds {
    protocol: u8,
    request: u8,
    reply: u8,
}

impl Kinds {
    fn of(target: IpAddr) -> Self {
        match target {
            IpAddr::V4(_) => Self { protocol: ICMPV4, request: 8, reply: 0 },
            IpAddr::V6(_) => Self { protocol: ICMPV6, request: 128, reply: 129 },
        }
    }

    fn open(&self, target: IpAddr) -> io::Result<Socket> {
        let domain = if target.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
        let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(i32::from(self.protocol))))?;
        // Only what comes from there is received.
        socket.connect(&SocketAddr::new(target, 0).into())?;
        Ok(socket)
    }

    fn request(&self, identifier: u16, sequence: u16, data: usize) -> Vec<u8> {
        let mut message = vec![self.request, 0, 0, 0];
        message.extend(identifier.to_be_bytes());
        message.extend(sequence.to_be_bytes());
        message.extend((0..data).map(|at| at as u8));
        // The kernel computes the checksum of ICMPv6, which covers addresses.
        if self.protocol == ICMPV4 {
            let sum = checksum(&message);
            message[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        message
    }

    fn is_answer(&self, received: &[u8], identifier: u16, sequence: u16) -> bool {
        // IPv4 raw sockets give the header too.
        let message = match self.protocol {
            ICMPV4 => Packet::parse(received).map_or(&[][..], |packet| packet.payload),
            _ => received,
        };
        let [kind, 0, _, _, a, b, c, d, ..] = message else {
            return false;
        };
        (*kind, u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d])) == (self.reply, identifier, sequence)
    }
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded + (folded >> 16)) as u16)
}
