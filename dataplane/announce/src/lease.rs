//! How long a vote is worth something, and the votes that this director was given.

use crate::moment::Moment;
use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

/// The times of the protocol. All directors must have equal ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How long a vote of a peer counts from the moment when it was asked for: 3 s.
    pub lease: Duration,
    /// How far ahead of the present the fence is pushed at most: 500 ms.
    pub fence: Duration,
    /// Between two heartbeats, and between two pushes of a fence: 100 ms.
    pub beat: Duration,
    /// A member of a cluster's directors of which nothing is heard is left out after so long, at the least: 30 s.
    pub gone: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        let [lease, gone] = [3, 30].map(Duration::from_secs);
        Self { lease, fence: Duration::from_millis(500), beat: Duration::from_millis(100), gone }
    }
}

impl Timing {
    /// The fence is kept in ticks of the kernel, 10 ms at the slowest, and may end up to one later.
    const TICK: Duration = Duration::from_millis(10);

    /// How long the voter keeps a vote from the arrival of the request: 4 % longer, where two clocks that are wrong by 1 %
    /// each need 2.03 %.
    #[must_use]
    pub fn kept(&self) -> Duration {
        longer(self.lease)
    }

    /// After which the fence of a director whose process is gone has run out.
    #[must_use]
    pub fn fenced(&self) -> Duration {
        longer(self.fence) + Self::TICK
    }

    /// Whether the times fit to each other: some heartbeats may be lost within a fence, some fences within a lease, and
    /// whoever is left out has lost all votes long before.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let shortest = Duration::from_millis(10);
        self.beat >= shortest
            && self.fence >= self.beat * 3
            && self.lease >= self.fence * 2
            && self.gone >= self.lease * 2
    }
}

fn longer(for_: Duration) -> Duration {
    for_ + for_ / 25
}

/// The votes of one peer for this director.
#[derive(Debug, Default)]
pub(crate) struct Votes {
    /// Until when the vote on a VIP counts.
    until: BTreeMap<IpAddr, Moment>,
    /// Heartbeats sent to this peer that it may still acknowledge.
    sent: VecDeque<(u64, Moment)>,
    /// Answers to heartbeats up to this one are worth nothing: the connection was lost after them.
    void_up_to: u64,
    /// When the last heartbeat was sent that this peer has answered.
    answered: Option<Moment>,
}

impl Votes {
    /// More heartbeats within a lease than this are not waited for.
    const MOST_SENT: usize = 512;

    pub(crate) fn sent(&mut self, sequence: u64, now: Moment) {
        if self.sent.len() == Self::MOST_SENT {
            self.sent.pop_front();
        }
        self.sent.push_back((sequence, now));
    }

    /// The peer has acted on the heartbeat `sequence`, and its vote on these VIPs is ours.
    pub(crate) fn acknowledged(&mut self, sequence: u64, vips: impl Iterator<Item = IpAddr>, lease: Duration) {
        while self.sent.front().is_some_and(|(older, _)| *older < sequence) {
            self.sent.pop_front();
        }
        let Some((_, at)) = self.sent.front().filter(|(sent, _)| *sent == sequence && sequence > self.void_up_to)
        else {
            return;
        };
        self.answered = Some(*at);
        let until = *at + lease;
        for vip in vips {
            let known = self.until.entry(vip).or_insert(until);
            *known = until.max(*known);
        }
    }

    /// The connection was lost, or the peer has started anew: it may give its votes to others once the fence, as it reckons
    /// it, has run out. Answers that are still under way are worth nothing.
    pub(crate) fn void(&mut self, last_sequence: u64, fence_ends: Moment) {
        self.until.values_mut().for_each(|until| *until = fence_ends.min(*until));
        self.sent.clear();
        self.answered = None;
        self.void_up_to = last_sequence;
    }

    /// Whether the peer has answered what was sent to it within the time before now: silence on either side shows.
    pub(crate) fn answered_within(&self, time: Duration, now: Moment) -> bool {
        self.answered.is_some_and(|at| now < at + time)
    }

    pub(crate) fn forget(&mut self, vip: IpAddr) {
        self.until.remove(&vip);
    }

    pub(crate) fn until(&self, vip: IpAddr) -> Option<Moment> {
        self.until.get(&vip).copied()
    }

    /// The end of the vote that counts longest.
    pub(crate) fn longest(&self) -> Option<Moment> {
        self.until.values().copied().max()
    }
}
