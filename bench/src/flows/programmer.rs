//! The process that programs a director's tables: it can be killed like one.

use super::frames::PORT;
use super::laboratory::{Laboratory, SOCKET_PORT};
use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use sluicegate_config::{
    Kind, Method, ObjectRef, Readiness, RealServer, TransportProtocol, VipBinding, VipOptions, VipPort, VipService,
};
use sluicegate_forward::engine::xdp::Fences;
use sluicegate_forward::fleet::Standing;
use sluicegate_forward::forwarder::{ForwardMode, Forwarder, ForwarderSettings};
use sluicegate_forward::status::ForwarderStatus;
use sluicegate_l4::layout;
use sluicegate_netlab::Process;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Below the BPF file system of the director's host.
pub const ROOT: &str = "sluicegate-bench-flows";
/// For tables to be as wished.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long VIPs are answered for.
const FENCE: Duration = Duration::from_secs(3600);

/// What the process is told: real servers with their weights, by VIP.
#[derive(Debug, Serialize, Deserialize)]
pub struct Wish {
    /// TCP and UDP.
    pub flows: BTreeMap<IpAddr, Vec<(IpAddr, u16)>>,
    /// TCP.
    pub sockets: BTreeMap<IpAddr, Vec<(IpAddr, u16)>>,
}

/// Which tables a release works on.
#[derive(Clone, Copy, Debug)]
pub struct Release {
    pub version: u32,
    /// A version that it may take over.
    pub compatible: Option<u32>,
}

impl Release {
    /// This one.
    pub fn present() -> Self {
        Self { version: layout::VERSION, compatible: None }
    }
}

/// What forwards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Engine {
    /// Programs in the kernel.
    #[default]
    Xdp,
    /// Packet sockets: tables lie in the process and die with it.
    Packet,
}

/// How the process is started.
#[derive(Debug, Args)]
pub struct Arguments {
    #[arg(long, value_enum)]
    engine: Engine,
    #[arg(long)]
    tables: u32,
    #[arg(long)]
    compatible: Option<u32>,
}

/// The process, as seen by who started it.
pub struct Programmer {
    process: Process,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Programmer {
    /// Starts one on a director's host.
    ///
    /// # Errors
    /// Where it does not start.
    pub fn start(laboratory: &Laboratory, director: usize, release: Release, engine: Engine) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        let engine = if engine == Engine::Xdp { "xdp" } else { "packet" };
        command.args(["flows-programmer", "--engine", engine, "--tables", &release.version.to_string()]);
        if let Some(compatible) = release.compatible {
            command.args(["--compatible", &compatible.to_string()]);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = laboratory.director(director).namespace.spawn_process(command)?;
        let input = process.child().stdin.take().context("no standard input")?;
        let output = process.child().stdout.take().context("no standard output")?;
        Ok(Self { process, input, output: BufReader::new(output) })
    }

    /// Tells it what to serve, and waits until its tables say so.
    ///
    /// # Errors
    /// Where it fails; it has said why.
    pub fn serve(&mut self, wish: &Wish) -> anyhow::Result<()> {
        writeln!(self.input, "{}", serde_json::to_string(wish)?)?;
        self.input.flush()?;
        let mut answer = String::new();
        self.output.read_line(&mut answer)?;
        if answer == "served\n" { Ok(()) } else { bail!("the process that programs the tables has failed") }
    }

    /// Without warning.
    ///
    /// # Errors
    /// Where it cannot be killed.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.process.kill()?;
        Ok(())
    }
}

/// The process itself: serves what each line of standard input says, until that ends.
///
/// # Errors
/// Where the tables are not as wished in time.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let mut forwarder = Forwarder::start(ForwarderSettings {
        mode: match arguments.engine {
            Engine::Xdp => ForwardMode::Xdp,
            Engine::Packet => ForwardMode::Packet,
        },
        interfaces: vec!["eth0".to_owned()],
        pin_root: PathBuf::from("/sys/fs/bpf").join(ROOT),
        version: arguments.tables,
        compatible: arguments.compatible.into_iter().collect(),
        ..ForwarderSettings::default()
    })?;
    let mut fences = forwarder.take_fences().context("no fences")?;
    for line in std::io::stdin().lines() {
        let wish: Wish = serde_json::from_str(&line?)?;
        serve(&forwarder, &mut fences, &wish)?;
        println!("served");
    }
    Ok(())
}

fn serve(forwarder: &Forwarder, fences: &mut Fences, wish: &Wish) -> anyhow::Result<()> {
    let (tcp, udp) = (TransportProtocol::Tcp, TransportProtocol::Udp);
    let flows = wish.flows.iter().map(|(vip, reals)| (*vip, binding(*vip, reals, &[(tcp, PORT), (udp, PORT)])));
    let sockets = wish.sockets.iter().map(|(vip, reals)| (*vip, binding(*vip, reals, &[(tcp, SOCKET_PORT)])));
    let bindings: BTreeMap<IpAddr, Arc<VipBinding>> = flows.chain(sockets).collect();
    let reals = bindings.values().flat_map(|binding| &binding.services).flat_map(|service| &service.ports);
    let wanted: usize = reals.map(|port| port.reals.len()).sum();
    let generation = forwarder.apply(&bindings);
    let begun = Instant::now();
    loop {
        let status = forwarder.status();
        if status.applied >= generation && in_rings(&status) == wanted && status.ports.iter().any(|p| p.mode.is_some())
        {
            for id in status.vips.iter().filter_map(|vip| vip.id) {
                fences.hold(id, FENCE)?;
            }
            return Ok(());
        }
        if begun.elapsed() > PATIENCE {
            bail!("the tables are not as wished: {status:#?}");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn in_rings(status: &ForwarderStatus) -> usize {
    let reals = status.vips.iter().flat_map(|vip| &vip.services).flat_map(|service| &service.reals);
    reals.filter(|real| real.standing == Standing::InRing).count()
}

fn binding(vip: IpAddr, reals: &[(IpAddr, u16)], ports: &[(TransportProtocol, u16)]) -> Arc<VipBinding> {
    let real = |(address, weight): &(IpAddr, u16)| RealServer {
        address: *address,
        weight: u32::from(*weight),
        readiness: Readiness::Ready,
        node: None,
        pods: None,
    };
    let mut reals: Vec<RealServer> = reals.iter().map(real).collect();
    reals.sort();
    let port = |(protocol, port): &(TransportProtocol, u16)| VipPort {
        protocol: *protocol,
        port: *port,
        reals: reals.clone(),
    };
    let service = VipService {
        namespace: "bench".into(),
        service: "flows".into(),
        method: Some(Method::L2),
        into_pods: false,
        options: VipOptions::default(),
        ports: ports.iter().map(port).collect(),
    };
    Arc::new(VipBinding {
        address: vip,
        services: vec![service],
        origin: ObjectRef::new(Kind::ConfigMap, "sluicegate-system", "vips"),
    })
}
