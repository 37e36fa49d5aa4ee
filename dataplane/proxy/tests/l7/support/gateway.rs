//! A running proxy with the controller in front of it, fed with manifests as text.

use super::http1::Http1;
use super::recorder::Recorder;
use sluicegate_config::{Kind, NamespacedName, ObjectRef, Rejection, Settings};
use sluicegate_proxy::{Applied, Drained, Proxy, ProxySettings};
use sluicegate_source::manifest::{Document, Format, Source, parse};
use sluicegate_telemetry::{Exposition, FaultReason, LimitName, Metrics, RequestSinks};
use sluicegate_translate::{Controller, ObjectChange};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::net::TcpStream;

/// The gateway under test. Dropping it ends its workers.
pub struct Gateway {
    proxy: Arc<Proxy>,
    metrics: Arc<Metrics>,
    controller: Mutex<Controller>,
    /// How many slices each Service was given by [`Gateway::set_endpoints`].
    slices: Mutex<BTreeMap<String, usize>>,
}

impl Gateway {
    /// Two workers, HTTP and HTTPS on free loopback ports, requests counted by route, the defaults else.
    pub fn start() -> Self {
        Self::with(|_| {})
    }

    /// With settings of its own.
    pub fn with(adjust: impl FnOnce(&mut ProxySettings)) -> Self {
        Self::telling(|metrics| Arc::new(metrics.route_sinks()), adjust)
    }

    /// The same, and every request that is over is told to the recorder.
    pub fn recorded_by(recorder: &Recorder, adjust: impl FnOnce(&mut ProxySettings)) -> Self {
        Self::telling(|_| Arc::new(recorder.clone()), adjust)
    }

    /// The same, and requests that are over are told to these.
    pub fn telling(
        sinks: impl FnOnce(&Arc<Metrics>) -> Arc<dyn RequestSinks>,
        adjust: impl FnOnce(&mut ProxySettings),
    ) -> Self {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut settings =
            ProxySettings { http: vec![loopback], https: vec![loopback], workers: 2, ..ProxySettings::default() };
        adjust(&mut settings);
        let default_certificate =
            settings.default_certificate.as_ref().map(|id| NamespacedName::new(id.namespace.clone(), id.name.clone()));
        let metrics = Metrics::new(settings.workers);
        let sinks = Some(sinks(&metrics));
        let proxy = Proxy::start(settings, Arc::clone(&metrics), sinks).expect("the proxy starts");
        let objects = Settings {
            default_certificate,
            tcp_services_configmap: Some(NamespacedName::new("default", "tcp-services")),
            ..Settings::for_folder()
        };
        Self {
            proxy: Arc::new(proxy),
            metrics,
            controller: Mutex::new(Controller::new(objects)),
            slices: Mutex::default(),
        }
    }

    /// Takes manifests, which must be good ones, and makes them live.
    pub fn apply(&self, manifests: &str) -> Applied {
        let (applied, rejections) = self.apply_with_rejections(manifests);
        assert_eq!(rejections, [], "{manifests}");
        assert_eq!(applied.failures, Vec::<String>::new(), "{manifests}");
        applied
    }

    /// Takes manifests and returns what was not taken of them.
    pub fn apply_with_rejections(&self, manifests: &str) -> (Applied, Vec<Rejection>) {
        let path = Arc::from("test.yaml");
        let source = Source { path: &path, format: Format::Yaml, bytes: manifests.as_bytes() };
        let manifest = parse(source, |_| false);
        let mut rejections = manifest.notes;
        let mut changes = Vec::new();
        for document in manifest.documents {
            if let Document::Parsed { objects, .. } = document {
                changes.extend(objects.into_iter().map(|(_, object)| ObjectChange::Set(*object)));
            }
        }
        let (applied, new) = self.change(changes);
        rejections.extend(new);
        (applied, rejections)
    }

    /// Takes an object of the namespace `default` away.
    pub fn delete(&self, kind: Kind, name: &str) -> Applied {
        self.change(vec![ObjectChange::Remove(ObjectRef::new(kind, "default", name))]).0
    }

    /// Makes these the endpoints of a Service, and no others.
    pub fn set_endpoints(&self, name: &str, endpoints: &[SocketAddr]) -> Applied {
        let applied = self.apply(&super::service(name, endpoints));
        let before = {
            let mut slices = self.slices.lock().unwrap_or_else(PoisonError::into_inner);
            slices.insert(name.to_owned(), endpoints.len()).unwrap_or_default()
        };
        let gone = (endpoints.len()..before).map(|index| {
            ObjectChange::Remove(ObjectRef::new(Kind::EndpointSlice, "default", format!("{name}-{index}").as_str()))
        });
        let gone: Vec<_> = gone.collect();
        if gone.is_empty() { applied } else { self.change(gone).0 }
    }

    fn change(&self, changes: Vec<ObjectChange>) -> (Applied, Vec<Rejection>) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs();
        let mut controller = self.controller.lock().unwrap_or_else(PoisonError::into_inner);
        let update = controller.apply(changes, i64::try_from(now).expect("before the end of time"));
        (self.proxy.apply(&update.diff, update.generation), update.new_rejections)
    }

    /// Where it listens for HTTP.
    pub fn http(&self) -> SocketAddr {
        self.proxy.addresses().http[0]
    }

    /// Where it listens for HTTPS.
    pub fn https(&self) -> SocketAddr {
        self.proxy.addresses().https[0]
    }

    /// A connection to the HTTP port.
    pub async fn connect(&self) -> Http1<TcpStream> {
        Http1::connect(self.http()).await
    }

    /// The proxy itself.
    pub fn proxy(&self) -> &Arc<Proxy> {
        &self.proxy
    }

    /// How often it answered or closed for this reason.
    pub fn faults(&self, reason: FaultReason) -> u64 {
        self.metrics.faults(reason)
    }

    /// How often this limit was exceeded.
    pub fn limits(&self, limit: LimitName) -> u64 {
        self.metrics.limits(limit)
    }

    /// Requests that are over.
    pub fn requests(&self) -> u64 {
        self.metrics.requests()
    }

    /// The sum of all samples of a metric whose line begins so, such as `sluicegate_streams_total{kind="passthrough"`.
    pub fn sample(&self, prefix: &str) -> u64 {
        let text = self.metrics.expose(Exposition::Text);
        let values = text.lines().filter(|line| line.starts_with(prefix));
        values.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum::<f64>() as u64
    }

    /// Ends it as SIGTERM does after the lame-duck time, on a thread of its own since it blocks.
    pub async fn shutdown(&self, limit: Duration) -> Drained {
        let proxy = Arc::clone(&self.proxy);
        tokio::task::spawn_blocking(move || proxy.shutdown(limit)).await.expect("no panic")
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.proxy.shutdown(Duration::ZERO);
    }
}
