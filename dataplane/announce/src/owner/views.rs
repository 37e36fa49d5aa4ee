//! What operators see of ownership.

use super::Ownership;
use crate::fitness::Unfit;
use crate::moment::Moment;
use crate::rendezvous::DirectorId;
use std::net::IpAddr;
use std::time::Duration;

/// Something that an operator should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// This director owns the VIP.
    TookOver(IpAddr),
    /// This director owns the VIP no more.
    Lost {
        /// Which one.
        vip: IpAddr,
        /// What is wrong with this director; nothing where another one should have it or the votes ran out.
        because: Option<Unfit>,
    },
    /// A peer speaks, for the first time or again.
    PeerHeard(DirectorId),
    /// The process of a peer died.
    PeerGone(DirectorId),
    /// Nothing came from a peer for a whole lease.
    PeerSilent(DirectorId),
    /// The record of the cluster's directors is another one.
    Membership {
        /// Its number.
        number: u64,
        /// Who is in it.
        members: Vec<DirectorId>,
        /// This director is.
        is_in: bool,
    },
    /// Somebody else says that it has a VIP. Said once of each station, and again if it comes back after minutes.
    Conflict {
        /// Which one.
        vip: IpAddr,
        /// The MAC address it gives: search it in the tables of the switches.
        mac: [u8; 6],
        /// It is the address of another director.
        by_director: bool,
    },
}

/// One VIP as this director sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VipView {
    /// Which one.
    pub vip: IpAddr,
    /// Who owns it, as far as this director knows.
    pub owner: Option<DirectorId>,
    /// This director can serve it.
    pub able: bool,
    /// This director asks for it.
    pub claimed: bool,
    /// For how long this director has owned it.
    pub held_for: Option<Duration>,
    /// How far ahead the fence of this director lies.
    pub fence: Duration,
    /// Who else says that it has the VIP.
    pub conflict: Option<Conflict>,
}

/// A station that says that it has a VIP, and is not who should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The MAC address it gives.
    pub mac: [u8; 6],
    /// It is the address of another director.
    pub by_director: bool,
    /// How long ago it last said so. It is forgotten after 150 s, which is longer than two probes.
    pub heard_ago: Duration,
}

/// One peer as this director sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerView {
    /// Which one.
    pub id: DirectorId,
    /// How long ago it was last heard.
    pub heard_ago: Option<Duration>,
    /// It is there: heard within a lease, and not known to be dead.
    pub present: bool,
    /// It says that it may hold VIPs.
    pub fit: bool,
    /// How many VIPs it says that it owns.
    pub held: usize,
    /// For how long its votes for this director count, at the longest.
    pub votes_for: Duration,
}

/// The cluster's directors as this one knows them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MembershipView {
    /// How many changes there have been.
    pub number: u64,
    /// Who is in it, by name.
    pub members: Vec<DirectorId>,
    /// This director is.
    pub is_in: bool,
}

impl Ownership {
    /// The cluster's directors; nothing where flags name them, and before the record was read.
    #[must_use]
    pub fn membership_view(&self) -> Option<MembershipView> {
        let membership = self.membership()?;
        let members = membership.members.keys().cloned().collect();
        Some(MembershipView { number: membership.number, members, is_in: self.is_member() })
    }

    /// All VIPs, ascending.
    #[must_use]
    pub fn vips(&self, now: Moment) -> Vec<VipView> {
        let owner_of = |vip: IpAddr, is_mine: bool| {
            let theirs = self.peers.iter().find(|(_, peer)| peer.is_present() && peer.holds(vip));
            if is_mine { Some(self.settings.me.clone()) } else { theirs.map(|(id, _)| id.clone()) }
        };
        let view = |(vip, state): (&IpAddr, &super::Vip)| VipView {
            vip: *vip,
            owner: owner_of(*vip, state.held.is_some()),
            able: state.able,
            claimed: state.claim.is_some(),
            held_for: state.held.as_ref().map(|held| now - held.since),
            fence: state.fence - now,
            conflict: state.rival.as_ref().filter(|rival| now - rival.last_heard <= Self::RIVAL_KEPT).map(|rival| {
                Conflict { mac: rival.mac, by_director: rival.by_director, heard_ago: now - rival.last_heard }
            }),
        };
        self.vips.iter().map(view).collect()
    }

    /// All peers, by name.
    #[must_use]
    pub fn peers(&self, now: Moment) -> Vec<PeerView> {
        let view = |(id, peer): (&DirectorId, &super::Peer)| PeerView {
            id: id.clone(),
            heard_ago: peer.last_heard.map(|last| now - last),
            present: peer.is_present(),
            fit: peer.is_fit(),
            held: peer.held(),
            votes_for: peer.votes.longest().map_or(Duration::ZERO, |until| until - now),
        };
        self.peers.iter().map(view).collect()
    }
}
