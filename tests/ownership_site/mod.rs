//! Directors that run `sluicegate run` in a laboratory, a host that asks for every VIP all the time, and a record of who
//! claimed which VIP when.

#![allow(dead_code, reason = "every test file uses its own part")]

use rustix::process::Signal;
use sluicegate_apiserver::ApiServer;
use sluicegate_netlab::topology::{DsrLab, DsrTopology};
use sluicegate_netlab::traffic::{NeighborAsker, UdpEcho, UdpPulse};
use sluicegate_netlab::{Capture, Frame, Lab, Namespace, Process, WireOptions, write_pcap};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

/// Generous: the machines of CI are slow and loaded.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// What a lease lasts at most on the clock of a voter.
pub const LEASE: Duration = Duration::from_millis(3_120);
/// How much longer than it should something may take on a loaded machine.
pub const SLACK: Duration = Duration::from_secs(3);
const PORT: u16 = 9000;
/// Where the API server of a cluster is.
const API: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 251);
/// Between two questions for each VIP.
const ASKING: Duration = Duration::from_millis(20);
/// Two claims of one director with a claim of another one in between are two owners, if no more time lies between them: no
/// VIP comes back as fast; who moves one about waits for so long.
pub const TENURE: Duration = Duration::from_secs(1);

/// How the directors are set up.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub directors: u8,
    /// VIPs of each family.
    pub vips: u8,
    pub hold: bool,
    pub failback: bool,
    /// A wire from director to director beside the VIP network.
    pub second_path: Option<WireOptions>,
    /// The clocks of the last director's machine show other times: since boot and monotonic, by time namespace.
    pub shifted_clocks: bool,
    /// Objects come from an API server, and directors find each other by its Leases.
    pub cluster: bool,
    /// So many are not started at first.
    pub late: u8,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            directors: 2,
            vips: 2,
            hold: false,
            failback: false,
            second_path: None,
            shifted_clocks: false,
            cluster: false,
            late: 0,
        }
    }
}

/// One claim: an answer to an ARP request or a neighbour solicitation, or an announcement.
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    pub at: SystemTime,
    pub director: usize,
    pub vip: IpAddr,
}

pub struct Site {
    pub lab: DsrLab,
    pub directors: Vec<Process>,
    pub vips: Vec<IpAddr>,
    pub pulses: BTreeMap<IpAddr, UdpPulse>,
    plan: Plan,
    folder: tempfile::TempDir,
    captures: Vec<Capture>,
    asker: NeighborAsker,
    /// In these times two owners are what was asked for.
    excused: Vec<(SystemTime, SystemTime)>,
    begun: Instant,
    api: Option<ApiServer>,
    _servers: Vec<UdpEcho>,
}

impl Site {
    pub fn new(plan: Plan) -> Self {
        let topology = DsrTopology { directors: plan.directors, ..DsrTopology::default() };
        let mut lab = Lab::dsr("sg-own", topology).expect("a laboratory");
        let vips: Vec<IpAddr> = (0..plan.vips).flat_map(|n| [DsrLab::vip4(n).into(), DsrLab::vip6(n).into()]).collect();
        if let Some(options) = plan.second_path {
            let [one, other] = [0, 1].map(|number: usize| lab.directors[number].namespace.clone());
            lab.lab.connect(&one, "eth1", &other, "eth1", options).expect("a second path");
            one.add_address("eth1", &format!("{}/24", second_address(0))).expect("an address");
            other.add_address("eth1", &format!("{}/24", second_address(1))).expect("an address");
        }
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("vips.yaml"), manifests(&lab, &vips)).expect("manifests");
        std::fs::write(folder.path().join("secret"), "a secret of the laboratory").expect("a secret");
        let api = plan.cluster.then(|| {
            let host = lab.lab.namespace("api").expect("a host");
            lab.lan.attach(&host, "eth0", WireOptions::default()).expect("a port");
            host.add_address("eth0", &format!("{API}/24")).expect("an address");
            let api = host.run(|| ApiServer::at((API, 6443).into())).expect("an API server");
            api.put_yaml(&manifests(&lab, &vips)).expect("objects");
            std::fs::write(folder.path().join("kubeconfig"), api.kubeconfig()).expect("a kubeconfig");
            api
        });
        let mut servers = Vec::new();
        for (index, backend) in lab.backends.iter().enumerate() {
            for vip in &vips {
                backend.namespace.hold_vip(*vip).expect("the VIP on lo");
                let name = format!("backend{index}");
                servers.push(UdpEcho::start(&backend.namespace, &name, (*vip, PORT).into()).expect("a server"));
            }
        }
        // At the switch, what comes in by a director's port is what the director sends, by XDP too.
        let captures = lab.directors.iter().map(|director| {
            let wanted = vips.clone();
            let is_claim = move |frame: &Frame| !frame.outgoing && wanted.iter().any(|vip| frame.claims(*vip));
            lab.lan.capture_if(&director.namespace, is_claim).expect("a capture")
        });
        let captures = captures.collect();
        let asking = lab.lab.namespace("asker").expect("a host");
        lab.lan.attach(&asking, "eth0", WireOptions::default()).expect("a port");
        let host = (Ipv4Addr::new(192, 0, 2, 250), "2001:db8:1::250".parse().expect("an address"));
        let asker = NeighborAsker::start(&asking, "eth0", host, &vips, ASKING).expect("a host that asks");
        let mut site = Self {
            lab,
            directors: Vec::new(),
            vips,
            pulses: BTreeMap::new(),
            plan,
            folder,
            captures,
            asker,
            excused: Vec::new(),
            begun: Instant::now(),
            api,
            _servers: servers,
        };
        site.directors = (0..usize::from(plan.directors - plan.late)).map(|number| site.direct(number)).collect();
        site.wait("every VIP has an owner", |site| site.vips.iter().all(|vip| site.owner(*vip).is_some()));
        for vip in site.vips.clone() {
            let client = &site.lab.clients[0].namespace;
            let pulse = UdpPulse::start(client, (vip, PORT).into(), Duration::from_millis(10)).expect("a client");
            site.pulses.insert(vip, pulse);
        }
        site.wait("every VIP is served", |site| site.pulses.values().all(|pulse| pulse.counts().1 > 20));
        site
    }

    pub fn namespace(&self, director: usize) -> &Namespace {
        &self.lab.directors[director].namespace
    }

    /// Starts a director, anew where it has ended.
    pub fn come_back(&mut self, director: usize) {
        self.directors[director] = self.direct(director);
    }

    /// Starts the next one of those that were not started yet.
    pub fn start_next(&mut self) {
        let next = self.direct(self.directors.len());
        self.directors.push(next);
    }

    /// The API server of a cluster.
    pub fn api(&self) -> &ApiServer {
        self.api.as_ref().expect("a site of a cluster")
    }

    /// The names of the cluster's directors, as this one knows them.
    pub fn members(&self, director: usize) -> Vec<String> {
        let state = self.state(director);
        let members = state["director"]["membership"]["members"].as_array().cloned().unwrap_or_default();
        members.iter().filter_map(|name| Some(name.as_str()?.to_owned())).collect()
    }

    /// Waits until this director knows that other one as one that may hold VIPs.
    pub fn wait_until_fit(&self, director: usize, seen_by: usize) {
        self.wait(&format!("director{director} is fit"), |site| {
            let state = site.state(seen_by);
            let peers = state["director"]["peers"].as_array().cloned().unwrap_or_default();
            peers.iter().any(|peer| {
                peer["name"] == format!("director{director}") && peer["present"] == true && peer["fit"] == true
            })
        });
    }

    /// Moves every VIP to one of two directors, as an operator would.
    pub fn move_all_to(&self, director: usize) {
        let other = 1 - director;
        self.wait_until_fit(director, other);
        let (ok, said) = self.ask(other, &["cordon"]);
        assert!(ok, "{said}\n{}", self.log());
        self.wait(&format!("director{director} serves every VIP"), |site| site.vips_of(director) == site.vips);
        let (ok, said) = self.ask(other, &["uncordon"]);
        assert!(ok, "{said}");
        self.wait_until_fit(other, director);
    }

    /// Waits; meanwhile nothing is done.
    pub fn wait(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let begun = Instant::now();
        while !is_so(self) {
            assert!(begun.elapsed() < PATIENCE, "waited for: {what}\n{:#?}\n{}", self.owners(), self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// All claims since then, in the order in which they were made.
    pub fn claims_since(&self, begun: SystemTime) -> Vec<Claim> {
        let mut claims = Vec::new();
        for (director, capture) in self.captures.iter().enumerate() {
            for frame in capture.frames().iter().filter(|frame| frame.at >= begun) {
                let vips = self.vips.iter().filter(|vip| frame.claims(**vip));
                claims.extend(vips.map(|vip| Claim { at: frame.at, director, vip: *vip }));
            }
        }
        claims.sort_by_key(|claim| claim.at);
        claims
    }

    /// Who claimed the VIP last, within the last second: a loaded machine may not ask for half of one.
    pub fn owner(&self, vip: IpAddr) -> Option<usize> {
        self.owners().get(&vip).copied()
    }

    pub fn owners(&self) -> BTreeMap<IpAddr, usize> {
        let recently = SystemTime::now() - Duration::from_secs(1);
        self.claims_since(recently).iter().map(|claim| (claim.vip, claim.director)).collect()
    }

    /// The VIPs of a director. There must be some.
    pub fn vips_of(&self, director: usize) -> Vec<IpAddr> {
        let owners = self.owners();
        self.vips.iter().copied().filter(|vip| owners.get(vip) == Some(&director)).collect()
    }

    /// When somebody else than `former` first claimed the VIP since then; waits for it.
    pub fn taken_over(&self, vip: IpAddr, former: usize, begun: SystemTime) -> (usize, Duration) {
        let found = |site: &Self| {
            let claims = site.claims_since(begun);
            claims.into_iter().find(|claim| claim.vip == vip && claim.director != former)
        };
        self.wait(&format!("{vip} is taken over from director{former}"), |site| found(site).is_some());
        let claim = found(self).expect("it was there");
        (claim.director, claim.at.duration_since(begun).unwrap_or_default())
    }

    /// That these VIPs of the former owner are taken over within the bounds. Says how long it took, and how long clients
    /// were not answered.
    pub fn assert_taken_over(&self, what: &str, vips: &[IpAddr], former: usize, since: Since, bounds: [Duration; 2]) {
        let [least, most] = bounds;
        assert!(!vips.is_empty(), "{what}: director{former} owns something");
        for vip in vips {
            let (director, after) = self.taken_over(*vip, former, since.wall);
            let pulse = &self.pulses[vip];
            let (_, answered) = pulse.counts();
            self.wait("clients are answered again", |_| pulse.counts().1 > answered + 10);
            let silence = pulse.longest_silence_since(since.at);
            println!(
                "{what}: {vip} from director{former} to director{director} after {} ms, clients not answered for {} ms",
                after.as_millis(),
                silence.as_millis()
            );
            assert!(after >= least && after <= most + SLACK, "{what}: {vip} after {after:?}\n{}", self.log());
            assert!(silence <= most + SLACK, "{what}: {vip}: no answer for {silence:?}\n{}", self.log());
        }
    }

    /// Questions asked and not answered, of all clients together, once nothing is under way any more. Clients rest until
    /// they are told to go on.
    pub fn unanswered(&self) -> u64 {
        self.pulses.values().for_each(|pulse| pulse.rest(true));
        let missing =
            || self.pulses.values().map(|pulse| pulse.counts()).map(|(sent, got)| sent.saturating_sub(got)).sum();
        let (mut last, mut changed) = (missing(), Instant::now());
        while last > 0 && changed.elapsed() < Duration::from_secs(2) {
            std::thread::sleep(Duration::from_millis(20));
            let now = missing();
            if now != last {
                (last, changed) = (now, Instant::now());
            }
        }
        last
    }

    /// That this director claims nothing for so long.
    pub fn assert_silent(&self, what: &str, director: usize, vips: &[IpAddr], for_: Duration) {
        let begun = SystemTime::now();
        std::thread::sleep(for_);
        let claims = self.claims_since(begun);
        let claim = claims.iter().find(|claim| claim.director == director && vips.contains(&claim.vip));
        assert!(claim.is_none(), "{what}: director{director}: {claim:?}\n{}", self.log());
    }

    /// From now until `end`, two owners are allowed.
    pub fn excuse(&mut self, begun: SystemTime) {
        self.excused.push((begun, SystemTime::now()));
    }

    /// That no two directors ever claimed one VIP at a time, and that they were asked all the time.
    pub fn assert_never_two_owners(&self) {
        let rounds = self.asker.rounds();
        let expected = self.begun.elapsed().as_millis() / ASKING.as_millis();
        println!("{rounds} rounds of questions, {expected} at most");
        assert!(u128::from(rounds) * 4 >= expected, "{rounds} of {expected} rounds of questions were asked");
        assert!(self.captures.iter().all(|capture| capture.left_out() == 0), "the captures are complete");
        let claims = self.claims_since(SystemTime::UNIX_EPOCH);
        let is_excused = |at: SystemTime| self.excused.iter().any(|(from, to)| *from <= at && at <= *to);
        let mut last: BTreeMap<(IpAddr, usize), SystemTime> = BTreeMap::new();
        for claim in &claims {
            let own = last.insert((claim.vip, claim.director), claim.at);
            let others = (0..self.captures.len()).filter(|other| *other != claim.director);
            let between = others.filter_map(|other| last.get(&(claim.vip, other))).max();
            if let (Some(own), Some(between)) = (own, between)
                && own < *between
                && claim.at.duration_since(own).is_ok_and(|apart| apart < TENURE)
                && !is_excused(claim.at)
            {
                self.keep_captures();
                let near = claims.iter().filter(|near| {
                    let apart = near.at.duration_since(claim.at).unwrap_or_else(|error| error.duration());
                    near.vip == claim.vip && apart < TENURE
                });
                let near = near.map(|near| format!("{:?} director{}\n", near.at, near.director)).collect::<String>();
                panic!("two directors claim {} at a time:\n{near}\n{}", claim.vip, self.log());
            }
        }
    }

    /// Where somebody can look at what the test saw.
    fn keep_captures(&self) {
        for (director, capture) in self.captures.iter().enumerate() {
            let path = std::env::temp_dir().join(format!("sluicegate-ownership-director{director}.pcap"));
            // A full disk must not hide what went wrong.
            let _ok = write_pcap(&path, &capture.frames());
        }
    }

    /// What a command prints on a director's host, and whether it succeeded.
    pub fn ask(&self, director: usize, arguments: &[&str]) -> (bool, String) {
        let path = self.folder.path().join(format!("answer{director}"));
        let file = std::fs::File::create(&path).expect("a file");
        let mut command = sluicegate(arguments);
        command.stdout(file.try_clone().expect("a file")).stderr(file);
        let mut process = self.namespace(director).spawn_process(command).expect("a command");
        let status = process.wait(PATIENCE).expect("it ends");
        (status.success(), std::fs::read_to_string(path).expect("an answer"))
    }

    /// Virtual IPs and directors as this one sees them; nothing while it does not answer.
    pub fn state(&self, director: usize) -> serde_json::Value {
        let (_, answer) = self.ask(director, &["vips", "-o", "json"]);
        serde_json::from_str(&answer).unwrap_or_default()
    }

    pub fn log_of(&self, director: usize) -> String {
        std::fs::read_to_string(self.log_path(director)).unwrap_or_default()
    }

    pub fn log(&self) -> String {
        (0..self.captures.len()).map(|number| format!("--- director{number}\n{}", self.log_of(number))).collect()
    }

    fn log_path(&self, director: usize) -> PathBuf {
        self.folder.path().join(format!("director{director}.log"))
    }

    fn direct(&self, number: usize) -> Process {
        let path = self.log_path(number);
        let log = std::fs::File::options().create(true).append(true).open(path).expect("a log");
        let directors = usize::from(self.plan.directors);
        let mut command = match self.plan.shifted_clocks && number + 1 == directors {
            true => {
                let mut unshare = Command::new("unshare");
                unshare.args(["--time", "--boottime", "100000000", "--monotonic", "50000000"]);
                unshare.arg(env!("CARGO_BIN_EXE_sluicegate"));
                unshare
            }
            false => Command::new(env!("CARGO_BIN_EXE_sluicegate")),
        };
        command.args(["run", "--role", "director", "--forward", "xdp", "--interface", "eth0"]);
        command.args(["--lame-duck", "2s", "--drain", "1s", "--metrics", "127.0.0.1:10254"]);
        command.args(["--director-name", &format!("director{number}")]);
        for peer in (0..directors).filter(|peer| *peer != number && !self.plan.cluster) {
            for address in self.addresses(peer) {
                command.arg("--director-peer").arg(format!("director{peer}={address}"));
            }
        }
        for address in self.addresses(number) {
            command.arg("--director-listen").arg(address.to_string());
        }
        command.arg("--director-secret-file").arg(self.folder.path().join("secret"));
        command.args(["--on-isolation", if self.plan.hold { "hold" } else { "release" }]);
        if self.plan.failback {
            command.arg("--failback");
        }
        match self.plan.cluster {
            true => command.arg("--kubeconfig").arg(self.folder.path().join("kubeconfig")),
            false => command.arg("--manifests").arg(self.folder.path().join("vips.yaml")),
        };
        command.env("NO_COLOR", "1").stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.lab.directors[number].namespace.spawn_process(command).expect("a director")
    }

    /// Where others find a director.
    fn addresses(&self, director: usize) -> Vec<SocketAddr> {
        let first = (IpAddr::from(self.lab.directors[director].ipv4), 7946).into();
        let second = self.plan.second_path.map(|_| (IpAddr::from(second_address(director)), 7946).into());
        [first].into_iter().chain(second).collect()
    }
}

/// When something was done to a director.
#[derive(Clone, Copy, Debug)]
pub struct Since {
    pub wall: SystemTime,
    pub at: Instant,
}

impl Since {
    pub fn now() -> Self {
        Self { wall: SystemTime::now(), at: Instant::now() }
    }
}

pub fn signal(process: &Process, signal: Signal) {
    process.signal(signal).expect("a signal");
}

pub fn distinct(owners: &BTreeMap<IpAddr, usize>) -> BTreeSet<usize> {
    owners.values().copied().collect()
}

fn second_address(director: usize) -> Ipv4Addr {
    Ipv4Addr::new(203, 0, 113, 11 + u8::try_from(director).expect("few"))
}

fn sluicegate(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluicegate"));
    command.args(arguments).env("NO_COLOR", "1").stdin(Stdio::null());
    command
}

fn manifests(lab: &DsrLab, vips: &[IpAddr]) -> String {
    let mut text =
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: vips, namespace: sluicegate-system}\ndata:\n".to_owned();
    for vip in vips {
        let _ok = writeln!(text, "  \"{}\": shop/web:L2", vip.to_string().replace(':', "-"));
    }
    let _ok = write!(
        text,
        "---\napiVersion: v1\nkind: Service\nmetadata:\n  name: web\n  namespace: shop\n  annotations:\n    \
         sluicegate.io/health-check: icmp\n    sluicegate.io/health-interval: 1s\n    sluicegate.io/health-timeout: 900ms\n\
         spec:\n  ports:\n    - {{name: udp, port: {PORT}, protocol: UDP}}\n"
    );
    for (family, number) in [("IPv4", 4), ("IPv6", 6)] {
        let _ok = write!(
            text,
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: {family}\nmetadata:\n  \
             name: web-{number}\n  namespace: shop\n  labels: {{kubernetes.io/service-name: web}}\nports:\n  \
             - {{name: udp, port: {PORT}, protocol: UDP}}\nendpoints:\n"
        );
        for backend in &lab.backends {
            let address: IpAddr = if number == 4 { backend.ipv4.into() } else { backend.ipv6.into() };
            let _ok = writeln!(text, "  - addresses: [\"{address}\"]");
        }
    }
    text
}
