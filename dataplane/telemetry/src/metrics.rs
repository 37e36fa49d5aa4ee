//! Every metric that exists, in one table, and the [`Metrics`] that hold their values.

use crate::access_log::AccessLog;
use crate::control::{CertificateExpiry, Control, PoolAddresses, RejectionCounts};
use crate::endpoints::{self, EndpointBook};
use crate::exposition::rows::Rows;
use crate::exposition::{self, Exposition, NginxNames};
use crate::labels::{FaultReason, LimitName, ListenerKind, ReviewEnd};
use crate::packets::PacketCounts;
use crate::process::Process;
use crate::routes::{self, RouteBook, RouteSinks};
use crate::series::DEFAULT_SERIES_LIMIT;
use crate::source::{SourceCounts, SourceReader};
use crate::span::SpanQueue;
use crate::worker::{BackendTotals, MAX_BACKEND_SLOTS, WorkerMetrics};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// How a metric behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// It only grows while the process lives; its name ends in `_total`.
    Counter,
    /// It goes up and down.
    Gauge,
    /// A distribution in fixed buckets.
    Histogram,
    /// A distribution of which only the count and the sum are kept.
    Summary,
}

impl MetricKind {
    /// As it stands in a `# TYPE` line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::Summary => "summary",
        }
    }
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct MetricInfo {
    /// Which metric.
    pub id: MetricId,
    /// Its name, in base units.
    pub name: &'static str,
    /// How it behaves.
    pub kind: MetricKind,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// What it counts, in one line.
    pub help: &'static str,
}

macro_rules! metric_table {
    ($($id:ident $kind:ident $name:literal $labels:tt $help:literal;)+) => {
        /// Names a metric in code.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs, reason = "the help text of the table is the documentation")]
        pub enum MetricId {
            $($id,)+
        }

        /// Every metric, in the order of exposition.
        pub const TABLE: &[MetricInfo] = &[
            $(MetricInfo {
                id: MetricId::$id,
                name: $name,
                kind: MetricKind::$kind,
                labels: &$labels,
                help: $help,
            },)+
        ];
    };
}

metric_table! {
    // Requests
    Requests Counter "sluicegate_requests_total" ["protocol", "method", "code"]
        "Requests that are over, by the client's protocol, method and final status (rare statuses by class).";
    RequestDuration Histogram "sluicegate_request_duration_seconds" ["protocol"]
        "Time from the first byte of a request to the last byte of its response.";
    UpstreamDuration Histogram "sluicegate_upstream_duration_seconds" []
        "Time from sending a request to the endpoint that answered until the end of its response head.";
    ReceivedBytes Counter "sluicegate_request_body_bytes_total" ["protocol"]
        "Body bytes received from clients.";
    SentBytes Counter "sluicegate_response_body_bytes_total" ["protocol"]
        "Body bytes sent to clients.";
    Faults Counter "sluicegate_faults_total" ["reason"]
        "Requests that the gateway itself answered, and connections that it closed, by reason.";
    Limits Counter "sluicegate_limit_exceeded_total" ["limit"]
        "Times that a client or a backend ran into a limit.";
    // Client connections
    Connections Counter "sluicegate_connections_total" ["listener"]
        "Connections accepted from clients.";
    ConnectionsActive Gauge "sluicegate_connections_active" ["listener"]
        "Connections with clients that are open.";
    TlsHandshakes Counter "sluicegate_tls_handshakes_total" ["version"]
        "TLS handshakes with clients that succeeded.";
    TlsFailures Counter "sluicegate_tls_handshake_failures_total" ["reason"]
        "TLS handshakes with clients that failed.";
    TlsResumed Counter "sluicegate_tls_resumed_total" []
        "TLS handshakes with clients that resumed a session.";
    TlsDefaultCertificate Counter "sluicegate_tls_default_certificate_total" []
        "TLS handshakes that were answered with the default certificate.";
    Upgrades Counter "sluicegate_upgrades_total" ["kind"]
        "Requests that became a tunnel (WebSocket and other upgrades).";
    UpgradesActive Gauge "sluicegate_upgrades_active" ["kind"]
        "Tunnels of upgraded requests that are open.";
    UpgradeBytes Counter "sluicegate_upgrade_bytes_total" ["kind", "direction"]
        "Bytes that upgraded connections carried to backends (up) and clients (down).";
    // Upstream
    UpstreamConnections Counter "sluicegate_upstream_connections_total" []
        "Connections established to endpoints.";
    UpstreamConnectionsActive Gauge "sluicegate_upstream_connections_active" []
        "Connections to endpoints that are open, idle ones included.";
    UpstreamReused Counter "sluicegate_upstream_reused_total" []
        "Requests that were sent on a connection that had carried one before.";
    UpstreamErrors Counter "sluicegate_upstream_errors_total" ["reason"]
        "Attempts at endpoints that failed, whether or not a retry hid it.";
    Retries Counter "sluicegate_upstream_retries_total" []
        "Requests that were tried again on an endpoint.";
    Ejections Counter "sluicegate_upstream_ejections_total" []
        "Endpoints taken out of rotation for their failures, counted by each worker.";
    // Relayed streams
    Streams Counter "sluicegate_streams_total" ["kind"]
        "TCP streams that were relayed without looking inside.";
    StreamsActive Gauge "sluicegate_streams_active" ["kind"]
        "Relayed TCP streams that are open.";
    StreamsEnded Counter "sluicegate_streams_ended_total" ["kind", "reason"]
        "Relayed TCP streams that are over, by how they ended.";
    StreamBytes Counter "sluicegate_stream_bytes_total" ["kind", "direction"]
        "Bytes that relayed TCP streams carried to backends (up) and clients (down).";
    // Packets
    Packets Counter "sluicegate_packets_total" ["verdict", "reason"]
        "Packets that the director saw, by what became of them and why.";
    NodePackets Counter "sluicegate_node_packets_total" ["reason"]
        "Packets for virtual IPs that the programs of a real server or node saw, by what became of them.";
    VipPackets Counter "sluicegate_vip_packets_total" ["vip", "port", "service"]
        "Packets forwarded for a port of a virtual IP.";
    VipBytes Counter "sluicegate_vip_bytes_total" ["vip", "port", "service"]
        "Bytes of frames forwarded for a port of a virtual IP, as they came.";
    VipFlows Counter "sluicegate_vip_flows_total" ["vip", "port", "service"]
        "Flows for which a real server was selected.";
    RealServerPackets Counter "sluicegate_real_server_packets_total" ["real_server", "method", "port"]
        "Packets forwarded to a real server; port * where several share the counters.";
    RealServerBytes Counter "sluicegate_real_server_bytes_total" ["real_server", "method", "port"]
        "Bytes of frames forwarded to a real server, as they came.";
    RealServerFlows Counter "sluicegate_real_server_flows_total" ["real_server", "method", "port"]
        "Flows that a real server got.";
    VipOwned Gauge "sluicegate_vip_owned" ["vip"]
        "1 where this director owns the virtual IP, 0 where it stands by.";
    VipTakeOvers Counter "sluicegate_vip_take_overs_total" []
        "Times that this director became the owner of a virtual IP.";
    VipLosses Counter "sluicegate_vip_losses_total" []
        "Times that this director ceased to own a virtual IP.";
    VipConflicts Counter "sluicegate_vip_conflicts_total" []
        "Times that somebody else on the network claimed a virtual IP.";
    Directors Gauge "sluicegate_directors" ["state"]
        "Directors of the cluster: recorded, and heard by this one (itself included).";
    DirectorRecord Gauge "sluicegate_director_record" []
        "Number of the record of the cluster's directors that this one knows.";
    DirectorLeaseAge Gauge "sluicegate_director_lease_age_seconds" []
        "Time since the Lease of this director was renewed.";
    FlowEntries Gauge "sluicegate_flow_entries" ["state"]
        "Flows in the flow table at the last sweep: established (two packets and more) and tentative (one).";
    FlowCapacity Gauge "sluicegate_flow_capacity" []
        "Flows that fit into the flow table.";
    // Control
    Generation Gauge "sluicegate_generation" []
        "Generation of the desired state that is applied; 0 before the first.";
    GenerationApplied Gauge "sluicegate_generation_applied_timestamp_seconds" []
        "When the generation was applied, in seconds since the Unix epoch; 0 before the first.";
    ApplyDuration Histogram "sluicegate_apply_duration_seconds" []
        "Time from a change of objects to the swap of the tables.";
    ApplyFailures Counter "sluicegate_apply_failures_total" []
        "Things that the data plane could not apply.";
    Rejections Gauge "sluicegate_rejections" ["verdict"]
        "Parts of objects that are rejected, ignored or served with a warning.";
    Objects Gauge "sluicegate_objects" ["kind"]
        "What the desired state holds.";
    CertificateNotAfter Gauge "sluicegate_certificate_not_after_seconds" ["namespace", "name"]
        "When a certificate in use expires, in seconds since the Unix epoch; the 1,000 that expire first.";
    VipPoolAddresses Gauge "sluicegate_vip_pool_addresses" ["pool", "state"]
        "Addresses of a pool of virtual IPs that are used, and that are free to be given to Services.";
    // Source
    SourceOutage Gauge "sluicegate_source_outage_seconds" []
        "For how long the API server has not answered; 0 while it does. What was read is served meanwhile.";
    SourceAge Gauge "sluicegate_source_contact_age_seconds" []
        "Time since the API server was last heard of, which a quiet one is once a minute.";
    SourceClockAhead Gauge "sluicegate_source_clock_ahead_seconds" []
        "By how much this machine's clock is ahead of the API server's; negative: behind.";
    SourceWatches Gauge "sluicegate_source_watches" ["resource", "state"]
        "Watches of the API server that are well, reading (not read once yet) and failing.";
    SourceLists Counter "sluicegate_source_lists_total" ["resource"]
        "Times that everything of a resource was read from the API server, the first time included.";
    SourceWatchErrors Counter "sluicegate_source_watch_errors_total" ["resource"]
        "Watches of the API server that broke or could not begin.";
    SourceRequests Counter "sluicegate_source_requests_total" ["verb", "resource", "code"]
        "Requests to the API server by class of the answer (none: no answer); a watch is one request.";
    AdmissionReviews Counter "sluicegate_admission_reviews_total" ["verdict"]
        "Objects that the webhook was asked about, by what it said.";
    AdmissionDuration Histogram "sluicegate_admission_review_duration_seconds" []
        "Time from the end of a webhook's request to its answer.";
    // Spans
    SpansExported Counter "sluicegate_spans_exported_total" []
        "Spans that a collector took.";
    SpansDropped Counter "sluicegate_spans_dropped_total" ["reason"]
        "Spans that are lost, by why.";
    SpansQueued Gauge "sluicegate_spans_queued" []
        "Spans that wait to be sent to a collector.";
    SpanExportFailures Counter "sluicegate_span_export_failures_total" ["reason"]
        "Requests to a collector that failed, whether or not they were repeated.";
    // Access log
    AccessLogLines Counter "sluicegate_access_log_lines_total" ["outcome"]
        "Lines of the access log: written, or dropped because the target is full, gone or too slow.";
    // Process
    BuildInfo Gauge "sluicegate_build_info" ["version"]
        "Always 1; the label says which build runs.";
    Workers Gauge "sluicegate_workers" []
        "Threads that serve traffic.";
    ProcessCpu Counter "sluicegate_process_cpu_seconds_total" []
        "Processor time of the process, user and system.";
    ProcessResident Gauge "sluicegate_process_resident_memory_bytes" []
        "Resident memory of the process.";
    ProcessVirtual Gauge "sluicegate_process_virtual_memory_bytes" []
        "Virtual memory of the process.";
    ProcessThreads Gauge "sluicegate_process_threads" []
        "Threads of the process.";
    ProcessOpenFds Gauge "sluicegate_process_open_fds" []
        "File descriptors that the process has open.";
    ProcessMaxFds Gauge "sluicegate_process_max_fds" []
        "File descriptors that the process may have open.";
    ProcessStart Gauge "sluicegate_process_start_time_seconds" []
        "When the process started, in seconds since the Unix epoch.";
    // Routes
    RouteRequests Counter "sluicegate_route_requests_total" ["namespace", "ingress", "service", "host", "method", "code"]
        "Requests that are over, by the route that took them, method and class of the final status.";
    RouteDuration Histogram "sluicegate_route_request_duration_seconds" ["namespace", "ingress", "service", "host"]
        "Time from the first byte of a request to the last byte of its response, by route.";
    RouteUpstream Summary "sluicegate_route_upstream_seconds" ["namespace", "ingress", "service", "host", "phase"]
        "Time at endpoints by route: to connect (TLS included), to the end of the response's head, and of the last try.";
    RouteReceived Counter "sluicegate_route_request_body_bytes_total" ["namespace", "ingress", "service", "host"]
        "Body bytes received from clients, by route.";
    RouteSent Counter "sluicegate_route_response_body_bytes_total" ["namespace", "ingress", "service", "host"]
        "Body bytes sent to clients, by route.";
    RouteRetries Counter "sluicegate_route_retries_total" ["namespace", "ingress", "service", "host"]
        "Tries at endpoints after the first of a request, by route.";
    // Endpoints
    EndpointRequests Counter "sluicegate_endpoint_requests_total" ["namespace", "service", "pod", "node", "endpoint"]
        "Tries and streams that an endpoint was given.";
    EndpointFailures Counter "sluicegate_endpoint_failures_total" ["namespace", "service", "pod", "node", "endpoint"]
        "Failures of an endpoint that count towards its ejection.";
    EndpointActive Gauge "sluicegate_endpoint_active" ["namespace", "service", "pod", "node", "endpoint"]
        "Tries and streams that an endpoint is working on.";
    EndpointEjected Gauge "sluicegate_endpoint_ejected" ["namespace", "service", "pod", "node", "endpoint"]
        "Workers that leave an endpoint out for its failures.";
    SeriesRows Gauge "sluicegate_metrics_rows" ["of"]
        "Rows of labels that are shown of routes and of endpoints; --metrics-series-limit bounds each.";
    SeriesOverflow Counter "sluicegate_metrics_overflow_total" ["of"]
        "Requests that were counted in the row other, because there were as many rows as may be.";
}

impl MetricId {
    /// True where a sample stands for a route or an endpoint and not for a member of a closed set.
    pub(crate) const fn has_rows(self) -> bool {
        matches!(
            self,
            Self::RouteRequests
                | Self::RouteDuration
                | Self::RouteUpstream
                | Self::RouteReceived
                | Self::RouteSent
                | Self::RouteRetries
                | Self::EndpointRequests
                | Self::EndpointFailures
                | Self::EndpointActive
                | Self::EndpointEjected
                | Self::SeriesRows
                | Self::SeriesOverflow
        )
    }
}

/// What is chosen when a process starts.
#[derive(Clone, Debug)]
pub struct MetricsSettings {
    /// Threads that serve traffic, at least one.
    pub workers: usize,
    /// Rows of routes, and of endpoints, that are counted one by one.
    pub series_limit: usize,
    /// Also expose the names of ingress-nginx, with these labels.
    pub nginx: Option<NginxNames>,
}

impl MetricsSettings {
    /// The defaults for so many workers.
    pub fn of_workers(workers: usize) -> Self {
        Self { workers, series_limit: DEFAULT_SERIES_LIMIT, nginx: None }
    }
}

/// The metrics of the process.
///
/// Locks guard what the control side sets and the list of workers; the request path takes none, but for handing in the
/// cells of a route or an endpoint when it first counts there.
pub struct Metrics {
    /// How many of `shards` belong to the workers; the rest were added for other threads.
    workers: usize,
    shards: Mutex<Vec<Arc<WorkerMetrics>>>,
    control: Mutex<Control>,
    /// What a slot had counted when its present backend got it.
    baselines: Mutex<BTreeMap<u32, [u64; 3]>>,
    pub(crate) routes: Arc<RouteBook>,
    endpoints: Arc<EndpointBook>,
    nginx: Option<NginxNames>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").field("workers", &self.workers).finish_non_exhaustive()
    }
}

impl Metrics {
    /// Makes the metrics of a process with so many workers (at least one).
    pub fn new(workers: usize) -> Arc<Self> {
        Self::with(MetricsSettings::of_workers(workers))
    }

    /// Makes the metrics of a process.
    pub fn with(settings: MetricsSettings) -> Arc<Self> {
        let workers = settings.workers.max(1);
        let endpoints = Arc::new(EndpointBook::new(settings.series_limit, &endpoints::OTHER, &[]));
        let shard = || Arc::new(WorkerMetrics::new(Arc::clone(&endpoints)));
        Arc::new(Self {
            workers,
            shards: Mutex::new((0..workers).map(|_| shard()).collect()),
            control: Mutex::default(),
            baselines: Mutex::default(),
            routes: Arc::new(RouteBook::new(settings.series_limit, &routes::OTHER, &[Arc::clone(&routes::UNKNOWN)])),
            endpoints,
            nginx: settings.nginx,
        })
    }

    /// The sinks by which workers count requests by route. To be handed requests on the worker's own thread, as every
    /// sink.
    pub fn route_sinks(&self) -> RouteSinks {
        RouteSinks { book: Arc::clone(&self.routes), is_detailed: self.nginx.is_some() }
    }

    /// The counters of a worker, for that worker's thread alone.
    ///
    /// # Panics
    /// Where `index` is not below the number of workers that [`Metrics::new`] was told.
    pub fn worker(&self, index: usize) -> Arc<WorkerMetrics> {
        assert!(index < self.workers, "worker {index} of {}", self.workers);
        Arc::clone(&lock(&self.shards)[index])
    }

    /// Counters for one more thread that serves traffic and is no worker, such as an io_uring relay. What it counted
    /// stays after the thread is gone, so this is for threads that live long.
    pub fn add_thread(&self) -> Arc<WorkerMetrics> {
        let shard = Arc::new(WorkerMetrics::new(Arc::clone(&self.endpoints)));
        lock(&self.shards).push(Arc::clone(&shard));
        shard
    }

    /// Writes every metric in the format. It costs the request path nothing.
    pub fn expose(&self, format: Exposition) -> String {
        let mut whole = String::new();
        self.expose_in_pieces(format, Instant::now(), &mut |piece| whole.push_str(piece));
        whole
    }

    /// As [`Self::expose`], in pieces of some hundred KiB: with tens of thousands of routes the whole is large. `now` says
    /// for how long rows are there whose routes or endpoints left.
    pub fn expose_in_pieces(&self, format: Exposition, now: Instant, take: &mut dyn FnMut(&str)) {
        let rows = Rows { routes: self.routes.show(now), endpoints: self.endpoints.show(now) };
        exposition::encode(self.snapshot(), &rows, format, take);
    }

    /// A generation was applied: when, how long it took from the change of an object to the swapped tables, and how
    /// many things failed.
    pub fn applied(&self, generation: u64, at: SystemTime, took: Duration, failures: u64) {
        let mut control = lock(&self.control);
        control.generation = generation;
        control.applied_at = at.duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
        control.apply_duration.observe(took);
        control.apply_failures += failures;
        control.last_failures = failures;
        control.failed_applies += u64::from(failures > 0);
    }

    /// How many rejections, ignored parts and warnings there are.
    pub fn set_rejections(&self, counts: RejectionCounts) {
        lock(&self.control).rejections = counts;
    }

    /// How many things of each kind the desired state holds (`hosts`, `routes`, `backends`, `endpoints`, `Ingress` …).
    pub fn set_objects(&self, objects: impl IntoIterator<Item = (&'static str, u64)>) {
        lock(&self.control).objects = objects.into_iter().collect();
    }

    /// How full the pools of virtual IPs are.
    pub fn set_pools(&self, pools: impl IntoIterator<Item = PoolAddresses>) {
        lock(&self.control).pools = pools.into_iter().collect();
    }

    /// The certificates in use. The [`crate::control::MAX_CERTIFICATES`] that expire first are kept.
    pub fn set_certificates(&self, certificates: impl IntoIterator<Item = CertificateExpiry>) {
        let kept = crate::control::first_to_expire(certificates);
        lock(&self.control).certificates = kept;
    }

    /// What the director counted, in place of what it said before. Without it there are no series of packets.
    pub fn set_packets(&self, counts: PacketCounts) {
        lock(&self.control).packets = Some(Arc::new(counts));
    }

    /// What the programs of a real server or node counted, by reason, in place of what was said before. Without it there
    /// are no series of them.
    pub fn set_node_packets(&self, counts: impl IntoIterator<Item = (&'static str, u64)>) {
        lock(&self.control).node_packets = counts.into_iter().collect();
    }

    /// Who is asked about the API server at each scrape. Without it there are no series of it.
    pub fn set_source(&self, reader: Arc<SourceReader>) {
        lock(&self.control).source.reader = Some(reader);
    }

    /// The access log whose lines are counted. Without it there are no series of it.
    pub fn set_access_log(&self, log: Arc<AccessLog>) {
        lock(&self.control).access_log = Some(log);
    }

    /// Whose counts of spans are shown. Without it there are no series of them.
    pub fn set_spans(&self, queue: Arc<SpanQueue>) {
        lock(&self.control).spans = Some(queue);
    }

    /// There is a webhook: its series begin at zero.
    pub fn expect_reviews(&self) {
        lock(&self.control).source.reviews.get_or_insert_default();
    }

    /// The webhook has answered, or has refused to.
    pub fn reviewed(&self, end: ReviewEnd, took: Duration) {
        lock(&self.control).source.reviews.get_or_insert_default().count(end, took);
    }

    /// What all workers counted for a backend slot since [`Metrics::restart_backend`], or ever.
    /// Slots from [`MAX_BACKEND_SLOTS`] on have nothing.
    pub fn backend(&self, slot: u32) -> BackendTotals {
        let base = lock(&self.baselines).get(&slot).copied().unwrap_or_default();
        let now = self.backend_sum(slot);
        let [started, finished, errors] = std::array::from_fn(|part| now[part].wrapping_sub(base[part]));
        // The parts are not read at one instant: a request that ends in between must not look like a negative number.
        BackendTotals { requests: started, errors, active: started.saturating_sub(finished) }
    }

    /// A slot was given to another backend: its totals begin at zero. Call it before the new backend's first request.
    /// Requests of the former backend that are still under way then end as requests of the new one.
    pub fn restart_backend(&self, slot: u32) {
        if slot < MAX_BACKEND_SLOTS {
            let now = self.backend_sum(slot);
            // The base of `started` is `finished`, so what is under way is counted to the new backend and not lost.
            let base = [now[1], now[1], now[2]];
            let mut baselines = lock(&self.baselines);
            // Nobody has counted there: with the first state that is so of tens of thousands of slots.
            if base == [0; 3] {
                baselines.remove(&slot)
            } else {
                baselines.insert(slot, base)
            };
        }
    }

    /// How often the gateway itself answered or closed for this reason.
    pub fn faults(&self, reason: FaultReason) -> u64 {
        self.sum(|worker| worker.faults[reason.index()].value())
    }

    /// How often a limit was exceeded.
    pub fn limits(&self, limit: LimitName) -> u64 {
        self.sum(|worker| worker.limits[limit.index()].value())
    }

    /// Requests that are over.
    pub fn requests(&self) -> u64 {
        self.sum(|worker| worker.requests.iter().flatten().flatten().map(|counter| counter.value()).sum())
    }

    /// Client connections that are open.
    pub fn connections(&self, listener: ListenerKind) -> u64 {
        let kind = listener.index();
        let closed = self.sum(|worker| worker.connections_closed[kind].value());
        self.sum(|worker| worker.connections_opened[kind].value()).saturating_sub(closed)
    }

    fn backend_sum(&self, slot: u32) -> [u64; 3] {
        lock(&self.shards)
            .iter()
            .map(|worker| worker.backend_parts(slot))
            .fold([0; 3], |sum, parts| std::array::from_fn(|part| sum[part].wrapping_add(parts[part])))
    }

    /// The generation that is applied, and when it was, in seconds since the Unix epoch; both 0 before the first.
    pub fn generation(&self) -> (u64, f64) {
        let control = lock(&self.control);
        (control.generation, control.applied_at)
    }

    /// How many rejections, ignored parts and warnings there are.
    pub fn rejections(&self) -> RejectionCounts {
        lock(&self.control).rejections
    }

    /// How many things of each kind the desired state holds, as [`Metrics::set_objects`] was told.
    pub fn objects(&self) -> BTreeMap<&'static str, u64> {
        lock(&self.control).objects.clone()
    }

    pub(crate) fn each_thread(&self, mut read: impl FnMut(&WorkerMetrics)) {
        lock(&self.shards).iter().for_each(|worker| read(worker));
    }

    fn sum(&self, read: impl Fn(&WorkerMetrics) -> u64) -> u64 {
        lock(&self.shards).iter().map(|worker| read(worker)).sum()
    }

    fn snapshot(&self) -> Snapshot {
        let control = lock(&self.control).copy();
        Snapshot {
            workers: self.workers,
            nginx: self.nginx.clone(),
            shards: lock(&self.shards).clone(),
            // Not under a lock of ours: whoever reads has one too.
            source: control.source.reader.as_ref().map(|read| read()),
            control,
            process: Process::read(),
        }
    }
}

/// Everything that one exposition is made of.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) workers: usize,
    pub(crate) nginx: Option<NginxNames>,
    pub(crate) shards: Vec<Arc<WorkerMetrics>>,
    pub(crate) control: Control,
    pub(crate) source: Option<SourceCounts>,
    pub(crate) process: Process,
}

/// Values are whole at every point, so a thread that panicked with the lock left nothing broken.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
