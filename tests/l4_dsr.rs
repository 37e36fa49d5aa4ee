//! Direct server return with the program itself, in a laboratory of namespaces: a client, a router, a director that runs
//! `sluicegate run`, real servers. What the client gets is compared with what the wires saw.

use rustix::process::Signal;
use sluicegate_netlab::topology::{DsrLab, DsrTopology};
use sluicegate_netlab::traffic::{TcpClient, TcpEcho, UdpEcho, ping, udp_ask};
use sluicegate_netlab::{Frame, Lab, Namespace, Process};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant, SystemTime};

/// Generous: the machines of CI are slow and loaded.
const PATIENCE: Duration = Duration::from_secs(60);
const TCP_PORT: u16 = 8080;
const UDP_PORT: u16 = 9000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    L2,
    Tunnel,
    Gue,
}

struct Site {
    lab: DsrLab,
    folder: tempfile::TempDir,
    directors: Vec<Process>,
    _servers: (Vec<TcpEcho>, Vec<UdpEcho>),
}

fn vips() -> [IpAddr; 2] {
    [DsrLab::vip4(0).into(), DsrLab::vip6(0).into()]
}

impl Site {
    fn new(method: Method) -> Self {
        Self::with_directors(method, 1)
    }

    fn with_directors(method: Method, directors: u8) -> Self {
        let topology = DsrTopology { backends_on_link: method == Method::L2, directors, ..DsrTopology::default() };
        let lab = Lab::dsr("sg-dsr", topology).expect("a laboratory");
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("vips.yaml"), manifests(&lab, method)).expect("manifests");
        let mut servers = (Vec::new(), Vec::new());
        for (index, backend) in lab.backends.iter().enumerate() {
            make_real(&lab, backend, method);
            for vip in vips() {
                let name = format!("backend{index}");
                servers.0.push(TcpEcho::start(&backend.namespace, &name, (vip, TCP_PORT).into()).expect("a server"));
                servers.1.push(UdpEcho::start(&backend.namespace, &name, (vip, UDP_PORT).into()).expect("a server"));
            }
        }
        std::fs::write(folder.path().join("secret"), "a secret of the laboratory").expect("a secret");
        let directors = (0..lab.directors.len()).map(|number| direct(&lab, number, folder.path())).collect();
        Self { lab, folder, directors, _servers: servers }
    }

    fn client(&self) -> &Namespace {
        &self.lab.clients[0].namespace
    }

    /// The name of the real server that answers a new connection.
    fn connect(&self, vip: IpAddr) -> Result<String, String> {
        let client = TcpClient::connect(self.client(), (vip, TCP_PORT).into(), Duration::from_secs(2));
        let mut client = client.map_err(|error| error.to_string())?;
        let server = client.server().to_owned();
        client.echo(b"through the director and back without it").map_err(|error| error.to_string())?;
        Ok(server)
    }

    fn wait_until_served(&self, vip: IpAddr) {
        let begun = Instant::now();
        loop {
            match self.connect(vip) {
                Ok(_) => return,
                Err(error) if begun.elapsed() > PATIENCE => panic!("{vip} is not served: {error}\n{}", self.log()),
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    /// Starts a director again and waits until it takes part: the other one sees it as fit.
    fn come_back(&mut self, director: usize) {
        self.directors[director] = direct(&self.lab, director, self.folder.path());
        self.wait_until_fit(director, 1 - director);
    }

    /// Waits until this director knows that other one as one that may hold VIPs.
    fn wait_until_fit(&self, director: usize, seen_by: usize) {
        let name = format!("director{director}");
        let is_fit = |peer: &serde_json::Value| peer["name"] == *name && peer["present"] == true && peer["fit"] == true;
        let begun = Instant::now();
        while !self.state(seen_by)["director"]["peers"].as_array().is_some_and(|peers| peers.iter().any(is_fit)) {
            assert!(begun.elapsed() < PATIENCE, "{name} is not fit\n{}", self.log());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// The VIPs that a director owns, as it says itself.
    fn vips_of(&self, director: usize) -> BTreeSet<IpAddr> {
        let (state, name) = (self.state(director), format!("director{director}"));
        let owned = state["vips"].as_array().expect("VIPs").iter().filter(|vip| vip["owner"] == *name);
        owned.map(|vip| vip["address"].as_str().and_then(|text| text.parse().ok()).expect("an address")).collect()
    }

    /// What a director shows; nothing while it does not answer.
    fn state(&self, director: usize) -> serde_json::Value {
        let (_, answer) = self.ask_at(director, &["vips", "-o", "json"]);
        serde_json::from_str(&answer).unwrap_or_default()
    }

    /// What a command prints on the first director's host.
    fn ask(&self, arguments: &[&str]) -> String {
        let (status, answer) = self.ask_at(0, arguments);
        assert!(status.success(), "{arguments:?}: {status}: {answer}");
        answer
    }

    fn ask_at(&self, director: usize, arguments: &[&str]) -> (ExitStatus, String) {
        let path = self.folder.path().join("answer");
        let mut command = sluicegate(arguments);
        command.stdout(std::fs::File::create(&path).expect("a file")).stderr(Stdio::inherit());
        let mut process = self.lab.directors[director].namespace.spawn_process(command).expect("a command");
        let status = process.wait(PATIENCE).expect("it ends");
        (status, std::fs::read_to_string(path).expect("an answer"))
    }

    fn log(&self) -> String {
        let logs = (0..self.directors.len()).map(|number| log(self.folder.path(), number));
        logs.map(|path| std::fs::read_to_string(path).unwrap_or_default()).collect()
    }
}

fn log(folder: &Path, director: usize) -> PathBuf {
    folder.join(format!("director{director}.log"))
}

fn sluicegate(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluicegate"));
    command.args(arguments).env("NO_COLOR", "1").stdin(Stdio::null()).stdout(Stdio::null());
    command
}

fn direct(lab: &DsrLab, number: usize, folder: &Path) -> Process {
    let log = std::fs::File::options().create(true).append(true).open(log(folder, number)).expect("a log");
    let mut command = sluicegate(&["run", "--role", "director", "--forward", "xdp", "--interface", "eth0"]);
    command.args([
        "--lame-duck",
        "2s",
        "--drain",
        "1s",
        "--metrics",
        "127.0.0.1:10254",
        "--director-name",
        &format!("director{number}"),
    ]);
    let listen = |number: usize| format!("{}:7946", lab.directors[number].ipv4);
    for peer in (0..lab.directors.len()).filter(|peer| *peer != number) {
        command.arg("--director-peer").arg(format!("director{peer}={}", listen(peer)));
    }
    if lab.directors.len() > 1 {
        command.args(["--director-listen", &listen(number), "--director-secret-file"]).arg(folder.join("secret"));
    }
    command.arg("--manifests").arg(folder.join("vips.yaml")).stderr(log);
    lab.directors[number].namespace.spawn_process(command).expect("a director")
}

/// Under L2 the VIP on `lo` is all that it takes; a tunnel needs somebody to unwrap it.
fn make_real(lab: &DsrLab, backend: &sluicegate_netlab::topology::Host, method: Method) {
    if method == Method::L2 {
        for vip in vips() {
            backend.namespace.hold_vip(vip).expect("the VIP on lo");
        }
        return;
    }
    let director = &lab.directors[0];
    let tunnel = if method == Method::Gue { "gue" } else { "ipip" };
    let mut command = sluicegate(&["backend", "--once", "--interface", "eth0", "--tunnel", tunnel]);
    for vip in vips() {
        command.arg("--vip").arg(vip.to_string());
    }
    command.arg("--director").arg(director.ipv4.to_string()).arg("--director").arg(director.ipv6.to_string());
    command.stderr(Stdio::inherit());
    let mut process = backend.namespace.spawn_process(command).expect("a real server");
    let status = process.wait(PATIENCE).expect("it ends");
    assert!(status.success(), "sluicegate backend: {status:?}");
}

fn manifests(lab: &DsrLab, method: Method) -> String {
    let name = match method {
        Method::L2 => "L2",
        Method::Tunnel => "TUNNEL",
        Method::Gue => "GUE",
    };
    let [vip4, vip6] = vips();
    let key6 = vip6.to_string().replace(':', "-");
    let mut text = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: vips, namespace: sluicegate-system}}\ndata:\n  \
         \"{vip4}\": shop/web:{name}\n  \"{key6}\": shop/web:{name}\n---\n\
         apiVersion: v1\nkind: Service\nmetadata:\n  name: web\n  namespace: shop\n  annotations:\n    \
         sluicegate.io/health-interval: 1s\n    sluicegate.io/health-timeout: 1s\nspec:\n  \
         ports:\n    - {{name: tcp, port: {TCP_PORT}}}\n    - {{name: udp, port: {UDP_PORT}, protocol: UDP}}\n"
    );
    for (family, address) in [("IPv4", 4), ("IPv6", 6)] {
        let _ok = write!(
            text,
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: {family}\nmetadata:\n  name: web-{address}\n  \
             namespace: shop\n  labels: {{kubernetes.io/service-name: web}}\nports:\n  - {{name: tcp, port: {TCP_PORT}}}\n  \
             - {{name: udp, port: {UDP_PORT}, protocol: UDP}}\nendpoints:\n"
        );
        for backend in &lab.backends {
            let address: IpAddr = if address == 4 { backend.ipv4.into() } else { backend.ipv6.into() };
            let _ok = writeln!(text, "  - addresses: [\"{address}\"]");
        }
    }
    text
}

/// TCP, UDP and ICMP of a client through the VIP, both families, all real servers, and no reply by way of the director.
fn everything_flows_and_replies_bypass_the_director(method: Method) {
    let site = Site::new(method);
    for vip in vips() {
        site.wait_until_served(vip);
        // The switch sees what the director sends, which XDP hides from captures on its own host.
        let sent = |frame: &Frame| !frame.outgoing && frame.packet().is_some();
        let capture = site.lab.lan.capture_if(&site.lab.directors[0].namespace, sent).expect("a capture");
        let mut seen = BTreeSet::new();
        for _ in 0..40 {
            seen.insert(site.connect(vip).unwrap_or_else(|error| panic!("{method:?} {vip}: {error}\n{}", site.log())));
        }
        assert_eq!(seen.len(), 2, "{method:?} {vip}: both real servers answer: {seen:?}");
        let answer = udp_ask(site.client(), (vip, UDP_PORT).into(), b"ask", Duration::from_secs(10));
        assert!(answer.is_ok(), "{method:?} {vip}: UDP: {answer:?}");
        let sent = capture.stop();
        // Its own answers for neighbours come from the VIP too.
        let replied = sent.iter().filter(|frame| frame.ip_source() == Some(vip) && frame.ports().is_some()).count();
        assert_eq!(replied, 0, "{method:?} {vip}: replies by way of the director");
        assert!(sent.len() >= 40, "{method:?} {vip}: {} frames came from the director", sent.len());
        let echo = ping(site.client(), vip, 56, Duration::from_secs(10));
        assert!(echo.is_ok(), "{method:?} {vip}: ICMP: {echo:?}");
    }
    what_flows_is_shown(&site);
}

/// `vips` shows what flows: both VIPs are served, and every real server had packets over TCP.
fn what_flows_is_shown(site: &Site) {
    let begun = Instant::now();
    loop {
        let state: serde_json::Value = serde_json::from_str(&site.ask(&["vips", "-o", "json"])).expect("JSON");
        let vips = state["vips"].as_array().expect("VIPs");
        assert_eq!(vips.len(), 2, "{state:#}");
        let served = vips.iter().all(|vip| vip["served"] == true);
        let text = state.to_string();
        let (healthy, unhealthy) = (text.matches("\"healthy\":true").count(), text.contains("\"healthy\":false"));
        let idle = text.matches("\"packets\":0").count();
        // Four real servers of TCP had some; of those of UDP, whoever was picked.
        if served && healthy == 8 && !unhealthy && idle <= 2 {
            return;
        }
        // Counters are read once a second.
        assert!(begun.elapsed() < PATIENCE, "{state:#}");
        std::thread::sleep(Duration::from_millis(500));
    }
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn l2_delivers_and_replies_bypass_the_director() {
    everything_flows_and_replies_bypass_the_director(Method::L2);
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn tunnels_deliver_and_replies_bypass_the_director() {
    everything_flows_and_replies_bypass_the_director(Method::Tunnel);
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn gue_delivers_and_replies_bypass_the_director() {
    everything_flows_and_replies_bypass_the_director(Method::Gue);
}

/// How a director comes to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Without warning.
    Killed,
    /// By SIGTERM.
    Told,
}

/// Another director announces the VIPs, one owner at a time, and connections that are open go on: both have equal rings.
fn is_replaced_and_connections_go_on(end: End) {
    let mut site = Site::with_directors(Method::L2, 2);
    for vip in vips() {
        site.wait_until_served(vip);
    }
    let mut open: Vec<TcpClient> = vips()
        .into_iter()
        .cycle()
        .take(20)
        .map(|vip| {
            TcpClient::connect(site.client(), (vip, TCP_PORT).into(), Duration::from_secs(10)).expect("connected")
        })
        .collect();
    for (director, other) in [(0, 1), (1, 0)] {
        site.wait_until_fit(director, other);
    }
    let mut taken_over = BTreeSet::new();
    for killed in 0..2 {
        // At the switch, what comes in is what the host sends.
        let claims = |frame: &Frame| !frame.outgoing && vips().into_iter().any(|vip| frame.claims(vip));
        let at = |director: usize| site.lab.lan.capture_if(&site.lab.directors[director].namespace, claims);
        let (dead, survivor) = (at(killed).expect("a capture"), at(1 - killed).expect("a capture"));
        // What the survivor has owned all along it claims as well: by answers, and by announcements that it repeats.
        let owned = site.vips_of(killed);
        let begun = SystemTime::now();
        match end {
            End::Killed => {
                site.directors[killed].kill().expect("killed");
            }
            End::Told => site.directors[killed].signal(Signal::TERM).expect("told"),
        }
        for vip in owned {
            let frame = survivor.wait_for(|frame| frame.claims(vip) && frame.at > begun, PATIENCE);
            let frame = frame.unwrap_or_else(|| panic!("{vip} is not taken over\n{}", site.log()));
            let after = frame.at.duration_since(begun).unwrap_or_default();
            println!("director{killed} {end:?}: {vip} announced after {} ms", after.as_millis());
            taken_over.insert(vip);
        }
        for vip in vips() {
            site.wait_until_served(vip);
        }
        for client in &mut open {
            let echoed = client.echo(b"still here");
            assert!(echoed.is_ok(), "director{killed} {end:?}: {echoed:?}\n{}", site.log());
        }
        let (dead, survivor) = (dead.stop(), survivor.stop());
        for vip in vips() {
            let times = |frames: &[Frame]| -> Vec<_> {
                frames.iter().filter(|frame| frame.claims(vip)).map(|frame| frame.at).collect()
            };
            let (last, first) = (times(&dead).into_iter().max(), times(&survivor).into_iter().min());
            if let (Some(last), Some(first)) = (last, first) {
                assert!(last < first, "director{killed} {end:?}: two directors claim {vip} at a time");
            }
        }
        site.directors[killed].wait(PATIENCE).expect("it has ended");
        site.come_back(killed);
    }
    assert_eq!(taken_over, vips().into_iter().collect(), "each VIP was taken over\n{}", site.log());
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn a_killed_director_is_replaced_and_connections_go_on() {
    is_replaced_and_connections_go_on(End::Killed);
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn a_director_that_is_told_to_end_hands_over() {
    is_replaced_and_connections_go_on(End::Told);
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn detach_leaves_nothing_of_a_killed_director() {
    let mut site = Site::new(Method::L2);
    let [vip, _] = vips();
    site.wait_until_served(vip);
    site.directors[0].kill().expect("killed");
    assert!(site.ask(&["detach"]).contains("removed the director's programs and tables"));
    assert_eq!(site.ask(&["detach"]), "nothing to remove\n");
    assert!(site.connect(vip).is_err(), "nobody forwards any more");
}
