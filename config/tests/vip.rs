//! Virtual IPs through the door: pools, checks by port, and what becomes of endpoints.

use proptest::prelude::*;
use sluicegate_config::draft::{NodeDraft, RealServerDraft, VipDraft, VipPortDraft, VipServiceDraft};
use sluicegate_config::pool::AddressRange;
use sluicegate_config::vip::{MAX_REAL_SERVERS, MAX_VIP_PORTS};
use sluicegate_config::{
    Change, Checked, Desired, Draft, HealthCheck, Kind, Method, ObjectRef, ProbeKind, Readiness, RealServer, Scheduler,
    TransportProtocol, VipBinding, VipOptions, VipPort, VipService, check,
};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

const VIP: &str = "192.0.2.10";

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn endpoint(address: &str, port: u16, readiness: Readiness) -> RealServerDraft {
    RealServerDraft {
        real: RealServer { address: ip(address), weight: 1, readiness, node: None, pods: None },
        port,
        node: NodeDraft::Unnamed,
    }
}

fn port(number: u16, reals: Vec<RealServerDraft>) -> VipPortDraft {
    VipPortDraft { protocol: TransportProtocol::Tcp, port: number, target: Some(number), reals }
}

fn service(name: &str, method: Option<Method>, ports: Vec<VipPortDraft>) -> VipServiceDraft {
    VipServiceDraft {
        namespace: "default".into(),
        service: name.into(),
        method,
        into_pods: method == Some(Method::Pod),
        options: VipOptions::default(),
        ports,
        origin: ObjectRef::new(Kind::Service, "default", name),
        field: "spec.loadBalancerIP".to_owned(),
    }
}

/// What becomes of the VIP, and the reasons of what was not taken.
fn checked(vip: &str, services: Vec<VipServiceDraft>, alone: bool) -> (Option<Arc<VipBinding>>, Vec<String>) {
    let origin = ObjectRef::new(Kind::ConfigMap, "system", "vips");
    let mut draft = Draft::default();
    let field = format!("data[\"{vip}\"]");
    draft.vips.insert(ip(vip), Some(VipDraft { services, alone, origin, field }));
    let Checked { mut diff, rejections } = check(draft, &Desired::default());
    let reasons = rejections.into_iter().map(|note| note.rejection.reason).collect();
    match diff.vips.remove(&ip(vip)) {
        Some(Change::Set(binding)) => (Some(binding), reasons),
        Some(Change::Remove) | None => (None, reasons),
    }
}

fn reals(vip: &str, method: Option<Method>, of: Vec<RealServerDraft>) -> (Vec<String>, Vec<String>) {
    let (binding, reasons) = checked(vip, vec![service("web", method, vec![port(80, of)])], false);
    let reals = binding.map(|binding| {
        let reals = &binding.services[0].ports[0].reals;
        reals.iter().map(|real| format!("{} {:?}", real.address, real.readiness)).collect()
    });
    (reals.unwrap_or_default(), reasons)
}

#[test]
fn pools_are_networks_ranges_and_addresses() {
    for (pool, inside, outside) in [
        (
            "192.0.2.0/24",
            &["192.0.2.0", "192.0.2.255"][..],
            &["192.0.1.255", "192.0.3.0", "::", "::ffff:192.0.2.1"][..],
        ),
        ("192.0.2.10-192.0.2.20", &["192.0.2.10", "192.0.2.20"], &["192.0.2.9", "192.0.2.21"]),
        (" 192.0.2.10 - 192.0.2.10 ", &["192.0.2.10"], &["192.0.2.11"]),
        ("192.0.2.7", &["192.0.2.7"], &["192.0.2.6", "192.0.2.8"]),
        ("0.0.0.0/0", &["0.0.0.0", "255.255.255.255"], &["::"]),
        ("2001:db8::/64", &["2001:db8::", "2001:db8::ffff:ffff:ffff:ffff"], &["2001:db8:0:1::", "192.0.2.1"]),
        ("2001:db8::1/128", &["2001:db8::1"], &["2001:db8::2"]),
        ("::/0", &["::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"], &["0.0.0.0"]),
    ] {
        let parsed: AddressRange = pool.parse().unwrap_or_else(|why| panic!("{pool}: {why}"));
        assert!(inside.iter().all(|address| parsed.contains(ip(address))), "{pool}");
        assert!(outside.iter().all(|address| !parsed.contains(ip(address))), "{pool}");
        assert_eq!(parsed.to_string().parse(), Ok(parsed), "{pool} is written as it is read");
    }
}

#[test]
fn texts_that_are_no_pool_say_what_to_write() {
    for (text, remedy) in [
        ("", "192.0.2.0/24"),
        ("192.0.2.0/33", "192.0.2.0/24"),
        ("192.0.2.0/+4", "192.0.2.0/24"),
        ("192.0.2.0/", "192.0.2.0/24"),
        ("2001:db8::/129", "192.0.2.0/24"),
        ("192.0.2.0/24/24", "192.0.2.0/24"),
        ("192.0.2.0-", "192.0.2.0/24"),
        ("pool", "192.0.2.0/24"),
        ("192.0.2.5/24", "write 192.0.2.0/24, or FIRST-LAST"),
        ("2001:db8::1/64", "write 2001:db8::/64, or FIRST-LAST"),
        ("192.0.2.20-192.0.2.10", "FIRST-LAST"),
        ("192.0.2.10-2001:db8::1", "FIRST-LAST"),
    ] {
        let why = text.parse::<AddressRange>().expect_err(text).to_string();
        assert!(why.contains(remedy), "{text:?}: {why}");
    }
}

#[test]
fn addresses_that_packets_cannot_be_sent_to_are_no_vips() {
    for bad in [
        "0.0.0.0",
        "127.0.0.1",
        "127.255.0.1",
        "169.254.9.9",
        "224.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1",
        "ff02::1",
        "::ffff:192.0.2.1",
    ] {
        let (binding, reasons) = checked(bad, vec![service("web", None, vec![port(80, Vec::new())])], false);
        assert!(binding.is_none(), "{bad}");
        assert!(reasons.len() == 1 && reasons[0].starts_with(&format!("{} cannot be", ip(bad))), "{bad}: {reasons:?}");
        assert!(checked(bad, Vec::new(), true).0.is_none(), "{bad} alone");
    }
    for good in [VIP, "10.0.0.1", "2001:db8::1", "fd00::1"] {
        assert!(checked(good, Vec::new(), true).0.is_some(), "{good}");
    }
}

#[test]
fn an_address_is_bound_by_a_service_or_by_itself() {
    assert!(checked(VIP, Vec::new(), false).0.is_none(), "every Service was rejected before");
    let (alone, _) = checked(VIP, Vec::new(), true);
    assert!(alone.is_some_and(|binding| binding.services.is_empty()));
    let bad = || VipPortDraft { target: Some(8080), ..port(80, Vec::new()) };
    assert!(checked(VIP, vec![service("web", None, vec![bad()])], false).0.is_none());
    let (still, reasons) = checked(VIP, vec![service("web", None, vec![bad()])], true);
    assert!(still.is_some_and(|binding| binding.services.is_empty()) && reasons.len() == 1);
    let (missing, _) = checked(VIP, vec![service("missing", None, Vec::new())], false);
    assert_eq!(missing.expect("announced").services.len(), 1);
}

#[test]
fn the_first_who_can_serve_a_port_has_it() {
    let bad = VipPortDraft { target: Some(8080), ..port(80, Vec::new()) };
    let services = vec![
        service("translates", Some(Method::L2), vec![bad, port(81, Vec::new())]),
        service("first", None, vec![port(443, Vec::new()), port(80, Vec::new())]),
        service("second", None, vec![port(80, Vec::new()), port(82, Vec::new())]),
    ];
    let (binding, reasons) = checked(VIP, services, false);
    let binding = binding.expect("bound");
    let ports: Vec<(&str, Vec<u16>)> = binding
        .services
        .iter()
        .map(|service| (&*service.service, service.ports.iter().map(|port| port.port).collect()))
        .collect();
    assert_eq!(ports, [("translates", vec![81]), ("first", vec![80, 443]), ("second", vec![82])]);
    assert_eq!(reasons.len(), 2, "{reasons:?}");
    assert!(reasons[1].contains("port 80/TCP of 192.0.2.10 is already bound to default/first"), "{reasons:?}");
}

#[test]
fn no_method_but_pod_translates_ports() {
    for (method, translates) in [
        (None, false),
        (Some(Method::L2), false),
        (Some(Method::Tunnel), false),
        (Some(Method::Gue), false),
        (Some(Method::Pod), true),
    ] {
        let node = NodeDraft::At { address: ip("203.0.113.1"), has_agent: true };
        let endpoint = RealServerDraft { node, ..endpoint("198.51.100.1", 8080, Readiness::Ready) };
        let draft = VipPortDraft { target: Some(8080), ..port(80, vec![endpoint]) };
        let (binding, reasons) = checked(VIP, vec![service("web", method, vec![draft])], false);
        assert_eq!(binding.is_some(), translates, "{method:?}");
        assert_eq!(reasons.is_empty(), translates, "{method:?}");
        if let Some(binding) = binding {
            assert_eq!(binding.services[0].ports[0].reals.len(), 1);
        }
    }
}

#[test]
fn endpoints_become_real_servers() {
    use Readiness::{Draining, Ready};
    for (what, of, expected) in [
        (
            "sorted by address",
            vec![("198.51.100.10", Ready), ("198.51.100.9", Ready)],
            &["198.51.100.9 Ready", "198.51.100.10 Ready"][..],
        ),
        (
            "ready beats draining, whoever comes first",
            vec![("198.51.100.1", Draining), ("198.51.100.1", Ready)],
            &["198.51.100.1 Ready"],
        ),
        (
            "draining beside ready",
            vec![("198.51.100.1", Draining), ("198.51.100.2", Ready)],
            &["198.51.100.1 Draining", "198.51.100.2 Ready"],
        ),
        (
            "nothing ready",
            vec![("198.51.100.1", Draining), ("198.51.100.2", Draining)],
            &["198.51.100.1 Ready", "198.51.100.2 Ready"],
        ),
        (
            "own family",
            vec![("2001:db8::1", Ready), ("198.51.100.1", Draining), ("198.51.100.2", Ready)],
            &["198.51.100.1 Draining", "198.51.100.2 Ready"],
        ),
        ("other family", vec![("2001:db8::1", Ready)], &["2001:db8::1 Ready"]),
        ("none", vec![], &[]),
    ] {
        let of = of.into_iter().map(|(address, readiness)| endpoint(address, 80, readiness)).collect();
        let (became, reasons) = reals(VIP, None, of);
        assert_eq!(became, expected, "{what}");
        assert!(reasons.is_empty(), "{what}: {reasons:?}");
    }
}

#[test]
fn endpoints_that_cannot_be_real_servers_are_left_out_by_name() {
    for (address, port, why) in [
        (VIP, 80, "is the virtual IP itself"),
        ("127.0.0.1", 80, "loopback"),
        ("169.254.1.1", 80, "one link"),
        ("fe80::1", 80, "one link"),
        ("198.51.100.7", 8080, "listens on port 8080"),
    ] {
        let good = endpoint("198.51.100.1", 80, Readiness::Ready);
        let (became, reasons) = reals(VIP, Some(Method::L2), vec![endpoint(address, port, Readiness::Ready), good]);
        assert_eq!(became, ["198.51.100.1 Ready"], "{address}");
        assert!(reasons.len() == 1 && reasons[0].contains(why) && reasons[0].contains(address), "{reasons:?}");
    }
    let many = (1..=9).map(|n| endpoint(&format!("127.0.0.{n}"), 80, Readiness::Ready)).collect();
    let (_, reasons) = reals(VIP, None, many);
    assert!(reasons.len() == 1 && reasons[0].contains("127.0.0.1 (and 8 others)"), "{reasons:?}");
}

#[test]
fn real_servers_and_ports_are_bounded() {
    let address = |n: usize| format!("10.{}.{}.{}", n >> 16, (n >> 8) & 255, n & 255);
    let many = (1..=MAX_REAL_SERVERS + 5).map(|n| endpoint(&address(n), 80, Readiness::Ready)).collect();
    let (became, reasons) = reals(VIP, None, many);
    assert_eq!(became.len(), MAX_REAL_SERVERS);
    assert!(reasons.len() == 1 && reasons[0].contains("4101 real servers"), "{reasons:?}");

    let ports = (1..=MAX_VIP_PORTS + 3).map(|n| port(u16::try_from(n).expect("a port"), Vec::new())).collect();
    let (binding, reasons) = checked(VIP, vec![service("wide", None, ports)], false);
    assert_eq!(binding.expect("bound").services[0].ports.len(), MAX_VIP_PORTS);
    assert_eq!(reasons.len(), 3);
}

#[test]
fn a_probe_is_for_the_ports_of_its_transport() {
    use TransportProtocol::{Sctp, Tcp, Udp};
    let http = ProbeKind::Http { path: "/".into(), host: None, tls: false };
    for (kind, own_port, probed) in [
        (ProbeKind::Tcp, None, &[Tcp][..]),
        (http, None, &[Tcp]),
        (ProbeKind::Grpc { service: "".into() }, None, &[Tcp]),
        (ProbeKind::Udp, None, &[Udp]),
        (ProbeKind::Icmp, None, &[Tcp, Udp, Sctp]),
        (ProbeKind::Tcp, Some(8080), &[Tcp, Udp, Sctp]),
    ] {
        let ports = [Tcp, Udp, Sctp].map(|protocol| VipPort { protocol, port: 53, reals: Vec::new() });
        let check = HealthCheck { kind, port: own_port, ..HealthCheck::default() };
        let service = VipService {
            namespace: "default".into(),
            service: "dns".into(),
            method: None,
            into_pods: false,
            options: VipOptions { health: Some(check.clone()), ..VipOptions::default() },
            ports: ports.to_vec(),
        };
        let of: Vec<_> =
            ports.iter().filter(|port| service.health_of(port).is_some()).map(|port| port.protocol).collect();
        assert_eq!(of, probed, "{check:?}");
    }
}

#[test]
fn schedulers_are_read_as_they_are_written() {
    for scheduler in Scheduler::ALL {
        assert_eq!(scheduler.to_string().parse(), Ok(scheduler));
        assert_eq!(scheduler.name().to_ascii_uppercase().parse(), Ok(scheduler));
    }
    assert!("lblc".parse::<Scheduler>().is_err());
}

proptest! {
    /// Whatever the slices say: sorted, each address once, one family, never the VIP, and something ready if anything is there.
    #[test]
    fn real_servers_are_in_order_and_once(
        vip in prop::sample::select(vec!["192.0.2.10", "2001:db8::10"]),
        of in prop::collection::vec((0..8_u8, any::<bool>(), any::<bool>(), any::<bool>()), 0..24),
    ) {
        let drafts: Vec<RealServerDraft> = of
            .into_iter()
            .map(|(last, six, draining, wrong_port)| {
                let address = if six { format!("2001:db8::1{last}") } else { format!("192.0.2.1{last}") };
                let readiness = if draining { Readiness::Draining } else { Readiness::Ready };
                endpoint(&address, if wrong_port { 81 } else { 80 }, readiness)
            })
            .collect();
        let mut backwards = drafts.clone();
        backwards.reverse();
        let usable = drafts.iter().any(|draft| draft.port == 80 && draft.real.address != ip(vip));
        let (forward, reasons) = checked(vip, vec![service("web", None, vec![port(80, drafts)])], false);
        let (backward, reasons_backward) = checked(vip, vec![service("web", None, vec![port(80, backwards)])], false);
        prop_assert_eq!(&forward, &backward, "the order of slices decides nothing");
        prop_assert_eq!(reasons, reasons_backward);
        let binding = forward.expect("bound");
        let reals = &binding.services[0].ports[0].reals;
        let addresses: BTreeSet<IpAddr> = reals.iter().map(|real| real.address).collect();
        prop_assert!(addresses.iter().eq(reals.iter().map(|real| &real.address)), "sorted and once");
        prop_assert!(!addresses.contains(&ip(vip)));
        prop_assert!(addresses.iter().all(|address| address.is_ipv4()) || addresses.iter().all(|address| address.is_ipv6()));
        prop_assert_eq!(reals.iter().any(|real| real.readiness == Readiness::Ready), usable);
    }
}
