//! Who leads: one process holds a Lease (`coordination.k8s.io/v1`) and writes statuses and Events.
//!
//! [`Election`] decides and does no I/O. It never trusts the clock of another host: a Lease has run out when nobody has
//! renewed it for its whole duration on the clock here (as client-go's leader election has it). The leader stops counting
//! itself as such before anybody else can take over.

use std::sync::Arc;
use std::time::{Duration, Instant};

/// A Lease, as far as it matters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// `spec.holderIdentity`; empty = released.
    pub holder: String,
    /// `spec.leaseDurationSeconds`.
    pub duration: Duration,
    /// `spec.renewTime`, as text: it is compared and never read.
    pub renewed: String,
    /// `spec.leaseTransitions`.
    pub transitions: i32,
    /// `metadata.resourceVersion`: who writes proves that this is what it saw.
    pub version: String,
}

/// Times of an election.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ElectionTiming {
    /// How long others wait for a leader that is silent.
    pub duration: Duration,
    /// From one renewal, or look, to the next.
    pub retry: Duration,
    /// How much earlier than others the leader takes itself for deposed.
    pub margin: Duration,
}

impl Default for ElectionTiming {
    /// Fifteen seconds, as controllers of Kubernetes have it.
    fn default() -> Self {
        Self { duration: Duration::from_secs(15), retry: Duration::from_secs(2), margin: Duration::from_secs(5) }
    }
}

/// What to do about the Lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Another one leads: look again later.
    Wait,
    /// Write this, if it is still what was seen; `true` = the Lease is not there yet.
    Write(Record, bool),
}

/// One candidate's view of the election.
#[derive(Debug)]
pub struct Election {
    me: Arc<str>,
    timing: ElectionTiming,
    /// The record that was seen last, and when it was first seen so.
    seen: Option<(Record, Instant)>,
    /// When the last renewal was begun that arrived: the moment that others count from is not before it.
    renewed: Option<Instant>,
}

impl Election {
    /// A candidate of this name, which no other may have.
    #[must_use]
    pub fn new(me: impl Into<Arc<str>>, timing: ElectionTiming) -> Self {
        Self { me: me.into(), timing, seen: None, renewed: None }
    }

    /// True while nobody else can lead.
    #[must_use]
    pub fn leads(&self, now: Instant) -> bool {
        self.leads_until().is_some_and(|until| now < until)
    }

    /// When leading ends unless it is renewed.
    #[must_use]
    pub fn leads_until(&self) -> Option<Instant> {
        Some(self.renewed? + self.timing.duration.saturating_sub(self.timing.margin))
    }

    /// What to do, given the Lease as it was just read (`None` = there is none). `stamp` is the time of day as text.
    pub fn look(&mut self, found: Option<Record>, now: Instant, stamp: String) -> Step {
        let mine =
            Record { holder: self.me.to_string(), duration: self.timing.duration, renewed: stamp, ..Record::default() };
        let Some(found) = found else {
            self.seen = None;
            return Step::Write(mine, true);
        };
        // A write that was not heard of is a renewal too, of whoever made it.
        let is_same = self.seen.as_ref().is_some_and(|(seen, _)| *seen == found);
        if !is_same {
            self.seen = Some((found.clone(), now));
        }
        let since = self.seen.as_ref().map_or(now, |(_, since)| *since);
        let is_mine = *found.holder == *self.me;
        if !is_mine {
            self.renewed = None;
        }
        let has_run_out = now.saturating_duration_since(since) >= found.duration.max(self.timing.duration);
        if is_mine || found.holder.is_empty() || has_run_out {
            let transitions = found.transitions.saturating_add(i32::from(!is_mine));
            return Step::Write(Record { transitions, version: found.version, ..mine }, false);
        }
        Step::Wait
    }

    /// The write that was begun at `begun` arrived; `record` is the Lease as it is after it.
    pub fn written(&mut self, record: Record, begun: Instant) {
        self.renewed = (*record.holder == *self.me).then_some(begun);
        self.seen = Some((record, begun));
    }

    /// The Lease without a holder, to leave without making others wait; `None` where another one holds it.
    pub fn release(&mut self) -> Option<Record> {
        self.renewed.take()?;
        let (seen, _) = self.seen.as_ref()?;
        // One second is the least that the API takes.
        Some(Record { holder: String::new(), duration: Duration::from_secs(1), ..seen.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TIMING: ElectionTiming = ElectionTiming {
        duration: Duration::from_secs(15),
        retry: Duration::from_secs(2),
        margin: Duration::from_secs(5),
    };

    /// The Lease as an API server keeps it.
    #[derive(Default)]
    struct Server {
        record: Option<Record>,
        version: u64,
    }

    impl Server {
        fn write(&mut self, record: Record, is_new: bool) -> Option<Record> {
            let is_current = match &self.record {
                None => is_new,
                Some(kept) => !is_new && kept.version == record.version,
            };
            is_current.then(|| {
                self.version += 1;
                let kept = Record { version: self.version.to_string(), ..record };
                self.record = Some(kept.clone());
                kept
            })
        }
    }

    #[test]
    fn the_first_leads_and_the_second_waits_until_it_is_silent() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut server = Server::default();
        let (mut one, mut two) = (Election::new("one", TIMING), Election::new("two", TIMING));
        let Step::Write(record, true) = one.look(None, at(0), "0".into()) else { panic!("it is free") };
        one.written(server.write(record, true).expect("it is free"), at(0));
        assert!(one.leads(at(9)) && !one.leads(at(10)), "it stops before others may begin");
        assert_eq!(two.look(server.record.clone(), at(1), "1".into()), Step::Wait);
        assert_eq!(two.look(server.record.clone(), at(15), "15".into()), Step::Wait, "first seen a second later");
        let Step::Write(record, false) = two.look(server.record.clone(), at(16), "16".into()) else {
            panic!("it ran out")
        };
        assert_eq!(record.transitions, 1);
        two.written(server.write(record, false).expect("nobody was faster"), at(16));
        assert!(two.leads(at(17)) && !one.leads(at(17)));
        assert_eq!(one.look(server.record.clone(), at(17), "17".into()), Step::Wait);
    }

    #[test]
    fn a_released_lease_is_taken_at_once() {
        let start = Instant::now();
        let mut server = Server::default();
        let (mut one, mut two) = (Election::new("one", TIMING), Election::new("two", TIMING));
        assert_eq!(one.release(), None);
        let Step::Write(record, true) = one.look(None, start, String::new()) else { panic!("it is free") };
        one.written(server.write(record, true).expect("it is free"), start);
        let released = one.release().expect("it leads");
        assert!(!one.leads(start));
        server.write(released, false).expect("it held it");
        assert!(matches!(two.look(server.record.clone(), start, "1".into()), Step::Write(_, false)));
    }

    proptest! {
        /// Three candidates whose looks and writes are late, lost, or heard of by nobody: never two leaders.
        #[test]
        fn there_are_never_two_leaders(steps in proptest::collection::vec((0_usize..3, 0_u64..6000, 0_u64..4000, 0_u8..10), 1..200)) {
            let start = Instant::now();
            let mut now = start;
            let mut server = Server::default();
            let mut candidates: Vec<Election> = (0..3).map(|id| Election::new(format!("c{id}"), TIMING)).collect();
            for (who, pause, delay, luck) in steps {
                now += Duration::from_millis(pause);
                let begun = now;
                let step = candidates[who].look(server.record.clone(), now, format!("{now:?}"));
                if let Step::Write(record, is_new) = step {
                    // The request is under way for a while; the answer may be lost (8), or the request itself (9).
                    now += Duration::from_millis(delay);
                    if luck != 9 && let Some(kept) = server.write(record, is_new) && luck != 8 {
                        candidates[who].written(kept, begun);
                    }
                }
                if luck == 7 && let Some(record) = candidates[who].release() {
                    server.write(record, false);
                }
                let leaders = candidates.iter().filter(|candidate| candidate.leads(now)).count();
                prop_assert!(leaders <= 1, "{leaders} leaders");
            }
        }
    }
}
