//! The state machine of ownership. Events and the time come in, actions go out; the crate's documentation has the protocol.

mod chain;
mod peer;
mod views;

pub use views::{Conflict, MembershipView, PeerView, Report, VipView};

use crate::announcement::Announcements;
use crate::fitness::{Fitness, Unfit};
use crate::heartbeat::{Beat, VipState};
use crate::lease::Timing;
use crate::membership::{Membership, Standing};
use crate::moment::Moment;
use crate::rendezvous::{DirectorId, Incarnation, ranking};
use crate::tie_break::{Deciding, TieBreak, Word};
use chain::Chain;
use peer::Peer;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use thiserror::Error;

/// What two directors do that do not hear each other. With three and more the majority decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnIsolation {
    /// Only the one with the deciding vote goes on: never two owners.
    #[default]
    Release,
    /// Each goes on alone after a lease of silence: always an owner, two while both live and hear nothing.
    Hold,
}

/// Who this director is, and by which rules it plays. All directors must have equal ones but for `me` and `mac`.
#[derive(Clone, Debug)]
pub struct OwnershipSettings {
    /// This director.
    pub me: DirectorId,
    /// The others. Those that never hold a VIP but vote (witnesses) are among them.
    pub peers: BTreeSet<DirectorId>,
    /// Directors come from the record of a cluster, and this one is found there by these addresses; `peers` are none then.
    pub joins: Option<Vec<SocketAddr>>,
    /// The MAC address with which this director answers for VIPs.
    pub mac: [u8; 6],
    /// The times of the protocol.
    pub timing: Timing,
    /// A VIP goes back to the director that should hold it once that one has been fit for 10 s. Else it stays where it is.
    pub failback: bool,
    /// What two directors do that do not hear each other.
    pub on_isolation: OnIsolation,
}

/// Why the settings cannot be used; the operator must change them.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SettingsError {
    /// A director is its own peer.
    #[error("{0} is this director and among its peers: name only the others as peers")]
    OwnPeer(DirectorId),
    /// More directors than a majority is reckoned for.
    #[error("{0} peers: at most {MOST_PEERS} can be had")]
    TooManyPeers(usize),
    /// Times that contradict each other.
    #[error("lease {} ms, fence {} ms, heartbeat {} ms: the fence must last three heartbeats, the lease two fences, and a member may be left out after two leases", .0.lease.as_millis(), .0.fence.as_millis(), .0.beat.as_millis())]
    Timing(Timing),
}

/// Most peers.
const MOST_PEERS: usize = 15;

/// Something happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// The VIPs that this director should know, each with whether it can serve it: some real server answers, or the VIP
    /// is bound to nothing. All others are given up. Beyond [`Beat::MOST_VIPS`] the highest addresses are not served.
    Vips(BTreeMap<IpAddr, bool>),
    /// What the rest of this director says of its health. Unfit until first told.
    Fitness(Fitness),
    /// A genuine heartbeat.
    Beat {
        /// Who sent it.
        from: DirectorId,
        /// What it says.
        beat: Beat,
    },
    /// Every connection to this life of a peer was closed or reset by its side, the last one not long after a heartbeat
    /// came through it: its process is gone.
    Gone {
        /// Who.
        peer: DirectorId,
        /// Which life of it.
        incarnation: Incarnation,
    },
    /// The record of the cluster's directors as it was just read; nothing where there is none.
    Record(Option<Membership>),
    /// All Leases of directors as they were just read, this one's own too. To be told again every 10 s while the API server
    /// answers.
    Leases(BTreeMap<DirectorId, Standing>),
    /// This director is going down: it gives all VIPs up, for good. It goes on voting until it is dropped.
    Release,
    /// Somebody says on the network that it has a VIP.
    Claimed {
        /// Which one.
        vip: IpAddr,
        /// The MAC address it gives.
        mac: [u8; 6],
    },
}

/// Something is to be done, in the order in which it is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// ARP and NDP are answered for the VIP until then. The moment may be the present or past: the answers end.
    Fence {
        /// Which one.
        vip: IpAddr,
        /// Absolute, so that a process that is stopped between deciding and doing does no harm.
        until: Moment,
    },
    /// A heartbeat for a peer. Where there is no connection it is dropped.
    Send {
        /// For whom.
        to: DirectorId,
        /// What.
        beat: Beat,
    },
    /// Gratuitous ARP or an unsolicited neighbour advertisement.
    Announce(IpAddr),
    /// An ARP probe (RFC 5227) or a solicitation as for duplicate address detection (RFC 4862): who else has the VIP?
    Probe(IpAddr),
    /// Join the group that carries solicitations for the VIP, so that snooping switches deliver them.
    JoinMulticast(IpAddr),
    /// Leave it.
    LeaveMulticast(IpAddr),
    /// The other directors are these, and found there.
    Connect(BTreeMap<DirectorId, Vec<SocketAddr>>),
    /// To be written as the next record, by compare-and-swap over the one whose number is one less (or over none, or an
    /// older one: what was there is lost), and tried until [`Event::Record`] can say what became of it.
    Propose(Membership),
    /// Somebody should know.
    Report(Report),
}

/// One director among its peers.
#[derive(Debug)]
pub struct Ownership {
    settings: OwnershipSettings,
    incarnation: Incarnation,
    born: Moment,
    fitness: Result<(), Unfit>,
    released: bool,
    /// From this heartbeat on peers hear of the release.
    release_sequence: u64,
    peers: BTreeMap<DirectorId, Peer>,
    /// Where peers come from, if not from the settings.
    chain: Option<Chain>,
    /// Votes that those have who are no peers any more.
    reserved: BTreeMap<IpAddr, Moment>,
    vips: BTreeMap<IpAddr, Vip>,
    tie_break: TieBreak,
    /// Of the last heartbeat.
    sequence: u64,
    /// No vote is given before: a former life of this director may have given it.
    quiet_until: Moment,
    all_have_spoken: bool,
    last_poll: Moment,
    /// Silence of peers counts from here at the earliest: this process did not run before.
    patient_from: Moment,
    /// The last heartbeat before the process was last stopped for long.
    stale_up_to: u64,
    next_tick: Moment,
    actions: Vec<Action>,
}

#[derive(Debug)]
struct Vip {
    able: bool,
    /// By anybody, since this director started.
    was_held: bool,
    claim: Option<Claim>,
    /// Not claimed before: claims that lead nowhere give way to others.
    withdrawn_until: Moment,
    /// No answers are given from here on.
    fence: Moment,
    held: Option<Held>,
    next_probe: Moment,
    next_defence: Moment,
    rival: Option<Rival>,
}

/// Somebody else who says that it has a VIP.
#[derive(Debug)]
struct Rival {
    mac: [u8; 6],
    by_director: bool,
    last_heard: Moment,
    is_reported: bool,
}

/// This director wants a VIP.
#[derive(Debug)]
struct Claim {
    /// The first heartbeat that says so, and those after it.
    since_sequence: u64,
    since: Moment,
    /// The vote of this director itself.
    own_vote: bool,
}

#[derive(Debug)]
struct Held {
    since: Moment,
    announcements: Announcements,
}

impl Ownership {
    /// Between two probes for a VIP while standing by.
    const PROBES: Duration = Duration::from_secs(10);
    /// The same while owning it: a station that answers others for the VIP says nothing to its owner unasked.
    const OWNERS_PROBES: Duration = Duration::from_secs(60);
    /// A rival that was quiet for so long has gone: longer than two probes.
    const RIVAL_KEPT: Duration = Duration::from_secs(150);
    /// DEFEND_INTERVAL of RFC 5227, section 1.1.
    const DEFENCES: Duration = Duration::from_secs(10);
    /// For so long after a take-over the former owner may still be heard.
    const HAND_OVER: Duration = Duration::from_secs(2);
    /// For so long after its start a director leaves VIPs that nobody has held yet to peers that it has just met: all of them
    /// are starting, and who is able to serve first should not end up with everything.
    const YOUTH: Duration = Duration::from_secs(10);
    /// For so long such a peer may take to become fit and able.
    const GRACE: Duration = Duration::from_secs(2);
    /// For so long must a director be fit before a VIP fails back to it.
    const SETTLED: Duration = Duration::from_secs(10);

    /// # Errors
    /// If the settings contradict themselves.
    pub fn new(settings: OwnershipSettings, incarnation: Incarnation, now: Moment) -> Result<Self, SettingsError> {
        if settings.peers.contains(&settings.me) {
            return Err(SettingsError::OwnPeer(settings.me));
        }
        if settings.peers.len() > MOST_PEERS {
            return Err(SettingsError::TooManyPeers(settings.peers.len()));
        }
        if !settings.timing.is_sound() {
            return Err(SettingsError::Timing(settings.timing));
        }
        let is_alone = settings.peers.is_empty() && settings.joins.is_none();
        let quiet_until = if is_alone { now } else { now + settings.timing.kept() };
        Ok(Self {
            incarnation,
            born: now,
            fitness: Err(Unfit::Detached),
            released: false,
            release_sequence: 0,
            peers: settings.peers.iter().map(|id| (id.clone(), Peer::default())).collect(),
            chain: settings.joins.clone().map(Chain::new),
            reserved: BTreeMap::new(),
            vips: BTreeMap::new(),
            tie_break: TieBreak::default(),
            sequence: 0,
            quiet_until,
            // Whom a former life of this director gave votes to may be no member any more.
            all_have_spoken: is_alone || settings.joins.is_some(),
            last_poll: now,
            patient_from: now,
            stale_up_to: 0,
            next_tick: now,
            actions: Vec::new(),
            settings,
        })
    }

    /// Takes an event in. Call [`Ownership::poll`] afterwards; several events may come before.
    pub fn handle(&mut self, event: Event, now: Moment) {
        self.notice_stop(now);
        match event {
            Event::Vips(vips) => self.set_vips(vips, now),
            Event::Fitness(fitness) => self.fitness = fitness.check(),
            Event::Beat { from, beat } => self.hear(&from, beat, now),
            Event::Gone { peer, incarnation } => self.bury(&peer, incarnation, now),
            Event::Record(record) => self.read_record(record, now),
            Event::Leases(standings) => self.set_standings(standings, now),
            Event::Release if self.released => {}
            Event::Release => {
                self.released = true;
                self.release_sequence = self.sequence + 1;
            }
            Event::Claimed { vip, mac } => self.hear_claim(vip, mac, now),
        }
    }

    /// What is to be done at this time.
    pub fn poll(&mut self, now: Moment) -> Vec<Action> {
        self.notice_stop(now);
        let is_tick = self.next_tick <= now;
        self.notice_silence(now);
        self.end_quiet(now);
        self.peers.values_mut().for_each(|peer| peer.ballot.lapse(now));
        self.reserved.retain(|_, until| now < *until);
        if is_tick {
            self.advance_membership(now);
        }
        self.decide_claims(now);
        self.vote(now);
        self.push_fences(is_tick, now);
        self.send_beats(is_tick, now);
        self.tell_network(now);
        if is_tick {
            self.next_tick = now + self.settings.timing.beat;
        }
        std::mem::take(&mut self.actions)
    }

    /// When [`Ownership::poll`] should be called again at the latest.
    #[must_use]
    pub fn next_poll(&self) -> Moment {
        let later = |moment: &Moment| *moment > self.last_poll;
        let lapses = self.peers.values().filter_map(|peer| peer.ballot.next_lapse());
        let own = [self.quiet_until].into_iter().chain(self.tie_break.next());
        lapses.chain(own).filter(later).chain([self.next_tick]).min().unwrap_or(self.next_tick)
    }

    /// Why this director holds nothing, where that is so.
    ///
    /// # Errors
    /// If it may hold nothing.
    pub fn fitness(&self) -> Result<(), Unfit> {
        match self.fitness {
            _ if self.released => Err(Unfit::Released),
            Ok(()) if !self.is_member() => Err(Unfit::NoMember),
            fitness => fitness,
        }
    }

    /// Who has the deciding vote of two; nothing where there are not two.
    #[must_use]
    pub fn deciding(&self) -> Option<Deciding> {
        (self.peers.len() == 1).then(|| self.tie_break.deciding())
    }

    /// This director has released its VIPs, and every peer that is there knows it.
    #[must_use]
    pub fn is_handed_over(&self) -> bool {
        let knows = |peer: &Peer| !peer.is_present() || peer.last_answered >= self.release_sequence;
        self.released && self.peers.values().all(knows)
    }

    /// A stop of this process (SIGSTOP, no CPU): what peers said meanwhile lies in buffers, so their silence counts from
    /// here; and by the rule `hold` the other one may have gone on alone.
    fn notice_stop(&mut self, now: Moment) {
        let stopped = now - self.last_poll;
        self.last_poll = now.max(self.last_poll);
        if stopped <= self.settings.timing.fence {
            return;
        }
        self.patient_from = now;
        if stopped > self.settings.timing.lease / 2 && self.settings.on_isolation == OnIsolation::Hold {
            self.tie_break.forget();
            self.stale_up_to = self.sequence;
        }
    }

    fn set_vips(&mut self, mut vips: BTreeMap<IpAddr, bool>, now: Moment) {
        while vips.len() > Beat::MOST_VIPS {
            vips.pop_last();
        }
        let gone: Vec<IpAddr> = self.vips.keys().filter(|vip| !vips.contains_key(vip)).copied().collect();
        for vip in gone {
            self.give_up(vip, now);
            self.vips.remove(&vip);
        }
        for (vip, able) in vips {
            let known = self.vips.entry(vip).or_insert_with(|| Vip {
                able,
                was_held: self.peers.values().any(|peer| peer.holds(vip)),
                claim: None,
                withdrawn_until: now,
                fence: now,
                held: None,
                next_probe: now,
                next_defence: now,
                rival: None,
            });
            known.able = able;
        }
    }

    fn hear(&mut self, from: &DirectorId, beat: Beat, now: Moment) {
        let timing = self.settings.timing;
        let me = self.incarnation;
        if !self.hear_membership(from, &beat, now) {
            return;
        }
        let number = self.number();
        let is_pair = self.peers.len() == 1;
        let Some(peer) = self.peers.get_mut(from) else { return };
        if !peer.accepts(&beat) {
            return;
        }
        let is_new = peer.incarnation != Some(beat.incarnation);
        if is_new {
            peer.start_life(beat.incarnation);
            peer.votes.void(self.sequence, now + timing.fence);
        }
        if is_new || peer.is_gone || peer.is_silent {
            self.actions.push(Action::Report(Report::PeerHeard(from.clone())));
        }
        peer.hear(&beat, number, &timing, now);
        for state in beat.vips.iter().filter(|state| state.holds) {
            if let Some(known) = self.vips.get_mut(&state.vip) {
                known.was_held = true;
            }
        }
        let answered = beat.acknowledged.filter(|(life, _)| *life == me).map(|(_, sequence)| sequence);
        if let Some(sequence) = answered {
            peer.confirmed = true;
            peer.last_answered = sequence;
            let claimed = |vip: &IpAddr| {
                let claim = self.vips.get(vip).and_then(|vip| vip.claim.as_ref());
                claim.is_some_and(|claim| claim.since_sequence <= sequence)
            };
            peer.votes.acknowledged(sequence, beat.granted.iter().copied().filter(claimed), timing.lease);
        }
        // Who is behind speaks of other two.
        if is_pair && beat.number >= number {
            self.tie_break.meet(now + timing.kept());
            let word = Word {
                peer: beat.incarnation,
                theirs: beat.deciding,
                me,
                peer_is_first: *from < self.settings.me,
                is_fresh: answered.is_some_and(|sequence| sequence > self.stale_up_to),
            };
            let before = self.tie_break.deciding();
            self.tie_break.heard(word, now + timing.fenced(), now);
            peer.is_due |= before != self.tie_break.deciding();
        }
    }

    fn bury(&mut self, id: &DirectorId, incarnation: Incarnation, now: Moment) {
        let timing = self.settings.timing;
        let Some(peer) = self.peers.get_mut(id).filter(|peer| peer.incarnation == Some(incarnation)) else { return };
        if !peer.is_gone {
            self.actions.push(Action::Report(Report::PeerGone(id.clone())));
        }
        peer.is_gone = true;
        peer.ballot.shorten(&timing, now);
        let was_heard = peer.votes.answered_within(timing.lease, now);
        peer.votes.void(self.sequence, now + timing.fence);
        // Who was not heard may have left this director out.
        if self.peers.len() == 1 && (was_heard || self.chain.is_none()) {
            self.tie_break.bereave(incarnation, now + timing.fenced());
        }
    }

    /// RFC 5227, section 2.4 (c): a VIP is defended, at most once in ten seconds, and never given up to a stranger, who
    /// does not forward for it.
    fn hear_claim(&mut self, vip: IpAddr, mac: [u8; 6], now: Moment) {
        let by_director = self.peers.values().any(|peer| peer.mac == Some(mac));
        let Some(known) = self.vips.get_mut(&vip).filter(|_| mac != self.settings.mac) else { return };
        let is_settled = known.held.as_ref().is_none_or(|held| now - held.since > Self::HAND_OVER);
        let is_held = known.held.is_some();
        if by_director && !(is_held && is_settled) {
            return;
        }
        let is_known = |rival: &Rival| rival.mac == mac && now - rival.last_heard <= Self::RIVAL_KEPT;
        let is_reported = known.rival.as_ref().is_some_and(|rival| is_known(rival) && rival.is_reported);
        let rival = known.rival.insert(Rival { mac, by_director, last_heard: now, is_reported });
        if now < known.next_defence {
            return;
        }
        known.next_defence = now + Self::DEFENCES;
        if !rival.is_reported {
            rival.is_reported = true;
            self.actions.push(Action::Report(Report::Conflict { vip, mac, by_director }));
        }
        if is_held {
            self.actions.push(Action::Announce(vip));
        }
    }

    fn notice_silence(&mut self, now: Moment) {
        let kept = self.settings.timing.kept();
        for (id, peer) in &mut self.peers {
            let is_silent = peer.last_heard.is_none_or(|last| last.max(self.patient_from) + kept <= now);
            if is_silent && !peer.is_silent && peer.last_heard.is_some() && !peer.is_gone {
                self.actions.push(Action::Report(Report::PeerSilent(id.clone())));
            }
            peer.is_silent = is_silent;
        }
        let isolated = self.peers.len() == 1 && self.peers.values().all(|peer| peer.is_silent);
        let is_patient = now < self.patient_from + kept;
        if isolated && !is_patient && self.settings.on_isolation == OnIsolation::Hold {
            self.tie_break.go_alone(now);
        }
    }

    /// Once every peer has answered to this life, none relies on a vote of a former life for longer than its fence lasts.
    fn end_quiet(&mut self, now: Moment) {
        if !self.all_have_spoken && self.peers.values().all(|peer| peer.confirmed) {
            self.all_have_spoken = true;
            self.quiet_until = self.quiet_until.min(now + self.settings.timing.fenced());
        }
    }

    fn decide_claims(&mut self, now: Moment) {
        let vips: Vec<IpAddr> = self.vips.keys().copied().collect();
        for vip in vips {
            let wants = self.wants(vip, now);
            let Some(state) = self.vips.get_mut(&vip) else { continue };
            match (&state.claim, wants) {
                (None, true) => {
                    let since_sequence = self.sequence + 1;
                    state.claim = Some(Claim { since_sequence, since: now, own_vote: false });
                    self.peers.values_mut().for_each(|peer| peer.is_due = true);
                }
                (Some(_), false) => self.give_up(vip, now),
                (Some(claim), true) if now - claim.since > self.settings.timing.lease => self.give_way(vip, now),
                _ => {}
            }
        }
    }

    fn wants(&self, vip: IpAddr, now: Moment) -> bool {
        let Some(state) = self.vips.get(&vip).filter(|state| state.able) else { return false };
        if self.fitness().is_err() || !state.was_held && self.awaits_others(now) {
            return false;
        }
        let is_young = now < self.born + Self::YOUTH && !state.was_held;
        let candidates = |settled: Duration| {
            let may_become_able = move |peer: &Peer| is_young && peer.is_newly_met(Self::GRACE, now);
            let able = self.peers.iter().filter(move |(_, peer)| {
                peer.can_take(vip, settled, now) || settled.is_zero() && may_become_able(peer)
            });
            ranking(vip, able.map(|(id, _)| id).chain([&self.settings.me]))
        };
        let is_best = |ranked: Vec<&DirectorId>| ranked.first().is_some_and(|best| **best == self.settings.me);
        if self.owned_until(vip, now).is_some() {
            return !self.settings.failback || is_best(candidates(Self::SETTLED));
        }
        let is_held = self.peers.values().any(|peer| peer.is_present() && peer.holds(vip));
        !is_held && state.withdrawn_until <= now && is_best(candidates(Duration::ZERO))
    }

    /// A claim without a majority for a lease may be what keeps another one from it: those that rank behind let go for a while.
    fn give_way(&mut self, vip: IpAddr, now: Moment) {
        if self.owned_until(vip, now).is_some() {
            return;
        }
        let ranked = ranking(vip, self.settings.peers.iter().chain([&self.settings.me]));
        let place = ranked.iter().position(|id| **id == self.settings.me).unwrap_or_default();
        let place = u32::try_from(place).unwrap_or(u32::MAX);
        if place > 0 {
            self.give_up(vip, now);
            if let Some(state) = self.vips.get_mut(&vip) {
                state.withdrawn_until = now + self.settings.timing.fence * place;
            }
        }
    }

    /// The fence ends first, then peers hear that their votes are free.
    fn give_up(&mut self, vip: IpAddr, now: Moment) {
        let Some(state) = self.vips.get_mut(&vip) else { return };
        if state.claim.take().is_none() {
            return;
        }
        if state.fence > now {
            state.fence = now;
            self.actions.push(Action::Fence { vip, until: now });
        }
        for peer in self.peers.values_mut() {
            peer.votes.forget(vip);
            peer.is_due = true;
        }
        self.lose(vip);
    }

    fn lose(&mut self, vip: IpAddr) {
        if self.vips.get_mut(&vip).is_some_and(|state| state.held.take().is_some()) {
            self.actions.push(Action::LeaveMulticast(vip));
            self.actions.push(Action::Report(Report::Lost { vip, because: self.because(vip) }));
        }
    }

    fn because(&self, vip: IpAddr) -> Option<Unfit> {
        let unable = self.vips.get(&vip).is_some_and(|state| !state.able);
        self.fitness().err().or(unable.then_some(Unfit::NoRealServer(vip)))
    }

    /// Each VIP to one director: this one, if it asks and no other one has the vote, else the first peer that asks.
    fn vote(&mut self, now: Moment) {
        if now < self.quiet_until {
            return;
        }
        for (vip, state) in &mut self.vips {
            if let Some(claim) = &mut state.claim {
                let is_given = self.peers.values().any(|peer| peer.ballot.has(*vip));
                claim.own_vote |= !is_given && !self.reserved.contains_key(vip);
            }
        }
        let number = self.number();
        let current = self.peers.iter().filter(|(_, peer)| peer.number >= number);
        let ids: Vec<DirectorId> = current.map(|(id, _)| id.clone()).collect();
        for id in ids {
            let asked: Vec<IpAddr> = self.peers.get(&id).map(Peer::asks).unwrap_or_default();
            for vip in asked {
                let is_own =
                    self.vips.get(&vip).and_then(|state| state.claim.as_ref()).is_some_and(|claim| claim.own_vote);
                let is_taken = self.peers.iter().any(|(other, peer)| match *other == id {
                    true => peer.ballot.has_former(vip) || !peer.ballot.is_alive(now),
                    false => peer.ballot.has(vip),
                });
                let is_taken = is_taken || self.reserved.contains_key(&vip);
                if let Some(peer) = self.peers.get_mut(&id).filter(|_| !is_own && !is_taken) {
                    peer.is_due |= peer.ballot.grant(vip);
                }
            }
        }
    }

    /// Until when this director has enough votes for the VIP, if it has.
    fn owned_until(&self, vip: IpAddr, now: Moment) -> Option<Moment> {
        let claim = self.vips.get(&vip)?.claim.as_ref()?;
        if !claim.own_vote {
            return None;
        }
        let until = match self.peers.len() {
            0 => Moment::NEVER,
            1 if self.tie_break.is_mine(now) => Moment::NEVER,
            1 => {
                let has_conceded = |peer: &&Peer| peer.incarnation.is_some_and(|life| self.tie_break.conceded_to(life));
                let decider = self.peers.values().find(|peer| has_conceded(peer) || self.counts_both())?;
                decider.votes.until(vip)?
            }
            peers => {
                let needed = peers.div_ceil(2);
                let mut ends: Vec<Moment> = self.peers.values().filter_map(|peer| peer.votes.until(vip)).collect();
                ends.sort_unstable_by(|one, other| other.cmp(one));
                *ends.get(needed - 1)?
            }
        };
        (now < until).then_some(until)
    }

    fn push_fences(&mut self, is_tick: bool, now: Moment) {
        let vips: Vec<IpAddr> = self.vips.keys().copied().collect();
        for vip in vips {
            let Some(end_of_votes) = self.owned_until(vip, now) else {
                self.lose(vip);
                continue;
            };
            let Some(state) = self.vips.get_mut(&vip) else { continue };
            let is_news = state.held.is_none();
            if is_news {
                state.was_held = true;
                state.held = Some(Held { since: now, announcements: Announcements::starting(now) });
                self.peers.values_mut().for_each(|peer| peer.is_due = true);
                self.actions.push(Action::Report(Report::TookOver(vip)));
                self.actions.push(Action::JoinMulticast(vip));
            }
            if is_news || is_tick {
                state.fence = end_of_votes.min(now + self.settings.timing.fence);
                self.actions.push(Action::Fence { vip, until: state.fence });
            }
        }
    }

    fn send_beats(&mut self, is_tick: bool, now: Moment) {
        let states: Vec<VipState> = self.vips.iter().map(|(vip, state)| state.view(*vip)).collect();
        let fit = self.fitness().is_ok();
        let membership = self.membership().cloned();
        let number = self.number();
        for (id, peer) in &mut self.peers {
            if !(is_tick || peer.is_due) {
                continue;
            }
            peer.is_due = false;
            self.sequence += 1;
            let beat = Beat {
                incarnation: self.incarnation,
                sequence: self.sequence,
                acknowledged: peer.incarnation.map(|life| (life, peer.last_sequence)),
                deciding: self.tie_break.deciding(),
                fit,
                mac: self.settings.mac,
                vips: states.clone(),
                granted: peer.ballot.granted().filter(|_| peer.number >= number).collect(),
                number,
                membership: membership.clone().filter(|_| peer.number < number),
            };
            peer.votes.sent(self.sequence, now);
            self.actions.push(Action::Send { to: id.clone(), beat });
        }
    }

    fn tell_network(&mut self, now: Moment) {
        for (vip, state) in &mut self.vips {
            if let Some(held) = &mut state.held
                && held.announcements.is_due(now)
            {
                self.actions.push(Action::Announce(*vip));
            }
            if state.next_probe <= now {
                state.next_probe = now + if state.held.is_some() { Self::OWNERS_PROBES } else { Self::PROBES };
                self.actions.push(Action::Probe(*vip));
            }
        }
    }
}

impl Vip {
    fn view(&self, vip: IpAddr) -> VipState {
        VipState { vip, able: self.able, claims: self.claim.is_some(), holds: self.held.is_some() }
    }
}
