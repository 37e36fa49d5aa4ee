//! What is told of a request when it is over: to counters, the access log, spans.

use super::{Row, Work};
use sluicegate_telemetry::{
    AccessLog, AccessLogSettings, Downstream, FinishedRequest, HeadFields, LogTarget, MethodLabel, Metrics, Protocol,
    RequestSample, RequestSink, RequestSinks as _, RouteTaken, SpanQueue, SpanSinks, Try,
};
use sluicegate_trace::{SpanId, Trace, TraceId};
use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(super) const SCENARIOS: &[Row] = &[
    ("telemetry/metrics-of-a-request", count),
    ("telemetry/metrics-of-a-route", || told(&Metrics::new(1).route_sinks())),
    ("telemetry/log-line-json", || logged("json")),
    ("telemetry/log-line-nginx", || logged("nginx")),
    ("telemetry/spans-of-a-request", record),
];

/// As many as are written at once.
const LINES: u64 = 1200;

fn count() -> Work {
    let metrics = Metrics::new(1);
    let worker = metrics.worker(0);
    let sample = RequestSample {
        protocol: Protocol::Http11,
        method: MethodLabel::Get,
        status: 200,
        duration: Duration::from_micros(1_500),
        upstream_duration: Some(Duration::from_micros(1_200)),
        bytes_in: 0,
        bytes_out: 12,
    };
    Box::new(move || {
        worker.request(*black_box(&sample));
        true
    })
}

fn told(sinks: &dyn sluicegate_telemetry::RequestSinks) -> Work {
    work(sinks.of_worker(0))
}

fn work(mut sink: Box<dyn RequestSink>) -> Work {
    let request = Request::new();
    Box::new(move || {
        request.tell(|finished| sink.finished(black_box(finished)));
        true
    })
}

/// A line of the access log. It is written into a file that is gone when the program is.
fn logged(format: &str) -> Work {
    let Ok(folder) = tempfile::tempdir() else { return Box::new(|| false) };
    let Ok(format) = format.parse() else { return Box::new(|| false) };
    let target = LogTarget::File(folder.path().join("access.log"));
    let settings = AccessLogSettings { target, format, sample: None, filters: Vec::new(), skip: Vec::new() };
    let Ok(log) = AccessLog::start(settings) else { return Box::new(|| false) };
    let mut write = work(log.of_worker(0));
    // Worker and writer exchange two buffers. Both grow here to what all calls need, since when they are exchanged is a
    // matter of time, and growing is not what a line costs.
    for turn in 1..=4 {
        (0..LINES).for_each(|_| _ = write());
        for _ in 0..6000 {
            if log.counts().written == turn * LINES {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    let is_ready = log.counts().written == 4 * LINES;
    Box::new(move || {
        let _until_the_end = (&folder, &log);
        is_ready && write()
    })
}

/// Server and client span, as the bytes that are exported, into the queue and out of it.
fn record() -> Work {
    let queue = Arc::new(SpanQueue::new(64, 64, || ()));
    let mut write = work(SpanSinks::new(Arc::clone(&queue)).of_worker(0));
    Box::new(move || write() && queue.take_batch().iter().map(|record| record.spans).sum::<usize>() == 2)
}

/// A request by HTTP/1.1 that one try answered, with its trace.
struct Request {
    started: Instant,
    names: [Arc<str>; 3],
    tenure: Arc<()>,
    tries: Vec<Try>,
    trace: Trace,
}

struct Fields;

impl HeadFields for Fields {
    fn field(&self, name: &str) -> Option<&[u8]> {
        match name {
            "user-agent" => Some(b"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
            "referer" => Some(b"https://shop.example/"),
            _ => None,
        }
    }
}

impl Request {
    fn new() -> Self {
        let started = Instant::now();
        let span_id = SpanId::from_random(0x00f0_67aa_0ba9_02b7);
        let attempt = Try {
            started: started + Duration::from_micros(90),
            ended: started + Duration::from_micros(1_400),
            endpoint: SocketAddr::from((Ipv4Addr::new(203, 0, 113, 9), 8080)),
            pod: Some("web-7c9d6f5b4-x2x8q".into()),
            node: Some("node-3".into()),
            protocol: Protocol::Http11,
            is_tls: false,
            reused: true,
            queued: None,
            connect: None,
            tls: None,
            first_byte: Some(Duration::from_micros(1_250)),
            status: Some(200),
            error: None,
            bytes: 12,
            span_id: Some(span_id),
        };
        let trace = Trace {
            trace_id: TraceId::from_random(0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736),
            span_id,
            parent: Some(SpanId::from_random(0x1234_5678_9abc_def0)),
            sampled: true,
            debug: false,
            random: true,
            short_id: false,
            link: None,
        };
        let names = ["shop", "storefront", "web"].map(Arc::from);
        Self { started, names, tenure: Arc::default(), tries: vec![attempt], trace }
    }

    fn tell<T>(&self, take: impl FnOnce(&FinishedRequest<'_>) -> T) -> T {
        let [namespace, ingress, service] = &self.names;
        let client = SocketAddr::from((Ipv4Addr::new(198, 51, 100, 7), 40_000));
        take(&FinishedRequest {
            started: self.started,
            ended: self.started + Duration::from_micros(1_500),
            downstream: Downstream {
                protocol: Protocol::Http11,
                client: client.ip(),
                peer: client,
                local: SocketAddr::from((Ipv4Addr::new(192, 0, 2, 10), 80)),
                tls: None,
            },
            method: b"GET",
            method_label: MethodLabel::Get,
            authority: b"shop.example",
            path: b"/assets/app.js",
            query: Some(b"v=17"),
            request_fields: &Fields,
            response_fields: None,
            status: 200,
            grpc_status: None,
            fault: None,
            bytes_in: 0,
            bytes_out: 12,
            request_length: 360,
            route: Some(RouteTaken {
                namespace,
                ingress,
                host: "shop.example",
                path: "/",
                service: Some((service, "80")),
                series: (0, &self.tenure),
                access_log: true,
            }),
            tries: &self.tries,
            request_id: b"0123456789abcdef0123456789abcdef",
            trace: Some(&self.trace),
            operation: None,
            is_probe: false,
        })
    }
}
