//! What a request to the API server asks for, as rights call it. Pure.

use crate::rights::RIGHTS;
use http::{Method, Uri};

/// Verb and resource, of closed sets: they are labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Asked {
    pub verb: &'static str,
    /// With the subresource: `services/status`; `other` for what the table of rights does not list.
    pub resource: &'static str,
}

impl Asked {
    /// Reads `/api/v1/namespaces/shop/services/web/status` and the like; what stands before `/api` or `/apis` is a proxy's.
    pub fn read(method: &Method, uri: &Uri) -> Self {
        let mut parts = uri.path().split('/').filter(|part| !part.is_empty());
        let versions = match parts.find(|part| matches!(*part, "api" | "apis")) {
            Some("api") => 1,
            Some(_) => 2,
            None => 0,
        };
        let mut rest: Vec<&str> = parts.skip(versions).collect();
        // A namespace is a resource too, where nothing follows its name.
        if rest.first() == Some(&"namespaces") && rest.len() > 2 {
            rest.drain(..2);
        }
        let is_named = rest.len() > 1;
        let verb = match *method {
            Method::GET if is_watch(uri) => "watch",
            Method::GET if is_named => "get",
            Method::GET => "list",
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ => "other",
        };
        Self { verb, resource: known(rest.first().copied(), rest.get(2).copied()) }
    }
}

fn is_watch(uri: &Uri) -> bool {
    uri.query().unwrap_or_default().split('&').any(|parameter| matches!(parameter, "watch=true" | "watch=1"))
}

fn known(resource: Option<&str>, subresource: Option<&str>) -> &'static str {
    let is_it = |known: &str| match known.split_once('/') {
        Some((of, below)) => resource == Some(of) && subresource == Some(below),
        None => resource == Some(known) && subresource.is_none(),
    };
    RIGHTS.iter().map(|right| right.resource).find(|known| is_it(known)).unwrap_or("other")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_called_as_rights_call_them() {
        for (method, uri, verb, resource) in [
            (Method::GET, "/api/v1/services?limit=1000", "list", "services"),
            (Method::GET, "/api/v1/namespaces/shop/services?&watch=true&timeoutSeconds=60", "watch", "services"),
            (Method::GET, "/api/v1/namespaces?labelSelector=watch%3Dtrue", "list", "namespaces"),
            (Method::GET, "/api/v1/namespaces/shop", "get", "namespaces"),
            (
                Method::PATCH,
                "/apis/networking.k8s.io/v1/namespaces/shop/ingresses/web/status",
                "patch",
                "ingresses/status",
            ),
            (Method::PUT, "/apis/coordination.k8s.io/v1/namespaces/a/leases/b", "update", "leases"),
            (Method::POST, "https://api.example/k8s/clusters/c-1/api/v1/namespaces/a/events", "create", "events"),
            (Method::GET, "/apis/networking.k8s.io/v1/ingressclasses?watch=1", "watch", "ingressclasses"),
            (Method::DELETE, "/api/v1/namespaces/shop/pods/web", "delete", "other"),
            (Method::GET, "/api/v1/namespaces/shop/services/web/proxy", "get", "other"),
            (Method::GET, "/version", "list", "other"),
            (Method::OPTIONS, "/", "other", "other"),
        ] {
            let asked = Asked::read(&method, &uri.parse().expect("a URI"));
            assert_eq!(asked, Asked { verb, resource }, "{method} {uri}");
        }
    }
}
