//! `demo --once`: every path once, with what was sent, which way it went and what came back.

use super::client::{Answer, Visit, connect, visit};
use super::report::Part;
use super::stage::Stage;
use anyhow::{Context as _, bail, ensure};
use futures_util::{SinkExt as _, StreamExt as _};
use http::Version;
use sluicegate_echo::EchoRequest;
use sluicegate_echo::client::{ClientTls, EchoClient};
use sluicegate_route::{Outcome as Found, RouteTable};
use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio_tungstenite::tungstenite::Message;

/// How long a change may take before the demo calls it a failure.
const PATIENCE: Duration = Duration::from_secs(5);
/// Clients that ask all the time while a pod goes away.
const CLIENTS: usize = 4;

/// Goes through all of it.
pub async fn tour(stage: &mut Stage) -> Part {
    let mut part = Part::new("The gateway: requests to it on loopback, backends behind it");
    hosts_and_paths(stage, &mut part).await;
    certificates(stage, &mut part).await;
    protocols(stage, &mut part).await;
    refusals(stage, &mut part).await;
    live_change(stage, &mut part).await;
    pod_leaves(stage, &mut part).await;
    pod_crashes(stage, &mut part).await;
    part
}

async fn hosts_and_paths(stage: &Stage, part: &mut Part) {
    for (what, host, path, service) in [
        ("virtual host", "shop.example", "/", "shop"),
        ("another virtual host", "blog.example", "/2026/post", "blog"),
        ("host with port and capitals", "Shop.Example:8080", "/", "shop"),
        ("wildcard host", "one.apps.example", "/", "apps"),
        ("prefix", "shop.example", "/cart/items", "cart"),
        ("exact beats prefix", "shop.example", "/cart", "shop"),
        ("the longest prefix wins", "shop.example", "/cart/checkout/pay", "checkout"),
        ("prefixes end at a slash", "shop.example", "/cartoon", "shop"),
    ] {
        let request = plain(stage, host, path);
        step(stage, part, what, &request, |answer| expect_service(answer, service)).await;
    }
}

async fn certificates(stage: &Stage, part: &mut Part) {
    for (what, host, name, http2) in [
        ("TLS by server name", "shop.example", "shop.example", false),
        ("TLS, another certificate", "blog.example", "blog.example", false),
        ("TLS, wildcard certificate", "two.apps.example", "*.apps.example", false),
        ("HTTP/2 by ALPN", "shop.example", "shop.example", true),
    ] {
        let request = async || -> anyhow::Result<(String, String)> {
            let made = stage.certificate(name)?;
            // Nothing but this very certificate is trusted, so another one would end the handshake.
            let request =
                Visit { to: stage.https(), tls: Some(ClientTls::trust(&made.pem)?), http2, ..plain(stage, host, "/") };
            let answer = visit(&request).await?;
            ensure!(answer.certificate.as_ref() == Some(&made.der), "another certificate answered");
            ensure!(answer.status == 200, "status {}", answer.status);
            let version = if answer.version == Version::HTTP_2 { "HTTP/2" } else { "HTTP/1.1" };
            ensure!((answer.version == Version::HTTP_2) == http2, "{version} was spoken");
            let pod = answer.said("pod");
            Ok((way(&stage.table(), host, "/", &pod), format!("200 over {version}, certificate {name} verified")))
        };
        let start = Instant::now();
        part.add(what, format!("GET https://{host}/"), start, request().await);
    }
    let unknown = Visit { to: stage.https(), tls: Some(ClientTls::insecure()), ..plain(stage, "unknown.example", "/") };
    step(stage, part, "unknown name, default certificate", &unknown, |answer| {
        let shown = answer.certificate.as_deref().unwrap_or_default();
        let is_default = shown.windows(7).any(|part| part == b"Default");
        ensure!(is_default, "not the default certificate");
        expect_status(answer, 404)
    })
    .await;
}

async fn protocols(stage: &Stage, part: &mut Part) {
    let start = Instant::now();
    part.add("gRPC unary", "grpc.example Echo/Unary, over TLS".to_owned(), start, grpc_unary(stage).await);
    let start = Instant::now();
    part.add("gRPC both ways", "grpc.example Echo/Bidi, 3 messages".to_owned(), start, grpc_bidi(stage).await);
    let start = Instant::now();
    part.add("WebSocket", "ws://chat.example/ws, 3 messages".to_owned(), start, websocket(stage).await);
}

async fn grpc_client(stage: &Stage) -> anyhow::Result<EchoClient> {
    let tls = ClientTls::trust(&stage.certificate("grpc.example")?.pem)?;
    Ok(EchoClient::builder(stage.https()).authority("grpc.example").tls(tls).connect().await?)
}

fn message(text: &str) -> EchoRequest {
    EchoRequest { message: text.to_owned(), ..EchoRequest::default() }
}

async fn grpc_unary(stage: &Stage) -> anyhow::Result<(String, String)> {
    let reply = grpc_client(stage).await?.unary(message("hello")).await?.into_inner();
    ensure!(reply.message == "hello", "{:?} came back", reply.message);
    let way = way(&stage.table(), "grpc.example", "/sluicegate.echo.v1.Echo/Unary", &reply.pod);
    Ok((way, format!("{:?}, grpc-status 0", reply.message)))
}

async fn grpc_bidi(stage: &Stage) -> anyhow::Result<(String, String)> {
    let mut client = grpc_client(stage).await?;
    let requests = futures_util::stream::iter(["one", "two", "three"].map(message));
    let mut replies = client.bidi(requests).await?.into_inner();
    let (mut texts, mut pod) = (Vec::new(), String::new());
    while let Some(reply) = replies.next().await {
        let reply = reply?;
        pod = reply.pod;
        texts.push(reply.message);
    }
    ensure!(texts == ["one", "two", "three"], "{texts:?} came back");
    let way = way(&stage.table(), "grpc.example", "/sluicegate.echo.v1.Echo/Bidi", &pod);
    Ok((way, format!("{}, grpc-status 0", texts.join(" "))))
}

async fn websocket(stage: &Stage) -> anyhow::Result<(String, String)> {
    let stream = connect(stage.http()).await?;
    let (mut socket, _) = tokio_tungstenite::client_async("ws://chat.example/ws?hello=1", stream).await?;
    let next = async |socket: &mut tokio_tungstenite::WebSocketStream<_>| -> anyhow::Result<String> {
        let message = tokio::time::timeout(PATIENCE, socket.next()).await?.context("the WebSocket ended")??;
        Ok(message.into_text()?.to_string())
    };
    let hello: serde_json::Value = serde_json::from_str(&next(&mut socket).await?)?;
    let mut texts = Vec::new();
    for text in ["one", "two", "three"] {
        socket.send(Message::text(text)).await?;
        texts.push(next(&mut socket).await?);
    }
    socket.close(None).await?;
    ensure!(texts == ["one", "two", "three"], "{texts:?} came back");
    let pod = hello["pod"].as_str().unwrap_or_default();
    Ok((way(&stage.table(), "chat.example", "/ws", pod), texts.join(" ")))
}

async fn refusals(stage: &Stage, part: &mut Part) {
    let unknown = plain(stage, "unknown.example", "/");
    step(stage, part, "no such host", &unknown, |answer| {
        ensure!(answer.header("content-type").starts_with("application/json"), "not JSON");
        expect_status(answer, 404)
    })
    .await;
    let browser = Visit { headers: vec![("accept", "text/html")], ..plain(stage, "two.labels.apps.example", "/") };
    step(stage, part, "a wildcard is one label; a browser asks", &browser, |answer| {
        ensure!(answer.header("content-type").starts_with("text/html"), "not HTML");
        expect_status(answer, 404)
    })
    .await;
    let empty = plain(stage, "blog.example", "/empty");
    step(stage, part, "no endpoints", &empty, |answer| expect_status(answer, 503)).await;
    let grpc = Visit { http2: true, headers: vec![("content-type", "application/grpc"), ("te", "trailers")], ..empty };
    step(stage, part, "no endpoints, gRPC asks", &grpc, |answer| {
        ensure!(answer.header("grpc-status") == "14", "grpc-status {:?}", answer.header("grpc-status"));
        Ok(format!("grpc-status 14 ({})", answer.header("x-sluicegate-reason")))
    })
    .await;
}

/// Sends the blog's traffic elsewhere by editing its manifest, and back again.
async fn live_change(stage: &Stage, part: &mut Part) {
    let change = async || -> anyhow::Result<(String, String)> {
        ensure!(serves(stage, "blog").await?, "blog.example is not served by blog at first");
        let start = Instant::now();
        let before = stage.edit("blog.yaml", |text| {
            text.replacen("name: blog\n                port", "name: apps\n                port", 1)
        })?;
        let there = until_served_by(stage, "apps", start).await?;
        let start = Instant::now();
        stage.edit("blog.yaml", |_| before)?;
        let back = until_served_by(stage, "blog", start).await?;
        let way = way(&stage.table(), "blog.example", "/", "");
        Ok((
            way,
            format!(
                "apps after {:.1} ms, blog again after {:.1} ms",
                there.as_secs_f64() * 1e3,
                back.as_secs_f64() * 1e3
            ),
        ))
    };
    let start = Instant::now();
    part.add("live change", "edit blog.yaml: service blog -> apps -> blog".to_owned(), start, change().await);
}

async fn serves(stage: &Stage, service: &str) -> anyhow::Result<bool> {
    let answer = visit(&plain(stage, "blog.example", "/")).await?;
    ensure!(answer.status == 200, "status {} during the change", answer.status);
    Ok(answer.said("service") == service)
}

async fn until_served_by(stage: &Stage, service: &str, start: Instant) -> anyhow::Result<Duration> {
    while !serves(stage, service).await? {
        ensure!(start.elapsed() < PATIENCE, "the change is not live after {PATIENCE:?}");
    }
    Ok(start.elapsed())
}

/// Takes a pod out of its EndpointSlice and then stops it, while clients ask all the time.
async fn pod_leaves(stage: &Stage, part: &mut Part) {
    let play = async |asking: &Asking| -> anyhow::Result<()> {
        asking.until(100).await?;
        stage.edit("shop.yaml", |text| without_pod(text, "shop-1"))?;
        asking.until_silent("shop-1").await?;
        stage.pod("shop-1")?.stop().await;
        asking.until(asking.count() + 200).await
    };
    under_requests(
        stage,
        part,
        "a pod leaves under requests",
        "shop.example",
        "remove shop-1 from its slice, then stop it",
        play,
    )
    .await;
}

/// Kills a pod that its EndpointSlice still lists, while clients ask all the time.
async fn pod_crashes(stage: &Stage, part: &mut Part) {
    let play = async |asking: &Asking| -> anyhow::Result<()> {
        asking.until(100).await?;
        stage.pod("blog-1")?.kill();
        asking.until(asking.count() + 200).await
    };
    under_requests(
        stage,
        part,
        "connect failures are retried",
        "blog.example",
        "kill blog-1, which its slice still lists",
        play,
    )
    .await;
}

fn without_pod(manifest: &str, pod: &str) -> String {
    let documents = manifest.split("---\n").filter(|document| !document.contains(&format!("  name: {pod}\n")));
    documents.collect::<Vec<_>>().join("---\n")
}

async fn under_requests(
    stage: &Stage,
    part: &mut Part,
    what: &'static str,
    host: &str,
    sent: &str,
    play: impl AsyncFnOnce(&Asking) -> anyhow::Result<()>,
) {
    let start = Instant::now();
    let asking = Asking::start(&plain(stage, host, "/"));
    let played = play(&asking).await;
    let result = async {
        let (count, failures) = asking.stop().await;
        played?;
        if let Some(failure) = failures.first() {
            bail!("{} of {count} requests failed, the first one: {failure}", failures.len());
        }
        Ok((way(&stage.table(), host, "/", ""), format!("{count} requests, 0 failed")))
    };
    let result = result.await;
    part.add(what, format!("{sent}; {CLIENTS} clients ask {host}"), start, result);
}

/// Clients that ask without pause.
struct Asking {
    over: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
    last: Arc<std::sync::Mutex<Vec<String>>>,
    clients: Vec<tokio::task::JoinHandle<Vec<String>>>,
}

impl Asking {
    fn start(request: &Visit) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let count = Arc::new(AtomicUsize::new(0));
        let last = Arc::<std::sync::Mutex<Vec<String>>>::default();
        let clients = (0..CLIENTS).map(|_| {
            let (request, over, count, last) =
                (request.clone(), Arc::clone(&over), Arc::clone(&count), Arc::clone(&last));
            tokio::spawn(async move {
                let mut failures = Vec::new();
                while !over.load(Ordering::Relaxed) {
                    match visit(&request).await {
                        Ok(answer) if answer.status == 200 => remember(&last, answer.said("pod")),
                        Ok(answer) => failures.push(format!(
                            "status {} ({})",
                            answer.status,
                            answer.header("x-sluicegate-reason")
                        )),
                        Err(error) => failures.push(format!("{error:#}")),
                    }
                    count.fetch_add(1, Ordering::Relaxed);
                }
                failures
            })
        });
        Self { clients: clients.collect(), over, count, last }
    }

    fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    async fn until(&self, count: usize) -> anyhow::Result<()> {
        let start = Instant::now();
        while self.count() < count {
            ensure!(start.elapsed() < PATIENCE, "the clients get no further than {} requests", self.count());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }

    /// Until none of the last answers came from the pod.
    async fn until_silent(&self, pod: &str) -> anyhow::Result<()> {
        let start = Instant::now();
        while lock(&self.last).iter().any(|seen| seen == pod) {
            ensure!(start.elapsed() < PATIENCE, "{pod} still gets requests");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }

    async fn stop(self) -> (usize, Vec<String>) {
        self.over.store(true, Ordering::Relaxed);
        let mut failures = Vec::new();
        for client in self.clients {
            match client.await {
                Ok(seen) => failures.extend(seen),
                Err(error) => failures.push(error.to_string()),
            }
        }
        (self.count.load(Ordering::Relaxed), failures)
    }
}

fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Keeps the pods of the last 40 answers.
fn remember(last: &std::sync::Mutex<Vec<String>>, pod: String) {
    let mut last = lock(last);
    last.push(pod);
    if last.len() > 40 {
        last.remove(0);
    }
}

fn plain(stage: &Stage, host: &str, path: &str) -> Visit {
    Visit {
        to: stage.http(),
        host: host.to_owned(),
        path: path.to_owned(),
        tls: None,
        http2: false,
        headers: Vec::new(),
    }
}

async fn step(
    stage: &Stage,
    part: &mut Part,
    what: &'static str,
    request: &Visit,
    check: impl FnOnce(&Answer) -> anyhow::Result<String>,
) {
    let start = Instant::now();
    let scheme = if request.tls.is_some() { "https" } else { "http" };
    let result = match visit(request).await {
        Ok(answer) => {
            let way = way(&stage.table(), &request.host, &request.path, &answer.said("pod"));
            check(&answer).map(|back| (way, back))
        }
        Err(error) => Err(error),
    };
    part.add(what, format!("GET {scheme}://{}{}", request.host, request.path), start, result);
}

fn expect_service(answer: &Answer, service: &str) -> anyhow::Result<String> {
    ensure!(answer.status == 200, "status {} ({})", answer.status, answer.header("x-sluicegate-reason"));
    let said = answer.said("service");
    ensure!(said == service, "{said} answered and not {service}");
    Ok(format!("200 from {}", answer.said("pod")))
}

fn expect_status(answer: &Answer, status: u16) -> anyhow::Result<String> {
    ensure!(answer.status == status, "status {} and not {status}", answer.status);
    let form = answer.header("content-type").split(';').next().unwrap_or_default();
    Ok(format!("{status} {} as {form}", answer.header("x-sluicegate-reason")))
}

/// Ingress and rule, backend, pod.
fn way(table: &RouteTable, host: &str, path: &str, pod: &str) -> String {
    let Found::Route(id) = table.find(host.as_bytes(), path.as_bytes()) else { return "no route".to_owned() };
    let route = table.route(id);
    let rule =
        format!("{}/{} {}", route.origin.ingress.namespace, route.origin.ingress.name, short(&route.origin.field));
    let backend = match &route.target {
        sluicegate_route::Target::Forward(slot) => table.backend_id(*slot).map(ToString::to_string).unwrap_or_default(),
        other => format!("{other:?}"),
    };
    let parts: [&dyn Display; 3] = [&rule, &backend, &pod];
    parts.map(ToString::to_string).into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" -> ")
}

/// `spec.rules[0].http.paths[1]` without what all of them have in common.
fn short(field: &str) -> String {
    field.replace("spec.", "").replace(".http", "")
}
