//! What `compare` and `control` start beside the proxies: the backend that stands in for nginx, and the bare relay.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// Generous: the machines of CI are slow and loaded.
const PATIENCE: Duration = Duration::from_secs(60);

/// Ended when it is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _gone = self.0.kill();
        let _ended = self.0.wait();
    }
}

fn start(arguments: &[&str]) -> Running {
    Running(Command::new(env!("CARGO_BIN_EXE_sluicegate-bench")).args(arguments).spawn().expect("it runs"))
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port()
}

fn connect(port: u16) -> TcpStream {
    let begun = Instant::now();
    loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(stream) => {
                stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
                return stream;
            }
            Err(error) => assert!(begun.elapsed() < PATIENCE, "nobody listens: {error}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Head and body of an answer.
fn ask(stream: &mut TcpStream, request: &str, length: usize) -> (String, Vec<u8>) {
    stream.write_all(request.as_bytes()).expect("sent");
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).expect("a head");
        head.push(byte[0]);
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).expect("a body");
    (String::from_utf8(head).expect("text"), body)
}

#[test]
fn the_responder_answers_by_port_and_path() {
    let (usual, named) = (free_port(), free_port());
    let _responder = start(&["respond", "--listen", &usual.to_string(), "--listen", &format!("{named}=A")]);
    let mut kept = connect(usual);
    for (path, length) in [("/", 128), ("/static/64k", 64 << 10), ("/static/1m", 1 << 20), ("/api/x", 128)] {
        let (head, body) = ask(&mut kept, &format!("GET {path} HTTP/1.1\r\nHost: any\r\n\r\n"), length);
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{path}: {head}");
        assert!(head.contains(&format!("Content-Length: {length}\r\n")), "{path}: {head}");
        assert!(!body.contains(&0), "{path}");
    }
    let (_, body) = ask(&mut connect(named), "GET / HTTP/1.1\r\nHost: any\r\n\r\n", 1);
    assert_eq!(body, b"A");
}

#[test]
fn the_responder_sends_upgraded_bytes_back() {
    let port = free_port();
    let _responder = start(&["respond", "--listen", &port.to_string()]);
    let mut stream = connect(port);
    // The example of RFC 6455 section 1.3.
    let request = "GET / HTTP/1.1\r\nHost: any\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    let (head, _) = ask(&mut stream, request, 0);
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(head.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{head}");
    stream.write_all(b"there and back").expect("sent");
    let mut back = [0; 14];
    stream.read_exact(&mut back).expect("back");
    assert_eq!(&back, b"there and back");
}

#[test]
fn the_relay_moves_both_ways_until_both_ends_are_done() {
    let backend = TcpListener::bind("127.0.0.1:0").expect("a backend");
    let (port, to) = (free_port(), backend.local_addr().expect("an address").port());
    let _relay = start(&["relay", "--listen", &port.to_string(), "--to", &to.to_string()]);
    let mut client = connect(port);
    client.write_all(&[7; 300_000]).expect("sent");
    client.shutdown(Shutdown::Write).expect("done");
    let (mut server, _) = backend.accept().expect("relayed");
    server.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut up = Vec::new();
    server.read_to_end(&mut up).expect("to its end");
    assert_eq!((up.len(), up.iter().all(|byte| *byte == 7)), (300_000, true));
    server.write_all(&[9; 500_000]).expect("sent");
    drop(server);
    let mut down = Vec::new();
    client.read_to_end(&mut down).expect("to its end");
    assert_eq!((down.len(), down.iter().all(|byte| *byte == 9)), (500_000, true));
}
