//! Delivery into pods through the door: which nodes stand for the pods of a port, and what is left out by name.

use proptest::prelude::*;
use sluicegate_config::draft::{NodeDraft, RealServerDraft, VipDraft, VipPortDraft, VipServiceDraft};
use sluicegate_config::{
    Change, Checked, Desired, Draft, HealthCheck, Kind, ObjectRef, ProbeKind, Readiness, RealServer, TransportProtocol,
    VipOptions, VipService, WhenAllFail, check,
};
use std::net::IpAddr;

const VIP: &str = "192.0.2.10";

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// A pod on `node`, which has `address`.
fn pod(pod: &str, node: &str, address: &str) -> RealServerDraft {
    RealServerDraft {
        real: RealServer {
            address: ip(pod),
            weight: 1,
            readiness: Readiness::Ready,
            node: Some(node.into()),
            pods: None,
        },
        port: 8080,
        node: NodeDraft::At { address: ip(address), has_agent: true },
    }
}

fn draining(mut pod: RealServerDraft) -> RealServerDraft {
    pod.real.readiness = Readiness::Draining;
    pod
}

fn without_agent(mut pod: RealServerDraft) -> RealServerDraft {
    if let NodeDraft::At { has_agent, .. } = &mut pod.node {
        *has_agent = false;
    }
    pod
}

fn weighing(weight: u32, mut pod: RealServerDraft) -> RealServerDraft {
    pod.real.weight = weight;
    pod
}

fn nowhere(node: NodeDraft, pod: RealServerDraft) -> RealServerDraft {
    RealServerDraft { node, ..pod }
}

fn service_of(
    vip: &str,
    options: VipOptions,
    protocol: TransportProtocol,
    reals: Vec<RealServerDraft>,
) -> (Option<VipService>, Vec<String>) {
    let origin = ObjectRef::new(Kind::Service, "default", "web");
    let service = VipServiceDraft {
        namespace: "default".into(),
        service: "web".into(),
        method: None,
        into_pods: true,
        options,
        ports: vec![VipPortDraft { protocol, port: 80, target: Some(8080), reals }],
        origin: origin.clone(),
        field: "spec.loadBalancerIP".to_owned(),
    };
    let mut draft = Draft::default();
    let of_vip = VipDraft { services: vec![service], alone: true, origin, field: "data".to_owned() };
    draft.vips.insert(ip(vip), Some(of_vip));
    let Checked { mut diff, rejections } = check(draft, &Desired::default());
    let said = rejections.into_iter().map(|note| note.rejection.to_string()).collect();
    match diff.vips.remove(&ip(vip)) {
        Some(Change::Set(binding)) => (binding.services.first().cloned(), said),
        Some(Change::Remove) | None => (None, said),
    }
}

/// `address readiness weight/pods`, and what was said.
fn nodes(vip: &str, when_all_fail: WhenAllFail, reals: Vec<RealServerDraft>) -> (Vec<String>, Vec<String>) {
    let options = VipOptions { when_all_fail, ..VipOptions::default() };
    let (service, said) = service_of(vip, options, TransportProtocol::Tcp, reals);
    let service = service.expect("bound");
    let node = |real: &RealServer| {
        format!("{} {} {}/{}", real.address, real.readiness, real.weight, real.pods.expect("a count"))
    };
    (service.ports[0].reals.iter().map(node).collect(), said)
}

#[test]
fn nodes_stand_for_their_pods() {
    let a = |number: u8| pod(&format!("10.244.1.{number}"), "a", "198.51.100.1");
    let b = |number: u8| pod(&format!("10.244.2.{number}"), "b", "198.51.100.2");
    let c = |number: u8| without_agent(pod(&format!("10.244.3.{number}"), "c", "198.51.100.3"));
    use WhenAllFail::{FailOpen, Refuse};
    for (what, when, pods, expected) in [
        (
            "as many as are ready",
            FailOpen,
            vec![b(1), a(2), a(1)],
            &["198.51.100.1 ready 2/2", "198.51.100.2 ready 1/1"][..],
        ),
        ("each pod once", FailOpen, vec![a(1), draining(a(1)), a(1)], &["198.51.100.1 ready 1/1"]),
        ("weights add up", FailOpen, vec![weighing(7, a(1)), weighing(0, a(2)), a(3)], &["198.51.100.1 ready 8/3"]),
        ("to the largest", FailOpen, vec![weighing(65_535, a(1)), a(2)], &["198.51.100.1 ready 65535/2"]),
        (
            "those that drain do not count beside others",
            FailOpen,
            vec![weighing(9, draining(a(1))), a(2), draining(b(1)), draining(b(2))],
            &["198.51.100.1 ready 1/1", "198.51.100.2 draining 2/2"],
        ),
        ("what still serves where nothing else is left", Refuse, vec![draining(a(1))], &["198.51.100.1 ready 1/1"]),
        (
            "no agent, no new flows",
            FailOpen,
            vec![a(1), c(1)],
            &["198.51.100.1 ready 1/1", "198.51.100.3 no agent 1/1"],
        ),
        (
            "what drains, with an agent, before what is ready without",
            FailOpen,
            vec![draining(a(1)), c(1)],
            &["198.51.100.1 ready 1/1", "198.51.100.3 no agent 1/1"],
        ),
        ("no agent anywhere, refused", Refuse, vec![c(1)], &["198.51.100.3 no agent 1/1"]),
        (
            "pods of the other family are not for this VIP",
            FailOpen,
            vec![a(1), pod("2001:db8:f1::1", "a", "198.51.100.1")],
            &["198.51.100.1 ready 1/1"],
        ),
        (
            "the node may be of the other family",
            FailOpen,
            vec![pod("10.244.1.1", "a", "2001:db8:1::1")],
            &["2001:db8:1::1 ready 1/1"],
        ),
    ] {
        let (found, said) = nodes(VIP, when, pods);
        assert_eq!(found, expected, "{what}");
        assert_eq!(said, [] as [&str; 0], "{what}");
    }
    let (found, said) = nodes(VIP, FailOpen, vec![c(1)]);
    assert_eq!(found, ["198.51.100.3 ready 1/1"]);
    assert!(said.len() == 1 && said[0].starts_with("warning") && said[0].contains("--backend-service"), "{said:?}");
}

#[test]
fn pods_that_no_node_leads_to_are_left_out_by_name() {
    let lost = |number: u8, node| nowhere(node, pod(&format!("10.244.1.{number}"), "a", "198.51.100.1"));
    let (found, said) = nodes(
        VIP,
        WhenAllFail::FailOpen,
        vec![
            lost(1, NodeDraft::Unnamed),
            lost(2, NodeDraft::Unknown),
            lost(3, NodeDraft::Unknown),
            lost(4, NodeDraft::NoAddress),
            pod(VIP, "a", "198.51.100.1"),
            pod("10.244.1.5", "a", VIP),
            pod("127.0.0.1", "a", "198.51.100.1"),
            pod("10.244.1.6", "b", "198.51.100.2"),
        ],
    );
    assert_eq!(found, ["198.51.100.2 ready 1/1"]);
    for (part, remedy) in [
        ("endpoint 10.244.1.1 of", "nodeName"),
        ("endpoint 10.244.1.2 (and 1 other) of port 80/TCP is left out: there is no Node a", "list and watch nodes"),
        ("Node a has no address of type InternalIP", "--node-ip"),
        ("it is the virtual IP itself", "select pods"),
        ("the virtual IP is the address of its node", "another address"),
        ("it is a loopback address", "select pods"),
    ] {
        assert!(said.iter().any(|said| said.contains(part) && said.contains(remedy)), "{part}: {said:#?}");
    }
    assert_eq!(said.len(), 6);
    let (found, said) = nodes("2001:db8::10", WhenAllFail::FailOpen, vec![pod("10.244.1.1", "a", "198.51.100.1")]);
    assert!(found.is_empty() && said.len() == 1 && said[0].contains("PreferDualStack"), "{said:?}");
}

#[test]
fn a_node_passes_probes_on_to_ports_of_the_vip_alone() {
    let http = ProbeKind::Http { path: "/".into(), host: None, tls: false };
    for (kind, port, is_made) in [
        (ProbeKind::Tcp, None, true),
        (http.clone(), None, true),
        (http, Some(80), true),
        (ProbeKind::Tcp, Some(8080), false),
        (ProbeKind::Udp, Some(80), false),
        (ProbeKind::Icmp, None, false),
    ] {
        let check = HealthCheck { kind, port, ..HealthCheck::default() };
        let options = VipOptions { health: Some(check.clone()), ..VipOptions::default() };
        let pods = vec![pod("10.244.1.1", "a", "198.51.100.1")];
        let (service, said) = service_of(VIP, options, TransportProtocol::Tcp, pods);
        assert_eq!(service.expect("bound").options.health.is_some(), is_made, "{check:?}");
        assert_eq!(said.is_empty(), is_made, "{check:?}: {said:?}");
    }
}

#[test]
fn sctp_is_not_carried_into_pods() {
    let pods = vec![pod("10.244.1.1", "a", "198.51.100.1")];
    let (service, said) = service_of(VIP, VipOptions::default(), TransportProtocol::Sctp, pods);
    assert!(service.is_none() && said.len() == 1 && said[0].contains("80/SCTP"), "{said:?}");
}

proptest! {
    /// Whatever the slices say: sorted, each node once, no pod lost or counted twice, and something ready if anything is.
    #[test]
    fn nodes_are_in_order_and_pods_are_counted_once(
        of in prop::collection::vec((0..6_u8, 0..3_u8, any::<bool>(), any::<bool>()), 0..24),
    ) {
        let drafts: Vec<RealServerDraft> = of
            .iter()
            .map(|(number, node, drains, has_agent)| {
                let pod = pod(&format!("10.244.{node}.{number}"), "n", &format!("198.51.100.{node}"));
                let pod = if *drains { draining(pod) } else { pod };
                if *has_agent { pod } else { without_agent(pod) }
            })
            .collect();
        let mut backwards = drafts.clone();
        backwards.reverse();
        let (service, said) = service_of(VIP, VipOptions::default(), TransportProtocol::Tcp, drafts.clone());
        let (same, said_backwards) = service_of(VIP, VipOptions::default(), TransportProtocol::Tcp, backwards);
        prop_assert_eq!(&service, &same, "the order of slices decides nothing");
        prop_assert_eq!(said, said_backwards);
        let reals = &service.expect("bound").ports[0].reals;
        prop_assert!(reals.is_sorted_by(|a, b| a.address < b.address));
        prop_assert_eq!(reals.iter().any(|real| real.readiness == Readiness::Ready), !of.is_empty());
        for real in reals {
            let on_node = |draft: &&RealServerDraft| {
                matches!(draft.node, NodeDraft::At { address, .. } if address == real.address)
            };
            let here = || drafts.iter().filter(on_node);
            let ready: std::collections::BTreeSet<IpAddr> =
                here().filter(|draft| draft.real.readiness == Readiness::Ready).map(|draft| draft.real.address).collect();
            let all: std::collections::BTreeSet<IpAddr> = here().map(|draft| draft.real.address).collect();
            let expected = if ready.is_empty() { all.len() } else { ready.len() };
            prop_assert_eq!(real.pods, u32::try_from(expected).ok());
            prop_assert_eq!(usize::try_from(real.weight).ok(), Some(expected));
        }
    }
}
