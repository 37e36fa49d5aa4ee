//! What moved between two desired states.

use crate::backend::{Backend, BackendId};
use crate::desired::Desired;
use crate::host::HostPattern;
use crate::listener::{StreamListener, StreamPort};
use crate::route::VirtualHost;
use crate::tls::{Certificate, CertificateId, ServerName};
use crate::vip::VipBinding;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// What happened to one key.
#[derive(Debug, PartialEq, Eq)]
pub enum Change<V> {
    /// It is new or different.
    Set(Arc<V>),
    /// It is gone.
    Remove,
}

impl<V> Clone for Change<V> {
    fn clone(&self) -> Self {
        match self {
            Self::Set(value) => Self::Set(Arc::clone(value)),
            Self::Remove => Self::Remove,
        }
    }
}

/// The keys that moved, with their new values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diff {
    /// Virtual hosts.
    pub routes: BTreeMap<HostPattern, Change<VirtualHost>>,
    /// Backends.
    pub backends: BTreeMap<BackendId, Change<Backend>>,
    /// Server names.
    pub server_names: BTreeMap<HostPattern, Change<ServerName>>,
    /// Certificates.
    pub certificates: BTreeMap<CertificateId, Change<Certificate>>,
    /// TCP services.
    pub listeners: BTreeMap<StreamPort, Change<StreamListener>>,
    /// Virtual IPs.
    pub vips: BTreeMap<IpAddr, Change<VipBinding>>,
}

impl Diff {
    /// True if nothing moved.
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
            && self.backends.is_empty()
            && self.server_names.is_empty()
            && self.certificates.is_empty()
            && self.listeners.is_empty()
            && self.vips.is_empty()
    }
}

/// Compares two whole states. The oracle that incremental changes are tested against, and the first load.
pub fn diff(old: &Desired, new: &Desired) -> Diff {
    Diff {
        routes: diff_map(&old.routes, &new.routes),
        backends: diff_map(&old.backends, &new.backends),
        server_names: diff_map(&old.server_names, &new.server_names),
        certificates: diff_map(&old.certificates, &new.certificates),
        listeners: diff_map(&old.listeners, &new.listeners),
        vips: diff_map(&old.vips, &new.vips),
    }
}

fn diff_map<K: Ord + Clone, V: PartialEq>(
    old: &BTreeMap<K, Arc<V>>,
    new: &BTreeMap<K, Arc<V>>,
) -> BTreeMap<K, Change<V>> {
    let mut changes = BTreeMap::new();
    for (key, value) in new {
        let same = old.get(key).is_some_and(|before| Arc::ptr_eq(before, value) || before == value);
        if !same {
            changes.insert(key.clone(), Change::Set(Arc::clone(value)));
        }
    }
    for key in old.keys() {
        if !new.contains_key(key) {
            changes.insert(key.clone(), Change::Remove);
        }
    }
    changes
}
