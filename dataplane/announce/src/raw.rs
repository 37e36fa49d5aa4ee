//! Raw frames and group memberships on the interfaces of the VIP network.

use crate::frame::{self, Mac, ndp};
use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, SockFilter, Socket, Type};
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv6Addr};
use thiserror::Error;
use tokio::io::unix::AsyncFd;

/// An interface on which VIPs are announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its index.
    pub index: u32,
    /// The MAC address that VIPs have there: a bond's or bridge's where it belongs to one.
    pub mac: Mac,
}

/// Why nothing can be sent on an interface.
#[derive(Debug, Error)]
pub enum PortError {
    /// The socket cannot be had.
    #[error("raw socket on interface {index}: {source}; announcing needs CAP_NET_RAW and an interface that exists")]
    Open {
        /// Of the interface.
        index: u32,
        /// What the kernel said.
        source: io::Error,
    },
}

/// What is sent on one interface, and the groups joined there.
pub(crate) struct PortSender {
    port: Port,
    frames: Socket,
    /// Holds the memberships: the kernel answers MLD queries for them, and leaves the groups when it is closed.
    groups: Option<Socket>,
    /// How many VIPs are in a group: those with equal last 24 bits share one.
    joined: BTreeMap<Ipv6Addr, usize>,
}

/// What others say on one interface.
pub(crate) struct PortListener {
    port: Port,
    arp: AsyncFd<Socket>,
    ndp: AsyncFd<Socket>,
}

const ETH_P_NONE: u16 = 0;
const ETH_P_ARP: u16 = 0x0806;
const ETH_P_IPV6: u16 = 0x86dd;
/// No Ethernet frame that matters here is longer.
const LONGEST_FRAME: usize = 2048;

impl PortSender {
    /// # Errors
    /// If the kernel refuses the socket.
    pub(crate) fn open(port: Port) -> Result<Self, PortError> {
        let frames =
            packet_socket(port.index, ETH_P_NONE).map_err(|source| PortError::Open { index: port.index, source })?;
        // A kernel without IPv6 has no groups to join, and no VIPs that need them.
        let groups = Socket::new(Domain::IPV6, Type::DGRAM, None).ok();
        Ok(Self { port, frames, groups, joined: BTreeMap::new() })
    }

    pub(crate) fn port(&self) -> Port {
        self.port
    }

    pub(crate) fn announce(&self, vip: IpAddr) -> io::Result<()> {
        frame::announcement(self.port.mac, vip).iter().try_for_each(|frame| self.send(frame))
    }

    pub(crate) fn probe(&self, vip: IpAddr) -> io::Result<()> {
        self.send(&frame::probe(self.port.mac, vip))
    }

    pub(crate) fn join(&mut self, vip: IpAddr) -> io::Result<()> {
        let (IpAddr::V6(vip), Some(groups)) = (vip, &self.groups) else { return Ok(()) };
        let group = ndp::solicited_node(vip);
        let members = self.joined.entry(group).or_default();
        *members += 1;
        if *members == 1 { groups.join_multicast_v6(&group, self.port.index) } else { Ok(()) }
    }

    pub(crate) fn leave(&mut self, vip: IpAddr) -> io::Result<()> {
        let (IpAddr::V6(vip), Some(groups)) = (vip, &self.groups) else { return Ok(()) };
        let group = ndp::solicited_node(vip);
        match self.joined.get_mut(&group) {
            Some(members @ 2..) => *members -= 1,
            Some(_) => {
                self.joined.remove(&group);
                return groups.leave_multicast_v6(&group, self.port.index);
            }
            None => {}
        }
        Ok(())
    }

    fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.frames.send(frame).map(|_| ())
    }
}

impl PortListener {
    /// # Errors
    /// If the kernel refuses the sockets.
    pub(crate) fn open(port: Port) -> Result<Self, PortError> {
        let failed = |source| PortError::Open { index: port.index, source };
        let arp = packet_socket(port.index, ETH_P_ARP).and_then(register).map_err(failed)?;
        let ndp = packet_socket(port.index, ETH_P_IPV6).map_err(failed)?;
        ndp.attach_filter(&ADVERTISEMENTS_ONLY).map_err(failed)?;
        let ndp = register(ndp).map_err(failed)?;
        Ok(Self { port, arp, ndp })
    }

    /// The next frame in which somebody else says that an address is theirs.
    pub(crate) async fn claim(&self) -> io::Result<(IpAddr, Mac)> {
        let mut arp = [0; LONGEST_FRAME];
        let mut ndp = [0; LONGEST_FRAME];
        loop {
            let frame = tokio::select! {
                length = receive(&self.arp, &mut arp) => arp.get(..length?),
                length = receive(&self.ndp, &mut ndp) => ndp.get(..length?),
            };
            if let Some(claim) = frame.and_then(frame::claim).filter(|(_, mac)| *mac != self.port.mac) {
                return Ok(claim);
            }
        }
    }
}

#[allow(unsafe_code, reason = "tokio asks for a promise about the file descriptor")]
fn register(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    // SAFETY: a Socket owns its file descriptor, gives the same one each time, and nobody takes it out or closes it.
    let registered = unsafe { AsyncFd::register(socket) };
    registered.map_err(|failure| failure.into_parts().1)
}

async fn receive(socket: &AsyncFd<Socket>, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        let mut ready = socket.readable().await?;
        match ready.try_io(|socket| socket.get_ref().read(buffer)) {
            Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(result) => return result,
            Err(_would_block) => {}
        }
    }
}

/// Neighbour advertisements, by the program of `tcpdump -dd 'icmp6 and ip6[40] == 136'` without extension headers: next
/// header at 20, ICMPv6 type at 54 of the frame.
const ADVERTISEMENTS_ONLY: [SockFilter; 6] = [
    SockFilter::new(LOAD_BYTE, 0, 0, 20),
    SockFilter::new(JUMP_IF_EQUAL, 0, 3, 58),
    SockFilter::new(LOAD_BYTE, 0, 0, 54),
    SockFilter::new(JUMP_IF_EQUAL, 0, 1, 136),
    SockFilter::new(RETURN, 0, 0, LONGEST_FRAME as u32),
    SockFilter::new(RETURN, 0, 0, 0),
];
/// `BPF_LD | BPF_B | BPF_ABS`.
const LOAD_BYTE: u16 = 0x30;
/// `BPF_JMP | BPF_JEQ | BPF_K`.
const JUMP_IF_EQUAL: u16 = 0x15;
/// `BPF_RET | BPF_K`.
const RETURN: u16 = 0x06;

fn packet_socket(index: u32, protocol: u16) -> io::Result<Socket> {
    // No protocol until it is bound, so that no frame of another interface gets in.
    let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking(), Some(Protocol::from(0)))?;
    socket.bind(&link_address(index, protocol)?)?;
    Ok(socket)
}

/// `struct sockaddr_ll` of packet(7).
#[repr(C)]
struct LinkAddress {
    family: u16,
    /// In network order.
    protocol: u16,
    index: i32,
    hardware: u16,
    kind: u8,
    length: u8,
    address: [u8; 8],
}

#[allow(unsafe_code, reason = "socket2 has no constructor for addresses of AF_PACKET")]
fn link_address(index: u32, protocol: u16) -> io::Result<SockAddr> {
    const AF_PACKET: u16 = 17;
    let index = i32::try_from(index).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: the storage is larger than sockaddr_ll and aligned for every address, LinkAddress has its layout and is
    // valid when all its bytes are zero.
    let address = unsafe { storage.view_as::<LinkAddress>() };
    *address = LinkAddress {
        family: AF_PACKET,
        protocol: protocol.to_be(),
        index,
        hardware: 0,
        kind: 0,
        length: 0,
        address: [0; 8],
    };
    // SAFETY: the storage holds an address of that length, made on the line above.
    Ok(unsafe { SockAddr::new(storage, size_of::<LinkAddress>() as u32) })
}
