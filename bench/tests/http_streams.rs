//! `http` with many requests on a connection: HTTP/2 and gRPC against h2's server, WebSocket against tungstenite's.

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http::{HeaderMap, Request, Response, StatusCode};
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use tokio_tungstenite::tungstenite::Message;

fn outcome(arguments: &[&str]) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_sluicegate-bench"))
        .args(["http", "-o", "json", "--no-ceiling", "--max-errors", "1000000", "--warm-up", "0s"])
        .args(arguments)
        .output()
        .expect("it runs");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|why| panic!("{why}: {output:?}"))
}

/// Gives every connection to a task.
fn serve<F, Fut>(runtime: &Runtime, each: F) -> SocketAddr
where
    F: Fn(TcpStream) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).expect("a port");
    let address = listener.local_addr().expect("an address");
    runtime.spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(each(socket));
        }
    });
    address
}

type Respond = h2::server::SendResponse<Bytes>;

/// Gives every stream of every connection to a task.
fn serve_streams<F, Fut>(runtime: &Runtime, each: F) -> SocketAddr
where
    F: Fn(Request<h2::RecvStream>, Respond) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    serve(runtime, move |socket| {
        let each = each.clone();
        async move {
            let mut connection = h2::server::handshake(socket).await.expect("a preface");
            while let Some(Ok((request, respond))) = connection.accept().await {
                tokio::spawn(each(request, respond));
            }
        }
    })
}

/// How long the body of a request is.
async fn drain(request: Request<h2::RecvStream>) -> usize {
    let mut body = request.into_body();
    let mut length = 0;
    while let Some(Ok(piece)) = body.data().await {
        length += piece.len();
        body.flow_control().release_capacity(piece.len()).expect("what was taken");
    }
    length
}

fn answer(mut respond: Respond, body: Bytes, trailers: Option<HeaderMap>) {
    let head = Response::new(());
    let mut stream = respond.send_response(head, false).expect("a stream");
    stream.send_data(body, trailers.is_none()).expect("a stream");
    if let Some(trailers) = trailers {
        stream.send_trailers(trailers).expect("a stream");
    }
}

#[test]
fn as_many_streams_are_in_flight_as_were_asked_for() {
    let runtime = Runtime::new().expect("a runtime");
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (gate, counted) = (Arc::new(Semaphore::new(0)), most.clone());
    let address = serve_streams(&runtime, move |_request, respond| {
        let (now, most, gate) = (now.clone(), most.clone(), gate.clone());
        async move {
            let here = now.fetch_add(1, Ordering::SeqCst) + 1;
            most.fetch_max(here, Ordering::SeqCst);
            // Nobody is answered before eight wait.
            if here == 8 {
                gate.add_permits(8);
            }
            gate.acquire().await.expect("a permit").forget();
            now.fetch_sub(1, Ordering::SeqCst);
            answer(respond, Bytes::from_static(b"hello"), None);
        }
    });
    let said = outcome(&[&format!("http://{address}/a"), "-p", "http2", "-c", "1", "-m", "8", "-n", "64"]);
    assert_eq!(
        (&said["answered"], &said["statuses"]["200"], &said["body_bytes"]),
        (&64.into(), &64.into(), &320.into()),
        "{said:#}"
    );
    assert_eq!(counted.load(Ordering::SeqCst), 8);
}

#[test]
fn bodies_of_streams_are_whole_beyond_every_window() {
    let runtime = Runtime::new().expect("a runtime");
    let seen = Arc::new(Mutex::new(BTreeSet::new()));
    let log = seen.clone();
    let large = Bytes::from(vec![b'x'; 300_000]);
    let address = serve_streams(&runtime, move |request, respond| {
        let (log, large) = (log.clone(), large.clone());
        async move {
            log.lock().expect("a log").insert(format!("{} {}", request.method(), request.uri()));
            assert_eq!(drain(request).await, 200_001);
            answer(respond, large, None);
        }
    });
    let url = format!("http://{address}/up?x=y");
    let said = outcome(&[
        &url,
        "-p",
        "http2",
        "-X",
        "PUT",
        "--body",
        "200001",
        "-c",
        "2",
        "-m",
        "3",
        "-n",
        "24",
        "--expect-length",
        "300000",
    ]);
    assert_eq!((&said["answered"], &said["body_bytes"]), (&24.into(), &7_200_000.into()), "{said:#}");
    assert_eq!(seen.lock().expect("a log").iter().collect::<Vec<_>>(), [&format!("PUT {url}")]);
}

#[test]
fn streams_that_are_reset_are_counted_by_their_code() {
    let runtime = Runtime::new().expect("a runtime");
    let address = serve_streams(&runtime, |_request, mut respond| async move {
        respond.send_reset(h2::Reason::REFUSED_STREAM);
    });
    let said = outcome(&[&format!("http://{address}/"), "-p", "http2", "-c", "1", "-m", "4", "-n", "12"]);
    assert_eq!(said["errors"], serde_json::json!({ "stream reset: REFUSED_STREAM": 12 }), "{said:#}");
}

#[test]
fn the_status_of_calls_is_in_their_trailers() {
    let runtime = Runtime::new().expect("a runtime");
    let address = serve_streams(&runtime, |request, mut respond| async move {
        let status = match request.uri().path() {
            "/echo.Echo/Say" => Some("0"),
            "/echo.Echo/Fail" => Some("14"),
            _ => None,
        };
        let fits = request.headers().get("te").is_some_and(|value| value == "trailers")
            && request.headers().get("content-type").is_some_and(|value| value == "application/grpc");
        // Five bytes in front of each message say how long it is.
        if !fits || drain(request).await != 105 {
            let mut head = Response::new(());
            *head.status_mut() = StatusCode::BAD_REQUEST;
            respond.send_response(head, true).expect("a stream");
            return;
        }
        let trailers = status.map(|status| {
            HeaderMap::from_iter([("grpc-status".parse().expect("a name"), status.parse().expect("a value"))])
        });
        answer(respond, Bytes::from_static(&[0; 5]), trailers);
    });
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("calls");
    let calls = ["Say", "Fail", "Forget"].map(|call| format!("http://{address}/echo.Echo/{call}\n")).concat();
    std::fs::write(&file, calls).expect("a file");
    let said = outcome(&[
        "--targets",
        file.to_str().expect("a path"),
        "-p",
        "grpc",
        "--body",
        "100",
        "-c",
        "2",
        "-m",
        "2",
        "-n",
        "30",
    ]);
    assert_eq!((&said["answered"], &said["statuses"]), (&10.into(), &serde_json::json!({ "200": 10 })), "{said:#}");
    assert_eq!(said["errors"], serde_json::json!({ "grpc-status 14": 10, "no grpc-status": 10 }), "{said:#}");
}

#[test]
fn messages_come_back_as_they_were_sent() {
    let runtime = Runtime::new().expect("a runtime");
    let seen = Arc::new(AtomicUsize::new(0));
    let count = seen.clone();
    let address = serve(&runtime, move |socket| {
        let count = count.clone();
        async move {
            let Ok(mut conversation) = tokio_tungstenite::accept_async(socket).await else { return };
            while let Some(Ok(message)) = conversation.next().await {
                let Message::Binary(content) = message else { continue };
                count.fetch_add(content.len(), Ordering::SeqCst);
                // A ping between two messages is answered, and is no echo.
                conversation.feed(Message::Ping(Bytes::from_static(b"still there?"))).await.expect("a ping");
                conversation.send(Message::Binary(content)).await.expect("an echo");
            }
        }
    });
    let url = format!("ws://{address}/echo");
    for size in ["0", "125", "126", "70000"] {
        let before = seen.load(Ordering::SeqCst);
        let said = outcome(&[&url, "-p", "websocket", "--body", size, "-n", "20", "-c", "3"]);
        assert_eq!((&said["answered"], &said["failed"]), (&20.into(), &0.into()), "{said:#}");
        assert_eq!(seen.load(Ordering::SeqCst) - before, 20 * size.parse::<usize>().expect("a number"));
    }
}

#[test]
fn another_message_than_was_sent_is_no_echo() {
    let runtime = Runtime::new().expect("a runtime");
    let address = serve(&runtime, |socket| async move {
        let Ok(mut conversation) = tokio_tungstenite::accept_async(socket).await else { return };
        while let Some(Ok(Message::Binary(content))) = conversation.next().await {
            if conversation.send(Message::Binary(vec![b'!'; content.len()].into())).await.is_err() {
                return;
            }
        }
    });
    let said = outcome(&[&format!("ws://{address}/"), "-p", "websocket", "--body", "10", "-n", "3", "-c", "1"]);
    assert_eq!(said["errors"], serde_json::json!({ "another message than was sent": 3 }), "{said:#}");
}
