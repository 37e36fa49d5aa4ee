//! Desired state: what the data plane shall be.

use crate::backend::{Backend, BackendId};
use crate::diff::{Change, Diff};
use crate::host::HostPattern;
use crate::listener::{StreamListener, StreamPort};
use crate::route::VirtualHost;
use crate::tls::{Certificate, CertificateId, ServerName};
use crate::vip::VipBinding;
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// Counts changes of desired state since the process started; 0 = nothing applied yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Generation(pub u64);

/// Everything that the data plane obeys, each thing under its key and behind its own `Arc`.
///
/// It is made by checking drafts alone and never deserialized.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// How many changes led here.
    pub generation: Generation,
    /// Virtual hosts with their routes.
    pub routes: BTreeMap<HostPattern, Arc<VirtualHost>>,
    /// Backends that something refers to.
    pub backends: BTreeMap<BackendId, Arc<Backend>>,
    /// How server names (SNI) are treated.
    pub server_names: BTreeMap<HostPattern, Arc<ServerName>>,
    /// Certificates that a server name refers to.
    pub certificates: BTreeMap<CertificateId, Arc<Certificate>>,
    /// TCP services.
    pub listeners: BTreeMap<StreamPort, Arc<StreamListener>>,
    /// Virtual IPs.
    pub vips: BTreeMap<IpAddr, Arc<VipBinding>>,
}

impl Desired {
    /// Applies what changed and counts a generation, unless nothing did. Called by the controller loop.
    pub fn apply(&mut self, diff: &Diff) {
        if diff.is_empty() {
            return;
        }
        apply_map(&mut self.routes, &diff.routes);
        apply_map(&mut self.backends, &diff.backends);
        apply_map(&mut self.server_names, &diff.server_names);
        apply_map(&mut self.certificates, &diff.certificates);
        apply_map(&mut self.listeners, &diff.listeners);
        apply_map(&mut self.vips, &diff.vips);
        self.generation.0 += 1;
    }
}

fn apply_map<K: Ord + Clone, V>(map: &mut BTreeMap<K, Arc<V>>, changes: &BTreeMap<K, Change<V>>) {
    for (key, change) in changes {
        match change {
            Change::Set(value) => {
                map.insert(key.clone(), Arc::clone(value));
            }
            Change::Remove => {
                map.remove(key);
            }
        }
    }
}
