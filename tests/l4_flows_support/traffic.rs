//! Held flows: each asks its real server again and again and remembers how that went.

use super::{PATIENCE, TCP_PORT, UDP_PORT};
use sluicegate_netlab::Namespace;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::watch;

/// From one question of a connection to the next.
const PAUSE: Duration = Duration::from_millis(100);
/// The same over UDP, where no question is repeated.
const DATAGRAM_PAUSE: Duration = Duration::from_millis(5);

/// Flows that are asked all the time, from a thread of their own, until this is dropped.
pub struct Traffic {
    flows: Vec<Arc<Flow>>,
    end: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

/// One of them.
pub struct Flow {
    pub vip: IpAddr,
    pub protocol: Protocol,
    server: Mutex<Option<String>>,
    trouble: Mutex<Option<String>>,
    answers: AtomicU64,
    longest_micros: AtomicU64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Tcp,
    Udp,
}

impl Flow {
    /// Who answers it.
    pub fn server(&self) -> String {
        self.server.lock().expect("no panic").clone().unwrap_or_default()
    }

    /// Why it is not whole any more: broken, or answered by another real server than the first.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().expect("no panic").clone()
    }

    fn answered(&self, waited: Duration) {
        self.answers.fetch_add(1, Ordering::Relaxed);
        self.longest_micros.fetch_max(waited.as_micros() as u64, Ordering::Relaxed);
    }

    /// Says who answered. False where that is another one than before.
    fn answered_by(&self, name: &str) -> bool {
        let mut server = self.server.lock().expect("no panic");
        let first = server.get_or_insert_with(|| name.to_owned());
        if first == name {
            return true;
        }
        let moved = format!("moved from {first} to {name}");
        self.trouble.lock().expect("no panic").get_or_insert(moved);
        false
    }
}

impl Traffic {
    /// Opens so many connections and sockets to each VIP, and waits until every one was answered.
    pub fn start(client: &Namespace, vips: &[IpAddr], connections: usize, sockets: usize) -> Self {
        let flow = |vip: IpAddr, protocol| {
            Arc::new(Flow {
                vip,
                protocol,
                server: Mutex::default(),
                trouble: Mutex::default(),
                answers: AtomicU64::new(0),
                longest_micros: AtomicU64::new(0),
            })
        };
        let of = |protocol, count| vips.iter().flat_map(move |vip| (0..count).map(move |_| flow(*vip, protocol)));
        let flows: Vec<Arc<Flow>> = of(Protocol::Tcp, connections).chain(of(Protocol::Udp, sockets)).collect();
        let (end, ended) = watch::channel(false);
        let held = flows.clone();
        let thread = client.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let tasks: Vec<_> = held.into_iter().map(|flow| tokio::spawn(hold(flow, ended.clone()))).collect();
                for task in tasks {
                    task.await.expect("no panic");
                }
            });
        });
        let traffic = Self { flows, end, thread: Some(thread) };
        Self::wait_for_answers(&traffic.flows().collect::<Vec<_>>(), 3);
        traffic.reset();
        traffic
    }

    pub fn flows(&self) -> impl Iterator<Item = &Flow> {
        self.flows.iter().map(AsRef::as_ref)
    }

    /// Waits until each of these flows that is whole was answered so often more.
    fn wait_for_answers(flows: &[&Flow], more: u64) {
        let wanted: Vec<(&Flow, u64)> =
            flows.iter().map(|flow| (*flow, flow.answers.load(Ordering::Relaxed) + more)).collect();
        let begun = Instant::now();
        let silent = || {
            let silent = |(flow, wanted): &&(&Flow, u64)| {
                flow.trouble().is_none() && flow.answers.load(Ordering::Relaxed) < *wanted
            };
            wanted.iter().filter(silent).count()
        };
        while silent() > 0 {
            assert!(begun.elapsed() < PATIENCE, "{} of {} flows get no answer", silent(), flows.len());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Begins to measure gaps anew.
    pub fn reset(&self) {
        for flow in self.flows() {
            flow.longest_micros.store(0, Ordering::Relaxed);
        }
    }

    /// The longest time that a flow of this protocol waited for an answer since the last reset.
    pub fn longest_gap(&self, protocol: Protocol) -> Duration {
        let of = self.flows().filter(|flow| flow.protocol == protocol);
        Duration::from_micros(of.map(|flow| flow.longest_micros.load(Ordering::Relaxed)).max().unwrap_or(0))
    }

    /// Asserts that every flow that `stays` is as it began, and is answered.
    pub fn assert_whole(&self, what: &str, stays: impl Fn(&Flow) -> bool) {
        let stable: Vec<&Flow> = self.flows().filter(|flow| stays(flow)).collect();
        Self::wait_for_answers(&stable, 2);
        let troubles: Vec<String> = stable
            .iter()
            .filter_map(|flow| {
                Some(format!("{:?} to {} at {}: {}", flow.protocol, flow.vip, flow.server(), flow.trouble()?))
            })
            .collect();
        println!(
            "{what}: {} of {} flows broke or moved; the longest wait was {} ms over TCP, {} ms over UDP",
            troubles.len(),
            stable.len(),
            self.longest_gap(Protocol::Tcp).as_millis(),
            self.longest_gap(Protocol::Udp).as_millis()
        );
        assert!(!stable.is_empty(), "{what}: no flow is left to look at");
        let shown = troubles.iter().take(8).map(String::as_str).collect::<Vec<_>>().join("\n");
        assert!(troubles.is_empty(), "{what}: {} of {} flows did not stay:\n{shown}", troubles.len(), stable.len());
    }

    /// Every flow.
    pub fn assert_all_whole(&self, what: &str) {
        self.assert_whole(what, |_| true);
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        let _gone = self.end.send(true);
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

async fn hold(flow: Arc<Flow>, mut ended: watch::Receiver<bool>) {
    let asking = async {
        match flow.protocol {
            Protocol::Tcp => connection(&flow).await,
            Protocol::Udp => socket(&flow).await,
        }
    };
    let outcome = tokio::select! {
        outcome = asking => outcome,
        _ = ended.wait_for(|over| *over) => return,
    };
    if let Err(error) = outcome {
        flow.trouble.lock().expect("no panic").get_or_insert(error.to_string());
    }
}

async fn connection(flow: &Flow) -> std::io::Result<()> {
    let stream = TcpStream::connect(SocketAddr::from((flow.vip, TCP_PORT))).await?;
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    let mut greeting = String::new();
    stream.read_line(&mut greeting).await?;
    flow.answered_by(greeting.trim_end());
    for round in 0_u64.. {
        let asked = Instant::now();
        stream.write_all(&round.to_be_bytes()).await?;
        let mut answer = [0; 8];
        stream.read_exact(&mut answer).await?;
        if answer != round.to_be_bytes() {
            return Err(std::io::Error::other("other bytes came back"));
        }
        flow.answered(asked.elapsed());
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

/// Asks without waiting: what is lost shows as a gap between answers.
async fn socket(flow: &Flow) -> std::io::Result<()> {
    let any: SocketAddr = if flow.vip.is_ipv4() { ([0; 4], 0).into() } else { ([0; 16], 0).into() };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(SocketAddr::from((flow.vip, UDP_PORT))).await?;
    let mut last = Instant::now();
    let mut buffer = [0; 64];
    let mut pause = tokio::time::interval(DATAGRAM_PAUSE);
    pause.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            // An ICMP error of the packet before is told here; the next one may do better.
            _ = pause.tick() => { let _told = socket.send(b"ask").await; }
            received = socket.recv(&mut buffer) => {
                let Ok(length) = received else { continue };
                let answer = String::from_utf8_lossy(&buffer[..length]).into_owned();
                flow.answered(last.elapsed());
                last = Instant::now();
                if !flow.answered_by(answer.split('\n').next().unwrap_or_default()) {
                    return Ok(());
                }
            }
        }
    }
}
