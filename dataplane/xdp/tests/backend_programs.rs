//! The real server's programs and the director's probe program in the kernel: each case ends as it does in user space.

#[path = "../../dsr/tests/support/mod.rs"]
mod support;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, PerCpuArray};
use aya::programs::{SchedClassifier, TestRun, TestRunOptions, Xdp};
use aya::{Ebpf, Pod};
use sluicegate_dsr::hand_over::Socket;
use sluicegate_dsr::layout::{HostControl, MARK_BASE, map, mark};
use sluicegate_dsr::{ProbeVerdict, Reason, Verdict, clamp, probe, unwrap};
use sluicegate_l4::layout::{Address, Backend};
use sluicegate_xdp::{BACKEND, EGRESS, test_run};
use support::{Always, Frame, HOST4, STRANGER4, Tables, clamp_cases, client4, client6, frame, ip, unwrap_cases};

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const TC_ACT_UNSPEC: u32 = u32::MAX;
const TC_ACT_SHOT: u32 = 2;
const TC_ACT_REDIRECT: u32 = 7;

/// A row of a map as bytes: rows are plain data without padding, and nothing of aya is implemented for them here.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Row<const N: usize>([u8; N]);

#[allow(unsafe_code, reason = "aya asks for it")]
// SAFETY: bytes, of any value, without padding.
unsafe impl<const N: usize> Pod for Row<N> {}

fn host(tables: &Tables) -> Ebpf {
    let mut object = Ebpf::load(BACKEND).expect("the maps are made");
    let control = [tables.control.flags, tables.control.turn, 0, 0, 0];
    let map = object.map_mut(map::HOST).expect("a map");
    Array::<_, [u32; 5]>::try_from(map).expect("an array").set(0, control, 0).expect("written");
    for (name, addresses) in [(map::DIRECTORS, &tables.directors), (map::ENDPOINTS, &tables.endpoints)] {
        let map = object.map_mut(name).expect("a map");
        let mut map = HashMap::<_, Address, u32>::try_from(map).expect("a hash map");
        addresses.iter().for_each(|address| map.insert(address, 1, 0).expect("written"));
    }
    let map = object.map_mut(map::PEERS).expect("a map");
    let mut peers = LpmTrie::<_, Address, u32>::try_from(map).expect("a trie");
    tables.peers.iter().for_each(|peer| peers.insert(&Key::new(128, *peer), 1, 0).expect("written"));
    let map = object.map_mut(map::BOUND).expect("a map");
    let mut map = HashMap::<_, Address, u32>::try_from(map).expect("a hash map");
    tables.bound.iter().for_each(|(vip, bound)| map.insert(vip, u32::from(bound.tunnel_mtu), 0).expect("written"));
    object
}

fn xdp<'a>(object: &'a mut Ebpf, name: &str) -> &'a mut Xdp {
    let program: &mut Xdp = object.program_mut(name).expect("a program").try_into().expect("XDP");
    program.load().expect("the verifier takes it");
    program
}

fn classifier<'a>(object: &'a mut Ebpf, name: &str) -> &'a mut SchedClassifier {
    let program: &mut SchedClassifier = object.program_mut(name).expect("a program").try_into().expect("a classifier");
    program.load().expect("the verifier takes it");
    program
}

/// What a classifier returns, and the frame that it leaves. `__sk_buff` begins with length, packet type and mark.
fn run(program: &SchedClassifier, frame: &[u8], mark: u32) -> (u32, Vec<u8>) {
    let mut context = [0; 12];
    context[8..].copy_from_slice(&mark.to_ne_bytes());
    let mut out = vec![0; frame.len() + 256];
    let options = TestRunOptions {
        data_in: Some(frame),
        data_out: Some(&mut out),
        ctx_in: Some(&context),
        ..TestRunOptions::default()
    };
    let result = program.test_run(options).expect("it runs");
    out.truncate(result.data_size_out as usize);
    (result.return_value, out)
}

/// What the kernel has after the program passes it on: the word for the program that sends it, in front of the frame.
fn handed_over(frame: &mut Frame) -> u32 {
    frame.0.splice(0..0, [[0; 4], [0; 4], [0; 4], [0; 4], 0x5347_484f_u32.to_ne_bytes()].concat());
    XDP_PASS
}

fn counted(object: &Ebpf, name: &str, reason: Reason) -> u64 {
    let counters = PerCpuArray::<_, u64>::try_from(object.map(name).expect("a map")).expect("counters");
    counters.get(&reason.index(), 0).expect("a counter").iter().sum()
}

#[test]
#[ignore = "needs root: loads eBPF programs"]
fn tunnels_end_as_in_user_space() {
    let mut tables = Tables::of_host();
    for any in [false, true] {
        tables.control.flags = if any { HostControl::ANY_DIRECTOR } else { 0 };
        let mut object = host(&tables);
        let program = xdp(&mut object, "unwrap");
        let stranger = frame(&[], &ip(STRANGER4, HOST4, 4, 0, &client4(0)));
        let cases = unwrap_cases().into_iter().map(|case| (case.name, case.before));
        for (name, before) in cases.chain([("a stranger".to_owned(), stranger)]) {
            // The kernel runs no program on less than an Ethernet header.
            if before.len() < 14 {
                continue;
            }
            let mut here = Frame(before.clone());
            let expected = match unwrap(&mut here, &tables, &Always(Socket::None)) {
                Verdict::Pass(_) => XDP_PASS,
                Verdict::HandOver(_) => handed_over(&mut here),
                Verdict::Drop(_) => XDP_DROP,
            };
            let there = test_run::run(program, &before, 1).expect("it runs");
            assert_eq!((there.action, there.frame), (expected, here.0), "{name}");
        }
    }
}

#[test]
#[ignore = "needs root: loads eBPF programs"]
fn damaged_tunnels_end_as_in_user_space() {
    let tables = Tables::of_host();
    let mut object = host(&tables);
    let program = xdp(&mut object, "unwrap");
    let cases = unwrap_cases();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    for turn in 0..20_000 {
        let mut before = cases[random(cases.len())].before.clone();
        for _ in 0..random(4) {
            let (at, value) = (random(before.len()), random(256));
            before[at] = value as u8;
        }
        if random(4) == 0 {
            before.truncate(random(before.len()));
        }
        if before.len() < 14 {
            continue;
        }
        let mut here = Frame(before.clone());
        let expected = match unwrap(&mut here, &tables, &Always(Socket::None)) {
            Verdict::Pass(_) => XDP_PASS,
            Verdict::HandOver(_) => handed_over(&mut here),
            Verdict::Drop(_) => XDP_DROP,
        };
        let there = test_run::run(program, &before, 1).expect("it runs");
        assert_eq!((there.action, there.frame), (expected, here.0), "turn {turn}: {before:02x?}");
    }
}

#[test]
#[ignore = "needs root: loads eBPF programs"]
fn segments_are_sized_as_in_user_space() {
    let tables = Tables::of_host();
    let mut object = host(&tables);
    let program = classifier(&mut object, "clamp");
    let cases = clamp_cases();
    let clamped = cases.iter().filter(|case| case.reason == Reason::Clamped).count() as u64;
    for case in cases {
        let mut here = Frame(case.before.clone());
        assert_eq!(clamp(&mut here, &tables), case.reason, "{}", case.name);
        let (action, there) = run(program, &case.before, 0);
        assert_eq!((action, there), (TC_ACT_UNSPEC, here.0), "{}", case.name);
    }
    assert_eq!(counted(&object, map::HOST_REASONS, Reason::Clamped), clamped);
    assert_eq!(counted(&object, map::HOST_REASONS, Reason::NotSynAck), 0);
}

#[test]
#[ignore = "needs root: loads eBPF programs"]
fn probes_are_sent_as_in_user_space() {
    let mut object = Ebpf::load(EGRESS).expect("the maps are made");
    let kinds = [Backend::KIND_L2, Backend::KIND_IP4, Backend::KIND_IP6, Backend::KIND_GUE4, Backend::KIND_GUE6];
    {
        let map = object.map_mut("BACKENDS").expect("a map");
        let mut map = Array::<_, Row<128>>::try_from(map).expect("an array");
        for kind in kinds.into_iter().chain([Backend::KIND_LOCAL]) {
            map.set(u32::from(kind), row(&support::backend(kind)), 0).expect("written");
        }
    }
    let program = classifier(&mut object, "probe");
    for packet in [client4(0b1011_1010), client6(0b1011_1010)] {
        let before = frame(&[], &packet);
        for kind in kinds {
            let mark = mark(u16::from(kind)).expect("an id");
            let mut here = Frame(before.clone());
            let verdict = probe(&mut here, mark, |_| Some(Box::new(support::backend(kind))));
            assert_eq!(verdict, ProbeVerdict::Redirect(Reason::Probed, 9));
            let (action, there) = run(program, &before, mark);
            assert_eq!((action, there), (TC_ACT_REDIRECT, here.0), "kind {kind}");
        }
        for (mark, expected) in [
            (0, TC_ACT_UNSPEC),
            (MARK_BASE | u32::from(Backend::KIND_LOCAL), TC_ACT_UNSPEC),
            (MARK_BASE | 77, TC_ACT_SHOT),
            (0x4000, TC_ACT_UNSPEC),
        ] {
            assert_eq!(run(program, &before, mark), (expected, before.clone()), "mark {mark:#x}");
        }
    }
    assert_eq!(counted(&object, map::PROBE_REASONS, Reason::Probed), 10);
    assert_eq!(counted(&object, map::PROBE_REASONS, Reason::ProbeUnknown), 2);
    assert_eq!(counted(&object, map::PROBE_REASONS, Reason::ProbedLocal), 2);
}

/// As the forwarder writes it.
fn row(backend: &Backend) -> Row<128> {
    let mut bytes = Vec::new();
    bytes.extend([backend.kind, backend.generation, backend.head_len, backend.alive]);
    bytes.extend(backend.mtu.to_ne_bytes());
    bytes.extend(backend.checksum.to_ne_bytes());
    bytes.extend(backend.egress.to_ne_bytes());
    bytes.extend([0; 4]);
    backend.address.iter().for_each(|word| bytes.extend(word.to_ne_bytes()));
    bytes.extend(backend.head);
    bytes.resize(128, 0);
    Row(bytes.try_into().expect("128 bytes"))
}
