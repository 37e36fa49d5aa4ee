//! Nodes with pods, a router, and a client behind it; a thread at the router stands for the director. Pods have interfaces with
//! all offloads, as those of a cluster, so that what leaves a node has unfinished checksums and is larger than any packet.

use crate::support;
use aya::maps::MapInfo;
use rtnetlink::packet_route::link::{InfoData, InfoVeth};
use rtnetlink::packet_route::route::RouteType;
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth, LinkVxlan, RouteMessageBuilder};
use sluicegate_backend::{
    AttachMode, Backend, BackendSettings, BackendState, Changes, ClassifierMode, Directors, Pod, PodPort, PodService,
    TransportProtocol,
};
use sluicegate_dsr::Reason;
use sluicegate_netlab::traffic::{TcpEcho, UdpEcho};
use sluicegate_netlab::{Capture, Frame, Lab, Namespace, WireOptions};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::future::Future;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

pub const ROOM: u16 = 1400;
/// The VIP's port, and what pods listen on; behind the last one nobody listens.
pub const PORT: u16 = 80;
pub const TARGET: u16 = 8080;
/// Behind this one are pods in the node's own network.
pub const HOST_PORT: u16 = 81;
const HOST_TARGET: u16 = 8081;
pub const DEAF_PORT: u16 = 82;
const DEAF_TARGET: u16 = 8082;
/// Nobody's: packets to VIPs leave for it, and the director takes them there.
const NOBODY: [u8; 6] = [2, 0, 0, 0, 0, 0x99];

/// How pods are reached.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Their addresses are known to the router.
    Routed,
    /// What they send leaves with the node's address, and what belongs to no connection is dropped.
    Masqueraded,
    /// As before, with a second node, whose pods are reached by VXLAN.
    Overlay,
}

/// One family of addresses.
#[derive(Clone, Copy)]
pub struct Family {
    pub vips: [&'static str; 2],
    pub client: &'static str,
    pub six: bool,
}

pub const FAMILIES: [Family; 2] = [
    Family { vips: ["192.0.2.10", "192.0.2.11"], client: "198.51.100.7", six: false },
    Family { vips: ["2001:db8::10", "2001:db8::11"], client: "2001:db8:1::7", six: true },
];

pub struct Node {
    pub namespace: Namespace,
    pub pods: Vec<Namespace>,
    number: usize,
    servers: Vec<Box<dyn std::any::Any>>,
}

pub struct Cluster {
    pub client: Namespace,
    pub router: Namespace,
    pub nodes: Vec<Node>,
    /// At the client.
    pub capture: Capture,
    /// Which node the director sends to.
    node: Arc<AtomicUsize>,
    _director: Capture,
    _lab: Lab,
}

pub fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

impl Node {
    /// Its address on the network of nodes.
    pub fn address(&self, six: bool) -> IpAddr {
        address(&node_address(self.number, six))
    }

    /// The address of a pod.
    pub fn pod(&self, pod: usize, six: bool) -> IpAddr {
        address(&pod_address(self.number, pod, 2, six))
    }

    pub fn settings(&self, mode: AttachMode, classifiers: ClassifierMode) -> BackendSettings {
        let pins = self.namespace.bpf_directory().join("backend");
        BackendSettings { interfaces: vec!["eth0".to_owned()], mode, classifiers, pins, pod_flows: 4096 }
    }

    /// On a thread in the node, with a runtime.
    pub fn run<T: Send, F: Future<Output = T>>(&self, work: impl FnOnce() -> F + Send) -> T {
        self.namespace.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async { work().await })
        })
    }

    /// Starts the agent, or takes over what one left, and applies a state. The process's end of it is gone behind this.
    pub fn apply(&self, state: &BackendState) -> Changes {
        self.apply_with(&self.settings(AttachMode::Auto, ClassifierMode::Auto), state)
    }

    pub fn apply_with(&self, settings: &BackendSettings, state: &BackendState) -> Changes {
        self.run(|| async {
            let mut backend = Backend::start(settings).expect("started");
            let changes = backend.apply(state).await.expect("applied");
            assert_eq!(backend.apply(state).await.expect("applied").rows, 0, "what is there is not written again");
            changes
        })
    }

    pub fn counters(&self) -> BTreeMap<Reason, u64> {
        let settings = self.settings(AttachMode::Auto, ClassifierMode::Auto);
        let counters = self.run(|| async { Backend::start(&settings).expect("adopted").counters() });
        counters.expect("readable").into_iter().collect()
    }

    pub fn counted(&self, reason: Reason) -> u64 {
        self.counters().get(&reason).copied().unwrap_or(0)
    }

    /// Everything that is served, on all pods of this node.
    pub fn state(&self) -> BackendState {
        let mut services = BTreeMap::new();
        for family in FAMILIES {
            let pods = |port| {
                let pods = (0..self.pods.len()).map(|pod| (self.pod(pod, family.six), port));
                pods.map(|(address, port)| Pod { address, port, draining: false }).collect::<Vec<_>>()
            };
            let host = vec![Pod { address: self.address(family.six), port: HOST_TARGET, draining: false }];
            for vip in family.vips {
                for protocol in [TransportProtocol::Tcp, TransportProtocol::Udp] {
                    for (port, pods) in
                        [(PORT, pods(TARGET)), (HOST_PORT, host.clone()), (DEAF_PORT, pods(DEAF_TARGET))]
                    {
                        let key = PodPort { vip: address(vip), protocol, port };
                        services.insert(key, PodService { pods, by_client_alone: false, room: Some(ROOM) });
                    }
                }
            }
        }
        BackendState {
            vips: BTreeMap::new(),
            directors: Directors::Known([address("203.0.113.1")].into()),
            peers: BTreeSet::new(),
            endpoints: BTreeSet::new(),
            services,
        }
    }

    /// Is a table pinned, and which one is it?
    pub fn table(&self, name: &str) -> u32 {
        let pins = self.settings(AttachMode::Auto, ClassifierMode::Auto).pins;
        MapInfo::from_pin(pins.join(name)).expect("pinned").id()
    }

    /// What this host sends to an address stays on it, as a director's health checks of its own machine do.
    pub fn loop_back(&self, address: IpAddr) {
        self.run(|| async {
            let (connection, handle, _) = rtnetlink::new_connection().expect("a socket");
            let connection = tokio::spawn(connection);
            let length = if address.is_ipv4() { 32 } else { 128 };
            let route = RouteMessageBuilder::<IpAddr>::new().destination_prefix(address, length).expect("a prefix");
            // IPv6 refuses what leads to `lo` and is not its own.
            let kind = if address.is_ipv4() { RouteType::Unicast } else { RouteType::Local };
            let route = route.output_interface(1).kind(kind).build();
            handle.route().add(route).execute().await.expect("a route");
            connection.abort();
        });
    }

    /// Servers on all pods, and on the node itself.
    fn serve(&mut self) {
        for six in [false, true] {
            for (number, pod) in self.pods.iter().enumerate() {
                let at = SocketAddr::new(self.pod(number, six), TARGET);
                let name = format!("node{}-pod{number}", self.number);
                self.servers.push(Box::new(TcpEcho::start(pod, &name, at).expect("listens")));
                self.servers.push(Box::new(UdpEcho::start(pod, &name, at).expect("serves")));
            }
            let at = SocketAddr::new(self.address(six), HOST_TARGET);
            let name = format!("node{}", self.number);
            self.servers.push(Box::new(TcpEcho::start(&self.namespace, &name, at).expect("listens")));
            self.servers.push(Box::new(UdpEcho::start(&self.namespace, &name, at).expect("serves")));
        }
    }
}

impl Cluster {
    pub fn new(label: &str, kind: Kind) -> Self {
        let mut lab = Lab::new(&format!("sg-pods-{label}")).expect("root");
        let client = lab.namespace("client").expect("made");
        let router = lab.namespace("router").expect("made");
        lab.connect(&client, "eth0", &router, "c", WireOptions { mtu: 1400, ..WireOptions::default() })
            .expect("joined");
        let mut switch = lab.bridge("switch").expect("made");
        switch.attach(&router, "n", WireOptions::default()).expect("attached");
        for (at, addresses) in [
            ((&client, "eth0"), ["198.51.100.7/24", "2001:db8:1::7/64"]),
            ((&router, "c"), ["198.51.100.1/24", "2001:db8:1::1/64"]),
            ((&router, "n"), ["203.0.113.1/26", "2001:db8:2::1/64"]),
        ] {
            addresses.iter().for_each(|address| at.0.add_address(at.1, address).expect("added"));
        }
        router.become_router().expect("a router");
        routes(&client, [("0.0.0.0/0", "198.51.100.1"), ("::/0", "2001:db8:1::1")]);
        routes(&router, [("192.0.2.0/24", "203.0.113.60"), ("2001:db8::/64", "2001:db8:2::99")]);
        for nobody in ["203.0.113.60", "2001:db8:2::99"] {
            router.set_neighbour("n", address(nobody), NOBODY).expect("set");
        }
        let mut nodes = Vec::new();
        for number in 0..if kind == Kind::Overlay { 2 } else { 1 } {
            let namespace = lab.namespace(&format!("node{number}")).expect("made");
            switch.attach(&namespace, "eth0", WireOptions::default()).expect("attached");
            let mut node = Node { namespace, pods: Vec::new(), number, servers: Vec::new() };
            for pod in 0..2 {
                node.pods.push(lab.namespace(&format!("pod{number}{pod}")).expect("made"));
            }
            set_up(&node, kind);
            node.serve();
            nodes.push(node);
        }
        if kind == Kind::Routed {
            routes(&router, [("203.0.113.128/26", "203.0.113.20"), ("2001:db8:f::/60", "2001:db8:2::20")]);
        }
        let capture = client.capture("eth0").expect("captures");
        let node = Arc::new(AtomicUsize::new(0));
        let director = direct(&router, &nodes, &node);
        Self { client, router, nodes, capture, node, _director: director, _lab: lab }
    }

    /// From here on the director sends to this node.
    pub fn direct_to(&self, node: usize) {
        self.node.store(node, Ordering::SeqCst);
    }

    /// The largest packet between client and router, from here on.
    pub fn narrow(&self, mtu: u32) {
        self.client.set_mtu("eth0", mtu).expect("set");
        self.router.set_mtu("c", mtu).expect("set");
    }

    /// What reached the client from anybody but VIPs and the router.
    pub fn leaked(&self) -> Vec<Frame> {
        let own = |source: IpAddr| match source {
            IpAddr::V4(source) => source.octets()[..3] == [192, 0, 2] || source.octets() == [198, 51, 100, 1],
            IpAddr::V6(source) => {
                let words = source.segments();
                words[0] == 0xfe80 || words[2..4] == [0, 0] || words[2] == 1
            }
        };
        let from_others = |frame: &Frame| !frame.outgoing && frame.ip_source().is_some_and(|source| !own(source));
        self.capture.frames().into_iter().filter(from_others).collect()
    }
}

fn node_address(node: usize, six: bool) -> String {
    if six { format!("2001:db8:2::2{node}") } else { format!("203.0.113.{}", 20 + node) }
}

/// The address of a pod's wire, at the node (1) or the pod (2).
fn pod_address(node: usize, pod: usize, end: usize, six: bool) -> String {
    match six {
        true => format!("2001:db8:f:{node}{pod}::{end}"),
        false => format!("203.0.113.{}", 128 + 64 * node + 4 * pod + end),
    }
}

fn routes<const N: usize>(namespace: &Namespace, routes: [(&str, &str); N]) {
    for (destination, gateway) in routes {
        namespace.add_route(destination, address(gateway)).expect("a route");
    }
}

fn set_up(node: &Node, kind: Kind) {
    let namespace = &node.namespace;
    namespace.become_router().expect("a router");
    for (six, prefix) in [(false, 26), (true, 64)] {
        let own = format!("{}/{prefix}", node_address(node.number, six));
        namespace.add_address("eth0", &own).expect("added");
    }
    routes(namespace, [("0.0.0.0/0", "203.0.113.1"), ("::/0", "2001:db8:2::1")]);
    let mtu = if kind == Kind::Overlay { 1430 } else { 1500 };
    for (number, pod) in node.pods.iter().enumerate() {
        wire_with_offloads(namespace, &format!("p{number}"), pod, mtu);
        for (six, prefix) in [(false, 30), (true, 64)] {
            let at = |end| format!("{}/{prefix}", pod_address(node.number, number, end, six));
            namespace.add_address(&format!("p{number}"), &at(1)).expect("added");
            pod.add_address("eth0", &at(2)).expect("added");
            let everywhere = if six { "::/0" } else { "0.0.0.0/0" };
            let gateway = pod_address(node.number, number, 1, six);
            pod.add_route(everywhere, address(&gateway)).expect("a route");
        }
    }
    if kind == Kind::Overlay {
        let other = 1 - node.number;
        overlay(namespace, &node_address(other, false));
        let (own, gateway) = (node.number + 1, other + 1);
        namespace.add_address("vx0", &format!("203.0.113.{}/30", 64 + own)).expect("added");
        namespace.add_address("vx0", &format!("2001:db8:e::{own}/64")).expect("added");
        let pods = [format!("203.0.113.{}/26", 128 + 64 * other), format!("2001:db8:f:{}::/60", other * 10)];
        let gateways = [format!("203.0.113.{}", 64 + gateway), format!("2001:db8:e::{gateway}")];
        routes(namespace, [(&pods[0], &gateways[0]), (&pods[1], &gateways[1])]);
    }
    if kind != Kind::Routed {
        masquerade(namespace);
        for interface in ["all", "eth0"] {
            namespace.set_sysctl(&format!("net/ipv4/conf/{interface}/rp_filter"), "1").expect("strict");
        }
    }
}

/// What a network of pods does to packets of its node, at the least.
fn masquerade(namespace: &Namespace) {
    const RULES: &str = "
        table inet pods {
            chain leaving {
                type nat hook postrouting priority srcnat;
                ip saddr 203.0.113.128/25 ip daddr != 203.0.113.64/26 ip daddr != 203.0.113.128/25 masquerade
                ip6 saddr 2001:db8:f::/48 ip6 daddr != 2001:db8:f::/48 masquerade
            }
            chain passing {
                type filter hook forward priority filter;
                ct state invalid counter drop
            }
            chain coming {
                type filter hook input priority filter;
                ct state invalid counter drop
            }
        }";
    let nft = || Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn();
    let mut nft = namespace.run(nft).expect("nft is installed");
    nft.stdin.take().expect("piped").write_all(RULES.as_bytes()).expect("written");
    assert!(nft.wait().expect("it ends").success(), "nft takes the rules");
}

/// A wire whose offloads stay on.
fn wire_with_offloads(node: &Namespace, here: &str, pod: &Namespace, mtu: u32) {
    let inside = File::open(pod.path()).expect("a namespace");
    let peer = LinkMessageBuilder::<LinkUnspec>::new().name("eth0").mtu(mtu).setns_by_fd(inside.as_raw_fd()).build();
    let wire = LinkMessageBuilder::<LinkVeth>::new(here, "eth0").mtu(mtu);
    let wire = wire.set_info_data(InfoData::Veth(InfoVeth::Peer(peer))).build();
    add_link(node, wire);
    node.set_link(here, true).expect("up");
    pod.set_link("eth0", true).expect("up");
}

fn overlay(node: &Namespace, other: &str) {
    let IpAddr::V4(other) = address(other) else { unreachable!("nodes meet over IPv4") };
    add_link(node, LinkVxlan::new("vx0", 7).remote(other).port(8472).mtu(1430).build());
    node.set_link("vx0", true).expect("up");
}

fn add_link(namespace: &Namespace, message: rtnetlink::packet_route::link::LinkMessage) {
    namespace.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let (connection, handle, _) = rtnetlink::new_connection().expect("a socket");
            let connection = tokio::spawn(connection);
            handle.link().add(message).execute().await.expect("made");
            connection.abort();
        });
    });
}

/// The director: what leaves for nobody goes into a tunnel to a node, IP in IP or GUE by turns.
fn direct(router: &Namespace, nodes: &[Node], node: &Arc<AtomicUsize>) -> Capture {
    let sender = router.frame_sender("n").expect("a socket");
    let macs: Vec<[u8; 6]> = nodes.iter().map(|node| node.namespace.mac("eth0").expect("a MAC")).collect();
    let (own, node) = (router.mac("n").expect("a MAC"), Arc::clone(node));
    let turn = AtomicUsize::new(0);
    let forward = move |frame: &Frame| {
        let Some(packet) = frame.packet().filter(|_| frame.outgoing && frame.destination_mac() == Some(NOBODY)) else {
            return false;
        };
        let node = node.load(Ordering::SeqCst);
        let to = node_address(node, false);
        let plain = if packet.destination.is_ipv6() { 41 } else { 4 };
        let wrapped = match turn.fetch_add(1, Ordering::Relaxed) % 2 {
            0 => support::ip("203.0.113.1", &to, plain, 0, packet.bytes),
            _ => support::ip("203.0.113.1", &to, 17, 0, &support::variant1(packet.bytes)),
        };
        let mut bytes = support::frame(&[], &wrapped);
        bytes[..6].copy_from_slice(&macs[node]);
        bytes[6..12].copy_from_slice(&own);
        // What is too long is lost, as everywhere.
        let _lost = sender.send(&bytes);
        false
    };
    router.capture_if("n", forward).expect("captures")
}
