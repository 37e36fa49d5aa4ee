//! Nothing reloads: a thousand changes under load, and no request, WebSocket or download notices one.

use crate::support::tls::{self, Identity, Key};
use crate::support::upgrade::websocket;
use crate::support::{Gateway, Http1, Http2, Ingress, manifest, service};
use futures_util::{SinkExt, StreamExt};
use sluicegate_config::Kind;
use sluicegate_echo::EchoBackend;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;

const SWAPS: usize = 1000;
const WEBSOCKETS: usize = 50;

/// What the clients have in common.
struct Load {
    gateway: Gateway,
    over: AtomicBool,
    requests: AtomicU64,
}

impl Load {
    fn goes_on(&self) -> bool {
        !self.over.load(Ordering::Relaxed)
    }

    fn count(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }
}

async fn keep_alive(load: Arc<Load>) {
    let mut client = load.gateway.connect().await;
    while load.goes_on() {
        let answer = client.get("app.test", "/bytes/100").await;
        assert_eq!((answer.status, answer.body.len()), (200, 100));
        load.count();
    }
}

async fn new_connections(load: Arc<Load>) {
    let config = Arc::new(tls::modern(&["http/1.1"]));
    while load.goes_on() {
        let answer = load.gateway.connect().await.get("app.test", "/").await;
        assert_eq!(answer.status, 200);
        let stream = tls::connect(&config, load.gateway.https(), "app.test").await;
        let answer = Http1::new(stream).get("app.test", "/").await;
        assert_eq!(answer.status, 200);
        load.count();
    }
}

async fn http2(load: Arc<Load>) {
    let mut client = Http2::prior_knowledge(load.gateway.http()).await;
    while load.goes_on() {
        let answer = client.get("app.test", "/bytes/1000").await;
        assert_eq!((answer.status.as_u16(), answer.body.len()), (200, 1000));
        load.count();
    }
}

/// One WebSocket; returns how many messages came back on it.
async fn messages(load: Arc<Load>) -> u64 {
    let mut socket = websocket(load.gateway.http(), "app.test", "/ws").await.expect("opened");
    let mut number = 0;
    while load.goes_on() {
        let message = Message::text(number.to_string());
        socket.send(message.clone()).await.expect("sent");
        assert_eq!(socket.next().await.expect("not closed").expect("no error"), message);
        number += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // It is whole to the end.
    socket.send(Message::text("last")).await.expect("sent");
    assert_eq!(socket.next().await.expect("not closed").expect("no error"), Message::text("last"));
    number
}

/// A download that takes as long as the load, and is whole.
async fn download(load: Arc<Load>) {
    let mut client = load.gateway.connect().await;
    client.send("GET /drip?bytes=400&size=1&every=10ms&length=1 HTTP/1.1\r\nHost: app.test\r\n\r\n").await;
    let answer = client.response().await;
    assert_eq!((answer.status, answer.body.len()), (200, 400));
    load.count();
}

/// One change of each kind after the other; the host under load keeps at least one endpoint.
fn change(load: &Load, number: usize, backends: &[EchoBackend], identities: &[Identity]) {
    let gateway = &load.gateway;
    match number % 10 {
        0 | 5 => {
            let alone = backends[number / 5 % 2].address();
            gateway.set_endpoints("web", &[alone]);
        }
        1 | 6 => {
            gateway.set_endpoints("web", &[backends[0].address(), backends[1].address()]);
        }
        2 => {
            let timeout = (30 + number % 7).to_string();
            gateway.apply(&Ingress::new("app.test", "web").tls("app").nginx("proxy-read-timeout", &timeout).yaml());
        }
        3 => {
            gateway.apply(&identities[number / 10 % 2].secret("app"));
        }
        4 => {
            gateway.apply(&Ingress::new(&format!("other-{}.test", number % 40), "web").yaml());
        }
        7 => {
            gateway.delete(Kind::Ingress, &format!("other-{}-test", (number - 3) % 40));
        }
        8 => {
            gateway.apply(&Ingress::new("app.test", "web").named("more").path(&format!("/more/{number}")).yaml());
        }
        _ => {
            gateway.apply(&service("unused", &[backends[number / 10 % 2].address()]));
            gateway.apply(&Ingress::new("unused.test", "unused").path(&format!("/{number}")).yaml());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_changes_under_load_cost_nobody_anything() {
    let mut backends = Vec::new();
    for pod in ["a", "b"] {
        backends.push(EchoBackend::builder("web").pod(pod).start().await.expect("start"));
    }
    let identities = [Identity::new(Key::Ecdsa, &["app.test"]), Identity::new(Key::Ecdsa, &["app.test"])];
    let gateway = Gateway::start();
    gateway.set_endpoints("web", &[backends[0].address(), backends[1].address()]);
    gateway.apply(&manifest::all([
        identities[0].secret("app").as_str(),
        Ingress::new("app.test", "web").tls("app").yaml().as_str(),
    ]));
    let load = Arc::new(Load { gateway, over: AtomicBool::new(false), requests: AtomicU64::new(0) });
    let mut clients = JoinSet::new();
    for _ in 0..4 {
        clients.spawn(keep_alive(Arc::clone(&load)));
        clients.spawn(http2(Arc::clone(&load)));
    }
    for _ in 0..2 {
        clients.spawn(new_connections(Arc::clone(&load)));
    }
    clients.spawn(download(Arc::clone(&load)));
    let mut sockets = JoinSet::new();
    for _ in 0..WEBSOCKETS {
        sockets.spawn(messages(Arc::clone(&load)));
    }
    crate::support::until("all WebSockets are open", || {
        load.gateway.sample("sluicegate_upgrades_active{kind=\"websocket\"") == WEBSOCKETS as u64
    })
    .await;

    let changing = {
        let load = Arc::clone(&load);
        tokio::task::spawn_blocking(move || {
            for number in 0..SWAPS {
                change(&load, number, &backends, &identities);
                // Spread out, so that every change meets requests.
                std::thread::sleep(Duration::from_millis(4));
            }
            backends
        })
    };
    let backends = changing.await.expect("every change is taken");
    assert_eq!(
        load.gateway.sample("sluicegate_upgrades_active{kind=\"websocket\""),
        WEBSOCKETS as u64,
        "every WebSocket outlives every change"
    );
    load.over.store(true, Ordering::Relaxed);
    // A client that saw anything but what it asked for has panicked.
    while let Some(client) = clients.join_next().await {
        client.expect("no failed request");
    }
    while let Some(socket) = sockets.join_next().await {
        assert!(socket.expect("no broken WebSocket") > 0);
    }
    let requests = load.requests.load(Ordering::Relaxed);
    assert!(requests > 500, "{requests} requests are no load");
    assert_eq!(load.gateway.sample("sluicegate_faults_total"), 0);
    drop(backends);
}
