//! `lc` and `wlc`: weights that follow the measured flow counts.
//!
//! An approximation of IPVS's least-connection: a packet is not compared with counts, the ring is. Whoever holds fewer
//! flows than its share gets a larger part of the ring, so that more of the *new* flows go there, until the counts agree
//! with the configured weights. Counts are those of the last sweep, some seconds old, and of the real server's record,
//! which other services may share. What directors measure differs, so their rings do too: flows may move when a VIP goes to
//! another director, which they do not with `mh`.
//!
//! The control is damped three times: a step changes a weight by a quarter at most, a weight stays within an eighth and
//! eight times what was configured, and what would change by less than a sixteenth does not change at all, so that noise
//! does not rewrite rings.

use crate::allocations::Allocations;
use crate::fleet::{Fleet, FleetReal, FleetService, Observed, ServiceKey, follows_flows};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// A real server under load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Configured share, 0..=65535; 0 = no new flows.
    pub configured: u16,
    /// Weight by this module in the last step; `None` = there was none.
    pub current: Option<u16>,
    /// Flows that it holds.
    pub flows: u64,
}

/// Weight of the heaviest while nothing was measured: leaves room for eight times as much and for small shares.
const NEUTRAL: u64 = 4096;
/// A weight stays within `1/REACH` and `REACH` times the neutral one.
const REACH: u64 = 8;
/// Flows that everybody is taken to have besides: a handful of flows says nothing about a server.
const SLACK: u128 = 16;

/// The weights of the next step, in the order of `loads`; 0 only for those that are configured so.
#[must_use]
pub fn weights_by_flows(loads: &[Load]) -> Vec<u16> {
    let heaviest = u64::from(loads.iter().map(|load| load.configured).max().unwrap_or(0).max(1));
    let taking_part = || loads.iter().filter(|load| load.configured > 0);
    let shares: u128 = taking_part().map(|load| u128::from(load.configured)).sum::<u128>().max(1);
    let flows: u128 = taking_part().map(|load| u128::from(load.flows)).sum();
    let next = |load: &Load| {
        if load.configured == 0 {
            return 0;
        }
        let neutral = (u64::from(load.configured) * NEUTRAL / heaviest).max(1);
        let (least, most) = ((neutral / REACH).max(1), neutral * REACH);
        let current = load.current.map_or(neutral, u64::from).clamp(least, most);
        let expected = flows * u128::from(load.configured) / shares + SLACK;
        let wanted = u128::from(current) * expected / (u128::from(load.flows) + SLACK);
        let wanted = u64::try_from(wanted).unwrap_or(u64::MAX);
        let wanted = wanted.clamp(current - current / 4, current + (current / 4).max(1));
        let wanted = wanted.clamp(least, most);
        let chosen = if wanted.abs_diff(current) * 16 < current { current } else { wanted };
        u16::try_from(chosen).unwrap_or(u16::MAX)
    };
    loads.iter().map(next).collect()
}

/// One step for all services that ask for it, into `observed`; true where a weight changed, which is a reason to plan
/// anew. `flows_of` gives the flows of a backend's id as the last sweep counted them. Call it after each sweep.
pub fn follow_flows(
    fleet: &Fleet,
    allocations: &Allocations,
    flows_of: impl Fn(u16) -> u64,
    observed: &mut Observed,
) -> bool {
    let former = std::mem::take(&mut observed.weights);
    let mut weights = BTreeMap::new();
    for service in fleet.services().filter(|service| follows_flows(service.options.scheduler)) {
        let next = weights_by_flows(&loads(service, allocations, &flows_of, &former));
        let named = service.reals.iter().map(|real| (service.key, real.address));
        weights.extend(named.zip(next));
    }
    let changed = weights != *former;
    observed.weights = if changed { Arc::new(weights) } else { former };
    changed
}

fn loads(
    service: &FleetService,
    allocations: &Allocations,
    flows_of: impl Fn(u16) -> u64,
    former: &BTreeMap<(ServiceKey, IpAddr), u16>,
) -> Vec<Load> {
    let load = |real: &FleetReal| Load {
        configured: real.configured,
        current: former.get(&(service.key, real.address)).copied().filter(|weight| *weight > 0),
        flows: allocations.backend_id(service, real).map_or(0, &flows_of),
    };
    service.reals.iter().map(load).collect()
}
