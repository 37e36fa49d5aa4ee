//! Everyone reaches the VIP: clients on the director and on real servers, machines that are everything at once, networks
//! with small and with large packets, hosts where something is in the way. With the program itself, in a laboratory.

use rustix::net::sockopt;
use sluicegate_netlab::topology::{DsrLab, DsrTopology, Host};
use sluicegate_netlab::traffic::{TcpClient, TcpEcho, UdpEcho, ping, udp_ask};
use sluicegate_netlab::{Frame, Lab, Namespace, Process, WireOptions};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Generous: the machines of CI are slow and loaded.
const PATIENCE: Duration = Duration::from_secs(60);
const TCP_PORT: u16 = 8080;
const UDP_PORT: u16 = 9000;

fn vips() -> [IpAddr; 2] {
    [DsrLab::vip4(0).into(), DsrLab::vip6(0).into()]
}

struct Site {
    lab: DsrLab,
    folder: tempfile::TempDir,
    directors: Vec<Process>,
    servers: (Vec<TcpEcho>, Vec<UdpEcho>),
}

impl Site {
    /// A laboratory in which nothing runs.
    fn new(topology: DsrTopology) -> Self {
        let lab = Lab::dsr("sg-reach", topology).expect("a laboratory");
        let folder = tempfile::tempdir().expect("a folder");
        Self { lab, folder, directors: Vec::new(), servers: (Vec::new(), Vec::new()) }
    }

    /// One director and its real servers, where clients get through.
    fn serving(topology: DsrTopology, method: &str) -> Self {
        let mut site = Self::new(topology);
        for host in site.lab.backends.clone() {
            site.make_real(&host, method, &[]);
        }
        site.bind(method, &site.lab.backends.clone());
        site.direct(0, &[]);
        for vip in vips() {
            site.wait_until_reached(&site.client(), vip);
        }
        site
    }

    /// Puts the VIPs on a host, with what unwraps its tunnels, and has servers answer there.
    fn make_real(&mut self, host: &Host, method: &str, more: &[&str]) {
        let arguments = self.real_server(method, more);
        self.run(&host.namespace, &arguments.iter().map(String::as_str).collect::<Vec<_>>());
        self.serve(host);
    }

    fn real_server(&self, method: &str, more: &[&str]) -> Vec<String> {
        let tunnel = match method {
            "L2" => "none",
            "GUE" => "gue",
            _ => "ipip",
        };
        let mut arguments = vec!["backend", "--once", "--interface", "eth0", "--tunnel", tunnel];
        arguments.extend(more);
        let mut arguments: Vec<String> = arguments.into_iter().map(str::to_owned).collect();
        for vip in vips() {
            arguments.extend(["--vip".to_owned(), vip.to_string()]);
        }
        for director in &self.lab.directors {
            arguments.extend(["--director".to_owned(), director.ipv4.to_string()]);
            arguments.extend(["--director".to_owned(), director.ipv6.to_string()]);
        }
        arguments
    }

    fn serve(&mut self, host: &Host) {
        self.serve_tcp(host);
        for vip in vips() {
            let udp = UdpEcho::start(&host.namespace, host.namespace.label(), (vip, UDP_PORT).into());
            self.servers.1.push(udp.expect("a server"));
        }
    }

    fn serve_tcp(&mut self, host: &Host) {
        for vip in vips() {
            let tcp = TcpEcho::start(&host.namespace, host.namespace.label(), (vip, TCP_PORT).into());
            self.servers.0.push(tcp.expect("a server"));
        }
    }

    /// Binds both VIPs to these hosts.
    fn bind(&self, method: &str, hosts: &[Host]) {
        let path = self.folder.path().join("vips.yaml");
        std::fs::write(path, manifests(method, hosts)).expect("manifests");
    }

    /// Binds nothing any more.
    fn unbind(&self) {
        std::fs::write(self.folder.path().join("vips.yaml"), "").expect("manifests");
    }

    /// The same host with another size of the director's way.
    fn retunnel(&self, host: &Host, method: &str, path_mtu: &str, more: &[&str]) {
        let arguments = self.real_server(method, &[more, &["--path-mtu", path_mtu]].concat());
        self.run(&host.namespace, &arguments.iter().map(String::as_str).collect::<Vec<_>>());
    }

    fn direct(&mut self, number: usize, more: &[&str]) {
        self.direct_as("director", number, more);
    }

    fn direct_as(&mut self, role: &str, number: usize, more: &[&str]) {
        let log = std::fs::File::options().create(true).append(true).open(self.folder.path().join("log"));
        let mut command = sluicegate(&["run", "--role", role, "--forward", "xdp", "--interface", "eth0"]);
        command.args(["--lame-duck", "0", "--drain", "0", "--metrics", "127.0.0.1:10254"]).args(more);
        command.args(["--director-name", &format!("director{number}")]);
        command.arg("--manifests").arg(self.folder.path().join("vips.yaml")).stderr(log.expect("a log"));
        let listen = |number: usize| format!("{}:7946", self.lab.directors[number].ipv4);
        if self.lab.directors.len() > 1 {
            let secret = self.folder.path().join("secret");
            std::fs::write(&secret, "a secret of the laboratory").expect("a secret");
            command.args(["--director-listen", &listen(number), "--director-secret-file"]).arg(secret);
            let peer = 1 - number;
            command.arg("--director-peer").arg(format!("director{peer}={}", listen(peer)));
        }
        let process = self.lab.directors[number].namespace.spawn_process(command).expect("a director");
        self.directors.push(process);
    }

    /// Runs a command of the program that ends by itself, and gives what it printed.
    fn run(&self, at: &Namespace, arguments: &[&str]) -> String {
        let path = self.folder.path().join("answer");
        let answer = std::fs::File::create(&path).expect("a file");
        let mut command = sluicegate(arguments);
        command.stderr(answer.try_clone().expect("a file")).stdout(answer);
        let mut process = at.spawn_process(command).expect("a command");
        let status = process.wait(PATIENCE).expect("it ends");
        let answer = std::fs::read_to_string(path).expect("an answer");
        assert!(status.success(), "{arguments:?} on {}: {status}: {answer}", at.label());
        answer
    }

    fn client(&self) -> Namespace {
        self.lab.clients[0].namespace.clone()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn wait_until_reached(&self, client: &Namespace, vip: IpAddr) {
        self.wait_until(&format!("{} reaches {vip}", client.label()), || connect(client, vip).map(drop));
    }

    fn wait_until(&self, what: &str, mut try_once: impl FnMut() -> Result<(), String>) {
        let begun = Instant::now();
        while let Err(error) = try_once() {
            assert!(begun.elapsed() < PATIENCE, "not: {what}: {error}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

fn sluicegate(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluicegate"));
    command.args(arguments).env("NO_COLOR", "1").stdin(Stdio::null()).stdout(Stdio::null());
    command
}

/// The name of the real server that answers a new connection.
fn connect(client: &Namespace, vip: IpAddr) -> Result<String, String> {
    let connected = TcpClient::connect(client, (vip, TCP_PORT).into(), Duration::from_secs(2));
    let mut connected = connected.map_err(|error| error.to_string())?;
    connected.echo(b"through the director and back").map_err(|error| error.to_string())?;
    Ok(connected.server().to_owned())
}

fn manifests(method: &str, hosts: &[Host]) -> String {
    let [vip4, vip6] = vips();
    let key6 = vip6.to_string().replace(':', "-");
    let mut text = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: vips, namespace: sluicegate-system}}\ndata:\n  \
         \"{vip4}\": shop/web:{method}\n  \"{key6}\": shop/web:{method}\n---\n\
         apiVersion: v1\nkind: Service\nmetadata:\n  name: web\n  namespace: shop\n  annotations:\n    \
         sluicegate.io/health-interval: 500ms\n    sluicegate.io/health-timeout: 400ms\nspec:\n  \
         ports:\n    - {{name: tcp, port: {TCP_PORT}}}\n    - {{name: udp, port: {UDP_PORT}, protocol: UDP}}\n"
    );
    for family in ["IPv4", "IPv6"] {
        let _ok = write!(
            text,
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: {family}\nmetadata:\n  name: web-{}\n  \
             namespace: shop\n  labels: {{kubernetes.io/service-name: web}}\nports:\n  - {{name: tcp, port: {TCP_PORT}}}\n  \
             - {{name: udp, port: {UDP_PORT}, protocol: UDP}}\nendpoints:\n",
            family.to_lowercase()
        );
        for host in hosts {
            let address: IpAddr = if family == "IPv4" { host.ipv4.into() } else { host.ipv6.into() };
            let _ok = writeln!(text, "  - addresses: [\"{address}\"]");
        }
    }
    text
}

const ON_LINK: DsrTopology = DsrTopology {
    clients: 1,
    directors: 1,
    backends: 2,
    backends_on_link: true,
    ipv4: true,
    ipv6: true,
    mtu: 1500,
    farm_mtu: 1500,
};
const ROUTED: DsrTopology = DsrTopology { backends_on_link: false, ..ON_LINK };

/// TCP to all real servers, bulk, UDP, ICMP; from the director's own host, and from a real server to itself.
fn own_clients_reach(method: &str, topology: DsrTopology) -> Site {
    let site = Site::serving(topology, method);
    let director = &site.lab.directors[0].namespace;
    for vip in vips() {
        site.wait_until_reached(director, vip);
        let names: Result<BTreeSet<String>, String> = (0..24).map(|_| connect(director, vip)).collect();
        let names = names.unwrap_or_else(|error| panic!("{method} {vip}: {error}\n{}", site.log()));
        assert_eq!(names.len(), 2, "{method} {vip}: all real servers answer: {names:?}");
        let mut bulk = TcpClient::connect(director, (vip, TCP_PORT).into(), PATIENCE).expect("connected");
        let bytes: Vec<u8> = (0..1 << 20).map(|at: u32| (at % 251) as u8).collect();
        bulk.echo(&bytes).unwrap_or_else(|error| panic!("{method} {vip}: a megabyte: {error}\n{}", site.log()));
        let answer = udp_ask(director, (vip, UDP_PORT).into(), &[7; 1200], PATIENCE);
        assert_eq!(answer.expect("an answer").payload, [7; 1200], "{method} {vip}: UDP");
        ping(director, vip, 56, PATIENCE).unwrap_or_else(|error| panic!("{method} {vip}: ICMP: {error}"));
        for backend in &site.lab.backends {
            let server = connect(&backend.namespace, vip).expect("a real server reaches the VIP");
            assert_eq!(server, backend.namespace.label(), "a real server answers itself");
        }
    }
    site
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn clients_on_the_director_reach_vips_on_its_link() {
    let site = own_clients_reach("L2", ON_LINK);
    let director = &site.lab.directors[0].namespace;
    site.unbind();
    site.wait_until("the way goes with the last VIP", || match director.ifindex("sluicegate0") {
        Ok(_) => Err("sluicegate0 is there".to_owned()),
        Err(_) => Ok(()),
    });
    site.bind("L2", &site.lab.backends);
    for vip in vips() {
        site.wait_until_reached(director, vip);
    }
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn clients_on_the_director_reach_vips_through_tunnels() {
    let mut site = own_clients_reach("TUNNEL", ROUTED);
    site.directors[0].kill().expect("killed");
    let director = site.lab.directors[0].namespace.clone();
    site.run(&director, &["detach"]);
    assert!(director.ifindex("sluicegate0").is_err(), "detach takes the way away");
    let [vip, _] = vips();
    assert!(connect(&director, vip).is_err(), "nobody forwards any more");
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn clients_on_the_director_reach_vips_through_gue() {
    drop(own_clients_reach("GUE", ROUTED));
}

/// The first machine became a real server and then a director, the second one the other way round.
#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn machines_that_are_director_and_real_server_unwrap_each_others_tunnels() {
    let mut site = Site::new(DsrTopology { directors: 2, backends: 0, ..ON_LINK });
    let hosts = site.lab.directors.clone();
    site.bind("TUNNEL", &hosts);
    site.make_real(&hosts[0], "TUNNEL", &[]);
    site.direct(0, &[]);
    site.direct(1, &[]);
    site.wait_until("both directors are attached", || match site.log().matches("packets are taken").count() {
        0 | 1 => Err("not yet".to_owned()),
        _ => Ok(()),
    });
    site.make_real(&hosts[1], "TUNNEL", &[]);
    for vip in vips() {
        let mut seen = BTreeSet::new();
        site.wait_until(&format!("both machines answer for {vip}"), || {
            seen.insert(connect(&site.client(), vip)?);
            if seen.len() == 2 { Ok(()) } else { Err(format!("{seen:?}")) }
        });
        for host in &hosts {
            assert_eq!(connect(&host.namespace, vip).as_deref(), Ok(host.namespace.label()), "its own clients");
        }
    }
    // Each asks the other one, not itself: a server that ends is missed on both machines, and found again.
    let unhealthy = |site: &Site| -> Vec<usize> {
        let count = |host: &Host| site.run(&host.namespace, &["vips"]).matches("unhealthy").count();
        hosts.iter().map(count).collect()
    };
    let last_two = site.servers.0.len() - 2;
    for expected in [vec![0, 0], vec![2, 2], vec![0, 0]] {
        if expected == [2, 2] {
            site.servers.0.truncate(last_two);
        } else if site.servers.0.len() == last_two {
            site.serve_tcp(&hosts[1]);
        }
        site.wait_until(&format!("probes find {expected:?} ports unhealthy"), || match unhealthy(&site) {
            found if found == expected => Ok(()),
            found => Err(format!("{found:?}\n{}", site.run(&hosts[0].namespace, &["vips"]))),
        });
    }
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn one_machine_can_be_everything() {
    let mut site = Site::new(DsrTopology { backends: 0, ..ON_LINK });
    let host = site.lab.directors[0].clone();
    site.make_real(&host, "L2", &[]);
    let l7 = "---\napiVersion: v1\nkind: Service\nmetadata: {name: gateway, namespace: shop}\nspec:\n  ports: [{name: http, port: 80}]\n";
    let mut text = manifests("L2", std::slice::from_ref(&host))
        .replace("shop/web:L2\n", "|\n    shop/web:L2\n    shop/gateway:L2\n");
    text += l7;
    for (family, address) in [("IPv4", IpAddr::from(host.ipv4)), ("IPv6", host.ipv6.into())] {
        let _ok = write!(
            text,
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: {family}\nmetadata:\n  name: gateway-{}\n  \
             namespace: shop\n  labels: {{kubernetes.io/service-name: gateway}}\nports: [{{name: http, port: 80}}]\nendpoints:\n  \
             - addresses: [\"{address}\"]\n",
            family.to_lowercase()
        );
    }
    std::fs::write(site.folder.path().join("vips.yaml"), text).expect("manifests");
    // The last one of a flag counts.
    site.direct_as("all", 0, &["--http", "[::]:80", "--https", "[::]:443", "--workers", "1"]);
    for vip in vips() {
        for client in [site.client(), host.namespace.clone()] {
            site.wait_until_reached(&client, vip);
            site.wait_until("the gateway answers", || {
                http_status(&client, vip).map(|status| assert_eq!(status, "404"))
            });
        }
    }
}

/// The status of what is answered on port 80.
fn http_status(client: &Namespace, vip: IpAddr) -> Result<String, String> {
    let asked = client.run(|| -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&(vip, 80).into(), Duration::from_secs(2))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    });
    let answer = asked.map_err(|error| error.to_string())?;
    answer.split(' ').nth(1).map(str::to_owned).ok_or(answer)
}

fn upload(client: &Namespace, vip: IpAddr, at_most: Duration) -> Result<(), String> {
    let bytes: Vec<u8> = (0..1 << 20).map(|at: u32| (at % 251) as u8).collect();
    let connected = TcpClient::connect(client, (vip, TCP_PORT).into(), at_most);
    connected.and_then(|mut connected| connected.echo(&bytes)).map_err(|error| error.to_string())
}

/// 1500 bytes everywhere, and a tunnel: what clients send has to be smaller. Either the SYN-ACK says so, or an ICMP error.
fn large_segments_fit_the_tunnel(method: &str, more: &[&str]) {
    let site = Site::serving(ROUTED, method);
    let client = site.client();
    let filtered = client.drop_too_big_errors("eth0").expect("a filter");
    for host in site.lab.backends.clone() {
        // Attached anew, in the way that is to be tried; servers on an address that goes go on when it is back.
        site.run(&host.namespace, &["detach"]);
        site.retunnel(&host, method, "1500", more);
    }
    for vip in vips() {
        site.wait_until_reached(&client, vip);
        let sent = upload(&client, vip, PATIENCE);
        assert!(sent.is_ok(), "{method} {vip}: by the SYN-ACK's MSS: {sent:?}\n{}", site.log());
    }
    for host in site.lab.backends.clone() {
        site.retunnel(&host, method, "9000", more);
    }
    for vip in vips() {
        let sent = upload(&client, vip, Duration::from_secs(3));
        assert!(sent.is_err(), "{method} {vip}: a segment of 1500 bytes went through a tunnel of less");
    }
    drop(filtered);
    for vip in vips() {
        let sent = upload(&client, vip, PATIENCE);
        assert!(sent.is_ok(), "{method} {vip}: by the ICMP error: {sent:?}\n{}", site.log());
    }
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn large_segments_fit_tunnels_without_icmp() {
    large_segments_fit_the_tunnel("TUNNEL", &[]);
}

/// With the program that sizes segments attached as on kernels before 6.6.
#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn large_segments_fit_gue_without_icmp() {
    large_segments_fit_the_tunnel("GUE", &["--classic-filters"]);
}

/// A datagram that fills the client's link does not fit the tunnel: the director says what does, and that arrives.
#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn datagrams_shrink_to_the_tunnel() {
    let site = Site::serving(ROUTED, "TUNNEL");
    for (vip, headers, room) in vips().into_iter().zip([28, 48]).zip([1480, 1460]).map(|((a, b), c)| (a, b, c)) {
        let socket = site.client().run(|| never_fragmenting(vip)).expect("a socket");
        let link = [7; 1500];
        let mtu = || if vip.is_ipv4() { sockopt::ip_mtu(&socket) } else { sockopt::ipv6_mtu(&socket) }.expect("an MTU");
        assert_eq!(mtu(), 1500, "{vip}: nobody has said anything yet");
        site.wait_until(&format!("the client learns the MTU towards {vip}"), || {
            // Refused from the moment on when the client knows.
            let sent = socket.send(&link[..1500 - headers]);
            if mtu() == room { Ok(()) } else { Err(format!("{}, {sent:?}", mtu())) }
        });
        let fits = &link[..room as usize - headers];
        let mut answer = [0; 2000];
        site.wait_until(&format!("{} bytes reach {vip}", fits.len()), || {
            let length = socket.send(fits).and_then(|_| socket.recv(&mut answer)).map_err(|error| error.to_string())?;
            if answer[..length].ends_with(fits) { Ok(()) } else { Err(format!("{length} bytes")) }
        });
    }
}

/// A socket whose datagrams are sent whole or not at all.
fn never_fragmenting(vip: IpAddr) -> std::io::Result<UdpSocket> {
    let any: IpAddr = if vip.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    match vip {
        IpAddr::V4(_) => sockopt::set_ip_mtu_discover(&socket, sockopt::Ipv4PathMtuDiscovery::DO)?,
        IpAddr::V6(_) => sockopt::set_ipv6_mtu_discover(&socket, sockopt::Ipv6PathMtuDiscovery::DO)?,
    }
    socket.connect((vip, UDP_PORT))?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    Ok(socket)
}

/// Segments of 8000 bytes and more reach the real server whole.
fn jumbo_frames_are_delivered(method: &str, topology: DsrTopology) {
    let mut site = Site::new(DsrTopology { mtu: 9000, farm_mtu: 9000, ..topology });
    for host in site.lab.backends.clone() {
        site.make_real(&host, method, &["--path-mtu", "9000"]);
    }
    site.bind(method, &site.lab.backends.clone());
    site.direct(0, &[]);
    for vip in vips() {
        site.wait_until_reached(&site.client(), vip);
        let is_large = |frame: &Frame| frame.bytes.len() > 8000;
        let switch = site.lab.farm.as_ref().unwrap_or(&site.lab.lan);
        let to = |host: &Host| switch.capture_if(&host.namespace, move |frame| frame.outgoing && is_large(frame));
        let captures: Vec<_> = site.lab.backends.iter().map(|host| to(host).expect("a capture")).collect();
        let sent = upload(&site.client(), vip, PATIENCE);
        assert!(sent.is_ok(), "{method} {vip}: {sent:?}\n{}", site.log());
        let large: usize = captures.into_iter().map(|capture| capture.stop().len()).sum();
        assert!(large >= 64, "{method} {vip}: {large} frames of more than 8000 bytes");
    }
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn jumbo_frames_are_delivered_on_a_link() {
    jumbo_frames_are_delivered("L2", ON_LINK);
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn jumbo_frames_are_delivered_through_tunnels() {
    jumbo_frames_are_delivered("TUNNEL", ROUTED);
}

/// Another one's XDP program keeps a port from being served, is named, and harms no other port; when it goes, the port is
/// served by itself.
#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn a_port_with_another_program_is_named_and_the_others_are_served() {
    let mut site = Site::new(ON_LINK);
    for host in site.lab.backends.clone() {
        site.make_real(&host, "L2", &[]);
    }
    site.bind("L2", &site.lab.backends.clone());
    let director = site.lab.directors[0].namespace.clone();
    let beside = site.lab.lab.namespace("beside").expect("a host");
    site.lab.lab.connect(&director, "eth1", &beside, "eth0", WireOptions::default()).expect("joined");
    let taken = director.accept_xdp_frames("eth1").expect("another program");
    site.direct(0, &["--interface", "eth1"]);
    for vip in vips() {
        site.wait_until_reached(&site.client(), vip);
    }
    let names = |part: &str| match site.log().lines().any(|line| line.contains("eth1") && line.contains(part)) {
        true => Ok(()),
        false => Err(site.log()),
    };
    site.wait_until("the other program is named", || names("another XDP program is attached already"));
    drop(taken);
    site.wait_until("the port is taken", || names("packets are taken"));
}
