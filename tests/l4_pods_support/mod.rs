//! Two nodes with two pods each, a director on their link, and a client behind a router. Pods are namespaces behind wires of
//! their node; what is bound lies in a folder of manifests, or in an API server at the router, that director and agents follow.

use rtnetlink::LinkVxlan;
use serde_json::{Value, json};
use sluicegate_apiserver::ApiServer;
use sluicegate_netlab::traffic::{TcpClient, TcpEcho, UdpEcho};
use sluicegate_netlab::{Bridge, Lab, Namespace, Process, WireOptions};
use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Generous: the machines of CI are slow and loaded.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// The VIP's port, and what pods listen on.
pub const PORT: u16 = 80;
const TARGET: u16 = 8080;
/// Behind this port of the VIP are pods in the network of their node.
pub const HOST_PORT: u16 = 81;
const HOST_TARGET: u16 = 8081;

/// How pods are reached.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// Their addresses are known to the router.
    Routed,
    /// By VXLAN between nodes. What pods send elsewhere leaves with the node's address, what belongs to no connection is
    /// dropped, and so is what comes from where the way back is not.
    Overlay,
}

/// What is said of a pod.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum PodState {
    Ready,
    Draining,
    Gone,
}

pub struct Site {
    pub client: Namespace,
    pub router: Namespace,
    pub lan: Bridge,
    pub director: Namespace,
    pub nodes: Vec<Node>,
    /// By node and pod.
    pub pods: [[PodState; 2]; 2],
    /// Nodes whose agents are said to be ready.
    pub agents: [bool; 2],
    pub folder: tempfile::TempDir,
    /// In place of the manifests.
    pub api_server: Option<ApiServer>,
    processes: Vec<Process>,
    _lab: Lab,
}

pub struct Node {
    pub namespace: Namespace,
    pub pods: Vec<Namespace>,
    pub agent: Option<Process>,
    _servers: Vec<Box<dyn std::any::Any + Send + Sync>>,
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

pub fn vips() -> [IpAddr; 2] {
    ["192.0.2.10", "2001:db8::10"].map(ip)
}

/// Bound to the pods of the first node alone.
pub fn vips_of_the_first_node() -> [IpAddr; 2] {
    ["192.0.2.11", "2001:db8::11"].map(ip)
}

impl Site {
    pub fn new(label: &str, network: Network) -> Self {
        Self::with(label, network, false)
    }

    /// Nodes with agents; nothing directs yet.
    pub fn with(label: &str, network: Network, is_cluster: bool) -> Self {
        let mut lab = Lab::new(&format!("sg-pods-{label}")).expect("root");
        let client = lab.namespace("client").expect("made");
        let router = lab.namespace("router").expect("made");
        lab.connect(&client, "eth0", &router, "c", WireOptions::default()).expect("joined");
        let mut lan = lab.bridge("lan").expect("made");
        lan.attach(&router, "n", WireOptions::default()).expect("attached");
        add_addresses(&client, "eth0", ["198.51.100.7/24", "2001:db8:1::7/64"]);
        add_addresses(&router, "c", ["198.51.100.1/24", "2001:db8:1::1/64"]);
        add_addresses(&router, "n", ["203.0.113.1/26", "2001:db8:2::1/64"]);
        // VIPs are neighbours of the router.
        add_addresses(&router, "n", ["192.0.2.1/24", "2001:db8::1/64"]);
        router.become_router().expect("a router");
        add_routes(&client, [("0.0.0.0/0", "198.51.100.1"), ("::/0", "2001:db8:1::1")]);
        let director = lab.namespace("director").expect("made");
        lan.attach(&director, "eth0", WireOptions::default()).expect("attached");
        settle(&director, ["203.0.113.2/26", "2001:db8:2::2/64"]);
        let nodes = (0..2).map(|number| Node::new(&mut lab, &mut lan, number, network)).collect();
        if network == Network::Routed {
            for node in 0..2 {
                let [pods4, pods6] = pod_networks(node);
                add_routes(&router, [(&*pods4, &*node_address(node, false)), (&*pods6, &*node_address(node, true))]);
            }
        }
        let mut site = Self {
            client,
            router,
            lan,
            director,
            nodes,
            pods: [[PodState::Ready; 2]; 2],
            agents: [true; 2],
            folder: tempfile::tempdir().expect("a folder"),
            api_server: None,
            processes: Vec::new(),
            _lab: lab,
        };
        fs::create_dir(site.folder.path().join("manifests")).expect("a folder");
        if is_cluster {
            let address: SocketAddr = "203.0.113.1:6443".parse().expect("an address");
            let server = site.router.run(|| ApiServer::at(address)).expect("an API server");
            fs::write(site.folder.path().join("kubeconfig"), server.kubeconfig()).expect("written");
            site.api_server = Some(server);
        }
        site.write_fixed(&["203.0.113.2", "2001:db8:2::2"]);
        site.write();
        for number in 0..2 {
            site.start_agent(number);
        }
        site
    }

    /// What does not change: the VIPs, the Nodes, the Service and the addresses of the directors.
    pub fn write_fixed(&self, directors: &[&str]) {
        let bound = vips().map(|vip| (vip, "default/web\ndefault/host"));
        let bound = bound.into_iter().chain(vips_of_the_first_node().map(|vip| (vip, "default/first:POD")));
        let data: BTreeMap<_, _> = bound.map(|(vip, bound)| (vip.to_string().replace(':', "-"), bound)).collect();
        let meta = json!({"name": "vips", "namespace": "sluicegate-system"});
        let mut objects = vec![json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": data})];
        let pods = json!([
            {"name": "tcp", "port": PORT, "targetPort": TARGET},
            {"name": "udp", "port": PORT, "targetPort": TARGET, "protocol": "UDP"},
        ]);
        // Pods in the host's network get POD where somebody asks for it.
        let host = json!([{"name": "host", "port": HOST_PORT, "targetPort": HOST_TARGET}]);
        for (name, method, ports) in [("web", "", &pods), ("first", "", &pods), ("host", "POD", &host)] {
            objects.push(json!({"apiVersion": "v1", "kind": "Service",
                "metadata": {"name": name, "namespace": "default", "annotations": {
                    "sluicegate.io/method": method,
                    "sluicegate.io/health-interval": "500ms", "sluicegate.io/health-timeout": "400ms"}},
                "spec": {"ports": ports}}));
        }
        for node in 0..2 {
            let addresses = [false, true].map(|six| json!({"type": "InternalIP", "address": node_address(node, six)}));
            objects.push(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": format!("node{node}")},
                "status": {"addresses": addresses}}));
        }
        for (number, director) in directors.iter().enumerate() {
            objects.push(slice(
                "sluicegate-system",
                "sluicegate-directors",
                number,
                &[json!({"addresses": [director]})],
                &[],
            ));
        }
        self.put("fixed.json", &objects);
    }

    /// Pods and agents, as they are said to be.
    pub fn write(&self) {
        let mut objects = Vec::new();
        for (number, six) in [false, true].into_iter().enumerate() {
            for (service, nodes) in [("web", 2), ("first", 1)] {
                let mut endpoints = Vec::new();
                for node in 0..nodes {
                    for pod in 0..2 {
                        let conditions = match self.pods[node][pod] {
                            PodState::Ready => json!({}),
                            PodState::Draining => json!({"ready": false, "serving": true, "terminating": true}),
                            PodState::Gone => continue,
                        };
                        endpoints.push(endpoint(&pod_address(node, pod, 2, six), node, conditions));
                    }
                }
                let ports =
                    [json!({"name": "tcp", "port": TARGET}), json!({"name": "udp", "port": TARGET, "protocol": "UDP"})];
                objects.push(slice("default", service, number, &endpoints, &ports));
            }
            let hosts: Vec<Value> = (0..2).map(|node| endpoint(&node_address(node, six), node, json!({}))).collect();
            objects.push(slice("default", "host", number, &hosts, &[json!({"name": "host", "port": HOST_TARGET})]));
        }
        let agents: Vec<Value> = (0..2)
            .map(|node| endpoint(&node_address(node, false), node, json!({"ready": self.agents[node]})))
            .collect();
        objects.push(slice("sluicegate-system", "agents", 0, &agents, &[]));
        self.put("pods.json", &objects);
    }

    fn put(&self, name: &str, objects: &[Value]) {
        if let Some(server) = &self.api_server {
            objects.iter().for_each(|object| drop(server.put(object.clone()).expect("put")));
            return;
        }
        let text: String = objects.iter().map(|object| format!("{object}\n")).collect();
        let beside = self.folder.path().join(name);
        fs::write(&beside, text).expect("written");
        fs::rename(beside, self.folder.path().join("manifests").join(name)).expect("renamed into place");
    }

    pub fn start_agent(&mut self, number: usize) {
        let mut command = self.sluicegate(&["backend", "--metrics", "127.0.0.1:10256"]);
        command.args(["--node-name", &format!("node{number}")]);
        if self.api_server.is_none() {
            // What a cluster's is called by default.
            command.args(["--director-service", "sluicegate-system/sluicegate-directors"]);
        }
        self.nodes[number].agent = Some(self.nodes[number].namespace.spawn_process(command).expect("an agent"));
    }

    pub fn start_director(&mut self, host: &Namespace) {
        let mut command = self.sluicegate(&["run", "--role", "director", "--forward", "xdp", "--interface", "eth0"]);
        command.args(["--lame-duck", "0", "--drain", "0", "--metrics", "127.0.0.1:10254"]);
        command.args(["--backend-service", "sluicegate-system/agents"]);
        self.processes.push(host.spawn_process(command).expect("a director"));
    }

    fn sluicegate(&self, arguments: &[&str]) -> Command {
        let log = fs::File::options().create(true).append(true).open(self.folder.path().join("log"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_sluicegate"));
        command.args(arguments);
        match &self.api_server {
            Some(_) => command.arg("--kubeconfig").arg(self.folder.path().join("kubeconfig")),
            None => command.arg("--manifests").arg(self.folder.path().join("manifests")),
        };
        command.env("NO_COLOR", "1").stdin(Stdio::null()).stdout(Stdio::null()).stderr(log.expect("a log"));
        command
    }

    /// What a command of the program prints at a host.
    pub fn run(&self, at: &Namespace, arguments: &[&str]) -> String {
        let path = self.folder.path().join("answer");
        let answer = fs::File::create(&path).expect("a file");
        let mut command = Command::new(env!("CARGO_BIN_EXE_sluicegate"));
        command.args(arguments).env("NO_COLOR", "1").stdin(Stdio::null());
        command.stderr(answer.try_clone().expect("a file")).stdout(answer);
        let mut process = at.spawn_process(command).expect("a command");
        let status = process.wait(PATIENCE).expect("it ends");
        let answer = fs::read_to_string(path).expect("an answer");
        assert!(status.success(), "{arguments:?} on {}: {status}: {answer}", at.label());
        answer
    }

    /// Whether the agent of a node is ready, and why not.
    pub fn readiness(&self, node: usize) -> Result<(), String> {
        use std::io::Read as _;
        let asked = self.nodes[node].namespace.run(|| -> std::io::Result<String> {
            let mut stream = std::net::TcpStream::connect("127.0.0.1:10256")?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        });
        let answer = asked.map_err(|error| error.to_string())?;
        if answer.starts_with("HTTP/1.1 200 ") { Ok(()) } else { Err(answer) }
    }

    /// The name of the pod that answers a new connection.
    pub fn connect(&self, from: &Namespace, to: SocketAddr) -> Result<TcpClient, String> {
        let connected = TcpClient::connect(from, to, Duration::from_secs(5));
        let mut connected = connected.map_err(|error| error.to_string())?;
        connected.echo(b"to the pod and back").map_err(|error| error.to_string())?;
        Ok(connected)
    }

    pub fn wait_until_reached(&self, from: &Namespace, to: SocketAddr) {
        self.wait_until(&format!("{} reaches {to}", from.label()), || self.connect(from, to).map(drop));
    }

    pub fn wait_until(&self, what: &str, mut try_once: impl FnMut() -> Result<(), String>) {
        let begun = Instant::now();
        while let Err(error) = try_once() {
            assert!(begun.elapsed() < PATIENCE, "not: {what}: {error}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Node {
    fn new(lab: &mut Lab, lan: &mut Bridge, number: usize, network: Network) -> Self {
        let namespace = lab.namespace(&format!("node{number}")).expect("made");
        lan.attach(&namespace, "eth0", WireOptions::default()).expect("attached");
        namespace.become_router().expect("a router");
        settle(
            &namespace,
            [format!("{}/26", node_address(number, false)), format!("{}/64", node_address(number, true))],
        );
        let mtu = if network == Network::Overlay { 1430 } else { 1500 };
        let mut pods = Vec::new();
        let mut servers: Vec<Box<dyn std::any::Any + Send + Sync>> = Vec::new();
        for pod in 0..2 {
            let inside = lab.namespace(&format!("pod{number}{pod}")).expect("made");
            let wire = format!("p{pod}");
            lab.connect(&namespace, &wire, &inside, "eth0", WireOptions { mtu, ..WireOptions::default() })
                .expect("joined");
            for (six, prefix) in [(false, 30), (true, 64)] {
                let at = |end| format!("{}/{prefix}", pod_address(number, pod, end, six));
                namespace.add_address(&wire, &at(1)).expect("added");
                inside.add_address("eth0", &at(2)).expect("added");
                let everywhere = if six { "::/0" } else { "0.0.0.0/0" };
                inside.add_route(everywhere, ip(&pod_address(number, pod, 1, six))).expect("a route");
                let name = format!("node{number}-pod{pod}");
                let server = SocketAddr::new(ip(&pod_address(number, pod, 2, six)), TARGET);
                servers.push(Box::new(TcpEcho::start(&inside, &name, server).expect("listens")));
                servers.push(Box::new(UdpEcho::start(&inside, &name, server).expect("serves")));
            }
            pods.push(inside);
        }
        for six in [false, true] {
            let server = SocketAddr::new(ip(&node_address(number, six)), HOST_TARGET);
            servers.push(Box::new(TcpEcho::start(&namespace, &format!("node{number}"), server).expect("listens")));
        }
        if network == Network::Overlay {
            overlay(&namespace, number);
            masquerade(&namespace);
            for interface in ["all", "eth0"] {
                namespace.set_sysctl(&format!("net/ipv4/conf/{interface}/rp_filter"), "1").expect("strict");
            }
        }
        Self { namespace, pods, agent: None, _servers: servers }
    }
}

pub fn node_address(node: usize, six: bool) -> String {
    if six { format!("2001:db8:2::2{node}") } else { format!("203.0.113.{}", 20 + node) }
}

/// The address of a pod's wire, at the node (1) or the pod (2).
pub fn pod_address(node: usize, pod: usize, end: usize, six: bool) -> String {
    match six {
        true => format!("2001:db8:f:{node}{pod}::{end}"),
        false => format!("203.0.113.{}", 128 + 64 * node + 4 * pod + end),
    }
}

fn pod_networks(node: usize) -> [String; 2] {
    [format!("203.0.113.{}/26", 128 + 64 * node), format!("2001:db8:f:{}::/60", node * 10)]
}

fn add_addresses<T: AsRef<str>>(namespace: &Namespace, interface: &str, addresses: [T; 2]) {
    addresses.iter().for_each(|address| namespace.add_address(interface, address.as_ref()).expect("added"));
}

fn add_routes(namespace: &Namespace, routes: [(&str, &str); 2]) {
    for (destination, gateway) in routes {
        namespace.add_route(destination, ip(gateway)).expect("a route");
    }
}

/// Addresses on the link of directors and nodes, and the router as the way to everywhere else.
fn settle<T: AsRef<str>>(namespace: &Namespace, addresses: [T; 2]) {
    add_addresses(namespace, "eth0", addresses);
    add_routes(namespace, [("0.0.0.0/0", "203.0.113.1"), ("::/0", "2001:db8:2::1")]);
}

fn overlay(namespace: &Namespace, number: usize) {
    let other = 1 - number;
    let IpAddr::V4(remote) = ip(&node_address(other, false)) else { unreachable!("nodes meet over IPv4") };
    namespace.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let (connection, handle, _) = rtnetlink::new_connection().expect("a socket");
            let connection = tokio::spawn(connection);
            let tunnel = LinkVxlan::new("vx0", 7).remote(remote).port(8472).mtu(1430).build();
            handle.link().add(tunnel).execute().await.expect("made");
            connection.abort();
        });
    });
    namespace.set_link("vx0", true).expect("up");
    let ends = |end: usize| [format!("203.0.113.{}", 64 + end), format!("2001:db8:e::{end}")];
    let [own4, own6] = ends(number + 1);
    add_addresses(namespace, "vx0", [format!("{own4}/30"), format!("{own6}/64")]);
    let ([pods4, pods6], [other4, other6]) = (pod_networks(other), ends(other + 1));
    add_routes(namespace, [(&*pods4, &*other4), (&*pods6, &*other6)]);
}

/// What a network of pods does to packets of its node, at the least.
fn masquerade(namespace: &Namespace) {
    const RULES: &str = "
        table inet pods {
            chain leaving {
                type nat hook postrouting priority srcnat;
                ip saddr 203.0.113.128/25 ip daddr != 203.0.113.64/26 ip daddr != 203.0.113.128/25 masquerade
                ip6 saddr 2001:db8:f::/48 ip6 daddr != 2001:db8:f::/48 masquerade
            }
            chain passing {
                type filter hook forward priority filter;
                ct state invalid counter drop
            }
            chain coming {
                type filter hook input priority filter;
                ct state invalid counter drop
            }
        }";
    let nft = || Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn();
    let mut nft = namespace.run(nft).expect("nft is installed");
    nft.stdin.take().expect("piped").write_all(RULES.as_bytes()).expect("written");
    assert!(nft.wait().expect("it ends").success(), "nft takes the rules");
}

fn endpoint(address: &str, node: usize, conditions: Value) -> Value {
    json!({"addresses": [address], "nodeName": format!("node{node}"), "conditions": conditions,
        "targetRef": {"kind": "Pod", "name": address.replace([':', '.'], "-")}})
}

fn slice(namespace: &str, service: &str, number: usize, endpoints: &[Value], ports: &[Value]) -> Value {
    let is_six = |endpoint: &Value| endpoint["addresses"][0].as_str().is_some_and(|address| address.contains(':'));
    let family = if endpoints.iter().any(is_six) { "IPv6" } else { "IPv4" };
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": family,
        "metadata": {"name": format!("{service}-{number}"), "namespace": namespace,
            "labels": {"kubernetes.io/service-name": service}},
        "endpoints": endpoints, "ports": ports})
}
