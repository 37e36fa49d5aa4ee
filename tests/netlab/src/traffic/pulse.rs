//! A client that asks without end and remembers when it was answered: how long was nobody there?

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::{LabError, Namespace};

/// Sends a numbered datagram to a [`UdpEcho`](super::UdpEcho) every so often, until it is dropped.
#[derive(Debug)]
pub struct UdpPulse {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    sent: AtomicU64,
    answered: Mutex<Vec<Instant>>,
    rests: AtomicBool,
    end: AtomicBool,
}

impl UdpPulse {
    /// Asks the server from the namespace, with a pause between two datagrams.
    pub fn start(namespace: &Namespace, server: SocketAddr, pause: Duration) -> Result<Self, LabError> {
        let what = format!("asking {server} over UDP from {}", namespace.label());
        let any: SocketAddr = if server.is_ipv4() { ([0; 4], 0).into() } else { ([0; 16], 0).into() };
        let socket = namespace
            .run(|| {
                let socket = UdpSocket::bind(any)?;
                socket.connect(server)?;
                Ok(socket)
            })
            .map_err(LabError::system::<io::Error>(what))?;
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let thread = std::thread::spawn(move || beat(&socket, pause, &theirs));
        Ok(Self { shared, thread: Some(thread) })
    }

    /// How many datagrams were sent, and how many answers came.
    pub fn counts(&self) -> (u64, u64) {
        let answered = self.shared.answered().len() as u64;
        (self.shared.sent.load(Ordering::Relaxed), answered)
    }

    /// Asks no more until it is to go on, and hears answers that are still under way.
    pub fn rest(&self, rests: bool) {
        self.shared.rests.store(rests, Ordering::Relaxed);
    }

    /// The longest time without an answer since then, until now.
    pub fn longest_silence_since(&self, begun: Instant) -> Duration {
        let answered = self.shared.answered();
        let after = answered.partition_point(|at| *at < begun);
        let ends = answered.get(after..).unwrap_or_default().iter().copied().chain([Instant::now()]);
        let mut last = begun;
        let gaps = ends.map(|at| at.saturating_duration_since(std::mem::replace(&mut last, at)));
        gaps.max().unwrap_or_default()
    }
}

impl Drop for UdpPulse {
    fn drop(&mut self) {
        self.shared.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // One that panicked asks no more either.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn answered(&self) -> std::sync::MutexGuard<'_, Vec<Instant>> {
        self.answered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn beat(socket: &UdpSocket, pause: Duration, shared: &Shared) {
    let mut next = Instant::now();
    let mut buffer = [0; 256];
    while !shared.end.load(Ordering::Relaxed) {
        let now = Instant::now();
        if next <= now {
            next = now + pause;
            let number = shared.sent.load(Ordering::Relaxed);
            // What the kernel refuses (an ICMP error of one before) was not sent.
            if !shared.rests.load(Ordering::Relaxed) && socket.send(&number.to_be_bytes()).is_ok() {
                shared.sent.store(number + 1, Ordering::Relaxed);
            }
        }
        let wait = next.saturating_duration_since(Instant::now()).max(Duration::from_micros(100));
        if socket.set_read_timeout(Some(wait)).is_ok() && socket.recv(&mut buffer).is_ok() {
            shared.answered().push(Instant::now());
        }
    }
}
