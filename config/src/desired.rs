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

/// By how much a change made desired state larger; below zero: smaller. Who counts adds these up, instead of looking at
/// tens of thousands of hosts for each change of one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Growth {
    /// Routes of all hosts, fallbacks included.
    pub routes: i64,
    /// Endpoints of all backends.
    pub endpoints: i64,
}

impl Desired {
    /// Applies what changed and counts a generation, unless nothing did. Called by the controller loop.
    pub fn apply(&mut self, diff: &Diff) -> Growth {
        if diff.is_empty() {
            return Growth::default();
        }
        let routes =
            apply_map(&mut self.routes, &diff.routes, |host| host.routes.len() + usize::from(host.fallback.is_some()));
        let endpoints = apply_map(&mut self.backends, &diff.backends, |backend| backend.endpoints.len());
        apply_map(&mut self.server_names, &diff.server_names, |_| 1);
        apply_map(&mut self.certificates, &diff.certificates, |_| 1);
        apply_map(&mut self.listeners, &diff.listeners, |_| 1);
        apply_map(&mut self.vips, &diff.vips, |_| 1);
        self.generation.0 += 1;
        Growth { routes, endpoints }
    }
}

/// Returns by how much the sum of the values' sizes grew.
fn apply_map<K: Ord + Clone, V>(
    map: &mut BTreeMap<K, Arc<V>>,
    changes: &BTreeMap<K, Change<V>>,
    size: impl Fn(&V) -> usize,
) -> i64 {
    let size = |value: &Arc<V>| i64::try_from(size(value)).unwrap_or(i64::MAX);
    if map.is_empty() {
        // Made at once its nodes are full; filled in order they would be half empty.
        let set = changes.iter().filter_map(|(key, change)| match change {
            Change::Set(value) => Some((key.clone(), Arc::clone(value))),
            Change::Remove => None,
        });
        *map = set.collect();
        return map.values().map(size).sum();
    }
    let mut growth = 0;
    for (key, change) in changes {
        let former = match change {
            Change::Set(value) => {
                growth += size(value);
                map.insert(key.clone(), Arc::clone(value))
            }
            Change::Remove => map.remove(key),
        };
        growth -= former.as_ref().map_or(0, size);
    }
    growth
}
