//! What the ring alone would say: computed here, from weights, to see what the flow table holds back.

use super::frames::Flow;
use super::laboratory::{Laboratory, REALS};
use sluicegate_forward::head::address_octets;
use sluicegate_l4::layout::RING_SLOTS;
use sluicegate_l4::maglev::{Claimant, fill, identity};

/// The rings of both families.
pub struct Ring {
    slots: [Vec<u16>; 2],
}

impl Ring {
    /// Of real servers with these weights.
    pub fn new(laboratory: &Laboratory, weights: &[u16; REALS]) -> Self {
        let slots = super::frames::vips().map(|vip| {
            let weighed = (0_u16..).zip(weights).filter(|(_, weight)| **weight > 0);
            let mut claimants: Vec<Claimant> = weighed
                .map(|(number, weight)| {
                    let address = laboratory.real(number.into(), vip);
                    Claimant::new(number + 1, *weight, identity(address_octets(address)))
                })
                .collect();
            let mut slots = vec![0; RING_SLOTS as usize];
            fill(&mut claimants, &mut slots);
            slots
        });
        Self { slots }
    }

    /// The number of the real server in the flow's slot.
    pub fn pick(&self, flow: &Flow) -> Option<usize> {
        let slots = &self.slots[usize::from(flow.vip.is_ipv6())];
        usize::from(*slots.get(flow.slot(RING_SLOTS) as usize)?).checked_sub(1)
    }
}
