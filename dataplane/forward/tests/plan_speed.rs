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
fn large(sick: Option<u8>) -> Fleet {
    fleet((0..1024_u16).map(|n| {
        let vip = IpAddr::from([192, 0, 2 + (n >> 9) as u8, (n >> 1) as u8]);
        let port = if n % 2 == 0 { 80 } else { 443 };
        let group = (n % 8) as u8;
        let reals = (0..100_u8).map(|real| {
            let address = IpAddr::from([198, 51, 100 + group, real]);
            let failing = group == 0 && sick == Some(real);
            FleetReal {
                address,
                weight: 1,
                configured: 1,
                status: if failing { Status::Unhealthy("timed out".into()) } else { Status::Healthy },
                delivery: Ok(Arc::new(plan_support::way(address, Method::Tunnel, real))),
            }
        });
        service(ServiceKey { vip, protocol: TransportProtocol::Tcp, port }, reals.collect())
    }))
}

#[test]
#[ignore = "needs a quiet machine: measures"]
fn a_change_among_a_thousand_services_takes_milliseconds() {
    let settings = PlanSettings::default();
    let mut allocations = Allocations::new(Geometry::default());
    let timed = |fleet: &Fleet, allocations: &mut Allocations| -> (Duration, usize) {
        let started = Instant::now();
        let planned = plan(fleet, allocations, &settings);
        assert_eq!(planned.failures, []);
        (started.elapsed(), planned.ops.len())
    };
    let (well, sick) = (large(None), large(Some(3)));
    let first = timed(&well, &mut allocations);
    let nothing = timed(&well, &mut allocations);
    let one_dies = timed(&sick, &mut allocations);
    println!("first {first:?}, nothing changed {nothing:?}, one real server of 128 services died {one_dies:?}");
    assert_eq!((nothing.1, one_dies.1), (0, 2));
    assert!(one_dies.0 < Duration::from_secs(5), "{one_dies:?}");
}
