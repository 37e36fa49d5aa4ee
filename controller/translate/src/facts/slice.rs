//! EndpointSlice.

use super::{note, port_number};
use crate::shared::Shared;
use k8s_openapi::api::discovery::v1 as api;
use sluicegate_config::{ObjectRef, Rejection, TransportProtocol, Verdict};
use std::net::IpAddr;
use std::sync::Arc;

/// The label that says whose slice it is.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// What is kept of an EndpointSlice: addresses that may be used, now or in want of better ones.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Slice {
    /// The Service, in the same namespace. A slice without the label serves nobody.
    pub(crate) service: Option<Arc<str>>,
    pub(crate) ports: Box<[SlicePort]>,
    pub(crate) endpoints: Box<[SliceEndpoint]>,
    problems: Box<[SliceProblem]>,
}

/// One port of a slice.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SlicePort {
    pub(crate) name: Arc<str>,
    pub(crate) protocol: TransportProtocol,
    /// `None`: all ports, so that a targetPort by number is taken as it is.
    pub(crate) port: Option<u16>,
}

/// One address of an endpoint that is ready, or serves while it terminates.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SliceEndpoint {
    pub(crate) address: IpAddr,
    pub(crate) pod: Option<Arc<str>>,
    pub(crate) node: Option<Arc<str>>,
    pub(crate) terminating: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum SliceProblem {
    /// Addresses are names.
    Fqdn,
    /// No such address type.
    Family(Box<str>),
    /// Not an address of the slice's type.
    Address { endpoint: usize, text: Box<str> },
}

impl Slice {
    pub(crate) fn read(object: &api::EndpointSlice, shared: &mut Shared) -> Self {
        let mut problems = Vec::new();
        let family: Option<fn(&IpAddr) -> bool> = match object.address_type.as_str() {
            "IPv4" => Some(IpAddr::is_ipv4),
            "IPv6" => Some(IpAddr::is_ipv6),
            "FQDN" => {
                problems.push(SliceProblem::Fqdn);
                None
            }
            other => {
                problems.push(SliceProblem::Family(other.into()));
                None
            }
        };
        let mut endpoints = Vec::new();
        if let Some(family) = family {
            for (index, endpoint) in object.endpoints.iter().flatten().enumerate() {
                read_endpoint(index, endpoint, family, shared, &mut endpoints, &mut problems);
            }
        }
        Self {
            service: object
                .metadata
                .labels
                .as_ref()
                .and_then(|labels| labels.get(SERVICE_LABEL))
                .map(|name| shared.text(name)),
            ports: object.ports.iter().flatten().filter_map(|port| SlicePort::read(port, shared)).collect(),
            endpoints: endpoints.into(),
            problems: problems.into(),
        }
    }

    /// Nodes with an endpoint that is ready.
    pub(crate) fn ready_nodes(&self) -> impl Iterator<Item = Arc<str>> + '_ {
        self.endpoints.iter().filter(|endpoint| !endpoint.terminating).filter_map(|endpoint| endpoint.node.clone())
    }

    pub(crate) fn notes(&self, reference: &ObjectRef) -> Vec<Rejection> {
        self.problems.iter().map(|problem| problem.note(reference)).collect()
    }
}

fn read_endpoint(
    index: usize,
    endpoint: &api::Endpoint,
    family: fn(&IpAddr) -> bool,
    shared: &mut Shared,
    endpoints: &mut Vec<SliceEndpoint>,
    problems: &mut Vec<SliceProblem>,
) {
    let conditions = endpoint.conditions.as_ref();
    // The API: nil ready is to be read as true, nil serving as ready, nil terminating as false.
    let ready = conditions.and_then(|all| all.ready).unwrap_or(true);
    let serving = conditions.and_then(|all| all.serving).unwrap_or(ready);
    let terminating = conditions.and_then(|all| all.terminating).unwrap_or(false);
    let usable = ready || (serving && terminating);
    if !usable {
        return;
    }
    let pod: Option<Arc<str>> = endpoint
        .target_ref
        .as_ref()
        .filter(|target| target.kind.as_deref() == Some("Pod"))
        .and_then(|target| target.name.as_deref())
        .map(Arc::from);
    // Many endpoints run on one node.
    let node = endpoint.node_name.as_deref().map(|name| shared.text(name));
    for text in &endpoint.addresses {
        match text.parse::<IpAddr>() {
            Ok(address) if family(&address) && !address.is_unspecified() && !address.is_multicast() => {
                endpoints.push(SliceEndpoint { address, pod: pod.clone(), node: node.clone(), terminating: !ready });
            }
            _ => problems.push(SliceProblem::Address { endpoint: index, text: text.as_str().into() }),
        }
    }
}

impl SlicePort {
    fn read(port: &api::EndpointPort, shared: &mut Shared) -> Option<Self> {
        Some(Self {
            name: shared.text(port.name.as_deref().unwrap_or_default()),
            protocol: match port.protocol.as_deref() {
                None | Some("" | "TCP") => TransportProtocol::Tcp,
                Some("UDP") => TransportProtocol::Udp,
                Some("SCTP") => TransportProtocol::Sctp,
                Some(_) => return None,
            },
            port: match port.port {
                None => None,
                Some(number) => Some(port_number(number)?),
            },
        })
    }
}

impl SliceProblem {
    fn note(&self, reference: &ObjectRef) -> Rejection {
        match self {
            Self::Fqdn => note(
                reference,
                Verdict::Ignored,
                "addressType",
                "addresses of type FQDN are not resolved",
                "use a Service of type ExternalName or list IP addresses",
            ),
            Self::Family(other) => note(
                reference,
                Verdict::Rejected,
                "addressType",
                format!("{other:?} is not an address type"),
                "write addressType: IPv4 or IPv6",
            ),
            Self::Address { endpoint, text } => note(
                reference,
                Verdict::Rejected,
                format!("endpoints[{endpoint}].addresses"),
                format!("{text:?} is not a usable address of the slice's addressType"),
                "list unicast IP addresses of one family",
            ),
        }
    }
}
