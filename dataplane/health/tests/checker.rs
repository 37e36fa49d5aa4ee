//! The checker with simulated time: rise and fall, the schedule, changes of the targets, and a naive model beside it.
//! It opens no socket.

use proptest::prelude::*;
use sluicegate_config::{HealthCheck, ProbeKind, TransportProtocol};
use sluicegate_health::{Change, Checker, DueProbe, Failure, Step, Target};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);

fn target(number: u16) -> Target {
    let [high, low] = number.to_be_bytes();
    Target {
        vip: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10)),
        protocol: TransportProtocol::Tcp,
        port: 80,
        real: IpAddr::V4(Ipv4Addr::new(198, 51, high, low)),
    }
}

fn check(interval: Duration, rise: u8, fall: u8) -> Arc<HealthCheck> {
    Arc::new(HealthCheck { kind: ProbeKind::Tcp, port: None, interval, timeout: SECOND, rise, fall })
}

fn targets(numbers: impl IntoIterator<Item = u16>, check: &Arc<HealthCheck>) -> BTreeMap<Target, Arc<HealthCheck>> {
    numbers.into_iter().map(|number| (target(number), Arc::clone(check))).collect()
}

fn timed_out() -> Failure {
    Failure::TimedOut { after: SECOND, step: Step::Connecting }
}

/// Lets time pass until the one target is due, and takes the probe.
fn next(checker: &mut Checker, now: &mut Instant) -> DueProbe {
    *now = checker.next_due().expect("one waits").max(*now);
    let mut due = checker.poll(*now, 8);
    assert_eq!(due.len(), 1);
    due.remove(0)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Good,
    Bad,
    Local,
}

impl Answer {
    fn result(self) -> Result<(), Failure> {
        match self {
            Self::Good => Ok(()),
            Self::Bad => Err(Failure::Refused),
            Self::Local => Err(Failure::Local("no file descriptors".into())),
        }
    }
}

#[test]
fn rise_and_fall() {
    // Answers (g, b, or l for one that says nothing), and the verdict after each (+ or -).
    let rows = [
        (1, 1, "gbgb", "+-+-"),
        (2, 3, "bbgbbbggbgg", "+++++--++++"),
        (2, 3, "bbb", "++-"),
        (2, 3, "bbbgg", "++--+"),
        (2, 3, "bbbgbgg", "++----+"),
        (1, 2, "blb", "++-"),
        (2, 1, "bglg", "---+"),
        (3, 1, "bllgggb", "-----+-"),
        // Zero means one.
        (0, 0, "bg", "-+"),
    ];
    for (rise, fall, answers, verdicts) in rows {
        let mut now = Instant::now();
        let mut checker = Checker::new(7);
        checker.set_targets(targets([1], &check(SECOND, rise, fall)), now);
        let mut before = true;
        for (position, (answer, verdict)) in answers.chars().zip(verdicts.chars()).enumerate() {
            let answer = match answer {
                'g' => Answer::Good,
                'b' => Answer::Bad,
                _ => Answer::Local,
            };
            let due = next(&mut checker, &mut now);
            now += SECOND / 100;
            let change = checker.handle(due.ticket, answer.result(), now);
            let healthy = checker.status(&target(1)).expect("a target").verdict.healthy;
            let row = format!("rise {rise} fall {fall} {answers} at {position}");
            assert_eq!(healthy, verdict == '+', "{row}");
            assert_eq!(change.is_some(), healthy != before, "{row}: told when it turns, and only then");
            if let Some(change) = change {
                assert_eq!((change.target, change.verdict.since), (target(1), now), "{row}");
            }
            before = healthy;
        }
    }
}

#[test]
fn a_new_target_is_used_until_probes_speak_against_it() {
    let mut now = Instant::now();
    let began = now;
    let mut checker = Checker::new(0);
    checker.set_targets(targets([1], &check(5 * SECOND, 2, 2)), now);
    let status = checker.status(&target(1)).expect("a target");
    assert!(status.verdict.healthy && status.last.is_none() && status.verdict.since == began);
    let due = next(&mut checker, &mut now);
    assert!(now < began + SECOND, "the first probe does not wait for a whole interval");
    assert_eq!(checker.handle(due.ticket, Ok(()), now), None);
    assert_eq!(checker.status(&target(1)).expect("a target").verdict.since, began);
}

#[test]
fn a_target_that_was_left_dead_proves_itself_first() {
    let mut now = Instant::now();
    let mut checker = Checker::new(0);
    let Target { protocol, port, real, .. } = target(1);
    checker.presume_failed([(real, protocol, port)].into());
    checker.set_targets(targets([1, 2], &check(SECOND, 2, 2)), now);
    let verdict = |checker: &Checker, number| checker.status(&target(number)).expect("a target").verdict.clone();
    assert_eq!((verdict(&checker, 1).healthy, verdict(&checker, 1).reason), (false, Some(Failure::Before)));
    assert!(verdict(&checker, 2).healthy);
    while !verdict(&checker, 1).healthy {
        let due = next(&mut checker, &mut now);
        checker.handle(due.ticket, Ok(()), now);
    }
    // That was for the first targets; one that comes again later is new.
    checker.set_targets(BTreeMap::new(), now);
    checker.set_targets(targets([1], &check(SECOND, 2, 2)), now);
    assert!(verdict(&checker, 1).healthy);
}

#[test]
fn the_reason_is_the_latest_failure_and_since_stays() {
    let mut now = Instant::now();
    let mut checker = Checker::new(0);
    checker.set_targets(targets([1], &check(SECOND, 2, 1)), now);
    let due = next(&mut checker, &mut now);
    let change = checker.handle(due.ticket, Err(Failure::Refused), now).expect("it turned");
    let since = now;
    assert_eq!(change.verdict.reason, Some(Failure::Refused));
    let due = next(&mut checker, &mut now);
    assert_eq!(checker.handle(due.ticket, Err(timed_out()), now + SECOND), None);
    now += SECOND;
    let status = checker.status(&target(1)).expect("a target");
    assert_eq!((status.verdict.reason.clone(), status.verdict.since), (Some(timed_out()), since));
    let last = status.last.clone().expect("a probe");
    assert_eq!((last.at, last.took, last.result), (now, SECOND, Err(timed_out())));
    // What this machine could not do is seen, and changes nothing.
    let due = next(&mut checker, &mut now);
    checker.handle(due.ticket, Answer::Local.result(), now);
    let status = checker.status(&target(1)).expect("a target");
    assert_eq!(status.verdict.reason, Some(timed_out()));
    assert!(matches!(status.last.as_ref().map(|last| &last.result), Some(Err(Failure::Local(_)))));
    for expected in [None, Some(true)] {
        let due = next(&mut checker, &mut now);
        let change = checker.handle(due.ticket, Ok(()), now);
        assert_eq!(change.as_ref().map(|change| change.verdict.healthy), expected);
        assert!(change.is_none_or(|change| change.verdict.reason.is_none()));
    }
}

#[test]
fn what_stays_keeps_its_verdict() {
    let mut now = Instant::now();
    let mut checker = Checker::new(0);
    let first = check(SECOND, 2, 2);
    checker.set_targets(targets([1, 2], &first), now);
    for _ in 0..4 {
        now = checker.next_due().expect("two wait").max(now);
        for due in checker.poll(now, 8) {
            checker.handle(due.ticket, Err(Failure::Refused), now);
        }
    }
    assert!(checker.statuses().all(|(_, status)| !status.verdict.healthy));
    let before = checker.status(&target(1)).cloned();
    let due_before = checker.next_due();
    // The same again, with one more: nothing of the others moves, not even their place in time.
    checker.set_targets(targets([1, 2, 3], &check(SECOND, 2, 2)), now);
    assert_eq!(checker.status(&target(1)).cloned(), before);
    assert!(checker.next_due() <= due_before);
    assert!(checker.status(&target(3)).expect("a target").verdict.healthy);
    // Another check: the verdict stays, the count begins anew.
    let due = next(&mut checker, &mut now);
    checker.handle(due.ticket, Ok(()), now);
    checker.set_targets(targets([1, 2], &check(2 * SECOND, 3, 2)), now);
    for number in [1, 2] {
        let status = checker.status(&target(number)).expect("a target");
        assert_eq!((status.verdict.healthy, status.streak, status.check.rise), (false, 0, 3));
    }
    // Gone and back: it is new.
    checker.set_targets(BTreeMap::new(), now);
    assert_eq!((checker.next_due(), checker.statuses().count()), (None, 0));
    checker.set_targets(targets([1], &first), now);
    assert!(checker.status(&target(1)).expect("a target").verdict.healthy);
}

#[test]
fn answers_to_probes_of_the_past_are_ignored() {
    for replacement in [BTreeMap::new(), targets([1], &check(SECOND, 9, 1))] {
        let mut now = Instant::now();
        let mut checker = Checker::new(0);
        checker.set_targets(targets([1], &check(SECOND, 1, 1)), now);
        let stale = next(&mut checker, &mut now);
        checker.set_targets(replacement, now);
        assert_eq!(checker.handle(stale.ticket, Err(Failure::Refused), now), None);
        assert!(checker.statuses().all(|(_, status)| status.verdict.healthy && status.last.is_none()));
        // And the target, where it is still one, is probed as if nothing had been.
        assert_eq!(checker.poll(now + SECOND, 8).len(), checker.statuses().count());
    }
}

#[test]
fn a_probe_that_takes_longer_than_the_interval_is_followed_at_once() {
    let mut now = Instant::now();
    let mut checker = Checker::new(0);
    checker.set_targets(targets([1], &check(SECOND, 1, 1)), now);
    let due = next(&mut checker, &mut now);
    assert_eq!((checker.next_due(), checker.poll(now + 10 * SECOND, 8).len()), (None, 0), "one at a time");
    now += 5 * SECOND;
    checker.handle(due.ticket, Ok(()), now);
    assert_eq!(checker.next_due(), Some(now));
}

#[test]
fn intervals_beyond_reason_are_bounded() {
    for (interval, at_least, at_most) in [
        (Duration::ZERO, Duration::from_millis(9), Duration::from_millis(11)),
        (Duration::MAX, 21 * 3600 * SECOND, 27 * 3600 * SECOND),
    ] {
        let mut now = Instant::now();
        let mut checker = Checker::new(0);
        checker.set_targets(targets([1], &check(interval, 1, 1)), now);
        let due = next(&mut checker, &mut now);
        checker.handle(due.ticket, Ok(()), now);
        let pause = checker.next_due().expect("it waits") - now;
        assert!((at_least..=at_most).contains(&pause), "{interval:?}: {pause:?}");
    }
}

#[test]
fn probes_are_spread_and_do_not_fall_into_step() {
    let began = Instant::now();
    let mut checker = Checker::new(3);
    let number = 2000;
    checker.set_targets(targets(0..number, &check(10 * SECOND, 1, 1)), began);
    let tick = SECOND / 10;
    let mut by_tick = Vec::new();
    for step in 1..=600 {
        let now = began + tick * step;
        let due = checker.poll(now, usize::MAX);
        by_tick.push(due.len());
        for probe in due {
            checker.handle(probe.ticket, Ok(()), now);
        }
    }
    assert_eq!(by_tick[..10].iter().sum::<usize>(), usize::from(number), "all have had one within a second");
    // A herd would be 2000 at once. The first round comes within a second, then jitter spreads it.
    let (first, sixth) = (*by_tick[..10].iter().max().expect("ticks"), *by_tick[500..].iter().max().expect("ticks"));
    assert!(first < 300, "{first} in a tick");
    assert!(sixth < 80, "{sixth} in a tick of the sixth round");
}

#[test]
fn the_schedule_follows_from_target_and_seed_alone() {
    let now = Instant::now();
    let order = |seed| {
        let mut checker = Checker::new(seed);
        checker.set_targets(targets(0..100, &check(SECOND, 1, 1)), now);
        checker.poll(now + SECOND, usize::MAX).iter().map(|due| due.target).collect::<Vec<_>>()
    };
    assert_eq!(order(1), order(1));
    assert_ne!(order(1), order(2));
}

#[test]
fn little_room_delays_all_alike() {
    let began = Instant::now();
    let mut checker = Checker::new(0);
    checker.set_targets(targets(0..100, &check(SECOND, 1, 1)), began);
    // One probe at a time, and 100 of them take twenty intervals.
    let mut probes = BTreeMap::<Target, u32>::new();
    let mut now = began + SECOND;
    for _ in 0..1000 {
        let due = checker.poll(now, 1).remove(0);
        *probes.entry(due.target).or_default() += 1;
        now += SECOND / 5;
        checker.handle(due.ticket, Ok(()), now);
    }
    assert_eq!(probes.len(), 100);
    assert!(probes.values().all(|count| (9..=11).contains(count)), "{probes:?}");
}

/// What a target is by the definition of rise and fall, from all its answers.
#[derive(Default)]
struct Model {
    answers: Vec<bool>,
    unhealthy: bool,
}

impl Model {
    /// Whether the verdict turned.
    fn take_in(&mut self, good: bool, rise: u8, fall: u8) -> bool {
        self.answers.push(good);
        let needed = usize::from(if self.unhealthy { rise } else { fall });
        let tail = self.answers.iter().rev().take_while(|answer| **answer == self.unhealthy).count();
        if tail < needed {
            return false;
        }
        self.unhealthy = !self.unhealthy;
        self.answers.clear();
        true
    }
}

#[derive(Clone, Debug)]
enum Move {
    Pass { milliseconds: u64 },
    Answer { which: usize, answer: Answer },
    Targets { numbers: BTreeSet<u16> },
}

fn a_move() -> impl Strategy<Value = Move> {
    let answer = prop_oneof![4 => Just(Answer::Good), 4 => Just(Answer::Bad), 1 => Just(Answer::Local)];
    prop_oneof![
        4 => (1..3000_u64).prop_map(|milliseconds| Move::Pass { milliseconds }),
        8 => (any::<usize>(), answer).prop_map(|(which, answer)| Move::Answer { which, answer }),
        1 => prop::collection::btree_set(0..6_u16, 0..6).prop_map(|numbers| Move::Targets { numbers }),
    ]
}

proptest! {
    #[test]
    fn it_agrees_with_the_model(
        rise in 1..4_u8,
        fall in 1..4_u8,
        room in 1..8_usize,
        seed in any::<u64>(),
        moves in prop::collection::vec(a_move(), 1..200),
    ) {
        let check = check(SECOND, rise, fall);
        let mut now = Instant::now();
        let mut checker = Checker::new(seed);
        let mut models: BTreeMap<Target, Model> = BTreeMap::new();
        let mut running: Vec<DueProbe> = Vec::new();
        for one in moves {
            match one {
                Move::Pass { milliseconds } => now += Duration::from_millis(milliseconds),
                Move::Targets { numbers } => {
                    let targets = targets(numbers, &check);
                    running.retain(|due| targets.contains_key(&due.target));
                    models.retain(|target, _| targets.contains_key(target));
                    for target in targets.keys() {
                        models.entry(*target).or_default();
                    }
                    checker.set_targets(targets, now);
                }
                Move::Answer { which, answer } => {
                    if !running.is_empty() {
                        let due = running.swap_remove(which % running.len());
                        let change = checker.handle(due.ticket, answer.result(), now);
                        let model = models.get_mut(&due.target).expect("a target");
                        let turned = answer != Answer::Local && model.take_in(answer == Answer::Good, rise, fall);
                        let healthy = !model.unhealthy;
                        let expected = turned.then_some((due.target, healthy, now));
                        let of = |change: Change| (change.target, change.verdict.healthy, change.verdict.since);
                        prop_assert_eq!(change.map(of), expected);
                        // A second answer to the same probe is none.
                        prop_assert_eq!(checker.handle(due.ticket, Err(Failure::Refused), now), None);
                    }
                }
            }
            let due = checker.poll(now, room.saturating_sub(running.len()));
            for probe in &due {
                prop_assert!(running.iter().all(|other| other.target != probe.target), "two at a time");
            }
            running.extend(due);
            prop_assert!(running.len() <= room);
            for (target, status) in checker.statuses() {
                prop_assert_eq!(status.verdict.healthy, !models[target].unhealthy);
                prop_assert_eq!(status.verdict.reason.is_some(), models[target].unhealthy);
            }
            // Nothing is lost: each target waits or has its probe under way.
            prop_assert_eq!(checker.statuses().count(), models.len());
            let waits = models.len() > running.len();
            prop_assert_eq!(checker.next_due().is_some(), waits);
        }
    }
}
