//! What a relay that has nothing to do keeps. One test alone in its process, because it counts what the process has.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use sluicegate_proxy::stream::{Ended, Engine, RelayOptions, relay};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

const RELAYS: usize = 100;
const BYTES: usize = 512 * 1024;

/// Each relay has moved bulk both ways and waits for more: what it needed for that must be gone.
#[test]
fn idle_relays_hold_neither_buffers_nor_pipes() {
    for engine in [Engine::Copy, Engine::Splice] {
        let (hand_over, relayed) = mpsc::channel();
        let (started, start) = mpsc::channel();
        let options = RelayOptions { idle_timeout: Duration::from_secs(60), engine: engine.clone() };
        let outcomes = thread::spawn(move || run(relayed, options, started));
        let mut peers = Vec::new();
        for _ in 0..RELAYS {
            let ((client, near), (backend, far)) = (pair(), pair());
            hand_over.send((near, far)).unwrap();
            peers.push((client, backend));
        }
        drop(hand_over);
        start.recv().unwrap();
        let memory_before = resident_kib();
        let data = vec![7; BYTES];
        let mut received = vec![0; BYTES];
        for (client, backend) in &peers {
            // Relay after relay, so that the sockets' own buffers are all that is in use at the same time.
            for (mut from, mut to) in [(client, backend), (backend, client)] {
                thread::scope(|scope| {
                    scope.spawn(|| from.write_all(&data).unwrap());
                    to.read_exact(&mut received).unwrap();
                });
            }
        }
        thread::sleep(Duration::from_millis(100));
        let grown = resident_kib().saturating_sub(memory_before);
        // Held buffers would be 12,800 KiB, the pool is 1,024; the allocator and the test itself have the rest.
        assert!(grown < 6_000, "{engine:?}: {grown} KiB for {RELAYS} idle relays");
        let pipes = pipe_descriptors();
        // Held pipes would be 400 descriptors; the pool of a thread has at most 64 pipes.
        assert!(pipes <= 128, "{engine:?}: {pipes} descriptors of pipes");

        for (client, backend) in peers {
            client.shutdown(Shutdown::Write).unwrap();
            assert_eq!((&backend).read(&mut received).unwrap(), 0);
        }
        for outcome in outcomes.join().unwrap() {
            assert_eq!(outcome, (BYTES as u64, BYTES as u64, Ended::ClientClosed));
        }
    }
}

fn run(
    relayed: mpsc::Receiver<(TcpStream, TcpStream)>,
    options: RelayOptions,
    started: mpsc::Sender<()>,
) -> Vec<(u64, u64, Ended)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let mut relays = Vec::new();
        for (client, backend) in relayed {
            let options = options.clone();
            relays.push(tokio::task::spawn_local(async move {
                let outcome = relay(adopt(client), adopt(backend), b"", &options, std::future::pending()).await;
                (outcome.bytes_up, outcome.bytes_down, outcome.ended)
            }));
        }
        started.send(()).unwrap();
        let mut outcomes = Vec::new();
        for relay in relays {
            outcomes.push(relay.await.unwrap());
        }
        outcomes
    })
}

fn adopt(socket: TcpStream) -> tokio::net::TcpStream {
    socket.set_nonblocking(true).unwrap();
    tokio::net::TcpStream::from_std(socket).unwrap()
}

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (ours, listener.accept().unwrap().0)
}

fn resident_kib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim_end_matches("kB").trim().parse().unwrap()
}

fn pipe_descriptors() -> usize {
    let is_pipe = |path: &Path| std::fs::read_link(path).is_ok_and(|link| link.to_string_lossy().starts_with("pipe:"));
    std::fs::read_dir("/proc/self/fd").unwrap().filter(|entry| is_pipe(&entry.as_ref().unwrap().path())).count()
}
