//! What the packet path sends is right by itself: every checksum, every length, what was copied and what was not.

mod world;

use sluicegate_l4::forward;
use sluicegate_l4::layout::{Backend, Service};
use sluicegate_l4::verdict::{Reason, Verdict};
use world::memory::{MemoryFrame, MemoryTables};
use world::{DIRECTOR, INGRESS, Ip, REAL, ROUTER, UDP, arp, icmp, icmp6, naive_checksum, pseudo, tcp, udp};

const V6: &str = "2001:db8::10";
const CLIENT6: &str = "2001:db8:1::7";

/// Tables with one backend of this kind behind every port of both VIPs.
fn tables(backend: Backend) -> MemoryTables {
    let mut tables = MemoryTables::new(16);
    let id = tables.add_backend(backend);
    let ring = tables.add_ring(&[id]);
    for address in ["192.0.2.10", V6] {
        let vip = tables.add_vip(address.parse().expect("an address"), 1);
        tables.add_service(vip, 0, 0, Service { ring, ring_slots: 1, ..Service::default() });
    }
    tables.interfaces.insert(INGRESS, sluicegate_l4::layout::Interface { mac: DIRECTOR, mtu: 1500 });
    tables
}

fn run(tables: &MemoryTables, frame: &[u8]) -> (Verdict, Vec<u8>) {
    let mut packet = MemoryFrame::new(frame, INGRESS);
    let verdict = forward(&mut packet, tables);
    (verdict, packet.bytes().to_vec())
}

/// The packet as it must arrive: one hop less, and nothing else.
fn one_hop_less(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    if packet[0] >> 4 == 4 {
        packet[8] -= 1;
        packet[10..12].copy_from_slice(&[0, 0]);
        let sum = naive_checksum(&packet[..20]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    } else {
        packet[7] -= 1;
    }
    packet
}

fn be16(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]))
}

fn clients() -> [Ip<'static>; 4] {
    let six = Ip { source: CLIENT6, destination: V6, ..Ip::default() };
    [
        Ip { class: 0xb9, ..Ip::default() },
        Ip { protocol: UDP, payload: udp(9, 53, 33), class: 0x03, ..Ip::default() },
        Ip { class: 0x2e, payload: tcp(1, 80, 0x18, 1000), ..six },
        Ip { source: CLIENT6, destination: V6, protocol: UDP, payload: udp(9, 53, 1), ..Ip::default() },
    ]
}

#[test]
fn l2_changes_macs_and_one_hop() {
    for client in clients() {
        let (verdict, sent) = run(&tables(world::backend(Backend::KIND_L2, &[], 0)), &client.frame());
        assert_eq!(verdict, Verdict::Transmit(Reason::FlowNew));
        assert_eq!(sent[..6], REAL);
        assert_eq!(sent[6..12], DIRECTOR);
        assert_eq!(sent[14..], one_hop_less(&client.packet()));
    }
}

#[test]
fn tunnels_are_well_formed() {
    for kind in [Backend::KIND_IP4, Backend::KIND_IP6, Backend::KIND_GUE4, Backend::KIND_GUE6] {
        let mut ports = std::collections::BTreeSet::new();
        for client in clients() {
            let (verdict, sent) = run(&tables(world::backend(kind, &[], 0)), &client.frame());
            assert_eq!(verdict, Verdict::Transmit(Reason::FlowNew));
            assert_eq!(sent[..12], [REAL, DIRECTOR].concat());
            let inner = one_hop_less(&client.packet());
            let is_gue = matches!(kind, Backend::KIND_GUE4 | Backend::KIND_GUE6);
            let inside = if inner[0] >> 4 == 4 { 4 } else { 41 };
            let outer = &sent[14..];
            let header = if matches!(kind, Backend::KIND_IP4 | Backend::KIND_GUE4) {
                assert_eq!(sent[12..14], [0x08, 0x00]);
                assert_eq!(naive_checksum(&outer[..20]), 0, "kind {kind}");
                assert_eq!((outer[0], outer[1]), (0x45, client.class));
                assert_eq!(be16(outer, 2), outer.len());
                assert_eq!(outer[9], if is_gue { UDP } else { inside });
                assert_eq!(outer[12..20], [198, 51, 100, 1, 198, 51, 100, 9]);
                20
            } else {
                assert_eq!(sent[12..14], [0x86, 0xdd]);
                assert_eq!((be16(outer, 0) >> 4) as u8, client.class);
                assert_eq!(outer[0] >> 4, 6);
                assert_eq!(be16(outer, 4), outer.len() - 40);
                assert_eq!(outer[6], if is_gue { UDP } else { inside });
                assert_eq!(outer[7], 64);
                assert_eq!(outer[8..24], "2001:db8:f::1".parse::<std::net::Ipv6Addr>().expect("one").octets());
                40
            };
            let inner_at = if is_gue {
                let udp = &outer[header..];
                assert!(be16(udp, 0) >= 49_152);
                ports.insert(be16(udp, 0));
                assert_eq!((be16(udp, 2), be16(udp, 4), be16(udp, 6)), (6080, udp.len(), 0));
                header + 8
            } else {
                header
            };
            assert_eq!(outer[inner_at..], inner, "kind {kind}");
        }
        assert!(ports.len() != 1, "flows are spread by the source port");
    }
}

#[test]
fn tags_are_kept_on_the_same_port_and_replaced_by_those_of_the_head() {
    let tags = [0x88, 0xa8, 0, 9, 0x81, 0, 0, 5];
    let tagged = Ip { tags: &tags, ..Ip::default() };
    let (_, sent) = run(&tables(world::backend(Backend::KIND_L2, &[], 0)), &tagged.frame());
    assert_eq!(sent[12..20], tags);
    assert_eq!(sent[20..22], [8, 0]);
    let (_, sent) = run(&tables(world::backend(Backend::KIND_IP6, &[], 0)), &tagged.frame());
    assert_eq!(sent[12..20], tags);
    assert_eq!(sent[20..22], [0x86, 0xdd]);
    let (verdict, sent) = run(&tables(world::backend(Backend::KIND_IP4, &[], 9)), &tagged.frame());
    assert_eq!(verdict, Verdict::Redirect(Reason::FlowNew, 9));
    assert_eq!(sent[12..15], [8, 0, 0x45]);
    let (_, sent) = run(&tables(world::backend(Backend::KIND_GUE4, &[0x81, 0, 0, 7], 9)), &tagged.frame());
    assert_eq!(sent[12..19], [0x81, 0, 0, 7, 8, 0, 0x45]);
}

#[test]
fn too_big_is_told_with_the_mtu() {
    let big = Ip { payload: tcp(40_000, 80, 0x10, 1400), ..Ip::default() };
    let (verdict, sent) = run(&tables(world::backend(Backend::KIND_IP4, &[], 0)), &big.frame());
    assert_eq!(verdict, Verdict::Transmit(Reason::TooBigAnswered));
    assert_eq!(sent[..12], [ROUTER, DIRECTOR].concat());
    let answer = &sent[14..];
    assert_eq!(naive_checksum(&answer[..20]), 0);
    assert_eq!(be16(answer, 2), answer.len());
    assert_eq!(answer[12..20], [192, 0, 2, 10, 198, 51, 100, 7]);
    assert_eq!(naive_checksum(&answer[20..]), 0);
    assert_eq!((answer[20], answer[21], be16(answer, 26)), (3, 4, 1400));
    assert_eq!(answer[28..], big.packet()[..28]);

    let may_be_cut = Ip { fragment: 0, ..big };
    let (verdict, _) = run(&tables(world::backend(Backend::KIND_IP4, &[], 0)), &may_be_cut.frame());
    assert_eq!(verdict, Verdict::Drop(Reason::TooBig));

    let big = Ip { source: CLIENT6, destination: V6, payload: tcp(1, 80, 0x10, 1400), ..Ip::default() };
    let (verdict, sent) = run(&tables(world::backend(Backend::KIND_IP6, &[], 0)), &big.frame());
    assert_eq!(verdict, Verdict::Transmit(Reason::TooBigAnswered));
    let answer = &sent[14..];
    assert_eq!(be16(answer, 4), answer.len() - 40);
    assert_eq!(naive_checksum(&[pseudo(V6, CLIENT6, answer.len() - 40, 58), answer[40..].to_vec()].concat()), 0);
    assert_eq!((answer[40], be16(answer, 46)), (2, 1400));
    assert_eq!(answer[48..], big.packet()[..answer.len() - 48]);
}

#[test]
fn echo_arp_and_ndp_are_answered() {
    let tables = tables(world::backend(Backend::KIND_L2, &[], 0));
    let ping = Ip { protocol: 1, payload: icmp(8, 0, [0, 1, 0, 2], b"ping pong"), ..Ip::default() };
    let (verdict, sent) = run(&tables, &ping.frame());
    assert_eq!(verdict, Verdict::Transmit(Reason::EchoAnswered));
    assert_eq!(sent[26..34], [192, 0, 2, 10, 198, 51, 100, 7]);
    assert_eq!((naive_checksum(&sent[14..34]), naive_checksum(&sent[34..]), sent[34]), (0, 0, 0));

    let ping = Ip {
        source: CLIENT6,
        destination: V6,
        protocol: 58,
        payload: icmp6(CLIENT6, V6, 128, [0, 1, 0, 2], b"odd"),
        ..Ip::default()
    };
    let (verdict, sent) = run(&tables, &ping.frame());
    assert_eq!(verdict, Verdict::Transmit(Reason::EchoAnswered));
    assert_eq!(naive_checksum(&[pseudo(V6, CLIENT6, sent.len() - 54, 58), sent[54..].to_vec()].concat()), 0);

    let (verdict, sent) = run(&tables, &arp([198, 51, 100, 7], [192, 0, 2, 10]));
    assert_eq!(verdict, Verdict::Transmit(Reason::ArpAnswered));
    assert_eq!(sent[..12], [ROUTER, DIRECTOR].concat());
    assert_eq!(sent[20..42], [&[0, 2][..], &DIRECTOR, &[192, 0, 2, 10], &ROUTER, &[198, 51, 100, 7]].concat());

    let target = V6.parse::<std::net::Ipv6Addr>().expect("an address").octets();
    for (source, to, options, flags) in
        [(CLIENT6, CLIENT6, &[1_u8, 1, 2, 0, 0, 0, 0, 1][..], 0x60), ("::", "ff02::1", &[], 0x20)]
    {
        let group = "ff02::1:ff00:10";
        let body = [&target[..], options].concat();
        let question = Ip {
            source,
            destination: group,
            protocol: 58,
            hops: 255,
            payload: icmp6(source, group, 135, [0; 4], &body),
            ..Ip::default()
        };
        let (verdict, sent) = run(&tables, &question.frame());
        assert_eq!(verdict, Verdict::Transmit(Reason::NdpAnswered));
        assert_eq!((sent.len(), sent[54], sent[58], sent[21]), (86, 136, flags, 255));
        assert_eq!(sent[78..86], [&[2, 1][..], &DIRECTOR].concat());
        assert_eq!(naive_checksum(&[pseudo(V6, to, 32, 58), sent[54..].to_vec()].concat()), 0);
    }
}

/// A world with one slot behind GUE of this kind, which has a former owner.
fn chance(kind: u8, former: &str) -> MemoryTables {
    let mut tables = MemoryTables::new(16);
    let present = tables.add_backend(world::backend(kind, &[], 0));
    let address = world::memory::words(former.parse().expect("an address"));
    let before = tables.add_backend(Backend { address, ..world::backend(kind, &[], 0) });
    let (ring, former_ring) = (tables.add_ring(&[present]), tables.add_ring(&[before]));
    for address in ["192.0.2.10", V6] {
        let vip = tables.add_vip(address.parse().expect("an address"), 1);
        let flags = Service::FLAG_SECOND_CHANCE;
        let service = Service { ring, ring_slots: 1, former_ring, flags, ..Service::default() };
        tables.add_service(vip, 0, 0, service);
    }
    tables.interfaces.insert(INGRESS, sluicegate_l4::layout::Interface { mac: DIRECTOR, mtu: 1500 });
    tables
}

#[test]
fn an_unknown_flow_is_sent_with_its_former_owner_again_and_again() {
    let six = Ip { source: CLIENT6, destination: V6, ..Ip::default() };
    let cases = [(Backend::KIND_GUE4, "203.0.113.21", 34, 12), (Backend::KIND_GUE6, "2001:db8:2::21", 54, 24)];
    for (kind, former, udp_at, added) in cases {
        for (client, inside) in [(Ip { class: 0xb9, ..Ip::default() }, 4), (Ip { class: 0x2e, ..six.clone() }, 41)] {
            let tables = chance(kind, former);
            for _ in 0..3 {
                let (verdict, sent) = run(&tables, &client.frame());
                assert_eq!(verdict, Verdict::Transmit(Reason::SecondChance));
                let outer = &sent[14..];
                if kind == Backend::KIND_GUE4 {
                    assert_eq!(naive_checksum(&outer[..20]), 0);
                    assert_eq!((be16(outer, 2), outer[1]), (outer.len(), client.class));
                } else {
                    assert_eq!((be16(outer, 4), (be16(outer, 0) >> 4) as u8), (outer.len() - 40, client.class));
                }
                let udp = &sent[udp_at..];
                assert_eq!((be16(udp, 2), be16(udp, 4), be16(udp, 6)), (6080, udp.len(), 0));
                let gue = &udp[8..];
                assert_eq!(gue[..8], [(added / 4 - 1) as u8, inside, 0, 0, b'S', b'G', 1, 0]);
                let address: Vec<u8> = match former.parse().expect("an address") {
                    std::net::IpAddr::V4(address) => address.octets().into(),
                    std::net::IpAddr::V6(address) => address.octets().into(),
                };
                assert_eq!(gue[8..added], address);
                assert_eq!(gue[added..], one_hop_less(&client.packet()));
            }
            assert!(tables.flows.iter().flatten().all(|word| word.load(std::sync::atomic::Ordering::Relaxed) == 0));
        }
    }
}

#[test]
fn who_opens_a_connection_gets_the_present_owner_and_keeps_it() {
    let tables = chance(Backend::KIND_GUE4, "203.0.113.21");
    let segment = |flags| Ip { payload: tcp(40_000, 80, flags, 0), ..Ip::default() }.frame();
    let (verdict, sent) = run(&tables, &segment(0x02));
    assert_eq!((verdict, sent[42]), (Verdict::Transmit(Reason::FlowNew), 0x45));
    let (verdict, sent) = run(&tables, &segment(0x10));
    assert_eq!((verdict, sent[42]), (Verdict::Transmit(Reason::FlowHit), 0x45));
}

#[test]
fn only_tcp_over_gue_to_somebody_else_who_lives_has_a_second_chance() {
    let plain = |tables: &MemoryTables, frame: Vec<u8>| run(tables, &frame).0;
    let tables = chance(Backend::KIND_GUE4, "203.0.113.21");
    let datagram = Ip { protocol: UDP, payload: udp(9, 53, 33), ..Ip::default() }.frame();
    assert_eq!(plain(&tables, datagram), Verdict::Transmit(Reason::FlowNew));
    let ack = || Ip::default().frame();
    let changes: [fn(&mut MemoryTables); 6] = [
        |tables| tables.backends[2].alive = 0,
        |tables| tables.backends[2].kind = Backend::KIND_IP4,
        |tables| tables.rings[1 << 6..].iter_mut().for_each(|line| line.slots[0] = 0),
        |tables| tables.services.iter_mut().for_each(|service| service.flags = 0),
        |tables| tables.services.iter_mut().for_each(|service| service.former_ring = service.ring),
        |tables| tables.services.iter_mut().for_each(|service| service.former_ring = u32::MAX),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let mut tables = chance(Backend::KIND_GUE4, "203.0.113.21");
        assert_eq!(plain(&tables, ack()), Verdict::Transmit(Reason::SecondChance));
        change(&mut tables);
        assert_eq!(plain(&tables, ack()), Verdict::Transmit(Reason::FlowNew), "change {number}");
    }
}

#[test]
fn what_fits_without_the_former_owner_alone_is_answered_with_what_fits() {
    let tables = chance(Backend::KIND_GUE4, "203.0.113.21");
    // The backend's MTU is 1400; the header takes 12.
    let packet = |data| Ip { payload: tcp(40_000, 80, 0x10, data), ..Ip::default() }.frame();
    assert_eq!(run(&tables, &packet(1388 - 40)).0, Verdict::Transmit(Reason::SecondChance));
    let (verdict, answer) = run(&tables, &packet(1389 - 40));
    assert_eq!(verdict, Verdict::Transmit(Reason::TooBigAnswered));
    assert_eq!((answer[34], answer[35], be16(&answer, 40)), (3, 4, 1388));
    let spent = Ip { hops: 1, ..Ip::default() }.frame();
    assert_eq!(run(&tables, &spent).0, Verdict::Drop(Reason::TtlExpired));
}
