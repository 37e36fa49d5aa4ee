//! What a network card, or the kernel in its place, does to frames by itself (`ethtool -k`), of the network namespace of
//! the caller. It decides nothing.

use rustix::ioctl::{Opcode, Updater, ioctl};
use rustix::net::{AddressFamily, SocketType, socket};
use std::io;

/// `SIOCETHTOOL` of `linux/sockios.h`.
const ETHTOOL: Opcode = 0x8946;

/// A feature of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Offload {
    /// Checksums of what is sent are left to the card.
    TransmitChecksum,
    /// Cutting of TCP segments is left to the card.
    TcpSegmentation,
    /// Cutting of segments is left to the end of the sending path.
    GenericSegmentation,
    /// Received segments are merged by the kernel.
    GenericReceive,
    /// Received segments are merged by the card.
    LargeReceive,
    /// VLAN tags are taken out of received frames: an XDP program does not see them.
    VlanStripping,
}

impl Offload {
    /// The name that `ethtool -K` knows it by.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TransmitChecksum => "tx",
            Self::TcpSegmentation => "tso",
            Self::GenericSegmentation => "gso",
            Self::GenericReceive => "gro",
            Self::LargeReceive => "lro",
            Self::VlanStripping => "rxvlan",
        }
    }

    /// Is it on? A feature that the interface does not have is off.
    ///
    /// # Errors
    /// Where there is no such interface, or the kernel does not say.
    pub fn is_on(self, interface: &str) -> io::Result<bool> {
        let (ask, _, bit) = self.commands();
        match order(interface, ask, 0) {
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(false),
            answer => Ok(answer? & bit != 0),
        }
    }

    /// Switches it on or off.
    ///
    /// # Errors
    /// Where the kernel refuses (CAP_NET_ADMIN), or takes the order and leaves it as it was: the card cannot do otherwise.
    pub fn switch(self, interface: &str, on: bool) -> io::Result<()> {
        let (ask, set, bit) = self.commands();
        // Flags are set all at once, the other features by a command of their own.
        let others = if bit == 1 { 0 } else { order(interface, ask, 0)? & !bit };
        order(interface, set, others | if on { bit } else { 0 })?;
        if self.is_on(interface)? == on {
            return Ok(());
        }
        Err(io::Error::other(format!("{} of {interface} stays {}", self.as_str(), if on { "off" } else { "on" })))
    }

    /// `ETHTOOL_G*` and `ETHTOOL_S*` of `linux/ethtool.h`, and the bit of its value.
    const fn commands(self) -> (u32, u32, u32) {
        match self {
            Self::TransmitChecksum => (0x16, 0x17, 1),
            Self::TcpSegmentation => (0x1e, 0x1f, 1),
            Self::GenericSegmentation => (0x23, 0x24, 1),
            Self::GenericReceive => (0x2b, 0x2c, 1),
            Self::LargeReceive => (0x25, 0x26, 1 << 15),
            Self::VlanStripping => (0x25, 0x26, 1 << 8),
        }
    }
}

/// Has a card show frames as they came to a program in its driver: with their VLAN tags, and one by one. It is not undone
/// when the program goes, because it costs nothing that is noticed. What cannot be switched off is said.
pub fn show_frames_as_they_came(interface: &str) {
    for (offload, harm) in [
        (Offload::VlanStripping, "packets with VLAN tags are not seen as such, and leave without them"),
        (Offload::LargeReceive, "merged segments are longer than the MTU and cannot be sent on"),
    ] {
        let switched = match offload.is_on(interface) {
            Ok(true) => offload.switch(interface, false).map(|()| true),
            other => other,
        };
        let name = offload.as_str();
        match switched {
            Ok(false) => {}
            Ok(true) => {
                tracing::info!(%interface, offload = name, "switched off, so that frames are seen as they came")
            }
            Err(error) => tracing::warn!(
                %interface, offload = name, %error,
                "cannot be switched off: {harm}; try `ethtool -K {interface} {name} off`"
            ),
        }
    }
}

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// `struct ifreq` with a pointer in its union, which is 24 bytes long on 64-bit machines.
#[repr(C)]
struct Request {
    interface: [u8; 16],
    value: *mut Value,
    rest: [u8; 16],
}

fn order(interface: &str, command: u32, data: u32) -> io::Result<u32> {
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    let mut value = Value { command, data };
    let mut request = Request { interface: [0; 16], value: &raw mut value, rest: [0; 16] };
    for (to, from) in request.interface[..15].iter_mut().zip(interface.bytes()) {
        *to = from;
    }
    // SAFETY: the opcode is SIOCETHTOOL, which takes an ifreq with a pointer to an ethtool_value for these commands; both
    // live until the call returns, and the name ends with a zero byte.
    #[allow(unsafe_code, reason = "no safe interface to SIOCETHTOOL")]
    unsafe { ioctl(&socket, Updater::<ETHTOOL, Request>::new(&mut request)) }?;
    Ok(value.data)
}
