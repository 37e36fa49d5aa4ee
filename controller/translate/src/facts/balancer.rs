//! A Service of type LoadBalancer: whose it is, which addresses it asks for, or how many it wants.

use super::virtual_service::Problem;
use crate::annotations::service;
use k8s_openapi::api::core::v1 as api;
use sluicegate_config::Settings;
use sluicegate_config::settings::LOAD_BALANCER_CLASS;
use std::fmt;
use std::net::IpAddr;

/// The annotation that asks for addresses.
pub(crate) const VIP_ANNOTATION: &str = "sluicegate.io/vip";
/// The annotation that picks a pool.
pub(crate) const POOL_ANNOTATION: &str = "sluicegate.io/vip-pool";

/// Addresses that one Service may ask for.
const MAX_ADDRESSES: usize = 16;

/// What a Service of type LoadBalancer says about its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LoadBalancer {
    class: Option<Box<str>>,
    pub(crate) created: i64,
    /// `None` = any will do.
    pub(crate) asked: Option<Asked>,
    /// The pool to choose from.
    pub(crate) pool: Option<Box<str>>,
    pub(crate) families: Families,
    /// `spec.loadBalancerSourceRanges` is not empty.
    pub(crate) restricted: bool,
}

/// Addresses that a Service asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) field: Box<str>,
    /// Those that are addresses; each once.
    pub(crate) addresses: Vec<IpAddr>,
}

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IpFamily {
    V4,
    V6,
}

/// How many addresses are chosen for a Service: one of a family at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Families {
    /// One, whichever there is; IPv4 before IPv6.
    Either,
    One(IpFamily),
    /// One of each: all or none where both are required, else what there is.
    Both {
        required: bool,
    },
}

impl IpFamily {
    pub(crate) fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

impl fmt::Display for IpFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

impl Families {
    /// An API server has decided over `spec.ipFamilies` by what the cluster has; in a folder only the policy says that both
    /// are wanted.
    fn of(spec: &api::ServiceSpec) -> Self {
        let listed: Vec<IpFamily> = spec.ip_families.iter().flatten().filter_map(|name| family(name)).collect();
        let is_decided = spec.cluster_ips.as_ref().is_some_and(|addresses| !addresses.is_empty());
        match (spec.ip_family_policy.as_deref(), listed.as_slice()) {
            (Some("RequireDualStack"), _) => Self::Both { required: true },
            (Some("PreferDualStack"), [one]) if is_decided => Self::One(*one),
            (Some("PreferDualStack"), _) | (None, [_, _, ..]) => Self::Both { required: false },
            (_, [first, ..]) => Self::One(*first),
            (_, []) => Self::Either,
        }
    }

    /// Those of a list that can be held together, in its order.
    pub(crate) fn kept(self, addresses: &[IpAddr]) -> Vec<IpAddr> {
        let mut kept: Vec<IpAddr> = Vec::new();
        for address in addresses {
            let family = IpFamily::of(*address);
            let is_wanted = match self {
                Self::Either => kept.is_empty(),
                Self::One(one) => family == one,
                Self::Both { .. } => true,
            };
            if is_wanted && kept.iter().all(|other| IpFamily::of(*other) != family) {
                kept.push(*address);
            }
        }
        kept
    }

    /// What is missing beside what is held: for each address the families that do.
    pub(crate) fn lacking(self, held: &[IpAddr]) -> Vec<&'static [IpFamily]> {
        let has = |family: IpFamily| held.iter().any(|address| IpFamily::of(*address) == family);
        let one = |family: IpFamily| (!has(family)).then_some(alone(family));
        match self {
            Self::Either if held.is_empty() => vec![&[IpFamily::V4, IpFamily::V6]],
            Self::Either => Vec::new(),
            Self::One(family) => one(family).into_iter().collect(),
            Self::Both { .. } => [IpFamily::V4, IpFamily::V6].into_iter().filter_map(one).collect(),
        }
    }

    /// Nothing is chosen unless all can be had.
    pub(crate) fn all_or_none(self) -> bool {
        self == Self::Both { required: true }
    }
}

fn alone(family: IpFamily) -> &'static [IpFamily] {
    match family {
        IpFamily::V4 => &[IpFamily::V4],
        IpFamily::V6 => &[IpFamily::V6],
    }
}

fn family(name: &str) -> Option<IpFamily> {
    match name {
        "IPv4" => Some(IpFamily::V4),
        "IPv6" => Some(IpFamily::V6),
        _ => None,
    }
}

impl LoadBalancer {
    /// `None` for other types. `annotation` gives the value of one, trimmed.
    pub(crate) fn read<'a>(
        object: &api::Service,
        annotation: impl Fn(&str) -> Option<&'a str>,
        problems: &mut Vec<Problem>,
    ) -> Option<Self> {
        let spec = object.spec.as_ref()?;
        let kind = spec.type_.as_deref().unwrap_or("ClusterIP");
        let said = |name: &str| annotation(name).filter(|text| !text.is_empty());
        if kind != "LoadBalancer" {
            for name in [VIP_ANNOTATION, POOL_ANNOTATION].into_iter().filter(|name| said(name).is_some()) {
                problems.push(Problem::ignored(
                    service::field(name),
                    format!("a Service of type {kind} asks for no address"),
                    "set type: LoadBalancer, or bind the Service in the VIP ConfigMap",
                ));
            }
            return None;
        }
        let by_field = spec.load_balancer_ip.as_deref().filter(|text| !text.is_empty());
        let asked = match (said(VIP_ANNOTATION), by_field) {
            (Some(asked), by_field) => {
                if by_field.is_some_and(|by_field| asked.split(',').all(|part| part.trim() != by_field)) {
                    problems.push(Problem::ignored(
                        "spec.loadBalancerIP",
                        format!("the annotation {VIP_ANNOTATION} says another address, and it wins"),
                        "remove spec.loadBalancerIP, which Kubernetes has deprecated",
                    ));
                }
                Some(Asked::read(service::field(VIP_ANNOTATION), asked, problems))
            }
            (None, Some(by_field)) => Some(Asked::read("spec.loadBalancerIP".to_owned(), by_field, problems)),
            (None, None) => None,
        };
        let pool = said(POOL_ANNOTATION);
        if let (Some(asked), Some(_)) = (&asked, pool) {
            problems.push(Problem::ignored(
                service::field(POOL_ANNOTATION),
                "the Service names its addresses itself",
                format!("remove it, or {}", asked.field),
            ));
        }
        Some(Self {
            class: spec.load_balancer_class.as_deref().map(Into::into),
            created: super::created(&object.metadata),
            asked,
            pool: pool.map(Into::into),
            families: Families::of(spec),
            restricted: spec.load_balancer_source_ranges.as_ref().is_some_and(|ranges| !ranges.is_empty()),
        })
    }

    pub(crate) fn is_ours(&self, settings: &Settings) -> bool {
        match &self.class {
            Some(class) => **class == *LOAD_BALANCER_CLASS,
            None => settings.default_load_balancer,
        }
    }

    /// The field that decides over its addresses.
    pub(crate) fn field(&self) -> &str {
        self.asked.as_ref().map_or("spec.type", |asked| &asked.field)
    }
}

impl Asked {
    /// The good ones of a list, each once and in its order; as many as one Service may ask for.
    fn read(field: String, list: &str, problems: &mut Vec<Problem>) -> Self {
        let mut addresses = Vec::new();
        let texts = list.split(',').map(str::trim).filter(|text| !text.is_empty());
        for (index, text) in texts.enumerate() {
            if index == MAX_ADDRESSES {
                let reason = format!("those after the first {MAX_ADDRESSES} addresses are not taken");
                problems.push(Problem::rejected(&*field, reason, "bind the Service in the VIP ConfigMap"));
                break;
            }
            match text.parse::<IpAddr>() {
                Ok(address) if addresses.contains(&address) => {}
                Ok(address) => addresses.push(address),
                Err(_) => problems.push(Problem::rejected(
                    &*field,
                    format!("{:?} is not an IP address", service::brief(text)),
                    "write addresses separated by commas, as in 192.0.2.10,2001:db8::10",
                )),
            }
        }
        Self { field: field.into(), addresses }
    }
}
