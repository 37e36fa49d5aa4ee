//! Sums over all workers, for whoever draws rates: cheap enough to be read once a second.

use crate::labels::ListenerKind;
use crate::metrics::Metrics;
use crate::routes;
use crate::worker::{BUCKETS_NS, CODES, HistogramTotal, class_of_code};
use std::time::{Duration, Instant};

/// Classes of status codes: `1xx` to `5xx`, and those that are none.
pub const STATUS_CLASSES: usize = 6;

/// What all workers counted since the start of the process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrafficTotals {
    /// Requests that are over, by class of their final status: `1xx` to `5xx`, then what is no status.
    pub by_class: [u64; STATUS_CLASSES],
    /// How long they took.
    pub durations: DurationTotals,
    /// Body bytes from clients.
    pub bytes_in: u64,
    /// Body bytes to clients.
    pub bytes_out: u64,
    /// Connections of clients that are open.
    pub connections: u64,
}

impl TrafficTotals {
    /// Requests that are over.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.by_class.iter().sum()
    }

    /// Those that were answered with 400 to 499, those included whose client went away.
    #[must_use]
    pub fn client_errors(&self) -> u64 {
        self.by_class[3]
    }

    /// Those that were answered with 500 to 599.
    #[must_use]
    pub fn server_errors(&self) -> u64 {
        self.by_class[4]
    }
}

/// How long requests took: how many fell into each bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DurationTotals {
    buckets: [u64; BUCKETS_NS.len() + 1],
}

impl DurationTotals {
    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Those that are here and were not yet in an earlier reading.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self { buckets: std::array::from_fn(|bucket| self.buckets[bucket].saturating_sub(earlier.buckets[bucket])) }
    }

    /// The duration that a share (0 to 1) of them did not exceed, by a straight line through the bucket that it falls
    /// into, as Prometheus's `histogram_quantile` draws it; `None` where there are none. What took longer than the last
    /// bound counts as that bound.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        let rank = share.clamp(0.0, 1.0) * count as f64;
        let mut below = 0_u64;
        for (bucket, inside) in self.buckets.iter().enumerate() {
            if (below + inside) as f64 >= rank && *inside > 0 {
                let lower = if bucket == 0 { 0 } else { BUCKETS_NS[bucket - 1] };
                let upper = BUCKETS_NS.get(bucket).copied().unwrap_or(lower);
                let part = ((rank - below as f64) / *inside as f64).clamp(0.0, 1.0);
                return Some(Duration::from_nanos(lower + ((upper - lower) as f64 * part) as u64));
            }
            below += inside;
        }
        None
    }

    /// One more.
    pub fn add(&mut self, duration: Duration) {
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[BUCKETS_NS.partition_point(|bound| *bound < nanoseconds)] += 1;
    }
}

impl Metrics {
    /// What all workers counted. It costs the request path nothing.
    pub fn totals(&self) -> TrafficTotals {
        let mut totals = TrafficTotals::default();
        let mut durations = HistogramTotal::default();
        self.each_thread(|worker| {
            for codes in worker.requests.iter().flatten() {
                for (code, counter) in codes.iter().enumerate() {
                    totals.by_class[CLASS_OF_CODE[code]] += counter.value();
                }
            }
            for histogram in &worker.request_duration {
                histogram.add_to(&mut durations);
            }
            totals.bytes_in += worker.bytes_in.iter().map(|counter| counter.value()).sum::<u64>();
            totals.bytes_out += worker.bytes_out.iter().map(|counter| counter.value()).sum::<u64>();
        });
        totals.durations.buckets = durations.buckets;
        totals.connections = ListenerKind::ALL.iter().map(|kind| self.connections(*kind)).sum();
        totals
    }

    /// Shows each host, as Ingresses write them, with its requests and those of them that were answered with 500 to 599,
    /// as the sinks of [`Metrics::route_sinks`] count them. Requests that no route took are under [`NO_ROUTE`].
    ///
    /// [`NO_ROUTE`]: crate::NO_ROUTE
    pub fn visit_hosts(&self, now: Instant, visit: &mut dyn FnMut(&str, u64, u64)) {
        routes::visit_hosts(&self.routes, now, visit);
    }
}

/// The class of each series of codes.
static CLASS_OF_CODE: std::sync::LazyLock<[usize; CODES]> =
    std::sync::LazyLock::new(|| std::array::from_fn(class_of_code));
