//! From the rename of a manifest to the first packet that goes where it says: the whole program as a director, in network
//! namespaces, packets through XDP.

use super::fleet::Watched;
use super::{Control, EFFECT_WITHIN};
use crate::manifests;
use anyhow::{Context as _, bail};
use rustix::process::Signal;
use serde::Serialize;
use sluicegate_netlab::topology::{DsrLab, DsrTopology};
use sluicegate_netlab::{Frame, Lab, Process};
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

/// The port of the VIP's service.
const PORT: u16 = 9000;
/// Between two packets of the client.
const EVERY: Duration = Duration::from_micros(200);
/// How long the director may take until packets are forwarded.
const SERVED_WITHIN: Duration = Duration::from_secs(120);

/// Seconds from a rename to the first packet at the real server that it names; none where none came.
#[derive(Debug, Serialize)]
pub struct Packets {
    /// Of the first change: the director has to find the real server's link address before it forwards to it.
    pub unmet: Option<f64>,
    /// Of all others.
    pub effects: Vec<Option<f64>>,
    /// From the start of the director until the first packet was forwarded.
    pub first_packet: f64,
}

impl Control<'_> {
    /// As root; else it is left out.
    pub(super) fn packets(&mut self, watched: &Watched) -> anyhow::Result<Option<Packets>> {
        let count = self.size.packet_changes;
        let left_out = match (count, rustix::process::geteuid().is_root()) {
            (0, _) => Some("--packet-changes 0"),
            (_, false) => Some("network namespaces and XDP need root"),
            (_, true) => None,
        };
        if let Some(why) = left_out {
            self.notes.push(format!("how long a change takes until a packet shows it was not measured: {why}"));
            return Ok(None);
        }
        let mut site = Site::start(self, watched)?;
        let measured = site.measure(count, || self.interrupt.check());
        site.end();
        measured.map(Some)
    }
}

/// A director on the manifests, two real servers, and a client that never stops asking.
struct Site {
    lab: DsrLab,
    director: Process,
    manifest: std::path::PathBuf,
    begun: Instant,
    over: Arc<AtomicBool>,
    asking: Option<thread::JoinHandle<()>>,
}

fn vip() -> Ipv4Addr {
    DsrLab::vip4(0)
}

impl Site {
    fn start(control: &Control<'_>, watched: &Watched) -> anyhow::Result<Self> {
        let topology = DsrTopology { backends: 2, ipv6: false, ..DsrTopology::default() };
        let lab = Lab::dsr("sg-control", topology)?;
        for backend in &lab.backends {
            backend.namespace.hold_vip(IpAddr::V4(vip()))?;
        }
        let manifest = watched.manifests.join("watched/vips.yaml");
        write(&manifest, lab.backends[0].ipv4)?;
        let log = control.folder.path().join("director.log");
        let begun = Instant::now();
        let director = lab.directors[0].namespace.spawn_process(command(control, &watched.manifests, &log)?)?;
        let over = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&over);
        let asking = lab.clients[0].namespace.spawn(move || ask(&ended));
        Ok(Self { lab, director, manifest, begun, over, asking: Some(asking) })
    }

    fn measure(&mut self, count: u32, check: impl Fn() -> anyhow::Result<()>) -> anyhow::Result<Packets> {
        let first = self.lab.backends[0].namespace.capture_if("eth0", asks)?;
        if first.wait_for(|_| true, SERVED_WITHIN).is_none() {
            bail!("no packet was forwarded within {SERVED_WITHIN:?}; --keep leaves director.log");
        }
        drop(first);
        let first_packet = self.begun.elapsed().as_secs_f64();
        eprintln!("packets: the first one was forwarded after {first_packet:.2} s");
        let unmet = self.change(1)?;
        let mut effects = Vec::new();
        for number in 2..count + 2 {
            check()?;
            effects.push(self.change(number)?);
        }
        Ok(Packets { unmet, effects, first_packet })
    }

    /// To the other real server: seconds until its first packet.
    fn change(&self, number: u32) -> anyhow::Result<Option<f64>> {
        let real = &self.lab.backends[(number % 2) as usize];
        let capture = real.namespace.capture_if("eth0", asks)?;
        // Not in step with anything.
        thread::sleep(Duration::from_micros(20_000 + u64::from(number) * 16_787 % 60_000));
        let begun = write(&self.manifest, real.ipv4)?;
        let found = capture.wait_for(|frame| frame.at > begun, EFFECT_WITHIN);
        Ok(found.map(|frame| frame.at.duration_since(begun).unwrap_or_default().as_secs_f64()))
    }

    fn end(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(asking) = self.asking.take() {
            // It has nothing to say.
            let _ended = asking.join();
        }
        // In order: it takes its program and addresses away. Where it does not, the namespace goes with them.
        let _told = self.director.signal(Signal::TERM);
        let _ended = self.director.wait(Duration::from_secs(10));
    }
}

fn command(control: &Control<'_>, manifests: &Path, log: &Path) -> anyhow::Result<Command> {
    let mut command = Command::new(&control.gateway);
    command.args(["run", "--role", "director", "--interface", "eth0", "--forward", "xdp", "--lame-duck", "0"]);
    command.args(["--metrics", "127.0.0.1:10254", "--director-name", "director1", "--manifests"]).arg(manifests);
    let log = File::create(log).with_context(|| log.display().to_string())?;
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    Ok(command)
}

/// A packet of the client that arrives.
fn asks(frame: &Frame) -> bool {
    !frame.outgoing
        && frame.ip_destination() == Some(IpAddr::V4(vip()))
        && frame.ports().is_some_and(|(_, to)| to == PORT)
}

fn ask(over: &AtomicBool) {
    let open = || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect((vip(), PORT))?;
        Ok::<_, std::io::Error>(socket)
    };
    let Ok(socket) = open() else { return };
    while !over.load(Ordering::Relaxed) {
        // Nobody answers, and as long as there is no director nobody takes it.
        let _lost = socket.send(b"ask");
        thread::sleep(EVERY);
    }
}

/// Puts the VIP with one real server into place. Returns the moment.
fn write(path: &Path, real: Ipv4Addr) -> anyhow::Result<SystemTime> {
    let vip = vip();
    let text = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: vips, namespace: sluicegate-system}}\ndata:\n  \"{vip}\": bench/packets:L2\n---\n\
         apiVersion: v1\nkind: Service\nmetadata:\n  name: packets\n  namespace: bench\n  annotations:\n    \
         sluicegate.io/health-check: \"off\"\n    sluicegate.io/one-packet: \"true\"\nspec:\n  ports:\n    \
         - {{name: udp, port: {PORT}, protocol: UDP}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\nmetadata:\n  name: packets-x7k2p\n  namespace: bench\n  \
         labels: {{kubernetes.io/service-name: packets}}\nports:\n  - {{name: udp, port: {PORT}, protocol: UDP}}\nendpoints:\n  \
         - addresses: [\"{real}\"]\n    conditions: {{ready: true, serving: true, terminating: false}}\n"
    );
    let renamed = manifests::replace(path, &text)?;
    Ok(SystemTime::now() - renamed.elapsed())
}
