//! One suite over every engine of the stream relay, on real loopback sockets.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use sluicegate_proxy::stream::{Ended, Engine, RelayOptions, RelayOutcome, UringWorker, relay};
use socket2::SockRef;
use std::future::pending;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::LazyLock;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Runs each scenario as a test of its own under each engine.
macro_rules! suite {
    ($($scenario:ident)*) => {
        mod copy {
            $(#[test] fn $scenario() { super::$scenario(super::Engine::Copy); })*
        }
        mod splice {
            $(#[test] fn $scenario() { super::$scenario(super::Engine::Splice); })*
        }
        mod uring {
            $(
                #[test]
                #[ignore = "needs io_uring, which container runtimes forbid by default"]
                fn $scenario() { super::$scenario(super::ring()); }
            )*
        }
    };
}

suite! {
    bulk_flows_both_ways_at_once
    messages_are_answered_one_by_one
    bulk_and_messages_alternate
    the_client_closes_its_half_first
    the_backend_closes_its_half_first
    a_reset_of_the_client_reaches_the_backend
    a_reset_of_the_backend_reaches_the_client
    a_reset_reaches_a_side_that_does_not_read
    an_answer_before_a_reset_is_delivered
    a_quiet_relay_times_out
    traffic_in_one_direction_keeps_a_relay_alive
    a_blocked_relay_times_out
    the_prefix_goes_first
    a_backend_that_speaks_first_is_heard_before_the_prefix_is_taken
    a_slow_reader_holds_back_the_writer
    two_hundred_relays_at_once
    drain_ends_a_relay
    dropping_a_relay_closes_both_sides
    nothing_of_one_relay_reaches_another
}

const MIB: usize = 1 << 20;

fn bulk_flows_both_ways_at_once(engine: Engine) {
    let Running { client, backend, outcome } = start(engine, b"", LONG);
    let (up, down) = (noise(1, 10 * MIB), noise(2, 10 * MIB));
    let writers = [(&client, &up), (&backend, &down)].map(|(socket, data)| {
        let (mut socket, data) = (socket.try_clone().unwrap(), data.clone());
        thread::spawn(move || {
            socket.write_all(&data).unwrap();
            socket.shutdown(Shutdown::Write).unwrap();
        })
    });
    let reader = thread::spawn(move || read_all(&backend));
    assert!(read_all(&client) == down);
    assert!(reader.join().unwrap() == up);
    for writer in writers {
        writer.join().unwrap();
    }
    let outcome = outcome.join().unwrap();
    assert_eq!((outcome.bytes_up, outcome.bytes_down), (10 * MIB as u64, 10 * MIB as u64));
    assert!(matches!(outcome.ended, Ended::ClientClosed | Ended::BackendClosed));
}

fn messages_are_answered_one_by_one(engine: Engine) {
    let Running { mut client, mut backend, outcome } = start(engine, b"", LONG);
    let mut buffer = [0; 100];
    for round in 0..200_u8 {
        client.write_all(&[round; 100]).unwrap();
        backend.read_exact(&mut buffer).unwrap();
        assert_eq!(buffer, [round; 100]);
        backend.write_all(&[!round; 100]).unwrap();
        client.read_exact(&mut buffer).unwrap();
        assert_eq!(buffer, [!round; 100]);
    }
    drop((client, backend));
    let outcome = outcome.join().unwrap();
    assert_eq!((outcome.bytes_up, outcome.bytes_down), (20_000, 20_000));
}

/// Sizes around those at which a direction changes how it moves data.
fn bulk_and_messages_alternate(engine: Engine) {
    let Running { mut client, mut backend, outcome } = start(engine, b"", LONG);
    let sizes = [1, MIB, 7, 65_536, 65_535, 65_537, 32_768, 1, 262_144, 3 * MIB, 4_096, 300_000, 2];
    let mut total = 0;
    for (seed, size) in sizes.into_iter().enumerate() {
        let data = noise(seed as u64 + 1, size);
        let mut writer = client.try_clone().unwrap();
        let sent = data.clone();
        let writer = thread::spawn(move || writer.write_all(&sent).unwrap());
        let mut received = vec![0; size];
        backend.read_exact(&mut received).unwrap();
        assert!(received == data, "{size} bytes up");
        writer.join().unwrap();
        backend.write_all(&data[..size.min(1000)]).unwrap();
        client.read_exact(&mut received[..size.min(1000)]).unwrap();
        total += size;
    }
    drop((client, backend));
    assert_eq!(outcome.join().unwrap().bytes_up, total as u64);
}

fn the_client_closes_its_half_first(engine: Engine) {
    let Running { mut client, mut backend, outcome } = start(engine, b"", LONG);
    client.write_all(b"question").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&backend), b"question");
    let answer = noise(3, MIB);
    backend.write_all(&answer).unwrap();
    drop(backend);
    assert!(read_all(&client) == answer);
    assert_eq!(
        outcome.join().unwrap(),
        RelayOutcome { bytes_up: 8, bytes_down: MIB as u64, ended: Ended::ClientClosed }
    );
}

fn the_backend_closes_its_half_first(engine: Engine) {
    let Running { mut client, mut backend, outcome } = start(engine, b"", LONG);
    backend.write_all(b"greeting").unwrap();
    backend.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&client), b"greeting");
    let upload = noise(4, MIB);
    client.write_all(&upload).unwrap();
    drop(client);
    assert!(read_all(&backend) == upload);
    assert_eq!(
        outcome.join().unwrap(),
        RelayOutcome { bytes_up: MIB as u64, bytes_down: 8, ended: Ended::BackendClosed }
    );
}

fn a_reset_of_the_client_reaches_the_backend(engine: Engine) {
    let Running { mut client, mut backend, outcome } = start(engine, b"", LONG);
    exchange(&mut client, &mut backend);
    reset(client);
    assert_reset(&mut backend);
    assert_eq!(outcome.join().unwrap().ended, Ended::ClientReset);
}

fn a_reset_of_the_backend_reaches_the_client(engine: Engine) {
    let Running { mut client, mut backend, outcome } = start(engine, b"", LONG);
    exchange(&mut client, &mut backend);
    reset(backend);
    assert_reset(&mut client);
    assert_eq!(outcome.join().unwrap().ended, Ended::BackendReset);
}

/// The relay is stuck in a write to the client when the client resets.
fn a_reset_reaches_a_side_that_does_not_read(engine: Engine) {
    let Running { client, backend, outcome } = start(engine, b"", LONG);
    shrink(&client);
    fill(&backend);
    reset(client);
    backend.set_nonblocking(false).unwrap();
    backend.set_read_timeout(Some(LONG)).unwrap();
    let mut backend = backend;
    assert_reset(&mut backend);
    assert_eq!(outcome.join().unwrap().ended, Ended::ClientReset);
}

/// A server that refuses an upload answers and closes without reading it, which resets the connection.
fn an_answer_before_a_reset_is_delivered(engine: Engine) {
    let Running { client, mut backend, outcome } = start(engine, b"", LONG);
    fill(&client);
    client.set_nonblocking(false).unwrap();
    backend.write_all(b"too large").unwrap();
    drop(backend);
    let mut answer = [0; 9];
    (&client).read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"too large");
    assert_eq!(outcome.join().unwrap().ended, Ended::BackendReset);
}

fn a_quiet_relay_times_out(engine: Engine) {
    let idle = Duration::from_millis(200);
    let Running { mut client, mut backend, outcome } = start(engine, b"", idle);
    let began = Instant::now();
    exchange(&mut client, &mut backend);
    assert_eq!(read_all(&client), b"");
    assert_eq!(read_all(&backend), b"");
    assert!(began.elapsed() >= idle, "{:?}", began.elapsed());
    assert!(began.elapsed() < LONG / 2, "{:?}", began.elapsed());
    assert_eq!(outcome.join().unwrap().ended, Ended::IdleTimeout);
}

fn traffic_in_one_direction_keeps_a_relay_alive(engine: Engine) {
    let idle = Duration::from_millis(1500);
    let Running { client, mut backend, outcome } = start(engine, b"", idle);
    for byte in 0..10 {
        thread::sleep(Duration::from_millis(200));
        backend.write_all(&[byte]).unwrap();
    }
    drop(backend);
    assert_eq!(read_all(&client), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    drop(client);
    assert_eq!(outcome.join().unwrap().ended, Ended::BackendClosed);
}

/// Bytes that are waiting to be delivered are no traffic.
fn a_blocked_relay_times_out(engine: Engine) {
    let Running { client, backend, outcome } = start(engine, b"", Duration::from_millis(300));
    fill(&client);
    let outcome = outcome.join().unwrap();
    assert_eq!(outcome.ended, Ended::IdleTimeout);
    assert!(outcome.bytes_up > 0);
    drop(backend);
}

fn the_prefix_goes_first(engine: Engine) {
    let prefix = noise(5, 300_000);
    let Running { mut client, backend, outcome } = start(engine, &prefix, LONG);
    client.write_all(b"and the rest").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let received = read_all(&backend);
    assert!(received[..prefix.len()] == prefix);
    assert_eq!(&received[prefix.len()..], b"and the rest");
    drop(backend);
    assert_eq!(outcome.join().unwrap().bytes_up, received.len() as u64);
}

fn a_backend_that_speaks_first_is_heard_before_the_prefix_is_taken(engine: Engine) {
    // More than the sockets take while nobody reads.
    let prefix = noise(6, 32 * MIB);
    let Running { mut client, mut backend, outcome } = start(engine, &prefix, LONG);
    backend.write_all(b"220 ready").unwrap();
    let mut greeting = [0; 9];
    client.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"220 ready");
    client.shutdown(Shutdown::Write).unwrap();
    assert!(read_all(&backend) == prefix);
    drop(backend);
    assert_eq!(outcome.join().unwrap().ended, Ended::ClientClosed);
}

fn a_slow_reader_holds_back_the_writer(engine: Engine) {
    let Running { mut client, backend, outcome } = start(engine, b"", LONG);
    let accepted = fill(&client);
    // Four socket buffers of 128 KiB (the kernel doubles what is asked for), and what the relay holds itself.
    assert!(accepted <= 2 * MIB, "{accepted} bytes taken while nobody reads");
    client.set_nonblocking(false).unwrap();
    let writer = thread::spawn(move || {
        client.write_all(b"the end").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        read_all(&client)
    });
    let received = read_all(&backend);
    assert_eq!(received.len(), accepted + 7);
    assert!(received[..accepted] == FILLING[..accepted]);
    assert_eq!(&received[accepted..], b"the end");
    drop(backend);
    assert_eq!(writer.join().unwrap(), b"");
    assert_eq!(outcome.join().unwrap().bytes_up, received.len() as u64);
}

fn two_hundred_relays_at_once(engine: Engine) {
    const RELAYS: u64 = 200;
    const BYTES: usize = 200_000;
    let pairs: Vec<_> = (0..RELAYS).map(|_| (pair(), pair())).collect();
    let (peers, relayed): (Vec<_>, Vec<_>) =
        pairs.into_iter().map(|((client, near), (backend, far))| ((client, backend), (near, far))).unzip();
    let outcomes = thread::spawn(move || {
        on_runtime(async {
            let mut tasks = Vec::new();
            for (near, far) in relayed {
                let options = RelayOptions { idle_timeout: LONG, engine: engine.clone() };
                tasks.push(tokio::task::spawn_local(async move {
                    relay(adopt(near), adopt(far), b"", &options, pending()).await
                }));
            }
            let mut outcomes = Vec::new();
            for task in tasks {
                outcomes.push(task.await.unwrap());
            }
            outcomes
        })
    });
    let peers: Vec<_> = peers
        .into_iter()
        .enumerate()
        .map(|(seed, (mut client, mut backend))| {
            thread::spawn(move || {
                // The backend answers with what it hears.
                let echo = thread::spawn(move || {
                    let heard = read_all(&backend);
                    backend.write_all(&heard).unwrap();
                });
                let data = noise(seed as u64 + 1, BYTES);
                client.write_all(&data).unwrap();
                client.shutdown(Shutdown::Write).unwrap();
                assert!(read_all(&client) == data, "relay {seed}");
                echo.join().unwrap();
            })
        })
        .collect();
    for peer in peers {
        peer.join().unwrap();
    }
    for outcome in outcomes.join().unwrap() {
        assert_eq!(
            outcome,
            RelayOutcome { bytes_up: BYTES as u64, bytes_down: BYTES as u64, ended: Ended::ClientClosed }
        );
    }
}

fn drain_ends_a_relay(engine: Engine) {
    let ((mut client, near), (mut backend, far)) = (pair(), pair());
    let (end, ended) = oneshot::channel();
    let outcome = thread::spawn(move || {
        on_runtime(async {
            let options = RelayOptions { idle_timeout: LONG, engine };
            let drain = async { ended.await.unwrap() };
            relay(adopt(near), adopt(far), b"", &options, drain).await
        })
    });
    exchange(&mut client, &mut backend);
    end.send(()).unwrap();
    assert_eq!(read_all(&client), b"");
    assert_eq!(read_all(&backend), b"");
    assert_eq!(outcome.join().unwrap(), RelayOutcome { bytes_up: 4, bytes_down: 4, ended: Ended::Drained });
}

fn dropping_a_relay_closes_both_sides(engine: Engine) {
    let ((mut client, near), (mut backend, far)) = (pair(), pair());
    let (drop_it, dropped) = oneshot::channel();
    let (finish, finished) = oneshot::channel();
    let runtime = thread::spawn(move || {
        on_runtime(async {
            let options = RelayOptions { idle_timeout: LONG, engine };
            tokio::select! {
                outcome = relay(adopt(near), adopt(far), b"", &options, pending()) => panic!("{outcome:?}"),
                () = async { dropped.await.unwrap() } => {}
            }
            // Proves that it was the drop, and not the end of the runtime.
            finished.await.unwrap();
        });
    });
    exchange(&mut client, &mut backend);
    drop_it.send(()).unwrap();
    assert_eq!(read_all(&client), b"");
    assert_eq!(read_all(&backend), b"");
    finish.send(()).unwrap();
    runtime.join().unwrap();
}

/// Relays that end with data inside, then one on the same thread that must see none of it.
fn nothing_of_one_relay_reaches_another(engine: Engine) {
    let rounds = thread::spawn(move || {
        on_runtime(async move {
            for round in 0..8 {
                let ((client, near), (backend, far)) = (pair(), pair());
                shrink(&near);
                shrink(&far);
                let options = RelayOptions { idle_timeout: LONG, engine: engine.clone() };
                let stuck = thread::spawn(move || {
                    fill(&client);
                    client
                });
                // `fill` returns once nothing moves any more, so data is inside of the relay when it ends.
                let drain = async {
                    while !stuck.is_finished() {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                };
                let outcome = relay(adopt(near), adopt(far), b"", &options, drain).await;
                assert_eq!(outcome.ended, Ended::Drained);
                drop((stuck.join().unwrap(), backend));

                let ((client, near), (backend, far)) = (pair(), pair());
                let data = noise(1000 + round, MIB);
                let sent = data.clone();
                let writer = thread::spawn(move || {
                    (&client).write_all(&sent).unwrap();
                    client.shutdown(Shutdown::Write).unwrap();
                    read_all(&client)
                });
                let reader = thread::spawn(move || read_all(&backend));
                relay(adopt(near), adopt(far), b"", &options, pending()).await;
                assert_eq!(writer.join().unwrap(), b"");
                assert!(reader.join().unwrap() == data, "round {round}");
            }
        });
    });
    rounds.join().unwrap();
}

/// The thread of a worker goes when its last handle and its relays have gone.
#[test]
#[ignore = "needs io_uring, which container runtimes forbid by default"]
fn a_worker_ends_after_its_last_relay() {
    let worker = UringWorker::spawn("ring-to-end").unwrap();
    let ((mut client, near), (mut backend, far)) = (pair(), pair());
    let relay = worker.submit(near, far, Vec::new(), LONG).unwrap();
    exchange(&mut client, &mut backend);
    drop(worker);
    thread::sleep(Duration::from_millis(100));
    assert!(has_thread("ring-to-end"));
    exchange(&mut client, &mut backend);
    drop((client, backend));
    let outcome = on_runtime(relay);
    assert_eq!((outcome.bytes_up, outcome.bytes_down), (8, 8));
    let began = Instant::now();
    while has_thread("ring-to-end") {
        assert!(began.elapsed() < LONG);
        thread::sleep(Duration::from_millis(10));
    }
}

fn has_thread(name: &str) -> bool {
    std::fs::read_dir("/proc/self/task").unwrap().any(|task| {
        let comm = task.unwrap().path().join("comm");
        std::fs::read_to_string(comm).is_ok_and(|comm| comm.trim_end() == name)
    })
}

/// Longer than anything here takes, and the end of a test that hangs.
const LONG: Duration = Duration::from_secs(30);

struct Running {
    client: TcpStream,
    backend: TcpStream,
    outcome: JoinHandle<RelayOutcome>,
}

/// Starts a relay on a thread of its own; the far ends of its connections are the test's.
fn start(engine: Engine, prefix: &[u8], idle_timeout: Duration) -> Running {
    let ((client, near), (backend, far)) = (pair(), pair());
    for socket in [&near, &far] {
        shrink(socket);
    }
    LazyLock::force(&FILLING);
    let prefix = prefix.to_vec();
    let outcome = thread::spawn(move || {
        on_runtime(async {
            let options = RelayOptions { idle_timeout, engine };
            relay(adopt(near), adopt(far), &prefix, &options, pending()).await
        })
    });
    Running { client, backend, outcome }
}

fn ring() -> Engine {
    Engine::Uring(UringWorker::spawn("ring").unwrap())
}

fn on_runtime<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, future)
}

fn adopt(socket: TcpStream) -> tokio::net::TcpStream {
    socket.set_nonblocking(true).unwrap();
    tokio::net::TcpStream::from_std(socket).unwrap()
}

/// A loopback connection: the peer's end and the relay's.
fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (theirs, _) = listener.accept().unwrap();
    ours.set_read_timeout(Some(LONG)).unwrap();
    ours.set_write_timeout(Some(LONG)).unwrap();
    (ours, theirs)
}

/// Gives a socket buffers of a fixed size, so that what the kernel takes in is bounded.
fn shrink(socket: &TcpStream) {
    let socket = SockRef::from(socket);
    socket.set_send_buffer_size(64 * 1024).unwrap();
    socket.set_recv_buffer_size(64 * 1024).unwrap();
}

/// Made before a clock runs.
static FILLING: LazyLock<Vec<u8>> = LazyLock::new(|| noise(77, 8 * MIB));

/// Writes until nothing was taken for a while, and says how many bytes of `FILLING` went. Leaves the socket
/// non-blocking.
fn fill(mut socket: &TcpStream) -> usize {
    shrink(socket);
    socket.set_nonblocking(true).unwrap();
    let data = &*FILLING;
    let mut sent = 0;
    let mut quiet_since = Instant::now();
    while quiet_since.elapsed() < Duration::from_millis(200) && sent < data.len() {
        match socket.write(&data[sent..(sent + 65_536).min(data.len())]) {
            Ok(bytes) => {
                sent += bytes;
                quiet_since = Instant::now();
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                thread::sleep(Duration::from_millis(5));
            }
            // The relay ended, as some tests intend.
            Err(_) => break,
        }
    }
    sent
}

/// Proves that the relay runs.
fn exchange(client: &mut TcpStream, backend: &mut TcpStream) {
    let mut buffer = [0; 4];
    client.write_all(b"ping").unwrap();
    backend.read_exact(&mut buffer).unwrap();
    assert_eq!(&buffer, b"ping");
    backend.write_all(b"pong").unwrap();
    client.read_exact(&mut buffer).unwrap();
    assert_eq!(&buffer, b"pong");
}

fn reset(socket: TcpStream) {
    SockRef::from(&socket).set_linger(Some(Duration::ZERO)).unwrap();
}

fn assert_reset(socket: &mut TcpStream) {
    let error = socket.read_to_end(&mut Vec::new()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

fn read_all(mut socket: &TcpStream) -> Vec<u8> {
    let mut received = Vec::new();
    socket.read_to_end(&mut received).unwrap();
    received
}

/// Bytes without a period that a misplaced block could hide in (xorshift64).
fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut data = Vec::with_capacity(bytes + 8);
    while data.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        data.extend_from_slice(&state.to_le_bytes());
    }
    data.truncate(bytes);
    data
}
