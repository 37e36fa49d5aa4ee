//! Whether a director does what it should: every VIP that it should own is served. One that stands by is ready.

use super::{View, is_able};
use sluicegate_announce::{Status, Unfit, VipView};
use sluicegate_forward::failure::PlanFailure;
use sluicegate_forward::status::{EngineState, ForwarderStatus, VipStatus};
use std::net::IpAddr;

impl View {
    /// Why this director does not do what it should; nothing where it serves all that it should own, or stands by.
    pub(super) fn shortcomings(&self) -> Vec<String> {
        if self.bindings.is_empty() {
            return Vec::new();
        }
        if let Some(trouble) = &self.trouble {
            return self.must_forward.then(|| format!("virtual IPs are not served: {trouble}")).into_iter().collect();
        }
        let Some(status) = &self.forwarder else {
            return vec!["virtual IPs are not in the tables yet".to_owned()];
        };
        if let EngineState::Off(why) = &status.engine {
            return self.must_forward.then(|| format!("packets are not forwarded: {why}")).into_iter().collect();
        }
        let Some(ownership) = &self.ownership else {
            let problems = status.problems.join("; ");
            return vec![match problems.as_str() {
                "" => "no interface takes packets yet".to_owned(),
                problems => format!("no interface takes packets: {problems}"),
            }];
        };
        match &ownership.fitness {
            Ok(()) => {}
            // An operator wants it to stand by.
            Err(Unfit::Cordoned) => return Vec::new(),
            Err(Unfit::NoMember) => {
                let trouble = self.membership.as_ref().and_then(|membership| membership.trouble.as_deref());
                let why = Unfit::NoMember.to_string();
                return vec![trouble.map_or(why.clone(), |trouble| format!("{why}: {trouble}"))];
            }
            Err(unfit) => return vec![unfit.to_string()],
        }
        self.bindings.keys().filter_map(|vip| shortcoming(*vip, status, ownership)).collect()
    }
}

/// What of one VIP is not as it should be.
fn shortcoming(vip: IpAddr, status: &ForwarderStatus, ownership: &Status) -> Option<String> {
    let known = ownership.vips.iter().find(|known| known.vip == vip);
    let is_mine = known.is_some_and(|known| known.owner.as_ref() == Some(&ownership.me));
    let Some(held) = status.vips.iter().find(|held| held.address == vip && held.id.is_some()) else {
        // What is refused by name nobody should own.
        let is_refused = status.failures.iter().map(PlanFailure::vip).any(|refused| refused == vip);
        return match (is_mine, is_refused) {
            (true, _) => Some(format!("VIP {vip} is owned and not in the tables")),
            (false, true) => None,
            (false, false) => Some(format!("VIP {vip} is not in the tables yet")),
        };
    };
    match known {
        None => Some(format!("VIP {vip} is not announced yet")),
        Some(known) if is_mine && known.fence.is_zero() => {
            Some(format!("VIP {vip} is owned and its fence is not held"))
        }
        Some(known) if should_be_mine(known, held, ownership) => Some(format!("VIP {vip} has no owner yet")),
        Some(_) => None,
    }
}

/// With peers an owner is a matter of votes; a director alone should own whatever it is able to serve.
fn should_be_mine(known: &VipView, held: &VipStatus, ownership: &Status) -> bool {
    ownership.peers.is_empty() && known.owner.is_none() && is_able(held)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluicegate_announce::{DirectorId, PeerView};
    use sluicegate_config::{Kind, Method, ObjectRef, Scheduler, TransportProtocol, VipBinding};
    use sluicegate_forward::engine::xdp::Found;
    use sluicegate_forward::fleet::{MethodReason, ServiceKey, Standing};
    use sluicegate_forward::stats::Rate;
    use sluicegate_forward::status::{RealStatus, ServiceStatus};
    use sluicegate_l4::layout::Traffic;
    use std::sync::Arc;
    use std::time::Duration;

    const FENCE: Duration = Duration::from_millis(400);

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn named(name: &str) -> DirectorId {
        DirectorId::new(name).expect("a name")
    }

    /// A VIP in the tables, with one real server.
    fn in_tables(vip: &str, standing: Standing) -> Arc<VipStatus> {
        let real = RealStatus { address: ip("198.51.100.1"), id: Some(1), weight: 1, standing, reason: None };
        let service = ServiceStatus {
            key: ServiceKey { vip: ip(vip), protocol: TransportProtocol::Tcp, port: 80 },
            id: Some(1),
            namespace: "shop".into(),
            service: "web".into(),
            scheduler: Scheduler::Mh,
            method: Method::L2,
            method_reason: MethodReason::Asked,
            fails_open: false,
            traffic: Traffic::default(),
            rate: Rate::default(),
            reals: vec![real].into(),
        };
        Arc::new(VipStatus { address: ip(vip), id: Some(1), held: false, services: vec![service] })
    }

    fn announced(vip: &str, owner: Option<&str>, fence: Duration) -> VipView {
        VipView {
            vip: ip(vip),
            owner: owner.map(named),
            able: true,
            claimed: false,
            held_for: None,
            fence,
            conflict: None,
        }
    }

    fn ownership(vips: Vec<VipView>, with_peer: bool) -> Status {
        let peer = PeerView {
            id: named("edge2"),
            heard_ago: Some(Duration::ZERO),
            present: true,
            fit: true,
            held: 0,
            votes_for: Duration::ZERO,
        };
        Status {
            me: named("edge1"),
            fitness: Ok(()),
            deciding: None,
            vips,
            peers: with_peer.then_some(peer).into_iter().collect(),
            membership: None,
            take_overs: 0,
            losses: 0,
            conflicts: 0,
            fence_failures: 0,
        }
    }

    /// A director that is to serve 192.0.2.1, and what it has so far.
    fn view(vips: Vec<Arc<VipStatus>>, failures: Vec<PlanFailure>, ownership: Option<Status>) -> View {
        let vip = ip("192.0.2.1");
        let origin = ObjectRef::new(Kind::ConfigMap, "sluicegate-system", "vips");
        let binding = VipBinding { address: vip, services: Vec::new(), origin };
        let engine = EngineState::On(Found::Fresh);
        View {
            forwarder: Some(Arc::new(ForwarderStatus { engine, vips, failures, ..ForwarderStatus::default() })),
            ownership,
            bindings: Arc::new([(vip, Arc::new(binding))].into()),
            must_forward: true,
            ..View::default()
        }
    }

    fn served(owner: Option<&str>, fence: Duration, with_peer: bool) -> View {
        let vips = vec![announced("192.0.2.1", owner, fence)];
        view(vec![in_tables("192.0.2.1", Standing::InRing)], Vec::new(), Some(ownership(vips, with_peer)))
    }

    fn refused(vip: &str) -> PlanFailure {
        PlanFailure::VipIsOwn { vip: ip(vip), interface: "eth0".to_owned() }
    }

    fn unfit(unfit: Unfit) -> View {
        let mut view = served(None, Duration::ZERO, false);
        if let Some(ownership) = &mut view.ownership {
            ownership.fitness = Err(unfit);
        }
        view
    }

    #[test]
    fn a_director_is_ready_where_it_serves_what_it_should_own() {
        let dead = || {
            let vips = vec![announced("192.0.2.1", None, Duration::ZERO)];
            view(vec![in_tables("192.0.2.1", Standing::Dead)], Vec::new(), Some(ownership(vips, false)))
        };
        let table = [
            ("owner", served(Some("edge1"), FENCE, false)),
            ("standing by", served(Some("edge2"), Duration::ZERO, true)),
            ("an election goes on", served(None, Duration::ZERO, true)),
            ("no real server answers", dead()),
            ("cordoned", unfit(Unfit::Cordoned)),
            ("refused by name", view(Vec::new(), vec![refused("192.0.2.1")], Some(ownership(Vec::new(), false)))),
            ("nothing is bound", View { must_forward: true, ..View::default() }),
            (
                "packets are no business of it",
                View { trouble: Some("no rights".to_owned()), must_forward: false, ..served(None, FENCE, false) },
            ),
        ];
        for (case, view) in table {
            assert_eq!(view.shortcomings(), Vec::<String>::new(), "{case}");
        }
    }

    #[test]
    fn a_director_that_does_not_says_why() {
        let without = |owner: Option<&str>, failures: Vec<PlanFailure>| {
            let vips = owner.map(|owner| announced("192.0.2.1", Some(owner), FENCE)).into_iter().collect();
            view(Vec::new(), failures, Some(ownership(vips, false)))
        };
        let unannounced = Some(ownership(Vec::new(), false));
        let off = EngineState::Off("no BPF".to_owned());
        let table = [
            (View { forwarder: None, ..served(None, FENCE, false) }, "virtual IPs are not in the tables yet"),
            (View { ownership: None, ..served(None, FENCE, false) }, "no interface takes packets yet"),
            (
                View { trouble: Some("no rights".to_owned()), ..served(None, FENCE, false) },
                "virtual IPs are not served: no rights",
            ),
            (
                View {
                    forwarder: Some(Arc::new(ForwarderStatus { engine: off, ..ForwarderStatus::default() })),
                    ..served(None, FENCE, false)
                },
                "packets are not forwarded: no BPF",
            ),
            (unfit(Unfit::NoCarrier), "the interface has no carrier"),
            (unfit(Unfit::Detached), "the packet path is not attached"),
            (served(Some("edge1"), Duration::ZERO, true), "VIP 192.0.2.1 is owned and its fence is not held"),
            (served(None, Duration::ZERO, false), "VIP 192.0.2.1 has no owner yet"),
            (without(None, Vec::new()), "VIP 192.0.2.1 is not in the tables yet"),
            // What is refused is another one, though its text begins alike.
            (without(None, vec![refused("192.0.2.10")]), "VIP 192.0.2.1 is not in the tables yet"),
            (without(Some("edge1"), vec![refused("192.0.2.1")]), "VIP 192.0.2.1 is owned and not in the tables"),
            (
                view(vec![in_tables("192.0.2.1", Standing::InRing)], Vec::new(), unannounced),
                "VIP 192.0.2.1 is not announced yet",
            ),
        ];
        for (view, expected) in table {
            assert_eq!(view.shortcomings(), [expected]);
        }
    }
}
