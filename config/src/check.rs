//! The only door to desired state: checks drafts key by key. What is good becomes a [`Diff`], what is bad a
//! [`Rejection`]; nothing bad takes anything good with it.
//!
//! It reads no Kubernetes object and parses no certificate: whoever makes drafts has done that.

mod path;
mod pods;
mod vip;

use crate::backend::{Backend, BackendId, Endpoint};
use crate::desired::Desired;
use crate::diff::{Change, Diff};
use crate::draft::{
    BackendDraft, BackendSource, CertificateDraft, Draft, EndpointDraft, HostDraft, Note, RouteDraft, ServerNameDraft,
    SourceKey, TlsWish, WantedTls,
};
use crate::host::{HostName, HostPattern};
use crate::rejection::{Rejection, Verdict};
use crate::route::{Matching, PathMatch, Route, VirtualHost};
use crate::tls::{Certificate, CertificateId, ServerName, TlsTreatment};
use path::Patterns;
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

/// What became of a draft.
#[derive(Clone, Debug, Default)]
pub struct Checked {
    /// What moved against the previous state: keys of the draft only.
    pub diff: Diff,
    /// What was not taken. Together with the notes of the translation these replace all former rejections of the
    /// draft's keys.
    pub rejections: Vec<Note>,
}

/// Checks a draft against the state before it.
///
/// The previous state serves for two things: keys whose value is the same do not move, and a Secret that went bad
/// leaves its last good certificate in use.
pub fn check(draft: Draft, previous: &Desired) -> Checked {
    let mut checker = Checker { previous, checked: Checked::default(), patterns: Patterns::default() };
    for (host, draft) in draft.hosts {
        let value = draft.map(|draft| checker.host(&host, draft));
        set(&mut checker.checked.diff.routes, &previous.routes, host, value);
    }
    for (id, draft) in draft.backends {
        let value = draft.map(|draft| checker.backend(&id, draft));
        set(&mut checker.checked.diff.backends, &previous.backends, id, value);
    }
    // Certificates before server names, which look at the outcome.
    for (id, draft) in draft.certificates {
        let value = draft.and_then(|draft| checker.certificate(&id, draft));
        set_shared(&mut checker.checked.diff.certificates, &previous.certificates, id, value);
    }
    for (host, draft) in draft.server_names {
        let value = draft.and_then(|draft| checker.server_name(&host, draft));
        set(&mut checker.checked.diff.server_names, &previous.server_names, host, value);
    }
    for (port, draft) in draft.listeners {
        set(&mut checker.checked.diff.listeners, &previous.listeners, port, draft);
    }
    for (address, draft) in draft.vips {
        let value = draft.and_then(|draft| checker.vip(address, draft));
        set(&mut checker.checked.diff.vips, &previous.vips, address, value);
    }
    checker.checked
}

fn set<K: Ord, V: PartialEq>(
    changes: &mut BTreeMap<K, Change<V>>,
    previous: &BTreeMap<K, Arc<V>>,
    key: K,
    value: Option<V>,
) {
    match (value, previous.get(&key)) {
        (Some(value), Some(before)) if **before == value => {}
        (Some(value), _) => {
            changes.insert(key, Change::Set(Arc::new(value)));
        }
        (None, Some(_)) => {
            changes.insert(key, Change::Remove);
        }
        (None, None) => {}
    }
}

fn set_shared<K: Ord, V: PartialEq>(
    changes: &mut BTreeMap<K, Change<V>>,
    previous: &BTreeMap<K, Arc<V>>,
    key: K,
    value: Option<Arc<V>>,
) {
    match (value, previous.get(&key)) {
        (Some(value), Some(before)) if Arc::ptr_eq(before, &value) || **before == *value => {}
        (Some(value), _) => {
            changes.insert(key, Change::Set(value));
        }
        (None, Some(_)) => {
            changes.insert(key, Change::Remove);
        }
        (None, None) => {}
    }
}

struct Checker<'a> {
    previous: &'a Desired,
    checked: Checked,
    patterns: Patterns,
}

impl Checker<'_> {
    fn note(&mut self, source: SourceKey, rejection: Rejection) {
        self.checked.rejections.push(Note { source, rejection });
    }

    fn host(&mut self, host: &HostPattern, draft: HostDraft) -> VirtualHost {
        let (written, implied): (Vec<_>, Vec<_>) = draft.routes.into_iter().partition(|route| !route.implied);
        let mut claims: HashMap<PathMatch, usize> = HashMap::with_capacity(written.len());
        let mut routes: Vec<Route> = Vec::with_capacity(written.len() + implied.len());
        for candidate in written {
            match self.patterns.check(&candidate.path, draft.matching) {
                Err(problem) => {
                    self.note(
                        SourceKey::Host(host.clone()),
                        Rejection {
                            object: candidate.origin.ingress.clone(),
                            field: format!("{}.path", candidate.origin.field),
                            verdict: Verdict::Rejected,
                            reason: problem.to_string(),
                            remedy: problem.remedy().to_owned(),
                        },
                    );
                    continue;
                }
                Ok(Some(warning)) => self.note(
                    SourceKey::Host(host.clone()),
                    Rejection {
                        object: candidate.origin.ingress.clone(),
                        field: format!("{}.path", candidate.origin.field),
                        verdict: Verdict::Warning,
                        reason: warning.to_string(),
                        remedy: warning.remedy().to_owned(),
                    },
                ),
                Ok(None) => {}
            }
            match claims.get(&candidate.path) {
                Some(&winner) => self.lost_path(host, &candidate, &routes[winner]),
                None => {
                    claims.insert(candidate.path.clone(), routes.len());
                    routes.push(route(candidate));
                }
            }
        }
        let mut texts: HashSet<Arc<str>> = claims.into_keys().map(PathMatch::into_text).collect();
        for candidate in implied {
            if texts.insert(candidate.path.clone().into_text()) {
                routes.push(route(candidate));
            }
        }
        // The sort is stable: equal keys stay in order of age.
        routes.sort_by(|a, b| precedence(draft.matching, &a.path).cmp(&precedence(draft.matching, &b.path)));
        let fallback = self.fallback(host, draft.fallbacks);
        VirtualHost { host: host.clone(), dialect: draft.dialect, matching: draft.matching, routes, fallback }
    }

    fn lost_path(&mut self, host: &HostPattern, loser: &RouteDraft, winner: &Route) {
        let same = loser.action == winner.action && loser.policy == winner.policy;
        let by = if loser.origin.ingress == winner.origin.ingress {
            format!("by {} of the same Ingress", winner.origin.field)
        } else {
            format!("by {} ({}), which comes first", winner.origin.ingress, winner.origin.field)
        };
        self.note(
            SourceKey::Host(host.clone()),
            Rejection {
                object: loser.origin.ingress.clone(),
                field: loser.origin.field.to_string(),
                verdict: if same { Verdict::Ignored } else { Verdict::Rejected },
                reason: format!(
                    "{} path {} of host {host} is already claimed {by}",
                    kind(&loser.path),
                    loser.path.as_str()
                ),
                remedy: "remove one of the two paths or give it another host or path".to_owned(),
            },
        );
    }

    fn fallback(&mut self, host: &HostPattern, fallbacks: Vec<RouteDraft>) -> Option<Route> {
        let mut fallbacks = fallbacks.into_iter();
        let first = route(fallbacks.next()?);
        for loser in fallbacks {
            if loser.action != first.action {
                self.note(
                    SourceKey::Host(host.clone()),
                    Rejection {
                        object: loser.origin.ingress.clone(),
                        field: loser.origin.field.to_string(),
                        verdict: Verdict::Rejected,
                        reason: format!(
                            "the default backend of host {host} is already set by {}, which comes first",
                            first.origin.ingress
                        ),
                        remedy: "remove one of the two default backends".to_owned(),
                    },
                );
            }
        }
        Some(first)
    }

    fn backend(&mut self, id: &BackendId, draft: BackendDraft) -> Backend {
        let protocol = draft.protocol;
        let nowhere = |reason: Arc<str>| Backend {
            id: id.clone(),
            protocol,
            endpoints: Vec::new(),
            external: None,
            unavailable: Some(reason),
        };
        match draft.source {
            BackendSource::Unavailable(reason) => nowhere(reason),
            BackendSource::Endpoints { service, endpoints } => {
                let endpoints = usable(endpoints);
                if endpoints.is_empty() {
                    return nowhere(format!("{service} has no ready endpoint for port {}", id.port).into());
                }
                Backend { id: id.clone(), protocol, endpoints, external: None, unavailable: None }
            }
            BackendSource::External { service, name, port } => match external_name(&name) {
                Ok(name) => Backend {
                    id: id.clone(),
                    protocol,
                    endpoints: Vec::new(),
                    external: Some((name, port)),
                    unavailable: None,
                },
                Err(why) => {
                    let reason = format!("the external name {name:?} of {service} {why}");
                    let unavailable = nowhere(reason.as_str().into());
                    self.note(
                        SourceKey::Backend(id.clone()),
                        Rejection {
                            object: service,
                            field: "spec.externalName".to_owned(),
                            verdict: Verdict::Rejected,
                            reason,
                            remedy: "name a host that is reached over the network".to_owned(),
                        },
                    );
                    unavailable
                }
            },
        }
    }

    fn certificate(&mut self, id: &CertificateId, draft: CertificateDraft) -> Option<Arc<Certificate>> {
        match draft {
            CertificateDraft::Good(certificate) => Some(certificate),
            CertificateDraft::Missing => None,
            CertificateDraft::Broken { secret, field, reason, remedy } => {
                let last_good = self.previous.certificates.get(id).map(Arc::clone);
                let served = match &last_good {
                    Some(_) => "still serving the last good certificate",
                    None => "the default certificate is served",
                };
                self.note(
                    SourceKey::Certificate(id.clone()),
                    Rejection {
                        object: secret,
                        field,
                        verdict: Verdict::Rejected,
                        reason: format!("{reason}; {served}"),
                        remedy,
                    },
                );
                last_good
            }
        }
    }

    /// The certificate as it is after this check.
    fn certificate_of(&self, id: &CertificateId) -> Option<Arc<Certificate>> {
        match self.checked.diff.certificates.get(id) {
            Some(Change::Set(certificate)) => Some(Arc::clone(certificate)),
            Some(Change::Remove) => None,
            None => self.previous.certificates.get(id).map(Arc::clone),
        }
    }

    fn server_name(&mut self, host: &HostPattern, draft: ServerNameDraft) -> Option<ServerName> {
        let mut winner: Option<(ServerName, TlsWish)> = None;
        for wish in draft.wishes {
            let Some(treatment) = self.treatment(host, &wish.wanted) else { continue };
            let Some((decided, by)) = &winner else {
                winner = Some((ServerName { treatment, origin: wish.origin.clone() }, wish));
                continue;
            };
            if decided.treatment != treatment && wish.wanted != by.wanted {
                let rejection = Rejection {
                    object: wish.origin,
                    field: wish.field,
                    verdict: Verdict::Ignored,
                    reason: format!(
                        "TLS of host {host} is already decided by {} ({}), which comes first",
                        by.origin, by.field
                    ),
                    remedy: "name the same Secret in both Ingresses or remove one of the TLS sections".to_owned(),
                };
                self.note(SourceKey::ServerName(host.clone()), rejection);
            }
        }
        let (server_name, wish) = winner?;
        if let TlsTreatment::Certificate(id) = &server_name.treatment {
            self.warn_if_not_covered(host, id, &wish);
        }
        Some(server_name)
    }

    fn treatment(&self, host: &HostPattern, wanted: &WantedTls) -> Option<TlsTreatment> {
        let named = |id: &CertificateId| match self.certificate_of(id) {
            Some(_) => TlsTreatment::Certificate(id.clone()),
            None => TlsTreatment::DefaultCertificate,
        };
        match wanted {
            WantedTls::Passthrough(backend) => Some(TlsTreatment::Passthrough(backend.clone())),
            WantedTls::Default => Some(TlsTreatment::DefaultCertificate),
            WantedTls::Certificate(id) => Some(named(id)),
            WantedTls::CoveredBy { certificates, otherwise } => certificates
                .iter()
                .find(|id| self.certificate_of(id).is_some_and(|certificate| covers(&certificate.names, host)))
                .map(|id| TlsTreatment::Certificate(id.clone()))
                .or_else(|| otherwise.as_ref().map(named)),
        }
    }

    fn warn_if_not_covered(&mut self, host: &HostPattern, id: &CertificateId, wish: &TlsWish) {
        let Some(certificate) = self.certificate_of(id) else { return };
        if covers(&certificate.names, host) {
            return;
        }
        let names = if certificate.names.is_empty() { "no name".to_owned() } else { certificate.names.join(", ") };
        self.note(
            SourceKey::ServerName(host.clone()),
            Rejection {
                object: wish.origin.clone(),
                field: wish.field.clone(),
                verdict: Verdict::Warning,
                reason: format!("the certificate of Secret {id} covers {names}, not {host}"),
                remedy: "issue a certificate that lists the host as a subject alternative name".to_owned(),
            },
        );
    }
}

fn kind(path: &PathMatch) -> &'static str {
    match path {
        PathMatch::Exact(_) => "Exact",
        PathMatch::Prefix(_) => "Prefix",
        PathMatch::StringPrefix(_) => "ImplementationSpecific",
        PathMatch::Regex(_) => "regular expression",
    }
}

fn route(draft: RouteDraft) -> Route {
    Route { path: draft.path, action: draft.action, policy: draft.policy, origin: draft.origin }
}

/// The written order of routes: what comes first is tried first.
///
/// Longest path: a trailing slash of a Prefix does not count (it does not count in matching either), Exact beats
/// Prefix beats StringPrefix, then the longer text, then the text, so that the order never depends on the input's.
fn precedence(matching: Matching, path: &PathMatch) -> impl Ord + '_ {
    let text = path.as_str();
    let (length, kind) = match (matching, path) {
        // First regex: length descending, then text descending (ingress-nginx's order of locations).
        (Matching::FirstRegex, _) => (text.len(), 0),
        (Matching::LongestPath, PathMatch::Exact(_)) => (text.len(), 0),
        (Matching::LongestPath, PathMatch::Prefix(_)) => (text.trim_end_matches('/').len().max(1), 1),
        (Matching::LongestPath, PathMatch::StringPrefix(_)) => (text.len(), 2),
        (Matching::LongestPath, PathMatch::Regex(_)) => (text.len(), 3),
    };
    (Reverse(length), kind, Reverse(text.len()), Reverse(text))
}

/// Ready endpoints; where there is none, those that still serve while they terminate. Sorted, without duplicates.
fn usable(endpoints: Vec<EndpointDraft>) -> Vec<Endpoint> {
    let nothing_ready = endpoints.iter().all(|endpoint| endpoint.terminating);
    let mut usable: Vec<Endpoint> = endpoints
        .into_iter()
        .filter(|endpoint| nothing_ready || !endpoint.terminating)
        .map(|EndpointDraft { address, pod, node, terminating }| Endpoint { address, pod, node, terminating })
        .collect();
    usable.sort_unstable();
    // Two slices may name one address while it moves between them: one of them stands for it, with the pod if known.
    usable.dedup_by(|later, kept| {
        let same = later.address == kept.address;
        if same && kept.pod.is_none() {
            kept.pod = later.pod.take();
            kept.node = later.node.take();
        }
        same
    });
    usable.shrink_to_fit();
    usable
}

/// Names that lead back to the gateway's own host are refused: an ExternalName could otherwise reach what listens
/// on its loopback only (the admin address, sidecars).
fn external_name(name: &str) -> Result<Arc<str>, String> {
    let bare = name.trim_end_matches('.').to_ascii_lowercase();
    let literal = bare.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    if let Ok(address) = literal {
        let address = address.to_canonical();
        if address.is_loopback() || address.is_unspecified() {
            return Err("is an address of the gateway's own host".to_owned());
        }
        return Ok(address.to_string().into());
    }
    let local = bare == "localhost"
        || bare.ends_with(".localhost")
        || bare == "localhost.localdomain"
        || bare.starts_with("localhost.")
        || bare == "localhost6"
        || bare == "ip6-localhost"
        || bare == "ip6-loopback";
    if local {
        return Err("leads to the gateway's own host".to_owned());
    }
    match HostName::parse(&bare) {
        // `127.1` and `2130706433` are addresses to a resolver, though not to the parser above.
        Ok(host) if host.as_str().rsplit('.').next().is_some_and(is_number) => {
            Err("ends in a number and is no IP address".to_owned())
        }
        Ok(host) => Ok(host.as_str().into()),
        Err(why) => Err(format!("cannot be resolved: {why}")),
    }
}

/// A label that old resolvers read as part of an address, in decimal or hexadecimal.
fn is_number(label: &str) -> bool {
    match label.strip_prefix("0x") {
        Some(hex) => hex.bytes().all(|byte| byte.is_ascii_hexdigit()),
        None => label.bytes().all(|byte| byte.is_ascii_digit()),
    }
}

/// True if a certificate with these names may be shown for the host (RFC 6125 section 6.4.3: `*` is one label).
fn covers(names: &[String], host: &HostPattern) -> bool {
    match host {
        HostPattern::Any => true,
        HostPattern::Exact(host) => names.iter().any(|name| {
            name == host.as_str()
                || name.strip_prefix("*.").is_some_and(|suffix| {
                    host.as_str().split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest == suffix)
                })
        }),
        HostPattern::Wildcard(suffix) => names.iter().any(|name| name.strip_prefix("*.") == Some(suffix.as_str())),
    }
}
