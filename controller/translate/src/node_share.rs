//! What one node does for a virtual IP: the pods that it hands packets to, and whether it holds the address itself.
//!
//! Directors decide by the same objects which nodes get packets; an agent that saw them otherwise would drop what they send.

use crate::facts::slice::SliceEndpoint;
use crate::objects::Objects;
use crate::translate::slice_ports;
use sluicegate_config::vip::unreachable;
use sluicegate_config::{
    NamespacedName, PodTunnel, Readiness, Scheduler, TransportProtocol, VipBinding, VipPort, VipService,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// The part of one node in one virtual IP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeShare {
    /// A Service of another method than POD has a real server here: the host holds the address itself.
    pub is_held: bool,
    /// Ports that end in pods of the node, by (protocol, port).
    pub ports: Vec<PortShare>,
}

/// A port that ends in pods of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortShare {
    /// TCP or UDP.
    pub protocol: TransportProtocol,
    /// On the virtual IP.
    pub port: u16,
    /// By address and port, at least one; of the virtual IP's family.
    pub pods: Vec<PodShare>,
    /// All flows of a client's address belong to one pod.
    pub by_client_alone: bool,
    /// What directors carry packets in.
    pub tunnel: PodTunnel,
}

/// A pod behind a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodShare {
    /// Its address; the node's own where it is in the host's network.
    pub address: IpAddr,
    /// Where it listens.
    pub port: u16,
    /// It keeps its flows and gets no new ones.
    pub is_draining: bool,
}

impl NodeShare {
    /// Of `node` in a virtual IP, as it is bound.
    pub fn of(objects: &Objects, binding: &VipBinding, node: &str) -> Self {
        let mut share = Self::default();
        for service in &binding.services {
            if service.into_pods {
                let ports = service.ports.iter().filter_map(|port| pods(objects, binding.address, service, port, node));
                share.ports.extend(ports);
            } else {
                share.is_held |= is_real_server(objects, service, node);
            }
        }
        share.ports.sort_unstable_by_key(|port| (port.protocol, port.port));
        share
    }

    /// True where the node has no part in it.
    pub fn is_empty(&self) -> bool {
        !self.is_held && self.ports.is_empty()
    }
}

/// The addresses of the hosts behind a Service: those of its endpoints, and all of the nodes that these are on, since a host
/// with several picks one by its route.
pub fn hosts_behind(objects: &Objects, service: &NamespacedName) -> BTreeSet<IpAddr> {
    let endpoints = objects.slices_of(service).flat_map(|(_, slice)| slice.endpoints.iter());
    let node = |endpoint: &SliceEndpoint| endpoint.node.as_deref().and_then(|node| objects.node(node));
    let of_host = |endpoint: &SliceEndpoint| {
        let of_node: Vec<IpAddr> = node(endpoint).map(|node| node.internal.to_vec()).unwrap_or_default();
        of_node.into_iter().chain([endpoint.address])
    };
    endpoints.flat_map(of_host).collect()
}

fn is_real_server(objects: &Objects, service: &VipService, node: &str) -> bool {
    let own = objects.node(node);
    service
        .ports
        .iter()
        .flat_map(|port| &port.reals)
        .any(|real| real.node.as_deref() == Some(node) || own.is_some_and(|own| own.has_address(real.address)))
}

fn pods(objects: &Objects, vip: IpAddr, service: &VipService, port: &VipPort, node: &str) -> Option<PortShare> {
    let name = NamespacedName::new(Arc::clone(&service.namespace), Arc::clone(&service.service));
    let of_service = objects.services.get(&name)?;
    let of_port = of_service.ports.iter().find(|of| (of.protocol, of.port) == (port.protocol, port.port))?;
    let mut pods: BTreeMap<(IpAddr, u16), bool> = BTreeMap::new();
    for (_, slice) in objects.slices_of(&name) {
        for number in slice_ports(slice, of_port) {
            for endpoint in slice.endpoints.iter().filter(|endpoint| is_here(endpoint, vip, node)) {
                // Two slices may name one pod while it moves between them: it is ready if one says so.
                let draining = pods.entry((endpoint.address, number)).or_insert(true);
                *draining &= endpoint.terminating;
            }
        }
    }
    // Where nothing else of the Service is left, directors send new flows to what drains.
    let is_last =
        |real: &sluicegate_config::RealServer| real.node.as_deref() == Some(node) && real.readiness == Readiness::Ready;
    if pods.values().all(|draining| *draining) && port.reals.iter().any(is_last) {
        pods.values_mut().for_each(|draining| *draining = false);
    }
    let pods: Vec<PodShare> =
        pods.into_iter().map(|((address, port), is_draining)| PodShare { address, port, is_draining }).collect();
    let options = &service.options;
    (!pods.is_empty()).then(|| PortShare {
        protocol: port.protocol,
        port: port.port,
        pods,
        by_client_alone: options.persistence.is_some() || options.scheduler == Scheduler::Sh,
        tunnel: options.pod_tunnel,
    })
}

fn is_here(endpoint: &SliceEndpoint, vip: IpAddr, node: &str) -> bool {
    endpoint.node.as_deref() == Some(node)
        && endpoint.address.is_ipv4() == vip.is_ipv4()
        && endpoint.address != vip
        && unreachable(endpoint.address).is_none()
}
