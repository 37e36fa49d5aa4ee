//! Stations that claim a VIP that is not theirs: what is reported, how often, and what is done about it (RFC 5227).

use sluicegate_announce::{
    Action, DirectorId, Event, Fitness, Incarnation, Moment, OnIsolation, Ownership, OwnershipSettings, Report, Timing,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

const STRANGER: [u8; 6] = [2, 0, 0, 0, 9, 9];

/// A director without peers, which owns its VIP; or with one that never speaks, so that it stands by.
struct Director {
    ownership: Ownership,
    now: Moment,
    vip: IpAddr,
}

impl Director {
    fn new(stands_by: bool) -> Self {
        let peer = DirectorId::new("edge2").expect("a name");
        let settings = OwnershipSettings {
            me: DirectorId::new("edge1").expect("a name"),
            peers: stands_by.then_some(peer).into_iter().collect::<BTreeSet<_>>(),
            joins: None,
            mac: [2, 0, 0, 0, 0, 1],
            timing: Timing::default(),
            failback: false,
            on_isolation: OnIsolation::Release,
        };
        let now = Moment::from_boot(Duration::from_secs(1_000));
        let mut ownership = Ownership::new(settings, Incarnation(1), now).expect("settings");
        let vip = "192.0.2.10".parse().expect("an address");
        ownership.handle(Event::Vips(BTreeMap::from([(vip, true)])), now);
        ownership.handle(Event::Fitness(Fitness::FIT), now);
        let mut director = Self { ownership, now, vip };
        assert_eq!(director.pass(1).contains(&Action::Report(Report::TookOver(vip))), !stands_by);
        director
    }

    /// What it does in so many seconds.
    fn pass(&mut self, seconds: u64) -> Vec<Action> {
        let until = self.now + Duration::from_secs(seconds);
        let mut actions = self.ownership.poll(self.now);
        while self.now < until {
            self.now = self.now + Duration::from_millis(100);
            actions.extend(self.ownership.poll(self.now));
        }
        actions
    }

    /// A stranger claims the VIP once.
    fn hear(&mut self, mac: [u8; 6]) -> Vec<Action> {
        self.ownership.handle(Event::Claimed { vip: self.vip, mac }, self.now);
        self.ownership.poll(self.now)
    }

    fn sees(&self) -> Option<[u8; 6]> {
        self.ownership.vips(self.now)[0].conflict.map(|conflict| conflict.mac)
    }
}

fn reports(actions: &[Action]) -> usize {
    actions.iter().filter(|action| matches!(action, Action::Report(Report::Conflict { .. }))).count()
}

fn announcements(actions: &[Action]) -> usize {
    actions.iter().filter(|action| matches!(action, Action::Announce(_))).count()
}

#[test]
fn a_conflict_is_said_once_and_shown_while_it_lasts() {
    for stands_by in [false, true] {
        let mut director = Director::new(stands_by);
        director.pass(20);
        assert_eq!(director.sees(), None);
        let mut said = 0;
        for _ in 0..120 {
            said += reports(&director.hear(STRANGER));
            said += reports(&director.pass(1));
            assert_eq!(director.sees(), Some(STRANGER));
        }
        assert_eq!(said, 1, "stands by: {stands_by}");
        director.pass(160);
        assert_eq!(director.sees(), None, "it has gone");
        assert_eq!(reports(&director.hear(STRANGER)), 1, "it has come back");
    }
}

#[test]
fn an_owner_defends_once_in_ten_seconds_and_keeps_the_vip() {
    let mut director = Director::new(false);
    director.pass(20);
    let mut defended = 0;
    for _ in 0..300 {
        defended += announcements(&director.hear(STRANGER));
        let passed = director.pass(1);
        assert!(!passed.iter().any(|action| matches!(action, Action::Report(Report::Lost { .. }))));
    }
    assert!((29..=31).contains(&defended), "{defended}");
    let mut bystander = Director::new(true);
    bystander.pass(20);
    assert_eq!(announcements(&bystander.hear(STRANGER)), 0, "it is not the owner's");
}

#[test]
fn a_flood_of_strangers_is_said_once_in_ten_seconds() {
    let mut director = Director::new(false);
    director.pass(20);
    let mut said = 0;
    for number in 0..3_000_u32 {
        let [_, _, a, b] = number.to_be_bytes();
        said += reports(&director.hear([2, 0, 0, 9, a, b]));
        if number % 100 == 99 {
            director.pass(1);
        }
    }
    assert!((3..=4).contains(&said), "{said} reports in 30 s");
}

#[test]
fn owners_ask_as_well_for_who_answers_others_behind_their_back() {
    let probes = |actions: Vec<Action>| actions.iter().filter(|action| matches!(action, Action::Probe(_))).count();
    assert_eq!(probes(Director::new(true).pass(599)), 60, "one in ten seconds while standing by");
    assert_eq!(probes(Director::new(false).pass(599)), 10, "one a minute while owning");
}
