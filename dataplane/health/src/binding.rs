//! Between the desired state and the checks: which real servers are probed, and what their verdicts make of a port.

use crate::target::Target;
use sluicegate_config::{HealthCheck, Readiness, RealServer, VipBinding, VipPort, WhenAllFail};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// What is to be probed for these VIPs: the ready real servers of the services that have a check.
///
/// Those that drain are not probed. Many close their listening socket first and finish what they have: a probe would take
/// the flows away from them that draining leaves with them.
pub fn targets<'a>(bindings: impl IntoIterator<Item = &'a VipBinding>) -> BTreeMap<Target, Arc<HealthCheck>> {
    let mut targets = BTreeMap::new();
    for binding in bindings {
        for service in &binding.services {
            for port in &service.ports {
                let Some(check) = service.health_of(port) else { continue };
                let check = Arc::new(check.clone());
                for real in port.reals.iter().filter(|real| real.readiness == Readiness::Ready) {
                    let target =
                        Target { vip: binding.address, protocol: port.protocol, port: port.port, real: real.address };
                    targets.insert(target, Arc::clone(&check));
                }
            }
        }
    }
    targets
}

/// What readiness and probes together make of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Combined {
    /// These are used: ready ones that are healthy, and those that keep what they have.
    Serving(Vec<RealServer>),
    /// All that could take new flows fail their probes and are used nevertheless ([`WhenAllFail::FailOpen`]).
    FailOpen(Vec<RealServer>),
    /// All that could take new flows fail their probes: packets are dropped ([`WhenAllFail::Refuse`]), and the VIP is not
    /// owned for the sake of this port.
    Refuse,
    /// None can take new flows, whatever the probes say: none is ready, or each has weight 0. These keep what they have.
    NoneReady(Vec<RealServer>),
}

/// Combines what Kubernetes says of the real servers of a port with the verdicts of the probes. `healthy` is asked with
/// the address of each ready one.
pub fn combine(port: &VipPort, when_all_fail: WhenAllFail, healthy: impl Fn(IpAddr) -> bool) -> Combined {
    if !port.reals.iter().any(takes_new_flows) {
        return Combined::NoneReady(port.reals.clone());
    }
    let used = |real: &&RealServer| real.readiness != Readiness::Ready || healthy(real.address);
    let good: Vec<RealServer> = port.reals.iter().filter(used).cloned().collect();
    if good.iter().any(takes_new_flows) {
        return Combined::Serving(good);
    }
    match when_all_fail {
        WhenAllFail::FailOpen => Combined::FailOpen(port.reals.clone()),
        WhenAllFail::Refuse => Combined::Refuse,
    }
}

fn takes_new_flows(real: &RealServer) -> bool {
    real.readiness == Readiness::Ready && real.weight > 0
}
