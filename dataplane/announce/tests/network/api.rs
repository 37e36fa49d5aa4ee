//! An API server, as far as directors are concerned: one record, replaced by compare-and-swap, and a Lease for each director.
//! Words to it and from it take their time, get lost, and arrive after whoever sent them has died.

use super::{Millis, World};
use sluicegate_announce::{DirectorId, Event, Incarnation, LeaseState, Member, Membership, Standing};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

/// Between two looks of a director, as if it watched.
const LOOK: Millis = 250;
const RENEWAL: Millis = 2_000;
/// A Lease that is not renewed for so long, while the server answers, has expired.
const EXPIRY: Millis = 6_000;

#[derive(Default)]
pub struct Api {
    pub is_down: bool,
    /// Directors that do not reach it.
    pub cut: BTreeSet<usize>,
    record: Option<Membership>,
    leases: BTreeMap<usize, Lease>,
    requests: Vec<Request>,
    answers: Vec<(Millis, usize, Incarnation, Event)>,
}

struct Lease {
    life: Incarnation,
    renewed: Millis,
    has_ended: bool,
    number: u64,
}

struct Request {
    at: Millis,
    from: usize,
    life: Incarnation,
    next: Membership,
}

/// What stands between a director's process and the API server.
#[derive(Default)]
pub struct Client {
    next_look: Millis,
    renewed: Option<Millis>,
    /// Renewals of others: which was seen last, and since when.
    seen: BTreeMap<usize, (Millis, Millis)>,
    last_contact: Millis,
    /// Asked again until the record says what became of it.
    proposal: Option<(Membership, Millis)>,
}

pub fn address(number: usize) -> Vec<SocketAddr> {
    vec![SocketAddr::from(([192, 0, 2, u8::try_from(number).expect("few directors")], 7946))]
}

impl World {
    pub fn members(&self) -> BTreeSet<String> {
        let record = self.api.as_ref().and_then(|api| api.record.as_ref());
        record.iter().flat_map(|record| record.members.keys()).map(ToString::to_string).collect()
    }

    pub fn api(&mut self) -> &mut Api {
        self.api.as_mut().expect("a world with an API server")
    }

    pub fn set_api_down(&mut self, is_down: bool) {
        self.note(format!("API down: {is_down}"));
        self.api().is_down = is_down;
    }

    pub fn cut_from_api(&mut self, victim: usize) {
        self.note(format!("API cut off from {victim}"));
        self.api().cut.insert(victim);
    }

    /// An operator deletes the Lease of a director that is not there any more.
    pub fn delete_lease(&mut self, victim: usize) {
        self.note(format!("lease of {victim} deleted"));
        self.api().leases.remove(&victim);
    }

    /// The process has given everything up and ends.
    pub fn end(&mut self, victim: usize) {
        self.note(format!("end of {victim}"));
        let Some(life) = self.directors[victim].process.as_ref().map(|process| process.incarnation) else { return };
        self.kill(victim);
        let is_reached = self.reaches_api(victim);
        if let Some(lease) = self.api().leases.get_mut(&victim).filter(|lease| is_reached && lease.life == life) {
            lease.has_ended = true;
        }
    }

    fn reaches_api(&self, number: usize) -> bool {
        self.api.as_ref().is_some_and(|api| !api.is_down && !api.cut.contains(&number))
    }

    pub(super) fn propose(&mut self, number: usize, next: Membership) {
        let now = self.now;
        if let Some(process) = &mut self.directors[number].process {
            process.client.proposal = Some((next, now));
        }
    }

    pub(super) fn run_api(&mut self) {
        if self.api.is_none() {
            return;
        }
        self.carry_out();
        for number in 0..self.directors.len() {
            self.run_client(number);
        }
        let now = self.now;
        if !self.api().answers.iter().any(|(at, ..)| *at <= now) {
            return;
        }
        let (due, later) = std::mem::take(&mut self.api().answers).into_iter().partition(|(at, ..)| *at <= now);
        self.api().answers = later;
        let due: Vec<(Millis, usize, Incarnation, Event)> = due;
        for (_, to, life, event) in due {
            if let Some(process) = self.directors[to].process.as_mut().filter(|process| process.incarnation == life) {
                process.inbox.push(event);
            }
        }
    }

    /// What has arrived, from the living and the dead.
    fn carry_out(&mut self) {
        let now = self.now;
        if !self.api().requests.iter().any(|request| request.at <= now) {
            return;
        }
        let (due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.api().requests).into_iter().partition(|request| request.at <= now);
        self.api().requests = later;
        for Request { from, life, next, .. } in due {
            if self.api().is_down {
                continue;
            }
            let number = self.api().record.as_ref().map_or(0, |record| record.number);
            if number + 1 == next.number {
                self.note(format!("record by {from}: {} {:?}", next.number, next.members.keys().collect::<Vec<_>>()));
                self.api().record = Some(next);
            }
            let record = self.api().record.clone();
            // The answer may be lost.
            if self.below(10) > 0 && self.reaches_api(from) {
                let at = now + 1 + self.below(100);
                self.api().answers.push((at, from, life, Event::Record(record)));
            }
        }
    }

    fn run_client(&mut self, number: usize) {
        let now = self.now;
        let reaches = self.reaches_api(number);
        let Some(process) = self.directors[number].process.as_mut() else { return };
        if process.stopped_until.is_some() || now < process.client.next_look {
            return;
        }
        process.client.next_look = now + LOOK;
        let life = process.incarnation;
        let known = process.ownership.membership().map_or(0, |membership| membership.number);
        if !reaches {
            return;
        }
        let is_continuous = now < process.client.last_contact + LOOK * 4;
        process.client.last_contact = now;
        if !is_continuous {
            process.client.seen.clear();
        }
        let is_due = process.client.renewed.is_none_or(|at| at + RENEWAL <= now);
        if is_due {
            process.client.renewed = Some(now);
        }
        let again = process.client.proposal.as_mut().filter(|(_, at)| *at <= now).map(|(next, at)| {
            *at = now + 3_000;
            next.clone()
        });
        if is_due || !self.api().leases.contains_key(&number) {
            let lease = Lease { life, renewed: now, has_ended: false, number: known };
            self.api().leases.insert(number, lease);
        }
        if let Some(next) = again {
            // Some of it is under way for long, and arrives after all.
            let at = now + 1 + if self.below(10) == 0 { self.below(4_000) } else { self.below(60) };
            self.api().requests.push(Request { at, from: number, life, next });
        }
        let standings = self.standings(number);
        let record = self.api().record.clone();
        let has_answer = |number: u64| record.as_ref().is_some_and(|record| record.number >= number);
        let process = self.directors[number].process.as_mut().expect("it was there");
        if process.client.proposal.as_ref().is_some_and(|(next, _)| has_answer(next.number)) {
            process.client.proposal = None;
        }
        // What a watch shows may be old.
        let at = now + 1 + if self.below(5) == 0 { self.below(1_500) } else { self.below(30) };
        self.api().answers.push((at, number, life, Event::Leases(standings)));
        self.api().answers.push((at, number, life, Event::Record(record)));
    }

    fn standings(&mut self, by: usize) -> BTreeMap<DirectorId, Standing> {
        let now = self.now;
        let Some(api) = &self.api else { return BTreeMap::new() };
        let leases: Vec<(usize, Incarnation, Millis, bool, u64)> = api
            .leases
            .iter()
            .map(|(of, lease)| (*of, lease.life, lease.renewed, lease.has_ended, lease.number))
            .collect();
        let mut standings = BTreeMap::new();
        for (of, life, renewed, has_ended, number) in leases {
            let id = self.directors[of].id.clone();
            let process = self.directors[by].process.as_mut().expect("who asks");
            let seen = process.client.seen.entry(of).or_insert((renewed, now));
            if seen.0 != renewed {
                *seen = (renewed, now);
            }
            let state = match (has_ended, seen.1 + EXPIRY <= now) {
                (true, _) => LeaseState::Ended(life),
                (false, true) => LeaseState::Expired,
                (false, false) => LeaseState::Alive(Member { life, addresses: address(of) }),
            };
            standings.insert(id, Standing { state, number });
        }
        standings
    }
}
