//! The command line.

use crate::options::{AdminAddress, RunOptions, TranslateOptions};
use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand, ValueEnum};
use sluicegate_config::NamespacedName;
use std::path::PathBuf;
use std::process::ExitCode;

/// L4/L7 load balancer and Kubernetes ingress data plane in one binary.
#[derive(Debug, Parser)]
#[command(
    name = "sluicegate",
    version,
    about = "Ingress gateway and L4 director driven by Kubernetes manifests",
    long_about = "Sluicegate is an ingress gateway driven by Kubernetes manifests: TLS, virtual hosts, HTTP/1.1, HTTP/2, gRPC, \
                  WebSocket and TCP. A change swaps a table; nothing reloads.",
    after_help = "Examples:\n  \
                  sluicegate demo                                  # try it: backends, gateway, URLs to open\n  \
                  sluicegate demo --once                           # drive every path once and print what happened\n  \
                  sluicegate check manifests/                      # what would become of these manifests?\n  \
                  sluicegate run --manifests manifests/            # serve them, and follow every change\n  \
                  sluicegate routes                                # what does the running gateway serve?\n  \
                  sluicegate explain https://shop.example/cart     # which rule takes this, and why?\n  \
                  sluicegate explain tcp,198.51.100.7:40000,192.0.2.10:80   # which real server gets this packet?\n\n\
                  Exit codes: 0 success, 1 something did not work, 2 wrong usage.\n\
                  Every flag of `run` can be set as SLUICEGATE_FLAG in the environment or as a key of --config FILE.",
    disable_help_subcommand = true,
    arg_required_else_help = true
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start echo backends and the gateway on built-in manifests, to try it; as root also a network with a director
    #[command(
        after_help = "Examples:\n  sluicegate demo\n  sluicegate demo --once\n  sudo sluicegate demo --once      # packets through virtual IPs too\n  sluicegate demo --http 127.0.0.1:9080 --https 127.0.0.1:9443"
    )]
    Demo(DemoArguments),
    /// Serve: the gateway
    #[command(after_help = RUN_EXAMPLES)]
    Run(Box<RunArguments>),
    /// Read manifests and print what each object becomes and what is rejected; exits 1 if anything is
    #[command(
        after_help = "Examples:\n  sluicegate check manifests/\n  sluicegate check web.yaml tls.yaml -o json\n  sluicegate check --take-over ingress-nginx manifests/"
    )]
    Check(CheckArguments),
    /// Print the routes of the running gateway
    #[command(after_help = "Examples:\n  sluicegate routes\n  sluicegate routes -o json | jq '.routes[].host'")]
    Routes(QueryArguments),
    /// Print the backends of the running gateway with their endpoints and counts
    #[command(after_help = "Examples:\n  sluicegate backends\n  sluicegate backends --admin 127.0.0.1:10253 -o json")]
    Backends(QueryArguments),
    /// Print the virtual IPs with their real servers, what they got, and how fast
    #[command(
        after_help = "Examples:\n  sluicegate vips\n  sluicegate vips --stats                      # connections, packets and bytes, drops by reason\n  sluicegate vips --rate --interval 5s --count 3\n  sluicegate vips -o json"
    )]
    Vips(VipsArguments),
    /// Take the running director out of service: others hold its virtual IPs, it forwards and votes on
    #[command(
        after_help = "Examples:\n  sluicegate cordon\n  sluicegate cordon --force      # also where nobody else would hold them"
    )]
    Cordon(CordonArguments),
    /// Let the running director hold virtual IPs again
    #[command(after_help = "Examples:\n  sluicegate uncordon")]
    Uncordon(UncordonArguments),
    /// Say which rule takes a URL or which virtual IP takes a packet, and why every other candidate loses
    #[command(
        after_help = "Examples:\n  sluicegate explain https://shop.example/cart\n  sluicegate explain shop.example/cart --manifests manifests/\n  sluicegate explain http://192.0.2.10/ -o json\n  sluicegate explain tcp,198.51.100.7:40000,192.0.2.10:80\n  sluicegate explain udp,[2001:db8::7]:40000,[2001:db8::10]:53 --manifests manifests/\n  sluicegate explain icmp,198.51.100.7,192.0.2.10"
    )]
    Explain(ExplainArguments),
    /// Show live requests of the running gateway as they end, or sampled packets of its director
    #[command(
        after_help = "Examples:\n  sluicegate tap --host shop.example --status 5xx\n  sluicegate tap --slow 200ms --ingress shop/web --count 20\n  sluicegate tap --for 10s -o json | jq .tries\n  sluicegate tap --packet --every 1000\n  sluicegate tap --packet --vip 192.0.2.10 --count 20\n  sluicegate tap --packet --for 10s --write vip.pcapng\n  sluicegate tap --packet --write - | tcpdump -r -"
    )]
    Tap(TapArguments),
    /// Make this host a real server: VIPs on lo without ARP, tunnels of known directors unwrapped, packets into pods (needs root)
    #[command(
        after_help = "Examples:\n  sluicegate backend --interface eth0 --vip 192.0.2.100 --director 192.0.2.11\n  sluicegate backend --interface eth0 --manifests manifests/ --director 192.0.2.11 --tunnel gue\n  sluicegate backend --interface eth0 --vip 192.0.2.100 --director 192.0.2.11 --tunnel gue --peer 203.0.113.0/24\n  sluicegate backend --interface eth0 --vip 192.0.2.100 --tunnel none      # on the director's link (L2)\n  sluicegate backend --node-name node-a --kubeconfig ~/.kube/config        # into the pods of a node (POD)"
    )]
    Backend(Box<BackendArguments>),
    /// Remove programs, tables and addresses that a gone director or real server left on this host (needs root)
    #[command(after_help = "Examples:\n  sluicegate detach")]
    Detach(DetachArguments),
    /// Check this host, and the rights on its cluster, for what stands in the way, and say what to change; exits 1 if traffic cannot flow
    #[command(
        after_help = "Examples:\n  sluicegate doctor --role director --interface eth0\n  sluicegate doctor --role backend --interface eth0 --vip 192.0.2.100 -o json\n  sluicegate doctor --role gateway --kubeconfig ~/.kube/config"
    )]
    Doctor(DoctorArguments),
    /// Make this host fit for what it is to be, as an init container does: BPF file system, settings of the kernel (needs root)
    #[command(after_help = "Examples:\n  sluicegate prepare --role director\n  sluicegate prepare --role backend")]
    Prepare(PrepareArguments),
}

const RUN_EXAMPLES: &str = "Examples:\n  \
    sluicegate run --manifests manifests/\n  \
    sluicegate run --manifests manifests/ --http 127.0.0.1:8080 --https 127.0.0.1:8443 --metrics 127.0.0.1:10254\n  \
    sluicegate run --manifests manifests/ --take-over ingress-nginx --trusted-proxies 10.0.0.0/8\n  \
    sluicegate run --config /etc/sluicegate.yaml\n\n\
    Order: a flag wins over SLUICEGATE_<FLAG> in the environment (lists with commas), which wins over --config FILE\n\
    (YAML; the keys are the flags without dashes in front, lists as lists).\n\n\
    SIGTERM or SIGINT: /readyz says 503 while accepting goes on for --lame-duck, then nothing is accepted any more and\n\
    what is under way may finish within --drain; exit code 0. A second signal ends it at once; exit code 1.";

/// How a command prints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// Aligned columns.
    #[default]
    Table,
    /// One JSON document.
    Json,
}

#[derive(Debug, Args)]
pub struct RunArguments {
    #[command(flatten)]
    pub options: RunOptions,
}

#[derive(Debug, Args)]
pub struct DemoArguments {
    /// Drive every path once, print a table of what happened, and exit 0 or 1
    #[arg(long)]
    pub once: bool,
    /// Leave out the network of namespaces that is built where there are the rights for it (root)
    #[arg(long)]
    pub no_packets: bool,
    /// Where to serve HTTP; if the port is taken, the next free one is used
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    pub http: std::net::SocketAddr,
    /// Where to serve HTTPS; if the port is taken, the next free one is used
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8443")]
    pub https: std::net::SocketAddr,
    /// How to print the table of --once
    #[arg(short, long, value_enum, default_value_t)]
    pub output: OutputFormat,
    /// What to log: error, warn, info, debug, or a list of target=level
    #[arg(long, value_name = "FILTER", default_value = "error")]
    pub log_level: String,
}

#[derive(Debug, Args)]
pub struct CheckArguments {
    /// Folders and files of manifests
    #[arg(required = true, value_name = "DIR|FILE")]
    pub paths: Vec<PathBuf>,
    #[command(flatten)]
    pub translate: TranslateOptions,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    pub output: OutputFormat,
}

#[derive(Debug, Args)]
pub struct QueryArguments {
    #[command(flatten)]
    pub admin: AdminAddress,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    pub output: OutputFormat,
}

#[derive(Debug, Args)]
pub struct VipsArguments {
    #[command(flatten)]
    pub query: QueryArguments,
    /// Connections, packets and bytes since the tables exist, and drops by reason
    #[arg(long)]
    pub stats: bool,
    /// Connections, packets and bytes a second
    #[arg(long)]
    pub rate: bool,
    /// From one reading to the next; goes on until it is ended, or for --count
    #[arg(long, value_name = "TIME", value_parser = crate::options::duration)]
    pub interval: Option<std::time::Duration>,
    /// How many readings
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
}

#[derive(Debug, Args)]
pub struct TapArguments {
    /// Requests for this host, or *.NAME for all below it
    #[arg(long, value_name = "HOST")]
    pub host: Option<String>,
    /// Requests for this path, or with * behind it all that begin so
    #[arg(long, value_name = "PATH")]
    pub path: Option<String>,
    /// Requests with this method
    #[arg(long, value_name = "METHOD")]
    pub method: Option<String>,
    /// Requests with this status: 404, 5xx, 400-499 or ">=400"
    #[arg(long, value_name = "STATUS")]
    pub status: Option<String>,
    /// Requests that took this long and longer
    #[arg(long, value_name = "TIME")]
    pub slow: Option<String>,
    /// Requests that this Ingress took; NAMESPACE/* for all of a namespace
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub ingress: Option<String>,
    /// How to print requests; json: one object a line, with the fields of the access log
    #[arg(short, long, value_enum, default_value_t, conflicts_with = "packet")]
    pub output: OutputFormat,
    /// Packets of the director instead of requests
    #[arg(long, conflicts_with_all = ["host", "path", "method", "status", "slow", "ingress"])]
    pub packet: bool,
    /// One packet of so many; 1 = all
    #[arg(long, value_name = "N", requires = "packet", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub every: u32,
    /// Packets to this virtual IP alone
    #[arg(long, value_name = "ADDRESS", requires = "packet")]
    pub vip: Option<std::net::IpAddr>,
    /// Also packets that are for no virtual IP
    #[arg(long, requires = "packet")]
    pub all: bool,
    /// Bytes of each frame, headers first
    #[arg(long, value_name = "BYTES", requires = "packet", default_value_t = 128, value_parser = clap::value_parser!(u16).range(1..=232))]
    pub snap: u16,
    /// End after so many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// End after this time
    #[arg(long = "for", value_name = "TIME", value_parser = crate::options::duration)]
    pub period: Option<std::time::Duration>,
    /// Write packets as a capture file (pcapng) instead of lines; - for standard output
    #[arg(long, value_name = "FILE", requires = "packet")]
    pub write: Option<PathBuf>,
    #[command(flatten)]
    pub admin: AdminAddress,
}

#[derive(Debug, Args)]
pub struct ExplainArguments {
    /// A URL (without a scheme, http://), or a packet: PROTOCOL,SOURCE,DESTINATION
    #[arg(value_name = "URL|PACKET")]
    pub target: String,
    /// Ask these manifests instead of a running gateway
    #[arg(long, value_name = "DIR|FILE")]
    pub manifests: Vec<PathBuf>,
    #[command(flatten)]
    pub admin: AdminAddress,
    #[command(flatten)]
    pub translate: TranslateOptions,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    pub output: OutputFormat,
}

#[derive(Debug, Args)]
pub struct CordonArguments {
    /// Also where no other director is there and fit, so that nobody holds the virtual IPs
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub admin: AdminAddress,
}

#[derive(Debug, Args)]
pub struct UncordonArguments {
    #[command(flatten)]
    pub admin: AdminAddress,
}

#[derive(Debug, Args)]
pub struct BackendArguments {
    /// Where the director's packets come in and answers leave; repeatable. Without it: those that have the node's addresses
    #[arg(long, value_name = "IFACE")]
    pub interface: Vec<String>,
    /// A virtual IP of this host; repeatable
    #[arg(long, value_name = "ADDRESS")]
    pub vip: Vec<std::net::IpAddr>,
    /// Folder or file of manifests, followed: those VIPs whose real servers are here, and all of them without --node-name
    #[arg(long, value_name = "DIR|FILE")]
    pub manifests: Vec<PathBuf>,
    /// Follow the API server that this kubeconfig names, in place of manifests; in a pod with --node-name none is needed
    #[arg(long, value_name = "FILE", conflicts_with = "manifests")]
    pub kubeconfig: Option<PathBuf>,
    /// The context in the kubeconfig [default: the current one]
    #[arg(long, value_name = "NAME", requires = "kubeconfig")]
    pub context: Option<String>,
    /// Read objects of the namespaces alone whose labels match, such as edge=yes
    #[arg(
        long,
        env = "SLUICEGATE_WATCH_NAMESPACE_SELECTOR",
        value_name = "SELECTOR",
        conflicts_with = "watch_namespace"
    )]
    pub watch_namespace_selector: Option<String>,
    /// YAML file with flags of `sluicegate run`: those that say how objects are read count here too, beside the directors'
    #[arg(long, env = "SLUICEGATE_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Name of the node that this host is: packets are handed to its pods (method POD)
    #[arg(long, env = "SLUICEGATE_NODE_NAME", value_name = "NAME")]
    pub node_name: Option<String>,
    /// Flows into pods that are remembered, about 210 bytes each
    #[arg(long, value_name = "N", default_value_t = sluicegate_backend::DEFAULT_POD_FLOWS, value_parser = clap::value_parser!(u32).range(1024..=16_777_216))]
    pub pod_flows: u32,
    /// Serve /healthz, /readyz and /metrics there; repeatable
    #[arg(long, value_name = "ADDR")]
    pub metrics: Vec<std::net::SocketAddr>,
    /// Address of a director, the source of its tunnels; repeatable
    #[arg(long, value_name = "ADDRESS")]
    pub director: Vec<std::net::IpAddr>,
    /// Service that selects the directors: tunnels of their hosts are believed [default: sluicegate-system/sluicegate-directors
    /// where objects come from a cluster and no --director is given]
    #[arg(long, env = "SLUICEGATE_DIRECTOR_SERVICE", value_name = "NAMESPACE/NAME", conflicts_with = "any_director")]
    pub director_service: Option<NamespacedName>,
    /// Unwrap tunnels of anybody: whoever reaches this host can send packets with any source to its VIPs
    #[arg(long, conflicts_with = "director")]
    pub any_director: bool,
    /// Another real server, or a network of them, for the second chance: packets of flows that are not known here are handed
    /// over to it, and taken from it; repeatable. Needs --tunnel gue
    #[arg(long, value_name = "ADDRESS[/PREFIX]")]
    pub peer: Vec<sluicegate_backend::PeerNetwork>,
    /// The tunnel that directors use: what leaves is sized for it
    #[arg(long, value_enum, default_value_t)]
    pub tunnel: TunnelName,
    /// Largest IP packet on the way from the director, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 1500, value_parser = clap::value_parser!(u16).range(1280..=9216))]
    pub path_mtu: u16,
    /// Attach classifiers as on kernels before 6.6
    #[arg(long, hide = true)]
    pub classic_filters: bool,
    /// Do it once and exit; else it is kept so until SIGTERM. Programs and addresses stay either way
    #[arg(long)]
    pub once: bool,
    /// What to log: error, warn, info, debug, or a list of target=level
    #[arg(long, value_name = "FILTER", default_value = "info")]
    pub log_level: String,
    #[command(flatten)]
    pub translate: TranslateOptions,
}

/// Tunnels between director and real server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum TunnelName {
    /// IP in IP (TUNNEL).
    #[default]
    Ipip,
    /// IP in UDP (GUE).
    Gue,
    /// The same link (L2).
    None,
}

#[derive(Debug, Args)]
pub struct DetachArguments {
    /// Where the director has its pins
    #[arg(long, value_name = "DIR")]
    pub pins: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct DoctorArguments {
    /// What this host is to be
    #[arg(long, value_enum)]
    pub role: ExaminedRole,
    /// Interface that packets for virtual IPs come in on or leave by; repeatable; a gateway needs none
    #[arg(long, value_name = "IFACE", required_if_eq_any([("role", "director"), ("role", "backend"), ("role", "all")]))]
    pub interface: Vec<String>,
    /// A virtual IP; repeatable
    #[arg(long, value_name = "ADDRESS")]
    pub vip: Vec<std::net::IpAddr>,
    /// Packets come and go without a tunnel (L2 alone)
    #[arg(long)]
    pub no_tunnels: bool,
    /// Also ask this cluster whether it allows what the role needs, and for kube-proxy [default: that of the pod]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The context in the kubeconfig [default: its current one]
    #[arg(long, value_name = "NAME", requires = "kubeconfig")]
    pub context: Option<String>,
    /// As `run` is given it
    #[arg(long, value_name = "NAMESPACE")]
    pub watch_namespace: Option<String>,
    /// `run` is given --watch-namespace-selector
    #[arg(long)]
    pub watch_namespace_selector: bool,
    /// As `run` is given it [default: sluicegate-system/vips]
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub vip_configmap: Option<NamespacedName>,
    /// As `run` is given it
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub tcp_services_configmap: Option<NamespacedName>,
    /// As `run` is given it [default: by role]
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub leader_lease: Option<NamespacedName>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    pub output: OutputFormat,
}

#[derive(Debug, Args)]
pub struct PrepareArguments {
    /// What this host is to be
    #[arg(long, value_enum)]
    pub role: DoctorRole,
}

/// What a host is looked at for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExaminedRole {
    /// Forwards packets.
    Director,
    /// Answers them.
    Backend,
    /// Serves HTTP.
    Gateway,
    /// Director and gateway.
    All,
}

/// What a host is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DoctorRole {
    /// Forwards packets.
    Director,
    /// Answers them.
    Backend,
}

/// Reads the command line.
pub fn parse() -> Result<Cli, clap::Error> {
    Cli::try_parse()
}

/// Says what is wrong with the command line in one line, or prints the help that was asked for.
pub fn report(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // Nothing is left to do where standard output is gone.
            let _gone = error.print();
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _gone = error.print();
            ExitCode::from(2)
        }
        _ => {
            crate::output::complain(&usage_message(error));
            ExitCode::from(2)
        }
    }
}

/// clap's message without its usage block: the complaint, tips and the pointer to the help, in one line.
pub fn usage_message(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let said = text
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:"))
        .filter(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join("; ");
    format!("{}; see `sluicegate --help`", said.trim_start_matches("error: ").replace(":;", ":"))
}
