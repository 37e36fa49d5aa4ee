//! Ranges of addresses that Services may ask for as virtual IPs.

use serde::Serialize;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A range of addresses of one family, both ends included: `192.0.2.0/24`, `192.0.2.10-192.0.2.20` or one address.
///
/// Every address of a network counts, its first and last too: a VIP is reached through neighbour discovery or a route,
/// and neither knows the mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct VipPool {
    first: IpAddr,
    last: IpAddr,
}

/// Why a text is not a pool.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidVipPool {
    /// Not one of the forms.
    #[error("{0:?} is not a range of addresses; write 192.0.2.0/24, 192.0.2.10-192.0.2.20 or 2001:db8::/64")]
    Form(String),
    /// Bits are set behind the prefix, so that either the address or the length is a slip.
    #[error("{0:?} has bits set behind its prefix; write {1}, or FIRST-LAST for a part of it")]
    HostBits(String, String),
    /// Two families, or the last address comes before the first.
    #[error("{0:?} does not go from a lower to a higher address of one family; write FIRST-LAST in this order")]
    Order(String),
}

impl VipPool {
    /// True if the address may be asked for.
    pub fn contains(&self, address: IpAddr) -> bool {
        // The order of `IpAddr` puts all IPv4 addresses before all IPv6 ones, so a range of one family holds no other.
        (self.first..=self.last).contains(&address)
    }
}

impl FromStr for VipPool {
    type Err = InvalidVipPool;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        let form = || InvalidVipPool::Form(text.to_owned());
        let address = |part: &str| part.trim().parse::<IpAddr>().map_err(|_| form());
        if let Some((network, length)) = text.split_once('/') {
            // `+24` is a number to Rust and a slip to everybody else.
            let digits = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
            let length: u32 = length.parse().ok().filter(|_| digits).ok_or_else(form)?;
            let network = address(network)?;
            let (first, last) = span(network, length).ok_or_else(form)?;
            if first != network {
                return Err(InvalidVipPool::HostBits(text.to_owned(), format!("{first}/{length}")));
            }
            return Ok(Self { first, last });
        }
        let (first, last) = match text.split_once('-') {
            Some((first, last)) => (address(first)?, address(last)?),
            None => (address(text)?, address(text)?),
        };
        if first.is_ipv4() != last.is_ipv4() || first > last {
            return Err(InvalidVipPool::Order(text.to_owned()));
        }
        Ok(Self { first, last })
    }
}

/// First and last address of a network.
fn span(network: IpAddr, length: u32) -> Option<(IpAddr, IpAddr)> {
    match network {
        IpAddr::V4(network) => {
            let hosts = u32::MAX.checked_shr(length).unwrap_or(0);
            let first = network.to_bits() & !hosts;
            (length <= 32).then(|| (Ipv4Addr::from(first).into(), Ipv4Addr::from(first | hosts).into()))
        }
        IpAddr::V6(network) => {
            let hosts = u128::MAX.checked_shr(length).unwrap_or(0);
            let first = network.to_bits() & !hosts;
            (length <= 128).then(|| (Ipv6Addr::from(first).into(), Ipv6Addr::from(first | hosts).into()))
        }
    }
}

impl fmt::Display for VipPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { write!(f, "{}", self.first) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}
