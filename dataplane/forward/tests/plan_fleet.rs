//! The survey: which way, which method, who is healthy, and what cannot be served.

mod plan_support;

use plan_support::{fleet as fleet_of, ip, key, real, service, unreachable};
use sluicegate_config::{
    Kind, Method, ObjectRef, Persistence, PodTunnel, Readiness, RealServer, Scheduler, TransportProtocol, VipBinding,
    VipOptions, VipPort, VipService, WhenAllFail,
};
use sluicegate_forward::failure::{NoSecondChance, PlanFailure};
use sluicegate_forward::fleet::{
    DeliveryKind, Fleet, FleetReal, FleetService, Health, MethodReason, NoDelivery, Observed, Standing, Status,
};
use sluicegate_forward::topology::{Hop, Link, LinkKind, Neighbour, Prefix, Route, RouteAction, Topology};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// One port, 198.51.100.1/24 and 2001:db8:1::1/64, a router at .254; .10 and .11 answer ARP, .12 does not yet.
fn topology() -> Topology {
    let mut topology = Topology::default();
    let link = |index, name: &str, kind, mtu| Link {
        index,
        name: name.into(),
        mac: [2, 0, 0, 0, 0, 1],
        mtu,
        up: true,
        carrier: true,
        kind,
        ..Link::default()
    };
    topology.set_link(link(1, "lo", LinkKind::Loopback, 65_536));
    topology.set_link(link(2, "eth0", LinkKind::Port, 1500));
    topology.set_address(2, ip("198.51.100.1"), 24);
    topology.set_address(2, ip("2001:db8:1::1"), 64);
    let route = |prefix: &str, length, gateway: Option<&str>| Route {
        destination: Prefix::new(ip(prefix), length),
        metric: 0,
        source: None,
        action: RouteAction::Send(vec![Hop { interface: 2, gateway: gateway.map(ip) }]),
        mtu: None,
    };
    topology.set_routes([
        route("198.51.100.0", 24, None),
        route("2001:db8:1::", 64, None),
        route("203.0.113.0", 24, Some("198.51.100.254")),
    ]);
    for last in [10, 11, 254] {
        topology.set_neighbour(2, IpAddr::from([198, 51, 100, last]), Neighbour::Known([2, 0, 0, 0, 1, last]));
    }
    topology.set_neighbour(2, ip("2001:db8:1::10"), Neighbour::Known([2, 0, 0, 0, 6, 10]));
    topology
}

fn server(address: &str) -> RealServer {
    RealServer { address: ip(address), weight: 1, readiness: Readiness::Ready, node: None, pods: None }
}

fn binding(vip: &str, method: Option<Method>, options: VipOptions, reals: Vec<RealServer>) -> VipBinding {
    let reals_are_nodes = reals.iter().any(|real| real.pods.is_some());
    let port = VipPort { protocol: TransportProtocol::Tcp, port: 80, reals };
    let service = VipService {
        namespace: "shop".into(),
        service: "web".into(),
        method,
        into_pods: reals_are_nodes || method == Some(Method::Pod),
        options,
        ports: vec![port],
    };
    let origin = ObjectRef { kind: Kind::ConfigMap, namespace: "sluicegate-system".into(), name: "vips".into() };
    VipBinding { address: ip(vip), services: vec![service], origin }
}

fn survey(binding: VipBinding, topology: &Topology, observed: &Observed) -> Fleet {
    Fleet::survey(&BTreeMap::from([(binding.address, Arc::new(binding))]), topology, observed)
}

fn surveyed(method: Option<Method>, reals: &[&str]) -> FleetService {
    let reals = reals.iter().copied().map(server).collect();
    let fleet = survey(binding("192.0.2.10", method, VipOptions::default(), reals), &topology(), &Observed::default());
    fleet.services().next().expect("one service").clone()
}

#[test]
fn the_method_follows_from_where_the_real_servers_are() {
    let cases: [(&[&str], Method, MethodReason); 6] = [
        (&["198.51.100.10", "198.51.100.11"], Method::L2, MethodReason::AllOnLink),
        // A neighbour that is silent is on the link all the same.
        (&["198.51.100.10", "198.51.100.12"], Method::L2, MethodReason::AllOnLink),
        (&["198.51.100.1", "198.51.100.10"], Method::L2, MethodReason::AllOnLink),
        (&["198.51.100.10", "203.0.113.9"], Method::Tunnel, MethodReason::BehindRouter(ip("203.0.113.9"))),
        (&["192.0.2.200"], Method::Tunnel, MethodReason::BehindRouter(ip("192.0.2.200"))),
        (&[], Method::L2, MethodReason::AllOnLink),
    ];
    for (reals, method, reason) in cases {
        let service = surveyed(None, reals);
        assert_eq!((service.method, service.method_reason), (method, reason), "{reals:?}");
    }
    assert_eq!(surveyed(Some(Method::Gue), &["198.51.100.10"]).method_reason, MethodReason::Asked);
}

#[test]
fn each_real_server_has_a_way_or_a_reason() {
    let delivery = |method, real| surveyed(Some(method), &[real]).reals[0].delivery.clone();
    let near = delivery(Method::L2, "198.51.100.10").expect("a way");
    assert_eq!((near.kind, near.egress, near.destination_mac), (DeliveryKind::L2, 2, [2, 0, 0, 0, 1, 10]));
    let far = delivery(Method::Tunnel, "203.0.113.9").expect("a way");
    let source = ip("198.51.100.1");
    assert_eq!((far.kind, far.destination_mac), (DeliveryKind::Tunnel { source }, [2, 0, 0, 0, 1, 254]));
    let six = delivery(Method::Gue, "2001:db8:1::10").expect("a way");
    assert_eq!(six.kind, DeliveryKind::Gue { source: ip("2001:db8:1::1") });
    assert_eq!(delivery(Method::Tunnel, "198.51.100.1").expect("itself").kind, DeliveryKind::Local);
    let refused = delivery(Method::L2, "203.0.113.9");
    let (real, router) = (ip("203.0.113.9"), ip("198.51.100.254"));
    assert_eq!(refused, Err(NoDelivery::NotOnLink { real, router }));
    let unknown = delivery(Method::L2, "198.51.100.12").expect_err("no neighbour");
    assert!(unknown.to_string().contains("198.51.100.12"), "{unknown}");
    assert!(delivery(Method::Tunnel, "192.0.2.200").is_err(), "no route");
}

#[test]
fn a_tunnel_needs_a_source_and_room() {
    let mut topology = topology();
    topology.remove_address(2, ip("2001:db8:1::1"));
    let deliver = |topology: &Topology, method| {
        let reals = vec![server("2001:db8:1::10")];
        let fleet =
            survey(binding("192.0.2.10", Some(method), VipOptions::default(), reals), topology, &Observed::default());
        fleet.services().next().expect("one service").reals[0].delivery.clone()
    };
    assert_eq!(deliver(&topology, Method::Tunnel), Err(NoDelivery::NoSource(ip("2001:db8:1::10"))));
    assert!(deliver(&topology, Method::L2).is_ok());
    topology.set_address(2, ip("2001:db8:1::1"), 64);
    let small = Link { mtu: 100, ..topology.link(2).expect("the port").clone() };
    topology.set_link(small);
    assert_eq!(deliver(&topology, Method::Gue), Err(NoDelivery::MtuTooSmall { real: ip("2001:db8:1::10"), mtu: 100 }));
}

#[test]
fn pods_are_reached_through_a_tunnel_to_their_node() {
    let node = |address: &str, weight: u32, pods: u32, readiness| RealServer {
        weight,
        readiness,
        node: Some("node-a".into()),
        pods: Some(pods),
        ..server(address)
    };
    let nodes = || {
        vec![
            node("198.51.100.10", 6, 3, Readiness::Ready),
            node("203.0.113.10", 1, 1, Readiness::Draining),
            node("203.0.113.11", 2, 2, Readiness::NoAgent),
        ]
    };
    let survey_one = |asked, options: VipOptions| {
        let fleet = survey(binding("192.0.2.10", asked, options, nodes()), &topology(), &Observed::default());
        (FleetService::clone(&fleet.vips[&ip("192.0.2.10")].services[0]), fleet.rejected)
    };
    let (by_default, _) = survey_one(None, VipOptions::default());
    assert_eq!((by_default.method, &by_default.method_reason), (Method::Pod, &MethodReason::IntoPods));
    let (asked, _) = survey_one(Some(Method::Pod), VipOptions::default());
    assert_eq!((asked.method, &asked.method_reason), (Method::Pod, &MethodReason::Asked));

    let kinds = |service: &FleetService| -> Vec<DeliveryKind> {
        service.reals.iter().map(|real| real.delivery.as_ref().expect("a way").kind).collect()
    };
    let source = ip("198.51.100.1");
    assert_eq!(kinds(&by_default), [DeliveryKind::Gue { source }; 3], "also to a node on the link");
    let (ipip, _) = survey_one(None, VipOptions { pod_tunnel: PodTunnel::Ipip, ..VipOptions::default() });
    assert_eq!(kinds(&ipip), [DeliveryKind::Tunnel { source }; 3]);

    let weights = |service: &FleetService| service.reals.iter().map(|real| real.weight).collect::<Vec<_>>();
    assert_eq!(weights(&by_default), [6, 1, 2]);
    let (in_turn, _) = survey_one(None, VipOptions { scheduler: Scheduler::Rr, ..VipOptions::default() });
    assert_eq!(weights(&in_turn), [3, 1, 2], "pods are in turn, not nodes");

    let standings: Vec<Standing> = by_default.standings().map(|(_, standing)| standing).collect();
    assert_eq!(standings, [Standing::InRing, Standing::Kept, Standing::Kept]);
    let troubles: Vec<_> = by_default.reals.iter().map(FleetReal::trouble).collect();
    let [None, Some(draining), Some(no_agent)] = &troubles[..] else { panic!("{troubles:?}") };
    assert!(draining == "draining" && no_agent.contains("no agent"), "{troubles:?}");

    let (_, rejected) = survey_one(None, VipOptions { second_chance: true, ..VipOptions::default() });
    let why = NoSecondChance::Method;
    assert!(matches!(&rejected[..], [PlanFailure::SecondChanceUnavailable { why: said, .. }] if *said == why));
}

#[test]
fn what_cannot_be_served_is_named_and_the_rest_is_served() {
    let ask =
        |vip, method| survey(binding(vip, method, VipOptions::default(), vec![]), &topology(), &Observed::default());
    let chance = |method, scheduler| {
        let options = VipOptions { second_chance: true, scheduler, ..VipOptions::default() };
        survey(binding("192.0.2.10", method, options, vec![]), &topology(), &Observed::default())
    };
    let cases = [
        (None, Scheduler::Mh, "method: GUE"),
        (Some(Method::Tunnel), Scheduler::Mh, "method: GUE"),
        (Some(Method::Gue), Scheduler::Wrr, "use mh"),
    ];
    for (method, scheduler, remedy) in cases {
        let fleet = chance(method, scheduler);
        assert!(matches!(&fleet.rejected[..], [PlanFailure::SecondChanceUnavailable { .. }]), "{fleet:?}");
        assert!(fleet.rejected[0].to_string().contains(remedy), "the remedy: {}", fleet.rejected[0]);
        assert_eq!(fleet.services().filter(|service| !service.has_second_chance()).count(), 1, "served without it");
    }
    let fleet = chance(Some(Method::Gue), Scheduler::Sh);
    assert_eq!((fleet.rejected.len(), fleet.services().all(FleetService::has_second_chance)), (0, true));
    let router = ask("198.51.100.254", None);
    assert_eq!(router.rejected, [PlanFailure::VipIsRouter { vip: ip("198.51.100.254") }]);
    assert!(router.vips.is_empty());
    let own = ask("198.51.100.1", None);
    assert_eq!(own.rejected, [PlanFailure::VipIsOwn { vip: ip("198.51.100.1"), interface: "eth0".into() }]);

    let mut both = topology();
    both.set_address(1, ip("192.0.2.10"), 32);
    let on_lo = survey(binding("192.0.2.10", None, VipOptions::default(), vec![]), &both, &Observed::default());
    assert!(on_lo.rejected.is_empty() && on_lo.vips[&ip("192.0.2.10")].local, "a backend has the VIP on lo");
}

#[test]
fn statuses_come_from_readiness_probes_and_operators() {
    let reals = ["198.51.100.10", "198.51.100.11", "2001:db8:1::10"];
    let mut servers: Vec<RealServer> = reals.iter().copied().map(server).collect();
    servers[2].readiness = Readiness::Draining;
    let bad = Health::Unhealthy("connection refused".into());
    let mut observed = Observed::default();
    for real in reals {
        Arc::make_mut(&mut observed.health).insert((key("192.0.2.10", 80), ip(real)), bad.clone());
    }
    Arc::make_mut(&mut observed.health).insert((key("192.0.2.10", 80), ip(reals[0])), Health::Healthy);
    let statuses = |observed: &Observed| -> Vec<Status> {
        let fleet = survey(binding("192.0.2.10", None, VipOptions::default(), servers.clone()), &topology(), observed);
        fleet.services().flat_map(|service| &service.reals).map(|real| real.status.clone()).collect()
    };
    let failed = Status::Unhealthy("connection refused".into());
    assert_eq!(statuses(&observed), [Status::Healthy, failed.clone(), Status::Draining]);
    Arc::make_mut(&mut observed.drained).insert(ip(reals[0]));
    assert_eq!(statuses(&observed), [Status::Draining, failed, Status::Draining]);
    assert_eq!(statuses(&Observed::default()), [Status::Healthy, Status::Healthy, Status::Draining]);
}

#[test]
fn schedulers_look_at_weights_as_ipvs_does() {
    let weight_by = |scheduler, configured| {
        let options = VipOptions { scheduler, ..VipOptions::default() };
        let reals = vec![RealServer { weight: configured, ..server("198.51.100.10") }];
        let mut observed = Observed::default();
        Arc::make_mut(&mut observed.weights).insert((key("192.0.2.10", 80), ip("198.51.100.10")), 777);
        let fleet = survey(binding("192.0.2.10", None, options, reals), &topology(), &observed);
        fleet.services().next().expect("one service").reals[0].weight
    };
    for scheduler in Scheduler::ALL {
        let expected = match scheduler {
            Scheduler::Rr => 1,
            Scheduler::Lc | Scheduler::Wlc => 777,
            _ => 7,
        };
        assert_eq!(weight_by(scheduler, 7), expected, "{scheduler}");
        assert_eq!(weight_by(scheduler, 0), 0, "{scheduler}: 0 means no new flows");
    }
    assert_eq!(weight_by(Scheduler::Mh, 1_000_000), u16::MAX);
}

/// `H`ealthy, `U`nhealthy, `D`raining, `0` = healthy without weight, `X` = healthy without a way.
fn standings(states: &str, policy: WhenAllFail) -> String {
    let reals = states.chars().zip(10..).map(|(state, last)| {
        let mut real = real(&format!("198.51.100.{last}"));
        match state {
            'U' => real.status = Status::Unhealthy("timed out".into()),
            'D' => real.status = Status::Draining,
            '0' => real.weight = 0,
            'X' => real.delivery = Err(unreachable(real.address)),
            _ => {}
        }
        real
    });
    let mut service = service(key("192.0.2.10", 80), reals.collect());
    service.options.when_all_fail = policy;
    let letter = |standing| match standing {
        Standing::InRing => 'r',
        Standing::Kept => 'k',
        Standing::Dead => 'd',
    };
    service.standings().map(|(_, standing)| letter(standing)).collect()
}

#[test]
fn the_standing_of_real_servers() {
    let cases = [
        // Real servers, standing with fail-open, standing with refuse.
        ("HUD", "rdk", "rdk"),
        ("UU", "rr", "dd"),
        ("UUD", "rrk", "ddk"),
        ("UX", "rd", "dd"),
        ("XX", "dd", "dd"),
        ("DD", "kk", "kk"),
        // A healthy one without weight takes no new flows, so it does not count.
        ("U0", "rk", "dk"),
        ("HX0", "rdk", "rdk"),
    ];
    for (states, open, refused) in cases {
        assert_eq!(standings(states, WhenAllFail::FailOpen), open, "{states} fails open");
        assert_eq!(standings(states, WhenAllFail::Refuse), refused, "{states} refuses");
    }
}

#[test]
fn options_reach_the_table() {
    let mut asked = service(key("192.0.2.10", 53), vec![real("198.51.100.10")]);
    asked.key.protocol = TransportProtocol::Udp;
    asked.options = VipOptions {
        scheduler: Scheduler::Sh,
        one_packet: true,
        fragments: true,
        persistence: Some(Persistence { timeout: std::time::Duration::from_secs(300), prefix4: 24, prefix6: 64 }),
        ..VipOptions::default()
    };
    let mut director = plan_support::Director::new(Default::default());
    director.change(fleet_of([asked.clone()]));
    let (_, value) = director.model.service(asked.key).expect("it is there");
    use sluicegate_l4::layout::Service;
    assert_eq!(value.select, Service::SELECT_SOURCE);
    assert_eq!(value.flags, Service::FLAG_ONE_PACKET | Service::FLAG_FRAGMENTS);
    // 300 s in stamps of 8.192 s, rounded up.
    assert_eq!((value.persistence_stamps, value.udp_idle_stamps), (37, 37));
    assert_eq!((value.persistence_prefix4, value.persistence_prefix6), (24, 64));
    assert_eq!(value.ring_slots, 251);
}

/// Looking again at what moved comes to what looking at everything does, also where VIPs come, go or are rejected.
#[test]
fn a_second_look_at_what_moved_is_a_whole_survey() {
    let bound = |vip: &str, method, reals: &[&str]| {
        let reals = reals.iter().copied().map(server).collect();
        (ip(vip), Arc::new(binding(vip, method, VipOptions::default(), reals)))
    };
    let topology = topology();
    let mut observed = Observed::default();
    let mut bindings = BTreeMap::from([
        bound("192.0.2.10", None, &["198.51.100.10", "198.51.100.11"]),
        bound("192.0.2.11", Some(Method::Pod), &["198.51.100.10"]),
        // The router's address.
        bound("198.51.100.254", None, &["198.51.100.10"]),
    ]);
    let mut fleet = Fleet::survey(&bindings, &topology, &observed);
    assert_eq!((fleet.vips.len(), fleet.rejected.len()), (2, 1));
    type Change<'a> = (&'a str, Option<Method>, &'a [&'a str]);
    let changes: [&[Change<'_>]; 4] = [
        &[("192.0.2.10", None, &["198.51.100.10"])],
        &[("192.0.2.11", Some(Method::L2), &["198.51.100.11"]), ("192.0.2.12", None, &["203.0.113.9"])],
        &[("192.0.2.10", Some(Method::Pod), &["198.51.100.10"])],
        &[("192.0.2.10", Some(Method::L2), &["198.51.100.12"]), ("198.51.100.254", None, &[])],
    ];
    for change in changes {
        bindings.extend(change.iter().map(|(vip, method, reals)| bound(vip, *method, reals)));
        if bindings.contains_key(&ip("192.0.2.12")) {
            let failing = ((key("192.0.2.11", 80), ip("198.51.100.11")), Health::Unhealthy("timed out".into()));
            Arc::make_mut(&mut observed.health).extend([failing]);
        }
        let moved = change.iter().map(|(vip, ..)| ip(vip)).collect();
        fleet.survey_again(&moved, &bindings, &topology, &observed);
        assert_eq!(fleet, Fleet::survey(&bindings, &topology, &observed), "{change:?}");
    }
    bindings.remove(&ip("192.0.2.11"));
    fleet.survey_again(&BTreeSet::from([ip("192.0.2.11")]), &bindings, &topology, &observed);
    assert_eq!(fleet, Fleet::survey(&bindings, &topology, &observed), "one that is gone");
}
