//! The API server, and what it is filled with.

use super::backends::Backends;
use anyhow::{Context as _, bail};
use futures_util::{StreamExt as _, TryStreamExt as _};
use kube::api::{ListParams, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client, Config};
use serde_json::{Value, json};
use sluicegate_apiserver::ApiServer;
use sluicegate_apiserver::resource::Resource;
use sluicegate_apiserver::store::Store;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// Where everything is.
const NAMESPACE: &str = "sluicegate-bench";
/// What Ingresses are to show.
const PUBLISHED: &str = "192.0.2.10";
/// Requests under way while it is filled.
const AT_ONCE: usize = 32;

/// One in this process, or another.
pub struct Server {
    own: Option<ApiServer>,
    runtime: Runtime,
    client: Client,
    kubeconfig: PathBuf,
    _folder: Option<TempDir>,
}

impl Server {
    pub fn start(kubeconfig: Option<&Path>) -> anyhow::Result<Self> {
        let (own, folder, kubeconfig) = match kubeconfig {
            Some(file) => (None, None, file.to_owned()),
            None => {
                let own = ApiServer::start()?;
                let folder = tempfile::tempdir()?;
                let file = folder.path().join("kubeconfig");
                std::fs::write(&file, own.kubeconfig())?;
                (Some(own), Some(folder), file)
            }
        };
        let runtime = Runtime::new()?;
        let client = runtime.block_on(async {
            let file = Kubeconfig::read_from(&kubeconfig)?;
            let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
            anyhow::Ok(Client::try_from(config)?)
        })?;
        Ok(Self { own, runtime, client, kubeconfig, _folder: folder })
    }

    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    pub fn published(&self) -> &'static str {
        PUBLISHED
    }

    /// Namespaces and the class.
    pub fn prepare(&self) -> anyhow::Result<()> {
        for namespace in [NAMESPACE, "sluicegate-system"] {
            self.apply(&json!({"kind": "Namespace", "metadata": {"name": namespace}}))?;
        }
        let class = json!({"controller": "sluicegate.io/ingress"});
        self.apply(&json!({"kind": "IngressClass", "metadata": {"name": "sluicegate"}, "spec": class}))
    }

    /// Ingresses, Services and slices.
    pub fn fill(&self, ingresses: u32, endpoints: impl Fn(u32) -> u32, backends: &Backends) -> anyhow::Result<()> {
        let objects = (0..ingresses).flat_map(|number| {
            [service(number), slice(number, endpoints(number), backends.address(0)), ingress(number, "/changed")]
        });
        match &self.own {
            Some(own) => objects.into_iter().try_for_each(|object| {
                own.put(object).map(drop).map_err(|refusal| anyhow::anyhow!("{}", refusal.to_json()))
            }),
            None => self.runtime.block_on(async {
                let applied = objects.map(|object| async move { self.applied(&object).await });
                futures_util::stream::iter(applied).buffer_unordered(AT_ONCE).try_collect().await
            }),
        }
    }

    /// As `kubectl apply --server-side`; comes back when the server has it.
    pub fn apply(&self, object: &Value) -> anyhow::Result<()> {
        self.runtime.block_on(self.applied(object))
    }

    async fn applied(&self, object: &Value) -> anyhow::Result<()> {
        let mut object = object.clone();
        let kind = object["kind"].as_str().context("a kind")?.to_owned();
        let (resource, api) = self.api(&kind)?;
        object["apiVersion"] = resource.api_version().into();
        if resource.namespaced {
            object["metadata"]["namespace"] = NAMESPACE.into();
        }
        let name = object["metadata"]["name"].as_str().context("a name")?.to_owned();
        let parameters = PatchParams::apply("sluicegate-bench").force();
        api.patch(&name, &parameters, &Patch::Apply(&object)).await.with_context(|| format!("{kind} {name}"))?;
        Ok(())
    }

    fn api(&self, kind: &str) -> anyhow::Result<(&'static Resource, Api<DynamicObject>)> {
        let resource = Resource::of_kind(kind).with_context(|| format!("kind {kind}"))?;
        let kind = GroupVersionKind::gvk(resource.group, resource.version, resource.kind);
        let kind = ApiResource::from_gvk_with_plural(&kind, resource.plural);
        Ok((
            resource,
            match resource.namespaced {
                true => Api::namespaced_with(self.client.clone(), NAMESPACE, &kind),
                false => Api::all_with(self.client.clone(), &kind),
            },
        ))
    }

    /// Until every Ingress shows the address.
    pub fn until_published(&self, ingresses: u32) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            let shown = self.shown()?;
            if shown == ingresses as usize {
                return Ok(());
            }
            if begun.elapsed() > Duration::from_secs(600) {
                bail!("{shown} of {ingresses} Ingresses show an address after ten minutes");
            }
            std::thread::sleep(Duration::from_millis(if self.own.is_some() { 50 } else { 1000 }));
        }
    }

    fn shown(&self) -> anyhow::Result<usize> {
        let shows = |object: &Value| object["status"]["loadBalancer"]["ingress"][0]["ip"] == PUBLISHED;
        if let Some(own) = &self.own {
            return Ok(own.objects("Ingress").iter().filter(|object| shows(object)).count());
        }
        let (_, api) = self.api("Ingress")?;
        self.runtime.block_on(async {
            let (mut count, mut parameters) = (0, ListParams::default().limit(5000));
            loop {
                let page = api.list(&parameters).await?;
                count += page.items.iter().filter(|object| shows(&object.data)).count();
                match page.metadata.continue_.filter(|token| !token.is_empty()) {
                    Some(token) => parameters = parameters.continue_token(&token),
                    None => return Ok(count),
                }
            }
        })
    }

    /// A program that has ended gave its Lease back; another one's clock starts here.
    pub fn wait_for_lease(&self) {
        std::thread::sleep(Duration::from_millis(500));
    }

    /// How many requests there were, where that is known.
    pub fn requests(&self) -> Option<usize> {
        self.own.as_ref().map(|own| own.seen().len())
    }

    /// Requests of the program since then, its Lease's left out, and those of them that wrote a status.
    pub fn count_since(&self, before: usize) -> Option<(usize, usize)> {
        let seen = self.own.as_ref()?.seen();
        let since = seen.get(before..)?;
        let by_program = |seen: &&sluicegate_apiserver::Seen| !seen.query.contains("fieldManager=sluicegate-bench");
        let all = since.iter().filter(by_program).filter(|seen| seen.resource != "leases").count();
        Some((all, since.iter().filter(by_program).filter(|seen| seen.resource.ends_with("/status")).count()))
    }

    /// Every watch ends, and begins with a list because its version is forgotten.
    pub fn forget_versions(&self) {
        if let Some(own) = &self.own {
            own.store(Store::compact);
            own.cut_watches();
        }
    }
}

/// The host of an Ingress.
pub fn host(number: u32) -> String {
    format!("web-{number}.apps.example.test")
}

/// An Ingress with two paths.
pub fn ingress(number: u32, path: &str) -> Value {
    let name = format!("web-{number}");
    let backend = json!({"service": {"name": name, "port": {"name": "http"}}});
    json!({"kind": "Ingress",
    "metadata": {"namespace": NAMESPACE, "name": name,
        "annotations": {"nginx.ingress.kubernetes.io/proxy-body-size": "8m"}},
    "spec": {"ingressClassName": "sluicegate", "rules": [{"host": host(number), "http": {"paths": [
        {"path": "/", "pathType": "Exact", "backend": backend},
        {"path": path, "pathType": "Prefix", "backend": backend},
    ]}}]}})
}

fn service(number: u32) -> Value {
    json!({"kind": "Service", "metadata": {"namespace": NAMESPACE, "name": format!("web-{number}")},
        "spec": {"clusterIP": "None",
            "ports": [{"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}]}})
}

/// Endpoints of a Service: the backend, and others that are nobody.
pub fn slice(number: u32, endpoints: u32, backend: std::net::SocketAddr) -> Value {
    let name = format!("web-{number}");
    let others = (1..endpoints).map(|at| {
        let id = number * endpoints + at;
        let address = format!("10.{}.{}.{}", id >> 16 & 255, id >> 8 & 255, id & 255);
        json!({"addresses": [address], "conditions": {"ready": true}, "nodeName": format!("node-{}", id % 500)})
    });
    let endpoints: Vec<Value> =
        std::iter::once(json!({"addresses": [backend.ip().to_string()], "conditions": {"ready": true}}))
            .chain(others)
            .collect();
    json!({"kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"namespace": NAMESPACE, "name": format!("{name}-1"), "labels": {"kubernetes.io/service-name": name}},
        "ports": [{"name": "http", "port": backend.port(), "protocol": "TCP"}], "endpoints": endpoints})
}
