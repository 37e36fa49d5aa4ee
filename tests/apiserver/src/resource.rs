//! Which kinds are served, and what a path names.

/// One kind of object at one version.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Resource {
    /// API group; empty for the core group.
    pub group: &'static str,
    /// Version.
    pub version: &'static str,
    /// The name in paths.
    pub plural: &'static str,
    /// The name in objects.
    pub kind: &'static str,
    /// Its objects are in namespaces.
    pub namespaced: bool,
    /// It has a status that only `/status` changes.
    pub status: bool,
}

macro_rules! resource {
    ($group:literal $version:literal $plural:literal $kind:literal $namespaced:literal $status:literal) => {
        Resource {
            group: $group,
            version: $version,
            plural: $plural,
            kind: $kind,
            namespaced: $namespaced,
            status: $status,
        }
    };
}

/// All that are served.
pub static RESOURCES: &[Resource] = &[
    resource!("" "v1" "configmaps" "ConfigMap" true false),
    resource!("" "v1" "events" "Event" true false),
    resource!("" "v1" "namespaces" "Namespace" false true),
    resource!("" "v1" "nodes" "Node" false true),
    resource!("" "v1" "pods" "Pod" true true),
    resource!("" "v1" "secrets" "Secret" true false),
    resource!("" "v1" "serviceaccounts" "ServiceAccount" true false),
    resource!("" "v1" "services" "Service" true true),
    resource!("apps" "v1" "daemonsets" "DaemonSet" true true),
    resource!("apps" "v1" "deployments" "Deployment" true true),
    resource!("coordination.k8s.io" "v1" "leases" "Lease" true false),
    resource!("discovery.k8s.io" "v1" "endpointslices" "EndpointSlice" true false),
    resource!("events.k8s.io" "v1" "events" "Event" true false),
    resource!("networking.k8s.io" "v1" "ingressclasses" "IngressClass" false false),
    resource!("networking.k8s.io" "v1" "ingresses" "Ingress" true true),
    resource!("rbac.authorization.k8s.io" "v1" "clusterrolebindings" "ClusterRoleBinding" false false),
    resource!("rbac.authorization.k8s.io" "v1" "clusterroles" "ClusterRole" false false),
    resource!("rbac.authorization.k8s.io" "v1" "rolebindings" "RoleBinding" true false),
    resource!("rbac.authorization.k8s.io" "v1" "roles" "Role" true false),
];

impl Resource {
    /// By the kind's name, which is unique but for Event (the core group's is found).
    #[must_use]
    pub fn of_kind(kind: &str) -> Option<&'static Self> {
        RESOURCES.iter().find(|resource| resource.kind == kind)
    }

    /// The text of `apiVersion`.
    #[must_use]
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_owned() } else { format!("{}/{}", self.group, self.version) }
    }
}

/// What a path names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The kind.
    pub resource: &'static Resource,
    /// The namespace; `None` = all of them, or the kind has none.
    pub namespace: Option<String>,
    /// One object.
    pub name: Option<String>,
    /// Its status alone.
    pub status: bool,
}

impl Target {
    /// Reads `/api/v1/…` and `/apis/GROUP/VERSION/…`.
    #[must_use]
    pub fn parse(path: &str) -> Option<Self> {
        let mut parts = path.strip_prefix('/')?.split('/');
        let group = match parts.next()? {
            "api" => "",
            "apis" => parts.next()?,
            _ => return None,
        };
        let version = parts.next()?;
        let rest: Vec<&str> = parts.collect();
        let find = |plural: &str, namespaced: bool| {
            RESOURCES.iter().find(|resource| {
                resource.group == group
                    && resource.version == version
                    && resource.plural == plural
                    && (resource.namespaced || !namespaced)
            })
        };
        let (namespace, resource, tail) = match rest.as_slice() {
            ["namespaces", namespace, plural, tail @ ..] if *plural != "status" && find(plural, true).is_some() => {
                (Some((*namespace).to_owned()), find(plural, true)?, tail)
            }
            [plural, tail @ ..] => (None, find(plural, false)?, tail),
            [] => return None,
        };
        let (name, status) = match tail {
            [] => (None, false),
            [name] => (Some((*name).to_owned()), false),
            [name, "status"] if resource.status => (Some((*name).to_owned()), true),
            _ => return None,
        };
        // Without its namespace an object has no name.
        if resource.namespaced && namespace.is_none() && name.is_some() {
            return None;
        }
        Some(Self { resource, namespace, name, status })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_kinds_objects_and_statuses() {
        let parse = |path: &str| {
            Target::parse(path)
                .map(|t| (t.resource.kind, t.namespace.unwrap_or_default(), t.name.unwrap_or_default(), t.status))
        };
        let is =
            |kind, namespace: &str, name: &str, status| Some((kind, namespace.to_owned(), name.to_owned(), status));
        assert_eq!(parse("/api/v1/services"), is("Service", "", "", false));
        assert_eq!(parse("/api/v1/namespaces/shop/services"), is("Service", "shop", "", false));
        assert_eq!(parse("/api/v1/namespaces/shop"), is("Namespace", "", "shop", false));
        assert_eq!(parse("/api/v1/namespaces"), is("Namespace", "", "", false));
        assert_eq!(parse("/api/v1/namespaces/shop/status"), is("Namespace", "", "shop", true));
        let ingress = "/apis/networking.k8s.io/v1/namespaces/shop/ingresses/web";
        assert_eq!(parse(ingress), is("Ingress", "shop", "web", false));
        assert_eq!(parse(&format!("{ingress}/status")), is("Ingress", "shop", "web", true));
        assert_eq!(parse("/apis/networking.k8s.io/v1/ingresses/web"), None);
        assert_eq!(parse("/apis/networking.k8s.io/v1beta1/ingresses"), None);
        assert_eq!(parse("/api/v1/namespaces/shop/secrets/tls/status"), None);
        assert_eq!(parse("/metrics"), None);
    }
}
