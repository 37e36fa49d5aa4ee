//! Is a frame meant for this machine at all?
//!
//! A switch that does not know where a MAC address is (its owner has just died) floods the frame, and a port in promiscuous
//! mode or below a bridge sees those of others anyway. Whoever forwarded them would do so beside their addressee.

use crate::access::{Packet, Tables};
use crate::field::bytes;
use crate::layout::PortMacs;

/// The bit of the first byte that groups have, and broadcast.
const GROUP: u64 = 1;
const MAC: u64 = 0xffff_ffff_ffff;

/// Is the frame for one other station? A group is everybody, and a port of which nothing is known takes everything.
#[inline(always)]
pub(crate) fn is_for_another<P: Packet, T: Tables>(packet: &P, tables: &T) -> bool {
    let Some(ethernet) = packet.view::<14>(0) else {
        return false;
    };
    let to = u64::from_le_bytes(bytes(ethernet, 0)) & MAC;
    if to & GROUP != 0 {
        return false;
    }
    let ingress = packet.ingress();
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
