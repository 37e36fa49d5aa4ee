//! What services want of real servers, kept from plan to plan, so that a plan looks at what changed alone.
//!
//! It says nothing that the fleet does not say: without it ([`crate::allocations::Allocations::forget`]) the next plan
//! looks at everything and comes to the same operations.

use super::PlanSettings;
use crate::allocations::{BackendKey, RingKey};
use crate::fleet::{Delivery, FleetReal, FleetService, Standing};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The services as they were planned last, and who of them wants what of each record of a real server.
#[derive(Clone, Debug, Default)]
pub(crate) struct Demand {
    /// Those of the last plan; `None` = there was none.
    settings: Option<PlanSettings>,
    /// By service id.
    services: BTreeMap<u16, Held>,
    /// By service id within a record, in the order of the service's real servers.
    records: BTreeMap<BackendKey, Vec<Want>>,
    /// Records about which a service changed its mind since they were written.
    touched: BTreeSet<BackendKey>,
    /// Records that should be in a ring and found no id.
    without_id: BTreeSet<BackendKey>,
}

#[derive(Clone, Debug)]
struct Held {
    service: Arc<FleetService>,
    /// The ring that it should have; `None` = not known, or real servers are left out of it.
    ring: Option<Option<RingKey>>,
    /// Its ring of former owners (`None` = it has none), while its slots do not change hands; `None` = not known.
    formers: Option<Option<RingKey>>,
}

#[derive(Clone, Debug, PartialEq)]
struct Want {
    service: u16,
    standing: Standing,
    delivery: Option<Arc<Delivery>>,
}

impl Want {
    fn alike(&self, other: &Self) -> bool {
        self.standing == other.standing && self.delivery == other.delivery
    }
}

/// What a service wants of its real servers, by record.
fn wants_of(id: u16, service: &FleetService) -> Vec<(BackendKey, Want)> {
    let want = |(real, standing): (&FleetReal, Standing)| {
        let delivery = real.delivery.as_ref().ok().cloned();
        (BackendKey::of(service, real), Want { service: id, standing, delivery })
    };
    let mut wants: Vec<_> = service.standings().map(want).collect();
    wants.sort_by_key(|(key, _)| *key);
    wants
}

fn by_key(one: &(BackendKey, Want), other: &(BackendKey, Want)) -> bool {
    one.0 == other.0
}

/// What is wanted of a real server, all services taken together.
pub(super) struct WantedBackend {
    /// A way to it, if any service that uses it has one.
    pub delivery: Option<Arc<Delivery>>,
    /// Its flows stay.
    pub alive: bool,
    /// It gets new flows. Who never did has no flows to keep, and so needs no record.
    pub in_ring: bool,
}

impl Demand {
    /// A plan by these settings begins. True where everything has to be looked at, because nothing was kept.
    pub(super) fn begin(&mut self, settings: &PlanSettings) -> bool {
        let kept = self.settings == Some(*settings);
        if !kept {
            *self = Self { settings: Some(*settings), ..Self::default() };
        }
        !kept
    }

    /// A service is as `service` says. One that is as it was costs nothing, and of one that is not only what changed.
    pub(super) fn update(&mut self, id: u16, service: &Arc<FleetService>) {
        let former = self.services.get_mut(&id).map(|held| std::mem::replace(&mut held.service, service.clone()));
        if former.as_ref() == Some(service) {
            return;
        }
        self.exchange(id, &former.map(|former| wants_of(id, &former)).unwrap_or_default(), &wants_of(id, service));
        self.services.insert(id, Held { service: service.clone(), ring: None, formers: None });
    }

    /// A service is gone.
    pub(super) fn remove(&mut self, id: u16) {
        if let Some(held) = self.services.remove(&id) {
            self.exchange(id, &wants_of(id, &held.service), &[]);
        }
    }

    /// A service wants other things than before. Both lists are ascending.
    fn exchange(&mut self, id: u16, former: &[(BackendKey, Want)], next: &[(BackendKey, Want)]) {
        let (mut former, mut next) = (former.chunk_by(by_key).peekable(), next.chunk_by(by_key).peekable());
        loop {
            let key = match (former.peek(), next.peek()) {
                (None, None) => return,
                (Some(group), None) | (None, Some(group)) => group[0].0,
                (Some(group), Some(other)) => group[0].0.min(other[0].0),
            };
            let before = former.next_if(|group| group[0].0 == key).unwrap_or_default();
            let after = next.next_if(|group| group[0].0 == key).unwrap_or_default();
            if before != after {
                self.replace(key, id, before, after);
            }
        }
    }

    /// What a service wants of one record, which it may list more than once.
    fn replace(&mut self, key: BackendKey, id: u16, before: &[(BackendKey, Want)], after: &[(BackendKey, Want)]) {
        let wants = self.records.entry(key).or_default();
        let at = wants.partition_point(|want| want.service < id);
        let end = wants.partition_point(|want| want.service <= id);
        wants.splice(at..end, after.iter().map(|(_, want)| want.clone()));
        // As long as another service, the first one, wants the very same, all together want what they wanted.
        let first = wants.first().filter(|first| first.service != id);
        if !first.is_some_and(|first| before.iter().chain(after).all(|(_, want)| want.alike(first))) {
            self.touched.insert(key);
        }
        if wants.is_empty() {
            self.records.remove(&key);
        }
    }

    /// The records to look at, once.
    pub(super) fn take_touched(&mut self) -> BTreeSet<BackendKey> {
        let mut touched = std::mem::take(&mut self.touched);
        touched.append(&mut self.without_id);
        touched
    }

    /// This record should be in a ring and there is no id for it: the next plan tries again.
    pub(super) fn without_id(&mut self, key: BackendKey) {
        self.without_id.insert(key);
    }

    /// What is wanted of a real server; `None` = nobody lists it.
    pub(super) fn wanted(&self, key: &BackendKey) -> Option<WantedBackend> {
        let wants = self.records.get(key)?;
        Some(WantedBackend {
            delivery: wants.iter().find_map(|want| want.delivery.clone()),
            alive: wants.iter().any(|want| want.standing != Standing::Dead),
            in_ring: wants.iter().any(|want| want.standing == Standing::InRing),
        })
    }

    /// The ring that a service should have (`None` = it has no real server), where that is known.
    pub(super) fn ring_of(&self, id: u16) -> Option<&Option<RingKey>> {
        self.services.get(&id)?.ring.as_ref()
    }

    /// The ring of former owners that a service has (`None` = it has none), where that is known.
    pub(super) fn formers_of(&self, id: u16) -> Option<&Option<RingKey>> {
        self.services.get(&id)?.formers.as_ref()
    }

    /// Remembers the ring of former owners that a service has, or that it is not known.
    pub(super) fn keep_formers(&mut self, id: u16, formers: Option<Option<RingKey>>) {
        if let Some(held) = self.services.get_mut(&id) {
            held.formers = formers;
        }
    }

    /// Remembers the ring that a service should have while it stays as it is.
    pub(super) fn keep_ring(&mut self, id: u16, ring: Option<RingKey>) {
        if let Some(held) = self.services.get_mut(&id) {
            held.ring = Some(ring);
        }
    }
}
