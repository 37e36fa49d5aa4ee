//! What the status says about each VIP, kept: a change makes those anew that it is about, a new reading of the counters
//! changes numbers alone. At 100,000 real servers of services that is the difference between a moment and a pause.

use crate::allocations::Allocations;
use crate::engine::Counters;
use crate::fleet::{Fleet, FleetReal, FleetService, FleetVip, Standing};
use crate::stats::{Rate, Rates, Swept};
use crate::status::{RealStatus, ServiceStatus, VipStatus};
use sluicegate_l4::layout::{MAX_BACKENDS, MAX_SERVICES, Traffic};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// The last readings, by id.
#[derive(Debug)]
pub(super) struct Readings {
    services: Vec<(Traffic, Rate)>,
    backends: Vec<BackendReading>,
}

#[derive(Clone, Copy, Debug, Default)]
struct BackendReading {
    traffic: Traffic,
    rate: Rate,
    established: u64,
    tentative: u64,
}

impl Default for Readings {
    fn default() -> Self {
        Self {
            services: vec![Default::default(); MAX_SERVICES as usize + 1],
            backends: vec![Default::default(); MAX_BACKENDS as usize + 1],
        }
    }
}

impl Readings {
    /// Takes these and forgets all others.
    pub(super) fn take(&mut self, counters: &Counters, rates: &Rates, swept: &Swept) {
        self.services.fill(Default::default());
        self.backends.fill(Default::default());
        for (id, traffic) in &counters.services {
            put(&mut self.services, *id, |reading| reading.0 = *traffic);
        }
        for (id, rate) in &rates.services {
            put(&mut self.services, *id, |reading| reading.1 = *rate);
        }
        for (id, traffic) in &counters.backends {
            put(&mut self.backends, *id, |reading| reading.traffic = *traffic);
        }
        for (id, rate) in &rates.backends {
            put(&mut self.backends, *id, |reading| reading.rate = *rate);
        }
        for (id, flows) in &swept.established {
            put(&mut self.backends, *id, |reading| reading.established = *flows);
        }
        for (id, flows) in &swept.tentative {
            put(&mut self.backends, *id, |reading| reading.tentative = *flows);
        }
    }

    fn service(&self, id: Option<u16>) -> (Traffic, Rate) {
        id.and_then(|id| self.services.get(usize::from(id))).copied().unwrap_or_default()
    }

    fn backend(&self, id: Option<u16>) -> BackendReading {
        id.and_then(|id| self.backends.get(usize::from(id))).copied().unwrap_or_default()
    }
}

fn put<T>(readings: &mut [T], id: u16, change: impl FnOnce(&mut T)) {
    if let Some(reading) = readings.get_mut(usize::from(id)) {
        change(reading);
    }
}

/// The VIPs of the status.
#[derive(Debug, Default)]
pub(super) struct Views {
    vips: BTreeMap<IpAddr, Arc<VipStatus>>,
}

impl Views {
    /// All of them, by address.
    pub(super) fn all(&self) -> Vec<Arc<VipStatus>> {
        self.vips.values().cloned().collect()
    }

    /// Makes these VIPs anew; `None` = all.
    pub(super) fn renew(
        &mut self,
        moved: Option<&BTreeSet<IpAddr>>,
        fleet: &Fleet,
        allocations: &Allocations,
        readings: &Readings,
    ) {
        let view = |vip: IpAddr, surveyed: &FleetVip| Arc::new(vip_status(vip, surveyed, allocations, readings));
        let Some(moved) = moved else {
            self.vips = fleet.vips.iter().map(|(vip, surveyed)| (*vip, view(*vip, surveyed))).collect();
            return;
        };
        for vip in moved {
            match fleet.vips.get(vip) {
                Some(surveyed) => drop(self.vips.insert(*vip, view(*vip, surveyed))),
                None => drop(self.vips.remove(vip)),
            }
        }
    }

    /// Brings counters and ids up to date. A real server that had no record may have got one by another service.
    pub(super) fn count(&mut self, fleet: &Fleet, allocations: &Allocations, readings: &Readings) {
        for (vip, view) in &mut self.vips {
            let Some(surveyed) = fleet.vips.get(vip) else { continue };
            // Whoever reads the status goes on with what it has.
            let view = Arc::make_mut(view);
            view.id = allocations.address_id(vip);
            for (service, status) in surveyed.services.iter().zip(&mut view.services) {
                status.id = allocations.service_id(&service.key);
                (status.traffic, status.rate) = readings.service(status.id);
                for (real, status) in service.reals.iter().zip(&mut status.reals) {
                    status.id = status.id.or_else(|| allocations.backend_id(service, real));
                    set(status, readings.backend(status.id));
                }
            }
        }
    }
}

fn vip_status(vip: IpAddr, surveyed: &FleetVip, allocations: &Allocations, readings: &Readings) -> VipStatus {
    let services = surveyed.services.iter().map(|service| service_status(service, allocations, readings));
    VipStatus { address: vip, id: allocations.address_id(&vip), held: surveyed.local, services: services.collect() }
}

fn service_status(service: &FleetService, allocations: &Allocations, readings: &Readings) -> ServiceStatus {
    let id = allocations.service_id(&service.key);
    let (traffic, rate) = readings.service(id);
    let real = |(real, standing)| real_status(service, real, standing, allocations, readings);
    ServiceStatus {
        key: service.key,
        id,
        namespace: service.namespace.clone(),
        service: service.service.clone(),
        scheduler: service.options.scheduler,
        method: service.method,
        method_reason: service.method_reason.clone(),
        fails_open: service.fails_open(),
        traffic,
        rate,
        reals: service.standings().map(real).collect(),
    }
}

fn real_status(
    service: &FleetService,
    real: &FleetReal,
    standing: Standing,
    allocations: &Allocations,
    readings: &Readings,
) -> RealStatus {
    let id = allocations.backend_id(service, real);
    let mut status = RealStatus {
        address: real.address,
        id,
        weight: real.weight,
        standing,
        reason: real.trouble(),
        traffic: Traffic::default(),
        rate: Rate::default(),
        established: 0,
        tentative: 0,
    };
    set(&mut status, readings.backend(id));
    status
}

fn set(status: &mut RealStatus, reading: BackendReading) {
    status.traffic = reading.traffic;
    status.rate = reading.rate;
    status.established = reading.established;
    status.tentative = reading.tentative;
}
