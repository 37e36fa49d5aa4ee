//! Which directors there are, where a cluster says so instead of flags.
//!
//! The API server keeps one record, the [`Membership`]: numbered, and each number made from the one before by
//! compare-and-swap, so that there is one chain of them. A director counts the votes of its own membership's majority.
//! Directors know of different numbers for a while, and still no two majorities are disjoint:
//!
//! - Neighbours in the chain differ by one member at most, so their majorities share a voter, who gives each VIP to one
//!   director at a time.
//! - A voter renews no vote of a director that is behind itself. So once a majority of a membership knows it, and the lease
//!   has passed, no majority of the one before can be had any more; only then is the next one proposed. Directors tell each
//!   other the newest membership with their heartbeats, so being behind lasts for the time of one, with the API server or
//!   without.
//! - Two have a deciding vote beside their majority of two. It comes from contact in that membership and counts a lease
//!   later (at once for one who was alone before). To take in a third, whoever has it says that it is not used any more, and
//!   proposes when the other one has heard that, who then may not take it over, but finish the change if the first one dies.
//!   To leave out a silent one, it does not listen to it from the proposal on; the silent one takes the vote over by positive death only where it had been heard within a lease, which it had not.
//! - A director that starts writes its new life into the record before anything else. So a member whose life has ended (it
//!   said so, its process was seen to die, or the operator deleted its Lease) can vote again only by changing the record,
//!   and whoever leaves it out by compare-and-swap knows that it has not.
//!
//! Votes given to a member that is left out are kept to their end all the same.

use crate::rendezvous::{DirectorId, Incarnation};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// The directors of a cluster, as its API server has them recorded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// Grows by one with every change.
    pub number: u64,
    /// All of them, this one too.
    pub members: BTreeMap<DirectorId, Member>,
}

/// One director of a [`Membership`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The life that may vote.
    pub life: Incarnation,
    /// Where the others find it; nobody joins one who has none.
    pub addresses: Vec<SocketAddr>,
}

/// What the Lease of a director says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Whether it is there.
    pub state: LeaseState,
    /// The number of the membership that it last knew; 0 = none.
    pub number: u64,
}

/// Whether the Lease of a director is renewed. One that has none, or whose Lease was deleted, is in no list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseState {
    /// It is.
    Alive(Member),
    /// Not for the whole duration of the Lease, while the API server answered.
    Expired,
    /// This life of it has ended by itself.
    Ended(Incarnation),
}

impl Membership {
    /// Most members: as many as a majority is reckoned for.
    pub const MOST_MEMBERS: usize = 16;
    /// Most addresses of one member.
    pub const MOST_ADDRESSES: usize = 4;

    /// The next one in the chain.
    #[must_use]
    pub fn next(&self, change: impl FnOnce(&mut BTreeMap<DirectorId, Member>)) -> Self {
        let mut members = self.members.clone();
        change(&mut members);
        Self { number: self.number + 1, members }
    }

    /// Whether the same directors are in both, in whichever life.
    pub(crate) fn has_same_names(&self, other: &Self) -> bool {
        self.members.keys().eq(other.members.keys())
    }
}
