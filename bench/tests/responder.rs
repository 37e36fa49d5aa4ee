//! What `compare` and `control` start beside the proxies: the backend that stands in for nginx, and the bare relay.

use std::io::{BufRead as _, BufReader, Lines, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

/// Generous: the machines of CI are slow and loaded.
const PATIENCE: Duration = Duration::from_secs(60);

/// Ended when it is dropped.
struct Running {
    child: Child,
    said: Lines<BufReader<ChildStdout>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _gone = self.child.kill();
        let _ended = self.child.wait();
    }
}

impl Running {
    fn start(arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sluicegate-bench"));
        let mut child = command.args(arguments).stdout(Stdio::piped()).spawn().expect("it runs");
        let said = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        Self { child, said }
    }

    /// A connection to the next of its listeners, in the order of the arguments.
    fn connect(&mut self) -> TcpStream {
        let line = self.said.next().expect("it says where it listens").expect("text");
        let address = line.strip_prefix("listening on ").expect("an address");
        let stream = TcpStream::connect(address).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream
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
    let mut responder = Running::start(&["respond", "--listen", "0", "--listen", "0=A"]);
    let mut kept = responder.connect();
    for (path, length) in [("/", 128), ("/static/64k", 64 << 10), ("/static/1m", 1 << 20), ("/api/x", 128)] {
        let (head, body) = ask(&mut kept, &format!("GET {path} HTTP/1.1\r\nHost: any\r\n\r\n"), length);
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{path}: {head}");
        assert!(head.contains(&format!("Content-Length: {length}\r\n")), "{path}: {head}");
        assert!(!body.contains(&0), "{path}");
    }
    let (_, body) = ask(&mut responder.connect(), "GET / HTTP/1.1\r\nHost: any\r\n\r\n", 1);
    assert_eq!(body, b"A");
}

#[test]
fn the_responder_sends_upgraded_bytes_back() {
    let mut responder = Running::start(&["respond", "--listen", "0"]);
    let mut stream = responder.connect();
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
    let to = backend.local_addr().expect("an address").port();
    let mut relay = Running::start(&["relay", "--listen", "0", "--to", &to.to_string()]);
    let mut client = relay.connect();
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
