//! Keeps the kernel from merging received segments (GRO) on a port while it is attached: a merged frame is longer than the
//! MTU, and could not be sent on. It changes nothing else, and puts back what it found.

use rustix::ioctl::{Opcode, Updater, ioctl};
use rustix::net::{AddressFamily, SocketType, socket};
use std::io;

/// `SIOCETHTOOL` of `linux/sockios.h`.
const ETHTOOL: Opcode = 0x8946;
/// `ETHTOOL_GGRO` of `linux/ethtool.h`.
const ASK: u32 = 0x2b;
/// `ETHTOOL_SGRO`.
const SET: u32 = 0x2c;

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

/// A port on which segments were merged before. Dropped, it lets that be again.
#[derive(Debug)]
pub struct Unmerged {
    interface: String,
}

impl Unmerged {
    /// Switches merging off; `None` where it was off.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn switch_off(interface: &str) -> io::Result<Option<Self>> {
        if order(interface, ASK, 0)? == 0 {
            return Ok(None);
        }
        order(interface, SET, 0)?;
        Ok(Some(Self { interface: interface.to_owned() }))
    }
}

impl Drop for Unmerged {
    fn drop(&mut self) {
        if let Err(error) = order(&self.interface, SET, 1) {
            tracing::debug!(interface = %self.interface, %error, "merging of segments stays off");
        }
    }
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
