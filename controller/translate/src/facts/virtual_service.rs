//! What a Service says about being bound to virtual IPs: its annotations, session affinity and type.

use super::balancer::{LoadBalancer, POOL_ANNOTATION, VIP_ANNOTATION};
use super::note;
use super::service::ServicePort;
use crate::annotations::OWN_PREFIX;
use crate::annotations::service::{self, Reader};
use k8s_openapi::api::core::v1 as api;
use sluicegate_config::{Method, ObjectRef, Persistence, Rejection, TransportProtocol, Verdict, VipOptions};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

/// What differs from a Service that says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct VirtualService {
    pub(crate) options: VipOptions,
    /// Of endpoints whose weight is not 1.
    pub(crate) weights: BTreeMap<IpAddr, u32>,
    pub(crate) method: AskedMethod,
    /// Only of Services of type LoadBalancer.
    pub(crate) balancer: Option<LoadBalancer>,
    problems: Vec<Problem>,
}

/// The annotation `sluicegate.io/method`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum AskedMethod {
    #[default]
    Unsaid,
    Says(Method),
    /// It says something else, and no other method may be put in its place.
    Refused,
}

/// What is wrong with one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) field: String,
    pub(crate) verdict: Verdict,
    pub(crate) reason: String,
    pub(crate) remedy: String,
}

impl Problem {
    pub(crate) fn rejected(field: impl Into<String>, reason: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { field: field.into(), verdict: Verdict::Rejected, reason: reason.into(), remedy: remedy.into() }
    }

    pub(crate) fn ignored(field: impl Into<String>, reason: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { verdict: Verdict::Ignored, ..Self::rejected(field, reason, remedy) }
    }

    pub(crate) fn into_note(self, reference: &ObjectRef) -> Rejection {
        let Self { field, verdict, reason, remedy } = self;
        note(reference, verdict, field, reason, remedy)
    }
}

impl VirtualService {
    /// `None` where nothing is said, as most Services do.
    pub(crate) fn read(object: &api::Service, ports: &[ServicePort]) -> Option<Box<Self>> {
        let tcp = ports.iter().any(|port| port.protocol == TransportProtocol::Tcp);
        let spec = object.spec.as_ref();
        let annotations = object.metadata.annotations.iter().flatten();
        let own: Vec<(&str, &str)> = annotations
            .filter(|(key, _)| key.starts_with(OWN_PREFIX))
            .map(|(key, value)| (key.as_str(), value.trim()))
            .collect();
        let mut read = Self { options: default_options(tcp), ..Self::default() };
        read.options.persistence = spec.and_then(session_affinity);
        let mut reader = Reader::new(ports, &mut read);
        for (key, value) in own.iter().filter(|(key, _)| ![VIP_ANNOTATION, POOL_ANNOTATION].contains(key)) {
            reader.annotation(key, value);
        }
        reader.finish();
        let said = |name: &str| own.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
        read.balancer = LoadBalancer::read(object, said, &mut read.problems);
        let says_nothing = read == Self { options: default_options(tcp), ..Self::default() };
        (!says_nothing).then(|| Box::new(read))
    }

    /// For who reads the annotations.
    pub(crate) fn say(&mut self, problem: Problem) {
        self.problems.push(problem);
    }

    /// When a Service of type LoadBalancer was made: the older one has a port that two ask for.
    pub(crate) fn created(&self) -> i64 {
        self.balancer.as_ref().map_or(i64::MIN, |balancer| balancer.created)
    }

    /// The field that decides over the addresses.
    pub(crate) fn field(&self) -> String {
        self.balancer.as_ref().map_or_else(String::new, |balancer| balancer.field().to_owned())
    }

    /// What is wrong with its fields, whatever there is beside it.
    pub(crate) fn notes(&self, reference: &ObjectRef) -> Vec<Rejection> {
        self.problems.iter().cloned().map(|problem| problem.into_note(reference)).collect()
    }
}

/// What holds for a Service that says nothing: TCP ports are probed by a connection.
pub(crate) fn default_options(tcp: bool) -> VipOptions {
    VipOptions { health: tcp.then(Default::default), ..VipOptions::default() }
}

/// `sessionAffinity: ClientIP`, by whole addresses, for three hours unless it says otherwise (the API's default).
fn session_affinity(spec: &api::ServiceSpec) -> Option<Persistence> {
    let wanted = spec.session_affinity.as_deref() == Some("ClientIP");
    let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let seconds = config.and_then(|config| config.timeout_seconds).and_then(|seconds| u64::try_from(seconds).ok());
    let timeout = Duration::from_secs(seconds.unwrap_or(10_800).clamp(1, service::LONGEST_PERSISTENCE));
    wanted.then_some(Persistence { timeout, prefix4: 32, prefix6: 128 })
}
