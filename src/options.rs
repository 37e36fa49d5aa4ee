//! The options of `run`: from the command line, the environment and a file, in this order of precedence.

use crate::Failure;
use anyhow::Context as _;
use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, ValueEnum};
use ipnet::IpNet;
use otlp::OtlpOptions;
use sluicegate_announce::OnIsolation;
use sluicegate_config::{InvalidVipPool, NamespacedName, PoolNamespaces, PoolRanges, Settings, VipPools};
use sluicegate_forward::forwarder::ForwardMode;
use sluicegate_proxy::StreamEngine;
use sluicegate_telemetry::{LineFormat, LogTarget, RequestFilter, SkippedUrl};
use sluicegate_trace::{Format, Ratio, Trust, UnknownFormat};
use sluicegate_translate::Published;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

/// How a flag is given, and how it is merged: what the command line and environment leave open comes from the file.
macro_rules! options {
    (
        $(#[$meta:meta])* pub struct $name:ident { $($(#[$field_meta:meta])* pub $field:ident: $kind:ident<$type:ty>,)* }
    ) => {
        $(#[$meta])*
        pub struct $name { $($(#[$field_meta])* pub $field: $kind<$type>,)* }

        impl $name {
            /// What is open here, from there.
            pub fn or(self, other: Self) -> Self {
                Self { $($field: Either::or(self.$field, other.$field),)* }
            }
        }
    };
}

pub mod otlp;

/// A value that may be missing.
trait Either {
    fn or(this: Self, other: Self) -> Self;
}

impl<T> Either for Option<T> {
    fn or(this: Self, other: Self) -> Self {
        this.or(other)
    }
}

impl<T> Either for Vec<T> {
    fn or(this: Self, other: Self) -> Self {
        if this.is_empty() { other } else { this }
    }
}

options! {
    /// How objects are read; also for `check` and `explain`.
    #[derive(Clone, Debug, Default, Args)]
    pub struct TranslateOptions {
        /// Also serve the classes of another controller (ingress-nginx), in its dialect
        #[arg(long, env = "SLUICEGATE_TAKE_OVER", value_name = "CONTROLLER", help_heading = "Manifests")]
        pub take_over: Option<TakeOver>,
        /// Class names that are ours where no IngressClass object has that name [default: sluicegate]
        #[arg(long, env = "SLUICEGATE_INGRESS_CLASS", value_name = "NAME", value_delimiter = ',', help_heading = "Manifests")]
        pub ingress_class: Vec<String>,
        /// IngressClasses of this controller are ours [default: sluicegate.io/ingress]
        #[arg(long, env = "SLUICEGATE_CONTROLLER_CLASS", value_name = "CONTROLLER", help_heading = "Manifests")]
        pub controller_class: Option<String>,
        /// Serve Ingresses without a class although there are IngressClasses
        #[arg(long, env = "SLUICEGATE_WATCH_INGRESS_WITHOUT_CLASS", value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Manifests")]
        pub watch_ingress_without_class: Option<bool>,
        /// Read objects of this namespace alone
        #[arg(long, env = "SLUICEGATE_WATCH_NAMESPACE", value_name = "NAMESPACE", help_heading = "Manifests")]
        pub watch_namespace: Option<String>,
        /// ConfigMap that binds virtual IPs to Services [default: sluicegate-system/vips]
        #[arg(long, env = "SLUICEGATE_VIP_CONFIGMAP", value_name = "NAMESPACE/NAME", help_heading = "Manifests")]
        pub vip_configmap: Option<NamespacedName>,
        /// Addresses that Services of type LoadBalancer get or may ask for, as CIDR or FIRST-LAST; repeatable, and a name gathers ranges, as in public=192.0.2.0/24,2001:db8::/120 [default: none]
        #[arg(long, env = "SLUICEGATE_VIP_POOL", value_name = "[NAME=]CIDR|A-B", help_heading = "Manifests")]
        pub vip_pool: Vec<PoolRanges>,
        /// Only namespaces whose labels match may use the pool, as in public=kubernetes.io/metadata.name in (shop,blog); repeatable, one has to match [default: all namespaces]
        #[arg(long, env = "SLUICEGATE_VIP_POOL_NAMESPACES", value_name = "NAME=SELECTOR", value_delimiter = ';', help_heading = "Manifests")]
        pub vip_pool_namespaces: Vec<PoolNamespaces>,
        /// Also take Services of type LoadBalancer that name no class
        #[arg(long, env = "SLUICEGATE_DEFAULT_LOAD_BALANCER", value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Manifests")]
        pub default_load_balancer: Option<bool>,
        /// Service that selects the agents on nodes (`sluicegate backend`): with method POD a node without a ready one gets no new flows
        #[arg(long, env = "SLUICEGATE_BACKEND_SERVICE", value_name = "NAMESPACE/NAME", help_heading = "Manifests")]
        pub backend_service: Option<NamespacedName>,
        /// ConfigMap of TCP services, in the format of ingress-nginx
        #[arg(long, env = "SLUICEGATE_TCP_SERVICES_CONFIGMAP", value_name = "NAMESPACE/NAME", help_heading = "Manifests")]
        pub tcp_services_configmap: Option<NamespacedName>,
    }
}

options! {
    /// Where and how the gateway serves.
    #[derive(Clone, Debug, Default, Args)]
    pub struct ServeOptions {
        /// Folder or file of manifests, watched; repeatable
        #[arg(long, env = "SLUICEGATE_MANIFESTS", value_name = "DIR|FILE", value_delimiter = ',', help_heading = "Manifests")]
        pub manifests: Vec<PathBuf>,
        /// Objects come from the API server that this kubeconfig names [default: that of the pod's cluster]
        #[arg(long, env = "SLUICEGATE_KUBECONFIG", value_name = "FILE", help_heading = "Manifests")]
        pub kubeconfig: Option<PathBuf>,
        /// The context in the kubeconfig [default: its current one]
        #[arg(long, env = "SLUICEGATE_CONTEXT", value_name = "NAME", help_heading = "Manifests")]
        pub context: Option<String>,
        /// Read objects of the namespaces alone whose labels match, such as edge=yes
        #[arg(long, env = "SLUICEGATE_WATCH_NAMESPACE_SELECTOR", value_name = "SELECTOR", help_heading = "Manifests")]
        pub watch_namespace_selector: Option<String>,
        /// Ingresses show the virtual IPs of this Service in their status, else what its own status shows
        #[arg(long, env = "SLUICEGATE_PUBLISH_SERVICE", value_name = "NAMESPACE/NAME", help_heading = "Manifests")]
        pub publish_service: Option<NamespacedName>,
        /// Ingresses show these addresses or names in their status; repeatable
        #[arg(long, env = "SLUICEGATE_PUBLISH_STATUS_ADDRESS", value_name = "ADDR", value_delimiter = ',', help_heading = "Manifests")]
        pub publish_status_address: Vec<Published>,
        /// Write statuses and Events, as the one that holds the Lease [default: true]
        #[arg(long, env = "SLUICEGATE_UPDATE_STATUS", value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Manifests")]
        pub update_status: Option<bool>,
        /// Take back on SIGTERM what was written to statuses, as the one that holds the Lease: for who removes the gateway [default: false]
        #[arg(long, env = "SLUICEGATE_CLEAR_STATUS_ON_SHUTDOWN", value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Manifests")]
        pub clear_status_on_shutdown: Option<bool>,
        /// The Lease of who writes [default: sluicegate-system/sluicegate, with -gateway or -director behind it by role]
        #[arg(long, env = "SLUICEGATE_LEADER_LEASE", value_name = "NAMESPACE/NAME", help_heading = "Manifests")]
        pub leader_lease: Option<NamespacedName>,
        /// Where the API server asks what would become of an object before it writes it (HTTPS, /validate) [default: nowhere]
        #[arg(long, env = "SLUICEGATE_WEBHOOK", value_name = "ADDR", value_parser = address, help_heading = "Manifests")]
        pub webhook: Option<SocketAddr>,
        /// File with the certificate of --webhook, read again when it changes
        #[arg(long, env = "SLUICEGATE_WEBHOOK_CERT", value_name = "FILE", help_heading = "Manifests")]
        pub webhook_cert: Option<PathBuf>,
        /// File with its key
        #[arg(long, env = "SLUICEGATE_WEBHOOK_KEY", value_name = "FILE", help_heading = "Manifests")]
        pub webhook_key: Option<PathBuf>,
        /// Never use inotify: look for changes once a second
        #[arg(long, env = "SLUICEGATE_POLL", value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Manifests")]
        pub poll: Option<bool>,
        /// Secret with the certificate for hosts that have none [default: self-signed]
        #[arg(long, env = "SLUICEGATE_DEFAULT_SSL_CERTIFICATE", value_name = "NAMESPACE/NAME", help_heading = "Manifests")]
        pub default_ssl_certificate: Option<NamespacedName>,

        /// Where to serve HTTP; repeatable [default: [::]:80]
        #[arg(long, env = "SLUICEGATE_HTTP", value_name = "ADDR", value_delimiter = ',', value_parser = address, help_heading = "Listeners")]
        pub http: Vec<SocketAddr>,
        /// Where to serve HTTPS and TLS passthrough; repeatable [default: [::]:443]
        #[arg(long, env = "SLUICEGATE_HTTPS", value_name = "ADDR", value_delimiter = ',', value_parser = address, help_heading = "Listeners")]
        pub https: Vec<SocketAddr>,
        /// Where to serve /healthz, /readyz and /metrics; repeatable [default: [::]:10254]
        #[arg(long, env = "SLUICEGATE_METRICS", value_name = "ADDR", value_delimiter = ',', value_parser = address, help_heading = "Listeners")]
        pub metrics: Vec<SocketAddr>,
        /// Most routes, and most endpoints, with series of their own; the rest is counted in one row [default: 20000]
        #[arg(long, env = "SLUICEGATE_METRICS_SERIES_LIMIT", value_name = "N", value_parser = bounded(1, 1 << 20), help_heading = "Listeners")]
        pub metrics_series_limit: Option<usize>,
        /// Also expose the metrics of ingress-nginx by their names, for dashboards and autoscalers that read them [default: false]
        #[arg(long, env = "SLUICEGATE_NGINX_METRICS", value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Listeners")]
        pub nginx_metrics: Option<bool>,
        /// Where to serve the admin API; off loopback only with --admin-token-file [default: 127.0.0.1:10253]
        #[arg(long, env = "SLUICEGATE_ADMIN", value_name = "ADDR", value_parser = address, help_heading = "Listeners")]
        pub admin: Option<SocketAddr>,
        /// File with the token that callers of the admin API must send
        #[arg(long, env = "SLUICEGATE_ADMIN_TOKEN_FILE", value_name = "FILE", help_heading = "Listeners")]
        pub admin_token_file: Option<PathBuf>,
        /// Clients of HTTP and HTTPS begin with a PROXY protocol header (v1 or v2)
        #[arg(long, env = "SLUICEGATE_PROXY_PROTOCOL", value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Listeners")]
        pub proxy_protocol: Option<bool>,
        /// The same on these of the --http and --https addresses alone; repeatable
        #[arg(long, env = "SLUICEGATE_PROXY_PROTOCOL_ON", value_name = "ADDR", value_delimiter = ',', value_parser = address, help_heading = "Listeners")]
        pub proxy_protocol_on: Vec<SocketAddr>,
        /// Networks whose X-Forwarded-* fields are believed [default: none]
        #[arg(long, env = "SLUICEGATE_TRUSTED_PROXIES", value_name = "CIDR", value_delimiter = ',', help_heading = "Listeners")]
        pub trusted_proxies: Vec<IpNet>,
        /// Also send the Forwarded field (RFC 7239) to backends
        #[arg(long, env = "SLUICEGATE_FORWARDED", value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Listeners")]
        pub forwarded: Option<bool>,

        /// Carry trace context to backends, in these formats beside those that came: tracecontext, b3, b3multi, jaeger, ottrace, datadog, xray, google, grpc-trace-bin; none leaves trace headers alone [default: tracecontext]
        #[arg(long, env = "SLUICEGATE_TRACE_PROPAGATION", value_name = "FORMAT", value_delimiter = ',', help_heading = "Tracing")]
        pub trace_propagation: Vec<Propagator>,
        /// A trace from outside: continue it, restart (a new one that strangers cannot choose, without their baggage) or ignore it [default: continue]
        #[arg(long, env = "SLUICEGATE_TRACE_TRUST", value_name = "RULE", help_heading = "Tracing")]
        pub trace_trust: Option<TrustName>,
        /// The same on one of the --http and --https addresses, as in [::]:443=restart; repeatable
        #[arg(long, env = "SLUICEGATE_TRACE_TRUST_ON", value_name = "ADDR=RULE", value_delimiter = ',', value_parser = trust_on, help_heading = "Tracing")]
        pub trace_trust_on: Vec<(SocketAddr, Trust)>,
        /// The part of all traces without a decision that is marked as recorded, 0 to 1 [default: 1]
        #[arg(long, env = "SLUICEGATE_TRACE_RATIO", value_name = "RATIO", value_parser = ratio, help_heading = "Tracing")]
        pub trace_ratio: Option<Ratio>,
        /// Traces a second that callers may have recorded beyond that, per worker [default: 100]
        #[arg(long, env = "SLUICEGATE_TRACE_FORCED_LIMIT", value_name = "N", help_heading = "Tracing")]
        pub trace_forced_limit: Option<u32>,

        /// Where a line for each request goes: a file, stdout or off [default: stdout]
        #[arg(long, env = "SLUICEGATE_ACCESS_LOG", value_name = "FILE|stdout|off", value_parser = access_log, help_heading = "Access log")]
        pub access_log: Option<AccessLogTo>,
        /// json, nginx (the line of ingress-nginx) or a template with nginx's variables, such as '$remote_addr $status "$request"' [default: json]
        #[arg(long, env = "SLUICEGATE_ACCESS_LOG_FORMAT", value_name = "FORMAT", help_heading = "Access log")]
        pub access_log_format: Option<LineFormat>,
        /// The part of requests that is logged, 0 to 1; errors always are [default: 1]
        #[arg(long, env = "SLUICEGATE_ACCESS_LOG_SAMPLE", value_name = "RATIO", value_parser = ratio, help_heading = "Access log")]
        pub access_log_sample: Option<Ratio>,
        /// Only requests like these, such as status>=400, duration>=500ms, host=*.shop.example or ingress=shop/web, conditions joined by &; repeatable, one has to hold [default: all]
        #[arg(long, env = "SLUICEGATE_ACCESS_LOG_FILTER", value_name = "FILTER", value_delimiter = ',', help_heading = "Access log")]
        pub access_log_filter: Vec<RequestFilter>,
        /// Not these: path and query as they come, or with * behind it all that begin so; repeatable [default: none]
        #[arg(long, env = "SLUICEGATE_ACCESS_LOG_SKIP_URL", value_name = "URL", value_delimiter = ',', help_heading = "Access log")]
        pub access_log_skip_url: Vec<SkippedUrl>,

        /// Worker threads [default: one per CPU]
        #[arg(long, env = "SLUICEGATE_WORKERS", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024), help_heading = "Process")]
        pub workers: Option<u16>,
        /// How TCP streams are relayed [default: splice]
        #[arg(long, env = "SLUICEGATE_STREAM_ENGINE", value_name = "ENGINE", help_heading = "Process")]
        pub stream_engine: Option<EngineName>,
        /// After SIGTERM, how long to go on accepting while /readyz says 503 [default: 10s]
        #[arg(long, env = "SLUICEGATE_LAME_DUCK", value_name = "TIME", value_parser = duration, help_heading = "Process")]
        pub lame_duck: Option<Duration>,
        /// After that, how long requests and connections under way may take [default: 30s]
        #[arg(long, env = "SLUICEGATE_DRAIN", value_name = "TIME", value_parser = duration, help_heading = "Process")]
        pub drain: Option<Duration>,
        /// error, warn, info, debug, trace, or a list such as warn,sluicegate_proxy=debug [default: info]
        #[arg(long, env = "SLUICEGATE_LOG_LEVEL", value_name = "FILTER", help_heading = "Process")]
        pub log_level: Option<String>,
        /// text or json [default: text]
        #[arg(long, env = "SLUICEGATE_LOG_FORMAT", value_name = "FORMAT", help_heading = "Process")]
        pub log_format: Option<LogFormatName>,

        /// Largest request head in bytes, else 431 [default: 65536]
        #[arg(long, env = "SLUICEGATE_MAX_HEAD_BYTES", value_name = "BYTES", value_parser = bounded(1024, 1 << 20), help_heading = "Limits")]
        pub max_head_bytes: Option<usize>,
        /// Most header fields of a request, else 431 [default: 128]
        #[arg(long, env = "SLUICEGATE_MAX_FIELDS", value_name = "N", value_parser = bounded(8, 10_000), help_heading = "Limits")]
        pub max_fields: Option<usize>,
        /// Longest request URI in bytes, else 414 [default: 16384]
        #[arg(long, env = "SLUICEGATE_MAX_URI_BYTES", value_name = "BYTES", value_parser = bounded(256, 1 << 20), help_heading = "Limits")]
        pub max_uri_bytes: Option<usize>,
        /// Largest request body in bytes, else 413; 0 = no limit [default: 0]
        #[arg(long, env = "SLUICEGATE_MAX_BODY_BYTES", value_name = "BYTES", help_heading = "Limits")]
        pub max_body_bytes: Option<u64>,
        /// Most client connections, else 503 [default: 65536]
        #[arg(long, env = "SLUICEGATE_MAX_CONNECTIONS", value_name = "N", value_parser = bounded(1, 1 << 24), help_heading = "Limits")]
        pub max_connections: Option<usize>,
        /// Most concurrent streams of an HTTP/2 connection [default: 128]
        #[arg(long, env = "SLUICEGATE_MAX_STREAMS", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000), help_heading = "Limits")]
        pub max_streams: Option<u32>,
        /// Most tries of a request, the first included [default: 3]
        #[arg(long, env = "SLUICEGATE_MAX_TRIES", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100), help_heading = "Limits")]
        pub max_tries: Option<u32>,
        /// Time for a request head, else 408 [default: 15s]
        #[arg(long, env = "SLUICEGATE_HEADER_TIMEOUT", value_name = "TIME", value_parser = some_time, help_heading = "Limits")]
        pub header_timeout: Option<Duration>,
        /// How long a connection may wait for its next request [default: 75s]
        #[arg(long, env = "SLUICEGATE_IDLE_TIMEOUT", value_name = "TIME", value_parser = some_time, help_heading = "Limits")]
        pub idle_timeout: Option<Duration>,
        /// Time to connect to a backend, else another one, then 504 [default: 5s]
        #[arg(long, env = "SLUICEGATE_CONNECT_TIMEOUT", value_name = "TIME", value_parser = some_time, help_heading = "Limits")]
        pub connect_timeout: Option<Duration>,
        /// Longest pause of a backend, else 504 [default: 60s]
        #[arg(long, env = "SLUICEGATE_READ_TIMEOUT", value_name = "TIME", value_parser = some_time, help_heading = "Limits")]
        pub read_timeout: Option<Duration>,
        /// Longest time in which a backend takes nothing, else 504 [default: 60s]
        #[arg(long, env = "SLUICEGATE_SEND_TIMEOUT", value_name = "TIME", value_parser = some_time, help_heading = "Limits")]
        pub send_timeout: Option<Duration>,

        /// Works on tables of another version, as a later release would: upgrades and ways back are tested with it.
        #[arg(long, hide = true)]
        pub tables_version: Option<u32>,
        /// What this process does: all, director (packets alone) or gateway (HTTP and TCP alone) [default: all]
        #[arg(long, env = "SLUICEGATE_ROLE", value_name = "ROLE", help_heading = "Virtual IPs")]
        pub role: Option<Role>,
        /// How packets for virtual IPs are forwarded: native XDP, else generic, else off with the reason [default: auto]
        #[arg(long, env = "SLUICEGATE_FORWARD", value_name = "ENGINE", help_heading = "Virtual IPs")]
        pub forward: Option<ForwardName>,
        /// Interface that packets for virtual IPs come in by; repeatable [default: those of the VIPs and the default route]
        #[arg(long, env = "SLUICEGATE_INTERFACE", value_name = "IFACE", value_delimiter = ',', help_heading = "Virtual IPs")]
        pub interface: Vec<String>,
        /// The Node that this runs on, whose label and cordon keep its director from holding virtual IPs [default: --director-name]
        #[arg(long, env = "SLUICEGATE_NODE_NAME", value_name = "NAME", help_heading = "Virtual IPs")]
        pub node_name: Option<String>,
        /// Name of this director among its peers [default: --node-name, else the host's name]
        #[arg(long, env = "SLUICEGATE_DIRECTOR_NAME", value_name = "NAME", help_heading = "Virtual IPs")]
        pub director_name: Option<String>,
        /// Another director with its address; repeatable, also for a second path to the same one
        #[arg(long, env = "SLUICEGATE_DIRECTOR_PEER", value_name = "NAME=ADDR", value_delimiter = ',', value_parser = peer, help_heading = "Virtual IPs")]
        pub director_peer: Vec<(String, SocketAddr)>,
        /// Where to listen for other directors; repeatable [default on a cluster: port 7946 of the address towards the API server]
        #[arg(long, env = "SLUICEGATE_DIRECTOR_LISTEN", value_name = "ADDR", value_delimiter = ',', value_parser = address, help_heading = "Virtual IPs")]
        pub director_listen: Vec<SocketAddr>,
        /// On a cluster without --director-peer: the namespace in which directors find each other by Leases, or off to be alone [default: that of --leader-lease]
        #[arg(long, env = "SLUICEGATE_DIRECTOR_LEASES", value_name = "NAMESPACE", help_heading = "Virtual IPs")]
        pub director_leases: Option<String>,
        /// File with the secret that all directors share, 16 bytes and more; needed with --director-peer, and on a cluster to be more than one
        #[arg(long, env = "SLUICEGATE_DIRECTOR_SECRET_FILE", value_name = "FILE", help_heading = "Virtual IPs")]
        pub director_secret_file: Option<PathBuf>,
        /// What two directors do that do not hear each other: release (never two owners) or hold (always one) [default: release]
        #[arg(long, env = "SLUICEGATE_ON_ISOLATION", value_name = "RULE", help_heading = "Virtual IPs")]
        pub on_isolation: Option<IsolationName>,
        /// Virtual IPs go back to the director that had them once it is fit again
        #[arg(long, env = "SLUICEGATE_FAILBACK", value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Virtual IPs")]
        pub failback: Option<bool>,
        /// Begin cordoned: vote and forward, hold no virtual IP until `sluicegate uncordon`; for a third vote, say
        #[arg(long, env = "SLUICEGATE_CORDONED", value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Virtual IPs")]
        pub cordoned: Option<bool>,
    }
}

/// Everything that `run` can be told.
#[derive(Clone, Debug, Default, Args)]
pub struct RunOptions {
    #[command(flatten)]
    pub serve: ServeOptions,
    #[command(flatten)]
    pub translate: TranslateOptions,
    #[command(flatten)]
    pub otlp: OtlpOptions,
    /// YAML file with the same options
    #[arg(long, env = "SLUICEGATE_CONFIG", value_name = "FILE", help_heading = "Process")]
    pub config: Option<PathBuf>,
}

/// Which admin API to ask.
#[derive(Clone, Debug, Args)]
pub struct AdminAddress {
    /// The admin API of the gateway
    #[arg(long, env = "SLUICEGATE_ADMIN", value_name = "ADDR", value_parser = address, default_value = "127.0.0.1:10253")]
    pub admin: SocketAddr,
    /// File with the token for it
    #[arg(long, env = "SLUICEGATE_ADMIN_TOKEN_FILE", value_name = "FILE")]
    pub admin_token_file: Option<PathBuf>,
}

/// Controllers whose classes can be taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TakeOver {
    IngressNginx,
}

/// What a process does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Role {
    #[default]
    All,
    Director,
    Gateway,
}

/// Names of the engines that forward packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ForwardName {
    #[default]
    Auto,
    Xdp,
    Packet,
    Off,
}

impl From<ForwardName> for ForwardMode {
    fn from(name: ForwardName) -> Self {
        match name {
            ForwardName::Auto => Self::Auto,
            ForwardName::Xdp => Self::Xdp,
            ForwardName::Packet => Self::Packet,
            ForwardName::Off => Self::Off,
        }
    }
}

/// What two directors do that do not hear each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum IsolationName {
    #[default]
    Release,
    Hold,
}

impl From<IsolationName> for OnIsolation {
    fn from(name: IsolationName) -> Self {
        match name {
            IsolationName::Release => Self::Release,
            IsolationName::Hold => Self::Hold,
        }
    }
}

/// Names of the stream engines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum EngineName {
    Splice,
    Copy,
    Uring,
}

impl From<EngineName> for StreamEngine {
    fn from(name: EngineName) -> Self {
        match name {
            EngineName::Splice => Self::Splice,
            EngineName::Copy => Self::Copy,
            EngineName::Uring => Self::Uring,
        }
    }
}

/// What `--trace-propagation` lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagator {
    /// Nothing is sent, and nothing is read.
    None,
    /// This format is sent.
    Format(Format),
}

impl Propagator {
    /// The format, if it is one.
    pub fn format(self) -> Option<Format> {
        match self {
            Self::None => None,
            Self::Format(format) => Some(format),
        }
    }
}

impl FromStr for Propagator {
    type Err = UnknownFormat;

    fn from_str(name: &str) -> Result<Self, UnknownFormat> {
        if name == "none" { Ok(Self::None) } else { name.parse().map(Self::Format) }
    }
}

/// What becomes of a trace from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TrustName {
    Continue,
    Restart,
    Ignore,
}

impl From<TrustName> for Trust {
    fn from(name: TrustName) -> Self {
        match name {
            TrustName::Continue => Self::Continue,
            TrustName::Restart => Self::Restart,
            TrustName::Ignore => Self::Ignore,
        }
    }
}

/// Where the access log goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLogTo {
    Off,
    To(LogTarget),
}

/// Names of the log formats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormatName {
    #[default]
    Text,
    Json,
}

impl RunOptions {
    /// Fills in from `--config` what the command line and the environment leave open.
    pub fn with_file(self) -> Result<Self, Failure> {
        let Some(path) = self.config.clone() else { return Ok(self) };
        let file = Self::of_file(&path)?;
        Ok(Self {
            serve: self.serve.or(file.serve),
            translate: self.translate.or(file.translate),
            otlp: self.otlp.or(file.otlp),
            config: self.config,
        })
    }

    /// Those of a file alone.
    pub fn of_file(path: &Path) -> Result<Self, Failure> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("--config {}: cannot be read", path.display()))
            .map_err(Failure::Operation)?;
        from_text(path, &text)
    }
}

impl TranslateOptions {
    /// The settings of the translation for a folder of manifests.
    ///
    /// # Errors
    /// Where pools do not go together.
    pub fn settings(&self, reserved: impl IntoIterator<Item = u16>) -> Result<Settings, InvalidVipPool> {
        let mut settings = Settings::for_folder();
        settings.take_over_ingress_nginx = self.take_over == Some(TakeOver::IngressNginx);
        if let Some(controller) = &self.controller_class {
            settings.controller = controller.as_str().into();
        }
        if !self.ingress_class.is_empty() {
            settings.class_names = self.ingress_class.iter().map(|name| name.as_str().into()).collect();
        }
        settings.watch_ingress_without_class = self.watch_ingress_without_class.unwrap_or(false);
        settings.watch_namespace = self.watch_namespace.as_deref().map(Into::into);
        if let Some(name) = &self.vip_configmap {
            settings.vip_configmap = name.clone();
        }
        settings.default_load_balancer = self.default_load_balancer.unwrap_or(false);
        settings.vip_pools = VipPools::new(self.vip_pool.iter().cloned(), self.vip_pool_namespaces.iter().cloned())?;
        settings.backend_service.clone_from(&self.backend_service);
        settings.tcp_services_configmap.clone_from(&self.tcp_services_configmap);
        let reserved = reserved.into_iter().collect::<std::collections::BTreeSet<_>>();
        if !reserved.is_empty() {
            settings.reserved_ports = reserved;
        }
        Ok(settings)
    }
}

/// Carries the options of `run` alone, so that a file can be read by the same rules as the command line.
#[derive(Debug, Parser)]
#[command(name = "config", no_binary_name = true)]
struct FileOptions {
    #[command(flatten)]
    options: RunOptions,
}

fn from_text(path: &Path, text: &str) -> Result<RunOptions, Failure> {
    let wrong = |what: String| Failure::Usage(format!("--config {}: {what}", path.display()));
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(RunOptions::default());
    }
    let keys: BTreeMap<String, serde_json::Value> =
        yaml_serde::from_str(text).map_err(|error| wrong(format!("not a mapping of flags to values: {error}")))?;
    // The environment is heard when the command line is parsed; here it must not hide what the file says.
    let command = FileOptions::command().mut_args(|argument| argument.env(None::<&str>));
    let mut arguments = Vec::new();
    for (key, value) in &keys {
        let known = command.get_arguments().find(|argument| argument.get_long() == Some(key.as_str()));
        match known {
            Some(argument) if !argument.is_hide_set() && key != "config" => {}
            _ => return Err(wrong(format!("`{key}` is not a flag of `sluicegate run`; see `sluicegate run --help`"))),
        }
        let values = match value {
            serde_json::Value::Array(values) => values.iter().collect(),
            value => vec![value],
        };
        for value in values {
            arguments.push(format!(
                "--{key}={}",
                scalar(value).ok_or_else(|| wrong(format!("`{key}`: a plain value or a list of them is expected")))?
            ));
        }
    }
    let matches: ArgMatches =
        command.try_get_matches_from(arguments).map_err(|error| wrong(crate::cli::usage_message(&error)))?;
    let file = FileOptions::from_arg_matches(&matches).map_err(|error| wrong(crate::cli::usage_message(&error)))?;
    Ok(file.options)
}

fn scalar(value: &serde_json::Value) -> Option<String> {
    match value {
        serde_json::Value::String(text) => Some(text.clone()),
        serde_json::Value::Number(number) => Some(number.to_string()),
        serde_json::Value::Bool(flag) => Some(flag.to_string()),
        _ => None,
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| "an address and a port are expected, such as 127.0.0.1:8080, 0.0.0.0:80 or [::]:80".to_owned())
}

/// `[::]:443=restart`
fn trust_on(text: &str) -> Result<(SocketAddr, Trust), String> {
    let expected = "an address and a rule are expected, such as [::]:443=restart";
    let (listener, trust) = text.rsplit_once('=').ok_or(expected)?;
    Ok((address(listener)?, trust.parse().map_err(|error| format!("{error}"))?))
}

/// `name=192.0.2.12:7946`
fn peer(text: &str) -> Result<(String, SocketAddr), String> {
    let expected = || "a name and an address are expected, such as edge2=192.0.2.12:7946".to_owned();
    let (name, address) = text.split_once('=').ok_or_else(expected)?;
    Ok((name.to_owned(), address.parse().map_err(|_| expected())?))
}

/// `500ms`, `10s`, `2m`, `1h`, and `0`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let expected = || "a number with a unit is expected, such as 500ms, 10s, 2m or 1h".to_owned();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number = number.parse::<u64>().map_err(|_| expected())?;
    let milliseconds = match unit {
        "ms" => Some(number),
        "s" => number.checked_mul(1_000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        "" if number == 0 => Some(0),
        _ => return Err(expected()),
    };
    let longest = 30 * 24 * 3_600_000;
    milliseconds.filter(|time| *time <= longest).map(Duration::from_millis).ok_or_else(|| "at most 720h".to_owned())
}

fn some_time(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("a time above 0 is expected".to_owned()),
        time => Ok(time),
    }
}

fn access_log(text: &str) -> Result<AccessLogTo, String> {
    match text {
        "off" => Ok(AccessLogTo::Off),
        "stdout" => Ok(AccessLogTo::To(LogTarget::Stdout)),
        "" => Err("a file, stdout or off is expected".to_owned()),
        path => Ok(AccessLogTo::To(LogTarget::File(path.into()))),
    }
}

fn ratio(text: &str) -> Result<Ratio, String> {
    let part = text.parse::<f64>().map_err(|_| "a number from 0 to 1 is expected".to_owned())?;
    Ratio::new(part).map_err(|error| error.to_string())
}

fn bounded(least: usize, most: usize) -> impl Fn(&str) -> Result<usize, String> + Clone + Send + Sync {
    move |text| match text.parse::<usize>() {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        _ => Err(format!("a number from {least} to {most} is expected")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> Result<RunOptions, String> {
        from_text(Path::new("x.yaml"), text).map_err(|failure| match failure {
            Failure::Usage(message) => message,
            other => format!("{other:?}"),
        })
    }

    #[test]
    fn the_keys_of_a_file_are_the_flags() {
        let options = file("http: ['127.0.0.1:1', '[::1]:2']\nworkers: 3\nproxy-protocol: true\nlame-duck: 1m\ntake-over: ingress-nginx\n").unwrap_or_default();
        assert_eq!(options.serve.http.len(), 2);
        assert_eq!(options.serve.workers, Some(3));
        assert_eq!(options.serve.proxy_protocol, Some(true));
        assert_eq!(options.serve.lame_duck, Some(Duration::from_secs(60)));
        assert_eq!(options.translate.take_over, Some(TakeOver::IngressNginx));
        assert!(file("# nothing\n").is_ok());
    }

    #[test]
    fn what_is_wrong_in_a_file_is_named() {
        for (text, part) in [
            ("htpt: x", "`htpt` is not a flag"),
            ("config: y.yaml", "`config` is not a flag"),
            ("tables-version: 9", "`tables-version` is not a flag"),
            ("workers: many", "--workers"),
            ("http: 8080", "127.0.0.1:8080"),
            ("http: {a: b}", "`http`: a plain value"),
            ("- a", "not a mapping"),
            ("drain: 10", "number with a unit"),
        ] {
            let message = file(text).expect_err(text);
            assert!(message.starts_with("--config x.yaml: ") && message.contains(part), "{text}: {message}");
        }
    }

    #[test]
    fn what_is_typed_wins_over_the_file() {
        let typed = ServeOptions { workers: Some(1), ..ServeOptions::default() };
        let file = ServeOptions { workers: Some(2), poll: Some(true), ..ServeOptions::default() };
        let merged = typed.or(file);
        assert_eq!((merged.workers, merged.poll), (Some(1), Some(true)));
    }

    #[test]
    fn times_have_units() {
        assert_eq!(duration("1500ms"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        for bad in ["", "10", "s", "-1s", "1d", "999999999999h", "1.5s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        assert!(some_time("0s").is_err());
    }
}
