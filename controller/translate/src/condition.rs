//! The condition on Services of type LoadBalancer: whether each has the addresses that it should have, and if not, why.

use crate::controller::Controller;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use sluicegate_config::{NamespacedName, VipBinding, VipService};
use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

/// The type of our condition.
pub const CONDITION_TYPE: &str = "sluicegate.io/Ready";

/// Longest message, in characters; the API takes 32,768 bytes.
const LONGEST_MESSAGE: usize = 1024;

/// One condition (`metav1.Condition`) of type [`CONDITION_TYPE`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// `status`: the Service has every address that it should have, with every port.
    pub is_ready: bool,
    /// Why, in one word.
    pub reason: String,
    /// Why, for people.
    pub message: String,
    /// `observedGeneration`; `None` where the API server counts none for Services.
    pub generation: Option<i64>,
    /// `lastTransitionTime`, in seconds since the Unix epoch: when `status` last changed.
    pub since: i64,
}

/// Reasons of conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConditionReason {
    /// It has all.
    Bound,
    /// No address has been chosen yet.
    Pending,
    /// There is no pool that it may use.
    NoPool,
    /// Its pools have no free address.
    PoolExhausted,
    /// It asks for an address of no pool that it may use.
    AddressNotAllowed,
    /// It asks for an address that was given to another Service.
    AddressTaken,
    /// Another Service has one of its ports on a shared address.
    PortConflict,
    /// A port cannot be served; an Event says why.
    PortRejected,
    /// The method that it asks for cannot be had.
    MethodRefused,
    /// It restricts its clients, which is not implemented.
    SourceRangesNotImplemented,
}

impl ConditionReason {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Bound,
        Self::Pending,
        Self::NoPool,
        Self::PoolExhausted,
        Self::AddressNotAllowed,
        Self::AddressTaken,
        Self::PortConflict,
        Self::PortRejected,
        Self::MethodRefused,
        Self::SourceRangesNotImplemented,
    ];
}

impl fmt::Display for ConditionReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl Condition {
    fn new(reason: ConditionReason, message: &str, generation: Option<i64>) -> Self {
        Self {
            is_ready: reason == ConditionReason::Bound,
            reason: reason.to_string(),
            message: message.chars().take(LONGEST_MESSAGE).collect(),
            generation,
            since: 0,
        }
    }

    pub(crate) fn observed(of: &meta::Condition) -> Self {
        Self {
            is_ready: of.status == "True",
            reason: of.reason.clone(),
            message: of.message.clone(),
            generation: of.observed_generation,
            since: of.last_transition_time.0.as_second(),
        }
    }

    /// True if both say the same, whenever they began to.
    pub(crate) fn says(&self, other: &Self) -> bool {
        Self { since: other.since, ..self.clone() } == *other
    }

    /// The time of the last transition stays where the status does.
    pub(crate) fn since(self, before: Option<&Self>, now_unix: i64) -> Self {
        let stays = before.filter(|before| before.is_ready == self.is_ready);
        Self { since: stays.map_or(now_unix, |before| before.since), ..self }
    }
}

impl Controller {
    /// Whether a Service of ours has all that it should have; the first reason decides, the message has all.
    pub(crate) fn condition_of(&self, key: &NamespacedName, generation: Option<i64>) -> Condition {
        let objects = self.objects();
        let faults = objects.faults(key).into_iter().map(|fault| (fault.reason, fault.problem.reason));
        let mut wrong: Vec<(ConditionReason, String)> = faults.collect();
        let named: BTreeSet<IpAddr> = objects.vips_named_by(key).chain(objects.chosen_for(key)).collect();
        for address in &named {
            wrong.extend(self.shortcoming(key, address));
        }
        if named.is_empty() && wrong.is_empty() {
            wrong.push((ConditionReason::Pending, "no address has been chosen yet".to_owned()));
        }
        match wrong.first() {
            Some((reason, _)) => {
                let messages: Vec<&str> = wrong.iter().map(|(_, message)| message.as_str()).collect();
                Condition::new(*reason, &messages.join("; "), generation)
            }
            None => {
                let shown = named.iter().map(|address| match objects.settings.vip_pools.of(*address) {
                    Some(pool) => format!("{address} (pool {})", pool.name),
                    None => address.to_string(),
                });
                Condition::new(ConditionReason::Bound, &shown.collect::<Vec<_>>().join(", "), generation)
            }
        }
    }

    /// Why a Service is not served at an address with every port.
    fn shortcoming(&self, key: &NamespacedName, address: &IpAddr) -> Option<(ConditionReason, String)> {
        let objects = self.objects();
        if objects.is_proposed(address, key) {
            // It is served once the status shows it.
            return None;
        }
        let is_claimed = objects.claimants_of(address).any(|one| one == key);
        let is_bound = objects.bound_vips_of(key).any(|one| one == *address);
        if is_claimed && !is_bound && !objects.is_granted(address, key) {
            let holder =
                objects.sole_holder(address).map_or_else(String::new, |holder| format!(" to Service {holder}"));
            return Some((ConditionReason::AddressTaken, format!("{address} has been given{holder}")));
        }
        let binding = self.desired().vips.get(address);
        let is_it = |of: &&VipService| of.namespace == key.namespace && of.service == key.name;
        let mine = binding.and_then(|binding| binding.services.iter().find(is_it));
        let has = |of: &VipService, port| of.ports.iter().any(|bound| (bound.protocol, bound.port) == port);
        let ports = objects.services.get(key).map(|service| &*service.ports).unwrap_or_default();
        let mut missing = ports.iter().filter(|port| mine.is_none_or(|mine| !has(mine, (port.protocol, port.port))));
        let port = missing.next()?;
        let by_other = |binding: &VipBinding| {
            let mut others = binding.services.iter().filter(|of| !is_it(of));
            others.find(|of| has(of, (port.protocol, port.port))).map(|of| format!("{}/{}", of.namespace, of.service))
        };
        let (label, more) = (format!("port {}/{} of {address}", port.port, port.protocol), missing.count());
        let more = if more == 0 { String::new() } else { format!(" (and {more} more)") };
        Some(match binding.and_then(|binding| by_other(binding)) {
            Some(other) => (ConditionReason::PortConflict, format!("{label}{more} is already bound to {other}")),
            None => (ConditionReason::PortRejected, format!("{label}{more} cannot be served; Events say why")),
        })
    }
}
