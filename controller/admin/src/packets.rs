//! What `/api/v1/state` says of the director: counters of packets, and whether it forwards at all.

use serde::{Deserialize, Serialize};

/// What the director counts, and whether it forwards.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PacketsState {
    /// Why no packets are forwarded; null where they are.
    pub off: Option<String>,
    /// The ports, by index.
    pub ports: Vec<PortState>,
    /// When counters were read, in milliseconds of a clock that only grows: differences of counters over differences of it
    /// are rates. Null before the first reading.
    pub counted_ms: Option<u64>,
    /// Packets by reason since the tables exist, those that occurred.
    pub reasons: Vec<ReasonCount>,
    /// The flow table.
    pub flows: FlowCounts,
    /// What is not served as it was asked for, with what to do.
    pub failures: Vec<String>,
    /// Interfaces and tables that make trouble.
    pub problems: Vec<String>,
}

/// An interface that packets come in by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortState {
    /// Its name.
    pub name: String,
    /// `native`, `generic` or `packet`; null where packets are not taken.
    pub mode: Option<String>,
    /// The cable or peer is there.
    pub carrier: bool,
}

/// Packets that ended for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReasonCount {
    /// `forwarded`, `answered`, `passed` or `dropped`.
    pub verdict: String,
    /// Its name, as in `/metrics` and captures.
    pub reason: String,
    /// How many.
    pub packets: u64,
}

/// The flow table, as it was last walked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowCounts {
    /// Entries that fit.
    pub capacity: u64,
    /// Flows with two packets and more.
    pub established: u64,
    /// Flows with one packet.
    pub tentative: u64,
}

/// What a port of a VIP got, since the tables exist.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortTraffic {
    /// `TCP/80`.
    pub port: String,
    /// The method in use: `L2`, `TUNNEL` or `GUE`.
    pub method: String,
    /// Why that one.
    pub method_because: String,
    /// New flows.
    pub connections: u64,
    /// Frames.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}
