//! Ownership of virtual IPs as the admin API shows it. Pure: what the announcer knows becomes what people read.

use sluicegate_admin::director::{ConflictState, DirectorState, MembershipState, PeerState};
use sluicegate_announce::{Conflict, Deciding, DirectorId, Status};

/// The director; without a status its announcer has not started yet.
pub fn director(
    name: &DirectorId,
    cordoned: bool,
    status: Option<&Status>,
    membership: Option<MembershipState>,
) -> DirectorState {
    let Some(status) = status else {
        return DirectorState { name: name.to_string(), cordoned, membership, ..DirectorState::default() };
    };
    let deciding = status.deciding.map(|deciding| match deciding {
        Deciding::Mine | Deciding::Changing => "mine",
        Deciding::Conceded(_) => "theirs",
        Deciding::Unknown => "unknown",
    });
    let peers = status.peers.iter().map(|peer| PeerState {
        name: peer.id.to_string(),
        present: peer.present,
        fit: peer.fit,
        holds: count(peer.held),
    });
    DirectorState {
        name: name.to_string(),
        cordoned,
        fit: status.fitness.is_ok(),
        reason: status.fitness.err().map(|unfit| unfit.to_string()),
        deciding_vote: deciding.map(str::to_owned),
        take_overs: status.take_overs,
        losses: status.losses,
        conflicts: status.conflicts,
        peers: peers.collect(),
        membership,
    }
}

/// True where another director could hold the virtual IPs of this one.
pub fn has_successor(status: &Status) -> bool {
    status.peers.iter().any(|peer| peer.present && peer.fit)
}

/// How many of the others that are there have names before this one's.
pub fn present_before(status: &Status) -> usize {
    status.peers.iter().filter(|peer| peer.present && peer.id < status.me).count()
}

pub fn conflict(conflict: &Conflict) -> ConflictState {
    let [a, b, c, d, e, f] = conflict.mac;
    ConflictState {
        mac: format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}"),
        by_director: conflict.by_director,
        seconds_ago: conflict.heard_ago.as_secs(),
    }
}

fn count(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
