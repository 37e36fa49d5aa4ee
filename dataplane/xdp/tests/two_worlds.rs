//! The same frames through user space and through the kernel end the same, byte for byte and reason for reason.

mod world;

use aya::Ebpf;
use aya::maps::{MapData, PerCpuArray, PerCpuValues, RingBuf};
use aya::programs::Xdp;
use sluicegate_l4::forward;
use sluicegate_l4::layout::{SampleHead, Service, Traffic, map};
use sluicegate_l4::verdict::{Reason, Verdict};
use sluicegate_xdp::test_run;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use world::memory::{MemoryFrame, MemoryTables};
use world::{INGRESS, Ip, TCP, UDP, arp, icmp, icmp6, tcp, udp};

const V6: &str = "2001:db8::10";
const CLIENT6: &str = "2001:db8:1::7";

/// Frames of each kind, most of them right.
fn templates() -> Vec<Vec<u8>> {
    let six = |protocol, payload| Ip { source: CLIENT6, destination: V6, protocol, payload, ..Ip::default() };
    let quoted =
        Ip { source: "192.0.2.10", destination: "198.51.100.7", payload: tcp(80, 40_000, 0x10, 8), ..Ip::default() };
    let quoted6 = Ip { source: V6, destination: CLIENT6, payload: tcp(80, 40_000, 0x10, 8), ..Ip::default() };
    let solicited = "ff02::1:ff00:10";
    let ask = |source: &str, to: &str, options: &[u8]| {
        let target: std::net::Ipv6Addr = V6.parse().expect("an address");
        let body = [&target.octets()[..], options].concat();
        let mut frame = Ip {
            source,
            destination: to,
            protocol: 58,
            hops: 255,
            payload: icmp6(source, to, 135, [0; 4], &body),
            ..Ip::default()
        };
        frame.class = 0;
        frame.frame()
    };
    let fragment6 = |offset: u16, rest: &[u8]| {
        let mut payload = vec![UDP, 0];
        payload.extend(offset.to_be_bytes());
        payload.extend([1, 2, 3, 4]);
        payload.extend(rest);
        six(44, payload).frame()
    };
    let mut options = Ip { payload: [&[1_u8, 1, 1, 0][..], &tcp(1, 80, 2, 0)].concat(), ..Ip::default() }.frame();
    options[14] = 0x46;
    options[24..26].copy_from_slice(&[0, 0]);
    let sum = world::naive_checksum(&options[14..38]);
    options[24..26].copy_from_slice(&sum.to_be_bytes());
    let mut extended = vec![60, 0, 0, 0, 0, 0, 0, 0, TCP, 0, 0, 0, 0, 0, 0, 0];
    extended.extend(tcp(5, 80, 0x10, 10));
    let mut frames = vec![
        Ip { payload: tcp(40_000, 80, 2, 0), ..Ip::default() }.frame(),
        Ip::default().frame(),
        Ip { class: 0xb9, hops: 1, ..Ip::default() }.frame(),
        Ip { class: 0xff, tags: &[0x81, 0, 0, 5], ..Ip::default() }.frame(),
        Ip { tags: &[0x88, 0xa8, 0, 9, 0x81, 0, 0, 5], ..Ip::default() }.frame(),
        Ip { payload: tcp(40_000, 81, 0x10, 0), ..Ip::default() }.frame(),
        Ip { payload: tcp(40_000, 82, 0x10, 0), ..Ip::default() }.frame(),
        Ip { payload: tcp(40_000, 83, 0x10, 0), ..Ip::default() }.frame(),
        Ip { payload: tcp(40_000, 84, 0x10, 0), ..Ip::default() }.frame(),
        Ip { payload: tcp(40_000, 80, 4, 0), ..Ip::default() }.frame(),
        Ip { payload: tcp(40_000, 85, 0x10, 30), ..Ip::default() }.frame(),
        Ip { payload: tcp(40_003, 85, 0x12, 30), tags: &[0x81, 0, 0, 5], ..Ip::default() }.frame(),
        Ip { payload: tcp(40_001, 85, 2, 0), ..Ip::default() }.frame(),
        Ip { payload: tcp(40_002, 85, 0x10, 1355), ..Ip::default() }.frame(),
        Ip { protocol: UDP, payload: udp(5, 80, 30), ..Ip::default() }.frame(),
        Ip { protocol: UDP, payload: udp(5, 53, 30), ..Ip::default() }.frame(),
        Ip { protocol: UDP, payload: udp(5, 80, 1392), ..Ip::default() }.frame(),
        Ip { protocol: UDP, fragment: 0, payload: udp(5, 80, 1392), ..Ip::default() }.frame(),
        Ip { protocol: UDP, fragment: 0x2000, payload: udp(5, 80, 32), ..Ip::default() }.frame(),
        Ip { protocol: UDP, fragment: 5, payload: vec![9; 40], ..Ip::default() }.frame(),
        Ip { fragment: 0x2000, ..Ip::default() }.frame(),
        Ip { protocol: 132, payload: vec![0, 5, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 4], ..Ip::default() }.frame(),
        Ip { protocol: 47, payload: vec![0; 20], ..Ip::default() }.frame(),
        Ip { protocol: 1, payload: icmp(8, 0, [0, 1, 0, 2], b"ping pong"), ..Ip::default() }.frame(),
        Ip { protocol: 1, payload: icmp(3, 4, [0, 0, 5, 0], &quoted.packet()), ..Ip::default() }.frame(),
        Ip { protocol: 1, payload: icmp(13, 0, [0; 4], &[0; 12]), ..Ip::default() }.frame(),
        Ip { destination: "192.0.2.11", ..Ip::default() }.frame(),
        Ip { destination: "192.0.2.99", ..Ip::default() }.frame(),
        Ip { destination: "192.0.2.99", fragment: 77, ..Ip::default() }.frame(),
        options,
        arp([198, 51, 100, 7], [192, 0, 2, 10]),
        arp([198, 51, 100, 7], [192, 0, 2, 12]),
        arp([198, 51, 100, 7], [192, 0, 2, 99]),
        arp([192, 0, 2, 10], [192, 0, 2, 10]),
        six(TCP, tcp(40_000, 80, 2, 0)).frame(),
        six(TCP, tcp(40_000, 80, 0x10, 3)).frame(),
        six(TCP, tcp(40_000, 80, 0x10, 1400)).frame(),
        six(TCP, tcp(40_000, 81, 0x10, 3)).frame(),
        six(TCP, tcp(40_000, 85, 0x18, 3)).frame(),
        six(TCP, tcp(40_001, 85, 0x11, 1330)).frame(),
        six(UDP, udp(9, 53, 3)).frame(),
        six(60, extended.clone()).frame(),
        six(58, icmp6(CLIENT6, V6, 128, [1, 2, 3, 4], b"hello")).frame(),
        six(58, icmp6(CLIENT6, V6, 2, [0, 0, 5, 0], &quoted6.packet())).frame(),
        six(58, icmp6(CLIENT6, V6, 133, [0; 4], &[])).frame(),
        fragment6(1, &udp(5, 80, 32)),
        fragment6(8, &[3; 40]),
        ask(CLIENT6, solicited, &[1, 1, 2, 0, 0, 0, 0, 1]),
        ask("::", solicited, &[]),
        ask(CLIENT6, V6, &[1, 1, 2, 0, 0, 0, 0, 1]),
        ask(CLIENT6, V6, &[1, 1, 2, 0, 0, 0, 0, 1, 14, 1, 1, 2, 3, 4, 5, 6]),
    ];
    frames.push(Ip { source: CLIENT6, destination: V6, tags: &[0x81, 0, 0, 5], ..Ip::default() }.frame());
    let to = |mac: [u8; 6], mut frame: Vec<u8>| {
        frame[..6].copy_from_slice(&mac);
        frame
    };
    frames.extend([
        to(world::BRIDGE, Ip::default().frame()),
        to([0xff; 6], Ip::default().frame()),
        to([1, 0, 0x5e, 0, 0, 1], Ip { payload: tcp(40_009, 80, 0x10, 0), ..Ip::default() }.frame()),
        to(world::ROUTER, Ip::default().frame()),
        to(world::REAL, Ip { tags: &[0x81, 0, 0, 5], ..Ip::default() }.frame()),
        to(world::REAL, six(UDP, udp(9, 53, 3)).frame()),
        to(world::REAL, arp([198, 51, 100, 7], [192, 0, 2, 10])),
    ]);
    frames
}

const fn action(verdict: Verdict) -> u32 {
    match verdict {
        Verdict::Pass(_) => 2,
        // A port that the map does not know: dropped.
        Verdict::Drop(_) | Verdict::Redirect(..) => 1,
        Verdict::Transmit(_) => 3,
    }
}

/// xorshift64*: enough for choosing bytes, and repeatable.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound
    }

    fn mutate(&mut self, templates: &[Vec<u8>]) -> Vec<u8> {
        let mut frame = templates[self.below(templates.len())].clone();
        match self.below(8) {
            0 => frame.truncate(14 + self.below(frame.len() - 13)),
            1 => frame = (0..14 + self.below(100)).map(|_| self.below(256) as u8).collect(),
            _ => {}
        }
        // A flow among many, in most cases with a right checksum of the header.
        if self.below(2) == 0 && frame.len() > 34 && frame[12..14] == [8, 0] && frame[14] == 0x45 {
            frame[29] = self.below(256) as u8;
            frame[24..26].copy_from_slice(&[0, 0]);
            let sum = world::naive_checksum(&frame[14..34]);
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
        }
        for _ in 0..self.below(4) {
            let reach = frame.len().min(80);
            let at = self.below(reach);
            frame[at] = match self.below(3) {
                0 => self.below(256) as u8,
                1 => frame[at] ^ 1 << self.below(8),
                _ => [0, 1, 4, 6, 17, 44, 58, 60, 0x45, 0x60, 0x81, 0xff][self.below(12)],
            };
        }
        frame
    }
}

fn compare(frames: impl Iterator<Item = Vec<u8>>) -> Vec<u64> {
    compare_in(&world::tables(64), frames)
}

fn compare_in(tables: &MemoryTables, frames: impl Iterator<Item = Vec<u8>>) -> Vec<u64> {
    let mut object = world::load(tables);
    let mut turns = Turns::of(&mut object, tables);
    let mut samples = Samples::of(&mut object, tables);
    let mut count = 0;
    {
        let program: &Xdp = (&*object.program_mut("director").expect("a program")).try_into().expect("XDP");
        for frame in frames {
            let mut here = MemoryFrame::new(&frame, INGRESS);
            let verdict = forward(&mut here, tables);
            let there = test_run::run(program, &frame, 1).expect("it runs");
            assert_eq!(there.action, action(verdict), "frame {count}, {verdict:?}: {frame:02x?}");
            assert!(
                there.frame == here.bytes(),
                "frame {count}, {verdict:?}: {frame:02x?}\nhere  {:02x?}\nthere {:02x?}",
                here.bytes(),
                there.frame
            );
            turns.follow(tables);
            samples.check(tables, &frame, verdict);
            count += 1;
        }
    }
    let there = world::reasons(&object);
    let here: Vec<u64> = Reason::ALL.iter().map(|reason| tables.reason(*reason)).collect();
    assert_eq!(here, there);
    let words: Vec<_> =
        tables.flows.iter().map(|set| set.each_ref().map(|word| word.load(Ordering::Relaxed))).collect();
    let marks: Vec<bool> = tables.overflows.iter().map(|mark| mark.get() != 0).collect();
    assert!(world::flows(&object, words.len()) == (words, marks), "the flow tables differ");
    here
}

/// The turns of services, which each CPU counts for itself: before each frame all of them stand where memory's stand.
struct Turns {
    map: PerCpuArray<MapData, u64>,
    seen: BTreeMap<u16, u64>,
    cpus: usize,
}

impl Turns {
    fn of(object: &mut Ebpf, tables: &MemoryTables) -> Self {
        let map = object.take_map(map::TURNS).expect("a map").try_into().expect("an array");
        let cpus = aya::util::nr_cpus().expect("a number of CPUs");
        let mut turns = Self { map, seen: tables.turns.borrow().clone(), cpus };
        for (service, turn) in tables.turns.borrow().iter() {
            turns.level(*service, *turn);
        }
        turns
    }

    /// One CPU has taken the turns that memory took, and the others follow.
    fn follow(&mut self, tables: &MemoryTables) {
        let now = tables.turns.borrow();
        let moved: Vec<_> = now.iter().filter(|(service, turn)| self.seen.get(service) != Some(turn)).collect();
        for (service, turn) in moved {
            let taken = self.map.get(&u32::from(*service), 0).expect("a row");
            assert_eq!(
                taken.iter().filter(|taken| *taken == turn).count(),
                1,
                "service {service}: {taken:?}, not {turn}"
            );
            self.level(*service, *turn);
        }
        self.seen.clone_from(&now);
    }

    fn level(&mut self, service: u16, turn: u64) {
        let level = PerCpuValues::try_from(vec![turn; self.cpus]).expect("a value for each CPU");
        self.map.set(u32::from(service), level, 0).expect("written");
    }
}

/// What the kernel sampled, where every frame is a sample.
struct Samples {
    ring: Option<RingBuf<MapData>>,
    services: BTreeMap<u16, Traffic>,
    backends: BTreeMap<u16, Traffic>,
}

impl Samples {
    /// Bytes of a frame that are kept.
    const CAPTURED: usize = 232;

    fn of(object: &mut Ebpf, tables: &MemoryTables) -> Self {
        let mut ring = || object.take_map(map::SAMPLES).expect("a map").try_into().expect("a ring");
        let ring = (tables.control.sample_every == 1).then(&mut ring);
        Self { ring, services: BTreeMap::new(), backends: BTreeMap::new() }
    }

    /// The frame as it came in, with what became of it.
    fn check(&mut self, tables: &MemoryTables, frame: &[u8], verdict: Verdict) {
        let Some(ring) = &mut self.ring else { return };
        let record = ring.next().map(|record| record.to_vec()).unwrap_or_else(|| panic!("no sample of {frame:02x?}"));
        assert!(ring.next().is_none(), "two samples of {frame:02x?}");
        let word = |at: usize| u32::from_ne_bytes(record[at..at + 4].try_into().expect("four bytes"));
        let half = |at: usize| u16::from_ne_bytes(record[at..at + 2].try_into().expect("two bytes"));
        let kept = frame.len().min(Self::CAPTURED);
        assert_eq!((word(8), word(12), usize::from(half(16))), (INGRESS, frame.len() as u32, kept));
        assert_eq!(u32::from(half(18)), verdict.reason().index(), "{verdict:?}: {frame:02x?}");
        assert!(record[size_of::<SampleHead>()..][..kept] == frame[..kept], "{verdict:?}: {frame:02x?}");
        let backend = counted(&mut self.backends, &tables.backend_traffic.borrow());
        let service = counted(&mut self.services, &tables.service_traffic.borrow());
        assert_eq!((half(20), half(22)), (backend, service), "{verdict:?}: {frame:02x?}");
    }
}

/// Who got a packet since the last time; 0 = nobody.
fn counted(before: &mut BTreeMap<u16, Traffic>, now: &BTreeMap<u16, Traffic>) -> u16 {
    let grown = now.iter().find(|(id, traffic)| before.get(id) != Some(traffic)).map_or(0, |(id, _)| *id);
    before.clone_from(now);
    grown
}

#[test]
#[ignore = "needs root: loads eBPF programs"]
fn frames_of_each_kind() {
    let frames = templates();
    let twice = frames.clone().into_iter().chain(frames);
    let reasons = compare(twice);
    let unseen: Vec<_> = Reason::ALL.iter().filter(|reason| reasons[reason.index() as usize] == 0).collect();
    println!("{unseen:?}");
    // Four templates, twice.
    assert_eq!(reasons[Reason::OtherHost.index() as usize], 8);
}

#[test]
#[ignore = "needs root: loads eBPF programs"]
fn a_million_random_and_mutated_frames() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0x00c0_ffee_u64);
    let number = std::env::var("FRAMES").ok().and_then(|number| number.parse().ok()).unwrap_or(1_000_000);
    println!("SEED={seed} FRAMES={number}");
    let templates = templates();
    let mut chance = Chance(seed);
    let reasons = compare((0..number).map(|_| chance.mutate(&templates)));
    for (reason, packets) in Reason::ALL.iter().zip(&reasons) {
        println!("{:20} {packets}", reason.as_str());
    }
}

/// More established flows than their sets have room for, among those of a flood.
#[test]
#[ignore = "needs root: loads eBPF programs"]
fn sets_that_overflow() {
    let tables = world::tables(16);
    let mut chance = Chance(0x666c_6f77);
    let mut segment = |flows: usize, flags: &[u8]| {
        let flags = flags[chance.below(flags.len())];
        let payload = tcp(chance.below(flows) as u16, 80, flags, 0);
        match chance.below(2) {
            0 => Ip { payload, ..Ip::default() }.frame(),
            _ => Ip { source: CLIENT6, destination: V6, payload, ..Ip::default() }.frame(),
        }
    };
    let mut frames: Vec<_> = (0..2000).map(|_| segment(70, &[2, 0x10, 0x10, 0x10])).collect();
    frames.extend((0..2000).map(|_| segment(60_000, &[2])));
    frames.extend((0..2000).map(|_| segment(80, &[2, 0x10, 0x10, 0x10, 0x10, 0x10, 0x10, 4])));
    let reasons = compare_in(&tables, frames.into_iter());
    let marked = tables.overflows.iter().filter(|mark| mark.get() != 0).count();
    assert!((4..=16).contains(&marked), "{marked} of 16 sets overflowed");
    assert!(reasons[Reason::FlowUntracked.index() as usize] > 0, "both sets of a flow were full: {reasons:?}");
}

#[test]
#[ignore = "needs root: loads eBPF programs"]
fn services_in_turn() {
    let mut tables = world::tables(64);
    let is_plain = |service: &&mut Service| {
        service.select == Service::SELECT_TUPLE && service.flags & Service::FLAG_SECOND_CHANCE == 0
    };
    for service in tables.services.iter_mut().filter(is_plain) {
        service.select = Service::SELECT_TURN;
    }
    // Turns of a director that has run for a while, shortly before 32 bits of them are full.
    for service in 1..tables.services.len() as u16 {
        tables.turns.borrow_mut().insert(service, u64::from(u32::MAX) - 50);
    }
    let templates = templates();
    let mut chance = Chance(0x7475_726e);
    let mutated = (0..20_000).map(|_| chance.mutate(&templates));
    let reasons = compare_in(&tables, templates.iter().cloned().chain(mutated));
    assert!(reasons[Reason::FlowNew.index() as usize] > 100, "{reasons:?}");
    let turns: Vec<u64> = tables.turns.borrow().values().map(|turn| turn - (u64::from(u32::MAX) - 50)).collect();
    assert!(turns.iter().filter(|taken| **taken > 50).count() >= 2, "{turns:?}");
}

#[test]
#[ignore = "needs root: loads eBPF programs"]
fn sampled_frames() {
    let mut tables = world::tables(64);
    tables.control.sample_every = 1;
    let templates = templates();
    let mut chance = Chance(0x5a4d_504c);
    let mutated = (0..20_000).map(|_| chance.mutate(&templates));
    let reasons = compare_in(&tables, templates.iter().cloned().chain(mutated));
    assert!(reasons[Reason::FlowHit.index() as usize] > 100, "{reasons:?}");
}
