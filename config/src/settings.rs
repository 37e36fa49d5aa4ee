//! What the operator decides about which objects are served and how they are read.

use crate::pool::VipPools;
use serde::Serialize;
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The annotation on an IngressClass that chooses the [`crate::Dialect`] of its Ingresses: `strict` or `nginx`.
pub const DIALECT_ANNOTATION: &str = "sluicegate.io/dialect";

/// The `spec.loadBalancerClass` of Services whose virtual IPs are ours.
pub const LOAD_BALANCER_CLASS: &str = "sluicegate.io/vip";

/// The controller name that ingress-nginx's classes carry.
pub const INGRESS_NGINX_CONTROLLER: &str = "k8s.io/ingress-nginx";

/// The class name that ingress-nginx's manifests use.
const INGRESS_NGINX_CLASS: &str = "nginx";

/// `NAMESPACE/NAME` of a namespaced object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct NamespacedName {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

/// The text is not `NAMESPACE/NAME`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not NAMESPACE/NAME; write it as in `sluicegate-system/vips`")]
pub struct InvalidNamespacedName(String);

impl NamespacedName {
    /// Names an object.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl FromStr for NamespacedName {
    type Err = InvalidNamespacedName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('/') {
            Some((namespace, name)) if is_dns_name(namespace) && is_dns_name(name) => Ok(Self::new(namespace, name)),
            _ => Err(InvalidNamespacedName(text.to_owned())),
        }
    }
}

/// Object names are DNS subdomains (RFC 1123): lower-case letters, digits, `-` and `.`.
fn is_dns_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 253
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.')
}

impl fmt::Display for NamespacedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Constant while a process lives: everything that [`crate::Desired`] depends on besides the objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// IngressClasses whose `spec.controller` is this are ours.
    pub controller: Arc<str>,
    /// Also take classes of controller [`INGRESS_NGINX_CONTROLLER`] and the class name `nginx`, in the nginx dialect.
    pub take_over_ingress_nginx: bool,
    /// Values of the annotation `kubernetes.io/ingress.class` that are ours where no IngressClass object has that name.
    pub class_names: Vec<Arc<str>>,
    /// Take Ingresses that name no class, also where there is no default class.
    pub watch_ingress_without_class: bool,
    /// While there is no IngressClass object at all, take Ingresses that name no class, or name one of the
    /// class names above. A folder of manifests usually holds the user's objects and not the class, which comes with the
    /// controller's own installation; a cluster always has the class, so there this stays off.
    pub adopt_without_classes: bool,
    /// The Secret with the certificate for names that have none of their own.
    pub default_certificate: Option<NamespacedName>,
    /// The ConfigMap that binds virtual IPs to Services.
    pub vip_configmap: NamespacedName,
    /// Also take Services of type LoadBalancer that name no class.
    pub default_load_balancer: bool,
    /// Addresses that Services of type LoadBalancer get, or may ask for. The ConfigMap is the operator's own and may bind
    /// others.
    pub vip_pools: VipPools,
    /// An address that was chosen for a Service is in force once the status of the Service shows it, as a cluster has it.
    /// A folder has no statuses: there it is in force at once, as long as the process lives.
    pub addresses_by_status: bool,
    /// The Service that selects the agents on nodes: with method POD a node without a ready one gets no new flows. `None` =
    /// every node counts.
    pub backend_service: Option<NamespacedName>,
    /// The Service that selects the directors, for an agent: it believes tunnels of theirs. `None` = they are known otherwise.
    pub director_service: Option<NamespacedName>,
    /// The ConfigMap of TCP services, if there is one.
    pub tcp_services_configmap: Option<NamespacedName>,
    /// Ports that TCP services may not take, because the gateway itself listens there.
    pub reserved_ports: BTreeSet<u16>,
    /// Only objects of this namespace are read (IngressClasses and the two ConfigMaps excepted). `None` = all.
    pub watch_namespace: Option<Arc<str>>,
}

impl Default for Settings {
    /// The settings for a cluster.
    fn default() -> Self {
        Self {
            controller: "sluicegate.io/ingress".into(),
            take_over_ingress_nginx: false,
            class_names: vec!["sluicegate".into()],
            watch_ingress_without_class: false,
            adopt_without_classes: false,
            default_certificate: None,
            vip_configmap: NamespacedName::new("sluicegate-system", "vips"),
            default_load_balancer: false,
            vip_pools: VipPools::default(),
            addresses_by_status: true,
            backend_service: None,
            director_service: None,
            tcp_services_configmap: None,
            reserved_ports: BTreeSet::from([80, 443, 10253, 10254]),
            watch_namespace: None,
        }
    }
}

impl Settings {
    /// The settings for a folder of manifests: as for a cluster, with [`Settings::adopt_without_classes`] and without
    /// [`Settings::addresses_by_status`].
    pub fn for_folder() -> Self {
        Self { adopt_without_classes: true, addresses_by_status: false, ..Self::default() }
    }

    /// True if a class name is ours by itself, without an IngressClass object.
    pub fn owns_class_name(&self, name: &str) -> bool {
        self.class_names.iter().any(|ours| &**ours == name) || self.is_taken_over_name(name)
    }

    /// True for the class name that comes with taking over ingress-nginx; its Ingresses are in the nginx dialect.
    pub fn is_taken_over_name(&self, name: &str) -> bool {
        self.take_over_ingress_nginx && name == INGRESS_NGINX_CLASS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaced_names_have_two_parts() {
        assert_eq!("a/b".parse(), Ok(NamespacedName::new("a", "b")));
        for bad in ["", "a", "/", "a/", "/b", "a/b/c", "A/b", "a/b c"] {
            assert!(bad.parse::<NamespacedName>().is_err(), "{bad:?}");
        }
    }
}
