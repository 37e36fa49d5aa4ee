//! The installation on a real API server: the plain manifest and the samples are applied as they are, and gateway and director run
//! in a laboratory with what their containers have: user, capabilities, account, flags. There is no kubelet and no
//! controller, so the test makes the EndpointSlices, of servers in the laboratory.

mod cluster_support;
mod deploy_support;

use cluster_support::{Cluster, Request};
use deploy_support::container::{Container, Pod, capability_bits, lead_to_port};
use deploy_support::{Workload, deploy, list, objects, of_kind, plain, reference, workloads};
use serde_json::{Value, json};
use sluicegate_netlab::topology::{DsrLab, DsrTopology, Host};
use sluicegate_netlab::traffic::{UdpEcho, udp_ask};
use sluicegate_netlab::{Lab, Namespace, WireOptions};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Generous: the machines of CI are slow and loaded.
const PATIENCE: Duration = Duration::from_secs(60);
const SYSTEM: &str = "sluicegate-system";

/// An HTTP server that answers everything with its name.
fn serve(namespace: &Namespace, name: &str, address: SocketAddr) -> u16 {
    let listener = namespace.run(|| TcpListener::bind(address)).expect("an address");
    let port = listener.local_addr().expect("it is bound").port();
    let body = name.to_owned();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            std::thread::spawn(move || {
                let (mut head, mut piece) = (Vec::new(), [0; 4096]);
                while let Ok(length @ 1..) = stream.read(&mut piece) {
                    head.extend_from_slice(&piece[..length]);
                    if head.ends_with(b"\r\n\r\n") {
                        head.clear();
                        if stream.write_all(answer.as_bytes()).is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    port
}

#[track_caller]
fn until(what: &str, is_so: impl Fn() -> Result<(), String>) {
    let begun = Instant::now();
    while let Err(why) = is_so() {
        assert!(begun.elapsed() < PATIENCE, "{what}: {why}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn is(actual: impl std::fmt::Debug + PartialEq<str>, wanted: &str) -> Result<(), String> {
    if actual == *wanted { Ok(()) } else { Err(format!("{actual:?} instead of {wanted:?}")) }
}

/// What stands for a cluster, and where its parts run.
struct Site {
    cluster: Cluster,
    lab: DsrLab,
    folder: tempfile::TempDir,
    manifest: Vec<Value>,
    samples: Vec<Value>,
    /// A pod's network behind the node of the gateways.
    pod: Namespace,
    _resolver: Vec<UdpEcho>,
}

impl Site {
    fn new() -> Self {
        let cluster = Cluster::real();
        let manifest = plain();
        let mut samples = Vec::new();
        // Its namespace first, as `kubectl apply -f` of the folder is to find it.
        for file in ["namespace", "hosts", "paths", "tls", "virtual-ips", "wildcard"] {
            samples.extend(objects(&deploy(&format!("samples/{file}.yaml"))));
        }
        for object in manifest.iter().chain(&samples) {
            cluster.apply_strictly(object);
        }
        let mut lab =
            Lab::dsr("sg-deploy", DsrTopology { backends: 3, ..DsrTopology::default() }).expect("a laboratory");
        let folder = tempfile::tempdir().expect("a folder");
        let pod = make_pod(&mut lab);
        let mut site = Self { cluster, lab, folder, manifest, samples, pod, _resolver: Vec::new() };
        site.make_nodes();
        site.make_endpoints();
        site.make_parts_of_the_installation_known();
        site
    }

    fn workload(&self, name: &str) -> Workload<'_> {
        workloads(&self.manifest).into_iter().find(|one| one.name == name).expect("a workload")
    }

    /// The node where the gateway is a pod.
    fn gateway_node(&self) -> &Host {
        &self.lab.backends[2]
    }

    /// What the cluster would write about pods of the installation, and an address for the gateways, which the operator asks for.
    fn make_parts_of_the_installation_known(&self) {
        let service = |name: &str| of_kind(&self.manifest, "Service").find(|one| one["metadata"]["name"] == name);
        for (name, address, node, pod) in [
            ("sluicegate-directors", self.lab.directors[0].ipv4.to_string(), "edge1", "director"),
            ("sluicegate-backends", self.gateway_node().ipv4.to_string(), "node2", "backend"),
            ("sluicegate-gateway", POD.to_owned(), "node2", "gateway"),
        ] {
            let service = service(name).expect("a Service of the manifest");
            let workload = workloads(&self.manifest).into_iter().find(|one| one.container["name"] == pod);
            let workload = workload.expect("a workload");
            let ports = list(&service["spec"]["ports"]).iter().map(|port| {
                let declared = list(&workload.container["ports"]).iter().find(|one| one["name"] == port["targetPort"]);
                json!({"name": port["name"], "port": declared.expect("a port")["containerPort"], "protocol": "TCP"})
            });
            self.cluster.apply_strictly(&json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {"namespace": SYSTEM, "name": format!("{name}-1"), "labels": {"kubernetes.io/service-name": name}},
                "addressType": "IPv4", "ports": ports.collect::<Vec<_>>(),
                "endpoints": [{"addresses": [address], "conditions": {"ready": true}, "nodeName": node,
                    "targetRef": {"kind": "Pod", "namespace": SYSTEM, "name": format!("{pod}-1")}}]}));
        }
        let mut gateways = service("sluicegate-gateway").expect("a Service").clone();
        gateways["metadata"]["annotations"] = json!({"sluicegate.io/vip": GATEWAY_VIP});
        self.cluster.apply_strictly(&gateways);
    }

    fn make_nodes(&self) {
        let hosts = self.lab.backends.iter().enumerate().map(|(number, host)| (format!("node{number}"), host));
        for (name, host) in hosts.chain([("edge1".to_owned(), &self.lab.directors[0])]) {
            let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
            self.cluster.apply_strictly(&node);
            let mut seen = node;
            seen["status"] = json!({"addresses": [{"type": "InternalIP", "address": host.ipv4.to_string()}]});
            self.cluster.apply_status(&seen);
        }
    }

    /// A server for each Service of the samples, and the slice that the cluster would make.
    fn make_endpoints(&mut self) {
        let hosts: Vec<Host> = self.lab.backends[..2].to_vec();
        for service in of_kind(&self.samples, "Service") {
            let name = service["metadata"]["name"].as_str().expect("a name");
            let vips = service["metadata"]["annotations"]["sluicegate.io/vip"].as_str().unwrap_or_default();
            let vips: Vec<IpAddr> = vips.split(',').filter_map(|vip| vip.parse().ok()).collect();
            let mut ports = Vec::new();
            let mut addresses: Vec<&Host> = vec![&hosts[1]];
            if vips.is_empty() {
                let port = serve(&hosts[1].namespace, name, (hosts[1].ipv4, 0).into());
                ports.push(json!({"name": "http", "port": port, "protocol": "TCP"}));
            } else {
                addresses = hosts.iter().collect();
                for port in list(&service["spec"]["ports"]) {
                    let (number, protocol) = (port["port"].clone(), port["protocol"].as_str().unwrap_or("TCP"));
                    ports.push(json!({"name": port["name"], "port": number, "protocol": protocol}));
                    let number = u16::try_from(number.as_u64().expect("a port")).expect("a port");
                    for (host, vip) in hosts.iter().flat_map(|host| vips.iter().map(move |vip| (host, *vip))) {
                        let _held = host.namespace.hold_vip(vip);
                        match protocol {
                            "TCP" => drop(serve(&host.namespace, name, (vip, number).into())),
                            _ => self
                                ._resolver
                                .push(UdpEcho::start(&host.namespace, name, (vip, number).into()).expect("a server")),
                        }
                    }
                }
            }
            for family in ["IPv4", "IPv6"] {
                let of = |host: &&Host| if family == "IPv4" { host.ipv4.to_string() } else { host.ipv6.to_string() };
                let endpoints: Vec<Value> = addresses
                    .iter()
                    .map(|host| json!({"addresses": [of(host)], "conditions": {"ready": true}}))
                    .collect();
                if family == "IPv4" || vips.iter().any(IpAddr::is_ipv6) {
                    self.cluster.apply_strictly(&json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                        "metadata": {"namespace": "samples", "name": format!("{name}-{}", family.to_lowercase()),
                            "labels": {"kubernetes.io/service-name": name}},
                        "addressType": family, "ports": ports, "endpoints": endpoints}));
                }
            }
        }
    }

    /// Starts a container of the manifest in the network of that node or pod.
    fn start(&self, name: &str, namespace: &Namespace, node: &str) -> Container {
        let (port, authority) = self.cluster.address();
        lead_to_port(namespace, port);
        let folder = self.folder.path().join(name);
        let volumes = folder.join("volumes/etc");
        for path in ["sluicegate", "sluicegate-secret"] {
            std::fs::create_dir_all(volumes.join(path)).expect("a folder");
        }
        std::fs::write(volumes.join("sluicegate/config.yaml"), CONFIG).expect("a file");
        std::fs::write(volumes.join("sluicegate-secret/secret"), "a secret of the laboratory").expect("a file");
        let workload = self.workload(name);
        let account = workload.pod["serviceAccountName"].as_str().expect("an account");
        let token = self.cluster.token(SYSTEM, account);
        let pod = Pod { namespace, node, folder, token, authority, port };
        let container = Container::start(&workload, &pod);
        container.wait_for(if name.ends_with("backend") { "attached" } else { "the first state is served" });
        assert_eq!(container.status("CapEff"), capability_bits(workload.container), "{name}");
        assert_eq!(container.status("CapPrm"), capability_bits(workload.container), "{name}");
        container
    }

    /// What curl prints in the client's namespace.
    fn curl(&self, arguments: &[&str]) -> String {
        let path = self.folder.path().join("answer");
        let mut command = Command::new("curl");
        command.args(["-sS", "--max-time", "10"]).args(arguments).stdin(Stdio::null()).stderr(Stdio::null());
        command.stdout(std::fs::File::create(&path).expect("a file"));
        let mut process = self.lab.clients[0].namespace.spawn_process(command).expect("curl");
        let status = process.wait(PATIENCE).expect("it ends");
        let answer = std::fs::read_to_string(&path).expect("text");
        if status.success() { answer } else { format!("curl: {status}: {answer}") }
    }

    /// A host at the gateway's pod.
    fn at_gateway(&self, host: &str, path: &str) -> String {
        let address = format!("{host}:8080:{}", POD);
        self.curl(&["--resolve", &address, &format!("http://{host}:8080{path}")])
    }

    /// The same over TLS, verified by that certificate alone.
    fn over_tls(&self, host: &str, certificate: &str) -> String {
        let path = self.folder.path().join(format!("{host}.crt"));
        std::fs::write(&path, certificate).expect("a certificate");
        let address = format!("{host}:8443:{POD}");
        let path = path.to_str().expect("a path");
        self.curl(&["--resolve", &address, "--cacert", path, &format!("https://{host}:8443/")])
    }

    fn shown(&self, kind: &str, name: &str) -> Value {
        self.cluster.get(kind, "samples", name)["status"]["loadBalancer"]["ingress"].clone()
    }
}

/// The gateway's pod, behind its node, and the address by which clients reach it.
const POD: &str = "203.0.113.2";
const GATEWAY_VIP: &str = "192.0.2.103";

/// A pod's network, joined to the node of the gateways; the router knows the way, as in a cluster without an overlay.
fn make_pod(lab: &mut DsrLab) -> Namespace {
    let node = lab.backends[2].clone();
    let pod = lab.lab.namespace("pod").expect("a namespace");
    lab.lab.connect(&node.namespace, "pod0", &pod, "eth0", WireOptions::default()).expect("a wire");
    node.namespace.add_address("pod0", "203.0.113.1/30").expect("an address");
    pod.add_address("eth0", "203.0.113.2/30").expect("an address");
    pod.add_route("0.0.0.0/0", IpAddr::from([203, 0, 113, 1])).expect("a route");
    node.namespace.become_router().expect("a router");
    lab.router.add_route("203.0.113.0/30", node.ipv4.into()).expect("a route");
    pod
}

/// What an operator says in the ConfigMap: the pool that the samples ask for.
const CONFIG: &str = "vip-pool: ['192.0.2.100-192.0.2.109', '2001:db8:1::100/124']\nlame-duck: 0s\ndrain: 1s\n";

/// Certificates of the samples' hosts, by host.
fn make_certificates(cluster: &Cluster) -> BTreeMap<&'static str, String> {
    let hosts = ["bank", "login", "admin"];
    let made = hosts.map(|name| {
        let host: &'static str = ["bank.example", "login.example", "admin.example"]
            .into_iter()
            .find(|host| host.starts_with(name))
            .expect("a host");
        let made = rcgen::generate_simple_self_signed([host.to_owned()]).expect("a certificate");
        cluster.apply_strictly(&json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
            "metadata": {"namespace": "samples", "name": format!("{name}-tls")},
            "stringData": {"tls.crt": made.cert.pem(), "tls.key": made.signing_key.serialize_pem()}}));
        (host, made.cert.pem())
    });
    made.into()
}

/// As `kubectl -n samples create rolebinding …` of the guide.
fn let_gateways_read_certificates(cluster: &Cluster) {
    cluster.apply_strictly(&json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"namespace": "samples", "name": "sluicegate-certificates"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "sluicegate-certificates"},
        "subjects": [{"kind": "ServiceAccount", "namespace": SYSTEM, "name": "sluicegate-gateway"}]}));
}

const PLAIN_HOSTS: [(&str, &str, &str); 15] = [
    ("blog.example", "/", "blog"),
    ("wiki.example", "/", "wiki"),
    ("news.example", "/", "news"),
    ("mail.example", "/", "mail"),
    ("chat.example", "/", "chat"),
    ("git.example", "/", "git"),
    ("photos.example", "/", "photos"),
    ("maps.example", "/", "maps"),
    ("shop.example", "/shoes", "shop"),
    ("shop.example", "/cart/7", "cart"),
    ("shop.example", "/api/v1/orders", "api"),
    ("shop.example", "/status", "status"),
    ("shop.example", "/status/more", "shop"),
    ("any.tenant.example", "/", "tenant"),
    ("signup.tenant.example", "/", "signup"),
];

fn forbidden(requests: &[Request]) -> BTreeSet<(&str, &str)> {
    let refused = requests.iter().filter(|request| request.is_forbidden);
    refused.map(|request| (request.verb.as_str(), request.resource.as_str())).collect()
}

#[test]
#[ignore = "needs root, curl, kube-apiserver and etcd on the PATH or in KUBEBUILDER_ASSETS"]
fn the_manifest_and_twenty_applications_work_with_the_rights_of_the_manifest() {
    let site = Site::new();
    assert_eq!(of_kind(&site.samples, "Deployment").count(), 20, "twenty applications");
    let certificates = make_certificates(&site.cluster);
    let gateway = site.start("sluicegate-gateway", &site.pod, "node2");
    for (host, path, wanted) in PLAIN_HOSTS {
        until(&format!("{host}{path}"), || is(site.at_gateway(host, path), wanted));
    }
    the_way_to_certificates(&site, &gateway, &certificates);
    site.lab.directors[0].namespace.set_sysctl("net/ipv4/conf/all/rp_filter", "1").expect("a setting");
    let director = site.start("sluicegate-director", &site.lab.directors[0].namespace, "edge1");
    let agent = site.start("sluicegate-backend", &site.gateway_node().namespace, "node2");
    virtual_ips_answer(&site, &director);
    the_gateway_answers_by_its_address(&site, &[&gateway, &director, &agent]);
    let asked = site.cluster.requests_of(SYSTEM, "sluicegate-director");
    assert!(asked.len() > 5, "{asked:?}");
    assert_eq!(forbidden(&asked), BTreeSet::new(), "the manifest lacks none of its rights");
    assert!(asked.iter().all(|request| request.resource != "secrets"), "a director asks for no Secrets");
    a_right_that_is_taken_away_is_named(&site, &director);
    let asked = site.cluster.requests_of(SYSTEM, "sluicegate-backend");
    assert!(asked.len() > 3 && forbidden(&asked).is_empty(), "{asked:?}");
    assert!(asked.iter().all(|request| ["list", "watch"].contains(&request.verb.as_str())), "an agent only reads");
    agent.end();
    director.end();
    gateway.end();
}

/// By director and agent into the gateway's pod, on other ports than the pod's; every Ingress shows the address.
fn the_gateway_answers_by_its_address(site: &Site, parts: &[&Container]) {
    let logs = || parts.iter().map(|part| part.log()).collect::<Vec<_>>().join("\n");
    let address = format!("blog.example:80:{GATEWAY_VIP}");
    until("the gateway's address", || {
        is(site.curl(&["--resolve", &address, "http://blog.example/"]), "blog")
            .map_err(|why| format!("{why}\n{}", logs()))
    });
    let address = format!("bank.example:443:{GATEWAY_VIP}");
    assert_eq!(site.curl(&["-k", "--resolve", &address, "https://bank.example/"]), "bank");
    for ingress in of_kind(&site.samples, "Ingress") {
        let name = ingress["metadata"]["name"].as_str().expect("a name");
        until(name, || match site.shown("Ingress", name) {
            shown if shown == json!([{"ip": GATEWAY_VIP}]) => Ok(()),
            shown => Err(format!("{}: {shown}\n{}", reference(ingress), logs())),
        });
    }
}

/// Without the right the hosts are served, and the rule is named; with it certificates come without a restart.
fn the_way_to_certificates(site: &Site, gateway: &Container, certificates: &BTreeMap<&str, String>) {
    gateway.wait_for("the API server forbids to read secrets of namespace samples");
    gateway.wait_for(r#"{apiGroups: [""], resources: [secrets], verbs: [list, watch]}"#);
    let address = format!("bank.example:8443:{POD}");
    let answer = site.curl(&["-k", "--resolve", &address, "https://bank.example:8443/"]);
    assert_eq!(answer, "bank", "served with the default certificate");
    let asked = site.cluster.requests_of(SYSTEM, "sluicegate-gateway");
    assert!(forbidden(&asked).iter().all(|(_, resource)| *resource == "secrets"), "{:?}", forbidden(&asked));
    let_gateways_read_certificates(&site.cluster);
    for (host, certificate) in certificates {
        let name = host.trim_end_matches(".example");
        until(host, || is(site.over_tls(host, certificate), name));
    }
}

/// Clients reach the Services by their addresses, past the gateway, and the addresses are in their statuses.
fn virtual_ips_answer(site: &Site, director: &Container) {
    for (name, vips) in [
        ("broker", &["192.0.2.100"][..]),
        ("resolver", &["192.0.2.101"]),
        ("stream", &["192.0.2.102", "2001:db8:1::102"]),
    ] {
        for vip in vips {
            let address: IpAddr = vip.parse().expect("an address");
            let url = format!("http://{}/", SocketAddr::from((address, 8080)));
            until(&format!("{name} at {vip}"), || {
                is(site.curl(&[&url]), name).map_err(|why| format!("{why}\n{}", director.log()))
            });
        }
        let wanted: Vec<Value> = vips.iter().map(|vip| json!({"ip": vip, "ipMode": "Proxy"})).collect();
        until(&format!("the status of {name}"), || match site.shown("Service", name) {
            shown if shown == json!(wanted) => Ok(()),
            shown => Err(format!("{shown}\n{}", director.log())),
        });
    }
    let resolver = "192.0.2.101:8081".parse().expect("an address");
    let reply = udp_ask(&site.lab.clients[0].namespace, resolver, b"a question", PATIENCE).expect("an answer over UDP");
    assert_eq!(reply.server, "resolver");
}

/// One right less: everything else goes on, and the log says which rule is missing.
fn a_right_that_is_taken_away_is_named(site: &Site, director: &Container) {
    let role = |role: &&Value| role["metadata"]["name"] == "sluicegate-director";
    let mut role = of_kind(&site.manifest, "ClusterRole").find(role).expect("the role").clone();
    role["rules"].as_array_mut().expect("rules").retain(|rule| rule["resources"] != json!(["services/status"]));
    site.cluster.apply_strictly(&role);
    let mut service = of_kind(&site.samples, "Service")
        .find(|service| service["metadata"]["name"] == "broker")
        .expect("the broker")
        .clone();
    service["metadata"]["annotations"]["sluicegate.io/vip"] = "192.0.2.105".into();
    let vip: IpAddr = "192.0.2.105".parse().expect("an address");
    for host in &site.lab.backends[..2] {
        host.namespace.hold_vip(vip).expect("the VIP");
        serve(&host.namespace, "broker", (vip, 8080).into());
    }
    site.cluster.apply_strictly(&service);
    until("the other address", || is(site.curl(&["http://192.0.2.105:8080/"]), "broker"));
    director.wait_for(r#"{apiGroups: [""], resources: [services/status], verbs: [patch]}"#);
    assert_eq!(site.shown("Service", "broker"), json!([{"ip": "192.0.2.100", "ipMode": "Proxy"}]), "as it was");
    let asked = site.cluster.requests_of(SYSTEM, "sluicegate-director");
    assert_eq!(forbidden(&asked), BTreeSet::from([("patch", "services/status")]));
}
