//! Counting flows, removing stale ones, rates, and capture files: by tables and by reading back what was written.

use sluicegate_forward::engine::{Counters, FlowTable};
use sluicegate_forward::stats::{FlowEntry, IDLE_STAMPS, rate, rates, sweep};
use sluicegate_forward::tap::{CaptureWriter, Sample};
use sluicegate_l4::layout::{Traffic, flow_word, overflow_mark};
use sluicegate_l4::verdict::Reason;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

fn word(backend: u64, generation: u64, confirmed: bool, stamp: u64) -> u64 {
    backend
        | generation << flow_word::GENERATION_SHIFT
        | if confirmed { flow_word::CONFIRMED } else { 0 }
        | stamp << flow_word::STAMP_SHIFT
        | 0x2_dead_beef << flow_word::SIGNATURE_SHIFT
}

#[test]
fn a_sweep_counts_and_removes_what_nothing_can_use() {
    let present: u16 = 100;
    let before = |stamps: u16| u64::from(present.wrapping_sub(stamps) & 0x7ff);
    let kept = [
        word(7, 3, true, before(0)),
        word(7, 3, true, before(IDLE_STAMPS - 1)),
        word(7, 3, false, before(5)),
        word(16_383, 0, true, before(1)),
        // Stamped between the reading of the clock and that of the word.
        word(7, 3, true, u64::from(present) + 1),
    ];
    let stale = [word(7, 2, true, before(0)), word(8, 0, true, before(0)), word(9, 0, false, before(0))];
    let idle = [word(7, 3, true, before(IDLE_STAMPS)), word(16_383, 0, false, before(IDLE_STAMPS + 100))];
    let words: Vec<AtomicU64> =
        kept.iter().chain(&stale).chain(&[0, 0]).chain(&idle).map(|word| AtomicU64::new(*word)).collect();
    let table = FlowTable { words: &words, overflows: &[], stamp: present, stamp_length: Duration::from_secs(8) };
    let swept = sweep(&table, |id| match id {
        7 => Some(3),
        16_383 => Some(0),
        _ => None,
    });
    assert_eq!((swept.stale, swept.idle, swept.capacity), (3, 2, 12));
    assert_eq!(swept.established.into_iter().collect::<Vec<_>>(), [(7, 3), (16_383, 1)]);
    assert_eq!(swept.tentative.into_iter().collect::<Vec<_>>(), [(7, 1)]);
    let left: Vec<u64> = words.iter().map(|word| word.load(Ordering::Relaxed)).filter(|word| *word != 0).collect();
    assert_eq!(left, kept);
}

/// An entry of a second set is found by the mark of the first one, so a mark must not go before it.
#[test]
fn a_sweep_keeps_marks_for_as_long_as_the_entries_that_they_were_made_for() {
    for present in [0_u16, 15, 16, 1000, 2047] {
        let mark_before = |stamps: u16| AtomicU8::new(overflow_mark(present.wrapping_sub(stamps) & 0x7ff));
        let made = [0, 1, 100, IDLE_STAMPS - 1, IDLE_STAMPS + 32, IDLE_STAMPS + 200, 0x7ff];
        let mut marks: Vec<AtomicU8> = made.into_iter().map(mark_before).collect();
        marks.push(AtomicU8::new(0));
        let table = FlowTable { words: &[], overflows: &marks, stamp: present, stamp_length: Duration::from_secs(8) };
        sweep(&table, |_| None);
        let left: Vec<bool> = marks.iter().map(|mark| mark.load(Ordering::Relaxed) != 0).collect();
        // The last but one was made after the clock was read.
        assert_eq!(left, [true, true, true, true, false, false, true, false], "at {present}");
    }
}

#[test]
fn words_are_read_as_the_layout_says() {
    assert_eq!(FlowEntry::read(0), None);
    let entry = FlowEntry::read(word(16_383, 15, true, 2047)).expect("an entry");
    assert_eq!((entry.backend, entry.generation, entry.confirmed, entry.stamp), (16_383, 15, true, 2047));
    assert_eq!(entry.idle(2), 3, "stamps wrap around");
}

#[test]
fn rates_are_differences_and_counters_that_went_back_begin_at_zero() {
    let traffic = |packets: u64, bytes: u64, flows: u64| Traffic { packets, bytes, flows };
    let found = rate(traffic(100, 5000, 50), traffic(300, 9000, 20), Duration::from_secs(2));
    assert_eq!((found.packets, found.bytes, found.flows), (100.0, 2000.0, 10.0));
    assert_eq!(rate(Traffic::default(), traffic(1, 1, 1), Duration::ZERO).packets, 0.0);
    let reading = |services: &[(u16, u64)]| Counters {
        services: services.iter().map(|(id, packets)| (*id, traffic(*packets, 0, 0))).collect(),
        ..Counters::default()
    };
    let found = rates(&reading(&[(1, 10)]), &reading(&[(1, 30), (2, 1000)]), Duration::from_secs(1));
    assert_eq!(found.services.iter().map(|(id, rate)| (*id, rate.packets)).collect::<Vec<_>>(), [(1, 20.0)]);
}

/// Blocks of a capture file: (type, body), each with both of its lengths checked.
fn blocks(mut file: &[u8]) -> Vec<(u32, &[u8])> {
    let number = |bytes: &[u8]| u32::from_ne_bytes(bytes[..4].try_into().expect("four bytes"));
    let mut blocks = Vec::new();
    while !file.is_empty() {
        let length = number(&file[4..]) as usize;
        assert_eq!(length % 4, 0);
        assert_eq!(number(&file[length - 4..]) as usize, length, "the length stands at both ends");
        blocks.push((number(file), &file[8..length - 4]));
        file = &file[length..];
    }
    blocks
}

#[test]
fn captures_hold_each_packet_with_its_verdict() {
    let sample = |ifindex: u32, frame: &[u8]| Sample {
        time: Duration::from_nanos(1_500),
        ifindex,
        length: 1_514,
        reason: Some(Reason::FlowHit),
        backend: 7,
        service: 3,
        frame: frame.to_vec(),
    };
    let mut file = Vec::new();
    let epoch = Duration::from_secs(1_700_000_000);
    let mut writer = CaptureWriter::new(&mut file, epoch).expect("in memory");
    writer.write(&sample(2, b"abcde"), "eth0", "flow_hit").expect("in memory");
    writer.write(&sample(2, b""), "eth0", "").expect("in memory");
    writer.write(&sample(9, b"xyzw"), "eth1", "flow_hit").expect("in memory");
    let blocks = blocks(&file);
    let kinds: Vec<u32> = blocks.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, [0x0a0d_0d0a, 1, 6, 6, 1, 6], "each interface is described before its first packet");
    let packet = blocks[2].1;
    let word = |at: usize| u32::from_ne_bytes(packet[at..at + 4].try_into().expect("four bytes"));
    let time = u64::from(word(4)) << 32 | u64::from(word(8));
    assert_eq!((word(0), time, word(12), word(16)), (0, 1_700_000_000_000_001_500, 5, 1_514));
    assert_eq!(&packet[20..28], b"abcde\0\0\0");
    assert_eq!(
        &packet[28..40],
        [1_u16.to_ne_bytes(), 8_u16.to_ne_bytes()].concat().into_iter().chain(*b"flow_hit").collect::<Vec<u8>>()
    );
    let second = u32::from_ne_bytes(blocks[5].1[..4].try_into().expect("four bytes"));
    assert_eq!(second, 1, "interfaces are numbered in the order of their descriptions");
}

#[test]
fn samples_are_read_and_short_ones_refused() {
    let mut record = 77_u64.to_ne_bytes().to_vec();
    for word in [4_u32, 1_514] {
        record.extend(word.to_ne_bytes());
    }
    for half in [3_u16, Reason::FlowNew.index() as u16, 7, 9] {
        record.extend(half.to_ne_bytes());
    }
    record.extend(b"abcdef");
    let sample = Sample::read(&record).expect("a sample");
    assert_eq!((sample.time, sample.ifindex, sample.length), (Duration::from_nanos(77), 4, 1_514));
    assert_eq!((sample.reason, sample.backend, sample.service), (Some(Reason::FlowNew), 7, 9));
    assert_eq!(sample.frame, b"abc", "only so many bytes were written");
    for length in 0..24 {
        assert_eq!(Sample::read(&record[..length]), None);
    }
}
