//! The director in `/api/v1/state`: whether it may hold virtual IPs, who else is there, who claims what is not theirs.

use serde::{Deserialize, Serialize};

/// This director among its peers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectorState {
    /// Its name.
    pub name: String,
    /// An operator took it out: it forwards and votes, and holds no virtual IP.
    pub cordoned: bool,
    /// It may hold virtual IPs.
    pub fit: bool,
    /// Why it may not.
    pub reason: Option<String>,
    /// Who has the deciding vote of two: `mine`, `theirs`, or `unknown` before they have spoken; null where there are not two.
    pub deciding_vote: Option<String>,
    /// How often it became the owner of a virtual IP.
    pub take_overs: u64,
    /// How often it ceased to be.
    pub losses: u64,
    /// How many stations claimed a virtual IP that is not theirs.
    pub conflicts: u64,
    /// The others, by name.
    pub peers: Vec<PeerState>,
    /// The cluster's directors; null where flags name them.
    #[serde(default)]
    pub membership: Option<MembershipState>,
}

/// The directors of a cluster, and how it stands with the Lease of this one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembershipState {
    /// How many changes of the directors there have been; 0 before the record was read.
    pub number: u64,
    /// Their names.
    pub members: Vec<String>,
    /// This director is one of them.
    pub is_member: bool,
    /// How long ago its Lease was last renewed, in seconds; null before the first time.
    pub renewed_seconds_ago: Option<u64>,
    /// What is wrong with the Leases, and what to do.
    pub trouble: Option<String>,
}

/// Another director, as this one sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerState {
    /// Its name.
    pub name: String,
    /// Heard within a lease, and not known to be dead.
    pub present: bool,
    /// It says that it may hold virtual IPs.
    pub fit: bool,
    /// How many it says that it owns.
    pub holds: u64,
}

/// A station that says that a virtual IP is its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConflictState {
    /// Its MAC address, `02:00:00:00:00:01`.
    pub mac: String,
    /// It is the address of another director.
    pub by_director: bool,
    /// How long ago it last said so.
    pub seconds_ago: u64,
}

/// Why a director is not cordoned, or not uncordoned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CordonError {
    /// This process forwards no packets.
    #[error("no director runs here")]
    NoDirector,
    /// Nobody else could hold the virtual IPs.
    #[error("no other director is there and fit: nobody would hold the virtual IPs")]
    Alone,
    /// There is nobody to ask.
    #[error("{0}")]
    Unavailable(String),
}
