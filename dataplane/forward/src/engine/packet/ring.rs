//! Packet sockets: a receive ring in shared memory, and sockets to send by. They understand nothing of frames.
//!
//! The ring is of version 2, whose slots hold one frame each and are handed over as they come. Version 3 packs frames into
//! blocks that are handed over when they are full or a timer of milliseconds ends: a director would add that to the
//! first packet of every connection. Under load both find many frames at each look.
//!
//! Layouts and numbers: `linux/if_packet.h`, and `Documentation/networking/packet_mmap.rst` of the kernel.

use rustix::mm::{MapFlags, ProtFlags};
use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type, socklen_t};
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicU32, Ordering};

/// Bytes that the packet path may put in front of a frame: its longest head, a VLAN tag, and some more.
const RESERVE: usize = 128;
/// What the kernel puts in front of a frame itself, at most.
const SLOT_HEAD: usize = 96;
/// Ethernet header and two tags.
const LINK_HEAD: usize = 22;
/// Bytes of one ring.
const RING_BYTES: usize = 8 << 20;
const BLOCK_BYTES: usize = 1 << 16;

const SOL_PACKET: i32 = 263;
const PACKET_RX_RING: i32 = 5;
const PACKET_STATISTICS: i32 = 6;
const PACKET_VERSION: i32 = 10;
const PACKET_RESERVE: i32 = 12;
const PACKET_FANOUT: i32 = 18;
const PACKET_QDISC_BYPASS: i32 = 20;
const PACKET_IGNORE_OUTGOING: i32 = 23;
const TPACKET_V2: u32 = 1;
const FANOUT_HASH: u32 = 0;
const FANOUT_FLAG_UNIQUE_ID: u32 = 0x2000;
const EVERY_PROTOCOL: u16 = 3;

const STATUS_KERNEL: u32 = 0;
const STATUS_USER: u32 = 1;
const STATUS_TAG: u32 = 0x10;
const STATUS_TAG_PROTOCOL: u32 = 0x40;
const PACKET_OTHERHOST: u8 = 3;
const TAG_PROTOCOL: u16 = 0x8100;

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

/// `struct tpacket_req`
#[repr(C)]
struct RingRequest {
    block_size: u32,
    blocks: u32,
    slot_size: u32,
    slots: u32,
}

/// A socket with a receive ring at one interface.
#[derive(Debug)]
pub struct ReceiveRing {
    socket: Socket,
    memory: Memory,
    slot_size: usize,
    slots: usize,
    next: usize,
}

/// What the kernel says of a received frame.
#[derive(Debug)]
pub struct Received<'a> {
    /// The frame with room around it.
    pub buffer: &'a mut [u8],
    /// Where in the buffer it lies.
    pub bounds: Range<usize>,
    /// (EtherType, tag) that the kernel took out of it.
    pub tag: Option<(u16, u16)>,
    /// Its destination address is not the interface's own.
    pub of_others: bool,
    /// The slot did not hold all of it.
    pub cut: bool,
}

impl ReceiveRing {
    /// Opens a ring at an interface of the calling thread's namespace, for frames of `mtu` bytes and their link header.
    /// With `group`, several share what comes, by the hash of the flow: `Some(None)` begins a group, whose number
    /// [`ReceiveRing::group`] tells.
    ///
    /// # Errors
    /// Where the kernel gives no socket (`CAP_NET_RAW`), no memory, or the interface is gone.
    pub fn open(index: u32, mtu: u32, group: Option<Option<u16>>) -> io::Result<Self> {
        let slot_size = (SLOT_HEAD + RESERVE + LINK_HEAD + mtu as usize).next_power_of_two().min(BLOCK_BYTES);
        let slots = RING_BYTES / slot_size;
        // Protocol 0 receives nothing until the ring is there and the socket bound.
        let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking(), Some(Protocol::from(0)))?;
        set_option(&socket, PACKET_VERSION, &TPACKET_V2)?;
        set_option(&socket, PACKET_RESERVE, &(RESERVE as u32))?;
        set_option(&socket, PACKET_IGNORE_OUTGOING, &1_u32)?;
        let request = RingRequest {
            block_size: BLOCK_BYTES as u32,
            blocks: (RING_BYTES / BLOCK_BYTES) as u32,
            slot_size: slot_size as u32,
            slots: slots as u32,
        };
        set_option(&socket, PACKET_RX_RING, &request)?;
        let memory = Memory::map(socket.as_fd(), RING_BYTES)?;
        let ring = Self { socket, memory, slot_size, slots, next: 0 };
        ring.socket.bind(&link_address(index, EVERY_PROTOCOL))?;
        match group {
            None => {}
            Some(None) => set_option(&ring.socket, PACKET_FANOUT, &((FANOUT_HASH | FANOUT_FLAG_UNIQUE_ID) << 16))?,
            Some(Some(number)) => set_option(&ring.socket, PACKET_FANOUT, &(FANOUT_HASH << 16 | u32::from(number)))?,
        }
        Ok(ring)
    }

    /// The number of the group that shares what comes.
    ///
    /// # Errors
    /// Where the kernel does not tell.
    pub fn group(&self) -> io::Result<u16> {
        Ok(get_option::<u32>(&self.socket, PACKET_FANOUT)? as u16)
    }

    /// Frames that found the ring full since the last call.
    ///
    /// # Errors
    /// Where the kernel does not tell.
    pub fn dropped(&self) -> io::Result<u64> {
        let [_, dropped] = get_option::<[u32; 2]>(&self.socket, PACKET_STATISTICS)?;
        Ok(u64::from(dropped))
    }

    /// For polling: readable while there are frames.
    #[must_use]
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// How many frames wait, up to `most`.
    #[must_use]
    pub fn waiting(&self, most: usize) -> usize {
        (0..most.min(self.slots)).take_while(|nth| self.is_full(*nth)).count()
    }

    /// The frame that waits behind `nth` others; `None` where there is none.
    pub fn received(&mut self, nth: usize) -> Option<Received<'_>> {
        if !self.is_full(nth) {
            return None;
        }
        let start = self.place(nth);
        let size = self.slot_size;
        let slot = self.memory.slice_mut(start..start + size)?;
        let status = word(slot, 0)?;
        let (length, captured) = (word(slot, 4)? as usize, word(slot, 8)? as usize);
        let mac = usize::from(half(slot, 12)?);
        let tag = (status & STATUS_TAG != 0).then_some((
            if status & STATUS_TAG_PROTOCOL != 0 { half(slot, 26)? } else { TAG_PROTOCOL },
            half(slot, 24)?,
        ));
        let of_others = *slot.get(ADDRESS_AT + std::mem::offset_of!(LinkAddress, packet_type))? == PACKET_OTHERHOST;
        let room = mac.checked_sub(RESERVE)?;
        let buffer = slot.get_mut(room..)?;
        Some(Received { buffer, bounds: RESERVE..RESERVE + captured, tag, of_others, cut: captured < length })
    }

    /// A part of the buffer of [`ReceiveRing::received`].
    #[must_use]
    pub fn bytes(&self, nth: usize, bounds: Range<usize>) -> Option<&[u8]> {
        let start = self.place(nth);
        let slot = self.memory.slice(start..start + self.slot_size)?;
        let mac = usize::from(half(slot, 12)?);
        slot.get(mac.checked_sub(RESERVE)?..)?.get(bounds)
    }

    /// Gives the first `count` slots back to the kernel.
    pub fn release(&mut self, count: usize) {
        for nth in 0..count.min(self.slots) {
            if let Some(status) = self.memory.status(self.place(nth)) {
                status.store(STATUS_KERNEL, Ordering::Release);
            }
        }
        self.next = (self.next + count) % self.slots;
    }

    fn place(&self, nth: usize) -> usize {
        (self.next + nth) % self.slots * self.slot_size
    }

    fn is_full(&self, nth: usize) -> bool {
        nth < self.slots
            && self
                .memory
                .status(self.place(nth))
                .is_some_and(|status| status.load(Ordering::Acquire) & STATUS_USER != 0)
    }
}

/// `sockaddr_ll` of a slot: behind `struct tpacket2_hdr`.
const ADDRESS_AT: usize = 32;

/// A socket that sends whole frames by one interface, past its queueing discipline.
///
/// # Errors
/// Where the kernel gives none, or the interface is gone.
pub fn sender(index: u32) -> io::Result<Socket> {
    let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking(), Some(Protocol::from(0)))?;
    set_option(&socket, PACKET_QDISC_BYPASS, &1_u32)?;
    socket.bind(&link_address(index, 0))?;
    Ok(socket)
}

/// The mapped ring.
#[derive(Debug)]
struct Memory {
    start: *mut u8,
    bytes: usize,
}

// SAFETY: the memory is the ring's own and stays mapped until `drop`; one owner at a time uses it.
#[allow(unsafe_code, reason = "a raw pointer to owned memory is not Send by itself")]
unsafe impl Send for Memory {}

impl Memory {
    fn map(socket: BorrowedFd<'_>, bytes: usize) -> io::Result<Self> {
        // SAFETY: a new shared mapping at an address that the kernel picks aliases no Rust object. The kernel refuses a
        // length that is not the ring's.
        #[allow(unsafe_code, reason = "mapping memory")]
        let start = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                socket,
                0,
            )
        }?;
        Ok(Self { start: start.cast(), bytes })
    }

    /// The word by which kernel and user hand a slot to each other.
    fn status(&self, at: usize) -> Option<&AtomicU32> {
        if !at.is_multiple_of(align_of::<AtomicU32>()) || at + size_of::<AtomicU32>() > self.bytes {
            return None;
        }
        // SAFETY: within the mapping and aligned, as checked; the mapping outlives the borrow of `self`. Both sides
        // access the word while it changes hands, which atomics allow; no slice of the slot lives meanwhile, because
        // slices borrow the ring until the slot is released.
        #[allow(unsafe_code, reason = "the word is shared with the kernel")]
        Some(unsafe { AtomicU32::from_ptr(self.start.add(at).cast()) })
    }

    fn slice(&self, range: Range<usize>) -> Option<&[u8]> {
        if range.start > range.end || range.end > self.bytes {
            return None;
        }
        // SAFETY: within the mapping, as checked, which outlives the borrow. The caller asks for full slots alone, which
        // the kernel does not write to before they are released, which needs `&mut`.
        #[allow(unsafe_code, reason = "a slot of the ring becomes a slice")]
        Some(unsafe { std::slice::from_raw_parts(self.start.add(range.start), range.len()) })
    }

    fn slice_mut(&mut self, range: Range<usize>) -> Option<&mut [u8]> {
        if range.start > range.end || range.end > self.bytes {
            return None;
        }
        // SAFETY: as in `slice`; the borrow of `self` is unique.
        #[allow(unsafe_code, reason = "a slot of the ring becomes a slice")]
        Some(unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: exactly what `map` mapped; no slice of it outlives `self`.
        #[allow(unsafe_code, reason = "unmapping what was mapped")]
        let unmapped = unsafe { rustix::mm::munmap(self.start.cast(), self.bytes) };
        if let Err(error) = unmapped {
            tracing::debug!(%error, "a receive ring stays mapped");
        }
    }
}

fn word(slot: &[u8], at: usize) -> Option<u32> {
    slot.get(at..)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

fn half(slot: &[u8], at: usize) -> Option<u16> {
    slot.get(at..)?.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes))
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

/// Sets an option of a packet socket. `T` is what the kernel reads for this option.
fn set_option<T>(socket: &Socket, option: i32, value: &T) -> io::Result<()> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes of a live value.
    #[allow(unsafe_code, reason = "neither socket2 nor rustix have the options of packet sockets")]
    let result = unsafe {
        let value: *const T = value;
        libc::setsockopt(socket.as_raw_fd(), SOL_PACKET, option, value.cast(), size_of::<T>() as socklen_t)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Asks for an option of a packet socket. `T` is made of integers alone.
fn get_option<T: Default>(socket: &Socket, option: i32) -> io::Result<T> {
    let mut value = T::default();
    let mut length = size_of::<T>() as socklen_t;
    // SAFETY: the kernel writes at most `length` bytes into a live value of integers, for which every pattern is one.
    #[allow(unsafe_code, reason = "neither socket2 nor rustix have the options of packet sockets")]
    let result = unsafe {
        let value: *mut T = &raw mut value;
        libc::getsockopt(socket.as_raw_fd(), SOL_PACKET, option, value.cast(), &raw mut length)
    };
    if result == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}
