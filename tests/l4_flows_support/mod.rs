//! A director that runs `sluicegate run` in a laboratory, manifests that change under it, and traffic that never rests:
//! connections and sockets that are held and asked all the time, and that say which of them broke or moved.

pub mod traffic;

use sluicegate_netlab::topology::{DsrLab, DsrTopology};
use sluicegate_netlab::traffic::{TcpClient, TcpEcho, UdpEcho};
use sluicegate_netlab::{Lab, Namespace, Process};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Generous: the machines of CI are slow and loaded.
pub const PATIENCE: Duration = Duration::from_secs(60);
pub const TCP_PORT: u16 = 8080;
pub const UDP_PORT: u16 = 9000;

/// One VIP of each family.
pub fn vips() -> [IpAddr; 2] {
    [DsrLab::vip4(0).into(), DsrLab::vip6(0).into()]
}

/// What an endpoint slice says of a real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    pub weight: u16,
    /// It finishes what it has.
    pub terminating: bool,
}

/// Ready, with the share of one.
pub const READY: Member = Member { weight: 1, terminating: false };

/// What the manifests say.
#[derive(Clone, Debug)]
pub struct Manifests {
    pub vips: Vec<IpAddr>,
    /// Real servers by number.
    pub members: BTreeMap<usize, Member>,
    pub annotations: Vec<(&'static str, &'static str)>,
}

impl Manifests {
    /// Both VIPs with these real servers.
    pub fn with(members: impl IntoIterator<Item = usize>) -> Self {
        Self {
            vips: vips().into(),
            members: members.into_iter().map(|number| (number, READY)).collect(),
            annotations: Vec::new(),
        }
    }

    pub fn annotated(mut self, name: &'static str, value: &'static str) -> Self {
        self.annotations.retain(|(known, _)| *known != name);
        self.annotations.push((name, value));
        self
    }

    fn text(&self, lab: &DsrLab) -> String {
        let mut text =
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: vips, namespace: sluicegate-system}\ndata:\n".to_owned();
        for vip in &self.vips {
            let _ok = writeln!(text, "  \"{}\": shop/web:L2", vip.to_string().replace(':', "-"));
        }
        text.push_str(
            "---\napiVersion: v1\nkind: Service\nmetadata:\n  name: web\n  namespace: shop\n  annotations:\n",
        );
        for (name, value) in &self.annotations {
            let _ok = writeln!(text, "    sluicegate.io/{name}: \"{value}\"");
        }
        let weights = self.members.iter().flat_map(|(number, member)| {
            vips().map(|vip| format!("{}={}", lab.backends[*number].address_like(vip), member.weight))
        });
        let _ok = writeln!(text, "    sluicegate.io/weights: \"{}\"", weights.collect::<Vec<_>>().join(","));
        let _ok = writeln!(
            text,
            "spec:\n  ports:\n    - {{name: tcp, port: {TCP_PORT}}}\n    - {{name: udp, port: {UDP_PORT}, protocol: UDP}}"
        );
        for (family, vip) in ["IPv4", "IPv6"].into_iter().zip(vips()) {
            let _ok = write!(
                text,
                "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: {family}\nmetadata:\n  \
                 name: web-{}\n  namespace: shop\n  labels: {{kubernetes.io/service-name: web}}\nports:\n  \
                 - {{name: tcp, port: {TCP_PORT}}}\n  - {{name: udp, port: {UDP_PORT}, protocol: UDP}}\nendpoints:\n",
                family.to_lowercase()
            );
            for (number, member) in &self.members {
                let address = lab.backends[*number].address_like(vip);
                let (ready, terminating) = (!member.terminating, member.terminating);
                let _ok = writeln!(
                    text,
                    "  - addresses: [\"{address}\"]\n    conditions: {{ready: {ready}, serving: true, terminating: {terminating}}}"
                );
            }
        }
        text
    }
}

/// A laboratory with four real servers that hold the VIPs, and one director.
pub struct Site {
    pub lab: DsrLab,
    pub director: Process,
    _tcp: Vec<TcpEcho>,
    _udp: Vec<UdpEcho>,
    folder: tempfile::TempDir,
    flags: Vec<String>,
}

/// Real servers of a [`Site`].
pub const REALS: u8 = 4;

impl Site {
    pub fn new(manifests: &Manifests) -> Self {
        Self::with_flags(manifests, &[])
    }

    /// As `new`, where the director is started with more flags.
    pub fn with_flags(manifests: &Manifests, flags: &[&str]) -> Self {
        let topology = DsrTopology { backends: REALS, ..DsrTopology::default() };
        let lab = Lab::dsr("sg-flows", topology).expect("a laboratory");
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("manifests")).expect("a folder");
        let (mut tcp, mut udp) = (Vec::new(), Vec::new());
        for (number, backend) in lab.backends.iter().enumerate() {
            for vip in vips() {
                backend.namespace.hold_vip(vip).expect("the VIP on lo");
                let name = format!("backend{number}");
                let server = TcpEcho::start(&backend.namespace, &name, (vip, TCP_PORT).into()).expect("a server");
                tcp.push(server);
                udp.push(UdpEcho::start(&backend.namespace, &name, (vip, UDP_PORT).into()).expect("a server"));
            }
        }
        let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        write(&folder, &lab, manifests);
        let director = start(&lab, folder.path(), &flags);
        let site = Self { lab, director, _tcp: tcp, _udp: udp, folder, flags };
        for vip in &manifests.vips {
            site.wait_until_served(*vip);
        }
        site
    }

    pub fn client(&self) -> &Namespace {
        &self.lab.clients[0].namespace
    }

    /// Puts other manifests into place, in one step. Returns when that was done.
    pub fn change(&self, manifests: &Manifests) {
        write(&self.folder, &self.lab, manifests);
    }

    /// The name of the real server that answers a new connection.
    pub fn connect(&self, vip: IpAddr, at_most: Duration) -> Result<TcpClient, String> {
        TcpClient::connect(self.client(), (vip, TCP_PORT).into(), at_most).map_err(|error| error.to_string())
    }

    /// The real servers that so many new connections reach. A connection that fails is left out.
    pub fn reached(&self, vip: IpAddr, connections: usize) -> BTreeSet<String> {
        let connect = |_| Some(self.connect(vip, Duration::from_secs(2)).ok()?.server().to_owned());
        (0..connections).filter_map(connect).collect()
    }

    pub fn wait_until_served(&self, vip: IpAddr) {
        self.wait(&format!("{vip} is served"), || self.connect(vip, Duration::from_secs(2)).is_ok());
    }

    /// Waits until new connections reach these real servers and no others.
    pub fn wait_until_reached(&self, vip: IpAddr, wanted: &[&str]) {
        let wanted: BTreeSet<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
        self.wait(&format!("new connections reach {wanted:?}"), || self.reached(vip, 16 * wanted.len()) == wanted);
    }

    pub fn wait(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !is_so() {
            assert!(begun.elapsed() < PATIENCE, "not so: {what}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Starts a director in the place of one that is gone, with more flags, and waits until its own program takes packets.
    pub fn come_back(&mut self, more: &[&str]) {
        let served = |log: &str| log.matches("packets are taken").count();
        let before = served(&self.log());
        let flags: Vec<String> = self.flags.iter().cloned().chain(more.iter().map(|flag| (*flag).to_owned())).collect();
        self.director = start(&self.lab, self.folder.path(), &flags);
        self.wait("the director is back", || served(&self.log()) > before);
    }

    /// The director's host forgets its neighbours.
    pub fn forget_neighbours(&self) {
        self.lab.directors[0].namespace.forget_neighbours("eth0").expect("forgotten");
    }

    /// The state of a VIP's service as the director shows it.
    pub fn shown(&self) -> serde_json::Value {
        serde_json::from_str(&self.ask(&["vips", "-o", "json"])).expect("JSON")
    }

    /// What a command prints on the director's host.
    pub fn ask(&self, arguments: &[&str]) -> String {
        let path = self.folder.path().join("answer");
        let mut command = sluicegate(arguments);
        command.stdout(std::fs::File::create(&path).expect("a file")).stderr(Stdio::inherit());
        let mut process = self.lab.directors[0].namespace.spawn_process(command).expect("a command");
        let status = process.wait(PATIENCE).expect("it ends");
        let answer = std::fs::read_to_string(path).expect("an answer");
        assert!(status.success(), "{arguments:?}: {status}: {answer}");
        answer
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(log(self.folder.path())).unwrap_or_default()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
    }
}

fn write(folder: &tempfile::TempDir, lab: &DsrLab, manifests: &Manifests) {
    let next = folder.path().join("next");
    std::fs::write(&next, manifests.text(lab)).expect("manifests");
    std::fs::rename(next, folder.path().join("manifests/vips.yaml")).expect("in place");
}

fn log(folder: &Path) -> PathBuf {
    folder.join("director.log")
}

fn sluicegate(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluicegate"));
    command.args(arguments).env("NO_COLOR", "1").stdin(Stdio::null()).stdout(Stdio::null());
    command
}

fn start(lab: &DsrLab, folder: &Path, flags: &[String]) -> Process {
    let log = std::fs::File::options().create(true).append(true).open(log(folder)).expect("a log");
    let mut command = sluicegate(&["run", "--role", "director", "--interface", "eth0"]);
    if !flags.iter().any(|flag| flag == "--forward") {
        command.args(["--forward", "xdp"]);
    }
    command.args(["--lame-duck", "0", "--metrics", "127.0.0.1:10254", "--director-name", "director1"]);
    command.args(flags).arg("--manifests").arg(folder.join("manifests")).stderr(log);
    lab.directors[0].namespace.spawn_process(command).expect("a director")
}
