//! `lc` and `wlc`: weights lead flow counts to the configured shares, and come to rest there.

mod plan_support;

use plan_support::{Director, fleet, key, real, service};
use proptest::prelude::*;
use sluicegate_config::Scheduler;
use sluicegate_forward::allocations::Geometry;
use sluicegate_forward::fleet::Observed;
use sluicegate_forward::weights::{Load, follow_flows, weights_by_flows};

/// Servers whose flows last so long, 10,000 new flows a step: the flows and weights after so many steps, and the steps
/// of the last hundred that changed a weight.
fn simulate(configured: &[u16], lifetimes: &[f64], steps: usize) -> (Vec<f64>, Vec<u16>, usize) {
    let mut flows = vec![0.0; configured.len()];
    let mut current: Vec<Option<u16>> = vec![None; configured.len()];
    let mut weights = configured.to_vec();
    let mut restless = 0;
    for step in 0..steps {
        let total: f64 = weights.iter().copied().map(f64::from).sum();
        for (index, held) in flows.iter_mut().enumerate() {
            *held += 10_000.0 * f64::from(weights[index]) / total - *held / lifetimes[index];
        }
        let loads: Vec<Load> = (0..configured.len())
            .map(|index| Load { configured: configured[index], current: current[index], flows: flows[index] as u64 })
            .collect();
        let next = weights_by_flows(&loads);
        restless += usize::from(step + 100 >= steps && next != weights);
        current = next.iter().copied().map(Some).collect();
        weights = next;
    }
    (flows, weights, restless)
}

#[test]
fn flows_that_last_four_times_as_long_come_to_the_same_count() {
    let (flows, weights, restless) = simulate(&[1, 1, 1], &[4.0, 8.0, 16.0], 400);
    let (least, most) = (flows.iter().copied().fold(f64::MAX, f64::min), flows.iter().copied().fold(0.0, f64::max));
    assert!(most / least < 1.25, "flows {flows:?} by weights {weights:?}");
    assert_eq!(restless, 0, "weights come to rest");
}

#[test]
fn wlc_holds_flows_in_proportion_to_the_weights() {
    let (flows, weights, restless) = simulate(&[3, 1], &[5.0, 10.0], 400);
    let ratio = flows[0] / flows[1];
    assert!((2.4..3.75).contains(&ratio), "flows {flows:?} by weights {weights:?}");
    assert_eq!(restless, 0);
}

#[test]
fn few_flows_say_nothing() {
    let idle = |flows| Load { configured: 1, current: Some(4096), flows };
    assert_eq!(weights_by_flows(&[idle(0), idle(1)]), [4096, 4096]);
    assert_eq!(weights_by_flows(&[]), [0_u16; 0]);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn steps_and_weights_are_bounded(
        loads in prop::collection::vec(
            (any::<u16>(), prop::option::of(any::<u16>()), any::<u64>())
                .prop_map(|(configured, current, flows)| Load { configured, current, flows }),
            0..20,
        ),
    ) {
        let next = weights_by_flows(&loads);
        prop_assert_eq!(next.len(), loads.len());
        let heaviest = loads.iter().map(|load| load.configured).max().unwrap_or(1).max(1);
        for (load, weight) in loads.iter().zip(next) {
            prop_assert_eq!(weight == 0, load.configured == 0);
            if load.configured > 0 {
                let neutral = (u64::from(load.configured) * 4096 / u64::from(heaviest)).max(1);
                prop_assert!((neutral / 8..=neutral * 8).contains(&u64::from(weight)), "{weight} of {neutral}");
            }
        }
    }
}

#[test]
fn counts_of_a_sweep_become_weights_of_the_fleet() {
    let mut least = service(key("192.0.2.10", 80), vec![real("198.51.100.10"), real("198.51.100.11")]);
    least.options.scheduler = Scheduler::Lc;
    let hashed = service(key("192.0.2.10", 443), vec![real("198.51.100.10"), real("198.51.100.11")]);
    let mut director = Director::new(Geometry::default());
    director.change(fleet([least.clone(), hashed.clone()]));
    let busy = director.allocations.backend_id(&least, &least.reals[0]).expect("it has an id");
    let mut observed = Observed::default();
    let flows = |id| if id == busy { 5000 } else { 1000 };
    assert!(follow_flows(&director.fleet, &director.allocations, flows, &mut observed));
    let weight = |service: &sluicegate_forward::fleet::FleetService, index: usize| {
        observed.weights.get(&(service.key, service.reals[index].address)).copied()
    };
    assert!(weight(&least, 0) < weight(&least, 1));
    assert_eq!(weight(&hashed, 0), None, "no other scheduler looks at counts");
}
