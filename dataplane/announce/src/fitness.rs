//! Whether this director may hold a VIP.

use std::fmt;
use std::net::IpAddr;

/// What the other parts say of this director. All must be well for it to hold anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fitness {
    /// The interface of the VIP network has a carrier.
    pub carrier: bool,
    /// The packet path is attached: without it nobody answers for a VIP.
    pub attached: bool,
    /// An operator took it out. It goes on voting, so a witness is a director that is always cordoned.
    pub cordoned: bool,
}

impl Fitness {
    /// Nothing is wrong.
    pub const FIT: Self = Self { carrier: true, attached: true, cordoned: false };

    /// The first thing that is wrong.
    ///
    /// # Errors
    /// If anything is.
    pub fn check(self) -> Result<(), Unfit> {
        match self {
            Self { cordoned: true, .. } => Err(Unfit::Cordoned),
            Self { attached: false, .. } => Err(Unfit::Detached),
            Self { carrier: false, .. } => Err(Unfit::NoCarrier),
            _ => Ok(()),
        }
    }
}

/// Why a director holds no VIP, or not this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Unfit {
    /// An operator took it out.
    Cordoned,
    /// The packet path is attached to no interface.
    Detached,
    /// The interface has no carrier.
    NoCarrier,
    /// It is going down and has given its VIPs up.
    Released,
    /// It is none of the directors of its cluster, or not yet.
    NoMember,
    /// No real server of this VIP answers.
    NoRealServer(IpAddr),
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cordoned => f.write_str("this director is cordoned"),
            Self::Detached => f.write_str("the packet path is not attached"),
            Self::NoCarrier => f.write_str("the interface has no carrier"),
            Self::Released => f.write_str("this director is shutting down"),
            Self::NoMember => f.write_str("the cluster's record of directors does not have this one yet"),
            Self::NoRealServer(vip) => write!(f, "no real server of {vip} answers"),
        }
    }
}
