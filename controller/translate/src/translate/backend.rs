//! Backends: a Service port, and the addresses that its EndpointSlices give for it.

use super::Translator;
use crate::facts::configmap;
use crate::facts::note;
use crate::facts::service::{AppProtocol, Service, ServicePort, TargetPort};
use crate::facts::slice::Slice;
use crate::objects::reference;
use sluicegate_config::draft::{BackendDraft, BackendSource, EndpointDraft};
use sluicegate_config::{
    BackendId, Kind, NamespacedName, ObjectRef, PortRef, SourceKey, TransportProtocol, UpstreamProtocol, Verdict,
};
use std::net::SocketAddr;
use std::sync::Arc;

/// Why a backend is nowhere, for those who refer to it.
struct Nowhere {
    /// Below `backend.service` of the Ingress.
    field: String,
    reason: String,
    remedy: String,
}

impl Translator<'_> {
    pub(super) fn backend(&mut self, id: &BackendId) -> Option<BackendDraft> {
        let objects = self.objects;
        let mut users = objects.by_backend.of(id).filter_map(|key| objects.ingresses.get(key));
        let used = users.any(|ingress| objects.serves(ingress).is_some()) || objects.streams_of(id).next().is_some();
        if !used {
            return None;
        }
        let key = NamespacedName::new(Arc::clone(&id.namespace), Arc::clone(&id.service));
        let service = reference(Kind::Service, &key);
        let unavailable = |reason: &str| BackendDraft {
            protocol: id.protocol.unwrap_or(UpstreamProtocol::Http1),
            source: BackendSource::Unavailable(reason.into()),
        };
        let Some(found) = objects.services.get(&key) else {
            let reason = format!("{service} does not exist");
            let draft = unavailable(&reason);
            let remedy = "create the Service, or name one that exists".to_owned();
            self.tell_users(id, &Nowhere { field: "name".to_owned(), reason, remedy });
            return Some(draft);
        };
        let port = found.port(&id.port);
        let protocol = match (id.protocol, port.map(|port| port.app_protocol)) {
            (Some(asked), _) => asked,
            (None, Some(AppProtocol::Says(said))) => said,
            (None, _) => UpstreamProtocol::Http1,
        };
        let source = if let Some(name) = &found.external {
            external(&service, name, port, &id.port)
        } else {
            port.map(|port| self.endpoints(id, &key, service.clone(), port))
                .ok_or_else(|| no_such_port(&service, found, &id.port))
        };
        Some(match source {
            Ok(source) => BackendDraft { protocol, source },
            Err(nowhere) => {
                let draft = unavailable(&nowhere.reason);
                self.tell_users(id, &nowhere);
                draft
            }
        })
    }

    fn endpoints(
        &mut self,
        id: &BackendId,
        key: &NamespacedName,
        service: ObjectRef,
        port: &ServicePort,
    ) -> BackendSource {
        let objects = self.objects;
        let mut endpoints = Vec::new();
        for (name, slice) in objects.slices_of(key) {
            for rejection in slice.notes(&reference(Kind::EndpointSlice, name)) {
                self.say(SourceKey::Backend(id.clone()), rejection);
            }
            for number in slice_ports(slice, port) {
                endpoints.extend(slice.endpoints.iter().map(|endpoint| EndpointDraft {
                    address: SocketAddr::new(endpoint.address, number),
                    pod: endpoint.pod.clone(),
                    node: endpoint.node.clone(),
                    terminating: endpoint.terminating,
                }));
            }
        }
        BackendSource::Endpoints { service, endpoints }
    }

    /// A warning for every field that names the backend; it goes when the backend comes.
    fn tell_users(&mut self, id: &BackendId, nowhere: &Nowhere) {
        let objects = self.objects;
        for key in objects.by_backend.of(id) {
            let Some(ingress) = objects.ingresses.get(key).filter(|ingress| objects.serves(ingress).is_some()) else {
                continue;
            };
            for (_, field) in ingress.backends().filter(|(backend, _)| ingress.backend_id(backend).as_ref() == Some(id))
            {
                self.say(
                    SourceKey::Backend(id.clone()),
                    note(
                        &ingress.reference,
                        Verdict::Warning,
                        format!("{}.{}", field.service(), nowhere.field),
                        format!("{}: requests get 503", nowhere.reason),
                        nowhere.remedy.clone(),
                    ),
                );
            }
        }
        for listener in objects.streams_of(id).filter_map(|port| objects.tcp_services.listeners.get(&port)) {
            self.say(
                SourceKey::Backend(id.clone()),
                note(
                    &listener.origin,
                    Verdict::Warning,
                    configmap::field(&listener.port.to_string()),
                    format!("{}: connections are closed", nowhere.reason),
                    nowhere.remedy.clone(),
                ),
            );
        }
    }
}

/// A Service of type ExternalName may list no ports at all: then the number is taken as it is.
fn external(
    service: &ObjectRef,
    name: &Arc<str>,
    port: Option<&ServicePort>,
    wanted: &PortRef,
) -> Result<BackendSource, Nowhere> {
    let number = match (port.map(|port| (&port.target, port.port)), wanted) {
        (Some((TargetPort::Number(target), _)), _) => *target,
        // There is no container whose port could have that name.
        (Some((TargetPort::Named, port)), _) => port,
        (None, PortRef::Number(number)) => *number,
        (None, PortRef::Name(name)) => {
            return Err(Nowhere {
                field: "port.name".to_owned(),
                reason: format!("{service} of type ExternalName has no port named {name}"),
                remedy: "name the port by number, or list it in the Service".to_owned(),
            });
        }
    };
    Ok(BackendSource::External { service: service.clone(), name: Arc::clone(name), port: number })
}

fn no_such_port(service: &ObjectRef, found: &Service, wanted: &PortRef) -> Nowhere {
    let (field, what) = match wanted {
        PortRef::Number(number) => ("port.number", format!("port {number}")),
        PortRef::Name(name) => ("port.name", format!("port named {name}")),
    };
    let tcp = || found.ports.iter().filter(|port| port.protocol == TransportProtocol::Tcp);
    let target_of = |number: &u16| tcp().find(|port| port.target == TargetPort::Number(*number));
    let hint = match wanted {
        PortRef::Number(number) => target_of(number),
        PortRef::Name(_) => None,
    };
    let listed: Vec<String> = tcp()
        .map(|port| if port.name.is_empty() { port.port.to_string() } else { format!("{} ({})", port.port, port.name) })
        .collect();
    Nowhere {
        field: field.to_owned(),
        reason: format!("{service} has no TCP {what}"),
        remedy: match hint {
            Some(port) => format!("name port {}, whose targetPort that is", port.port),
            None if listed.is_empty() => "list the port in the Service".to_owned(),
            None => format!("name a port of the Service: {}", listed.join(", ")),
        },
    }
}

/// The numbers that a slice gives for a Service port: by the port's name, as kube-proxy does.
///
/// Hand-made slices are often less exact: a nameless Service port takes the slice's only port whatever its name, and a
/// targetPort by number stands where no name fits (annotations.md section 4, row 23).
pub(crate) fn slice_ports(slice: &Slice, port: &ServicePort) -> Vec<u16> {
    let alike = || slice.ports.iter().filter(|candidate| candidate.protocol == port.protocol);
    let target = match port.target {
        TargetPort::Number(number) => Some(number),
        TargetPort::Named => None,
    };
    let mut numbers: Vec<u16> = alike()
        .filter(|candidate| candidate.name == port.name)
        .filter_map(|candidate| candidate.port.or(target))
        .collect();
    if numbers.is_empty() && port.name.is_empty() && alike().count() == 1 {
        numbers.extend(alike().filter_map(|candidate| candidate.port.or(target)));
    }
    if numbers.is_empty() {
        numbers.extend(target);
    }
    numbers.dedup();
    numbers
}
