//! HTTP/2 connections to endpoints: opened once however many wait, shared, left when the endpoint says so or falls
//! silent. The other end is h2's server over real sockets.

mod upstream_support;

use bytes::Bytes;
use h2::client::ResponseFuture;
use http::{Request, Response};
use sluicegate_config::backend::UpstreamProtocol;
use sluicegate_proxy::connect::{ConnectError, Http2Settings};
use sluicegate_proxy::pool::{Http2Lease, UpstreamBackend, UpstreamSettings};
use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::spawn_local;
use tokio::time::{sleep, timeout};
use upstream_support::*;

/// An HTTP/2 backend that answers when it is told to.
struct Http2Server {
    address: SocketAddr,
    accepted: Rc<Cell<usize>>,
    closed: Rc<Cell<usize>>,
    /// Requests that have arrived.
    arrived: Rc<Cell<usize>>,
    answers: watch::Sender<bool>,
    go_away: watch::Sender<bool>,
}

impl Http2Server {
    async fn start(max_streams: u32) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let address = listener.local_addr().expect("its address");
        let (answers, answering) = watch::channel(true);
        let (go_away, going_away) = watch::channel(false);
        let server =
            Self { address, accepted: Rc::default(), closed: Rc::default(), arrived: Rc::default(), answers, go_away };
        let (accepted, closed, arrived) =
            (Rc::clone(&server.accepted), Rc::clone(&server.closed), Rc::clone(&server.arrived));
        spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                accepted.set(accepted.get() + 1);
                let (answering, going_away) = (answering.clone(), going_away.clone());
                let (closed, arrived) = (Rc::clone(&closed), Rc::clone(&arrived));
                spawn_local(async move {
                    serve(stream, max_streams, arrived, answering, going_away).await;
                    closed.set(closed.get() + 1);
                });
            }
        });
        server
    }
}

async fn serve(
    stream: TcpStream,
    max_streams: u32,
    arrived: Rc<Cell<usize>>,
    answering: watch::Receiver<bool>,
    mut going_away: watch::Receiver<bool>,
) {
    let handshake = h2::server::Builder::new().max_concurrent_streams(max_streams).handshake::<_, Bytes>(stream);
    let Ok(mut connection) = handshake.await else { return };
    going_away.mark_unchanged();
    let mut said_good_bye = false;
    loop {
        let accepted = tokio::select! {
            accepted = connection.accept() => accepted,
            Ok(()) = going_away.changed(), if !said_good_bye => {
                connection.graceful_shutdown();
                said_good_bye = true;
                continue;
            }
        };
        let Some(Ok((_request, mut respond))) = accepted else { return };
        arrived.set(arrived.get() + 1);
        let mut answering = answering.clone();
        spawn_local(async move {
            if answering.wait_for(|answers| *answers).await.is_ok() {
                // The client may have gone; then there is nobody to answer.
                let _ = respond.send_response(Response::new(()), true);
            }
        });
    }
}

async fn lease(backend: &UpstreamBackend) -> Result<Http2Lease, ConnectError> {
    backend.http2(&pick(backend), Instant::now(), LIMIT).await
}

fn send(lease: &mut Http2Lease) -> ResponseFuture {
    let request = Request::get("http://web.test/").body(()).expect("a request");
    lease.sender.send_request(request, true).expect("the stream opens").0
}

/// A request from beginning to end.
async fn request(backend: &UpstreamBackend) -> Result<u16, ConnectError> {
    let mut lease = lease(backend).await?;
    let response = send(&mut lease).await.map_err(|error| ConnectError::Http2(error.to_string()))?;
    Ok(response.status().as_u16())
}

#[test]
fn a_hundred_first_requests_open_one_connection() {
    worker(async {
        let server = Http2Server::start(1_000).await;
        let (_upstreams, backend) = single(UpstreamSettings::default(), &[server.address], UpstreamProtocol::H2c);
        let requests: Vec<_> = (0..100)
            .map(|_| {
                let backend = Rc::clone(&backend);
                spawn_local(async move { request(&backend).await })
            })
            .collect();
        for request in requests {
            assert_eq!(request.await.expect("no panic"), Ok(200));
        }
        assert_eq!(server.accepted.get(), 1);
        assert_eq!(pick(&backend).in_flight(), 0);
    });
}

#[test]
fn one_connection_carries_two_hundred_streams_at_once() {
    worker(async {
        let server = Http2Server::start(250).await;
        let (_upstreams, backend) = single(UpstreamSettings::default(), &[server.address], UpstreamProtocol::H2c);
        assert_eq!(request(&backend).await, Ok(200));
        server.answers.send_replace(false);
        let mut open = Vec::new();
        for _ in 0..200 {
            let mut lease = lease(&backend).await.expect("room");
            assert!(lease.reused);
            let response = send(&mut lease);
            open.push((lease, response));
        }
        eventually("all have arrived while none was answered", || server.arrived.get() == 201).await;
        assert_eq!(pick(&backend).in_flight(), 200);
        server.answers.send_replace(true);
        for (_lease, response) in open {
            assert_eq!(response.await.expect("an answer").status(), 200);
        }
        assert_eq!(server.accepted.get(), 1);
    });
}

#[test]
fn what_the_endpoint_allows_is_heeded() {
    worker(async {
        let server = Http2Server::start(10).await;
        let (_upstreams, backend) = single(UpstreamSettings::default(), &[server.address], UpstreamProtocol::H2c);
        assert_eq!(request(&backend).await, Ok(200));
        server.answers.send_replace(false);
        let mut open = Vec::new();
        for _ in 0..25 {
            let mut lease = lease(&backend).await.expect("room");
            let response = send(&mut lease);
            open.push((lease, response));
            // The limit of a new connection is known when its SETTINGS are there.
            eventually("it has arrived", || server.arrived.get() == open.len() + 1).await;
        }
        assert_eq!(server.accepted.get(), 3);
        drop(open);
        server.answers.send_replace(true);
        assert_eq!(request(&backend).await, Ok(200));
        assert_eq!(server.accepted.get(), 3);
    });
}

#[test]
fn connections_and_queues_are_bounded() {
    worker(async {
        let server = Http2Server::start(100).await;
        let http2 = Http2Settings { max_connections: 2, max_streams: 1, ..Http2Settings::default() };
        let settings = UpstreamSettings { http2, ..UpstreamSettings::default() };
        let (_upstreams, backend) = single(settings, &[server.address], UpstreamProtocol::H2c);
        // Two connections of one stream each, and as many that wait.
        let mut held = Vec::new();
        for _ in 0..4 {
            held.push(lease(&backend).await.expect("room"));
        }
        let error = lease(&backend).await.expect_err("no room");
        assert_eq!((error.reason(), error.is_retryable()), ("overloaded", true));
        assert_eq!(server.accepted.get(), 2);
        held.pop();
        assert!(lease(&backend).await.is_ok());
        assert!(!pick(&backend).is_ejected(Instant::now()), "being busy is no failure");
    });
}

#[test]
fn after_go_away_requests_go_elsewhere_and_open_ones_finish() {
    worker(async {
        let server = Http2Server::start(100).await;
        let (_upstreams, backend) = single(UpstreamSettings::default(), &[server.address], UpstreamProtocol::H2c);
        assert_eq!(request(&backend).await, Ok(200));
        server.answers.send_replace(false);
        let mut open = lease(&backend).await.expect("room");
        let response = send(&mut open);
        eventually("it has arrived", || server.arrived.get() == 2).await;
        server.go_away.send_replace(true);
        // Both steps of the farewell.
        sleep(Duration::from_millis(100)).await;
        let mut other = lease(&backend).await.expect("a new connection");
        assert!(!other.reused);
        let other_response = send(&mut other);
        server.answers.send_replace(true);
        assert_eq!(response.await.expect("an answer").status(), 200);
        assert_eq!(other_response.await.expect("an answer").status(), 200);
        assert_eq!(server.accepted.get(), 2);
        eventually("the first connection ends", || server.closed.get() == 1).await;
    });
}

#[test]
fn a_connection_that_was_closed_is_replaced() {
    worker(async {
        let server = Http2Server::start(100).await;
        let (upstreams, backend) = single(UpstreamSettings::default(), &[server.address], UpstreamProtocol::H2c);
        assert_eq!(request(&backend).await, Ok(200));
        upstreams.sweep(Instant::now() + Duration::from_secs(54));
        assert_eq!(request(&backend).await, Ok(200));
        assert_eq!(server.accepted.get(), 1);
        upstreams.sweep(Instant::now() + Duration::from_secs(60));
        eventually("it was idle for too long", || server.closed.get() == 1).await;
        assert_eq!(request(&backend).await, Ok(200));
        assert_eq!(server.accepted.get(), 2);
    });
}

#[test]
fn a_removed_endpoint_finishes_its_streams() {
    worker(async {
        let server = Http2Server::start(100).await;
        let upstreams = upstreams(UpstreamSettings::default());
        let there = upstreams.backend(&slotted(1, backend(&[server.address], UpstreamProtocol::H2c)));
        server.answers.send_replace(false);
        let mut open = lease(&there).await.expect("room");
        let endpoint = Rc::clone(open.endpoint());
        let response = send(&mut open);
        eventually("it has arrived", || server.arrived.get() == 1).await;
        upstreams.backend(&slotted(2, backend(&[], UpstreamProtocol::H2c)));
        assert!(endpoint.is_removed());
        server.answers.send_replace(true);
        assert_eq!(response.await.expect("an answer").status(), 200);
        assert_eq!(server.closed.get(), 0);
        drop(open);
        eventually("the connection ends with its last stream", || server.closed.get() == 1).await;
        let error = there.http2(&endpoint, Instant::now(), LIMIT).await.expect_err("it is gone");
        assert_eq!(error, ConnectError::EndpointRemoved);
    });
}

#[test]
fn refusal_is_reported_to_all_and_counted_once() {
    worker(async {
        let addresses = [dead_address().await, dead_address().await];
        let (_upstreams, backend) = single(UpstreamSettings::default(), &addresses, UpstreamProtocol::H2c);
        let endpoint = pick(&backend);
        let waiting: Vec<_> = (0..10)
            .map(|_| {
                let (backend, endpoint) = (Rc::clone(&backend), Rc::clone(&endpoint));
                spawn_local(async move { backend.http2(&endpoint, Instant::now(), LIMIT).await.map(drop) })
            })
            .collect();
        for waiting in waiting {
            assert_eq!(waiting.await.expect("no panic"), Err(ConnectError::Refused));
        }
        let report = endpoint.report(Instant::now());
        assert_eq!((report.failures, report.in_flight), (1, 0));
        assert!(report.ejected_for.is_some());
    });
}

/// An endpoint that takes connections and never says a word.
async fn mute() -> (SocketAddr, Rc<Cell<usize>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let address = listener.local_addr().expect("its address");
    let accepted = Rc::new(Cell::new(0));
    let count = Rc::clone(&accepted);
    spawn_local(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            count.set(count.get() + 1);
            held.push(stream);
        }
    });
    (address, accepted)
}

#[test]
fn a_silent_endpoint_that_owes_an_answer_is_given_up() {
    worker(async {
        let (address, _) = mute().await;
        let http2 = Http2Settings {
            keepalive: Duration::from_millis(100),
            keepalive_timeout: Duration::from_millis(100),
            ..Http2Settings::default()
        };
        let settings = UpstreamSettings { http2, ..UpstreamSettings::default() };
        let (_upstreams, backend) = single(settings, &[address], UpstreamProtocol::H2c);
        let mut lease = lease(&backend).await.expect("TCP connects");
        let response = timeout(Duration::from_secs(5), send(&mut lease)).await;
        assert!(response.expect("given up in time").is_err());
    });
}

#[test]
fn a_slow_endpoint_that_answers_pings_is_not_given_up() {
    worker(async {
        let server = Http2Server::start(100).await;
        let http2 = Http2Settings {
            keepalive: Duration::from_millis(50),
            keepalive_timeout: Duration::from_millis(50),
            ..Http2Settings::default()
        };
        let settings = UpstreamSettings { http2, ..UpstreamSettings::default() };
        let (_upstreams, backend) = single(settings, &[server.address], UpstreamProtocol::H2c);
        server.answers.send_replace(false);
        let mut lease = lease(&backend).await.expect("room");
        let response = send(&mut lease);
        sleep(Duration::from_millis(600)).await;
        server.answers.send_replace(true);
        assert_eq!(response.await.expect("an answer").status(), 200);
    });
}

#[test]
fn after_a_timeout_in_silence_the_connection_gets_no_further_stream() {
    worker(async {
        let (address, accepted) = mute().await;
        let (_upstreams, backend) = single(UpstreamSettings::default(), &[address], UpstreamProtocol::H2c);
        let first = lease(&backend).await.expect("TCP connects");
        assert!(lease(&backend).await.expect("the same one").reused);
        first.timed_out();
        assert!(!lease(&backend).await.expect("another one").reused);
        eventually("a second connection", || accepted.get() == 2).await;
    });
}

#[test]
fn a_request_that_goes_away_leaves_the_connection_to_those_who_wait() {
    worker(async {
        // Nobody accepts yet, but TLS keeps the opening pending.
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let address = listener.local_addr().expect("its address");
        let settings = UpstreamSettings { connect_timeout: Duration::from_millis(300), ..UpstreamSettings::default() };
        let (_upstreams, backend) = single(settings, &[address], UpstreamProtocol::H2);
        let endpoint = pick(&backend);
        let wait = || {
            let (backend, endpoint) = (Rc::clone(&backend), Rc::clone(&endpoint));
            spawn_local(async move { backend.http2(&endpoint, Instant::now(), LIMIT).await.map(drop) })
        };
        let (first, second) = (wait(), wait());
        sleep(Duration::from_millis(50)).await;
        first.abort();
        // The outcome reaches the other one all the same, and from the one attempt that there was.
        assert_eq!(second.await.expect("no panic"), Err(ConnectError::Timeout));
        assert!(listener.accept().await.is_ok());
        assert!(timeout(Duration::from_millis(50), listener.accept()).await.is_err());
        // Nothing is left behind that would keep the next one from trying.
        let impatient = backend.http2(&endpoint, Instant::now(), Duration::from_millis(50)).await;
        assert_eq!(impatient.map(drop), Err(ConnectError::Timeout));
        assert!(listener.accept().await.is_ok());
    });
}

#[test]
fn an_endpoint_that_closes_every_connection_is_an_error() {
    worker(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let address = listener.local_addr().expect("its address");
        spawn_local(async move { while listener.accept().await.is_ok() {} });
        let (_upstreams, backend) = single(UpstreamSettings::default(), &[address], UpstreamProtocol::H2c);
        let result = timeout(Duration::from_secs(5), request(&backend)).await;
        let error = result.expect("no endless attempts").expect_err("no answer");
        assert_eq!(error.reason(), "http2");
    });
}
