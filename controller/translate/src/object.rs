//! The Kubernetes objects that the gateway reads, as their source hands them over.

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use sluicegate_config::{Kind, ObjectRef};

/// One object of a kind that the gateway reads.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "lives from a source to the store and is never kept")]
pub enum Object {
    /// `networking.k8s.io/v1` Ingress.
    Ingress(Ingress),
    /// `networking.k8s.io/v1` IngressClass.
    IngressClass(IngressClass),
    /// `v1` Service.
    Service(Service),
    /// `discovery.k8s.io/v1` EndpointSlice.
    EndpointSlice(EndpointSlice),
    /// `v1` Secret.
    Secret(Secret),
    /// `v1` ConfigMap.
    ConfigMap(ConfigMap),
    /// `v1` Node.
    Node(Node),
    /// `v1` Namespace.
    Namespace(Namespace),
}

/// What happened to one object. Setting an object that exists replaces it as a whole.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "lives from a source to the store and is never kept")]
pub enum ObjectChange {
    /// It is new or different.
    Set(Object),
    /// It is gone.
    Remove(ObjectRef),
}

impl Object {
    /// Names the object. A namespaced object without a namespace is in `default`, as for `kubectl apply`.
    pub fn reference(&self) -> ObjectRef {
        let (kind, meta) = match self {
            Self::Ingress(object) => (Kind::Ingress, &object.metadata),
            Self::IngressClass(object) => (Kind::IngressClass, &object.metadata),
            Self::Service(object) => (Kind::Service, &object.metadata),
            Self::EndpointSlice(object) => (Kind::EndpointSlice, &object.metadata),
            Self::Secret(object) => (Kind::Secret, &object.metadata),
            Self::ConfigMap(object) => (Kind::ConfigMap, &object.metadata),
            Self::Node(object) => (Kind::Node, &object.metadata),
            Self::Namespace(object) => (Kind::Namespace, &object.metadata),
        };
        let namespace = if kind.is_namespaced() { namespace_of(meta) } else { "" };
        ObjectRef::new(kind, namespace, meta.name.as_deref().unwrap_or_default())
    }
}

fn namespace_of(meta: &ObjectMeta) -> &str {
    match meta.namespace.as_deref() {
        None | Some("") => "default",
        Some(namespace) => namespace,
    }
}
