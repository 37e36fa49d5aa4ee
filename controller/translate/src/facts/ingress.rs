//! Ingress and IngressClass.

use super::{created, note, port_number};
use crate::annotations::{self, LEGACY_CLASS, Options};
use crate::shared::{Annotations, Shared};
use k8s_openapi::api::networking::v1 as api;
use sluicegate_config::settings::DIALECT_ANNOTATION;
use sluicegate_config::{
    BackendId, CertificateId, Dialect, HostPattern, InvalidHost, NamespacedName, ObjectRef, PortRef, Rejection, Verdict,
};
use std::collections::BTreeSet;
use std::sync::Arc;

/// How an Ingress names its class.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ClassUse {
    /// Not at all.
    Unnamed,
    /// `spec.ingressClassName`.
    Field(Arc<str>),
    /// The annotation, where the field is missing.
    Annotation(Arc<str>),
}

impl ClassUse {
    pub(crate) fn name(&self) -> Option<&Arc<str>> {
        match self {
            Self::Unnamed => None,
            Self::Field(name) | Self::Annotation(name) => Some(name),
        }
    }
}

/// What is kept of an Ingress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ingress {
    pub(crate) reference: ObjectRef,
    pub(crate) created: i64,
    pub(crate) class: ClassUse,
    pub(crate) default_backend: Option<BackendUse>,
    pub(crate) rules: Box<[Rule]>,
    pub(crate) tls: Box<[Tls]>,
    annotations: Arc<Annotations>,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) host: Host,
    pub(crate) paths: Box<[Path]>,
}

/// A host as written, and as understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Host {
    pub(crate) pattern: Result<HostPattern, (Box<str>, InvalidHost)>,
}

/// One path of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Path {
    /// Path of the field.
    pub(crate) field: Arc<str>,
    pub(crate) path: Arc<str>,
    pub(crate) path_type: PathType,
    pub(crate) backend: BackendUse,
}

/// `pathType`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PathType {
    Exact,
    Prefix,
    ImplementationSpecific,
    Missing,
    Unknown(Box<str>),
}

/// A backend as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BackendUse {
    Service { name: Arc<str>, port: PortRef },
    Resource { kind: Box<str>, name: Box<str> },
    Bad(BadBackend),
}

/// Why a backend cannot be understood. The API server refuses all of these; a folder has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadBackend {
    #[error("backend names neither a service nor a resource")]
    Nothing,
    #[error("backend names both a service and a resource")]
    Both,
    #[error("backend names a service without a name")]
    NoName,
    #[error("backend names no port of the service")]
    NoPort,
    #[error("backend names the port both by number and by name")]
    TwoPorts,
    #[error("backend names a port outside 1 to 65535")]
    PortRange,
}

/// One TLS section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tls {
    pub(crate) hosts: Box<[Host]>,
    pub(crate) secret: Option<CertificateId>,
}

/// Keys that an Ingress has a part in.
#[derive(Debug, Default)]
pub(crate) struct References {
    pub(crate) hosts: BTreeSet<HostPattern>,
    pub(crate) server_names: BTreeSet<HostPattern>,
    pub(crate) backends: BTreeSet<BackendId>,
    pub(crate) certificates: BTreeSet<CertificateId>,
}

impl References {
    /// Server names that are no host of a rule.
    pub(crate) fn tls_hosts(&self) -> impl Iterator<Item = &HostPattern> {
        self.server_names.difference(&self.hosts)
    }
}

impl Ingress {
    pub(crate) fn read(object: &api::Ingress, reference: ObjectRef, shared: &mut Shared) -> Self {
        let annotations: Box<[(Box<str>, Box<str>)]> = object
            .metadata
            .annotations
            .iter()
            .flatten()
            .filter(|(key, _)| annotations::is_ours(key))
            .map(|(key, value)| (key.as_str().into(), value.as_str().into()))
            .collect();
        let spec = object.spec.as_ref();
        let class = match (
            spec.and_then(|spec| spec.ingress_class_name.as_deref()).filter(|name| !name.is_empty()),
            object.metadata.annotations.as_ref().and_then(|all| all.get(LEGACY_CLASS)).filter(|name| !name.is_empty()),
        ) {
            (Some(name), _) => ClassUse::Field(shared.text(name)),
            (None, Some(name)) => ClassUse::Annotation(shared.text(name)),
            (None, None) => ClassUse::Unnamed,
        };
        let default_backend =
            spec.and_then(|spec| spec.default_backend.as_ref()).map(|backend| BackendUse::read(backend, shared));
        let rules: Box<[Rule]> = spec
            .and_then(|spec| spec.rules.as_ref())
            .into_iter()
            .flatten()
            .enumerate()
            .map(|(index, rule)| Rule::read(index, rule, shared))
            .collect();
        let tls = spec
            .and_then(|spec| spec.tls.as_ref())
            .into_iter()
            .flatten()
            .map(|tls| Tls::read(tls, &reference.namespace, &rules, shared))
            .collect();
        Self {
            created: created(&object.metadata),
            class,
            default_backend,
            rules,
            tls,
            annotations: shared.annotations(annotations),
            reference,
        }
    }

    /// What its annotations ask for.
    pub(crate) fn options(&self) -> &Options {
        &self.annotations.options
    }

    pub(crate) fn key(&self) -> NamespacedName {
        NamespacedName { namespace: Arc::clone(&self.reference.namespace), name: Arc::clone(&self.reference.name) }
    }

    /// The backend that a use stands for, with the options of this Ingress.
    pub(crate) fn backend_id(&self, backend: &BackendUse) -> Option<BackendId> {
        match backend {
            BackendUse::Service { name, port } => Some(BackendId {
                namespace: Arc::clone(&self.reference.namespace),
                service: Arc::clone(name),
                port: port.clone(),
                protocol: self.options().protocol,
                balance: self.options().balance.clone(),
            }),
            BackendUse::Resource { .. } | BackendUse::Bad(_) => None,
        }
    }

    /// Every backend with the path of its field.
    pub(crate) fn backends(&self) -> impl Iterator<Item = (&BackendUse, FieldOf)> {
        let default = self.default_backend.iter().map(|backend| (backend, FieldOf::Default));
        let paths = self.rules.iter().enumerate().flat_map(|(rule, of)| {
            of.paths.iter().enumerate().map(move |(path, of)| (&of.backend, FieldOf::Path { rule, path }))
        });
        default.chain(paths)
    }

    /// True if any section of it is about TLS.
    pub(crate) fn has_tls(&self) -> bool {
        !self.tls.is_empty() || self.options().passthrough
    }

    pub(crate) fn references(&self) -> References {
        let mut references = References::default();
        if self.rules.is_empty() && self.default_backend.is_some() {
            references.hosts.insert(HostPattern::Any);
        }
        references.hosts.extend(self.rules.iter().filter_map(|rule| rule.host.pattern.as_ref().ok()).cloned());
        if self.has_tls() {
            references.server_names.extend(references.hosts.iter().cloned());
            let listed = self.tls.iter().flat_map(|tls| tls.hosts.iter());
            references.server_names.extend(listed.filter_map(|host| host.pattern.as_ref().ok()).cloned());
        }
        references.backends.extend(self.backends().filter_map(|(backend, _)| self.backend_id(backend)));
        references.certificates.extend(self.tls.iter().filter_map(|tls| tls.secret.clone()));
        references
    }

    /// What is wrong with it whatever else there is.
    pub(crate) fn notes(&self, dialect: Dialect) -> Vec<Rejection> {
        let mut notes = Vec::new();
        let mut say = |verdict, field: String, reason: String, remedy: &str| {
            notes.push(note(&self.reference, verdict, field, reason, remedy));
        };
        let (_, remarks) = annotations::read(&self.annotations.written);
        for remark in remarks {
            say(remark.verdict, format!("metadata.annotations[\"{}\"]", remark.key), remark.reason, &remark.remedy);
        }
        self.dialect_notes(dialect, &mut say);
        if self.rules.is_empty() && self.default_backend.is_none() {
            say(
                Verdict::Rejected,
                "spec".to_owned(),
                "neither rules nor a default backend are given".to_owned(),
                "add spec.rules or spec.defaultBackend",
            );
        }
        for (index, rule) in self.rules.iter().enumerate() {
            rule.host.say(format!("spec.rules[{index}].host"), &mut say);
            for path in &rule.paths {
                path.say(&mut say);
            }
        }
        for (index, tls) in self.tls.iter().enumerate() {
            for (host_index, host) in tls.hosts.iter().enumerate() {
                host.say(format!("spec.tls[{index}].hosts[{host_index}]"), &mut say);
            }
        }
        for (backend, field) in self.backends() {
            self.backend_notes(backend, &field.to_string(), &mut say);
        }
        notes
    }

    fn dialect_notes(&self, dialect: Dialect, say: &mut impl FnMut(Verdict, String, String, &str)) {
        let remedy = format!("set the annotation {DIALECT_ANNOTATION}: nginx on the IngressClass");
        if dialect == Dialect::Strict && self.options().use_regex {
            let key = "nginx.ingress.kubernetes.io/use-regex";
            say(
                Verdict::Rejected,
                format!("metadata.annotations[\"{key}\"]"),
                format!("annotation {key} has no effect in the strict dialect: paths are compared literally"),
                &remedy,
            );
        }
        if dialect == Dialect::Strict && self.options().rewrite.as_deref().is_some_and(has_group) {
            let key = "nginx.ingress.kubernetes.io/rewrite-target";
            say(
                Verdict::Rejected,
                format!("metadata.annotations[\"{key}\"]"),
                format!(
                    "annotation {key} uses groups, which no path has in the strict dialect: requests are sent on as they are"
                ),
                &remedy,
            );
        }
    }

    fn backend_notes(&self, backend: &BackendUse, field: &str, say: &mut impl FnMut(Verdict, String, String, &str)) {
        match backend {
            BackendUse::Service { .. } => {}
            BackendUse::Bad(why) => say(
                Verdict::Rejected,
                format!("{field}.backend").replace("defaultBackend.backend", "defaultBackend"),
                format!("{why}: requests get 503"),
                "name one service and its port by number or by name",
            ),
            BackendUse::Resource { kind, name } => {
                let instead = match (&self.default_backend, field) {
                    (Some(BackendUse::Service { .. }), field) if field != "spec.defaultBackend" => {
                        "requests go to the default backend of the Ingress"
                    }
                    _ => "requests get 503",
                };
                say(
                    Verdict::Rejected,
                    format!("{field}.backend.resource").replace("defaultBackend.backend", "defaultBackend"),
                    format!("backend is the resource {kind} {name}, and only Services are served: {instead}"),
                    "name a Service in backend.service",
                );
            }
        }
    }
}

/// True if a rewrite target refers to a group of the path.
pub(crate) fn has_group(target: &str) -> bool {
    target.as_bytes().windows(2).any(|pair| pair[0] == b'$' && pair[1].is_ascii_digit())
}

/// Which field of an Ingress.
#[derive(Clone, Copy, Debug)]
pub(crate) enum FieldOf {
    Default,
    Path { rule: usize, path: usize },
}

impl FieldOf {
    /// The path of `service` below the field.
    pub(crate) fn service(self) -> String {
        match self {
            Self::Default => "spec.defaultBackend.service".to_owned(),
            Self::Path { .. } => format!("{self}.backend.service"),
        }
    }
}

impl std::fmt::Display for FieldOf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Default => f.write_str("spec.defaultBackend"),
            Self::Path { rule, path } => write!(f, "spec.rules[{rule}].http.paths[{path}]"),
        }
    }
}

impl Rule {
    fn read(index: usize, rule: &api::IngressRule, shared: &mut Shared) -> Self {
        let paths = rule.http.iter().flat_map(|http| &http.paths).enumerate();
        Self {
            host: Host::read(rule.host.as_deref().unwrap_or_default()),
            paths: paths
                .map(|(path_index, path)| {
                    let field = FieldOf::Path { rule: index, path: path_index }.to_string();
                    Path::read(shared.text(&field), path, shared)
                })
                .collect(),
        }
    }
}

impl Host {
    fn read(text: &str) -> Self {
        Self { pattern: HostPattern::parse(text).map_err(|why| (text.into(), why)) }
    }

    fn say(&self, field: String, say: &mut impl FnMut(Verdict, String, String, &str)) {
        if let Err((text, why)) = &self.pattern {
            say(
                Verdict::Rejected,
                field,
                format!("{text:?} is not a host: {why}"),
                "write a DNS name, or * as the whole first label",
            );
        }
    }
}

impl Path {
    fn read(field: Arc<str>, path: &api::HTTPIngressPath, shared: &mut Shared) -> Self {
        let text = path.path.as_deref().unwrap_or_default();
        let path_type = match path.path_type.as_str() {
            "Exact" => PathType::Exact,
            "Prefix" => PathType::Prefix,
            "ImplementationSpecific" => PathType::ImplementationSpecific,
            // The API requires the field. Where both are missing, only one reading is possible.
            "" if text.is_empty() => PathType::Prefix,
            "" => PathType::Missing,
            other => PathType::Unknown(other.into()),
        };
        let text = if text.is_empty() && path_type != PathType::Exact { "/" } else { text };
        Self { field, path: shared.text(text), path_type, backend: BackendUse::read(&path.backend, shared) }
    }

    fn say(&self, say: &mut impl FnMut(Verdict, String, String, &str)) {
        let reason = match &self.path_type {
            PathType::Exact | PathType::Prefix | PathType::ImplementationSpecific => return,
            PathType::Missing => format!("path {:?} has no pathType", self.path),
            PathType::Unknown(other) => format!("{other:?} is not a pathType"),
        };
        say(
            Verdict::Rejected,
            format!("{}.pathType", self.field),
            reason,
            "write pathType: Prefix, Exact or ImplementationSpecific",
        );
    }
}

impl BackendUse {
    fn read(backend: &api::IngressBackend, shared: &mut Shared) -> Self {
        let service = match (&backend.service, &backend.resource) {
            (None, None) => return Self::Bad(BadBackend::Nothing),
            (Some(_), Some(_)) => return Self::Bad(BadBackend::Both),
            (None, Some(resource)) => {
                return Self::Resource { kind: resource.kind.as_str().into(), name: resource.name.as_str().into() };
            }
            (Some(service), None) => service,
        };
        if service.name.is_empty() {
            return Self::Bad(BadBackend::NoName);
        }
        let port = service.port.as_ref();
        let number = port.and_then(|port| port.number).filter(|number| *number != 0);
        let name = port.and_then(|port| port.name.as_deref()).filter(|name| !name.is_empty());
        let port = match (number, name) {
            (None, None) => return Self::Bad(BadBackend::NoPort),
            (Some(_), Some(_)) => return Self::Bad(BadBackend::TwoPorts),
            (Some(number), None) => match port_number(number) {
                Some(number) => PortRef::Number(number),
                None => return Self::Bad(BadBackend::PortRange),
            },
            (None, Some(name)) => PortRef::Name(shared.text(name)),
        };
        Self::Service { name: shared.text(&service.name), port }
    }
}

impl Tls {
    /// A TLS host is nearly always the host of a rule, whose text it then shares.
    fn read(tls: &api::IngressTLS, namespace: &Arc<str>, rules: &[Rule], shared: &mut Shared) -> Self {
        let host = |text: &String| {
            let host = Host::read(text);
            match rules.iter().find(|rule| rule.host == host) {
                Some(Rule { host: Host { pattern: Ok(same) }, .. }) => Host { pattern: Ok(same.clone()) },
                _ => host,
            }
        };
        Self {
            hosts: tls.hosts.iter().flatten().map(host).collect(),
            secret: tls
                .secret_name
                .as_deref()
                .filter(|name| !name.is_empty())
                .map(|name| CertificateId { namespace: Arc::clone(namespace), name: shared.text(name) }),
        }
    }
}

/// What is kept of an IngressClass.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Class {
    pub(crate) created: i64,
    pub(crate) controller: Box<str>,
    pub(crate) default: bool,
    /// The dialect annotation as written.
    pub(crate) dialect: Option<Box<str>>,
    pub(crate) has_parameters: bool,
}

impl Class {
    pub(crate) fn read(object: &api::IngressClass) -> Self {
        let annotation = |key: &str| object.metadata.annotations.as_ref().and_then(|all| all.get(key));
        Self {
            created: created(&object.metadata),
            controller: object.spec.as_ref().and_then(|spec| spec.controller.as_deref()).unwrap_or_default().into(),
            default: annotation("ingressclass.kubernetes.io/is-default-class").is_some_and(|value| value == "true"),
            dialect: annotation(DIALECT_ANNOTATION).map(|value| value.trim().into()),
            has_parameters: object.spec.as_ref().is_some_and(|spec| spec.parameters.is_some()),
        }
    }
}
