//! Drafts of the dirty keys, and what is to be said about them.

mod backend;
mod host;
mod server_name;
mod vip;

pub(crate) use backend::slice_ports;

use crate::claim::dialect_of;
use crate::dirty::Dirty;
use crate::facts::ingress::{Class, Ingress};
use crate::facts::note;
use crate::facts::secret::Secret;
use crate::facts::service::Service;
use crate::objects::{Objects, reference};
use sluicegate_config::draft::CertificateDraft;
use sluicegate_config::settings::DIALECT_ANNOTATION;
use sluicegate_config::{
    CertificateId, Dialect, Draft, HostPattern, Kind, NamespacedName, Note, ObjectRef, Rejection, SourceKey, Verdict,
};
use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;

/// What dirty keys become.
#[derive(Clone, Debug, Default)]
pub struct Translation {
    /// One entry for every dirty key.
    pub draft: Draft,
    /// What was found on the way. They replace all former notes of the dirty keys.
    pub notes: Vec<Note>,
}

/// Translates the dirty keys. Pure: the same objects give the same translation.
///
/// `now_unix` is the time in seconds since the Unix epoch, for certificates that have expired.
pub fn translate(objects: &Objects, dirty: &Dirty, now_unix: i64) -> Translation {
    let agents = if dirty.vips.is_empty() { None } else { objects.nodes_with_agents() };
    let mut translator = Translator { objects, now_unix, agents, notes: Vec::new() };
    for object in &dirty.objects {
        translator.object(object);
    }
    let draft = Draft {
        hosts: dirty.hosts.iter().map(|host| (host.clone(), translator.host(host))).collect(),
        server_names: dirty.server_names.iter().map(|host| (host.clone(), translator.server_name(host))).collect(),
        backends: dirty.backends.iter().map(|id| (id.clone(), translator.backend(id))).collect(),
        certificates: dirty.certificates.iter().map(|id| (id.clone(), translator.certificate(id))).collect(),
        listeners: dirty
            .listeners
            .iter()
            .map(|port| (*port, objects.tcp_services.listeners.get(port).cloned()))
            .collect(),
        vips: dirty.vips.iter().map(|address| (*address, translator.vip(*address))).collect(),
    };
    Translation { draft, notes: translator.notes }
}

struct Translator<'a> {
    objects: &'a Objects,
    now_unix: i64,
    /// Nodes with an agent that is ready; `None` = nobody asks.
    agents: Option<BTreeSet<Arc<str>>>,
    notes: Vec<Note>,
}

impl<'a> Translator<'a> {
    fn say(&mut self, source: SourceKey, rejection: Rejection) {
        self.notes.push(Note { source, rejection });
    }

    /// What is wrong with one object whatever becomes of it.
    fn object(&mut self, of: &ObjectRef) {
        let objects = self.objects;
        let key = NamespacedName::new(Arc::clone(&of.namespace), Arc::clone(&of.name));
        let notes = match of.kind {
            Kind::Ingress => objects.ingresses.get(&key).map(|ingress| self.ingress_notes(ingress)),
            Kind::IngressClass => objects.classes.get(&of.name).map(|class| self.class_notes(of, class)),
            Kind::Service => objects.services.get(&key).map(|service| self.service_notes(of, &key, service)),
            Kind::ConfigMap => {
                let mut notes = Vec::new();
                if objects.settings.tcp_services_configmap.as_ref() == Some(&key) {
                    notes.extend_from_slice(&objects.tcp_services.notes);
                }
                if objects.settings.vip_configmap == key {
                    notes.extend_from_slice(&objects.vips.notes);
                }
                Some(notes)
            }
            // Slices, Secrets, Nodes and Namespaces matter where something uses them: they are spoken of there.
            Kind::EndpointSlice | Kind::Secret | Kind::Node | Kind::Namespace | Kind::File => None,
        };
        for rejection in notes.into_iter().flatten() {
            self.say(SourceKey::Object(of.clone()), rejection);
        }
    }

    fn service_notes(&self, of: &ObjectRef, key: &NamespacedName, service: &Service) -> Vec<Rejection> {
        let faults = self.objects.faults(key).into_iter().map(|fault| fault.problem);
        let problems = faults.chain(self.objects.strangers_problem(key));
        service.notes(of).into_iter().chain(problems.map(|problem| problem.into_note(of))).collect()
    }

    fn ingress_notes(&self, ingress: &Ingress) -> Vec<Rejection> {
        match self.objects.claim(ingress) {
            Ok(dialect) => ingress.notes(dialect),
            Err(why) => {
                let field = match &ingress.class {
                    crate::facts::ingress::ClassUse::Annotation(_) => {
                        "metadata.annotations[\"kubernetes.io/ingress.class\"]"
                    }
                    _ => "spec.ingressClassName",
                };
                vec![note(&ingress.reference, Verdict::Ignored, field, why.to_string(), why.remedy())]
            }
        }
    }

    fn class_notes(&self, of: &ObjectRef, class: &Class) -> Vec<Rejection> {
        let mut notes = Vec::new();
        if dialect_of(&self.objects.settings, class).is_none() {
            return notes;
        }
        if class.has_parameters {
            notes.push(note(
                of,
                Verdict::Ignored,
                "spec.parameters",
                "parameters of a class have no effect",
                "remove spec.parameters",
            ));
        }
        if let Some(other) = class.dialect.as_deref().filter(|dialect| !matches!(*dialect, "strict" | "nginx")) {
            notes.push(note(
                of,
                Verdict::Rejected,
                format!("metadata.annotations[\"{DIALECT_ANNOTATION}\"]"),
                format!("{other:?} is not a dialect; that of the class's controller is in force"),
                "write strict or nginx",
            ));
        }
        if class.default
            && let Some((chosen, _)) = self.objects.default_class()
            && *chosen != of.name
        {
            notes.push(note(
                of,
                Verdict::Warning,
                "metadata.annotations[\"ingressclass.kubernetes.io/is-default-class\"]",
                format!("several classes are the default, and IngressClass {chosen} is taken, the newest of them"),
                "mark one IngressClass alone as the default",
            ));
        }
        notes
    }

    /// The Ingresses that take traffic, in order of precedence, and the dialect of the oldest.
    fn claimants(
        &self,
        users: impl Iterator<Item = &'a NamespacedName>,
    ) -> Option<(Dialect, Vec<(&'a Ingress, Dialect)>)> {
        let objects = self.objects;
        let mut claimants: Vec<(&Ingress, Dialect)> = users
            .filter_map(|key| objects.ingresses.get(key))
            .filter_map(|ingress| objects.serves(ingress).map(|dialect| (&**ingress, dialect)))
            .collect();
        let age = |ingress: &'a Ingress| (ingress.created, &ingress.reference.namespace, &ingress.reference.name);
        // Which of equally old ones comes first depends on the dialect, so here the order of the strict one decides.
        let dialect = claimants.iter().min_by_key(|(ingress, _)| age(ingress)).map(|(_, dialect)| *dialect)?;
        claimants.sort_by(|(a, _), (b, _)| match dialect {
            Dialect::Strict => age(a).cmp(&age(b)),
            Dialect::Nginx => {
                let (a, b) = (age(a), age(b));
                (a.0, Reverse((a.1, a.2))).cmp(&(b.0, Reverse((b.1, b.2))))
            }
        });
        Some((dialect, claimants))
    }

    fn certificate(&mut self, id: &CertificateId) -> Option<CertificateDraft> {
        let objects = self.objects;
        let users =
            || objects.by_certificate.of(id).filter_map(|key| objects.ingresses.get(key).map(|ingress| &**ingress));
        let is_default = objects.default_certificate().as_ref() == Some(id);
        if !is_default && !users().any(|ingress| objects.serves(ingress).is_some()) {
            return None;
        }
        let key = NamespacedName::new(Arc::clone(&id.namespace), Arc::clone(&id.name));
        let secret = reference(Kind::Secret, &key);
        Some(match objects.secrets.get(&key) {
            Some(Secret::Good(good)) => {
                self.validity(id, secret, good.not_before, good.certificate.not_after);
                CertificateDraft::Good(Arc::clone(&good.certificate))
            }
            Some(Secret::Broken(broken)) => CertificateDraft::Broken {
                secret,
                field: broken.field.to_owned(),
                reason: broken.reason.clone(),
                remedy: broken.remedy.to_owned(),
            },
            None => {
                if is_default {
                    self.say(
                        SourceKey::Certificate(id.clone()),
                        note(
                            &secret,
                            Verdict::Rejected,
                            "(all)",
                            "the Secret of --default-ssl-certificate does not exist; a self-signed certificate is served",
                            "create it with `kubectl create secret tls`",
                        ),
                    );
                }
                for ingress in users().filter(|ingress| objects.serves(ingress).is_some()) {
                    for (index, _) in ingress.tls.iter().enumerate().filter(|(_, tls)| tls.secret.as_ref() == Some(id))
                    {
                        self.say(
                            SourceKey::Certificate(id.clone()),
                            note(
                                &ingress.reference,
                                Verdict::Rejected,
                                format!("spec.tls[{index}].secretName"),
                                format!("{secret} does not exist; the default certificate is served"),
                                "create the Secret in the namespace of the Ingress, with tls.crt and tls.key; if it is there, let \
                                 the gateway read it",
                            ),
                        );
                    }
                }
                CertificateDraft::Missing
            }
        })
    }

    fn validity(&mut self, id: &CertificateId, secret: ObjectRef, not_before: i64, not_after: i64) {
        let (what, at) = if self.now_unix > not_after {
            ("expired at", not_after)
        } else if self.now_unix < not_before {
            ("is not valid before", not_before)
        } else {
            return;
        };
        let at = k8s_openapi::jiff::Timestamp::from_second(at).map_or_else(|_| at.to_string(), |time| time.to_string());
        self.say(
            SourceKey::Certificate(id.clone()),
            note(
                &secret,
                Verdict::Warning,
                "data[\"tls.crt\"]",
                format!("the certificate {what} {at}; it is served all the same"),
                "renew the certificate",
            ),
        );
    }
}

/// True for the hosts that a rule-less use (default backend, TLS section without hosts) can stand for.
fn is_any(host: &HostPattern) -> bool {
    *host == HostPattern::Any
}
