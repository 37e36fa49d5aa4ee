//! Directors that start together, event by event: who waits for whom, and who does not.

use sluicegate_announce::{
    Action, Beat, Deciding, DirectorId, Event, Fitness, Incarnation, Moment, OnIsolation, Ownership, OwnershipSettings,
    Timing, VipState, ranking,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

const BEAT: Duration = Duration::from_millis(100);

/// `edge1`, which has just started, beside `edge2`, which should have the VIP.
struct Start {
    ownership: Ownership,
    now: Moment,
    vip: IpAddr,
    sequence: u64,
}

impl Start {
    fn new() -> Self {
        let [me, peer] = ["edge1", "edge2"].map(|name| DirectorId::new(name).expect("a name"));
        let vips = (10..200).map(|last| IpAddr::from([192, 0, 2, last]));
        let vip = vips.into_iter().find(|vip| *ranking(*vip, [&me, &peer])[0] == peer).expect("one of them");
        let settings = OwnershipSettings {
            me,
            peers: BTreeSet::from([peer]),
            joins: None,
            mac: [2, 0, 0, 0, 0, 1],
            timing: Timing::default(),
            failback: false,
            on_isolation: OnIsolation::Release,
        };
        let now = Moment::from_boot(Duration::from_secs(1_000));
        let mut ownership = Ownership::new(settings, Incarnation(1), now).expect("settings");
        ownership.handle(Event::Vips(BTreeMap::from([(vip, true)])), now);
        ownership.handle(Event::Fitness(Fitness::FIT), now);
        Self { ownership, now, vip, sequence: 0 }
    }

    /// A heartbeat of this life of the peer, which is able and owns the VIP, or is neither.
    fn hear(&mut self, life: u64, holds: bool) {
        self.sequence += 1;
        let beat = Beat {
            incarnation: Incarnation(life),
            sequence: self.sequence,
            acknowledged: None,
            deciding: Deciding::Unknown,
            fit: holds,
            mac: [2, 0, 0, 0, 0, 2],
            vips: vec![VipState { vip: self.vip, able: holds, claims: holds, holds }],
            granted: Vec::new(),
            number: 0,
            membership: None,
        };
        let from = DirectorId::new("edge2").expect("a name");
        self.ownership.handle(Event::Beat { from, beat }, self.now);
    }

    /// How long the peer, in this life, is neither fit nor able before the VIP is asked for.
    fn asked_for_after(&mut self, life: u64) -> Duration {
        let begun = self.now;
        loop {
            self.hear(life, false);
            let actions = self.ownership.poll(self.now);
            let asks = |beat: &Beat| beat.vips.iter().any(|state| state.claims);
            if actions.iter().any(|action| matches!(action, Action::Send { beat, .. } if asks(beat))) {
                return self.now - begun;
            }
            self.now = self.now + BEAT;
            assert!(self.now - begun < Duration::from_secs(60), "it is never asked for");
        }
    }
}

#[test]
fn what_nobody_has_held_is_left_for_a_while_to_who_should_have_it() {
    let after = Start::new().asked_for_after(7);
    assert!((Duration::from_millis(1_900)..=Duration::from_millis(2_200)).contains(&after), "{after:?}");
}

#[test]
fn what_was_held_is_asked_for_at_once_though_its_owner_starts_again() {
    let mut start = Start::new();
    for _ in 0..10 {
        start.hear(7, true);
        start.ownership.poll(start.now);
        start.now = start.now + BEAT;
    }
    let peer = DirectorId::new("edge2").expect("a name");
    start.ownership.handle(Event::Gone { peer, incarnation: Incarnation(7) }, start.now);
    start.sequence = 0;
    let after = start.asked_for_after(8);
    assert!(after <= BEAT * 2, "{after:?}");
}
