//! A packet socket at one interface: whole frames in and out. It understands nothing of them.

use std::io;
use std::mem::{self, MaybeUninit};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::ioctl::{Getter, Opcode, ioctl, opcode};
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type, socklen_t};

/// `ETH_P_ALL`
const EVERY_PROTOCOL: u16 = 3;
/// `PACKET_OUTGOING`
const OUTGOING: u8 = 4;
/// Room for what arrives while the reading thread waits for a processor.
const RECEIVE_BUFFER: usize = 16 << 20;
/// The longest Ethernet frame of any kind here, without offloads.
pub(crate) const LONGEST_FRAME: usize = 65_536;

/// `struct sockaddr_ll`
#[repr(C)]
struct LinkAddress {
    family: u16,
    protocol: u16,
    index: i32,
    hardware: u16,
    packet_type: u8,
    length: u8,
    address: [u8; 8],
}

/// A packet socket that sees each frame of its interface, received and sent.
#[derive(Debug)]
pub(crate) struct PacketSocket {
    socket: Socket,
}

/// One frame that was read into a buffer.
pub(crate) struct Received {
    pub(crate) length: usize,
    pub(crate) outgoing: bool,
}

impl PacketSocket {
    /// Opens a socket at the interface of that number in the calling thread's namespace.
    pub(crate) fn open(index: u32) -> io::Result<Self> {
        // Protocol 0 receives nothing: what other interfaces see before `bind` must not get in.
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
        set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER)?;
        socket.bind(&link_address(index, EVERY_PROTOCOL))?;
        let opened = Self { socket };
        // The first question switches time stamps on; there is no frame yet to answer it with.
        let _ = opened.kernel_time();
        Ok(opened)
    }

    /// Opens a socket that only sends.
    pub(crate) fn open_to_send(index: u32) -> io::Result<Self> {
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
        socket.bind(&link_address(index, 0))?;
        Ok(Self { socket })
    }

    /// How long a read waits for a frame; then it fails with `WouldBlock`.
    pub(crate) fn set_patience(&self, at_most: Duration) -> io::Result<()> {
        self.socket.set_read_timeout(Some(at_most))
    }

    /// Reads a frame.
    pub(crate) fn receive(&self, buffer: &mut [MaybeUninit<u8>]) -> io::Result<Received> {
        let (length, from) = self.socket.recv_from(buffer)?;
        Ok(Received { length, outgoing: packet_type(&from) == Some(OUTGOING) })
    }

    /// Sends a frame as it is.
    pub(crate) fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.socket.send(frame).map(drop)
    }

    /// When the kernel saw the frame that was read last.
    pub(crate) fn received_at(&self) -> SystemTime {
        self.kernel_time().unwrap_or_else(SystemTime::now)
    }

    fn kernel_time(&self) -> Option<SystemTime> {
        /// `SIOCGSTAMPNS_NEW`
        const STAMP: Opcode = opcode::read::<[i64; 2]>(0x89, 0x07);
        #[allow(unsafe_code, reason = "no safe interface to SIOCGSTAMPNS")]
        // SAFETY: this ioctl writes a timespec of two 64-bit numbers and reads nothing.
        let [seconds, nanoseconds] = unsafe { ioctl(&self.socket, Getter::<STAMP, [i64; 2]>::new()) }.ok()?;
        let since = Duration::new(seconds.try_into().ok()?, nanoseconds.try_into().ok()?);
        (!since.is_zero()).then(|| UNIX_EPOCH + since)
    }
}

fn link_address(index: u32, protocol: u16) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    #[allow(unsafe_code, reason = "socket2 has no constructor for link addresses")]
    // SAFETY: `LinkAddress` is `sockaddr_ll`, all zeros is one, and the family and length that are set are its own.
    unsafe {
        let address = storage.view_as::<LinkAddress>();
        address.family = i32::from(Domain::PACKET) as u16;
        address.protocol = protocol.to_be();
        address.index = index.cast_signed();
        SockAddr::new(storage, size_of::<LinkAddress>() as socklen_t)
    }
}

fn packet_type(from: &SockAddr) -> Option<u8> {
    let is_link_address =
        from.domain() == Domain::PACKET && from.len() as usize >= mem::offset_of!(LinkAddress, address);
    if !is_link_address {
        return None;
    }
    let mut storage = from.clone().as_storage();
    #[allow(unsafe_code, reason = "socket2 has no accessor for link addresses")]
    // SAFETY: the family says that this is a `sockaddr_ll`, which is what `LinkAddress` is.
    let address = unsafe { storage.view_as::<LinkAddress>() };
    Some(address.packet_type)
}
