//! Virtual IPs: who asks for one, with the endpoints of each port.

use super::Translator;
use super::backend::slice_ports;
use crate::facts::configmap::VipLine;
use crate::facts::note;
use crate::facts::service::{Service, ServicePort, TargetPort};
use crate::facts::slice::SliceEndpoint;
use crate::facts::virtual_service::{AskedMethod, VirtualService, default_options};
use crate::objects::reference;
use sluicegate_config::draft::{NodeDraft, RealServerDraft, VipDraft, VipPortDraft, VipServiceDraft};
use sluicegate_config::{
    Kind, Method, NamespacedName, ObjectRef, Readiness, RealServer, SourceKey, Verdict, VipOptions,
};
use std::net::IpAddr;
use std::sync::Arc;

/// The weight of a real server that nobody gave another one.
const WEIGHT: u32 = 1;

impl Translator<'_> {
    /// The ConfigMap comes before Services that ask by themselves; among those the oldest comes first.
    pub(super) fn vip(&mut self, address: IpAddr) -> Option<VipDraft> {
        let objects = self.objects;
        let configmap = reference(Kind::ConfigMap, &objects.settings.vip_configmap);
        let bound = objects.vips.bindings.get(&address);
        let lines = bound.map(|bound| bound.lines.as_slice()).unwrap_or_default();
        let mut services: Vec<VipServiceDraft> =
            lines.iter().filter_map(|line| self.bound_service(address, line, &configmap)).collect();
        let mut claimants: Vec<(&NamespacedName, &Service, &VirtualService)> = objects
            .claimants_of(&address)
            .filter(|name| lines.iter().all(|line| line.service != **name))
            .filter_map(|name| objects.services.get(name).map(|service| (name, service)))
            .filter_map(|(name, service)| Some((name, service, service.virtual_service.as_deref()?)))
            .collect();
        claimants.sort_by_key(|(name, _, of)| (of.created(), *name));
        claimants.retain(|(name, _, of)| self.is_granted(address, name, of));
        services.extend(claimants.iter().map(|(name, service, of)| {
            let asking = reference(Kind::Service, name);
            self.service_on_vip(address, name, Some(service), said_method(of.method), asking, of.field())
        }));
        let (origin, field) = match (bound, services.first()) {
            (Some(bound), _) => (configmap, bound.field.clone()),
            (None, Some(oldest)) => (oldest.origin.clone(), oldest.field.clone()),
            (None, None) => return None,
        };
        let alone = bound.is_some_and(|bound| bound.lines.is_empty());
        Some(VipDraft { services, alone, origin, field })
    }

    /// Says to whom an address was given, where that is somebody else.
    fn is_granted(&mut self, address: IpAddr, name: &NamespacedName, of: &VirtualService) -> bool {
        let objects = self.objects;
        if objects.is_granted(&address, name) {
            return true;
        }
        let service = reference(Kind::Service, name);
        let asks = of.balancer.as_ref().is_some_and(|balancer| balancer.asked.is_some());
        let holder = objects.sole_holder(&address).map(|holder| reference(Kind::Service, holder));
        let holder = holder.map_or_else(|| "a Service that asks for it".to_owned(), |holder| holder.to_string());
        let note = if asks {
            note(
                &service,
                Verdict::Rejected,
                of.field(),
                format!("{address} has been given to {holder}"),
                "ask for another address, or for none to be given one",
            )
        } else {
            note(
                &service,
                Verdict::Warning,
                "status.loadBalancer",
                format!("{address} belongs to {holder}, and is not served for this Service; it is given another one"),
                "nothing is to be done, unless another controller writes statuses of these Services",
            )
        };
        self.say(SourceKey::Vip(address), note);
        false
    }

    /// A line of the ConfigMap. Its method beats the annotation of the Service.
    fn bound_service(&mut self, vip: IpAddr, line: &VipLine, configmap: &ObjectRef) -> Option<VipServiceDraft> {
        let objects = self.objects;
        let service = reference(Kind::Service, &line.service);
        let found = objects.services.get(&line.service);
        let asked = found.and_then(|found| found.virtual_service.as_deref()).map(|of| of.method).unwrap_or_default();
        let (verdict, reason, remedy) = match found {
            None => (
                Verdict::Warning,
                format!("{service} does not exist: the address is announced and nothing answers"),
                "create the Service, or name one that exists",
            ),
            Some(found) if found.external.is_some() => (
                Verdict::Rejected,
                format!("{service} is of type ExternalName, which has no address to forward packets to"),
                "bind a Service with endpoints",
            ),
            Some(_) if line.method.is_none() && asked == AskedMethod::Refused => (
                Verdict::Rejected,
                format!("{service} asks for a method that cannot be had"),
                "see its annotation sluicegate.io/method, or write a method here",
            ),
            Some(_) => {
                let method = line.method.or_else(|| said_method(asked));
                let origin = configmap.clone();
                return Some(self.service_on_vip(vip, &line.service, found, method, origin, line.field.clone()));
            }
        };
        self.say(SourceKey::Vip(vip), note(configmap, verdict, line.field.clone(), reason, remedy));
        let announced = verdict == Verdict::Warning;
        announced
            .then(|| self.service_on_vip(vip, &line.service, None, line.method, configmap.clone(), line.field.clone()))
    }

    fn service_on_vip(
        &self,
        vip: IpAddr,
        name: &NamespacedName,
        found: Option<&Service>,
        method: Option<Method>,
        origin: ObjectRef,
        field: String,
    ) -> VipServiceDraft {
        let ports = found.into_iter().flat_map(|service| {
            let of = service.virtual_service.as_deref();
            service.ports.iter().map(move |port| self.vip_port(vip, name, port, of))
        });
        let into_pods = found.is_some() && self.goes_into_pods(name, method);
        VipServiceDraft {
            namespace: Arc::clone(&name.namespace),
            service: Arc::clone(&name.name),
            method,
            into_pods,
            options: found.map(options).unwrap_or_default(),
            ports: ports.collect(),
            origin,
            field,
        }
    }

    /// Asked for, or the default where the endpoints are pods of nodes that are known. A Service of a cluster that has no
    /// endpoints yet will get pods.
    fn goes_into_pods(&self, service: &NamespacedName, asked: Option<Method>) -> bool {
        if let Some(method) = asked {
            return method == Method::Pod;
        }
        let mut endpoints = self.objects.slices_of(service).flat_map(|(_, slice)| slice.endpoints.iter()).peekable();
        match endpoints.peek() {
            Some(_) => endpoints.any(|endpoint| self.is_in_a_pod(endpoint)),
            None => self.objects.knows_nodes(),
        }
    }

    /// A pod in the host's network has the address of its node, and can hold a VIP as any host does.
    fn is_in_a_pod(&self, endpoint: &SliceEndpoint) -> bool {
        let node = endpoint.node.as_ref().and_then(|node| self.objects.node(node));
        let is_apart = node.is_some_and(|node| !node.internal.is_empty() && !node.has_address(endpoint.address));
        endpoint.pod.is_some() && is_apart
    }

    fn node(&self, vip: IpAddr, endpoint: &SliceEndpoint) -> NodeDraft {
        let Some(name) = &endpoint.node else { return NodeDraft::Unnamed };
        let Some(node) = self.objects.node(name) else { return NodeDraft::Unknown };
        let Some(address) = node.address(vip.is_ipv6()) else { return NodeDraft::NoAddress };
        NodeDraft::At { address, has_agent: self.agents.as_ref().is_none_or(|agents| agents.contains(name)) }
    }

    fn vip_port(
        &self,
        vip: IpAddr,
        service: &NamespacedName,
        port: &ServicePort,
        of: Option<&VirtualService>,
    ) -> VipPortDraft {
        let mut reals = Vec::new();
        for (_, slice) in self.objects.slices_of(service) {
            for number in slice_ports(slice, port) {
                reals.extend(slice.endpoints.iter().map(|endpoint| RealServerDraft {
                    real: RealServer {
                        address: endpoint.address,
                        weight: of.and_then(|of| of.weights.get(&endpoint.address)).copied().unwrap_or(WEIGHT),
                        readiness: if endpoint.terminating { Readiness::Draining } else { Readiness::Ready },
                        node: endpoint.node.clone(),
                        pods: None,
                    },
                    port: number,
                    node: self.node(vip, endpoint),
                }));
            }
        }
        let target = match port.target {
            TargetPort::Number(number) => Some(number),
            TargetPort::Named => None,
        };
        VipPortDraft { protocol: port.protocol, port: port.port, target, reals }
    }
}

fn options(service: &Service) -> VipOptions {
    match &service.virtual_service {
        Some(of) => of.options.clone(),
        None => default_options(service.has_tcp()),
    }
}

fn said_method(asked: AskedMethod) -> Option<Method> {
    match asked {
        AskedMethod::Says(method) => Some(method),
        AskedMethod::Unsaid | AskedMethod::Refused => None,
    }
}
