//! Delivery into pods in the kernel: each frame ends as it does in user space, and so do the tables of flows.

#[path = "../../dsr/tests/support/mod.rs"]
mod support;

use aya::maps::{Array, HashMap, PerCpuArray};
use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
use aya::{Ebpf, EbpfLoader};
use sluicegate_dsr::layout::{Flow, FlowKey, Pod, PodPort, map};
use sluicegate_dsr::pod::{Step, from_pod, to_pod};
use sluicegate_dsr::{Reason, clamp};
use sluicegate_l4::layout::Address;
use sluicegate_xdp::BACKEND;
use std::collections::BTreeMap;
use support::pods::*;
use support::{CLIENT4, CLIENT6, Frame, HOST4, HOST6, STRANGER4, VIP4, VIP6, frame, ip, ip_with};

const TC_ACT_UNSPEC: u32 = u32::MAX;
const TC_ACT_SHOT: u32 = 2;
const TC_ACT_REDIRECT: u32 = 7;

/// Rows as words: what lies in the tables has no padding.
type FlowWords = [u32; 10];

fn words<const N: usize>(addresses: &[Address], rest: &[u32]) -> [u32; N] {
    let all: Vec<u32> = addresses.iter().flatten().chain(rest).copied().collect();
    all.try_into().expect("as many as the row has")
}

fn two(low: u16, high: u16) -> u32 {
    let [a, b] = low.to_ne_bytes();
    let [c, d] = high.to_ne_bytes();
    u32::from_ne_bytes([a, b, c, d])
}

fn kernel(world: &World) -> Ebpf {
    let mut object = EbpfLoader::new()
        .map_max_entries(map::POD_FLOWS, 8192)
        .map_max_entries(map::POD_REPLIES, 8192)
        .load(BACKEND)
        .expect("the maps are made");
    let mut host = Array::<_, [u32; 5]>::try_from(object.map_mut(map::HOST).expect("there")).expect("an array");
    host.set(0, [world.host.control.flags, world.host.control.turn, 0, 0, 0], 0).expect("written");
    let endpoints = object.map_mut(map::ENDPOINTS).expect("there");
    let mut endpoints = HashMap::<_, Address, u32>::try_from(endpoints).expect("a hash map");
    for endpoint in &world.host.endpoints {
        endpoints.insert(endpoint, 1, 0).expect("written");
    }
    let bound = object.map_mut(map::BOUND).expect("there");
    let mut bound = HashMap::<_, Address, u32>::try_from(bound).expect("a hash map");
    for (vip, row) in &world.host.bound {
        bound.insert(vip, two(row.tunnel_mtu, row.flags), 0).expect("written");
    }
    fill(world, &mut object);
    object
}

fn port_row(port: &PodPort) -> [u16; 1024] {
    let mut row = [0; 1024];
    row[..port.ring.len()].copy_from_slice(&port.ring);
    row[port.ring.len()..].copy_from_slice(&[port.ready, port.flags, port.reserved]);
    row
}

fn pod_row(pod: &Pod) -> [u32; 10] {
    let [low, high] = pod.generation.to_ne_bytes();
    let last = u32::from_ne_bytes([low, high, pod.protocol, pod.state]);
    words(&[pod.address, pod.vip], &[two(pod.port, pod.vip_port), last])
}

/// The programs, and the tables that they fill.
struct Programs {
    object: Ebpf,
}

impl Programs {
    fn new(world: &World) -> Self {
        let mut object = kernel(world);
        for name in ["to_pod", "clamp"] {
            let program: &mut SchedClassifier =
                object.program_mut(name).expect("there").try_into().expect("a classifier");
            if let Err(why) = program.load() {
                let why = format!("{why:?}");
                panic!("{}", &why[why.len().saturating_sub(9000)..]);
            }
        }
        Self { object }
    }

    fn run(&self, name: &str, frame: &[u8]) -> (u32, Vec<u8>) {
        let program: &SchedClassifier = self.object.program(name).expect("there").try_into().expect("a classifier");
        let mut out = vec![0; frame.len() + 256];
        let options = TestRunOptions { data_in: Some(frame), data_out: Some(&mut out), ..TestRunOptions::default() };
        let result = program.test_run(options).expect("it runs");
        out.truncate(result.data_size_out as usize);
        (result.return_value, out)
    }

    /// A table of flows, without when they were seen.
    fn flows<const N: usize>(&self, name: &str) -> BTreeMap<FlowWords, [u32; N]> {
        let map = HashMap::<_, FlowWords, [u32; N]>::try_from(self.object.map(name).expect("there")).expect("flows");
        map.iter().map(|row| row.expect("readable")).collect()
    }

    fn agrees_on_flows(&self, world: &World) {
        let key =
            |key: &FlowKey| words(&[key.client, key.server], &[two(key.client_port, key.server_port), key.protocol]);
        let row = |flow: &Flow| [two(flow.pod.id, flow.pod.generation), flow.turn];
        let flows: BTreeMap<FlowWords, [u32; 2]> =
            world.flows.borrow().iter().map(|(flow, pod)| (key(flow), row(pod))).collect();
        assert_eq!(self.flows::<2>(map::POD_FLOWS), flows);
        let mut there = self.flows::<15>(map::POD_REPLIES);
        there.values_mut().for_each(|reply| reply[10] = 0);
        let here: BTreeMap<FlowWords, [u32; 15]> = world
            .replies
            .borrow()
            .iter()
            .map(|(flow, reply)| {
                let [a, b, c, d, e, f, g, h] = reply.way.mac;
                let mac = [[a, b, c, d], [e, f, g, h]].map(u32::from_ne_bytes);
                let pod = two(reply.pod.id, reply.pod.generation);
                let rest = [pod, reply.port, 0, reply.ends, reply.way.interface, mac[0], mac[1]];
                (key(flow), words(&[reply.vip, reply.client], &rest))
            })
            .collect();
        assert_eq!(there, here);
    }

    /// Both ways of one frame, in both worlds.
    fn agrees(&self, world: &World, before: &[u8], what: &dyn std::fmt::Debug) {
        // The address of `lo`, by which test runs are: what is for another machine is not looked at.
        assert_eq!(self.run("to_pod", before), (TC_ACT_UNSPEC, before.to_vec()));
        let before = &[&[0; 6], &before[6..]].concat()[..];
        for (name, out) in [("to_pod", false), ("clamp", true)] {
            let mut here = Frame(before.to_vec());
            let verdict = if out { from_pod(&mut here, world) } else { to_pod(&mut here, world) };
            let action = match verdict.step {
                Step::Pass => TC_ACT_UNSPEC,
                Step::Drop => TC_ACT_SHOT,
                Step::Turn => TC_ACT_REDIRECT,
            };
            if out && action != TC_ACT_SHOT {
                let _sized = clamp(&mut here, world);
            }
            assert_eq!(self.run(name, before), (action, here.0), "{name} {what:02x?}: {verdict:?}");
        }
    }
}

/// Packets of all kinds, which clients, pods and routers send.
fn packets() -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    for (client, vips, pods, router, host) in [
        (CLIENT4, &[VIP4, OTHER_VIP4, HOST_VIP4][..], PODS4, STRANGER4, HOST4),
        (CLIENT6, &[VIP6], PODS6, "2001:db8:9::1", HOST6),
        (HOST4, &[VIP4, OTHER_VIP4], PODS4, STRANGER4, HOST4),
        (HOST6, &[VIP6], PODS6, "2001:db8:9::1", HOST6),
        ("169.254.83.1", &[VIP4], PODS4, STRANGER4, HOST4),
        ("fd53:4750:4f44::1", &[VIP6], PODS6, "2001:db8:9::1", HOST6),
    ] {
        for port in [40_000, 40_001, 40_002] {
            let client = End(client, port);
            for protocol in [TCP, UDP] {
                for flags in [SYN, ACK, SYN | ACK, FIN | ACK, RST] {
                    for vip in vips {
                        let vip = End(vip, PORT);
                        packets.push(packet(protocol, client, vip, flags, b"hello"));
                        packets.push(error(router, vip.0, &packet(protocol, vip, client, flags, b"hello")));
                        packets.push(error(router, vip.0, &packet(protocol, vip, client, flags, b"")[..]));
                    }
                    for pod in pods {
                        let pod = End(pod, TARGET);
                        packets.push(packet(protocol, pod, client, flags, b"hello"));
                        packets.push(error(pod.0, client.0, &packet(protocol, client, pod, flags, b"hello")));
                        packets.push(error(host, client.0, &packet(protocol, client, pod, flags, b"hello")));
                    }
                }
                packets.extend(in_parts(&packet(protocol, client, End(vips[0], PORT), ACK, &[7; 64]), 24));
                packets.extend(in_parts(&packet(protocol, End(pods[0], TARGET), client, ACK, &[7; 64]), 24));
            }
            packets.push(without_checksum(packet(UDP, client, End(vips[0], PORT), 0, b"hello")));
            packets.push(without_checksum(packet(UDP, End(pods[0], TARGET), client, 0, b"hello")));
            packets.push(packet(TCP, client, End(vips[0], 81), SYN, b""));
            packets.push(ip(client.0, vips[0], 132, 0, &[0; 32]));
        }
    }
    let [_unseen, part] = in_parts(&packet(UDP, End(STRANGER4, 1), End(VIP4, PORT), 0, &[7; 64]), 24);
    packets.push(part);
    packets.push(error(STRANGER4, VIP4, &packet(TCP, End(VIP4, PORT), End(STRANGER4, 1), ACK, b"")));
    let segment = upper(TCP, End(CLIENT4, 40_000), End(VIP4, PORT), ACK, b"hello");
    packets.push(ip_with(CLIENT4, VIP4, TCP, 0, &[1; 20], &segment));
    packets
}

#[test]
#[ignore = "needs root: loads eBPF programs"]
fn packets_end_as_in_user_space() {
    let world = World::of_pods();
    let programs = Programs::new(&world);
    for _ in 0..2 {
        for (turn, packet) in packets().iter().enumerate() {
            for tags in [&[][..], &[7]] {
                programs.agrees(&world, &frame(tags, packet), &(turn, packet));
            }
        }
        programs.agrees_on_flows(&world);
    }
    let counters = PerCpuArray::<_, u64>::try_from(programs.object.map(map::HOST_REASONS).expect("there"));
    let counters = counters.expect("counters");
    let counted = |reason: Reason| counters.get(&reason.index(), 0).expect("a counter").iter().sum::<u64>();
    for reason in &Reason::ALL[Reason::ToPod as usize..=Reason::PodIcmpUnknown as usize] {
        let by_pods_alone = [Reason::ToPodMoved, Reason::PodNoneReady, Reason::PodPortTaken];
        assert!(counted(*reason) > 0 || by_pods_alone.contains(reason), "{}", reason.as_str());
    }
    assert_eq!(counted(Reason::NotPods), 0);
}

#[test]
#[ignore = "needs root: loads eBPF programs"]
fn damaged_packets_end_as_in_user_space() {
    let world = World::of_pods();
    let programs = Programs::new(&world);
    let packets = packets();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    for turn in 0..20_000 {
        let mut before = frame(&[], &packets[random(packets.len())]);
        for _ in 0..random(4) {
            let (at, value) = (14 + random(before.len() - 14), random(256));
            before[at] = value as u8;
        }
        if random(4) == 0 {
            // The kernel builds no packet of less than its first header says.
            before.truncate(54.max(random(before.len())).min(before.len()));
        }
        programs.agrees(&world, &before, &(turn, &before));
    }
    programs.agrees_on_flows(&world);
}

/// A pod's row is written while flows go on: what the programs read of it is what the tables say.
#[test]
#[ignore = "needs root: loads eBPF programs"]
fn changes_of_pods_are_seen_at_once() {
    let mut world = World::new();
    world.serve(VIP4, TCP, &PODS4[..2]);
    world.serve(OTHER_VIP4, TCP, &PODS4[..2]);
    let mut programs = Programs::new(&world);
    let clients: Vec<u16> = (1..200).collect();
    let send = |world: &World, programs: &Programs, flags| {
        for port in &clients {
            for vip in [VIP4, OTHER_VIP4] {
                let packet = packet(TCP, End(CLIENT4, *port), End(vip, PORT), flags, b"");
                programs.agrees(world, &frame(&[], &packet), &(port, vip, flags));
            }
        }
        programs.agrees_on_flows(world);
    };
    send(&world, &programs, SYN);
    for state in [Pod::DRAINING, Pod::NONE] {
        world.set(VIP4, TCP, PODS4[0], state);
        fill(&world, &mut programs.object);
        send(&world, &programs, ACK);
        send(&world, &programs, SYN);
    }
    world.set(VIP4, TCP, PODS4[1], Pod::DRAINING);
    fill(&world, &mut programs.object);
    send(&world, &programs, ACK);
    send(&world, &programs, SYN);
}

/// Ports and pods.
fn fill(world: &World, object: &mut Ebpf) {
    let mut pods = Array::<_, [u32; 10]>::try_from(object.map_mut(map::PODS).expect("there")).expect("an array");
    for (id, row) in world.pods.iter().enumerate() {
        pods.set(u32::try_from(id).expect("few"), pod_row(row), 0).expect("written");
    }
    let ports = object.map_mut(map::POD_PORTS).expect("there");
    let mut ports = HashMap::<_, [u32; 6], [u16; 1024]>::try_from(ports).expect("rows");
    for (key, row) in &world.ports {
        ports.insert(words(&[key.vip], &[key.port, key.protocol]), port_row(row), 0).expect("written");
    }
}
