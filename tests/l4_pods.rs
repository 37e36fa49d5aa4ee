//! Virtual IPs into pods, with the program itself: a director tunnels to nodes, their agents hand packets to pods, and answers
//! go straight to the client. Routed pods, and pods behind an overlay with masquerading.

mod l4_pods_support;

use l4_pods_support::{
    HOST_PORT, Network, PATIENCE, PORT, PodState, Site, node_address, pod_address, vips, vips_of_the_first_node,
};
use sluicegate_netlab::traffic::{TcpClient, udp_ask};
use sluicegate_netlab::{Capture, Frame, Namespace};
use sluicegate_source::rights::{self, Account, Right};
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// As many as all pods answer among, whatever their share.
const TRIES: usize = 40;

impl Site {
    /// With a director of its own, where the client reaches both VIPs.
    fn serving(label: &str, network: Network) -> Self {
        let mut site = Self::new(label, network);
        let director = site.director.clone();
        site.start_director(&director);
        site.wait_until_serving();
        site
    }

    fn wait_until_serving(&self) {
        for node in 0..2 {
            self.wait_until(&format!("the agent of node{node} is ready"), || self.readiness(node));
        }
        for vip in vips().into_iter().chain(vips_of_the_first_node()) {
            self.wait_until_reached(&self.client, (vip, PORT).into());
        }
    }

    /// The pods that answer new connections.
    fn answering(&self, vip: IpAddr) -> BTreeSet<String> {
        self.answering_to(&self.client, vip)
    }

    fn answering_to(&self, from: &Namespace, vip: IpAddr) -> BTreeSet<String> {
        let connected = (0..TRIES).map(|_| self.connect(from, (vip, PORT).into()));
        let name = |connected: Result<TcpClient, String>| match connected {
            Ok(connected) => connected.server().to_owned(),
            Err(error) => panic!("{} to {vip}: {error}\n{}", from.label(), self.log()),
        };
        connected.map(name).collect()
    }

    /// A connection to each of these pods.
    fn connections_to(&self, vip: IpAddr, pods: &[&str]) -> Vec<TcpClient> {
        let mut found: Vec<TcpClient> = Vec::new();
        self.wait_until(&format!("a connection to each of {pods:?}"), || {
            let connected = self.connect(&self.client, (vip, PORT).into())?;
            let name = connected.server().to_owned();
            if pods.contains(&&*name) && found.iter().all(|known| known.server() != name) {
                found.push(connected);
            }
            if found.len() == pods.len() { Ok(()) } else { Err(format!("{} of them", found.len())) }
        });
        found
    }

    /// Waits until no new connection goes to these pods any more, as the tables of director and agents say.
    fn wait_until_avoided(&self, pods: &[&str]) {
        for vip in vips() {
            self.wait_until(&format!("{pods:?} get nothing new"), || {
                let answering = self.answering(vip);
                if pods.iter().any(|pod| answering.contains(*pod)) { Err(format!("{answering:?}")) } else { Ok(()) }
            });
        }
    }

    /// Opens connections all the time while something happens: none may fail.
    fn none_fails_while<T>(&self, what: &str, happens: impl FnOnce() -> T) -> T {
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let opening = vips().map(|vip| {
                let is_over = &is_over;
                scope.spawn(move || {
                    let mut made = 0_u32;
                    while !is_over.load(Ordering::Relaxed) {
                        let connected = self.connect(&self.client, (vip, PORT).into());
                        connected.map_err(|error| format!("the connection {made} to {vip}: {error}"))?;
                        made += 1;
                    }
                    Ok::<u32, String>(made)
                })
            });
            let happened = happens();
            is_over.store(true, Ordering::Relaxed);
            for thread in opening {
                let made = thread.join().expect("no panic");
                let made = made.unwrap_or_else(|error| panic!("while {what}: {error}\n{}", self.log()));
                assert!(made > 10, "while {what}: only {made} connections were made");
            }
            happened
        })
    }

    /// At the director's port of the switch: what comes from VIPs or pods to the client, which it must never carry.
    fn replies_by_way_of_the_director(&self) -> Capture {
        let client = ["198.51.100.7", "2001:db8:1::7"].map(l4_pods_support::ip);
        let is_reply = move |frame: &Frame| frame.ip_destination().is_some_and(|to| client.contains(&to));
        self.lan.capture_if(&self.director, is_reply).expect("captures")
    }
}

/// Whose answers a client may see.
fn is_expected(source: IpAddr) -> bool {
    let router = ["198.51.100.1", "2001:db8:1::1"].map(l4_pods_support::ip);
    let is_link_local = matches!(source, IpAddr::V6(six) if six.is_unicast_link_local() || six.is_unspecified());
    vips().contains(&source) || vips_of_the_first_node().contains(&source) || router.contains(&source) || is_link_local
}

fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|at| (at % 251) as u8).collect()
}

fn pods_answer_from_the_vip(label: &str, network: Network) {
    let site = Site::serving(label, network);
    let by_the_director = site.replies_by_way_of_the_director();
    let at_the_client = site.client.capture("eth0").expect("captures");
    // What is too long for the tunnel has to be known from the SYN-ACK alone.
    let filtered = site.client.drop_too_big_errors("eth0").expect("a filter");
    for vip in vips() {
        let pods = site.answering(vip);
        assert_eq!(pods, ["node0-pod0", "node0-pod1", "node1-pod0", "node1-pod1"].map(str::to_owned).into(), "{vip}");
        let mut bulk = site.connect(&site.client, (vip, PORT).into()).expect("connected");
        bulk.echo(&bytes(1 << 20)).unwrap_or_else(|error| panic!("{vip}: a megabyte: {error}\n{}", site.log()));
        let answer = udp_ask(&site.client, (vip, PORT).into(), &bytes(1200), PATIENCE).expect("answered");
        assert!(answer.server.contains("-pod") && answer.payload == bytes(1200), "{vip}");
        let host = site.connect(&site.client, (vip, HOST_PORT).into()).expect("pods in the host's network answer");
        assert!(["node0", "node1"].contains(&host.server()), "{}", host.server());
    }
    drop(filtered);
    // A narrower way back: the pod is told by an ICMP error that quotes what the VIP has sent.
    for vip in vips() {
        let mut bulk = site.connect(&site.client, (vip, PORT).into()).expect("connected");
        site.client.set_mtu("eth0", 1400).expect("set");
        site.router.set_mtu("c", 1400).expect("set");
        bulk.echo(&bytes(1 << 18)).unwrap_or_else(|error| panic!("{vip}: by a narrow way: {error}\n{}", site.log()));
        site.client.set_mtu("eth0", 1500).expect("set");
        site.router.set_mtu("c", 1500).expect("set");
    }
    // A pod of another node is a client like others.
    for vip in vips_of_the_first_node() {
        let client = &site.nodes[1].pods[0];
        let connected = site.connect(client, (vip, PORT).into());
        let connected = connected.unwrap_or_else(|error| panic!("{vip} from a pod: {error}\n{}", site.log()));
        assert!(connected.server().starts_with("node0-pod"));
    }
    if network == Network::Overlay {
        // So is one whose packets leave with the address of its node, whichever pod answers; and the node itself.
        for from in [&site.nodes[1].pods[0], &site.nodes[0].pods[1], &site.nodes[0].namespace] {
            for vip in vips() {
                let pods = site.answering_to(from, vip);
                assert!(pods.len() > 2, "{} to {vip}: {pods:?}", from.label());
            }
        }
    }
    let leaked = by_the_director.frames();
    assert!(leaked.is_empty(), "{} replies by way of the director, {:?}", leaked.len(), leaked[0].ip_source());
    let strangers: BTreeSet<IpAddr> = at_the_client
        .frames()
        .iter()
        .filter(|frame| !frame.outgoing)
        .filter_map(Frame::ip_source)
        .filter(|source| !is_expected(*source))
        .collect();
    assert!(strangers.is_empty(), "the client hears of {strangers:?}");
    let shown = site.run(&site.director, &["vips"]);
    for text in ["POD (pods)", "node0 (2 pods)", &node_address(1, true)] {
        assert!(shown.contains(text), "{text}: {shown}");
    }
    let explained = site.run(&site.director, &["explain", "tcp,198.51.100.7:40000,192.0.2.10:80"]);
    assert!(
        explained.contains("method POD (the endpoints are pods)") && explained.contains("node1 (2 pods)"),
        "{explained}"
    );
    for node in 0..2 {
        assert!(!site.nodes[node].namespace.run(|| has_address(vips()[0])), "no host holds the VIP");
    }
}

fn has_address(vip: IpAddr) -> bool {
    std::net::UdpSocket::bind((vip, 0)).is_ok()
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn routed_pods_answer_from_the_vip() {
    pods_answer_from_the_vip("routed", Network::Routed);
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn pods_of_an_overlay_answer_from_the_vip() {
    pods_answer_from_the_vip("overlay", Network::Overlay);
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn pods_are_replaced_and_agents_restarted_under_traffic() {
    let mut site = Site::serving("roll", Network::Overlay);
    let [vip, _] = vips();
    let all = ["node0-pod0", "node0-pod1", "node1-pod0", "node1-pod1"];
    for (node, pod) in [(0, 0), (1, 1)] {
        let name = format!("node{node}-pod{pod}");
        let mut kept = site.connections_to(vip, &[&name]);
        site.pods[node][pod] = PodState::Draining;
        site.none_fails_while("a pod drains", || {
            site.write();
            site.wait_until_avoided(&[&name]);
        });
        kept[0].echo(&bytes(5000)).expect("a connection stays while its pod drains");
        site.pods[node][pod] = PodState::Gone;
        site.none_fails_while("a pod goes", || {
            site.write();
            std::thread::sleep(Duration::from_millis(300));
        });
        site.pods[node][pod] = PodState::Ready;
        site.none_fails_while("a pod comes", || {
            site.write();
            drop(site.connections_to(vip, &[&name]));
        });
    }
    let mut kept = site.connections_to(vip, &all);
    let mut agent = site.nodes[0].agent.take().expect("it runs");
    site.none_fails_while("an agent is dead", || {
        agent.kill().expect("killed");
        std::thread::sleep(Duration::from_millis(500));
        for connection in &mut kept {
            connection.echo(&bytes(5000)).expect("connections go on without the agent");
        }
    });
    site.start_agent(0);
    site.none_fails_while("an agent starts", || {
        site.wait_until("the agent is ready", || site.readiness(0));
        for connection in &mut kept {
            connection.echo(&bytes(5000)).expect("connections go on with the next agent");
        }
    });
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn director_and_agents_follow_an_api_server() {
    let mut site = Site::with("api", Network::Routed, true);
    let director = site.director.clone();
    site.start_director(&director);
    site.wait_until_serving();
    let [vip, _] = vips();
    let mut kept = site.connections_to(vip, &["node0-pod1"]);
    site.pods[0][0] = PodState::Draining;
    site.write();
    site.wait_until_avoided(&["node0-pod0"]);
    site.pods[0][0] = PodState::Gone;
    site.write();
    // Of an API server that is away nothing is needed, not even by an agent that was there before.
    let server = site.api_server.as_ref().expect("an API server");
    server.go_down();
    site.none_fails_while("the API server is away", || {
        std::thread::sleep(Duration::from_secs(3));
        kept[0].echo(&bytes(5000)).expect("a connection stays");
        for node in 0..2 {
            assert_eq!(site.readiness(node), Ok(()), "an agent stays ready");
        }
    });
    server.come_back();
    site.pods[0][0] = PodState::Ready;
    site.write();
    drop(site.connections_to(vip, &["node0-pod0"]));
    // Both accounts ask for nothing that the table of rights does not list.
    let server = site.api_server.as_ref().expect("an API server");
    for seen in server.seen().iter().filter(|seen| !seen.agent.is_empty()) {
        let is_allowed = |right: &Right| right.resource == seen.resource && right.verbs.contains(&seen.verb);
        let rights = || rights::of(Account::Director).chain(rights::of(Account::Backend));
        assert!(rights().any(is_allowed), "{} {} is in no row", seen.verb, seen.resource);
    }
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn a_node_whose_agent_is_not_ready_gets_nothing_new() {
    let mut site = Site::serving("agent", Network::Routed);
    let [vip, _] = vips();
    let mut kept = site.connections_to(vip, &["node0-pod0", "node1-pod0"]);
    site.agents[0] = false;
    site.none_fails_while("a node is taken out", || {
        site.write();
        site.wait_until_avoided(&["node0-pod0", "node0-pod1"]);
    });
    let shown = site.run(&site.director, &["vips"]);
    assert!(shown.contains("no agent"), "{shown}");
    for connection in &mut kept {
        connection.echo(&bytes(5000)).expect("connections stay where they are");
    }
    site.agents[0] = true;
    site.write();
    drop(site.connections_to(vip, &["node0-pod0", "node0-pod1"]));
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn a_node_can_be_director_too() {
    let mut site = Site::new("both", Network::Overlay);
    let (four, six) = (node_address(0, false), node_address(0, true));
    site.write_fixed(&[&four, &six]);
    let host = site.nodes[0].namespace.clone();
    // Probes and clients of a director over IPv4 need a reverse path filter that is not strict.
    for interface in ["all", "eth0"] {
        host.set_sysctl(&format!("net/ipv4/conf/{interface}/rp_filter"), "2").expect("loose");
    }
    site.start_director(&host);
    site.wait_until_serving();
    for vip in vips() {
        let pods = site.answering(vip);
        assert_eq!(pods.len(), 4, "its own pods and those of the other node: {pods:?}\n{}", site.log());
        let mut bulk = site.connect(&site.client, (vip, PORT).into()).expect("connected");
        bulk.echo(&bytes(1 << 19)).unwrap_or_else(|error| panic!("{vip}: {error}\n{}", site.log()));
    }
    site.wait_until("probes find every node healthy, its own too", || {
        let shown = site.run(&host, &["vips"]);
        if shown.contains("unhealthy") { Err(shown) } else { Ok(()) }
    });
    for vip in vips() {
        let pods = site.answering_to(&host, vip);
        assert_eq!(pods.len(), 4, "a client of the machine itself reaches its own pods too: {pods:?}\n{}", site.log());
        let mut bulk = site.connect(&host, (vip, PORT).into()).expect("connected");
        bulk.echo(&bytes(1 << 19)).unwrap_or_else(|error| panic!("{vip}: {error}\n{}", site.log()));
    }
    // What the agent made goes, and nothing else of the node.
    site.nodes[1].agent = None;
    let other = site.nodes[1].namespace.clone();
    assert!(site.run(&other, &["detach"]).contains("to_pod"));
    let server: SocketAddr = (l4_pods_support::ip(&pod_address(1, 0, 2, false)), 8080).into();
    assert!(site.connect(&host, server).is_ok(), "pods are reached as before");
}
