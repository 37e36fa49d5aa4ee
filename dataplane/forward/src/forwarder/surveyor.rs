//! The survey, kept: which VIPs a change is about, and those alone looked at again.

use crate::fleet::{Fleet, FleetReal, Observed};
use crate::shared_list::SharedLists;
use crate::topology::Topology;
use sluicegate_config::VipBinding;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

type Bindings = Arc<BTreeMap<IpAddr, Arc<VipBinding>>>;

/// What was surveyed last.
#[derive(Debug, Default)]
pub(super) struct Surveyor {
    fleet: Fleet,
    /// Its lists of real servers.
    lists: SharedLists<FleetReal>,
    bindings: Bindings,
    observed: Observed,
    /// How often each real server is listed.
    reals: BTreeMap<IpAddr, usize>,
    /// VIPs to look at again.
    moved: BTreeSet<IpAddr>,
}

impl Surveyor {
    /// The fleet as it was surveyed last.
    pub(super) fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// Every real server that is bound, once.
    pub(super) fn reals(&self) -> impl Iterator<Item = &IpAddr> {
        self.reals.keys()
    }

    /// Every VIP that is bound.
    pub(super) fn vips(&self) -> impl Iterator<Item = &IpAddr> {
        self.bindings.keys()
    }

    /// Takes bindings. True where there are other VIPs or real servers than before.
    pub(super) fn bind(&mut self, bindings: &Bindings) -> bool {
        if Arc::ptr_eq(&self.bindings, bindings) {
            return false;
        }
        let former = std::mem::replace(&mut self.bindings, bindings.clone());
        let mut others = false;
        for vip in differing(&former, bindings) {
            let (before, after) = (former.get(vip), bindings.get(vip));
            others |= before.is_some() != after.is_some();
            for real in after.into_iter().flat_map(|binding| reals_of(binding)) {
                let users = self.reals.entry(real).or_insert(0);
                others |= *users == 0;
                *users += 1;
            }
            for real in before.into_iter().flat_map(|binding| reals_of(binding)) {
                let Some(users) = self.reals.get_mut(&real) else { continue };
                *users -= 1;
                if *users == 0 {
                    self.reals.remove(&real);
                    others = true;
                }
            }
            self.moved.insert(*vip);
        }
        others
    }

    /// Looks at what moved, or at all VIPs where the network did. Gives the VIPs that were looked at; `None` = all.
    pub(super) fn survey(
        &mut self,
        network_moved: bool,
        topology: &Topology,
        observed: Observed,
    ) -> Option<BTreeSet<IpAddr>> {
        let all = network_moved || observed.drained != self.observed.drained;
        if !Arc::ptr_eq(&observed.health, &self.observed.health) {
            self.moved.extend(differing(&self.observed.health, &observed.health).map(|(key, _)| key.vip));
        }
        if !Arc::ptr_eq(&observed.weights, &self.observed.weights) {
            self.moved.extend(differing(&self.observed.weights, &observed.weights).map(|(key, _)| key.vip));
        }
        self.observed = observed;
        let moved = std::mem::take(&mut self.moved);
        if all {
            self.fleet = Fleet::survey_sharing(&self.bindings, topology, &self.observed, &mut self.lists);
            self.lists.tidy();
            return None;
        }
        self.fleet.survey_again_sharing(&moved, &self.bindings, topology, &self.observed, &mut self.lists);
        self.lists.tidy();
        Some(moved)
    }
}

fn reals_of(binding: &VipBinding) -> impl Iterator<Item = IpAddr> + '_ {
    let ports = binding.services.iter().flat_map(|service| &service.ports);
    ports.flat_map(|port| &port.reals).map(|real| real.address)
}

/// The keys under which two maps differ, ascending.
fn differing<'a, K: Ord, V: PartialEq>(
    one: &'a BTreeMap<K, V>,
    other: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = &'a K> {
    let (mut one, mut other) = (one.iter().peekable(), other.iter().peekable());
    std::iter::from_fn(move || {
        loop {
            let order = match (one.peek(), other.peek()) {
                (None, None) => return None,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((key, _)), Some((other, _))) => key.cmp(other),
            };
            match order {
                Ordering::Less => return one.next().map(|(key, _)| key),
                Ordering::Greater => return other.next().map(|(key, _)| key),
                Ordering::Equal => {
                    let ((key, value), other) = (one.next()?, other.next()?);
                    if value != other.1 {
                        return Some(key);
                    }
                }
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_differ_where_one_has_them_or_their_values_differ() {
        let one = BTreeMap::from([(1, 'a'), (2, 'b'), (3, 'c'), (5, 'e')]);
        let other = BTreeMap::from([(2, 'b'), (3, 'x'), (4, 'd'), (5, 'e'), (6, 'f')]);
        assert_eq!(differing(&one, &other).collect::<Vec<_>>(), [&1, &3, &4, &6]);
        assert_eq!(differing(&one, &one).count(), 0);
    }
}
