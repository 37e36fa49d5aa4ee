//! What an operator can set about the proxy, with the defaults.

use ipnet::IpNet;
use sluicegate_config::CertificateId;
use sluicegate_trace::{Format, InjectionSettings, Policy, Trust};
use std::net::SocketAddr;
use std::time::Duration;

/// Bounds on what a client may ask for. Exceeding one is answered with its own status and counted by name.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of a request head (request line and fields together); beyond it 431.
    pub max_head_bytes: usize,
    /// Fields of a request head; beyond it 431.
    pub max_fields: usize,
    /// Bytes of the request target; beyond it 414.
    pub max_target_bytes: usize,
    /// Bytes of a backend's response head; beyond it 502.
    pub max_response_head_bytes: usize,
    /// Bytes of a request body where the route sets none; 0 = no limit; beyond it 413.
    pub max_body_bytes: u64,
    /// Downstream connections over all workers; beyond it a plain connection gets 503 and a TLS connection is closed.
    pub max_connections: usize,
    /// Concurrent streams that one HTTP/2 connection may have (SETTINGS_MAX_CONCURRENT_STREAMS).
    pub max_streams: u32,
    /// Streams that a client may reset on one HTTP/2 connection before it is closed with ENHANCE_YOUR_CALM, above one
    /// for each stream that it let finish (rapid reset, CVE-2023-44487).
    pub max_resets: u32,
    /// Tries of one request, the first included.
    pub max_tries: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_head_bytes: 64 * 1024,
            max_fields: 128,
            max_target_bytes: 16 * 1024,
            max_response_head_bytes: 128 * 1024,
            max_body_bytes: 0,
            max_connections: 65_536,
            max_streams: 128,
            max_resets: 200,
            max_tries: 3,
        }
    }
}

/// How long the proxy waits for whom.
#[derive(Clone, Debug)]
pub struct Timeouts {
    /// From accept to the end of the TLS handshake, PROXY header included.
    pub handshake: Duration,
    /// From the first byte of a request head to its last; beyond it 408.
    pub request_head: Duration,
    /// Longest pause between two reads of a request body; beyond it 408.
    pub request_body: Duration,
    /// A kept-alive connection without a request is closed after this.
    pub idle: Duration,
    /// Longest pause in which a client takes nothing of a response; then the connection is cut.
    pub client_write: Duration,
    /// To connect to an endpoint where the route sets none; beyond it another endpoint, then 504.
    pub connect: Duration,
    /// Longest pause between two reads from an endpoint where the route sets none; beyond it 504.
    pub upstream_read: Duration,
    /// Longest pause between two writes to an endpoint where the route sets none; beyond it 504.
    pub upstream_send: Duration,
    /// An upgraded connection (WebSocket) on which nothing moves is closed after this, where the route sets no read timeout.
    pub upgraded_idle: Duration,
    /// A relayed TCP stream on which nothing moves is closed after this.
    pub stream_idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            request_head: Duration::from_secs(15),
            request_body: Duration::from_secs(60),
            idle: Duration::from_secs(75),
            client_write: Duration::from_secs(60),
            connect: Duration::from_secs(5),
            upstream_read: Duration::from_secs(60),
            upstream_send: Duration::from_secs(60),
            upgraded_idle: Duration::from_secs(3600),
            stream_idle: Duration::from_secs(600),
        }
    }
}

/// How opaque TCP streams are moved; see [`crate::stream::Engine`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StreamEngine {
    /// `read` and `write`.
    Copy,
    /// `splice(2)`.
    #[default]
    Splice,
    /// io_uring on a thread of its own.
    Uring,
}

/// How trace context crosses the proxy.
#[derive(Clone, Debug)]
pub struct TraceSettings {
    /// The formats that are read, in the order in which they are asked.
    pub extract: Vec<Format>,
    /// Whether the trace outside goes on, and what is recorded.
    pub policy: Policy,
    /// What backends are sent. Baggage from outside is removed wherever the trace is not continued, too.
    pub injection: InjectionSettings,
    /// How far traces are believed that come in on these of the addresses, where it differs from the policy.
    pub trust_on: Vec<(SocketAddr, Trust)>,
    /// Traces a second that each worker lets be recorded because the client alone wants it.
    pub forced_per_second: u32,
}

impl Default for TraceSettings {
    fn default() -> Self {
        Self {
            extract: Format::ALL.to_vec(),
            policy: Policy::default(),
            injection: InjectionSettings::default(),
            trust_on: Vec::new(),
            forced_per_second: 100,
        }
    }
}

/// Everything that [`crate::Proxy::start`] needs.
#[derive(Clone, Debug, Default)]
pub struct ProxySettings {
    /// Addresses for HTTP; port 0 takes a free one.
    pub http: Vec<SocketAddr>,
    /// Addresses for HTTPS; port 0 takes a free one.
    pub https: Vec<SocketAddr>,
    /// Worker threads; 0 = one per CPU that the process may use.
    pub workers: usize,
    /// Every connection on the HTTP and HTTPS addresses must begin with a PROXY protocol header.
    pub proxy_protocol: bool,
    /// The same for these of the addresses alone.
    pub proxy_protocol_on: Vec<SocketAddr>,
    /// Peers whose `X-Forwarded-*` fields are believed. Nobody by default.
    pub trusted: Vec<IpNet>,
    /// Also sends RFC 7239 `Forwarded` to backends.
    pub forwarded: bool,
    /// Carries trace context through; `None` leaves trace headers alone.
    pub trace: Option<TraceSettings>,
    /// Answers for server names that no Ingress lists, while it is in the tables; else a self-signed one made at start.
    pub default_certificate: Option<CertificateId>,
    /// Bounds on clients.
    pub limits: Limits,
    /// Waiting times.
    pub timeouts: Timeouts,
    /// How opaque TCP streams are relayed.
    pub stream_engine: StreamEngine,
    /// ExternalName Services may resolve to loopback addresses (tests and the demo; elsewhere it would open local ports to tenants).
    pub allow_loopback_external: bool,
}

impl ProxySettings {
    /// Whether connections on one of the addresses must begin with a PROXY protocol header.
    pub(crate) fn expects_proxy_protocol(&self, address: SocketAddr) -> bool {
        self.proxy_protocol || self.proxy_protocol_on.contains(&address)
    }

    /// How far traces are believed that come in on one of the addresses.
    pub(crate) fn trust_on(&self, address: SocketAddr) -> Trust {
        let Some(trace) = &self.trace else { return Trust::default() };
        let own = trace.trust_on.iter().find(|(known, _)| *known == address);
        own.map_or(trace.policy.trust, |(_, trust)| *trust)
    }
}
