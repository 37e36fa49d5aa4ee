//! What services want of real servers, kept from plan to plan, so that a plan looks at what changed alone.
//!
//! It says nothing that the fleet does not say: without it ([`crate::allocations::Allocations::forget`]) the next plan
//! looks at everything and comes to the same operations.

use super::PlanSettings;
use crate::allocations::{BackendKey, RingKey};
use crate::fleet::{Delivery, FleetService, Standing};
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
}

#[derive(Clone, Debug)]
struct Want {
    service: u16,
    standing: Standing,
    delivery: Option<Arc<Delivery>>,
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

    /// A service is as `service` says. One that is as it was costs nothing.
    pub(super) fn update(&mut self, id: u16, service: &Arc<FleetService>) {
        if let Some(held) = self.services.get_mut(&id).filter(|held| held.service == *service) {
            // The same value in other memory: the next comparison is one of addresses.
            held.service = service.clone();
            return;
        }
        self.remove(id);
        for (real, standing) in service.standings() {
            let key = BackendKey::of(service, real);
            let wants = self.records.entry(key).or_default();
            let want = Want { service: id, standing, delivery: real.delivery.as_ref().ok().cloned() };
            wants.insert(wants.partition_point(|other| other.service <= id), want);
            self.touched.insert(key);
        }
        self.services.insert(id, Held { service: service.clone(), ring: None });
    }

    /// A service is gone.
    pub(super) fn remove(&mut self, id: u16) {
        let Some(former) = self.services.remove(&id) else { return };
        for real in &former.service.reals {
            let key = BackendKey::of(&former.service, real);
            let Some(wants) = self.records.get_mut(&key) else { continue };
            wants.drain(
                wants.partition_point(|want| want.service < id)..wants.partition_point(|want| want.service <= id),
            );
            if wants.is_empty() {
                self.records.remove(&key);
            }
            self.touched.insert(key);
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

    /// Remembers the ring that a service should have while it stays as it is.
    pub(super) fn keep_ring(&mut self, id: u16, ring: Option<RingKey>) {
        if let Some(held) = self.services.get_mut(&id) {
            held.ring = Some(ring);
        }
    }
}
