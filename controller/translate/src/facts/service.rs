//! Service.

use super::balancer::LoadBalancer;
use super::virtual_service::VirtualService;
use super::{note, port_number};
use crate::shared::Shared;
use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use sluicegate_config::{ObjectRef, PortRef, Rejection, Settings, TransportProtocol, UpstreamProtocol, Verdict};
use std::sync::Arc;

/// What is kept of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Service {
    /// `spec.externalName`, for a Service of type ExternalName.
    pub(crate) external: Option<Arc<str>>,
    pub(crate) ports: Box<[ServicePort]>,
    /// What it says about virtual IPs; `None` = nothing.
    pub(crate) virtual_service: Option<Box<VirtualService>>,
    /// Ports that cannot be understood: index and what is wrong.
    bad_ports: Box<[(usize, Box<str>)]>,
}

/// One port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServicePort {
    /// Empty where the only port has no name.
    pub(crate) name: Arc<str>,
    pub(crate) port: u16,
    pub(crate) protocol: TransportProtocol,
    pub(crate) target: TargetPort,
    pub(crate) app_protocol: AppProtocol,
}

/// `targetPort`; missing = the port itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TargetPort {
    Number(u16),
    /// A container's port name: each pod may have another number, which its EndpointSlice tells.
    Named,
}

/// `appProtocol`, as far as it decides what is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AppProtocol {
    Unsaid,
    Says(UpstreamProtocol),
}

impl Service {
    pub(crate) fn read(object: &api::Service, shared: &mut Shared) -> Self {
        let spec = object.spec.as_ref();
        let external = spec
            .filter(|spec| spec.type_.as_deref() == Some("ExternalName"))
            .map(|spec| Arc::from(spec.external_name.as_deref().unwrap_or_default()));
        let mut ports = Vec::new();
        let mut bad_ports = Vec::new();
        for (index, port) in spec.and_then(|spec| spec.ports.as_ref()).into_iter().flatten().enumerate() {
            match ServicePort::read(port, shared) {
                Ok(port) => ports.push(port),
                Err(why) => bad_ports.push((index, why.into())),
            }
        }
        let virtual_service = VirtualService::read(object, &ports);
        Self { external, ports: ports.into(), virtual_service, bad_ports: bad_ports.into() }
    }

    /// True if it has a port of TCP.
    pub(crate) fn has_tcp(&self) -> bool {
        self.ports.iter().any(|port| port.protocol == TransportProtocol::Tcp)
    }

    /// What a Service of type LoadBalancer says about its addresses.
    pub(crate) fn balancer(&self) -> Option<&LoadBalancer> {
        self.virtual_service.as_ref()?.balancer.as_ref()
    }

    /// It is of type LoadBalancer, and of our class.
    pub(crate) fn is_our_balancer(&self, settings: &Settings) -> bool {
        self.balancer().is_some_and(|balancer| balancer.is_ours(settings))
    }

    /// The TCP port that a reference means.
    pub(crate) fn port(&self, wanted: &PortRef) -> Option<&ServicePort> {
        self.ports.iter().filter(|port| port.protocol == TransportProtocol::Tcp).find(|port| match wanted {
            PortRef::Number(number) => port.port == *number,
            PortRef::Name(name) => !port.name.is_empty() && port.name == *name,
        })
    }

    pub(crate) fn notes(&self, reference: &ObjectRef) -> Vec<Rejection> {
        let of_ports = self.bad_ports.iter().map(|(index, why)| {
            note(
                reference,
                Verdict::Rejected,
                format!("spec.ports[{index}]"),
                why.to_string(),
                "write a port from 1 to 65535 and the protocol TCP, UDP or SCTP",
            )
        });
        of_ports.chain(self.virtual_service.iter().flat_map(|of| of.notes(reference))).collect()
    }
}

impl ServicePort {
    fn read(port: &api::ServicePort, shared: &mut Shared) -> Result<Self, String> {
        let number = port_number(port.port).ok_or_else(|| format!("port {} is outside 1 to 65535", port.port))?;
        let protocol = match port.protocol.as_deref() {
            None | Some("" | "TCP") => TransportProtocol::Tcp,
            Some("UDP") => TransportProtocol::Udp,
            Some("SCTP") => TransportProtocol::Sctp,
            Some(other) => return Err(format!("{other:?} is not a protocol")),
        };
        let target = match &port.target_port {
            None => TargetPort::Number(number),
            Some(IntOrString::Int(0)) => TargetPort::Number(number),
            Some(IntOrString::Int(target)) => TargetPort::Number(
                port_number(*target).ok_or_else(|| format!("targetPort {target} is outside 1 to 65535"))?,
            ),
            // A number in quotes is a common slip; a port name may not consist of digits alone.
            Some(IntOrString::String(name)) => match name.parse::<u16>() {
                Ok(target) if target != 0 => TargetPort::Number(target),
                _ if name.is_empty() => TargetPort::Number(number),
                _ => TargetPort::Named,
            },
        };
        Ok(Self {
            name: shared.text(port.name.as_deref().unwrap_or_default()),
            port: number,
            protocol,
            target,
            app_protocol: app_protocol(port.app_protocol.as_deref()),
        })
    }
}

/// The Kubernetes names, IANA's, and what service meshes taught people to write. An unknown protocol says nothing: it is often
/// true (`postgresql`) and of no concern to HTTP.
fn app_protocol(name: Option<&str>) -> AppProtocol {
    AppProtocol::Says(match name.unwrap_or_default().to_ascii_lowercase().as_str() {
        "kubernetes.io/h2c" | "h2c" | "http2" | "grpc" => UpstreamProtocol::H2c,
        "kubernetes.io/ws" | "ws" | "http" => UpstreamProtocol::Http1,
        "kubernetes.io/wss" | "wss" | "https" => UpstreamProtocol::Https,
        "h2" | "grpcs" => UpstreamProtocol::H2,
        _ => return AppProtocol::Unsaid,
    })
}
