//! Pools: addresses that Services get as virtual IPs, or may ask for, and the namespaces that may use them.

use crate::selector::LabelSelector;
use crate::vip::unreachable;
use serde::Serialize;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

/// The pool of ranges that name none.
pub const DEFAULT_POOL: &str = "default";
/// Pools that there may be: each has series of its own among the metrics.
pub const MAX_POOLS: usize = 64;
/// Longest name of a pool: that of a label's value.
const LONGEST_NAME: usize = 63;

/// A range of addresses of one family, both ends included: `192.0.2.0/24`, `192.0.2.10-192.0.2.20` or one address.
///
/// Every address of a network may be asked for, its first and last too: a VIP is reached through neighbour discovery or a
/// route, and neither knows the mask. But clients on the same network do, so these are chosen for nobody
/// ([`AddressRange::choosable`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct AddressRange {
    first: IpAddr,
    last: IpAddr,
    /// Of a range that was written as a network: its length.
    prefix: Option<u8>,
}

/// Addresses under one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VipPool {
    /// Unique among pools.
    pub name: Arc<str>,
    /// In the order in which addresses are chosen.
    pub ranges: Vec<AddressRange>,
    /// Namespaces whose labels match one of these may use it; none at all = every namespace may.
    pub namespaces: Vec<LabelSelector>,
}

/// All pools, in the order in which they are tried. No address is in two of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VipPools(Vec<VipPool>);

/// Ranges as they are given, `[NAME=]RANGE[,RANGE...]`: a name holds until the next one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolRanges(Vec<(Arc<str>, AddressRange)>);

/// `NAME=SELECTOR`: which namespaces may use a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolNamespaces(Arc<str>, LabelSelector);

/// Why a text, or several together, are no pools.
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
    /// The name is none.
    #[error("{0:?} is no name for a pool; use lower-case letters, digits and `-`, 63 at most")]
    Name(String),
    /// Not `NAME=SELECTOR`.
    #[error("{0:?} does not say which pool; write NAME=SELECTOR, as in internal=team=edge")]
    NoPool(String),
    /// The selector is none.
    #[error("pool {0}: {1}")]
    Selector(Arc<str>, crate::selector::InvalidSelector),
    /// Two pools share addresses, so that nobody could say from which one they come.
    #[error("pool {0} ({1}) and pool {2} ({3}) overlap; an address can be in one pool alone")]
    Overlap(Arc<str>, AddressRange, Arc<str>, AddressRange),
    /// Namespaces of a pool that is not there.
    #[error("there is no pool {0} whose namespaces could be chosen; give it addresses, or correct the name")]
    Unknown(Arc<str>),
    /// There are too many of them.
    #[error("there are more than {MAX_POOLS} pools; give several ranges one name")]
    TooMany,
}

impl VipPools {
    /// Ranges of one name make one pool, in the order in which names and ranges come first.
    ///
    /// # Errors
    /// Where two pools overlap, namespaces are chosen for a pool that is not there, or there are more than [`MAX_POOLS`].
    pub fn new(
        ranges: impl IntoIterator<Item = PoolRanges>,
        namespaces: impl IntoIterator<Item = PoolNamespaces>,
    ) -> Result<Self, InvalidVipPool> {
        let mut pools: Vec<VipPool> = Vec::new();
        for (name, range) in ranges.into_iter().flat_map(|given| given.0) {
            let shares = pools.iter().filter(|pool| pool.name != name).find_map(|pool| {
                let other = pool.ranges.iter().find(|other| other.overlaps(range))?;
                Some((Arc::clone(&pool.name), *other))
            });
            if let Some((other, known)) = shares {
                return Err(InvalidVipPool::Overlap(other, known, name, range));
            }
            match pools.iter_mut().find(|pool| pool.name == name) {
                Some(pool) => pool.ranges.push(range),
                None => pools.push(VipPool { name, ranges: vec![range], namespaces: Vec::new() }),
            }
        }
        if pools.len() > MAX_POOLS {
            return Err(InvalidVipPool::TooMany);
        }
        for PoolNamespaces(name, selector) in namespaces {
            match pools.iter_mut().find(|pool| pool.name == name) {
                Some(pool) => pool.namespaces.push(selector),
                None => return Err(InvalidVipPool::Unknown(name)),
            }
        }
        Ok(Self(pools))
    }

    /// In order.
    pub fn iter(&self) -> impl Iterator<Item = &VipPool> {
        self.0.iter()
    }

    /// True where no address can be had.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The pool that an address lies in.
    pub fn of(&self, address: IpAddr) -> Option<&VipPool> {
        self.0.iter().find(|pool| pool.contains(address))
    }

    /// The pool of this name.
    pub fn named(&self, name: &str) -> Option<&VipPool> {
        self.0.iter().find(|pool| *pool.name == *name)
    }

    /// True where a selector asks for labels of namespaces.
    pub fn asks_for_labels(&self) -> bool {
        self.0.iter().any(|pool| !pool.namespaces.is_empty())
    }
}

/// For settings without namespaces: `192.0.2.0/24,internal=198.51.100.0/24`.
impl FromStr for VipPools {
    type Err = InvalidVipPool;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new([text.parse()?], [])
    }
}

impl VipPool {
    /// True if the address is one of it.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.ranges.iter().any(|range| range.contains(address))
    }

    /// True if a namespace with these labels may use it.
    pub fn is_for<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.namespaces.is_empty() || self.namespaces.iter().any(|selector| selector.matches(&label))
    }
}

impl fmt::Display for VipPool {
    /// `name (range, range)`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ranges: Vec<String> = self.ranges.iter().map(ToString::to_string).collect();
        write!(f, "{} ({})", self.name, ranges.join(", "))
    }
}

impl FromStr for PoolRanges {
    type Err = InvalidVipPool;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut name: Arc<str> = DEFAULT_POOL.into();
        let mut ranges = Vec::new();
        for part in text.split(',') {
            let range = match part.split_once('=') {
                Some((named, range)) => {
                    name = pool_name(named)?;
                    range
                }
                None => part,
            };
            ranges.push((Arc::clone(&name), range.parse()?));
        }
        Ok(Self(ranges))
    }
}

impl FromStr for PoolNamespaces {
    type Err = InvalidVipPool;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, selector) = text.split_once('=').ok_or_else(|| InvalidVipPool::NoPool(text.to_owned()))?;
        let name = pool_name(name)?;
        let selector = selector.parse().map_err(|error| InvalidVipPool::Selector(Arc::clone(&name), error))?;
        Ok(Self(name, selector))
    }
}

/// As a DNS label (RFC 1123).
fn pool_name(text: &str) -> Result<Arc<str>, InvalidVipPool> {
    let name = text.trim();
    let is_inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let is_good = !name.is_empty()
        && name.len() <= LONGEST_NAME
        && name.bytes().all(is_inner)
        && !name.starts_with('-')
        && !name.ends_with('-');
    if is_good { Ok(name.into()) } else { Err(InvalidVipPool::Name(text.to_owned())) }
}

impl AddressRange {
    /// True if the address may be asked for.
    pub fn contains(&self, address: IpAddr) -> bool {
        // The order of `IpAddr` puts all IPv4 addresses before all IPv6 ones, so a range of one family holds no other.
        (self.first..=self.last).contains(&address)
    }

    /// True for ranges of IPv4 addresses.
    pub fn is_ipv4(&self) -> bool {
        self.first.is_ipv4()
    }

    fn overlaps(&self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// First and last address that may be chosen for a Service; `None` = there is none.
    ///
    /// Of an IPv4 network up to /30 its own address and that for broadcasts are left out, which hosts with the same mask
    /// cannot reach; of an IPv6 network up to /126 the first one, which routers answer for (RFC 4291 section 2.6.1).
    /// Written as FIRST-LAST, all are chosen.
    pub fn choosable(&self) -> Option<(IpAddr, IpAddr)> {
        let (first, last) = match self.prefix {
            Some(..=30) if self.is_ipv4() => (successor(self.first)?, predecessor(self.last)?),
            Some(..=126) if !self.is_ipv4() => (successor(self.first)?, self.last),
            _ => (self.first, self.last),
        };
        (first <= last && unreachable(first).is_none() && unreachable(last).is_none()).then_some((first, last))
    }
}

/// How many addresses lie between two, both included; those that do not fit are not counted.
pub fn count(first: IpAddr, last: IpAddr) -> u128 {
    bits(last).saturating_sub(bits(first)).saturating_add(1)
}

/// The next address of the same family.
pub fn successor(address: IpAddr) -> Option<IpAddr> {
    Some(match address {
        IpAddr::V4(address) => Ipv4Addr::from_bits(address.to_bits().checked_add(1)?).into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits().checked_add(1)?).into(),
    })
}

fn predecessor(address: IpAddr) -> Option<IpAddr> {
    Some(match address {
        IpAddr::V4(address) => Ipv4Addr::from_bits(address.to_bits().checked_sub(1)?).into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits().checked_sub(1)?).into(),
    })
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

impl FromStr for AddressRange {
    type Err = InvalidVipPool;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        let form = || InvalidVipPool::Form(text.to_owned());
        let address = |part: &str| part.trim().parse::<IpAddr>().map_err(|_| form());
        if let Some((network, length)) = text.split_once('/') {
            // `+24` is a number to Rust and a slip to everybody else.
            let digits = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
            let length: u8 = length.parse().ok().filter(|_| digits).ok_or_else(form)?;
            let network = address(network)?;
            let (first, last) = span(network, length).ok_or_else(form)?;
            if first != network {
                return Err(InvalidVipPool::HostBits(text.to_owned(), format!("{first}/{length}")));
            }
            return Ok(Self { first, last, prefix: Some(length) });
        }
        let (first, last) = match text.split_once('-') {
            Some((first, last)) => (address(first)?, address(last)?),
            None => (address(text)?, address(text)?),
        };
        if first.is_ipv4() != last.is_ipv4() || first > last {
            return Err(InvalidVipPool::Order(text.to_owned()));
        }
        Ok(Self { first, last, prefix: None })
    }
}

/// First and last address of a network.
fn span(network: IpAddr, length: u8) -> Option<(IpAddr, IpAddr)> {
    let shift = u32::from(length);
    match network {
        IpAddr::V4(network) => {
            let hosts = u32::MAX.checked_shr(shift).unwrap_or(0);
            let first = network.to_bits() & !hosts;
            (length <= 32).then(|| (Ipv4Addr::from(first).into(), Ipv4Addr::from(first | hosts).into()))
        }
        IpAddr::V6(network) => {
            let hosts = u128::MAX.checked_shr(shift).unwrap_or(0);
            let first = network.to_bits() & !hosts;
            (length <= 128).then(|| (Ipv6Addr::from(first).into(), Ipv6Addr::from(first | hosts).into()))
        }
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.prefix {
            Some(length) => write!(f, "{}/{length}", self.first),
            None if self.first == self.last => write!(f, "{}", self.first),
            None => write!(f, "{}-{}", self.first, self.last),
        }
    }
}
