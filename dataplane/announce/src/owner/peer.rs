//! What this director knows of another one.

use crate::heartbeat::{Beat, VipState};
use crate::lease::{Timing, Votes};
use crate::moment::Moment;
use crate::rendezvous::Incarnation;
use crate::vote::Ballot;
use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

#[derive(Debug, Default)]
pub(super) struct Peer {
    pub(super) incarnation: Option<Incarnation>,
    /// Former lives: a late heartbeat of one must not bring it back.
    former_lives: VecDeque<Incarnation>,
    pub(super) last_sequence: u64,
    pub(super) last_heard: Option<Moment>,
    /// When this life of it was first heard.
    met: Option<Moment>,
    /// Its process is dead.
    pub(super) is_gone: bool,
    /// Nothing was heard for as long as a vote is kept.
    pub(super) is_silent: bool,
    /// It has acted on a heartbeat of this life of ours.
    pub(super) confirmed: bool,
    /// Our last heartbeat that it has acted on.
    pub(super) last_answered: u64,
    fit_since: Option<Moment>,
    pub(super) mac: Option<[u8; 6]>,
    vips: BTreeMap<IpAddr, VipState>,
    pub(super) ballot: Ballot,
    pub(super) votes: Votes,
    /// It should hear from us at once.
    pub(super) is_due: bool,
    /// The number of the membership that it knows.
    pub(super) number: u64,
    /// Since when it is known to know ours.
    pub(super) current_since: Option<Moment>,
}

impl Peer {
    const MOST_FORMER_LIVES: usize = 64;

    /// Whether the heartbeat is of this life and new, or of a new life.
    pub(super) fn accepts(&self, beat: &Beat) -> bool {
        if self.incarnation == Some(beat.incarnation) {
            return beat.sequence > self.last_sequence;
        }
        !self.former_lives.contains(&beat.incarnation)
    }

    pub(super) fn start_life(&mut self, incarnation: Incarnation) {
        if let Some(former) = self.incarnation.replace(incarnation) {
            if self.former_lives.len() == Self::MOST_FORMER_LIVES {
                self.former_lives.pop_front();
            }
            self.former_lives.push_back(former);
        }
        self.ballot.succeed();
        self.fit_since = None;
        self.met = None;
        self.current_since = None;
        self.confirmed = false;
        self.last_answered = 0;
        self.is_due = true;
    }

    pub(super) fn hear(&mut self, beat: &Beat, number: u64, timing: &Timing, now: Moment) {
        self.last_sequence = beat.sequence;
        self.last_heard = Some(now);
        self.met = self.met.or(Some(now));
        self.is_gone = false;
        self.is_silent = false;
        self.number = beat.number;
        self.current_since = self.current_since.or(Some(now)).filter(|_| beat.number >= number);
        self.mac = Some(beat.mac);
        self.fit_since = if beat.fit { self.fit_since.or(Some(now)) } else { None };
        self.vips = beat.vips.iter().map(|state| (state.vip, *state)).collect();
        // What has run out stays so, even if it is asked for again before anybody looked.
        self.ballot.lapse(now);
        if beat.number >= number {
            self.ballot.renew(timing, now);
        }
        self.ballot.keep_only(|vip| self.vips.get(vip).is_some_and(|state| state.claims));
    }

    /// Alive as far as can be told.
    pub(super) fn is_present(&self) -> bool {
        self.last_heard.is_some() && !self.is_gone && !self.is_silent
    }

    /// Heard for the first time less than so long ago.
    pub(super) fn is_newly_met(&self, ago: Duration, now: Moment) -> bool {
        self.is_present() && self.met.is_some_and(|met| now < met + ago)
    }

    pub(super) fn is_fit(&self) -> bool {
        self.fit_since.is_some()
    }

    /// Whether it should have the VIP if it ranks first.
    pub(super) fn can_take(&self, vip: IpAddr, settled: Duration, now: Moment) -> bool {
        let is_fit = self.fit_since.is_some_and(|since| since + settled <= now);
        self.is_present() && is_fit && self.vips.get(&vip).is_some_and(|state| state.able)
    }

    pub(super) fn holds(&self, vip: IpAddr) -> bool {
        self.vips.get(&vip).is_some_and(|state| state.holds)
    }

    /// The VIPs that it asks for and has not been given.
    pub(super) fn asks(&self) -> Vec<IpAddr> {
        let claimed = self.vips.values().filter(|state| state.claims && !self.ballot.has_granted(state.vip));
        claimed.map(|state| state.vip).collect()
    }

    pub(super) fn held(&self) -> usize {
        self.vips.values().filter(|state| state.holds).count()
    }
}
