//! What workers count of each route: a row for each host (as the Ingress writes it), Ingress and Service.
//!
//! The routing table gives every row a place, so counting a request is an index, a comparison of pointers and some
//! twenty additions to memory of the worker's own. Hosts of requests are never looked at: what no route takes is one row,
//! and so is what is beyond the limit of rows.

use crate::exemplar::{Exemplar, ExemplarCell};
use crate::exposition::escape_into;
use crate::labels::MethodLabel;
use crate::request::{FinishedRequest, RequestSink, RequestSinks, RouteTaken, Try};
use crate::series::{Book, Cells};
use crate::worker::Counter;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::sync::atomic::{AtomicU64, fence};
use std::sync::{Arc, LazyLock, OnceLock, Weak};
use std::time::{Duration, Instant};

/// Upper bounds of the histograms of routes in nanoseconds. From 5 ms to 10 s they are those that most of the ecosystem
/// has by default, ingress-nginx too.
pub(crate) const ROUTE_BOUNDS: [u64; 13] = [
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
];

/// Upper bounds of the histograms of sizes, in bytes.
pub(crate) const SIZE_BOUNDS: [u64; 7] = [10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000];

/// Classes of status codes.
pub(crate) const CLASSES: [&str; 6] = ["1xx", "2xx", "3xx", "4xx", "5xx", "other"];

/// Parts of a try that are timed.
pub(crate) const PHASES: [&str; 3] = ["connect", "first_byte", "total"];

/// Durations above these nanoseconds have an exemplar of their own, so that the slow ones are not lost among the fast.
const EXEMPLAR_FLOORS: [u64; 3] = [10_000_000, 100_000_000, 1_000_000_000];
const EXEMPLARS: usize = EXEMPLAR_FLOORS.len() + 1;

/// The labels of a row.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RouteLabels {
    pub(crate) namespace: Arc<str>,
    pub(crate) ingress: Arc<str>,
    /// Empty for redirects and refusals.
    pub(crate) service: Arc<str>,
    /// `*` where the Ingress says none.
    pub(crate) host: Box<str>,
}

/// Requests that no route took.
pub(crate) static UNKNOWN: LazyLock<Arc<RouteLabels>> = LazyLock::new(|| RouteLabels::of_none("unknown"));
/// Requests of routes beyond the limit.
pub(crate) static OTHER: LazyLock<Arc<RouteLabels>> = LazyLock::new(|| RouteLabels::of_none("other"));

impl RouteLabels {
    /// No Ingress has an empty name, so this is never the row of one.
    fn of_none(host: &str) -> Arc<Self> {
        Arc::new(Self { namespace: "".into(), ingress: "".into(), service: "".into(), host: host.into() })
    }

    fn of(route: &RouteTaken<'_>) -> Arc<Self> {
        Arc::new(Self {
            namespace: Arc::clone(route.namespace),
            ingress: Arc::clone(route.ingress),
            service: route.service.map_or_else(|| "".into(), |(name, _)| Arc::clone(name)),
            host: if route.host.is_empty() { "*" } else { route.host }.into(),
        })
    }
}

/// All rows of routes.
pub(crate) type RouteBook = Book<RouteCells>;

/// Makes the sinks by which workers count routes; [`crate::Metrics::route_sinks`] gives it.
pub struct RouteSinks {
    pub(crate) book: Arc<RouteBook>,
    /// Histograms that only the names of ingress-nginx show.
    pub(crate) is_detailed: bool,
}

impl fmt::Debug for RouteSinks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RouteSinks").field("is_detailed", &self.is_detailed).finish_non_exhaustive()
    }
}

impl RequestSinks for RouteSinks {
    fn of_worker(&self, _index: usize) -> Box<dyn RequestSink> {
        Box::new(RouteCounter::new(Arc::clone(&self.book), self.is_detailed))
    }
}

/// Counts the requests of one worker.
struct RouteCounter {
    book: Arc<RouteBook>,
    is_detailed: bool,
    unknown: Arc<RouteCells>,
    other: Arc<RouteCells>,
    /// By the place that the routing table gave.
    cells: Vec<Option<Arc<RouteCells>>>,
}

impl RequestSink for RouteCounter {
    #[inline]
    fn finished(&mut self, request: &FinishedRequest<'_>) {
        let cells = match &request.route {
            None => &*self.unknown,
            Some(route) => match self.cells.get(route.series.0 as usize) {
                Some(Some(cells)) if std::ptr::eq(cells.tenure.as_ptr(), Arc::as_ptr(route.series.1)) => &**cells,
                _ => self.new_cells(route),
            },
        };
        cells.count(request);
    }
}

impl RouteCounter {
    fn new(book: Arc<RouteBook>, is_detailed: bool) -> Self {
        let make = |labels: &Arc<RouteLabels>| {
            let cells = Arc::new(RouteCells::new(Arc::clone(labels), Weak::new(), is_detailed));
            book.hand_in(Arc::clone(&cells));
            cells
        };
        let (unknown, other) = (make(&UNKNOWN), make(&OTHER));
        Self { unknown, other, book, is_detailed, cells: Vec::new() }
    }

    /// The first request of a route since it came, or since this worker began.
    #[cold]
    fn new_cells(&mut self, route: &RouteTaken<'_>) -> &RouteCells {
        let place = route.series.0 as usize;
        // The places are dense, so this bounds what workers hold and not only what is shown.
        if place >= self.book.limit() {
            return &self.other;
        }
        if place >= self.cells.len() {
            self.cells.resize_with(place + 1, || None);
        }
        let tenure = Arc::downgrade(route.series.1);
        let cells = Arc::new(RouteCells::new(RouteLabels::of(route), tenure, self.is_detailed));
        self.book.hand_in(Arc::clone(&cells));
        self.cells[place].insert(cells)
    }
}

/// Memory that a worker takes for a row when it first counts there, in bytes, its labels aside.
pub const ROUTE_CELL_BYTES: usize = size_of::<RouteCells>();

/// What one worker counts for one row; its thread alone writes.
///
/// Aligned so that no two workers' cells share a cache line (nor the pair that the prefetcher fetches).
#[repr(align(128))]
pub(crate) struct RouteCells {
    labels: Arc<RouteLabels>,
    /// The row's place is its own for as long as this can be upgraded; of rows that always are, it never could.
    tenure: Weak<()>,
    requests: [[Counter; CLASSES.len()]; MethodLabel::COUNT],
    duration: Distribution<{ ROUTE_BOUNDS.len() + 1 }>,
    phases: [Timed; PHASES.len()],
    bytes_in: Counter,
    bytes_out: Counter,
    retries: Counter,
    /// Appear with the first request that is recorded.
    exemplars: OnceLock<Box<[ExemplarCell; EXEMPLARS]>>,
    details: Option<Box<Details>>,
}

impl RouteCells {
    fn new(labels: Arc<RouteLabels>, tenure: Weak<()>, is_detailed: bool) -> Self {
        Self {
            labels,
            tenure,
            requests: std::array::from_fn(|_| std::array::from_fn(|_| Counter::default())),
            duration: Distribution::default(),
            phases: Default::default(),
            bytes_in: Counter::default(),
            bytes_out: Counter::default(),
            retries: Counter::default(),
            exemplars: OnceLock::new(),
            details: is_detailed.then(Box::default),
        }
    }

    #[inline]
    fn count(&self, request: &FinishedRequest<'_>) {
        let duration = request.ended.saturating_duration_since(request.started);
        self.requests[request.method_label.index()][class_index(request.status)].add(1);
        self.duration.observe(duration);
        self.bytes_in.add(request.bytes_in);
        self.bytes_out.add(request.bytes_out);
        if let Some((last, before)) = request.tries.split_last() {
            self.retries.add(before.len() as u64);
            before.iter().filter_map(handshake).for_each(|connect| self.phases[0].add(connect));
            let phases = phases_of(last);
            self.phases.iter().zip(phases).for_each(|(timed, phase)| phase.iter().for_each(|phase| timed.add(*phase)));
        }
        if let Some(details) = &self.details {
            details.count(request);
        }
        if let Some(trace) = request.trace.filter(|trace| trace.sampled) {
            let nanoseconds = nanoseconds(duration);
            let group = EXEMPLAR_FLOORS.iter().filter(|floor| nanoseconds > **floor).count();
            self.exemplars.get_or_init(Box::default)[group].set(trace.trace_id.get(), duration);
        }
    }
}

/// TCP and TLS.
fn handshake(attempt: &Try) -> Option<Duration> {
    attempt.connect.map(|connect| connect + attempt.tls.unwrap_or_default())
}

/// The timings of the try that decided, in the order of [`PHASES`].
fn phases_of(attempt: &Try) -> [Option<Duration>; PHASES.len()] {
    let total = attempt.ended.saturating_duration_since(attempt.started);
    [handshake(attempt), attempt.first_byte, Some(total)]
}

fn class_index(status: u16) -> usize {
    match status / 100 {
        class @ 1..=5 => usize::from(class) - 1,
        _ => CLASSES.len() - 1,
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A distribution with one writer.
#[derive(Debug)]
pub(crate) struct Distribution<const N: usize> {
    buckets: [Counter; N],
    /// As the bits of an f64: seconds or bytes.
    sum: AtomicU64,
}

impl<const N: usize> Default for Distribution<N> {
    fn default() -> Self {
        Self { buckets: std::array::from_fn(|_| Counter::default()), sum: AtomicU64::default() }
    }
}

impl Distribution<{ ROUTE_BOUNDS.len() + 1 }> {
    #[inline]
    fn observe(&self, duration: Duration) {
        let nanoseconds = nanoseconds(duration);
        self.buckets[ROUTE_BOUNDS.partition_point(|bound| *bound < nanoseconds)].add(1);
        add_to_sum(&self.sum, duration.as_secs_f64());
    }
}

impl Distribution<{ SIZE_BOUNDS.len() + 1 }> {
    fn observe(&self, bytes: u64) {
        self.buckets[SIZE_BOUNDS.partition_point(|bound| *bound < bytes)].add(1);
        add_to_sum(&self.sum, bytes as f64);
    }
}

impl<const N: usize> Distribution<N> {
    fn add_to(&self, total: &mut DistributionTotal<N>) {
        self.buckets.iter().zip(&mut total.buckets).for_each(|(bucket, sum)| *sum += bucket.value());
        total.sum += f64::from_bits(self.sum.load(Relaxed));
    }
}

#[inline]
fn add_to_sum(sum: &AtomicU64, amount: f64) {
    sum.store((f64::from_bits(sum.load(Relaxed)) + amount).to_bits(), Relaxed);
}

/// How often something was timed, and how long it took together.
#[derive(Debug, Default)]
struct Timed {
    count: Counter,
    sum: AtomicU64,
}

impl Timed {
    #[inline]
    fn add(&self, duration: Duration) {
        self.count.add(1);
        add_to_sum(&self.sum, duration.as_secs_f64());
    }
}

/// What only ingress-nginx's names show.
#[derive(Debug, Default)]
struct Details {
    phases: [Distribution<{ ROUTE_BOUNDS.len() + 1 }>; PHASES.len()],
    request_size: Distribution<{ SIZE_BOUNDS.len() + 1 }>,
    response_size: Distribution<{ SIZE_BOUNDS.len() + 1 }>,
}

impl Details {
    fn count(&self, request: &FinishedRequest<'_>) {
        if let Some(last) = request.tries.last() {
            let phases = phases_of(last);
            self.phases.iter().zip(phases).for_each(|(all, phase)| phase.iter().for_each(|phase| all.observe(*phase)));
        }
        self.request_size.observe(request.request_length);
        self.response_size.observe(request.bytes_out);
    }
}

/// Added up distributions.
#[derive(Clone, Debug)]
pub(crate) struct DistributionTotal<const N: usize> {
    pub(crate) buckets: [u64; N],
    pub(crate) sum: f64,
}

impl<const N: usize> Default for DistributionTotal<N> {
    fn default() -> Self {
        Self { buckets: [0; N], sum: 0.0 }
    }
}

/// What all workers counted for a row.
#[derive(Clone, Debug, Default)]
pub(crate) struct RouteTotals {
    pub(crate) requests: [[u64; CLASSES.len()]; MethodLabel::COUNT],
    pub(crate) duration: DistributionTotal<{ ROUTE_BOUNDS.len() + 1 }>,
    pub(crate) phases: [(u64, f64); PHASES.len()],
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) retries: u64,
    pub(crate) exemplars: Option<Box<[Option<Exemplar>; EXEMPLARS]>>,
    pub(crate) details: Option<Box<DetailTotals>>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct DetailTotals {
    pub(crate) phases: [DistributionTotal<{ ROUTE_BOUNDS.len() + 1 }>; PHASES.len()],
    pub(crate) request_size: DistributionTotal<{ SIZE_BOUNDS.len() + 1 }>,
    pub(crate) response_size: DistributionTotal<{ SIZE_BOUNDS.len() + 1 }>,
}

impl RouteTotals {
    /// Requests that are over.
    pub(crate) fn count(&self) -> u64 {
        self.requests.iter().flatten().sum()
    }

    /// The exemplars by the bucket of the duration that they fall into.
    pub(crate) fn exemplar_of(&self, bucket: usize) -> Option<Exemplar> {
        let exemplars = self.exemplars.as_ref()?.iter().flatten();
        let in_bucket = |one: &&Exemplar| {
            let nanoseconds = nanoseconds(one.duration);
            ROUTE_BOUNDS.partition_point(|bound| *bound < nanoseconds) == bucket
        };
        exemplars.filter(in_bucket).max_by_key(|one| one.at).copied()
    }
}

impl RouteCells {
    /// All requests, and those that were answered with 500 to 599.
    fn requests(&self) -> [u64; 2] {
        let sum = |class: usize| self.requests.iter().map(|classes| classes[class].value()).sum::<u64>();
        [(0..CLASSES.len()).map(sum).sum(), sum(SERVER_ERRORS)]
    }
}

/// What hosts have in the rows of a book, shown one by one: all requests, and those that were answered with 500 to 599.
/// Requests that no route took are under [`NO_ROUTE`]; those beyond the limit of rows are left out.
pub(crate) fn visit_hosts(book: &RouteBook, now: Instant, visit: &mut dyn FnMut(&str, u64, u64)) {
    let mut hosts: BTreeMap<Box<str>, [u64; 2]> = BTreeMap::new();
    book.visit(now, |labels, past, cells| {
        if *labels == **OTHER {
            return;
        }
        let errors = past.requests.iter().map(|classes| classes[SERVER_ERRORS]).sum();
        let [requests, errors] = cells
            .iter()
            .map(|cells| cells.requests())
            .fold([past.count(), errors], |sum, more| [sum[0] + more[0], sum[1] + more[1]]);
        let name = if *labels == **UNKNOWN { NO_ROUTE } else { &*labels.host };
        match hosts.get_mut(name) {
            Some(sum) => *sum = [sum[0] + requests, sum[1] + errors],
            None => drop(hosts.insert(name.into(), [requests, errors])),
        }
    });
    hosts.iter().for_each(|(host, [requests, errors])| visit(host, *requests, *errors));
}

/// In place of a host: requests that no route took.
pub const NO_ROUTE: &str = "(no route)";

/// Index of `5xx` in [`CLASSES`].
const SERVER_ERRORS: usize = 4;

impl Cells for RouteCells {
    type Labels = RouteLabels;
    type Totals = RouteTotals;

    fn labels(&self) -> &Arc<RouteLabels> {
        &self.labels
    }

    fn are_over(cells: &Arc<Self>) -> bool {
        let is_permanent = cells.tenure.ptr_eq(&Weak::new());
        let over = if is_permanent { Arc::strong_count(cells) == 1 } else { cells.tenure.strong_count() == 0 };
        // What the worker wrote before it let go of the table is read after this.
        fence(Acquire);
        over
    }

    fn add_to(&self, totals: &mut RouteTotals, _now: Instant) {
        let cells = self.requests.iter().flatten();
        cells.zip(totals.requests.iter_mut().flatten()).for_each(|(counter, sum)| *sum += counter.value());
        self.duration.add_to(&mut totals.duration);
        for (timed, (count, sum)) in self.phases.iter().zip(&mut totals.phases) {
            *count += timed.count.value();
            *sum += f64::from_bits(timed.sum.load(Relaxed));
        }
        totals.bytes_in += self.bytes_in.value();
        totals.bytes_out += self.bytes_out.value();
        totals.retries += self.retries.value();
        if let Some(exemplars) = self.exemplars.get() {
            let newest = totals.exemplars.get_or_insert_default();
            for (newest, cell) in newest.iter_mut().zip(exemplars.iter()) {
                *newest = [*newest, cell.get()].into_iter().flatten().max_by_key(|one| one.at);
            }
        }
        if let Some(details) = &self.details {
            let sums = totals.details.get_or_insert_default();
            details.phases.iter().zip(&mut sums.phases).for_each(|(one, sum)| one.add_to(sum));
            details.request_size.add_to(&mut sums.request_size);
            details.response_size.add_to(&mut sums.response_size);
        }
    }

    fn text(labels: &RouteLabels) -> String {
        let RouteLabels { namespace, ingress, service, host } = labels;
        let mut text = String::with_capacity(namespace.len() + ingress.len() + service.len() + host.len() + 48);
        for (name, value) in [("namespace", namespace), ("ingress", ingress), ("service", service)] {
            text.push_str(name);
            text.push_str("=\"");
            escape_into(&mut text, value);
            text.push_str("\",");
        }
        text.push_str("host=\"");
        escape_into(&mut text, host);
        text.push('"');
        text
    }
}
