//! Probes on the packets' own way, in a laboratory: a director without the VIP, and real servers that have it on `lo`.
//!
//! Where the egress program of the director would set the destination MAC by the mark, policy routing does it here: each
//! mark has a table in which the VIP lies behind one real server. What arrives there is the same as with method L2.

use futures_util::TryFutureExt;
use rtnetlink::packet_route::rule::RuleAction;
use rtnetlink::{RouteMessageBuilder, RuleAddRequest};
use sluicegate_config::{HealthCheck, ProbeKind, TransportProtocol};
use sluicegate_health::{Failure, Health, HealthSettings, Target, Verdict, Way};
use sluicegate_netlab::{Lab, Namespace, WireOptions};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv6Addr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// Long enough for the slowest machine; nothing waits for it that goes right.
const LONG: Duration = Duration::from_secs(90);
const MARK_BASE: u32 = 0x5347_0000;
const TCP: u16 = 8001;
const HTTP: u16 = 8002;
const UDP: u16 = 8003;
const ICMP: u16 = 8004;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// The VIP, and the addresses of both real servers, by family.
fn addresses() -> [(IpAddr, [IpAddr; 2]); 2] {
    [
        (ip("192.0.2.10"), [ip("198.51.100.11"), ip("198.51.100.12")]),
        (ip("2001:db8::10"), [ip("2001:db8:1::11"), ip("2001:db8:1::12")]),
    ]
}

/// A director and two real servers on one switch.
struct Network {
    director: Namespace,
    reals: [Namespace; 2],
    _lab: Lab,
}

impl Network {
    fn build() -> Self {
        let mut lab = Lab::new("sg-health").expect("a lab");
        let mut switch = lab.bridge("switch").expect("a switch");
        let mut host = |label: &str, four: &str, six: &str| {
            let host = lab.namespace(label).expect("a namespace");
            switch.attach(&host, "eth0", WireOptions::default()).expect("a wire");
            host.add_address("eth0", four).expect("an address");
            host.add_address("eth0", six).expect("an address");
            host
        };
        let director = host("director", "198.51.100.1/24", "2001:db8:1::1/64");
        let reals = [
            host("real1", "198.51.100.11/24", "2001:db8:1::11/64"),
            host("real2", "198.51.100.12/24", "2001:db8:1::12/64"),
        ];
        let network = Self { director, reals, _lab: lab };
        for (vip, reals) in addresses() {
            network.reals.iter().for_each(|real| real.hold_vip(vip).expect("a VIP"));
            for (mark, real) in (MARK_BASE + 1..).zip(reals) {
                network.director.run(|| deliver(mark, vip, real));
            }
        }
        network
    }

    fn health(&self) -> Health {
        let route = |target: &Target| {
            let number = addresses().iter().find_map(|(_, reals)| reals.iter().position(|real| *real == target.real));
            let mark = MARK_BASE + 1 + u32::try_from(number.expect("a real server")).expect("a small number");
            Way::Marked { mark, source: None }
        };
        self.director.run(|| Health::start(HealthSettings::default(), route, |_| ()).expect("it starts"))
    }
}

/// Has packets for the VIP that carry the mark leave for the MAC of the real server.
fn deliver(mark: u32, vip: IpAddr, real: IpAddr) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let table = mark & 0xff;
    let route = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(vip, if vip.is_ipv4() { 32 } else { 128 })
        .and_then(|route| route.gateway(real))
        .expect("one family")
        .table_id(table)
        .build();
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection().expect("netlink");
        tokio::spawn(connection);
        let rule: RuleAddRequest = handle.rule().add().fw_mark(mark).table_id(table).action(RuleAction::ToTable);
        let rule = async { if vip.is_ipv4() { rule.v4().execute().await } else { rule.v6().execute().await } };
        rule.and_then(|()| handle.route().add(route).execute()).await.expect("policy routing");
    });
}

/// Serves TCP and HTTP; UDP as long as what it returns lives.
fn serve(real: &Namespace) -> UdpSocket {
    let tcp = real.run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, TCP)).expect("a port"));
    thread::spawn(move || tcp.incoming().for_each(drop));
    let http = real.run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, HTTP)).expect("a port"));
    thread::spawn(move || {
        for mut stream in http.incoming().flatten() {
            thread::spawn(move || {
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
            });
        }
    });
    real.run(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, UDP)).expect("a port"))
}

fn targets() -> BTreeMap<Target, Arc<HealthCheck>> {
    let http = ProbeKind::Http { path: "/".into(), host: None, tls: false };
    let kinds = [(TCP, ProbeKind::Tcp), (HTTP, http), (UDP, ProbeKind::Udp), (ICMP, ProbeKind::Icmp)];
    let mut targets = BTreeMap::new();
    for (vip, reals) in addresses() {
        for real in reals {
            for (port, kind) in &kinds {
                let target = Target { vip, protocol: TransportProtocol::Tcp, port: *port, real };
                let check = HealthCheck {
                    kind: kind.clone(),
                    port: None,
                    // Slow enough for the limit of ICMP errors.
                    interval: Duration::from_millis(if *port == UDP { 1200 } else { 100 }),
                    timeout: Duration::from_secs(1),
                    rise: 1,
                    // Twice, for a machine that stalls now and then.
                    fall: 2,
                };
                targets.insert(target, Arc::new(check));
            }
        }
    }
    targets
}

/// Waits until every target has been probed and is as it should be. A probe that is under way at a change can fail in
/// other ways once, so the reason is waited for too.
fn until(health: &Health, what: &str, as_it_should: impl Fn(&Target, &Verdict) -> bool) {
    let deadline = Instant::now() + LONG;
    loop {
        let statuses = health.snapshot();
        let probed = statuses.values().all(|status| status.last.is_some());
        if probed && statuses.iter().all(|(target, status)| as_it_should(target, &status.verdict)) {
            return;
        }
        assert!(Instant::now() < deadline, "{what}: {statuses:#?}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn healthy(_: &Target, verdict: &Verdict) -> bool {
    verdict.healthy
}

#[test]
#[ignore = "needs root: makes network namespaces and marks sockets"]
fn a_real_server_that_lost_its_vip_is_found() {
    let network = Network::build();
    let [udp, _other_udp] = [serve(&network.reals[0]), serve(&network.reals[1])];
    let is_first = |target: &Target| addresses().iter().any(|(_, reals)| reals[0] == target.real);
    let health = network.health();
    health.set_targets(targets());
    until(&health, "all serve the VIP", healthy);

    for (vip, _) in addresses() {
        network.reals[0].drop_vip(vip).expect("the VIP goes");
    }
    // UDP cannot tell silence from a server that has nothing to say.
    until(&health, "the first lost its VIP", |target, verdict| match &verdict.reason {
        None => !is_first(target) || target.port == UDP,
        Some(Failure::TimedOut { .. }) => is_first(target),
        Some(_) => false,
    });
    // It serves at its own address all the while, so only the way shows it.
    let direct = network
        .director
        .run(|| Health::start(HealthSettings::default(), |_: &Target| Way::Direct, |_| ()).expect("it starts"));
    direct.set_targets(targets());
    until(&direct, "it serves at its own address", healthy);
    drop(direct);

    for (vip, _) in addresses() {
        network.reals[0].hold_vip(vip).expect("the VIP comes back");
    }
    until(&health, "the first has its VIP again", healthy);

    drop(udp);
    until(&health, "nobody listens for UDP", |target, verdict| {
        let expected = (is_first(target) && target.port == UDP).then_some(Failure::Refused);
        verdict.reason == expected
    });
}

#[test]
#[ignore = "needs root: makes network namespaces and marks sockets"]
fn without_a_route_to_the_vip_no_real_server_is_blamed() {
    let network = Network::build();
    let health = network.director.run(|| {
        // A mark that no rule knows, and no default route.
        Health::start(HealthSettings::default(), |_: &Target| Way::Marked { mark: 7, source: None }, |_| ())
            .expect("it starts")
    });
    health.set_targets(targets());
    until(&health, "nothing is known", healthy);
    for (target, status) in health.snapshot() {
        let result = status.last.map(|last| last.result);
        let Some(Err(failure)) = result else { panic!("{target}: {result:?}") };
        assert!(failure.is_local() && failure.to_string().contains("needs a route to the VIP"), "{target}: {failure}");
    }
}
