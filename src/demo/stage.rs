//! What the demo plays on: backends, manifests, certificates, the gateway.

use super::folder::{self, Folder};
use crate::gateway::{Gateway, GatewaySettings, SourceSettings};
use anyhow::Context as _;
use sluicegate_admin::AdminSettings;
use sluicegate_config::Settings;
use sluicegate_echo::EchoBackend;
use sluicegate_proxy::ProxySettings;
use sluicegate_route::RouteTable;
use sluicegate_source::DirectorySettings;
use sluicegate_telemetry::MetricsSettings;
use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;

/// The manifests, as they are in the repository.
const MANIFESTS: [(&str, &str); 6] = [
    ("class.yaml", include_str!("../../config/demo/class.yaml")),
    ("shop.yaml", include_str!("../../config/demo/shop.yaml")),
    ("blog.yaml", include_str!("../../config/demo/blog.yaml")),
    ("apps.yaml", include_str!("../../config/demo/apps.yaml")),
    ("grpc.yaml", include_str!("../../config/demo/grpc.yaml")),
    ("chat.yaml", include_str!("../../config/demo/chat.yaml")),
];

/// Services in the order of the ports that the manifests give their pods, two each.
const SERVICES: [&str; 7] = ["shop", "cart", "checkout", "blog", "apps", "grpc", "chat"];
const FIRST_PORT: u16 = 18081;

/// Secrets and the names that they are for.
const CERTIFICATES: [(&str, &str); 5] = [
    ("shop-tls", "shop.example"),
    ("blog-tls", "blog.example"),
    ("apps-tls", "*.apps.example"),
    ("grpc-tls", "grpc.example"),
    ("chat-tls", "chat.example"),
];

/// Ports above a taken one that are tried before any free one is taken.
const NEXT_PORTS: u16 = 20;

/// A certificate that was made for the demo.
pub struct Made {
    pub pem: String,
    pub der: Vec<u8>,
}

/// The running demo.
pub struct Stage {
    gateway: Gateway,
    pods: BTreeMap<String, EchoBackend>,
    certificates: BTreeMap<&'static str, Made>,
    wanted: [SocketAddr; 2],
    got: [SocketAddr; 2],
    folder: Folder,
}

impl Stage {
    /// Starts everything and waits until it serves.
    pub fn set_up(runtime: &Runtime, http: SocketAddr, https: SocketAddr) -> anyhow::Result<Self> {
        let folder = folder::make("")?;
        let pods = runtime.block_on(start_pods())?;
        for (name, text) in MANIFESTS {
            fs::write(folder.path().join(name), fill_in(text, &pods)).context("a temporary folder")?;
        }
        let certificates = make_certificates()?;
        fs::write(folder.path().join("secrets.yaml"), certificates.1).context("a temporary folder")?;
        let got = [free(http)?, free(https)?];
        let gateway = Gateway::start(GatewaySettings {
            metrics: MetricsSettings::of_workers(1),
            clear_statuses: false,
            source: SourceSettings::Manifests(DirectorySettings { paths: vec![folder.path().to_owned()], poll: false }),
            translate: Settings::for_folder(),
            proxy: ProxySettings { http: vec![got[0]], https: vec![got[1]], ..ProxySettings::default() },
            admin: AdminSettings {
                metrics: Vec::new(),
                admin: free(SocketAddr::from((Ipv4Addr::LOCALHOST, 10253)))?,
                token_file: None,
            },
            access_log: None,
            spans: None,
            director: None,
        })?;
        gateway.wait_until_ready(Duration::from_secs(20))?;
        Ok(Self { gateway, pods, certificates: certificates.0, wanted: [http, https], got, folder })
    }

    /// Ends everything and removes the folder.
    pub fn strike(self, limit: Duration) {
        self.gateway.shut_down(limit);
        for pod in self.pods.values() {
            pod.kill();
        }
    }

    pub fn http(&self) -> SocketAddr {
        self.got[0]
    }

    pub fn https(&self) -> SocketAddr {
        self.got[1]
    }

    pub fn admin(&self) -> SocketAddr {
        self.gateway.admin_address()
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The routes that are served at the moment.
    pub fn table(&self) -> Arc<RouteTable> {
        self.gateway.proxy().table()
    }

    /// The certificate that was made for a name.
    pub fn certificate(&self, name: &str) -> anyhow::Result<&Made> {
        self.certificates.get(name).with_context(|| format!("no certificate was made for {name}"))
    }

    pub fn pod(&self, name: &str) -> anyhow::Result<&EchoBackend> {
        self.pods.get(name).with_context(|| format!("there is no pod {name}"))
    }

    /// Addresses that were asked for and taken already, and what is used instead.
    pub fn moved_ports(&self) -> impl Iterator<Item = (SocketAddr, SocketAddr)> {
        self.wanted.into_iter().zip(self.got).filter(|(wanted, got)| wanted.port() != 0 && wanted != got)
    }

    /// Changes a manifest in place, as an editor does. Returns what it was.
    pub fn edit(&self, name: &str, change: impl FnOnce(&str) -> String) -> anyhow::Result<String> {
        let path = self.folder.path().join(name);
        let before = fs::read_to_string(&path)?;
        fs::write(&path, change(&before))?;
        Ok(before)
    }
}

async fn start_pods() -> anyhow::Result<BTreeMap<String, EchoBackend>> {
    let mut pods = BTreeMap::new();
    for service in SERVICES {
        for ordinal in 0..2 {
            let pod = format!("{service}-{ordinal}");
            let started = EchoBackend::builder(service).pod(&pod).namespace("demo").start().await;
            pods.insert(pod, started.context("an echo backend cannot be started")?);
        }
    }
    Ok(pods)
}

/// The manifests name fixed ports, so that they are valid by themselves; the pods listen where there was room.
fn fill_in(manifest: &str, pods: &BTreeMap<String, EchoBackend>) -> String {
    let mut text = manifest.to_owned();
    for (pod, port) in template_ports() {
        if let Some(backend) = pods.get(&pod) {
            text = text.replace(&format!("port: {port}\n"), &format!("port: {}\n", backend.address().port()));
        }
    }
    text
}

fn template_ports() -> impl Iterator<Item = (String, u16)> {
    let pods = SERVICES.into_iter().flat_map(|service| (0..2).map(move |ordinal| format!("{service}-{ordinal}")));
    pods.zip(FIRST_PORT..)
}

/// Self-signed certificates, and the Secrets that hold them.
fn make_certificates() -> anyhow::Result<(BTreeMap<&'static str, Made>, String)> {
    let mut made = BTreeMap::new();
    let mut manifest = "# Made at the start of the demo.\n".to_owned();
    for (secret, host) in CERTIFICATES {
        let (certificate, text) = make_certificate(secret, host)?;
        manifest.push_str(&text);
        made.insert(host, certificate);
    }
    Ok((made, manifest))
}

/// A self-signed certificate, and the Secret that holds it.
pub fn make_certificate(secret: &str, host: &str) -> anyhow::Result<(Made, String)> {
    let pair = rcgen::generate_simple_self_signed(vec![host.to_owned()])?;
    let (pem, key) = (pair.cert.pem(), pair.signing_key.serialize_pem());
    let block = |text: &str| text.lines().map(|line| format!("    {line}\n")).collect::<String>();
    let manifest = format!(
        "---\napiVersion: v1\nkind: Secret\nmetadata:\n  name: {secret}\n  namespace: demo\ntype: kubernetes.io/tls\n\
         stringData:\n  tls.crt: |\n{}  tls.key: |\n{}",
        block(&pem),
        block(&key)
    );
    Ok((Made { pem, der: pair.cert.der().to_vec() }, manifest))
}

/// The address, or one with a port close by, or any free one.
fn free(wanted: SocketAddr) -> anyhow::Result<SocketAddr> {
    let last = wanted.port().saturating_add(NEXT_PORTS);
    let mut ports = (wanted.port()..=last).chain([0]);
    let found = ports.find_map(|port| TcpListener::bind(SocketAddr::new(wanted.ip(), port)).ok());
    let found = found
        .with_context(|| format!("no port near {wanted} is free; give another address with --http and --https"))?;
    Ok(found.local_addr()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pod_has_its_port_in_the_manifests() {
        for (pod, port) in template_ports() {
            let count = |needle: &str| MANIFESTS.iter().map(|(_, text)| text.matches(needle).count()).sum::<usize>();
            assert_eq!(count(&format!("port: {port}\n")), 1, "{pod}");
            assert_eq!(count(&format!("      name: {pod}\n")), 1, "{pod}");
        }
    }
}
