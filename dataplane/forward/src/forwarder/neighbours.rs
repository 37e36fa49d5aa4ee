//! Which neighbours are needed, which must be asked for, and for how long one that the kernel forgot still counts.

use crate::topology::{Mac, Neighbour, Topology, Way};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// For so long a neighbour keeps the MAC address that it had after the kernel forgot it (its cache is collected), while it
/// is asked again. A neighbour that was asked in vain has no such grace.
const GRACE: Duration = Duration::from_secs(3);

/// From one question to the next for a neighbour without an answer.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// The same for one that is known: the kernel verifies it only while somebody sends, and XDP sends past the kernel.
const VERIFY: Duration = Duration::from_secs(10);

/// A neighbour: interface and address.
pub(super) type Key = (u32, IpAddr);

#[derive(Clone, Copy, Debug)]
struct Needed {
    mac: Option<Mac>,
    lost: Option<Instant>,
    asked: Option<Instant>,
}

/// The neighbours that real servers are reached by.
#[derive(Debug, Default)]
pub(super) struct Neighbours {
    needed: BTreeMap<Key, Needed>,
    /// By real server, until it is first needed.
    adopted: BTreeMap<IpAddr, Mac>,
}

impl Neighbours {
    /// With the next hops' addresses that adopted tables send to: one that the kernel does not know at the start counts as
    /// forgotten, not as never known, or the flows of its real servers would be selected anew.
    pub(super) fn adopting(next_hops: BTreeMap<IpAddr, Mac>) -> Self {
        Self { adopted: next_hops, ..Self::default() }
    }

    /// Learns which neighbours the way to each of `reals` needs.
    pub(super) fn need<'a>(&mut self, topology: &Topology, reals: impl IntoIterator<Item = &'a IpAddr>, now: Instant) {
        let mut seen = BTreeSet::new();
        for real in reals {
            let key = match topology.delivery(*real) {
                Ok(Way::Out(next)) => Some((next.logical, next.gateway.unwrap_or(*real))),
                Ok(Way::Local) => None,
                Err(why) => why.neighbour(),
            };
            let Some(key) = key else { continue };
            seen.insert(key);
            let adopted = self.adopted.remove(real);
            let needed = self.needed.entry(key).or_insert(Needed { mac: adopted, lost: None, asked: None });
            match topology.neighbour(key.0, key.1) {
                Some(Neighbour::Known(mac)) => (needed.mac, needed.lost) = (Some(mac), None),
                Some(Neighbour::Failed) => (needed.mac, needed.lost) = (None, None),
                Some(Neighbour::Asked) | None => {
                    if needed.lost.is_none() {
                        needed.lost = Some(now);
                        // Not at the next turn but at once: somebody waits.
                        needed.asked = None;
                    }
                }
            }
        }
        self.needed.retain(|key, _| seen.contains(key));
    }

    /// The topology with forgotten neighbours put back while their grace lasts; `None` = as it is. With the time when a
    /// grace ends.
    pub(super) fn patched(&self, topology: &Topology, now: Instant) -> (Option<Topology>, Option<Instant>) {
        let mut patched = None;
        let mut ends: Option<Instant> = None;
        for (key, needed) in &self.needed {
            let (Some(mac), Some(lost)) = (needed.mac, needed.lost) else { continue };
            let end = lost + GRACE;
            if now >= end {
                continue;
            }
            ends = Some(ends.map_or(end, |other| other.min(end)));
            patched.get_or_insert_with(|| topology.clone()).set_neighbour(key.0, key.1, Neighbour::Known(mac));
        }
        (patched, ends)
    }

    /// Those to ask for at this moment.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Key> {
        let mut due = Vec::new();
        for (key, needed) in &mut self.needed {
            let known = needed.mac.is_some() && needed.lost.is_none();
            let pause = if known { VERIFY } else { ASK_AGAIN };
            if needed.asked.is_none_or(|asked| now.saturating_duration_since(asked) >= pause) {
                needed.asked = Some(now);
                due.push(*key);
            }
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{Hop, Link, Prefix, Route, RouteAction};

    fn topology() -> Topology {
        let mut topology = Topology::default();
        topology.set_link(Link {
            index: 2,
            name: "eth0".to_owned(),
            mtu: 1500,
            up: true,
            carrier: true,
            ..Link::default()
        });
        topology.set_routes([Route {
            destination: Prefix::new([192, 0, 2, 0].into(), 24),
            metric: 0,
            source: None,
            action: RouteAction::Send(vec![Hop { interface: 2, gateway: None }]),
            mtu: None,
        }]);
        topology
    }

    #[test]
    fn a_forgotten_neighbour_counts_for_its_grace_and_a_silent_one_does_not() {
        let real: IpAddr = [192, 0, 2, 7].into();
        let reals = BTreeSet::from([real]);
        let mut topology = topology();
        let mut neighbours = Neighbours::default();
        let start = Instant::now();

        neighbours.need(&topology, &reals, start);
        assert_eq!(neighbours.due(start), [(2, real)], "an unknown one is asked for at once");
        assert_eq!(neighbours.patched(&topology, start).0, None, "nothing to put back");

        topology.set_neighbour(2, real, Neighbour::Known([2; 6]));
        neighbours.need(&topology, &reals, start);
        topology.remove_neighbour(2, real);
        let lost = start + Duration::from_secs(60);
        neighbours.need(&topology, &reals, lost);
        assert_eq!(neighbours.due(lost), [(2, real)], "a forgotten one is asked for at once");
        let (patched, ends) = neighbours.patched(&topology, lost);
        assert_eq!(patched.and_then(|with| with.neighbour(2, real)), Some(Neighbour::Known([2; 6])));
        assert_eq!(ends, Some(lost + GRACE));
        assert_eq!(neighbours.patched(&topology, lost + GRACE).0, None, "the grace is over");

        topology.set_neighbour(2, real, Neighbour::Known([2; 6]));
        neighbours.need(&topology, &reals, lost);
        topology.set_neighbour(2, real, Neighbour::Failed);
        neighbours.need(&topology, &reals, lost);
        assert_eq!(neighbours.patched(&topology, lost).0, None, "who was asked in vain is gone");
    }

    #[test]
    fn the_next_hop_of_an_adopted_real_server_counts_as_forgotten() {
        let real: IpAddr = [192, 0, 2, 7].into();
        let reals = BTreeSet::from([real]);
        let mut topology = topology();
        let mut neighbours = Neighbours::adopting(BTreeMap::from([(real, [2; 6])]));
        let start = Instant::now();
        neighbours.need(&topology, &reals, start);
        assert_eq!(neighbours.due(start), [(2, real)], "it is asked for at once");
        let (patched, ends) = neighbours.patched(&topology, start);
        assert_eq!(patched.and_then(|with| with.neighbour(2, real)), Some(Neighbour::Known([2; 6])));
        assert_eq!(ends, Some(start + GRACE), "and not believed in for ever");

        topology.set_neighbour(2, real, Neighbour::Failed);
        let mut neighbours = Neighbours::adopting(BTreeMap::from([(real, [2; 6])]));
        neighbours.need(&topology, &reals, start);
        assert_eq!(neighbours.patched(&topology, start).0, None, "who was asked in vain is gone");
    }

    #[test]
    fn neighbours_are_asked_in_turn_and_forgotten_when_nobody_needs_them() {
        let real: IpAddr = [192, 0, 2, 7].into();
        let topology = topology();
        let mut neighbours = Neighbours::default();
        let start = Instant::now();
        neighbours.need(&topology, &BTreeSet::from([real]), start);
        assert_eq!(neighbours.due(start).len(), 1);
        assert_eq!(neighbours.due(start + ASK_AGAIN / 2).len(), 0);
        assert_eq!(neighbours.due(start + ASK_AGAIN).len(), 1);
        neighbours.need(&topology, [], start);
        assert_eq!(neighbours.due(start + ASK_AGAIN * 9).len(), 0);
    }
}
