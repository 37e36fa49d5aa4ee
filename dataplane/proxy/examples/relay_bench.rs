//! What relaying a stream costs: the three engines beside a bare splice loop that does nothing else.
//!
//! ```text
//! cargo run --release -p sluicegate-proxy --example relay_bench [-- ROUNDS [SCENARIO]]
//! ```
//!
//! Each sample is a process of its own, pinned to core 1 while the peers run on core 0, and its CPU time is the
//! kernel's account of that process. Rounds are interleaved and medians shown. Loopback, a few GiB a round; the ratio
//! to the bare loop is the figure that carries over to another machine.

use rustix::event::epoll;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};
use sluicegate_proxy::stream::{Engine, RelayOptions, UringWorker, relay};
use std::error::Error;
use std::future::pending;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

type Outcome<T> = Result<T, Box<dyn Error>>;

const ENGINES: [&str; 4] = ["bare", "copy", "splice", "uring"];

/// Bytes of a request; answers have the scenario's size.
const REQUEST: usize = 100;

struct Scenario {
    name: &'static str,
    connections: usize,
    answer: usize,
    exchanges: usize,
}

const SCENARIOS: [Scenario; 6] = [
    Scenario { name: "bulk, 1 connection", connections: 1, answer: 2 << 30, exchanges: 1 },
    Scenario { name: "bulk, 8 connections", connections: 8, answer: 256 << 20, exchanges: 1 },
    Scenario { name: "1 MiB answers, 8 connections", connections: 8, answer: 1 << 20, exchanges: 200 },
    Scenario { name: "64 KiB answers, 8 connections", connections: 8, answer: 64 << 10, exchanges: 1500 },
    Scenario { name: "16 KiB answers, 8 connections", connections: 8, answer: 16 << 10, exchanges: 3000 },
    Scenario { name: "512 B answers, 8 connections", connections: 8, answer: 512, exchanges: 5000 },
];

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", engine, backend, connections] => serve(engine, backend.parse()?, connections.parse()?),
        [] => compare(5, ""),
        [rounds] => compare(rounds.parse()?, ""),
        [rounds, name] => compare(rounds.parse()?, name),
        _ => Err("usage: relay_bench [ROUNDS [SCENARIO]]".into()),
    }
}

/// CPU seconds of the relay and seconds on the clock.
#[derive(Clone, Copy)]
struct Sample {
    cpu: f64,
    wall: f64,
}

/// Scenarios whose name begins with `name`.
fn compare(rounds: usize, name: &str) -> Outcome<()> {
    pin(0);
    for scenario in SCENARIOS.iter().filter(|scenario| scenario.name.starts_with(name)) {
        let mut samples = ENGINES.map(|_| Vec::new());
        for _ in 0..rounds.max(1) {
            for (engine, samples) in ENGINES.iter().zip(&mut samples) {
                samples.push(measure(engine, scenario)?);
            }
        }
        let exchanges = (scenario.connections * scenario.exchanges) as f64;
        let gib = exchanges * scenario.answer as f64 / f64::from(1 << 30);
        println!("\n{}: {gib:.2} GiB, {exchanges} exchanges", scenario.name);
        println!("  engine   CPU s/GiB   us/exchange   Gbit/s   CPU against bare");
        let bare = median(samples[0].iter().map(|sample| sample.cpu));
        for (engine, samples) in ENGINES.iter().zip(&samples) {
            let cpu = median(samples.iter().map(|sample| sample.cpu));
            let wall = median(samples.iter().map(|sample| sample.wall));
            println!(
                "  {engine:<8} {:>9.3} {:>13.1} {:>8.1} {:>10.2} x",
                cpu / gib,
                cpu * 1e6 / exchanges,
                gib * 8.0 * 1.073_741_824 / wall,
                cpu / bare
            );
        }
    }
    Ok(())
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Runs one relay process and the peers around it.
fn measure(engine: &str, scenario: &Scenario) -> Outcome<Sample> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let backend = listener.local_addr()?.to_string();
    let mut relay = Command::new(std::env::current_exe()?)
        .args(["serve", engine, &backend, &scenario.connections.to_string()])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(relay.stdout.take().ok_or("the relay has no output")?).lines();
    let mut line = || lines.next().ok_or("the relay ended early")?.map_err(Box::<dyn Error>::from);
    let front: SocketAddr = line()?.parse()?;

    let began = Instant::now();
    thread::scope(|scope| {
        let peers: Vec<_> = (0..scenario.connections)
            .map(|_| {
                let client = TcpStream::connect(front)?;
                let (backend, _) = listener.accept()?;
                let backend = scope.spawn(move || answer(backend, scenario));
                let client = scope.spawn(move || ask(client, scenario));
                io::Result::Ok([client, backend])
            })
            .collect::<io::Result<_>>()?;
        for peer in peers.into_iter().flatten() {
            peer.join().map_err(|_| io::Error::other("a peer panicked"))??;
        }
        io::Result::Ok(())
    })?;
    let wall = began.elapsed().as_secs_f64();
    let cpu = line()?.parse()?;
    relay.wait()?;
    Ok(Sample { cpu, wall })
}

fn ask(mut socket: TcpStream, scenario: &Scenario) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let mut buffer = vec![0; 256 << 10];
    for _ in 0..scenario.exchanges {
        socket.write_all(&[1; REQUEST])?;
        let mut missing = scenario.answer;
        while missing > 0 {
            let most = missing.min(buffer.len());
            match socket.read(&mut buffer[..most])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => missing -= read,
            }
        }
    }
    socket.shutdown(Shutdown::Write)
}

fn answer(mut socket: TcpStream, scenario: &Scenario) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let block = vec![2; 256 << 10];
    let mut request = [0; REQUEST];
    for _ in 0..scenario.exchanges {
        socket.read_exact(&mut request)?;
        let mut missing = scenario.answer;
        while missing > 0 {
            let most = missing.min(block.len());
            missing -= socket.write(&block[..most])?;
        }
    }
    Ok(())
}

/// The relay process: says where it listens, relays so many connections, and says what CPU time that took.
fn serve(engine: &str, backend: SocketAddr, connections: usize) -> Outcome<()> {
    pin(1);
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?);
    let pairs = (0..connections)
        .map(|_| {
            let (client, _) = listener.accept()?;
            let backend = TcpStream::connect(backend)?;
            for socket in [&client, &backend] {
                socket.set_nonblocking(true)?;
                socket.set_nodelay(true)?;
            }
            Ok((client, backend))
        })
        .collect::<io::Result<Vec<_>>>()?;
    let before = cpu_seconds();
    match engine {
        "bare" => bare(pairs)?,
        "copy" => with_engine(Engine::Copy, pairs)?,
        "splice" => with_engine(Engine::Splice, pairs)?,
        "uring" => with_engine(Engine::Uring(UringWorker::spawn("ring")?), pairs)?,
        other => return Err(format!("unknown engine {other}").into()),
    }
    println!("{}", cpu_seconds() - before);
    Ok(())
}

fn with_engine(engine: Engine, pairs: Vec<(TcpStream, TcpStream)>) -> io::Result<()> {
    let options = RelayOptions { engine, ..RelayOptions::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let mut relays = Vec::new();
        for (client, backend) in pairs {
            let client = tokio::net::TcpStream::from_std(client)?;
            let backend = tokio::net::TcpStream::from_std(backend)?;
            let options = options.clone();
            relays
                .push(tokio::task::spawn_local(async move { relay(client, backend, b"", &options, pending()).await }));
        }
        for relay in relays {
            relay.await?;
        }
        Ok(())
    })
}

/// The least that a relay can do: no timeouts, no resets, a pipe for each direction for good.
fn bare(pairs: Vec<(TcpStream, TcpStream)>) -> io::Result<()> {
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let edges = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
    let mut relays = Vec::new();
    for (index, (client, backend)) in pairs.into_iter().enumerate() {
        epoll::add(&poll, &client, epoll::EventData::new_u64(index as u64), edges)?;
        epoll::add(&poll, &backend, epoll::EventData::new_u64(index as u64), edges)?;
        relays.push((client, backend, BarePipe::open()?, BarePipe::open()?));
    }
    let mut events = Vec::with_capacity(64);
    while relays.iter().any(|(.., up, down)| !(up.done && down.done)) {
        epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), None)?;
        for event in events.drain(..) {
            let (client, backend, up, down) = &mut relays[event.data.u64() as usize];
            up.pump(client, backend)?;
            down.pump(backend, client)?;
        }
    }
    Ok(())
}

struct BarePipe {
    reader: OwnedFd,
    writer: OwnedFd,
    held: usize,
    done: bool,
}

impl BarePipe {
    fn open() -> io::Result<Self> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        fcntl_setpipe_size(&writer, 256 << 10)?;
        Ok(Self { reader, writer, held: 0, done: false })
    }

    fn pump(&mut self, from: &TcpStream, to: &TcpStream) -> io::Result<()> {
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        while !self.done {
            if self.held == 0 {
                match splice(from, None, &self.writer, None, 1 << 20, flags) {
                    Ok(0) => {
                        self.done = true;
                        to.shutdown(Shutdown::Write)?;
                    }
                    Ok(bytes) => self.held = bytes,
                    Err(rustix::io::Errno::AGAIN) => break,
                    Err(error) => return Err(error.into()),
                }
            } else {
                match splice(&self.reader, None, to, None, self.held, flags) {
                    Ok(bytes) => self.held -= bytes,
                    Err(rustix::io::Errno::AGAIN) => break,
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }
}

fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// On a machine with one core, or in a container without the right, the figures are noisier and still come.
fn pin(core: usize) {
    let mut cores = CpuSet::new();
    cores.set(core);
    let _ = sched_setaffinity(None, &cores);
}
