//! What the sampler of the status page reads of the data plane: counters that only grow, and how things stand.

use crate::director::DirectorState;
use crate::source::SourceState;
use std::net::IpAddr;

/// What can be read in a moment, once a second.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pulse {
    /// The API server; `None` where objects come from a folder.
    pub source: Option<SourceState>,
    /// The director; `None` where none runs.
    pub director: Option<DirectorState>,
    /// Its packets; `None` where none runs or nothing was counted yet.
    pub packets: Option<PacketTotals>,
    /// Number of the last change; 0 before the first.
    pub last_change: u64,
}

/// What a director counted of all virtual IPs since its tables exist.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PacketTotals {
    /// When, in milliseconds of a clock that only grows.
    pub counted_ms: u64,
    /// Frames that were forwarded.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// New flows.
    pub flows: u64,
    /// Frames that were dropped.
    pub dropped: u64,
}

/// Requests for a host or to a backend since it appeared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestCounts {
    /// All of them.
    pub requests: u64,
    /// Of a host: those answered with 500 and above. Of a backend: those that failed by its fault.
    pub errors: u64,
}

/// Is shown the counters of everything by name, each name at most once.
pub trait TrafficVisitor {
    /// A virtual host: `shop.example`, `*.apps.example`, `*`; `(no route)` for requests that no route took.
    fn host(&mut self, host: &str, counts: RequestCounts);

    /// A backend by its id.
    fn backend(&mut self, id: &dyn std::fmt::Display, counts: RequestCounts);

    /// A virtual IP, all its ports: frames and bytes, as of `counted_ms` (see [`PacketTotals`]).
    fn vip(&mut self, address: IpAddr, counted_ms: u64, packets: u64, bytes: u64);
}
