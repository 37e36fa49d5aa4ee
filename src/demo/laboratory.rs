//! What packets travel through in the demo: a network of namespaces with a director, real servers, gateways behind VIPs
//! and pods behind the gateways. All of them are processes of this very program, but for echo servers.
//!
//! ```text
//!  client1 ── router ─┬─ lan   director1, near1 … near3     192.0.2.0/24, 2001:db8:1::/64, and the VIPs
//!                     └─ farm  far1, far2, gateway1, gateway2, pods    203.0.113.0/24, 2001:db8:2::/64
//! ```
//!
//! Nothing of it is in the host's own network. It goes when it is dropped; what a killed demo left goes with the next
//! one.

use super::client::{Answer, Visit, connect, visit_over};
use super::folder::{self, Folder};
use super::passage::{Method, Wires};
use super::stage::{Made, make_certificate};
use anyhow::{Context as _, bail, ensure};
use serde_json::Value;
use sluicegate_echo::EchoBackend;
use sluicegate_netlab::topology::{DsrLab, DsrTopology, Host};
use sluicegate_netlab::traffic::UdpEcho;
use sluicegate_netlab::{Bridge, Capture, Frame, Lab, LabError, Namespace, Process};
use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::runtime::Handle;

/// Whose namespaces these are.
const PREFIX: &str = "sg-demo";
/// Ports of the echo servers behind VIPs.
pub const HTTP_PORT: u16 = 8080;
pub const UDP_PORT: u16 = 9000;
/// The host that the gateways serve.
pub const STORE: &str = "store.example";
/// How long everything may take to be served. Slow and busy machines need some of it.
const PATIENCE: Duration = Duration::from_secs(45);
/// How often what is waited for is looked at.
const PAUSE: Duration = Duration::from_millis(20);
/// The largest packet of all wires, in bytes.
const MTU: u32 = 1500;

/// What the director gets.
const VIPS: [(&str, &str); 4] = [
    ("vips.yaml", include_str!("../../config/demo/vips/vips.yaml")),
    ("near.yaml", include_str!("../../config/demo/vips/near.yaml")),
    ("far.yaml", include_str!("../../config/demo/vips/far.yaml")),
    ("gateways.yaml", include_str!("../../config/demo/vips/gateways.yaml")),
];
/// What the gateways get.
const ROUTES: [(&str, &str); 1] = [("store.yaml", include_str!("../../config/demo/gateways/store.yaml"))];

/// VIPs that go to the same real servers by the same method; one for each IP version.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct VipPair {
    pub method: Method,
    pub tier: Tier,
    number: u8,
}

/// Hosts that hold the same VIPs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// On the director's link.
    Near,
    /// Behind a router.
    Far,
    /// `run --role gateway`, behind a router.
    Gateways,
}

/// All VIPs, as `config/demo/vips/vips.yaml` binds them.
pub const VIP_PAIRS: [VipPair; 4] = [
    VipPair { method: Method::L2, tier: Tier::Near, number: 0 },
    VipPair { method: Method::Tunnel, tier: Tier::Far, number: 1 },
    VipPair { method: Method::Gue, tier: Tier::Far, number: 2 },
    VipPair { method: Method::Tunnel, tier: Tier::Gateways, number: 3 },
];

impl VipPair {
    /// Its address of IPv4 and of IPv6.
    pub fn addresses(self) -> [IpAddr; 2] {
        [DsrLab::vip4(self.number).into(), DsrLab::vip6(self.number).into()]
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Near => "real servers on the director's link",
            Self::Far => "real servers behind a router",
            Self::Gateways => "gateways behind a router",
        })
    }
}

impl Tier {
    /// Names and the last numbers of their addresses.
    fn hosts(self) -> &'static [(&'static str, u8)] {
        match self {
            Self::Near => &[("near1", 21), ("near2", 22), (SPARE, 23)],
            Self::Far => &[("far1", 21), ("far2", 22)],
            Self::Gateways => &[("gateway1", 31), ("gateway2", 32)],
        }
    }

    /// Those that the manifests list at first.
    pub fn bound(self) -> impl Iterator<Item = &'static str> {
        self.hosts().iter().map(|(name, _)| *name).filter(|name| *name != SPARE)
    }

    /// The tunnel that `sluicegate backend` sizes what leaves for: the one with the longest headers.
    fn tunnel(self) -> &'static str {
        match self {
            Self::Near => "none",
            Self::Far => "gue",
            Self::Gateways => "ipip",
        }
    }

    fn vips(self) -> impl Iterator<Item = IpAddr> {
        VIP_PAIRS.into_iter().filter(move |pair| pair.tier == self).flat_map(VipPair::addresses)
    }
}

/// The host that is ready and that no manifest lists.
pub const SPARE: &str = "near3";
const PODS: (&str, u8) = ("pods", 41);

/// The running laboratory.
pub struct Laboratory {
    // In the order in which they end: processes, servers, their network, their files.
    processes: Vec<(String, Process)>,
    web: Vec<EchoBackend>,
    datagrams: Vec<UdpEcho>,
    hosts: BTreeMap<&'static str, (Tier, Host)>,
    network: DsrLab,
    certificate: Made,
    folder: Folder,
    runtime: Handle,
    cancelled: Arc<AtomicBool>,
}

/// Removes what demos left that were killed.
pub fn sweep() {
    Lab::sweep(PREFIX);
}

/// True where the kernel refused it for want of rights.
pub fn is_denied(error: &anyhow::Error) -> bool {
    error.chain().filter_map(|cause| cause.downcast_ref::<LabError>()).any(LabError::is_denied)
}

impl Laboratory {
    /// Builds the network, starts everything in it and waits until every VIP is served. `say` is told what goes on;
    /// it ends early where `cancelled` becomes true.
    ///
    /// # Errors
    /// Where the kernel refuses something, or something does not come up; the message has the last line of its log.
    pub fn build(runtime: Handle, cancelled: Arc<AtomicBool>, say: &dyn Fn(&str)) -> anyhow::Result<Self> {
        let mut laboratory = Self::lay_out(runtime, cancelled)?;
        say(&format!(
            "packets: {} namespaces are joined; starting real servers, gateways and a director",
            laboratory.size()
        ));
        laboratory.start_gateways_and_director()?;
        laboratory.make_real_servers()?;
        let begun = Instant::now();
        laboratory.wait_until_served()?;
        say(&format!("packets: every VIP is served after {:.1} s", begun.elapsed().as_secs_f64()));
        Ok(laboratory)
    }

    /// The network and the files.
    fn lay_out(runtime: Handle, cancelled: Arc<AtomicBool>) -> anyhow::Result<Self> {
        let folder = folder::make("packets-")?;
        let (certificate, secret) = make_certificate("store-tls", STORE)?;
        for (name, files) in [("vips", &VIPS[..]), ("gateways", &ROUTES[..]), ("logs", &[])] {
            fs::create_dir(folder.path().join(name))?;
            files.iter().try_for_each(|(file, text)| fs::write(folder.path().join(name).join(file), text))?;
        }
        fs::write(folder.path().join("gateways/secret.yaml"), secret)?;
        let topology =
            DsrTopology { backends: 0, backends_on_link: false, mtu: MTU, farm_mtu: MTU, ..DsrTopology::default() };
        let mut network = Lab::dsr(PREFIX, topology)?;
        let mut hosts = BTreeMap::new();
        for tier in [Tier::Near, Tier::Far, Tier::Gateways] {
            for (name, number) in tier.hosts() {
                let host = match tier {
                    Tier::Near => network.add_on_link(name, *number)?,
                    Tier::Far | Tier::Gateways => network.add_behind_router(name, *number)?,
                };
                hosts.insert(*name, (tier, host));
            }
        }
        let pods = network.add_behind_router(PODS.0, PODS.1)?;
        let mut laboratory = Self {
            processes: Vec::new(),
            web: Vec::new(),
            datagrams: Vec::new(),
            hosts,
            network,
            certificate,
            folder,
            runtime,
            cancelled,
        };
        laboratory.echo("store", "store-0", &pods, SocketAddr::from((pods.ipv4, HTTP_PORT)))?;
        Ok(laboratory)
    }

    fn start_gateways_and_director(&mut self) -> anyhow::Result<()> {
        let gateways = self.folder.path().join("gateways");
        for name in Tier::Gateways.bound() {
            let mut command = program(&["run", "--role", "gateway", "--workers", "1", "--manifests"])?;
            command.arg(&gateways);
            self.start(name, "gateway", command)?;
        }
        let mut command = program(&["run", "--role", "director", "--interface", "eth0", "--manifests"])?;
        command.arg(self.folder.path().join("vips"));
        self.start("director1", "director", command)
    }

    /// Has every host of a tier hold its VIPs, and starts echo servers on those that are no gateways.
    fn make_real_servers(&mut self) -> anyhow::Result<()> {
        let director = self.director().clone();
        let mut under_way = Vec::new();
        for (name, (tier, host)) in &self.hosts {
            let mut command = program(&["backend", "--once", "--interface", "eth0", "--tunnel", tier.tunnel()])?;
            for vip in tier.vips() {
                command.arg("--vip").arg(vip.to_string());
            }
            for address in [IpAddr::from(director.ipv4), director.ipv6.into()] {
                command.arg("--director").arg(address.to_string());
            }
            under_way.push((*name, self.spawn(name, "backend", &host.namespace, command)?));
        }
        for (name, process) in &mut under_way {
            let status = self.end_of(name, process)?;
            ensure!(
                status.success(),
                "`sluicegate backend` on {name}: {}",
                self.last_words(&format!("{name}.backend"))
            );
        }
        let servers: Vec<_> = self.hosts.iter().map(|(name, (tier, host))| (*name, *tier, host.clone())).collect();
        for (name, tier, host) in servers.into_iter().filter(|(_, tier, _)| *tier != Tier::Gateways) {
            let service = if tier == Tier::Near { "near" } else { "far" };
            self.echo(service, name, &host, SocketAddr::from((Ipv6Addr::UNSPECIFIED, HTTP_PORT)))?;
            for vip in tier.vips() {
                self.datagrams.push(UdpEcho::start(&host.namespace, name, (vip, UDP_PORT).into())?);
            }
        }
        Ok(())
    }

    fn end_of(&self, host: &str, process: &mut Process) -> anyhow::Result<ExitStatus> {
        let begun = Instant::now();
        loop {
            if let Some(status) = process.child().try_wait()? {
                return Ok(status);
            }
            self.ensure_not_cancelled()?;
            ensure!(begun.elapsed() < PATIENCE, "`sluicegate backend` on {host} is not done after {PATIENCE:?}");
            std::thread::sleep(PAUSE);
        }
    }

    fn echo(&mut self, service: &str, name: &str, host: &Host, address: SocketAddr) -> anyhow::Result<()> {
        let builder = EchoBackend::builder(service).pod(name).namespace("demo").address(address);
        let started = host.namespace.run(|| self.runtime.block_on(builder.start()));
        self.web.push(started.with_context(|| format!("an echo server on {name}"))?);
        Ok(())
    }

    fn start(&mut self, host: &str, role: &str, command: Command) -> anyhow::Result<()> {
        let namespace = self.namespace(host)?.clone();
        let process = self.spawn(host, role, &namespace, command)?;
        self.processes.push((format!("{host}.{role}"), process));
        Ok(())
    }

    fn spawn(&self, host: &str, role: &str, inside: &Namespace, mut command: Command) -> anyhow::Result<Process> {
        let log = File::create(self.folder.path().join(format!("logs/{host}.{role}")))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(inside.spawn_process(command)?)
    }

    /// Until the director serves every VIP and every real server that is to be there answers its probes.
    fn wait_until_served(&mut self) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            let waits_for = match self.vips() {
                Ok(state) => match unserved(&state) {
                    None => return Ok(()),
                    Some(what) => what,
                },
                Err(error) => format!("{error:#}"),
            };
            self.ensure_not_cancelled()?;
            for (name, process) in &mut self.processes {
                if let Some(status) = process.child().try_wait()? {
                    bail!("{name} ended ({status}): {}", last_line(&self.folder.path().join("logs").join(&*name)));
                }
            }
            if begun.elapsed() > PATIENCE {
                bail!("{waits_for} after {PATIENCE:?}; the director says: {}", self.last_words("director1.director"));
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Fails where the demo is to end.
    pub fn ensure_not_cancelled(&self) -> anyhow::Result<()> {
        ensure!(!self.cancelled.load(Ordering::Relaxed), "cancelled");
        Ok(())
    }

    /// What the director says about its VIPs, by its admin API.
    pub fn vips(&self) -> anyhow::Result<Value> {
        let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, 10253));
        let visit = Visit {
            to: admin,
            host: admin.to_string(),
            path: "/api/v1/state?section=vips".to_owned(),
            tls: None,
            http2: false,
            headers: Vec::new(),
        };
        let (answer, _) = self.visit_from(&self.director().namespace, &visit)?;
        ensure!(answer.status == 200, "the director's admin API answers {}", answer.status);
        Ok(serde_json::from_slice(&answer.body)?)
    }

    /// Goes there from the client's host, on a connection of its own. Returns its port too.
    pub fn visit(&self, visit: &Visit) -> anyhow::Result<(Answer, u16)> {
        self.visit_from(&self.client().namespace, visit)
    }

    fn visit_from(&self, host: &Namespace, visit: &Visit) -> anyhow::Result<(Answer, u16)> {
        // A socket belongs to the namespace that it was made in, whoever uses it afterwards.
        let stream: TcpStream = host.run(|| self.runtime.block_on(connect(visit.to)))?;
        let port = stream.local_addr()?.port();
        Ok((self.runtime.block_on(visit_over(stream, visit))?, port))
    }

    /// Watches the wires of the client, the director and the tier, for packets of the VIP.
    pub fn watch(&self, tier: Tier, vip: IpAddr) -> anyhow::Result<Watch> {
        let is_wanted = move |frame: &Frame| super::passage::concerns(frame, vip);
        let client = self.network.router.capture_if(self.client().namespace.label(), is_wanted)?;
        let director = self.network.lan.capture_if(&self.director().namespace, is_wanted)?;
        let mut servers = Vec::new();
        for (name, (_, host)) in self.hosts.iter().filter(|(_, (of, _))| *of == tier) {
            servers.push(((*name).to_owned(), self.switch(tier)?.capture_if(&host.namespace, is_wanted)?));
        }
        Ok(Watch { client, director, servers })
    }

    fn switch(&self, tier: Tier) -> anyhow::Result<&Bridge> {
        match tier {
            Tier::Near => Ok(&self.network.lan),
            Tier::Far | Tier::Gateways => self.network.farm.as_ref().context("there is no network behind the router"),
        }
    }

    /// Makes the router's wire to the client narrow, as a tunnel on the client's side of the Internet does; `None` = as
    /// wide as all others.
    pub fn narrow(&self, mtu: Option<u32>) -> anyhow::Result<()> {
        Ok(self.network.router.set_mtu(self.client().namespace.label(), mtu.unwrap_or(MTU))?)
    }

    /// Changes a manifest of the director in place, as an editor does. Returns what it was.
    pub fn edit(&self, name: &str, change: impl FnOnce(&str) -> String) -> anyhow::Result<String> {
        let path = self.folder.path().join("vips").join(name);
        let before = fs::read_to_string(&path)?;
        fs::write(&path, change(&before))?;
        Ok(before)
    }

    pub fn client(&self) -> &Host {
        // One of each is asked for.
        &self.network.clients[0]
    }

    pub fn director(&self) -> &Host {
        &self.network.directors[0]
    }

    /// The certificate of [`STORE`].
    pub fn certificate(&self) -> &Made {
        &self.certificate
    }

    /// Where manifests and logs are.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Namespaces, switches and the router among them.
    pub fn size(&self) -> usize {
        // Client, router, two switches, director, pods.
        self.hosts.len() + 6
    }

    fn namespace(&self, host: &str) -> anyhow::Result<&Namespace> {
        if host == "director1" {
            return Ok(&self.director().namespace);
        }
        let (_, found) = self.hosts.get(host).with_context(|| format!("there is no host {host}"))?;
        Ok(&found.namespace)
    }

    fn last_words(&self, log: &str) -> String {
        last_line(&self.folder.path().join("logs").join(log))
    }
}

/// Captures that are under way.
pub struct Watch {
    client: Capture,
    director: Capture,
    servers: Vec<(String, Capture)>,
}

impl Watch {
    /// Ends the captures, all at once, since each of them waits for what is still under way.
    pub fn stop(self) -> Wires {
        std::thread::scope(|scope| {
            let servers: Vec<_> =
                self.servers.into_iter().map(|(name, capture)| (name, scope.spawn(|| capture.stop()))).collect();
            let director = scope.spawn(|| self.director.stop());
            let client = self.client.stop();
            // A thread that panicked saw nothing, which no judge takes for success.
            let servers = servers.into_iter().map(|(name, thread)| (name, thread.join().unwrap_or_default()));
            Wires { client, servers: servers.collect(), director: director.join().unwrap_or_default() }
        })
    }
}

/// This program, without what is set in the environment for it.
fn program(arguments: &[&str]) -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("where is this program?")?);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SLUICEGATE_")) {
        command.env_remove(name);
    }
    // A group of its own: Ctrl-C is for the demo, which then ends them.
    command.args(arguments).env("NO_COLOR", "1").process_group(0);
    Ok(command)
}

fn last_line(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    text.lines().last().unwrap_or("nothing").to_owned()
}

/// What of the director's state is not as it should be.
fn unserved(state: &Value) -> Option<String> {
    let vips = state["vips"].as_array().map(Vec::as_slice).unwrap_or_default();
    for vip in VIP_PAIRS.into_iter().flat_map(VipPair::addresses) {
        let Some(found) = vips.iter().find(|known| known["address"] == vip.to_string()) else {
            return Some(format!("{vip} is not bound"));
        };
        if found["served"] != true {
            return Some(format!("{vip} is not served"));
        }
        let reals = found["services"].as_array().into_iter().flatten();
        let reals = reals.flat_map(|service| service["real_servers"].as_array().into_iter().flatten());
        for real in reals {
            if real["live"]["healthy"] != true || !real["live"]["reason"].is_null() {
                return Some(format!(
                    "{vip}: real server {} is not healthy: {}",
                    real["address"], real["live"]["reason"]
                ));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifests_bind_every_vip_to_every_host() {
        let all: String = VIPS.iter().map(|(_, text)| *text).collect();
        for pair in VIP_PAIRS {
            let service = match pair.tier {
                Tier::Near => "near",
                Tier::Far => "far",
                Tier::Gateways => "gateways",
            };
            for vip in pair.addresses() {
                let line = format!("\"{}\": demo/{service}:{}\n", vip.to_string().replace(':', "-"), pair.method);
                assert_eq!(all.matches(&line).count(), 1, "{line}");
            }
            let net = if pair.tier == Tier::Near { ("192.0.2", "2001:db8:1:") } else { ("203.0.113", "2001:db8:2:") };
            for (name, number) in pair.tier.hosts() {
                for address in [format!("[\"{}.{number}\"]", net.0), format!("[\"{}:{number}\"]", net.1)] {
                    assert_eq!(all.matches(&address).count(), usize::from(*name != SPARE), "{name} {address}");
                }
            }
        }
        let pods = format!("[\"{}\"]", Ipv4Addr::new(203, 0, 113, PODS.1));
        assert!(ROUTES[0].1.contains(&pods) && ROUTES[0].1.contains(&format!("port: {HTTP_PORT}\n")));
    }

    #[test]
    fn what_is_not_served_is_named() {
        assert!(unserved(&serde_json::json!({"vips": []})).is_some_and(|what| what.contains("is not bound")));
        let vips: Vec<Value> = VIP_PAIRS
            .into_iter()
            .flat_map(VipPair::addresses)
            .map(|vip| {
                let real = serde_json::json!({"address": "192.0.2.21", "live": {"healthy": true, "reason": null}});
                serde_json::json!({"address": vip, "served": true, "services": [{"real_servers": [real]}]})
            })
            .collect();
        let mut state = serde_json::json!({ "vips": vips });
        assert_eq!(unserved(&state), None);
        state["vips"][3]["services"][0]["real_servers"][0]["live"]["healthy"] = false.into();
        assert!(unserved(&state).is_some_and(|what| what.contains("is not healthy")));
        state["vips"][1]["served"] = false.into();
        assert!(unserved(&state).is_some_and(|what| what.contains("is not served")));
    }
}
