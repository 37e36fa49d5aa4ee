//! What workers count of each endpoint: a row for each address that a Service's requests went to, with the pod and node
//! behind it.

use crate::exposition::escape_into;
use crate::series::{Book, Cells};
use crate::worker::Counter;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::sync::atomic::fence;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

/// Who an endpoint is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EndpointLabels {
    /// Namespace of the Service.
    pub namespace: Arc<str>,
    /// Name of the Service.
    pub service: Arc<str>,
    /// The pod; empty where nothing says which.
    pub pod: Arc<str>,
    /// The node that it runs on; empty where nothing says which.
    pub node: Arc<str>,
    /// Its address; `None` for the row of endpoints beyond the limit.
    pub endpoint: Option<SocketAddr>,
}

/// Endpoints beyond the limit.
pub(crate) static OTHER: LazyLock<Arc<EndpointLabels>> = LazyLock::new(|| {
    let empty: Arc<str> = "".into();
    Arc::new(EndpointLabels {
        namespace: Arc::clone(&empty),
        service: Arc::clone(&empty),
        pod: Arc::clone(&empty),
        node: empty,
        endpoint: None,
    })
});

pub(crate) type EndpointBook = Book<EndpointCells>;

/// What one worker counts for one endpoint, for that worker's thread alone; [`crate::WorkerMetrics::endpoint`] makes it.
/// Dropping it ends it: what it counted is shown for some minutes more.
pub struct EndpointCounters(pub(crate) Arc<EndpointCells>);

impl fmt::Debug for EndpointCounters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("EndpointCounters").field(&self.0.labels).finish()
    }
}

impl EndpointCounters {
    /// It was given a request or a connection. Each call is answered by one [`Self::finished`].
    #[inline]
    pub fn started(&self) {
        self.0.started.add(1);
    }

    /// It is over.
    #[inline]
    pub fn finished(&self) {
        self.0.finished.add(1);
    }

    /// It failed.
    pub fn failed(&self) {
        self.0.failures.add(1);
    }

    /// It is left out until then; `None` = no longer.
    pub fn ejected(&self, until: Option<Instant>) {
        let until = until.map_or(0, since_epoch);
        self.0.ejected_until.store(until, Relaxed);
    }
}

impl Drop for EndpointCounters {
    fn drop(&mut self) {
        self.ejected(None);
    }
}

pub(crate) struct EndpointCells {
    labels: Arc<EndpointLabels>,
    started: Counter,
    finished: Counter,
    failures: Counter,
    /// Nanoseconds since [`EPOCH`]; 0 = it is not.
    ejected_until: AtomicU64,
}

impl EndpointCells {
    pub(crate) fn new(labels: EndpointLabels) -> Self {
        Self {
            labels: Arc::new(labels),
            started: Counter::default(),
            finished: Counter::default(),
            failures: Counter::default(),
            ejected_until: AtomicU64::new(0),
        }
    }
}

/// Some instant of the process, so that instants fit into one word.
static EPOCH: LazyLock<Instant> = LazyLock::new(|| Instant::now() - Duration::from_nanos(1));

fn since_epoch(instant: Instant) -> u64 {
    u64::try_from(instant.saturating_duration_since(*EPOCH).as_nanos()).unwrap_or(u64::MAX)
}

/// What all workers counted for an endpoint.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct EndpointTotals {
    pub(crate) started: u64,
    pub(crate) finished: u64,
    pub(crate) failures: u64,
    /// Workers that leave it out.
    pub(crate) ejected: u64,
}

impl Cells for EndpointCells {
    type Labels = EndpointLabels;
    type Totals = EndpointTotals;

    fn labels(&self) -> &Arc<EndpointLabels> {
        &self.labels
    }

    fn are_over(cells: &Arc<Self>) -> bool {
        let over = Arc::strong_count(cells) == 1;
        // What the worker wrote before it let go is read after this.
        fence(Acquire);
        over
    }

    fn add_to(&self, totals: &mut EndpointTotals, now: Instant) {
        // What is over is read first: a request that begins and ends in between must not look like one less than none.
        totals.finished += self.finished.value();
        totals.started += self.started.value();
        totals.failures += self.failures.value();
        totals.ejected += u64::from(self.ejected_until.load(Relaxed) > since_epoch(now));
    }

    fn text(labels: &EndpointLabels) -> String {
        let EndpointLabels { namespace, service, pod, node, endpoint } = labels;
        let endpoint = endpoint.map_or_else(|| "other".to_owned(), |address| address.to_string());
        let mut text = String::new();
        let pairs = [("namespace", &**namespace), ("service", service), ("pod", pod), ("node", node)];
        for (name, value) in pairs {
            text.push_str(name);
            text.push_str("=\"");
            escape_into(&mut text, value);
            text.push_str("\",");
        }
        text.push_str("endpoint=\"");
        text.push_str(&endpoint);
        text.push('"');
        text
    }
}
