//! `/api/v1/state`: the schema, and how desired state becomes it. Pure; `docs/admin-api.md` describes it for users.
//!
//! The types are their own, and not those of the vocabulary, because scripts depend on their shape. They can be read
//! back, so that the commands that print tables use the same definition.

use crate::changes::ChangeState;
use crate::director::{ConflictState, DirectorState};
use crate::packets::{PacketsState, PortTraffic};
use crate::source::SourceState;
use crate::view::Readiness;
use serde::{Deserialize, Serialize};
use sluicegate_config::{
    Action, Backend, BackendId, CertificateId, Desired, Endpoint, HealthCheck, PathMatch, ProbeKind, Redirect,
    Rejection, Route, TlsTreatment, TransportProtocol, VipBinding, VipPort, VipService, VirtualHost, WhenAllFail,
};
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

/// A part of the state that can be asked for alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Section {
    /// Virtual IPs.
    Vips,
    /// Routes.
    Routes,
    /// Backends and their endpoints.
    Backends,
    /// Certificates.
    Certificates,
    /// How server names (SNI) are treated.
    ServerNames,
    /// What is listened on.
    Listeners,
    /// What was not taken.
    Rejections,
    /// The last changes.
    Changes,
}

impl Section {
    /// Every section, in the order of the document.
    pub const ALL: [Self; 8] = [
        Self::Vips,
        Self::Routes,
        Self::Backends,
        Self::Certificates,
        Self::ServerNames,
        Self::Listeners,
        Self::Rejections,
        Self::Changes,
    ];

    /// Its name in the document and in `?section=`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Vips => "vips",
            Self::Routes => "routes",
            Self::Backends => "backends",
            Self::Certificates => "certificates",
            Self::ServerNames => "server_names",
            Self::Listeners => "listeners",
            Self::Rejections => "rejections",
            Self::Changes => "changes",
        }
    }
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no section.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "there is no section `{0}`; ask for vips, routes, backends, certificates, server_names, listeners, rejections or changes"
)]
pub struct UnknownSection(pub String);

impl FromStr for Section {
    type Err = UnknownSection;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|section| section.as_str() == text).ok_or_else(|| UnknownSection(text.to_owned()))
    }
}

/// What only the running data plane knows. Every method has an answer for who knows nothing, which `()` gives.
pub trait Live {
    /// The addresses that HTTP is served on.
    fn listeners(&self) -> Vec<(ListenerProtocol, SocketAddr)> {
        Vec::new()
    }

    /// Counts of a backend, over all workers.
    fn backend(&self, _id: &BackendId) -> Option<Traffic> {
        None
    }

    /// Endpoints of a backend that workers hold state of, over all workers. Those of an ExternalName are the addresses
    /// that it resolved to.
    fn endpoints(&self, _id: &BackendId) -> BTreeMap<SocketAddr, LiveEndpoint> {
        BTreeMap::new()
    }

    /// True where packets for the address are forwarded by this gateway.
    fn vip_is_served(&self, _address: IpAddr) -> bool {
        false
    }

    /// What a port of a VIP got.
    fn vip_port(&self, _vip: IpAddr, _protocol: TransportProtocol, _port: u16) -> Option<PortTraffic> {
        None
    }

    /// What the director counts; `None` where this gateway is none.
    fn packets(&self) -> Option<PacketsState> {
        None
    }

    /// The director that owns the address, by name.
    fn vip_owner(&self, _address: IpAddr) -> Option<String> {
        None
    }

    /// The pool that the address lies in.
    fn vip_pool(&self, _address: IpAddr) -> Option<String> {
        None
    }

    /// Who else claims the address.
    fn vip_conflict(&self, _address: IpAddr) -> Option<ConflictState> {
        None
    }

    /// The API server that objects come from.
    fn source(&self) -> Option<SourceState> {
        None
    }

    /// The last changes, the newest first.
    fn changes(&self) -> Vec<ChangeState> {
        Vec::new()
    }

    /// The director of this process.
    fn director(&self) -> Option<DirectorState> {
        None
    }

    /// What the forwarder and the health checks know of a real server behind a port of a VIP.
    fn real_server(
        &self,
        _vip: IpAddr,
        _protocol: TransportProtocol,
        _port: u16,
        _address: IpAddr,
    ) -> Option<LiveRealServer> {
        None
    }
}

impl Live for () {}

/// An endpoint as the workers see it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LiveEndpoint {
    /// True while at least one worker keeps it out of rotation for its failures.
    pub ejected: bool,
    /// Its counts.
    pub traffic: Traffic,
}

/// Counts since the endpoint or backend appeared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Requests and streams under way.
    pub active: u64,
    /// Requests and streams that were sent to it.
    pub requests: u64,
    /// Those that failed by its fault.
    pub errors: u64,
}

/// A real server as the director sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveRealServer {
    /// The method in use: `L2`, `TUNNEL`, `GUE` or `POD`.
    pub method: String,
    /// What the health check says; null where there is none, or it has not said anything yet.
    pub healthy: Option<bool>,
    /// Why packets cannot be sent to it, or why it counts as unhealthy.
    pub reason: Option<String>,
    /// Flows that it got since it appeared.
    #[serde(default)]
    pub connections: u64,
    /// Flows that it has, as the flow table was last walked: those with two packets and more.
    #[serde(default)]
    pub established: u64,
    /// Frames that were sent to it since it appeared.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// The document. Sections that were not asked for are absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Version of the program.
    pub version: String,
    /// Generation of the desired state; 0 before the first.
    pub generation: u64,
    /// Whether `/readyz` says 200.
    pub ready: bool,
    /// Why not.
    pub not_ready_reasons: Vec<String>,
    /// The API server; absent where objects come from a folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceState>,
    /// The director, beside the virtual IPs; absent where none runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub director: Option<DirectorState>,
    /// Virtual IPs, by address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vips: Option<Vec<VipState>>,
    /// What the director counts, with the section of virtual IPs; absent where this gateway is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packets: Option<PacketsState>,
    /// Routes, by host, then in order of precedence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routes: Option<Vec<RouteState>>,
    /// Backends, by id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backends: Option<Vec<BackendState>>,
    /// Certificates, by Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificates: Option<Vec<CertificateState>>,
    /// Server names, in order of precedence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_names: Option<Vec<ServerNameState>>,
    /// What is listened on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listeners: Option<Vec<ListenerState>>,
    /// What was not taken, by object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejections: Option<Vec<RejectionState>>,
    /// The last changes, the newest first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changes: Option<Vec<ChangeState>>,
}

/// A virtual IP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VipState {
    /// The address.
    pub address: IpAddr,
    /// True where this gateway forwards packets for it.
    pub served: bool,
    /// The director that owns it, as far as this one knows.
    #[serde(default)]
    pub owner: Option<String>,
    /// Who else says that it has the address; null where nobody does.
    #[serde(default)]
    pub conflict: Option<ConflictState>,
    /// The Services bound to it; none means that it is announced alone.
    pub services: Vec<VipServiceState>,
    /// The object that binds it: `ConfigMap namespace/name`.
    pub origin: String,
    /// The pool that it lies in; null where it lies in none.
    #[serde(default)]
    pub pool: Option<String>,
}

/// A Service bound to a virtual IP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VipServiceState {
    /// `namespace/name`.
    pub service: String,
    /// The method that was asked for (`L2`, `TUNNEL`, `GUE`, `POD`), or null where it is chosen.
    pub method: Option<String>,
    /// Packets go into pods by way of their nodes: method POD, asked for or because the endpoints are pods.
    #[serde(default)]
    pub into_pods: bool,
    /// `TCP/80`; none while the Service does not exist.
    pub ports: Vec<String>,
    /// IPVS's name of how packets are spread: `mh`, `rr`, `wrr`, `sh`, `dh`, `lc`, `wlc`.
    #[serde(default)]
    pub scheduler: String,
    /// How long and by what a client stays with its real server; null where it does not.
    #[serde(default)]
    pub persistence: Option<PersistenceState>,
    /// Each UDP packet is scheduled by itself.
    #[serde(default)]
    pub one_packet: bool,
    /// Fragments follow their first one.
    #[serde(default)]
    pub fragments: bool,
    /// Real servers hand packets of unknown flows to the slot's former owner.
    #[serde(default)]
    pub second_chance: bool,
    /// `fail-open` or `refuse`.
    #[serde(default)]
    pub when_all_fail: String,
    /// How real servers are probed; null where readiness alone counts.
    #[serde(default)]
    pub health_check: Option<HealthCheckState>,
    /// What each port got, in the order of `ports`; those that this gateway forwards.
    #[serde(default)]
    pub traffic: Vec<PortTraffic>,
    /// By port, in the order of `ports`, then by address.
    #[serde(default)]
    pub real_servers: Vec<RealServerState>,
}

/// A client stays with its real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PersistenceState {
    /// After the last packet.
    pub seconds: u64,
    /// Bits of an IPv4 address that make one client.
    pub prefix4: u8,
    /// Bits of an IPv6 address that make one client.
    pub prefix6: u8,
}

/// How real servers are probed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheckState {
    /// As the annotation writes it: `tcp`, `http:/path`, `https:/path`, `grpc:service`, `udp`, `icmp`.
    pub kind: String,
    /// `Host` of an HTTP probe; null = the VIP.
    pub host: Option<String>,
    /// Where; null = the service's port.
    pub port: Option<u16>,
    /// From one probe to the next, in milliseconds.
    pub interval_ms: u64,
    /// For one answer, in milliseconds.
    pub timeout_ms: u64,
    /// Good answers in a row that make it healthy.
    pub rise: u8,
    /// Bad answers in a row that make it unhealthy.
    pub fall: u8,
}

/// A real server behind one port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RealServerState {
    /// `TCP/80`.
    pub port: String,
    /// Where packets go.
    pub address: IpAddr,
    /// The node that it runs on, where that is known.
    pub node: Option<String>,
    /// 0 = no new flows.
    pub weight: u32,
    /// With method POD: how many pods of the node are ready; where none is, how many drain.
    #[serde(default)]
    pub pods: Option<u32>,
    /// `ready`; or `draining` or, with method POD, `no agent`: it keeps its flows and gets no new ones.
    pub readiness: String,
    /// What the director knows of it; null where it forwards nothing to it.
    pub live: Option<LiveRealServer>,
}

/// One route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteState {
    /// Host, `*.suffix`, or `*` for every host that nobody claims.
    pub host: String,
    /// `strict` or `nginx`.
    pub dialect: String,
    /// The path or pattern as written; empty for a default backend.
    pub path: String,
    /// `exact`, `prefix`, `string_prefix`, `regex`, or `default` for what no path takes.
    #[serde(rename = "match")]
    pub matching: String,
    /// `forward`, `redirect_append_slash` or `deny`.
    pub action: String,
    /// The backend's id, where it forwards.
    pub backend: Option<String>,
    /// Why it denies, where it does.
    pub reason: Option<String>,
    /// `namespace/name` of the Ingress.
    pub ingress: String,
    /// The field of the Ingress: `spec.rules[0].http.paths[1]`.
    pub field: String,
}

/// One backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendState {
    /// `namespace/service:port`, with what differs from the defaults in brackets.
    pub id: String,
    /// What is spoken to it: `http/1.1`, `h2c`, `https` or `h2`.
    pub protocol: String,
    /// `name:port` of an ExternalName Service.
    pub external: Option<String>,
    /// Why there is nothing to send to, where that is known.
    pub unavailable: Option<String>,
    /// Counts, or null where they are not known.
    pub traffic: Option<Traffic>,
    /// Endpoints, by address.
    pub endpoints: Vec<EndpointState>,
}

/// What becomes of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EndpointCondition {
    /// In rotation.
    Up,
    /// Out of rotation for its failures, for a while.
    Ejected,
    /// In rotation only because nothing is ready.
    Terminating,
    /// Gone from the Service; it finishes what it has.
    Removed,
}

/// One endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointState {
    /// Where it is connected to.
    pub address: SocketAddr,
    /// The pod, if it is known.
    pub pod: Option<String>,
    /// What becomes of it.
    pub state: EndpointCondition,
    /// Counts, or null where they are not known.
    pub traffic: Option<Traffic>,
}

/// One certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateState {
    /// `namespace/name` of the Secret.
    pub id: String,
    /// DNS names that it is for.
    pub names: Vec<String>,
    /// End of validity, seconds since the Unix epoch.
    pub not_after: i64,
    /// SHA-256 of the leaf, lower-case hex.
    pub fingerprint: String,
    /// The server names that it answers for.
    pub used_by: Vec<String>,
}

/// How one server name is treated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerNameState {
    /// Name, or `*.suffix`.
    pub name: String,
    /// `certificate`, `default_certificate` or `passthrough`.
    pub treatment: String,
    /// `namespace/name` of the Secret, where it is terminated with one.
    pub certificate: Option<String>,
    /// The backend's id, where it is passed through.
    pub backend: Option<String>,
    /// The object that decided: `Ingress namespace/name`.
    pub origin: String,
}

/// What a listener speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ListenerProtocol {
    /// HTTP in the clear.
    Http,
    /// HTTP over TLS, and TLS that is passed through.
    Https,
    /// TCP that is relayed.
    Tcp,
}

/// One listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerState {
    /// What it speaks.
    pub protocol: ListenerProtocol,
    /// The address, or null where the port is taken on all of them.
    pub address: Option<SocketAddr>,
    /// The port.
    pub port: u16,
    /// Where a TCP service is relayed to.
    pub backend: Option<String>,
    /// A TCP service whose clients begin with a PROXY protocol header.
    pub accept_proxy_protocol: bool,
    /// A TCP service whose backend is sent a PROXY protocol header.
    pub send_proxy_protocol: bool,
    /// The object that asks for it: `ConfigMap namespace/name`; null for those of the flags.
    pub origin: Option<String>,
}

/// Something that was not taken as written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejectionState {
    /// The object at fault.
    pub object: ObjectState,
    /// The field inside the object.
    pub field: String,
    /// `rejected`, `ignored` or `warning`.
    pub verdict: String,
    /// Why.
    pub reason: String,
    /// What to do.
    pub remedy: String,
}

/// Names an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectState {
    /// Its kind.
    pub kind: String,
    /// Its namespace, or empty.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl State {
    /// Builds the document, or one section of it, from what is desired, what was not taken and what is known of the
    /// running data plane.
    pub fn build(
        desired: &Desired,
        rejections: &[Rejection],
        live: &impl Live,
        readiness: &Readiness,
        section: Option<Section>,
    ) -> Self {
        let wanted = |this: Section| section.is_none_or(|section| section == this);
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            generation: desired.generation.0,
            ready: readiness.is_ready(),
            not_ready_reasons: readiness.reasons().to_vec(),
            source: live.source(),
            director: if wanted(Section::Vips) { live.director() } else { None },
            vips: wanted(Section::Vips).then(|| desired.vips.values().map(|vip| vip_state(vip, live)).collect()),
            packets: wanted(Section::Vips).then(|| live.packets()).flatten(),
            routes: wanted(Section::Routes)
                .then(|| desired.routes.values().flat_map(|host| host_routes(host)).collect()),
            backends: wanted(Section::Backends)
                .then(|| desired.backends.values().map(|backend| backend_state(backend, live)).collect()),
            certificates: wanted(Section::Certificates).then(|| certificate_states(desired)),
            server_names: wanted(Section::ServerNames).then(|| server_name_states(desired)),
            listeners: wanted(Section::Listeners).then(|| listener_states(desired, live)),
            rejections: wanted(Section::Rejections).then(|| rejection_states(rejections)),
            changes: wanted(Section::Changes).then(|| live.changes()),
        }
    }
}

fn vip_state(vip: &VipBinding, live: &impl Live) -> VipState {
    VipState {
        address: vip.address,
        served: live.vip_is_served(vip.address),
        owner: live.vip_owner(vip.address),
        conflict: live.vip_conflict(vip.address),
        services: vip.services.iter().map(|service| vip_service_state(vip.address, service, live)).collect(),
        origin: vip.origin.to_string(),
        pool: live.vip_pool(vip.address),
    }
}

fn vip_service_state(vip: IpAddr, service: &VipService, live: &impl Live) -> VipServiceState {
    let options = &service.options;
    let real_servers = service.ports.iter().flat_map(|bound| {
        bound.reals.iter().map(|real| RealServerState {
            port: port_name(bound),
            address: real.address,
            node: real.node.as_deref().map(str::to_owned),
            weight: real.weight,
            pods: real.pods,
            readiness: real.readiness.to_string(),
            live: live.real_server(vip, bound.protocol, bound.port, real.address),
        })
    });
    VipServiceState {
        service: format!("{}/{}", service.namespace, service.service),
        method: service.method.map(|method| method.to_string()),
        into_pods: service.into_pods,
        ports: service.ports.iter().map(port_name).collect(),
        scheduler: options.scheduler.to_string(),
        persistence: options.persistence.map(|persistence| PersistenceState {
            seconds: persistence.timeout.as_secs(),
            prefix4: persistence.prefix4,
            prefix6: persistence.prefix6,
        }),
        one_packet: options.one_packet,
        fragments: options.fragments,
        second_chance: options.second_chance,
        when_all_fail: match options.when_all_fail {
            WhenAllFail::FailOpen => "fail-open",
            WhenAllFail::Refuse => "refuse",
        }
        .to_owned(),
        health_check: options.health.as_ref().map(health_check_state),
        traffic: service.ports.iter().filter_map(|bound| live.vip_port(vip, bound.protocol, bound.port)).collect(),
        real_servers: real_servers.collect(),
    }
}

fn port_name(bound: &VipPort) -> String {
    format!("{}/{}", bound.protocol, bound.port)
}

fn health_check_state(check: &HealthCheck) -> HealthCheckState {
    let host = match &check.kind {
        ProbeKind::Http { host, .. } => host.as_deref(),
        ProbeKind::Tcp | ProbeKind::Grpc { .. } | ProbeKind::Udp | ProbeKind::Icmp => None,
    };
    let milliseconds = |period: Duration| u64::try_from(period.as_millis()).unwrap_or(u64::MAX);
    HealthCheckState {
        kind: check.kind.to_string(),
        host: host.map(str::to_owned),
        port: check.port,
        interval_ms: milliseconds(check.interval),
        timeout_ms: milliseconds(check.timeout),
        rise: check.rise,
        fall: check.fall,
    }
}

fn host_routes(host: &VirtualHost) -> impl Iterator<Item = RouteState> + '_ {
    let routes = host.routes.iter().map(|route| {
        let matching = match route.path {
            PathMatch::Exact(_) => "exact",
            PathMatch::Prefix(_) => "prefix",
            PathMatch::StringPrefix(_) => "string_prefix",
            PathMatch::Regex(_) => "regex",
        };
        route_state(host, route, route.path.as_str(), matching)
    });
    routes.chain(host.fallback.iter().map(|route| route_state(host, route, "", "default")))
}

fn route_state(host: &VirtualHost, route: &Route, path: &str, matching: &str) -> RouteState {
    let (action, backend, reason) = match &route.action {
        Action::Forward(id) => ("forward", Some(id.to_string()), None),
        Action::Redirect(Redirect::AppendSlash) => ("redirect_append_slash", None, None),
        Action::Deny(reason) => ("deny", None, Some(reason.to_string())),
    };
    let ingress = &route.origin.ingress;
    RouteState {
        host: host.host.to_string(),
        dialect: host.dialect.to_string(),
        path: path.to_owned(),
        matching: matching.to_owned(),
        action: action.to_owned(),
        backend,
        reason,
        ingress: format!("{}/{}", ingress.namespace, ingress.name),
        field: route.origin.field.to_string(),
    }
}

fn backend_state(backend: &Backend, live: &impl Live) -> BackendState {
    let mut known = live.endpoints(&backend.id);
    let mut endpoints: Vec<EndpointState> =
        backend.endpoints.iter().map(|endpoint| endpoint_state(endpoint, known.remove(&endpoint.address))).collect();
    // What is left is not in the Service: addresses that a name resolved to, or endpoints that finish what they have.
    endpoints.extend(known.into_iter().map(|(address, endpoint)| EndpointState {
        address,
        pod: None,
        state: match (endpoint.ejected, backend.external.is_some()) {
            (_, false) => EndpointCondition::Removed,
            (true, true) => EndpointCondition::Ejected,
            (false, true) => EndpointCondition::Up,
        },
        traffic: Some(endpoint.traffic),
    }));
    endpoints.sort_by_key(|endpoint| endpoint.address);
    BackendState {
        id: backend.id.to_string(),
        protocol: backend.protocol.to_string(),
        external: backend.external.as_ref().map(|(name, port)| format!("{name}:{port}")),
        unavailable: backend.unavailable.as_deref().map(str::to_owned),
        traffic: live.backend(&backend.id),
        endpoints,
    }
}

fn endpoint_state(endpoint: &Endpoint, live: Option<LiveEndpoint>) -> EndpointState {
    let state = match live {
        Some(LiveEndpoint { ejected: true, .. }) => EndpointCondition::Ejected,
        _ if endpoint.terminating => EndpointCondition::Terminating,
        _ => EndpointCondition::Up,
    };
    EndpointState {
        address: endpoint.address,
        pod: endpoint.pod.as_deref().map(str::to_owned),
        state,
        traffic: live.map(|live| live.traffic),
    }
}

fn certificate_states(desired: &Desired) -> Vec<CertificateState> {
    let mut used_by: BTreeMap<&CertificateId, Vec<String>> = BTreeMap::new();
    for (name, server_name) in &desired.server_names {
        if let TlsTreatment::Certificate(id) = &server_name.treatment {
            used_by.entry(id).or_default().push(name.to_string());
        }
    }
    let states = desired.certificates.iter().map(|(id, certificate)| CertificateState {
        id: id.to_string(),
        names: certificate.names.clone(),
        not_after: certificate.not_after,
        fingerprint: certificate.fingerprint.clone(),
        used_by: used_by.remove(id).unwrap_or_default(),
    });
    states.collect()
}

fn server_name_states(desired: &Desired) -> Vec<ServerNameState> {
    let states = desired.server_names.iter().map(|(name, server_name)| {
        let (treatment, certificate, backend) = match &server_name.treatment {
            TlsTreatment::Certificate(id) => ("certificate", Some(id.to_string()), None),
            TlsTreatment::DefaultCertificate => ("default_certificate", None, None),
            TlsTreatment::Passthrough(id) => ("passthrough", None, Some(id.to_string())),
        };
        ServerNameState {
            name: name.to_string(),
            treatment: treatment.to_owned(),
            certificate,
            backend,
            origin: server_name.origin.to_string(),
        }
    });
    states.collect()
}

fn listener_states(desired: &Desired, live: &impl Live) -> Vec<ListenerState> {
    let mut own = live.listeners();
    own.sort_unstable();
    let own = own.into_iter().map(|(protocol, address)| ListenerState {
        protocol,
        address: Some(address),
        port: address.port(),
        backend: None,
        accept_proxy_protocol: false,
        send_proxy_protocol: false,
        origin: None,
    });
    let streams = desired.listeners.values().map(|stream| ListenerState {
        protocol: ListenerProtocol::Tcp,
        address: None,
        port: stream.port,
        backend: Some(stream.backend.to_string()),
        accept_proxy_protocol: stream.accept_proxy_protocol,
        send_proxy_protocol: stream.send_proxy_protocol,
        origin: Some(stream.origin.to_string()),
    });
    own.chain(streams).collect()
}

fn rejection_states(rejections: &[Rejection]) -> Vec<RejectionState> {
    let mut sorted: Vec<&Rejection> = rejections.iter().collect();
    sorted.sort_unstable();
    let states = sorted.into_iter().map(|rejection| RejectionState {
        object: ObjectState {
            kind: rejection.object.kind.to_string(),
            namespace: rejection.object.namespace.to_string(),
            name: rejection.object.name.to_string(),
        },
        field: rejection.field.clone(),
        verdict: rejection.verdict.to_string(),
        reason: rejection.reason.clone(),
        remedy: rejection.remedy.clone(),
    });
    states.collect()
}
