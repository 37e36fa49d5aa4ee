//! `backend` and `detach`: this host as a real server of directors elsewhere, and what gone processes left.

mod agent;
mod host;
mod sizes;

use crate::Failure;
use crate::capabilities::{self, Duty};
use crate::cli::{BackendArguments, DetachArguments, TunnelName};
use crate::director::probe_egress;
use crate::options::RunOptions;
use crate::output::print;
use crate::run::log_to_stderr;
use agent::{Agent, AgentSettings, AgentSource};
use anyhow::Context as _;
use host::Typed;
use sluicegate_backend::{AttachMode, BackendSettings, ClassifierMode, ProbeEgress};
use sluicegate_config::{NamespacedName, Settings};
use sluicegate_forward::pins::DEFAULT_ROOT;
use sluicegate_l4::layout::VERSION;
use sluicegate_source::{DirectorySettings, KubeSettings, Login};
use sluicegate_telemetry::logging::LogFormat;
use std::path::Path;

/// The Service of the directors in our own manifests.
const DIRECTOR_SERVICE: (&str, &str) = ("sluicegate-system", "sluicegate-directors");

pub fn backend(arguments: &BackendArguments) -> Result<(), Failure> {
    let settings = settings(arguments)?;
    log_to_stderr(LogFormat::Text, &arguments.log_level)?;
    let follows_files = !arguments.manifests.is_empty() || arguments.kubeconfig.is_some();
    capabilities::keep_only(Duty { role: None, forwards: true, follows_files }).context("giving up capabilities")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async { Agent::start(settings).await?.run().await })
}

fn settings(arguments: &BackendArguments) -> Result<AgentSettings, Failure> {
    let refuse = |what: &str| Err(Failure::Usage(what.to_owned()));
    let is_in_pod = std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() && arguments.node_name.is_some();
    let is_cluster = arguments.manifests.is_empty() && (arguments.kubeconfig.is_some() || is_in_pod);
    if arguments.vip.is_empty() && arguments.manifests.is_empty() && !is_cluster {
        return refuse("no VIP: name them with --vip ADDRESS, or say what binds them: --manifests or --kubeconfig");
    }
    if arguments.interface.is_empty() && arguments.node_name.is_none() {
        return refuse(
            "no interface: name those that the director's packets come in on with --interface IFACE, or the node with --node-name",
        );
    }
    let file = arguments.config.as_deref().map(RunOptions::of_file).transpose()?.unwrap_or_default();
    let options = arguments.translate.clone().or(file.translate);
    let namespace_selector = arguments.watch_namespace_selector.clone().or(file.serve.watch_namespace_selector);
    if options.watch_namespace.is_some() && namespace_selector.is_some() {
        return refuse("--watch-namespace and --watch-namespace-selector both say which namespaces are read; give one");
    }
    let mut translate = options.settings([]).map_err(|error| Failure::Usage(format!("--vip-pool: {error}")))?;
    // What makes nodes real servers is the directors' to judge; a node goes on with what it has.
    translate.backend_service = None;
    translate.adopt_without_classes = !is_cluster;
    translate.addresses_by_status = is_cluster;
    let is_any_known = !arguments.director.is_empty() || arguments.any_director;
    translate.director_service = match &arguments.director_service {
        None if is_cluster && !is_any_known => Some(NamespacedName::new(DIRECTOR_SERVICE.0, DIRECTOR_SERVICE.1)),
        named => named.clone(),
    };
    if arguments.tunnel != TunnelName::None && !is_any_known && translate.director_service.is_none() {
        return refuse(
            "no director: name those whose tunnels are believed with --director ADDRESS or --director-service, or use \
             --tunnel none where packets come on the same link",
        );
    }
    if arguments.tunnel != TunnelName::Gue && !arguments.peer.is_empty() {
        return refuse("--peer is for the second chance, which needs GUE: add --tunnel gue, or leave --peer out");
    }
    Ok(AgentSettings {
        backend: BackendSettings {
            interfaces: arguments.interface.clone(),
            mode: AttachMode::Auto,
            classifiers: if arguments.classic_filters { ClassifierMode::Filter } else { ClassifierMode::Auto },
            pins: sluicegate_backend::default_pins(),
            pod_flows: if arguments.node_name.is_some() { arguments.pod_flows } else { 0 },
        },
        typed: Typed {
            vips: arguments.vip.iter().copied().collect(),
            node: arguments.node_name.as_deref().map(Into::into),
            directors: arguments.director.iter().copied().collect(),
            any_director: arguments.any_director,
            director_service: translate.director_service.clone(),
            peers: arguments.peer.iter().copied().collect(),
            tunnel: arguments.tunnel,
            path_mtu: arguments.path_mtu,
        },
        source: source(arguments, &translate, namespace_selector, is_cluster),
        translate,
        metrics: arguments.metrics.clone(),
        once: arguments.once,
    })
}

fn source(
    arguments: &BackendArguments,
    translate: &Settings,
    namespace_selector: Option<String>,
    is_cluster: bool,
) -> AgentSource {
    if !is_cluster {
        return match arguments.manifests.is_empty() {
            true => AgentSource::Nothing,
            false => AgentSource::Manifests(DirectorySettings { paths: arguments.manifests.clone(), poll: false }),
        };
    }
    let login = Login { kubeconfig: arguments.kubeconfig.clone(), context: arguments.context.clone() };
    let kube = KubeSettings {
        namespaces: translate.watch_namespace.iter().cloned().collect(),
        namespace_selector,
        endpoints_of: translate.director_service.iter().cloned().collect(),
        config_maps: vec![translate.vip_configmap.clone()],
        nodes: true,
        namespace_labels: translate.vip_pools.asks_for_labels(),
        secrets: false,
        services_alone: true,
    };
    AgentSource::Cluster(login, kube)
}

pub fn detach(arguments: &DetachArguments) -> Result<(), Failure> {
    log_to_stderr(LogFormat::Text, "error")?;
    let root = arguments.pins.as_deref().unwrap_or(Path::new(DEFAULT_ROOT));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // The real server's part first: it knows which addresses on `lo` are its own.
    let removed = runtime.block_on(sluicegate_backend::detach(&sluicegate_backend::default_pins()))?;
    if root.exists() {
        // Its rules and routes lie outside of the pins.
        let probes = probe_egress(root, VERSION, Vec::new());
        runtime.block_on(ProbeEgress::detach(&probes)).context("the way of probes")?;
    }
    let director = sluicegate_forward::forwarder::detach(root).context("the director's programs and tables")?;
    for one in &removed {
        print(&format!("removed {one}\n"))?;
    }
    if director {
        print(&format!("removed the director's programs and tables below {}\n", root.display()))?;
    }
    if !director && removed.is_empty() {
        print("nothing to remove\n")?;
    }
    Ok(())
}
