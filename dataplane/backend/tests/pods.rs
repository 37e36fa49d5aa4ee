//! Into the pods of nodes and out of them, in network namespaces: the client sees nobody but the VIP.

#[path = "../../dsr/tests/support/mod.rs"]
mod support;

mod cluster;

use cluster::{Cluster, DEAF_PORT, FAMILIES, Family, HOST_PORT, Kind, PORT, ROOM, address};
use sluicegate_backend::{AttachMode, ClassifierMode, PodPort, TransportProtocol, detach};
use sluicegate_dsr::Reason;
use sluicegate_dsr::layout::map;
use sluicegate_netlab::traffic::{TcpClient, udp_ask};
use sluicegate_netlab::{Frame, Namespace};
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

fn vip(family: Family, port: u16) -> SocketAddr {
    SocketAddr::new(address(family.vips[0]), port)
}

/// All that clients do, to one node.
fn everything_is_answered_from_the_vip(cluster: &Cluster, node: usize) {
    cluster.direct_to(node);
    let bulk: Vec<u8> = (0..200_000_u32).map(|byte| byte as u8).collect();
    for family in FAMILIES {
        let mut pods = BTreeSet::new();
        for _ in 0..8 {
            let mut client = TcpClient::connect(&cluster.client, vip(family, PORT), PATIENCE).expect("connected");
            client.echo(b"hello").expect("echoed");
            pods.insert(client.server().to_owned());
        }
        let wanted = format!("node{node}-pod");
        assert!(pods.iter().all(|pod| pod.starts_with(&wanted)), "{pods:?}");
        let mut client = TcpClient::connect(&cluster.client, vip(family, PORT), PATIENCE).expect("connected");
        client.echo(&bulk).expect("echoed");
        let reply = udp_ask(&cluster.client, vip(family, PORT), b"hello", PATIENCE).expect("answered");
        assert!(reply.server.starts_with(&wanted) && reply.payload == b"hello");
        // In parts, both ways.
        let reply = udp_ask(&cluster.client, vip(family, PORT), &bulk[..3000], PATIENCE).expect("answered");
        assert!(reply.server.starts_with(&wanted) && reply.payload == bulk[..3000]);
        // Pods of the node's own network.
        let mut client = TcpClient::connect(&cluster.client, vip(family, HOST_PORT), PATIENCE).expect("connected");
        client.echo(&bulk).expect("echoed");
        assert_eq!(client.server(), format!("node{node}"));
        let reply = udp_ask(&cluster.client, vip(family, HOST_PORT), b"hello", PATIENCE).expect("answered");
        assert_eq!(reply.server, format!("node{node}"));
        is_refused(&cluster.client, vip(family, DEAF_PORT));
        // The way back becomes narrower: the pod is told by what is sent to the VIP.
        let mut client = TcpClient::connect(&cluster.client, vip(family, PORT), PATIENCE).expect("connected");
        client.echo(b"hello").expect("echoed");
        cluster.narrow(1300);
        client.echo(&bulk).expect("echoed");
        cluster.narrow(1400);
        sized(cluster, family);
    }
    let counters = cluster.nodes[node].counters();
    for reason in [
        Reason::ToPod,
        Reason::ToPodNew,
        Reason::ToPodPart,
        Reason::ToPodIcmp,
        Reason::FromPod,
        Reason::FromPodPart,
        Reason::FromPodIcmp,
        Reason::Clamped,
    ] {
        assert!(counters.contains_key(&reason), "{}", reason.as_str());
    }
    assert!(!counters.contains_key(&Reason::ToPodMoved));
    let leaked = cluster.leaked();
    assert!(leaked.is_empty(), "{:?} from {:?}", leaked.len(), leaked.first().and_then(|frame| frame.ip_source()));
}

/// The node itself and its pods are clients of the VIP too; the director sends them to this node, also to themselves.
fn the_node_and_its_pods_are_answered(cluster: &Cluster, from: usize, node: usize) {
    cluster.direct_to(node);
    let bulk: Vec<u8> = (0..50_000_u32).map(|byte| byte as u8).collect();
    let own = &cluster.nodes[from];
    for family in FAMILIES {
        for client in [&own.namespace, &own.pods[0], &own.pods[1]] {
            let mut names = BTreeSet::new();
            for _ in 0..6 {
                let mut client = TcpClient::connect(client, vip(family, PORT), PATIENCE).expect("connected");
                client.echo(&bulk).expect("echoed");
                names.insert(client.server().to_owned());
            }
            assert!(names.iter().all(|name| name.starts_with(&format!("node{node}-pod"))), "{names:?}");
            let reply = udp_ask(client, vip(family, PORT), &bulk[..1200], PATIENCE).expect("answered");
            assert_eq!(reply.payload, bulk[..1200]);
            let mut client = TcpClient::connect(client, vip(family, HOST_PORT), PATIENCE).expect("connected");
            client.echo(&bulk).expect("echoed");
            assert_eq!(client.server(), format!("node{node}"));
        }
        is_refused(&own.namespace, vip(family, DEAF_PORT));
    }
}

/// Nobody listens on the pods' port: they say so, and the client hears it of the VIP.
fn is_refused(client: &Namespace, server: SocketAddr) {
    let refused = client.run(|| {
        let any: SocketAddr = if server.is_ipv4() { ([0; 4], 0).into() } else { ([0; 16], 0).into() };
        let socket = UdpSocket::bind(any).expect("bound");
        socket.connect(server).expect("connected");
        socket.set_read_timeout(Some(Duration::from_millis(250))).expect("set");
        let deadline = Instant::now() + PATIENCE;
        let mut kinds = Vec::new();
        while Instant::now() < deadline {
            // Pods limit how many errors they send.
            let _told = socket.send(b"hello");
            match socket.recv(&mut [0; 16]).expect_err("nobody answers").kind() {
                ErrorKind::ConnectionRefused => return Ok(()),
                kind => kinds.push(kind),
            }
        }
        Err(kinds)
    });
    assert_eq!(refused, Ok(()), "{server}");
}

/// Every SYN-ACK says what fits into the tunnel.
fn sized(cluster: &Cluster, family: Family) {
    let (headers, at) = if family.six { (60, 54) } else { (40, 34) };
    let frames = cluster.capture.frames();
    let syn_acks = frames.iter().filter(|frame| {
        !frame.outgoing
            && frame.ip_source() == Some(address(family.vips[0]))
            && frame.tcp_flags().is_some_and(|flags| flags.syn() && flags.ack())
    });
    let mut seen = 0;
    for frame in syn_acks {
        let segment = &frame.bytes[at..];
        assert_eq!(segment[20..22], [2, 4]);
        assert!(u16::from_be_bytes([segment[22], segment[23]]) <= ROOM - headers);
        assert_eq!(support::tcp_checksum(family.vips[0], family.client, segment), 0);
        seen += 1;
    }
    assert!(seen > 0);
}

#[test]
#[ignore = "needs root: network namespaces and eBPF programs"]
fn routed_pods_answer_from_the_vip() {
    for (mode, classifiers, label) in [
        (AttachMode::Native, ClassifierMode::Auto, "native"),
        (AttachMode::Classifier, ClassifierMode::Auto, "tcx"),
        (AttachMode::Classifier, ClassifierMode::Filter, "filter"),
    ] {
        let cluster = Cluster::new(label, Kind::Routed);
        let node = &cluster.nodes[0];
        node.apply_with(&node.settings(mode, classifiers), &node.state());
        everything_is_answered_from_the_vip(&cluster, 0);
        let pins = node.settings(mode, classifiers).pins;
        let removed = node.run(|| async { detach(&pins).await }).expect("detached");
        assert!(removed.iter().any(|what| what.contains("to_pod")), "{removed:?}");
        assert!(removed.contains(&"sluicegate2".to_owned()) && !pins.exists());
    }
}

#[test]
#[ignore = "needs root: network namespaces and eBPF programs"]
fn masqueraded_pods_answer_from_the_vip() {
    let cluster = Cluster::new("masquerade", Kind::Masqueraded);
    let node = &cluster.nodes[0];
    node.apply(&node.state());
    everything_is_answered_from_the_vip(&cluster, 0);
    the_node_and_its_pods_are_answered(&cluster, 0, 0);
    // What a pod sends on its own leaves as before: with the node's address.
    for family in FAMILIES {
        let to = SocketAddr::new(address(family.client), 9);
        let own = SocketAddr::new(node.pod(0, family.six), 9);
        node.pods[0].run(|| UdpSocket::bind(own).expect("bound").send_to(b"hello", to).expect("sent"));
        let from_node = |frame: &Frame| frame.ip_source() == Some(node.address(family.six));
        assert!(cluster.capture.wait_for(from_node, PATIENCE).is_some());
    }
}

#[test]
#[ignore = "needs root: network namespaces and eBPF programs"]
fn pods_of_an_overlay_answer_from_the_vip() {
    let cluster = Cluster::new("overlay", Kind::Overlay);
    for node in &cluster.nodes {
        node.apply(&node.state());
    }
    for node in [0, 1] {
        everything_is_answered_from_the_vip(&cluster, node);
    }
    the_node_and_its_pods_are_answered(&cluster, 0, 1);
    // Pods of two nodes reach each other as before.
    for six in [false, true] {
        let server = SocketAddr::new(cluster.nodes[1].pod(0, six), cluster::TARGET);
        let mut client = TcpClient::connect(&cluster.nodes[0].pods[0], server, PATIENCE).expect("connected");
        client.echo(b"hello").expect("echoed");
        assert_eq!(client.server(), "node1-pod0");
    }
}

#[test]
#[ignore = "needs root: network namespaces and eBPF programs"]
fn flows_outlive_the_agent_and_drain() {
    let cluster = Cluster::new("drain", Kind::Masqueraded);
    let node = &cluster.nodes[0];
    let mut state = node.state();
    node.apply(&state);
    let connect = |family| TcpClient::connect(&cluster.client, vip(family, PORT), PATIENCE).expect("connected");
    let mut clients: Vec<(Family, TcpClient)> =
        (0..16).map(|turn| FAMILIES[turn % 2]).map(|family| (family, connect(family))).collect();
    // The first pod drains, by an agent that was started anew.
    let tables = [map::POD_FLOWS, map::PODS].map(|name| node.table(name));
    let drained = "node0-pod0";
    for family in FAMILIES {
        let key = PodPort { vip: address(family.vips[0]), protocol: TransportProtocol::Tcp, port: PORT };
        let service = state.services.get_mut(&key).expect("served");
        service
            .pods
            .iter_mut()
            .filter(|pod| pod.address == node.pod(0, family.six))
            .for_each(|pod| pod.draining = true);
    }
    node.apply(&state);
    assert_eq!([map::POD_FLOWS, map::PODS].map(|name| node.table(name)), tables);
    for (_, client) in &mut clients {
        client.echo(b"still there").expect("echoed");
    }
    assert!(clients.iter().any(|(_, client)| client.server() == drained));
    for family in FAMILIES {
        for _ in 0..8 {
            assert_ne!(connect(family).server(), drained);
        }
    }
    // It is gone: its flows break, the others go on.
    for service in state.services.values_mut() {
        service.pods.retain(|pod| !FAMILIES.iter().any(|family| pod.address == node.pod(0, family.six)));
    }
    node.apply(&state);
    for (_, client) in clients.iter_mut().filter(|(_, client)| client.server() != drained) {
        client.echo(b"still there").expect("echoed");
    }
    // Nothing is left: the VIP is nobody's.
    state.services.clear();
    node.apply(&state);
    let before = node.counted(Reason::NotBound);
    cluster.client.run(|| {
        let socket = UdpSocket::bind("198.51.100.7:0").expect("bound");
        socket.send_to(b"hello", vip(FAMILIES[0], PORT)).expect("sent");
    });
    let deadline = Instant::now() + PATIENCE;
    while node.counted(Reason::NotBound) == before {
        assert!(Instant::now() < deadline, "what was bound is unwrapped no more");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A director on the same machine leaves what it sends to this host itself on `lo`.
#[test]
#[ignore = "needs root: network namespaces and eBPF programs"]
fn a_director_on_the_node_reaches_its_pods() {
    let cluster = Cluster::new("own", Kind::Routed);
    let node = &cluster.nodes[0];
    node.apply(&node.state());
    for family in FAMILIES {
        let server = vip(family, PORT);
        node.loop_back(server.ip());
        let own = SocketAddr::new(node.address(family.six), 0);
        let mut client = TcpClient::connect_from(&node.namespace, own, server, PATIENCE).expect("connected");
        client.echo(&[7; 50_000]).expect("echoed");
        assert!(client.server().starts_with("node0-pod"));
    }
}

/// One port of a client to two VIPs with one pod: the second flow waits for the end of the first.
#[test]
#[ignore = "needs root: network namespaces and eBPF programs"]
fn two_flows_that_meet_on_one_pod_are_kept_apart() {
    let cluster = Cluster::new("meet", Kind::Masqueraded);
    let node = &cluster.nodes[0];
    let mut state = node.state();
    node.apply(&state);
    let from = |family: Family, port| SocketAddr::new(address(family.client), port);
    let at = |family: Family, vip: usize| SocketAddr::new(address(family.vips[vip]), PORT);
    let connect = |family, port, vip| {
        TcpClient::connect_from(&cluster.client, from(family, port), at(family, vip), PATIENCE).expect("connected")
    };
    for family in FAMILIES {
        for port in 20_000..20_008 {
            let (mut one, mut other) = (connect(family, port, 0), connect(family, port, 1));
            assert_ne!(one.server(), other.server());
            one.echo(b"one").expect("echoed");
            other.echo(b"other").expect("echoed");
        }
    }
    for service in state.services.values_mut() {
        service.pods.truncate(1);
    }
    node.apply(&state);
    for family in FAMILIES {
        let mut one = connect(family, 21_000, 0);
        let refused =
            TcpClient::connect_from(&cluster.client, from(family, 21_000), at(family, 1), Duration::from_millis(300));
        assert!(refused.is_err());
        assert!(node.counted(Reason::PodPortTaken) > 0);
        one.echo(b"one").expect("echoed");
        drop(one);
        let mut other = connect(family, 21_000, 1);
        other.echo(b"other").expect("echoed");
    }
    assert!(cluster.leaked().is_empty());
}
