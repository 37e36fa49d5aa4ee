//! How long planning takes, at the size that the forwarder is built for.

mod plan_support;

use plan_support::{fleet, service};
use sluicegate_config::{Method, TransportProtocol};
use sluicegate_forward::allocations::{Allocations, Geometry};
use sluicegate_forward::fleet::{Fleet, FleetReal, ServiceKey, Status};
use sluicegate_forward::plan::{PlanSettings, plan};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// 512 VIPs with two ports; 8 groups of 100 real servers.
fn large() -> Fleet {
    fleet((0..1024_u16).map(|n| {
        let vip = IpAddr::from([192, 0, 2 + (n >> 9) as u8, (n >> 1) as u8]);
        let port = if n % 2 == 0 { 80 } else { 443 };
        let reals = (0..100_u8).map(|number| real((n % 8) as u8, number));
        service(ServiceKey { vip, protocol: TransportProtocol::Tcp, port }, reals.collect())
    }))
}

fn real(group: u8, number: u8) -> FleetReal {
    let address = IpAddr::from([198, 51, 100 + group, number]);
    FleetReal {
        address,
        weight: 1,
        configured: 1,
        status: Status::Healthy,
        delivery: Ok(Arc::new(plan_support::way(address, Method::Tunnel, number))),
    }
}

/// Every service that has it finds a real server dead, or well again.
fn with_status(fleet: &Fleet, address: IpAddr, status: &Status) -> Fleet {
    let mut changed = fleet.clone();
    for service in changed.vips.values_mut().flat_map(|vip| &mut vip.services) {
        if let Some(at) = service.reals.iter().position(|real| real.address == address) {
            Arc::make_mut(service).reals[at].status = status.clone();
        }
    }
    changed
}

/// One service drains a real server, or takes it back.
fn with_weight(fleet: &Fleet, round: usize, weight: u16) -> Fleet {
    let mut changed = fleet.clone();
    let vip = changed.vips.values_mut().nth(round % 512).expect("512 VIPs");
    Arc::make_mut(&mut vip.services[0]).reals[round % 100].weight = weight;
    changed
}

struct Timed {
    allocations: Allocations,
    settings: PlanSettings,
}

impl Timed {
    /// Plans; the time that it took and how many writes came out. The oracle agrees.
    fn plan(&mut self, fleet: &Fleet, checked: bool) -> (Duration, usize) {
        let mut forgetful = checked.then(|| self.allocations.clone());
        let started = Instant::now();
        let planned = plan(fleet, &mut self.allocations, &self.settings);
        let elapsed = started.elapsed();
        assert_eq!(planned.failures, []);
        if let Some(forgetful) = &mut forgetful {
            forgetful.forget();
            assert!(plan(fleet, forgetful, &self.settings) == planned, "what was kept misleads");
        }
        (elapsed, planned.ops.len())
    }
}

fn spread(name: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |share: usize| times[(times.len() - 1) * share / 100];
    println!("{name}: median {:?}, p90 {:?}, p99 {:?}, most {:?}", at(50), at(90), at(99), at(100));
}

#[test]
#[ignore = "needs a quiet machine: measures"]
fn a_change_among_a_thousand_services_takes_milliseconds() {
    let well = large();
    let mut timed = Timed { allocations: Allocations::new(Geometry::default()), settings: PlanSettings::default() };
    println!("first {:?}", timed.plan(&well, false));
    let again = timed.plan(&large(), true);
    println!("surveyed anew, nothing changed {again:?}");
    assert_eq!((again.1, timed.plan(&well, true).1), (0, 0));

    let (mut deaths, mut drains) = (Vec::new(), Vec::new());
    for round in 0..100 {
        let address = IpAddr::from([198, 51, 100 + (round % 8) as u8, round as u8]);
        let dead = Status::Unhealthy("timed out".into());
        for fleet in [with_status(&well, address, &dead), well.clone()] {
            let (elapsed, ops) = timed.plan(&fleet, round % 50 == 0);
            assert_eq!(ops, 2, "the ring, which 128 services share, and the record");
            deaths.push(elapsed);
        }
        for fleet in [with_weight(&well, round, 0), well.clone()] {
            let (elapsed, ops) = timed.plan(&fleet, round % 50 == 0);
            // Back is a ring that others have: the service alone is written.
            assert!((1..=2).contains(&ops), "{ops} operations for one service");
            drains.push(elapsed);
        }
        let sweep = timed.allocations.begin_sweep();
        timed.allocations.swept(sweep);
    }
    spread("one real server of 128 services died or came back", deaths.clone());
    spread("one service drained a real server or took it back", drains);
    deaths.sort_unstable();
    assert!(deaths[deaths.len() / 2] < Duration::from_secs(1), "{:?}", deaths[deaths.len() / 2]);
}
