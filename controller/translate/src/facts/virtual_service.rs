//! What a Service says about being bound to virtual IPs: its annotations, session affinity and type.

use super::note;
use super::service::ServicePort;
use crate::annotations::OWN_PREFIX;
use crate::annotations::service::{self, Reader};
use k8s_openapi::api::core::v1 as api;
use sluicegate_config::settings::LOAD_BALANCER_CLASS;
use sluicegate_config::{Method, ObjectRef, Persistence, Rejection, Settings, TransportProtocol, Verdict, VipOptions};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

/// The annotation that asks for addresses.
const VIP_ANNOTATION: &str = "sluicegate.io/vip";

/// Addresses that one Service may ask for.
const MAX_ADDRESSES: usize = 16;

/// What differs from a Service that says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct VirtualService {
    pub(crate) options: VipOptions,
    /// Of endpoints whose weight is not 1.
    pub(crate) weights: BTreeMap<IpAddr, u32>,
    pub(crate) method: AskedMethod,
    /// Only of Services of type LoadBalancer.
    balancer: Option<LoadBalancer>,
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

/// A Service of type LoadBalancer.
#[derive(Clone, Debug, PartialEq, Eq)]
struct LoadBalancer {
    class: Option<Box<str>>,
    created: i64,
    /// Which field says the addresses.
    field: Box<str>,
    addresses: Vec<IpAddr>,
    /// `spec.loadBalancerSourceRanges` is not empty.
    restricted: bool,
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
    fn rejected(field: impl Into<String>, reason: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { field: field.into(), verdict: Verdict::Rejected, reason: reason.into(), remedy: remedy.into() }
    }

    fn ignored(field: impl Into<String>, reason: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { verdict: Verdict::Ignored, ..Self::rejected(field, reason, remedy) }
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
        for (key, value) in own.iter().filter(|(key, _)| *key != VIP_ANNOTATION) {
            reader.annotation(key, value);
        }
        reader.finish();
        let asked = own.iter().find(|(key, _)| *key == VIP_ANNOTATION).map(|(_, value)| *value);
        read.read_type(object, asked);
        let says_nothing = read == Self { options: default_options(tcp), ..Self::default() };
        (!says_nothing).then(|| Box::new(read))
    }

    fn read_type(&mut self, object: &api::Service, asked: Option<&str>) {
        let Some(spec) = object.spec.as_ref() else { return };
        let kind = spec.type_.as_deref().unwrap_or("ClusterIP");
        if kind != "LoadBalancer" {
            if asked.is_some() {
                self.problems.push(Problem::ignored(
                    service::field(VIP_ANNOTATION),
                    format!("a Service of type {kind} asks for no address"),
                    "set type: LoadBalancer, or bind the Service in the VIP ConfigMap",
                ));
            }
            return;
        }
        let (field, addresses) = match (asked, spec.load_balancer_ip.as_deref().filter(|text| !text.is_empty())) {
            (Some(asked), by_field) => {
                let field = service::field(VIP_ANNOTATION);
                let addresses = self.addresses(&field, asked);
                if by_field.is_some_and(|by_field| asked.split(',').all(|part| part.trim() != by_field)) {
                    self.problems.push(Problem::ignored(
                        "spec.loadBalancerIP",
                        format!("the annotation {VIP_ANNOTATION} says another address, and it wins"),
                        "remove spec.loadBalancerIP, which Kubernetes has deprecated",
                    ));
                }
                (field, addresses)
            }
            (None, Some(by_field)) => {
                let field = "spec.loadBalancerIP".to_owned();
                let addresses = self.addresses(&field, by_field);
                (field, addresses)
            }
            (None, None) => ("spec.loadBalancerIP".to_owned(), Vec::new()),
        };
        self.balancer = Some(LoadBalancer {
            class: spec.load_balancer_class.as_deref().map(Into::into),
            created: super::created(&object.metadata),
            field: field.into(),
            addresses,
            restricted: spec.load_balancer_source_ranges.as_ref().is_some_and(|ranges| !ranges.is_empty()),
        });
    }

    /// The good ones of a list, each once and in its order; as many as one Service may ask for.
    fn addresses(&mut self, field: &str, list: &str) -> Vec<IpAddr> {
        let mut addresses = Vec::new();
        let texts = list.split(',').map(str::trim).filter(|text| !text.is_empty());
        for (index, text) in texts.enumerate() {
            if index == MAX_ADDRESSES {
                let reason = format!("those after the first {MAX_ADDRESSES} addresses are not taken");
                self.problems.push(Problem::rejected(field, reason, "bind the Service in the VIP ConfigMap"));
                break;
            }
            match text.parse::<IpAddr>() {
                Ok(address) if addresses.contains(&address) => {}
                Ok(address) => addresses.push(address),
                Err(_) => self.problems.push(Problem::rejected(
                    field,
                    format!("{:?} is not an IP address", service::brief(text)),
                    "write addresses separated by commas, as in 192.0.2.10,2001:db8::10",
                )),
            }
        }
        addresses
    }

    /// For who reads the annotations.
    pub(crate) fn say(&mut self, problem: Problem) {
        self.problems.push(problem);
    }

    /// When a Service of type LoadBalancer was made: the older one has a port that two ask for.
    pub(crate) fn created(&self) -> i64 {
        self.balancer.as_ref().map_or(i64::MIN, |balancer| balancer.created)
    }

    /// The field that says the addresses.
    pub(crate) fn field(&self) -> String {
        self.balancer.as_ref().map_or_else(String::new, |balancer| balancer.field.to_string())
    }

    /// It is of type LoadBalancer, and of our class.
    pub(crate) fn is_our_balancer(&self, settings: &Settings) -> bool {
        self.balancer.as_ref().is_some_and(|balancer| balancer.is_ours(settings))
    }

    /// The addresses that it gets if nobody who comes first has their ports.
    pub(crate) fn claims<'a>(&'a self, settings: &'a Settings) -> impl Iterator<Item = IpAddr> + 'a {
        let granted = self.balancer.as_ref().filter(|balancer| {
            balancer.is_ours(settings) && !balancer.restricted && self.method != AskedMethod::Refused
        });
        granted
            .into_iter()
            .flat_map(|balancer| &balancer.addresses)
            .copied()
            .filter(|address| settings.vip_pools.iter().any(|pool| pool.contains(*address)))
    }

    pub(crate) fn notes(&self, reference: &ObjectRef, settings: &Settings) -> Vec<Rejection> {
        let mut problems = self.problems.clone();
        if let Some(balancer) = &self.balancer {
            problems.extend(balancer.problems(settings, self.method));
        }
        problems
            .into_iter()
            .map(|Problem { field, verdict, reason, remedy }| note(reference, verdict, field, reason, remedy))
            .collect()
    }
}

impl LoadBalancer {
    fn is_ours(&self, settings: &Settings) -> bool {
        match &self.class {
            Some(class) => **class == *LOAD_BALANCER_CLASS,
            None => settings.default_load_balancer,
        }
    }

    fn problems(&self, settings: &Settings, method: AskedMethod) -> Vec<Problem> {
        if !self.is_ours(settings) {
            let asks_us = *self.field == *service::field(VIP_ANNOTATION);
            let problem = Problem::ignored(
                &*self.field,
                "the Service is not of our load balancer class, so it gets no virtual IP here",
                format!(
                    "set spec.loadBalancerClass: {LOAD_BALANCER_CLASS}, or give --default-load-balancer where it names none"
                ),
            );
            return if asks_us { vec![problem] } else { Vec::new() };
        }
        let mut problems = Vec::new();
        if self.restricted {
            problems.push(Problem::rejected(
                "spec.loadBalancerSourceRanges",
                "restricting clients is not implemented, and binding the Service without it would open what it closes: it gets no virtual IP",
                "remove the field, and restrict clients on the real servers",
            ));
        }
        if method == AskedMethod::Refused {
            problems.push(Problem::rejected(
                &*self.field,
                "the Service gets no virtual IP, because its method is refused",
                "see the annotation sluicegate.io/method",
            ));
        }
        if self.addresses.is_empty() {
            problems.push(Problem::rejected(
                &*self.field,
                "the Service asks for no address, and choosing one for it is not implemented",
                format!("name addresses of a pool in the annotation {VIP_ANNOTATION}"),
            ));
        }
        for address in &self.addresses {
            if !settings.vip_pools.iter().any(|pool| pool.contains(*address)) {
                problems.push(outside(&self.field, *address, settings));
            }
        }
        problems
    }
}

fn outside(field: &str, address: IpAddr, settings: &Settings) -> Problem {
    if settings.vip_pools.is_empty() {
        return Problem::rejected(
            field,
            format!("{address} cannot be asked for, because there is no pool of addresses"),
            "start the gateway with --vip-pool CIDR, or bind the Service in the VIP ConfigMap",
        );
    }
    let pools: Vec<String> = settings.vip_pools.iter().map(ToString::to_string).collect();
    Problem::rejected(
        field,
        format!("{address} lies in no pool"),
        format!("ask for an address of {}, or add a --vip-pool", pools.join(", ")),
    )
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
