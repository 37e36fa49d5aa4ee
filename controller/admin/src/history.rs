//! Rates of the last minutes and of the last hour, out of counters that are read once a second. Pure: it is told what was
//! read, and when.
//!
//! Bounded: 300 points a second apart and 360 ten seconds apart, 72 bytes each.

use crate::traffic::{PacketTotals, Pulse};
use serde::Serialize;
use serde::ser::SerializeSeq;
use sluicegate_telemetry::TrafficTotals;
use std::collections::VecDeque;
use std::time::Duration;

/// From one fine point to the next.
pub const FINE_STEP: Duration = Duration::from_secs(1);
/// Fine points that are kept: five minutes.
pub const FINE_POINTS: usize = 300;
/// From one coarse point to the next.
pub const COARSE_STEP: Duration = Duration::from_secs(10);
/// Coarse points that are kept: an hour.
pub const COARSE_POINTS: usize = 360;

/// Longer pauses between two readings are gaps, of which nothing can be said.
const LONGEST_PAUSE: u32 = 5;

/// What a point holds, in its order.
pub const COLUMNS: [&str; 10] = [
    "at_ms",
    "requests",
    "client_errors",
    "server_errors",
    "p50_ms",
    "p99_ms",
    "connections",
    "packets",
    "bits",
    "dropped",
];

/// What was read at one instant.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// On a clock that only grows.
    pub at: Duration,
    /// Milliseconds since the Unix epoch.
    pub unix_ms: u64,
    /// What workers counted.
    pub totals: TrafficTotals,
    /// What the director counted.
    pub packets: Option<PacketTotals>,
}

impl Reading {
    /// Puts together what was read.
    pub fn new(at: Duration, unix_ms: u64, totals: TrafficTotals, pulse: &Pulse) -> Self {
        Self { at, unix_ms, totals, packets: pulse.packets }
    }
}

/// Traffic between two readings. Written as a list in the order of [`COLUMNS`]; what is not known is null.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Its end, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// Requests that ended, a second.
    pub requests: f64,
    /// Those with 400 to 499.
    pub client_errors: f64,
    /// Those with 500 to 599.
    pub server_errors: f64,
    /// The median of what they took; unknown where none ended.
    pub p50_ms: Option<f64>,
    /// 99 of 100 took no longer.
    pub p99_ms: Option<f64>,
    /// Connections of clients that were open at its end.
    pub connections: u64,
    /// Frames forwarded for virtual IPs, a second.
    pub packets: Option<f64>,
    /// Their bits, a second.
    pub bits: Option<f64>,
    /// Frames dropped, a second.
    pub dropped: Option<f64>,
}

impl Point {
    fn between(earlier: &Reading, later: &Reading) -> Self {
        let seconds = later.at.saturating_sub(earlier.at).as_secs_f64().max(1e-3);
        let rate = |before: u64, after: u64| after.saturating_sub(before) as f64 / seconds;
        let (from, to) = (&earlier.totals, &later.totals);
        let durations = to.durations.since(&from.durations);
        let milliseconds = |share| durations.quantile(share).map(|found| found.as_secs_f64() * 1_000.0);
        let packets = earlier.packets.zip(later.packets).and_then(|(from, to)| packet_rates(from, to));
        Self {
            at_ms: later.unix_ms,
            requests: rate(from.requests(), to.requests()),
            client_errors: rate(from.client_errors(), to.client_errors()),
            server_errors: rate(from.server_errors(), to.server_errors()),
            p50_ms: milliseconds(0.5),
            p99_ms: milliseconds(0.99),
            connections: to.connections,
            packets: packets.map(|[packets, ..]| packets),
            bits: packets.map(|[_, bits, _]| bits),
            dropped: packets.map(|[.., dropped]| dropped),
        }
    }
}

/// The director reads its counters when it will: its own clock counts. `None` where it has not read since.
fn packet_rates(from: PacketTotals, to: PacketTotals) -> Option<[f64; 3]> {
    let seconds = to.counted_ms.checked_sub(from.counted_ms).filter(|passed| *passed > 0)? as f64 / 1_000.0;
    let rate = |before: u64, after: u64| after.saturating_sub(before) as f64 / seconds;
    Some([rate(from.packets, to.packets), rate(from.bytes, to.bytes) * 8.0, rate(from.dropped, to.dropped)])
}

impl Serialize for Point {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let known = |value: f64| Some(round(value));
        let mut list = serializer.serialize_seq(Some(COLUMNS.len()))?;
        list.serialize_element(&self.at_ms)?;
        for value in [
            known(self.requests),
            known(self.client_errors),
            known(self.server_errors),
            self.p50_ms.map(round),
            self.p99_ms.map(round),
        ] {
            list.serialize_element(&value)?;
        }
        list.serialize_element(&self.connections)?;
        for value in [self.packets, self.bits, self.dropped] {
            list.serialize_element(&value.map(round))?;
        }
        list.end()
    }
}

/// Thousandths are enough for people.
pub(crate) fn round(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}

/// The rings.
#[derive(Debug, Default)]
pub struct History {
    last: Option<Reading>,
    /// The last reading at which the director had read its counters anew, and the rates since the one before.
    packets: Option<(PacketTotals, [f64; 3])>,
    coarse_from: Option<Reading>,
    fine: VecDeque<Point>,
    coarse: VecDeque<Point>,
}

/// What a reading added.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Added {
    /// The point of the last second.
    pub fine: Point,
    /// The point of the last ten seconds, where they are over.
    pub coarse: Option<Point>,
}

impl History {
    /// Takes a reading; the first one, and one after a pause, only begins.
    pub fn take(&mut self, reading: Reading) -> Option<Added> {
        let Some(last) = self.last.replace(reading.clone()) else {
            self.coarse_from = Some(reading);
            return None;
        };
        if reading.at.saturating_sub(last.at) > FINE_STEP * LONGEST_PAUSE {
            self.coarse_from = Some(reading);
            return None;
        }
        let mut fine = Point::between(&last, &reading);
        self.smooth(&reading, &mut fine);
        push(&mut self.fine, fine, FINE_POINTS);
        let mut coarse = None;
        // A timer that is a little early must not make a point of eleven seconds.
        let is_over = |from: &Reading| reading.at.saturating_sub(from.at) + FINE_STEP / 2 >= COARSE_STEP;
        if let Some(from) = self.coarse_from.take_if(|from| is_over(from)) {
            let point = Point::between(&from, &reading);
            push(&mut self.coarse, point, COARSE_POINTS);
            coarse = Some(point);
            self.coarse_from = Some(reading);
        }
        Some(Added { fine, coarse })
    }

    /// A director that reads its counters less often than once a second has the rate of its last reading meanwhile.
    fn smooth(&mut self, reading: &Reading, point: &mut Point) {
        let Some(now) = reading.packets else {
            self.packets = None;
            return;
        };
        let rates = match self.packets {
            Some((before, rates)) if before.counted_ms == now.counted_ms => Some(rates),
            Some((before, _)) => packet_rates(before, now),
            None => None,
        };
        self.packets = Some((now, rates.unwrap_or_default()));
        [point.packets, point.bits, point.dropped] =
            rates.map_or([None; 3], |[packets, bits, dropped]| [Some(packets), Some(bits), Some(dropped)]);
    }

    /// The last five minutes, the oldest first.
    pub fn fine(&self) -> impl ExactSizeIterator<Item = &Point> {
        self.fine.iter()
    }

    /// The last hour, the oldest first.
    pub fn coarse(&self) -> impl ExactSizeIterator<Item = &Point> {
        self.coarse.iter()
    }
}

fn push(ring: &mut VecDeque<Point>, point: Point, most: usize) {
    if ring.len() == most {
        ring.pop_front();
    }
    ring.push_back(point);
}
