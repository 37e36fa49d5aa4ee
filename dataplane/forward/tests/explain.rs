//! `explain` says what the packet path does: packets at random go through both, and the answer that was given before is
//! what then happens.

mod plan_support;

use plan_support::{Director, SETTINGS, fleet, ip, real, service, way};
use sluicegate_config::{Method, Persistence, Scheduler, TransportProtocol};
use sluicegate_forward::allocations::Geometry;
use sluicegate_forward::engine::Passing;
use sluicegate_forward::explain::{Explanation, Facts, Outer, WayOut, explain};
use sluicegate_forward::fleet::{Delivery, Fleet, FleetReal, ServiceKey, Status};
use sluicegate_forward::head::address_from_words;
use sluicegate_forward::packet_tuple::PacketTuple;
use sluicegate_forward::ports::Port;
use sluicegate_forward::tables::Tables as Image;
use sluicegate_forward::topology::VlanTag;
use sluicegate_l4::layout::{
    AddressBucket, Backend, Control, FLOW_WAYS, Interface, PortMacs, RING_LINE_SLOTS, Service, ServiceBucket,
};
use sluicegate_l4::verdict::{Reason, Verdict};
use sluicegate_l4::{FlowPlaces, Packet, Tables, forward};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::ops::Deref;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

const PORT: u32 = 7;
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];
const SETS: usize = 64;
const STAMP_SHIFT: u32 = 11;

/// The packet path with a flow table that remembers.
struct World {
    image: Image,
    flows: Vec<AtomicU64>,
    overflows: Vec<AtomicU8>,
    control: Control,
    now: u64,
    backend: Cell<u16>,
    turns: Cell<u64>,
}

impl World {
    fn new(director: &Director) -> Self {
        let control = Control {
            live_until: u64::MAX,
            flow_secret: 0x1234_5678_9abc_def1,
            flow_mask: SETS as u32 - 1,
            stamp_shift: STAMP_SHIFT,
            ..Control::default()
        };
        Self {
            image: director.allocations.tables().clone(),
            flows: std::iter::repeat_with(AtomicU64::default).take(SETS * FLOW_WAYS).collect(),
            overflows: std::iter::repeat_with(AtomicU8::default).take(SETS).collect(),
            control,
            now: 1 << 20,
            backend: Cell::new(0),
            turns: Cell::new(0),
        }
    }

    /// What happens to a packet: its reason, and where it goes.
    fn send(&self, packet: &PacketTuple) -> (Reason, Option<IpAddr>) {
        self.backend.set(0);
        let mut frame = Frame { room: 128, bytes: [vec![0; 128], frame(packet)].concat() };
        let verdict = forward(&mut frame, self);
        let backend = self.image.backends.get(&self.backend.get());
        let forwarded = matches!(verdict, Verdict::Transmit(_) | Verdict::Redirect(..));
        (verdict.reason(), backend.filter(|_| forwarded).map(|backend| address_from_words(backend.address)))
    }

    fn explain(&self, director: &Director, packet: &PacketTuple) -> Explanation {
        self.explain_held(director, packet, Duration::from_millis(400))
    }

    /// The same, with the fences of VIPs so far ahead.
    fn explain_held(&self, director: &Director, packet: &PacketTuple, fence: Duration) -> Explanation {
        let (name, asked_as) = ("eth0".to_owned(), "eth0".to_owned());
        let port = Port { index: PORT, name, mac: MAC, macs: vec![MAC], mtu: 1500, asked_as };
        explain(
            packet,
            &Facts {
                fleet: &director.fleet,
                failures: &director.failures,
                allocations: &director.allocations,
                passing: Passing {
                    control: self.control,
                    now: self.now,
                    flows: &self.flows,
                    overflows: &self.overflows,
                    stamp_length: Duration::from_secs(8),
                },
                fence: &|_| fence,
                ports: &BTreeMap::from([(PORT, port)]),
            },
        )
    }
}

impl Tables for World {
    fn control(&self) -> Option<impl Deref<Target = Control>> {
        Some(&self.control)
    }
    fn now(&self) -> u64 {
        self.now
    }
    fn address_bucket(&self, index: u32) -> Option<impl Deref<Target = AddressBucket>> {
        self.image.addresses.get(index as usize)
    }
    fn service_bucket(&self, index: u32) -> Option<impl Deref<Target = ServiceBucket>> {
        self.image.service_index.get(index as usize)
    }
    fn service(&self, id: u16) -> Option<impl Deref<Target = Service>> {
        self.image.services.get(&id)
    }
    fn ring_slot(&self, ring: u32, slot: u32) -> Option<u16> {
        let line = self.image.rings.get(&ring)?.get((slot / RING_LINE_SLOTS) as usize)?;
        line.slots.get((slot % RING_LINE_SLOTS) as usize).copied()
    }
    fn backend(&self, id: u16) -> Option<impl Deref<Target = Backend>> {
        self.image.backends.get(&id)
    }
    fn flow_set(&self, index: u32) -> Option<impl FlowPlaces> {
        self.flows.as_chunks::<FLOW_WAYS>().0.get(index as usize)
    }
    fn overflow(&self, set: u32) -> u8 {
        self.overflows.get(set as usize).map_or(0, |mark| mark.load(Ordering::Relaxed))
    }
    fn mark_overflow(&self, set: u32, mark: u8) -> bool {
        self.overflows.get(set as usize).map(|place| place.store(mark, Ordering::Relaxed)).is_some()
    }
    fn fence(&self, _address: u16) -> u64 {
        0
    }
    fn interface(&self, index: u32) -> Option<Interface> {
        (index == PORT).then_some(Interface { mac: MAC, mtu: 1500 })
    }
    fn port_macs(&self, _row: u32) -> Option<impl Deref<Target = PortMacs>> {
        None::<&PortMacs>
    }

    fn turn(&self, _service: u16) -> u64 {
        self.turns.replace(self.turns.get() + 1)
    }
    fn count_traffic(&self, _service: u16, backend: u16, _bytes: usize, _selected: bool) {
        self.backend.set(backend);
    }
    fn count_reason(&self, _reason: Reason) {}
}

/// A frame with room in front.
struct Frame {
    room: usize,
    bytes: Vec<u8>,
}

impl Packet for Frame {
    fn length(&self) -> usize {
        self.bytes.len() - self.room
    }
    fn ingress(&self) -> u32 {
        PORT
    }
    fn view<const N: usize>(&self, offset: usize) -> Option<&[u8; N]> {
        self.bytes.get(self.room + offset..)?.first_chunk()
    }
    fn view_mut<const N: usize>(&mut self, offset: usize) -> Option<&mut [u8; N]> {
        self.bytes.get_mut(self.room + offset..)?.first_chunk_mut()
    }
    fn move_head(&mut self, by: isize) -> bool {
        let moved = self.room.checked_add_signed(-by).filter(|room| room + 14 <= self.bytes.len());
        self.room = moved.unwrap_or(self.room);
        moved.is_some()
    }
    fn truncate(&mut self, length: usize) -> bool {
        let fits = (14..=self.length()).contains(&length);
        self.bytes.truncate(if fits { self.room + length } else { self.bytes.len() });
        fits
    }
}

/// A packet in the middle of a flow, with 100 bytes of payload.
fn frame(packet: &PacketTuple) -> Vec<u8> {
    let text = packet.to_string();
    let number = if text.starts_with("tcp") { 6 } else { 17 };
    let mut transport = [packet.source.port().to_be_bytes(), packet.destination.port().to_be_bytes()].concat();
    transport.extend(if number == 6 {
        vec![0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 1, 0, 0, 0, 0, 0]
    } else {
        vec![0, 108, 0, 0]
    });
    transport.extend([0x55; 100]);
    let mut frame = [MAC.as_slice(), &[2, 0, 0, 0, 0, 9]].concat();
    match (packet.source, packet.destination) {
        (SocketAddr::V4(source), SocketAddr::V4(destination)) => {
            let length = (20 + transport.len()) as u16;
            let mut header = [[0x45, 0].as_slice(), &length.to_be_bytes(), &[0, 9, 0, 0, 63, number, 0, 0]].concat();
            header.extend(source.ip().octets());
            header.extend(destination.ip().octets());
            let mut sum: u32 = header.as_chunks::<2>().0.iter().map(|two| u32::from(u16::from_be_bytes(*two))).sum();
            while sum > 0xffff {
                sum = (sum & 0xffff) + (sum >> 16);
            }
            header[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
            frame.extend([8, 0]);
            frame.extend(header);
        }
        (SocketAddr::V6(source), SocketAddr::V6(destination)) => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend((transport.len() as u16).to_be_bytes());
            frame.extend([number, 63]);
            frame.extend(source.ip().octets());
            frame.extend(destination.ip().octets());
        }
        _ => panic!("one family"),
    }
    frame.extend(transport);
    frame
}

/// Marsaglia's xorshift.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    /// Few clients and ports, so that flows come again; some ports and addresses that nothing is bound to.
    fn packet(&mut self) -> PacketTuple {
        let protocol = ["tcp", "udp"][self.below(2) as usize];
        let (client, from, vip) = (self.below(12), 40_000 + self.below(16), 10 + self.below(4));
        let to = [80, 443, 53, 8080, 81][self.below(5) as usize];
        let text = match self.below(2) {
            0 => format!("{protocol},198.51.100.{client}:{from},192.0.2.{vip}:{to}"),
            _ => format!("{protocol},[2001:db8:1::{client}]:{from},[2001:db8::{vip}]:{to}"),
        };
        text.parse().expect("a packet")
    }
}

fn key(vip: &str, protocol: TransportProtocol, port: u16) -> ServiceKey {
    ServiceKey { vip: ip(vip), protocol, port }
}

/// Services of every kind.
fn services(reals4: &[FleetReal], reals6: &[FleetReal]) -> Fleet {
    let (tcp, udp) = (TransportProtocol::Tcp, TransportProtocol::Udp);
    let mut all = Vec::new();
    for (vip10, vip11, vip12, reals) in
        [("192.0.2.10", "192.0.2.11", "192.0.2.12", reals4), ("2001:db8::10", "2001:db8::11", "2001:db8::12", reals6)]
    {
        let with = |key, scheduler| {
            let mut service = service(key, reals.to_vec());
            service.options.scheduler = scheduler;
            service
        };
        let mut sticky = with(key(vip10, tcp, 443), Scheduler::Mh);
        sticky.options.persistence = Some(Persistence { timeout: Duration::from_secs(300), prefix4: 24, prefix6: 64 });
        let mut single = with(key(vip10, udp, 53), Scheduler::Mh);
        single.options.one_packet = true;
        let none = service(key(vip12, tcp, 8080), Vec::new());
        all.extend([with(key(vip10, tcp, 80), Scheduler::Mh), sticky, single, none]);
        all.extend([with(key(vip11, tcp, 80), Scheduler::Sh), with(key(vip11, udp, 443), Scheduler::Dh)]);
        all.push(with(key(vip12, udp, 80), Scheduler::Mh));
    }
    fleet(all)
}

fn director() -> Director {
    let mut director = Director::new(Geometry::default());
    let reals = |prefix: &str| [1, 2, 3].map(|n| real(&format!("{prefix}{n}")));
    director.change(services(&reals("198.51.100.10"), &reals("2001:db8:2::")));
    director
}

#[test]
fn what_is_explained_is_what_happens() {
    let mut seen = BTreeSet::new();
    for seed in 1..=20_u64 {
        let mut director = director();
        let mut world = World::new(&director);
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        for step in 0..300 {
            if step == 200 {
                // A real server dies: its flows are selected anew.
                let mut next = director.fleet.clone();
                for service in next.vips.values_mut().flat_map(|vip| &mut vip.services) {
                    if let Some(first) = std::sync::Arc::make_mut(service).reals.first_mut() {
                        first.status = Status::Unhealthy("no answer".into());
                    }
                }
                director.change(next);
                world.image = director.allocations.tables().clone();
            }
            world.now += dice.below(1 << STAMP_SHIFT);
            let packet = dice.packet();
            let told = world.explain(&director, &packet);
            let again = world.explain(&director, &packet);
            assert_eq!(told, again, "seed {seed} step {step}: asking changes nothing");
            let (reason, went) = world.send(&packet);
            assert_eq!(
                (told.reason.as_str(), told.real_server),
                (reason.as_str(), went),
                "seed {seed} step {step} {packet}"
            );
            check(&told, &packet, seed);
            seen.insert(reason.as_str());
        }
    }
    for reason in
        ["flow_hit", "flow_new", "flow_moved", "persistent", "one_packet", "no_service", "no_backend", "not_vip"]
    {
        assert!(seen.contains(reason), "{reason} did not occur: {seen:?}");
    }
}

/// What the parts of an answer say of each other.
fn check(told: &Explanation, packet: &PacketTuple, seed: u64) {
    let ring = told.ring.as_ref();
    match told.reason.as_str() {
        "flow_new" | "flow_untracked" | "one_packet" => {
            assert_eq!(ring.expect("a ring").real_server, told.real_server, "seed {seed} {packet}");
        }
        "flow_hit" => assert_eq!(told.flow.as_ref().expect("a flow").real_server, told.real_server, "{packet}"),
        "persistent" => assert_eq!(told.client.as_ref().expect("a client").real_server, told.real_server, "{packet}"),
        "not_vip" => assert!(told.vip.is_none() && told.service.is_none(), "{packet}"),
        _ => {}
    }
    let won = told.candidates.iter().filter(|candidate| candidate.code == "won").count();
    assert_eq!(won, usize::from(told.service.is_some()), "seed {seed} {packet}");
    if let Some(ring) = ring {
        assert_eq!(told.real_servers.iter().map(|real| real.slots).sum::<u32>(), ring.slots);
        assert_eq!(ring.slots, SETTINGS.hash_slots);
    }
    if told.real_server.is_some() {
        let way = told.leaves.as_ref().expect("it leaves");
        assert!(way.largest_packet == 1500 && way.destination_mac.starts_with("02:00:00:00:01"), "{way:?}");
    }
}

#[test]
fn every_candidate_says_why_it_lost() {
    let director = director();
    let world = World::new(&director);
    let told = world.explain(&director, &"tcp,198.51.100.7:40000,192.0.2.10:443".parse().expect("a packet"));
    let codes: Vec<(&str, &str)> =
        told.candidates.iter().map(|one| (one.address.as_str(), one.code.as_str())).collect();
    assert_eq!(
        codes,
        [("192.0.2.10:443/TCP", "won"), ("192.0.2.10:80/TCP", "other_port"), ("192.0.2.10:53/UDP", "other_protocol"),]
    );
    assert_eq!(told.vip.as_ref().map(|vip| (vip.in_tables, vip.answered_for_ms)), Some((true, 400)));
    let elsewhere = world.explain(&director, &"udp,198.51.100.7:40000,192.0.2.10:443".parse().expect("a packet"));
    assert_eq!((elsewhere.verdict.as_str(), elsewhere.reason.as_str()), ("dropped", "no_service"));
    let codes: BTreeSet<&str> = elsewhere.candidates.iter().map(|one| one.code.as_str()).collect();
    assert_eq!(codes, BTreeSet::from(["other_port", "other_protocol", "other_vip"]));
}

#[test]
fn the_echo_of_a_vip_is_answered_by_the_director() {
    let director = director();
    let world = World::new(&director);
    for text in ["icmp,198.51.100.7,192.0.2.10", "icmp,2001:db8:1::7,2001:db8::10"] {
        let told = world.explain(&director, &text.parse().expect("a packet"));
        assert_eq!((told.verdict.as_str(), told.reason.as_str()), ("answered", "echo_answered"), "{text}");
        assert!(told.candidates.iter().all(|one| one.code == "icmp"), "{told:?}");
    }
}

#[test]
fn in_turn_no_real_server_is_promised() {
    let mut director = Director::new(Geometry::default());
    let mut turns =
        service(key("192.0.2.10", TransportProtocol::Tcp, 80), vec![real("198.51.100.1"), real("198.51.100.2")]);
    turns.options.scheduler = Scheduler::Rr;
    director.change(fleet([turns]));
    let world = World::new(&director);
    let packet: PacketTuple = "tcp,198.51.100.7:40000,192.0.2.10:80".parse().expect("a packet");
    let told = world.explain(&director, &packet);
    assert_eq!((told.reason.as_str(), told.real_server), ("flow_new", None));
    let ring = told.ring.expect("a ring");
    assert!(ring.slot.is_none() && ring.real_server.is_none() && ring.by.contains("turn"), "{ring:?}");
    let (_, went) = world.send(&packet);
    let told = world.explain(&director, &packet);
    assert_eq!((told.reason.as_str(), told.real_server), ("flow_hit", went), "once it is there it is known");
}

/// A director with one port of a VIP, and one real server behind it.
fn one(vip: &str, address: &str, method: Method, tags: &[VlanTag], second_chance: bool) -> Director {
    let mut server = real(address);
    let delivery = Delivery { tags: tags.to_vec(), ..way(ip(address), method, 9) };
    server.delivery = Ok(std::sync::Arc::new(delivery));
    let mut service = service(key(vip, TransportProtocol::Tcp, 80), vec![server]);
    service.method = method;
    service.options.second_chance = second_chance;
    let mut director = Director::new(Geometry::default());
    director.change(fleet([service]));
    director
}

#[test]
fn how_frames_leave_is_read_from_the_frame() {
    const TAG: &[VlanTag] = &[VlanTag { protocol: 0x8100, id: 5 }];
    const TWO: &[VlanTag] = &[VlanTag { protocol: 0x88a8, id: 9 }, VlanTag { protocol: 0x8100, id: 5 }];
    let (vip4, vip6) = ("192.0.2.10", "2001:db8::10");
    let (real4, real6) = ("198.51.100.101", "2001:db8:2::1");
    let (from4, from6) = ("198.51.100.1", "2001:db8:1::1");
    let outer =
        |kind: &str, source: &str, to: &str| Outer { kind: kind.into(), source: ip(source), destination: ip(to) };
    let table = [
        (vip4, real4, Method::L2, &[][..], vec![], None),
        (vip6, real6, Method::L2, TAG, vec![5], None),
        (vip4, real4, Method::L2, TWO, vec![9, 5], None),
        (vip4, real4, Method::Tunnel, &[], vec![], Some(outer("IPIP", from4, real4))),
        (vip6, real6, Method::Tunnel, &[], vec![], Some(outer("IPIP", from6, real6))),
        (vip4, real6, Method::Tunnel, TAG, vec![5], Some(outer("IPIP", from6, real6))),
        (vip6, real4, Method::Tunnel, &[], vec![], Some(outer("IPIP", from4, real4))),
        (vip4, real4, Method::Gue, TWO, vec![9, 5], Some(outer("GUE", from4, real4))),
        (vip6, real6, Method::Gue, &[], vec![], Some(outer("GUE", from6, real6))),
        (vip4, real6, Method::Gue, TAG, vec![5], Some(outer("GUE", from6, real6))),
    ];
    for (vip, address, method, tags, vlans, outer) in table {
        let director = one(vip, address, method, tags, false);
        let text = match ip(vip) {
            IpAddr::V4(_) => format!("tcp,198.51.100.7:40000,{vip}:80"),
            IpAddr::V6(_) => format!("tcp,[2001:db8:1::7]:40000,[{vip}]:80"),
        };
        let told = World::new(&director).explain(&director, &text.parse().expect("a packet"));
        assert_eq!((told.reason.as_str(), told.real_server), ("flow_new", Some(ip(address))), "{told:#?}");
        let room = director.model.backends.values().map(|backend| backend.mtu).max().expect("a record");
        // Outer headers take of what a packet of a client may have, tags do not; GUE's variant 1 has UDP's header alone.
        let headers = match (method, ip(address)) {
            (Method::Tunnel, IpAddr::V4(_)) => 20,
            (Method::Tunnel, IpAddr::V6(_)) => 40,
            (Method::Gue, IpAddr::V4(_)) => 28,
            (Method::Gue, IpAddr::V6(_)) => 48,
            _ => 0,
        };
        assert_eq!(room, 1500 - headers, "{method} {address}");
        let wanted = WayOut {
            interface: "eth0".to_owned(),
            source_mac: "02:00:00:00:00:01".to_owned(),
            destination_mac: "02:00:00:00:01:09".to_owned(),
            vlans,
            outer,
            largest_packet: room,
        };
        assert_eq!(told.leaves, Some(wanted), "{text} by {method} to {address}");
    }
}

#[test]
fn a_director_that_stands_by_says_so_and_forwards_all_the_same() {
    let director = director();
    let world = World::new(&director);
    let packet = "tcp,198.51.100.7:40000,192.0.2.10:80".parse().expect("a packet");
    let told = world.explain_held(&director, &packet, Duration::ZERO);
    let vip = told.vip.as_ref().expect("a VIP");
    assert_eq!((vip.in_tables, vip.answered_for_ms), (true, 0));
    let owner = world.explain(&director, &packet);
    assert_eq!((&told.reason, told.real_server), (&owner.reason, owner.real_server), "every director picks the same");
    assert!(told.real_server.is_some() && told.leaves == owner.leaves && !told.offline);
}

#[test]
fn a_second_chance_is_for_packets_that_open_nothing_which_is_said() {
    let packet: PacketTuple = "tcp,198.51.100.7:40000,192.0.2.10:80".parse().expect("a packet");
    for (chance, method) in [(true, Method::Gue), (false, Method::Gue)] {
        let director = one("192.0.2.10", "198.51.100.101", method, &[], chance);
        let world = World::new(&director);
        let told = world.explain(&director, &packet);
        assert_eq!(told.reason, "flow_new");
        assert_eq!(told.assumptions.iter().any(|text| text.contains("second_chance")), chance, "{told:#?}");
        world.send(&packet);
        let told = world.explain(&director, &packet);
        assert_eq!(
            (told.reason.as_str(), told.assumptions.len()),
            ("flow_hit", 0),
            "of a known flow nothing is assumed"
        );
    }
}
