//! A real server in a network namespace: what a director tunnels to it is answered by a socket on the VIP, directly.

#[path = "../../dsr/tests/support/mod.rs"]
mod support;

use aya::EbpfLoader;
use aya::maps::MapInfo;
use aya::programs::TcAttachType;
use aya::programs::tc::qdisc_detach_program;
use sluicegate_backend::{
    AttachMode, Backend, BackendSettings, BackendState, ClassifierMode, Directors, detach, make_room,
};
use sluicegate_dsr::Reason;
use sluicegate_dsr::layout::map;
use sluicegate_netlab::traffic::UdpEcho;
use sluicegate_netlab::{Capture, Frame, Lab, Namespace, WireOptions};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::{IpAddr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;
use support::{CLIENT4, CLIENT6, DIRECTOR4, DIRECTOR6, HOST4, HOST6, MTU, STRANGER4, VIP4, VIP6, gue, ip, tcp};

const PATIENCE: Duration = Duration::from_secs(20);

/// A client and its router in one (it sends what a director would), and a real server, on one wire.
struct Network {
    client: Namespace,
    real: Namespace,
    capture: Capture,
    _lab: Lab,
}

impl Network {
    fn new(label: &str) -> Self {
        let mut lab = Lab::new(&format!("sg-backend-{label}")).expect("root");
        let client = lab.namespace("client").expect("made");
        let real = lab.namespace("real").expect("made");
        lab.connect(&client, "eth0", &real, "eth0", WireOptions::default()).expect("joined");
        for address in ["198.51.100.7/24", "203.0.113.1/24", "2001:db8:1::7/64", "2001:db8:2::1/64"] {
            client.add_address("eth0", address).expect("added");
        }
        for address in ["198.51.100.20/24", "203.0.113.20/24", "2001:db8:1::20/64", "2001:db8:2::20/64"] {
            real.add_address("eth0", address).expect("added");
        }
        let capture = client.capture("eth0").expect("captures");
        Self { client, real, capture, _lab: lab }
    }

    fn pins(&self) -> PathBuf {
        self.real.bpf_directory().join("backend")
    }

    fn settings(&self, mode: AttachMode) -> BackendSettings {
        BackendSettings {
            interfaces: vec!["eth0".to_owned()],
            mode,
            classifiers: ClassifierMode::Auto,
            pins: self.pins(),
            pod_flows: 0,
        }
    }

    /// On a thread in the real server, with a runtime.
    fn on_real<T: Send, F: Future<Output = T>>(&self, work: impl FnOnce() -> F + Send) -> T {
        self.real.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async { work().await })
        })
    }

    /// Sends an IP packet to the real server, on the wire as it is.
    fn send(&self, packet: &[u8]) {
        let mut frame = support::frame(&[], packet);
        frame[..6].copy_from_slice(&self.real.mac("eth0").expect("a MAC"));
        frame[6..12].copy_from_slice(&self.client.mac("eth0").expect("a MAC"));
        self.client.frame_sender("eth0").expect("a socket").send(&frame).expect("sent");
    }

    fn counted(&self, reason: Reason) -> u64 {
        let settings = self.settings(AttachMode::Auto);
        let counters = self.on_real(|| async move { Backend::start(&settings).expect("adopted").counters() });
        counters.expect("readable").into_iter().find(|(found, _)| *found == reason).map_or(0, |(_, count)| count)
    }
}

fn state(vips: &[&str]) -> BackendState {
    BackendState {
        vips: vips.iter().map(|vip| (address(vip), Some(MTU))).collect(),
        directors: Directors::Known([DIRECTOR4, DIRECTOR6].map(address).into()),
        peers: BTreeSet::new(),
        endpoints: BTreeSet::new(),
        services: BTreeMap::new(),
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn datagram(source: &str, destination: &str, from: u16, to: u16, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + data.len()).expect("short").to_be_bytes();
    let mut udp = [from.to_be_bytes(), to.to_be_bytes(), length, [0, 0]].concat();
    udp.extend(data);
    let octets = |text| match address(text) {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let sum = support::checksum(&[&octets(source), &octets(destination), &[0, 17], &length, &udp]).to_be_bytes();
    udp[6..8].copy_from_slice(&sum);
    ip(source, destination, 17, 0, &udp)
}

fn is_from(frame: &Frame, vip: &str, port: u16) -> bool {
    frame.ip_source() == Some(address(vip)) && frame.ports().is_some_and(|(_, to)| to == port)
}

#[test]
#[ignore = "needs root: network namespaces and eBPF programs"]
fn tunnelled_packets_are_answered_from_the_vip() {
    use ClassifierMode::{Auto, Filter};
    for (mode, classifiers, label) in [
        (AttachMode::Native, Auto, "native"),
        (AttachMode::Generic, Auto, "generic"),
        (AttachMode::Classifier, Auto, "tcx"),
        (AttachMode::Classifier, Filter, "filter"),
    ] {
        let network = Network::new(label);
        let settings = BackendSettings { classifiers, ..network.settings(mode) };
        network.on_real(|| async move {
            let mut backend = Backend::start(&settings).expect("attached");
            assert_eq!(backend.attachments()[0].mode, mode);
            let changes = backend.apply(&state(&[VIP4, VIP6])).await.expect("applied");
            assert_eq!(changes.added, [address(VIP4), address(VIP6)]);
            let again = backend.apply(&state(&[VIP4, VIP6])).await.expect("applied");
            assert_eq!((again.added.len(), again.removed.len(), again.rows), (0, 0, 0));
        });
        // The process's end of everything is gone; pins and addresses do the work.
        let servers = [VIP4, VIP6]
            .map(|vip| UdpEcho::start(&network.real, "real", (address(vip), 7000).into()).expect("bound to the VIP"));
        let four = |port| datagram(CLIENT4, VIP4, port, 7000, b"hello");
        let six = |port| datagram(CLIENT6, VIP6, port, 7000, b"hello");
        network.send(&ip(DIRECTOR4, HOST4, 4, 0, &four(1001)));
        network.send(&ip(DIRECTOR6, HOST6, 4, 0, &four(1002)));
        network.send(&ip(DIRECTOR4, HOST4, 17, 0, &gue(None, &four(1003))));
        network.send(&ip(DIRECTOR4, HOST4, 41, 0, &six(1004)));
        network.send(&ip(DIRECTOR6, HOST6, 41, 0, &six(1005)));
        network.send(&ip(DIRECTOR6, HOST6, 17, 0, &gue(Some((0, 41, 2)), &six(1006))));
        for (vip, ports) in [(VIP4, [1001, 1002, 1003]), (VIP6, [1004, 1005, 1006])] {
            for port in ports {
                let answer = network.capture.wait_for(|frame| is_from(frame, vip, port), PATIENCE);
                assert!(answer.is_some(), "{mode:?}: {vip} answers to port {port}");
            }
        }
        // A stranger's is not unwrapped: the next packet of the director is answered, and that one never was.
        network.send(&ip(STRANGER4, HOST4, 4, 0, &four(1007)));
        network.send(&ip(DIRECTOR4, HOST4, 4, 0, &four(1008)));
        assert!(network.capture.wait_for(|frame| is_from(frame, VIP4, 1008), PATIENCE).is_some());
        assert_eq!(network.capture.count(|frame| is_from(frame, VIP4, 1007)), 0);
        assert_eq!(network.counted(Reason::UnwrappedIp) + network.counted(Reason::UnwrappedGue), 7);
        assert_eq!(network.counted(Reason::UnknownDirector), 1);
        drop(servers);
        leaves_nothing(&network);
        for (program, side) in [
            ("unwrap_skb", TcAttachType::Ingress),
            ("hand_over", TcAttachType::Ingress),
            ("clamp", TcAttachType::Egress),
        ] {
            let left = network.real.run(|| qdisc_detach_program("eth0", side, program));
            assert!(left.is_err(), "{label}: the filter {program} is left");
        }
    }
}

fn leaves_nothing(network: &Network) {
    let pins = network.pins();
    let removed = network.on_real(|| async move { detach(&pins).await }).expect("detached");
    assert!(removed.iter().any(|what| what.contains(VIP4)) && removed.iter().any(|what| what.contains("unwrap")));
    assert!(!network.pins().exists());
    let pins = network.pins();
    assert_eq!(network.on_real(|| async move { detach(&pins).await }).expect("detached"), Vec::<String>::new());
    network.real.run(|| {
        let why = TcpListener::bind((address(VIP4), 7001)).expect_err("the VIP is gone");
        assert_eq!(why.kind(), std::io::ErrorKind::AddrNotAvailable);
    });
}

#[test]
#[ignore = "needs root: network namespaces and eBPF programs"]
fn the_syn_ack_says_what_fits_into_the_tunnel() {
    let network = Network::new("mss");
    let settings = network.settings(AttachMode::Auto);
    network.on_real(|| async move {
        let mut backend = Backend::start(&settings).expect("attached");
        backend.apply(&state(&[VIP4, VIP6])).await.expect("applied");
    });
    let _listeners = [VIP4, VIP6].map(|vip| network.real.run(|| TcpListener::bind((address(vip), 80)).expect("bound")));
    let options = [2, 4, 0x05, 0xb4];
    network.send(&ip(DIRECTOR4, HOST4, 4, 0, &ip(CLIENT4, VIP4, 6, 0, &tcp(CLIENT4, VIP4, 2, &options, b""))));
    network.send(&ip(DIRECTOR6, HOST6, 41, 0, &ip(CLIENT6, VIP6, 6, 0, &tcp(CLIENT6, VIP6, 2, &options, b""))));
    for (vip, client, at, mss) in [(VIP4, CLIENT4, 34, MTU - 40), (VIP6, CLIENT6, 54, MTU - 60)] {
        let syn_ack = |frame: &Frame| {
            frame.ip_source() == Some(address(vip)) && frame.tcp_flags().is_some_and(|flags| flags.syn() && flags.ack())
        };
        let frame = network.capture.wait_for(syn_ack, PATIENCE).expect("a SYN-ACK");
        let segment = &frame.bytes[at..];
        assert_eq!(segment[20..22], [2, 4], "{vip}");
        assert_eq!(u16::from_be_bytes([segment[22], segment[23]]), mss, "{vip}");
        assert_eq!(support::tcp_checksum(vip, client, segment), 0, "{vip}");
    }
}

/// A release before knew fewer reasons, or had other rows: what it pinned is made anew, and its programs are replaced.
#[test]
#[ignore = "needs root: network namespaces and eBPF programs"]
fn tables_of_another_release_are_made_anew() {
    let network = Network::new("geometry");
    let pins = network.pins();
    let before = |name: &'static str| {
        let place = pins.join(name);
        std::fs::create_dir_all(&pins).expect("a folder");
        let _removed = std::fs::remove_file(&place);
        let object =
            EbpfLoader::new().map_max_entries(name, 3).map_pin_path(name, &place).load(sluicegate_xdp::BACKEND);
        object.map(drop).expect("tables");
        MapInfo::from_pin(&place).expect("pinned").id()
    };
    let mut server = None;
    for (name, port) in [(map::HOST_REASONS, 1001), (map::BOUND, 1002)] {
        let old = before(name);
        let settings = network.settings(AttachMode::Auto);
        network.on_real(|| async move {
            let mut backend = Backend::start(&settings).expect("attached");
            backend.apply(&state(&[VIP4])).await.expect("applied");
        });
        assert_ne!(MapInfo::from_pin(pins.join(name)).expect("pinned").id(), old, "{name}");
        server
            .get_or_insert_with(|| UdpEcho::start(&network.real, "real", (address(VIP4), 7000).into()).expect("bound"));
        let wrapped = ip(DIRECTOR4, HOST4, 4, 0, &datagram(CLIENT4, VIP4, port, 7000, b"hello"));
        network.send(&wrapped);
        assert!(network.capture.wait_for(|frame| is_from(frame, VIP4, port), PATIENCE).is_some(), "{name}");
        assert!(network.counted(Reason::UnwrappedIp) > 0, "{name}");
    }
    let old = before(map::HOST_REASONS);
    let refused = network.on_real(|| async { make_room(&pins, "eth0").map_err(|why| why.to_string()) });
    let refused = refused.expect_err("a director does not empty the tables of a real server");
    assert!(refused.contains("HOST_REASONS") && refused.contains("sluicegate backend"), "{refused}");
    assert_eq!(MapInfo::from_pin(pins.join(map::HOST_REASONS)).expect("pinned").id(), old);
}

#[test]
#[ignore = "needs root: network namespaces and eBPF programs"]
fn the_vip_is_silent_and_others_addresses_stay() {
    let network = Network::new("silent");
    network.real.add_address("lo", "192.0.2.77/32").expect("added");
    let settings = network.settings(AttachMode::Auto);
    network.on_real(|| async move {
        let mut backend = Backend::start(&settings).expect("attached");
        backend.apply(&state(&[VIP4, "192.0.2.11"])).await.expect("applied");
        let changes = backend.apply(&state(&[VIP4])).await.expect("applied");
        assert_eq!(changes.removed, [address("192.0.2.11")]);
        assert_eq!(changes.foreign, [address("192.0.2.77")]);
    });
    // Asked for the VIP and then for its own address, it answers to the latter alone.
    for target in [VIP4, "203.0.113.20"] {
        let mut request = vec![0xff; 6];
        let mac = network.client.mac("eth0").expect("a MAC");
        request.extend(mac);
        request.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        request.extend(mac);
        request.extend([203, 0, 113, 1, 0, 0, 0, 0, 0, 0]);
        let IpAddr::V4(target) = address(target) else { unreachable!("an IPv4 address") };
        request.extend(target.octets());
        network.client.frame_sender("eth0").expect("a socket").send(&request).expect("sent");
    }
    let own = "203.0.113.20".parse().expect("an address");
    assert!(network.capture.wait_for(|frame| frame.is_arp_reply_for(own), PATIENCE).is_some());
    let vip = VIP4.parse().expect("an address");
    assert_eq!(network.capture.count(|frame| frame.is_arp_reply_for(vip)), 0);
}
