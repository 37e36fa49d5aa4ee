//! `run`: the gateway until somebody ends it.

use crate::Failure;
use crate::capabilities::{self, Duty};
use crate::cli::RunArguments;
use crate::director::{DirectorSettings, LeaseSettings};
use crate::gateway::{ClusterSettings, Gateway, GatewaySettings, SourceSettings};
use crate::options::{AccessLogTo, ForwardName, LogFormatName, Propagator, Role, RunOptions, ServeOptions};
use crate::spans;
use anyhow::Context as _;
use sluicegate_admin::AdminSettings;
use sluicegate_admission::WebhookSettings;
use sluicegate_announce::{DirectorId, Secret};
use sluicegate_config::{Kind, NamespacedName, Settings};
use sluicegate_forward::forwarder::{ForwardMode, ForwarderSettings};
use sluicegate_proxy::{Limits, ProxySettings, Timeouts, TraceSettings};
use sluicegate_source::directors::lease_name;
use sluicegate_source::lease::ElectionTiming;
use sluicegate_source::write::WriterSettings;
use sluicegate_source::{DirectorySettings, KubeClient, KubeSettings, Login};
use sluicegate_telemetry::logging::{self, LogFormat};
use sluicegate_telemetry::{AccessLogSettings, LogTarget, MetricsSettings, NginxNames};
use sluicegate_trace::{InjectionSettings, Policy, Sampler, Trust};
use sluicegate_translate::PublishSettings;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs as _};
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};

const LAME_DUCK: Duration = Duration::from_secs(10);
const DRAIN: Duration = Duration::from_secs(30);
/// The port of directors' heartbeats.
const HEARTBEATS: u16 = 7946;
/// How often the threads are looked after.
const PULSE: Duration = Duration::from_millis(500);

pub fn run(arguments: RunArguments) -> Result<(), Failure> {
    let options = arguments.options.with_file()?;
    refuse_two_sources(&options)?;
    refuse_proxy_protocol_elsewhere(&options.serve)?;
    start_logging(&options.serve)?;
    let lame_duck = options.serve.lame_duck.unwrap_or(LAME_DUCK);
    let drain = options.serve.drain.unwrap_or(DRAIN);
    let duty = duty(&options.serve);
    let settings = settings(options)?;
    // Threads inherit what is left.
    capabilities::keep_only(duty).context("giving up capabilities")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let rotates = matches!(&settings.access_log, Some(log) if log.target != LogTarget::Stdout);
    let (mut signals, mut hang_up) = runtime.block_on(async {
        let hang_up = rotates.then(|| signal(SignalKind::hangup())).transpose()?;
        std::io::Result::Ok((Signals::new()?, hang_up))
    })?;
    let gateway = Gateway::start(settings)?;
    runtime.block_on(async {
        let name = until_signal(&gateway, &mut signals, &mut hang_up).await?;
        gateway.lame_duck();
        tracing::info!("{name}: not ready any more, accepting for {lame_duck:?}, then draining for at most {drain:?}");
        // Nobody was sent here before the first state.
        let lame_duck = if gateway.is_ready() { lame_duck } else { Duration::ZERO };
        tokio::select! {
            () = tokio::time::sleep(lame_duck) => {}
            name = signals.next() => return Err(second(name)),
        }
        let draining = tokio::task::spawn_blocking(move || gateway.shut_down(drain));
        tokio::select! {
            done = draining => done.map_err(Failure::from),
            name = signals.next() => Err(second(name)),
        }
    })
}

fn duty(serve: &ServeOptions) -> Duty {
    Duty {
        role: Some(serve.role.unwrap_or_default()),
        forwards: serve.forward != Some(ForwardName::Off),
        follows_files: !serve.manifests.is_empty() || serve.kubeconfig.is_some(),
    }
}

/// Ends the process: threads that still carry traffic are not waited for.
fn second(name: &'static str) -> Failure {
    tracing::warn!("{name}: ended at once by a second signal");
    std::process::exit(1)
}

async fn until_signal(
    gateway: &Gateway,
    signals: &mut Signals,
    hang_up: &mut Option<Signal>,
) -> Result<&'static str, Failure> {
    let mut pulse = tokio::time::interval(PULSE);
    loop {
        // Where no file is written the signal does what it always did.
        let hung_up = async {
            match hang_up {
                Some(signal) => signal.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            name = signals.next() => return Ok(name),
            _ = hung_up => gateway.reopen_logs(),
            _ = pulse.tick() => gateway.check_alive()?,
        }
    }
}

/// SIGTERM and SIGINT.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Takes the signals over; the runtime must be entered.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// The name of the next one.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// An address that is not listened on would be a demand that nobody hears.
fn refuse_proxy_protocol_elsewhere(serve: &ServeOptions) -> Result<(), Failure> {
    let listened =
        |address: &SocketAddr| or_any(&serve.http, 80).contains(address) || or_any(&serve.https, 443).contains(address);
    match serve.proxy_protocol_on.iter().find(|address| !listened(address)) {
        Some(address) => Err(Failure::Usage(format!(
            "--proxy-protocol-on {address}: no --http or --https address is that one; write it exactly as it is there"
        ))),
        None => Ok(()),
    }
}

fn start_logging(options: &ServeOptions) -> Result<(), Failure> {
    let format = match options.log_format.unwrap_or_default() {
        LogFormatName::Text => LogFormat::Text,
        LogFormatName::Json => LogFormat::Json,
    };
    log_to_stderr(format, options.log_level.as_deref().unwrap_or("info"))
}

/// Sets up the log, and panics as lines of it.
pub fn log_to_stderr(format: LogFormat, filter: &str) -> Result<(), Failure> {
    logging::init(format, filter).map_err(|error| Failure::Usage(error.to_string()))?;
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current().name().unwrap_or("unnamed").to_owned();
        let message = panic.payload_as_str().unwrap_or("no message");
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(thread, place, "panic: {message}");
    }));
    Ok(())
}

fn settings(options: RunOptions) -> Result<GatewaySettings, Failure> {
    let RunOptions { serve, translate, otlp, .. } = options;
    let role = serve.role.unwrap_or_default();
    let serves_http = role != Role::Director;
    let http = if serves_http { or_any(&serve.http, 80) } else { Vec::new() };
    let https = if serves_http { or_any(&serve.https, 443) } else { Vec::new() };
    let director = if role == Role::Gateway { None } else { Some(director_settings(&serve, role)?) };
    let metrics = or_any(&serve.metrics, 10254);
    let admin = serve.admin.unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, 10253)));
    let own = http.iter().chain(&https).chain(&metrics).chain([&admin]).chain(&serve.webhook);
    let reserved = own.map(SocketAddr::port).filter(|port| *port != 0);
    let mut translate = translate.settings(reserved).map_err(|error| Failure::Usage(format!("--vip-pool: {error}")))?;
    translate.adopt_without_classes = !serve.manifests.is_empty();
    translate.addresses_by_status = serve.manifests.is_empty();
    translate.default_certificate = serve.default_ssl_certificate.clone().filter(|_| serves_http);
    let environment = spans::environment();
    let spans = if serves_http { spans::settings(&otlp, &environment)? } else { None };
    let trace = spans::complete(trace_settings(&serve), &serve, &environment, spans.is_some());
    // Nobody would have anything to send.
    let spans = spans.filter(|_| trace.is_some());
    Ok(GatewaySettings {
        access_log: access_log_settings(&serve, serves_http),
        metrics: metrics_settings(&serve, translate.take_over_ingress_nginx),
        clear_statuses: serve.clear_status_on_shutdown.unwrap_or(false),
        source: source(&serve, &translate, role),
        translate,
        admin: AdminSettings { metrics, admin, token_file: serve.admin_token_file.clone() },
        director,
        spans,
        proxy: proxy_settings(serve, http, https, trace),
    })
}

/// Objects come from one place, and flags for another one would be ignored.
fn refuse_two_sources(options: &RunOptions) -> Result<(), Failure> {
    let (serve, translate) = (&options.serve, &options.translate);
    let refuse = |text: &str| Err(Failure::Usage(text.to_owned()));
    if !serve.manifests.is_empty() {
        for (is_given, flag) in [
            (serve.kubeconfig.is_some(), "--kubeconfig"),
            (serve.context.is_some(), "--context"),
            (serve.watch_namespace_selector.is_some(), "--watch-namespace-selector"),
            (serve.publish_service.is_some(), "--publish-service"),
            (!serve.publish_status_address.is_empty(), "--publish-status-address"),
            (serve.update_status.is_some(), "--update-status"),
            (serve.clear_status_on_shutdown.is_some(), "--clear-status-on-shutdown"),
            (serve.leader_lease.is_some(), "--leader-lease"),
            (serve.webhook.is_some(), "--webhook"),
            (serve.director_leases.is_some(), "--director-leases"),
        ] {
            if is_given {
                return refuse(&format!(
                    "{flag} is for objects of a cluster, and --manifests for those of a folder; give one"
                ));
            }
        }
    }
    let is_in_pod = std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
    if serve.manifests.is_empty() && serve.kubeconfig.is_none() && serve.context.is_none() && !is_in_pod {
        return refuse(
            "there is nothing to read: give --manifests DIR, or --kubeconfig FILE (in a pod neither is needed, and this is none)",
        );
    }
    if serve.context.is_some() && serve.kubeconfig.is_none() {
        return refuse("--context names a part of a kubeconfig; give --kubeconfig FILE too");
    }
    let has_files = (serve.webhook_cert.is_some(), serve.webhook_key.is_some());
    match (serve.webhook.is_some(), has_files) {
        (true, (true, true)) | (false, (false, false)) => {}
        (true, _) => {
            return refuse(
                "--webhook needs --webhook-cert FILE and --webhook-key FILE: API servers ask over TLS alone",
            );
        }
        (false, _) => return refuse("--webhook-cert and --webhook-key are for --webhook ADDR; give it too"),
    }
    if serve.watch_namespace_selector.is_some() && translate.watch_namespace.is_some() {
        return refuse("--watch-namespace and --watch-namespace-selector both say which namespaces are read; give one");
    }
    Ok(())
}

fn source(serve: &ServeOptions, translate: &Settings, role: Role) -> SourceSettings {
    if !serve.manifests.is_empty() {
        let poll = serve.poll.unwrap_or(false);
        return SourceSettings::Manifests(DirectorySettings { paths: serve.manifests.clone(), poll });
    }
    let publish =
        PublishSettings { service: serve.publish_service.clone(), addresses: serve.publish_status_address.clone() };
    let (lease, kinds): (_, &'static [Kind]) = match role {
        Role::All => ("sluicegate", &[Kind::Ingress, Kind::IngressClass, Kind::Service, Kind::Secret, Kind::ConfigMap]),
        Role::Gateway => ("sluicegate-gateway", &[Kind::Ingress, Kind::IngressClass, Kind::Secret]),
        Role::Director => ("sluicegate-director", &[Kind::Service, Kind::ConfigMap]),
    };
    let lease = serve.leader_lease.clone().unwrap_or_else(|| NamespacedName::new("sluicegate-system", lease));
    let writer = serve.update_status.unwrap_or(true).then(|| WriterSettings {
        identity: identity().into(),
        lease,
        timing: ElectionTiming::default(),
    });
    let login = Login { kubeconfig: serve.kubeconfig.clone(), context: serve.context.clone() };
    let config_maps = std::iter::once(&translate.vip_configmap).chain(&translate.tcp_services_configmap);
    let kube = KubeSettings {
        namespaces: translate.watch_namespace.iter().cloned().collect(),
        namespace_selector: serve.watch_namespace_selector.clone(),
        namespace_labels: role != Role::Gateway && translate.vip_pools.asks_for_labels(),
        endpoints_of: translate.backend_service.iter().cloned().collect(),
        config_maps: config_maps.cloned().collect(),
        nodes: role != Role::Gateway,
        secrets: role != Role::Director,
        services_alone: role == Role::Director,
    };
    let webhook = webhook(serve, role);
    SourceSettings::Cluster(Box::new(ClusterSettings { login, kube, writer, publish, kinds, webhook }))
}

/// A role judges what it serves: the others know nothing of it.
fn webhook(serve: &ServeOptions, role: Role) -> Option<(WebhookSettings, &'static [Kind])> {
    let settings = WebhookSettings {
        address: serve.webhook?,
        certificate: serve.webhook_cert.clone()?,
        key: serve.webhook_key.clone()?,
    };
    let kinds: &[Kind] = match role {
        Role::All => &[Kind::Ingress, Kind::Service, Kind::ConfigMap],
        Role::Gateway => &[Kind::Ingress, Kind::ConfigMap],
        Role::Director => &[Kind::Service, Kind::ConfigMap],
    };
    Some((settings, kinds))
}

fn metrics_settings(serve: &ServeOptions, takes_over: bool) -> MetricsSettings {
    let defaults = MetricsSettings::of_workers(1);
    let is_wanted = serve.nginx_metrics.unwrap_or(false);
    let class = if takes_over { "k8s.io/ingress-nginx" } else { "sluicegate.io/ingress" };
    MetricsSettings {
        series_limit: serve.metrics_series_limit.unwrap_or(defaults.series_limit),
        nginx: is_wanted.then(|| NginxNames { class: class.to_owned(), namespace: own_namespace(), pod: own_pod() }),
        ..defaults
    }
}

/// The namespace of this pod, as the manifest or the kubelet says it; empty where this is none.
fn own_namespace() -> String {
    let told = std::env::var("POD_NAMESPACE").ok();
    let file = || std::fs::read_to_string("/var/run/secrets/kubernetes.io/serviceaccount/namespace").ok();
    told.or_else(file).map_or_else(String::new, |name| name.trim().to_owned())
}

/// The name of this pod, or of the machine.
fn own_pod() -> String {
    std::env::var("POD_NAME").unwrap_or_else(|_| rustix::system::uname().nodename().to_string_lossy().into_owned())
}

/// Unlike the host's name, which every pod in the host's network has.
fn identity() -> String {
    let mut chance = [0; 4];
    // Without chance, the process id has to do.
    let filled = rustix::rand::getrandom(&mut chance, rustix::rand::GetRandomFlags::NONBLOCK);
    let suffix = filled.map_or_else(|_| std::process::id(), |_| u32::from_ne_bytes(chance));
    format!("{}_{suffix:08x}", rustix::system::uname().nodename().to_string_lossy())
}

fn director_settings(serve: &ServeOptions, role: Role) -> Result<DirectorSettings, Failure> {
    let name = match serve.director_name.as_ref().or(serve.node_name.as_ref()) {
        Some(name) => name.clone(),
        None => rustix::system::uname().nodename().to_string_lossy().into_owned(),
    };
    let id = |flag: &str, name: &str| DirectorId::new(name).map_err(|error| Failure::Usage(format!("{flag}: {error}")));
    let mut peers = BTreeMap::<DirectorId, Vec<SocketAddr>>::new();
    for (name, address) in &serve.director_peer {
        peers.entry(id("--director-peer", name)?).or_default().push(*address);
    }
    let secret = match &serve.director_secret_file {
        Some(path) => Secret::read(path).map_err(|error| Failure::Usage(format!("--director-secret-file: {error}")))?,
        None if peers.is_empty() => {
            // Nobody is there to share it with.
            let mut bytes = [0; 32];
            rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
            Secret::new(&bytes)?
        }
        None => {
            return Err(Failure::Usage(
                "--director-peer needs --director-secret-file: directors believe only those who know the secret"
                    .to_owned(),
            ));
        }
    };
    if !peers.is_empty() && serve.director_listen.is_empty() {
        return Err(Failure::Usage(
            "--director-peer needs --director-listen: the other directors connect to it, such as 192.0.2.11:7946"
                .to_owned(),
        ));
    }
    let leases = lease_settings(serve, &name)?;
    let listen = leases.as_ref().map_or(&serve.director_listen, |leases| &leases.addresses).clone();
    let mode: ForwardMode = serve.forward.unwrap_or_default().into();
    Ok(DirectorSettings {
        // With `auto` a gateway without XDP goes on with HTTP alone.
        must_forward: match mode {
            ForwardMode::Off => false,
            ForwardMode::Auto => role == Role::Director,
            ForwardMode::Xdp | ForwardMode::Packet => true,
        },
        forwarder: ForwarderSettings { mode, interfaces: serve.interface.clone(), ..of_version(serve.tables_version) },
        name: id("--director-name", &name)?,
        peers,
        node: serve.node_name.as_deref().unwrap_or(&name).into(),
        leases,
        listen,
        secret,
        failback: serve.failback.unwrap_or(false),
        cordoned: serve.cordoned.unwrap_or(false),
        on_isolation: serve.on_isolation.unwrap_or_default().into(),
        vip_drain: serve.drain.unwrap_or(DRAIN),
    })
}

/// How directors find each other on a cluster, unless flags say it.
fn lease_settings(serve: &ServeOptions, name: &str) -> Result<Option<LeaseSettings>, Failure> {
    let is_off = serve.director_leases.as_deref() == Some("off");
    if !serve.manifests.is_empty() || !serve.director_peer.is_empty() || is_off {
        return Ok(None);
    }
    if lease_name(name).is_none() {
        return Err(Failure::Usage(format!(
            "--director-name {name}: no Lease can have this name; give lower-case letters, digits, '-' and '.' (the node's name, say)"
        )));
    }
    let login = Login { kubeconfig: serve.kubeconfig.clone(), context: serve.context.clone() };
    let addresses = match (&serve.director_secret_file, &*serve.director_listen) {
        // Nobody could be believed: alone, or outside of those that are there.
        (None, _) => Vec::new(),
        (Some(_), []) => {
            own_address(&login)?.into_iter().map(|address| SocketAddr::from((address, HEARTBEATS))).collect()
        }
        (Some(_), listen) => listen.to_vec(),
    };
    let namespace = match (&serve.director_leases, &serve.leader_lease) {
        (Some(namespace), _) => namespace.as_str().into(),
        (None, Some(lease)) => lease.namespace.clone(),
        (None, None) => "sluicegate-system".into(),
    };
    Ok(Some(LeaseSettings { login, namespace, addresses }))
}

/// This machine's address towards the API server, unless that is on this machine.
fn own_address(login: &Login) -> anyhow::Result<Option<IpAddr>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let server = runtime.block_on(KubeClient::new(login))?.host();
    let found =
        (server.0.as_str(), server.1).to_socket_addrs().context("the API server, to find this machine's address")?;
    let own = found.into_iter().find_map(|server| crate::director::own_address(server.ip()));
    Ok(own.filter(|own| !own.is_loopback()))
}

/// This release's tables, or as a release would have them whose tables have that version and mean the same.
fn of_version(version: Option<u32>) -> ForwarderSettings {
    let own = ForwarderSettings::default();
    match version {
        Some(version) => ForwarderSettings { version, compatible: vec![own.version], ..own },
        None => own,
    }
}

/// What the flags about traces say; `None` where trace headers are left alone.
fn trace_settings(serve: &ServeOptions) -> Option<TraceSettings> {
    let defaults = TraceSettings::default();
    let formats = match &serve.trace_propagation[..] {
        [] => defaults.injection.formats,
        named if named.contains(&Propagator::None) => return None,
        named => named.iter().filter_map(|name| name.format()).collect(),
    };
    Some(TraceSettings {
        policy: Policy {
            trust: serve.trace_trust.map(Trust::from).unwrap_or_default(),
            sampler: serve.trace_ratio.map_or(Sampler::Always, Sampler::Ratio),
            ..Policy::default()
        },
        injection: InjectionSettings { formats, ..defaults.injection },
        trust_on: serve.trace_trust_on.clone(),
        forced_per_second: serve.trace_forced_limit.unwrap_or(defaults.forced_per_second),
        extract: defaults.extract,
    })
}

/// Who runs an ingress controller looks for its requests where the pod's logs are, so that is where they go unless it is
/// said otherwise. A director has none.
fn access_log_settings(serve: &ServeOptions, serves_http: bool) -> Option<AccessLogSettings> {
    let target = match &serve.access_log {
        _ if !serves_http => return None,
        Some(AccessLogTo::Off) => return None,
        Some(AccessLogTo::To(target)) => target.clone(),
        None => LogTarget::Stdout,
    };
    Some(AccessLogSettings {
        target,
        format: serve.access_log_format.clone().unwrap_or_default(),
        sample: serve.access_log_sample,
        filters: serve.access_log_filter.clone(),
        skip: serve.access_log_skip_url.clone(),
    })
}

fn proxy_settings(
    serve: ServeOptions,
    http: Vec<SocketAddr>,
    https: Vec<SocketAddr>,
    trace: Option<TraceSettings>,
) -> ProxySettings {
    let (limits, timeouts) = (Limits::default(), Timeouts::default());
    ProxySettings {
        trace,
        http,
        https,
        workers: serve.workers.map_or(0, usize::from),
        proxy_protocol: serve.proxy_protocol.unwrap_or(false),
        proxy_protocol_on: serve.proxy_protocol_on,
        trusted: serve.trusted_proxies,
        forwarded: serve.forwarded.unwrap_or(false),
        stream_engine: serve.stream_engine.map(Into::into).unwrap_or_default(),
        limits: Limits {
            max_head_bytes: serve.max_head_bytes.unwrap_or(limits.max_head_bytes),
            max_fields: serve.max_fields.unwrap_or(limits.max_fields),
            max_target_bytes: serve.max_uri_bytes.unwrap_or(limits.max_target_bytes),
            max_body_bytes: serve.max_body_bytes.unwrap_or(limits.max_body_bytes),
            max_connections: serve.max_connections.unwrap_or(limits.max_connections),
            max_streams: serve.max_streams.unwrap_or(limits.max_streams),
            max_tries: serve.max_tries.unwrap_or(limits.max_tries),
            ..limits
        },
        timeouts: Timeouts {
            request_head: serve.header_timeout.unwrap_or(timeouts.request_head),
            idle: serve.idle_timeout.unwrap_or(timeouts.idle),
            connect: serve.connect_timeout.unwrap_or(timeouts.connect),
            upstream_read: serve.read_timeout.unwrap_or(timeouts.upstream_read),
            upstream_send: serve.send_timeout.unwrap_or(timeouts.upstream_send),
            ..timeouts
        },
        ..ProxySettings::default()
    }
}

/// The addresses, or all of this machine's: `[::]` takes IPv4 too, where there is IPv6 at all.
fn or_any(given: &[SocketAddr], port: u16) -> Vec<SocketAddr> {
    if !given.is_empty() {
        return given.to_vec();
    }
    let any = match TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)) {
        Ok(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)),
        Err(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)),
    };
    vec![any]
}
