//! Is a frame meant for this machine at all?
//!
//! A switch that does not know where a MAC address is (its owner has just died) floods the frame, and a port in promiscuous
//! mode or below a bridge sees those of others anyway. Whoever forwarded them would do so beside their addressee.

use crate::access::Tables;
use crate::field::bytes;
use crate::layout::PortMacs;
use crate::parse::ETHERNET;

/// The bit of the first byte that groups have, and broadcast.
const GROUP: u64 = 1;
const MAC: u64 = 0xffff_ffff_ffff;

/// Is the frame for one other station? A group is everybody, and a port of which nothing is known takes everything.
#[inline(always)]
pub(crate) fn is_for_another<T: Tables>(ethernet: &[u8; ETHERNET], ingress: u32, tables: &T) -> bool {
    let to = u64::from_le_bytes(bytes(ethernet, 0)) & MAC;
    if to & GROUP != 0 {
        return false;
    }
    match tables.port_macs(PortMacs::row_of(ingress)) {
        Some(port) => port.ifindex == ingress && !has(&port, to),
        None => false,
    }
}

#[inline(always)]
fn has(port: &PortMacs, mac: u64) -> bool {
    let [first, second, third, fourth, fifth, sixth, seventh] = port.macs;
    first == mac || second == mac || third == mac || fourth == mac || fifth == mac || sixth == mac || seventh == mac
}
