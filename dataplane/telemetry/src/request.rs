//! A request that is over, as the worker that served it saw it: what spans, the access log, live taps and the metrics of
//! routes are made from.
//!
//! Everything is borrowed. Handing it over costs the worker nothing but the call; a sink copies what it wants to keep, and
//! leaves slow work (formatting, writing, sending) to a thread of its own.

use crate::labels::{FaultReason, MethodLabel, Protocol, TlsVersion, UpstreamError};
use sluicegate_trace::{SpanId, Trace};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Takes requests of one worker as they end.
pub trait RequestSink {
    /// Called on the worker's thread, once for each request: it must not block, and what it cannot take it drops and
    /// counts.
    fn finished(&mut self, request: &FinishedRequest<'_>);
}

/// Makes the sinks of workers. Called on the worker's own thread when it starts, so that a sink need not be `Send`.
pub trait RequestSinks: Send + Sync {
    /// The sink of a worker; the first has index 0.
    fn of_worker(&self, index: usize) -> Box<dyn RequestSink>;
}

/// Fields of a head, looked up by name.
pub trait HeadFields {
    /// The value of the first field of a name, in whatever case.
    fn field(&self, name: &str) -> Option<&[u8]>;
}

/// A request that is over. Also one that could not be read as HTTP: then texts that it did not get to are empty.
#[derive(Clone, Copy)]
pub struct FinishedRequest<'a> {
    /// When the first byte of its head was read.
    pub started: Instant,
    /// When the last byte of the response was handed to the client's socket, or the request ended otherwise.
    pub ended: Instant,
    /// How the client speaks.
    pub downstream: Downstream<'a>,
    /// The method as it came.
    pub method: &'a [u8],
    /// The same as a label.
    pub method_label: MethodLabel,
    /// `Host` or `:authority` as it came, with the port if there was one.
    pub authority: &'a [u8],
    /// The path as it came, without the query.
    pub path: &'a [u8],
    /// The query without its `?`. It may hold secrets.
    pub query: Option<&'a [u8]>,
    /// Further fields of the request.
    pub request_fields: &'a dyn HeadFields,
    /// Fields of the response; of the last one if there were several. `None` where no head was sent.
    pub response_fields: Option<&'a dyn HeadFields>,
    /// The final status that the client was sent; 499 where it went before it got one, 0 where nothing was sent.
    pub status: u16,
    /// The status of a gRPC call: from the trailers, or from the head of a response that has nothing else.
    pub grpc_status: Option<u16>,
    /// Why the gateway answered by itself or cut the response, with words for people.
    pub fault: Option<(FaultReason, &'a str)>,
    /// Body bytes received from the client, without framing.
    pub bytes_in: u64,
    /// Body bytes sent to the client, without framing.
    pub bytes_out: u64,
    /// Bytes of the request: its head (in HTTP/2, of names and values), and the body without framing.
    pub request_length: u64,
    /// Who took it; `None` where no rule did.
    pub route: Option<RouteTaken<'a>>,
    /// The tries in order; empty where the gateway answered by itself.
    pub tries: &'a [Try],
    /// `X-Request-ID`, the client's or one of ours.
    pub request_id: &'a [u8],
    /// Its trace, where the gateway carries traces.
    pub trace: Option<&'a Trace>,
    /// What the Ingress wants its span to be called, where it says so and the trace is recorded.
    pub operation: Option<&'a str>,
    /// Probes of load balancers and kubelets, which nobody wants recorded.
    pub is_probe: bool,
}

/// The client's side of a request.
#[derive(Clone, Copy, Debug)]
pub struct Downstream<'a> {
    /// HTTP's version.
    pub protocol: Protocol,
    /// The client: from `X-Forwarded-For` where the peer is trusted, or from the PROXY protocol, else the peer.
    pub client: IpAddr,
    /// Who has the connection, or whom its PROXY protocol header names.
    pub peer: SocketAddr,
    /// Where it connected to.
    pub local: SocketAddr,
    /// TLS, if it was.
    pub tls: Option<DownstreamTls<'a>>,
}

/// TLS on the client's side.
#[derive(Clone, Copy, Debug)]
pub struct DownstreamTls<'a> {
    /// Its version.
    pub version: TlsVersion,
    /// The name that the client asked for.
    pub server_name: Option<&'a str>,
}

/// The rule that took a request, in the words of Kubernetes.
#[derive(Clone, Copy, Debug)]
pub struct RouteTaken<'a> {
    /// Namespace of the Ingress and of the Service.
    pub namespace: &'a Arc<str>,
    /// Name of the Ingress.
    pub ingress: &'a Arc<str>,
    /// The host as the Ingress writes it: `shop.example`, `*.shop.example`, or empty for every host.
    pub host: &'a str,
    /// The path as the Ingress writes it.
    pub path: &'a str,
    /// Name and port of the Service; `None` for redirects and refusals.
    pub service: Option<(&'a Arc<str>, &'a str)>,
    /// Where requests of this host, Ingress and Service are counted: a place, and whose it is. The `Arc` lives as long
    /// as a routing table has such a route, so who holds a `Weak` of it learns when it left.
    pub series: (u32, &'a Arc<()>),
    /// Its owner wants its requests in the access log (`enable-access-log`, true where nothing is said).
    pub access_log: bool,
}

/// One try of a request at one endpoint.
#[derive(Clone, Debug)]
pub struct Try {
    /// When it began: an endpoint was picked.
    pub started: Instant,
    /// When it was over.
    pub ended: Instant,
    /// Where it went.
    pub endpoint: SocketAddr,
    /// The pod behind it, where that is known.
    pub pod: Option<Arc<str>>,
    /// The node that the pod runs on, where that is known.
    pub node: Option<Arc<str>>,
    /// How the endpoint was spoken to.
    pub protocol: Protocol,
    /// Over TLS.
    pub is_tls: bool,
    /// The connection had carried requests before.
    pub reused: bool,
    /// Waiting for a connection that was free or might be opened.
    pub queued: Option<Duration>,
    /// The TCP handshake; `None` on a reused connection.
    pub connect: Option<Duration>,
    /// The TLS handshake.
    pub tls: Option<Duration>,
    /// From the request being queued to the end of the response's head.
    pub first_byte: Option<Duration>,
    /// The status that the endpoint answered.
    pub status: Option<u16>,
    /// Why it came to nothing.
    pub error: Option<UpstreamError>,
    /// Body bytes that the endpoint sent.
    pub bytes: u64,
    /// The span that the endpoint was told is its parent.
    pub span_id: Option<SpanId>,
}
