//! Echo over UDP. A server puts its name before what it sends back.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::{LabError, Namespace};

/// How often a waiting server looks whether to end.
const PATIENCE: Duration = Duration::from_millis(50);
/// How long a client waits before it asks again.
const AGAIN: Duration = Duration::from_millis(250);

/// A server that answers each datagram with its name, a newline and the datagram. It ends when this is dropped.
#[derive(Debug)]
pub struct UdpEcho {
    answered: Arc<AtomicU64>,
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// An answer of a [`UdpEcho`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UdpReply {
    /// The name of the server that answered.
    pub server: String,
    /// What was sent back.
    pub payload: Vec<u8>,
    /// The port of the client that asked.
    pub client_port: u16,
}

impl UdpEcho {
    /// Serves the address in the namespace; answers come from that address.
    pub fn start(namespace: &Namespace, name: &str, address: SocketAddr) -> Result<Self, LabError> {
        let what = format!("serving {address} in {}", namespace.label());
        let socket = namespace
            .run(|| {
                let socket = UdpSocket::bind(address)?;
                socket.set_read_timeout(Some(PATIENCE))?;
                Ok(socket)
            })
            .map_err(LabError::system::<io::Error>(what))?;
        let (answered, end) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, ended, prefix) = (Arc::clone(&answered), Arc::clone(&end), format!("{name}\n"));
        let thread = std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                answer(&socket, prefix.as_bytes(), &count);
            }
        });
        Ok(Self { answered, end, thread: Some(thread) })
    }

    /// How many datagrams it has answered.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }
}

impl Drop for UdpEcho {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A server that panicked has ended as well.
            let _ = thread.join();
        }
    }
}

/// Sends a datagram from the namespace to a [`UdpEcho`], again every quarter of a second, until it is answered from
/// the address that was asked.
pub fn udp_ask(
    namespace: &Namespace,
    server: SocketAddr,
    payload: &[u8],
    at_most: Duration,
) -> Result<UdpReply, LabError> {
    let what = || format!("asking {server} over UDP from {}", namespace.label());
    let any: SocketAddr = if server.is_ipv4() { ([0; 4], 0).into() } else { ([0; 16], 0).into() };
    let socket = namespace
        .run(|| {
            let socket = UdpSocket::bind(any)?;
            socket.connect(server)?;
            Ok(socket)
        })
        .map_err(LabError::system::<io::Error>(what()))?;
    let client_port = socket.local_addr().map_err(LabError::system(what()))?.port();
    let deadline = Instant::now() + at_most;
    let mut buffer = vec![0; 65_536];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(LabError::Silence { what: what(), waited: at_most });
        }
        // An ICMP error of the try before is told here; it may be better this time.
        let _ = socket.send(payload);
        socket.set_read_timeout(Some(left.min(AGAIN))).map_err(LabError::system(what()))?;
        match socket.recv(&mut buffer) {
            Ok(length) => return parse_reply(&buffer[..length], client_port, what),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => std::thread::sleep(left.min(AGAIN)),
        }
    }
}

fn parse_reply(datagram: &[u8], client_port: u16, what: impl Fn() -> String) -> Result<UdpReply, LabError> {
    let newline = datagram.iter().position(|byte| *byte == b'\n');
    let newline = newline.ok_or_else(|| LabError::Unexpected { what: what(), got: "no name".to_owned() })?;
    let (server, payload) = datagram.split_at(newline);
    Ok(UdpReply { server: String::from_utf8_lossy(server).into_owned(), payload: payload[1..].to_vec(), client_port })
}

fn answer(socket: &UdpSocket, prefix: &[u8], count: &AtomicU64) {
    let mut buffer = vec![0; 65_536];
    // Errors are time-outs, and ICMP errors of answers to clients that are gone.
    let Ok((length, client)) = socket.recv_from(&mut buffer) else {
        return;
    };
    let reply = [prefix, &buffer[..length]].concat();
    // Counted first: whoever has the reply finds it counted.
    count.fetch_add(1, Ordering::Relaxed);
    if socket.send_to(&reply, client).is_err() {
        count.fetch_sub(1, Ordering::Relaxed);
    }
}
