//! What keeps directors of a cluster apart while their record changes, rule by rule. Each rule closes a hole that takes an
//! unlikely order of events to fall into, so that the random model (`model.rs`) seldom meets it.

use sluicegate_announce::{
    Action, Beat, Deciding, DirectorId, Event, Fitness, Incarnation, LeaseState, Member, Membership, Moment,
    OnIsolation, Ownership, OwnershipSettings, Standing, Timing, VipState,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

const STEP: Duration = Duration::from_millis(100);
const VIP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 10));
/// Beyond the first changes of a cluster, in which directors wait for each other.
const NUMBER: u64 = 20;

fn id(name: &str) -> DirectorId {
    DirectorId::new(name).expect("a name")
}

fn member(life: u64) -> Member {
    Member { life: Incarnation(life), addresses: vec!["192.0.2.1:7000".parse().expect("an address")] }
}

fn record(number: u64, names: &[&str]) -> Membership {
    Membership { number, members: names.iter().map(|name| (id(name), member(1))).collect() }
}

/// What a peer says in each of its heartbeats.
#[derive(Clone)]
struct Voice {
    number: u64,
    deciding: Deciding,
    claims: bool,
    /// It has acted on what it was last sent.
    answers: bool,
    sequence: u64,
    /// The last heartbeat for it.
    told: Option<Beat>,
}

impl Voice {
    fn at(number: u64) -> Self {
        Self { number, deciding: Deciding::Unknown, claims: false, answers: true, sequence: 0, told: None }
    }

    /// The director under test gives it the vote on the VIP.
    fn is_granted(&self) -> bool {
        self.told.as_ref().is_some_and(|beat| beat.granted.contains(&VIP))
    }
}

/// One director, and peers that say what the test wants.
struct Director {
    ownership: Ownership,
    now: Moment,
    voices: BTreeMap<DirectorId, Voice>,
    sequences: BTreeMap<DirectorId, u64>,
    standings: BTreeMap<DirectorId, Standing>,
    record: Membership,
    proposed: Option<Membership>,
    fence: Option<Moment>,
}

impl Director {
    fn new(name: &str, record: Membership) -> Self {
        let settings = OwnershipSettings {
            me: id(name),
            peers: BTreeSet::new(),
            joins: Some(member(1).addresses),
            mac: [2, 0, 0, 0, 0, 1],
            timing: Timing::default(),
            failback: false,
            on_isolation: OnIsolation::Release,
        };
        let now = Moment::from_boot(Duration::from_secs(1_000));
        let mut ownership = Ownership::new(settings, Incarnation(1), now).expect("settings");
        ownership.handle(Event::Vips(BTreeMap::from([(VIP, true)])), now);
        let alive = |(id, member): (&DirectorId, &Member)| {
            (id.clone(), Standing { state: LeaseState::Alive(member.clone()), number: NUMBER })
        };
        let standings = record.members.iter().map(alive).collect();
        let (voices, sequences, proposed, fence) = (BTreeMap::new(), BTreeMap::new(), None, None);
        let mut director = Self { ownership, now, voices, sequences, standings, record, proposed, fence };
        director.read();
        director
    }

    /// It may hold VIPs; without, it votes alone.
    fn fit(mut self) -> Self {
        self.ownership.handle(Event::Fitness(Fitness::FIT), self.now);
        self
    }

    /// Of the same process as before, if there was one.
    fn says(&mut self, name: &str, mut voice: Voice) {
        voice.sequence = self.sequences.get(&id(name)).copied().unwrap_or_default();
        self.voices.insert(id(name), voice);
    }

    fn voice(&mut self, name: &str) -> &mut Voice {
        self.voices.get_mut(&id(name)).expect("it speaks")
    }

    fn read(&mut self) {
        self.ownership.handle(Event::Record(Some(self.record.clone())), self.now);
        self.ownership.handle(Event::Leases(self.standings.clone()), self.now);
    }

    fn change(&mut self, record: Membership) {
        self.record = record;
        self.read();
    }

    /// One heartbeat of everybody.
    fn step(&mut self) {
        for (from, voice) in &mut self.voices {
            voice.sequence += 1;
            self.sequences.insert(from.clone(), voice.sequence);
            let told = voice.told.as_ref().filter(|_| voice.answers);
            let beat = Beat {
                incarnation: Incarnation(1),
                sequence: voice.sequence,
                acknowledged: told.map(|beat| (beat.incarnation, beat.sequence)),
                deciding: voice.deciding,
                fit: voice.claims,
                mac: [2, 0, 0, 0, 0, 2],
                vips: vec![VipState { vip: VIP, able: voice.claims, claims: voice.claims, holds: false }],
                granted: Vec::new(),
                number: voice.number,
                membership: None,
            };
            self.ownership.handle(Event::Beat { from: from.clone(), beat }, self.now);
        }
        for action in self.ownership.poll(self.now) {
            match action {
                Action::Send { to, beat } => {
                    if let Some(voice) = self.voices.get_mut(&to) {
                        voice.told = Some(beat);
                    }
                }
                Action::Propose(next) => self.proposed = Some(next),
                Action::Fence { until, .. } => self.fence = Some(until),
                _ => {}
            }
        }
        self.now = self.now + STEP;
    }

    /// Time passes; the API server is read as often as it should be.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        let mut next_read = self.now;
        while self.now < end {
            if next_read <= self.now {
                self.read();
                next_read = self.now + Duration::from_secs(5);
            }
            self.step();
        }
    }

    /// How long it takes until something holds.
    fn until(&mut self, what: &str, mut holds: impl FnMut(&mut Self) -> bool) -> Duration {
        let begun = self.now;
        while !holds(self) {
            assert!(self.now - begun < Duration::from_secs(60), "{what} in vain");
            self.step();
        }
        self.now - begun
    }

    fn owns(&self) -> bool {
        self.fence.is_some_and(|until| until > self.now)
    }
}

/// For how long a voter keeps a vote after it last heard of who has it.
fn kept() -> Duration {
    Timing::default().kept()
}

#[test]
fn who_is_behind_gets_no_vote() {
    let mut voter = Director::new("edge1", record(NUMBER, &["edge1", "edge2", "edge3"]));
    voter.says("edge2", Voice { claims: true, ..Voice::at(NUMBER - 1) });
    voter.says("edge3", Voice::at(NUMBER));
    voter.pass(Duration::from_secs(10));
    assert!(!voter.voice("edge2").is_granted(), "its majority may be one of other directors");
    assert_eq!(
        voter.voice("edge2").told.clone().and_then(|beat| beat.membership),
        Some(record(NUMBER, &["edge1", "edge2", "edge3"])),
        "it is told what it has missed"
    );
    voter.voice("edge2").number = NUMBER;
    let after = voter.until("the vote", |voter| voter.voice("edge2").is_granted());
    assert!(after <= STEP * 2, "{after:?}");
}

#[test]
fn a_vote_is_renewed_no_more_once_its_owner_is_behind() {
    let mut voter = Director::new("edge1", record(NUMBER, &["edge1", "edge2", "edge3"]));
    voter.says("edge2", Voice { claims: true, ..Voice::at(NUMBER) });
    voter.says("edge3", Voice::at(NUMBER));
    voter.until("the vote", |voter| voter.voice("edge2").is_granted());
    // The second one, cut off from the API server, is not told.
    voter.change(record(NUMBER + 1, &["edge1", "edge2", "edge3", "edge4"]));
    voter.says("edge3", Voice { claims: true, ..Voice::at(NUMBER + 1) });
    let after = voter.until("the vote", |voter| voter.voice("edge3").is_granted());
    assert!(after >= kept() - STEP && after <= kept() + STEP * 3, "{after:?}");
    assert!(!voter.voice("edge2").is_granted());
}

#[test]
fn votes_of_who_is_left_out_are_kept_to_their_end() {
    let mut voter = Director::new("edge1", record(NUMBER, &["edge1", "edge2", "edge3"]));
    voter.says("edge2", Voice { claims: true, ..Voice::at(NUMBER) });
    voter.says("edge3", Voice::at(NUMBER));
    voter.until("the vote", |voter| voter.voice("edge2").is_granted());
    voter.voices.remove(&id("edge2"));
    voter.change(record(NUMBER + 1, &["edge1", "edge3"]));
    voter.says("edge3", Voice { claims: true, ..Voice::at(NUMBER + 1) });
    let after = voter.until("the vote", |voter| voter.voice("edge3").is_granted());
    assert!(after >= kept() - STEP * 2 && after <= kept() + STEP * 3, "{after:?}");
}

#[test]
fn a_director_that_was_told_of_its_own_vote_waits_for_who_is_left_out_too() {
    let mut voter = Director::new("edge1", record(NUMBER, &["edge1", "edge2"])).fit();
    voter.says("edge2", Voice { claims: true, deciding: Deciding::Mine, ..Voice::at(NUMBER) });
    voter.until("the vote", |voter| voter.voice("edge2").is_granted());
    voter.voices.clear();
    voter.change(record(NUMBER + 1, &["edge1"]));
    let after = voter.until("it owns the VIP", |voter| voter.owns());
    assert!(after >= kept() - STEP * 2 && after <= kept() + STEP * 3, "{after:?}");
}

#[test]
fn the_next_change_waits_until_a_majority_has_known_the_last_one_for_a_lease() {
    let mut first = Director::new("edge1", record(NUMBER, &["edge1", "edge2", "edge3"]));
    first.says("edge2", Voice::at(NUMBER - 1));
    first.standings.insert(id("edge3"), Standing { state: LeaseState::Expired, number: NUMBER - 1 });
    first.pass(Duration::from_secs(60));
    assert_eq!(first.proposed, None, "the second one knows the record before alone, which has another majority");
    first.voice("edge2").number = NUMBER;
    let after = first.until("it is proposed", |first| {
        first.read();
        first.proposed.is_some()
    });
    assert!(after >= kept() && after <= kept() + STEP * 3, "{after:?}");
    assert_eq!(first.proposed, Some(record(NUMBER + 1, &["edge1", "edge2"])));
}

#[test]
fn the_deciding_vote_passes_with_the_death_of_one_that_was_heard_within_a_lease_alone() {
    for (silence, passes) in [(Duration::from_secs(1), true), (Duration::from_secs(4), false)] {
        let mut second = Director::new("edge2", record(NUMBER, &["edge1", "edge2"])).fit();
        second.says("edge1", Voice { deciding: Deciding::Mine, ..Voice::at(NUMBER) });
        second.pass(Duration::from_secs(10));
        assert_eq!(second.ownership.deciding(), Some(Deciding::Conceded(Incarnation(1))));
        // It is heard, and answers nothing: it may have left this one out and gone on alone.
        second.voice("edge1").answers = false;
        second.pass(silence);
        let gone = Event::Gone { peer: id("edge1"), incarnation: Incarnation(1) };
        second.voices.clear();
        second.ownership.handle(gone, second.now);
        second.step();
        assert_eq!(second.ownership.deciding() == Some(Deciding::Mine), passes, "after {silence:?}");
        second.pass(Duration::from_secs(10));
        assert_eq!(second.owns(), passes, "after {silence:?}");
    }
}

#[test]
fn two_that_were_three_meet_before_one_of_them_decides() {
    let mut first = Director::new("edge1", record(NUMBER, &["edge1", "edge2", "edge3"])).fit();
    first.says("edge2", Voice::at(NUMBER));
    first.says("edge3", Voice::at(NUMBER));
    first.pass(Duration::from_secs(10));
    first.voices.clear();
    first.standings.insert(id("edge2"), Standing { state: LeaseState::Expired, number: NUMBER });
    first.change(record(NUMBER + 1, &["edge1", "edge3"]));
    first.pass(Duration::from_secs(20));
    assert!(!first.owns(), "the other one was not met, and may be one of three that decide");
    first.says("edge3", Voice { deciding: Deciding::Conceded(Incarnation(1)), ..Voice::at(NUMBER + 1) });
    let after = first.until("it owns the VIP", |first| first.owns());
    assert!(after >= kept() - STEP && after <= kept() + STEP * 5, "{after:?}");
}
