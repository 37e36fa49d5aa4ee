//! Which real servers are probed, and what verdicts make of a port. It opens no socket.

use sluicegate_config::{
    HealthCheck, Kind, ObjectRef, ProbeKind, Readiness, RealServer, TransportProtocol, VipBinding, VipOptions, VipPort,
    VipService, WhenAllFail,
};
use sluicegate_health::{Combined, combine, targets};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

const GOOD: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));
const BAD: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 2));
const DRAINING: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 3));

fn real(address: IpAddr, weight: u32) -> RealServer {
    let readiness = if address == DRAINING { Readiness::Draining } else { Readiness::Ready };
    RealServer { address, weight, readiness, node: None, pods: None }
}

fn port(number: u16, reals: &[RealServer]) -> VipPort {
    VipPort { protocol: TransportProtocol::Tcp, port: number, reals: reals.to_vec() }
}

fn service(name: &str, health: Option<HealthCheck>, ports: Vec<VipPort>) -> VipService {
    VipService {
        namespace: "default".into(),
        service: name.into(),
        method: None,
        into_pods: false,
        options: VipOptions { health, ..VipOptions::default() },
        ports,
    }
}

#[test]
fn ready_real_servers_of_services_with_a_check_are_probed() {
    let second = Duration::from_secs(1);
    let check = HealthCheck { kind: ProbeKind::Tcp, port: None, interval: second, timeout: second, rise: 1, fall: 1 };
    let reals = [real(GOOD, 1), real(BAD, 0), real(DRAINING, 1)];
    let vip = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10));
    let binding = VipBinding {
        address: vip,
        services: vec![
            service("checked", Some(check.clone()), vec![port(80, &reals), port(443, &reals[..1])]),
            service("unchecked", None, vec![port(25, &reals)]),
        ],
        origin: ObjectRef::new(Kind::ConfigMap, "sluicegate-system", "vips"),
    };
    let targets = targets([&binding]);
    let found: Vec<_> = targets.keys().map(|target| (target.vip, target.port, target.real)).collect();
    assert_eq!(found, [(vip, 80, GOOD), (vip, 80, BAD), (vip, 443, GOOD)]);
    assert!(targets.values().all(|found| **found == check));
}

#[test]
fn readiness_and_verdicts_combine() {
    let (good, bad, draining) = (real(GOOD, 1), real(BAD, 1), real(DRAINING, 1));
    let (good_quiet, bad_quiet) = (real(GOOD, 0), real(BAD, 0));
    let rows: [(&[&RealServer], WhenAllFail, Combined); 9] = [
        (&[&good], WhenAllFail::Refuse, Combined::Serving(vec![good.clone()])),
        (&[&good, &bad], WhenAllFail::FailOpen, Combined::Serving(vec![good.clone()])),
        // What drains keeps its flows, whatever becomes of the others.
        (&[&good, &bad, &draining], WhenAllFail::Refuse, Combined::Serving(vec![good.clone(), draining.clone()])),
        (&[&bad, &draining], WhenAllFail::FailOpen, Combined::FailOpen(vec![bad.clone(), draining.clone()])),
        (&[&bad, &draining], WhenAllFail::Refuse, Combined::Refuse),
        // One of weight 0 takes no new flows, so it does not stand in for those that fail.
        (&[&good_quiet, &bad], WhenAllFail::FailOpen, Combined::FailOpen(vec![good_quiet.clone(), bad.clone()])),
        (&[&draining], WhenAllFail::Refuse, Combined::NoneReady(vec![draining.clone()])),
        (&[&bad_quiet], WhenAllFail::Refuse, Combined::NoneReady(vec![bad_quiet.clone()])),
        (&[], WhenAllFail::FailOpen, Combined::NoneReady(vec![])),
    ];
    for (reals, when_all_fail, expected) in rows {
        let reals: Vec<RealServer> = reals.iter().map(|real| (*real).clone()).collect();
        let combined = combine(&port(80, &reals), when_all_fail, |address| address != BAD);
        assert_eq!(combined, expected, "{reals:?} {when_all_fail:?}");
    }
}
