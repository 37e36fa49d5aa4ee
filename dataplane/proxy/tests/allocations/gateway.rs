//! The gateway as the program runs it by default, with one worker whose allocations are known.

use crate::peers;
use crate::support::{self, Ingress, PATIENCE, service};
use sluicegate_allocations::Thread;
use sluicegate_proxy::TraceSettings;
use sluicegate_telemetry::{FinishedRequest, Metrics, RequestSink, RequestSinks, RequestTaps};
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// Routing, forwarding fields, trace context, metrics of routes, and taps that nobody watches. Dropping it ends the worker.
pub struct Gateway {
    gateway: support::Gateway,
    worker: Arc<OnceLock<Thread>>,
}

impl Gateway {
    /// In front of a backend that answers every request alike. `more` are told of requests too.
    pub fn start(more: Option<Box<dyn RequestSinks>>) -> Self {
        let worker: Arc<OnceLock<Thread>> = Arc::default();
        let sinks = |metrics: &Arc<Metrics>| -> Arc<dyn RequestSinks> {
            let mut sinks: Vec<Box<dyn RequestSinks>> = vec![
                Box::new(metrics.route_sinks()),
                Box::new(RequestTaps::default()),
                Box::new(WhichThread(Arc::clone(&worker))),
            ];
            sinks.extend(more);
            Arc::new(Each(sinks))
        };
        let gateway = support::Gateway::telling(sinks, |settings| {
            settings.workers = 1;
            settings.trace = Some(TraceSettings::default());
        });
        gateway.apply(&service("web", &[peers::backend()]));
        gateway.apply(&Ingress::new("shop.example", "web").yaml());
        Self { gateway, worker }
    }

    /// Where it listens for HTTP.
    pub fn http(&self) -> SocketAddr {
        self.gateway.http()
    }

    /// Where it listens for HTTPS.
    pub fn https(&self) -> SocketAddr {
        self.gateway.https()
    }

    /// The worker's thread, which is known once a request was served.
    pub fn worker(&self) -> Thread {
        *self.worker.get().expect("a request was served before")
    }

    /// Waits until so many connections are open, and what they hold has not changed for a while.
    pub fn wait_until_idle(&self, connections: usize) {
        let begun = Instant::now();
        let mut held = self.worker().bytes();
        loop {
            assert!(
                begun.elapsed() < PATIENCE,
                "{} of {connections} connections are open",
                self.gateway.proxy().connections()
            );
            std::thread::sleep(Duration::from_millis(300));
            let before = std::mem::replace(&mut held, self.worker().bytes());
            if self.gateway.proxy().connections() == connections && held == before {
                return;
            }
        }
    }
}

/// Learns which thread is the worker's.
struct WhichThread(Arc<OnceLock<Thread>>);

impl RequestSinks for WhichThread {
    fn of_worker(&self, _index: usize) -> Box<dyn RequestSink> {
        Box::new(Self(Arc::clone(&self.0)))
    }
}

impl RequestSink for WhichThread {
    fn finished(&mut self, _request: &FinishedRequest<'_>) {
        self.0.get_or_init(sluicegate_allocations::current);
    }
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
        self.0.iter_mut().for_each(|sink| sink.finished(request));
    }
}
