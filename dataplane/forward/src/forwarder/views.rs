//! What the status says about each VIP, kept: a change makes those anew that it is about, a new reading of the counters
//! changes numbers alone. At 100,000 real servers of services that is the difference between a moment and a pause.

use crate::allocations::Allocations;
use crate::engine::Counters;
use crate::fleet::{Fleet, FleetReal, FleetService, FleetVip, Standing};
use crate::shared_list::SharedLists;
use crate::stats::{Rate, Rates, Swept};
use crate::status::{RealReading, RealStatus, ServiceStatus, VipStatus};
use sluicegate_l4::layout::Traffic;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// The last readings, by id.
#[derive(Debug, Default)]
pub(super) struct Readings {
    services: BTreeMap<u16, (Traffic, Rate)>,
    backends: Arc<[RealReading]>,
}

impl Readings {
    /// Takes these and forgets all others.
    pub(super) fn take(&mut self, counters: &Counters, rates: &Rates, swept: &Swept) {
        let rate = |id: &u16| rates.services.get(id).copied().unwrap_or_default();
        self.services = counters.services.iter().map(|(id, traffic)| (*id, (*traffic, rate(id)))).collect();
        let last = [counters.backends.keys().last(), swept.established.keys().last(), swept.tentative.keys().last()];
        let count = last.into_iter().flatten().max().map_or(0, |last| usize::from(*last) + 1);
        let mut backends = vec![RealReading::default(); count];
        for (id, traffic) in &counters.backends {
            put(&mut backends, *id, |reading| reading.traffic = *traffic);
        }
        for (id, rate) in &rates.backends {
            put(&mut backends, *id, |reading| reading.rate = *rate);
        }
        for (id, flows) in &swept.established {
            put(&mut backends, *id, |reading| reading.established = *flows);
        }
        for (id, flows) in &swept.tentative {
            put(&mut backends, *id, |reading| reading.tentative = *flows);
        }
        self.backends = backends.into();
    }

    /// Those of real servers, by id.
    pub(super) fn backends(&self) -> Arc<[RealReading]> {
        self.backends.clone()
    }

    fn service(&self, id: Option<u16>) -> (Traffic, Rate) {
        id.and_then(|id| self.services.get(&id)).copied().unwrap_or_default()
    }
}

fn put(readings: &mut [RealReading], id: u16, change: impl FnOnce(&mut RealReading)) {
    if let Some(reading) = readings.get_mut(usize::from(id)) {
        change(reading);
    }
}

/// The VIPs of the status.
#[derive(Debug, Default)]
pub(super) struct Views {
    vips: BTreeMap<IpAddr, Arc<VipStatus>>,
    lists: SharedLists<RealStatus>,
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
        let lists = &mut self.lists;
        let mut view =
            |vip: IpAddr, surveyed: &FleetVip| Arc::new(vip_status(vip, surveyed, allocations, readings, lists));
        match moved {
            None => self.vips = fleet.vips.iter().map(|(vip, surveyed)| (*vip, view(*vip, surveyed))).collect(),
            Some(moved) => {
                for vip in moved {
                    match fleet.vips.get(vip) {
                        Some(surveyed) => drop(self.vips.insert(*vip, view(*vip, surveyed))),
                        None => drop(self.vips.remove(vip)),
                    }
                }
            }
        }
        self.lists.tidy();
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
                let id_of = |real: &FleetReal| allocations.backend_id(service, real);
                let given = |(status, real): (&RealStatus, &FleetReal)| status.id.is_none() && id_of(real).is_some();
                if status.reals.iter().zip(&service.reals).any(given) {
                    let reals = status.reals.iter().zip(&service.reals);
                    let reals =
                        reals.map(|(status, real)| RealStatus { id: status.id.or(id_of(real)), ..status.clone() });
                    status.reals = self.lists.share(reals.collect());
                }
            }
        }
    }
}

fn vip_status(
    vip: IpAddr,
    surveyed: &FleetVip,
    allocations: &Allocations,
    readings: &Readings,
    lists: &mut SharedLists<RealStatus>,
) -> VipStatus {
    let services = surveyed.services.iter().map(|service| service_status(service, allocations, readings, lists));
    VipStatus { address: vip, id: allocations.address_id(&vip), held: surveyed.local, services: services.collect() }
}

fn service_status(
    service: &FleetService,
    allocations: &Allocations,
    readings: &Readings,
    lists: &mut SharedLists<RealStatus>,
) -> ServiceStatus {
    let id = allocations.service_id(&service.key);
    let (traffic, rate) = readings.service(id);
    let real = |(real, standing): (&FleetReal, Standing)| RealStatus {
        address: real.address,
        id: allocations.backend_id(service, real),
        weight: real.weight,
        standing,
        reason: real.trouble().map(Arc::from),
    };
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
        reals: lists.share(service.standings().map(real).collect()),
    }
}
