//! Switches what a veth leaves to a network card that it does not have (`ethtool -K`). It changes nothing else.

use std::io;

use rustix::ioctl::{Opcode, Setter, ioctl};
use rustix::net::{AddressFamily, SocketType, socket};

/// `SIOCETHTOOL` of `linux/sockios.h`.
const ETHTOOL: Opcode = 0x8946;

/// Commands of `linux/ethtool.h` with what they switch: transmit and receive checksums, TCP segmentation, generic
/// segmentation, generic receive offload.
const SWITCHES: &[u32] = &[0x17, 0x15, 0x1f, 0x24, MERGE];

/// `ETHTOOL_SGRO`.
const MERGE: u32 = 0x2c;

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

/// Switches all offloads off that a veth has, for an interface of the calling thread's namespace. From here on each
/// frame has its checksums, is no longer than the MTU, and is checked by who receives it.
pub(crate) fn switch_off(interface: &str) -> io::Result<()> {
    SWITCHES.iter().try_for_each(|command| switch(interface, *command, false))
}

/// Switches the merging of received segments on or off.
pub(crate) fn merge_received(interface: &str, merge: bool) -> io::Result<()> {
    switch(interface, MERGE, merge)
}

fn switch(interface: &str, command: u32, on: bool) -> io::Result<()> {
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    let mut value = Value { command, data: u32::from(on) };
    let mut request = Request { interface: [0; 16], value: &raw mut value, rest: [0; 16] };
    for (to, from) in request.interface[..15].iter_mut().zip(interface.bytes()) {
        *to = from;
    }
    #[allow(unsafe_code, reason = "no safe interface to SIOCETHTOOL")]
    // SAFETY: the opcode is SIOCETHTOOL, which takes an ifreq with a pointer to an ethtool_value for these
    // commands; both live until the call returns, and the name ends with a zero byte.
    let done = unsafe { ioctl(&socket, Setter::<ETHTOOL, Request>::new(request)) };
    match done {
        // A switch that this kernel's veth does not have needs no switching.
        Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
        other => Ok(other?),
    }
}
