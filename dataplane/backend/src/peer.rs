//! Networks of other real servers.

use sluicegate_l4::layout::Address;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Prefix of an IPv4 address in the tables, where it lies as `::ffff:a.b.c.d`.
const MAPPED: u8 = 96;

/// A network of real servers, or one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PeerNetwork {
    address: IpAddr,
    prefix: u8,
}

/// A text that is no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no network: write ADDRESS, or ADDRESS/PREFIX such as 203.0.113.0/24")]
pub struct PeerNetworkError(String);

impl PeerNetwork {
    /// The network that has the address and this prefix in bits; `None` where it is longer than the address.
    #[must_use]
    pub fn new(address: IpAddr, prefix: u8) -> Option<Self> {
        let network = match address {
            IpAddr::V4(address) if prefix <= 32 => {
                let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
                IpAddr::from(Ipv4Addr::from_bits(address.to_bits() & mask))
            }
            IpAddr::V6(address) if prefix <= 128 => {
                let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
                IpAddr::from(Ipv6Addr::from_bits(address.to_bits() & mask))
            }
            _ => return None,
        };
        Some(Self { address: network, prefix })
    }

    /// Its members are behind outer headers of IPv6.
    #[must_use]
    pub const fn is_ipv6(&self) -> bool {
        self.address.is_ipv6()
    }

    /// Prefix and address as they lie in the table.
    pub(crate) fn key(&self) -> (u32, Address) {
        let prefix = if self.is_ipv6() { self.prefix } else { MAPPED + self.prefix };
        (u32::from(prefix), crate::backend::words(self.address))
    }
}

impl FromStr for PeerNetwork {
    type Err = PeerNetworkError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || PeerNetworkError(text.to_owned());
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let prefix = match prefix {
            Some(prefix) => prefix.parse().map_err(|_| wrong())?,
            None if address.is_ipv4() => 32,
            None => 128,
        };
        Self::new(address, prefix).ok_or_else(wrong)
    }
}

impl fmt::Display for PeerNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}
