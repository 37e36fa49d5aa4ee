//! Node.

use k8s_openapi::api::core::v1 as api;
use std::net::IpAddr;

/// The label that keeps a node from taking traffic of load balancers in (`k8s.io/api`, `LabelNodeExcludeBalancers`). It is
/// its presence that counts, not its value.
const EXCLUDE_LABEL: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// What is kept of a Node: where it is, and whether it is to be a director. Its status moves all the time; this does not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Addresses of type InternalIP that other hosts can reach, in the order of the Node: the first of each family is where
    /// packets for its pods go.
    pub internal: Box<[IpAddr]>,
    /// Its other addresses, sorted: a pod in the host's network may have one of them.
    pub other: Box<[IpAddr]>,
    /// It carries the label `node.kubernetes.io/exclude-from-external-load-balancers`: it is no director.
    pub is_excluded: bool,
    /// `spec.unschedulable`, as `kubectl cordon` sets it.
    pub is_unschedulable: bool,
}

impl Node {
    pub(crate) fn read(object: &api::Node) -> Self {
        let mut node = Self {
            is_excluded: object.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(EXCLUDE_LABEL)),
            is_unschedulable: object.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false),
            ..Self::default()
        };
        let (mut internal, mut other) = (Vec::new(), Vec::new());
        for said in object.status.as_ref().and_then(|status| status.addresses.as_ref()).into_iter().flatten() {
            // Names and what is no address are of no use to anybody who sends packets.
            let Ok(address) = said.address.parse::<IpAddr>() else { continue };
            let is_internal = said.type_ == "InternalIP" && sluicegate_config::vip::unreachable(address).is_none();
            let list = if is_internal { &mut internal } else { &mut other };
            if !list.contains(&address) {
                list.push(address);
            }
        }
        other.sort_unstable();
        (node.internal, node.other) = (internal.into(), other.into());
        node
    }

    /// Where packets for its pods go: its address of this family, else of the other one; `None` = it has none.
    pub fn address(&self, is_ipv6: bool) -> Option<IpAddr> {
        let of_family = self.internal.iter().find(|address| address.is_ipv6() == is_ipv6);
        of_family.or(self.internal.first()).copied()
    }

    /// True for an address of the node itself, which pods in the host's network share.
    pub fn has_address(&self, address: IpAddr) -> bool {
        self.internal.contains(&address) || self.other.contains(&address)
    }
}
