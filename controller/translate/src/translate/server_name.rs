//! Server names: what the TLS sections of all Ingresses of one host ask for.

use super::{Translator, is_any};
use crate::facts::ingress::{BackendUse, Ingress, Rule};
use crate::facts::note;
use sluicegate_config::draft::{ServerNameDraft, TlsWish, WantedTls};
use sluicegate_config::{BackendId, HostPattern, SourceKey, Verdict};

impl Translator<'_> {
    pub(super) fn server_name(&mut self, host: &HostPattern) -> Option<ServerNameDraft> {
        let objects = self.objects;
        let (_, claimants) = self.claimants(objects.by_server_name(host))?;
        let mut wishes = Vec::new();
        for (ingress, _) in claimants {
            if ingress.options().passthrough {
                match passthrough(ingress, host) {
                    Ok(None) => {}
                    Ok(Some(wish)) => {
                        wishes.push(wish);
                        continue;
                    }
                    Err(reason) => {
                        self.no_passthrough(host, ingress, reason);
                        continue;
                    }
                }
            }
            wishes.extend(termination(ingress, host));
        }
        if wishes.is_empty() { None } else { Some(ServerNameDraft { wishes }) }
    }

    fn no_passthrough(&mut self, host: &HostPattern, ingress: &Ingress, reason: &str) {
        self.say(
            SourceKey::ServerName(host.clone()),
            note(
                &ingress.reference,
                Verdict::Rejected,
                "metadata.annotations",
                format!("TLS passthrough of host {host} is not possible: {reason}"),
                "give the Ingress a host and one path / with a Service, and no access control by annotation",
            ),
        );
    }
}

/// Passthrough concerns the hosts of rules; a host that stands in a TLS section alone has no backend to go to.
fn passthrough(ingress: &Ingress, host: &HostPattern) -> Result<Option<TlsWish>, &'static str> {
    let mut rules =
        ingress.rules.iter().enumerate().filter(|(_, rule)| rule.host.pattern.as_ref() == Ok(host)).peekable();
    if rules.peek().is_none() && !is_any(host) {
        return Ok(None);
    }
    if is_any(host) {
        return Err("connections are told apart by their server name, and the rule has no host");
    }
    if ingress.options().closed.is_some() {
        return Err("another annotation restricts access, which nothing could enforce inside TLS");
    }
    let found = rules.find_map(|(index, rule)| whole_host(ingress, rule).map(|backend| (index, backend)));
    let (index, backend) = found.ok_or("no path / (or single path) with a Service tells the backend")?;
    Ok(Some(TlsWish {
        wanted: WantedTls::Passthrough(backend),
        origin: ingress.reference.clone(),
        field: format!("spec.rules[{index}]"),
    }))
}

/// The backend of path `/`, or of the only path.
fn whole_host(ingress: &Ingress, rule: &Rule) -> Option<BackendId> {
    let usable = |backend: &BackendUse| ingress.backend_id(backend);
    match &*rule.paths {
        [only] => usable(&only.backend),
        [] => ingress.default_backend.as_ref().and_then(usable),
        several => several.iter().find(|path| &*path.path == "/").and_then(|path| usable(&path.backend)),
    }
}

/// A host that is listed gets the Secret of its section. One that is not gets the certificate among those of its
/// Ingress that covers it, and in want of one that of a section without hosts.
fn termination(ingress: &Ingress, host: &HostPattern) -> Option<TlsWish> {
    let wish = |wanted, field| TlsWish { wanted, origin: ingress.reference.clone(), field };
    let listed = ingress
        .tls
        .iter()
        .enumerate()
        .find(|(_, tls)| tls.hosts.iter().any(|listed| listed.pattern.as_ref() == Ok(host)));
    if let Some((index, tls)) = listed {
        return Some(match &tls.secret {
            Some(id) => wish(WantedTls::Certificate(id.clone()), format!("spec.tls[{index}].secretName")),
            None => wish(WantedTls::Default, format!("spec.tls[{index}]")),
        });
    }
    let unlisted = ingress.tls.iter().enumerate().find(|(_, tls)| tls.hosts.is_empty());
    // A rule without a host stands for every name there is: only a section without hosts can mean that.
    let certificates: Vec<_> =
        if is_any(host) { Vec::new() } else { ingress.tls.iter().filter_map(|tls| tls.secret.clone()).collect() };
    match unlisted {
        Some((index, tls)) => Some(match &tls.secret {
            None if certificates.is_empty() => wish(WantedTls::Default, format!("spec.tls[{index}]")),
            otherwise => wish(
                WantedTls::CoveredBy { certificates, otherwise: otherwise.clone() },
                format!("spec.tls[{index}].secretName"),
            ),
        }),
        None if certificates.is_empty() => None,
        None => Some(wish(WantedTls::CoveredBy { certificates, otherwise: None }, "spec.tls".to_owned())),
    }
}
