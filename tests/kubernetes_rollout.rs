//! A thousand pods are replaced under load, and no request notices; two gateways share one Lease while one of them sleeps.

mod cli_support;
mod cluster_support;

use cli_support::{AT_MOST, Gateway, try_get};
use cluster_support::{Cluster, own_address};
use serde_json::{Value, json};
use sluicegate_echo::EchoBackend;
use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// Pods of the Service at a time.
const PODS: usize = 4;
const REPLACEMENTS: usize = 1000;
/// From one replacement to the next, at least.
const EVERY: Duration = Duration::from_millis(10);
/// How long a pod serves after it began to terminate. A kubelet gives 30 s; while watches are cut it has to outlast the
/// longest pause before the next one.
const GRACE: Duration = Duration::from_secs(4);

fn prepare(cluster: &Cluster) {
    for namespace in ["shop", "sluicegate-system"] {
        cluster.apply(&json!({"kind": "Namespace", "metadata": {"name": namespace}}));
    }
    cluster
        .apply(&json!({"kind": "IngressClass", "metadata": {"name": "sluicegate"}, "spec": {"controller": "sluicegate.io/ingress"}}));
    cluster.apply(&json!({"kind": "Ingress", "metadata": {"namespace": "shop", "name": "web"}, "spec": {
        "ingressClassName": "sluicegate",
        "rules": [{"host": "web.example", "http": {"paths": [{"path": "/", "pathType": "Prefix",
            "backend": {"service": {"name": "web", "port": {"number": 80}}}}]}}]}}));
    cluster.apply(&json!({"kind": "Service", "metadata": {"namespace": "shop", "name": "web"},
        "spec": {"ports": [{"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}]}}));
}

fn start(cluster: &Cluster, more: &[&str]) -> Gateway {
    let kubeconfig = cluster.kubeconfig();
    let mut arguments = vec!["--kubeconfig", &kubeconfig, "--role", "gateway", "--log-format", "json"];
    for flag in ["--http", "--https", "--metrics", "--admin"] {
        arguments.extend([flag, "127.0.0.1:0"]);
    }
    arguments.extend(more);
    Gateway::start_with(&arguments, &[])
}

#[track_caller]
fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + AT_MOST;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what} did not come");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn published(cluster: &Cluster) -> Value {
    cluster.get("Ingress", "shop", "web")["status"]["loadBalancer"]["ingress"].clone()
}

/// The pods of the Service. Each place of a pod has a slice of its own, because each pod has a port of its own; the one that it
/// replaces is in it too until the next replacement, as one that terminates and still serves.
struct Pods<'a> {
    cluster: &'a Cluster,
    runtime: Runtime,
    serving: Vec<EchoBackend>,
    /// Those that terminate, and when they are killed.
    leaving: VecDeque<(Instant, EchoBackend)>,
    started: usize,
}

impl<'a> Pods<'a> {
    fn start(cluster: &'a Cluster) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let mut pods = Self { cluster, runtime, serving: Vec::new(), leaving: VecDeque::new(), started: 0 };
        for place in 0..PODS {
            let pod = pods.pod();
            pods.publish(place, pod.address(), None);
            pods.serving.push(pod);
        }
        pods
    }

    fn pod(&mut self) -> EchoBackend {
        self.started += 1;
        let pod = EchoBackend::builder("web").pod(&format!("web-{}", self.started));
        self.runtime.block_on(pod.address(SocketAddr::new(own_address(), 0)).start()).expect("a pod")
    }

    fn publish(&self, place: usize, serving: SocketAddr, leaving: Option<SocketAddr>) {
        let slice = |name: String, pod: SocketAddr, ready: bool| {
            json!({"kind": "EndpointSlice", "addressType": "IPv4",
                "metadata": {"namespace": "shop", "name": name, "labels": {"kubernetes.io/service-name": "web"}},
                "ports": [{"port": pod.port(), "name": "http", "protocol": "TCP"}],
                "endpoints": [{"addresses": [pod.ip().to_string()],
                    "conditions": {"ready": ready, "serving": true, "terminating": !ready}}]})
        };
        self.cluster.apply(&slice(format!("web-{place}"), serving, true));
        if let Some(pod) = leaving {
            self.cluster.apply(&slice(format!("web-{place}-leaving"), pod, false));
        }
    }

    fn replace(&mut self, place: usize) {
        let pod = self.pod();
        let old = std::mem::replace(&mut self.serving[place], pod);
        self.publish(place, self.serving[place].address(), Some(old.address()));
        self.leaving.push_back((Instant::now() + GRACE, old));
        // As the kubelet does when their time is over, whatever the gateway knows of it.
        while self.leaving.front().is_some_and(|(until, _)| *until < Instant::now()) {
            self.leaving.pop_front();
        }
    }
}

/// Requests without a pause, over kept connections and over new ones, from four clients.
struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<Vec<String>>>,
}

impl Load {
    fn start(http: SocketAddr) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let client = |number: usize| {
            let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
            std::thread::spawn(move || {
                let mut failures = Vec::new();
                let mut kept = None;
                while !stop.load(Ordering::Relaxed) {
                    // Half of the clients open a connection for each request.
                    let stream = kept.take().filter(|_| number.is_multiple_of(2));
                    match request(stream, http) {
                        Ok(stream) => kept = Some(stream),
                        Err(why) => failures.push(why),
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(2));
                }
                failures
            })
        };
        let clients = (0..4).map(client).collect();
        Self { stop, done, clients }
    }

    fn end(self) -> (usize, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        let failures = self.clients.into_iter().flat_map(|client| client.join().expect("a client ends")).collect();
        (self.done.load(Ordering::Relaxed), failures)
    }
}

/// One request, answered whole with 200; the connection, for the next one.
fn request(kept: Option<TcpStream>, http: SocketAddr) -> Result<TcpStream, String> {
    let mut stream = match kept {
        Some(stream) => stream,
        None => TcpStream::connect(http).map_err(|error| format!("connect: {error}"))?,
    };
    stream.set_read_timeout(Some(AT_MOST)).map_err(|error| error.to_string())?;
    stream
        .write_all(b"GET /bytes/100 HTTP/1.1\r\nHost: web.example\r\n\r\n")
        .map_err(|error| format!("write: {error}"))?;
    let (mut answer, mut piece) = (Vec::new(), [0; 2048]);
    loop {
        let length = stream.read(&mut piece).map_err(|error| format!("read: {error}"))?;
        answer.extend_from_slice(&piece[..length]);
        let text = String::from_utf8_lossy(&answer);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            if !head.starts_with("HTTP/1.1 200") {
                return Err(head.lines().take(12).collect::<Vec<_>>().join(" | "));
            }
            if body.len() >= 100 {
                return Ok(stream);
            }
        }
        if length == 0 {
            return Err(format!("closed after {} bytes", answer.len()));
        }
    }
}

fn rollout(cluster: &Cluster, replacements: usize, meanwhile: impl Fn(usize)) {
    prepare(cluster);
    let mut pods = Pods::start(cluster);
    let gateway = start(cluster, &["--publish-status-address", "192.0.2.10"]);
    until("the status", || published(cluster) == json!([{"ip": "192.0.2.10"}]));
    until("the first answer", || request(None, gateway.http).is_ok());
    let load = Load::start(gateway.http);
    let begun = Instant::now();
    for number in 0..replacements {
        let next = Instant::now() + EVERY;
        pods.replace(number % PODS);
        meanwhile(number);
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    let took = begun.elapsed();
    let (requests, failures) = load.end();
    println!("{replacements} replacements in {took:.1?}, {requests} requests, {} failed", failures.len());
    assert!(requests > replacements, "there was no load: {requests}");
    assert_eq!(failures, Vec::<String>::new(), "of {requests} requests");
    assert_eq!(published(cluster), json!([{"ip": "192.0.2.10"}]));
    // What answers in the end are the pods of the end.
    let last = pods.started;
    until("the last pod", || {
        try_get(gateway.http, "web.example", "/").is_ok_and(|text| text.contains(&format!("\"web-{last}\"")))
    });
}

#[test]
fn a_thousand_pods_are_replaced_under_load() {
    rollout(&Cluster::in_process(), REPLACEMENTS, |_| {});
}

#[test]
fn pods_are_replaced_while_every_watch_is_cut_ten_times_a_second() {
    let cluster = Cluster::in_process();
    let last_cut = std::cell::Cell::new(Instant::now());
    rollout(&cluster, 600, |number| {
        if last_cut.get().elapsed() < Duration::from_millis(100) {
            return;
        }
        last_cut.set(Instant::now());
        if number.is_multiple_of(5) {
            cluster.server().store(sluicegate_apiserver::store::Store::compact);
        }
        cluster.server().cut_watches();
    });
}

/// A leader that sleeps is followed, and writes nothing when it wakes up.
#[test]
fn a_leader_that_slept_writes_nothing_any_more() {
    let cluster = Cluster::in_process();
    prepare(&cluster);
    let _pods = Pods::start(&cluster);
    let one = start(&cluster, &["--publish-status-address", "192.0.2.10"]);
    until("the first status", || published(&cluster) == json!([{"ip": "192.0.2.10"}]));
    let _two = start(&cluster, &["--publish-status-address", "192.0.2.20"]);
    one.signal("STOP");
    until("the other one's status", || published(&cluster) == json!([{"ip": "192.0.2.20"}]));
    cluster.server().forget();
    one.signal("CONT");
    std::thread::sleep(Duration::from_secs(3));
    let writes = cluster.server().seen().iter().filter(|seen| seen.resource.ends_with("/status")).count();
    assert_eq!((writes, published(&cluster)), (0, json!([{"ip": "192.0.2.20"}])), "it does not lead any more");
}

#[test]
#[ignore = "needs kube-apiserver and etcd on the PATH or in KUBEBUILDER_ASSETS"]
fn a_thousand_pods_are_replaced_on_a_real_api_server() {
    rollout(&Cluster::real(), REPLACEMENTS, |_| {});
}
