//! What is kept of each object: the fields that decide something, in a form that shares its texts with desired state.
//!
//! A Kubernetes object carries managed fields, status and the last applied configuration, several times the size of what
//! matters here. Everything is read once, when the object arrives.

pub(crate) mod balancer;
pub(crate) mod configmap;
pub(crate) mod ingress;
pub(crate) mod node;
pub(crate) mod secret;
pub(crate) mod service;
pub(crate) mod slice;
pub(crate) mod virtual_service;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use sluicegate_config::{ObjectRef, Rejection, Verdict};

/// When an object was made, in seconds since the Unix epoch (the API knows no finer time). A missing time counts as the oldest, equal to every other missing one, so
/// that manifests of a folder are in order of namespace and name.
pub(crate) fn created(meta: &ObjectMeta) -> i64 {
    meta.creation_timestamp.as_ref().map_or(i64::MIN, |time| time.0.as_second())
}

/// A port number of the API (a signed integer there).
pub(crate) fn port_number(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|port| *port != 0)
}

/// Shorthand for what is said about a field.
pub(crate) fn note(
    object: &ObjectRef,
    verdict: Verdict,
    field: impl Into<String>,
    reason: impl Into<String>,
    remedy: impl Into<String>,
) -> Rejection {
    Rejection { object: object.clone(), field: field.into(), verdict, reason: reason.into(), remedy: remedy.into() }
}
