//! A real server in a network namespace gets packets with a former owner: what its own TCP knows stays, the rest goes on.

#[path = "../../dsr/tests/support/mod.rs"]
mod support;

use sluicegate_backend::{AttachMode, Backend, BackendSettings, BackendState, ClassifierMode, Directors, PeerNetwork};
use sluicegate_dsr::Reason;
use sluicegate_netlab::{Capture, Frame, Lab, Namespace, WireOptions};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::net::{IpAddr, TcpListener, TcpStream};
use std::time::Duration;
use support::{
    CLIENT4, CLIENT6, DIRECTOR4, DIRECTOR6, HOST4, HOST6, MTU, PEER4, PEER6, VIP4, VIP6, gue, gue_with_former, ip, tcp,
};

const PATIENCE: Duration = Duration::from_secs(60);
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const PORT: u16 = 80;

/// Client, director and peer in one, and a real server, on one wire.
struct Network {
    others: Namespace,
    real: Namespace,
    capture: Capture,
    settings: BackendSettings,
    lab: Lab,
}

/// The addresses of one family.
#[derive(Clone, Copy)]
struct Family {
    client: &'static str,
    vip: &'static str,
    director: &'static str,
    host: &'static str,
    peer: &'static str,
}

const FOUR: Family = Family { client: CLIENT4, vip: VIP4, director: DIRECTOR4, host: HOST4, peer: PEER4 };
const SIX: Family = Family { client: CLIENT6, vip: VIP6, director: DIRECTOR6, host: HOST6, peer: PEER6 };

impl Network {
    fn new(mode: AttachMode) -> Self {
        let mut lab = Lab::new("sg-chance-real").expect("root");
        let others = lab.namespace("others").expect("made");
        let real = lab.namespace("real").expect("made");
        lab.connect(&others, "eth0", &real, "eth0", WireOptions::default()).expect("joined");
        for address in [CLIENT4, DIRECTOR4, PEER4] {
            others.add_address("eth0", &format!("{address}/24")).expect("added");
        }
        for address in [CLIENT6, DIRECTOR6, PEER6] {
            others.add_address("eth0", &format!("{address}/64")).expect("added");
        }
        for address in ["198.51.100.20/24", "203.0.113.20/24", "2001:db8:1::20/64", "2001:db8:2::20/64"] {
            real.add_address("eth0", address).expect("added");
        }
        let capture = others.capture("eth0").expect("captures");
        let settings = BackendSettings {
            interfaces: vec!["eth0".to_owned()],
            mode,
            classifiers: ClassifierMode::Auto,
            pins: real.bpf_directory().join("backend"),
            pod_flows: 0,
        };
        let network = Self { others, real, capture, settings, lab };
        let peers = ["203.0.113.0/24", "2001:db8:2::/64"].map(|peer| peer.parse::<PeerNetwork>().expect("a network"));
        let state = BackendState {
            vips: [VIP4, VIP6].map(|vip| (address(vip), Some(MTU))).into(),
            directors: Directors::Known([DIRECTOR4, DIRECTOR6].map(address).into()),
            peers: peers.into(),
            endpoints: BTreeSet::new(),
            services: BTreeMap::new(),
        };
        network.with_backend(|backend, runtime| {
            runtime.block_on(backend.apply(&state)).expect("applied");
            let again = runtime.block_on(backend.apply(&state)).expect("applied");
            assert_eq!(again.rows, 0, "what is there is not written again");
        });
        network
    }

    fn with_backend<T: Send>(&self, work: impl FnOnce(&mut Backend, &tokio::runtime::Runtime) -> T + Send) -> T {
        self.real.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let mut backend = runtime.block_on(async { Backend::start(&self.settings) }).expect("attached");
            work(&mut backend, &runtime)
        })
    }

    fn counted(&self, reason: Reason) -> u64 {
        let counters = self.with_backend(|backend, _| backend.counters().expect("readable"));
        counters.into_iter().find(|(found, _)| *found == reason).map_or(0, |(_, count)| count)
    }

    /// Sends an IP packet to the real server.
    fn send(&self, packet: &[u8]) {
        let mut frame = support::frame(&[], packet);
        frame[..6].copy_from_slice(&self.real.mac("eth0").expect("a MAC"));
        frame[6..12].copy_from_slice(&self.others.mac("eth0").expect("a MAC"));
        self.others.frame_sender("eth0").expect("a socket").send(&frame).expect("sent");
    }

    /// As a director that does not know the flow, whose slot the peer had before.
    fn send_with_former(&self, family: Family, packet: &[u8]) {
        self.send(&ip(family.director, family.host, 17, 0, &gue_with_former(family.peer, packet)));
    }

    /// The tunnel in which the peer gets this very packet.
    fn is_handed_over(&self, family: Family, packet: &[u8]) -> bool {
        let wanted = |frame: &Frame| {
            frame.ip_source() == Some(address(family.host))
                && frame.ip_destination() == Some(address(family.peer))
                && frame.bytes.ends_with(&gue(None, packet)[8..])
        };
        let found = self.capture.wait_for(wanted, PATIENCE);
        assert!(found.is_some(), "{:?} {:?}", self.settings.mode, self.with_backend(|backend, _| backend.counters()));
        assert_eq!(found.as_ref().and_then(Frame::ports).map(|ports| ports.1), Some(6080));
        found.is_some()
    }

    /// Opens a connection as far as the SYN-ACK, whose sequence number it gives.
    fn open(&self, family: Family, port: u16) -> u32 {
        self.send(&ip(family.director, family.host, 17, 0, &gue(None, &segment(family, port, SYN, 100, 0, b""))));
        let answer = |frame: &Frame| {
            frame.ip_source() == Some(address(family.vip))
                && frame.ports() == Some((PORT, port))
                && frame.tcp_flags().is_some_and(|flags| flags.syn() && flags.ack())
        };
        let frame = self.capture.wait_for(answer, PATIENCE).expect("a SYN-ACK");
        let at = if family.vip.contains(':') { 54 } else { 34 };
        u32::from_be_bytes(*frame.bytes[at + 4..].first_chunk().expect("a header"))
    }

    fn listen(&self, family: Family) -> TcpListener {
        self.real.run(|| TcpListener::bind((address(family.vip), PORT)).expect("bound to the VIP"))
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// A client's packet to the VIP.
fn segment(family: Family, port: u16, flags: u8, sequence: u32, acknowledged: u32, data: &[u8]) -> Vec<u8> {
    let mut segment = tcp(family.client, family.vip, flags, &[], data);
    segment[..2].copy_from_slice(&port.to_be_bytes());
    segment[4..8].copy_from_slice(&sequence.to_be_bytes());
    segment[8..12].copy_from_slice(&acknowledged.to_be_bytes());
    segment[16..18].fill(0);
    let sum = support::tcp_checksum(family.client, family.vip, &segment).to_be_bytes();
    segment[16..18].copy_from_slice(&sum);
    ip(family.client, family.vip, 6, 0, &segment)
}

/// The next connection, and the first bytes that it brings.
fn accepted(listener: &TcpListener, bytes: usize) -> (TcpStream, Vec<u8>) {
    let (mut stream, _) = listener.accept().expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    let mut data = vec![0; bytes];
    stream.read_exact(&mut data).expect("data");
    (stream, data)
}

#[test]
#[ignore = "needs root: network namespaces and eBPF programs"]
fn what_this_host_knows_stays_and_the_rest_goes_to_the_former_owner() {
    for mode in [AttachMode::Native, AttachMode::Generic] {
        let network = Network::new(mode);
        for family in [FOUR, SIX] {
            // Nobody listens, and then somebody does: in neither case is this a connection of his.
            let unknown = segment(family, 1001, ACK, 7, 8, b"of another real server");
            network.send_with_former(family, &unknown);
            assert!(network.is_handed_over(family, &unknown), "{mode:?}: nobody listens");
            let listener = network.listen(family);
            let unknown = segment(family, 1002, ACK, 7, 8, b"of another one");
            network.send_with_former(family, &unknown);
            assert!(network.is_handed_over(family, &unknown), "{mode:?}: somebody listens");
            // A SYN opens here; then the request, and then the connection is known.
            let number = network.open(family, 1003);
            network.send_with_former(family, &segment(family, 1003, ACK, 101, number.wrapping_add(1), b""));
            network.send_with_former(family, &segment(family, 1003, ACK, 101, number.wrapping_add(1), b"known"));
            let (_stream, data) = accepted(&listener, 5);
            assert_eq!(data, b"known");
        }
        assert_eq!(network.counted(Reason::HandedOver), 4, "{mode:?}");
        assert_eq!(network.counted(Reason::UnwrappedGue), 6, "{mode:?}");
        drop(network.lab);
    }
}

#[test]
#[ignore = "needs root: network namespaces and eBPF programs"]
fn who_acknowledges_a_syn_cookie_is_known() {
    let network = Network::new(AttachMode::Auto);
    // Cookies always, not only when the queue is full; IPv6 goes by the same setting.
    network.real.set_sysctl("net/ipv4/tcp_syncookies", "2").expect("set");
    for family in [FOUR, SIX] {
        let listener = network.listen(family);
        let number = network.open(family, 2001);
        let wrong = segment(family, 2001, ACK, 101, number.wrapping_add(77), b"not mine");
        network.send_with_former(family, &wrong);
        assert!(network.is_handed_over(family, &wrong));
        network.send_with_former(family, &segment(family, 2001, ACK, 101, number.wrapping_add(1), b"mine"));
        let (_stream, data) = accepted(&listener, 4);
        assert_eq!(data, b"mine");
    }
}

#[test]
#[ignore = "needs root: network namespaces and eBPF programs"]
fn what_looks_handed_over_but_came_from_the_network_is_not_sent_on() {
    let network = Network::new(AttachMode::Auto);
    // As this host would address it, but nobody's director: the tunnel ends at the peer, so it is none of this host's.
    let forged = segment(FOUR, 3001, ACK, 7, 8, b"forged");
    network.send(&ip(HOST4, PEER4, 17, 0, &gue(None, &forged)));
    let unknown = segment(FOUR, 3002, ACK, 7, 8, b"from the director");
    network.send_with_former(FOUR, &unknown);
    assert!(network.is_handed_over(FOUR, &unknown));
    let sent_on = |frame: &Frame| !frame.outgoing && frame.bytes.ends_with(&forged);
    assert_eq!(network.capture.count(sent_on), 0);
}
