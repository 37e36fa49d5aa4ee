//! What cannot be served, whose doing that is and what to do about it. The rest goes on.

use crate::fleet::ServiceKey;
use std::net::IpAddr;
use std::sync::Arc;

/// A part of the desired state that is not in the tables.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum PlanFailure {
    /// The Service asks for a second chance, which it cannot have as it is bound. It is served without.
    #[error(
        "{namespace}/{service} on VIP {vip}: there is no second chance {why}, it is served without: {}, or remove \
         sluicegate.io/second-chance", why.remedy()
    )]
    SecondChanceUnavailable {
        /// The VIP.
        vip: IpAddr,
        /// Namespace of the Service.
        namespace: Arc<str>,
        /// Name of the Service.
        service: Arc<str>,
        /// Why it cannot.
        why: NoSecondChance,
    },
    /// The VIP is the address of a router.
    #[error(
        "VIP {vip} is the address of a router of this machine: taking it would cut the machine off; use another one"
    )]
    VipIsRouter {
        /// The VIP.
        vip: IpAddr,
    },
    /// The VIP is the machine's own address.
    #[error(
        "VIP {vip} is an address of interface {interface} of this machine: remove it from there (a director does not need \
         it, a backend has it on lo), or use another VIP"
    )]
    VipIsOwn {
        /// The VIP.
        vip: IpAddr,
        /// Who has it.
        interface: String,
    },
    /// No id is left for a VIP.
    #[error("VIP {vip}: the table of VIPs is full ({most}): bind fewer{waiting}")]
    TooManyVips {
        /// The VIP.
        vip: IpAddr,
        /// How many fit.
        most: usize,
        /// Ids that the next sweep frees.
        waiting: Waiting,
    },
    /// No id is left for a service.
    #[error("{key}: the table of services is full ({most}): bind fewer ports{waiting}")]
    TooManyServices {
        /// Which one.
        key: ServiceKey,
        /// How many fit.
        most: usize,
        /// Ids that the next sweep frees.
        waiting: Waiting,
    },
    /// No id is left for real servers; the service goes on with the others.
    #[error("{key}: {left_out} real servers are left out, the table of backends is full ({most}): list fewer{waiting}")]
    TooManyBackends {
        /// Whose real servers.
        key: ServiceKey,
        /// How many of them.
        left_out: usize,
        /// How many fit.
        most: usize,
        /// Ids that the next sweep frees.
        waiting: Waiting,
    },
    /// No ring is left. A service that had one keeps it while all in it may be used, else it drops packets by name.
    #[error(
        "{key}: the table of rings is full ({most}): give more Services the same real servers and weights, or bind fewer\
         {waiting}"
    )]
    TooManyRings {
        /// Which one.
        key: ServiceKey,
        /// How many fit.
        most: usize,
        /// Rings that the next sweep frees.
        waiting: Waiting,
    },
    /// No ring is left for the former owners of slots. The service goes on without a second chance.
    #[error(
        "{key}: the table of rings is full ({most}), so there is no second chance: give more Services the same real servers \
         and weights, or bind fewer{waiting}"
    )]
    NoRingOfFormers {
        /// Which one.
        key: ServiceKey,
        /// How many fit.
        most: usize,
        /// Rings that the next sweep frees.
        waiting: Waiting,
    },
    /// Both buckets of the VIP are full, and nothing in them can move.
    #[error(
        "VIP {vip}: no room in its two buckets of the directory of VIPs: bind fewer, or use a neighbouring address"
    )]
    NoAddressBucket {
        /// The VIP.
        vip: IpAddr,
    },
    /// Both buckets of the service are full, and nothing in them can move.
    #[error("{key}: no room in its two buckets of the directory of services: bind fewer ports")]
    NoServiceBucket {
        /// Which one.
        key: ServiceKey,
    },
}

impl PlanFailure {
    /// The VIP that it is about.
    #[must_use]
    pub const fn vip(&self) -> IpAddr {
        match self {
            Self::SecondChanceUnavailable { vip, .. }
            | Self::VipIsRouter { vip }
            | Self::VipIsOwn { vip, .. }
            | Self::TooManyVips { vip, .. }
            | Self::NoAddressBucket { vip } => *vip,
            Self::TooManyServices { key, .. }
            | Self::TooManyBackends { key, .. }
            | Self::TooManyRings { key, .. }
            | Self::NoRingOfFormers { key, .. }
            | Self::NoServiceBucket { key } => key.vip,
        }
    }
}

/// Why a Service has no second chance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum NoSecondChance {
    /// Only the header of GUE has room for the former owner.
    #[error("without the method GUE")]
    Method,
    /// `rr` and `wrr`: a flow has no slot.
    #[error("with a scheduler that takes real servers in turn")]
    Scheduler,
}

impl NoSecondChance {
    const fn remedy(self) -> &'static str {
        match self {
            Self::Method => "write :GUE behind the Service or set sluicegate.io/method: GUE",
            Self::Scheduler => "use mh, sh, dh, lc or wlc",
        }
    }
}

/// How many entries are in quarantine until the next sweep of the flow table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Waiting(pub usize);

impl std::fmt::Display for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            0 => Ok(()),
            waiting => write!(f, ", or wait: the next sweep frees {waiting}"),
        }
    }
}
