//! What a change of objects may have moved.

use sluicegate_config::{BackendId, CertificateId, HostPattern, ObjectRef, StreamPort};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

/// Keys that have to be made again. A key may be here though nothing about it moved; never the other way round.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dirty {
    /// Virtual hosts.
    pub hosts: BTreeSet<HostPattern>,
    /// Server names.
    pub server_names: BTreeSet<HostPattern>,
    /// Backends.
    pub backends: BTreeSet<BackendId>,
    /// Certificates.
    pub certificates: BTreeSet<CertificateId>,
    /// TCP services.
    pub listeners: BTreeSet<StreamPort>,
    /// Virtual IPs.
    pub vips: BTreeSet<IpAddr>,
    /// Nodes of which something is known that was not, or no longer. The VIPs with endpoints there are not listed one by
    /// one: the [`Controller`](crate::Controller) looks for them once a batch.
    pub nodes: BTreeSet<Arc<str>>,
    /// Objects that have to be read again for what is wrong with them alone.
    pub objects: BTreeSet<ObjectRef>,
}

impl Dirty {
    /// Adds what another change moved.
    pub fn merge(&mut self, other: Self) {
        merge(&mut self.hosts, other.hosts);
        merge(&mut self.server_names, other.server_names);
        merge(&mut self.backends, other.backends);
        merge(&mut self.certificates, other.certificates);
        merge(&mut self.listeners, other.listeners);
        merge(&mut self.vips, other.vips);
        merge(&mut self.nodes, other.nodes);
        merge(&mut self.objects, other.objects);
    }

    /// True if nothing can have moved.
    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty()
            && self.server_names.is_empty()
            && self.backends.is_empty()
            && self.certificates.is_empty()
            && self.listeners.is_empty()
            && self.vips.is_empty()
            && self.nodes.is_empty()
            && self.objects.is_empty()
    }
}

/// `extend` and not `append`: the latter rebuilds the larger set, which is the one that is merged into.
fn merge<K: Ord>(into: &mut BTreeSet<K>, from: BTreeSet<K>) {
    if into.is_empty() {
        *into = from;
    } else {
        into.extend(from);
    }
}
