//! What this host is to be, from what was typed and from what the objects say: decides, and does nothing.

use super::sizes;
use crate::cli::TunnelName;
use sluicegate_backend::{BackendState, Directors, PeerNetwork, Pod, PodPort, PodService, TransportProtocol};
use sluicegate_config::{NamespacedName, TransportProtocol as Protocol, VipBinding};
use sluicegate_translate::node_share::{NodeShare, PodShare, hosts_behind};
use sluicegate_translate::{Controller, Update};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long the tunnels of a director are believed that is not listed any more: its programs forward for 10 s after the
/// process, and where it is replaced its address comes back.
const DIRECTOR_LINGERS: Duration = Duration::from_secs(60);
/// How long flows of a VIP that was unbound may end: directors let them (`--drain`).
const VIP_LINGERS: Duration = Duration::from_secs(30);

/// What was typed, and does not change.
#[derive(Clone, Debug, Default)]
pub struct Typed {
    /// VIPs of this host, whatever the objects say.
    pub vips: BTreeSet<IpAddr>,
    /// Name of the node that this host is; `None` = every VIP of the objects is for it, and none goes into pods.
    pub node: Option<Arc<str>>,
    /// Tunnels of these are believed.
    pub directors: BTreeSet<IpAddr>,
    /// Tunnels of anybody are.
    pub any_director: bool,
    /// Tunnels of those behind this Service are.
    pub director_service: Option<NamespacedName>,
    /// Of the second chance.
    pub peers: BTreeSet<PeerNetwork>,
    /// What carries packets of VIPs that the host holds.
    pub tunnel: TunnelName,
    /// Largest IP packet on the way from the director, in bytes.
    pub path_mtu: u16,
}

/// This host.
#[derive(Debug)]
pub struct Host {
    typed: Typed,
    /// By VIP, where the host has a part in it.
    shares: BTreeMap<IpAddr, Share>,
    /// Those of VIPs that were unbound, until they go.
    leaving: BTreeMap<IpAddr, (Share, Instant)>,
    /// Directors behind the Service, and when they go that are not there any more.
    directors: BTreeMap<IpAddr, Option<Instant>>,
}

#[derive(Clone, Debug)]
struct Share {
    of: NodeShare,
    /// Directors reach the node over IPv6.
    outer_is_ipv6: bool,
}

impl Share {
    fn services(&self, vip: IpAddr, path_mtu: u16) -> impl Iterator<Item = (PodPort, PodService)> + '_ {
        self.of.ports.iter().filter_map(move |port| {
            let protocol = match port.protocol {
                Protocol::Tcp => TransportProtocol::Tcp,
                Protocol::Udp => TransportProtocol::Udp,
                Protocol::Sctp => return None,
            };
            let pod = |pod: &PodShare| Pod { address: pod.address, port: pod.port, draining: pod.is_draining };
            let service = PodService {
                pods: port.pods.iter().map(pod).collect(),
                by_client_alone: port.by_client_alone,
                room: Some(path_mtu.saturating_sub(sizes::of_pod_tunnel(port.tunnel, self.outer_is_ipv6))),
            };
            Some((PodPort { vip, protocol, port: port.port }, service))
        })
    }
}

impl Host {
    /// As typed, without any object.
    pub fn new(typed: Typed) -> Self {
        Self { typed, shares: BTreeMap::new(), leaving: BTreeMap::new(), directors: BTreeMap::new() }
    }

    /// Takes what a batch of changes has led to.
    pub fn take(&mut self, controller: &Controller, update: &Update, now: Instant) {
        let moved: BTreeSet<IpAddr> = update.vips.iter().chain(update.diff.vips.keys()).copied().collect();
        for vip in moved {
            let binding = controller.desired().vips.get(&vip);
            match binding.map(|binding| self.share(controller, binding)) {
                Some(share) if !share.of.is_empty() => {
                    self.leaving.remove(&vip);
                    self.shares.insert(vip, share);
                }
                Some(_) => drop(self.shares.remove(&vip)),
                None => self.unbind(vip, now),
            }
        }
        if let Some(service) = &self.typed.director_service {
            let present = hosts_behind(controller.objects(), service);
            for (address, until) in &mut self.directors {
                match (present.contains(address), *until) {
                    (true, _) => *until = None,
                    (false, None) => *until = Some(now + DIRECTOR_LINGERS),
                    (false, Some(_)) => {}
                }
            }
            self.directors.extend(present.into_iter().map(|address| (address, None)));
        }
    }

    /// Forgets what has lingered for long enough, and says what the host is to be.
    pub fn state(&mut self, now: Instant) -> BackendState {
        self.leaving.retain(|_, (_, until)| *until > now);
        self.directors.retain(|_, until| until.is_none_or(|until| until > now));
        let shares = || self.shares.iter().chain(self.leaving.iter().map(|(vip, (share, _))| (vip, share)));
        let held = shares().filter(|(_, share)| share.of.is_held).map(|(vip, _)| *vip);
        let room = self.room();
        let path_mtu = self.typed.path_mtu;
        let services = shares().flat_map(|(vip, share)| share.services(*vip, path_mtu));
        BackendState {
            vips: self.typed.vips.iter().copied().chain(held).map(|vip| (vip, room)).collect(),
            directors: match self.typed.any_director {
                true => Directors::Any,
                false => Directors::Known(self.typed.directors.iter().chain(self.directors.keys()).copied().collect()),
            },
            peers: self.typed.peers.clone(),
            endpoints: BTreeSet::new(),
            services: services.collect(),
        }
    }

    fn share(&self, controller: &Controller, binding: &VipBinding) -> Share {
        let Some(node) = &self.typed.node else {
            let is_held = binding.services.is_empty() || binding.services.iter().any(|service| !service.into_pods);
            return Share { of: NodeShare { is_held, ports: Vec::new() }, outer_is_ipv6: false };
        };
        let own = controller.objects().node(node);
        let address = own.and_then(|own| own.address(binding.address.is_ipv6()));
        Share {
            of: NodeShare::of(controller.objects(), binding, node),
            outer_is_ipv6: address.is_some_and(|address| address.is_ipv6()),
        }
    }

    /// Flows of what is not bound any more may end, and no new ones begin.
    fn unbind(&mut self, vip: IpAddr, now: Instant) {
        let Some(mut share) = self.shares.remove(&vip) else { return };
        for pod in share.of.ports.iter_mut().flat_map(|port| &mut port.pods) {
            pod.is_draining = true;
        }
        self.leaving.insert(vip, (share, now + VIP_LINGERS));
    }

    /// The largest packet that fits into the tunnel to a VIP that the host holds: outer headers are those of the longest
    /// family among the directors.
    fn room(&self) -> Option<u16> {
        let typed = &self.typed;
        let mut directors = typed.directors.iter().chain(self.directors.keys());
        let over_ipv6 = typed.any_director || directors.any(IpAddr::is_ipv6);
        let outer = sizes::of_tunnel(typed.tunnel, over_ipv6, !typed.peers.is_empty())?;
        Some(typed.path_mtu.saturating_sub(outer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use sluicegate_config::Settings;
    use sluicegate_translate::{Object, ObjectChange};

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).expect("a Kubernetes object")
    }

    fn node(name: &str, address: &str) -> ObjectChange {
        ObjectChange::Set(Object::Node(read(json!({
            "metadata": {"name": name}, "status": {"addresses": [{"type": "InternalIP", "address": address}]},
        }))))
    }

    fn vips(data: Value) -> ObjectChange {
        ObjectChange::Set(Object::ConfigMap(read(
            json!({"metadata": {"name": "vips", "namespace": "sluicegate-system"}, "data": data}),
        )))
    }

    fn web(annotations: Value) -> ObjectChange {
        ObjectChange::Set(Object::Service(read(json!({
            "metadata": {"name": "web", "namespace": "default", "annotations": annotations},
            "spec": {"ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
        }))))
    }

    fn slice(service: &str, endpoints: Value) -> ObjectChange {
        let (namespace, name) = service.split_once('/').expect("namespace/name");
        ObjectChange::Set(Object::EndpointSlice(read(json!({
            "metadata": {"name": format!("{name}-1"), "namespace": namespace, "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}], "endpoints": endpoints,
        }))))
    }

    fn pod(address: &str, node: &str) -> Value {
        json!({"addresses": [address], "nodeName": node, "targetRef": {"kind": "Pod", "name": "p"}})
    }

    /// A host that follows objects.
    struct Followed {
        controller: Controller,
        host: Host,
        now: Instant,
    }

    impl Followed {
        fn new(typed: Typed) -> Self {
            let settings = Settings { director_service: typed.director_service.clone(), ..Settings::default() };
            Self { controller: Controller::new(settings), host: Host::new(typed), now: Instant::now() }
        }

        fn take(&mut self, changes: impl IntoIterator<Item = ObjectChange>) -> BackendState {
            let update = self.controller.apply(changes, 0);
            self.host.take(&self.controller, &update, self.now);
            self.host.state(self.now)
        }

        fn after(&mut self, time: Duration) -> BackendState {
            self.now += time;
            self.host.state(self.now)
        }
    }

    fn typed() -> Typed {
        Typed { node: Some("a".into()), path_mtu: 1500, tunnel: TunnelName::Ipip, ..Typed::default() }
    }

    fn pods(state: &BackendState) -> Vec<String> {
        let pod = |pod: &Pod| format!("{}{}:{}", if pod.draining { "-" } else { "" }, pod.address, pod.port);
        state.services.values().flat_map(|service| service.pods.iter().map(pod)).collect()
    }

    #[test]
    fn a_node_serves_its_pods_and_holds_what_it_is_a_real_server_of() {
        let mut followed = Followed::new(typed());
        let host = slice("default/host", json!([pod("198.51.100.1", "a")]));
        let state = followed.take([
            node("a", "198.51.100.1"),
            node("b", "2001:db8:1::2"),
            vips(json!({"192.0.2.10": "default/web", "192.0.2.11": "default/host:TUNNEL", "192.0.2.12": "default/web:TUNNEL"})),
            web(json!({})),
            ObjectChange::Set(Object::Service(read(
                json!({"metadata": {"name": "host", "namespace": "default"}, "spec": {"ports": [{"name": "http", "port": 8080}]}}),
            ))),
            host,
            slice("default/web", json!([pod("10.244.1.1", "a"), pod("10.244.2.1", "b")])),
        ]);
        assert_eq!(state.vips, [(ip("192.0.2.11"), Some(1480))].into(), "and nothing that goes into pods");
        assert_eq!(pods(&state), ["10.244.1.1:8080"]);
        let (port, service) = state.services.first_key_value().expect("one");
        assert_eq!((port.vip, port.protocol, port.port), (ip("192.0.2.10"), TransportProtocol::Tcp, 80));
        assert_eq!((service.room, service.by_client_alone), (Some(1472), false));
        let state = followed.take([web(json!({"sluicegate.io/pod-tunnel": "ipip"})), node("a", "2001:db8:1::1")]);
        assert_eq!(state.services.values().map(|service| service.room).collect::<Vec<_>>(), [Some(1460)]);
        let state = followed.take([slice("default/web", json!([pod("10.244.1.2", "a"), pod("10.244.1.3", "a")]))]);
        assert_eq!(pods(&state), ["10.244.1.2:8080", "10.244.1.3:8080"]);
        let state = followed.take([slice("default/web", json!([pod("10.244.2.1", "b")]))]);
        assert!(state.services.is_empty(), "its pods are gone");
    }

    #[test]
    fn a_vip_that_is_unbound_lets_flows_end() {
        let mut followed = Followed::new(typed());
        let bound = || vips(json!({"192.0.2.10": "default/web"}));
        let objects =
            [node("a", "198.51.100.1"), web(json!({})), slice("default/web", json!([pod("10.244.1.1", "a")]))];
        let state = followed.take(objects.into_iter().chain([bound()]));
        assert_eq!(pods(&state), ["10.244.1.1:8080"]);
        assert_eq!(pods(&followed.take([vips(json!({}))])), ["-10.244.1.1:8080"]);
        assert_eq!(pods(&followed.after(VIP_LINGERS - Duration::from_secs(1))), ["-10.244.1.1:8080"]);
        assert_eq!(pods(&followed.take([bound()])), ["10.244.1.1:8080"], "bound again");
        followed.take([vips(json!({}))]);
        assert!(pods(&followed.after(VIP_LINGERS)).is_empty());
    }

    #[test]
    fn directors_are_those_behind_their_service_and_for_a_while_those_that_were() {
        let service: NamespacedName = "sluicegate-system/directors".parse().expect("a name");
        let mut followed =
            Followed::new(Typed { directors: [ip("203.0.113.1")].into(), director_service: Some(service), ..typed() });
        let directors = |endpoints: Value| slice("sluicegate-system/directors", endpoints);
        let known = |state: &BackendState| match &state.directors {
            Directors::Known(known) => known.iter().map(ToString::to_string).collect::<Vec<_>>(),
            Directors::Any => panic!("anybody"),
        };
        let state = followed.take([directors(json!([pod("198.51.100.1", "a"), pod("198.51.100.2", "b")]))]);
        assert_eq!(known(&state), ["198.51.100.1", "198.51.100.2", "203.0.113.1"]);
        let state = followed.take([directors(json!([pod("198.51.100.2", "b")]))]);
        assert_eq!(known(&state).len(), 3, "its programs go on for a while");
        followed.after(DIRECTOR_LINGERS / 2);
        followed.take([directors(json!([pod("198.51.100.2", "b"), pod("198.51.100.1", "a")]))]);
        assert_eq!(known(&followed.after(DIRECTOR_LINGERS)).len(), 3, "it came back");
        followed.take([directors(json!([pod("198.51.100.2", "b")]))]);
        assert_eq!(known(&followed.after(DIRECTOR_LINGERS)), ["198.51.100.2", "203.0.113.1"]);
        assert_eq!(Host::new(Typed { any_director: true, ..typed() }).state(followed.now).directors, Directors::Any);
    }

    #[test]
    fn a_host_without_a_name_holds_every_vip_that_needs_a_holder() {
        let mut followed = Followed::new(Typed { node: None, vips: [ip("192.0.2.99")].into(), ..typed() });
        let state = followed.take([
            node("a", "198.51.100.1"),
            web(json!({})),
            slice("default/web", json!([pod("10.244.1.1", "a")])),
            vips(json!({"192.0.2.10": "default/web", "192.0.2.11": "", "192.0.2.12": "default/gone"})),
        ]);
        let held: Vec<IpAddr> = state.vips.keys().copied().collect();
        assert_eq!(held, ["192.0.2.11", "192.0.2.12", "192.0.2.99"].map(ip));
        assert!(state.services.is_empty());
    }
}
