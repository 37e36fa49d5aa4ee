//! Virtual IPs: the Services of each line with their ports.

use super::Translator;
use crate::facts::note;
use crate::facts::service::{ServicePort, TargetPort};
use crate::objects::reference;
use sluicegate_config::draft::{VipDraft, VipPortDraft, VipServiceDraft};
use sluicegate_config::{Kind, NamespacedName, SourceKey, Verdict, VipOptions};
use std::net::IpAddr;
use std::sync::Arc;

impl Translator<'_> {
    pub(super) fn vip(&mut self, address: IpAddr) -> Option<VipDraft> {
        let objects = self.objects;
        let origin = reference(Kind::ConfigMap, &objects.settings.vip_configmap);
        let lines = objects.vips.bindings.get(&address)?;
        let mut services = Vec::with_capacity(lines.len());
        for line in lines {
            let service = reference(Kind::Service, &line.service);
            let ports = match objects.services.get(&line.service) {
                Some(found) if found.external.is_some() => {
                    self.say(
                        SourceKey::Vip(address),
                        note(
                            &origin,
                            Verdict::Rejected,
                            line.field.clone(),
                            format!("{service} is of type ExternalName, which has no address to forward packets to"),
                            "bind a Service with endpoints",
                        ),
                    );
                    continue;
                }
                Some(found) => found.ports.iter().map(|port| self.vip_port(&line.service, port)).collect(),
                None => {
                    self.say(
                        SourceKey::Vip(address),
                        note(
                            &origin,
                            Verdict::Warning,
                            line.field.clone(),
                            format!("{service} does not exist: the address is announced and nothing answers"),
                            "create the Service, or name one that exists",
                        ),
                    );
                    Vec::new()
                }
            };
            services.push(VipServiceDraft {
                namespace: Arc::clone(&line.service.namespace),
                service: Arc::clone(&line.service.name),
                method: line.method,
                options: VipOptions::default(),
                ports,
                field: line.field.clone(),
            });
        }
        // An empty value asks for the address alone; lines that all came to nothing do not.
        if services.is_empty() && !lines.is_empty() { None } else { Some(VipDraft { services, origin }) }
    }

    fn vip_port(&self, service: &NamespacedName, port: &ServicePort) -> VipPortDraft {
        let mut targets: Vec<u16> = match port.target {
            TargetPort::Number(number) => vec![number],
            TargetPort::Named => self
                .objects
                .slices_of(service)
                .flat_map(|(_, slice)| slice.ports.iter())
                .filter(|candidate| candidate.protocol == port.protocol && candidate.name == port.name)
                .filter_map(|candidate| candidate.port)
                .collect(),
        };
        targets.sort_unstable();
        targets.dedup();
        VipPortDraft { protocol: port.protocol, port: port.port, targets, reals: Vec::new() }
    }
}
