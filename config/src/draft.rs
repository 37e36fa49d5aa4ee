//! Drafts: what objects ask for, keyed by what it would become, before anybody has checked it.
//!
//! A draft lists what several objects say about one key, in order of precedence between the objects (oldest
//! first). What cannot stand together, or cannot stand at all, is found by [`crate::check()`].

use crate::backend::{BackendId, UpstreamProtocol};
use crate::host::HostPattern;
use crate::listener::{StreamListener, StreamPort};
use crate::object::ObjectRef;
use crate::rejection::Rejection;
use crate::route::{Action, Dialect, Matching, PathMatch, Policy, RuleRef};
use crate::tls::{Certificate, CertificateId};
use crate::vip::{Method, RealServer, TransportProtocol, VipOptions};
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// What a rejection was found in the making of. When that is made again, its former rejections are void.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SourceKey {
    /// Reading one object by itself.
    Object(ObjectRef),
    /// A virtual host.
    Host(HostPattern),
    /// A server name.
    ServerName(HostPattern),
    /// A backend.
    Backend(BackendId),
    /// A certificate.
    Certificate(CertificateId),
    /// A TCP service.
    Listener(StreamPort),
    /// A virtual IP.
    Vip(IpAddr),
}

impl fmt::Display for SourceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Object(object) => write!(f, "object {object}"),
            Self::Host(host) => write!(f, "host {host}"),
            Self::ServerName(host) => write!(f, "server name {host}"),
            Self::Backend(id) => write!(f, "backend {id}"),
            Self::Certificate(id) => write!(f, "certificate {id}"),
            Self::Listener(port) => write!(f, "port {port}"),
            Self::Vip(address) => write!(f, "vip {address}"),
        }
    }
}

/// A rejection and what it was found in the making of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Note {
    /// What was made.
    pub source: SourceKey,
    /// What was found.
    pub rejection: Rejection,
}

/// The keys to make again. `None` under a key = nothing asks for it any more.
#[derive(Clone, Debug, Default)]
pub struct Draft {
    /// Virtual hosts.
    pub hosts: BTreeMap<HostPattern, Option<HostDraft>>,
    /// Server names.
    pub server_names: BTreeMap<HostPattern, Option<ServerNameDraft>>,
    /// Backends.
    pub backends: BTreeMap<BackendId, Option<BackendDraft>>,
    /// Certificates.
    pub certificates: BTreeMap<CertificateId, Option<CertificateDraft>>,
    /// TCP services.
    pub listeners: BTreeMap<StreamPort, Option<StreamListener>>,
    /// Virtual IPs.
    pub vips: BTreeMap<IpAddr, Option<VipDraft>>,
}

/// What the Ingresses of one host ask for.
#[derive(Clone, Debug)]
pub struct HostDraft {
    /// The dialect of the oldest Ingress of the host.
    pub dialect: Dialect,
    /// How its routes will compete.
    pub matching: Matching,
    /// Routes, oldest Ingress first, in the order in which each Ingress lists them.
    pub routes: Vec<RouteDraft>,
    /// Default backends, oldest Ingress first; the first one wins.
    pub fallbacks: Vec<RouteDraft>,
}

/// One path that one Ingress asks for.
#[derive(Clone, Debug)]
pub struct RouteDraft {
    /// Which paths it claims, unchecked.
    pub path: PathMatch,
    /// What it would do.
    pub action: Action,
    /// Its settings.
    pub policy: Arc<Policy>,
    /// Where it comes from.
    pub origin: RuleRef,
    /// True if nobody wrote it: it gives way to any written route of the same path, in silence.
    pub implied: bool,
}

/// What the Ingresses of one server name ask for, oldest first. The first that can be had wins.
#[derive(Clone, Debug)]
pub struct ServerNameDraft {
    /// Never empty.
    pub wishes: Vec<TlsWish>,
}

/// What one Ingress asks for.
#[derive(Clone, Debug)]
pub struct TlsWish {
    /// The treatment.
    pub wanted: WantedTls,
    /// The Ingress.
    pub origin: ObjectRef,
    /// The field that says so.
    pub field: String,
}

/// How one Ingress wants connections for a server name to be treated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WantedTls {
    /// Relay the bytes.
    Passthrough(BackendId),
    /// Terminate with this certificate.
    Certificate(CertificateId),
    /// Terminate with the default certificate: a TLS section that names no Secret.
    Default,
    /// The host is not listed in any TLS section: the first of these certificates that covers it.
    CoveredBy {
        /// The certificates of the Ingress, in its order.
        certificates: Vec<CertificateId>,
        /// Terminates where none covers it: the certificate of a TLS section without hosts.
        otherwise: Option<CertificateId>,
    },
}

/// What is known about a backend.
#[derive(Clone, Debug)]
pub struct BackendDraft {
    /// What is spoken to it.
    pub protocol: UpstreamProtocol,
    /// Where it is.
    pub source: BackendSource,
}

/// Where a backend is.
#[derive(Clone, Debug)]
pub enum BackendSource {
    /// At addresses of EndpointSlices, in any order, possibly several times.
    Endpoints {
        /// The Service, for the sentence that is logged where nothing is ready.
        service: ObjectRef,
        /// Its addresses.
        endpoints: Vec<EndpointDraft>,
    },
    /// At a name (ExternalName).
    External {
        /// The Service.
        service: ObjectRef,
        /// The name, unchecked.
        name: Arc<str>,
        /// The port to connect to.
        port: u16,
    },
    /// Nowhere, and why.
    Unavailable(Arc<str>),
}

/// One address of an EndpointSlice.
#[derive(Clone, Debug)]
pub struct EndpointDraft {
    /// Where to connect.
    pub address: SocketAddr,
    /// The pod behind it.
    pub pod: Option<Arc<str>>,
    /// The node that it runs on.
    pub node: Option<Arc<str>>,
    /// Not ready, but still serving while it terminates.
    pub terminating: bool,
}

/// What a Secret holds.
#[derive(Clone, Debug)]
pub enum CertificateDraft {
    /// A chain with the key that fits.
    Good(Arc<Certificate>),
    /// There is a Secret and it cannot be used.
    Broken {
        /// The Secret.
        secret: ObjectRef,
        /// The field at fault.
        field: String,
        /// Why, in one sentence.
        reason: String,
        /// What to do.
        remedy: String,
    },
    /// There is no such Secret.
    Missing,
}

/// The Services that ask for one VIP.
#[derive(Clone, Debug)]
pub struct VipDraft {
    /// Those of the ConfigMap in its order, then those of type LoadBalancer, oldest first.
    pub services: Vec<VipServiceDraft>,
    /// The address is asked for by itself: it is announced though no Service may be bound to it.
    pub alone: bool,
    /// The ConfigMap, or the oldest Service where no ConfigMap binds the address.
    pub origin: ObjectRef,
    /// Where the origin names the address, for rejections.
    pub field: String,
}

/// One Service that asks for a VIP.
#[derive(Clone, Debug)]
pub struct VipServiceDraft {
    /// Namespace of the Service.
    pub namespace: Arc<str>,
    /// Name of the Service.
    pub service: Arc<str>,
    /// The method that was asked for.
    pub method: Option<Method>,
    /// Packets go into pods by way of their nodes: asked for, or because its endpoints are pods.
    pub into_pods: bool,
    /// Its annotations.
    pub options: VipOptions,
    /// The Service's ports.
    pub ports: Vec<VipPortDraft>,
    /// Who asks: the ConfigMap or the Service itself.
    pub origin: ObjectRef,
    /// Where it asks, for rejections.
    pub field: String,
}

/// One port of a Service that asks for a VIP.
#[derive(Clone, Debug)]
pub struct VipPortDraft {
    /// Its protocol.
    pub protocol: TransportProtocol,
    /// The port on the VIP.
    pub port: u16,
    /// `targetPort` where that is a number: pods may have different ones under one name.
    pub target: Option<u16>,
    /// Endpoints of this port, in any order and possibly several times.
    pub reals: Vec<RealServerDraft>,
}

/// One endpoint of a port.
#[derive(Clone, Debug)]
pub struct RealServerDraft {
    /// What it would be, by its own address.
    pub real: RealServer,
    /// Where it listens.
    pub port: u16,
    /// Where its node is. Only delivery into pods asks.
    pub node: NodeDraft,
}

/// The node of an endpoint, as directors see it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NodeDraft {
    /// The endpoint names none.
    #[default]
    Unnamed,
    /// There is no Node of that name.
    Unknown,
    /// It has no address that directors could send to.
    NoAddress,
    /// It can be sent to.
    At {
        /// Its address, of the VIP's family where it has one.
        address: IpAddr,
        /// It has an agent that is ready, or nobody asks.
        has_agent: bool,
    },
}
