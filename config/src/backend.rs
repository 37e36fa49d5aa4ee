//! Backends: a Service port as a route uses it, and the endpoints behind it.

use serde::{Serialize, Serializer};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

/// A port as it is written in `backend.service.port`: by number or by name, never both.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PortRef {
    /// `port.number`, 1 to 65535.
    Number(u16),
    /// `port.name`.
    Name(Arc<str>),
}

impl fmt::Display for PortRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// What is spoken to the endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum UpstreamProtocol {
    /// HTTP/1.1 in the clear.
    Http1,
    /// HTTP/2 in the clear with prior knowledge (RFC 9113 section 3.3); gRPC uses it.
    H2c,
    /// HTTP/1.1 over TLS.
    Https,
    /// HTTP/2 over TLS; gRPC over TLS uses it.
    H2,
}

impl UpstreamProtocol {
    /// True where requests are multiplexed on HTTP/2.
    pub fn is_http2(self) -> bool {
        matches!(self, Self::H2c | Self::H2)
    }

    /// True where the connection to the endpoint is TLS.
    pub fn is_tls(self) -> bool {
        matches!(self, Self::Https | Self::H2)
    }
}

impl fmt::Display for UpstreamProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http1 => "http/1.1",
            Self::H2c => "h2c",
            Self::Https => "https",
            Self::H2 => "h2",
        })
    }
}

/// How an endpoint is chosen for a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// Each in turn, from a random start per worker.
    #[default]
    RoundRobin,
    /// The less busy of two chosen at random (power of two choices on requests in flight).
    LeastRequests,
    /// The lower of two by exponentially weighted moving average of latency times requests in flight (peak EWMA).
    Ewma,
    /// Consistent hash of a key, so that one key stays with one endpoint while it lives.
    ConsistentHash(HashKey),
}

/// What a consistent hash is made of: a closed set, never text that is interpolated.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HashKey {
    /// The client's address (after trusted forwarding headers).
    ClientAddress,
    /// The path and query as received.
    RequestUri,
    /// The host without port.
    Host,
    /// The first value of a request header (lower-case name).
    Header(Arc<str>),
    /// The value of a cookie.
    Cookie(Arc<str>),
}

/// The key of a backend: a Service port *as a route uses it*. Two Ingresses that want different
/// balancing of one Service get two backends, so that neither decides for the other.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendId {
    /// Namespace of the Ingress, and so of the Service.
    pub namespace: Arc<str>,
    /// Name of the Service.
    pub service: Arc<str>,
    /// The port as it was written.
    pub port: PortRef,
    /// Protocol that an annotation asks for; `None` = by the Service port's `appProtocol`, else HTTP/1.1.
    pub protocol: Option<UpstreamProtocol>,
    /// How endpoints are chosen.
    pub balance: Balance,
}

impl fmt::Display for BackendId {
    /// `namespace/service:port`, with what differs from the defaults in brackets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}:{}", self.namespace, self.service, self.port)?;
        if let Some(protocol) = self.protocol {
            write!(f, "[{protocol}]")?;
        }
        match &self.balance {
            Balance::RoundRobin => Ok(()),
            Balance::LeastRequests => f.write_str("[least_requests]"),
            Balance::Ewma => f.write_str("[ewma]"),
            Balance::ConsistentHash(HashKey::ClientAddress) => f.write_str("[hash:client_address]"),
            Balance::ConsistentHash(HashKey::RequestUri) => f.write_str("[hash:request_uri]"),
            Balance::ConsistentHash(HashKey::Host) => f.write_str("[hash:host]"),
            Balance::ConsistentHash(HashKey::Header(name)) => write!(f, "[hash:header:{name}]"),
            Balance::ConsistentHash(HashKey::Cookie(name)) => write!(f, "[hash:cookie:{name}]"),
        }
    }
}

impl Serialize for BackendId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One address that serves a backend.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Endpoint {
    /// Where to connect.
    pub address: SocketAddr,
    /// The pod behind it, if `targetRef` names one: for logs and tables.
    pub pod: Option<Arc<str>>,
    /// The node that it runs on, if the EndpointSlice names it: for spans and tables.
    pub node: Option<Arc<str>>,
    /// True while it is used only because nothing is ready (serving and terminating).
    pub terminating: bool,
}

/// A backend that a route can send to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Backend {
    /// Its key.
    pub id: BackendId,
    /// What is spoken to it: the id's protocol, else by `appProtocol`, else HTTP/1.1.
    pub protocol: UpstreamProtocol,
    /// Addresses to use, sorted by address, without duplicates. Empty means that requests get 503.
    pub endpoints: Vec<Endpoint>,
    /// For a Service of type ExternalName: the name to resolve and the port to connect to. `endpoints` is empty then.
    pub external: Option<(Arc<str>, u16)>,
    /// Why there is nothing to send to, where that is known (`Service default/web does not exist`), for the 503's log line and `explain`.
    pub unavailable: Option<Arc<str>>,
}
