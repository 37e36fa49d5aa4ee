//! Into pods and out of them: every translation comes to the packet that the other side would have built itself.

mod support;

use proptest::prelude::*;
use sluicegate_dsr::Reason;
use sluicegate_dsr::layout::{Pod, PodPort};
use sluicegate_dsr::layout::{TURN_MAC, TURNS};
use sluicegate_dsr::pod::{Delivery, Step, from_pod, to_pod};
use std::collections::BTreeMap;
use support::pods::*;
use support::{CLIENT4, CLIENT6, Frame, HOST4, HOST6, STRANGER4, VIP4, VIP6, frame, ip, ip_with};

/// What a packet becomes on its way in, and why.
fn inward(world: &World, packet: &[u8]) -> (Delivery, Vec<u8>) {
    let mut frame = Frame(frame(&[], packet));
    let verdict = to_pod(&mut frame, world);
    (verdict, frame.0.split_off(14))
}

fn outward(world: &World, packet: &[u8]) -> (Delivery, Vec<u8>) {
    let mut frame = Frame(frame(&[], packet));
    let verdict = from_pod(&mut frame, world);
    (verdict, frame.0.split_off(14))
}

/// The pod that a packet was sent to: that of which it is what the client would have sent there itself.
fn pod_of(after: &[u8], rebuilt: impl Fn(End<'static>) -> Vec<u8>) -> &'static str {
    let pods = if after[0] >> 4 == 4 { PODS4 } else { PODS6 };
    let found = pods.into_iter().find(|pod| rebuilt(End(pod, TARGET)) == after);
    found.unwrap_or_else(|| panic!("no pod's: {after:02x?}"))
}

fn sent(world: &World, client: End<'_>, vip: &str, protocol: u8, flags: u8) -> (Reason, Option<&'static str>) {
    let (verdict, after) = inward(world, &packet(protocol, client, End(vip, PORT), flags, b"hello"));
    let pod = match verdict {
        Delivery { reason: Reason::NotPods, .. } | Delivery { step: Step::Drop, .. } => None,
        _ => Some(pod_of(&after, |pod| packet(protocol, client, pod, flags, b"hello"))),
    };
    (verdict.reason, pod)
}

const CLIENT: End<'static> = End(CLIENT4, 40_000);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5_000))]

    /// There and back: the pod gets what the client would have sent to it, the client gets what the VIP would have sent.
    #[test]
    fn both_ways_come_to_what_the_ends_would_have_built(
        six in any::<bool>(),
        protocol in prop::sample::select(vec![TCP, UDP]),
        host in 1u8..255,
        port in 1u16..,
        flags in any::<u8>(),
        data in prop::collection::vec(any::<u8>(), 0..40),
        options in 0usize..10,
    ) {
        let world = World::of_pods();
        let (client, vip) = match six {
            true => (format!("2001:db8:1::{host:x}"), VIP6),
            false => (format!("198.51.100.{host}"), VIP4),
        };
        let client = End(&client, port);
        let options = if six { vec![] } else { vec![1; options * 4] };
        let build = |from: End<'_>, to: End<'_>| {
            ip_with(from.0, to.0, protocol, 0, &options, &upper(protocol, from, to, flags, &data))
        };
        let (verdict, after) = inward(&world, &build(client, End(vip, PORT)));
        prop_assert_eq!(verdict, Delivery::pass(Reason::ToPodNew));
        let pod = End(pod_of(&after, |pod| build(client, pod)), TARGET);
        let (verdict, after) = outward(&world, &build(pod, client));
        prop_assert_eq!(verdict, Delivery::pass(Reason::FromPod));
        prop_assert_eq!(after, build(End(vip, PORT), client));
        // And the flow is known now.
        let again = inward(&world, &build(client, End(vip, PORT)));
        let opens = protocol == TCP && flags & (SYN | ACK) == SYN;
        prop_assert_eq!(again, (Delivery::pass(Reason::ToPod), build(client, pod)), "opens: {}", opens);
    }

    /// Whatever comes: nothing panics, what is none of ours is as it was, and nothing but the ends and checksums ever changes.
    #[test]
    fn hostile_frames_change_nothing_else(
        kind in 0usize..6,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let world = World::of_pods();
        let _opened = sent(&world, CLIENT, VIP4, TCP, SYN);
        let mut before = frame(&[], &sample(kind));
        for (at, value) in changes {
            let at = at.index(before.len());
            before[at] = value;
        }
        if let Some(cut) = cut {
            before.truncate(cut.index(before.len()));
        }
        for out in [false, true] {
            let mut after = Frame(before.clone());
            let verdict = if out { from_pod(&mut after, &world) } else { to_pod(&mut after, &world) };
            prop_assert_eq!(after.0.len(), before.len());
            match verdict {
                Delivery { step: Step::Pass, reason: Reason::NotPods, .. } => prop_assert_eq!(&after.0, &before),
                Delivery { step: Step::Turn, .. } => prop_assert_ne!(before[26..30].to_vec(), [198, 51, 100, 7]),
                _ => {}
            }
            let changed = (0..before.len()).filter(|at| after.0[*at] != before[*at]).count();
            // Both addresses of an error and of what it quotes, IPv6; ports and four checksums.
            prop_assert!(changed <= 16 + 16 + 2 + 8, "{} bytes", changed);
        }
    }
}

/// Packets of all kinds.
fn sample(kind: usize) -> Vec<u8> {
    let six = End(CLIENT6, 40_000);
    match kind {
        0 => packet(TCP, CLIENT, End(VIP4, PORT), ACK, b"hello"),
        1 => packet(UDP, six, End(VIP6, PORT), 0, b"hello"),
        2 => in_parts(&packet(UDP, six, End(VIP6, PORT), 0, &[7; 64]), 16)[0].clone(),
        3 => error(STRANGER4, VIP4, &packet(TCP, End(VIP4, PORT), CLIENT, ACK, b"hello")),
        4 => error(HOST6, VIP6, &packet(UDP, End(VIP6, PORT), six, 0, b"hello")),
        _ => error(HOST4, CLIENT4, &packet(TCP, CLIENT, End(PODS4[0], TARGET), ACK, b"hello")),
    }
}

#[test]
fn new_flows_are_spread_over_the_ready_pods_evenly() {
    let world = World::of_pods();
    let mut pods = BTreeMap::new();
    for port in 1..=6000 {
        let (reason, pod) = sent(&world, End(CLIENT4, port), VIP4, TCP, SYN);
        assert_eq!(reason, Reason::ToPodNew);
        *pods.entry(pod).or_insert(0) += 1;
    }
    assert_eq!(pods.len(), 3);
    assert!(pods.values().all(|flows| (1800..2200).contains(flows)), "{pods:?}");
}

#[test]
fn a_draining_pod_keeps_its_flows_and_gets_no_others() {
    for protocol in [TCP, UDP] {
        let mut world = World::of_pods();
        let (_, first) = sent(&world, CLIENT, VIP4, protocol, SYN);
        let first = first.expect("a pod");
        world.set(VIP4, protocol, first, Pod::DRAINING);
        assert_eq!(sent(&world, CLIENT, VIP4, protocol, ACK), (Reason::ToPod, Some(first)));
        for port in 1..200 {
            let (reason, pod) = sent(&world, End(CLIENT4, port), VIP4, protocol, SYN);
            assert!(reason == Reason::ToPodNew && pod != Some(first));
        }
        if protocol == TCP {
            // The client has begun anew.
            let (reason, pod) = sent(&world, CLIENT, VIP4, TCP, SYN);
            assert!(reason == Reason::ToPodMoved && pod != Some(first));
        }
    }
}

#[test]
fn a_flow_whose_pod_is_gone_gets_another_one() {
    let mut world = World::of_pods();
    let (_, first) = sent(&world, CLIENT, VIP4, TCP, SYN);
    let first = first.expect("a pod");
    world.set(VIP4, TCP, first, Pod::NONE);
    let (reason, second) = sent(&world, CLIENT, VIP4, TCP, ACK);
    assert_eq!(reason, Reason::ToPodMoved);
    assert_ne!(second, Some(first));
    assert_eq!(sent(&world, CLIENT, VIP4, TCP, ACK), (Reason::ToPod, second));
    // Another pod in the row of a gone one is not the flow's.
    let row = world.pods.iter_mut().find(|pod| Some(pod.address) == second.map(support::address)).expect("its row");
    row.generation += 1;
    assert_eq!(sent(&world, CLIENT, VIP4, TCP, ACK).0, Reason::ToPodMoved);
}

#[test]
fn without_a_ready_pod_nothing_is_delivered() {
    let mut world = World::of_pods();
    let (_, first) = sent(&world, CLIENT, VIP4, TCP, SYN);
    for pod in PODS4 {
        world.set(VIP4, TCP, pod, Pod::DRAINING);
    }
    assert_eq!(sent(&world, End(CLIENT4, 1), VIP4, TCP, SYN), (Reason::PodNoneReady, None));
    assert_eq!(sent(&world, CLIENT, VIP4, TCP, ACK), (Reason::ToPod, first));
}

#[test]
fn what_no_pod_gets_is_the_hosts_where_it_has_the_vip() {
    let world = World::of_pods();
    let other_port = |vip| inward(&world, &packet(TCP, CLIENT, End(vip, 81), SYN, b"")).0;
    let sctp = |vip| inward(&world, &ip(CLIENT4, vip, 132, 0, &[0; 32])).0;
    let echo = |vip| inward(&world, &ip(CLIENT4, vip, 1, 0, &[8, 0, 0xf7, 0xff, 0, 0, 0, 0])).0;
    assert_eq!(other_port(VIP4), Delivery::drop(Reason::PodNoService));
    assert_eq!(sctp(VIP4), Delivery::drop(Reason::PodNoService));
    assert_eq!(echo(VIP4), Delivery::drop(Reason::PodIcmpUnknown));
    for verdict in [other_port(HOST_VIP4), sctp(HOST_VIP4), echo(HOST_VIP4), other_port(STRANGER4)] {
        assert_eq!(verdict, Delivery::pass(Reason::NotPods));
    }
}

#[test]
fn all_flows_of_a_client_go_to_one_pod_where_that_is_asked() {
    let mut world = World::of_pods();
    world.ports.values_mut().for_each(|port| port.flags = PodPort::BY_CLIENT);
    let mut all = std::collections::BTreeSet::new();
    for host in 1..40 {
        let client = format!("198.51.100.{host}");
        let pods: Vec<_> = (1..20).map(|port| sent(&world, End(&client, port), VIP4, TCP, SYN).1).collect();
        assert!(pods.windows(2).all(|two| two[0] == two[1]), "{client}: {pods:?}");
        all.insert(pods[0]);
    }
    assert_eq!(all.len(), 3);
}

/// One port of a client to two VIPs: their answers could not be told apart at one pod's port.
#[test]
fn two_flows_that_meet_on_one_pod_are_kept_apart() {
    let world = World::of_pods();
    // Both VIPs have the same pods; some of the clients' ports meet.
    let mut met = 0;
    for port in 1..300 {
        let client = End(CLIENT4, port);
        let (_, one) = sent(&world, client, VIP4, TCP, SYN);
        let (reason, other) = sent(&world, client, OTHER_VIP4, TCP, SYN);
        assert_eq!(reason, Reason::ToPodNew);
        assert_ne!(one, other, "port {port}");
        met += 1;
        for (vip, pod) in [(VIP4, one), (OTHER_VIP4, other)] {
            let reply = packet(TCP, End(pod.expect("a pod"), TARGET), client, ACK, b"");
            assert_eq!(outward(&world, &reply).1, packet(TCP, End(vip, PORT), client, ACK, b""));
            assert_eq!(sent(&world, client, vip, TCP, ACK), (Reason::ToPod, pod));
        }
    }
    assert_eq!(met, 299);
}

#[test]
fn the_second_of_two_flows_that_meet_waits_until_the_first_is_over() {
    let one_pod = || {
        let mut world = World::new();
        for protocol in [TCP, UDP] {
            world.serve(VIP4, protocol, &PODS4[..1]);
            world.serve(OTHER_VIP4, protocol, &PODS4[..1]);
            assert_eq!(sent(&world, CLIENT, VIP4, protocol, SYN).0, Reason::ToPodNew);
            let second = sent(&world, CLIENT, OTHER_VIP4, protocol, SYN);
            assert_eq!(second, (Reason::PodPortTaken, None));
        }
        world
    };
    let end = |world: &World, flags| outward(world, &packet(TCP, End(PODS4[0], TARGET), CLIENT, flags, b""));
    let is_free = |world: &World, protocol, flags| {
        let (reason, pod) = sent(world, CLIENT, OTHER_VIP4, protocol, flags);
        assert_eq!((reason, pod), (Reason::ToPodNew, Some(PODS4[0])));
        // And what is left of the first one does not get it back.
        assert_eq!(sent(world, CLIENT, VIP4, protocol, ACK).0, Reason::PodPortTaken);
    };
    // A FIN of one side is not the end.
    let world = one_pod();
    end(&world, FIN | ACK);
    assert_eq!(sent(&world, CLIENT, OTHER_VIP4, TCP, SYN).0, Reason::PodPortTaken);
    sent(&world, CLIENT, VIP4, TCP, FIN | ACK);
    is_free(&world, TCP, SYN);
    let world = one_pod();
    end(&world, RST);
    is_free(&world, TCP, SYN);
    let world = one_pod();
    world.now.set(world.now.get() + 600);
    assert_eq!(sent(&world, CLIENT, OTHER_VIP4, TCP, SYN).0, Reason::PodPortTaken);
    is_free(&world, UDP, 0);
    world.now.set(world.now.get() + 241);
    is_free(&world, TCP, SYN);
}

#[test]
fn a_flow_that_begins_anew_is_not_over() {
    let mut world = World::new();
    world.serve(VIP4, TCP, &PODS4[..1]);
    world.serve(OTHER_VIP4, TCP, &PODS4[..1]);
    for flags in [SYN, RST, SYN] {
        assert!(sent(&world, CLIENT, VIP4, TCP, flags).1.is_some());
    }
    assert_eq!(sent(&world, CLIENT, OTHER_VIP4, TCP, SYN).0, Reason::PodPortTaken);
}

#[test]
fn a_silent_flow_of_udp_is_picked_anew() {
    let mut world = World::of_pods();
    let (_, pod) = sent(&world, CLIENT, VIP4, UDP, 0);
    world.set(VIP4, UDP, pod.expect("a pod"), Pod::DRAINING);
    world.now.set(world.now.get() + 100);
    assert_eq!(sent(&world, CLIENT, VIP4, UDP, 0), (Reason::ToPod, pod));
    world.now.set(world.now.get() + 200);
    let (reason, other) = sent(&world, CLIENT, VIP4, UDP, 0);
    assert!(reason == Reason::ToPodMoved && other != pod);
}

#[test]
fn a_datagram_without_checksum_stays_without() {
    let world = World::of_pods();
    for (client, vip) in [(CLIENT, End(VIP4, PORT)), (End(CLIENT6, 40_000), End(VIP6, PORT))] {
        let (_, after) = inward(&world, &without_checksum(packet(UDP, client, vip, 0, b"hello")));
        let pod = End(pod_of(&after, |pod| without_checksum(packet(UDP, client, pod, 0, b"hello"))), TARGET);
        let (_, after) = outward(&world, &without_checksum(packet(UDP, pod, client, 0, b"world")));
        assert_eq!(after, without_checksum(packet(UDP, vip, client, 0, b"world")));
    }
}

/// A sum of 0 is written as 0xffff, since 0 says that there is none.
#[test]
fn a_checksum_that_comes_to_zero_is_not_lost() {
    let mut world = World::new();
    world.serve(VIP4, UDP, &PODS4[..1]);
    let (mut zeros, pod) = (0, End(PODS4[0], TARGET));
    for salt in 0..=u16::MAX {
        let data = salt.to_be_bytes();
        let wanted = packet(UDP, CLIENT, pod, 0, &data);
        if wanted[26..28] == [0xff; 2] {
            assert_eq!(inward(&world, &packet(UDP, CLIENT, End(VIP4, PORT), 0, &data)).1, wanted);
            zeros += 1;
        }
    }
    assert!(zeros > 0);
}

#[test]
fn the_first_part_of_a_datagram_says_where_the_others_go() {
    let world = World::of_pods();
    for (client, vip) in [(CLIENT, End(VIP4, PORT)), (End(CLIENT6, 40_000), End(VIP6, PORT))] {
        let data = [7; 64];
        let [first, second] = in_parts(&packet(UDP, client, vip, 0, &data), 24);
        assert_eq!(inward(&world, &second).0, Delivery::drop(Reason::PodPartUnknown));
        let (verdict, after) = inward(&world, &first);
        assert_eq!(verdict, Delivery::pass(Reason::ToPodNew));
        let pod = End(pod_of(&after, |pod| in_parts(&packet(UDP, client, pod, 0, &data), 24)[0].clone()), TARGET);
        let whole = in_parts(&packet(UDP, client, pod, 0, &data), 24);
        assert_eq!(inward(&world, &second), (Delivery::pass(Reason::ToPodPart), whole[1].clone()));
        // And back.
        let [first, second] = in_parts(&packet(UDP, pod, client, 0, &data), 24);
        let wanted = in_parts(&packet(UDP, vip, client, 0, &data), 24);
        assert_eq!(outward(&world, &second), (Delivery::pass(Reason::NotPods), second.clone()));
        assert_eq!(outward(&world, &first), (Delivery::pass(Reason::FromPod), wanted[0].clone()));
        assert_eq!(outward(&world, &second), (Delivery::pass(Reason::FromPodPart), wanted[1].clone()));
        // Later than anybody waits, the identification is another datagram's.
        world.now.set(world.now.get() + 31);
        assert_eq!(outward(&world, &second).0, Delivery::pass(Reason::NotPods));
    }
}

#[test]
fn errors_about_a_flow_are_translated_with_what_they_quote() {
    let world = World::of_pods();
    for (client, vip, router, host) in
        [(CLIENT, End(VIP4, PORT), STRANGER4, HOST4), (End(CLIENT6, 40_000), End(VIP6, PORT), "2001:db8:9::1", HOST6)]
    {
        for protocol in [TCP, UDP] {
            let (_, after) = inward(&world, &packet(protocol, client, vip, SYN, b"hello"));
            let pod = End(pod_of(&after, |pod| packet(protocol, client, pod, SYN, b"hello")), TARGET);
            let header: usize = if client.0.contains(':') { 40 } else { 20 };
            // As much as is quoted at least, a checksum and no more, and all of it.
            for quoted in [8_usize, 18, 24, 1000] {
                let of = |from, to| {
                    let whole = packet(protocol, from, to, ACK, b"as large as it is");
                    whole[..whole.len().min(header + quoted)].to_vec()
                };
                let (verdict, after) = inward(&world, &error(router, vip.0, &of(vip, client)));
                assert_eq!(verdict, Delivery::pass(Reason::ToPodIcmp), "{client:?} {protocol} {quoted}");
                assert_eq!(after, error(router, pod.0, &of(pod, client)), "{client:?} {protocol} {quoted}");
                // The pod's own, and one of the host in its name.
                for from in [pod.0, host] {
                    let (verdict, after) = outward(&world, &error(from, client.0, &of(client, pod)));
                    assert_eq!(verdict, Delivery::pass(Reason::FromPodIcmp), "{client:?} {protocol} {quoted}");
                    assert_eq!(after, error(vip.0, client.0, &of(client, vip)), "{client:?} {protocol} {quoted}");
                }
            }
            let strange = packet(protocol, vip, End(client.0, 5), ACK, b"");
            assert_eq!(inward(&world, &error(router, vip.0, &strange)).0, Delivery::drop(Reason::PodIcmpUnknown));
            let strange = error(pod.0, client.0, &packet(protocol, End(client.0, 5), pod, ACK, b""));
            assert_eq!(outward(&world, &strange), (Delivery::pass(Reason::NotPods), strange));
        }
    }
}

#[test]
fn what_a_pod_sends_on_its_own_stays_its_own() {
    let mut world = World::of_pods();
    let _flow = sent(&world, CLIENT, VIP4, TCP, SYN);
    for other in [End(CLIENT4, 5), End(STRANGER4, 40_000)] {
        let own = packet(TCP, End(PODS4[0], TARGET), other, ACK, b"");
        assert_eq!(outward(&world, &own), (Delivery::pass(Reason::NotPods), own));
    }
    // A host without pods looks nothing up.
    world.host.control.flags = 0;
    for pod in PODS4 {
        let reply = packet(TCP, End(pod, TARGET), CLIENT, ACK, b"");
        assert_eq!(outward(&world, &reply), (Delivery::pass(Reason::NotPods), reply));
    }
}

#[test]
fn half_a_header_is_dropped_by_name() {
    let world = World::of_pods();
    let whole = packet(TCP, CLIENT, End(VIP4, PORT), SYN, b"");
    for length in [0, 7, 8, 19] {
        let short = ip(CLIENT4, VIP4, TCP, 0, &whole[20..20 + length]);
        // Padding of the Ethernet frame is no header.
        for padding in [0, 46] {
            let before = [&short[..], &vec![0; padding]].concat();
            assert_eq!(inward(&world, &before).0, Delivery::drop(Reason::PodMalformed), "{length} bytes");
        }
    }
    assert!(world.flows.borrow().is_empty());
}

/// A client of the host itself: the pods see another address of it, and answer to that.
#[test]
fn clients_of_the_host_itself_come_in_by_another_way() {
    let world = World::of_pods();
    for (host, vip, turned) in [(HOST4, VIP4, "169.254.83.1"), (HOST6, VIP6, "fd53:4750:4f44::1")] {
        for protocol in [TCP, UDP] {
            let (client, vip, seen) = (End(host, 40_000), End(vip, PORT), End(turned, 40_000));
            let data = [7; 64];
            let mut before = Frame(frame(&[], &packet(protocol, client, vip, SYN, &data)));
            let mac = before.0[..6].to_vec();
            assert_eq!(to_pod(&mut before, &world), Delivery::turn(Reason::ToPodNew, TURN));
            assert_eq!(before.0[..6], TURN_MAC[..6]);
            let pod = End(pod_of(&before.0[14..], |pod| packet(protocol, seen, pod, SYN, &data)), TARGET);
            // The answer comes in where the client's packet did.
            let mut reply = Frame(frame(&[], &packet(protocol, pod, seen, ACK, &data)));
            assert_eq!(from_pod(&mut reply, &world), Delivery::turn(Reason::FromPod, 1));
            assert_eq!(reply.0[..6], mac);
            assert_eq!(reply.0[14..], packet(protocol, vip, client, ACK, &data));
            // Parts, and errors.
            let sent = in_parts(&packet(protocol, client, vip, ACK, &data), 24);
            let wanted = in_parts(&packet(protocol, seen, pod, ACK, &data), 24);
            assert_eq!(inward(&world, &sent[0]), (Delivery::turn(Reason::ToPod, TURN), wanted[0].clone()));
            assert_eq!(inward(&world, &sent[1]), (Delivery::turn(Reason::ToPodPart, TURN), wanted[1].clone()));
            let sent = in_parts(&packet(protocol, pod, seen, ACK, &data), 24);
            let wanted = in_parts(&packet(protocol, vip, client, ACK, &data), 24);
            assert_eq!(outward(&world, &sent[0]), (Delivery::turn(Reason::FromPod, 1), wanted[0].clone()));
            assert_eq!(outward(&world, &sent[1]), (Delivery::turn(Reason::FromPodPart, 1), wanted[1].clone()));
            let told = outward(&world, &error(pod.0, seen.0, &packet(protocol, seen, pod, ACK, &data)));
            let wanted = error(vip.0, client.0, &packet(protocol, client, vip, ACK, &data));
            assert_eq!(told, (Delivery::turn(Reason::FromPodIcmp, 1), wanted));
            let told = inward(&world, &error(client.0, vip.0, &packet(protocol, vip, client, ACK, &data)));
            let wanted = error(seen.0, pod.0, &packet(protocol, pod, seen, ACK, &data));
            assert_eq!(told, (Delivery::turn(Reason::ToPodIcmp, TURN), wanted));
        }
    }
}

/// Where they meet on one pod, clients of the host itself get more addresses instead of another pod.
#[test]
fn flows_of_the_host_itself_that_meet_are_told_apart_by_address() {
    let mut world = World::new();
    let vips: Vec<String> = (0..=TURNS).map(|vip| format!("192.0.2.{}", 100 + vip)).collect();
    for vip in &vips {
        world.serve(vip, TCP, &PODS4[..1]);
    }
    let client = End(HOST4, 40_000);
    for (turn, vip) in (1..).zip(&vips) {
        let (verdict, after) = inward(&world, &packet(TCP, client, End(vip, PORT), SYN, b""));
        if turn <= TURNS {
            let seen = format!("169.254.83.{turn}");
            assert_eq!(verdict, Delivery::turn(Reason::ToPodNew, TURN));
            assert_eq!(after, packet(TCP, End(&seen, 40_000), End(PODS4[0], TARGET), SYN, b""));
        } else {
            assert_eq!(verdict, Delivery::drop(Reason::PodPortTaken));
        }
    }
    // Without the interface they are as any other.
    world.host.control.turn = 0;
    let other = packet(TCP, End(HOST4, 5), End(&vips[0], PORT), SYN, b"");
    assert_eq!(inward(&world, &other).0, Delivery::pass(Reason::ToPodNew));
}
