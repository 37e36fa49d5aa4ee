//! A director's probe program and routing in a namespace: a marked packet to a VIP leaves with the head of its real server.

use aya::Ebpf;
use aya::maps::{Array, Map};
use sluicegate_backend::{ClassifierMode, ProbeEgress, ProbeEgressSettings};
use sluicegate_dsr::layout::mark;
use sluicegate_netlab::{Lab, WireOptions};
use socket2::SockRef;
use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

#[test]
#[ignore = "needs root: network namespaces and eBPF programs"]
fn a_marked_packet_goes_to_its_real_server() {
    let mut lab = Lab::new("sg-backend-probe").expect("root");
    let director = lab.namespace("director").expect("made");
    let real = lab.namespace("real").expect("made");
    lab.connect(&director, "eth0", &real, "eth0", WireOptions::default()).expect("joined");
    director.add_address("eth0", "203.0.113.1/24").expect("added");
    director.add_address("eth0", "2001:db8:2::1/64").expect("added");
    let capture = real.capture("eth0").expect("captures");
    let to = real.mac("eth0").expect("a MAC");
    let backends = director.bpf_directory().join("BACKENDS");
    let mut forwarder = Ebpf::load(sluicegate_xdp::EGRESS).expect("loaded");
    // An L2 backend: kind 1, 14 bytes of head, alive; MTU 1500; egress; the head at offset 32.
    let mut row = [0u64; 16];
    row[0] = u64::from_ne_bytes([1, 0, 14, 1, 0xdc, 5, 0, 0]);
    row[1] = u64::from(director.ifindex("eth0").expect("an index"));
    row[4] = u64::from_ne_bytes([to[0], to[1], to[2], to[3], to[4], to[5], 2, 0]);
    let map = forwarder.map_mut("BACKENDS").expect("a map");
    Array::<_, [u64; 16]>::try_from(&mut *map).expect("an array").set(7, row, 0).expect("written");
    let Map::Array(data) = &*map else { panic!("an array") };
    data.pin(&backends).expect("pinned");
    let settings = ProbeEgressSettings {
        pins: director.bpf_directory().join("egress"),
        backends,
        sources: ["203.0.113.1", "2001:db8:2::1"].map(|address| address.parse::<IpAddr>().expect("an address")).into(),
        table: 5347,
        priority: 5347,
        classifiers: ClassifierMode::Auto,
    };
    director.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async { ProbeEgress::start(&settings).await.map(drop) }).expect("started");
        for (vip, any) in [("192.0.2.10", "0.0.0.0:0"), ("2001:db8::10", "[::]:0")] {
            let vip: IpAddr = vip.parse().expect("an address");
            let probe = UdpSocket::bind(any).expect("a socket");
            SockRef::from(&probe).set_mark(mark(7).expect("an id")).expect("marked");
            probe.send_to(b"probe", (vip, 53)).expect("sent");
        }
    });
    for (vip, source) in [("192.0.2.10", "203.0.113.1"), ("2001:db8::10", "2001:db8:2::1")] {
        let [vip, source]: [IpAddr; 2] = [vip, source].map(|address| address.parse().expect("an address"));
        let frame = capture.wait_for(|frame| frame.ip_destination() == Some(vip), Duration::from_secs(20));
        let frame = frame.expect("the probe arrives");
        assert_eq!((frame.destination_mac(), frame.ip_source()), (Some(to), Some(source)));
    }
    director.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(ProbeEgress::detach(&settings)).expect("detached");
        assert!(!settings.pins.exists());
        let unrouted = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        SockRef::from(&unrouted).set_mark(mark(7).expect("an id")).expect("marked");
        assert!(unrouted.send_to(b"probe", ("192.0.2.10", 53)).is_err());
    });
}
