//! A wire between two namespaces: a veth pair without offloads, both ends up. It filters and delays nothing by itself.

use std::os::fd::AsFd;
use std::time::Duration;

use crate::names::LONGEST_INTERFACE;
use crate::netlink::{self, VethEnd};
use crate::{LabError, Namespace, offload};

/// What a wire is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WireOptions {
    /// Largest packet in bytes, without the Ethernet header.
    pub mtu: u32,
    /// How long a frame is under way, each way. Not zero means a wire that a thread carries; see the crate's
    /// documentation for its price.
    pub delay: Duration,
}

impl Default for WireOptions {
    fn default() -> Self {
        Self { mtu: 1500, delay: Duration::ZERO }
    }
}

pub(crate) fn join(one: (&Namespace, &str), other: (&Namespace, &str), mtu: u32) -> Result<(), LabError> {
    for (_, interface) in [one, other] {
        check_interface(interface)?;
    }
    let here = VethEnd { interface: one.1, mac: mac_of(one) };
    let there = VethEnd { interface: other.1, mac: mac_of(other) };
    one.0.ask(|| netlink::add_veth(&here, &there, other.0.file().as_fd(), mtu))?;
    for (namespace, interface) in [one, other] {
        namespace.ask(|| {
            offload::switch_off(interface)
                .map_err(LabError::system(format!("switching the offloads of {interface} off")))?;
            netlink::set_up(interface, true)
        })?;
    }
    Ok(())
}

fn check_interface(interface: &str) -> Result<(), LabError> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let reason = if interface.is_empty() || interface.len() > LONGEST_INTERFACE {
        "it must have 1 to 15 characters"
    } else if !interface.bytes().all(good) {
        "only letters, digits, - and _ are allowed"
    } else {
        return Ok(());
    };
    Err(LabError::Name { what: "the name of an interface", name: interface.to_owned(), reason })
}

/// The same in every run, so that captures can be compared: locally administered, and 40 bits of the FNV-1a hash of
/// the names.
fn mac_of((namespace, interface): (&Namespace, &str)) -> [u8; 6] {
    let text = namespace.label().bytes().chain([0]).chain(interface.bytes());
    let hash =
        text.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let [_, _, _, a, b, c, d, e] = (hash ^ (hash >> 32)).to_be_bytes();
    [0x02, a, b, c, d, e]
}
