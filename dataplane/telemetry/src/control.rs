//! What the control side sets: generations, rejections, objects, certificates. Bounded where it is taken in.

use crate::access_log::AccessLog;
use crate::packets::PacketCounts;
use crate::source::Source;
use crate::span::SpanQueue;
use crate::worker::{BUCKETS_NS, HistogramTotal};
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;
use std::time::Duration;

/// Certificates that have a series of their own.
pub const MAX_CERTIFICATES: usize = 1_000;

/// How many parts of objects were not taken as written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RejectionCounts {
    /// Not served.
    pub rejected: u64,
    /// Without effect.
    pub ignored: u64,
    /// Served, but probably not what was meant.
    pub warning: u64,
}

/// How full a pool of virtual IPs is. Pools are few: the operator names each.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolAddresses {
    /// Name of the pool.
    pub pool: Arc<str>,
    /// Addresses that somebody has.
    pub used: u64,
    /// Addresses that can be given; of an IPv6 network more than any integer holds.
    pub free: f64,
}

/// When a certificate expires. The order is by expiry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CertificateExpiry {
    /// End of validity, seconds since the Unix epoch.
    pub not_after: i64,
    /// Namespace of the Secret.
    pub namespace: Arc<str>,
    /// Name of the Secret.
    pub name: Arc<str>,
}

#[derive(Debug, Default)]
pub(crate) struct Control {
    pub(crate) generation: u64,
    pub(crate) applied_at: f64,
    pub(crate) apply_duration: Observed,
    pub(crate) apply_failures: u64,
    /// Of the last generation alone.
    pub(crate) last_failures: u64,
    /// Generations of which something could not be applied.
    pub(crate) failed_applies: u64,
    pub(crate) rejections: RejectionCounts,
    pub(crate) objects: BTreeMap<&'static str, u64>,
    pub(crate) certificates: Vec<CertificateExpiry>,
    pub(crate) pools: Vec<PoolAddresses>,
    pub(crate) packets: Option<Arc<PacketCounts>>,
    /// Of a real server, by reason.
    pub(crate) node_packets: Vec<(&'static str, u64)>,
    pub(crate) source: Source,
    pub(crate) spans: Option<Arc<SpanQueue>>,
    pub(crate) access_log: Option<Arc<AccessLog>>,
}

impl Control {
    pub(crate) fn copy(&self) -> Self {
        Self {
            generation: self.generation,
            applied_at: self.applied_at,
            apply_duration: Observed(self.apply_duration.0.clone()),
            apply_failures: self.apply_failures,
            last_failures: self.last_failures,
            failed_applies: self.failed_applies,
            rejections: self.rejections,
            objects: self.objects.clone(),
            certificates: self.certificates.clone(),
            pools: self.pools.clone(),
            packets: self.packets.clone(),
            node_packets: self.node_packets.clone(),
            source: self.source.clone(),
            spans: self.spans.clone(),
            access_log: self.access_log.clone(),
        }
    }
}

/// A histogram that is written under a lock.
#[derive(Clone, Debug, Default)]
pub(crate) struct Observed(pub(crate) HistogramTotal);

impl Observed {
    pub(crate) fn observe(&mut self, duration: Duration) {
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.0.buckets[BUCKETS_NS.partition_point(|bound| *bound < nanoseconds)] += 1;
        self.0.sum += duration.as_secs_f64();
    }
}

/// The certificates that expire first, in the order of their names; a name that is given twice counts once.
pub(crate) fn first_to_expire(certificates: impl IntoIterator<Item = CertificateExpiry>) -> Vec<CertificateExpiry> {
    let mut latest_on_top = BinaryHeap::with_capacity(MAX_CERTIFICATES + 1);
    for certificate in certificates {
        latest_on_top.push(certificate);
        if latest_on_top.len() > MAX_CERTIFICATES {
            latest_on_top.pop();
        }
    }
    let mut kept = latest_on_top.into_vec();
    kept.sort_by(|a, b| (&a.namespace, &a.name, a.not_after).cmp(&(&b.namespace, &b.name, b.not_after)));
    kept.dedup_by(|a, b| a.namespace == b.namespace && a.name == b.name);
    kept
}
