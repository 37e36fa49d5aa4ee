//! Following the chain of memberships: taking the newest one over, and proposing the next. Why it is safe, the module
//! `membership` says.

use super::peer::Peer;
use super::{Action, OnIsolation, Ownership, Report};
use crate::heartbeat::Beat;
use crate::membership::{LeaseState, Member, Membership, Standing};
use crate::moment::Moment;
use crate::rendezvous::DirectorId;
use crate::tie_break::TieBreak;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

/// What is known of memberships where they come from a record.
#[derive(Debug)]
pub(super) struct Chain {
    /// Where others find this director.
    addresses: Vec<SocketAddr>,
    /// The newest one.
    membership: Option<Membership>,
    /// This life of this director has been a member.
    was_member: bool,
    /// The number of the record as it was last read; nothing where it was not read yet, and nothing in it where there is none.
    read: Option<Option<u64>>,
    standings: BTreeMap<DirectorId, Standing>,
    /// Since when directors are without a Lease that is renewed.
    absent_since: BTreeMap<DirectorId, Moment>,
    /// When the API server was last heard.
    heard: Moment,
    /// Whether it will be in the record is not known yet.
    proposing: Option<Membership>,
    /// What should come next, and since when.
    ripe: Option<(Membership, Moment)>,
    /// From this heartbeat on the other one of two hears that a third is being taken in.
    changing_from: u64,
}

/// Why a member may be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Absence {
    /// The life that is in the record has ended.
    Over,
    /// Nothing is heard of it, by heartbeats or by its Lease.
    Silent,
}

impl Chain {
    /// What the API server said longer ago is not built on.
    const STALE: Duration = Duration::from_secs(25);
    /// Between those who would propose the same.
    const TURN: Duration = Duration::from_secs(2);
    /// A record that is missing, or older than what is known, is written again after so long: reads may lag.
    const LOST: Duration = Duration::from_secs(10);

    /// A cluster's directors are new to each other before so many changes.
    const FOUNDING: u64 = 8;

    pub(super) fn new(addresses: Vec<SocketAddr>) -> Self {
        Self {
            addresses,
            membership: None,
            was_member: false,
            read: None,
            standings: BTreeMap::new(),
            absent_since: BTreeMap::new(),
            heard: Moment::default(),
            proposing: None,
            ripe: None,
            changing_from: 0,
        }
    }

    /// Its Lease says that the life that is in the record has ended, or was deleted.
    fn has_ended(&self, id: &DirectorId, member: &Member, gone: Duration, now: Moment) -> bool {
        let has_ended = match self.standings.get(id).map(|standing| &standing.state) {
            None => true,
            Some(LeaseState::Ended(life)) => *life == member.life,
            Some(LeaseState::Alive(_) | LeaseState::Expired) => false,
        };
        has_ended && self.absent_since.get(id).is_some_and(|since| *since + gone <= now)
    }
}

impl Ownership {
    /// The membership, where a record has it.
    #[must_use]
    pub fn membership(&self) -> Option<&Membership> {
        self.chain.as_ref()?.membership.as_ref()
    }

    pub(super) fn number(&self) -> u64 {
        self.membership().map_or(0, |membership| membership.number)
    }

    /// True where flags name the directors, or the record has this life of this one.
    pub(super) fn is_member(&self) -> bool {
        let is_in = |known: &Membership| {
            known.members.get(&self.settings.me).is_some_and(|member| member.life == self.incarnation)
        };
        self.chain.is_none() || self.membership().is_some_and(is_in)
    }

    /// The record as it is: what was proposed is in it, or something else came first.
    pub(super) fn read_record(&mut self, record: Option<Membership>, now: Moment) {
        let Some(chain) = &mut self.chain else { return };
        let number = record.as_ref().map(|record| record.number);
        chain.heard = now;
        chain.read = Some(number);
        if number >= chain.proposing.as_ref().map(|proposed| proposed.number) {
            chain.proposing = None;
        }
        if let Some(record) = record {
            self.adopt(record, now);
        }
    }

    pub(super) fn set_standings(&mut self, standings: BTreeMap<DirectorId, Standing>, now: Moment) {
        let Some(chain) = &mut self.chain else { return };
        chain.heard = now;
        let is_alive =
            |id: &DirectorId| matches!(standings.get(id), Some(Standing { state: LeaseState::Alive(_), .. }));
        let members = chain.membership.iter().flat_map(|membership| membership.members.keys());
        let known: Vec<DirectorId> = members.chain(standings.keys()).cloned().collect();
        for id in known {
            match is_alive(&id) {
                true => drop(chain.absent_since.remove(&id)),
                false => drop(chain.absent_since.entry(id).or_insert(now)),
            }
        }
        chain.standings = standings;
    }

    /// What a heartbeat says of the membership. False where it is none of a member's.
    pub(super) fn hear_membership(&mut self, from: &DirectorId, beat: &Beat, now: Moment) -> bool {
        if self.chain.is_none() {
            return beat.number == 0;
        }
        if let Some(membership) = &beat.membership {
            self.adopt(membership.clone(), now);
        }
        let Some(chain) = &self.chain else { return false };
        let is_leaving = |proposed: &Membership| self.peers.len() == 1 && !proposed.members.contains_key(from);
        if chain.proposing.as_ref().is_some_and(is_leaving) {
            return false;
        }
        let known = chain.membership.as_ref().and_then(|membership| membership.members.get(from));
        known.is_some_and(|member| member.life == beat.incarnation)
    }

    fn adopt(&mut self, next: Membership, now: Moment) {
        let me = self.settings.me.clone();
        let Some(chain) = self
            .chain
            .as_mut()
            .filter(|chain| chain.membership.as_ref().is_none_or(|known| known.number < next.number))
        else {
            return;
        };
        let before = chain.membership.replace(next.clone());
        let is_in = next.members.get(&me).is_some_and(|member| member.life == self.incarnation);
        chain.was_member |= is_in;
        let others = next.members.iter().filter(|(id, _)| is_in && **id != me);
        let others: BTreeMap<_, _> = others.map(|(id, member)| (id.clone(), member.addresses.clone())).collect();
        let gone: Vec<DirectorId> = self.peers.keys().filter(|id| !others.contains_key(id)).cloned().collect();
        for peer in gone.iter().filter_map(|id| self.peers.remove(id)) {
            for (vip, until) in peer.ballot.kept() {
                let reserved = self.reserved.entry(vip).or_insert(until);
                *reserved = until.max(*reserved);
            }
        }
        for id in others.keys() {
            let peer = self.peers.entry(id.clone()).or_default();
            peer.current_since = None;
            peer.is_due = true;
        }
        let is_next = before.as_ref().is_some_and(|before| before.number + 1 == next.number);
        match before.filter(|_| is_next) {
            Some(before) if before.has_same_names(&next) => self.tie_break.resume(),
            Some(before) if before.members.keys().eq([&me]) => self.tie_break = TieBreak::of_the_first(now),
            _ => self.tie_break = TieBreak::among_new(),
        }
        if is_in && others.is_empty() {
            // Whoever made it so knew that nobody relies on a vote of this director.
            self.quiet_until = self.quiet_until.min(now);
        }
        self.actions.push(Action::Connect(others));
        let Membership { number, members } = next;
        self.actions.push(Action::Report(Report::Membership { number, members: members.into_keys().collect(), is_in }));
    }

    /// With each heartbeat.
    pub(super) fn advance_membership(&mut self, now: Moment) {
        if self.chain.as_ref().is_none_or(|chain| chain.proposing.is_some()) {
            return;
        }
        let next = self.ripe_membership(now);
        let is_pair = self.is_member() && self.peers.len() == 1;
        let is_third = is_pair && next.as_ref().is_some_and(|next| next.members.len() == 3);
        // Who has the deciding vote may take it up again unheard, unless its process is dead.
        let is_widowed = self.tie_break.is_suspended() && self.peers.iter().all(|(id, peer)| self.has_died(id, peer));
        let mut is_agreed = !is_third || is_widowed;
        if self.tie_break.is_changing() && !is_third {
            self.tie_break.set_changing(false);
            self.peers.values_mut().for_each(|peer| peer.is_due = true);
        }
        let Some(chain) = &mut self.chain else { return };
        if is_third && self.tie_break.is_changing() {
            let from = chain.changing_from;
            is_agreed = self.peers.values().all(|peer| peer.confirmed && peer.last_answered >= from);
        } else if is_third && self.tie_break.is_mine(now) {
            chain.changing_from = self.sequence + 1;
            self.tie_break.set_changing(true);
            self.peers.values_mut().for_each(|peer| peer.is_due = true);
        }
        if let Some(next) = next.filter(|_| is_agreed) {
            chain.proposing = Some(next.clone());
            self.actions.push(Action::Propose(next));
        }
    }

    /// The next membership, once it is this director's turn to propose it.
    fn ripe_membership(&mut self, now: Moment) -> Option<Membership> {
        let next = self.next_membership(now);
        let is_before = |(id, peer): (&DirectorId, &Peer)| *id < self.settings.me && peer.is_present();
        let before = self.peers.iter().filter(|entry| is_before(*entry)).count();
        let mut wait = Chain::TURN * u32::try_from(before).unwrap_or(u32::MAX);
        let chain = self.chain.as_mut()?;
        let is_lost = chain.read.flatten() < chain.membership.as_ref().map(|known| known.number);
        if is_lost {
            wait += Chain::LOST;
        }
        let next = next?;
        let since = match &chain.ripe {
            Some((ripe, since)) if *ripe == next => *since,
            _ => now,
        };
        chain.ripe = Some((next.clone(), since));
        (since + wait <= now).then_some(next)
    }

    fn next_membership(&self, now: Moment) -> Option<Membership> {
        let chain = self.chain.as_ref().filter(|chain| !self.released && now < chain.heard + Chain::STALE)?;
        let read = chain.read?;
        let (me, gone) = (&self.settings.me, self.settings.timing.gone);
        let mine = || (me.clone(), Member { life: self.incarnation, addresses: chain.addresses.clone() });
        let Some(current) = &chain.membership else {
            // A record that others know of and that is not there was deleted: they write it again.
            let is_first = chain.standings.iter().all(|(id, standing)| id == me || standing.number == 0);
            return (read.is_none() && is_first).then(|| Membership { number: 1, members: [mine()].into() });
        };
        let own = current.members.get(me);
        let is_in = own.is_some_and(|member| member.life == self.incarnation);
        let mut others = current.members.iter().filter(|(id, _)| *id != me);
        match own {
            _ if read < Some(current.number) => return is_in.then(|| current.next(|_| {})),
            None if others.all(|(id, member)| chain.has_ended(id, member, gone, now)) => {
                return Some(current.next(|members| *members = [mine()].into()));
            }
            None => return None,
            Some(member) if is_in && member.addresses == chain.addresses => {}
            // Another process has this director's name: the later one is believed.
            Some(_) if !is_in && chain.was_member => return None,
            Some(_) => return Some(current.next(|members| members.extend([mine()]))),
        }
        let leaving = self.whom_to_leave_out(chain, current, now);
        if let Some(id) = leaving {
            return Some(current.next(|members| drop(members.remove(&id))));
        }
        let (id, member) = self.whom_to_take_in(chain, current, now)?;
        Some(current.next(|members| drop(members.insert(id, member))))
    }

    fn whom_to_leave_out(&self, chain: &Chain, current: &Membership, now: Moment) -> Option<DirectorId> {
        let absent = || {
            let peers = self.peers.iter().filter_map(|(id, peer)| Some((id, peer, current.members.get(id)?)));
            peers.filter_map(|(id, peer, member)| Some((id, self.absence(chain, id, member, peer, now)?)))
        };
        let mut over = absent().filter(|(_, absence)| *absence == Absence::Over);
        let has_settled = self.knowing(now) + over.clone().count() >= majority(current);
        let present = 1 + self.peers.values().filter(|peer| peer.is_present()).count();
        let is_free = match self.peers.len() {
            // Only the one with the deciding vote leaves the other one out.
            1 => self.tie_break.is_mine(now),
            _ => has_settled && present >= majority(current),
        };
        let leaving = over.next().filter(|_| has_settled).or_else(|| absent().next().filter(|_| is_free));
        leaving.map(|(id, _)| id.clone())
    }

    fn absence(&self, chain: &Chain, id: &DirectorId, member: &Member, peer: &Peer, now: Moment) -> Option<Absence> {
        let gone = self.settings.timing.gone;
        if peer.last_heard.unwrap_or(self.born) + gone > now {
            return None;
        }
        if chain.has_ended(id, member, gone, now) {
            return Some(Absence::Over);
        }
        // Its process starts again, and writes so itself.
        let state = chain.standings.get(id).map(|standing| &standing.state);
        if !matches!(state, Some(LeaseState::Expired | LeaseState::Ended(_))) {
            return None;
        }
        Some(if self.has_died(id, peer) { Absence::Over } else { Absence::Silent })
    }

    /// The process was seen to die that the membership has.
    fn has_died(&self, id: &DirectorId, peer: &Peer) -> bool {
        let member = self.membership().and_then(|membership| membership.members.get(id));
        peer.is_gone && member.is_some_and(|member| peer.incarnation == Some(member.life))
    }

    /// How many are known to have known this membership for so long that votes of the one before have run out.
    fn knowing(&self, now: Moment) -> usize {
        let kept = self.settings.timing.kept();
        let knows = |peer: &&Peer| peer.current_since.is_some_and(|since| since + kept <= now);
        1 + self.peers.values().filter(knows).count()
    }

    fn whom_to_take_in(&self, chain: &Chain, current: &Membership, now: Moment) -> Option<(DirectorId, Member)> {
        let is_there = |(id, peer): (&DirectorId, &Peer)| {
            peer.is_present() || self.tie_break.is_suspended() && self.has_died(id, peer)
        };
        let all_know = self.knowing(now) == current.members.len() && self.peers.iter().all(is_there);
        let is_found = |member: &Member| !member.addresses.is_empty();
        let has_room = current.members.len() < Membership::MOST_MEMBERS;
        if !(all_know && has_room && current.members.values().all(is_found) && self.is_kept_by_three()) {
            return None;
        }
        let alive = chain.standings.iter().filter_map(|(id, standing)| match &standing.state {
            LeaseState::Alive(member) => Some((id, member)),
            LeaseState::Expired | LeaseState::Ended(_) => None,
        });
        let mut new = alive.filter(|(id, member)| !current.members.contains_key(*id) && is_found(member));
        new.next().map(|(id, member)| (id.clone(), member.clone()))
    }

    /// Directors of a cluster that is just being made do not start together, they join one after the other: what nobody has
    /// held is left for a while, so that the first one does not end up with everything.
    pub(super) fn awaits_others(&self, now: Moment) -> bool {
        let Some((chain, known)) = self.chain.as_ref().and_then(|chain| Some((chain, chain.membership.as_ref()?)))
        else {
            return false;
        };
        let is_coming = |(id, standing): (&DirectorId, &Standing)| {
            let is_found = matches!(&standing.state, LeaseState::Alive(member) if !member.addresses.is_empty());
            is_found && !known.members.contains_key(id)
        };
        let is_young = now < self.born + Self::YOUTH && known.number < Chain::FOUNDING;
        let may_come = known.number == 1 && now < self.born + Self::GRACE;
        let is_unmet = |peer: &Peer| peer.last_heard.is_none();
        let is_awaited = may_come || chain.standings.iter().any(is_coming) || self.peers.values().any(is_unmet);
        is_young && !chain.addresses.is_empty() && is_awaited
    }

    /// Of two, the one with the deciding vote keeps what it holds when that vote does not decide any more.
    fn is_kept_by_three(&self) -> bool {
        let Some(peer) = self.peers.values().next().filter(|_| self.peers.len() == 1) else { return true };
        let mut held = self.vips.iter().filter(|(_, state)| state.held.is_some());
        held.all(|(vip, _)| peer.votes.until(*vip).is_some())
    }

    /// Of two, whether the vote of the other one counts beside the own: it is given to one only, whoever has the deciding
    /// vote. Not by the rule `hold`, which takes that for granted only of who has it.
    pub(super) fn counts_both(&self) -> bool {
        self.chain.is_some() && self.settings.on_isolation == OnIsolation::Release
    }
}

fn majority(membership: &Membership) -> usize {
    membership.members.len() / 2 + 1
}
