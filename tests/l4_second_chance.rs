//! A take-over while the set of real servers changes: two directors, held connections through one of them, a real server
//! more, and then the other director, whose flow table knows none of them. With the second chance nothing breaks; without it
//! the connections whose slots changed hands do.

use sluicegate_netlab::topology::{DsrLab, DsrTopology, Host};
use sluicegate_netlab::traffic::{TcpClient, TcpEcho};
use sluicegate_netlab::{Lab, Process};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Generous: the machines of CI are slow and loaded.
const PATIENCE: Duration = Duration::from_secs(60);
const PORT: u16 = 8080;
/// Held connections to each VIP.
const CONNECTIONS: usize = 250;
/// Real servers at first; one more comes.
const REALS: usize = 3;

struct Site {
    lab: DsrLab,
    folder: tempfile::TempDir,
    directors: Vec<Process>,
    _servers: Vec<TcpEcho>,
}

fn vips() -> [IpAddr; 2] {
    [DsrLab::vip4(0).into(), DsrLab::vip6(0).into()]
}

impl Site {
    fn new(second_chance: bool) -> Self {
        let topology =
            DsrTopology { backends_on_link: false, directors: 2, backends: REALS as u8 + 1, ..DsrTopology::default() };
        let lab = Lab::dsr("sg-chance", topology).expect("a laboratory");
        let folder = tempfile::tempdir().expect("a folder");
        let mut servers = Vec::new();
        for (number, backend) in lab.backends.iter().enumerate() {
            make_real(&lab, backend);
            for vip in vips() {
                let name = format!("backend{number}");
                servers.push(TcpEcho::start(&backend.namespace, &name, (vip, PORT).into()).expect("a server"));
            }
        }
        std::fs::write(folder.path().join("secret"), "a secret of the laboratory").expect("a secret");
        let mut site = Self { lab, folder, directors: Vec::new(), _servers: servers };
        site.bind(REALS, second_chance);
        site.directors = (0..2).map(|number| site.direct(number)).collect();
        site
    }

    /// Puts manifests with so many real servers into place, in one step.
    fn bind(&self, reals: usize, second_chance: bool) {
        let next = self.folder.path().join("next");
        std::fs::write(&next, manifests(&self.lab, reals, second_chance)).expect("manifests");
        let folder = self.folder.path().join("manifests");
        std::fs::create_dir_all(&folder).expect("a folder");
        std::fs::rename(next, folder.join("vips.yaml")).expect("in place");
    }

    fn direct(&self, number: usize) -> Process {
        let path = self.folder.path().join(format!("director{number}.log"));
        let log = std::fs::File::options().create(true).append(true).open(path).expect("a log");
        let listen = |number: usize| format!("{}:7946", self.lab.directors[number].ipv4);
        let mut command = sluicegate(&["run", "--role", "director", "--forward", "xdp", "--interface", "eth0"]);
        command.args(["--lame-duck", "0", "--metrics", "127.0.0.1:10254"]);
        command.args(["--director-name", &format!("director{number}"), "--director-listen", &listen(number)]);
        command.arg("--director-peer").arg(format!("director{}={}", 1 - number, listen(1 - number)));
        command.arg("--director-secret-file").arg(self.folder.path().join("secret"));
        command.arg("--manifests").arg(self.folder.path().join("manifests")).stderr(log);
        self.lab.directors[number].namespace.spawn_process(command).expect("a director")
    }

    /// A new connection.
    fn connect(&self, vip: IpAddr) -> Option<TcpClient> {
        let client = &self.lab.clients[0].namespace;
        TcpClient::connect(client, (vip, PORT).into(), Duration::from_secs(10)).ok()
    }

    fn wait_until_reached(&self, vip: IpAddr, reals: usize) {
        let begun = Instant::now();
        loop {
            let found = (0..8 * reals).filter_map(|_| Some(self.connect(vip)?.server().to_owned()));
            if found.collect::<BTreeSet<_>>().len() == reals {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "not all {reals} real servers are reached\n{}", self.log());
        }
    }

    /// What a director, owner or not, shows of the VIPs.
    fn shown(&self, director: usize) -> Option<serde_json::Value> {
        let answer = self.folder.path().join("answer");
        let mut command = sluicegate(&["vips", "-o", "json"]);
        command.stdout(std::fs::File::create(&answer).expect("a file")).stderr(Stdio::null());
        let mut process = self.lab.directors[director].namespace.spawn_process(command).expect("a command");
        process.wait(PATIENCE).ok().filter(std::process::ExitStatus::success)?;
        serde_json::from_str(&std::fs::read_to_string(answer).ok()?).ok()
    }

    /// Waits until a director has so many healthy real servers of each VIP.
    fn wait_until_shown(&self, director: usize, reals: usize) {
        let begun = Instant::now();
        loop {
            let shown = self.shown(director).unwrap_or_default();
            if shown.to_string().matches("\"healthy\":true").count() == 2 * reals {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "director{director} shows {shown:#}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// The directors that own the VIPs, as one of them sees it.
    fn owners(&self, director: usize) -> Vec<Option<usize>> {
        let shown = self.shown(director).unwrap_or_default();
        let number = |vip: &serde_json::Value| vip["owner"].as_str()?.strip_prefix("director")?.parse().ok();
        shown["vips"].as_array().map(|vips| vips.iter().map(number).collect()).unwrap_or_default()
    }

    /// Ends the director that owns the first VIP; the other one may own the second VIP already, and keeps it. What the dead
    /// one left in its kernel would go on forwarding, so its link is cut as soon as the other one owns all.
    fn take_over(&mut self) {
        let owners = self.owners(0);
        let dead = owners.first().copied().flatten().unwrap_or_else(|| panic!("nobody owns it: {owners:?}"));
        self.directors[dead].kill().expect("killed");
        let begun = Instant::now();
        while self.owners(1 - dead) != [Some(1 - dead); 2] {
            assert!(begun.elapsed() < PATIENCE, "director{} does not take over\n{}", 1 - dead, self.log());
            std::thread::sleep(Duration::from_millis(100));
        }
        self.lab.directors[dead].namespace.set_link("eth0", false).expect("cut");
    }

    fn log(&self) -> String {
        let log = |number| std::fs::read_to_string(self.folder.path().join(format!("director{number}.log")));
        (0..2).map(|number| log(number).unwrap_or_default()).collect()
    }
}

fn sluicegate(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluicegate"));
    command.args(arguments).env("NO_COLOR", "1").stdin(Stdio::null()).stdout(Stdio::null());
    command
}

/// All real servers are given the same peers: the whole farm.
fn make_real(lab: &DsrLab, backend: &Host) {
    let mut command = sluicegate(&["backend", "--once", "--interface", "eth0", "--tunnel", "gue"]);
    command.args(["--peer", "203.0.113.0/24", "--peer", "2001:db8:2::/64"]);
    for vip in vips() {
        command.arg("--vip").arg(vip.to_string());
    }
    for director in &lab.directors {
        command.arg("--director").arg(director.ipv4.to_string()).arg("--director").arg(director.ipv6.to_string());
    }
    command.stderr(Stdio::inherit());
    let mut process = backend.namespace.spawn_process(command).expect("a real server");
    let status = process.wait(PATIENCE).expect("it ends");
    assert!(status.success(), "sluicegate backend: {status:?}");
}

/// Without health checks: a real server that answers late on a loaded machine is not to lose its flows here.
fn manifests(lab: &DsrLab, reals: usize, second_chance: bool) -> String {
    let [vip4, vip6] = vips();
    let key6 = vip6.to_string().replace(':', "-");
    let mut text = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: vips, namespace: sluicegate-system}}\ndata:\n  \
         \"{vip4}\": shop/web:GUE\n  \"{key6}\": shop/web:GUE\n---\n\
         apiVersion: v1\nkind: Service\nmetadata:\n  name: web\n  namespace: shop\n  annotations:\n    \
         sluicegate.io/second-chance: \"{second_chance}\"\n    sluicegate.io/health-check: \"off\"\nspec:\n  ports:\n    - {{name: tcp, port: {PORT}}}\n"
    );
    for (family, vip) in [("IPv4", vip4), ("IPv6", vip6)] {
        let _ok = write!(
            text,
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: {family}\nmetadata:\n  name: web-{}\n  \
             namespace: shop\n  labels: {{kubernetes.io/service-name: web}}\nports:\n  - {{name: tcp, port: {PORT}}}\n\
             endpoints:\n",
            family.to_lowercase()
        );
        for backend in &lab.backends[..reals] {
            let _ok = writeln!(text, "  - addresses: [\"{}\"]", backend.address_like(vip));
        }
    }
    text
}

/// How many connections break when VIPs move to the director that has seen none of their flows.
fn broken_by_a_take_over(second_chance: bool) -> usize {
    let mut site = Site::new(second_chance);
    for vip in vips() {
        site.wait_until_reached(vip, REALS);
    }
    (0..2).for_each(|director| site.wait_until_shown(director, REALS));
    let open = |vip| std::iter::repeat_with(move || vip).take(CONNECTIONS);
    let mut held: Vec<TcpClient> = vips()
        .into_iter()
        .flat_map(open)
        .map(|vip| site.connect(vip).unwrap_or_else(|| panic!("no connection to {vip}\n{}", site.log())))
        .collect();
    site.bind(REALS + 1, second_chance);
    (0..2).for_each(|director| site.wait_until_shown(director, REALS + 1));
    for vip in vips() {
        site.wait_until_reached(vip, REALS + 1);
    }
    // On a loaded machine a VIP may move by itself, before it is made to: that counts too.
    let opened = held.len();
    held.retain_mut(|client| client.echo(b"before").is_ok());
    let before = opened - held.len();
    site.take_over();
    for vip in vips() {
        site.wait_until_reached(vip, REALS + 1);
    }
    held.retain_mut(|client| client.echo(b"after").is_ok());
    let broken = opened - held.len();
    println!(
        "second chance {second_chance}: {broken} of {opened} connections broke, {before} of them before the take-over"
    );
    broken
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn with_the_second_chance_a_take_over_breaks_no_connection() {
    assert_eq!(broken_by_a_take_over(true), 0);
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn without_it_connections_whose_slots_changed_hands_break() {
    let broken = broken_by_a_take_over(false);
    assert!(broken > CONNECTIONS / 10, "{broken} broke: this laboratory shows nothing");
}
