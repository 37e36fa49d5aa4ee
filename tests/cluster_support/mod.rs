//! Clusters for tests: the API server in this process, or a real one with its etcd. Both are spoken to by the same client.

#![allow(dead_code, reason = "every test file uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test fails where something is not there")]

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client, Config};
use serde_json::Value;
use sluicegate_apiserver::ApiServer;
use sluicegate_apiserver::resource::Resource;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// A real API server takes its time to start on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// An API server and the way to it.
pub struct Cluster {
    runtime: Runtime,
    client: Client,
    folder: TempDir,
    server: Server,
}

/// What an account asked for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Request {
    pub verb: String,
    /// With its part: `services/status`.
    pub resource: String,
    pub namespace: String,
    pub is_forbidden: bool,
}

enum Server {
    InProcess(ApiServer),
    Real(Real),
}

impl Cluster {
    /// In this process.
    pub fn in_process() -> Self {
        let server = ApiServer::start().unwrap();
        let kubeconfig = server.kubeconfig();
        Self::new(Server::InProcess(server), tempfile::tempdir().unwrap(), &kubeconfig)
    }

    /// `kube-apiserver` and `etcd` from the folder of `KUBEBUILDER_ASSETS`, else from the path.
    pub fn real() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let real = Real::start(folder.path());
        let kubeconfig = real.kubeconfig(folder.path());
        Self::new(Server::Real(real), folder, &kubeconfig)
    }

    fn new(server: Server, folder: TempDir, kubeconfig: &str) -> Self {
        std::fs::write(folder.path().join("kubeconfig"), kubeconfig).unwrap();
        let runtime = Runtime::new().unwrap();
        let client = runtime.block_on(async {
            let file = Kubeconfig::read_from(folder.path().join("kubeconfig")).unwrap();
            let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.unwrap();
            Client::try_from(config).unwrap()
        });
        Self { runtime, client, folder, server }
    }

    /// For `--kubeconfig`.
    pub fn kubeconfig(&self) -> String {
        self.folder.path().join("kubeconfig").to_str().unwrap().to_owned()
    }

    /// The server in this process, for its faults.
    pub fn server(&self) -> &ApiServer {
        match &self.server {
            Server::InProcess(server) => server,
            Server::Real(_) => panic!("this test is about the server in this process"),
        }
    }

    /// Stops the API server; its objects stay.
    pub fn go_down(&mut self) {
        match &mut self.server {
            Server::InProcess(server) => server.go_down(),
            Server::Real(real) => real.stop(),
        }
    }

    /// Starts it again.
    pub fn come_back(&mut self) {
        match &mut self.server {
            Server::InProcess(server) => server.come_back(),
            Server::Real(real) => real.start_apiserver(self.folder.path()),
        }
    }

    fn api(&self, kind: &str, namespace: &str) -> Api<DynamicObject> {
        let resource = Resource::of_kind(kind).unwrap();
        let kind = GroupVersionKind::gvk(resource.group, resource.version, resource.kind);
        let kind = ApiResource::from_gvk_with_plural(&kind, resource.plural);
        if resource.namespaced {
            Api::namespaced_with(self.client.clone(), namespace, &kind)
        } else {
            Api::all_with(self.client.clone(), &kind)
        }
    }

    /// As `kubectl apply --server-side`.
    pub fn apply(&self, object: &Value) {
        let mut object = object.clone();
        let kind = object["kind"].as_str().unwrap().to_owned();
        object["apiVersion"] = Resource::of_kind(&kind).unwrap().api_version().into();
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let api = self.api(&kind, &namespace);
        let parameters = PatchParams::apply("kubectl").force();
        let applied = self.runtime.block_on(api.patch(&name, &parameters, &Patch::Apply(&object)));
        applied.unwrap_or_else(|error| panic!("{kind} {namespace}/{name}: {error}"));
    }

    /// Any request, as it is: the status, the warnings, and what came back.
    pub fn send(&self, method: http::Method, path: &str, body: &Value) -> (u16, Vec<String>, Value) {
        let request = http::Request::builder().method(method).uri(path).header("content-type", "application/json");
        let request = request.body(kube::client::Body::from(serde_json::to_vec(body).unwrap())).unwrap();
        self.runtime.block_on(async {
            let response = self.client.send(request).await.unwrap();
            let warnings = response.headers().get_all("warning").iter();
            // `299 - "text"`
            let text = |value: &http::HeaderValue| value.to_str().unwrap().trim_start_matches("299 - ").to_owned();
            let (status, warnings) = (response.status().as_u16(), warnings.map(text).collect());
            let body = response.into_body().collect_bytes().await.unwrap();
            (status, warnings, serde_json::from_slice(&body).unwrap_or(Value::Null))
        })
    }

    /// As `kubectl apply --server-side --validate=strict`, of any kind: an unknown field is an error.
    pub fn apply_strictly(&self, object: &Value) {
        let (api, name) = self.api_of(object);
        let parameters = PatchParams::apply("kubectl").force().validation_strict();
        let applied = self.runtime.block_on(api.patch(&name, &parameters, &Patch::Apply(object)));
        applied.unwrap_or_else(|error| panic!("{object}: {error}"));
    }

    /// What a kubelet or a controller of the cluster would write.
    pub fn apply_status(&self, object: &Value) {
        let (api, name) = self.api_of(object);
        let parameters = PatchParams::apply("kubelet").force().validation_strict();
        let applied = self.runtime.block_on(api.patch_status(&name, &parameters, &Patch::Apply(object)));
        applied.unwrap_or_else(|error| panic!("{object}: {error}"));
    }

    /// The way to an object of any kind, and its name.
    fn api_of(&self, object: &Value) -> (Api<DynamicObject>, String) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (version, kind) = (text(&object["apiVersion"]), text(&object["kind"]));
        let (group, version) = version.split_once('/').unwrap_or(("", &version));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &kind));
        let api = match text(&object["metadata"]["namespace"]).as_str() {
            "" => Api::all_with(self.client.clone(), &resource),
            namespace => Api::namespaced_with(self.client.clone(), namespace, &resource),
        };
        (api, text(&object["metadata"]["name"]))
    }

    /// A token of a service account, as a pod of it gets.
    pub fn token(&self, namespace: &str, account: &str) -> String {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), namespace);
        let request = self.runtime.block_on(accounts.create_token_request(
            account,
            &PostParams::default(),
            &TokenRequest {
                spec: Some(TokenRequestSpec { expiration_seconds: Some(3600), ..Default::default() }),
                ..Default::default()
            },
        ));
        request.unwrap().status.unwrap().token.unwrap()
    }

    /// Port of loopback, and the certificate by which a client knows the server.
    pub fn address(&self) -> (u16, PathBuf) {
        match &self.server {
            Server::InProcess(_) => panic!("this test is about a real API server"),
            Server::Real(real) => (real.ports[2], self.folder.path().join("certificates/apiserver.crt")),
        }
    }

    /// Requests of a service account to a real API server so far.
    pub fn requests_of(&self, namespace: &str, account: &str) -> Vec<Request> {
        let log = std::fs::read_to_string(self.folder.path().join("audit.log")).unwrap();
        let user = format!("system:serviceaccount:{namespace}:{account}");
        // The last line may be half written.
        let entries = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let own = entries.filter(|entry| entry["user"]["username"] == *user);
        own.map(|entry| {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let (asked, part) = (&entry["objectRef"], &entry["objectRef"]["subresource"]);
            let resource = match part.as_str() {
                Some(part) => format!("{}/{part}", text(&asked["resource"])),
                None => text(&asked["resource"]),
            };
            let namespace = text(&asked["namespace"]);
            let is_forbidden = entry["responseStatus"]["code"] == 403;
            Request { verb: text(&entry["verb"]), resource, namespace, is_forbidden }
        })
        .collect()
    }

    /// Removes an object.
    pub fn delete(&self, kind: &str, namespace: &str, name: &str) {
        self.runtime.block_on(self.api(kind, namespace).delete(name, &DeleteParams::default())).unwrap();
    }

    /// An object as it is; null where it is not there.
    pub fn get(&self, kind: &str, namespace: &str, name: &str) -> Value {
        let object = self.runtime.block_on(self.api(kind, namespace).get_opt(name)).unwrap();
        object.map_or(Value::Null, |object| serde_json::to_value(object).unwrap())
    }

    /// All objects of a kind in a namespace.
    pub fn list(&self, kind: &str, namespace: &str) -> Vec<Value> {
        let list = self.runtime.block_on(self.api(kind, namespace).list(&kube::api::ListParams::default())).unwrap();
        list.items.into_iter().map(|object| serde_json::to_value(object).unwrap()).collect()
    }
}

/// An address of this machine that is not of the loopback interface: an API server takes no other for an endpoint. No
/// packet is sent to find it, and packets to it stay on this machine.
pub fn own_address() -> IpAddr {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect("192.0.2.1:9").expect("this machine has a network interface with an IPv4 address and a route");
    socket.local_addr().unwrap().ip()
}

/// etcd and kube-apiserver as processes of their own.
struct Real {
    etcd: Process,
    apiserver: Option<Process>,
    ports: [u16; 3],
}

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

fn program(name: &str) -> PathBuf {
    match std::env::var_os("KUBEBUILDER_ASSETS") {
        Some(folder) => Path::new(&folder).join(name),
        None => PathBuf::from(name),
    }
}

fn spawn(folder: &Path, name: &str, arguments: &[String]) -> Process {
    let log = std::fs::File::create(folder.join(format!("{name}.log"))).unwrap();
    let mut command = Command::new(program(name));
    command.args(arguments).current_dir(folder).stdin(Stdio::null());
    command.stdout(log.try_clone().unwrap()).stderr(log);
    Process(command.spawn().unwrap_or_else(|error| {
        panic!("{name}: {error}; put it on the PATH, or into the folder that KUBEBUILDER_ASSETS names")
    }))
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Real {
    fn start(folder: &Path) -> Self {
        let ports = [free_port(), free_port(), free_port()];
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        std::fs::write(folder.join("accounts.key"), key.serialize_pem()).unwrap();
        std::fs::write(folder.join("accounts.pub"), key.public_key_pem()).unwrap();
        std::fs::write(folder.join("tokens.csv"), "secret-of-the-test,admin,admin,system:masters\n").unwrap();
        let audit = r#"{"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"], "rules": [{"level": "Metadata"}]}"#;
        std::fs::write(folder.join("audit.json"), audit).unwrap();
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let etcd = spawn(
            folder,
            "etcd",
            &[
                "--data-dir=etcd".to_owned(),
                format!("--listen-client-urls={}", url(ports[0])),
                format!("--advertise-client-urls={}", url(ports[0])),
                format!("--listen-peer-urls={}", url(ports[1])),
                format!("--initial-advertise-peer-urls={}", url(ports[1])),
                format!("--initial-cluster=default={}", url(ports[1])),
                "--unsafe-no-fsync".to_owned(),
            ],
        );
        let mut real = Self { etcd, apiserver: None, ports };
        real.start_apiserver(folder);
        real
    }

    fn start_apiserver(&mut self, folder: &Path) {
        let arguments = [
            format!("--etcd-servers=http://127.0.0.1:{}", self.ports[0]),
            format!("--secure-port={}", self.ports[2]),
            "--bind-address=127.0.0.1".to_owned(),
            "--cert-dir=certificates".to_owned(),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            "--service-account-key-file=accounts.pub".to_owned(),
            "--service-account-signing-key-file=accounts.key".to_owned(),
            "--token-auth-file=tokens.csv".to_owned(),
            "--authorization-mode=RBAC".to_owned(),
            "--service-cluster-ip-range=10.96.0.0/16,fd00:10:96::/112".to_owned(),
            // As installers of clusters set it.
            "--allow-privileged=true".to_owned(),
            "--audit-policy-file=audit.json".to_owned(),
            "--audit-log-path=audit.log".to_owned(),
            // There is no controller that makes service accounts.
            "--disable-admission-plugins=ServiceAccount".to_owned(),
        ];
        self.apiserver = Some(spawn(folder, "kube-apiserver", &arguments));
        let begun = Instant::now();
        while !self.is_ready(folder) {
            if begun.elapsed() > PATIENCE {
                let log = std::fs::read_to_string(folder.join("kube-apiserver.log")).unwrap_or_default();
                panic!("the API server is not ready:\n{log}");
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn stop(&mut self) {
        self.apiserver = None;
    }

    fn is_ready(&self, folder: &Path) -> bool {
        if std::net::TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], self.ports[2]))).is_err() {
            return false;
        }
        let path = folder.join("probe");
        std::fs::write(&path, self.kubeconfig(folder)).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let file = Kubeconfig::read_from(&path).unwrap();
            let Ok(config) = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await else {
                return false;
            };
            let Ok(client) = Client::try_from(config) else { return false };
            let request = http::Request::get("/readyz").body(Vec::new()).unwrap();
            client.request_text(request).await.is_ok_and(|text| text == "ok")
        })
    }

    fn kubeconfig(&self, folder: &Path) -> String {
        let authority = folder.join("certificates/apiserver.crt");
        serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {
                "server": format!("https://127.0.0.1:{}", self.ports[2]), "certificate-authority": authority,
            }}],
            "users": [{"name": "test", "user": {"token": "secret-of-the-test"}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        })
        .to_string()
    }
}
