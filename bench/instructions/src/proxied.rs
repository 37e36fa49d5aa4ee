//! The real proxy under callgrind: one worker, one connection on each side, requests one after the other. Clients, backend
//! and collector are outside, so that every instruction that is counted is the gateway's.

use crate::callgrind::{self, Threads};
use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use sluicegate_config::diff::Change;
use sluicegate_config::{
    Action, Backend, BackendId, Balance, Dialect, Diff, Endpoint, Generation, HostPattern, Kind, Matching, ObjectRef,
    PathMatch, PortRef, Route, RuleRef, UpstreamProtocol, VirtualHost,
};
use sluicegate_otlp::{Endpoint as Collector, Exporter, OtlpSettings};
use sluicegate_proxy::{Proxy, ProxySettings, TraceSettings};
use sluicegate_telemetry::{
    AccessLog, AccessLogSettings, DropReason, FinishedRequest, LogTarget, Metrics, RequestSink, RequestSinks,
    RequestTaps, SpanSinks,
};
use sluicegate_trace::{Ratio, Sampler};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

/// What a browser sends, and where asked for a context with it.
const REQUEST: &str = "GET /assets/app.js?v=17 HTTP/1.1\r\nHost: shop.example\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\nAccept: */*\r\n\
    Accept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br\r\nReferer: https://shop.example/\r\n\
    Cookie: session=0123456789abcdef0123456789abcdef\r\nSec-Fetch-Dest: script\r\n\r\n";
const RESPONSE: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/javascript\r\nCache-Control: max-age=60\r\nContent-Length: 12\r\n\r\nhello world\n";
/// For the gateway to be up, to answer, and to be gone: under callgrind everything takes fifty times as long.
const PATIENCE: Duration = Duration::from_secs(120);

/// What is on beside forwarding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Nothing.
    Nothing,
    /// Trace context is carried through.
    Propagation,
    /// Each request is told when it is over, to somebody who does nothing with it.
    Telling,
    /// Metrics of routes too.
    Metrics,
    /// Live taps that nobody watches too: the program as it is by default.
    Taps,
    /// The access log too, JSON into a file.
    LogJson,
    /// The access log too, the line of ingress-nginx into a file.
    LogNginx,
    /// Spans of one trace in a hundred too, to a collector.
    SpansOfSome,
    /// Spans of every trace too.
    SpansOfAll,
}

impl Part {
    /// The part of traces that is recorded.
    fn ratio(self) -> Option<f64> {
        match self {
            Self::SpansOfSome => Some(0.01),
            Self::SpansOfAll => Some(1.0),
            _ => None,
        }
    }

    fn log_format(self) -> Option<&'static str> {
        match self {
            Self::LogJson => Some("json"),
            Self::LogNginx => Some("nginx"),
            _ => None,
        }
    }
}

/// Instructions of one request, in user space.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    /// Of the worker that serves it.
    pub worker: f64,
    /// Of the other threads that have to do with requests: who writes the log and who sends spans.
    pub others: f64,
}

impl Cost {
    /// Of the whole gateway.
    pub fn total(self) -> f64 {
        self.worker + self.others
    }
}

/// Counts what a request costs: two runs, of which the second has more requests, so that start and end do not count.
///
/// # Errors
/// Where a run fails or callgrind is missing.
pub fn measure(part: Part, few: u32, more: u32) -> anyhow::Result<Cost> {
    let upstream = serve(answer)?;
    let collector = serve(|stream| take_spans(&stream))?;
    let few_of = run(part, few, upstream, collector)?;
    let more_of = run(part, more, upstream, collector)?;
    let requests = f64::from(more - few);
    let mut threads: Vec<f64> = more_of
        .iter()
        // The first one starts and ends the gateway and sleeps in between, and what that takes is never quite the same.
        .filter(|(thread, _)| **thread != 1)
        .map(|(thread, count)| (*count as f64 - few_of.get(thread).copied().unwrap_or(0) as f64) / requests)
        .collect();
    // Requests are what the worker works at, more than any other.
    threads.sort_by(f64::total_cmp);
    let worker = threads.pop().context("callgrind saw no thread of a worker")?;
    Ok(Cost { worker, others: threads.iter().sum() })
}

/// Instructions of a whole run, by thread.
fn run(
    part: Part,
    requests: u32,
    upstream: SocketAddr,
    collector: SocketAddr,
) -> anyhow::Result<std::collections::BTreeMap<u32, u64>> {
    let folder = tempfile::tempdir().context("a folder for what is written")?;
    let out = folder.path().join("callgrind.out");
    let name = part.to_possible_value().context("a part has a name")?;
    let log = folder.path().join("access.log");
    let arguments = [
        "serve".to_owned(),
        name.get_name().to_owned(),
        upstream.to_string(),
        collector.to_string(),
        log.display().to_string(),
    ];
    let mut gateway = callgrind::command(Threads::Apart, &out, &arguments)?
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("valgrind cannot be started; install it (Debian: `apt-get install valgrind`)")?;
    let stdout = gateway.stdout.take().context("the gateway's output")?;
    let asked = (|| {
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let address = line.trim().parse().with_context(|| format!("the gateway did not start: {line:?}"))?;
        ask(address, requests)
    })();
    // The end of its input is the end of the gateway.
    drop(gateway.stdin.take());
    let status = gateway.wait().context("the gateway under callgrind")?;
    asked?;
    if !status.success() {
        bail!("the gateway under callgrind ended with {status}");
    }
    Ok(callgrind::by_thread(&callgrind::read(&out)?))
}

fn ask(gateway: SocketAddr, requests: u32) -> anyhow::Result<()> {
    let mut client = TcpStream::connect(gateway)?;
    client.set_nodelay(true)?;
    client.set_read_timeout(Some(PATIENCE))?;
    let mut buffer = [0; 4096];
    for _ in 0..requests {
        client.write_all(REQUEST.as_bytes())?;
        let mut read = 0;
        while !buffer[..read].ends_with(b"hello world\n") {
            match client.read(&mut buffer[read..]).context("the gateway does not answer")? {
                0 => bail!("the gateway closed the connection: {}", String::from_utf8_lossy(&buffer[..read])),
                more => read += more,
            }
        }
        if !buffer.starts_with(b"HTTP/1.1 200 ") {
            bail!("the gateway answered {}", String::from_utf8_lossy(&buffer[..read]));
        }
    }
    Ok(())
}

/// Serves each connection on a free port by a thread of its own.
fn serve(connection: impl Fn(TcpStream) -> std::io::Result<()> + Clone + Send + 'static) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let connection = connection.clone();
            std::thread::spawn(move || connection(stream));
        }
    });
    Ok(address)
}

/// A backend: answers every head.
fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = [0; 8192];
    let mut read = 0;
    loop {
        match stream.read(&mut buffer[read..])? {
            0 => return Ok(()),
            more => read += more,
        }
        if buffer[..read].ends_with(b"\r\n\r\n") {
            stream.write_all(RESPONSE)?;
            read = 0;
        }
    }
}

/// A collector: takes every batch and looks at none.
fn take_spans(mut stream: &TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let line = line.to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
            if line == "\r\n" {
                break;
            }
        }
        std::io::copy(&mut (&mut reader).take(length), &mut std::io::sink())?;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
    }
}

/// What runs under callgrind.
#[derive(Debug, Args)]
pub struct Gateway {
    /// What is on
    part: Part,
    /// Where requests go
    upstream: SocketAddr,
    /// Where spans go
    collector: SocketAddr,
    /// Where lines go
    log: PathBuf,
}

impl Gateway {
    /// Serves until the end of standard input.
    ///
    /// # Errors
    /// Where it cannot start, or dropped a line or a span.
    pub fn run(&self) -> anyhow::Result<()> {
        let metrics = Metrics::new(1);
        let mut trace = (self.part != Part::Nothing).then(TraceSettings::default);
        let log = self.part.log_format().map(|format| start_log(&self.log, format)).transpose()?;
        let mut exporter = None;
        if let (Some(ratio), Some(trace)) = (self.part.ratio(), &mut trace) {
            trace.policy.sampler = Sampler::Ratio(Ratio::new(ratio)?);
            let endpoint =
                Collector::for_all_signals(&format!("http://{}", self.collector), None).map_err(anyhow::Error::msg)?;
            exporter = Some(Exporter::start(OtlpSettings::new(endpoint))?);
        }
        let mut sinks: Vec<Box<dyn RequestSinks>> = Vec::new();
        if !matches!(self.part, Part::Nothing | Part::Propagation | Part::Telling) {
            sinks.push(Box::new(metrics.route_sinks()));
        }
        if !matches!(self.part, Part::Nothing | Part::Propagation | Part::Telling | Part::Metrics) {
            sinks.push(Box::new(RequestTaps::default()));
        }
        if let Some(exporter) = &exporter {
            sinks.push(Box::new(SpanSinks::new(Arc::clone(exporter.queue()))));
        }
        if let Some(log) = &log {
            sinks.push(Box::new(ArcLog(Arc::clone(log))));
        }
        let is_told = !matches!(self.part, Part::Nothing | Part::Propagation);
        let sinks = is_told.then(|| Arc::new(Each(sinks)) as Arc<dyn RequestSinks>);
        let http = vec![SocketAddr::from(([127, 0, 0, 1], 0))];
        let settings = ProxySettings { http, workers: 1, trace, ..ProxySettings::default() };
        let proxy = Proxy::start(settings, metrics, sinks)?;
        proxy.apply(&one_route(self.upstream), Generation(1));
        println!("{}", proxy.addresses().http.first().context("the gateway listens nowhere")?);
        std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
        proxy.shutdown(PATIENCE);
        if let Some(log) = log {
            log.finish(PATIENCE);
            if log.counts().dropped > 0 {
                bail!("the access log dropped lines: {:?}", log.counts());
            }
        }
        if let Some(exporter) = exporter {
            let queue = Arc::clone(exporter.queue());
            exporter.shut_down(PATIENCE);
            let dropped: u64 = DropReason::ALL.iter().map(|reason| queue.counts().dropped(*reason)).sum();
            if dropped > 0 {
                bail!("{dropped} spans were dropped, so that what is counted is not what they cost");
            }
        }
        Ok(())
    }
}

fn start_log(file: &Path, format: &str) -> anyhow::Result<Arc<AccessLog>> {
    let target = LogTarget::File(file.to_owned());
    let format = format.parse()?;
    Ok(AccessLog::start(AccessLogSettings { target, format, sample: None, filters: Vec::new(), skip: Vec::new() })?)
}

/// Tells each in turn, as the program does.
struct Each(Vec<Box<dyn RequestSinks>>);

impl RequestSinks for Each {
    fn of_worker(&self, index: usize) -> Box<dyn RequestSink> {
        Box::new(EachOfWorker(self.0.iter().map(|sinks| sinks.of_worker(index)).collect()))
    }
}

struct EachOfWorker(Box<[Box<dyn RequestSink>]>);

impl RequestSink for EachOfWorker {
    fn finished(&mut self, request: &FinishedRequest<'_>) {
        for sink in &mut self.0 {
            sink.finished(request);
        }
    }
}

/// An access log that somebody else holds too.
struct ArcLog(Arc<AccessLog>);

impl RequestSinks for ArcLog {
    fn of_worker(&self, index: usize) -> Box<dyn RequestSink> {
        self.0.of_worker(index)
    }
}

fn one_route(upstream: SocketAddr) -> Diff {
    let id = BackendId {
        namespace: "default".into(),
        service: "web".into(),
        port: PortRef::Number(80),
        protocol: None,
        balance: Balance::RoundRobin,
    };
    let endpoints = vec![Endpoint { address: upstream, pod: None, node: None, terminating: false }];
    let protocol = UpstreamProtocol::Http1;
    let backend = Backend { id: id.clone(), protocol, endpoints, external: None, unavailable: None };
    let route = Route {
        path: PathMatch::Prefix("/".into()),
        action: Action::Forward(id.clone()),
        policy: Arc::default(),
        origin: RuleRef {
            ingress: ObjectRef::new(Kind::Ingress, "default", "web"),
            field: "spec.rules[0].http.paths[0]".into(),
        },
    };
    let host = VirtualHost {
        host: HostPattern::Any,
        dialect: Dialect::Strict,
        matching: Matching::LongestPath,
        routes: vec![route],
        fallback: None,
    };
    let mut diff = Diff::default();
    diff.backends.insert(id, Change::Set(Arc::new(backend)));
    diff.routes.insert(HostPattern::Any, Change::Set(Arc::new(host)));
    diff
}
